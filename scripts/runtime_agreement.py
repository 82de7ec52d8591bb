"""How often two runtimes choose the same class on one quantized file, beside how often one agrees with itself.

The last bits of floats differ between runtimes, and quantizers turn them into whole steps. So the file is also run
with every LayerNorm gain, bias and embedding moved by one unit in the last place, at random: a model that is
the same to within rounding. What a runtime's answers change by then is what no other runtime can be expected to beat.
"""

import argparse
import itertools
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

REPOSITORY = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quantized", type=Path)
    parser.add_argument("--input", type=Path, required=True, help="images, a .npy array f32 [N, C, H, W]")
    parser.add_argument("--versions", type=int, default=4, help="of the file, itself included")
    parser.add_argument("--binary", type=Path, default=REPOSITORY / "target/release/onnx-ptq4vit")
    args = parser.parse_args()
    images = np.load(args.input)
    levels = onnxruntime.GraphOptimizationLevel
    found = {"ours": [], "ORT": [], "ORT optimized": []}
    with tempfile.TemporaryDirectory() as scratch:
        for version in range(args.versions):
            path = Path(scratch) / f"{version}.onnx"
            model = onnx.load(args.quantized)
            if version > 0:
                move(model, version)
            onnx.save(model, path)
            found["ours"].append(ours(args.binary, path, args.input))
            found["ORT"].append(runtime(path, images, levels.ORT_DISABLE_ALL))
            found["ORT optimized"].append(runtime(path, images, levels.ORT_ENABLE_ALL))

    print(f"| {len(images)} images | same class, % | KL | pairs |\n|---|---|---|---|")
    for a, b in itertools.combinations_with_replacement(found, 2):
        pairs = itertools.combinations(found[a], 2) if a == b else itertools.product(found[a], found[b])
        agreement, divergence = zip(*(compare(x, y) for x, y in pairs), strict=True)
        spread = f"{np.mean(agreement):.2f} ({min(agreement):.1f} to {max(agreement):.1f})"
        print(f"| {a}, {b} | {spread} | {np.mean(divergence):.4f} | {len(agreement)} |")
        if a != b:
            print(f"| – the file itself | {agreement[0]:.1f} | {divergence[0]:.4f} | 1 |")


def move(model: onnx.ModelProto, seed: int) -> None:
    """Moves every float array of `model` that is no scale by one unit in the last place."""
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        is_array = tensor.data_type == onnx.TensorProto.FLOAT and np.prod(tensor.dims) > 1
        if is_array and not tensor.name.endswith("_scale"):
            values = numpy_helper.to_array(tensor)
            towards = np.where(rng.random(values.shape) < 0.5, np.inf, -np.inf).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(np.nextafter(values, towards), tensor.name))


def ours(binary: Path, model: Path, images: Path) -> np.ndarray:
    out = model.with_suffix(".npy")
    subprocess.run([binary, "run", model, "--input", images, "-o", out], check=True, capture_output=True)
    return np.load(out)


def runtime(path: Path, images: np.ndarray, level) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def compare(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """The share of images of the same class in percent, and the mean KL divergence."""
    p, q = log_softmax(a), log_softmax(b)
    return 100 * (a.argmax(1) == b.argmax(1)).mean(), (np.exp(p) * (p - q)).sum(1).mean()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))


if __name__ == "__main__":
    main()
