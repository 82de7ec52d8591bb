//! A model as text that stays the same, for snapshots and for the eye.

use std::fmt::{self, Display, Formatter};

use onnx_ptq4vit::onnx::proto::attribute_proto::AttributeType;
use onnx_ptq4vit::onnx::proto::tensor_shape_proto::dimension;
use onnx_ptq4vit::onnx::proto::{
    AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, SparseTensorProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};
use onnx_ptq4vit::onnx::tensor::{self, DataType};
use onnx_ptq4vit::onnx::{Model, node};

/// The values of a tensor are shown up to this many.
const SHOWN: usize = 8;

/// The model as text: imports, inputs, outputs, initializers, nodes, functions, metadata. One line each.
///
/// ```text
/// y = Clip<…>(x, lo, hi)  # blocks.0/clip
/// ```
pub(crate) fn dump(model: &Model) -> String {
    Text(&model.proto).to_string()
}

struct Text<'a>(&'a ModelProto);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write_model(f, self.0)
    }
}

fn write_model(out: &mut Formatter, model: &ModelProto) -> fmt::Result {
    writeln!(out, "ir_version {}", model.ir_version())?;
    write_imports(out, &model.opset_import, 0)?;
    if let Some(graph) = &model.graph {
        write_graph(out, graph, 0)?;
    }
    for function in &model.functions {
        write_function(out, function)?;
    }
    for StringStringEntryProto { key, value } in &model.metadata_props {
        let [key, value] = [key, value].map(Option::as_deref).map(Option::unwrap_or_default);
        writeln!(out, "metadata {key} = {value:?}")?;
    }
    Ok(())
}

fn write_imports(out: &mut Formatter, imports: &[OperatorSetIdProto], depth: usize) -> fmt::Result {
    imports.iter().try_for_each(|import| {
        let domain = if node::is_standard(import.domain()) { "ai.onnx" } else { import.domain() };
        writeln!(out, "{}opset {domain} {}", Indent(depth), import.version())
    })
}

fn write_graph(out: &mut Formatter, graph: &GraphProto, depth: usize) -> fmt::Result {
    let indent = Indent(depth);
    for input in &graph.input {
        writeln!(out, "{indent}input {}", Info(input))?;
    }
    for output in &graph.output {
        writeln!(out, "{indent}output {}", Info(output))?;
    }
    for tensor in &graph.initializer {
        writeln!(out, "{indent}initializer {}: {}", tensor.name(), Elements(tensor))?;
    }
    for tensor in &graph.sparse_initializer {
        let name = tensor.values.as_ref().map_or("", |values| values.name());
        writeln!(out, "{indent}initializer {name}: {}", Sparse(tensor))?;
    }
    graph.node.iter().try_for_each(|node| write_node(out, node, depth))
}

fn write_function(out: &mut Formatter, function: &FunctionProto) -> fmt::Result {
    let overload = if function.overload().is_empty() { "" } else { ":" };
    write!(out, "function {}::{}{overload}{}", function.domain(), function.name(), function.overload())?;
    let attributes = function.attribute.iter().cloned();
    let defaults = function.attribute_proto.iter().map(|a| Attribute(a).to_string());
    let attributes: Vec<_> = attributes.chain(defaults).collect();
    if !attributes.is_empty() {
        write!(out, "<{}>", attributes.join(", "))?;
    }
    writeln!(out, "({}) -> ({})", function.input.join(", "), function.output.join(", "))?;
    write_imports(out, &function.opset_import, 1)?;
    function.node.iter().try_for_each(|node| write_node(out, node, 1))
}

fn write_node(out: &mut Formatter, node: &NodeProto, depth: usize) -> fmt::Result {
    write!(out, "{}{} = ", Indent(depth), node.output.join(", "))?;
    if !node::is_standard(node.domain()) {
        write!(out, "{}::", node.domain())?;
    }
    write!(out, "{}", node.op_type())?;
    if !node.overload().is_empty() {
        write!(out, ":{}", node.overload())?;
    }
    if !node.attribute.is_empty() {
        let attributes: Vec<_> = node.attribute.iter().map(|a| Attribute(a).to_string()).collect();
        write!(out, "<{}>", attributes.join(", "))?;
    }
    write!(out, "({})", node.input.join(", "))?;
    if !node.name().is_empty() {
        write!(out, "  # {}", node.name())?;
    }
    writeln!(out)?;
    for attribute in &node.attribute {
        for graph in attribute.subgraphs() {
            writeln!(out, "{}{}:", Indent(depth + 1), attribute.name())?;
            write_graph(out, graph, depth + 2)?;
        }
    }
    Ok(())
}

struct Indent(usize);

impl Display for Indent {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        write!(f, "{:1$}", "", self.0 * 2)
    }
}

struct Info<'a>(&'a ValueInfoProto);

impl Display for Info<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        match &self.0.r#type {
            Some(r#type) => write!(f, "{}: {}", self.0.name(), Type(r#type)),
            None => f.write_str(self.0.name()),
        }
    }
}

struct Type<'a>(&'a TypeProto);

impl Display for Type<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        use type_proto::Value as V;
        let inner =
            |elem: &Option<Box<TypeProto>>| elem.as_deref().map_or("?".into(), |t| Type(t).to_string());
        match &self.0.value {
            None => write!(f, "?"),
            Some(V::TensorType(t)) => write!(f, "{}{}", data_type(t.elem_type()), Shape(t.shape.as_ref())),
            Some(V::SparseTensorType(t)) => {
                write!(f, "sparse {}{}", data_type(t.elem_type()), Shape(t.shape.as_ref()))
            }
            Some(V::SequenceType(t)) => write!(f, "sequence({})", inner(&t.elem_type)),
            Some(V::OptionalType(t)) => write!(f, "optional({})", inner(&t.elem_type)),
            Some(V::MapType(t)) => write!(f, "map({}, {})", data_type(t.key_type()), inner(&t.value_type)),
            Some(V::OpaqueType(t)) => write!(f, "opaque({}::{})", t.domain(), t.name()),
        }
    }
}

struct Shape<'a>(Option<&'a TensorShapeProto>);

impl Display for Shape<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Some(shape) = self.0 else { return f.write_str("[…]") };
        let dims = shape.dim.iter().map(|dim| match &dim.value {
            Some(dimension::Value::DimValue(known)) => known.to_string(),
            Some(dimension::Value::DimParam(symbol)) => symbol.clone(),
            None => "?".into(),
        });
        write!(f, "[{}]", dims.collect::<Vec<_>>().join(", "))
    }
}

struct Attribute<'a>(&'a AttributeProto);

impl Display for Attribute<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let a = self.0;
        write!(f, "{}=", a.name())?;
        if !a.ref_attr_name().is_empty() {
            return write!(f, "@{}", a.ref_attr_name());
        }
        let texts = |texts: &[Vec<u8>]| texts.iter().map(|s| text(s)).collect::<Vec<_>>().join(", ");
        match a.r#type() {
            AttributeType::Undefined => write!(f, "?"),
            AttributeType::Float => write!(f, "{:?}", a.f()),
            AttributeType::Int => write!(f, "{}", a.i()),
            AttributeType::String => f.write_str(&text(a.s())),
            AttributeType::Floats => write!(f, "{:?}", a.floats),
            AttributeType::Ints => write!(f, "{:?}", a.ints),
            AttributeType::Strings => write!(f, "[{}]", texts(&a.strings)),
            AttributeType::Tensor | AttributeType::Tensors => {
                list(f, a.t.iter().chain(&a.tensors).map(Elements))
            }
            AttributeType::SparseTensor | AttributeType::SparseTensors => {
                list(f, a.sparse_tensor.iter().chain(&a.sparse_tensors).map(Sparse))
            }
            AttributeType::TypeProto | AttributeType::TypeProtos => {
                list(f, a.tp.iter().chain(&a.type_protos).map(Type))
            }
            AttributeType::Graph | AttributeType::Graphs => write!(f, "{{…}}"),
        }
    }
}

fn list(f: &mut Formatter, items: impl Iterator<Item = impl Display>) -> fmt::Result {
    f.write_str(&items.map(|item| item.to_string()).collect::<Vec<_>>().join(", "))
}

struct Sparse<'a>(&'a SparseTensorProto);

impl Display for Sparse<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let Self(SparseTensorProto { values, indices, dims }) = self;
        write!(f, "sparse {dims:?} values ")?;
        list(f, values.iter().map(Elements))?;
        write!(f, " at ")?;
        list(f, indices.iter().map(Elements))
    }
}

/// Data type and shape, and the elements if they are few.
struct Elements<'a>(&'a TensorProto);

impl Display for Elements<'_> {
    fn fmt(&self, f: &mut Formatter) -> fmt::Result {
        let tensor = self.0;
        write!(f, "{}{:?}", data_type(tensor.data_type()), tensor.dims)?;
        if tensor::shape(tensor).into_iter().try_fold(1, usize::checked_mul).is_none_or(|n| n > SHOWN) {
            return Ok(());
        }
        if let Ok(floats) = tensor::f32s(tensor) {
            write!(f, " {floats:?}")
        } else if let Ok(ints) = tensor::i64s(tensor) {
            write!(f, " {ints:?}")
        } else if tensor.string_data.is_empty() {
            write!(f, " {:?}", tensor.raw_data())
        } else {
            write!(f, " [{}]", tensor.string_data.iter().map(|s| text(s)).collect::<Vec<_>>().join(", "))
        }
    }
}

fn data_type(code: i32) -> String {
    DataType::try_from(code).map_or_else(|_| format!("type{code}"), |t| t.as_str_name().to_lowercase())
}

fn text(bytes: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(bytes))
}
