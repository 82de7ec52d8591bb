//! Images in, logits out.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use ndarray::{ArrayD, ArrayView4, Axis, concatenate};
use rayon::prelude::*;
use serde::Serialize;
use tract_core::internal::{EvalContext, OpState};
use tract_core::plan::{SimpleState, eval};
use tract_onnx::prelude::*;

use super::lower::{fused_plan, input_dims, lower, plain_plan};
use super::ops::SiteOp;
use super::read::read;
use super::site::SiteInfo;
use crate::error::guarded;
use crate::normalize::Normalized;
use crate::onnx::Model;
use crate::{Error, Result};

/// A quantized model on integer kernels, for any number of threads at once.
///
/// Loading packs the weights; what is read of the file is let go. A pass works on as many images as the file fixes,
/// or on one; several passes run side by side, and the parts of one are divided among the threads that are free.
///
/// ```
/// use std::path::Path;
///
/// use ndarray::Array4;
/// use onnx_ptq4vit::integer::Runner;
/// # use onnx_ptq4vit::calibrate::{Method, Options, Run, calibrate};
/// # use onnx_ptq4vit::data::{Dataset, Preprocess, Selection};
/// # use onnx_ptq4vit::export::{TwinForm, export};
/// # use onnx_ptq4vit::onnx::{Graph, Model, Storage};
/// # let model = Model::read(Path::new("fixtures/digits_vit_ts17.onnx"))?;
/// # let plan = onnx_ptq4vit::plan::plan(&Graph::new(&model)?, &[])?;
/// # let calib = Path::new("fixtures/digits_calib.npz");
/// # let data = Dataset::open(calib, &Preprocess::timm_vit(8), Selection { limit: Some(2), seed: 0 })?;
/// # let scales = calibrate(&model, &plan, &data, &Options::new(Method::Base), Run::default(), &())?;
/// # let quantized = export(&model, &plan, &scales, TwinForm::Function)?;
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("vit.int8.onnx");
/// # quantized.write(&path, Storage::for_model(&quantized))?;
///
/// let runner = Runner::load(&path)?;
/// let [_, channels, height, width] = runner.input_shape();
/// let images = Array4::<f32>::zeros([5, channels, height, width]);
/// let logits = runner.run(&images.view())?;
/// assert_eq!(logits.shape(), [5, 10]);
/// # Ok::<(), onnx_ptq4vit::Error>(())
/// ```
pub struct Runner {
    plan: Arc<TypedSimplePlan>,
    /// What [`run_sites`](Self::run_sites) runs: a node for each site. Made when it is first needed.
    plain: OnceLock<Arc<TypedSimplePlan>>,
    graph: TypedModel,
    sites: Vec<SiteInfo>,
    shape: [usize; 4],
}

/// What entered a site in float, in the order of [`SiteInfo::inputs`], and what came out.
#[derive(Clone, Debug, PartialEq)]
pub struct SiteValues {
    /// The values of [`SiteInfo::inputs`].
    pub inputs: Vec<ArrayD<f32>>,
    /// The value of [`SiteInfo::output`].
    pub output: ArrayD<f32>,
}

/// What the nodes of one operator took in [`Runner::profile`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OperatorTime {
    /// The operator; of a site, what it computes.
    pub operator: String,
    /// Nodes of a pass.
    pub nodes: usize,
    /// Wall-clock time, all passes together.
    pub seconds: f64,
}

const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Runner>();
};

impl Runner {
    /// Reads the emitted file at `path`.
    pub fn load(path: &Path) -> Result<Self> {
        Self::new(&Model::read(path)?)
    }

    /// The runner of an emitted file that fixes the size of its images.
    pub fn new(model: &Model) -> Result<Self> {
        let [_, image @ ..] = input_dims(model)?;
        let [Some(c), Some(h), Some(w)] = image else {
            return Err(Error::usage(format!(
                "the model leaves the size of its images open ({image:?}): state it"
            )));
        };
        Self::with_image(model, [c, h, w])
    }

    /// The runner for images of `[C, H, W]`; an error if the file fixes another size.
    pub fn with_image(model: &Model, image: [usize; 3]) -> Result<Self> {
        let model = &Normalized::new(model.clone())?.model;
        let [batch, dims @ ..] = input_dims(model)?;
        if dims.iter().zip(image).any(|(dim, size)| dim.is_some_and(|dim| dim != size)) {
            return Err(Error::data("images", format!("are {image:?} (C, H, W), the model takes {dims:?}")));
        }
        let shape = [batch.unwrap_or(1), image[0], image[1], image[2]];
        let sites = read(model)?;
        let graph = lower(model, &sites, shape)?;
        let sites: Vec<SiteInfo> = sites.into_iter().map(|site| site.info).collect();
        Ok(Self { plan: fused_plan(&graph, &sites)?, plain: OnceLock::new(), graph, sites, shape })
    }

    /// `[N, C, H, W]` of one pass: N is the batch that the file fixes, or 1.
    pub fn input_shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The quantized sites, in the order of the graph.
    pub fn sites(&self) -> &[SiteInfo] {
        &self.sites
    }

    /// The model's first output for `images`, one after the other; their number is a multiple of the batch.
    pub fn run(&self, images: &ArrayView4<f32>) -> Result<ArrayD<f32>> {
        join(&self.each(images, |input| self.pass(input))?)
    }

    /// As [`run`](Self::run), with what entered and left each of the [`sites`](Self::sites) on the way.
    pub fn run_sites(&self, images: &ArrayView4<f32>) -> Result<(ArrayD<f32>, Vec<SiteValues>)> {
        let plan = if let Some(plan) = self.plain.get() {
            plan.clone()
        } else {
            let plan = plain_plan(&self.graph, &self.sites)?;
            self.plain.get_or_init(|| plan).clone()
        };
        let mut outputs = Vec::new();
        let mut passes = vec![Vec::new(); self.sites.len()];
        for (output, values) in self.each(images, |input| self.recording_pass(&plan, input))? {
            outputs.push(output);
            passes.iter_mut().zip(values).for_each(|(passes, values)| passes.push(values));
        }
        Ok((join(&outputs)?, passes.into_iter().map(join_values).collect::<Result<_>>()?))
    }

    /// Where the time of [`run`](Self::run) goes, one pass after the other: the most expensive operator first.
    pub fn profile(&self, images: &ArrayView4<f32>) -> Result<Vec<OperatorTime>> {
        let mut times: Vec<OperatorTime> = Vec::new();
        for (pass, input) in self.batches(images)?.into_iter().enumerate() {
            run_with(&self.plan, input, |context, state, node, inputs| {
                let start = Instant::now();
                let outputs = eval(context, state, node, inputs);
                let seconds = start.elapsed().as_secs_f64();
                let operator = operator_name(node);
                match times.iter_mut().find(|time| time.operator == operator) {
                    Some(time) => {
                        time.nodes += usize::from(pass == 0);
                        time.seconds += seconds;
                    }
                    None => times.push(OperatorTime { operator, nodes: 1, seconds }),
                }
                outputs
            })?;
        }
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }

    /// `run` on each batch of `images`, in parallel; the results are in the order of the images.
    fn each<T: Send>(
        &self,
        images: &ArrayView4<f32>,
        run: impl Fn(Tensor) -> Result<T> + Sync,
    ) -> Result<Vec<T>> {
        self.batches(images)?.into_par_iter().map(&run).collect()
    }

    fn batches(&self, images: &ArrayView4<f32>) -> Result<Vec<Tensor>> {
        let (count, batch) = (images.len_of(Axis(0)), self.shape[0]);
        if images.shape()[1..] != self.shape[1..] || count == 0 || !count.is_multiple_of(batch) {
            let expected = format!("expected a multiple of {batch} images of {:?}", &self.shape[1..]);
            return Err(Error::data("images", format!("shape {:?}: {expected}", images.shape())));
        }
        Ok(images.axis_chunks_iter(Axis(0), batch).map(|batch| batch.to_owned().into_tensor()).collect())
    }

    fn pass(&self, input: Tensor) -> Result<ArrayD<f32>> {
        run_with(&self.plan, input, eval)
    }

    fn recording_pass(
        &self,
        plan: &Arc<TypedSimplePlan>,
        input: Tensor,
    ) -> Result<(ArrayD<f32>, Vec<SiteValues>)> {
        let mut recorded: Vec<Option<SiteValues>> = vec![None; self.sites.len()];
        let output = run_with(plan, input, |context, state, node, inputs| {
            let Some(op) = node.op_as::<SiteOp>() else { return eval(context, state, node, inputs) };
            let entered = inputs.clone();
            let outputs = eval(context, state, node, inputs)?;
            recorded[op.sites[0]] = Some(SiteValues {
                inputs: entered.iter().map(plain).collect::<TractResult<_>>()?,
                output: plain(&outputs[0])?,
            });
            Ok(outputs)
        })?;
        let values = recorded.into_iter().map(|values| values.expect("every site is in the plan once"));
        Ok((output, values.collect()))
    }
}

/// The first output of one pass, each node computed by `evaluate`, on a thread of rayon's: from any other, every node
/// that divides its work would wait for one.
fn run_with(
    plan: &Arc<TypedSimplePlan>,
    input: Tensor,
    evaluate: impl FnMut(
        &EvalContext,
        Option<&mut (dyn OpState + 'static)>,
        &TypedNode,
        TVec<TValue>,
    ) -> TractResult<TVec<TValue>>
    + Send,
) -> Result<ArrayD<f32>> {
    let run = || {
        let outputs = SimpleState::new(plan)?.run_plan_with_eval(tvec!(input.into_tvalue()), evaluate)?;
        plain(&outputs[0])
    };
    let output = rayon::scope(|_| guarded(run));
    output.map_err(|panic| Error::model("running the model", panic))?.map_err(|e: TractError| failed(&e))
}

fn operator_name(node: &TypedNode) -> String {
    match node.op_as::<SiteOp>() {
        Some(op) => format!("{op}"),
        None => node.op().name().into_owned(),
    }
}

fn failed(error: &TractError) -> Error {
    Error::model("running the model", format!("{error:#}"))
}

fn plain(value: &TValue) -> TractResult<ArrayD<f32>> {
    Ok(value.to_plain_array_view::<f32>()?.to_owned())
}

/// The passes one after the other along axis 0.
fn join(passes: &[ArrayD<f32>]) -> Result<ArrayD<f32>> {
    let views: Vec<_> = passes.iter().map(|pass| pass.view()).collect();
    concatenate(Axis(0), &views)
        .map_err(|e| Error::unsupported("passes", format!("cannot be joined along axis 0: {e}")))
}

fn join_values(passes: Vec<SiteValues>) -> Result<SiteValues> {
    let operands = passes.first().map_or(0, |pass| pass.inputs.len());
    let mut inputs: Vec<Vec<ArrayD<f32>>> = vec![Vec::new(); operands];
    let mut outputs = Vec::new();
    for pass in passes {
        inputs.iter_mut().zip(pass.inputs).for_each(|(inputs, input)| inputs.push(input));
        outputs.push(pass.output);
    }
    Ok(SiteValues {
        inputs: inputs.into_iter().map(|passes| join(&passes)).collect::<Result<_>>()?,
        output: join(&outputs)?,
    })
}
