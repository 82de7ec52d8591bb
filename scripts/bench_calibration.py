"""What calibration costs: prints the tables of docs/performance.md, ratios taken in one run.

    python scripts/bench_calibration.py MODEL --calib IMAGES [--resize N] [--arrays CALIB.npy] [--rows ROW ...]

Every row is a run of `quantize` as a user would start it, files and images included. `--arrays` holds the same
images as the model takes them, for ONNX Runtime's `quantize_static` with entropy calibration; that row needs Python
with onnxruntime. Rows: ort, exhaustive, forward, images.
"""

import argparse
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

IMAGES = [8, 16, 32, 64, 128]
THREADS = [1, 2]
BAR = 20
ROWS = ["ort", "exhaustive", "forward", "images"]

ORT = """
import sys
import numpy, onnxruntime
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static
model, arrays, count, out = sys.argv[1:]
images = numpy.load(arrays)[: int(count)]
name = onnxruntime.InferenceSession(model).get_inputs()[0].name
class Reader(CalibrationDataReader):
    def __init__(self):
        self.rest = iter(images)
    def get_next(self):
        image = next(self.rest, None)
        return None if image is None else {name: image[None]}
quantize_static(model, out, Reader(), calibrate_method=CalibrationMethod.Entropy)
"""


def timed(command):
    """Seconds of a command and the peak memory of its process in MiB."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, error = process.communicate()
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{error.decode()}")
    return time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--calib", required=True)
    parser.add_argument("--resize")
    parser.add_argument("--arrays")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--binary", default="target/release/onnx-ptq4vit")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        flags = ["--calib", args.calib] + (["--resize", args.resize] if args.resize else [])

        def quantize(name, *more):
            out = scratch / f"{name}.onnx"
            return timed([args.binary, "quantize", args.model, *flags, "-o", out, *more]), out

        (own, memory), out = quantize("pruned")
        print("| what | seconds | times ours |\n|---|---|---|")
        print(f"| `quantize`, 32 images | {own:.1f} | 1 |", flush=True)
        if "ort" in args.rows:
            ort, _ = timed([sys.executable, "-c", ORT, args.model, args.arrays, "32", scratch / "ort.onnx"])
            print(f"| ONNX Runtime `quantize_static`, entropy, the same images | {ort:.1f} | {ort / own:.2f} |", flush=True)
        if "exhaustive" in args.rows:
            (slow, _), other = quantize("exhaustive", "--search", "exhaustive")
            same = "the same file" if out.read_bytes() == other.read_bytes() else "ANOTHER FILE"
            print(f"| `--search exhaustive`: {same} | {slow:.1f} | {slow / own:.2f} |", flush=True)
        if "forward" in args.rows:
            forward, _ = timed([args.binary, "run", args.model, "--input", args.arrays, "-o", scratch / "y.npy"])
            print(f"| one float forward pass of the arrays in tract | {forward:.1f} | {forward / own:.3f} |", flush=True)
        print(f"\nPeak memory of `quantize`: {memory:.0f} MiB.\n")

        if "images" in args.rows:
            print("| images | threads | seconds | an image | |\n|---|---|---|---|---|")
            for threads in THREADS:
                for count in IMAGES:
                    (seconds, _), _ = quantize("n", "--calib-limit", str(count), "--threads", str(threads))
                    bar = "█" * max(1, round(BAR * seconds / count))
                    print(f"| {count} | {threads} | {seconds:.1f} | {seconds / count:.2f} | {bar} |", flush=True)


if __name__ == "__main__":
    main()
