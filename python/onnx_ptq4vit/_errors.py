"""What goes wrong, divided by who must act."""

from __future__ import annotations

from errno import ENOENT


class Error(Exception):
    """Any error of this package. Its text says in one line what is wrong, and where."""

    kind: str = "internal"
    """Who must act: `usage`, `model`, `limit`, `pixels`, `data`, `unsupported`, `io` or `internal`."""

    place: str | None = None
    """What the error is about: a node, value or site by its name, or a file by its path."""


class UsageError(Error, ValueError):
    """An argument makes no sense: change the call."""

    kind = "usage"


class ModelError(Error, ValueError):
    """The model is broken, or not what the call needs: change the model."""

    kind = "model"


class LimitError(Error):
    """The model would take more memory than it may: raise `max_tensor`, if you trust it."""

    kind = "limit"


class DataError(Error, ValueError):
    """The images or labels are broken or do not fit the model: change the data."""

    kind = "data"


class PixelsError(DataError):
    """An image has more pixels than are allowed."""

    kind = "pixels"


class UnsupportedError(Error, NotImplementedError):
    """A sound model that this version cannot handle."""

    kind = "unsupported"


class IoError(Error, OSError):
    """The operating system refused to read or write a file. `errno` and `filename` are those of `OSError`."""

    kind = "io"

    def __str__(self) -> str:
        return str(self.args[0])


class NotFoundError(IoError, FileNotFoundError):
    """There is no such file."""


class InternalError(Error, RuntimeError):
    """A fault of this package: please report it."""

    kind = "internal"


_KINDS: dict[str, type[Error]] = {
    of.kind: of
    for of in (
        UsageError,
        ModelError,
        LimitError,
        DataError,
        PixelsError,
        UnsupportedError,
        IoError,
        InternalError,
    )
}


def exception(kind: str, text: str, place: str | None, errno: int | None) -> Error:
    """The exception of this kind; an unknown kind is internal."""
    of = _KINDS.get(kind, InternalError)
    error = (NotFoundError if of is IoError and errno == ENOENT else of)(text)
    error.place = place
    if isinstance(error, OSError):
        error.errno, error.filename = errno, place
    return error
