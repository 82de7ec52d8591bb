"""One small model of every timm family that has attention: the smallest, made smaller where its options allow it."""

import timm
from small_models import Small
from timm.models.focalnet import FocalNet
from timm.models.gcvit import GlobalContextVit
from timm.models.metaformer import Attention, LayerNorm2dNoBias, LayerNormNoBias, MetaFormer, SepConv
from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
from timm.models.nest import Nest
from timm.models.volo import VOLO
from torch import nn


def _timm(name: str, side: int = 64, **options: object) -> Small:
    return Small(lambda: timm.create_model(name, **options), side)


def _plain(name: str, side: int = 64, **options: object) -> Small:
    """A ViT without stages."""
    return _timm(name, side, **({"img_size": side, "embed_dim": 96, "depth": 2, "num_heads": 3} | options))


def _class(kind: type[nn.Module], side: int = 64, **options: object) -> Small:
    """A model of timm whose depth is no option of its registered models."""
    return Small(lambda: kind(**options), side)


# A file of timm.models, after the colon the beginning of a model's name: some files hold several architectures.
TIMM = {
    "beit": _plain("beit_base_patch16_224"),
    "byoanet:botnet": _timm("botnet26t_256", 128, img_size=128),
    "byoanet:halonet": _timm("halonet_h1", 256),
    "byoanet:lambda": _timm("lambda_resnet26t", 128, img_size=128),
    "cait": _plain("cait_xxs24_224"),
    "coat:coat_lite": _timm("coat_lite_tiny", img_size=64),
    "coat:coat_tiny": _timm("coat_tiny", img_size=64),
    "convit": _plain("convit_tiny", embed_dim=24, num_heads=4, depth=3, local_up_to_layer=2),
    "cpubone": _timm("cpubone_nano", 128),
    "crossvit": _timm("crossvit_tiny_240", 240),
    "csatv2": _timm("csatv2", 256),
    "davit": _timm("davit_tiny", 112, depths=(1, 1, 1, 1), embed_dims=(24, 48, 96, 192), num_heads=(1, 2, 4, 8)),
    "deepseek_vit": _plain("deepseek_vit_412m", 56),
    "deit:deit3": _plain("deit3_small_patch16_224"),
    "deit:deit": _plain("deit_tiny_patch16_224"),
    "edgenext": _timm("edgenext_xx_small", 128),
    "efficientformer": _timm("efficientformer_l1", 224),
    "efficientformer_v2": _timm("efficientformerv2_s0", 128, img_size=128),
    "efficientvim": _timm("efficientvim_m1", 128, embed_dim=(32, 48, 64), depths=(1, 1, 1)),
    "efficientvit_mit": _timm("efficientvit_b0", 128),
    "efficientvit_msra": _timm("efficientvit_m0", 128, img_size=128),
    "eva:eva02": _plain("eva02_tiny_patch14_224", 56),
    "eva:vit": _plain("vit_tiny_patch16_dinov3_qkvb"),
    "fastvit:fastvit_sa": _timm("fastvit_sa12", 128, layers=(1, 1, 1, 2), embed_dims=(16, 32, 64, 128)),
    "focalnet": _class(FocalNet, embed_dim=32, depths=(1, 1, 1, 1)),
    "gcvit": _class(GlobalContextVit, 224, embed_dim=32, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)),
    "gemma4_vit": _plain("gemma4_vit_167m", 96),
    "hiera": _timm("hiera_tiny_224", 128, img_size=128, embed_dim=32, num_heads=1, stages=(1, 1, 2, 1)),
    "hieradet_sam2": _timm(
        "sam2_hiera_tiny", 128, embed_dim=32, num_heads=1, stages=(1, 1, 2, 1), global_att_blocks=(3,)
    ),
    "iformer": _timm("iformer_t", 128),
    "levit": _timm("levit_128s", 224),
    "lowformer": _timm("lowformer_b0", 128),
    "maxxvit:coatnet": _timm("coatnet_pico_rw_224", 128, img_size=128),
    "maxxvit:maxvit": _timm("maxvit_pico_rw_256", 128, img_size=128),
    "maxxvit:maxxvit": _timm("maxxvit_rmlp_nano_rw_256", 128, img_size=128),
    "metaformer:caformer": _class(
        MetaFormer, depths=(1, 1, 2, 1), dims=(16, 32, 64, 128), token_mixers=[SepConv, SepConv, Attention, Attention],
        norm_layers=[LayerNorm2dNoBias] * 2 + [LayerNormNoBias] * 2,
    ),
    "mobilenetv5": _timm("mobilenetv5_base", 128),
    "mobilevit:mobilevit": _timm("mobilevit_xxs", 128),
    "mobilevit:mobilevitv2": _timm("mobilevitv2_050", 128),
    "mvitv2": _class(MultiScaleVit, cfg=MultiScaleVitCfg(depths=(1, 1, 2, 1), embed_dim=32), img_size=64),
    "naflexvit": _timm("naflexvit_base_patch16_parfac_gap", 96, embed_dim=96, depth=2, num_heads=3),
    "nest": _class(Nest, img_size=64, embed_dims=(32, 64, 128), num_heads=(1, 2, 4), depths=(1, 1, 2)),
    "nextvit": _timm("nextvit_small", 128, depths=(1, 1, 5, 1)),
    "pit": _timm("pit_ti_224", 64, img_size=64),
    "pvt_v2": _timm("pvt_v2_b0", 64, depths=(1, 1, 1, 1)),
    "qwen3_vit": _plain("qwen3_vit_88m", 96),
    "repvit": _timm("repvit_m1", 128),
    "shvit": _timm("shvit_s1", 128),
    "swiftformer": _timm("swiftformer_xs", 128),
    "swin_transformer": _timm(
        "swin_tiny_patch4_window7_224", 64, img_size=64, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4)
    ),
    "swin_transformer_v2": _timm(
        "swinv2_tiny_window8_256", 64, img_size=64, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4)
    ),
    "swin_transformer_v2_cr": _timm(
        "swinv2_cr_tiny_224", 64, img_size=64, window_size=4, embed_dim=24, depths=(2, 2), num_heads=(2, 4)
    ),
    "tiny_vit": _timm("tiny_vit_5m_224", 224, depths=(1, 1, 2, 1), embed_dims=(32, 32, 64, 64), num_heads=(1, 1, 2, 2)),
    "tnt": _timm("tnt_s_legacy_patch16_224", 64, img_size=64, depth=2),
    "twins:twins_pcpvt": _timm(
        "twins_pcpvt_small", 64, img_size=64, depths=(1, 1, 1, 1), embed_dims=(32, 32, 64, 64), num_heads=(1, 1, 2, 2)
    ),
    "twins:twins_svt": _timm(
        "twins_svt_small", 224, depths=(1, 1, 2, 1), embed_dims=(32, 64, 64, 128), num_heads=(1, 2, 2, 4)
    ),
    "visformer": _timm("visformer_tiny", 64, img_size=64),
    "vision_transformer": _plain("vit_tiny_patch16_224"),
    "vision_transformer_hybrid": _timm("vit_tiny_r_s16_p8_224", 128, img_size=128, depth=2),
    "vision_transformer_relpos": _plain("vit_srelpos_small_patch16_224"),
    "vision_transformer_sam": _plain("samvit_base_patch16_224", 128),
    "vitamin": _timm("vitamin_small_224", 128, img_size=128, depth=2),
    "volo": _class(
        VOLO, layers=(1, 1, 1, 1), img_size=64, embed_dims=(32, 64, 64, 64), num_heads=(1, 2, 2, 2),
        downsamples=(True, False, False, False), outlook_attention=(True, False, False, False),
    ),
    "xcit": _timm("xcit_nano_12_p8_224", 64, img_size=64, depth=2),
}
