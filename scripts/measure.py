"""Accuracy of every configuration on a real model: prints the table of docs/accuracy.md.

    python scripts/measure.py MODEL --calib CALIB --calib-resize 256 --data VAL --resize 224

CALIB and VAL are folders or CSV files as `quantize` and `check` take them; VAL is a CSV file with labels. Each row is one run
of `quantize` and one of `check` for each draw of calibration images; the figures come from the JSON of `check`.
"""

import argparse
import csv
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

WIDTHS = ["w8a8", "w6a6", "w4a8", "w4a4"]
STEPS = {
    "base": ["--preset", "base"],
    "paper": ["--preset", "paper"],
    "+ per-channel weights, outliers in float, pixels in 8 bits": ["--no-fold", "--no-rounding", "--no-bias-correction"],
    "+ bias correction": ["--no-fold", "--no-rounding"],
    "+ rounding in turn": ["--no-fold"],
    "+ folds (best, the default)": [],
    "best, no bias correction": ["--no-bias-correction"],
    "best, no rounding in turn": ["--no-rounding"],
    "best, --no-outliers": ["--no-outliers"],
    "best, mse metric": ["--metric", "mse"],
    "best, no twins": ["--no-softmax-twin", "--no-gelu-twin"],
    "fast": ["--preset", "fast"],
}
CONFIGURATIONS = {f"{bits} {name}": ["--bits", bits, *flags] for name, flags in STEPS.items() for bits in WIDTHS}
CONFIGURATIONS["overflow-safe"] = ["--overflow-safe"]




def drawn(calib, size, folder):
    """One CSV file for each `size` rows of the CSV file `calib`, with absolute paths."""
    with open(calib, newline="") as file:
        paths = [pathlib.Path(row["path"]) for row in csv.DictReader(file)]
    draws = []
    for start in range(0, len(paths) - size + 1, size):
        draw = folder / f"draw{start}.csv"
        rows = [str((pathlib.Path(calib).parent / path).resolve()) for path in paths[start : start + size]]
        draw.write_text("\n".join(["path", *rows]) + "\n")
        draws.append(draw)
    return draws


def measured(args, flags, calib, out):
    """Top-1, agreement and KL of the model that is quantized with `flags`, the seconds that took, and its megabytes."""
    start = time.monotonic()
    quantize = [args.binary, "quantize", args.model, "--calib", calib, "--resize", args.calib_resize]
    subprocess.run([*quantize, "-o", out, *flags], check=True, capture_output=True)
    seconds = time.monotonic() - start
    check = [args.binary, "check", args.model, out, "--data", args.data, "--labels", args.data]
    check += ["--resize", args.resize, "--json", *(["--limit", str(args.limit)] if args.limit else [])]
    result = json.loads(subprocess.run(check, check=True, capture_output=True).stdout)
    result = result.get("comparison", result)
    alike = result["classifier"]
    top1 = result["accuracy"]["quantized"]["top1"]
    return top1, alike["agreement"], alike["kl"], seconds, out.stat().st_size / 1e6


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--calib-resize", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--resize", required=True)
    parser.add_argument("--limit", type=int, help="so many images of VAL")
    parser.add_argument("--draws", type=int, default=1, help="draws of calibration images (CALIB is then a CSV file)")
    parser.add_argument("--draw-size", type=int, default=32)
    parser.add_argument("--binary", default="target/release/onnx-ptq4vit")
    parser.add_argument("--only", nargs="+", help="configurations whose name contains one of these")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the quantized files")
    args = parser.parse_args()

    print("| configuration | top-1 % | agreement % | KL, mean (of each draw) | seconds | MB |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        draws = drawn(args.calib, args.draw_size, pathlib.Path(scratch))[: args.draws] if args.draws > 1 else [args.calib]
        for name, flags in CONFIGURATIONS.items():
            if args.only and not any(part in name for part in args.only):
                continue
            out = folder / ("".join(c if c.isalnum() else "-" for c in name) + ".onnx")
            runs = [measured(args, flags, calib, out) for calib in draws]
            top1, agreement, kl, seconds, size = (statistics.mean(column) for column in zip(*runs))
            each = f" ({', '.join(f'{run[2]:.4f}' for run in runs)})" if len(runs) > 1 else ""
            row = f"| {name} | {top1:.1f} | {agreement:.1f} | {kl:.4f}{each} | {seconds:.0f} | {size:.2f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
