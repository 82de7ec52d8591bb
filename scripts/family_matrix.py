"""Export one model of every timm family that has attention, quantize it, and print what worked: docs/families.md.

Of each family, the smallest model that exports, with seeded random weights and its default input size: `quantize` (W8A8,
two images of noise), and ONNX Runtime and `run` on the quantized file. Two images prove structure, not accuracy. A row
that is known for this binary is not made again, and exported files are kept.
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
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import timm
import torch
from exporters import ZOO_EXPORTERS, export
from timm.models import model_entrypoint
from torch import nn

from zoo import seeded

SEED = 20
REPOSITORY = Path(__file__).resolve().parent.parent
EXPORTERS = {
    "ts17": ZOO_EXPORTERS["ts17"],
    "dynamo20": replace(ZOO_EXPORTERS["dynamo20"], fused=False),  # see `biased_attention` in zoo.py
}
# How many models of a family are tried until one exports.
TRIED = 2
LARGEST_ERROR = 1e-3
SEARCH = ["--metric", "hessian", "--gradient", "fisher:1"]
STOPPED = "stopped after"

# A file of timm.models, or after the colon the models of it whose names begin so: some hold several architectures, or
# also convolutional networks.
FAMILIES = """
beit byoanet:botnet byoanet:halonet byoanet:lambda cait coat:coat_tiny coat:coat_lite convit cpubone crossvit csatv2 davit
deepseek_vit deit:deit_ deit:deit3_ edgenext efficientformer efficientformer_v2 efficientvim efficientvit_mit
efficientvit_msra eva:eva02_ eva:vit_ fastvit:fastvit_sa focalnet gcvit gemma4_vit hiera hieradet_sam2 iformer levit
lowformer maxxvit:coatnet_ maxxvit:maxvit_ maxxvit:maxxvit metaformer:caformer mobilenetv5 mobilevit:mobilevit_
mobilevit:mobilevitv2_ mvitv2 naflexvit nest nextvit pit pvt_v2 qwen3_vit repvit shvit swiftformer swin_transformer
swin_transformer_v2 swin_transformer_v2_cr tiny_vit tnt twins:twins_pcpvt twins:twins_svt visformer vision_transformer
vision_transformer_hybrid vision_transformer_relpos vision_transformer_sam vitamin volo xcit
""".split()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=FAMILIES)
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/onnx-ptq4vit")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/family-matrix")
    parser.add_argument("--limit", type=int, default=300, help="seconds that one step may take")
    parser.add_argument("--search-limit", type=int, default=300, help="seconds that `quantize` may take")
    parser.add_argument("--until", type=float, default=float("inf"), help="begin no row after this time (seconds since 1970)")
    parser.add_argument("--docs", type=Path, help="write the rows into this page, between its marks")
    args = parser.parse_args()
    (args.work / "onnx").mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    binary = hashlib.sha256(args.binary.read_bytes()).hexdigest()[:12]
    known_rows = args.work / "rows.json"
    rows = json.loads(known_rows.read_text()) if known_rows.exists() else {}

    candidates = smallest(args.work / "sizes.json")
    works = {family for family, known in rows.items() if known["outcome"] == "ok" or STOPPED in known["outcome"]}
    for family in sorted(args.families, key=lambda family: (family in works, candidates[family][0][1])):
        known = rows.get(family, {})
        stopped = STOPPED in known.get("outcome", "") and args.search_limit > known["limit"]
        if (known.get("binary") == binary and not stopped) or time.time() > args.until:
            continue
        rows[family] = {"binary": binary, "limit": args.search_limit} | row(args, [name for name, _ in candidates[family]])
        known_rows.write_text(json.dumps(rows, indent=1))
        print(line(family, rows[family]), flush=True)
    table = show({family: rows[family] for family in FAMILIES if family in rows})
    if args.docs:
        before, _, rest = args.docs.read_text().partition("<!-- rows -->\n")
        args.docs.write_text(f"{before}<!-- rows -->\n{table}<!-- end of rows -->\n" + rest.partition("<!-- end of rows -->\n")[2])
    print(table)
    return any(found["outcome"] != "ok" for found in rows.values())


def smallest(known: Path) -> dict[str, list[tuple[str, float]]]:
    """The smallest models of each family, and what they cost: parameters times pixels."""
    if known.exists() and set(found := json.loads(known.read_text())) == set(FAMILIES):
        return found
    families = collections.defaultdict(list)
    for name in timm.list_models():
        module = model_entrypoint(name).__module__.rpartition(".")[2]
        of = [f for f in FAMILIES if f.partition(":")[0] == module and name.startswith(f.partition(":")[2])]
        if of and not name.startswith("test_"):
            with torch.device("meta"):
                model = timm.create_model(name)
            side = model.default_cfg["input_size"][-1]
            families[of[0]].append((sum(p.numel() for p in model.parameters()), name, side))
    found = {f: [(name, size * side**2) for size, name, side in sorted(models)[:TRIED]] for f, models in families.items()}
    known.write_text(json.dumps(found))
    return found


def row(args: argparse.Namespace, names: list[str]) -> dict:
    found = {"model": names[0], "exporter": ""}
    try:
        found["model"], found["exporter"] = exported(args, names)
        measured(args, args.work / "onnx" / f"{found['model']}.{found['exporter']}.onnx", found)
    except Exception as error:  # any failure is the finding
        found["outcome"] = str(error)[:300]
    return found


def exported(args: argparse.Namespace, names: list[str]) -> tuple[str, str]:
    """The first model and exporter that work together; what failed is kept in a file, too."""
    errors = []
    for name in names:
        for exporter in EXPORTERS:
            path = args.work / "onnx" / f"{name}.{exporter}.onnx"
            failure = path.with_suffix(".failure")
            if not path.exists() and not failure.exists():
                try:
                    limited(args.limit, save, name, exporter, path)
                except Exception as error:
                    failure.write_text(f"{exporter}: {error}")
            if path.exists():
                return name, exporter
            errors.append(failure.read_text().strip().splitlines()[0])
    raise RuntimeError("export: " + "; ".join(errors[: len(EXPORTERS)]))


def save(name: str, exporter: str, path: Path) -> None:
    model = seeded(lambda: timm.create_model(name), seed=SEED, small=False)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            nn.init.trunc_normal_(parameter, std=0.02)
    side = model.default_cfg["input_size"][-1]
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(SEED))
    proto = export(model, images, EXPORTERS[exporter])
    np.save(path.with_suffix(".npy"), images.numpy())
    unfinished = path.with_suffix(".unfinished")
    onnx.save(proto, unfinished)
    unfinished.rename(path)


def measured(args: argparse.Namespace, source: Path, found: dict) -> None:
    images, quantized, output = source.with_suffix(".npy"), args.work / "quantized.onnx", args.work / "y.npy"
    said = json.loads(call(args, args.limit, "inspect", source, "--json"))
    found["sites"] = {kind["kind"]: kind["sites"] for kind in said["kinds"]}
    found["integer"] = (count := said["multiplications"]) and 100 * count["integer"] / count["total"]
    found["float"] = said["float"]
    floats = limited(args.limit, runtime, source, images)
    call(args, args.limit, "run", source, "--input", images, "-o", output)
    error = float(np.abs(np.load(output) - floats).max() / max(np.abs(floats).max(), 1.0))
    if not error < LARGEST_ERROR:
        raise RuntimeError(f"run: the float model is {error:.1e} from ONNX Runtime")
    started = time.monotonic()
    call(args, args.search_limit, "quantize", source, "--calib", images, *SEARCH, "-o", quantized)
    found["seconds"] = round(time.monotonic() - started, 1)
    theirs = limited(args.limit, runtime, quantized, images)
    found["sqnr"] = sqnr(floats, theirs)
    call(args, args.limit, "run", quantized, "--input", images, "-o", output)
    found["runtime_sqnr"] = sqnr(theirs, np.load(output))
    found["outcome"] = "ok"


def runtime(path: Path, images: Path) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in np.load(images)])


def sqnr(expected: np.ndarray, found: np.ndarray) -> float:
    noise = ((expected.astype(float) - found) ** 2).sum()
    return float(10 * np.log10((expected.astype(float) ** 2).sum() / noise)) if noise else float("inf")


def call(args: argparse.Namespace, limit: int, command: str, *words: object) -> str:
    words = [str(word) for word in (args.binary, command, *words, "--threads", 1)]
    try:
        process = subprocess.run(words, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired as stop:
        phase = (stop.stderr or b"").decode().strip().splitlines()[-1:]
        raise RuntimeError(f"{command}: {STOPPED} {limit} s: {' '.join(phase)}") from None
    if process.returncode != 0:
        lines = process.stderr.strip().splitlines()
        first = next((i for i, text in enumerate(lines) if text.startswith("error")), -1)
        raise RuntimeError(f"{command}: exit {process.returncode}: {' '.join(text.strip() for text in lines[first:])}")
    return process.stdout


def limited(seconds: int, work: Callable, *given: object):
    """What `work` returns, from a process of its own, which is stopped after so many seconds."""
    ours, theirs = multiprocessing.Pipe(duplex=False)

    def run() -> None:
        with open(os.devnull, "w") as null:  # the exporters say much
            os.dup2(null.fileno(), 1)
            os.dup2(null.fileno(), 2)
        try:
            theirs.send((True, work(*given)))
        except BaseException as error:
            theirs.send((False, f"{work.__name__}: {type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    theirs.close()
    try:
        if not ours.poll(seconds):
            raise RuntimeError(f"{work.__name__}: {STOPPED} {seconds} s")
        good, found = ours.recv()
    except EOFError:
        good, found = False, f"{work.__name__}: the process died"
    finally:
        process.kill()
        process.join()
    if not good:
        raise RuntimeError(found)
    return found


def show(rows: dict[str, dict]) -> str:
    lines = [
        "| family | model | exporter | outcome | integer, % | SQNR, dB | against ONNX Runtime, dB | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join(lines + [line(family, found) for family, found in rows.items()]) + "\n"


def line(family: str, found: dict) -> str:
    def number(key: str) -> str:
        return "" if found.get(key) is None else f"{found[key]:.1f}"

    outcome = re.sub(r"(/\S*)?/([^/\s]+\.onnx)", r"\2", found["outcome"]).replace("|", "\\|")
    outcome = outcome if len(outcome) <= 160 else outcome[:157] + "..."
    cells = [family.rstrip("_"), found["model"], found["exporter"], outcome]
    return f"| {' | '.join([*cells, *map(number, ['integer', 'sqnr', 'runtime_sqnr', 'seconds'])])} |"


if __name__ == "__main__":
    sys.exit(main())
