//! Images in, logits out.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ndarray::{Array4, ArrayD, ArrayView4, Axis};
use tract_core::internal::{EvalContext, OpState};
use tract_core::plan::{SimpleState, eval};
use tract_onnx::prelude::*;

use super::lower::{fused_plan, lower};
use super::ops::SiteOp;
use super::read::read;
use super::site::SiteInfo;
use crate::engine::{Arithmetic, Engine, OperatorTime, Tapped};
use crate::onnx::ValueInfoProto;
use crate::prepare::Prepared;
use crate::runtime::{runnable, running};
use crate::{Error, Result};

/// A quantized model on integer kernels, for any number of threads at once.
///
/// Loading packs the weights; what is read of the file is let go. A pass works on as many images as the file fixes,
/// or on one; several passes run side by side, and the parts of one are divided among the threads that are free.
///
/// ```
/// use ndarray::Array4;
/// use onnx_ptq4vit::{Dataset, Engine, Prepared, Quantize, Runner};
/// # let folder = tempfile::tempdir().unwrap();
/// # let path = folder.path().join("vit.int8.onnx");
/// # let model = Prepared::open("fixtures/digits_vit_ts17.onnx")?;
/// # let data = Dataset::for_model(&model, "fixtures/digits_calib.npz", 2)?;
/// # Quantize::new(&model).run(&data)?.write(&path)?;
///
/// let runner = Runner::open(&path)?;
/// let [_, channels, height, width] = runner.input_shape();
/// let images = Array4::<f32>::zeros([5, channels, height, width]);
/// let logits = runner.run(&images.view())?;
/// assert_eq!(logits.shape(), [5, 10]);
/// # Ok::<(), onnx_ptq4vit::Error>(())
/// ```
pub struct Runner {
    plan: Arc<TypedSimplePlan>,
    /// What a pass with taps runs: a node for each site. Made when it is first needed.
    plain: Mutex<Option<Arc<TypedSimplePlan>>>,
    graph: TypedModel,
    sites: Vec<SiteInfo>,
    shape: [usize; 4],
    /// The outputs of the file, and which of them is given.
    outputs: Vec<String>,
    output: usize,
}

const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Runner>();
};

impl Runner {
    /// Reads the emitted file at `path`, which fixes the size of its images.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(&Prepared::open(path)?)
    }

    /// The runner of an emitted file that fixes the size of its images.
    pub fn new(model: &Prepared) -> Result<Self> {
        let [_, image @ ..] = model.input()?.dims;
        let [Some(c), Some(h), Some(w)] = image else {
            return Err(Error::usage(format!(
                "the model leaves the size of its images open ({image:?}): state it"
            )));
        };
        Self::with_image(model, [c, h, w])
    }

    /// The runner for images of `[C, H, W]`; an error if the file fixes another size.
    pub fn with_image(model: &Prepared, image: [usize; 3]) -> Result<Self> {
        let (shape, output) = (model.input()?.shape_for(image)?, model.computed_output()?);
        let sites = read(model.computable())?.sites;
        let mut computable = model.computable_for(shape)?;
        let outputs = &mut computable.proto.graph.get_or_insert_default().output;
        let known = outputs.iter().position(|value| value.name() == output);
        let output = known.unwrap_or_else(|| {
            // Of a model that gives integers alone, the FLOAT value that they are made of.
            outputs.push(ValueInfoProto { name: Some(output), ..Default::default() });
            outputs.len() - 1
        });
        let outputs = outputs.iter().map(|value| value.name().to_string()).collect();
        let graph = lower(&computable, &sites, shape)?;
        let sites: Vec<SiteInfo> = sites.into_iter().map(|site| site.info).collect();
        Ok(Self { plan: fused_plan(&graph)?, plain: Mutex::default(), graph, sites, shape, outputs, output })
    }

    /// The quantized sites, in the order of the graph.
    #[doc(hidden)]
    pub fn sites(&self) -> &[SiteInfo] {
        &self.sites
    }

    fn plain(&self) -> Result<Arc<TypedSimplePlan>> {
        let mut made = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = &*made {
            return Ok(plan.clone());
        }
        Ok(made.insert(runnable(self.graph.clone())?).clone())
    }
}

impl Engine for Runner {
    fn input_shape(&self) -> [usize; 4] {
        self.shape
    }

    fn arithmetic(&self) -> Arithmetic {
        Arithmetic::Integer
    }

    /// The taps are values that enter or leave a site, and outputs of the file.
    fn pass(&self, batch: Array4<f32>, taps: &[&str]) -> Result<Tapped> {
        let input = batch.into_tensor();
        let of_file = |tap: &&str| self.outputs.iter().position(|output| output == tap);
        let asked: Vec<Option<usize>> = taps.iter().map(of_file).collect();
        let wanted: Vec<usize> = asked.iter().flatten().copied().chain([self.output]).collect();
        let mut found: Vec<Option<ArrayD<f32>>> = vec![None; taps.len()];
        let mut outputs = if asked.iter().all(Option::is_some) {
            run_with(&self.plan, &wanted, input, eval)?
        } else {
            run_with(&self.plain()?, &wanted, input, |context, state, node, inputs| {
                let Some(op) = node.op_as::<SiteOp>() else { return eval(context, state, node, inputs) };
                let site = &self.sites[op.sites[0]];
                let entered = inputs.clone();
                let outputs = eval(context, state, node, inputs)?;
                let values = site.inputs.iter().zip(&entered).chain([(&site.output, &outputs[0])]);
                for (name, value) in values {
                    for (found, _) in found.iter_mut().zip(taps).filter(|(_, tap)| *tap == name) {
                        if found.is_none() {
                            *found = Some(plain(value)?);
                        }
                    }
                }
                Ok(outputs)
            })?
        };
        let output = outputs.pop().expect("it is wanted");
        let mut outputs = outputs.into_iter();
        for (found, _) in found.iter_mut().zip(&asked).filter(|(_, asked)| asked.is_some()) {
            *found = outputs.next();
        }
        let value = |(found, tap): (Option<_>, &&str)| {
            found.ok_or_else(|| Error::model(format!("value `{tap}`"), "enters and leaves no quantized site"))
        };
        Ok(Tapped { output, values: found.into_iter().zip(taps).map(value).collect::<Result<_>>()? })
    }

    fn profile(&self, images: &ArrayView4<f32>) -> Result<Vec<OperatorTime>> {
        self.ensure_fits(images)?;
        let mut times: Vec<OperatorTime> = Vec::new();
        for (pass, batch) in images.axis_chunks_iter(Axis(0), self.shape[0]).enumerate() {
            run_with(
                &self.plan,
                &[self.output],
                batch.to_owned().into_tensor(),
                |context, state, node, inputs| {
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
                },
            )?;
        }
        times.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        Ok(times)
    }
}

impl std::fmt::Debug for Runner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner")
            .field("input", &self.shape)
            .field("sites", &self.sites.len())
            .finish_non_exhaustive()
    }
}

/// These outputs of one pass, each node computed by `evaluate`, on a thread of rayon's: from any other, every node
/// that divides its work would wait for one.
fn run_with(
    plan: &Arc<TypedSimplePlan>,
    outputs: &[usize],
    input: Tensor,
    evaluate: impl FnMut(
        &EvalContext,
        Option<&mut (dyn OpState + 'static)>,
        &TypedNode,
        TVec<TValue>,
    ) -> TractResult<TVec<TValue>>
    + Send,
) -> Result<Vec<ArrayD<f32>>> {
    let run = || {
        let found = SimpleState::new(plan)?.run_plan_with_eval(tvec!(input.into_tvalue()), evaluate)?;
        outputs.iter().map(|&output| plain(&found[output])).collect()
    };
    rayon::scope(|_| running(run))
}

fn operator_name(node: &TypedNode) -> String {
    match node.op_as::<SiteOp>() {
        Some(op) => format!("{op}"),
        None => node.op().name().into_owned(),
    }
}

fn plain(value: &TValue) -> TractResult<ArrayD<f32>> {
    Ok(value.cast_to::<f32>()?.to_plain_array_view::<f32>()?.to_owned())
}
