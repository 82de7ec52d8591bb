//! Nothing hostile gets in, and nothing half-written stays.

use std::fs;
use std::path::Path;

use onnx_ptq4vit::onnx::node::node;
use onnx_ptq4vit::onnx::{AttributeProto, Graph, GraphProto, Model, Storage};
use proptest::prelude::*;
use prost::Message as _;

use super::everything::everything;
use super::{external, names, small, text};

#[test]
fn hostile_external_data_are_refused() {
    #[track_caller]
    fn check(prepare: impl FnOnce(&Path), entries: &[(&str, &str)], parts: &[&str]) {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), [0; 16]).unwrap();
        let folder = outside.path().join("model");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("w"), [0; 16]).unwrap();
        fs::write(folder.join("model.onnx"), external(small(4), entries).encode_to_vec()).unwrap();
        prepare(&folder);
        let why = Model::read(&folder.join("model.onnx")).expect_err(parts[0]).to_string();
        assert!(why.contains("model.onnx: tensor `w`: "), "{why}");
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    }
    let plain = |_: &Path| ();
    check(plain, &[("location", "/etc/hostname")], &["`/etc/hostname` is not a path inside"]);
    check(plain, &[("location", "../secret")], &["`../secret` is not a path inside"]);
    check(plain, &[("location", "w/../../secret")], &["is not a path inside"]);
    check(plain, &[], &["`` is not a path inside"]);
    check(plain, &[("location", "none")], &["`none` in "]);
    check(plain, &[("location", "w"), ("offset", "-1")], &["offset `-1`"]);
    check(plain, &[("location", "w"), ("length", "-1")], &["length `-1`"]);
    check(plain, &[("location", "w"), ("offset", "1")], &["beyond the 16 bytes"]);
    check(plain, &[("location", "w"), ("length", "9223372036854775807")], &["beyond the 16 bytes"]);
    check(plain, &[("location", "w"), ("length", "12")], &["needs 16 bytes, but raw_data has 12"]);
    check(|f| fs::create_dir(f.join("d")).unwrap(), &[("location", "d")], &["not a regular file"]);
    check(|f| fs::hard_link(f.join("../secret"), f.join("l")).unwrap(), &[("location", "l")], &["hard link"]);
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        check(|f| symlink("../secret", f.join("l")).unwrap(), &[("location", "l")], &["symbolic link"]);
        check(|f| symlink("w", f.join("l")).unwrap(), &[("location", "l")], &["symbolic link"]);
        check(|f| symlink("..", f.join("d")).unwrap(), &[("location", "d/secret")], &["symbolic link"]);
    }
    let why = Model::decode(external(small(4), &[("location", "w")]).encode_to_vec().into()).unwrap_err();
    assert!(why.to_string().contains("another file (`w`)"), "{why}");
}

/// The cache of Hugging Face: folders of links into a folder of blobs.
#[cfg(unix)]
#[test]
fn stores_that_keep_links_in_place_of_files_are_read() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["snapshots/rev", "blobs", "elsewhere", "work"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("blobs/aaa"), external(small(4), &[("location", "model.onnx_data")]).encode_to_vec())
        .unwrap();
    fs::write(at("blobs/bbb"), [0; 16]).unwrap();
    fs::write(at("elsewhere/secret"), [0; 16]).unwrap();
    let link = |to: &str, name: &str| symlink(to, at(name)).unwrap();
    link("../../blobs/aaa", "snapshots/rev/model.onnx");
    link("../../blobs/bbb", "snapshots/rev/model.onnx_data");
    Model::read(&at("snapshots/rev/model.onnx")).unwrap();

    // A link that leads elsewhere than the model's own.
    fs::remove_file(at("snapshots/rev/model.onnx_data")).unwrap();
    link("../../elsewhere/secret", "snapshots/rev/model.onnx_data");
    let why = Model::read(&at("snapshots/rev/model.onnx")).unwrap_err().to_string();
    assert!(why.contains("symbolic link") && why.contains("cp -L"), "{why}");

    // A link to the model alone, with its data where it is.
    fs::copy(at("blobs/aaa"), at("elsewhere/vit.onnx")).unwrap();
    fs::write(at("elsewhere/model.onnx_data"), [0; 16]).unwrap();
    link("../elsewhere/vit.onnx", "work/vit.onnx");
    Model::read(&at("work/vit.onnx")).unwrap();

    // A store that deduplicates by hard links has them for the model, too.
    fs::copy(at("blobs/aaa"), at("work/model.onnx")).unwrap();
    fs::hard_link(at("blobs/bbb"), at("work/model.onnx_data")).unwrap();
    assert!(Model::read(&at("work/model.onnx")).unwrap_err().to_string().contains("hard links"));
    fs::hard_link(at("work/model.onnx"), at("work/other.onnx")).unwrap();
    Model::read(&at("work/model.onnx")).unwrap();
}

#[test]
fn broken_files_are_refused() {
    #[track_caller]
    fn check(bytes: &[u8], part: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.onnx");
        fs::write(&path, bytes).unwrap();
        let why = Model::read(&path).expect_err(part).to_string();
        assert!(why.contains("model.onnx: ") && why.contains(part), "{why}");
    }
    let with = |change: fn(&mut GraphProto)| {
        let mut proto = small(4);
        change(proto.graph.as_mut().unwrap());
        proto.encode_to_vec()
    };
    let whole = small(4).encode_to_vec();
    check(b"", "empty");
    check(b"# A text file\n\nwith words\n", "not an ONNX model");
    for len in (1..whole.len()).step_by(7) {
        check(&whole[..len], "");
    }
    check(&whole[..whole.len() - 1], "cut short");
    check(&with(|g| g.initializer[0].dims = vec![-4]), "tensor `w`: its dims [-4] have a negative");
    check(&with(|g| g.initializer[0].dims = vec![1 << 62, 8]), "overflows");
    check(&with(|g| g.initializer[0].dims = vec![5]), "needs 20 bytes, but raw_data has 16");
    check(&with(|g| g.node.swap(0, 1)), "node `relu` (Relu): its input `h` comes from node `add`");
    check(&with(|g| g.node[1].output[0] = "h".into()), "its output `h` exists already");
    check(&with(|g| g.node[1].input[0] = "q".into()), "nothing produces its input `q`");
    let nested = |levels| {
        let attribute = |g| AttributeProto { name: text("body"), g: Some(g), ..Default::default() };
        let inside = |inner| GraphProto {
            node: vec![node("If", "", ["x"], ["y"]).with(attribute(inner))],
            ..Default::default()
        };
        let mut proto = small(4);
        let body = (0..levels).fold(GraphProto::default(), |inner, _| inside(inner));
        proto.graph.as_mut().unwrap().node[0].attribute = vec![attribute(body)];
        proto.encode_to_vec()
    };
    Model::decode(nested(14).into()).unwrap();
    check(&nested(15), "nested deeper than 16");
    check(&nested(1000), "recursion limit");
}

#[test]
fn a_failed_write_leaves_nothing() {
    #[track_caller]
    fn check(folder: &Path, name: &str, storage: Storage, part: &str) {
        let before = names(folder);
        let why =
            Model::new(small(1000)).unwrap().write(&folder.join(name), storage).expect_err(part).to_string();
        assert!(why.contains(part), "{why}");
        assert_eq!(names(folder), before);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("d")).unwrap();
    fs::write(folder.path().join("kept"), "kept").unwrap();
    for storage in [Storage::Inline, Storage::External] {
        check(folder.path(), "none/out.onnx", storage, "none/out.onnx");
        check(folder.path(), "d", storage, "not a regular file");
        check(folder.path(), "kept/out.onnx", storage, "kept/out.onnx");
        // The temporary file is complete when the name turns out to be too long.
        check(folder.path(), &"n".repeat(256), storage, "nnn");
    }
    check(folder.path(), &"n".repeat(253), Storage::External, "nnn.data: ");
    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        symlink("kept", folder.path().join("link")).unwrap();
        symlink("nowhere", folder.path().join("out.onnx.data")).unwrap();
        check(folder.path(), "link", Storage::Inline, "symbolic link");
        check(folder.path(), "link", Storage::External, "symbolic link");
        check(folder.path(), "out.onnx", Storage::External, "out.onnx.data: is a symbolic link");
    }
    assert_eq!(fs::read(folder.path().join("kept")).unwrap(), b"kept");
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = Model::decode(bytes.into());
    }

    /// Almost right files reach further than noise.
    #[test]
    fn damaged_models_never_panic(changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let mut bytes = everything().encode_to_vec();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(model) = Model::decode(bytes.into()) {
            let _ = crate::common::dump::dump(&model);
            let _ = Graph::new(model);
        }
    }
}
