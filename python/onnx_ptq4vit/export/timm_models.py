"""Models of timm."""

from __future__ import annotations

import json
from typing import Any

import timm
import timm.data
from timm.models import get_pretrained_cfg

from .._errors import ModelError, UnsupportedError, UsageError
from .loaded import Loaded, Request, ensure_task, one_line
from .repository import Repository


def load_known(name: str, request: Request) -> Loaded:
    """A model of timm's own list, `ARCHITECTURE` or `ARCHITECTURE.TAG`; without a tag it has timm's default weights."""
    architecture, _, _ = name.partition(".")
    try:
        known = get_pretrained_cfg(name)
    except RuntimeError:  # There is no such tag.
        known = None
    if known is None:
        tags = [one.partition(".")[2] for one in timm.list_models(f"{architecture}.*", pretrained=True)]
        has = f"it has {', '.join(tags)}" if tags else "there are none: --random-weights makes some"
        raise UsageError(f"timm/{name}: timm knows no such weights; {has}")
    full = f"{architecture}.{known.tag}" if known.tag else architecture
    if request.random:
        return _loaded(full, {}, request, source=f"timm/{full}")
    if not known.has_weights:
        raise UsageError(f"timm/{name}: timm has no weights for it: --random-weights makes some")
    if known.hf_hub_id != f"timm/{full}":
        # The weights are in a repository of another form, which timm knows how to read.
        if request.revision is not None:
            raise UsageError(f"timm/{name}: its weights are not on the hub under that name, so --revision cannot be used")
        return _loaded(full, {}, request, source=f"timm/{full}")
    repository = Repository(known.hf_hub_id, request.revision)
    return load(repository, repository.json("config.json") or {}, request)


def load(repository: Repository, config: dict[str, Any], request: Request) -> Loaded:
    """A model in a repository or a folder of timm's form, with its `config.json`."""
    revision = f"@{repository.revision}" if repository.revision else ""
    kind = "local-dir" if repository.is_local else "hf-hub"
    return _loaded(f"{kind}:{repository.name}{revision}", config, request, source=f"{repository.name}{revision}")


def _loaded(address: str, config: dict[str, Any], request: Request, source: str) -> Loaded:
    ensure_task(request, ("classify", "embed"), "a model of timm")
    model = _create(address, request)
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    embeds = request.task == "embed" or (request.task is None and _is_embedder(model, config))
    if request.task == "embed" and not _is_embedder(model, config):
        model.reset_classifier(0)
    if not embeds and not model.num_classes:
        raise UsageError(f"{request.name}: the model has no classes: --task embed")
    wanted = {"input_size": (3, *request.size)} if request.size else {}
    data = timm.data.resolve_model_data_config(model, args=wanted)
    channels, height, width = data["input_size"]
    beside = json.dumps(_config(model, config, data, embeds), indent=2).encode() + b"\n"
    return Loaded(
        module=model.float().eval(),
        shape=(channels, height, width),
        outputs=("embeddings" if embeds else "logits",),
        source=source,
        beside={"config.json": beside},
    )


def _create(address: str, request: Request) -> Any:
    """The model; of one whose size is fixed, with positions for the size that is wanted."""
    options = {} if request.size is None else {"img_size": request.size}
    try:
        return timm.create_model(address, pretrained=not request.random, **options)
    except TypeError as error:
        if "img_size" not in str(error):
            raise
        # It has no positions, and takes any size.
        return timm.create_model(address, pretrained=not request.random)
    except AssertionError as error:
        raise UnsupportedError(f"{request.name}: timm cannot make it: {one_line(error)}") from error
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        raise ModelError(f"{request.name}: timm cannot load it: {one_line(error)}") from error


def _is_embedder(model: Any, config: dict[str, Any]) -> bool:
    """Whether the output is an embedding: there is no classifier, or it is the projection of a CLIP."""
    if not model.num_classes:
        return True
    cfg = model.pretrained_cfg
    name = f"{cfg.get('architecture')}.{cfg.get('tag')}"
    named = config.get("label_names") or cfg.get("label_names")
    return "clip" in name and "_ft_" not in name and not named and timm.data.infer_imagenet_subset(model) is None


def _config(model: Any, config: dict[str, Any], data: dict[str, Any], embeds: bool) -> dict[str, Any]:
    """`config.json` in timm's form: the file of the hub with the transform of the images that this export takes."""
    cfg = {key: value for key, value in model.pretrained_cfg.items() if _is_plain(value)}
    for key in ("url", "file", "hf_hub_id", "hf_hub_filename", "source", "architecture", "label_names", "label_descriptions"):
        cfg.pop(key, None)
    made = {
        "architecture": model.pretrained_cfg.get("architecture"),
        "num_classes": model.num_classes,
        "num_features": model.num_features,
        **config,
        "pretrained_cfg": {**config.get("pretrained_cfg", cfg), **data},
    }
    subset = None if embeds or made.get("label_names") else timm.data.infer_imagenet_subset(model)
    if subset is not None:
        made["label_names"] = timm.data.ImageNetInfo(subset).label_descriptions()
    return made


def _is_plain(value: object) -> bool:
    """Whether JSON can hold it, and it says something."""
    return value is not None and isinstance(value, (str, int, float, bool, list, tuple))
