//! The whole way from a float model to a quantized one, with sensible defaults; and both models on the same images.

use std::path::Path;

use crate::Result;
use crate::calibrate::{
    Calibration, Gradient, Metric, Options, Preset, Run, Search, WeightScales, calibrate,
};
use crate::check::{Comparison, Scope, compare};
use crate::data::{Arrays, Columns, Dataset, Preprocess, Selection, is_array};
use crate::engine::Detector;
use crate::export::{Target, TwinForm, export, pack};
use crate::integer::Runner;
use crate::onnx::{Model, Storage};
use crate::plan::{Plan, plan};
use crate::prepare::{InputValue, Prepared, Task};
use crate::preprocessing::{self, Beside};
use crate::progress::Progress;
use crate::quant::Bits;

/// How a float model is quantized: PTQ4ViT with 8 bits, unless something else is asked for.
///
/// ```
/// use onnx_ptq4vit::options::WeightScales;
/// use onnx_ptq4vit::{Dataset, Prepared, Quantize};
///
/// let model = Prepared::open("fixtures/digits_vit_ts17.onnx")?;
/// let images = Dataset::for_model(&model, "fixtures/digits_calib.npz", 4)?;
/// let quantize = Quantize::new(&model).bits(6, 6).weights(WeightScales::PerChannel);
/// let calibration = quantize.calibrate(&images)?;
/// let quantized = quantize.export(&calibration)?;
/// assert!(quantized.prepared()?.is_quantized());
/// # Ok::<(), onnx_ptq4vit::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Quantize<'m> {
    model: &'m Prepared,
    options: Options,
    bits: [u8; 2],
    exclude: Vec<String>,
    form: TwinForm,
    packed: bool,
    memory: Option<usize>,
}

impl<'m> Quantize<'m> {
    /// [`Preset::Best`] with 8 bits for weights and activations.
    pub fn new(model: &'m Prepared) -> Self {
        let options = Options::new(Preset::Best);
        let target = Target::default();
        let (form, packed) = (target.twin_form(), target.packs());
        Self { model, options, bits: [8, 8], exclude: Vec::new(), form, packed, memory: None }
    }

    /// k of weights and of activations, each 2 to 8; another number is an error of [`run`](Self::run).
    pub fn bits(self, weights: u8, activations: u8) -> Self {
        Self { bits: [weights, activations], ..self }
    }

    /// Whether weights, keys and values have 7 bits at most, which every runtime computes exactly on every x86 CPU.
    pub fn overflow_safe(mut self, safe: bool) -> Self {
        self.options.overflow_safe = safe;
        self
    }

    /// The choices of a preset; sets back all others but the bits.
    pub fn preset(self, preset: Preset) -> Self {
        Self { options: Options::new(preset), ..self }
    }

    /// The distance that the search minimises.
    pub fn metric(mut self, metric: Metric) -> Self {
        self.options.metric = metric;
        self
    }

    /// Where the curvature of [`Metric::Hessian`] comes from.
    pub fn gradient(mut self, gradient: Gradient) -> Self {
        self.options.gradient = gradient;
        self
    }

    /// How many scales a weight has.
    pub fn weights(mut self, scales: WeightScales) -> Self {
        self.options.weights = scales;
        self
    }

    /// Whether values after Softmax, and after GELU, are quantized by twins.
    pub fn twins(mut self, softmax: bool, gelu: bool) -> Self {
        (self.options.softmax_twin, self.options.gelu_twin) = (softmax, gelu);
        self
    }

    /// Whether the ranges of channels are made alike where a normalization can do it (Li et al., arXiv 2212.08254).
    pub fn fold(mut self, channels: bool) -> Self {
        self.options.fold = channels;
        self
    }

    /// Whether weights below 8 bits are rounded one after another (Frantar et al., arXiv 2210.17323).
    pub fn rounding(mut self, in_turn: bool) -> Self {
        self.options.rounding = in_turn;
        self
    }

    /// Whether biases make up for the mean error.
    pub fn bias_correction(mut self, corrected: bool) -> Self {
        self.options.bias = corrected;
        self
    }

    /// Whether outlier channels of linear layers stay in float.
    pub fn outliers(mut self, in_float: bool) -> Self {
        self.options.outliers = in_float;
        self
    }

    /// Chooses the random probes of the gradient.
    pub fn seed(mut self, seed: u64) -> Self {
        self.options.seed = seed;
        self
    }

    /// Leaves the node called `name` in float.
    pub fn exclude(mut self, name: impl Into<String>) -> Self {
        self.exclude.push(name.into());
        self
    }

    /// What runs the file. This chooses how twin products are written, and whether weights are packed.
    pub fn target(self, target: Target) -> Self {
        Self { form: target.twin_form(), packed: target.packs(), ..self }
    }

    /// How the twin products are written.
    pub fn twin_form(self, form: TwinForm) -> Self {
        Self { form, ..self }
    }

    /// Whether weights of fewer than 7 bits are written several to a word; else each takes a byte.
    pub fn packed(self, packed: bool) -> Self {
        Self { packed, ..self }
    }

    /// What calibration may take of the memory, in bytes; 4 GiB if it is not said. The result does not depend on it.
    pub fn memory(self, bytes: usize) -> Self {
        Self { memory: Some(bytes), ..self }
    }

    /// Searches the scales on `images`.
    ///
    /// An error names the fault of the model or of the images.
    pub fn calibrate(&self, images: &Dataset) -> Result<Calibration> {
        self.calibrate_with(images, &())
    }

    /// As [`calibrate`](Self::calibrate), and says how it moves.
    pub fn calibrate_with(&self, images: &Dataset, progress: &dyn Progress) -> Result<Calibration> {
        let [weight_bits, activation_bits] = self.bits;
        let (weight_bits, activation_bits) = (Bits::new(weight_bits)?, Bits::new(activation_bits)?);
        let options = Options { weight_bits, activation_bits, ..self.options };
        let default = Run::default();
        let run = Run { search: Search::Pruned, memory: self.memory.unwrap_or(default.memory), ..default };
        calibrate(self.model, &self.plan()?, images, &options, run, progress)
    }

    /// Writes the scales of `calibration`, which was made for this model, into a copy of the model.
    pub fn export(&self, calibration: &Calibration) -> Result<Quantized> {
        let mut model = export(self.model, &self.plan()?, calibration, self.form)?;
        if self.packed {
            model = pack(model)?;
        }
        Ok(Quantized { model, inputs: self.model.given_inputs() })
    }

    /// [Calibrates](Self::calibrate) and [exports](Self::export).
    pub fn run(&self, images: &Dataset) -> Result<Quantized> {
        self.export(&self.calibrate(images)?)
    }

    fn plan(&self) -> Result<Plan> {
        plan(self.model, &self.exclude)
    }
}

/// A quantized model in memory.
#[derive(Clone, Debug)]
pub struct Quantized {
    model: Model,
    /// The values that the float model was given for its inputs beside the images.
    inputs: Vec<(String, InputValue)>,
}

impl Quantized {
    /// Writes the ONNX file, whole or not at all; weights go to a file beside it if the float model had them there, or
    /// if they are too many for one.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        self.model.write(path.as_ref(), Storage::for_model(&self.model))
    }

    /// The model as [`Prepared::open`] gives it, without a file; its inputs beside the images have the values that the
    /// float model was given.
    pub fn prepared(&self) -> Result<Prepared> {
        let model = Prepared::new(self.model.clone());
        self.inputs.iter().fold(model, |model, (name, value)| model?.with_input(name, value.clone()))
    }
}

impl Dataset {
    /// The images or arrays at `path` (see [`open`](Self::open)), at most `limit`, for the input of `model`. Images are
    /// prepared as at the calibration of a quantized model; else as a file beside the model says, such as
    /// `preprocessor_config.json`; else as timm does it for a ViT of that size ([`Preprocess::timm_vit`]).
    ///
    /// An error if they do not fit, or if `path` holds images and the model has no fixed size.
    pub fn for_model(
        model: &Prepared,
        path: impl AsRef<Path>,
        limit: impl Into<Option<usize>>,
    ) -> Result<Self> {
        let input = model.input()?;
        let (path, selection) = (path.as_ref(), Selection { limit: limit.into(), seed: 0, skip: 0 });
        let preprocess = match is_array(path) {
            true => Preprocess::timm_vit(224),
            false => {
                preprocessing::find(model, preprocessing::recorded(model)?, None, &Beside::Model)?.preprocess
            }
        };
        let several = model.outputs().is_ok_and(|outputs| outputs.task == Task::Multilabel);
        let (name, columns) = (&input.name, &Columns { several, ..Columns::default() });
        let arrays = Arrays { name, arrange: &|array| input.arrange(array, false), columns };
        let images = Self::open_with(path, &preprocess, selection, &arrays)?;
        input.shape_for(images.item_shape())?;
        Ok(images)
    }
}

/// Runs a float model and the one quantized from it on the same images, the latter in integer arithmetic.
pub fn check(float: &Prepared, quantized: &Prepared, images: &Dataset) -> Result<Comparison> {
    let size = images.item_shape();
    let scope = scope(float, quantized, false)?;
    let (float, quantized) = (float.float_engine(size)?, Runner::with_image(quantized, size)?);
    compare(&float, &quantized, images, &scope, &())
}

/// What two models are compared by: how the output is read, the other FLOAT outputs that both can compute, and the boxes among
/// them. Runtimes that have all operators compute all of a model (`all_computed`).
#[doc(hidden)]
pub fn scope(float: &Prepared, quantized: &Prepared, all_computed: bool) -> Result<Scope> {
    let is_computed = |model: &Prepared| all_computed || model.is_computable();
    let has = |model: &Prepared, name: &String| is_computed(model) && model.graph().producer(name).is_some();
    let have = |name: &String| has(float, name) && has(quantized, name);
    let outputs = float.outputs()?;
    let compared = &outputs.compared.0;
    let others = outputs.names.iter().filter(|name| *name != compared && have(name)).cloned().collect();
    let is_known = |detector: &Detector| {
        let floats = [&detector.scores, &detector.boxes];
        floats.into_iter().all(|name| outputs.names.contains(name))
            && floats.into_iter().chain(&detector.classes).all(have)
    };
    let detector = outputs.detector.filter(is_known);
    Ok(Scope { reading: outputs.compared.1, others, detector, ..Scope::default() })
}
