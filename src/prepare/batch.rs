//! A batch that a model computes with although its file leaves the axis open: the exporter wrote it into the Reshapes.

use std::collections::BTreeSet;

use super::expansion::int_constant;
use super::functions;
use super::interface::InputSpec;
use crate::onnx::Graph;
use crate::runtime::shapes_agree;

/// Larger batches are not looked for.
const LARGEST: i64 = 64;

/// More axes than any tensor has.
const MAX_RANK: usize = 64;

/// The only batch with which the shapes of `graph` agree; `None` if they agree with one image, or with no batch that its
/// Reshapes name.
pub(super) fn written_out(graph: &Graph, input: &InputSpec) -> Option<usize> {
    let candidates = candidates(graph);
    if input.dims[0].is_some() || candidates.is_empty() {
        return None;
    }
    let [channels, height, width] = input.typical_image();
    // A twin matmul of a quantized file is a call of a function, of whose result nothing is known.
    let mut model = graph.model().clone();
    if let Ok(Some(edits)) = functions::inline_all(&model) {
        edits.apply(&mut model).ok()?;
    }
    let agrees = |&batch: &usize| shapes_agree(&model, [batch, channels, height, width]);
    if agrees(&1) { None } else { candidates.into_iter().find(agrees) }
}

/// The divisors of the first dims to which values are reshaped.
fn candidates(graph: &Graph) -> BTreeSet<usize> {
    let reshapes = graph.nodes().filter(|(_, node)| node.is_op("Reshape"));
    let first =
        reshapes.filter_map(|(_, node)| int_constant(graph, node.operand(1)?, MAX_RANK)?.first().copied());
    let divisors = first.flat_map(|dim| (2..=LARGEST.min(dim)).filter(move |&batch| dim % batch == 0));
    divisors.filter_map(|batch| usize::try_from(batch).ok()).collect()
}
