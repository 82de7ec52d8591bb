//! FLOAT16 and BFLOAT16 to FLOAT, and back at the model's border.

use std::collections::HashSet;

use crate::Result;
use crate::onnx::node::{node, rename};
use crate::onnx::proto::type_proto;
use crate::onnx::{
    AttributeProto, DataType, Edits, GraphProto, Model, TensorProto, ValueInfoProto, each_tensor, tensor,
};

/// Attributes that name a type to make.
const TYPE_ATTRIBUTES: &[&str] = &["to", "dtype"];

/// Drops the inputs that have an initializer: before IR version 4 every initializer had to be an input as well.
pub(super) fn drop_constant_inputs(model: &mut Model) {
    let Some(graph) = &mut model.proto.graph else { return };
    let sparse = graph.sparse_initializer.iter().filter_map(|sparse| sparse.values.as_ref());
    let constants: HashSet<&str> = graph.initializer.iter().chain(sparse).map(TensorProto::name).collect();
    let inputs = graph.input.len();
    graph.input.retain(|input| !constants.contains(input.name()));
    if graph.input.len() < inputs {
        model.proto.ir_version = model.proto.ir_version.max(Some(4));
    }
}

/// Makes every FLOAT16 and BFLOAT16 of the model FLOAT: the inputs and outputs that were one, with what they were.
pub(super) fn widen(model: &mut Model) -> Result<Vec<(String, DataType)>> {
    each_tensor(&mut model.proto, &mut |tensor| {
        if is_half(tensor.data_type()) {
            *tensor = tensor::from_f32(tensor.name(), &tensor::shape(tensor), &tensor::f32s(tensor)?);
        }
        Ok(())
    })?;
    let mut types = Vec::new();
    if let Some(graph) = &mut model.proto.graph {
        widen_graph(graph, &mut types);
        for (output, _) in &types {
            drop_last_cast(graph, output);
        }
    }
    Ok(types)
}

/// `types` gets what the inputs and outputs were.
fn widen_graph(graph: &mut GraphProto, types: &mut Vec<(String, DataType)>) {
    for info in graph.input.iter_mut().chain(&mut graph.output) {
        types.extend(set_type(info, DataType::Float).map(|old| (info.name().to_string(), old)));
    }
    for info in &mut graph.value_info {
        set_type(info, DataType::Float);
    }
    for attribute in graph.node.iter_mut().flat_map(|node| &mut node.attribute) {
        if TYPE_ATTRIBUTES.contains(&attribute.name()) && attribute.i.is_some_and(|i| is_half(i as i32)) {
            attribute.i = Some(DataType::Float as i64);
        }
        attribute.subgraphs_mut().for_each(|graph| widen_graph(graph, &mut Vec::new()));
    }
}

/// Undoes [`narrow`] at an output: the Cast, which casts nothing any more, would give a site's result another name.
fn drop_last_cast(graph: &mut GraphProto, output: &str) {
    let Some(cast) = graph.node.iter().position(|node| node.is_op("Cast") && node.output == [output]) else {
        return;
    };
    let inner = graph.node[cast].input[0].clone();
    if inner == inner_name(output) {
        graph.node.remove(cast);
        rename(&mut graph.node, &|value| (value == inner).then(|| output.into()));
    }
}

/// Gives `model` the `types` at its border, with a Cast between each and what the model computes.
pub(super) fn narrow(model: &mut Model, types: &[(String, DataType)]) -> Result<()> {
    let mut proto = model.proto.clone();
    let mut names = Edits::new(model);
    let Some(graph) = &mut proto.graph else { return Ok(()) };
    for (name, r#type) in types {
        let inner = names.fresh(&inner_name(name));
        let to = |t: DataType| AttributeProto::int("to", t as i64);
        rename(&mut graph.node, &|value| (value == name).then(|| inner.clone()));
        if let Some(input) = graph.input.iter_mut().find(|input| input.name() == name) {
            set_type(input, *r#type);
            let cast = node("Cast", &format!("{inner}/cast"), [name.as_str()], [inner.as_str()]);
            graph.node.insert(0, cast.with(to(DataType::Float)));
        } else if let Some(output) = graph.output.iter_mut().find(|output| output.name() == name) {
            set_type(output, *r#type);
            let cast = node("Cast", &format!("{inner}/cast"), [inner.as_str()], [name.as_str()]);
            graph.node.push(cast.with(to(*r#type)));
        }
    }
    model.proto = Model::new(proto)?.proto;
    Ok(())
}

/// The f32 value behind an input or before an output.
fn inner_name(name: &str) -> String {
    format!("{name}_f32")
}

/// Makes a tensor of `info` that is FLOAT or narrower a `wanted` one: what it was, if it was narrower.
fn set_type(info: &mut ValueInfoProto, wanted: DataType) -> Option<DataType> {
    let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_mut()?.value.as_mut() else {
        return None;
    };
    let old = DataType::try_from(tensor.elem_type()).ok()?;
    if is_half(old as i32) || old == DataType::Float {
        tensor.elem_type = Some(wanted as i32);
    }
    is_half(old as i32).then_some(old)
}

fn is_half(data_type: i32) -> bool {
    [DataType::Float16, DataType::Bfloat16].iter().any(|half| *half as i32 == data_type)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::onnx::testing::{file_of, graph};

    #[test]
    fn constants_are_no_inputs() {
        let w = tensor::from_f32("w", &[1], &[1.0]);
        let graph = graph("x w", "y", vec![node("Add", "", ["x", "w"], ["y"])], vec![w]);
        let file = crate::onnx::ModelProto { ir_version: Some(3), ..file_of(graph, 17) };
        let mut model = Model::new(file).unwrap();
        drop_constant_inputs(&mut model);
        let inputs: Vec<_> = model.graph().input.iter().map(ValueInfoProto::name).collect();
        assert_eq!((inputs, model.proto.ir_version), (vec!["x"], Some(4)));
    }
}
