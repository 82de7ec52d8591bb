"""Writes a model as ONNX, checks it, and holds it against PyTorch."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir.passes.common
import torch

from .._errors import ModelError, UnsupportedError, UsageError, exception
from .loaded import Loaded, Told, one_line

LARGEST_FILE = 1_800_000_000
"""Bytes of weights that a file may hold; with more, they have a file of their own. Protocol buffers end at 2 GiB."""

SAID_BESIDE = (
    "preprocessor_config.json",
    "processor_config.json",
    "config.json",
    "open_clip_config.json",
    "preprocess_config.json",
)
"""The files by which images are prepared, as `quantize` looks for them beside a model."""

ABSURD = 0.01
"""The difference to PyTorch that no rounding makes, in parts of the largest output."""


class Destination:
    """A place that a model may be written to. Nothing is written before all is known to be right."""

    def __init__(self, model: Path) -> None:
        self.model = model
        self.weights = model.with_name(model.name + ".data")
        if not model.name or model.is_dir():
            raise UsageError(f"{model}: expected the name of a file to write")
        _ensure_onnx(model)

    def ensure_free(self, beside: dict[str, bytes], own_weights: bool) -> None:
        """Fails if a file of the folder is about another model: these have fixed names."""
        for name in SAID_BESIDE:
            path = self.model.parent / name
            if not os.path.lexists(path) or (path.is_file() and path.read_bytes() == beside.get(name)):
                continue
            apart = Path(self.model.stem) / self.model.name
            way_out = f"remove it, or write to a folder of its own, such as -o {self.model.parent / apart}"
            raise UsageError(f"{path}: exists, and would be taken to be about this model; {way_out}")
        if own_weights and self.weights.exists() and not self.model.exists():
            raise UsageError(f"{self.weights}: exists, and belongs to another model; it is not overwritten")

    def place(self, folder: Path, names: list[str]) -> list[Path]:
        """Moves files from `folder`, which is on the same disk, to where they belong, the model last."""
        placed = []
        for name in sorted(names, key=lambda name: name == self.model.name):
            target = self.model.parent / name
            os.replace(folder / name, target)
            placed.append(target)
        return placed


@dataclass(frozen=True)
class Written:
    """The files beside the model, and the largest difference to PyTorch in parts of the largest output, if it was measured."""

    beside: list[Path]
    difference: float | None


def write(loaded: Loaded, destination: Destination, batch: int | None, opset: int, told: Told) -> Written:
    """Writes the model and what belongs beside it, whole or not at all."""
    tensors = [*loaded.module.parameters(), *loaded.module.buffers()]
    own_weights = sum(tensor.numel() * tensor.element_size() for tensor in tensors) > LARGEST_FILE
    beside = dict(loaded.beside)
    destination.ensure_free(beside, own_weights)
    try:
        destination.model.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _io(error, destination.model.parent) from error
    told(f"export as opset {opset}, for images [{batch or 'batch'}, {', '.join(map(str, loaded.shape))}]")
    program = _traced(loaded, batch, opset)
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=destination.model.parent) as name:
            folder = Path(name)
            path = folder / destination.model.name
            program.save(path, external_data=own_weights)
            del program
            onnx.checker.check_model(path, full_check=True)
            difference = _difference(loaded, path, batch or 2, told)
            for file, content in beside.items():
                (folder / file).write_bytes(content)
            files = [path.name, *beside, *([destination.weights.name] if own_weights else [])]
            placed = destination.place(folder, files)
    except OSError as error:
        raise _io(error, destination.model) from error
    return Written([path for path in placed if path != destination.model], difference)


def _traced(loaded: Loaded, batch: int | None, opset: int) -> Any:
    """The ONNX program."""
    # Another batch than the one that is compared: a batch that is written into the graph is found.
    images = torch.randn(batch or 3, *loaded.shape)
    shapes = None if batch else ({0: torch.export.Dim("batch")},)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                loaded.module,
                (images,),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=shapes,
                input_names=["images"],
                output_names=list(loaded.outputs),
                verbose=False,
            )
    except Exception as error:  # It raises whatever the tracer, the decompositions or the model raise.
        hint = "" if batch else "; --batch 1 may help"
        raise UnsupportedError(f"{loaded.source}: PyTorch cannot export it: {one_line(error)}{hint}") from error
    # Stack traces, which hold paths of this machine.
    onnx_ir.passes.common.ClearMetadataAndDocStringPass()(program.model)
    return program


def _difference(loaded: Loaded, path: Path, batch: int, told: Told) -> float | None:
    """The largest difference between ONNX Runtime and PyTorch, in parts of the largest output."""
    if find_spec("onnxruntime") is None:
        told("warning: the file was not held against PyTorch: pip install onnxruntime")
        return None
    import onnxruntime

    told("compare with PyTorch in ONNX Runtime")
    images = torch.randn(batch, *loaded.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = loaded.module(images).numpy()
    try:
        session = onnxruntime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])
        found = session.run(None, {"images": images.numpy()})[0]
    except Exception as error:  # The classes of its errors are no public names.
        raise UnsupportedError(f"{loaded.source}: ONNX Runtime does not run the export: {one_line(error)}") from error
    largest = float(np.abs(expected).max())
    if found.shape != expected.shape or not np.isfinite(largest):
        raise ModelError(f"{loaded.source}: the output {list(found.shape)} is not finite, or not {list(expected.shape)}")
    difference = float(np.abs(found - expected).max()) / max(largest, 1e-30)
    if not difference <= ABSURD:
        why = f"ONNX Runtime is {difference:.1%} of the largest output from PyTorch"
        raise UnsupportedError(f"{loaded.source}: the exporter got it wrong: {why}; try another --opset")
    return difference


def _ensure_onnx(path: Path) -> None:
    """Fails if there is a file that is no ONNX model."""
    if path.is_symlink():
        raise UsageError(f"{path}: is a symbolic link: name the file itself")
    if not path.exists():
        return
    if not path.is_file():
        raise UsageError(f"{path}: exists and is not a regular file, expected the name of a file to write")
    try:
        with path.open("rb") as file:
            head = file.read(1)
    except OSError as error:
        raise _io(error, path) from error
    if head not in (b"\x08", b""):
        raise UsageError(f"{path}: exists and is no ONNX model; it is not overwritten")


def _io(error: OSError, path: Path) -> Exception:
    place = os.fspath(error.filename or path)
    return exception("io", f"{place}: {error.strerror or error}", place, error.errno)
