"""Time the integer runner beside ONNX Runtime on the same files: the table of docs/performance.md.

Everything takes turns in short rounds, so that all see the same machine; the median round of each counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("float", type=Path, help="the float model")
    parser.add_argument("quantized", type=Path, nargs="+", help="quantized models made from it")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/onnx-ptq4vit")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="of each, in a round")
    args = parser.parse_args()
    print(subprocess.run([args.binary, "--version"], check=True, capture_output=True, text=True).stdout)
    print("| model | batch | threads | ours, ms | ORT int8 / ours | tract float / ours | ORT float / ours |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for threads in args.threads:
        for batch in args.batches:
            compare(args, threads, batch)
    return 0


def compare(args, threads: int, batch: int):
    contestants = {("tract", args.float): ours(args, args.float, threads, batch)}
    contestants[("ort", args.float)] = runtime(args.float, threads, batch, args.seconds)
    for path in args.quantized:
        contestants[("ours", path)] = ours(args, path, threads, batch)
        contestants[("ort", path)] = runtime(path, threads, batch, args.seconds)
    rounds = {key: [] for key in contestants}
    for _ in range(args.rounds):
        for key, measure in contestants.items():
            rounds[key].append(measure())
    median = {key: statistics.median(found) for key, found in rounds.items()}
    for path in args.quantized:
        mine = median["ours", path]
        ratios = [median[key] / mine for key in [("ort", path), ("tract", args.float), ("ort", args.float)]]
        shown = " | ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {path.stem} | {batch} | {threads} | {mine:.1f} | {shown} |", flush=True)


def ours(args, path: Path, threads: int, batch: int):
    """The median run in milliseconds, in this crate: integers, or tract's floats."""
    command = [args.binary, "--threads", threads, "bench", path, "--batch", batch, "--seconds", args.seconds, "--json"]

    def measure() -> float:
        said = subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True)
        return json.loads(said.stdout)["models"][0]["p50_ms"]

    return measure


def runtime(path: Path, threads: int, batch: int, seconds: float):
    """The median run in milliseconds, in ONNX Runtime; one after the other where the file fixes batches of 1."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    source = session.get_inputs()[0]
    shape = [size if isinstance(size, int) else default for size, default in zip(source.shape, (batch, 3, 224, 224), strict=True)]
    images = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)

    def measure() -> float:
        times = []
        start = time.perf_counter()
        while len(times) < 3 or time.perf_counter() - start < seconds:
            before = time.perf_counter()
            for _ in range(batch // shape[0]):
                session.run(None, {source.name: images})
            times.append(time.perf_counter() - before)
        return statistics.median(times) * 1e3

    return measure


if __name__ == "__main__":
    sys.exit(main())
