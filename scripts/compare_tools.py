"""Accuracy of the W8A8 files that several quantizers make of one model: prints the table of docs/accuracy.md.

    python scripts/compare_tools.py MODEL --calib CALIB.csv --calib-resize 256 --data VAL.csv --resize 224

Every tool gets the same arrays for calibration, and stock ONNX Runtime, with the optimizations that it makes by default, runs
every file on the same images, one at a time. CALIB.csv has a column `path`, VAL.csv also has `label` (a class from 0). What
`requirements-tools.txt` names has to be installed; a tool that is not is left out with a note.
"""

import argparse
import contextlib
import csv
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from PIL import Image
from tool_rows import TOOLS, Given

REPOSITORY = Path(__file__).resolve().parent.parent
MEAN, STD = 0.5, 0.5


@dataclass
class Figures:
    top1: float  # percent
    agreement: float  # percent of the images that get the class of the float model
    kl: float  # mean KL divergence from the float model, nats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a float classifier of [N, 3, size, size] with mean and std 0.5")
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--calib-resize", type=int, required=True, help="pixels of the short side")
    parser.add_argument("--calib-limit", type=int, default=32, help="the first so many rows of CALIB")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--resize", type=int, required=True, help="pixels of the short side")
    parser.add_argument("--limit", type=int, help="the first so many rows of VAL")
    parser.add_argument("--size", type=int, default=224, help="of the centre crop")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS))
    parser.add_argument("--only", nargs="+", help="rows whose name contains one of these")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/onnx-ptq4vit")
    parser.add_argument("--keep", type=Path, help="a folder for the quantized files")
    args = parser.parse_args()

    calib, _ = images(args.calib, args.calib_limit, args.calib_resize, args.size)
    data, labels = images(args.data, args.limit, args.resize, args.size)
    expected = run(args.model, data)
    print(f"{len(calib)} calibration images, {len(data)} images, {machine()}, ONNX Runtime {onnxruntime.__version__}\n")
    print("| tool | configuration | top-1 % | agreement % | KL | MB | seconds (of processor) | products in float |\n|---|---|---|---|---|---|---|---|")
    size = args.model.stat().st_size / 1e6
    print(f"| | float | {compare(expected, expected, labels).top1:.1f} | | | {size:.2f} | | {products(args.model)} |", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.keep or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        given = Given(args.model.resolve(), calib, args.binary.resolve(), folder)
        for name in args.tools:
            for configuration, make in TOOLS[name].rows.items():
                if not args.only or any(part in f"{name} {configuration}" for part in args.only):
                    print(f"| {row(name, configuration, make, given, data, expected, labels)} |", flush=True)


def row(name, configuration, make, given, data, expected, labels) -> str:
    tool = TOOLS[name]
    try:
        version = importlib.metadata.version(tool.package) if tool.package else binary_version(given.binary)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} | {configuration} | left out: {tool.package} is not installed"
    out = given.folder / ("".join(c if c.isalnum() else "-" for c in f"{name} {configuration}") + ".onnx")
    wall, processor = time.monotonic(), processor_seconds()
    try:
        with contextlib.redirect_stdout(sys.stderr):  # progress
            make(given, out)
    except Exception as error:  # any failure of another tool is the finding
        return f"{name} {version} | {configuration} | failed: {type(error).__name__}: {str(error)[:200]}"
    wall, processor = time.monotonic() - wall, processor_seconds() - processor
    try:
        found = compare(expected, run(out, data), labels)
    except Exception as error:
        return f"{name} {version} | {configuration} | ONNX Runtime does not run the file: {str(error)[:200]}"
    size = out.stat().st_size / 1e6
    return (
        f"{name} {version} | {configuration} | {found.top1:.1f} | {found.agreement:.1f} | {found.kl:.4f} | {size:.2f} "
        f"| {wall:.0f} ({processor:.0f}) | {products(out)}"
    )


def images(path: Path, limit: int | None, resize: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images f32 [N, 3, size, size] as timm prepares them for a ViT, and their labels (-1 where there is none)."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))[:limit]
    arrays = [prepare(Image.open(path.parent / row["path"]).convert("RGB"), resize, size) for row in rows]
    return np.stack(arrays), np.array([int(row.get("label") or -1) for row in rows])


def prepare(image: Image.Image, resize: int, size: int) -> np.ndarray:
    short = min(image.size)
    image = image.resize([int(resize * side / short) for side in image.size], Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    return ((pixels - MEAN) / STD).astype(np.float32).transpose(2, 0, 1)


def run(path: Path, data: np.ndarray) -> np.ndarray:
    """Logits [N, classes]. One image at a time: scales that are found while running depend on the batch."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # kind to a shared machine; the results are the same
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in data])


def compare(expected: np.ndarray, found: np.ndarray, labels: np.ndarray) -> Figures:
    classes = found.argmax(1)
    p, q = log_softmax(expected), log_softmax(found)
    return Figures(
        top1=100 * np.mean(classes == labels),
        agreement=100 * np.mean(classes == expected.argmax(1)),
        kl=float(np.mean((np.exp(p) * (p - q)).sum(1))),
    )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def products(path: Path) -> str:
    """How many of the products (MatMul, Gemm, Conv) of a file take an operand that was not quantized: `3 of 74`."""
    graph = onnx.inliner.inline_local_functions(onnx.load(path)).graph
    made_by = {output: node for node in graph.node for output in node.output}
    taking = [node for node in graph.node if node.op_type in {"MatMul", "Gemm", "Conv"}]
    integer = [node for node in graph.node if node.op_type in {"MatMulInteger", "ConvInteger"}]
    in_float = [node for node in taking if not all(is_quantized(operand, made_by) for operand in node.input[:2])]
    return f"{len(in_float)} of {len(taking) + len(integer)}"


def is_quantized(name: str, made_by: dict) -> bool:
    """Whether a value comes from DequantizeLinear, through nothing but changes of shape."""
    while (node := made_by.get(name)) and node.op_type in {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Gather", "Slice", "Split"}:
        name = node.input[0]
    return node is not None and node.op_type == "DequantizeLinear"


def binary_version(binary: Path) -> str:
    return subprocess.run([binary, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]


def processor_seconds() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor")
    vnni = "with" if any("vnni" in line for line in lines if line.startswith("flags")) else "without"
    return f"{os.cpu_count()} cores of {model} {vnni} VNNI"


if __name__ == "__main__":
    main()
