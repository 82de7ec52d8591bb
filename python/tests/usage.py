"""Not run: `mypy --strict` checks that the types of the package fit their use."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import assert_type

import onnx_ptq4vit as ptq


class Reader:
    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        return None


def batches() -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    yield np.zeros((1, 3, 8, 8), np.float32), np.zeros(1, np.int64)


def told(stage: str, done: int, total: int) -> None:
    print(stage, done, total)


def use(array: npt.NDArray[np.float32]) -> float:
    result = ptq.quantize("vit.onnx", array, Path("out.onnx"), bits="w8a8", exclude=["a"], progress=told)
    for data in (Reader(), batches(), [{"input": array}], "images", Path("images")):
        result = ptq.quantize(b"", data, limit=None, progress=False)
    assert_type(result, ptq.Result)
    assert_type(result.report, dict[str, Any])
    assert_type(result.calibration, str)
    result.save(Path("out.onnx"))
    check = ptq.check("vit.onnx", result.to_bytes(), array, [1, 2], max_drop=1.0)
    check = ptq.check("vit.onnx", result, array, np.zeros(2, np.int64))
    assert_type(check.passed, bool | None)
    assert_type(ptq.Runner("vit.onnx").run(array), npt.NDArray[np.float32])
    assert_type(ptq.inspect("vit.onnx"), dict[str, Any])
    try:
        return float(check.classifier["kl"])
    except ptq.IoError as error:
        assert_type(error.kind, str)
        assert_type(error.place, str | None)
        return float(error.errno or 0)
