"""Export a timm vision transformer by each of PyTorch's ONNX exporters."""

import copy
import io
import warnings
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Exporter:
    """`dynamo` is the exporter over `torch.export`; without it, TorchScript tracing.

    `fused` attention is one call of PyTorch's, which the exporter takes apart or not.
    """

    dynamo: bool
    opset: int
    fused: bool
    fixed_batch: bool = False
    open_size: bool = False  # height and width, by TorchScript only


EXPORTERS = {
    "ts13": Exporter(dynamo=False, opset=13, fused=False),
    "ts17": Exporter(dynamo=False, opset=17, fused=False),  # as timm's own export script does
    "dynamo18": Exporter(dynamo=True, opset=18, fused=True),
    "dynamo20": Exporter(dynamo=True, opset=20, fused=True),
}
ZOO_EXPORTERS = EXPORTERS | {
    "ts17": Exporter(dynamo=False, opset=17, fused=True, fixed_batch=True),
    "dynamo20": Exporter(dynamo=True, opset=20, fused=True, fixed_batch=True),
    "dynamo23": Exporter(dynamo=True, opset=23, fused=True),
}


def export(
    model: nn.Module, example: Tensor, exporter: Exporter, outputs: tuple[str, ...] = ("logits",)
) -> onnx.ModelProto:
    """Input `images` and the named outputs; `example` is a batch of two or more, of which a fixed batch takes one."""
    model = copy.deepcopy(model).eval()
    set_fused_attention(model, fused=exporter.fused)
    names = {"input_names": ["images"], "output_names": list(outputs)}
    if exporter.fixed_batch:
        example = example[:1]
    if exporter.dynamo:
        shapes = None if exporter.fixed_batch else ({0: torch.export.Dim("batch")},)
        program = torch.onnx.export(
            model, (example,), dynamo=True, opset_version=exporter.opset, dynamic_shapes=shapes, verbose=False, **names
        )
        return without_source_traces(program.model_proto)
    axes = None if exporter.fixed_batch else {name: {0: "batch"} for name in ["images", *outputs]}
    if exporter.open_size:
        axes["images"] |= {2: "height", 3: "width"}
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer warns of every shape check in timm
        torch.onnx.export(model, (example,), out, dynamo=False, opset_version=exporter.opset, dynamic_axes=axes, **names)
    return without_source_traces(onnx.load_from_string(out.getvalue()))


def set_fused_attention(model: nn.Module, *, fused: bool) -> None:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation = "sdpa" if fused else "eager"


def without_source_traces(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop what an exporter says about the Python source: stack traces hold paths of the exporting machine."""

    def strip(message) -> None:
        if hasattr(message, "doc_string"):
            message.ClearField("doc_string")
        if hasattr(message, "metadata_props"):
            kept = [p for p in message.metadata_props if not p.key.startswith("pkg.torch.onnx.")]
            del message.metadata_props[:]
            message.metadata_props.extend(kept)

    def strip_nodes(nodes) -> None:
        for node in nodes:
            strip(node)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    strip_graph(attribute.g)

    def strip_graph(graph: onnx.GraphProto) -> None:
        strip(graph)
        for value in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
            strip(value)
        strip_nodes(graph.node)

    strip(model)
    strip_graph(model.graph)
    for function in model.functions:
        strip(function)
        for value in function.value_info:
            strip(value)
        strip_nodes(function.node)
    return model


def save_checked(path: Path, proto: onnx.ModelProto, model: nn.Module, images: Tensor, *, tolerance: float) -> Tensor:
    """Write `proto`, and return ONNX Runtime's logits once they agree with `model`."""
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    with torch.no_grad():
        error = (logits - model.eval()(images)).abs().max().item()
    if error > tolerance:
        raise SystemExit(f"{path.name}: ONNX Runtime is {error:.1e} from PyTorch, more than {tolerance:.0e}")
    print(f"{path.name:26} {path.stat().st_size / 1e3:9.1f} kB   {error:.1e} from PyTorch", flush=True)
    return logits
