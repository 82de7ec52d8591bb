"""What the folder of a page holds before its first block runs, by the name in its comment `<!-- setup: NAME -->`."""

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "fixtures"
# Of the test digits, those in val/: as many as `check` runs at a time, so that one shard of several has them all.
VALIDATION = 64
# The environment of the page's programs.
Variables = dict[str, str]


def digits(folder: Path, variables: Variables) -> None:
    """`vit.onnx`, `images/`, `val/` with `val.csv` and by class in `classes/`, `cat.jpg`, arrays: of the digits model."""
    shutil.copy(FIXTURES / "digits_vit_ts17.onnx", folder / "vit.onnx")
    shutil.copytree(FIXTURES / "digits_png", folder / "images", ignore=shutil.ignore_patterns("*.csv"))
    (folder / "val").mkdir()
    test = np.load(FIXTURES / "digits_test.npz")
    with open(folder / "val.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        for at, (image, label) in enumerate(zip(test["images"][:VALIDATION], test["labels"])):
            picture = Image.fromarray(np.rint((image[0] * 0.5 + 0.5) * 255).astype(np.uint8))
            picture.save(folder / "val" / f"{at:03}.png")
            by_class = folder / "classes" / str(label)
            by_class.mkdir(parents=True, exist_ok=True)
            picture.save(by_class / f"{at:03}.png")
            rows.writerow([f"val/{at:03}.png", label])
    Image.open(folder / "val/000.png").convert("RGB").save(folder / "cat.jpg", quality=95)
    np.save(folder / "x.npy", test["images"][:4])
    np.save(folder / "images.npy", np.load(FIXTURES / "digits_calib.npz")["images"])
    np.savez(folder / "test.npz", images=test["images"], labels=test["labels"])


def quantized(folder: Path, variables: Variables) -> None:
    """As `digits`, and `vit.int8.onnx`."""
    digits(folder, variables)
    command = "onnx-ptq4vit quantize vit.onnx --calib images/ -o vit.int8.onnx --quiet"
    subprocess.run(command.split(), cwd=folder, env=variables, check=True, stdout=subprocess.DEVNULL)


def repository(folder: Path, variables: Variables) -> None:
    """As `loaders`, in what looks like a clone of the repository."""
    loaders(folder, variables)
    for name in ["fixtures", "docs", "scripts", "python"]:
        (folder / name).symlink_to(ROOT / name)
    (folder / "target").mkdir()


def photos(folder: Path, variables: Variables) -> None:
    """`images/` and `val/` of 320×240 pixels, which are smooth noise: random weights see nothing else in a photo."""
    random = np.random.default_rng(0)
    for name, count in [("images", 8), ("val", 8)]:
        (folder / name).mkdir()
        for at in range(count):
            coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
            image = Image.fromarray(coarse).resize((320, 240), Image.Resampling.BICUBIC)
            image.save(folder / name / f"{at:02}.jpg", quality=92)
    shutil.copy(folder / "val/00.jpg", folder / "cat.jpg")


def troubles(folder: Path, variables: Variables) -> None:
    """As `quantized`, with a model of opset 12, images that are all alike, and a folder for external data."""
    quantized(folder, variables)
    onnx.save(lowered(onnx.load(FIXTURES / "digits_vit_ts13.onnx")), folder / "old.onnx")
    (folder / "external").mkdir()
    (folder / "black").mkdir()
    for at in range(8):
        Image.new("L", (8, 8), at).save(folder / f"black/{at}.png")


def lowered(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model of opset 13 as opset 12 has it: axes and lengths are attributes there."""
    constants = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    constants |= {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        name = {"Unsqueeze": "axes", "Squeeze": "axes", "ReduceSum": "axes", "Split": "split"}.get(node.op_type)
        if name and len(node.input) > 1:
            value = numpy_helper.to_array(constants[node.input[1]]).tolist()
            del node.input[1]
            node.attribute.append(helper.make_attribute(name, value))
    model.opset_import[0].version = 12
    return model


def empty(folder: Path, variables: Variables) -> None:
    """Nothing."""


# What the Python README speaks of without defining it.
LOADERS = """
import numpy as np
import onnx_ptq4vit as ptq

class Reader:
    def __init__(self, images):
        self.images = iter(images)

    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"images": image[None]}

def _batches(images, labels, size=16):
    return [(images[at:at + size], labels[at:at + size]) for at in range(0, len(images), size)]

array = np.load("images.npy")
labels = np.load("digits_calib.npz")["labels"]
calibration_loader = _batches(array, labels)
validation_loader = _batches(*np.load("test.npz").values())
reader = Reader(array)
"""


def loaders(folder: Path, variables: Variables) -> None:
    """As `quantized`, and the names of LOADERS."""
    quantized(folder, variables)
    shutil.copy(FIXTURES / "digits_calib.npz", folder)


SETUPS = {made.__name__: made for made in [digits, quantized, repository, photos, troubles, empty, loaders]}
# Python that runs before each block of a page, which then has a fresh folder as well: its blocks do not build on each other.
PRELUDES = {"loaders": LOADERS, "repository": LOADERS}

