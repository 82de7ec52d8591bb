"""Every snippet of the README runs, in its order."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import FIXTURES, MODEL
from test_data import Reader, Tensor

import onnx_ptq4vit as ptq

README = Path(__file__).resolve().parents[1] / "README.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


def loader(images: np.ndarray, labels: np.ndarray, batch: int = 16) -> object:
    """A DataLoader of PyTorch if that is installed, else what it gives."""
    try:
        import torch
        from torch.utils.data import DataLoader, TensorDataset
    except ImportError:
        starts = range(0, len(images), batch)
        return [[Tensor(array[at : at + batch]) for array in (images, labels)] for at in starts]
    return DataLoader(TensorDataset(torch.from_numpy(images), torch.from_numpy(labels)), batch_size=batch)


@pytest.mark.parametrize("at", range(len(SNIPPETS)))
def test_the_snippet_runs(
    at: int, result: ptq.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(MODEL, "vit.onnx")
    result.save("vit.int8.onnx")
    shutil.copytree(FIXTURES / "digits_png", "images")
    calib, test = (np.load(FIXTURES / f"digits_{name}.npz") for name in ("calib", "test"))
    names = {
        "ptq": ptq,
        "calibration_loader": loader(calib["images"], calib["labels"]),
        "validation_loader": loader(test["images"], test["labels"]),
        "array": calib["images"],
        "labels": calib["labels"],
        "reader": Reader(calib["images"]),
    }
    exec(compile(SNIPPETS[at], f"README.md, snippet {at}", "exec"), names)


def test_there_are_snippets() -> None:
    assert len(SNIPPETS) == 7
