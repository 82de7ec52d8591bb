//! JPEG 2000 (ISO/IEC 15444-1), as a `.jp2` file or as a codestream. What a file would take to decode is told from its headers.

use hayro_jpeg2000::{ColorSpace, DecodeSettings, DecoderContext, Image};
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};

use crate::error::guarded;

const FILE: &[u8] = b"\x00\x00\x00\x0cjP  \r\n\x87\n";
const CODESTREAM: &[u8] = b"\xff\x4f\xff\x51";
/// The file extensions that are known.
pub(super) const EXTENSIONS: [&str; 5] = ["jp2", "j2k", "j2c", "jpc", "jpf"];

/// Gray with opacity has two, RGB with opacity four.
const MOST_COMPONENTS: u64 = 4;
/// A sample takes the decoder 8 bytes, so that a third as many pixels may be decoded as of other formats.
pub(super) const TIMES_THE_MEMORY: u64 = 3;
/// Code-blocks and precincts, for each of which it allocates some hundred bytes.
const MOST_BLOCKS: u64 = 1 << 21;
/// As many as the number of a tile can tell (A.4.2).
const MOST_TILES: u64 = 65_535;

/// What the headers of a file say.
#[derive(Debug, PartialEq)]
pub(super) struct Outline<'b> {
    pub(super) width: u32,
    pub(super) height: u32,
    components: u64,
    /// Code-blocks and precincts.
    blocks: u64,
    /// Without what is behind the end.
    file: &'b [u8],
}

/// Whether this is JPEG 2000.
pub(super) fn is(bytes: &[u8]) -> bool {
    bytes.starts_with(FILE) || bytes.starts_with(CODESTREAM)
}

impl<'b> Outline<'b> {
    /// Reads the headers, of all tiles, too; an error if the file is cut short.
    pub(super) fn of(bytes: &'b [u8]) -> Result<Self, &'static str> {
        let (start, end) = codestream(bytes).ok_or("the file is cut short")?;
        let mut headers = Headers { bytes: &bytes[..end], at: start + 2, size: None, styles: Vec::new() };
        let end = headers.read()?;
        let Size { width, height, tiles, tile, components } =
            headers.size.ok_or("it does not tell its size")?;
        if tiles > MOST_TILES {
            return Err("it has too many tiles");
        }
        let of_tile = headers.styles.iter().map(|style| style.blocks(tile)).max();
        let blocks = of_tile.ok_or("it does not tell how it is coded")?;
        let blocks = blocks.saturating_mul(components).saturating_mul(tiles);
        // The box around the codestream ends with it; what is behind is nobody's.
        Ok(Self { width, height, components, blocks, file: &bytes[..end] })
    }

    /// Decodes it; an error if it has too many parts.
    pub(super) fn decode(&self) -> Result<DynamicImage, String> {
        if !(1..=MOST_COMPONENTS).contains(&self.components) {
            return Err(format!("{} components, expected 1 to {MOST_COMPONENTS}", self.components));
        }
        if self.blocks > MOST_BLOCKS {
            return Err(format!("JPEG 2000 in {} blocks, expected at most {MOST_BLOCKS}", self.blocks));
        }
        let undecodable = |why: String| format!("not an image that can be decoded: JPEG 2000: {why}");
        guarded(|| self.pixels()).map_err(undecodable)?.map_err(undecodable)
    }

    fn pixels(&self) -> Result<DynamicImage, String> {
        let image = Image::new(self.file, &DecodeSettings::default()).map_err(|e| e.to_string())?;
        let (width, height) = (image.width(), image.height());
        if (width, height) != (self.width, self.height) {
            return Err("its headers contradict each other".into());
        }
        let mut context = DecoderContext::default();
        let pixels = image.decode(&mut context).map_err(|e| e.to_string())?.data_u8();
        let channels = match image.color_space() {
            ColorSpace::CMYK | ColorSpace::Unknown { .. } => None,
            known => Some((known.num_channels(), image.has_alpha())),
        };
        let image = match channels {
            Some((1, false)) => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
            Some((1, true)) => GrayAlphaImage::from_raw(width, height, pixels).map(DynamicImage::from),
            Some((3, false)) => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
            Some((3, true)) => RgbaImage::from_raw(width, height, pixels).map(DynamicImage::from),
            _ => return Err("its colors are neither gray nor RGB".into()),
        };
        image.ok_or_else(|| "its components have unlike sizes".into())
    }
}

/// From where to where the first codestream may be; `None` if it is not there or longer than the file.
fn codestream(bytes: &[u8]) -> Option<(usize, usize)> {
    if bytes.starts_with(CODESTREAM) {
        return Some((0, bytes.len()));
    }
    let mut at = 0;
    loop {
        let (length, kind) = (number(bytes, at, 4)?, bytes.get(at + 4..at + 8)?);
        let (header, end) = match length {
            0 => (8, bytes.len()),
            1 => (16, at.checked_add(usize::try_from(number(bytes, at + 8, 8)?).ok()?)?),
            _ => (8, at.checked_add(usize::try_from(length).ok()?)?),
        };
        let start = at + header;
        if start > end || end > bytes.len() {
            return None;
        }
        if kind == b"jp2c" {
            return bytes[start..end].starts_with(CODESTREAM).then_some((start, end));
        }
        at = end;
    }
}

/// A number of so many bytes, the highest first.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(width)?)?;
    Some(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// The marker segments of a codestream (Annex A).
struct Headers<'b> {
    bytes: &'b [u8],
    at: usize,
    size: Option<Size>,
    styles: Vec<Style>,
}

#[derive(Clone, Copy)]
struct Size {
    width: u32,
    height: u32,
    tiles: u64,
    /// Width and height of the largest tile.
    tile: [u64; 2],
    components: u64,
}

impl Headers<'_> {
    /// Reads all headers up to the end of the image; gives where that is.
    fn read(&mut self) -> Result<usize, &'static str> {
        const SHORT: &str = "the file is cut short";
        const SIZ: u64 = 0xff51;
        const COD: u64 = 0xff52;
        const COC: u64 = 0xff53;
        const SOT: u64 = 0xff90;
        const SOD: u64 = 0xff93;
        const EOC: u64 = 0xffd9;
        // Where the next tile begins; of the last one it may be open.
        let mut next: Option<usize> = None;
        loop {
            let marker = number(self.bytes, self.at, 2).ok_or(SHORT)?;
            if marker == EOC {
                return Ok(self.at + 2);
            }
            if marker == SOD {
                let open = || {
                    self.bytes.windows(2).rposition(|two| two == [0xff, 0xd9]).filter(|end| *end > self.at)
                };
                self.at = next.take().filter(|next| *next > self.at).or_else(open).ok_or(SHORT)?;
                continue;
            }
            let length = number(self.bytes, self.at + 2, 2).ok_or(SHORT)? as usize;
            let segment = self.bytes.get(self.at + 4..self.at + 2 + length.max(2)).ok_or(SHORT)?;
            match marker {
                SIZ => self.size = Some(Size::read(segment).ok_or("it does not tell its size")?),
                COD => self.styles.extend(Style::read(segment.get(5..).unwrap_or(&[]), segment.first())),
                COC => {
                    let wide = self.size.is_some_and(|size| size.components > 256);
                    let at = if wide { 2 } else { 1 };
                    self.styles.extend(Style::read(segment.get(at + 1..).unwrap_or(&[]), segment.get(at)));
                }
                SOT => {
                    let of_tile = number(segment, 2, 4).ok_or(SHORT)? as usize;
                    next = (of_tile > 0).then_some(self.at + of_tile);
                }
                _ => {}
            }
            self.at += 2 + length.max(2);
        }
    }
}

impl Size {
    fn read(segment: &[u8]) -> Option<Self> {
        let at = |place: usize| number(segment, 2 + 4 * place, 4);
        let [right, bottom, left, top] = [at(0)?, at(1)?, at(2)?, at(3)?];
        let [tile_width, tile_height, tiles_left, tiles_top] = [at(4)?, at(5)?, at(6)?, at(7)?];
        let side = |from: u64, to: u64| to.checked_sub(from).filter(|side| *side > 0);
        let count =
            |from: u64, to: u64, tile: u64| Some(side(from, to)?.div_ceil((tile > 0).then_some(tile)?));
        let tiles = count(tiles_left, right, tile_width)? * count(tiles_top, bottom, tile_height)?;
        let [width, height] = [side(left, right)?, side(top, bottom)?];
        Some(Self {
            width: u32::try_from(width).ok()?,
            height: u32::try_from(height).ok()?,
            tiles,
            tile: [tile_width.min(width), tile_height.min(height)],
            components: number(segment, 34, 2)?,
        })
    }
}

/// How components are coded.
struct Style {
    levels: u32,
    /// log₂ of width and height of a code-block.
    block: [u32; 2],
    /// log₂ of width and height of a precinct, from the smallest resolution on; empty for the largest.
    precincts: Vec<[u32; 2]>,
}

impl Style {
    /// Of the bytes from the number of levels on; the lowest bit of `flags` says that precincts follow.
    fn read(bytes: &[u8], flags: Option<&u8>) -> Option<Self> {
        let &[levels, width, height, _, _, ref precincts @ ..] = bytes else { return None };
        let has_precincts = flags? & 1 == 1;
        let sides = |byte: &u8| [u32::from(byte & 15), u32::from(byte >> 4)];
        Some(Self {
            levels: u32::from(levels).min(32),
            block: [width, height].map(|exponent| u32::from(exponent & 15) + 2),
            precincts: if has_precincts { precincts.iter().map(sides).collect() } else { Vec::new() },
        })
    }

    /// Code-blocks, or precincts, whichever are smaller, of one component in a tile of this size.
    fn blocks(&self, tile: [u64; 2]) -> u64 {
        let of_resolution = |at: u32| {
            let precinct = self.precincts.get(at as usize).copied().unwrap_or([15; 2]);
            let sides = [0, 1].map(|side| {
                let length = tile[side].div_ceil(1 << (self.levels - at));
                length.div_ceil(1 << precinct[side].min(self.block[side]))
            });
            sides[0].saturating_mul(sides[1])
        };
        (0..=self.levels).map(of_resolution).fold(0, u64::saturating_add)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `fixtures/images/lossy.j2k`, 37 x 29 pixels of three components in one tile, changed.
    fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = include_bytes!("../../fixtures/images/lossy.j2k").to_vec();
        change(&mut bytes);
        bytes
    }

    /// As a codestream has its sizes: width and height, offset, tile.
    fn put(bytes: &mut [u8], place: usize, sides: [u32; 2]) {
        for (at, side) in sides.into_iter().enumerate() {
            let start = 8 + 8 * place + 4 * at;
            bytes[start..start + 4].copy_from_slice(&side.to_be_bytes());
        }
    }

    fn why(bytes: &[u8]) -> String {
        match Outline::of(bytes) {
            Err(why) => why.into(),
            Ok(outline) => outline.decode().err().unwrap_or_default(),
        }
    }

    #[test]
    fn headers_tell_what_a_file_takes() {
        let bytes = changed(|_| ());
        let outline = Outline::of(&bytes).unwrap();
        assert_eq!((outline.width, outline.height, outline.components), (37, 29, 3));
        assert_eq!(outline.file.len(), bytes.len());
        // One block of each of its five resolutions.
        assert_eq!((outline.blocks, why(&bytes)), (15, String::new()));
        let behind = [&bytes[..], b"behind the end"].concat();
        assert_eq!(Outline::of(&behind).unwrap(), outline);

        let large = changed(|bytes| {
            put(bytes, 0, [4000, 3000]);
            put(bytes, 2, [4000, 3000]);
        });
        assert_eq!(Outline::of(&large).map(|outline| (outline.width, outline.height)), Ok((4000, 3000)));
        let tiles = changed(|bytes| {
            put(bytes, 0, [4000, 3000]);
            put(bytes, 2, [8, 8]);
        });
        assert!(why(&tiles).contains("too many tiles"), "{}", why(&tiles));
        // Precincts of one sample.
        let precincts = changed(|bytes| {
            put(bytes, 0, [4000, 3000]);
            put(bytes, 2, [4000, 3000]);
            let at = bytes.windows(2).position(|two| two == [0xff, 0x52]).unwrap();
            let levels = bytes[at + 9];
            bytes[at + 3] += levels + 1;
            bytes[at + 4] |= 1;
            let _ = bytes.splice(at + 14..at + 14, std::iter::repeat_n(0, usize::from(levels) + 1));
        });
        assert!(why(&precincts).contains("blocks, expected at most"), "{}", why(&precincts));
    }

    #[test]
    fn broken_files_end_in_an_error() {
        let whole = changed(|_| ());
        for at in 0..whole.len() {
            for value in [0, 0xff, whole[at] ^ 0x55] {
                // Whatever comes of it, nothing panics, and what is decoded has the size that its headers say.
                let bytes = changed(|bytes| bytes[at] = value);
                let Ok(outline) = Outline::of(&bytes) else { continue };
                if u64::from(outline.width) * u64::from(outline.height) > 1 << 16 {
                    continue;
                }
                if let Ok(image) = outline.decode() {
                    assert_eq!((image.width(), image.height()), (outline.width, outline.height));
                }
            }
        }
        assert!(why(&changed(|bytes| put(bytes, 0, [0, 0]))).contains("does not tell its size"));
        assert!(why(&whole[..whole.len() - 2]).contains("cut short"));
        assert!(why(FILE).contains("cut short"));
    }
}
