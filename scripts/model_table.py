"""Export small models of many architectures, quantize them, and print what worked: the tables of docs/models.md.

Each model of small_timm.py and small_hugging_face.py is exported three times: by TorchScript with a batch of one, by
dynamo, and by TorchScript with open batch, height and width. Every export goes through `inspect`, `quantize` with its
default options and four images of noise, ONNX Runtime and `run`. That proves structure, not accuracy. A row that is
known for this binary is not made again, and exported files are kept.
"""

import argparse
import collections
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from exporters import ZOO_EXPORTERS, Exporter, export
from runtime_check import OnnxRuntime, Site, cut, judge_exact, load_sites
from small_hugging_face import HUGGING_FACE
from small_models import Small
from small_timm import TIMM

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = {"timm": TIMM, "hf": HUGGING_FACE}
# Each with what is tried if the export before it fails: attention not as PyTorch's one call, a batch of one.
TORCHSCRIPT, DYNAMO = ZOO_EXPORTERS["ts17"], replace(ZOO_EXPORTERS["dynamo20"], fused=False)
OPEN = replace(TORCHSCRIPT, fixed_batch=False, open_size=True)
EXPORTS = {
    "ts17": [TORCHSCRIPT, replace(TORCHSCRIPT, fused=False)],
    "dynamo20": [replace(DYNAMO, fixed_batch=False), DYNAMO],
    "open17": [OPEN, replace(OPEN, fused=False)],
}
IMAGES = 4
LARGEST_ERROR = 1e-3
# Decibels: rounding ties are a smaller error than the quantization itself, or at least not a much larger one.
TIES = 10
# Of the elements of a quantized output, the share that may be rounded to the next code.
TIED = 1e-3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=list(SOURCES))
    parser.add_argument("--models", nargs="+", help="only these, of both sources")
    parser.add_argument("--exports", nargs="+", choices=EXPORTS, default=list(EXPORTS))
    parser.add_argument("--failing", action="store_true", help="only rows whose last outcome is not `ok`")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/onnx-ptq4vit")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/model-table")
    parser.add_argument("--limit", type=int, default=120, help="seconds that one step may take")
    parser.add_argument("--docs", type=Path, help="write the rows into this page, between its marks")
    args = parser.parse_args()
    (args.work / "onnx").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    binary = hashlib.sha256(args.binary.read_bytes()).hexdigest()[:12]
    known_rows = args.work / "rows.json"
    rows = json.loads(known_rows.read_text()) if known_rows.exists() else {}

    for key, small in asked(args):
        known = rows.get(key, {})
        if known.get("binary") == binary or (args.failing and known.get("outcome") == "ok"):
            continue
        rows[key] = {"binary": binary} | row(args, key, small)
        known_rows.write_text(json.dumps(rows, indent=1))
        print(key, {name: value for name, value in rows[key].items() if name not in ("binary", "float")}, flush=True)
    for source, models in SOURCES.items():
        table = show(source, models, rows)
        if args.docs:
            fill(args.docs, source, table)
        print(table)
    return any(found["outcome"] != "ok" for found in rows.values())


def asked(args: argparse.Namespace) -> Iterable[tuple[str, Small]]:
    for exports in args.exports:
        for source in args.sources:
            for name, small in SOURCES[source].items():
                if not args.models or name in args.models:
                    yield f"{source} {name} {exports}", small


def row(args: argparse.Namespace, key: str, small: Small) -> dict:
    """What is known of one export; `outcome` is `ok` or the first error."""
    found = {}
    try:
        measured(args, exported(args, key, small), small, found)
        found["outcome"] = "ok"
    except Exception as error:  # any failure is the finding
        found["outcome"] = str(error)[:600]
    return found


def exported(args: argparse.Namespace, key: str, small: Small) -> Path:
    """The exported file, which ONNX Runtime runs; what failed is kept in a file, too."""
    path = args.work / "onnx" / (re.sub(r"[ :]", ".", key) + ".onnx")
    failure = path.with_suffix(".failure")
    errors = []
    for exporter in EXPORTS[key.split()[-1]]:
        if path.exists() or failure.exists():
            break
        try:
            limited(args.limit, export_model, small, exporter, path)
        except Exception as error:
            errors.append(str(error))
    if errors and not path.exists():
        failure.write_text(errors[-1])
    if not path.exists():
        raise RuntimeError(failure.read_text())
    return path


def export_model(small: Small, exporter: Exporter, path: Path) -> None:
    images = small.images(IMAGES)
    proto = export(small.model(), images, exporter, small.outputs)
    np.save(path.with_suffix(".npy"), images.numpy())
    unfinished = path.with_suffix(".unfinished")
    onnx.save(proto, unfinished)
    if not np.isfinite(onnx_runtime(unfinished, path.with_suffix(".npy"))).all():
        raise RuntimeError("the exported file computes NaN or infinity")
    unfinished.rename(path)


def measured(args: argparse.Namespace, source: Path, small: Small, found: dict) -> None:
    images, quantized, output = source.with_suffix(".npy"), args.work / "quantized.onnx", args.work / "y.npy"
    said = json.loads(call(args, "inspect", source, "--json"))
    found["sites"] = {kind["kind"]: kind["sites"] for kind in said["kinds"]}
    found["integer"] = (count := said["multiplications"]) and 100 * count["integer"] / count["total"]
    found["float"] = collections.Counter()
    for node in said["float"]:
        found["float"][f"{node['op']}: {node['reason']}"] += node.get("percent") or 0
    floats = limited(args.limit, onnx_runtime, source, images)
    call(args, "run", source, "--input", images, "-o", output)
    error = float(np.abs(np.load(output) - floats).max() / max(np.abs(floats).max(), 1.0))
    if not error < LARGEST_ERROR:
        raise RuntimeError(f"run: the float model is {error:.1e} from ONNX Runtime")

    started = time.monotonic()
    call(args, "quantize", source, "--calib", images, "-o", quantized)
    found["seconds"] = round(time.monotonic() - started, 1)
    theirs = limited(args.limit, onnx_runtime, quantized, images)
    found["sqnr"] = sqnr(floats, theirs)
    found["optimized_sqnr"] = sqnr(floats, limited(args.limit, onnx_runtime, quantized, images, True))

    sites = args.work / "sites"
    sites.mkdir(exist_ok=True)
    for old in sites.iterdir():
        old.unlink()
    call(args, "run", quantized, "--input", images, "-o", output, "--sites", sites)
    found["runtime_sqnr"] = sqnr(theirs, np.load(output))
    found["exact"], found["recorded"], found["worst"] = limited(args.limit, compare_sites, quantized, sites)
    found["open"] = {}
    for name, shape in open_shapes(source, small).items():
        found["open"][name] = at_shape(args, source, quantized, shape)
    if found["exact"] < found["recorded"]:
        raise RuntimeError(f"run: {found['worst']}")


def open_shapes(source: Path, small: Small) -> dict[str, tuple[int, ...]]:
    """Shapes other than that of the calibration that the export promises to take."""
    dims = onnx.load(source).graph.input[0].type.tensor_type.shape.dim
    shapes = {}
    if not dims[0].dim_value:
        shapes["batch"] = (3, small.channels, small.side, small.side)
    if not dims[2].dim_value:
        shapes["size"] = (2, small.channels, 2 * small.side, small.side)
    return shapes


def at_shape(args: argparse.Namespace, source: Path, quantized: Path, shape: tuple[int, ...]) -> float | None:
    """The SQNR at another shape; `None` if the float model does not take it."""
    images, output = args.work / "x.npy", args.work / "y.npy"
    np.save(images, np.random.default_rng(0).standard_normal(shape, dtype=np.float32))
    try:
        floats = limited(args.limit, onnx_runtime, source, images, False, shape[0])
    except RuntimeError:
        return None
    theirs = limited(args.limit, onnx_runtime, quantized, images, False, shape[0])
    call(args, "run", quantized, "--input", images, "-o", output)
    ours, found = np.load(output), sqnr(floats, theirs)
    if ours.shape != theirs.shape or sqnr(theirs, ours) < found - TIES:
        raise RuntimeError(f"run: for images {shape} the output is not that of ONNX Runtime")
    return found


def compare_sites(quantized: Path, folder: Path) -> tuple[int, int, str]:
    """How many sites ONNX Runtime computes as `run` recorded them, of how many, and the worst of the others."""
    model, plain = onnx.load(quantized), OnnxRuntime(False, folder)
    sites, errors = load_sites(folder), []
    for site in sites:
        try:
            part = cut(model, site)
            run = plain.load(part)
            exact, error, _ = judge_exact(run, site)
            exact = exact or ties_of_output(run, part, site)
        except Exception as fault:
            exact, error = False, float("inf")
            site.name += f": {fault}"
        if not exact:
            errors.append((error, f"site `{site.name}` is {error:.1e} from ONNX Runtime"))
    return len(sites) - len(errors), len(sites), max(errors)[1] if errors else ""


def ties_of_output(run: Callable, part: onnx.ModelProto, site: Site) -> bool:
    """Whether few elements of a quantized output are the next code: ONNX Runtime rounds a sum of floats."""
    kinds = [node.op_type for node in part.graph.node]
    if "Conv" not in kinds or "DequantizeLinear" not in kinds[kinds.index("Conv") :]:
        return False
    last = max(i for i, kind in enumerate(kinds) if kind == "DequantizeLinear")
    scale = next(tensor for tensor in part.graph.initializer if tensor.name == part.graph.node[last].input[1])
    codes = np.abs(run(site.inputs) - site.expected) / onnx.numpy_helper.to_array(scale).max()
    return codes.max() < 1.5 and (codes > 0.5).mean() < TIED


def onnx_runtime(path: Path, images: Path, optimized: bool = False, batch: int = 1) -> np.ndarray:
    """The first output of the model in ONNX Runtime, from batches of this size."""
    levels, options = onnxruntime.GraphOptimizationLevel, onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name, images = session.get_inputs()[0].name, np.load(images)
    outputs = [session.run(None, {name: images[i : i + batch]})[0] for i in range(0, len(images), batch)]
    return np.concatenate(outputs)


def sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    noise = ((expected.astype(float) - found) ** 2).sum()
    return float(10 * np.log10((expected.astype(float) ** 2).sum() / noise)) if noise else float("inf")


def call(args: argparse.Namespace, command: str, *words: object) -> str:
    words = [str(word) for word in (args.binary, command, *words, "--threads", 1)]
    try:
        process = subprocess.run(words, capture_output=True, text=True, timeout=args.limit)
    except subprocess.TimeoutExpired as stop:
        phase = (stop.stderr or b"").decode().strip().splitlines()[-1:]
        raise RuntimeError(f"{command}: stopped after {args.limit} s: {' '.join(phase)}") from None
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines()
        first = next((i for i, text in enumerate(lines) if text.startswith("error")), -1)
        raise RuntimeError(f"{command}: exit {process.returncode}: {' '.join(text.strip() for text in lines[first:])}")
    return process.stdout


def limited(seconds: int, work: Callable, *given: object):
    """What `work` returns, from a process of its own, which is stopped after so many seconds."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    step = work.__name__.replace("_", " ")

    def run() -> None:
        with open(os.devnull, "w") as null:  # the exporters say much
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        try:
            theirs.send((True, work(*given)))
        except BaseException as error:
            said = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())
            theirs.send((False, f"{step}: {type(error).__name__}: {said[:500]}"))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise RuntimeError(f"{step}: stopped after {seconds} s")
        good, found = ours.recv()
    except EOFError:
        good, found = False, f"{step}: the process died"
    finally:
        process.kill()
        process.join()
    if not good:
        raise RuntimeError(found)
    return found


def show(source: str, models: dict[str, Small], rows: dict[str, dict]) -> str:
    lines = [
        "| model | exports | outcome | sites | integer, % | SQNR, dB | against ONNX Runtime, dB | exact sites "
        "| other shapes, dB | seconds |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in sorted(models):
        of = {export: rows[key] for export in EXPORTS if (key := f"{source} {name} {export}") in rows}
        if of:
            lines.append(line(name, of))
    return "\n".join(lines) + "\n"


def line(name: str, of: dict[str, dict]) -> str:
    """One model: of each figure the worst of its exports."""

    def worst(key: str, pick: Callable = min) -> str:
        values = [found[key] for found in of.values() if found.get(key) is not None]
        return f"{pick(values):.1f}" if values else ""

    good = [export for export, found in of.items() if found["outcome"] == "ok"]
    errors = collections.defaultdict(list)
    for export, found in of.items():
        if export not in good:
            errors[short(found["outcome"])].append(export)
    outcome = "; ".join(f"{', '.join(exports)}: {error}" for error, exports in errors.items()) or "ok"
    sites = next((found["sites"] for found in of.values() if found.get("sites")), {})
    kinds = ", ".join(f"{count} {kind}" for kind, count in sites.items())
    exact = "; ".join(sorted({f"{found['exact']} of {found['recorded']}" for found in of.values() if "exact" in found}))
    shapes = collections.defaultdict(list)
    for found in of.values():
        for shape, figure in found.get("open", {}).items():
            shapes[shape] += [figure] if figure is not None else []
    other = ", ".join(f"{shape} {min(figures):.1f}" for shape, figures in shapes.items() if figures)
    figures = [worst("integer"), worst("sqnr"), worst("runtime_sqnr"), exact, other, worst("seconds", max)]
    return f"| {' | '.join([name, ', '.join(good), outcome, kinds, *figures])} |"


def short(error: str) -> str:
    error = re.sub(r"(/\S*)?/([^/\s]+\.(?:onnx|unfinished))", r"\2", error).replace("|", "\\|")
    return error if len(error) <= 140 else error[:137] + "..."


def fill(page: Path, source: str, table: str) -> None:
    begin, end = f"<!-- {source} -->\n", f"<!-- end of {source} -->\n"
    before, _, rest = page.read_text().partition(begin)
    page.write_text(before + begin + table + end + rest.partition(end)[2])


if __name__ == "__main__":
    sys.exit(main())
