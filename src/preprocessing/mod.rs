//! How images become inputs of a model, as the model's own files say it; and what its classes are called.

mod hugging_face;
mod names;
#[cfg(test)]
mod tests;
mod timm;
mod unsure;

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::data::{Color, Preprocess, Resize, Values};
use crate::prepare::{InputSpec, Pixels, Prepared};
use crate::{Error, Result, files};

pub use names::{class_names, read_class_names, record_class_names};
pub use unsure::unsure;

/// The key of the metadata of a quantized file under which it has the [`Preprocess`] of its calibration, as JSON.
pub const RECORDED: &str = "ptq4vit.preprocessing";

/// The largest file of a configuration that is read, in bytes.
const LARGEST_FILE: u64 = 64 << 20;

/// The means and standard deviations of the images of `ImageNet`, and of those that CLIP was trained on.
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
const OPENAI: [[f32; 3]; 2] =
    [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]];

/// The files that may say it, in the order in which they are asked.
const FILES: [&str; 5] = [
    "preprocessor_config.json",
    "processor_config.json",
    "config.json",
    "open_clip_config.json",
    "preprocess_config.json",
];

/// A way to prepare images, and who says so.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// What is done to an image.
    pub preprocess: Preprocess,
    /// Who says so.
    pub source: Source,
    /// What had to be read in another way than it is written.
    pub notes: Vec<String>,
}

/// Who says how images are prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The metadata of a quantized file: as at its calibration.
    Recorded,
    /// A file beside the model.
    Written(PathBuf),
    /// Nobody: it is that of timm's ViT.
    Default,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Recorded => f.write_str("as at the calibration"),
            Self::Written(path) => write!(f, "by {}", path.display()),
            Self::Default => f.write_str("timm's default for a ViT, as no file says it"),
        }
    }
}

/// Where to look for files that say it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Beside {
    /// In the folder of the model, and in the one above if that is called `onnx`.
    #[default]
    Model,
    /// This file, which must say it.
    At(PathBuf),
    /// Nowhere.
    Nothing,
}

/// How the images of `model` are prepared: as `recorded` at the calibration of the file that was quantized from it; else as a
/// file `beside` it says; else as timm does it for a `ViT`. What the graph does to pixels itself is left to it.
///
/// `size` is the height and width that are wanted of a model that leaves them open. An error names the file that makes no
/// sense, or says that no size is known.
pub fn find(
    model: &Prepared,
    recorded: Option<Preprocess>,
    size: Option<[u32; 2]>,
    beside: &Beside,
) -> Result<Found> {
    let input = model.input()?;
    if let (Some(preprocess), Beside::Model) = (recorded, beside) {
        return fitted(Found { preprocess, source: Source::Recorded, notes: Vec::new() }, &input, size);
    }
    if let Some(found) = said_by_files(model, &input, size, beside)? {
        return Ok(found);
    }
    let mut found = default_for(&input, size)?;
    if matches!(beside, Beside::Model) {
        // Many programs have a config.json.
        let silent = candidates(model, &FILES).into_iter().filter(|path| !path.ends_with("config.json"));
        found.notes.extend(silent.map(|path| {
            format!("warning: {} does not say how images are prepared: it is not used", path.display())
        }));
    }
    Ok(found)
}

/// What is at odds between the way in which images are prepared and the one that `said` names, if a model can tell: the
/// values of pixels, the order of colors, and whether images are squashed. (Another size or another part of an image is still
/// an image: see [`other_view`].)
fn conflict(used: &Preprocess, said: &Preprocess) -> Option<String> {
    const CLOSE: f32 = 1e-3;
    let alike =
        |a: &[f32], b: &[f32]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= CLOSE);
    let same_values = match (&used.values, &said.values) {
        (Values::Normalized { mean, std }, Values::Normalized { mean: other_mean, std: other_std }) => {
            alike(mean, other_mean) && alike(std, other_std)
        }
        (used, said) => used == said,
    };
    let of_pixels = match (same_values, used.color == said.color) {
        (true, true) => None,
        (false, _) => Some(format!("{}, not {}", used.values, said.values)),
        (_, false) => Some(format!("{}, not {}", used.color, said.color)),
    };
    of_pixels.or_else(|| {
        let squashes = |preprocess: &Preprocess| matches!(preprocess.resize, Resize::Exact(_));
        match (squashes(used), squashes(said)) {
            (true, false) => Some("they are squashed to one proportion, and should keep their own".into()),
            (false, true) => Some("they keep their proportion, and should be squashed".into()),
            _ => None,
        }
    })
}

/// How images that are prepared as `used` are at odds with the calibration that was `recorded`, and with the files beside the float
/// model.
#[derive(Debug, Default)]
pub struct Conflicts {
    /// What a model can tell.
    pub doubts: Vec<String>,
    /// What is no more than another view of an image.
    pub warnings: Vec<String>,
}

/// Compares them.
pub fn conflicts(
    used: &Preprocess,
    float: &Prepared,
    recorded: Option<&Preprocess>,
    beside: &Beside,
) -> Result<Conflicts> {
    let said = said_by_files(float, &float.input()?, Some(used.crop), beside)?;
    let calibration = recorded.map(|recorded| (recorded, "than at the calibration".to_string()));
    let file = said
        .as_ref()
        .map(|said| (&said.preprocess, format!("than the model's own file says ({})", said.source)));
    let mut found = Conflicts::default();
    for (other, whose) in calibration.into_iter().chain(file) {
        if let Some(why) = conflict(used, other) {
            found.doubts.push(format!("images are prepared otherwise {whose}: {why}"));
        } else if let Some(why) = other_view(used, other) {
            found.warnings.push(format!("images are prepared otherwise {whose}: {why}"));
        }
    }
    Ok(found)
}

/// What is different in the part of an image that is seen, or in the kernel of the resize.
fn other_view(used: &Preprocess, said: &Preprocess) -> Option<String> {
    let same = (&used.resize, used.crop, used.interpolation) == (&said.resize, said.crop, said.interpolation);
    (!same).then(|| format!("{used}, not {said}"))
}

/// What the files beside a model say, fitted to its input; `None` if they say nothing.
pub fn said_by_files(
    model: &Prepared,
    input: &InputSpec,
    size: Option<[u32; 2]>,
    beside: &Beside,
) -> Result<Option<Found>> {
    let channels = Color::with_channels(input.dims[1].unwrap_or(3))?;
    let size = size.or_else(|| fixed_size(input));
    let read = |path: &Path, json: &Map<String, Value>, must: bool| -> Result<Option<Found>> {
        let parsed = parse(json, size, channels).map_err(|why| Error::data(path.display(), why))?;
        match parsed {
            Some((preprocess, notes)) => {
                let found = Found { preprocess, source: Source::Written(path.to_path_buf()), notes };
                fitted(found, input, size).map_err(|error| error.in_file(path)).map(Some)
            }
            None if must => Err(Error::data(path.display(), "it does not say how images are prepared")),
            None => Ok(None),
        }
    };
    match beside {
        Beside::Nothing => Ok(None),
        Beside::At(path) => read(path, &read_json(path)?, true),
        Beside::Model => {
            for path in candidates(model, &FILES) {
                let json = match read_json(&path) {
                    // Many programs have a file of that name.
                    Err(_) if path.ends_with("config.json") => continue,
                    json => json?,
                };
                if let Some(found) = read(&path, &json, false)? {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        }
    }
}

/// The existing files called `names` beside `model`, those of its own folder first.
fn candidates(model: &Prepared, names: &[&str]) -> Vec<PathBuf> {
    let Some(own) = model.path().map(|path| path.parent().unwrap_or(Path::new("")).to_path_buf()) else {
        return Vec::new();
    };
    let is_onnx = own.file_name().is_some_and(|name| name == "onnx");
    let above = if is_onnx { own.parent().map(Path::to_path_buf) } else { None };
    let folders = [Some(own), above].into_iter().flatten();
    let paths = folders.flat_map(|folder| names.iter().map(move |name| folder.join(name)));
    paths.filter(|path| path.is_file()).collect()
}

/// What a file of this content says of images of a model with three channels; else why it makes no sense.
#[doc(hidden)]
pub fn of_json(text: &[u8], size: Option<[u32; 2]>) -> Result<Option<Preprocess>, String> {
    let json = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let Some((mut preprocess, _)) = parse(&json, size, Color::Rgb)? else { return Ok(None) };
    if let Some(size) = size.filter(|size| *size != preprocess.crop) {
        scale(&mut preprocess, size);
    }
    preprocess.check().map_err(|e| e.to_string())?;
    Ok(Some(preprocess))
}

fn read_json(path: &Path) -> Result<Map<String, Value>> {
    let bytes = files::read(path, LARGEST_FILE)?;
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(&bytes);
    serde_json::from_slice(bytes).map_err(|e| Error::data(path.display(), format!("not a JSON object: {e}")))
}

/// What was found, and what should be said of it; or why it makes no sense.
type Parsed = Result<Option<(Preprocess, Vec<String>)>, String>;

fn parse(json: &Map<String, Value>, size: Option<[u32; 2]>, color: Color) -> Parsed {
    let object = |key: &str| json.get(key).and_then(Value::as_object);
    if let Some(processor) = object("image_processor") {
        return hugging_face::parse(processor, size, color).map(Some);
    }
    if hugging_face::is_processor(json) {
        return hugging_face::parse(json, size, color).map(Some);
    }
    if let Some(cfg) = object("pretrained_cfg") {
        return timm::parse(cfg, size, color).map(Some);
    }
    if let Some(cfg) = object("preprocess_cfg") {
        let vision = object("model_cfg").and_then(|model| model.get("vision_cfg")).and_then(Value::as_object);
        return timm::parse_open_clip(cfg, vision, size, color).map(Some);
    }
    if timm::is_config(json) {
        return timm::parse(json, size, color).map(Some);
    }
    Ok(None)
}

/// The [`Preprocess`] of the calibration that a quantized file records; an error if it makes no sense.
pub fn recorded(model: &Prepared) -> Result<Option<Preprocess>> {
    let Some(json) = model.metadata(RECORDED) else { return Ok(None) };
    let broken = |why: String| Error::model(format!("metadata `{RECORDED}`"), why);
    let found: Preprocess = serde_json::from_str(json).map_err(|e| broken(e.to_string()))?;
    found.check().map_err(|e| broken(e.to_string()))?;
    Ok(Some(found))
}

fn fixed_size(input: &InputSpec) -> Option<[u32; 2]> {
    let side = |side: Option<usize>| side.map(|side| u32::try_from(side).unwrap_or(u32::MAX));
    Some([side(input.dims[2])?, side(input.dims[3])?])
}

/// The same for the size, the channels and the pixels that the input takes.
fn fitted(mut found: Found, input: &InputSpec, size: Option<[u32; 2]>) -> Result<Found> {
    let preprocess = &mut found.preprocess;
    if let Some(wanted) = size.or_else(|| fixed_size(input)).filter(|wanted| *wanted != preprocess.crop) {
        let [from, to] = [preprocess.crop, wanted].map(|[h, w]| format!("{h}x{w}"));
        found
            .notes
            .push(format!("it is for {from} pixels, and the model takes {to}: its sizes are scaled to that"));
        scale(preprocess, wanted);
    }
    let channels = Color::with_channels(input.dims[1].unwrap_or(3))?;
    if preprocess.color.channels() != channels.channels() {
        let of = |values: &[f32]| {
            values.iter().all(|v| *v == values[0]).then(|| vec![values[0]; channels.channels()])
        };
        if let Values::Normalized { mean, std } = &preprocess.values {
            let (Some(mean), Some(std)) = (of(mean), of(std)) else {
                let why =
                    format!("{} means, and the model takes {} channels", mean.len(), channels.channels());
                return Err(Error::data("preprocessing", why));
            };
            preprocess.values = Values::Normalized { mean, std };
        }
        preprocess.color = channels;
        preprocess.fill.clear();
    }
    let own = match input.pixels {
        Pixels::Bytes(_) => Some(Values::Bytes),
        Pixels::Unit(_) => Some(Values::Unit),
        Pixels::Normalized => None,
    };
    if let Some(own) = own.filter(|own| *own != preprocess.values) {
        if found.source != Source::Recorded {
            found.notes.push("the model normalizes pixels itself, so they are not normalized before".into());
        }
        preprocess.values = own;
    }
    preprocess.check()?;
    Ok(found)
}

/// Brings the sizes in proportion to another crop.
fn scale(preprocess: &mut Preprocess, crop: [u32; 2]) {
    let old = preprocess.crop;
    let scaled = |axis: usize, side: u32| {
        let side = u64::from(side) * u64::from(crop[axis]) / u64::from(old[axis].max(1));
        u32::try_from(side).unwrap_or(u32::MAX).max(1)
    };
    let both = |sides: [u32; 2]| [scaled(0, sides[0]), scaled(1, sides[1])];
    preprocess.resize = match preprocess.resize {
        Resize::Short(side) if crop[0] == crop[1] => Resize::Short(scaled(0, side)),
        Resize::Short(side) => Resize::Cover(both([side; 2])),
        Resize::Cover(sides) => Resize::Cover(both(sides)),
        Resize::Inside(sides) => Resize::Inside(both(sides)),
        Resize::Exact(sides) => Resize::Exact(both(sides)),
        Resize::No => Resize::No,
    };
    preprocess.crop = crop;
}

fn default_for(input: &InputSpec, size: Option<[u32; 2]>) -> Result<Found> {
    let Some([height, width]) = size.or_else(|| fixed_size(input)) else {
        let why = format!(
            "input `{}` takes {}, a size left open: give --size, such as 224 or 384x512",
            input.name,
            input.describe()
        );
        return Err(Error::usage(why));
    };
    let color = Color::with_channels(input.dims[1].unwrap_or(3))?;
    let preprocess = Preprocess::timm(height, width, color);
    let found = fitted(Found { preprocess, source: Source::Default, notes: Vec::new() }, input, size)?;
    Ok(Found { notes: Vec::new(), ..found })
}

/// Reads numbers of a JSON object, and says what is wrong with others.
struct Fields<'a>(&'a Map<String, Value>);

impl<'a> Fields<'a> {
    /// The value of `key`, unless it is absent or null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn flag(&self, key: &str, default: bool) -> Result<bool, String> {
        self.get(key).map_or(Ok(default), |value| {
            value.as_bool().ok_or_else(|| format!("`{key}` is {value}, expected true or false"))
        })
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, String> {
        self.get(key).map_or(Ok(default), |value| {
            let number = value.as_f64().filter(|number| number.is_finite());
            number.ok_or_else(|| format!("`{key}` is {value}, expected a number"))
        })
    }

    /// Numbers for each of `channels`, of a list or of one number for all.
    fn per_channel(&self, key: &str, default: &[f32], channels: usize) -> Result<Vec<f32>, String> {
        let wrong =
            |value: &Value| format!("`{key}` is {value}, expected a number for each of {channels} channels");
        let list = match self.get(key) {
            None => default.to_vec(),
            Some(value @ Value::Number(number)) => vec![number.as_f64().ok_or_else(|| wrong(value))? as f32],
            Some(value) => {
                let items = value.as_array().ok_or_else(|| wrong(value))?;
                let numbers = items.iter().map(|item| item.as_f64().map(|x| x as f32));
                numbers.collect::<Option<Vec<f32>>>().ok_or_else(|| wrong(value))?
            }
        };
        match list[..] {
            [_, ..] if list.len() == channels => Ok(list),
            [one, ..] if list.iter().all(|x| *x == one) => Ok(vec![one; channels]),
            _ => Err(format!("`{key}` has {} numbers, and the model takes {channels} channels", list.len())),
        }
    }
}

/// A number of pixels.
fn pixels(key: &str, value: &Value) -> Result<u32, String> {
    let side =
        value.as_u64().or_else(|| value.as_f64().filter(|x| x.fract() == 0.0 && *x >= 0.0).map(|x| x as u64));
    let side = side.and_then(|side| u32::try_from(side).ok()).filter(|side| (1..=8192).contains(side));
    side.ok_or_else(|| format!("`{key}` is {value}, expected 1 to 8192 pixels"))
}
