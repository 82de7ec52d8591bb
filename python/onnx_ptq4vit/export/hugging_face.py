"""Models of Hugging Face's transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from .._errors import ModelError, UnsupportedError
from .loaded import Loaded, Request, Told, Wrapped, ensure_task, one_line, takes
from .repository import Repository

# How the name of an architecture ends, its task, the class that loads it, and its outputs: their attribute and their name.
HEADS = {
    "ForImageClassification": ("classify", "AutoModelForImageClassification", "logits", "logits"),
    "ForImageClassificationWithTeacher": ("classify", "AutoModelForImageClassification", "logits", "logits"),
    "ForSemanticSegmentation": ("dense", "AutoModelForSemanticSegmentation", "logits", "logits"),
    "ForDepthEstimation": ("dense", "AutoModelForDepthEstimation", "predicted_depth", "depth"),
    "Model": ("embed", "AutoModel", "", "embeddings"),
    "ModelWithProjection": ("embed", "AutoModel", "", "embeddings"),
}
# Of models of images and texts, what takes the images.
TOWERS = {
    "clip": "CLIPVisionModelWithProjection",
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
}
PROCESSORS = ("preprocessor_config.json", "processor_config.json")


def load(repository: Repository, request: Request, told: Told) -> Loaded:
    """The model in a repository or a folder of transformers' form."""
    quiet = transformers.utils.logging
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    where = {"revision": repository.revision} if repository.revision else {}
    try:
        config = transformers.AutoConfig.from_pretrained(repository.name, **where)
    except (OSError, ValueError, KeyError) as error:
        raise UnsupportedError(f"{request.name}: transformers does not know it: {one_line(error)}") from error
    task, loader, attribute, output = _head(config, request)
    model, missing = _model(getattr(transformers, loader), config, repository, where, request)
    pooled = task == "embed" and not any("pooler" in name for name in missing)
    random = [name for name in missing if not (task == "embed" and "pooler" in name)]
    if random:
        why = f"the file of weights has none for {', '.join(random[:3])}, which --task {task} needs"
        raise ModelError(f"{request.name}: {why}")
    _ensure_takes_images_alone(model, request)

    channels = _of_vision(config, "num_channels") or 3
    own = _sides(_of_vision(config, "image_size"))
    size = request.size or _processed_size(repository.name, where) or own
    if size is None:
        raise ModelError(f"{request.name}: no file says which size its images have: give --image-size")
    files = {name: content for name in PROCESSORS if (content := repository.read(name)) is not None}
    if not files:
        told(f"warning: {request.name} has no {PROCESSORS[0]}: how images are prepared stays unsaid")
    resizes = own is not None and size != own and takes(model.forward, "interpolate_pos_encoding")
    options = {"interpolate_pos_encoding": True} if resizes else {}
    take = _embedding(pooled) if task == "embed" else lambda found: getattr(found, attribute)
    return Loaded(
        module=Wrapped(model, take, **options).float().eval(),
        shape=(channels, *size),
        outputs=(output,),
        source=repository.name + (f"@{repository.revision}" if repository.revision else ""),
        beside={**dict(list(files.items())[:1]), "config.json": repository.read("config.json") or b"{}"},
    )


def _head(config: Any, request: Request) -> tuple[str, str, str, str]:
    """The row of `HEADS` for the task that is wanted, else for the architecture that the file names."""
    if config.model_type in TOWERS and not _ends(config, "ForImageClassification"):
        ensure_task(request, ("embed",), f"a model of the type {config.model_type}")
        return "embed", TOWERS[config.model_type], "", "embeddings"
    architectures = config.architectures or []
    found = next((row for end, row in HEADS.items() if _ends(config, end)), None)
    family = getattr(transformers, architectures[0], None) if architectures else None
    if architectures and getattr(family, "main_input_name", "pixel_values") != "pixel_values":
        raise UnsupportedError(f"{request.name}: {architectures[0]} does not take images alone")
    if request.task is not None and (found is None or found[0] != request.task):
        return next(row for row in HEADS.values() if row[0] == request.task)
    if found is None:
        what = architectures[0] if architectures else f"a model of the type {config.model_type}"
        why = f"{what} is no classifier, segmenter, estimator of depth or encoder of images"
        raise UnsupportedError(f"{request.name}: {why}; --task embed exports its encoder")
    return found


def _ends(config: Any, end: str) -> bool:
    return any(architecture.endswith(end) for architecture in config.architectures or [])


def _model(
    loader: Any, config: Any, repository: Repository, where: dict[str, str], request: Request
) -> tuple[Any, list[str]]:
    """The model in float with attention written out, and the weights that it should have and the file does not."""
    if loader.__name__.endswith(("VisionModel", "WithProjection")):
        config = getattr(config, "vision_config", config)
    try:
        if request.random:
            build = getattr(loader, "from_config", None) or loader._from_config
            return build(config, attn_implementation="eager"), []
        model, info = loader.from_pretrained(
            repository.name, attn_implementation="eager", dtype=torch.float32, output_loading_info=True, **where
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError) as error:
        raise ModelError(f"{request.name}: transformers cannot load it: {one_line(error)}") from error
    return model, sorted(info["missing_keys"])


def _ensure_takes_images_alone(model: Any, request: Request) -> None:
    """Fails if the model wants anything beside images."""
    import inspect

    arguments = inspect.signature(model.forward).parameters.values()
    needed = [a.name for a in arguments if a.default is a.empty and a.kind is a.POSITIONAL_OR_KEYWORD]
    if model.main_input_name != "pixel_values" or any(name != "pixel_values" for name in needed):
        others = ", ".join(name for name in needed if name != "pixel_values")
        raise UnsupportedError(f"{request.name}: the model does not take images alone, but also {others}")


def _embedding(pooled: bool) -> Callable[[Any], Any]:
    """What stands for the whole image: the projected or pooled state, else the state of the first token."""

    def take(output: Any) -> Any:
        projected = getattr(output, "image_embeds", None)
        if projected is not None:
            return projected
        state = getattr(output, "pooler_output", None) if pooled else None
        return (output.last_hidden_state[:, 0] if state is None else state).flatten(1)

    return take


def _of_vision(config: Any, key: str) -> Any:
    """A value of the configuration, or of its part about images."""
    return getattr(getattr(config, "vision_config", config), key, None)


def _sides(size: Any) -> tuple[int, int] | None:
    if isinstance(size, int):
        return size, size
    return (int(size[0]), int(size[1])) if isinstance(size, (list, tuple)) and len(size) == 2 else None


def _processed_size(name: str, where: dict[str, str]) -> tuple[int, int] | None:
    """Height and width of what the model's own processor makes of an image; `None` if they depend on the image."""
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(name, **where)
        images = [Image.fromarray(np.zeros((*sides, 3), np.uint8)) for sides in ((640, 480), (480, 800))]
        shapes = {np.asarray(processor(image, return_tensors="np")["pixel_values"]).shape for image in images}
    except (OSError, ValueError, KeyError, ImportError):
        return None
    shape = shapes.pop()
    return None if shapes or len(shape) != 4 else (int(shape[2]), int(shape[3]))
