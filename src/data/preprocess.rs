//! The steps from a decoded image to a model input.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The kernel of the antialiased resize, as Pillow names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// No kernel: the pixel at the place.
    Nearest,
    /// The mean of the pixels that a new one covers.
    Box,
    /// Triangle kernel.
    Bilinear,
    /// Windowed cosine kernel of one lobe.
    Hamming,
    /// Catmull-Rom kernel (a = −0.5).
    Bicubic,
    /// Windowed sinc kernel of three lobes.
    Lanczos,
}

impl Interpolation {
    /// By the numbers that Pillow gives them, from 0.
    pub const OF_PILLOW: [Self; 6] =
        [Self::Nearest, Self::Lanczos, Self::Bilinear, Self::Bicubic, Self::Box, Self::Hamming];
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nearest => "nearest",
            Self::Box => "box",
            Self::Bilinear => "bilinear",
            Self::Hamming => "hamming",
            Self::Bicubic => "bicubic",
            Self::Lanczos => "lanczos",
        })
    }
}

impl FromStr for Interpolation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::OF_PILLOW.into_iter().find(|i| i.to_string() == name).ok_or_else(|| {
            let names = "nearest, box, bilinear, hamming, bicubic or lanczos";
            Error::usage(format!("interpolation `{name}`: expected {names}"))
        })
    }
}

/// How an image is brought to a size before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resize {
    /// Not at all.
    No,
    /// The short side to so many pixels, the long side in proportion: torchvision's `Resize(n)`.
    Short(u32),
    /// In proportion, to the smallest size that covers this height and width: timm's `ResizeKeepRatio`.
    Cover([u32; 2]),
    /// In proportion, to the largest size that fits into this height and width: timm's `ResizeKeepRatio` with `longest=1`.
    Inside([u32; 2]),
    /// To this height and width, whatever the proportion: torchvision's `Resize((h, w))`.
    Exact([u32; 2]),
}

/// Where the crop begins if it cannot be in the very centre.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Anchor {
    /// Half of the difference, rounded half to even: torchvision's `CenterCrop`.
    #[default]
    Even,
    /// Half of the difference, rounded down: the image processors of Hugging Face's transformers.
    Floor,
}

/// The channels of a model input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// One channel, the luma of ITU-R 601: Pillow's `L`.
    Gray,
    /// Three channels.
    Rgb,
    /// The same three, blue first.
    Bgr,
    /// Four channels, the last one opacity. An image without one is opaque.
    Rgba,
}

impl Color {
    /// With so many channels; an error unless there are 1, 3 or 4.
    pub fn with_channels(channels: usize) -> Result<Self> {
        [Self::Gray, Self::Rgb, Self::Rgba].into_iter().find(|color| color.channels() == channels).ok_or_else(
            || {
                Error::unsupported(
                    "images",
                    format!("the model takes {channels} channels, images have 1, 3 or 4: give an array"),
                )
            },
        )
    }

    /// 1, 3 or 4.
    pub fn channels(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb | Self::Bgr => 3,
            Self::Rgba => 4,
        }
    }
}

/// What the model gets for a pixel from 0 to 255.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Values {
    /// `(x/255 − mean)/std`, with one mean and one standard deviation per channel.
    Normalized {
        /// On the scale 0–1.
        mean: Vec<f32>,
        /// On the scale 0–1.
        std: Vec<f32>,
    },
    /// `x/255`.
    Unit,
    /// `x`.
    Bytes,
}

/// How torchvision and timm make an image a model input: they turn it as EXIF says, convert its colors, resize it, crop its
/// centre, and scale its values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocess {
    /// The size before the crop.
    pub resize: Resize,
    /// Height and width of the centre crop, in pixels. A smaller image is padded.
    pub crop: [u32; 2],
    /// Where the crop begins.
    #[serde(default)]
    pub anchor: Anchor,
    /// What a smaller image is padded with, for each channel; black if there is nothing.
    #[serde(default)]
    pub fill: Vec<u8>,
    /// The channels.
    pub color: Color,
    /// What becomes of a pixel.
    pub values: Values,
    /// The kernel of the resize.
    pub interpolation: Interpolation,
}

impl Preprocess {
    /// The defaults of timm's ViT: a crop of 0.9 of the short side, bicubic interpolation, mean and std 0.5.
    pub fn timm_vit(input_size: u32) -> Self {
        Self::timm(input_size, input_size, Color::Rgb)
    }

    /// As [`timm_vit`](Self::timm_vit), for any height and width: an image covers both, divided by 0.9.
    pub fn timm(height: u32, width: u32, color: Color) -> Self {
        let before = |side: u32| (f64::from(side) / 0.9).floor() as u32;
        let channels = color.channels();
        Self {
            resize: if height == width {
                Resize::Short(before(height))
            } else {
                Resize::Cover([before(height), before(width)])
            },
            crop: [height, width],
            anchor: Anchor::Even,
            fill: Vec::new(),
            color,
            values: Values::Normalized { mean: vec![0.5; channels], std: vec![0.5; channels] },
            interpolation: Interpolation::Bicubic,
        }
    }

    /// `[C, H, W]` of the model input.
    pub fn shape(&self) -> [usize; 3] {
        [self.color.channels(), self.crop[0] as usize, self.crop[1] as usize]
    }

    /// Returns a usage error if no image can be prepared with these values.
    pub fn check(&self) -> Result<()> {
        let Self { resize, crop, .. } = self;
        let sides = match *resize {
            Resize::No => *crop,
            Resize::Short(side) => [side; 2],
            Resize::Cover(sides) | Resize::Inside(sides) | Resize::Exact(sides) => sides,
        };
        if !sides.iter().chain(crop).all(|side| (1..=8192).contains(side)) {
            let crop = Sides(*crop);
            return Err(Error::usage(format!(
                "resize {}, crop {crop}: expected 1 to 8192 pixels",
                Sides(sides)
            )));
        }
        let channels = self.color.channels();
        if !self.fill.is_empty() && self.fill.len() != channels {
            let why = format!("fill {:?}: expected one number for each of {channels} channels", self.fill);
            return Err(Error::usage(why));
        }
        let Values::Normalized { mean, std } = &self.values else { return Ok(()) };
        if mean.len() != channels || std.len() != channels {
            return Err(Error::usage(format!(
                "mean {mean:?}, std {std:?}: expected one number for each of {channels} channels"
            )));
        }
        if !mean.iter().all(|mean| mean.is_finite()) || !std.iter().all(|&std| std.is_normal() && std > 0.0) {
            return Err(Error::usage(format!(
                "mean {mean:?}, std {std:?}: expected finite means, positive stds"
            )));
        }
        Ok(())
    }
}

/// `16x32`, or `16` for a square.
struct Sides([u32; 2]);

impl fmt::Display for Sides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [height, width] = self.0;
        if height == width { write!(f, "{height}") } else { write!(f, "{height}x{width}") }
    }
}

impl fmt::Display for Preprocess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { resize, crop: [height, width], anchor: _, fill, color, values, interpolation } = self;
        write!(f, "{color}, ")?;
        match resize {
            Resize::No => write!(f, "not resized")?,
            Resize::Short(side) => write!(f, "short side to {side} ({interpolation})")?,
            Resize::Cover([h, w]) => write!(f, "in proportion to at least {h}x{w} ({interpolation})")?,
            Resize::Inside([h, w]) => write!(f, "in proportion to at most {h}x{w} ({interpolation})")?,
            Resize::Exact([h, w]) => write!(f, "to {h}x{w}, whatever the proportion ({interpolation})")?,
        }
        if *resize != Resize::Exact([*height, *width]) {
            write!(f, ", centre crop {height}x{width}")?;
        }
        if !fill.is_empty() {
            write!(f, ", padded with {fill:?}")?;
        }
        write!(f, ", ")?;
        write!(f, "{values}")
    }
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gray => "gray",
            Self::Rgb => "RGB",
            Self::Bgr => "BGR",
            Self::Rgba => "RGBA",
        })
    }
}

impl fmt::Display for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Normalized { mean, std } => write!(f, "scale to 0-1, mean {mean:?}, std {std:?}"),
            Self::Unit => write!(f, "scale to 0-1"),
            Self::Bytes => write!(f, "values from 0 to 255"),
        }
    }
}
