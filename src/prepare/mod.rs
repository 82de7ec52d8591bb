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
mod einsum;
mod expansion;
mod functions;
mod gemm;
mod interface;
mod names;
mod pointwise;
mod sequences;
mod shapes;
#[cfg(test)]
mod testing;
mod tidy;

use std::path::Path;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

pub(crate) use cut::Cut;
pub use interface::{InputSpec, Outputs};

use crate::onnx::{DataType, Edits, Graph, Limits, Model};
use crate::runtime::{Facts, FloatEngine, infer};
use crate::{Error, Result};

/// Rewrites a model; `None` for one that does not need it (any more).
type Step = fn(&Graph) -> Result<Option<Edits>>;

/// In this order. Constants are folded twice: a `BatchNormalization` may take and make one.
const STEPS: &[Step] = &[
    |graph| Ok(names::distinct(graph)),
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
        Self::new(model).map_err(|error| error.in_file(path.as_ref()))
    }

    /// Normalizes a model in memory. A model that needs nothing of it stays as it is.
    #[doc(hidden)]
    pub fn new(mut model: Model) -> Result<Self> {
        if let Some(edits) = functions::inline(&model)? {
            edits.apply(&mut model)?;
        }
        border::drop_constant_inputs(&mut model);
        let border = border::widen(&mut model)?;
        let mut graph = Graph::new(model)?;
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
            sha256: OnceLock::new(),
            facts: OnceLock::new(),
            cut,
            batch: OnceLock::new(),
        })
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

    /// The part of the model that can be computed here: all of it, in most cases.
    pub(crate) fn computable(&self) -> &Graph {
        self.cut.as_ref().map_or(&self.graph, |cut| &cut.graph)
    }

    /// The FLOAT output that is compared; an error if it cannot be computed here.
    pub(crate) fn computed_output(&self) -> Result<String> {
        let output = self.outputs()?.names.swap_remove(0);
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

    /// What the model takes; an error unless it is one tensor of four axes.
    pub fn input(&self) -> Result<InputSpec> {
        let input = InputSpec::of(&self.graph)?;
        let written_out = *self.batch.get_or_init(|| batch::written_out(self.computable(), &input));
        Ok(InputSpec { written_out, ..input })
    }

    /// What the model gives; an error if it has no FLOAT output.
    pub fn outputs(&self) -> Result<Outputs> {
        Outputs::of(&self.graph)
    }

    /// The float model, ready to run on images of `[C, H, W]`; an error if the file fixes another size.
    pub fn float_engine(&self, image: [usize; 3]) -> Result<FloatEngine> {
        let shape = self.input()?.shape_for(image)?;
        FloatEngine::new(self.computable().model().clone(), self.computed_output()?, shape)
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

    /// Whether some node computes on integer codes, or makes or reads them.
    pub fn is_quantized(&self) -> bool {
        self.graph.quantized_node().is_some()
    }

    /// SHA-256 of the normalized model as this library encodes it, in hexadecimal.
    pub(crate) fn sha256(&self) -> &str {
        self.sha256.get_or_init(|| hex_digest(&self.model().encode()))
    }

    /// Gives a model made from this one the inputs and outputs of the file: a Cast behind each input and before each
    /// output that was not FLOAT.
    #[doc(hidden)]
    pub fn restore_border(&self, model: &mut Model) -> Result<()> {
        border::narrow(model, &self.border)
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn hex_digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
