"""Finds out where a model comes from, and loads it."""

from __future__ import annotations

import timm

from .._errors import ModelError, UsageError
from . import hugging_face, open_clip_models, timm_models
from .loaded import Loaded, Request, Told
from .repository import Repository


def load(request: Request, told: Told) -> Loaded:
    """The model that is asked for. `told` hears what it should be warned of."""
    repository = Repository(request.name, request.revision)
    if repository.is_local:
        if request.revision is not None:
            raise UsageError(f"{request.name}: a folder has no revisions")
    else:
        owner, slash, name = request.name.partition("/")
        if not slash:
            known = timm.is_model(owner.partition(".")[0])
            hint = f", did you mean timm/{owner}" if known else ""
            raise UsageError(f"{request.name}: expected timm/NAME, OWNER/NAME or a folder{hint}")
        if owner == "timm" and timm.is_model(name.partition(".")[0]):
            return timm_models.load_known(name, request)

    config = repository.json("config.json")
    if config is not None and "architecture" in config:
        return timm_models.load(repository, config, request)
    if config is not None and "model_type" in config:
        return hugging_face.load(repository, request, told)
    open_clip = repository.json("open_clip_config.json")
    if open_clip is not None:
        return open_clip_models.load(repository, open_clip, request)
    raise ModelError(f"{request.name}: no model of timm, transformers or OpenCLIP, by its config.json")
