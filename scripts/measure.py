"""Accuracy of every configuration on a real model: prints the table of docs/accuracy.md.

    python scripts/measure.py MODEL --calib CALIB --calib-resize 256 --data VAL --resize 224

CALIB and VAL are folders or CSV files as `quantize` and `check` take them; VAL has labels. Each row is one run of
`quantize` and one of `check`, whose JSON is where the figures come from.
"""

import argparse
import json
import pathlib
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--calib-resize", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--resize", required=True)
    parser.add_argument("--binary", default="target/release/onnx-ptq4vit")
    parser.add_argument("--only", help="configurations whose name contains this")
    parser.add_argument("--keep", type=pathlib.Path, help="a folder for the quantized files")
    args = parser.parse_args()

    print("| configuration | top-1 % | agreement % | KL | seconds |\n|---|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or pathlib.Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        for name, flags in CONFIGURATIONS.items():
            if args.only and args.only not in name:
                continue
            out = folder / ("".join(c if c.isalnum() else "-" for c in name) + ".onnx")
            start = time.monotonic()
            quantize = [args.binary, "quantize", args.model, "--calib", args.calib, "--resize", args.calib_resize]
            subprocess.run([*quantize, "-o", out, *flags], check=True, capture_output=True)
            seconds = time.monotonic() - start
            check = [args.binary, "check", args.model, out, "--data", args.data, "--resize", args.resize, "--json"]
            result = json.loads(subprocess.run(check, check=True, capture_output=True).stdout)
            result = result.get("comparison", result)
            top1 = result["accuracy"]["quantized"]["top1"]
            alike = result["classifier"]
            print(f"| {name} | {top1:.1f} | {alike['agreement']:.1f} | {alike['kl']:.4f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
