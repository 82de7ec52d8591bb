//! Arguments that say which images, and what is done to them.

use std::path::{Path, PathBuf};

use clap::Args;
use onnx_ptq4vit::data::{
    Arrays, Columns, Dataset, Interpolation, Items, MAX_PIXELS, Preprocess, Resize, Selection, UNIT_SCALED,
    Values, is_array,
};
use onnx_ptq4vit::prepare::{Prepared, Task};
use onnx_ptq4vit::preprocessing::{self, Beside};
use onnx_ptq4vit::progress::Progress;
use onnx_ptq4vit::text::shown;
use onnx_ptq4vit::{Error, Result};

use super::values::{self, PerChannel};

/// What is done to an image before the model sees it.
#[derive(Clone, Args, Debug)]
#[command(
    next_help_heading = "Preprocessing (default: as files beside the model say; arrays are taken as they are)"
)]
pub(super) struct ImageArgs {
    /// The short side after the resize, or both sides [default without such files: the crop / 0.9]
    #[arg(long, value_name = "PIXELS|HxW")]
    resize: Option<values::Pixels>,
    /// The size of the centre crop [default: the model's input size]
    #[arg(long, visible_alias = "size", value_name = "PIXELS|HxW")]
    crop: Option<values::Pixels>,
    /// Subtracted from each channel, on the scale 0-1
    #[arg(long, value_name = "R,G,B", allow_hyphen_values = true)]
    mean: Option<PerChannel>,
    /// What each channel is divided by, on the scale 0-1
    #[arg(long, value_name = "R,G,B", allow_hyphen_values = true)]
    std: Option<PerChannel>,
    /// The kernel of the resize: nearest, box, bilinear, hamming, bicubic or lanczos [default without such files: bicubic]
    #[arg(long, value_name = "KERNEL", hide_short_help = true)]
    interpolation: Option<Interpolation>,
    /// The file that says how images are prepared; `none`: look for none
    ///
    /// Without it, `preprocessor_config.json` and the like are looked for beside the model.
    #[arg(long, value_name = "FILE|none")]
    preprocessing: Option<PathBuf>,
    /// The names of the classes: a text file with one in each line, or a JSON file with id2label [default: config.json]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    class_names: Option<PathBuf>,
    /// The column of paths in CSV files [default: path, or another usual name]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    path_column: Option<String>,
    /// The column of labels in CSV files [default: label, or another usual name]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    label_column: Option<String>,
    /// The most pixels that an image may have; a larger one is refused before it is decoded
    #[arg(long, value_name = "N", default_value_t = MAX_PIXELS, value_parser = clap::value_parser!(u64).range(1..), hide_short_help = true)]
    max_pixels: u64,
    /// Leave out images that cannot be read, and say which
    #[arg(long, hide_short_help = true)]
    skip_bad: bool,
}

impl ImageArgs {
    /// Opens `path` for `model`, and says what is done to the images: if no argument says it, as it is `recorded` of the
    /// calibration. Arrays that are plainly of another range than the model takes are brought into it, unless they are
    /// wanted `as_they_are`.
    pub(super) fn open(
        &self,
        path: &Path,
        model: &Prepared,
        recorded: Option<Preprocess>,
        selection: Selection,
        as_they_are: bool,
        progress: &dyn Progress,
    ) -> Result<Dataset> {
        let input = model.input()?;
        let mut source = String::new();
        let preprocess = if is_array(path) {
            Preprocess::timm_vit(224)
        } else {
            let found =
                preprocessing::find(model, recorded, self.crop.map(values::Pixels::sides), &self.beside())?;
            for note in &found.notes {
                match note.starts_with("warning: ") {
                    true => progress.note(&shown(note)),
                    false => progress.note(&format!("{}: {}", found.source, shown(note))),
                }
            }
            source = if self.given() {
                format!("{}, but for what was given", found.source)
            } else {
                found.source.to_string()
            };
            self.changed(found.preprocess)?
        };
        let channels = input.dims[1].unwrap_or(3);
        self.mean.iter().chain(&self.std).try_for_each(|given| given.of(channels).map(drop))?;
        let columns = self.columns(model)?;
        let arrays = Arrays {
            name: &input.name,
            arrange: &|array| input.arrange(array, as_they_are),
            columns: &columns,
        };
        let mut data = Dataset::open_with(path, &preprocess, selection, &arrays)?;
        data.max_pixels = self.max_pixels;
        if data.is_empty() {
            return Ok(data);
        }
        match &data.items {
            Items::Images { preprocess, .. } => {
                progress.note(&format!("images: {preprocess} ({})", shown(&source)));
            }
            Items::Array(_) if self.given() || self.preprocessing.is_some() => {
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

    /// Why images that are prepared as in `data` are at odds with the model: with its calibration, or with the files beside
    /// the float model. What is no more than another view of an image is warned of.
    pub(super) fn conflicts(
        &self,
        data: &Dataset,
        float: &Prepared,
        recorded: Option<&Preprocess>,
        progress: &dyn Progress,
    ) -> Result<Vec<String>> {
        let Some(used) = data.preprocess() else { return Ok(Vec::new()) };
        let found = preprocessing::conflicts(used, float, recorded, &self.beside())?;
        found.warnings.iter().for_each(|warning| progress.note(&format!("warning: {warning}")));
        Ok(found.doubts)
    }

    /// Height and width of the crop, where the model leaves them open.
    pub(super) fn size(&self) -> [u32; 2] {
        self.crop.map_or([224; 2], values::Pixels::sides)
    }

    /// The names of the classes that were given, or those that `config.json` beside the model or its metadata gives.
    pub(super) fn class_names(&self, model: &Prepared) -> Result<Vec<String>> {
        match &self.class_names {
            Some(path) => preprocessing::read_class_names(path),
            None => preprocessing::class_names(model),
        }
    }

    /// How the columns of CSV files are called, and the classes of `model`; and whether an image may have several of them.
    pub(super) fn columns(&self, model: &Prepared) -> Result<Columns> {
        let (path, label) = (self.path_column.clone(), self.label_column.clone());
        let several = model.outputs().is_ok_and(|outputs| outputs.task == Task::Multilabel);
        Ok(Columns { path, label, classes: self.class_names(model)?, several })
    }

    fn beside(&self) -> Beside {
        match &self.preprocessing {
            None => Beside::Model,
            Some(path) if path.as_os_str() == "none" => Beside::Nothing,
            Some(path) => Beside::At(path.clone()),
        }
    }

    /// Whether an argument changes what was found.
    fn given(&self) -> bool {
        let Self { resize, crop, mean, std, interpolation, .. } = self;
        resize.is_some() || crop.is_some() || mean.is_some() || std.is_some() || interpolation.is_some()
    }

    fn changed(&self, found: Preprocess) -> Result<Preprocess> {
        let channels = found.color.channels();
        let (own_mean, own_std) = match &found.values {
            Values::Normalized { mean, std } => (mean.clone(), std.clone()),
            Values::Unit | Values::Bytes => (vec![0.5; channels], vec![0.5; channels]),
        };
        let per_channel =
            |given: &Option<PerChannel>, own| given.as_ref().map_or(Ok(own), |given| given.of(channels));
        let values = if self.mean.is_some() || self.std.is_some() {
            Values::Normalized {
                mean: per_channel(&self.mean, own_mean)?,
                std: per_channel(&self.std, own_std)?,
            }
        } else {
            found.values
        };
        let resize = match self.resize {
            Some(values::Pixels::Square(side)) => Resize::Short(side),
            Some(values::Pixels::Sides(sides)) => Resize::Exact(sides),
            None => found.resize,
        };
        let interpolation = self.interpolation.unwrap_or(found.interpolation);
        let preprocess = Preprocess { resize, values, interpolation, ..found };
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
