#!/usr/bin/env python3
"""Makes a cache of the Hugging Face hub that holds small models with random weights under the names of real ones.

    python scripts/hub_cache.py FOLDER [NAME…]
    HF_HOME=FOLDER HF_HUB_OFFLINE=1 onnx-ptq4vit export google/vit-base-patch16-224 -o vit.onnx

What loads a model from the hub then runs without the network, and unchanged. The models have the real sizes of images, patches
and preprocessing, but few blocks and channels, and seeded weights. Needs torch, timm, transformers and open_clip_torch.
"""

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import open_clip
import timm
import torch
import transformers
from safetensors.torch import save_file
from timm.models._hub import save_for_hf

SEED = 20
ONES = {"do_normalize": True, "do_resize": True}
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
OPENAI = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}
SQUARE = {"height": 224, "width": 224}

# By the name on the hub, what makes the architecture small.
STAGES = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}
TIMM = {
    "vit_tiny_patch16_224.augreg_in21k_ft_in1k": {"depth": 2},
    "vit_small_patch16_224.augreg_in21k_ft_in1k": {"depth": 2, "embed_dim": 192, "num_heads": 3},
    "deit_tiny_patch16_224.fb_in1k": {"depth": 2, "embed_dim": 96},
    "swin_tiny_patch4_window7_224.ms_in1k": STAGES,
    "vit_small_patch14_reg4_dinov2.lvd142m": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "vit_base_patch16_siglip_224.webli": {"depth": 2, "embed_dim": 96, "num_heads": 3},
    "vit_base_patch32_clip_224.openai": {"depth": 2, "embed_dim": 96, "num_heads": 3},
}

SMALL = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 192}
TEXT = SMALL | {"vocab_size": 64, "max_position_embeddings": 16, "bos_token_id": 0, "eos_token_id": 1}
CLASSES = dict(enumerate(["tabby cat", "golden retriever", "school bus", "espresso", "volcano"]))
NAMED = {"id2label": CLASSES, "label2id": {name: id for id, name in CLASSES.items()}}
# By the name on the hub: the class, its configuration, and the file of its processor.
HUGGING_FACE = {
    "google/vit-base-patch16-224": (
        "ViTForImageClassification", SMALL | NAMED,
        ONES | HALF | {"image_processor_type": "ViTFeatureExtractor", "resample": 2, "size": 224},
    ),
    "facebook/deit-tiny-patch16-224": (
        "DeiTForImageClassification", SMALL | NAMED,
        ONES | IMAGENET | {
            "feature_extractor_type": "DeiTFeatureExtractor", "resample": 3, "size": 256, "do_center_crop": True,
            "crop_size": 224,
        },
    ),
    "microsoft/swin-tiny-patch4-window7-224": (
        "SwinForImageClassification", STAGES | NAMED,
        ONES | IMAGENET | {"feature_extractor_type": "ViTFeatureExtractor", "resample": 3, "size": 224},
    ),
    "microsoft/beit-base-patch16-224": (
        "BeitForImageClassification", SMALL | NAMED | {"use_relative_position_bias": True, "use_mask_token": False},
        ONES | HALF | {
            "feature_extractor_type": "BeitFeatureExtractor", "resample": 2, "size": 224, "do_center_crop": False,
            "crop_size": 224,
        },
    ),
    "facebook/dinov2-small": (
        "Dinov2Model", SMALL | {"image_size": 518, "patch_size": 14, "mlp_ratio": 2},
        ONES | IMAGENET | {
            "image_processor_type": "BitImageProcessor", "resample": 3, "size": {"shortest_edge": 256}, "do_center_crop": True,
            "crop_size": SQUARE, "do_convert_rgb": True, "do_rescale": True, "rescale_factor": 0.00392156862745098,
        },
    ),
    "openai/clip-vit-base-patch32": (
        "CLIPModel",
        {
            "vision_config": SMALL | {"image_size": 224, "patch_size": 32, "projection_dim": 64}, "text_config": TEXT,
            "projection_dim": 64,
        },
        ONES | OPENAI | {
            "feature_extractor_type": "CLIPFeatureExtractor", "resample": 3, "size": 224, "do_center_crop": True,
            "crop_size": 224,
        },
    ),
    "google/siglip-base-patch16-224": (
        "SiglipModel", {"vision_config": SMALL | {"image_size": 224, "patch_size": 16}, "text_config": TEXT},
        ONES | HALF | {
            "image_processor_type": "SiglipImageProcessor", "resample": 3, "size": SQUARE, "do_rescale": True,
            "rescale_factor": 0.00392156862745098,
        },
    ),
}

OPEN_CLIP = {
    "timm/ViT-B-16-SigLIP": {
        "model_cfg": {
            "embed_dim": 64,
            "vision_cfg": {"image_size": 224, "patch_size": 16, "width": 96, "layers": 2, "head_width": 32},
            "text_cfg": {"context_length": 16, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1},
        },
        "preprocess_cfg": {
            "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic", "resize_mode": "squash",
        },
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what HF_HOME is to name")
    parser.add_argument("names", nargs="*", metavar="NAME", help="the models to make; all by default")
    args = parser.parse_args()
    fill(args.folder, args.names or list(MODELS))


def fill(folder: Path, names: list[str]) -> None:
    """Adds the models of these names to the cache at `folder`."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in names:
        add(folder / "hub", name, MODELS[name])


def save_timm(name: str, options: dict[str, object], folder: Path) -> None:
    model = timm.create_model(name, **options)
    unlike_fresh(model)
    save_for_hf(model, folder, model_args=options, safe_serialization=True)


def save_hugging_face(kind: str, options: dict[str, object], processor: dict[str, object], folder: Path) -> None:
    family = getattr(transformers, kind)
    model = family(family.config_class(**options))
    unlike_fresh(model)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2))


def save_open_clip(config: dict[str, object], folder: Path) -> None:
    model = open_clip.CLIP(**config["model_cfg"])
    unlike_fresh(model)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(config, indent=2))


def unlike_fresh(model: torch.nn.Module) -> None:
    """Give every parameter values of its own: many are zeros or ones in a new model, and then a lost one is not missed."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)


def add(hub: Path, name: str, save: Callable[[Path], None]) -> None:
    """Puts what `save` writes to a folder into the cache, as the only revision of the repository `name`."""
    torch.manual_seed(SEED)
    repository = hub / f"models--{name.replace('/', '--')}"
    shutil.rmtree(repository, ignore_errors=True)
    commit = hashlib.sha1(name.encode()).hexdigest()
    snapshot, blobs, refs = repository / "snapshots" / commit, repository / "blobs", repository / "refs"
    for made in (snapshot, blobs, refs):
        made.mkdir(parents=True)
    (refs / "main").write_text(commit)
    with tempfile.TemporaryDirectory(dir=hub) as folder:
        save(Path(folder))
        for file in sorted(Path(folder).iterdir()):
            blob = blobs / hashlib.sha256(file.read_bytes()).hexdigest()
            os.replace(file, blob)
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
    size = sum(blob.stat().st_size for blob in blobs.iterdir())
    print(f"{name:50} {size / 1e6:6.1f} MB", flush=True)


MODELS = (
    {f"timm/{name}": partial(save_timm, name, options) for name, options in TIMM.items()}
    | {name: partial(save_hugging_face, *row) for name, row in HUGGING_FACE.items()}
    | {name: partial(save_open_clip, config) for name, config in OPEN_CLIP.items()}
)

if __name__ == "__main__":
    main()
