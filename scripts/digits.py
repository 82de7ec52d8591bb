"""The digits data set of scikit-learn, and a small vision transformer that reads it."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Split:
    """`pixels` u8 [N, 8, 8], `labels` i64 [N]."""

    pixels: np.ndarray
    labels: np.ndarray

    def images(self) -> Tensor:
        """f32 [N, 3, 8, 8] in [-1, 1]: what a loader makes of the grey PNG with mean = std = 0.5."""
        grey = (torch.from_numpy(self.pixels).float() / 255 - 0.5) / 0.5
        return grey[:, None].repeat(1, 3, 1, 1)

    def first(self, n: int) -> "Split":
        return Split(self.pixels[:n], self.labels[:n])


def load(seed: int) -> tuple[Split, Split]:
    """Train and test; every fifth image is for the test, stratified by digit."""
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, digits.target.astype(np.int64), test_size=0.2, stratify=digits.target, random_state=seed
    )
    return Split(train_x, train_y), Split(test_x, test_y)


def digits_vit(act_layer: type[nn.Module] = nn.GELU) -> VisionTransformer:
    """16 patches and a class token. A head is 14 wide: its scale is no power of two, and it leaves GEMM tails."""
    model = VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=3,
        num_classes=10,
        embed_dim=28,
        depth=2,
        num_heads=2,
        mlp_ratio=4,
        qkv_bias=True,
        proj_drop_rate=0.1,
        act_layer=act_layer,
    )
    init_narrow(model)
    return model


def digits_swin() -> SwinTransformer:
    """4×4 patches in windows of 2×2, shifted in every second block; merged to 2×2 before the last two blocks."""
    model = SwinTransformer(
        img_size=8, patch_size=2, in_chans=3, num_classes=10, embed_dim=16, depths=(2, 2), num_heads=(2, 4), window_size=2, mlp_ratio=3
    )
    init_narrow(model)
    return model


def init_narrow(model: nn.Module) -> None:
    """timm's weights of 0.02 suit models of some hundred channels; in a narrow one every signal would vanish."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    if hasattr(model, "pos_embed"):
        nn.init.normal_(model.pos_embed, std=0.3)


def train(model: nn.Module, data: Split, *, seed: int, epochs: int) -> None:
    """AdamW, one cycle, half of the images shifted by up to one pixel."""
    rng = torch.Generator().manual_seed(seed)
    images, labels = data.images(), torch.from_numpy(data.labels)
    batches = len(images) // 64
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=epochs * batches)
    model.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=rng)[: batches * 64]
        for batch in order.view(batches, 64):
            loss = F.cross_entropy(model(shifted(images[batch], rng)), labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def shifted(images: Tensor, rng: torch.Generator) -> Tensor:
    """Half of the images moved by -1, 0 or 1 pixels down and right; what comes in is background."""
    padded = F.pad(images, (1, 1, 1, 1), value=-1.0)
    corners = torch.randint(0, 3, (len(images), 2), generator=rng)
    stays = torch.rand((len(images), 1), generator=rng) < 0.5
    corners = torch.where(stays, 1, corners).tolist()
    return torch.stack([image[:, y : y + 8, x : x + 8] for image, (y, x) in zip(padded, corners)])


def save_npz(path: Path, data: Split) -> None:
    np.savez_compressed(path, images=data.images().numpy(), labels=data.labels)


def save_pngs(folder: Path, data: Split) -> None:
    """8 by 8 grey PNGs, and `labels.csv` with their paths relative to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["path", "label"])
        for i, (pixels, label) in enumerate(zip(data.pixels, data.labels)):
            Image.fromarray(pixels).save(folder / f"{i:02}.png", optimize=True)
            rows.writerow([f"{i:02}.png", label])
