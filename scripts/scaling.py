"""What more cores would give the integer runner: its own times on one thread, divided as it divides its work.

A simulation: each operator of the profile takes as long as its longest thread, every core is as fast as the one that was
measured, and memory is not a limit. The lines for the cores of this machine are measured, too. One image; the images of a batch run side by side.

    python scripts/scaling.py MODEL [--tokens 197] [--threads 1 2 4 8 16 64]
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
ROWS_OF_MLP = 128  # src/integer/ops/mlp.rs
SERIAL = {"MoveAxis", "OptAddUnicast", "Reshape"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--tokens", type=int, default=197)
    parser.add_argument("--tile", type=int, default=16, help="rows of a tile: 16 for AMX, 6 for other kernels")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2, 4, 8, 16, 64])
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/onnx-ptq4vit")
    args = parser.parse_args()
    print("| threads | simulated, ms per run | times as fast as one | measured, ms |")
    print("|---|---|---|---|")
    operators = bench(args, 1)["profile"]
    one = sum(operator["seconds"] for operator in operators)
    for threads in args.threads:
        seconds = sum(simulated(operator, args, threads) for operator in operators)
        measured = f"{bench(args, threads)['models'][0]['p50_ms']:.1f}" if threads <= cpu_count() else ""
        print(f"| {threads} | {seconds * 1000:.1f} | {one / seconds:.1f} | {measured} |", flush=True)


def simulated(operator: dict, args: argparse.Namespace, threads: int) -> float:
    """Seconds of all nodes of an operator."""
    name, rows = operator["operator"], args.tokens
    if name in SERIAL:
        return operator["seconds"]
    most = ROWS_OF_MLP if name.count("Linear") == 2 else MOST_ROWS
    size = rows_of_task(rows, most, threads, args.tile)
    if name == "Attention":
        size = min(size, ROWS_OF_ATTENTION)
    return operator["seconds"] * share(ceil(rows / size), size, rows, threads)


def rows_of_task(rows: int, most: int, threads: int, tile: int) -> int:
    tasks = ceil(ceil(rows / most) / threads) * threads
    return ceil(ceil(rows / tasks) / tile) * tile


def share(tasks: int, size: int, rows: int, threads: int) -> float:
    """The rows of the thread that has most of them, as a share of all."""
    return min(ceil(tasks / threads) * size / rows, 1.0)


def bench(args: argparse.Namespace, threads: int) -> dict:
    command = [args.binary, "bench", args.model, "--threads", threads, "--seconds", 2]
    command += ["--profile", "--json", "--quiet"]
    run = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    return json.loads(run.stdout)


if __name__ == "__main__":
    main()
