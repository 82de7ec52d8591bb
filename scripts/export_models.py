"""Export full-size vision transformers with seeded random weights, for benchmarks and tests of scale."""

import argparse
from pathlib import Path

import timm
import torch
from exporters import EXPORTERS, export, save_checked
from torch import nn

SEED = 20
MODELS = {
    "vit_tiny": "vit_tiny_patch16_224",
    "vit_small": "vit_small_patch16_224",
    "vit_base": "vit_base_patch16_224",
    "vit_base_384": "vit_base_patch16_384",
    "vit_large": "vit_large_patch16_224",
}
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--exporters", nargs="+", choices=EXPORTERS, default=list(EXPORTERS))
    parser.add_argument("--out", type=Path, default=REPOSITORY / "models")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    for name in args.models:
        torch.manual_seed(SEED)
        model = timm.create_model(MODELS[name]).eval()
        unlike_fresh(model)
        images = torch.randn(2, *model.default_cfg["input_size"])
        for exporter in args.exporters:
            proto = export(model, images, EXPORTERS[exporter])
            save_checked(args.out / f"{name}_{exporter}.onnx", proto, model, images, tolerance=1e-4)


def unlike_fresh(model: nn.Module) -> None:
    """Give biases and LayerNorm gains values of their own: where all are equal, TorchScript keeps one of them."""
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.trunc_normal_(parameter, mean=parameter.mean().item(), std=0.02)


if __name__ == "__main__":
    main()
