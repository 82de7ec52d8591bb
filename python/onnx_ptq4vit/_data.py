"""Images in every form that is taken, as one array or one path."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, Union, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

from . import _native
from ._errors import DataError, UsageError
from ._models import floats, is_array, names, plain


@runtime_checkable
class CalibrationDataReader(Protocol):
    """A data reader as ONNX Runtime's `quantize_static` takes it."""

    def get_next(self) -> Mapping[str, Any] | None:
        """The arrays of the next batch by the name of their input; `None` after the last."""
        ...


DataLike: TypeAlias = Union[str, "os.PathLike[str]", npt.NDArray[Any], CalibrationDataReader, Iterable[Any]]
LabelsLike: TypeAlias = Union[str, "os.PathLike[str]", npt.ArrayLike]

_LABELS = ("labels", "label", "targets", "target")
_IMAGES = ("pixel_values", "images", "image", "input", "x")


@dataclass
class Data:
    """Images for a model: a path, or an array; the values of its other inputs; and labels, if the data has them."""

    source: str | npt.NDArray[np.float32]
    inputs: list[tuple[str, npt.NDArray[np.float64]]] = field(default_factory=list)
    labels: npt.NDArray[np.int64] | None = None


def collect(model: _native.Model, data: object, limit: int | None, *, labelled: bool) -> Data:
    """At most `limit` images of `data`, of which no more batches are asked for than hold so many; and if they are wanted
    `labelled`, the labels that come with them."""
    if isinstance(data, (str, os.PathLike)):
        return Data(os.fspath(data))
    if is_array(data):
        array = cast("npt.NDArray[Any]", data)
        # Cut before it is converted: it may be a large file that is mapped.
        is_whole = not array.shape or model.is_single(list(array.shape))
        return Data(_batch(model, array if is_whole else array[:limit]))
    if isinstance(data, Mapping):
        batches: Iterator[object] = iter([data])
    elif isinstance(data, CalibrationDataReader):
        batches = _drained(data)
    elif isinstance(data, Iterable) or hasattr(data, "__getitem__"):
        batches = iter(cast("Iterable[object]", data))
    else:
        raise UsageError(
            "data is a path, an array, an iterable of batches or a CalibrationDataReader, found "
            f"{type(data).__name__}"
        )
    return _joined(model, batches, limit, labelled)


def _drained(reader: CalibrationDataReader) -> Iterator[object]:
    while (batch := reader.get_next()) is not None:
        yield batch


def _joined(model: _native.Model, batches: Iterator[object], limit: int | None, labelled: bool) -> Data:
    images: list[npt.NDArray[np.float32]] = []
    labels: list[npt.NDArray[np.int64]] = []
    others: dict[str, list[npt.NDArray[np.float64]]] = {}
    count = 0
    while limit is None or count < limit:
        try:
            item = next(batches)
        except StopIteration:
            break
        at = f"batch {len(images)}"
        pixels, given, own = _parts(model, item, at)
        batch = _batch(model, pixels)
        if images and batch.shape[1:] != images[0].shape[1:]:
            own_shape, before = batch.shape[1:], images[0].shape[1:]
            raise _wrong(at, f"its images have the shape {own_shape}, those before {before}")
        images.append(batch)
        count += len(batch)
        if labelled and given is not None:
            labels.append(_rows(given, len(batch), at))
        for name, values in own.items():
            others.setdefault(name, []).append(np.asarray(plain(values), dtype=np.float64))
    if not images:
        raise _wrong("data", "it gives no batch; an iterator can be used only once")
    array = np.concatenate(images)[:limit]
    inputs = [(name, _same(name, found)) for name, found in others.items()]
    if not labels:
        return Data(array, inputs)
    if len(labels) < len(images) or any(rows.shape[1:] != labels[0].shape[1:] for rows in labels):
        raise _wrong("labels", "some batches have none, or labels of another shape than the others")
    return Data(array, inputs, np.concatenate(labels)[:limit])


def _parts(model: _native.Model, item: object, at: str) -> tuple[object, object | None, dict[str, object]]:
    """The images, the labels and the other inputs of one batch."""
    if isinstance(item, Mapping):
        return _of_mapping(model, item, at)
    if isinstance(item, (tuple, list)) and item and (is_array(item[0]) or isinstance(item[0], Mapping)):
        pixels, given, own = _parts(model, item[0], at)
        return pixels, item[1] if len(item) > 1 else given, own
    if is_array(item):
        return item, None, {}
    raise UsageError(
        f"{at}: expected an array, a dict of arrays by input, or (images, labels), found {type(item).__name__}"
    )


def _of_mapping(
    model: _native.Model, item: Mapping[Any, Any], at: str
) -> tuple[object, object | None, dict[str, object]]:
    image_input, *known = names(model)
    given = next((item[name] for name in _LABELS if name in item and name not in known), None)
    candidates = [name for name in (image_input, *_IMAGES) if name in item]
    if not candidates:
        candidates = [name for name in item if name not in _LABELS and name not in known]
        if len(candidates) != 1:
            found = ", ".join(f"`{name}`" for name in item)
            raise UsageError(f"{at}: the model takes its images as `{image_input}`, the batch has {found}")
    own = {name: item[name] for name in known if name in item}
    return item[candidates[0]], given, own


def _batch(model: _native.Model, array: object) -> npt.NDArray[np.float32]:
    """Images with the axis of the batch, which a single one may lack."""
    images = floats(array)
    return images[np.newaxis] if model.is_single(list(images.shape)) else images


def _rows(given: object, count: int, at: str) -> npt.NDArray[np.int64]:
    """Labels of one batch: `[N]`, or `[N, L]`."""
    found = integers(given)
    rows = found[np.newaxis] if found.ndim == 0 else found
    if len(rows) != count and count == 1:
        rows = rows[np.newaxis]
    if len(rows) != count:
        raise _wrong(at, f"{len(rows)} labels for {count} images")
    return rows[:, 0] if rows.ndim == 2 and rows.shape[1] == 1 else rows


def integers(labels: object) -> npt.NDArray[np.int64]:
    """Labels as integers; an error if they are none."""
    try:
        found = np.asarray(plain(labels))
        whole = found.astype(np.int64)
    except (TypeError, ValueError) as why:
        raise _wrong("labels", f"expected numbers of classes from 0: {why}") from why
    if not np.array_equal(whole, found):
        raise _wrong("labels", "expected whole numbers")
    return np.ascontiguousarray(whole)


def _same(name: str, found: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    """The value of an input beside the images, which must be the same in every batch."""
    first = found[0]
    if all(np.array_equal(first, other) for other in found):
        return first
    rows = [row for value in found for row in np.atleast_1d(value)]
    if any(not np.array_equal(rows[0], row) for row in rows):
        raise _wrong(f"input `{name}`", "it differs between images, and only the images may")
    return first


def _wrong(place: str, why: str) -> DataError:
    error = DataError(f"{place}: {why}")
    error.place = place
    return error
