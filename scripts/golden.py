"""Gradients at the output of every matmul that PTQ4ViT quantizes, by PyTorch's autograd in double precision."""

import copy

import numpy as np
import torch
from timm.models.vision_transformer import Attention, VisionTransformer
from torch import Tensor
from torch.nn import functional as F


def golden(model: VisionTransformer, images: Tensor, *, seed: int) -> dict[str, np.ndarray]:
    """`logits`, `fisher_v`, and for every site `ce/<site>` and `fisher/<site>`; the leading axis is the image.

    `ce`: L = cross-entropy of the logits against their own argmax, of each image for itself.
    `fisher`: back-propagates u = √p∘v − p·(√p·v), p = softmax(logits), v = `fisher_v`.
    """
    model = copy.deepcopy(model).double().eval()
    untapped = model(images.double())
    taps = tap(model)
    logits = model(images.double())
    torch.testing.assert_close(logits, untapped)

    labels = logits.argmax(1)
    # A sum over the images: none sees another, so each has the gradient of its own loss.
    ce = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), list(taps.values()), retain_graph=True)

    v = torch.randint(0, 2, logits.shape, generator=torch.Generator().manual_seed(seed)).double() * 2 - 1
    p = logits.detach().softmax(1)
    u = p.sqrt() * v - p * (p.sqrt() * v).sum(1, keepdim=True)
    fisher = torch.autograd.grad((u * logits).sum(), list(taps.values()))

    # At the logits both gradients are known in closed form.
    torch.testing.assert_close(ce[-1], p - F.one_hot(labels, p.shape[1]))
    torch.testing.assert_close(fisher[-1], u)
    arrays = {"logits": logits, "fisher_v": v}
    for site, by_ce, by_fisher in zip(taps, ce, fisher):
        arrays |= {f"ce/{site}": by_ce, f"fisher/{site}": by_fisher}
    return {name: array.detach().float().numpy() for name, array in arrays.items()}


def tap(model: VisionTransformer) -> dict[str, Tensor]:
    """Fills the returned dict, in order of execution, when the model runs."""
    taps: dict[str, Tensor] = {}

    def keep(module, site: str) -> None:
        module.register_forward_hook(lambda _module, _inputs, output: taps.__setitem__(site, output))

    keep(model.patch_embed.proj, "patch")
    for i, block in enumerate(model.blocks):
        keep(block.attn.qkv, f"blocks.{i}.qkv")
        block.attn.forward = tapped_attention(block.attn, taps, f"blocks.{i}")
        keep(block.attn.proj, f"blocks.{i}.proj")
        keep(block.mlp.fc1, f"blocks.{i}.fc1")
        keep(block.mlp.fc2, f"blocks.{i}.fc2")
    keep(model.head, "head")
    return taps


def tapped_attention(attn: Attention, taps: dict[str, Tensor], block: str):
    """`attn.forward` with its two matmuls in the open; the scale is on Q, before the matmul."""

    def forward(x: Tensor, **_masks) -> Tensor:
        batch, tokens, _ = x.shape
        qkv = attn.qkv(x).view(batch, tokens, 3, attn.num_heads, attn.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = taps[f"{block}.qk"] = (q * attn.scale) @ k.transpose(-2, -1)
        mixed = taps[f"{block}.pv"] = scores.softmax(-1) @ v
        return attn.proj(mixed.transpose(1, 2).flatten(2))

    return forward
