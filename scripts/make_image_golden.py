#!/usr/bin/env python3
"""Makes fixtures/images: small images and what torchvision, timm and Pillow make of them (needs them, and numpy).

Each `<image>.<resize>.<crop>.<interpolation>.<mode>.npy` is u8 [H, W] of mode L, else [H, W, C]. A resize is the short side, or
`HxW`, whatever the proportion, or `cHxW`, which both sides cover in proportion (timm's ResizeKeepRatio).
"""
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from timm.data.transforms import ResizeKeepRatio
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
        "lossless.jp2": (rgb, {}),
        "opacity.jp2": (rgba, {}),
        "gray.jp2": (rgb.convert("L"), {}),
        "lossy.j2k": (rgb, {"irreversible": True, "quality_mode": "rates", "quality_layers": [6], "num_resolutions": 5}),
    }
    cases = {name: [("18", "16", "bicubic", "RGB")] for name in images}
    others = ["18.16.bilinear", "18.16.lanczos", "51.33.bicubic", "10.16.bicubic", "29.24.bicubic", "24x20.24x20.bicubic"]
    others += ["c17x40.15x36.bicubic", "c35x18.32x16.bilinear"]
    cases["rgb.png"] += [(*other.split("."), "RGB") for other in others] + [("18", "16", "bicubic", "L")]
    cases["gray.png"] += [("18", "16", "bicubic", "L"), ("18", "16", "bicubic", "RGBA")]
    cases["rgba.png"] += [("18", "16", "bicubic", "RGBA"), ("c17x40", "15x36", "bilinear", "RGBA")]
    cases["opacity.jp2"] += [("18", "16", "bicubic", "RGBA")]
    for old in FOLDER.glob("*.npy"):
        old.unlink()
    # Of these the program only says what they are.
    rgb.save(FOLDER / "unread.avif", quality=50)
    for name, (image, options) in images.items():
        image.save(FOLDER / name, **options)
        opened = ImageOps.exif_transpose(Image.open(FOLDER / name))
        for resize, crop, interpolation, mode in cases[name]:
            mode_interpolation = InterpolationMode(interpolation)
            if resize.startswith("c"):
                to = ResizeKeepRatio(sides(resize[1:]), interpolation=interpolation)
            elif "x" in resize:
                to = lambda image: F.resize(image, sides(resize), mode_interpolation)
            else:
                to = lambda image: F.resize(image, int(resize), mode_interpolation)
            cropped = np.asarray(F.center_crop(to(opened.convert(mode)), sides(crop)))
            np.save(FOLDER / f"{name}.{resize}.{crop}.{interpolation}.{mode}.npy", cropped)


def sides(text):
    numbers = [int(number) for number in text.split("x")]
    return numbers * 2 if len(numbers) == 1 else numbers


if __name__ == "__main__":
    main()
