//! The tables of `inspect`.

use std::fmt;

use serde::Serialize;

use super::{Align, KindCount, by_kind, float_table, kinds_line, share_line, table};
use crate::plan::{FloatNode, LhsSource, Multiplications, Plan, RhsOperand, ScaleOf, Site};
use crate::text::shown;

/// What a model is made of.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub enum InspectReport {
    /// A float model: what would be quantized.
    Float {
        /// The file.
        model: String,
        /// `false`.
        quantized: bool,
        /// The input's shape, as `[N, 3, 224, 224]`.
        input: String,
        /// What the model is for, and by which output; empty if no output is made of a FLOAT value.
        task: String,
        /// How many sites of each kind.
        kinds: Vec<KindCount>,
        /// The multiplications of the matrix products and convolutions, for one image; `None` if they can't be counted.
        multiplications: Option<Multiplications>,
        /// In the order of the graph.
        sites: Vec<SiteRow>,
        /// What stays float, and why.
        float: Vec<FloatNode>,
    },
    /// A model that is quantized already.
    Quantized {
        /// The file.
        model: String,
        /// `true`.
        quantized: bool,
        /// The input's shape, as `[N, 3, 224, 224]`.
        input: String,
        /// What the model is for, and by which output; empty if no output is made of a FLOAT value.
        task: String,
        /// What the writer says of itself: keys and values of `metadata_props`.
        metadata: Vec<(String, String)>,
        /// In the order of the graph.
        sites: Vec<QuantizedSite>,
        /// The products that are not quantized.
        float: Vec<FloatNode>,
    },
}

/// One site of a float model.
#[derive(Clone, Debug, Serialize)]
pub struct SiteRow {
    /// The site's name, as `--exclude` takes it.
    pub name: String,
    /// Its place in the transformer.
    pub kind: &'static str,
    /// What makes the lhs: `plain`, `softmax`, or the name of an activation function.
    pub lhs: &'static str,
    /// The lhs's value.
    pub a: String,
    /// The rhs's value.
    pub b: String,
    /// The weight's shape; `None` if the rhs is computed.
    pub weight: Option<Vec<i64>>,
    /// Does the weight hold Q, K and V, with a scale each?
    pub qkv_thirds: bool,
}

/// One site of a quantized model.
#[derive(Clone, Debug, Serialize)]
pub struct QuantizedSite {
    /// The site's name.
    pub name: String,
    /// Its operator.
    pub op: String,
    /// The values it takes.
    pub inputs: Vec<String>,
    /// The value it makes.
    pub output: String,
    /// Bits of the lhs.
    pub a_bits: u8,
    /// Bits of the rhs.
    pub b_bits: u8,
}

impl InspectReport {
    /// Of a float model; `shape` gives the shape of a weight.
    pub fn of_plan(
        model: String,
        [input, task]: [String; 2],
        plan: &Plan,
        multiplications: Option<Multiplications>,
        shape: impl Fn(&str) -> Option<Vec<i64>>,
    ) -> Self {
        Self::Float {
            model,
            quantized: false,
            input,
            task,
            kinds: by_kind(plan),
            multiplications,
            sites: plan.sites.iter().map(|site| row(site, &shape)).collect(),
            float: plan.float.clone(),
        }
    }
}

fn row(site: &Site, shape: impl Fn(&str) -> Option<Vec<i64>>) -> SiteRow {
    let lhs = match site.a_kind {
        LhsSource::Plain => "plain",
        LhsSource::Softmax => "softmax",
        LhsSource::Activation(activation) => activation.name(),
    };
    let (b, weight, qkv_thirds) = match &site.b {
        RhsOperand::Weight { value, scales, .. } => (value, shape(value), *scales == ScaleOf::Thirds),
        RhsOperand::Activation { value, .. } => (value, None, false),
    };
    let (name, a, b) = (site.name.clone(), site.a.clone(), b.clone());
    SiteRow { name, kind: site.kind.name(), lhs, a, b, weight, qkv_thirds }
}

/// What the text shows of one metadata value, in bytes.
const LONGEST_VALUE: usize = 200;

impl fmt::Display for InspectReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Float { model, input, task, kinds, multiplications, sites, float, .. } => {
                writeln!(f, "{}: float model, input {input}", shown(model))?;
                writeln!(f, "task: {}", shown(task))?;
                writeln!(f, "{} sites to quantize: {}", sites.len(), kinds_line(kinds))?;
                writeln!(f, "{}\n", share_line(*multiplications))?;
                let heading = ["site", "kind", "lhs", "rhs"];
                f.write_str(&table(&heading, &[Align::Left; 4], sites.iter().map(float_cells)))?;
                f.write_str(&float_table(float))
            }
            Self::Quantized { model, input, task, metadata, sites, float, .. } => {
                writeln!(f, "{}: quantized model, input {input}", shown(model))?;
                writeln!(f, "task: {}", shown(task))?;
                for (key, value) in metadata {
                    let key = shown(key);
                    match value.len() {
                        0..=LONGEST_VALUE => writeln!(f, "  {key}: {}", shown(value))?,
                        length => writeln!(f, "  {key}: {length} characters, which the JSON form shows")?,
                    }
                }
                writeln!(f, "{} quantized sites\n", sites.len())?;
                let heading = ["site", "op", "lhs", "rhs", "inputs"];
                let align = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Left];
                f.write_str(&table(&heading, &align, sites.iter().map(quantized_cells)))?;
                f.write_str(&float_table(float))
            }
        }
    }
}

fn float_cells(site: &SiteRow) -> Vec<String> {
    let lhs = match site.lhs {
        "plain" => String::new(),
        source => format!("after {source}"),
    };
    let rhs = match &site.weight {
        Some(shape) => {
            let thirds = if site.qkv_thirds { ", thirds Q K V" } else { "" };
            let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
            format!("weight {}{thirds}", shape.join("x"))
        }
        None => "computed".into(),
    };
    vec![site.name.clone(), site.kind.into(), lhs, rhs]
}

fn quantized_cells(site: &QuantizedSite) -> Vec<String> {
    let bits = |k: u8| format!("int{k}");
    vec![site.name.clone(), site.op.clone(), bits(site.a_bits), bits(site.b_bits), site.inputs.join(", ")]
}
