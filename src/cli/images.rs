//! Arguments that say which images, and what is done to them.

use std::path::Path;

use clap::Args;
use onnx_ptq4vit::data::{
    Arrays, Dataset, Interpolation, Items, Preprocess, Resize, Selection, UNIT_SCALED, Values, is_array,
};
use onnx_ptq4vit::prepare::InputSpec;
use onnx_ptq4vit::progress::Progress;
use onnx_ptq4vit::quantize::preprocess_for;
use onnx_ptq4vit::{Error, Result};

use super::values::{self, PerChannel};

/// What is done to an image before the model sees it.
#[derive(Args, Debug)]
#[command(next_help_heading = "Preprocessing (default: timm's ViT; arrays are taken as they are)")]
pub(super) struct ImageArgs {
    /// The short side after the resize, or both sides, whatever the proportion [default: the crop / 0.9]
    #[arg(long, value_name = "PIXELS|HxW")]
    resize: Option<values::Pixels>,
    /// The size of the centre crop [default: the model's input size]
    #[arg(long, visible_alias = "size", value_name = "PIXELS|HxW")]
    crop: Option<values::Pixels>,
    /// Subtracted from each channel on the scale 0-1 [default: 0.5, unless the model normalizes pixels itself]
    #[arg(long, value_name = "R,G,B", allow_hyphen_values = true)]
    mean: Option<PerChannel>,
    /// What each channel is divided by, on the scale 0-1 [default: 0.5, unless the model normalizes pixels itself]
    #[arg(long, value_name = "R,G,B", allow_hyphen_values = true)]
    std: Option<PerChannel>,
    /// The kernel of the resize: bilinear, bicubic or lanczos [default: bicubic]
    #[arg(long, value_name = "KERNEL")]
    interpolation: Option<Interpolation>,
    /// Leave out images that cannot be read, and say which
    #[arg(long)]
    skip_bad: bool,
}

impl ImageArgs {
    /// Opens `path` for a model with this input, and says what is done to the images. Arrays that are plainly of another
    /// range than the model takes are brought into it, unless they are wanted `as_they_are`.
    pub(super) fn open(
        &self,
        path: &Path,
        input: &InputSpec,
        selection: Selection,
        as_they_are: bool,
        progress: &dyn Progress,
    ) -> Result<Dataset> {
        let preprocess = if is_array(path) { Preprocess::timm_vit(224) } else { self.preprocess(input)? };
        let channels = input.dims[1].unwrap_or(3);
        self.mean.iter().chain(&self.std).try_for_each(|given| given.of(channels).map(drop))?;
        let arrays = Arrays { name: &input.name, arrange: &|array| input.arrange(array, as_they_are) };
        let mut data = Dataset::open_with(path, &preprocess, selection, &arrays)?;
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
        for note in &data.notes {
            let (warning, note) =
                note.strip_prefix("warning: ").map_or(("", &**note), |note| ("warning: ", note));
            progress.note(&format!("{warning}{}: {note}", path.display()));
        }
        if self.skip_bad {
            let total = data.len();
            let broken = data.without_broken()?;
            if !broken.is_empty() {
                progress.note(&left_out(&broken, total));
            }
        }
        if let Some(doubt) =
            data.statistics().and_then(|found| found.doubt(&input.pixels.range().unwrap_or(UNIT_SCALED)))
        {
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

    fn preprocess(&self, input: &InputSpec) -> Result<Preprocess> {
        let [_, _, height, width] = input.dims;
        let size = match (self.crop.map(values::Pixels::sides), height, width) {
            (Some(sides), ..) => sides,
            (None, Some(height), Some(width)) => {
                [height, width].map(|side| u32::try_from(side).unwrap_or(u32::MAX))
            }
            _ => {
                let why = format!(
                    "input `{}` takes {}, a size left open: give --size, such as 224 or 384x512",
                    input.name,
                    input.describe()
                );
                return Err(Error::usage(why));
            }
        };
        let default = preprocess_for(input, size)?;
        let channels = default.color.channels();
        let per_channel = |given: &Option<PerChannel>| {
            given.as_ref().map_or(Ok(vec![0.5; channels]), |given| given.of(channels))
        };
        let values = if self.mean.is_some() || self.std.is_some() {
            Values::Normalized { mean: per_channel(&self.mean)?, std: per_channel(&self.std)? }
        } else {
            default.values
        };
        let resize = match self.resize {
            Some(values::Pixels::Square(side)) => Resize::Short(side),
            Some(values::Pixels::Sides(sides)) => Resize::Exact(sides),
            None => default.resize,
        };
        let interpolation = self.interpolation.unwrap_or(default.interpolation);
        let preprocess = Preprocess { resize, values, interpolation, ..default };
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
