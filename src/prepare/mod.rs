//! A model as every later stage takes it: computing in f32, weights constant, attention in the open, indexed.
//!
//! What was changed on the way in and shows from outside, the types of inputs and outputs, is put back on the way out.

mod arithmetic;
mod attention;
mod batch;
mod batch_norm;
mod border;
mod branches;
mod constants;
mod contrib;
mod cut;
mod detector;
mod einsum;
mod entry;
mod expansion;
mod extra;
mod functions;
mod gemm;
mod interface;
mod names;
mod outputs;
mod pixels;
mod pointwise;
mod sequences;
mod shapes;
#[cfg(test)]
mod testing;
mod tidy;

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use entry::Entry;

pub(crate) use cut::Cut;
pub use entry::Layout;
pub use extra::{Extra, InputValue};
pub use interface::InputSpec;
pub use outputs::{Loss, Outputs, Task};
pub use pixels::{Affine, Pixels};

use crate::onnx::{DataType, Edits, Graph, Limits, Model, TensorProto, packing};
use crate::runtime::{Facts, FloatEngine, infer};
use crate::{Error, Result};

/// Rewrites a model; `None` for one that does not need it (any more).
type Step = fn(&Graph) -> Result<Option<Edits>>;

/// In this order. Constants are folded twice: a `BatchNormalization` may take and make one.
const STEPS: &[Step] = &[
    |graph| Ok(names::distinct(graph)),
    packing::unpack,
    |graph| Ok(branches::take(graph)),
    |graph| Ok(contrib::expand(graph)),
    |graph| Ok(einsum::expand(graph)),
    |graph| Ok(sequences::unpack(graph)),
    |graph| Ok(tidy::tidy(graph)),
    constants::fold,
    |graph| Ok(batch_norm::fold(graph)),
    |graph| Ok(gemm::split(graph)),
    constants::fold,
    attention::expand,
    |graph| Ok(pointwise::as_products(graph)),
];

/// A pass of a step may show it more to do: branches in branches, one attention after another.
const MOST_PASSES: usize = 256;

/// A model that is ready for every stage: normalized and indexed.
#[derive(Clone, Debug)]
pub struct Prepared {
    graph: Graph,
    /// The inputs and outputs that were FLOAT16 or BFLOAT16, by name.
    border: Vec<(String, DataType)>,
    /// How the file takes its images; `None` if it takes none.
    entry: Option<Entry>,
    /// The inputs beside the images.
    extra: Vec<Extra>,
    /// What the user says that the model is for.
    task: Option<Task>,
    /// Where the file is.
    path: Option<PathBuf>,
    sha256: OnceLock<String>,
    facts: OnceLock<Facts>,
    cut: Option<Cut>,
    /// The batch that is written into the Reshapes of a file that leaves it open.
    batch: OnceLock<Option<usize>>,
}

impl Prepared {
    /// Reads the ONNX file at `path`, with its external data, and normalizes it: FLOAT16 and BFLOAT16 become FLOAT, parts
    /// and other layouts of constants become constants, and what was written as one (functions, fused operators, sequences,
    /// `BatchNormalization`, `Attention` of opset 23) becomes the operators that it stands for.
    ///
    /// An error says what is wrong with the file, or which node is of a kind that no vision transformer has
    /// ([`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported)).
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_within(path, Limits::default())
    }

    /// As [`open`](Self::open), for a model that may take so much of the machine.
    pub fn open_within(path: impl AsRef<Path>, limits: Limits) -> Result<Self> {
        let mut model = Model::read(path.as_ref())?;
        model.limits = limits;
        let path = path.as_ref();
        let prepared = Self::new(model).map_err(|error| error.in_file(path))?;
        Ok(Self { path: Some(path.to_path_buf()), ..prepared })
    }

    /// Normalizes a model in memory. A model that needs nothing of it stays as it is.
    #[doc(hidden)]
    pub fn new(mut model: Model) -> Result<Self> {
        if let Some(edits) = functions::inline(&model)? {
            edits.apply(&mut model)?;
        }
        border::drop_constant_inputs(&mut model);
        let border = border::widen(&mut model)?;
        let entry = Entry::open(&mut model)?;
        let mut graph = Graph::new(model)?;
        let extra = if entry.is_some() { Extra::of(&graph) } else { Vec::new() };
        if !extra.is_empty() {
            let mut model = graph.into_model();
            // What has no value is told when it is needed.
            model.bound = bound(&extra, &model, None).unwrap_or_default();
            graph = Graph::new(model)?;
        }
        for step in STEPS {
            for _ in 0..MOST_PASSES {
                let Some(edits) = step(&graph)? else { break };
                let mut model = graph.into_model();
                edits.apply(&mut model)?;
                graph = Graph::new(model)?;
            }
        }
        let cut = Cut::of(&graph, InputSpec::dims_of(&graph))?;
        Ok(Self {
            graph,
            border,
            entry,
            extra,
            task: None,
            path: None,
            sha256: OnceLock::new(),
            facts: OnceLock::new(),
            cut,
            batch: OnceLock::new(),
        })
    }

    /// Gives an input beside the images the value that it has in every run; an error if there is no such input, or the value
    /// does not fit it.
    pub fn with_input(mut self, name: &str, value: InputValue) -> Result<Self> {
        let Some(at) = self.extra.iter().position(|extra| extra.name() == name) else {
            let others: Vec<String> = self.extra.iter().map(|extra| format!("`{}`", extra.name())).collect();
            let others = if others.is_empty() { "none".into() } else { others.join(", ") };
            let why = format!("the model has no input `{name}` beside its images; it has {others}");
            return Err(Error::usage(why));
        };
        self.extra[at] = self.extra[at].clone().with(value);
        let mut model = self.graph.into_model();
        model.bound = bound(&self.extra, &model, None)?;
        let graph = Graph::new(model)?;
        let cut = Cut::of(&graph, InputSpec::dims_of(&graph))?;
        Ok(Self { graph, cut, facts: OnceLock::new(), batch: OnceLock::new(), ..self })
    }

    /// Says what the model is for, where its outputs do not tell.
    #[must_use]
    pub fn with_task(self, task: Task) -> Self {
        Self { task: Some(task), ..self }
    }

    /// The values that were [given](Self::with_input), by name.
    pub(crate) fn given_inputs(&self) -> Vec<(String, InputValue)> {
        let given =
            self.extra.iter().filter_map(|extra| Some((extra.name().to_string(), extra.given()?.clone())));
        given.collect()
    }

    /// The inputs beside the images.
    pub fn extra_inputs(&self) -> &[Extra] {
        &self.extra
    }

    /// The normalized model and its index.
    #[doc(hidden)]
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// What lies before and behind the operators that cannot be computed here; `None` if there are none.
    pub(crate) fn cut(&self) -> Option<&Cut> {
        self.cut.as_ref()
    }

    /// Whether `value` is of FLOAT, and made by a node that can be computed here.
    pub fn computes_float(&self, value: &str) -> bool {
        let graph = self.computable();
        let is_float = match graph.data_type(value) {
            Some(known) => known == DataType::Float,
            None => self.facts().is_float(value),
        };
        is_float && graph.producer(value).is_some()
    }

    /// Whether all of the model can be computed here.
    pub fn is_computable(&self) -> bool {
        self.cut.is_none()
    }

    /// The part of the model that can be computed here: all of it, in most cases.
    pub(crate) fn computable(&self) -> &Graph {
        self.cut.as_ref().map_or(&self.graph, |cut| &cut.graph)
    }

    /// The FLOAT output that is compared; an error if it cannot be computed here.
    pub(crate) fn computed_output(&self) -> Result<String> {
        let (output, _) = self.outputs()?.compared;
        let cut = self.cut.as_ref();
        match cut.and_then(|cut| cut.before(self.graph.producer(&output)?)) {
            None => Ok(output),
            Some(id) => Err(Error::unsupported(
                self.graph.node(id).label(),
                format!("output `{output}` depends on it, and it cannot be computed here; ONNX Runtime can"),
            )),
        }
    }

    /// The normalized model.
    #[doc(hidden)]
    pub fn model(&self) -> &Model {
        self.graph.model()
    }

    /// The images that the model takes; an error if none of its inputs is a tensor of images.
    pub fn input(&self) -> Result<InputSpec> {
        let input = InputSpec::of(&self.graph, self.entry.as_ref())?;
        let written_out = *self.batch.get_or_init(|| batch::written_out(self.computable(), &input));
        Ok(InputSpec { written_out, ..input })
    }

    /// What the model gives; an error if no output is made of a FLOAT value.
    pub fn outputs(&self) -> Result<Outputs> {
        Outputs::of(&self.graph, &|| self.facts().clone(), self.task)
    }

    /// The computable part for images of `shape`, `[N, C, H, W]`: the inputs beside them fit that.
    pub(crate) fn computable_for(&self, shape: [usize; 4]) -> Result<Model> {
        let mut model = self.computable().model().clone();
        model.bound = self.extra_values(shape)?;
        Ok(model)
    }

    /// The values of the inputs beside the images, for images of `shape`.
    pub(crate) fn extra_values(&self, shape: [usize; 4]) -> Result<Vec<TensorProto>> {
        bound(&self.extra, self.model(), Some(shape))
    }

    /// The float model, ready to run on images of `[C, H, W]`; an error if the file fixes another size.
    pub fn float_engine(&self, image: [usize; 3]) -> Result<FloatEngine> {
        let shape = self.input()?.shape_for(image)?;
        FloatEngine::new(self.computable_for(shape)?, self.computed_output()?, shape)
    }

    /// What can be told of the values without running the model.
    pub(crate) fn facts(&self) -> &Facts {
        match &self.cut {
            Some(cut) => cut.facts(),
            None => self.facts.get_or_init(|| {
                let [batch, channels, height, width] = InputSpec::dims_of(&self.graph);
                let batch = batch.or_else(|| self.input().ok()?.written_out);
                infer(self.model(), [batch, channels, height, width])
            }),
        }
    }

    /// Where its file is; `None` for a model in memory.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    /// The entry `key` of the file's metadata.
    pub(crate) fn metadata(&self, key: &str) -> Option<&str> {
        let entries = &self.model().proto.metadata_props;
        entries.iter().find(|entry| entry.key.as_deref() == Some(key))?.value.as_deref()
    }

    /// Whether some node computes on integer codes, or makes or reads them.
    pub fn is_quantized(&self) -> bool {
        self.graph.quantized_node().is_some()
    }

    /// SHA-256 of the normalized model as this library encodes it, in hexadecimal.
    pub fn sha256(&self) -> &str {
        self.sha256.get_or_init(|| hex_digest(&self.model().encode()))
    }

    /// Gives a model made from this one the inputs and outputs of the file: a Cast behind each input and before each
    /// output that was not FLOAT.
    #[doc(hidden)]
    pub fn restore_border(&self, model: &mut Model) -> Result<()> {
        if let Some(entry) = &self.entry {
            entry.close(model)?;
        }
        border::narrow(model, &self.border)
    }
}

/// The values of the inputs beside the images, for images of `shape`, or of a typical one.
fn bound(extra: &[Extra], model: &Model, shape: Option<[usize; 4]>) -> Result<Vec<TensorProto>> {
    const TYPICAL: [usize; 4] = [1, 3, 224, 224];
    let Some(images) = model.graph().input.first() else { return Ok(Vec::new()) };
    let dims = entry::dims(images).unwrap_or_default();
    let known = |axis: usize| dims.get(axis).copied().flatten().unwrap_or(TYPICAL[axis]);
    let shape = shape.unwrap_or_else(|| [0, 1, 2, 3].map(known));
    extra.iter().map(|extra| extra.tensor(images, shape)).collect()
}

/// SHA-256 in hexadecimal.
pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
