#!/usr/bin/env python3
"""Makes fixtures/images: small images and what torchvision and Pillow make of them (needs both, and numpy).

Each `<image>.<resize>.<crop>.<interpolation>.npy` is u8 [crop, crop, 3].
"""
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "images"


def scene(width, height):
    """Smooth colours with a hard-edged disc and a little noise."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rgb = np.stack([255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 3 + y / 5)], axis=-1)
    rgb[np.hypot(x - width / 3, y - height / 2) < min(width, height) / 4] = [250, 240, 10]
    rgb += np.random.default_rng(1).normal(0, 6, rgb.shape)
    return Image.fromarray(np.clip(np.rint(rgb), 0, 255).astype(np.uint8))


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    rgb = scene(37, 29)
    rgba = rgb.convert("RGBA")
    rgba.putalpha(rgb.convert("L"))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    images = {
        "rgb.png": (rgb, {}),
        "rgba.png": (rgba, {}),
        "gray.png": (rgb.convert("L"), {}),
        "palette.png": (rgb.quantize(32), {}),
        "turned.jpg": (rgb, {"exif": exif, "quality": 95, "subsampling": 0}),
        "cmyk.jpg": (rgb.convert("CMYK"), {"quality": 95, "subsampling": 0}),
    }
    cases = {name: [(18, 16, "bicubic")] for name in images}
    cases["rgb.png"] += [(18, 16, "bilinear"), (18, 16, "lanczos"), (51, 33, "bicubic"), (10, 16, "bicubic"), (29, 24, "bicubic")]
    for old in FOLDER.glob("*.npy"):
        old.unlink()
    for name, (image, options) in images.items():
        image.save(FOLDER / name, **options)
        opened = ImageOps.exif_transpose(Image.open(FOLDER / name)).convert("RGB")
        for resize, crop, interpolation in cases[name]:
            resized = F.resize(opened, resize, InterpolationMode(interpolation))
            cropped = np.asarray(F.center_crop(resized, crop))
            np.save(FOLDER / f"{name}.{resize}.{crop}.{interpolation}.npy", cropped)


if __name__ == "__main__":
    main()
