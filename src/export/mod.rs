//! Plan + Calibration → quantized ONNX: QDQ around integer-friendly `MatMuls`, twins as nodes of our own domain.
//!
//! Every shape of the output was chosen because stock runtimes turn it into integer kernels; `docs/emitted-file.md`
//! lists the rules and what breaking each costs.

mod body;
mod norms;
mod sites;
mod target;
mod twins;
mod writer;

use ndarray::{ArrayD, Axis};
use serde::Deserialize;

use crate::calibrate::{Calibration, SiteScales};
use crate::onnx::proto::StringStringEntryProto;
use crate::onnx::{Edits, Graph, Model, packing};
use crate::plan::{Plan, RhsOperand, ScaleOf, Site, WeightLayout};
use crate::prepare::Prepared;
use crate::preprocessing::RECORDED;
use crate::quant::{Bits, Quantizer, Scale};
use crate::{Error, Result};

pub use target::Target;

/// How the twin matmuls are written. The arithmetic is the same in every form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TwinForm {
    /// As nodes of [`DOMAIN`](crate::onnx::DOMAIN), each defined by a model-local function.
    Function,
    /// As standard nodes alone, also for runtimes that read no functions.
    Inline,
    /// As standard nodes alone, whose codes are all INT8: for `TensorRT`, which has no UINT8.
    Int8,
}

/// Writes the quantizers of `calibration` into a copy of `model`.
///
/// The values at the sites' outputs keep their names, the model's inputs and outputs keep the types of its file.
pub fn export(model: &Prepared, plan: &Plan, calibration: &Calibration, form: TwinForm) -> Result<Model> {
    export_partly(model, plan, calibration, form, &|_| true)
}

/// As [`export`], with those sites alone quantized that `is_quantized` says. The others stay in float, with the ranges of
/// channels that the calibration gives their neighbours.
pub fn export_partly(
    model: &Prepared,
    plan: &Plan,
    calibration: &Calibration,
    form: TwinForm,
    is_quantized: &dyn Fn(&Site) -> bool,
) -> Result<Model> {
    calibration.check_fits(model, plan)?;
    let graph = model.graph();
    let mut edits = Edits::new(model.model());
    let mut functions = twins::Functions::default();
    for site in &plan.sites {
        let scales = calibration.site(&site.name).expect("check_fits found every site");
        let mut emitter = sites::Emitter { graph, edits: &mut edits, functions: &mut functions, form };
        emitter.emit(site, scales, is_quantized(site))?;
    }
    norms::emit(graph, plan, calibration, &mut edits)?;
    functions.define(graph.opset(), &mut edits);

    let mut quantized = model.model().clone();
    edits.apply(&mut quantized)?;
    // Nothing that is written needs a newer version, and older runtimes refuse newer ones.
    let proto = &mut quantized.proto;
    if graph.opset() <= 20 {
        proto.ir_version = proto.ir_version.map(|version| version.min(9));
    }
    proto.metadata_props.retain(|entry| entry.key.as_deref() != Some(RECORDED));
    let sites = plan.sites.iter().filter(|site| is_quantized(site));
    proto.metadata_props.extend(metadata(sites, calibration));
    model.restore_border(&mut quantized)?;
    Ok(quantized)
}

/// The same model with weights of fewer than 7 bits packed, several codes to a word: smaller, and as fast where a runtime
/// folds constants when it loads a file (measured: ONNX Runtime, `OpenVINO`).
pub fn pack(model: Model) -> Result<Model> {
    let graph = Graph::new(model)?;
    let edits = packing::pack(&graph)?;
    let mut model = graph.into_model();
    edits.map_or(Ok(()), |edits| edits.apply(&mut model))?;
    Ok(model)
}

/// What a reader of the file may want to know of its making.
fn metadata<'s>(
    sites: impl Iterator<Item = &'s Site>,
    calibration: &Calibration,
) -> Vec<StringStringEntryProto> {
    let json = |value: serde_json::Result<String>| value.expect("plain data has a JSON form");
    let options = &calibration.provenance.options;
    // What has the length of channels, or of weights, is in the file already.
    let summary = |scales: &SiteScales| {
        let b =
            if scales.b.len() == scales.a.len() || scales.b.len() <= 3 { scales.b.clone() } else { vec![] };
        SiteScales {
            b,
            codes: None,
            bias: None,
            correction: None,
            fold: None,
            columns: None,
            ..scales.clone()
        }
    };
    let written = sites.filter_map(|site| calibration.site(&site.name));
    let written: Vec<SiteScales> = written.map(summary).collect();
    let entries = [
        ("tool", calibration.provenance.tool.clone()),
        ("bits", format!("w{}a{}", options.weight_bits.get(), options.activation_bits.get())),
        ("options", json(serde_json::to_string(options))),
        ("calibration_pictures", calibration.provenance.images.to_string()),
        ("calibration_sha256", calibration.fingerprint()),
        ("float_model_sha256", calibration.provenance.model_sha256.clone()),
        ("scales", json(serde_json::to_string(&written))),
    ];
    let preprocessing = calibration.provenance.preprocessing.as_ref();
    let preprocessing = preprocessing.map(|how| ("preprocessing", json(serde_json::to_string(how))));
    let entry =
        |(key, value)| StringStringEntryProto { key: Some(format!("ptq4vit.{key}")), value: Some(value) };
    entries.into_iter().chain(preprocessing).map(entry).collect()
}

/// The weight of a linear site as codes, and the scale of every column; one scale if all columns share it.
struct QuantizedWeight {
    /// `[K, N]`, or for a Conv the weight's own axes.
    codes: Vec<i8>,
    dims: Vec<usize>,
    scales: Vec<f32>,
    /// `[R, N]`: the float rows of the outlier channels, whose codes are 0.
    outliers: Vec<f32>,
}

/// The float weight of a linear site in its new ranges: `[K, N]`, or for a Conv in its own axes, and whether it is one.
fn folded_weight(graph: &Graph, site: &Site, scales: &SiteScales) -> Result<(ArrayD<f32>, bool)> {
    let place = || format!("site `{}`", site.name);
    let weight = site.weight(graph)?;
    let RhsOperand::Weight { layout, .. } = &site.b else { unreachable!("the site has a weight") };
    // Output channels last, as the columns of B are.
    let (mut matrix, is_conv) = match layout {
        WeightLayout::Kn => (weight, false),
        WeightLayout::Nk => (weight.reversed_axes().as_standard_layout().into_owned(), false),
        WeightLayout::Conv(_) => (weight, true),
    };
    let n = matrix.shape()[usize::from(!is_conv)];
    if let Some(fold) = &scales.fold {
        if is_conv || fold.scale.len() != matrix.shape()[0] {
            let why =
                format!("the calibration scales {} channels, not those of the weight", fold.scale.len());
            return Err(Error::data(place(), why));
        }
        for (mut row, &scale) in matrix.axis_iter_mut(Axis(0)).zip(&fold.scale) {
            row.mapv_inplace(|w| w * scale);
        }
    }
    if let Some(columns) = &scales.columns {
        if is_conv || columns.len() != n {
            let why = format!("the calibration scales {} columns of a weight of {n}", columns.len());
            return Err(Error::data(place(), why));
        }
        matrix.indexed_iter_mut().for_each(|(at, w)| *w *= columns[at[1]]);
    }
    Ok((matrix, is_conv))
}

impl QuantizedWeight {
    fn of(graph: &Graph, site: &Site, scales: &SiteScales) -> Result<Self> {
        let place = || format!("site `{}`", site.name);
        let RhsOperand::Weight { scales: of, .. } = &site.b else { unreachable!("the site has a weight") };
        let (mut matrix, is_conv) = folded_weight(graph, site, scales)?;
        let channel_axis = usize::from(!is_conv);
        let n = matrix.shape()[channel_axis];
        let per_channel: Vec<f32> = match scales.b.len() {
            1 => vec![scales.b[0].get(); n],
            3 if *of == ScaleOf::Thirds && n.is_multiple_of(3) => {
                (0..n).map(|c| scales.b[c / (n / 3)].get()).collect()
            }
            len if len == n => scales.b.iter().map(|s| s.get()).collect(),
            len => {
                return Err(Error::data(
                    place(),
                    format!("the calibration has {len} weight scales for {n} channels"),
                ));
            }
        };
        let mut outliers = Vec::new();
        for &channel in &scales.outliers {
            if is_conv || channel >= matrix.shape()[0] {
                let why =
                    format!("the calibration has an outlier channel {channel}, which the weight has not");
                return Err(Error::data(place(), why));
            }
            let mut row = matrix.index_axis_mut(Axis(0), channel);
            outliers.extend(&row);
            row.fill(0.0);
        }
        let codes = match &scales.codes {
            Some(codes) => {
                let depth = matrix.len() / n.max(1);
                let found = codes.matrix([depth, n]).ok_or_else(|| {
                    Error::data(
                        place(),
                        format!("the calibration has no codes for a weight of {depth} rows and {n} columns"),
                    )
                })?;
                let found = if is_conv { found.reversed_axes() } else { found };
                found.iter().copied().collect()
            }
            None => nearest(&matrix, channel_axis, &per_channel, scales.b_bits)?,
        };
        let shared = scales.b.len() == 1;
        Ok(Self {
            codes,
            dims: matrix.shape().to_vec(),
            scales: if shared { vec![per_channel[0]] } else { per_channel },
            outliers,
        })
    }
}

/// The codes of the nearest values, with one scale for each channel.
fn nearest(weight: &ArrayD<f32>, channel_axis: usize, scales: &[f32], bits: Bits) -> Result<Vec<i8>> {
    let quantizer = |&delta: &f32| Ok(Quantizer::Uniform { scale: Scale::new(delta)?, bits });
    let quantizers: Vec<Quantizer> = scales.iter().map(quantizer).collect::<Result<_>>()?;
    Ok(weight.indexed_iter().map(|(at, &w)| quantizers[at[channel_axis]].code(w) as i8).collect())
}
