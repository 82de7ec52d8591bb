//! Turns an image file into a model input.

use std::io::Cursor;
use std::path::Path;

use fast_image_resize::images::Image;
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageReader, Limits, RgbImage};
use ndarray::Array3;

use super::whole::ensure_whole;
use super::{Interpolation, Preprocess};
use crate::{Error, Result, files};

/// The limit before and after the resize. It stops decompression bombs, and images so thin that a resize makes one.
const MAX_PIXELS: u64 = 64 << 20;
/// The most bytes that a decoder may allocate.
const MAX_BYTES: u64 = 512 << 20;

/// Loads the image at `path` as `[3, crop, crop]`.
pub(super) fn load(path: &Path, preprocess: &Preprocess) -> Result<Array3<f32>> {
    let pixels = crop_of(path, preprocess)?;
    let Preprocess { mean, std, .. } = preprocess;
    Ok(Array3::from_shape_fn((3, preprocess.crop as usize, preprocess.crop as usize), |(channel, y, x)| {
        let value = f32::from(pixels.get_pixel(x as u32, y as u32)[channel]) / 255.0;
        (value - mean[channel]) / std[channel]
    }))
}

/// Loads the image at `path`, resized and cropped but not yet normalized.
pub(super) fn crop_of(path: &Path, preprocess: &Preprocess) -> Result<RgbImage> {
    let image = decode(path)?;
    let resized = resize(image, preprocess).map_err(|why| Error::data(path.display(), why))?;
    Ok(centre_crop(&resized, preprocess.crop))
}

fn decode(path: &Path) -> Result<RgbImage> {
    let bytes = files::read(path, MAX_BYTES)?;
    let undecodable = |e| Error::data(path.display(), format!("not an image that can be decoded: {e}"));
    let mut reader =
        ImageReader::new(Cursor::new(&bytes)).with_guessed_format().map_err(|e| Error::io(path, e))?;
    ensure_whole(reader.format(), &bytes).map_err(|why| Error::data(path.display(), why))?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);

    let mut decoder = reader.into_decoder().map_err(undecodable)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 || !few_pixels(width, height) || decoder.total_bytes() > MAX_BYTES {
        return Err(Error::data(path.display(), too_large(width, height)));
    }
    let orientation = decoder.orientation().map_err(undecodable)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
    image.apply_orientation(orientation);
    Ok(image.into_rgb8())
}

fn few_pixels(width: u32, height: u32) -> bool {
    u64::from(width) * u64::from(height) <= MAX_PIXELS
}

fn too_large(width: u32, height: u32) -> String {
    format!("{width} x {height} pixels, expected 1 to {} million", MAX_PIXELS >> 20)
}

/// Resizes the short side to `resize` and the long side to `trunc(resize·long/short)`.
///
/// It makes two passes on u8, the horizontal one first, as Pillow does. One call of `fast_image_resize` would begin
/// with the vertical one.
fn resize(image: RgbImage, preprocess: &Preprocess) -> Result<RgbImage, String> {
    let (width, height) = image.dimensions();
    let scaled = |side: u32| u64::from(preprocess.resize) * u64::from(side) / u64::from(width.min(height));
    let new_width = u32::try_from(scaled(width)).unwrap_or(u32::MAX);
    let new_height = u32::try_from(scaled(height)).unwrap_or(u32::MAX);
    if !few_pixels(new_width, new_height) || !few_pixels(new_width, height) {
        return Err(format!("resized from {width} x {height}: {}", too_large(new_width, new_height)));
    }

    let filter = match preprocess.interpolation {
        Interpolation::Bilinear => FilterType::Bilinear,
        Interpolation::Bicubic => FilterType::CatmullRom,
        Interpolation::Lanczos => FilterType::Lanczos3,
    };
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
    let mut resizer = Resizer::new();
    let mut source =
        Image::from_vec_u8(width, height, image.into_raw(), PixelType::U8x3).map_err(|e| e.to_string())?;
    for (to_width, to_height) in [(new_width, height), (new_width, new_height)] {
        let mut target = Image::new(to_width, to_height, PixelType::U8x3);
        resizer.resize(&source, &mut target, &options).map_err(|e| e.to_string())?;
        source = target;
    }
    Ok(RgbImage::from_raw(new_width, new_height, source.into_vec())
        .expect("the buffer has the target's size"))
}

fn centre_crop(image: &RgbImage, crop: u32) -> RgbImage {
    let left = crop_start(image.width(), crop);
    let top = crop_start(image.height(), crop);
    RgbImage::from_fn(crop, crop, |x, y| {
        let inside = |at: u32, start: i64| u32::try_from(i64::from(at) + start).ok();
        inside(x, left)
            .zip(inside(y, top))
            .and_then(|(x, y)| image.get_pixel_checked(x, y))
            .copied()
            .unwrap_or(image::Rgb([0; 3]))
    })
}

/// Where the crop starts on a side: torchvision's `round((side − crop)/2)`, half to even. If the side is shorter than
/// the crop, this is minus the padding before it.
fn crop_start(side: u32, crop: u32) -> i64 {
    if side < crop {
        return -i64::from((crop - side) / 2);
    }
    let (half, odd) = ((side - crop) / 2, (side - crop) % 2);
    i64::from(half + (odd & half))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            assert_eq!(crop_start(side, crop), start, "{side} to {crop}");
        }
    }
}
