#!/usr/bin/env python3
"""Hold what `onnx-ptq4vit` emits against the ONNX checker, ONNX Runtime and OpenVINO.

Every file of a matrix (fixture x bits x form) is quantized and run by the binary, which writes what went into
and came out of each quantized site. For every file:

1. `onnx.checker` with full_check;
2. each site, cut out of the file, run by the runtime on our recorded inputs, against our recorded output;
3. top-1 of the whole model against ours;
4. ONNX Runtime only: the optimized graph holds one integer matmul for every quantized matmul of the sites (a
   twin has two), and no MatMulNBits;
5. ONNX Runtime only: `run --engine onnxruntime` gives what ONNX Runtime gives in Python, image by image.

Beside the matrix, `--engine onnxruntime` is held to Python on a file that takes bytes with the channels last and has an
input beside the images, and `check` and `bench` run once in each engine.

How a site is judged. *Exact*: every element within 1e-5 of max|output|, or, beyond it, a rounding tie: the runtime
gives our value when all inputs are moved by four units in the last place up, or down. *Close*: the mean error
is below 5 % of the mean magnitude. Exact is asked of ONNX Runtime without graph optimizations, and with them where
its 8-bit products cannot saturate: on a CPU with VNNI or AMX, or for operands of 6 bits. Close is
asked of the rest: optimized 8-bit operands on a CPU without VNNI, whose 16-bit sums of two products saturate, and
OpenVINO, which multiplies by 1/scale where QuantizeLinear divides.
"""

import argparse
import collections
import gzip
import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner

EXACT = 1e-5  # of max|output|
CLOSE = 5e-2  # mean error, of the mean magnitude
SAME_RUNTIME = 1e-6  # of max|output|, between two ways into one library
NUDGE = 4 * 2.0**-23  # relative move of the inputs that tells a rounding tie
SAME_TOP1 = {"exact": 0.98, "close": 0.93}
IMAGES = 64  # of the test images
FIXTURES = ["ts13", "ts17", "dynamo18", "dynamo20", "tanh17", "outlier17"]
INTEGER_MATMULS = ("MatMulIntegerToFloat", "QLinearMatMul")


@dataclass(frozen=True)
class Case:
    """One emitted file: a fixture and the options it is quantized with."""

    fixture: str
    bits: str
    form: str  # "function", "inline", "int8" (of TensorRT's target), or "base" (no twins)

    @property
    def name(self):
        return f"{Path(self.fixture).name}-{self.bits}-{self.form}"

    @property
    def of_zoo(self):
        return self.fixture.startswith("zoo/")

    @property
    def options(self):
        forms = {"base": ["--preset", "base"], "int8": ["--target", "tensorrt"]}
        return ["--bits", self.bits, *forms.get(self.form, ["--twin", self.form])]


@dataclass
class Site:
    """What our integer runner recorded at one quantized site."""

    name: str
    inputs: dict  # value name -> array
    output: str
    expected: np.ndarray


class Failures(list):
    def expect(self, condition, message):
        if not condition:
            self.append(message)


# --- emitting -----------------------------------------------------------------------------------------------


def emit(binary, case, fixtures, work):
    """Quantize and run one case; keep what is newer than the binary."""
    folder = work / case.name
    model, logits, images = folder / "model.onnx", folder / "y.npy", folder / "x.npy"
    if logits.exists() and logits.stat().st_mtime > binary.stat().st_mtime:
        return folder
    sites = folder / "sites"
    sites.mkdir(parents=True, exist_ok=True)
    for old in sites.iterdir():
        old.unlink()
    if case.of_zoo:
        source, calib = folder / "float.onnx", images
        source.write_bytes(gzip.decompress((fixtures / f"{case.fixture}.onnx.gz").read_bytes()))
        np.save(images, waves(onnx.load(source)))
    else:
        source, calib = fixtures / f"digits_vit_{case.fixture}.onnx", fixtures / "digits_calib.npz"
        np.save(images, np.load(fixtures / "digits_test.npz")["images"][:IMAGES])
    call([binary, "quantize", source, "--calib", calib, "-o", model, *case.options])
    call([binary, "run", model, "--input", images, "-o", logits, "--sites", sites])
    return folder


def waves(model):
    """Two images for a model of the zoo."""
    shape = [2, *(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:])]
    return np.sin(np.arange(np.prod(shape))).astype(np.float32).reshape(shape)


def call(command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr}")


def load_sites(folder):
    sites = []
    for path in sorted(folder.glob("*.json"), key=lambda path: int(path.stem)):
        said = json.loads(path.read_text())
        arrays = [np.load(folder / f"{path.stem}_in{i}.npy") for i in range(len(said["inputs"]))]
        expected = np.load(folder / f"{path.stem}_out.npy")
        sites.append(Site(said["name"], dict(zip(said["inputs"], arrays)), said["output"], expected))
    return sites


# --- cutting a site out of a file ---------------------------------------------------------------------------


def cut(model, site):
    """The nodes between a site's inputs and its output as a model, functions included, the batch left open."""
    producer = {value: node for node in model.graph.node for value in node.output}
    # A model of half precision casts its last result, which our runner leaves as it is.
    last = producer[site.output]
    output = last.input[0] if last.op_type == "Cast" else site.output
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes, used, seen = [], {}, set()

    def visit(value):
        if value in site.inputs or value in seen or not value:
            return
        seen.add(value)
        if value in constants:
            used[value] = constants[value]
            return
        if value not in producer:
            raise ValueError(f"site `{site.name}`: its output depends on `{value}`, which is none of its inputs")
        node = producer[value]
        seen.update(node.output)
        for operand in node.input:
            visit(operand)
        nodes.append(node)

    visit(output)
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", *array.shape[1:]])
        for name, array in site.inputs.items()
    ]
    outputs = [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)]
    part = onnx.ModelProto()
    part.CopyFrom(model)
    part.graph.CopyFrom(onnx.helper.make_graph(nodes, "site", inputs, outputs, list(used.values())))
    return part


def matmuls(part):
    """Quantized matmuls of a cut-out site, functions inlined: 0 for a Conv, 2 for a twin, 1 otherwise.

    The float weight of outlier channels is a constant; a quantized operand never is.
    """
    graph = onnx.inliner.inline_local_functions(part).graph
    constants = {tensor.name for tensor in graph.initializer}
    return sum(node.op_type == "MatMul" and node.input[1] not in constants for node in graph.node)


# --- runtimes -----------------------------------------------------------------------------------------------


class OnnxRuntime:
    def __init__(self, optimized, work):
        import onnxruntime

        self.module, self.optimized = onnxruntime, optimized
        self.name = "ort" if optimized else "ort-plain"
        self.version = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])
        self.dump = work / f"optimized-{onnxruntime.__version__}.onnx"

    def exact_at(self, bits):
        return not self.optimized or bits == "w6a6" or cpu_has_vnni()

    def load(self, model):
        levels = self.module.GraphOptimizationLevel
        options = self.module.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if self.optimized else levels.ORT_DISABLE_ALL
        if self.optimized:
            options.optimized_model_filepath = str(self.dump)
        session = self.module.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return lambda inputs: session.run(None, inputs)[0]


class OpenVino:
    """In f32: on CPUs with bfloat16 instructions OpenVINO computes the float part in bfloat16 unless it is told not to."""

    name = "openvino"
    optimized = False

    def __init__(self):
        import openvino

        self.core = openvino.Core()

    def exact_at(self, _bits):
        return False

    def load(self, model):
        precision = {"INFERENCE_PRECISION_HINT": "f32"}
        compiled = self.core.compile_model(self.core.read_model(model.SerializeToString()), "CPU", precision)
        return lambda inputs: compiled(inputs)[0]


def runtimes(names, work):
    """The runtimes asked for; one that is not installed raises ImportError."""
    found = []
    for name in names:
        if name == "onnxruntime":
            found += [OnnxRuntime(False, work), OnnxRuntime(True, work)]
        elif name == "openvino":
            found.append(OpenVino())
        else:
            raise ValueError(f"unknown runtime `{name}`, expected onnxruntime or openvino")
    return found


def cpu_has_vnni():
    """False where it cannot be told, so that no test asks more than the CPU gives."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    path = Path("/proc/cpuinfo")
    words = set(path.read_text().split()) if path.exists() else set()
    return bool(words & {"avx512_vnni", "avx_vnni", "amx_int8"})


# --- judging ------------------------------------------------------------------------------------------------


def judge_exact(run, site):
    """(passed, worst relative error, elements explained as ties)."""
    limit = EXACT * np.abs(site.expected).max()
    got = run(site.inputs)
    error = np.abs(got - site.expected)
    worst = float(error.max() / max(np.abs(site.expected).max(), 1e-30))
    beyond = ~(error <= limit)
    if not beyond.any():
        return True, worst, 0
    ties = int(beyond.sum())
    for factors in itertools.product((1 - NUDGE, 1 + NUDGE), repeat=len(site.inputs)):
        moved = {
            name: (array * np.float64(factor)).astype(np.float32)
            for (name, array), factor in zip(site.inputs.items(), factors)
        }
        beyond &= ~(np.abs(run(moved) - site.expected) <= limit)
    return not beyond.any(), worst, ties


def judge_close(run, site):
    error = np.abs(run(site.inputs) - site.expected)
    worst = float(error.mean() / max(np.abs(site.expected).mean(), 1e-30))
    return worst <= CLOSE, worst, 0


def check(binary, case, folder, runtime, failures):
    """Run one file in one runtime; returns a row of the table."""
    model = onnx.load(folder / "model.onnx")
    sites = load_sites(folder / "sites")
    failures.expect(sites, f"{case.name}: no site recorded")
    exact = runtime.exact_at(case.bits)
    judge = judge_exact if exact else judge_close
    worst, ties, expected_matmuls, twins = 0.0, 0, 0, 0
    for site in sites:
        where = f"{case.name}, {runtime.name}, site `{site.name}`"
        part = cut(model, site)
        count = matmuls(part)
        expected_matmuls, twins = expected_matmuls + count, twins + (count == 2)
        got = runtime.load(part)
        shape = got(site.inputs).shape
        if shape != site.expected.shape:
            failures.append(f"{where}: shape {shape}, ours {site.expected.shape}")
            continue
        passed, error, tied = judge(got, site)
        failures.expect(passed, f"{where}: not {'exact' if exact else 'close'}, error {error:.1e}")
        worst, ties = max(worst, error), ties + tied
    failures.expect((twins == 0) == (case.form == "base"), f"{case.name}: {twins} twins")

    ours, images = np.load(folder / "y.npy"), np.load(folder / "x.npy")
    if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16:
        images = images.astype(np.float16)
    whole = runtime.load(model)
    fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
    batches = [images[i : i + fixed] for i in range(0, len(images), fixed)] if fixed else [images]
    theirs = np.concatenate([whole({model.graph.input[0].name: batch}) for batch in batches])
    same = float((theirs.argmax(-1) == ours.argmax(-1)).mean())
    grade = "exact" if exact else "close"
    failures.expect(same >= SAME_TOP1[grade], f"{case.name}, {runtime.name}: top-1 agrees on {same:.1%} only")

    integer = ""
    if runtime.optimized:
        compare_engine(binary, case.name, folder, model, images, whole, failures)
        integer = count_integer_matmuls(runtime, expected_matmuls, f"{case.name}, {runtime.name}", failures)
    return (case.name, runtime.name, len(sites), grade, f"{worst:.1e}", ties, f"{same:.1%}", integer)


def count_integer_matmuls(runtime, expected, where, failures):
    kinds = collections.Counter(node.op_type for node in onnx.load(runtime.dump).graph.node)
    found = sum(kinds[kind] for kind in INTEGER_MATMULS)
    failures.expect(found == expected, f"{where}: {found} integer matmuls, expected {expected}")
    failures.expect(kinds["MatMulNBits"] == 0, f"{where}: {kinds['MatMulNBits']} MatMulNBits")
    return f"{found}/{expected}"


# --- our way into ONNX Runtime ------------------------------------------------------------------------------


def with_engine(command):
    """Run a command of the binary that finds the library of this virtual environment."""
    environment = {**os.environ, "VIRTUAL_ENV": sys.prefix, "ORT_DYLIB_PATH": ""}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr}")
    return done.stdout


def compare_engine(binary, where, folder, model, images, whole, failures, options=(), others=None):
    """`run --engine onnxruntime` against the same library in Python, one image at a time as far as the file allows."""
    output = folder / "engine.npy"
    output.unlink(missing_ok=True)
    source = folder / "model.onnx"
    with_engine([binary, "run", source, "--input", folder / "x.npy", "-o", output, "--engine", "onnxruntime", *options])
    first = model.graph.input[0]
    step = first.type.tensor_type.shape.dim[0].dim_value or 1
    batches = [{first.name: images[i : i + step], **(others or {})} for i in range(0, len(images), step)]
    expected = np.concatenate([whole(batch) for batch in batches]).astype(np.float32)
    found = np.load(output)
    if found.shape != expected.shape:
        failures.append(f"{where}: --engine onnxruntime gives the shape {found.shape}, Python {expected.shape}")
        return
    error = float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
    failures.expect(error <= SAME_RUNTIME, f"{where}: --engine onnxruntime is off by {error:.1e} from Python")


def compare_odd_entry(arguments, failures):
    """A file that takes bytes [N, H, W, C] and a number that its logits are multiplied with."""
    folder = emit(arguments.binary, Case("ts17", "w8a8", "base"), arguments.fixtures, arguments.work)
    model = onnx.load(folder / "model.onnx")
    graph, odd = model.graph, arguments.work / "odd-entry"
    odd.mkdir(exist_ok=True)
    inner, logits = graph.input[0], graph.output[0].name
    dims = [dim.dim_value or dim.dim_param for dim in inner.type.tensor_type.shape.dim]
    for node in graph.node:
        node.output[:] = ["plain_logits" if value == logits else value for value in node.output]
    make = onnx.helper.make_node
    entry = [
        make("Cast", ["bytes"], ["floats"], to=onnx.TensorProto.FLOAT),
        make("Mul", ["floats", "byte_scale"], ["scaled"]),
        make("Transpose", ["scaled"], [inner.name], perm=[0, 3, 1, 2]),
    ]
    nodes = [*entry, *graph.node, make("Mul", ["plain_logits", "factor"], [logits])]
    info = onnx.helper.make_tensor_value_info
    inputs = [
        info("bytes", onnx.TensorProto.UINT8, [dims[0], dims[2], dims[3], dims[1]]),
        info("factor", onnx.TensorProto.FLOAT, [1]),
    ]
    constants = [*graph.initializer, onnx.numpy_helper.from_array(np.float32(1 / 255), "byte_scale")]
    made = onnx.helper.make_graph(nodes, "odd_entry", inputs, list(graph.output), constants)
    graph.CopyFrom(made)
    onnx.save(model, odd / "model.onnx")
    images = np.random.default_rng(0).integers(0, 256, (5, dims[2], dims[3], dims[1]), np.uint8)
    np.save(odd / "x.npy", images)
    whole = OnnxRuntime(True, arguments.work).load(model)
    others = {"factor": np.array([-3], np.float32)}
    options = ["--input", "factor=-3"]
    compare_engine(arguments.binary, "odd entry", odd, model, images, whole, failures, options, others)


def compare_commands(arguments, failures):
    """`check` and `bench` in ONNX Runtime."""
    import onnxruntime

    folder = emit(arguments.binary, Case("ts17", "w6a6", "function"), arguments.fixtures, arguments.work)
    source, quantized = arguments.fixtures / "digits_vit_ts17.onnx", folder / "model.onnx"
    command = [arguments.binary, "check", source, quantized, "--data", arguments.fixtures / "digits_test.npz", "--json"]
    ours = json.loads(with_engine(command))
    theirs = json.loads(with_engine([*command, "--engine", "onnxruntime"]))
    name = f"ONNX Runtime {onnxruntime.__version__}"
    failures.expect(theirs["engines"] == [name, name], f"check: run by {theirs['engines']}, expected {name}")
    # With 6 bits no runtime saturates, so that both engines measure the same loss.
    for figure, limit in (("agreement", 1.0), ("kl", 0.02)):
        apart = abs(theirs["classifier"][figure] - ours["classifier"][figure])
        failures.expect(apart <= limit, f"check: {figure} differs by {apart} between the engines")
    command = [arguments.binary, "bench", quantized, "--against-engine", "onnxruntime", "--seconds", "0", "--json"]
    engines = [speed["engine"] for speed in json.loads(with_engine(command))["models"]]
    failures.expect(engines == ["builtin", name], f"bench: run by {engines}")


# --- the command --------------------------------------------------------------------------------------------


def cases(fixtures):
    trained = [name for name in fixtures if not name.startswith("zoo/")]
    zoo = [name for name in fixtures if name.startswith("zoo/")]
    inline = itertools.product(trained, ["w8a8", "w6a6", "w4a8"], ["inline"])
    functions = itertools.product(trained, ["w8a8"], ["function"])  # tests hold their arithmetic to that of the others
    int8 = itertools.product(trained[:2], ["w8a8", "w4a8"], ["int8"])
    base = itertools.product(trained, ["w8a8", "w6a6"], ["base"])
    of_zoo = itertools.product(zoo, ["w6a6"], ["inline"])
    return [Case(*options) for options in (*inline, *functions, *int8, *base, *of_zoo)]


def reads(runtime, case):
    """OpenVINO reads no model-local functions, ONNX Runtime 1.20 no opset 23."""
    if "bfloat" in case.fixture:
        return False  # numpy has no such type to feed
    if runtime.name == "openvino":
        return case.form != "function"
    if case.fixture.endswith("dynamo23") and runtime.version < (1, 23):
        return False
    if case.form == "int8" and runtime.optimized and not cpu_has_vnni():
        return False  # what UINT8 is for: without VNNI the sums of two products saturate
    return True


def show(rows):
    head = ("file", "runtime", "sites", "asked", "worst", "ties", "top-1", "integer matmuls")
    table = [head, *rows]
    widths = [max(len(str(row[i])) for row in table) for i in range(len(head))]
    for row in table:
        print("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip())


def main():
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--binary", type=Path, default=root / "target/release/onnx-ptq4vit")
    parser.add_argument("--fixtures", type=Path, default=root / "fixtures")
    parser.add_argument("--work", type=Path, default=root / "target/runtime-check")
    parser.add_argument("--runtimes", default="onnxruntime,openvino", help="a runtime named and missing is a failure")
    parser.add_argument("--only", nargs="+", metavar="FIXTURE", help=" ".join([*FIXTURES, "zoo/vit_ts17", "..."]))
    parser.add_argument("--zoo", action=argparse.BooleanOptionalAction, default=True, help="all of fixtures/zoo too")
    arguments = parser.parse_args()

    arguments.work.mkdir(parents=True, exist_ok=True)
    try:
        asked = runtimes(arguments.runtimes.split(","), arguments.work)
    except ImportError as missing:
        sys.exit(f"a runtime that was asked for is not installed: {missing}")
    for name in arguments.runtimes.split(","):
        print(name, importlib.metadata.version(name), file=sys.stderr)
    print("8-bit products:", "exact" if cpu_has_vnni() else "may saturate (no VNNI seen)", file=sys.stderr)

    rows, failures = [], Failures()
    zoo = sorted(f"zoo/{path.name.removesuffix('.onnx.gz')}" for path in arguments.fixtures.glob("zoo/*.onnx.gz"))
    for case in cases(arguments.only or [*FIXTURES, *(zoo if arguments.zoo else [])]):
        try:
            folder = emit(arguments.binary, case, arguments.fixtures, arguments.work)
            onnx.checker.check_model(onnx.load(folder / "model.onnx"), full_check=True)
        except Exception as error:  # any refusal is the finding
            failures.append(f"{case.name}: {error}")
            continue
        for runtime in asked:
            if not reads(runtime, case):
                continue
            try:
                rows.append(check(arguments.binary, case, folder, runtime, failures))
            except Exception as error:
                failures.append(f"{case.name}, {runtime.name}: {type(error).__name__}: {error}")
    if "onnxruntime" in arguments.runtimes.split(","):
        try:
            compare_odd_entry(arguments, failures)
            compare_commands(arguments, failures)
        except Exception as error:
            failures.append(f"--engine onnxruntime: {type(error).__name__}: {error}")
    show(rows)
    for failure in failures:
        print(failure, file=sys.stderr)
    print(f"{len(rows)} files x runtimes, {len(failures)} failures", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
