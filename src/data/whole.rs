//! Tells image files that are cut short, which some decoders fill up with grey without a word.

use image::ImageFormat;

/// An error if `bytes` are a file of `format` whose end is missing.
pub(super) fn ensure_whole(format: Option<ImageFormat>, bytes: &[u8]) -> Result<(), &'static str> {
    let whole = match format {
        Some(ImageFormat::Jpeg) => jpeg_ends(bytes),
        Some(ImageFormat::Gif) => gif_ends(bytes),
        Some(ImageFormat::WebP) => riff_ends(bytes),
        _ => true, // Their decoders miss what is missing.
    };
    if whole { Ok(()) } else { Err("the file is cut short") }
}

/// Whether the marker of the end comes after all segments and scans (ITU T.81, B.1). A preview inside of a segment has one
/// of its own; what some cameras write behind the end does not matter.
fn jpeg_ends(bytes: &[u8]) -> bool {
    const END: u8 = 0xd9;
    let mut at = 2;
    while let Some(found) = bytes.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0xff)) {
        at += found;
        let Some(fill) = bytes[at..].iter().position(|&byte| byte != 0xff) else { return false };
        at += fill + 1;
        match bytes[at - 1] {
            END => return true,
            // A byte of a scan, a restart of it, and what else has no segment.
            0x00 | 0x01 | 0xd0..=0xd8 => {}
            _ => match bytes.get(at..at + 2) {
                Some(&[high, low]) => at += usize::from(u16::from_be_bytes([high, low])).max(2),
                _ => return false,
            },
        }
    }
    false
}

/// Whether all frames end: the blocks of each, which say how long they are, up to one of length 0. The byte that ends the
/// file may be missing.
fn gif_ends(bytes: &[u8]) -> bool {
    let table = |flags: u8| if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) };
    let Some(&flags) = bytes.get(10) else { return false };
    let mut at = 13 + table(flags);
    loop {
        match bytes.get(at) {
            Some(0x21) => at += 2,
            Some(0x2c) => {
                let Some(&flags) = bytes.get(at + 9) else { return false };
                at += 11 + table(flags);
            }
            // The end, or what the decoder will have its own word for.
            _ => return true,
        }
        loop {
            match bytes.get(at) {
                Some(0) => break at += 1,
                Some(&length) => at += 1 + usize::from(length),
                None => return false,
            }
        }
    }
}

/// Whether the file is as long as it says.
fn riff_ends(bytes: &[u8]) -> bool {
    let length = bytes.get(4..8).and_then(|length| length.try_into().ok()).map(u32::from_le_bytes);
    length.is_some_and(|length| bytes.len() as u64 >= u64::from(length) + 8)
}
