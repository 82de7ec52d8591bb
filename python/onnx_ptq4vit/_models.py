"""Models in every form that is taken, and what runs them."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, Union, runtime_checkable

import numpy as np
import numpy.typing as npt

from . import _native
from ._errors import UsageError


@runtime_checkable
class Serializable(Protocol):
    """An `onnx.ModelProto`."""

    def SerializeToString(self) -> bytes:
        """The content of the file."""
        ...


ModelLike: TypeAlias = Union[str, "os.PathLike[str]", bytes, Serializable]


def read(model: object, max_tensor: int | None = None, task: str | None = None) -> _native.Model:
    """The model at a path, of bytes, or of an `onnx.ModelProto`."""
    if isinstance(model, _native.Model):
        return model
    origin: str | bytes
    if isinstance(model, (bytes, bytearray, memoryview)):
        origin = bytes(model)
    elif isinstance(model, (str, os.PathLike)):
        origin = os.fspath(model)
    elif isinstance(model, Serializable):
        origin = model.SerializeToString()
    else:
        raise UsageError(f"a model is a path, bytes or an onnx.ModelProto, found {type(model).__name__}")
    return _native.Model.read(origin, whole("max_tensor", max_tensor), task)


def inspect(model: ModelLike, *, max_tensor: int | None = None) -> dict[str, Any]:
    """What is quantized in a model, or would be: the JSON of the command `inspect`, as a dict.

    Of a float model: the sites, what they take, and what stays in float and why. Of a quantized model: its sites, their
    bits, and what the file says of its making.
    """
    found: dict[str, Any] = json.loads(read(model, max_tensor).inspect())
    return found


class Runner:
    """A model that is ready to run: a quantized one in integer arithmetic, a float one in float."""

    def __init__(
        self,
        model: ModelLike,
        *,
        inputs: Mapping[str, npt.ArrayLike] | None = None,
        max_tensor: int | None = None,
    ) -> None:
        """`inputs` gives the inputs of the model beside the images the value that they have in every run."""
        native = read(model, max_tensor)
        if inputs:
            given = [(name, np.asarray(plain(value), np.float64)) for name, value in inputs.items()]
            native = native.with_inputs(given)
        self._runner = _native.Runner(native)

    def run(self, images: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """The first FLOAT output of the model for `images`, any number of them along the first axis."""
        return self._runner.run(floats(images))


def floats(array: object) -> npt.NDArray[np.float32]:
    """An array of f32, of anything that NumPy or PyTorch holds."""
    detached = plain(array)
    try:
        return np.ascontiguousarray(detached, dtype=np.float32)
    except (TypeError, ValueError) as why:
        raise UsageError(f"expected an array of numbers, found {type(array).__name__}: {why}") from why


def plain(array: object) -> Any:
    """`array` as NumPy can read it: a tensor of PyTorch is taken off its graph and its device."""
    for step in ("detach", "cpu"):
        method = getattr(array, step, None)
        if callable(method):
            array = method()
    if str(getattr(array, "dtype", "")) == "torch.bfloat16":
        array = array.float()  # type: ignore[attr-defined]
    return array


def whole(name: str, value: object, least: int = 1) -> int | None:
    """A whole number that an argument holds, or `None`; an error if it is less than the `least`, or none."""
    if value is None:
        return None
    try:
        found = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name}={value!r}: expected a whole number") from None
    if not least <= found < 1 << 63:
        raise UsageError(f"{name}={found}: expected a number from {least} to 2**63 - 1")
    return found


def is_array(value: object) -> bool:
    """Whether `value` is an array, rather than a collection of them."""
    return isinstance(value, np.ndarray) or hasattr(value, "__array__")


def names(model: _native.Model) -> Sequence[str]:
    """The inputs of a model, that of the images first."""
    return [model.input_name(), *model.other_inputs()]
