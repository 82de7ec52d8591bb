"""How each quantizer is called for `compare_tools.py`: as its own documentation says, with its own defaults.

Packages are imported where they are used, so that a tool which is not installed hinders no other.
"""

import contextlib
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx


@dataclass
class Given:
    """What every row starts from; all paths are absolute."""

    model: Path
    calib: np.ndarray  # f32 [N, C, H, W]
    binary: Path
    folder: Path  # for the quantized files and what is made on the way


@dataclass
class Tool:
    package: str | None  # None: the binary of this repository
    rows: dict[str, Callable[[Given, Path], None]]


def ours(*flags: str):
    def make(given: Given, out: Path) -> None:
        arrays = given.folder / "calib.npz"
        np.savez(arrays, images=given.calib)
        subprocess.run([given.binary, "quantize", given.model, "--calib", arrays, "-o", out, *flags], check=True, capture_output=True)

    return make


def reader(given: Given):
    """The calibration images one at a time, as ONNX Runtime and Quark take them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.rewind()

        def get_next(self):
            return next(self.images, None)

        def rewind(self):
            self.images = iter([{input_name(given.model): image[None]} for image in given.calib])

    return Reader()


def input_name(model: Path) -> str:
    return onnx.load(model, load_external_data=False).graph.input[0].name


def runtime_static(method: str = "MinMax", **options):
    """`quant_pre_process`, then `quantize_static` to Q/DQ pairs."""

    def make(given: Given, out: Path) -> None:
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        prepared = given.folder / "prepared.onnx"
        quant_pre_process(given.model, prepared)
        quantize_static(prepared, out, reader(given), QuantFormat.QDQ, calibrate_method=CalibrationMethod[method], **options)

    return make


def runtime_dynamic(given: Given, out: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = given.folder / "prepared.onnx"
    quant_pre_process(given.model, prepared)
    quantize_dynamic(prepared, out, op_types_to_quantize=["MatMul", "Gemm"])


def nncf(**options):
    def make(given: Given, out: Path) -> None:
        import nncf

        name = input_name(given.model)
        dataset = nncf.Dataset(given.calib, lambda image: {name: image[None]})
        model = onnx.load(given.model)
        onnx.save(nncf.quantize(model, dataset, model_type=nncf.ModelType.TRANSFORMER, subset_size=len(given.calib), **options), out)

    return make


def quark(*, products_alone: bool = False, per_channel: bool = False, smooth: bool = False):
    """The preset A8W8; `per_channel` also makes activations UINT8 with a zero point."""

    def make(given: Given, out: Path) -> None:
        import copy

        import quark.onnx as q

        config = copy.deepcopy(q.A8W8_QCONFIG)
        if products_alone:
            config.extra_options["OpTypesToQuantize"] = PRODUCTS
        if per_channel:
            config.global_config = q.QLayerConfig(activation=q.UInt8Spec(), weight=q.Int8Spec(quant_granularity=q.QuantGranularity.Channel))
        if smooth:
            config.algo_config = [q.SmoothQuantConfig()]
        with contextlib.chdir(given.folder):  # it writes a table into the current folder
            q.ModelQuantizer(config).quantize_model(str(given.model), str(out), reader(given))

    return make


PRODUCTS = ["MatMul", "Gemm", "Conv"]

TOOLS = {
    "onnx-ptq4vit": Tool(None, {"default": ours(), "`--overflow-safe`": ours("--overflow-safe")}),
    "onnxruntime": Tool(
        "onnxruntime",
        {
            "`quantize_static`, MinMax": runtime_static(),
            "… Entropy": runtime_static("Entropy"),
            "… MinMax, per channel, reduced range": runtime_static(per_channel=True, reduce_range=True),
            "… MinMax, products alone": runtime_static(op_types_to_quantize=PRODUCTS),
            "… MinMax, products alone, per channel": runtime_static(op_types_to_quantize=PRODUCTS, per_channel=True),
            "… Entropy, products alone, per channel": runtime_static("Entropy", op_types_to_quantize=PRODUCTS, per_channel=True),
            "… Percentile, products alone, per channel": runtime_static("Percentile", op_types_to_quantize=PRODUCTS, per_channel=True),
            "`quantize_dynamic`": runtime_dynamic,
        },
    ),
    "nncf": Tool(
        "nncf",
        {
            "`ModelType.TRANSFORMER`": nncf(),
            "… `fast_bias_correction=False`": nncf(fast_bias_correction=False),
        },
    ),
    "quark": Tool(
        "amd-quark",
        {
            "preset A8W8": quark(),
            "… products alone": quark(products_alone=True),
            "… products alone, UINT8 activations, per channel": quark(products_alone=True, per_channel=True),
            "… the same, SmoothQuant": quark(products_alone=True, per_channel=True, smooth=True),
        },
    ),
}
