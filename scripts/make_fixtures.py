"""Make everything in `fixtures/`: see the README beside this script."""

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from exporters import EXPORTERS, Exporter, export, save_checked
from timm.layers import GELUTanh
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import digits
from golden import golden
from outliers import with_outliers

SEED = 20
DEEP_SEED = 24  # of a few tried, the one whose LayerNorms over 6 channels amplify rounding least
REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=REPOSITORY / "fixtures")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)  # sums in one order: the same weights every time
    torch.use_deterministic_algorithms(True)

    train_set, test_set = digits.load(SEED)
    calibration = train_set.first(64)
    digits.save_npz(out / "digits_calib.npz", calibration)
    digits.save_npz(out / "digits_test.npz", test_set)
    digits.save_pngs(out / "digits_png", calibration.first(40))

    torch.manual_seed(SEED)
    model = digits.digits_vit()
    digits.train(model, train_set, seed=SEED, epochs=80)
    np.savez_compressed(out / "digits_vit_golden.npz", **golden(model, calibration.images()[:2], seed=SEED))

    for name in EXPORTERS:
        export_digits(out / f"digits_vit_{name}.onnx", model, test_set, EXPORTERS[name])
    tanh = digits.digits_vit(act_layer=GELUTanh)
    tanh.load_state_dict(model.state_dict())
    export_digits(out / "digits_vit_tanh17.onnx", tanh, test_set, EXPORTERS["ts17"])

    torch.manual_seed(SEED)
    swin = digits.digits_swin()
    digits.train(swin, train_set, seed=SEED, epochs=80)
    unfused = replace(EXPORTERS["dynamo18"], fused=False)  # dynamo of PyTorch 2.15 fails on fused attention with a bias
    export_digits(out / "digits_swin_dynamo18.onnx", swin, test_set, unfused)

    onnx.save(with_outliers(onnx.load(out / "digits_vit_ts17.onnx")), out / "digits_vit_outlier17.onnx")

    export_deep(out, test_set)


def export_digits(path: Path, model: nn.Module, test_set: digits.Split, exporter: Exporter) -> None:
    images = test_set.images()
    proto = export(model, images[:2], exporter)
    logits = save_checked(path, proto, model, images, tolerance=1e-5)
    right = (logits.argmax(1).numpy() == test_set.labels).sum()
    print(f"{'':26} {right} of {len(images)} test images right ({right / len(images):.2%})")
    assert right >= 0.97 * len(images), "the model must be worth quantizing"


def export_deep(out: Path, test_set: digits.Split) -> None:
    """Untrained. Its biases are all zero, and TorchScript keeps one of each length: the others are Identity nodes."""
    torch.manual_seed(DEEP_SEED)
    model = VisionTransformer(img_size=8, patch_size=4, num_classes=4, embed_dim=6, depth=12, num_heads=2)
    digits.init_narrow(model)
    images = test_set.images()
    for name in ["ts17", "dynamo18"]:
        proto = export(model, images[:2], EXPORTERS[name])
        for node in proto.graph.node:
            node.ClearField("metadata_props")  # more bytes than all the rest of the file
        save_checked(out / f"depth12_{name}.onnx", proto, model, images, tolerance=1e-5)


if __name__ == "__main__":
    main()
