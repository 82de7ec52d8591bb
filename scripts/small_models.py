"""What model_table.py needs of a small model: how to build it, and what its images are."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from zoo import seeded

SEED = 20


@dataclass(frozen=True)
class Small:
    """`side` is the height and width of its images."""

    build: Callable[[], nn.Module]
    side: int
    outputs: tuple[str, ...] = ("logits",)
    channels: int = 3

    def images(self, count: int) -> Tensor:
        """Noise."""
        return torch.randn(count, self.channels, self.side, self.side, generator=torch.Generator().manual_seed(SEED))

    def model(self) -> nn.Module:
        """With seeded weights, none of them zero, and with the statistics of noise in every BatchNormalization."""
        model = seeded(self.build, seed=SEED, small=True)
        norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        if norms:
            with torch.no_grad():
                model(self.images(16))
        return model.eval()
