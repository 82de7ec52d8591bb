"""Writes a model of timm, Hugging Face or OpenCLIP as ONNX, and beside it how its images are prepared.

The command `onnx-ptq4vit export` calls this. It needs what `pip install 'onnx-ptq4vit[export]'` installs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Union

from .._errors import UsageError
from .._models import whole

__all__ = ["Exported", "export"]

PACKAGES = ("torch", "timm", "transformers", "onnx", "onnxscript")
TASKS = ("classify", "embed", "dense")


@dataclass(frozen=True)
class Exported:
    """What was written."""

    model: Path
    beside: list[Path]
    """The files that say how images are prepared and what the classes are called, and the weights if they have their own."""

    source: str
    """What was loaded, such as the full name on the hub."""

    input: list[int | str]
    """The shape of the images; a batch of any size is `batch`."""

    outputs: list[str]
    difference: float | None
    """The largest difference between ONNX Runtime and PyTorch, in parts of the largest output; `None` if it was not measured."""

    random: bool
    """Whether the weights are random."""


def export(
    name: str,
    output: str | os.PathLike[str],
    *,
    task: str | None = None,
    revision: str | None = None,
    batch: int | str = "dynamic",
    image_size: int | tuple[int, int] | None = None,
    opset: int = 18,
    random_weights: bool = False,
    progress: Callable[[str], object] | None = None,
) -> Exported:
    """Loads the model `name`, and writes it to `output`, and its preprocessing beside that.

    `name` is `timm/NAME` for a model of timm, with or without the tag of its weights; `OWNER/NAME` for one of the Hugging Face
    hub; or a folder with the same files. `task` is `classify`, `embed` or `dense`, and is found by itself if it is not given.
    `batch` is a number, or `dynamic` for any. `image_size` is one side or `(height, width)`, in pixels. `progress` is told what
    is done, and what is to be warned of. The folder of `output` is made if it is not there.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise UsageError(f"export needs {', '.join(missing)}: pip install 'onnx-ptq4vit[export]'")
    if task is not None and task not in TASKS:
        raise UsageError(f"task={task!r}: expected {', '.join(TASKS)}")
    fixed = None if batch == "dynamic" else whole("batch", batch)
    told = progress or (lambda _: None)

    # These import PyTorch, which takes seconds.
    from .loaded import Request
    from .sources import load
    from .writing import Destination, write

    size = _size(image_size)
    destination = Destination(Path(output))
    request = Request(name, task, revision, size, random_weights)
    told(f"load {name}")
    loaded = load(request, told)
    if random_weights:
        told("warning: the weights are random: this model is for trying alone, what it gives means nothing")
    written = write(loaded, destination, fixed, whole("opset", opset, 13) or 18, told)
    return Exported(
        model=destination.model,
        beside=written.beside,
        source=loaded.source,
        input=["batch" if fixed is None else fixed, *loaded.shape],
        outputs=list(loaded.outputs),
        difference=written.difference,
        random=random_weights,
    )


_Size = Union[int, "tuple[int, int]", None]


def _size(given: _Size) -> tuple[int, int] | None:
    """Height and width."""
    if given is None:
        return None
    sides = given if isinstance(given, tuple) else (given, given)
    if len(sides) != 2:
        raise UsageError(f"image_size={given!r}: expected one side, or height and width")
    height, width = (whole("image_size", side) or 0 for side in sides)
    return height, width
