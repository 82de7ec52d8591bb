//! Values of arguments, parsed strictly.

use std::str::FromStr;

use clap::ValueEnum;
use onnx_ptq4vit::calibrate::{Method, Metric, Search, WeightScales};
use onnx_ptq4vit::export::TwinForm;
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

/// `r,g,b`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rgb(pub(super) [f32; 3]);

impl FromStr for Rgb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<f32>> = text.split(',').map(|n| n.trim().parse().ok()).collect();
        let rgb = numbers.and_then(|numbers| <[f32; 3]>::try_from(numbers).ok());
        rgb.map(Self).ok_or_else(|| "expected three numbers, such as 0.485,0.456,0.406".into())
    }
}

/// A percentage.
pub(super) fn percent(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    number.ok_or_else(|| "expected a number from 0 to 100".into())
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum MethodName {
    /// Algorithm 1 of the paper: twin uniform quantization, Hessian-guided scales
    Ptq4vit,
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
    /// One scale per weight, three for a fused qkv
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
}

impl From<MethodName> for Method {
    fn from(name: MethodName) -> Self {
        match name {
            MethodName::Ptq4vit => Self::Ptq4vit,
            MethodName::Base => Self::Base,
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

impl From<TwinName> for TwinForm {
    fn from(name: TwinName) -> Self {
        match name {
            TwinName::Function => Self::Function,
            TwinName::Inline => Self::Inline,
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
    fn colours_are_three_numbers() {
        assert_eq!("0.485, 0.456,-1".parse(), Ok(Rgb([0.485, 0.456, -1.0])));
        for bad in ["", "0.5", "1,2", "1,2,3,4", "r,g,b", "1,,3"] {
            assert!(bad.parse::<Rgb>().is_err(), "{bad}");
        }
    }
}
