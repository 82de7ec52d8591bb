#!/usr/bin/env python3
"""Makes fixtures/preprocessing: configuration files, and what transformers, timm and open_clip's recipe make of an image.

Needs scripts/requirements-fixtures.txt. Each folder has one configuration file, as a hub has it but for small sizes, and
`expected.npy`, float [C, H, W], what the library makes of fixtures/images/rgb.png (Pillow's backend of transformers; that of
torchvision is held against it here).
"""
import json
import pathlib
import shutil

import numpy as np
import timm.data
import torch
import transformers
from PIL import Image
from timm.data.transforms import CenterCropOrPad, ResizeKeepRatio
from torchvision import transforms

ROOT = pathlib.Path(__file__).resolve().parent.parent / "fixtures"
IMAGE = Image.open(ROOT / "images" / "rgb.png").convert("RGB")  # 37 x 29
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
ON = {"do_normalize": True, "do_resize": True}

# As the hub has them (google/vit-base-patch16-224, facebook/deit-…, microsoft/swin-…, microsoft/beit-…, facebook/dinov2-…,
# openai/clip-…, google/siglip-…, facebook/convnext-…, facebook/levit-…, sail/poolformer-…, apple/mobilevit-…), with other sizes.
HUGGING_FACE = {
    "vit_old": {**ON, **HALF, "size": 16, "resample": 2},
    "vit": {
        **ON, **HALF, "do_rescale": True, "image_processor_type": "ViTImageProcessor", "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": {"height": 16, "width": 18},
    },
    "deit": {
        **ON, **IMAGENET, "crop_size": 16, "do_center_crop": True, "feature_extractor_type": "DeiTFeatureExtractor",
        "resample": 3, "size": 21,
    },
    "swin": {**ON, **IMAGENET, "feature_extractor_type": "ViTFeatureExtractor", "resample": 3, "size": 16},
    "beit": {
        **ON, **HALF, "crop_size": 16, "do_center_crop": False, "feature_extractor_type": "BeitFeatureExtractor",
        "resample": 2, "size": 16,
    },
    "dinov2": {
        **ON, **IMAGENET, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "do_convert_rgb": True,
        "do_rescale": True, "image_processor_type": "BitImageProcessor", "resample": 3, "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": 19},
    },
    "dinov3": {
        **ON, **IMAGENET, "crop_size": None, "do_center_crop": None, "do_rescale": True, "data_format": "channels_first",
        "image_processor_type": "DINOv3ViTImageProcessorFast", "resample": 2, "rescale_factor": 0.00392156862745098,
        "size": {"height": 16, "width": 16},
    },
    "clip": {
        **ON, **OPENAI, "crop_size": 16, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor",
        "resample": 3, "size": 16,
    },
    "siglip": {
        **ON, **HALF, "do_rescale": True, "image_processor_type": "SiglipImageProcessor", "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"height": 16, "width": 16},
    },
    "convnext": {
        **ON, **IMAGENET, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", "resample": 3, "size": 17,
    },
    "levit": {
        **ON, **IMAGENET, "do_center_crop": True, "feature_extractor_type": "LevitFeatureExtractor", "resample": 3, "size": 16,
    } | {"crop_size": 16},
    "poolformer": {
        **ON, **IMAGENET, "crop_pct": 0.9, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True,
        "do_rescale": True, "image_processor_type": "PoolFormerImageProcessor", "resample": 3,
        "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 16},
    },
    "mobilevit": {
        "crop_size": {"height": 16, "width": 16}, "do_center_crop": True, "do_flip_channel_order": True, "do_resize": True,
        "do_rescale": True, "image_processor_type": "MobileViTImageProcessor", "resample": 2,
        "rescale_factor": 0.00392156862745098, "size": {"shortest_edge": 18},
    },
    "efficientnet": {
        **ON, **IMAGENET, "do_center_crop": False, "do_rescale": True, "include_top": True, "rescale_offset": False,
        "image_processor_type": "EfficientNetImageProcessor", "resample": 0, "rescale_factor": 0.00392156862745098,
        "size": {"height": 16, "width": 16},
    },
    "offset": {
        "do_normalize": False, "do_resize": True, "do_center_crop": False, "do_rescale": True, "rescale_offset": True,
        "include_top": False, "image_processor_type": "EfficientNetImageProcessor", "resample": 3,
        "rescale_factor": 0.00784313725490196, "size": {"height": 16, "width": 16},
    },
    "bytes": {
        "do_normalize": False, "do_resize": True, "do_rescale": False, "image_processor_type": "ViTImageProcessor",
        "resample": 5, "size": {"height": 16, "width": 16},
    },
    "box": {**ON, **HALF, "image_processor_type": "ViTImageProcessor", "resample": 4, "size": {"height": 13, "width": 16}},
}
TIMM = {
    "timm_center": {"crop_mode": "center", "crop_pct": 0.9, "input_size": [3, 16, 16], "interpolation": "bicubic"},
    "timm_squash": {"crop_mode": "squash", "crop_pct": 0.9, "input_size": [3, 16, 20], "interpolation": "bilinear"},
    "timm_border": {"crop_mode": "border", "crop_pct": 1.0, "input_size": [3, 17, 17], "interpolation": "bicubic"},
    "timm_oblong": {"crop_pct": 0.875, "input_size": [3, 20, 16], "interpolation": "lanczos"},
}
OPEN_CLIP = {
    "open_clip": {"interpolation": "bicubic", "resize_mode": "shortest"},
    "open_clip_squash": {"interpolation": "bicubic", "resize_mode": "squash", "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
    "open_clip_longest": {"interpolation": "bicubic", "resize_mode": "longest", "fill_color": 0},
}


def write(name, file, config, expected):
    folder = ROOT / "preprocessing" / name
    folder.mkdir(parents=True)
    (folder / file).write_text(json.dumps(config, indent=2) + "\n")
    np.save(folder / "expected.npy", np.asarray(expected, dtype=np.float32))


def processor_class(config):
    name = config.get("image_processor_type") or config.get("feature_extractor_type") or "ViTImageProcessor"
    return name.replace("FeatureExtractor", "ImageProcessor").removesuffix("Fast")


def main():
    shutil.rmtree(ROOT / "preprocessing", ignore_errors=True)
    for name, config in HUGGING_FACE.items():
        cls = processor_class(config)
        settings = {key: value for key, value in config.items() if not key.endswith("_type")}
        of = {}
        only_pillow = settings.get("resample") in (4, 5)
        for end in ("Pil",) if only_pillow else ("Pil", ""):
            processor = getattr(transformers, cls + end, None)
            if processor is not None:
                of[end] = processor.from_dict(settings)(IMAGE, return_tensors="np")["pixel_values"][0]
        expected = of["Pil"] if "Pil" in of else of[""]
        level = 1 / 255 / min(settings.get("image_std", [1.0])) if config.get("do_rescale", True) else 1.0
        if not only_pillow:
            print(f"{name:18} {expected.shape} torchvision differs by {np.abs(of[''] - expected).max() / level:.2f} levels")
        write(name, "preprocessor_config.json", config, expected)
    for name, config in TIMM.items():
        config = {**config, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        transform = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=config))
        hub = {"architecture": "vit_tiny_patch16_224", "num_classes": 1000, "pretrained_cfg": {**config, "num_classes": 1000}}
        write(name, "config.json", hub, transform(IMAGE))
    for name, config in OPEN_CLIP.items():
        mode, size = config["resize_mode"], 16
        bicubic = transforms.InterpolationMode.BICUBIC
        if mode == "longest":
            steps = [ResizeKeepRatio(size, interpolation="bicubic", longest=1), CenterCropOrPad(size, fill=config["fill_color"])]
        elif mode == "squash":
            steps = [transforms.Resize((size, size), interpolation=bicubic)]
        else:
            steps = [transforms.Resize(size, interpolation=bicubic), transforms.CenterCrop(size)]
        mean, std = config.get("mean", OPENAI["image_mean"]), config.get("std", OPENAI["image_std"])
        transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
        hub = {"model_cfg": {"embed_dim": 8, "vision_cfg": {"image_size": size}}, "preprocess_cfg": config}
        write(name, "open_clip_config.json", hub, transform(IMAGE))


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
