"""Reports where ONNX files break the rules of TensorRT's parser, as docs/tensorrt.md states them: `tensorrt_rules.py FILE…`.

The exit code is 1 if a rule is broken. No TensorRT is needed, and none is asked: a file without violations may still be refused.
"""

import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Operators that the parser does not import, of those that ONNX has had for quantized models and for bits.
UNSUPPORTED = {
    *("QLinearMatMul", "QLinearConv", "MatMulInteger", "ConvInteger", "DynamicQuantizeLinear"),
    *("BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseNot", "BitwiseXor"),
}
TYPES = {
    *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.BOOL, TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN),
}
# What Q and DQ may give and take.
CODES = {TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN}
OPSETS = range(9, 26)
PAIR = {"QuantizeLinear", "DequantizeLinear"}


def type_name(code):
    return TensorProto.DataType.Name(code)


class Graph:
    """A graph with the constants that it sees, its own and those of the graphs around it."""

    def __init__(self, graph, outer=None):
        self.nodes = graph.node
        self.constants = dict(outer.constants) if outer else {}
        self.types = dict(outer.types) if outer else {}
        for tensor in graph.initializer:
            self.constants[tensor.name] = tensor
        for node in graph.node:
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.constants[node.output[0]] = attribute.t
        for value in [*graph.value_info, *graph.input, *graph.output]:
            self.types[value.name] = value.type.tensor_type.elem_type
        self.types |= {name: tensor.data_type for name, tensor in self.constants.items()}
        self.producers = {name: node for node in graph.node for name in node.output}


def attribute(node, name, default):
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def pair(node, graph):
    """The rules about QuantizeLinear and DequantizeLinear."""
    inputs = list(node.input) + [""] * (3 - len(node.input))
    scale, zero = graph.constants.get(inputs[1]), graph.constants.get(inputs[2])
    count = None
    if scale is None:
        yield "scale-constant", f"its scale `{inputs[1]}` is no constant"
    else:
        values = numpy_helper.to_array(scale).astype(np.float64)
        count = values.size
        if not (values > 0).all():
            yield "scale-positive", f"its scale has a value of {values.min()}"
        if values.ndim > 1:
            yield "scale-rank", f"its scale has {values.ndim} axes, at most one is read for INT8"
    if not inputs[2]:
        yield "zero-point-written", "it has no zero point, which means UINT8 in ONNX and INT8 in TensorRT"
    elif zero is None:
        yield "zero-point-constant", f"its zero point `{inputs[2]}` is no constant"
    else:
        values = numpy_helper.to_array(zero).astype(np.float64)
        if values.any():
            yield "zero-point-zero", f"its zero point is {values[values != 0][0]:g}"
        if zero.data_type not in CODES:
            yield "code-type", f"its zero point is {type_name(zero.data_type)}, only INT8, INT4 and FP8 are quantized to"
        if count is not None and values.size != count:
            yield "zero-point-size", f"its zero point has {values.size} elements and its scale {count}"
    if count is not None and count > 1:
        data = graph.constants.get(node.input[0])
        if data is None:
            yield "per-channel-weights", "the scale has several values, but what it is for is an activation"
        else:
            axis = attribute(node, "axis", 1)
            if attribute(node, "axis", None) is None:
                yield "axis-written", "it has one scale per channel and no attribute `axis`, whose default differs between releases"
            if -len(data.dims) <= axis < len(data.dims) and data.dims[axis] != count:
                yield "axis-length", f"axis {axis} has {data.dims[axis]} elements and the scale {count}"


def codes(node, graph):
    """Codes are made by QuantizeLinear or are an initializer, and only DequantizeLinear takes them."""
    for name in node.input:
        if graph.types.get(name) in CODES and node.op_type not in PAIR:
            yield "codes-only-in-pairs", f"it takes `{name}`, which is {type_name(graph.types[name])}"
    if node.op_type == "Cast" and attribute(node, "to", 0) in CODES:
        yield "codes-only-in-pairs", f"it casts to {type_name(attribute(node, 'to', 0))}"
    if node.op_type == "DequantizeLinear":
        source = graph.producers.get(node.input[0])
        if source is not None and source.op_type not in {"QuantizeLinear", "Constant"}:
            yield "codes-only-in-pairs", f"its codes come from the {source.op_type} `{source.name}`"


def violations(graph, functions):
    """(name of the node, rule, what is wrong) of a graph and the graphs within it."""
    for name, tensor in graph.constants.items():
        if tensor.data_type not in TYPES and not (tensor.data_type == TensorProto.UINT8 and is_zero_point(name, graph)):
            yield name, "type", f"the constant is {type_name(tensor.data_type)}, which is not read"
    for node in graph.nodes:
        found = []
        if node.domain not in ("", "ai.onnx"):
            kind = "a model-local function, which releases before 10 do not read" if node.op_type in functions else "a custom operator"
            found.append(("domain", f"{node.domain}::{node.op_type} is {kind}"))
        if node.op_type in UNSUPPORTED:
            found.append(("operator", f"{node.op_type} is not imported"))
        if node.op_type in PAIR:
            found += pair(node, graph)
        found += codes(node, graph)
        if node.op_type == "Cast" and attribute(node, "to", 0) not in TYPES | {TensorProto.UINT8}:
            found.append(("type", f"it casts to {type_name(attribute(node, 'to', 0))}, which is not known"))
        if node.op_type == "LayerNormalization" and any(node.output[1:]):
            found.append(("operator", "only the first output of LayerNormalization is given"))
        if node.op_type in {"Slice", "Squeeze", "Unsqueeze"}:
            at = 3 if node.op_type == "Slice" else 1
            if len(node.input) > at and node.input[at] and node.input[at] not in graph.constants:
                found.append(("axes-constant", f"its axes `{node.input[at]}` are no constant"))
        for rule, text in found:
            yield f"{node.op_type} `{node.name or node.output[0]}`", rule, text
        for inner in node.attribute:
            if inner.type == onnx.AttributeProto.GRAPH:
                yield from violations(Graph(inner.g, graph), functions)


def is_zero_point(name, graph):
    """Whether a constant is a zero point alone; its type is the concern of the pairs that take it."""
    uses = [(node, at) for node in graph.nodes for at, taken in enumerate(node.input) if taken == name]
    return bool(uses) and all(node.op_type in PAIR and at == 2 for node, at in uses)


def check(file):
    model = onnx.load(file)
    functions = {function.name for function in model.functions}
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)
    found = list(violations(Graph(model.graph), functions))
    if opset not in OPSETS:
        found.insert(0, ("model", "opset", f"opset {opset}, expected {OPSETS[0]} to {OPSETS[-1]}"))
    return found


def main():
    files = sys.argv[1:]
    if not files or files[0].startswith("-"):
        sys.exit(__doc__)
    bad = 0
    for file in files:
        found = check(file)
        bad += bool(found)
        for place, rule, text in found:
            print(f"{file}: {place}: {text} [{rule}]")
        print(f"{file}: {len(found)} violations")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
