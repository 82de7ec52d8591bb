//! Turns an image file into a model input.

use std::io::Cursor;
use std::path::Path;

use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits};
use ndarray::Array3;

use super::whole::ensure_whole;
use super::{Anchor, Color, Interpolation, Preprocess, Resize, Values};
use super::{jpeg2000, unread};
use crate::{Error, Result, files};

/// The most pixels of an image before and after the resize, unless others are allowed. It stops decompression bombs, and images so
/// thin that a resize makes one.
pub(super) const MAX_PIXELS: u64 = 64 << 20;
/// The most bytes of a file, and the most that a decoder may allocate for as many pixels.
const MAX_BYTES: u64 = 512 << 20;

/// Loads the image at `path`, which has at most `max_pixels`, as `[C, H, W]`.
pub(super) fn load(path: &Path, preprocess: &Preprocess, max_pixels: u64) -> Result<Array3<f32>> {
    let pixels = crop_of(path, preprocess, max_pixels)?;
    let [channels, height, width] = preprocess.shape();
    let at = |c: usize, y: usize, x: usize| f32::from(pixels[(y * width + x) * channels + c]);
    let value = |(c, y, x): (usize, usize, usize)| match &preprocess.values {
        Values::Normalized { mean, std } => (at(c, y, x) / 255.0 - mean[c]) / std[c],
        Values::Unit => at(c, y, x) / 255.0,
        Values::Bytes => at(c, y, x),
    };
    Ok(Array3::from_shape_fn((channels, height, width), value))
}

/// The pixels `[H, W, C]` of the image at `path`, resized and cropped but not yet scaled.
pub(super) fn crop_of(path: &Path, preprocess: &Preprocess, max_pixels: u64) -> Result<Vec<u8>> {
    let image = decode(path, max_pixels)?;
    let (width, height) = (image.width(), image.height());
    let (pixels, kind) = match preprocess.color {
        Color::Gray => (gray(image), PixelType::U8),
        Color::Rgb | Color::Bgr => (image.into_rgb8().into_raw(), PixelType::U8x3),
        Color::Rgba => (image.into_rgba8().into_raw(), PixelType::U8x4),
    };
    let broken = |why: String| Error::data(path.display(), why);
    let image = Image::from_vec_u8(width, height, pixels, kind).map_err(|e| broken(e.to_string()))?;
    let resized = resize(image, preprocess, max_pixels.max(MAX_PIXELS)).map_err(broken)?;
    let mut crop = centre_crop(&resized, preprocess);
    if preprocess.color == Color::Bgr {
        crop.as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| pixel.reverse());
    }
    Ok(crop)
}

/// Colors times opacity, as Pillow rounds them: a resize must not mix in colors that nobody sees.
fn multiply_by_opacity(rgba: &mut [u8]) {
    for pixel in rgba.as_chunks_mut::<4>().0 {
        let opacity = u32::from(pixel[3]);
        for color in &mut pixel[..3] {
            let product = u32::from(*color) * opacity + 128;
            *color = (((product >> 8) + product) >> 8) as u8;
        }
    }
}

/// The other way.
fn divide_by_opacity(rgba: &mut [u8]) {
    for pixel in rgba.as_chunks_mut::<4>().0 {
        let opacity = u32::from(pixel[3]);
        for color in &mut pixel[..3] {
            *color = (255 * u32::from(*color)).checked_div(opacity).unwrap_or(0).min(255) as u8;
        }
    }
}

/// The luma as Pillow computes it, in integers. (An image that is gray already stays as it is.)
fn gray(image: DynamicImage) -> Vec<u8> {
    if let DynamicImage::ImageLuma8(image) = image {
        return image.into_raw();
    }
    let luma = |p: &image::Rgb<u8>| {
        let [r, g, b] = p.0.map(u32::from);
        ((r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16) as u8
    };
    image.into_rgb8().pixels().map(luma).collect()
}

fn decode(path: &Path, max_pixels: u64) -> Result<DynamicImage> {
    let bytes = files::read(path, MAX_BYTES)?;
    let fault = |why: &str| Error::data(path.display(), why);
    let undecodable = |e| Error::data(path.display(), format!("not an image that can be decoded: {e}"));
    if let Some(format) = unread::format_of(&bytes) {
        return Err(Error::data(path.display(), format!("{format} images are not read: convert it to PNG")));
    }
    // Of 8 bytes each: 64-bit floats, or RGBA of 16 bits.
    let max_bytes = MAX_BYTES.max(max_pixels.saturating_mul(8));
    let ensure_few = |width: u32, height: u32, most: u64| match is_within(width, height, most) {
        true => Ok(()),
        false if width == 0 || height == 0 => Err(fault(&too_large(width, height, most))),
        false => Err(Error::too_many_pixels(path, too_large(width, height, most))),
    };
    if jpeg2000::is(&bytes) {
        let outline = jpeg2000::Outline::of(&bytes).map_err(fault)?;
        ensure_few(outline.width, outline.height, max_pixels / jpeg2000::TIMES_THE_MEMORY)?;
        return outline.decode().map_err(|why| fault(&why));
    }
    let mut reader =
        ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(|e| Error::io(path, e))?;
    ensure_whole(reader.format(), &bytes).map_err(fault)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(max_bytes);
    reader.limits(limits);

    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    ensure_few(width, height, max_pixels)?;
    if decoder.total_bytes() > max_bytes {
        return Err(Error::data(path.display(), too_large(width, height, max_pixels)));
    }
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok(image)
}

fn is_within(width: u32, height: u32, max_pixels: u64) -> bool {
    (1..=max_pixels).contains(&(u64::from(width) * u64::from(height)))
}

fn too_large(width: u32, height: u32, max_pixels: u64) -> String {
    format!("{width} x {height} pixels, expected 1 to {max_pixels}")
}

/// Resizes to what [`size_before_crop`] says.
///
/// It makes two passes on u8, the horizontal one first, as Pillow does (13 and later begin with the vertical one where an
/// image is squashed, which rounds some values otherwise). One call of `fast_image_resize` would begin with the vertical one.
fn resize(
    mut source: Image<'static>,
    preprocess: &Preprocess,
    max_pixels: u64,
) -> Result<Image<'static>, String> {
    let (width, height) = (source.width(), source.height());
    let [new_height, new_width] = size_before_crop(preprocess.resize, [height, width]);
    if !is_within(new_width, new_height, max_pixels) || !is_within(new_width, height, max_pixels) {
        let why = too_large(new_width, new_height, max_pixels);
        return Err(format!("resized from {width} x {height}: {why}"));
    }
    let algorithm = match preprocess.interpolation {
        Interpolation::Nearest => ResizeAlg::Nearest,
        Interpolation::Box => ResizeAlg::Convolution(FilterType::Box),
        Interpolation::Bilinear => ResizeAlg::Convolution(FilterType::Bilinear),
        Interpolation::Hamming => ResizeAlg::Convolution(FilterType::Hamming),
        Interpolation::Bicubic => ResizeAlg::Convolution(FilterType::CatmullRom),
        Interpolation::Lanczos => ResizeAlg::Convolution(FilterType::Lanczos3),
    };
    let options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
    let mut resizer = Resizer::new();
    let has_opacity = source.pixel_type() == PixelType::U8x4;
    if has_opacity {
        multiply_by_opacity(source.buffer_mut());
    }
    for (to_width, to_height) in [(new_width, height), (new_width, new_height)] {
        let mut target = Image::new(to_width, to_height, source.pixel_type());
        resizer.resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
        source = target;
    }
    if has_opacity {
        divide_by_opacity(source.buffer_mut());
    }
    Ok(source)
}

/// Height and width after the resize. The long side is `trunc(side·short side/short)` as in torchvision, or rounded half
/// to even where an image covers both sides or fits into them, as in timm.
fn size_before_crop(resize: Resize, [height, width]: [u32; 2]) -> [u32; 2] {
    let in_proportion = |[to_height, to_width]: [u32; 2], choose: fn(f64, f64) -> f64| {
        let ratio = choose(f64::from(height) / f64::from(to_height), f64::from(width) / f64::from(to_width));
        [height, width].map(|side| ((f64::from(side) / ratio).round_ties_even() as u32).max(1))
    };
    match resize {
        Resize::No => [height, width],
        Resize::Short(short) => [height, width].map(|side| {
            let scaled = u64::from(short) * u64::from(side) / u64::from(width.min(height));
            u32::try_from(scaled).unwrap_or(u32::MAX)
        }),
        Resize::Cover(sides) => in_proportion(sides, f64::min),
        Resize::Inside(sides) => in_proportion(sides, f64::max),
        Resize::Exact(sides) => sides,
    }
}

fn centre_crop(image: &Image, preprocess: &Preprocess) -> Vec<u8> {
    let [height, width] = preprocess.crop;
    let channels = preprocess.color.channels();
    let start = |side, crop| crop_start(side, crop, preprocess.anchor);
    let (left, top) = (start(image.width(), width), start(image.height(), height));
    let (row, pixels) = (image.width() as usize, image.buffer());
    let inside =
        |at: u32, start: i64, side: u32| u32::try_from(i64::from(at) + start).ok().filter(|&at| at < side);
    let black = vec![0; channels];
    let fill = if preprocess.fill.is_empty() { &black } else { &preprocess.fill };
    let mut crop = fill.repeat(height as usize * width as usize);
    for (at, pixel) in crop.chunks_exact_mut(channels).enumerate() {
        let (y, x) = (at as u32 / width, at as u32 % width);
        if let (Some(y), Some(x)) = (inside(y, top, image.height()), inside(x, left, image.width())) {
            let from = (y as usize * row + x as usize) * channels;
            pixel.copy_from_slice(&pixels[from..from + channels]);
        }
    }
    crop
}

/// Where the crop starts on a side: half of the difference, which torchvision rounds half to even. If the side is shorter than
/// the crop, this is minus the padding before it, rounded down by torchvision, timm and transformers alike.
fn crop_start(side: u32, crop: u32, anchor: Anchor) -> i64 {
    let Some(difference) = side.checked_sub(crop) else { return -i64::from((crop - side) / 2) };
    let half = difference / 2;
    i64::from(match anchor {
        Anchor::Even => half + ((difference % 2) & half),
        Anchor::Floor => half,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_torchvisions_and_timms() {
        // timm 1.0.22 ResizeKeepRatio, torchvision 0.24 Resize.
        for (resize, from, to) in [
            (Resize::Short(10), [20, 31], [10, 15]),
            (Resize::Cover([71, 17]), [100, 100], [71, 71]),
            (Resize::Cover([71, 17]), [300, 50], [102, 17]),
            (Resize::Cover([16, 64]), [33, 47], [45, 64]),
            (Resize::Exact([7, 9]), [100, 3], [7, 9]),
        ] {
            assert_eq!(size_before_crop(resize, from), to, "{resize:?} of {from:?}");
        }
    }

    #[test]
    fn crop_starts_are_torchvisions() {
        // side, crop, start: differences 0 to 7 are halved to even.
        for (side, crop, start) in [
            (8, 8, 0),
            (9, 8, 0),
            (10, 8, 1),
            (11, 8, 2),
            (12, 8, 2),
            (13, 8, 2),
            (15, 8, 4),
            (5, 8, -1),
            (6, 8, -1),
        ] {
            assert_eq!(crop_start(side, crop, Anchor::Even), start, "{side} to {crop}");
        }
        // transformers 5.24 center_crop.
        assert_eq!([9, 11, 13, 5].map(|side| crop_start(side, 8, Anchor::Floor)), [0, 1, 2, -1]);
    }
}
