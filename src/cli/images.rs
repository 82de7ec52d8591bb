//! Arguments that say which images, and what is done to them.

use std::path::Path;

use clap::Args;
use onnx_ptq4vit::data::{Dataset, Interpolation, Items, Preprocess, Selection, UNIT_SCALED};
use onnx_ptq4vit::prepare::InputSpec;
use onnx_ptq4vit::progress::Progress;
use onnx_ptq4vit::{Error, Result};

use super::values::Rgb;

/// What is done to an image before the model sees it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Preprocessing (default: timm's ViT; arrays are taken as they are)")]
pub(super) struct ImageArgs {
    /// The short side after the resize [default: the crop / 0.9]
    #[arg(long, value_name = "PIXELS")]
    resize: Option<u32>,
    /// Both sides of the centre crop [default: the model's input size]
    #[arg(long, value_name = "PIXELS")]
    crop: Option<u32>,
    /// Subtracted from R, G and B on the scale 0-1 [default: 0.5,0.5,0.5]
    #[arg(long, value_name = "R,G,B", allow_hyphen_values = true)]
    mean: Option<Rgb>,
    /// What R, G and B are divided by, on the scale 0-1 [default: 0.5,0.5,0.5]
    #[arg(long, value_name = "R,G,B", allow_hyphen_values = true)]
    std: Option<Rgb>,
    /// The kernel of the resize: bilinear, bicubic or lanczos [default: bicubic]
    #[arg(long, value_name = "KERNEL")]
    interpolation: Option<Interpolation>,
    /// Leave out images that cannot be read, and say which
    #[arg(long)]
    skip_bad: bool,
}

impl ImageArgs {
    /// Opens `path` for a model with this input, and says what is done to the images.
    pub(super) fn open(
        &self,
        path: &Path,
        input: &InputSpec,
        selection: Selection,
        progress: &dyn Progress,
    ) -> Result<Dataset> {
        let mut data = Dataset::open(path, &self.preprocess(path, input)?, selection)?;
        match &data.items {
            Items::Images { preprocess, .. } => progress.note(&format!("images: {preprocess}")),
            Items::Array(_) if self.given() => {
                progress.note(&format!(
                    "{}: an array is taken as it is, preprocessing does not apply",
                    path.display()
                ));
            }
            Items::Array(_) => {}
        }
        data.notes.iter().for_each(|note| progress.note(&format!("{}: {note}", path.display())));
        if self.skip_bad {
            let total = data.len();
            let broken = data.without_broken()?;
            if !broken.is_empty() {
                progress.note(&left_out(&broken, total));
            }
        }
        if let Some(doubt) = data.statistics().and_then(|found| found.doubt(&UNIT_SCALED)) {
            progress.note(&format!("warning: {}: {doubt}", path.display()));
        }
        input.shape_for(data.item_shape())?;
        if let Some(batch) = input.written_out {
            progress.note(&format!(
                "the model leaves the batch open, but its Reshapes are for batches of {batch}: images are taken {batch} \
                 at a time"
            ));
        }
        Ok(data)
    }

    fn given(&self) -> bool {
        let Self { resize, crop, mean, std, interpolation, skip_bad: _ } = self;
        resize.is_some() || crop.is_some() || mean.is_some() || std.is_some() || interpolation.is_some()
    }

    fn preprocess(&self, path: &Path, input: &InputSpec) -> Result<Preprocess> {
        let size = match (self.crop, input.dims[2], input.dims[3]) {
            (Some(crop), ..) => crop,
            (None, Some(height), Some(width)) if height == width => height as u32,
            // An array brings its own size.
            _ if path
                .extension()
                .is_some_and(|e| e.eq_ignore_ascii_case("npy") || e.eq_ignore_ascii_case("npz")) =>
            {
                224
            }
            (None, Some(_), Some(_)) => {
                let why = format!("takes {}, which no square crop fits: give an array", input.describe());
                return Err(Error::unsupported(format!("input `{}`", input.name), why));
            }
            _ => {
                let why = format!(
                    "input `{}` takes {}, a size left open: give --crop",
                    input.name,
                    input.describe()
                );
                return Err(Error::usage(why));
            }
        };
        let default = Preprocess::timm_vit(size);
        let preprocess = Preprocess {
            resize: self.resize.unwrap_or(default.resize),
            crop: size,
            mean: self.mean.map_or(default.mean, |rgb| rgb.0),
            std: self.std.map_or(default.std, |rgb| rgb.0),
            interpolation: self.interpolation.unwrap_or(default.interpolation),
        };
        preprocess.check()?;
        Ok(preprocess)
    }
}

/// Which images are left out of `total`.
fn left_out(broken: &[Error], total: usize) -> String {
    const SHOWN: usize = 5;
    let mut named: Vec<String> = broken.iter().take(SHOWN).map(ToString::to_string).collect();
    if broken.len() > SHOWN {
        named.push(format!("and {} more", broken.len() - SHOWN));
    }
    format!(
        "warning: {} of {total} images cannot be read and are left out: {}",
        broken.len(),
        named.join("; ")
    )
}
