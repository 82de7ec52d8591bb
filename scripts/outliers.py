"""Give the digits ViT outlier channels, as large vision transformers have them: makes digits_vit_outlier17.onnx.

Run by itself, it needs onnx and numpy alone, and reads the export that `make_fixtures.py` wrote.
"""

import argparse
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

CHANNEL = 5
GAIN = 64.0  # a power of two: no product is rounded otherwise
SHIFT = 64.0


def with_outliers(proto: onnx.ModelProto) -> onnx.ModelProto:
    """An input channel of fc1 (block 0) and of fc2 (block 1) tens of times larger than the others.

    The first leaves the function as it is: the LayerNorm's gain against the row of fc1. The second makes one hidden
    unit linear: GELU(x + SHIFT) = x + SHIFT, and the bias of fc2 takes SHIFT back.
    """
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    nodes = {node.name: node for node in proto.graph.node}

    def change(name: str, edit) -> np.ndarray:
        array = numpy_helper.to_array(weights[name]).copy()
        edit(array)
        weights[name].CopyFrom(numpy_helper.from_array(array, name))
        return array

    def multiply(factor: float):
        def edit(array):
            array[CHANNEL] *= factor

        return edit

    def shift(array):
        array[CHANNEL] += SHIFT

    change("blocks.0.norm2.weight", multiply(GAIN))
    change("blocks.0.norm2.bias", multiply(GAIN))
    change(nodes["/blocks/blocks.0/mlp/fc1/MatMul"].input[1], multiply(1 / GAIN))

    change("blocks.1.mlp.fc1.bias", shift)
    row = numpy_helper.to_array(weights[nodes["/blocks/blocks.1/mlp/fc2/MatMul"].input[1]])[CHANNEL]
    change("blocks.1.mlp.fc2.bias", lambda bias: np.subtract(bias, SHIFT * row, out=bias))
    return proto


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "fixtures")
    out = parser.parse_args().out
    onnx.save(with_outliers(onnx.load(out / "digits_vit_ts17.onnx")), out / "digits_vit_outlier17.onnx")


if __name__ == "__main__":
    main()
