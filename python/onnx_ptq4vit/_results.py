"""Quantizing a model, and comparing it with the float model."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable
from typing import Any, Union

from . import _native
from ._data import Data, DataLike, LabelsLike, collect, integers
from ._errors import UsageError
from ._models import ModelLike, read, whole
from ._progress import ProgressLike, finish, listener

Path = Union[str, "os.PathLike[str]"]


def quantize(
    model: ModelLike,
    data: DataLike,
    output: Path | None = None,
    *,
    bits: str = "w8a8",
    preset: str = "best",
    limit: int | None = 32,
    seed: int = 0,
    exclude: Iterable[str] | str = (),
    overflow_safe: bool = False,
    target: str = "generic",
    twin: str | None = None,
    pack: bool = True,
    metric: str | None = None,
    gradient: str | None = None,
    weights: str | None = None,
    memory: int | None = None,
    max_tensor: int | None = None,
    task: str | None = None,
    progress: ProgressLike = True,
) -> Result:
    """Quantizes a float model, and writes it to `output` if that is given.

    `model` is a path, bytes or an `onnx.ModelProto`. `data` is a path (a folder of images, an image, a CSV file, `.npy`
    or `.npz`), an array `[N, C, H, W]`, an iterable of arrays, of dicts by the name of the input or of tuples `(images,
    labels)`, such as a `DataLoader` of PyTorch, or a `CalibrationDataReader` of ONNX Runtime. Arrays are taken as the model
    takes them, images in files are prepared as a file beside the model says. Of an iterable, no more batches are taken
    than hold `limit` images.

    `bits` are those of weights and activations, each 2 to 8. `preset` is `best`, `fast`, `paper` or `base`. `exclude`
    names sites that stay in float, as `inspect` lists them; `*` and `?` are wildcards. `overflow_safe` keeps weights at 7
    bits, which ONNX Runtime computes exactly on every x86 CPU. `target` is what will run the file: `generic` (ONNX
    Runtime, onnxruntime-web and OpenVINO alike), `onnxruntime`, `openvino`, `tensorrt` or `web`. `seed` chooses the sample of a folder and the random probes. `memory` is what
    calibration may take, 4 GiB if it is not said, and `max_tensor` the largest tensor that a node of the model may make,
    both in bytes. `metric`,
    `gradient`, `weights`, `twin`, `pack` and `task` are those of the command line. `progress` is called as `progress(stage, done,
    total)`; `True` shows it on stderr.
    """
    _ensure_apart(model, output)
    limit = whole("limit", limit)
    float_model = read(model, max_tensor, task)
    found = collect(float_model, data, limit, labelled=False)
    settings: _native.QuantizeSettings = {
        "bits": bits,
        "preset": preset,
        "limit": limit,
        "seed": whole("seed", seed, 0) or 0,
        "exclude": [exclude] if isinstance(exclude, str) else list(exclude),
        "overflow_safe": overflow_safe,
        "target": target,
        "twin": twin,
        "pack": pack,
        "metric": metric,
        "gradient": gradient,
        "weights": weights,
        "memory": whole("memory", memory),
        "output": None if output is None else os.fspath(output),
    }
    told = listener(progress)
    try:
        native = _native.quantize(float_model, found.source, found.inputs, settings, told)
    finally:
        finish(told)
    result = Result(native)
    if output is not None:
        result.save(output)
    return result


def check(
    float_model: ModelLike,
    quantized_model: ModelLike | Result,
    data: DataLike,
    labels: LabelsLike | None = None,
    *,
    limit: int | None = None,
    seed: int = 0,
    max_drop: float | None = None,
    min_agreement: float | None = None,
    max_kl: float | None = None,
    min_cosine: float | None = None,
    min_r2: float | None = None,
    max_tensor: int | None = None,
    task: str | None = None,
    progress: ProgressLike = True,
) -> CheckResult:
    """Runs both models on the same images, the quantized one in integer arithmetic, and compares what they give.

    `data` is as for `quantize`. `labels` are those of the data if none are given: a class for each image, rows of zeros and
    ones, a CSV file, or `folders`, where each class has a folder. `max_drop` (percentage points of accuracy),
    `min_agreement` (percent), `max_kl` (nats), `min_cosine` and `min_r2` say what passes.
    """
    if isinstance(quantized_model, Result):
        quantized = quantized_model._native.quantized_model()
    else:
        quantized = read(quantized_model, max_tensor, task)
    native = _checked(
        read(float_model, max_tensor, task),
        quantized,
        data,
        labels,
        {
            "limit": whole("limit", limit),
            "seed": whole("seed", seed, 0) or 0,
            "max_drop": max_drop,
            "min_agreement": min_agreement,
            "max_kl": max_kl,
            "min_cosine": min_cosine,
            "min_r2": min_r2,
        },
        progress,
    )
    return CheckResult(native)


def _checked(
    float_model: _native.Model,
    quantized: _native.Model,
    data: DataLike,
    labels: LabelsLike | None,
    settings: _native.CheckSettings,
    progress: ProgressLike,
) -> _native.Comparison:
    found = collect(float_model, data, settings["limit"], labelled=labels is None)
    told = listener(progress)
    try:
        return _native.check(
            float_model, quantized, found.source, found.inputs, _labels(found, labels, settings), settings, told
        )
    finally:
        finish(told)


def _labels(found: Data, labels: LabelsLike | None, settings: _native.CheckSettings) -> object:
    if labels is None:
        return found.labels
    if isinstance(labels, (str, os.PathLike)):
        return os.fspath(labels)
    given = integers(labels)
    # An array of images is cut to the limit, and so are the labels beside it.
    is_cut = not isinstance(found.source, str) and given.ndim > 0
    return given[: settings["limit"]] if is_cut else given


def _ensure_apart(model: object, output: Path | None) -> None:
    """The float model is not overwritten."""
    if output is None or not isinstance(model, (str, os.PathLike)):
        return
    if os.path.exists(output) and os.path.exists(model) and os.path.samefile(output, model):
        raise UsageError(f"{os.fspath(output)}: would overwrite the float model")


class Result:
    """A quantized model, and what is known of its making."""

    def __init__(self, native: _native.Quantized) -> None:
        self._native = native
        self._check: _native.Comparison | None = None

    def save(self, path: Path) -> None:
        """Writes the ONNX file, whole or not at all."""
        self._native.save(os.fspath(path))

    def to_bytes(self) -> bytes:
        """The content of the ONNX file."""
        return self._native.to_bytes()

    @property
    def report(self) -> dict[str, Any]:
        """What was done: the JSON of the command `quantize`, as a dict. Of what was warned, `warnings` tells."""
        found: dict[str, Any] = json.loads(self._native.report())
        return found

    @property
    def calibration(self) -> str:
        """The scales as JSON, in the form that `--calibration` of the command line reads."""
        return self._native.calibration()

    def check(
        self,
        data: DataLike,
        labels: LabelsLike | None = None,
        *,
        limit: int | None = None,
        seed: int = 0,
        max_drop: float | None = None,
        min_agreement: float | None = None,
        max_kl: float | None = None,
        min_cosine: float | None = None,
        min_r2: float | None = None,
        progress: ProgressLike = True,
    ) -> CheckResult:
        """Compares with the float model, as the function `check` does. The page of this result shows it from then on."""
        self._check = _checked(
            self._native.float_model(),
            self._native.quantized_model(),
            data,
            labels,
            {
                "limit": whole("limit", limit),
                "seed": whole("seed", seed, 0) or 0,
                "max_drop": max_drop,
                "min_agreement": min_agreement,
                "max_kl": max_kl,
                "min_cosine": min_cosine,
                "min_r2": min_r2,
            },
            progress,
        )
        return CheckResult(self._check)

    def to_html(self) -> str:
        """The report as an HTML page."""
        return self._native.html(self._check)

    def _repr_html_(self) -> str:
        return _frame(self.to_html())

    def __repr__(self) -> str:
        return f"<onnx_ptq4vit.Result: {self.report['sites']} sites>"

    def __str__(self) -> str:
        text = self._native.text()
        # The command line's hint at what to type next.
        return text.partition("\nnext: ")[0].rstrip("\n")


class CheckResult:
    """A comparison of a quantized model with its float model.

    The figures are those of the JSON of the command `check`: `result.report["classifier"]`, or `result.classifier`.
    """

    def __init__(self, native: _native.Comparison) -> None:
        self._native = native
        self.report: dict[str, Any] = json.loads(native.report())

    @property
    def passed(self) -> bool | None:
        """Whether every threshold is met by figures that can be trusted; `None` if no threshold was given."""
        return self._native.passed()

    def __bool__(self) -> bool:
        if self.passed is None:
            raise UsageError("no threshold was given, so there is nothing that passed or failed")
        return self.passed

    def __getattr__(self, name: str) -> Any:
        report = self.__dict__.get("report", {})
        if name in report:
            return report[name]
        raise AttributeError(f"a CheckResult has no {name}; its report has {', '.join(report)}")

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self.report]

    def to_html(self) -> str:
        """The report as an HTML page."""
        return self._native.html()

    def _repr_html_(self) -> str:
        return _frame(self.to_html())

    def __repr__(self) -> str:
        return f"<onnx_ptq4vit.CheckResult: {self.report['images']} images, passed: {self.passed}>"

    def __str__(self) -> str:
        return self._native.text().rstrip("\n")


def _frame(page: str) -> str:
    """A page in a frame of its own, which can reach nothing of the notebook."""
    return (
        f'<iframe sandbox="allow-scripts" srcdoc="{html.escape(page)}" title="Report of onnx-ptq4vit" '
        'style="width: 100%; height: 40em; border: 1px solid #8884"></iframe>'
    )
