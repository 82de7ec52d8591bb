//! Small pictures of what a model sees.

use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage, imageops};
use ndarray::Array3;

use super::{Color, Dataset, Preprocess, Values};
use crate::{Error, Result};

/// JPEG quality, from 1 to 100.
const QUALITY: u8 = 80;

impl Dataset {
    /// What the model sees of item `index`, as a JPEG file of at most `side` pixels in width and height. The values of an array are
    /// stretched from its smallest to its largest.
    ///
    /// # Panics
    /// If `index` is out of range.
    pub fn thumbnail(&self, index: usize, side: u32) -> Result<Vec<u8>> {
        let item = self.load(index)?;
        let pixels = match self.preprocess() {
            Some(preprocess) => seen(&item, preprocess),
            None => stretched(&item),
        };
        let (width, height) = (pixels.width(), pixels.height());
        let shrunk =
            |length: u32| (u64::from(length) * u64::from(side) / u64::from(width.max(height))).max(1) as u32;
        let small = match width.max(height) <= side {
            true => pixels,
            false => imageops::thumbnail(&pixels, shrunk(width), shrunk(height)),
        };
        let mut jpeg = Vec::new();
        JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
            .encode_image(&small)
            .map_err(|e| Error::data(&self.names[index], format!("no thumbnail can be made: {e}")))?;
        Ok(jpeg)
    }
}

/// The pixels that became the model input `item`.
fn seen(item: &Array3<f32>, preprocess: &Preprocess) -> RgbImage {
    let byte = |c: usize, x: f32| match &preprocess.values {
        Values::Normalized { mean, std } => (x * std[c] + mean[c]) * 255.0,
        Values::Unit => x * 255.0,
        Values::Bytes => x,
    };
    let channels = match preprocess.color {
        Color::Gray => [0, 0, 0],
        Color::Bgr => [2, 1, 0],
        Color::Rgb | Color::Rgba => [0, 1, 2],
    };
    image_of(item, channels, byte)
}

fn stretched(item: &Array3<f32>) -> RgbImage {
    let finite = item.iter().copied().filter(|x| x.is_finite());
    let (low, high) = finite.fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), x| (a.min(x), b.max(x)));
    let channels = if item.dim().0 < 3 { [0, 0, 0] } else { [0, 1, 2] };
    image_of(item, channels, |_, x| 255.0 * (x - low) / (high - low).max(f32::MIN_POSITIVE))
}

fn image_of(item: &Array3<f32>, channels: [usize; 3], byte: impl Fn(usize, f32) -> f32) -> RgbImage {
    let (_, height, width) = item.dim();
    let pixel = |x: u32, y: u32| {
        // What is not a number becomes 0.
        Rgb(channels.map(|c| byte(c, item[[c, y as usize, x as usize]]).round() as u8))
    };
    RgbImage::from_fn(width as u32, height as u32, pixel)
}

#[cfg(test)]
mod tests {
    use ndarray::Array4;

    use super::*;

    #[test]
    fn what_the_model_sees_is_shown() {
        let red = [200u8, 20, 60];
        for color in [Color::Rgb, Color::Bgr] {
            let preprocess = Preprocess { color, ..Preprocess::timm_vit(48) };
            let order = if color == Color::Bgr { [2, 1, 0] } else { [0, 1, 2] };
            let item =
                Array3::from_shape_fn((3, 48, 48), |(c, ..)| (f32::from(red[order[c]]) / 255.0 - 0.5) / 0.5);
            assert_eq!(seen(&item, &preprocess).get_pixel(7, 9).0, red, "{color:?}");
        }
    }

    #[test]
    fn thumbnails_of_arrays_are_small_jpegs() {
        let array = Array4::from_shape_fn((2, 1, 40, 100), |(n, _, y, x)| (n + y + x) as f32 - 70.0);
        let data = Dataset::of_array(array);
        let jpeg = data.thumbnail(1, 50).unwrap();
        let read = image::load_from_memory_with_format(&jpeg, image::ImageFormat::Jpeg).unwrap().into_rgb8();
        assert_eq!(read.dimensions(), (50, 20));
        let corners = [read.get_pixel(0, 0).0[0], read.get_pixel(49, 19).0[0]];
        assert!(corners[0] < 20 && corners[1] > 235, "{corners:?}");
        let flat = Dataset::of_array(Array4::from_elem((1, 3, 8, 8), f32::NAN));
        assert!(flat.thumbnail(0, 50).is_ok());
    }
}
