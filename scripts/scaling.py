"""What more cores would give the integer runner: its own times on one thread, divided as it divides its work.

A simulation: each operator of the profile takes as long as its longest thread, every core is as fast as the one that was
measured, and memory is not a limit. The line for the number of cores of this machine is measured, too.

    python scripts/scaling.py MODEL [--tokens 197] [--batches 1 8] [--threads 1 2 4 8 16 64]
"""

import argparse
import json
import subprocess
from math import ceil
from os import cpu_count
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_ROWS = 256  # of a task: src/integer/ops/product.rs
ROWS_OF_ATTENTION = 32  # src/integer/ops/attention.rs
SERIAL = {"MoveAxis", "OptAddUnicast", "Reshape"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--tile", type=int, default=16, help="rows of a tile: 16 for AMX, 6 for other kernels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/onnx-ptq4vit")
    args = parser.parse_args()
    print("| batch | threads | simulated, ms per run | times as fast as one | measured |")
    print("|---|---|---|---|---|")
    for batch in args.batches:
        operators = bench(args, batch, 1)["profile"]
        one = sum(operator["seconds"] for operator in operators)
        for threads in args.threads:
            seconds = sum(simulated(operator, args, batch, threads) for operator in operators)
            measured = ""
            if threads <= cpu_count():
                measured = f"{bench(args, batch, threads)['models'][0]['p50_ms']:.1f}"
            print(f"| {batch} | {threads} | {seconds * 1000:.1f} | {one / seconds:.1f} | {measured} |", flush=True)


def simulated(operator: dict, args: argparse.Namespace, batch: int, threads: int) -> float:
    """Seconds of all nodes of an operator."""
    name = operator["operator"]
    if name == "Attention":
        rows = args.tokens
        size = min(rows_of_task(rows, threads, args.tile), ROWS_OF_ATTENTION)
        tasks = batch * ceil(rows / size)
        return operator["seconds"] * share(tasks, size, batch * rows, threads)
    if name in SERIAL:
        return operator["seconds"]
    rows = batch * args.tokens
    size = rows_of_task(rows, threads, args.tile)
    return operator["seconds"] * share(ceil(rows / size), size, rows, threads)


def rows_of_task(rows: int, threads: int, tile: int) -> int:
    tasks = ceil(ceil(rows / MOST_ROWS) / threads) * threads
    return ceil(ceil(rows / tasks) / tile) * tile


def share(tasks: int, size: int, rows: int, threads: int) -> float:
    """The rows of the thread that has most of them, as a share of all."""
    return min(ceil(tasks / threads) * size / rows, 1.0)


def bench(args: argparse.Namespace, batch: int, threads: int) -> dict:
    command = [args.binary, "bench", args.model, "--batch", batch, "--threads", threads, "--seconds", 2]
    command += ["--profile", "--json", "--quiet"]
    run = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


if __name__ == "__main__":
    main()
