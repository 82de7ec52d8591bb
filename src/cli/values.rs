//! Values of arguments, parsed strictly.

use std::path::Path;
use std::str::FromStr;

use clap::ValueEnum;
use onnx_ptq4vit::Error;
use onnx_ptq4vit::calibrate::{Metric, Preset, Search, WeightScales};
use onnx_ptq4vit::check::Shard;
use onnx_ptq4vit::data::read_array;
use onnx_ptq4vit::export::{Target, TwinForm};
use onnx_ptq4vit::prepare::InputValue;
use onnx_ptq4vit::quant::Bits;

/// `w8a8`: bits of weights and of activations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Widths {
    pub(super) weights: Bits,
    pub(super) activations: Bits,
}

impl FromStr for Widths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || "expected w<2-8>a<2-8>, such as w8a8 or w4a8".to_string();
        let (weights, activations) =
            text.strip_prefix('w').and_then(|rest| rest.split_once('a')).ok_or_else(form)?;
        let bits = |digits: &str| {
            let plain = !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
            let k = Some(digits).filter(|_| plain).and_then(|d| d.parse().ok()).ok_or_else(form)?;
            Bits::new(k).map_err(|e| e.to_string())
        };
        Ok(Self { weights: bits(weights)?, activations: bits(activations)? })
    }
}

/// `r,g,b`, or one number for every channel.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PerChannel(Vec<f32>);

impl PerChannel {
    /// One number for each of so many channels; an error if there are other than one or as many.
    pub(super) fn of(&self, channels: usize) -> onnx_ptq4vit::Result<Vec<f32>> {
        match self.0[..] {
            [one] => Ok(vec![one; channels]),
            _ if self.0.len() == channels => Ok(self.0.clone()),
            _ => {
                let why =
                    format!("{:?}: expected one number, or one for each of {channels} channels", self.0);
                Err(Error::usage(why))
            }
        }
    }
}

impl FromStr for PerChannel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<f32>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
        let numbers = numbers.filter(|numbers| numbers.len() <= 4);
        numbers
            .map(Self)
            .ok_or_else(|| "expected a number per channel, such as 0.485,0.456,0.406, or one".into())
    }
}

/// `H`, for a square, or `HxW`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pixels {
    Square(u32),
    Sides([u32; 2]),
}

impl Pixels {
    /// Height and width.
    pub(super) fn sides(self) -> [u32; 2] {
        match self {
            Self::Square(side) => [side; 2],
            Self::Sides(sides) => sides,
        }
    }
}

impl FromStr for Pixels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| text.parse::<u32>().ok();
        let found = match text.split_once('x') {
            None => side(text).map(Self::Square),
            Some((height, width)) => side(height).zip(side(width)).map(|(h, w)| Self::Sides([h, w])),
        };
        found.ok_or_else(|| "expected a number of pixels, or height x width, such as 384x512".into())
    }
}

/// `name=value` of an input beside the images.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct NamedInput {
    pub(super) name: String,
    pub(super) value: String,
}

impl NamedInput {
    /// A number, `true`, `false`, or the array in a `.npy` file.
    pub(super) fn read(&self) -> onnx_ptq4vit::Result<InputValue> {
        match (self.value.as_str(), self.value.parse::<f64>()) {
            ("true", _) => Ok(InputValue::Fill(1.0)),
            ("false", _) => Ok(InputValue::Fill(0.0)),
            (_, Ok(number)) => Ok(InputValue::Fill(number)),
            (path, _) if Path::new(path).extension().is_some_and(|e| e.eq_ignore_ascii_case("npy")) => {
                Ok(InputValue::Array(read_array(Path::new(path))?))
            }
            (other, _) => {
                let why =
                    format!("--input {}={other}: expected a number, true, false, or a .npy file", self.name);
                Err(Error::usage(why))
            }
        }
    }
}

impl FromStr for NamedInput {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
        Ok(Self { name: name.into(), value: value.into() })
    }
}

/// A percentage.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    number.ok_or_else(|| "expected a number from 0 to 100".into())
}

/// A finite number.
pub(super) fn number(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(|| "expected a number".into())
}

/// A shard as `I/N`, from `1/N` to `N/N`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShardName(pub(super) Shard);

impl FromStr for ShardName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        match parsed {
            Some((i, of)) if (1..=of).contains(&i) => Ok(Self(Shard { index: i - 1, of })),
            _ => Err("expected I/N, such as 1/8 for the first of eight".into()),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum PresetName {
    /// The paper's method and all steps beyond it that help at the bits asked for
    Best,
    /// The same with less search: one round, one probe, no other ranges of channels
    Fast,
    /// Algorithm 1 of the paper alone: twin uniform quantization, Hessian-guided scales
    #[value(alias = "ptq4vit")]
    Paper,
    /// The paper's baseline: uniform quantization, cosine distance
    Base,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum MetricName {
    /// Squared error weighed by the squared gradient
    Hessian,
    /// Squared error
    Mse,
    /// Cosine distance of each token
    Cosine,
    /// Pearson correlation of each token
    Pearson,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum SearchName {
    /// A candidate is evaluated until it is worse than the best
    Pruned,
    /// Every candidate is evaluated to the end: slow, to compare with
    Exhaustive,
}

impl From<SearchName> for Search {
    fn from(name: SearchName) -> Self {
        match name {
            SearchName::Pruned => Self::Pruned,
            SearchName::Exhaustive => Self::Exhaustive,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum WeightsName {
    /// One scale per weight, three for a fused qkv (a Conv that is no patch projection has one per channel)
    PerTensor,
    /// One scale per output channel
    PerChannel,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum TwinName {
    /// Nodes of our own domain, each defined by a model-local function
    Function,
    /// Standard nodes only, for runtimes that read no model-local functions
    Inline,
    /// Standard nodes only, without UINT8
    Int8,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[allow(clippy::doc_markdown)] // the help is no Markdown
pub(super) enum TargetName {
    /// ONNX Runtime, onnxruntime-web and OpenVINO alike
    Generic,
    /// ONNX Runtime; each twin matmul is one node, defined by a model-local function
    Onnxruntime,
    /// OpenVINO
    Openvino,
    /// TensorRT: without UINT8, functions and packed weights
    Tensorrt,
    /// onnxruntime-web
    Web,
}

impl From<PresetName> for Preset {
    fn from(name: PresetName) -> Self {
        match name {
            PresetName::Best => Self::Best,
            PresetName::Fast => Self::Fast,
            PresetName::Paper => Self::Paper,
            PresetName::Base => Self::Base,
        }
    }
}

impl From<MetricName> for Metric {
    fn from(name: MetricName) -> Self {
        match name {
            MetricName::Hessian => Self::Hessian,
            MetricName::Mse => Self::Mse,
            MetricName::Cosine => Self::Cosine,
            MetricName::Pearson => Self::Pearson,
        }
    }
}

impl From<WeightsName> for WeightScales {
    fn from(name: WeightsName) -> Self {
        match name {
            WeightsName::PerTensor => Self::PerTensor,
            WeightsName::PerChannel => Self::PerChannel,
        }
    }
}

impl From<TargetName> for Target {
    fn from(name: TargetName) -> Self {
        match name {
            TargetName::Generic => Self::Generic,
            TargetName::Onnxruntime => Self::OnnxRuntime,
            TargetName::Openvino => Self::OpenVino,
            TargetName::Tensorrt => Self::TensorRt,
            TargetName::Web => Self::Web,
        }
    }
}

impl From<TwinName> for TwinForm {
    fn from(name: TwinName) -> Self {
        match name {
            TwinName::Function => Self::Function,
            TwinName::Inline => Self::Inline,
            TwinName::Int8 => Self::Int8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_parsed_strictly() {
        let parsed = |text: &str| text.parse::<Widths>().map(|w| (w.weights.get(), w.activations.get()));
        assert_eq!(parsed("w8a8"), Ok((8, 8)));
        assert_eq!(parsed("w2a6"), Ok((2, 6)));
        for bad in
            ["", "8", "w8", "W8A8", "w8a", "wa8", "w+8a8", "w08a8", "w8a8 ", "w8a8a8", "w-4a8", "w999a8"]
        {
            assert!(parsed(bad).unwrap_err().contains("w<2-8>a<2-8>"), "{bad}");
        }
        for bad in ["w1a8", "w8a9", "w16a16"] {
            assert!(parsed(bad).unwrap_err().contains("expected 2 to 8"), "{bad}");
        }
    }

    #[test]
    fn channels_have_one_number_each() {
        let of = |text: &str, channels| text.parse::<PerChannel>().map(|found| found.of(channels).ok());
        assert_eq!(of("0.485, 0.456,-1", 3), Ok(Some(vec![0.485, 0.456, -1.0])));
        assert_eq!(of("0.5", 3), Ok(Some(vec![0.5; 3])));
        assert_eq!(of("1,2", 3), Ok(None));
        for bad in ["", "1,2,3,4,5", "r,g,b", "1,,3"] {
            assert!(bad.parse::<PerChannel>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_squares_or_two_sides() {
        assert_eq!("384".parse(), Ok(Pixels::Square(384)));
        assert_eq!("384x512".parse(), Ok(Pixels::Sides([384, 512])));
        for bad in ["", "x", "3x", "-1", "3x4x5", "3X4"] {
            assert!(bad.parse::<Pixels>().is_err(), "{bad}");
        }
    }
}
