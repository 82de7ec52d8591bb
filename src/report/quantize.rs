//! The summary of `quantize`.

use std::fmt;

use serde::Serialize;

use super::{AnalyzeReport, CheckReport, KindCount, by_kind, float_table, kinds_line, share_line};
use crate::calibrate::{Calibration, Options};
use crate::plan::{FloatNode, Multiplications, Plan};
use crate::text::shown;

/// What was done to a model.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct QuantizeReport {
    /// The float model's file.
    pub model: String,
    /// The quantized model's file.
    pub output: String,
    /// How many sites are quantized.
    pub sites: usize,
    /// And of which kinds.
    pub kinds: Vec<KindCount>,
    /// The multiplications of the matrix products and convolutions, for one image; `None` if they can't be counted.
    pub multiplications: Option<Multiplications>,
    /// What stays float, and why; the most expensive first.
    pub float: Vec<FloatNode>,
    /// Outlier channels that stay float, over all sites.
    pub outliers: usize,
    /// The choices of the calibration.
    pub options: Options,
    /// The size of the calibration set.
    pub images: usize,
    /// The sum of the metric over all sites.
    pub loss: f64,
    /// Wall-clock time of the whole command.
    pub seconds: f64,
    /// The float model with its weights.
    pub bytes_before: u64,
    /// The quantized model with its weights.
    pub bytes_after: u64,
    /// The lines that load the file where it will run; none if there is no file.
    pub load: Vec<String>,
    /// What was warned of on the way.
    pub warnings: Vec<String>,
    /// How accurate it is, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<CheckReport>,
    /// What each site does to the output, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub analyze: Option<AnalyzeReport>,
}

impl QuantizeReport {
    /// The summary of a quantization that took `seconds`.
    pub fn new(
        [model, output]: [String; 2],
        plan: &Plan,
        multiplications: Option<Multiplications>,
        calibration: &Calibration,
        [bytes_before, bytes_after]: [u64; 2],
        seconds: f64,
    ) -> Self {
        Self {
            model,
            output,
            sites: plan.sites.len(),
            kinds: by_kind(plan),
            multiplications,
            float: plan.float.clone(),
            outliers: calibration.sites.iter().map(|site| site.outliers.len()).sum(),
            options: calibration.provenance.options,
            images: calibration.provenance.images,
            loss: calibration.sites.iter().map(|site| site.loss).sum(),
            seconds,
            bytes_before,
            bytes_after,
            load: Vec::new(),
            warnings: Vec::new(),
            check: None,
            analyze: None,
        }
    }
}

impl QuantizeReport {
    /// As `w8a8 best, hessian metric (fisher:4), softmax and GELU twins, per-channel weights, on 32 images`.
    pub(super) fn method(&self) -> String {
        format!("{}, on {} images", method(&self.options), self.images)
    }
}

impl fmt::Display for QuantizeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { model, output, sites, seconds, .. } = self;
        let mb = |bytes: u64| bytes as f64 / 1e6;
        writeln!(f, "{} -> {}", shown(model), shown(output))?;
        writeln!(f, "  sites    {sites} quantized: {}", kinds_line(&self.kinds))?;
        writeln!(f, "  integer  {}", share_line(self.multiplications))?;
        writeln!(f, "  method   {}", self.method())?;
        if self.outliers > 0 {
            let stay = if self.outliers == 1 { "channel stays" } else { "channels stay" };
            writeln!(f, "  outliers {} {stay} in float", self.outliers)?;
        }
        let (before, after) = (mb(self.bytes_before), mb(self.bytes_after));
        writeln!(f, "  size     {before:.2} MB -> {after:.2} MB ({:.2} times smaller)", before / after)?;
        writeln!(f, "  time     {seconds:.1} s")?;
        for warning in &self.warnings {
            writeln!(f, "  warning  {}", shown(warning))?;
        }
        f.write_str(&float_table(&self.float))?;
        if let Some(analyze) = &self.analyze {
            write!(f, "\n{analyze}")?;
        }
        if let Some(check) = &self.check {
            write!(f, "\n{check}")?;
        } else {
            let (model, output) = (shown(model), shown(output));
            writeln!(f, "\nnext: onnx-ptq4vit check {model} {output} --data IMAGES")?;
        }
        if !self.load.is_empty() {
            writeln!(f, "\nto run it:")?;
        }
        self.load.iter().try_for_each(|line| writeln!(f, "  {}", shown(line)))
    }
}

/// As `w8a8 ptq4vit, hessian metric (fisher:4), softmax and GELU twins, per-tensor weights`.
fn method(options: &Options) -> String {
    let twins = match (options.softmax_twin, options.gelu_twin) {
        (true, true) => "softmax and GELU twins",
        (true, false) => "softmax twin",
        (false, true) => "GELU twin",
        (false, false) => "no twins",
    };
    let metric = name(options.metric);
    let gradient = if metric == "hessian" { format!(" ({})", name(options.gradient)) } else { String::new() };
    let safe = if options.overflow_safe { ", overflow-safe" } else { "" };
    format!(
        "w{}a{}{safe} {}, {metric} metric{gradient}, {twins}, {} weights",
        options.weight_bits.get(),
        options.activation_bits.get(),
        name(options.preset),
        name(options.weights),
    )
}

/// The name of a choice in JSON, which is its name on the command line.
fn name(choice: impl Serialize) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(name)) => name,
        other => format!("{other:?}"),
    }
}
