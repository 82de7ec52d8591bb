"""A small network of what the plain vision transformers lack: convolutions of every kind, and attention in other forms."""

import torch
from torch import Tensor, nn


class Convolutions(nn.Module):
    """A stem, an inverted bottleneck around a depthwise convolution, and a grouped convolution, to 16 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.expand = nn.Conv2d(16, 40, 1)
        self.depthwise = nn.Conv2d(40, 40, 3, padding=1, groups=40, bias=False)
        self.norm = nn.BatchNorm2d(40)
        self.project = nn.Conv2d(40, 16, 1)
        self.grouped = nn.Conv2d(16, 16, 3, stride=2, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = nn.functional.silu(self.expand(x))
        hidden = nn.functional.silu(self.norm(self.depthwise(hidden)))
        return nn.functional.relu(self.grouped(x + self.project(hidden)))


class Attention(nn.Module):
    """What the forms share: two heads of eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.proj = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).permute(2, 0, 3, 1, 4).unbind(0)
        return x + self.proj(self.mixed(q, k, v).transpose(1, 2).flatten(2))

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise NotImplementedError


class TalkingHeads(Attention):
    """Linear layers across the heads, before and after the Softmax (arXiv 2003.02436)."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(2, 2), nn.Linear(2, 2)

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = self.before((q * 8**-0.5 @ k.transpose(-2, -1)).permute(0, 2, 3, 1))
        return self.after(scores.softmax(-2)).permute(0, 3, 1, 2) @ v


class CrossCovariance(Attention):
    """Attention between channels in the place of tokens (arXiv 2106.09681)."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = (nn.functional.normalize(x.transpose(-2, -1), dim=-1) for x in (q, k))
        return ((q @ k.transpose(-2, -1)).softmax(-1) @ v.transpose(-2, -1)).transpose(-2, -1)


class Linear(Attention):
    """`φ(Q)·(φ(K)ᵀ·V)`, without a Softmax (arXiv 2006.16236)."""

    def mixed(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k = q.relu() + 0.1, k.relu() + 0.1
        return q @ (k.transpose(-2, -1) @ v) / (q * k.sum(-2, keepdim=True)).sum(-1, keepdim=True)


class Hybrid(nn.Module):
    """For images of 16×16; four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = Convolutions()
        self.blocks = nn.Sequential(TalkingHeads(), CrossCovariance(), Linear())
        self.head = nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.convolutions(images).flatten(2).transpose(1, 2)
        return self.head(torch.mean(self.blocks(tokens), dim=1))
