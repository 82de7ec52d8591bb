"""Make `fixtures/zoo/`: a small model of every architecture by every exporter, and what PyTorch's autograd says of it."""

import argparse
import copy
import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from exporters import ZOO_EXPORTERS, export
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from zoo import ARCHITECTURES, seeded

SEED = 20
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=ARCHITECTURES, default=list(ARCHITECTURES))
    parser.add_argument("--out", type=Path, default=REPOSITORY / "fixtures" / "zoo")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)

    # The tracer leaves tensors of its own in the caches of some models: everything else comes first.
    order = sorted(ZOO_EXPORTERS.items(), key=lambda item: not item[1].dynamo)
    for name in args.models:
        architecture = ARCHITECTURES[name]
        model = seeded(architecture.small, seed=SEED, small=True)
        images = wave_images(architecture.side)
        save(args.out / f"{name}.json.gz", json.dumps(golden(model, images[:1])).encode())
        for exporter, how in order:
            if how.dynamo and architecture.biased_attention:
                how = replace(how, fused=False)
            proto = export(model, images, how, architecture.outputs)
            encoded = proto.SerializeToString(deterministic=True)
            error = difference(encoded, model, images)
            save(args.out / f"{name}_{exporter}.onnx.gz", encoded)
            print(f"{name:18} {exporter:9} {len(encoded) / 1e3:6.1f} kB   {error:.1e} from PyTorch", flush=True)
            assert error < 1e-4
        if name == "vit":
            for half, dtype, exporter in [("half17", torch.float16, "ts17"), ("bfloat23", torch.bfloat16, "dynamo23")]:
                proto = export(copy.deepcopy(model).to(dtype), images.to(dtype), ZOO_EXPORTERS[exporter])
                onnx.checker.check_model(proto, full_check=True)
                save(args.out / f"{name}_{half}.onnx.gz", proto.SerializeToString(deterministic=True))


def save(path: Path, encoded: bytes) -> None:
    with gzip.GzipFile(path, "wb", mtime=0) as file:
        file.write(encoded)


def wave_images(side: int) -> Tensor:
    """f32 [2, 3, side, side], `sin(i)` of the element's number: the same in every language."""
    return torch.arange(2 * 3 * side * side, dtype=torch.float64).sin().float().view(2, 3, side, side)


def golden(model: nn.Module, images: Tensor) -> dict:
    """The first output, and of each site in order of execution the sketch of its gradient, in double precision.

    The gradient is that of `Σ_o ⟨v, o⟩` over the outputs, `v = cos(i)` of the element's number.
    """
    model = unfused(copy.deepcopy(model).double()).requires_grad_(False)
    with SiteTaps() as taps:
        outputs = tensors(model(images.double().requires_grad_()))
    seeds = [wave(output.numel()).view(output.shape) for output in outputs]
    gradients = torch.autograd.grad(outputs, taps.outputs, seeds)
    return {"output": outputs[0].flatten().tolist(), "sites": [sketch(gradient) for gradient in gradients]}


def sketch(gradient: Tensor) -> dict[str, float]:
    """The norm, and the share of it along `cos(i)`: what tells a gradient from any other in two numbers."""
    flat = gradient.flatten()
    norm = flat.norm()
    return {"norm": norm.item(), "along": (flat @ wave(len(flat)) / norm).item()}


def wave(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float64).cos()


class SiteTaps(TorchFunctionMode):
    """Keeps what every matrix product that depends on the image gives, in order."""

    PRODUCTS = {F.linear, F.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm}

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []

    def __torch_function__(self, function, _types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        if function in self.PRODUCTS and output.requires_grad:
            self.outputs.append(output)
        return output


def unfused(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
        if hasattr(getattr(module, "config", None), "_attn_implementation"):
            module.config._attn_implementation = "eager"
        if isinstance(module, nn.MultiheadAttention):
            module.forward = attention_in_the_open(module)
    return model


def attention_in_the_open(attention: nn.MultiheadAttention):
    """Its forward pass, as matmuls that a mode can see."""

    def forward(query: Tensor, key: Tensor, value: Tensor, **_options) -> tuple[Tensor, None]:
        width, heads = attention.embed_dim, attention.num_heads
        weights, biases = attention.in_proj_weight.split([width, 2 * width]), attention.in_proj_bias.split([width, 2 * width])
        q = F.linear(query, weights[0], biases[0])
        k, v = F.linear(key, weights[1], biases[1]).chunk(2, dim=-1)
        q, k, v = (x.unflatten(-1, (heads, width // heads)).transpose(1, 2) for x in (q, k, v))
        scores = (q / math.sqrt(width // heads)) @ k.transpose(-2, -1)
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        return F.linear(mixed, attention.out_proj.weight, attention.out_proj.bias), None

    return forward


def tensors(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def difference(encoded: bytes, model: nn.Module, images: Tensor) -> float:
    """The largest of ONNX Runtime's outputs from PyTorch's."""
    session = onnxruntime.InferenceSession(encoded, providers=["CPUExecutionProvider"])
    if session.get_inputs()[0].shape[0] == 1:
        images = images[:1]
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        expected = tensors(model(images))
    return max(float(np.abs(a - b.numpy()).max()) for a, b in zip(found, expected, strict=True))


if __name__ == "__main__":
    main()
