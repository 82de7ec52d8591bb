"""Small models of the architectures of Hugging Face's transformers: of most a classifier or the encoder of images."""

import torch
import transformers
from small_models import SEED, Small
from torch import Tensor, nn


class Outputs(nn.Module):
    """A model of Hugging Face that returns the named parts of its output; of a list, the first."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        output = self.model(pixel_values)
        parts = [getattr(output, name) for name in self.names]
        return tuple(part[0] if isinstance(part, tuple | list) else part for part in parts)


class LastStage(nn.Module):
    """A backbone of Hugging Face, which returns the feature map of every stage: of these, the last."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.backbone(pixel_values).feature_maps[-1]


class Masked(nn.Module):
    """ViTMAE, which leaves random patches out, with the same patches left out of every image."""

    def __init__(self, model: nn.Module, patches: int) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("noise", torch.rand(1, patches, generator=torch.Generator().manual_seed(SEED)))

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model(pixel_values, noise=self.noise.expand(len(pixel_values), -1)).logits


class Patches(nn.Module):
    """SigLIP 2, whose input is a list of patches, with the patches cut from the image."""

    def __init__(self, model: nn.Module, patch: int) -> None:
        super().__init__()
        self.model, self.patch = model, patch

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = images.shape
        rows, columns, patch = height // self.patch, width // self.patch, self.patch
        cut = images.reshape(batch, channels, rows, patch, columns, patch).permute(0, 2, 4, 3, 5, 1)
        patches = cut.reshape(batch, rows * columns, patch * patch * channels)
        mask = torch.ones(batch, rows * columns, dtype=torch.long)
        output = self.model(patches, mask, torch.tensor([[rows, columns]] * batch))
        return output.last_hidden_state, output.pooler_output


def _hugging(kind: str, *outputs: str, side: int = 64, channels: int = 3, **config: object) -> Small:
    return Small(lambda: Outputs(_hugging_model(kind, **config), outputs), side, outputs, channels)


def _hugging_model(kind: str, **config: object) -> nn.Module:
    family = getattr(transformers, kind)
    return family(family.config_class(**config))


def _encoder(kind: str, *outputs: str, side: int = 64, **config: object) -> Small:
    """A ViT of Hugging Face."""
    return _hugging(kind, *outputs, side=side, **(_VIT | {"image_size": side, "patch_size": 16} | config))


_STATES = ("last_hidden_state", "pooler_output")
_DETECTION = ("logits", "pred_boxes")
_VIT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
_VITPOSE = _VIT | {
    "model_type": "vitpose_backbone", "image_size": [64, 64], "patch_size": [16, 16], "out_features": ["stage2"],
}
_MAE = {
    "image_size": 64, "patch_size": 16, "decoder_hidden_size": 64, "decoder_num_hidden_layers": 1,
    "decoder_num_attention_heads": 2, "decoder_intermediate_size": 128,
}
_STAGED = _VIT | {"num_hidden_layers": 4, "mlp_ratio": 2, "out_indices": [1, 2, 3, 4]}
_DINOV2 = _STAGED | {"model_type": "dinov2", "reshape_hidden_states": False}
_DINOV2_WINDOWS = _STAGED | {"model_type": "rf_detr_dinov2", "image_size": 128, "patch_size": 16, "num_windows": 2}
_DINOV2_PARTS = _STAGED | {"model_type": "dinov2", "image_size": 32, "patch_size": 16}
_BEIT_STAGES = _STAGED | {
    "model_type": "beit", "image_size": 64, "patch_size": 16, "reshape_hidden_states": False,
    "use_relative_position_bias": True,
}
_VITDET = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2, "window_block_indices": [0, 1],
    "window_size": 4, "use_relative_position_embeddings": True,
}
_VITDET_RGBA = _VITDET | {"model_type": "vitdet", "image_size": 128, "num_channels": 4, "out_features": ["stage4"]}
_SWIN = {"image_size": 64, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_SWIN_STAGES = {
    "model_type": "swin", "image_size": 128, "embed_dim": 16, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2],
    "window_size": 4, "out_features": ["stage1", "stage2", "stage3", "stage4"],
}
_MIT = {"depths": [1, 1, 1, 1], "hidden_sizes": [32, 32, 64, 64], "num_attention_heads": [1, 1, 2, 2]}
_SAM = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_dim": 128, "output_channels": 32,
    "image_size": 128, "window_size": 3, "global_attn_indexes": [1], "num_pos_feats": 16,
}
_RESNET = {
    "model_type": "resnet", "embedding_size": 8, "hidden_sizes": [8, 16, 32, 64], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_features": ["stage4"],
}
_RT_RESNET = _RESNET | {"model_type": "rt_detr_resnet", "out_features": ["stage2", "stage3", "stage4"]}
_HGNET = {
    "model_type": "hgnet_v2", "embedding_size": 8, "hidden_sizes": [16, 16, 32, 64], "stem_channels": [3, 8, 8],
    "stage_in_channels": [8, 16, 16, 32], "stage_mid_channels": [8, 8, 16, 16], "stage_out_channels": [16, 16, 32, 64],
    "stage_num_blocks": [1, 1, 1, 1], "stage_numb_of_layers": [2, 2, 2, 2], "depths": [1, 1, 1, 1],
    "out_features": ["stage2", "stage3", "stage4"],
}
_DETR = {
    "d_model": 64, "num_queries": 20, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "backbone_config": _RESNET,
}
# Few queries: they are the best outputs of the encoder, whose order two correct runtimes see differently on a near tie.
_REAL_TIME = {
    "encoder_in_channels": [16, 32, 64], "encoder_hidden_dim": 64, "d_model": 64, "decoder_in_channels": [64, 64, 64],
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "num_queries": 4, "decoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2,
}

HUGGING_FACE = {
    "aimv2": _encoder("Aimv2VisionModel", *_STATES),
    "beit": _encoder("BeitForImageClassification", "logits", use_relative_position_bias=True),
    "beit segmentation": _encoder(
        "BeitForSemanticSegmentation", "logits", num_hidden_layers=4, out_indices=[1, 2, 3, 4],
        use_relative_position_bias=True,
    ),
    "blip": _encoder("BlipVisionModel", *_STATES),
    "blip_2": _encoder("Blip2VisionModel", *_STATES),
    "chinese_clip": _encoder("ChineseCLIPVisionModel", *_STATES),
    "clip": _encoder("CLIPVisionModelWithProjection", "image_embeds", "last_hidden_state", projection_dim=32),
    "conditional_detr": _hugging("ConditionalDetrForObjectDetection", *_DETECTION, side=128, **_DETR),
    "cvt": _hugging(
        "CvtForImageClassification", "logits", embed_dim=[32, 64, 64], num_heads=[1, 2, 2], depth=[1, 2, 3]
    ),
    "data2vec": _encoder("Data2VecVisionForImageClassification", "logits", use_relative_position_bias=True),
    "deformable_detr": _hugging("DeformableDetrForObjectDetection", *_DETECTION, side=128, **_DETR),
    "deit": _encoder("DeiTForImageClassification", "logits"),
    "depth_anything": _hugging(
        "DepthAnythingForDepthEstimation", "predicted_depth", side=56,
        backbone_config=_DINOV2 | {"image_size": 56, "patch_size": 14}, patch_size=14, reassemble_hidden_size=64,
        neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16, head_hidden_size=16, depth_estimation_type="metric",
        max_depth=10,
    ),
    "depth_pro": _hugging(
        "DepthProForDepthEstimation", "predicted_depth", side=128, patch_size=32, fusion_hidden_size=32,
        image_model_config=_DINOV2_PARTS, patch_model_config=_DINOV2_PARTS, fov_model_config=_DINOV2_PARTS,
        intermediate_hook_ids=[3, 1], intermediate_feature_dims=[32, 32], scaled_images_feature_dims=[64, 64, 32],
    ),
    "detr": _hugging("DetrForObjectDetection", *_DETECTION, side=128, **_DETR),
    "d_fine": _hugging("DFineForObjectDetection", *_DETECTION, side=128, **_REAL_TIME, backbone_config=_HGNET),
    "dinov2": _encoder("Dinov2Model", *_STATES, mlp_ratio=2),
    "dinov2_with_registers": _encoder("Dinov2WithRegistersModel", *_STATES, mlp_ratio=2),
    "dinov3_vit": _encoder("DINOv3ViTModel", *_STATES),
    "donut": _hugging("DonutSwinModel", *_STATES, **_SWIN),
    "dpt": _encoder(
        "DPTForDepthEstimation", "predicted_depth", num_hidden_layers=4, backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=32,
    ),
    "eomt": _encoder(
        "EomtForUniversalSegmentation", "masks_queries_logits", "class_queries_logits", num_hidden_layers=4,
        num_blocks=1, num_queries=5, mlp_ratio=2,
    ),
    "focalnet": _hugging("FocalNetForImageClassification", "logits", image_size=64, embed_dim=32, depths=[1, 1, 2, 1]),
    "git": _encoder("GitVisionModel", "last_hidden_state"),
    "glpn": _hugging("GLPNForDepthEstimation", "predicted_depth", **_MIT, decoder_hidden_size=32),
    "groupvit": _encoder(
        "GroupViTVisionModel", *_STATES, num_hidden_layers=4, depths=[2, 1, 1], num_group_tokens=[8, 4, 0],
        num_output_groups=[8, 4, 4],
    ),
    "hiera": _hugging(
        "HieraForImageClassification", "logits", image_size=[64, 64], embed_dim=32, depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 8],
    ),
    "idefics3": _encoder("Idefics3VisionTransformer", "last_hidden_state"),
    "ijepa": _encoder("IJepaModel", "last_hidden_state"),
    "internvl": _encoder(
        "InternVLVisionModel", "last_hidden_state", image_size=[64, 64], patch_size=[16, 16], use_qk_norm=True
    ),
    "janus": _encoder("JanusVisionModel", *_STATES, mlp_ratio=2),
    "levit": _hugging(
        "LevitForImageClassification", "logits", side=224, hidden_sizes=[32, 48, 64], num_attention_heads=[2, 3, 4],
        depths=[1, 1, 1], key_dim=[16, 16, 16],
    ),
    "mask2former": _hugging(
        "Mask2FormerForUniversalSegmentation", "class_queries_logits", "masks_queries_logits", side=128,
        backbone_config=_SWIN_STAGES, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=64,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=64, num_queries=8,
    ),
    "maskformer": _hugging(
        "MaskFormerForInstanceSegmentation", "class_queries_logits", "masks_queries_logits", side=128,
        backbone_config=_SWIN_STAGES, decoder_config={"model_type": "detr"} | _DETR, fpn_feature_size=32,
        mask_feature_size=32,
    ),
    "metaclip_2": _encoder("MetaClip2VisionModel", *_STATES),
    "mgp_str": _encoder("MgpstrModel", "last_hidden_state", image_size=[64, 64], mlp_ratio=2.0),
    "mlcd": _encoder("MLCDVisionModel", *_STATES),
    "mobilevit": _hugging(
        "MobileViTForImageClassification", "logits", image_size=64, hidden_sizes=[32, 32, 64],
        neck_hidden_sizes=[16, 16, 32, 32, 32, 32, 64],
    ),
    "mobilevitv2": _hugging(
        "MobileViTV2ForImageClassification", "logits", side=128, image_size=128, width_multiplier=0.5
    ),
    "owlvit": _encoder("OwlViTVisionModel", *_STATES),
    "perceiver": _hugging(
        "PerceiverForImageClassificationLearned", "logits", num_latents=16, d_latents=64, num_blocks=1,
        num_self_attends_per_block=2, num_self_attention_heads=2, num_cross_attention_heads=1, image_size=64,
    ),
    "pixio": _encoder("PixioModel", "last_hidden_state", mlp_ratio=2),
    "pvt": _hugging("PvtForImageClassification", "logits", image_size=64, **_MIT),
    "pvt_v2": _hugging("PvtV2ForImageClassification", "logits", image_size=64, **_MIT),
    "radio": _encoder("RadioModel", "summary", mlp_ratio=2.0),
    "rf_detr": _hugging(
        "RfDetrForObjectDetection", *_DETECTION, side=128, d_model=64, num_queries=4, decoder_layers=2,
        decoder_self_attention_heads=2, decoder_cross_attention_heads=2, decoder_ffn_dim=128, group_detr=1,
        backbone_config=_DINOV2_WINDOWS,
    ),
    "rt_detr": _hugging("RTDetrForObjectDetection", *_DETECTION, side=128, **_REAL_TIME, backbone_config=_RT_RESNET),
    "rt_detr_v2": _hugging(
        "RTDetrV2ForObjectDetection", *_DETECTION, side=128, **_REAL_TIME, backbone_config=_RT_RESNET
    ),
    "sam": _hugging("SamVisionModel", "last_hidden_state", side=128, **_SAM),
    "sam2": _hugging(
        "Sam2VisionModel", "fpn_hidden_states", "last_hidden_state", side=128, fpn_hidden_size=32,
        backbone_channel_list=[256, 128, 64, 32], backbone_feature_sizes=[[32, 32], [16, 16], [8, 8]],
        backbone_config={
            "model_type": "sam2_hiera_det_model", "hidden_size": 32, "image_size": [128, 128],
            "blocks_per_stage": [1, 1, 2, 1], "embed_dim_per_stage": [32, 64, 128, 256],
            "num_attention_heads_per_stage": [1, 2, 4, 8], "window_size_per_stage": [8, 4, 4, 4],
            "global_attention_blocks": [3], "window_positional_embedding_background_size": [7, 7],
        },
    ),
    "sam_hq": _hugging("SamHQVisionModel", "last_hidden_state", side=128, **_SAM),
    "sapiens2": _encoder(
        "Sapiens2Model", "last_hidden_state", num_key_value_attention_heads=1, num_first_full_attention_layers=1,
        num_last_full_attention_layers=0,
    ),
    "segformer": _hugging("SegformerForSemanticSegmentation", "logits", **_MIT, decoder_hidden_size=32),
    "siglip": _encoder("SiglipVisionModel", *_STATES),
    "siglip2": Small(
        lambda: Patches(_hugging_model("Siglip2VisionModel", **_VIT, num_patches=16, patch_size=16), 16), 64, _STATES
    ),
    "swiftformer": _hugging(
        "SwiftFormerForImageClassification", "logits", side=128, image_size=128, embed_dims=[32, 32, 64, 64],
        depths=[1, 1, 2, 1],
    ),
    "swin": _hugging("SwinForImageClassification", "logits", **_SWIN),
    "swin2sr": _hugging(
        "Swin2SRForImageSuperResolution", "reconstruction", side=32, image_size=32, embed_dim=32, depths=[2],
        num_heads=[2], window_size=8,
    ),
    "swinv2": _hugging("Swinv2ForImageClassification", "logits", **_SWIN),
    "table_transformer": _hugging("TableTransformerForObjectDetection", *_DETECTION, side=128, **_DETR),
    "tipsv2": _encoder("Tipsv2VisionModel", *_STATES, mlp_ratio=2),
    "trocr": _encoder("ViTModel", "last_hidden_state", qkv_bias=False),
    "upernet": _hugging(
        "UperNetForSemanticSegmentation", "logits", backbone_config=_SWIN_STAGES, hidden_size=32,
        use_auxiliary_head=False, num_labels=10,
    ),
    "vit": _encoder("ViTForImageClassification", "logits"),
    "vit_mae": Small(lambda: Masked(_hugging_model("ViTMAEForPreTraining", **_VIT, **_MAE), 16), 64),
    "vit_msn": _encoder("ViTMSNForImageClassification", "logits"),
    "vitdet": Small(
        lambda: LastStage(_hugging_model("VitDetBackbone", **_VITDET, image_size=128)), 128, ("feature_map",)
    ),
    "vitmatte": _hugging(
        "VitMatteForImageMatting", "alphas", side=128, channels=4, hidden_size=64, fusion_hidden_sizes=[16, 16, 16, 16],
        convstream_hidden_sizes=[16, 16, 16], backbone_config=_VITDET_RGBA,
    ),
    "vitpose": _hugging("VitPoseForPoseEstimation", "heatmaps", num_labels=5, backbone_config=_VITPOSE),
    "yolos": _encoder("YolosForObjectDetection", *_DETECTION, image_size=[64, 64], num_detection_tokens=8),
    "zoedepth": _hugging(
        "ZoeDepthForDepthEstimation", "predicted_depth", backbone_config=_BEIT_STAGES,
        neck_hidden_sizes=[16, 16, 32, 32], fusion_hidden_size=16, bottleneck_features=16, num_relative_features=8,
        bin_embedding_dim=16,
    ),
}
