"""Image towers of OpenCLIP."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from .._errors import ModelError, UsageError
from .loaded import Loaded, Request, Wrapped, ensure_task, one_line
from .repository import Repository


def load(repository: Repository, config: dict[str, Any], request: Request) -> Loaded:
    """The image tower of a repository or a folder with this `open_clip_config.json`, up to the projected embedding."""
    if find_spec("open_clip") is None:
        raise UsageError(f"{request.name}: a model of OpenCLIP, which export loads by it: pip install open_clip_torch")
    ensure_task(request, ("embed",), "a model of OpenCLIP")
    if repository.revision is not None:
        raise UsageError(f"{request.name}: OpenCLIP loads no revision but the newest")
    import open_clip

    kind = "local-dir" if repository.is_local else "hf-hub"
    options = {} if request.size is None else {"force_image_size": request.size}
    try:
        model = open_clip.create_model(f"{kind}:{repository.name}", load_weights=not request.random, **options)
    except (RuntimeError, OSError, KeyError, ValueError, FileNotFoundError) as error:
        raise ModelError(f"{request.name}: OpenCLIP cannot load it: {one_line(error)}") from error
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    side = model.visual.image_size
    height, width = side if isinstance(side, (tuple, list)) else (side, side)
    content = repository.read("open_clip_config.json")
    return Loaded(
        module=Wrapped(model.visual, lambda output: output[0] if isinstance(output, tuple) else output).float().eval(),
        shape=(3, height, width),
        outputs=("embeddings",),
        source=repository.name,
        beside={} if content is None else {"open_clip_config.json": content},
    )
