//! Weights that an exporter left as a part or another layout of a constant, such as the thirds of a fused projection, or
//! as something computed from constants.

use std::collections::HashMap;

use ndarray::{ArrayD, Axis, Slice};

use super::arithmetic;
use crate::onnx::{Edits, Graph, NodeProto, tensor};
use crate::{Error, Result};

/// What is computed so far, by name.
type Known = HashMap<String, Folded>;

/// A value that depends on constants alone.
struct Folded {
    array: ArrayD<f32>,
    /// Whether its elements are those of a constant, moved; else they were computed.
    moved: bool,
}

/// Operators whose operands are worth being constants even if that takes arithmetic.
const CONSUMERS: &[&str] = &["MatMul", "Gemm", "Conv", "Add", "LayerNormalization"];

/// The edits that put a constant in the place of whatever moves elements of float constants, and of what is computed from
/// them if a matrix product or its bias takes it; `None` if there is nothing of that.
pub(super) fn fold(graph: &Graph) -> Result<Option<Edits>> {
    let mut known = Known::new();
    let mut room = graph.model().limits.tensor_bytes / size_of::<f32>();
    for (_, node) in graph.nodes() {
        if let Some(values) = moved(graph, node, &known)? {
            known.extend(node.output.iter().cloned().zip(values));
        } else if let Some(array) = computed(graph, node, &known, room)? {
            room = room.saturating_sub(array.len());
            known.insert(node.output[0].clone(), Folded { array, moved: false });
        }
    }
    let mut edits = Edits::new(graph.model());
    let mut names: HashMap<&str, String> = HashMap::new();
    for (id, node) in graph.nodes().filter(|(_, node)| !made(&known, node)) {
        for (index, value) in node.input.iter().enumerate() {
            let Some(Folded { array, moved }) = known.get(value) else { continue };
            if !moved && !CONSUMERS.iter().any(|op| node.is_op(op)) {
                continue;
            }
            let name = names.entry(value).or_insert_with(|| {
                let name = edits.fresh(&format!("{value}_folded"));
                let values: Vec<f32> = array.iter().copied().collect();
                edits.add_initializer(tensor::from_f32(&name, array.shape(), &values));
                name
            });
            edits.set_input(id, index, name.clone());
        }
    }
    Ok((!names.is_empty()).then_some(edits))
}

fn made(known: &Known, node: &NodeProto) -> bool {
    node.output.first().is_some_and(|output| known.contains_key(output))
}

/// The float constant `value`, or what was computed of it; `None` if it is none, or of another type.
fn float(graph: &Graph, value: &str, known: &Known) -> Result<Option<ArrayD<f32>>> {
    if let Some(folded) = known.get(value) {
        return Ok(Some(folded.array.clone()));
    }
    let Some(constant) = graph.constant(value) else { return Ok(None) };
    let Ok(values) = tensor::f32s(constant) else { return Ok(None) };
    let array = ArrayD::from_shape_vec(tensor::shape(constant), values);
    array.map(Some).map_err(|e| Error::model(format!("tensor `{value}`"), e))
}

/// The result of `node`, if it is computed from float constants.
fn computed(graph: &Graph, node: &NodeProto, known: &Known, most: usize) -> Result<Option<ArrayD<f32>>> {
    let [_] = node.output[..] else { return Ok(None) };
    let Some(count) = arithmetic::operands(node).filter(|_| node.is_standard()) else {
        return Ok(None);
    };
    let Some(inputs) = node.input.get(..count) else { return Ok(None) };
    let is_constant = |value: &String| known.contains_key(value) || graph.constant(value).is_some();
    if !inputs.iter().all(is_constant) {
        return Ok(None);
    }
    let arrays = inputs.iter().map(|value| float(graph, value, known)).collect::<Result<Option<Vec<_>>>>()?;
    let Some(arrays) = arrays.filter(|arrays| !arrays.is_empty()) else { return Ok(None) };
    let views: Vec<_> = arrays.iter().map(|array| array.view()).collect();
    Ok(arithmetic::compute(graph, node, &views, most))
}

/// The outputs of `node`, if it moves the elements of one constant.
fn moved(graph: &Graph, node: &NodeProto, known: &Known) -> Result<Option<Vec<Folded>>> {
    type Move = fn(ArrayD<f32>, &NodeProto, &[Option<Vec<i64>>]) -> Option<Vec<ArrayD<f32>>>;
    let how: Move = match node.op_type() {
        "Transpose" => |x, node, _| transpose(x, node),
        "Reshape" => |x, _, given| reshape(&x, given),
        "Squeeze" => |x, _, given| squeeze(x, given),
        "Unsqueeze" => |x, _, given| unsqueeze(x, given),
        "Split" => |x, node, given| split(&x, node, given),
        "Slice" => |x, _, given| slice(x, given),
        _ => return Ok(None),
    };
    let Some((data, rest)) = node.input.split_first().filter(|_| node.is_standard()) else {
        return Ok(None);
    };
    if !known.contains_key(data) && graph.constant(data).is_none() {
        return Ok(None);
    }
    let ints = |value: &String| graph.constant(value).and_then(|constant| tensor::i64s(constant).ok());
    if rest.iter().any(|value| !value.is_empty() && ints(value).is_none()) {
        return Ok(None);
    }
    let given: Vec<Option<Vec<i64>>> = rest.iter().map(ints).collect();
    let Some(array) = float(graph, data, known)? else { return Ok(None) };
    let outputs = how(array, node, &given).filter(|outputs| outputs.len() == node.output.len());
    let moved = known.get(data).is_none_or(|folded| folded.moved);
    Ok(outputs.map(|outputs| outputs.into_iter().map(|array| Folded { array, moved }).collect()))
}

fn transpose(x: ArrayD<f32>, node: &NodeProto) -> Option<Vec<ArrayD<f32>>> {
    let rank = x.ndim();
    let order: Vec<usize> = match node.attr_ints("perm") {
        Some(perm) => perm.iter().map(|&axis| usize::try_from(axis).ok()).collect::<Option<_>>()?,
        None => (0..rank).rev().collect(),
    };
    let mut sorted = order.clone();
    sorted.sort_unstable();
    sorted.into_iter().eq(0..rank).then(|| vec![x.permuted_axes(order)])
}

fn reshape(x: &ArrayD<f32>, given: &[Option<Vec<i64>>]) -> Option<Vec<ArrayD<f32>>> {
    let wanted = given.first()?.as_ref()?;
    let mut shape: Vec<usize> = Vec::new();
    for (axis, &dim) in wanted.iter().enumerate() {
        shape.push(match dim {
            0 => *x.shape().get(axis)?,
            -1 => 1,
            dim => usize::try_from(dim).ok()?,
        });
    }
    if let Some(open) = wanted.iter().position(|&dim| dim == -1) {
        let others = shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim))?;
        shape[open] = x.len().checked_div(others)?;
    }
    Some(vec![x.as_standard_layout().into_owned().into_shape_with_order(shape).ok()?])
}

fn squeeze(mut x: ArrayD<f32>, given: &[Option<Vec<i64>>]) -> Option<Vec<ArrayD<f32>>> {
    let mut axes = match given.first() {
        Some(Some(axes)) => axes.iter().map(|&axis| index(axis, x.ndim())).collect::<Option<Vec<_>>>()?,
        _ => (0..x.ndim()).filter(|&axis| x.shape()[axis] == 1).collect(),
    };
    axes.sort_unstable();
    axes.dedup();
    for axis in axes.into_iter().rev() {
        if x.shape()[axis] != 1 {
            return None;
        }
        x = x.remove_axis(Axis(axis));
    }
    Some(vec![x])
}

fn unsqueeze(mut x: ArrayD<f32>, given: &[Option<Vec<i64>>]) -> Option<Vec<ArrayD<f32>>> {
    let axes = given.first()?.as_ref()?;
    let rank = x.ndim() + axes.len();
    let mut axes = axes.iter().map(|&axis| index(axis, rank)).collect::<Option<Vec<_>>>()?;
    axes.sort_unstable();
    for axis in axes {
        if axis > x.ndim() {
            return None;
        }
        x = x.insert_axis(Axis(axis));
    }
    Some(vec![x])
}

fn split(x: &ArrayD<f32>, node: &NodeProto, given: &[Option<Vec<i64>>]) -> Option<Vec<ArrayD<f32>>> {
    let axis = index(node.attr_int("axis").unwrap_or(0), x.ndim())?;
    let (len, parts) = (x.shape()[axis], node.output.len());
    let sizes: Vec<usize> = if let Some(Some(sizes)) = given.first() {
        sizes.iter().map(|&size| usize::try_from(size).ok()).collect::<Option<_>>()?
    } else {
        let size = len.div_ceil(parts);
        (0..parts).map(|part| size.min(len.saturating_sub(part * size))).collect()
    };
    let mut start = 0usize;
    let mut outputs = Vec::new();
    for size in sizes {
        let end = start.checked_add(size).filter(|&end| end <= len)?;
        outputs.push(x.slice_axis(Axis(axis), Slice::from(start..end)).to_owned());
        start = end;
    }
    (start == len).then_some(outputs)
}

fn slice(x: ArrayD<f32>, given: &[Option<Vec<i64>>]) -> Option<Vec<ArrayD<f32>>> {
    let (starts, ends) = (given.first()?.as_ref()?, given.get(1)?.as_ref()?);
    let axes = given.get(2).cloned().flatten().unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = given.get(3).cloned().flatten().unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), axes.len(), steps.len()] != [starts.len(); 3] || steps.iter().any(|&step| step != 1) {
        return None;
    }
    let mut x = x;
    for ((&start, &end), &axis) in starts.iter().zip(ends).zip(&axes) {
        let axis = index(axis, x.ndim())?;
        let len = x.shape()[axis] as i64;
        let at = |i: i64| if i < 0 { i.saturating_add(len) } else { i }.clamp(0, len) as usize;
        let (start, end) = (at(start), at(end));
        x = x.slice_axis(Axis(axis), Slice::from(start..end.max(start))).to_owned();
    }
    Some(vec![x])
}

/// A position from the front, of one that may count from the end.
pub(super) fn index(axis: i64, rank: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(rank as i64)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < rank)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::AttributeProto;
    use crate::onnx::node::node;
    use crate::onnx::testing::{graph, model};

    /// The weight of `y = x·W`, where W is made of `w = 0…11` of shape `[3, 4]` by `nodes`.
    fn weight(nodes: Vec<NodeProto>, ints: &[(&str, &[i64])]) -> Option<(Vec<usize>, Vec<f32>)> {
        let w: Vec<f32> = (0..12).map(|i| i as f32).collect();
        let mut initializers = vec![tensor::from_f32("w", &[3, 4], &w)];
        initializers.extend(ints.iter().map(|(name, ints)| tensor::from_i64(name, &[ints.len()], ints)));
        let nodes = [nodes, vec![node("MatMul", "mm", ["x", "W"], ["y"])]].concat();
        let mut model = model(graph("x", "y", nodes, initializers), 17);
        let edits = fold(&Graph::new(model.clone()).unwrap()).unwrap()?;
        edits.apply(&mut model).unwrap();
        assert_eq!(model.graph().node.len(), 1, "only the product is left");
        let graph = Graph::new(model.clone()).unwrap();
        let constant = graph.constant(&model.graph().node[0].input[1]).unwrap();
        Some((tensor::shape(constant), tensor::f32s(constant).unwrap()))
    }

    #[test]
    fn parts_and_layouts_of_constants_are_constants() {
        let perm = AttributeProto::int_list("perm", &[1, 0]);
        let transposed = weight(vec![node("Transpose", "", ["w"], ["W"]).with(perm)], &[]);
        let columns = [0., 4., 8., 1., 5., 9., 2., 6., 10., 3., 7., 11.];
        assert_eq!(transposed, Some((vec![4, 3], columns.to_vec())));

        let axis = AttributeProto::int("axis", -1);
        let halves = node("Split", "", ["w"], ["first", "W"]).with(axis);
        assert_eq!(weight(vec![halves], &[]), Some((vec![3, 2], vec![2., 3., 6., 7., 10., 11.])));

        let cut = node("Slice", "", ["w", "from", "to", "axes"], ["part"]);
        let flat = node("Reshape", "", ["part", "shape"], ["W"]);
        let ints: &[(&str, &[i64])] =
            &[("from", &[-2, 1]), ("to", &[i64::MAX, 3]), ("axes", &[0, 1]), ("shape", &[-1, 1])];
        assert_eq!(weight(vec![cut, flat], ints), Some((vec![4, 1], vec![5., 6., 9., 10.])));

        let deeper = node("Unsqueeze", "", ["w", "at"], ["deep"]);
        let back = node("Squeeze", "", ["deep", "at"], ["W"]);
        let (shape, values) = weight(vec![deeper, back], &[("at", &[1])]).unwrap();
        assert_eq!((shape, values[11]), (vec![3, 4], 11.0));
    }

    #[test]
    fn what_is_no_layout_or_makes_no_sense_stays() {
        assert_eq!(weight(vec![node("Sigmoid", "", ["w"], ["W"])], &[]), None);
        let check = |op: &str, ints: &[i64]| {
            assert_eq!(weight(vec![node(op, "", ["w", "i"], ["W"])], &[("i", ints)]), None, "{op} {ints:?}");
        };
        check("Reshape", &[5, -1]);
        check("Reshape", &[i64::MAX, i64::MAX]);
        check("Reshape", &[-1, 0, 0, 0]);
        check("Squeeze", &[0]);
        check("Unsqueeze", &[i64::MIN]);
        check("Unsqueeze", &[7]);
        check("Slice", &[0]);
        check("Split", &[5]);
    }
}
