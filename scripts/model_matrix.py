"""Export full-size models with seeded random weights, quantize them, and print what worked: the table of docs/models.md.

Every model of `zoo.py` by every exporter: `inspect`, `quantize` (W8A8, two images of noise), `check`, and ONNX
Runtime on the float file and on the quantized one. Two images prove structure, not accuracy. A row that is known
for this binary is not run again; each model's file is deleted after its row.
"""

import argparse
import collections
import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from exporters import ZOO_EXPORTERS, export

from zoo import ARCHITECTURES, seeded

SEED = 20
REPOSITORY = Path(__file__).resolve().parent.parent
EXTERNAL = {"dynamo18", "dynamo23"}
LARGEST_ERROR = 1e-4


def main() -> int:
    models = {name: (a, build) for a in ARCHITECTURES.values() for name, build in a.full.items()}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=models, default=list(models))
    parser.add_argument("--exporters", nargs="+", choices=ZOO_EXPORTERS, default=list(ZOO_EXPORTERS))
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/onnx-ptq4vit")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/model-matrix")
    parser.add_argument("--docs", type=Path, help="write the rows into this page, between its marks")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    known_rows = args.work / "rows.json"
    rows = json.loads(known_rows.read_text()) if known_rows.exists() else {}

    # The tracer leaves tensors of its own in the caches of some models: everything else comes first.
    order = sorted(args.exporters, key=lambda name: not ZOO_EXPORTERS[name].dynamo)
    for name in args.models:
        architecture, build = models[name]
        missing = [exporter for exporter in order if f"{name} {exporter}" not in rows]
        if not missing:
            continue
        model = seeded(build, seed=SEED, small=False)
        side = side_of(model)
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(SEED))
        for exporter in missing:
            how = ZOO_EXPORTERS[exporter]
            if how.dynamo and architecture.biased_attention:
                how = replace(how, fused=False)
            try:
                rows[f"{name} {exporter}"] = row(args, model, images, exporter, how, architecture.outputs)
            except Exception as error:  # any failure is the finding
                rows[f"{name} {exporter}"] = {"failure": str(error)[:300]}
            known_rows.write_text(json.dumps(rows, indent=1))
            print(name, exporter, rows[f"{name} {exporter}"], flush=True)
    table = show(rows)
    if args.docs:
        before, _, rest = args.docs.read_text().partition("<!-- rows -->\n")
        args.docs.write_text(f"{before}<!-- rows -->\n{table}<!-- end of rows -->\n" + rest.partition("<!-- end of rows -->\n")[2])
    print(table)
    return any("failure" in found for found in rows.values())


def row(args, model, images, exporter, how, outputs) -> dict:
    source, quantized = args.work / "float.onnx", args.work / "quantized.onnx"
    calibration, found = args.work / "x.npy", args.work / "y.npy"
    for path in args.work.glob("*.onnx*"):
        path.unlink()
    np.save(calibration, images.numpy())
    proto = export(model, images, how, outputs)
    if exporter in EXTERNAL:
        onnx.save(proto, source, save_as_external_data=True, location="float.onnx.data", size_threshold=1024)
    else:
        onnx.save(proto, source)
    del proto

    call([args.binary, "run", source, "--input", calibration, "-o", found])
    expected = runtime(source, images)
    error = float(np.abs(np.load(found) - expected).max() / max(np.abs(expected).max(), 1.0))
    if error > LARGEST_ERROR:
        raise RuntimeError(f"the float model is {error:.1e} from ONNX Runtime")
    _, usage = call([args.binary, "quantize", source, "--calib", calibration, "-o", quantized, "--json"])
    sites = collections.Counter(site["kind"] for site in json.loads(call([args.binary, "inspect", source, "--json"])[0])["sites"])
    checked = json.loads(call([args.binary, "check", source, quantized, "--data", calibration, "--json"])[0])
    call([args.binary, "run", quantized, "--input", calibration, "-o", found])
    theirs = runtime(quantized, images, optimized=False)
    agreement = float(10 * np.log10((theirs**2).sum() / ((theirs - np.load(found)) ** 2).sum()))
    return {
        "batch": "fixed" if how.fixed_batch else "open",
        "data": "external" if exporter in EXTERNAL else "inline",
        "sites": dict(sites),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "gibibytes": round(usage.ru_maxrss / 2**20, 2),
        "error": error,
        "sqnr": checked["sqnr_db"],
        "runtime_sqnr": agreement,
    }


def side_of(model) -> int:
    if hasattr(model, "default_cfg"):
        return model.default_cfg["input_size"][-1]
    size = next(m.config.image_size for m in model.modules() if hasattr(m, "config"))
    return size if isinstance(size, int) else size[0]


def call(command) -> tuple[str, resource.struct_rusage]:
    """What it printed, and what it used."""
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, faults = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"{command[1]}: exit {process.returncode}: {faults.strip().splitlines()[-1:]}")
    return said, usage


def runtime(path, images, *, optimized=True) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images[i : i + 1].numpy()})[0] for i in range(len(images))])


def show(rows) -> str:
    lines = [
        "| model | exporter | batch | weights | sites | processor seconds | memory, GiB | float error | SQNR, dB | against ONNX Runtime, dB |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, found in sorted(rows.items(), key=lambda item: item[0]):
        model, exporter = key.split()
        if "failure" in found:
            lines.append(f"| {model} | {exporter} | failed: {found['failure']} |")
            continue
        kinds = ", ".join(f"{count} {kind}" for kind, count in found["sites"].items())
        total = sum(found["sites"].values())
        lines.append(
            f"| {model} | {exporter} | {found['batch']} | {found['data']} | {total}: {kinds} | {found['processor_seconds']} "
            f"| {found['gibibytes']} | {found['error']:.0e} | {found['sqnr']:.1f} | {found['runtime_sqnr']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
