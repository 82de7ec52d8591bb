//! Files of other kinds that come in place of a model, by their first bytes.

/// What `bytes`, which are no ONNX model, are instead, and what helps; `None` if they are nothing well known.
pub(super) fn recognize(bytes: &[u8]) -> Option<&'static str> {
    let head = &bytes[..bytes.len().min(4096)];
    let text = String::from_utf8_lossy(head).to_ascii_lowercase();
    let text = text.trim_start_matches(['\u{feff}', ' ', '\t', '\r', '\n']);
    let holds = |part: &[u8]| head.windows(part.len()).any(|window| window == part);
    let begins = |magic: &[u8]| head.starts_with(magic);
    let after_length = head.get(4..8).unwrap_or_default();
    Some(match () {
        () if text.starts_with("version https://git-lfs") || text.starts_with("version https://hawser") => {
            "a Git LFS pointer, not the file that it stands for: run `git lfs pull`"
        }
        () if text.starts_with("<!doctype html") || text.starts_with("<html") => {
            "an HTML page, not the file that it is about: download the file itself (on Hugging Face, from `resolve` in place \
             of `blob`)"
        }
        () if text.starts_with("<?xml") || text.starts_with("<net ") => match text.contains("<net ") {
            true => "a model of OpenVINO: give the ONNX file that it was converted from",
            false => "an XML file",
        },
        () if begins(b"PK\x03\x04") && (holds(b"data.pkl") || holds(b".data/")) => {
            "a PyTorch checkpoint: export the model with `torch.onnx.export` first"
        }
        () if begins(b"PK\x03\x04") && holds(b".npy") => "arrays of NumPy, not a model",
        () if begins(b"PK\x03\x04") => "a ZIP archive: unpack it, and give the ONNX file in it",
        () if begins(b"\x80") && matches!(head.get(1), Some(2..=5)) => {
            "a Python pickle, as PyTorch saves checkpoints: export the model with `torch.onnx.export` first"
        }
        () if is_safetensors(bytes) => {
            "weights without a graph (safetensors): export the model first, as with `optimum-cli export onnx`"
        }
        () if after_length == b"TFL3" => "a TensorFlow Lite model: give the ONNX file of the original model",
        () if after_length == b"ORTM" => {
            "in ONNX Runtime's own format: give the ONNX file that it was made from"
        }
        () if [b"ftrt", b"ptrt", b"trtf", b"trtp"].into_iter().any(|magic| begins(magic)) => {
            "a TensorRT engine: give the ONNX file that it was built from"
        }
        () if begins(b"\x89HDF\r\n\x1a\n") => {
            "an HDF5 file, as Keras saves models: export the model to ONNX first"
        }
        () if begins(b"GGUF") => "a GGUF file: export the original model to ONNX first",
        () if begins(b"\x1f\x8b") || begins(b"\xfd7zXZ") || begins(b"\x28\xb5\x2f\xfd") || begins(b"BZh") => {
            "compressed: unpack it first"
        }
        () if head.get(257..262) == Some(b"ustar") => {
            "a tar archive: unpack it, and give the ONNX file in it"
        }
        () if begins(b"\x93NUMPY") => "an array of NumPy, not a model",
        () if begins(b"\x89PNG") || begins(b"\xff\xd8\xff") => "an image, not a model",
        () if text.starts_with('{') && text.contains('"') => "a JSON file, not a model",
        () => return None,
    })
}

/// The length of a JSON header, then the header.
fn is_safetensors(bytes: &[u8]) -> bool {
    let Some((length, rest)) = bytes.split_first_chunk() else { return false };
    u64::from_le_bytes(*length) <= rest.len() as u64 && rest.starts_with(b"{")
}

#[cfg(test)]
mod tests {
    use super::super::model::Model;
    use super::*;

    #[test]
    fn other_files_are_told_by_name() {
        let safetensors = [&20u64.to_le_bytes()[..], b"{\"__metadata__\":{}}  "].concat();
        let tar = [&[b'm'; 257][..], b"ustar\x0000"].concat();
        let cases: &[(&[u8], &str)] = &[
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
            (b"\n<!DOCTYPE html>\n<html><head>", "HTML"),
            (b"\xef\xbb\xbf<HTML>", "HTML"),
            (b"<?xml version=\"1.0\"?>\n<net name=\"vit\" version=\"11\">", "OpenVINO"),
            (b"<?xml version=\"1.0\"?>\n<annotation>", "XML"),
            (b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl", "torch.onnx.export"),
            (b"PK\x03\x04\0\0\x08\x08\0\0images.npy", "NumPy"),
            (b"PK\x03\x04\0\0\x08\x08\0\0model.onnx", "ZIP"),
            (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "pickle"),
            (&safetensors, "safetensors"),
            (b"\x1c\0\0\0TFL3\x14\0 \0", "TensorFlow Lite"),
            (b"\x28\0\0\0ORTM\0\0", "ONNX Runtime's own"),
            (b"ftrt\0\0\0\0\x01", "TensorRT"),
            (b"\x89HDF\r\n\x1a\n\0", "HDF5"),
            (b"GGUF\x03\0\0\0", "GGUF"),
            (b"\x1f\x8b\x08\0", "compressed"),
            (&tar, "tar"),
            (b"\x93NUMPY\x01\0", "NumPy"),
            (b"\x89PNG\r\n\x1a\n", "image"),
            (b"{\"model_type\": \"vit\"}", "JSON"),
        ];
        for (bytes, part) in cases {
            let why = Model::decode(bytes.to_vec().into()).expect_err(part).to_string();
            assert!(why.starts_with("not an ONNX model (it is ") && why.contains(part), "{part}: {why}");
        }
        for bytes in [&b"The quick brown fox"[..], b"", b"\x08\x07\x12", &[0xff; 40]] {
            assert_eq!(recognize(bytes), None);
        }
    }
}
