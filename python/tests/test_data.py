"""Every kind of data gives the same file for the same images."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from conftest import FIXTURES, MODEL

import onnx_ptq4vit as ptq

LIMIT = 12


def quantized(data: object, **options: object) -> bytes:
    options = {"limit": LIMIT, "preset": "fast", "progress": False, **options}
    return ptq.quantize(MODEL, data, **options).to_bytes()


@pytest.fixture(scope="module")
def expected() -> bytes:
    return quantized(FIXTURES / "digits_calib.npz")


class Tensor:
    """What of a tensor of PyTorch is used: it is no array before it is taken off its graph and its device."""

    def __init__(self, array, on="gpu"):
        self.array, self.on = array, on

    def detach(self):
        return self

    def cpu(self):
        return Tensor(self.array, "cpu")

    def __array__(self, dtype=None, copy=None):
        if self.on != "cpu":
            raise TypeError("can't convert a tensor on a gpu to NumPy")
        return np.asarray(self.array, dtype=dtype)


class Reader:
    """As ONNX Runtime's examples write it."""

    def __init__(self, images, batch=1):
        batches = [{"images": images[at : at + batch]} for at in range(0, len(images), batch)]
        self.batches = iter(batches)

    def get_next(self):
        return next(self.batches, None)


KINDS = {
    "array": lambda images: images,
    "array of f64": lambda images: images.astype(np.float64),
    "array that is not contiguous": lambda images: np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
    "generator of images": lambda images: (image for image in images),
    "generator of batches": lambda images: (images[at : at + 5] for at in range(0, len(images), 5)),
    "list of batches": lambda images: [images[:7], images[7:]],
    "dicts": lambda images: [{"input": images[:7]}, {"input": images[7:]}],
    "one dict": lambda images: {"input": images},
    "dicts of a data set of Hugging Face": lambda images: [{"pixel_values": image, "label": 3} for image in images],
    "images and labels": lambda images: [(images[:9], np.zeros(9)), [images[9:], np.zeros(len(images) - 9)]],
    "an image and its label": lambda images: [(image, 3) for image in images],
    "images and other targets": lambda images: [(images, [{"boxes": 3}] * len(images))],
    "tensors": lambda images: [(Tensor(images), Tensor(np.zeros(len(images), np.int64)))],
    "data reader": Reader,
    "data reader of batches": lambda images: Reader(images, 8),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_images_give_the_same_file(kind: str, images: np.ndarray, expected: bytes) -> None:
    assert quantized(KINDS[kind](images)) == expected


def test_onnxruntimes_own_reader_is_taken(images: np.ndarray, expected: bytes) -> None:
    from onnxruntime.quantization import CalibrationDataReader

    class OwnReader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter([{"images": image[None]} for image in images])

        def get_next(self):
            return next(self.batches, None)

    assert quantized(OwnReader()) == expected


def test_every_form_of_a_model_gives_the_same_file(images: np.ndarray, expected: bytes) -> None:
    for model in [str(MODEL), MODEL.read_bytes(), onnx.load(MODEL)]:
        found = ptq.quantize(model, images, limit=LIMIT, preset="fast", progress=False)
        assert found.to_bytes() == expected


def test_no_more_batches_are_taken_than_the_limit_needs(images: np.ndarray) -> None:
    taken = []

    def batches():
        for at in range(0, len(images), 4):
            taken.append(at)
            yield images[at : at + 4]

    result = ptq.quantize(MODEL, batches(), limit=10, preset="fast", progress=False)
    assert taken == [0, 4, 8]
    assert result.report["images"] == 10


def test_folders_and_csv_files_are_taken_as_on_the_command_line() -> None:
    folder = FIXTURES / "digits_png"
    found = ptq.quantize(MODEL, folder, limit=8, preset="fast", progress=False)
    assert found.report["images"] == 8
    assert found.to_bytes() == quantized(str(folder), limit=8)
    assert found.to_bytes() != quantized(folder, limit=8, seed=1), "the seed chooses the sample"
    assert ptq.quantize(MODEL, folder / "labels.csv", limit=4, preset="fast", progress=False)


WRONG = {
    "nothing": ([], ptq.DataError, "no batch"),
    "texts": (["a.png"], ptq.UsageError, "found str"),
    "a number": (3, ptq.UsageError, "found int"),
    "another size": (np.zeros((2, 3, 9, 9)), ptq.DataError, "the model takes"),
    "sizes that change": ([np.zeros((1, 3, 8, 8)), np.zeros((1, 3, 9, 9))], ptq.DataError, "batch 1"),
    "a dict of unknown names": ([{"a": np.zeros(1), "b": np.zeros(1)}], ptq.UsageError, "`images`"),
    "an array of texts": (np.array(["a", "b"]), ptq.UsageError, "array of numbers"),
    "not numbers": (np.full((2, 3, 8, 8), np.nan), ptq.DataError, "NaN"),
    "a scalar": (np.array(1.0), ptq.DataError, "the model takes"),
    "no images": (np.zeros((0, 3, 8, 8)), ptq.UsageError, "no images"),
    "no file": ("nowhere.npz", FileNotFoundError, "nowhere.npz"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_data_are_named(kind: str) -> None:
    data, error, text = WRONG[kind]
    with pytest.raises(error, match=text) as caught:
        quantized(data)
    if isinstance(caught.value, ptq.DataError):
        assert caught.value.place and str(caught.value).startswith(f"{caught.value.place}: ")


def test_labels_come_with_the_data(result: ptq.Result, test_images: np.ndarray, test_labels: np.ndarray) -> None:
    whole = result.check(FIXTURES / "digits_test.npz", progress=False)
    pairs = ((test_images[at : at + 50], test_labels[at : at + 50]) for at in range(0, 360, 50))
    options = {"progress": False}
    assert result.check(pairs, **options).accuracy == whole.accuracy
    assert result.check(test_images, test_labels, **options).accuracy == whole.accuracy
    assert result.check(test_images, list(test_labels), **options).accuracy == whole.accuracy
    part = result.check(test_images, test_labels, limit=100, **options)
    assert part.images == 100 and part.accuracy["float"]["top1"] != whole.accuracy["float"]["top1"]
    assert result.check(test_images, **options).accuracy is None
    folder = FIXTURES / "digits_png"
    by_file = result.check(folder, folder / "labels.csv", **options)
    assert by_file.images == 40 and by_file.accuracy["float"]["top1"] > 90
    for labels, text in [(test_labels[:5], "5 of them"), (test_labels + 0.5, "whole numbers"), (-1 - test_labels, "no class")]:
        with pytest.raises(ptq.DataError, match=text):
            result.check(test_images, labels, **options)


@pytest.fixture
def model_with_gain() -> bytes:
    """The model with another input, by which the pixels are multiplied."""
    model = onnx.load(MODEL)
    graph = model.graph
    for node in graph.node:
        node.input[:] = ["scaled" if name == "images" else name for name in node.input]
    graph.node.insert(0, onnx.helper.make_node("Mul", ["images", "gain"], ["scaled"], "scale"))
    graph.input.append(onnx.helper.make_tensor_value_info("gain", onnx.TensorProto.FLOAT, ["batch", 1, 1, 1]))
    return model.SerializeToString()


def test_dicts_give_the_other_inputs_their_value(
    model_with_gain: bytes, images: np.ndarray, test_images: np.ndarray, result: ptq.Result
) -> None:
    def batches(gains: list[float], size: int = 8) -> list[dict[str, np.ndarray]]:
        shape = (size, 1, 1, 1)
        return [
            {"images": images[at * size : (at + 1) * size], "gain": np.full(shape, gain, np.float32)}
            for at, gain in enumerate(gains)
        ]

    options = {"progress": False}
    found = ptq.quantize(model_with_gain, batches([1, 1, 1, 1]), **options)
    assert found.report["sites"] == result.report["sites"]
    assert found.report["loss"] == pytest.approx(result.report["loss"], rel=1e-3)
    check = found.check(test_images, **options)
    assert check.classifier["agreement"] > 95, "the result keeps the value"
    again = ptq.check(model_with_gain, found, [{"images": test_images, "gain": np.ones((1, 1, 1, 1))}], **options)
    assert again.classifier["kl"] == check.classifier["kl"]
    runner = ptq.Runner(model_with_gain, inputs={"gain": np.ones((1, 1, 1, 1))})
    np.testing.assert_allclose(runner.run(images), ptq.Runner(MODEL).run(images), atol=1e-5)
    with pytest.raises(ptq.DataError, match="`gain`"):
        ptq.quantize(model_with_gain, batches([1, 2]), **options)
    with pytest.raises(ptq.UsageError, match="as `images`, the batch has `gain`, `a`, `b`"):
        ptq.quantize(model_with_gain, [{"gain": images, "a": images, "b": images}], **options)
    warned = ptq.quantize(model_with_gain, images, preset="fast", **options).report["warnings"]
    assert any("`gain`" in warning for warning in warned), "it is taken to be 0"
