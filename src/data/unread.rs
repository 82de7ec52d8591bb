//! Image formats that are known, but not read, so that an error can name them.

/// Their names by the extensions of their files.
const EXTENSIONS: [(&str, &str); 5] =
    [("avif", "AVIF"), ("heic", "HEIC"), ("heif", "HEIF"), ("hif", "HEIF"), ("jxl", "JPEG XL")];

/// The format that the first bytes of a file tell.
pub(super) fn format_of(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\xff\x0a") || bytes.starts_with(b"\x00\x00\x00\x0cJXL ") {
        return Some("JPEG XL");
    }
    let brand = bytes.get(4..12)?.strip_prefix(b"ftyp")?;
    match brand {
        b"avif" | b"avis" => Some("AVIF"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" => Some("HEIC"),
        b"mif1" | b"mif2" | b"msf1" => Some("HEIF"),
        _ => None,
    }
}

/// The format that the extension of a file tells, in lower case with a dot.
pub(super) fn format_by_extension(extension: &str) -> Option<&'static str> {
    EXTENSIONS.iter().find(|(known, _)| extension.strip_prefix('.') == Some(known)).map(|(_, name)| *name)
}
