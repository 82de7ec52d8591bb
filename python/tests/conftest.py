"""Models and images that the tests share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnx_ptq4vit as ptq

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
MODEL = FIXTURES / "digits_vit_ts17.onnx"


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    return np.load(FIXTURES / "digits_calib.npz")["images"]


@pytest.fixture(scope="session")
def test_images() -> np.ndarray:
    return np.load(FIXTURES / "digits_test.npz")["images"]


@pytest.fixture(scope="session")
def test_labels() -> np.ndarray:
    return np.load(FIXTURES / "digits_test.npz")["labels"]


@pytest.fixture(scope="session")
def result(images: np.ndarray) -> ptq.Result:
    return ptq.quantize(MODEL, images, progress=False)
