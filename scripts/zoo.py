"""The vision transformers that onnx-ptq4vit promises to read: each full-size and, with the same structure, small."""

from collections.abc import Callable
from dataclasses import dataclass

import timm
import torch
import transformers
from hybrid import Hybrid
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn


class Features(nn.Module):
    """A Hugging Face encoder as its exports have it: hidden states, then the pooled output."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        output = self.encoder(pixel_values)
        return output.last_hidden_state, output.pooler_output


class Logits(nn.Module):
    """A Hugging Face classifier that returns a tensor."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.classifier(pixel_values).logits


@dataclass(frozen=True)
class Architecture:
    """`small` takes images of `side` pixels; `full` are the real ones that share its structure."""

    small: Callable[[], nn.Module]
    side: int
    full: dict[str, Callable[[], nn.Module]]
    outputs: tuple[str, ...] = ("logits",)
    # dynamo of PyTorch 2.15 fails on fused attention with a bias or mask: it gets these models unfused.
    biased_attention: bool = False


def _timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name)


def _small_timm(kind: type[nn.Module], **options) -> Callable[[], nn.Module]:
    return lambda: kind(img_size=8, patch_size=4, embed_dim=12, depth=2, num_heads=2, mlp_ratio=2, num_classes=4, **options)


def _small_swin() -> nn.Module:
    return SwinTransformer(
        img_size=16, patch_size=2, embed_dim=8, depths=(2, 2), num_heads=(2, 2), window_size=4, mlp_ratio=2, num_classes=4
    )


def _hugging(kind: str, wrap: type[nn.Module], config: str, **options) -> Callable[[], nn.Module]:
    return lambda: wrap(getattr(transformers, kind)(getattr(transformers, config)(**options)))


def _small_hugging(kind: str, wrap: type[nn.Module], config: str, **options) -> Callable[[], nn.Module]:
    common = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return _hugging(kind, wrap, config, **common, image_size=8, patch_size=4, **options)


def _small_dinov2(**options) -> Callable[[], nn.Module]:
    common = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    return _hugging("Dinov2Model", Features, "Dinov2Config", **common, image_size=8, patch_size=4, **options)


_FEATURES = ("last_hidden_state", "pooler_output")

ARCHITECTURES = {
    "vit": Architecture(
        small=_small_timm(VisionTransformer),
        side=8,
        full={
            "vit_tiny": _timm("vit_tiny_patch16_224"),
            "vit_small_32": _timm("vit_small_patch32_224"),
            "vit_small": _timm("vit_small_patch16_224"),
            "vit_base": _timm("vit_base_patch16_224"),
            "vit_base_384": _timm("vit_base_patch16_384"),
            "deit_small": _timm("deit_small_patch16_224"),
            "deit_base": _timm("deit_base_patch16_224"),
            "deit_base_384": _timm("deit_base_patch16_384"),
        },
    ),
    "deit_distilled": Architecture(
        small=_small_timm(VisionTransformerDistilled),
        side=8,
        full={"deit_small_distilled": _timm("deit_small_distilled_patch16_224")},
    ),
    "swin": Architecture(
        small=_small_swin,
        side=16,
        full={
            "swin_tiny": _timm("swin_tiny_patch4_window7_224"),
            "swin_small": _timm("swin_small_patch4_window7_224"),
            "swin_base": _timm("swin_base_patch4_window7_224"),
            "swin_base_384": _timm("swin_base_patch4_window12_384"),
        },
        biased_attention=True,
    ),
    "hybrid": Architecture(small=Hybrid, side=16, full={}),
    "hf_vit": Architecture(
        small=_small_hugging("ViTForImageClassification", Logits, "ViTConfig", num_labels=4),
        side=8,
        full={"hf_vit": _hugging("ViTForImageClassification", Logits, "ViTConfig", num_labels=1000)},
    ),
    "hf_deit": Architecture(
        small=_small_hugging("DeiTForImageClassificationWithTeacher", Logits, "DeiTConfig", num_labels=4),
        side=8,
        full={"hf_deit": _hugging("DeiTForImageClassificationWithTeacher", Logits, "DeiTConfig", num_labels=1000)},
    ),
    "hf_swin": Architecture(
        small=_hugging(
            "SwinForImageClassification", Logits, "SwinConfig",
            image_size=16, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, mlp_ratio=2.0, num_labels=4,
        ),
        side=16,
        full={"hf_swin": _hugging("SwinForImageClassification", Logits, "SwinConfig", num_labels=1000)},
        biased_attention=True,
    ),
    "hf_beit": Architecture(
        small=_small_hugging(
            "BeitForImageClassification", Logits, "BeitConfig", num_labels=4, use_relative_position_bias=True, layer_scale_init_value=1.0
        ),
        side=8,
        full={"hf_beit": _hugging("BeitForImageClassification", Logits, "BeitConfig", num_labels=1000, use_relative_position_bias=True)},
        biased_attention=True,
    ),
    "hf_dinov2": Architecture(
        small=_small_dinov2(),
        side=8,
        full={"hf_dinov2": _hugging("Dinov2Model", Features, "Dinov2Config", image_size=224, patch_size=14)},
        outputs=_FEATURES,
    ),
    "hf_dinov2_swiglu": Architecture(
        small=_small_dinov2(use_swiglu_ffn=True),
        side=8,
        full={},
        outputs=_FEATURES,
    ),
    "hf_clip": Architecture(
        small=_small_hugging("CLIPVisionModel", Features, "CLIPVisionConfig"),
        side=8,
        full={"hf_clip": _hugging("CLIPVisionModel", Features, "CLIPVisionConfig")},
        outputs=_FEATURES,
    ),
    "hf_siglip": Architecture(
        small=_small_hugging("SiglipVisionModel", Features, "SiglipVisionConfig"),
        side=8,
        full={"hf_siglip": _hugging("SiglipVisionModel", Features, "SiglipVisionConfig")},
        outputs=_FEATURES,
    ),
}


def seeded(build: Callable[[], nn.Module], *, seed: int, small: bool) -> nn.Module:
    """With random weights unlike fresh ones: where all biases are zero, TorchScript keeps one of them."""
    torch.manual_seed(seed)
    model = build().eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() <= 1:
            nn.init.trunc_normal_(parameter, mean=parameter.mean().item(), std=0.02)
        elif small and ("pos" in name or "token" in name or "probe" in name):
            nn.init.normal_(parameter, std=0.3)
        elif small:
            # The usual weights of 0.02 suit some hundred channels; in a narrow model every signal would vanish.
            nn.init.xavier_uniform_(parameter)
        if small:
            parameter.data.mul_(256).round_().div_(256)  # few bits, so that the file compresses
    return model
