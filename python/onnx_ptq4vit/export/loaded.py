"""A model that is ready to be exported, and what was asked for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .._errors import UsageError

Told = Callable[[str], object]


@dataclass(frozen=True)
class Request:
    """What `export` was asked for. `size` is height and width; `None` leaves it, as the task, to the model."""

    name: str
    task: str | None
    revision: str | None
    size: tuple[int, int] | None
    random: bool


@dataclass(frozen=True)
class Loaded:
    """A model in float, and what is written beside it."""

    module: Any
    """An `nn.Module` that takes images [N, C, H, W] and gives a tensor for each of `outputs`."""

    shape: tuple[int, int, int]
    """Channels, height and width."""

    outputs: tuple[str, ...]
    source: str
    beside: Mapping[str, bytes]
    """The content of files by their name."""


class Wrapped(nn.Module):  # type: ignore[misc]
    """A model whose output is what `take` makes of it; `options` are further arguments of the model."""

    def __init__(self, model: Any, take: Callable[[Any], Any], **options: object) -> None:
        super().__init__()
        self.model, self.take, self.options = model, take, options

    def forward(self, images: Any) -> Any:
        """The outputs for images [N, C, H, W]."""
        return self.take(self.model(images, **self.options))


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Whether a function has an argument of this name."""
    return argument in inspect.signature(function).parameters


def ensure_task(request: Request, possible: tuple[str, ...], what: str) -> None:
    """Fails if the task that is wanted is none of the `possible` ones."""
    if request.task is not None and request.task not in possible:
        raise UsageError(f"{request.name}: {what} has no task {request.task}, expected {' or '.join(possible)}")


def one_line(error: BaseException) -> str:
    """What an error of a library says, shortened to its first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
