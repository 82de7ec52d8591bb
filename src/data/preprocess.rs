//! The steps from a decoded image to a model input.

use std::fmt;
use std::str::FromStr;

use crate::{Error, Result};

/// The kernel of the antialiased resize, as Pillow names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Triangle kernel.
    Bilinear,
    /// Catmull-Rom kernel (a = −0.5).
    Bicubic,
    /// Windowed sinc kernel of three lobes.
    Lanczos,
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bilinear => "bilinear",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        })
    }
}

impl FromStr for Interpolation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        [Self::Bilinear, Self::Bicubic, Self::Lanczos].into_iter().find(|i| i.to_string() == name).ok_or_else(
            || Error::usage(format!("interpolation `{name}`: expected bilinear, bicubic or lanczos")),
        )
    }
}

/// How torchvision and timm make an image a model input: they turn it as EXIF says, convert it to RGB, resize its short
/// side to `resize`, crop its centre, and normalize it to `(x/255 − mean)/std`.
#[derive(Clone, Debug, PartialEq)]
pub struct Preprocess {
    /// The length of the short side after the resize, in pixels.
    pub resize: u32,
    /// The length of both sides of the centre crop, in pixels. A smaller image is padded with black.
    pub crop: u32,
    /// The means of R, G and B, on the scale 0–1.
    pub mean: [f32; 3],
    /// The standard deviations of R, G and B, on the scale 0–1.
    pub std: [f32; 3],
    /// The kernel of the resize.
    pub interpolation: Interpolation,
}

impl Preprocess {
    /// The defaults of timm's ViT: a crop of 0.9 of the short side, bicubic interpolation, mean and std 0.5.
    pub fn timm_vit(input_size: u32) -> Self {
        Self {
            resize: (f64::from(input_size) / 0.9).floor() as u32,
            crop: input_size,
            mean: [0.5; 3],
            std: [0.5; 3],
            interpolation: Interpolation::Bicubic,
        }
    }

    /// Returns a usage error if no image can be prepared with these values.
    pub fn check(&self) -> Result<()> {
        if !(1..=8192).contains(&self.resize) || !(1..=8192).contains(&self.crop) {
            let Self { resize, crop, .. } = self;
            return Err(Error::usage(format!("resize {resize}, crop {crop}: expected 1 to 8192 pixels")));
        }
        if !self.mean.iter().all(|mean| mean.is_finite())
            || !self.std.iter().all(|&std| std.is_normal() && std > 0.0)
        {
            let Self { mean, std, .. } = self;
            return Err(Error::usage(format!(
                "mean {mean:?}, std {std:?}: expected finite means, positive stds"
            )));
        }
        Ok(())
    }
}

impl fmt::Display for Preprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resize, crop, mean, std, interpolation } = self;
        write!(
            f,
            "RGB, short side to {resize} ({interpolation}), centre crop {crop}x{crop}, scale to 0-1, \
             mean {mean:?}, std {std:?}"
        )
    }
}
