"""Results, errors, interrupts, progress and the command line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import FIXTURES, MODEL

import onnx_ptq4vit as ptq


def test_the_quantized_model_runs_in_onnxruntime(result: ptq.Result, test_images: np.ndarray) -> None:
    onnx.checker.check_model(onnx.load_from_string(result.to_bytes()))
    # Without optimizations the runtime computes the integers of the file exactly on every CPU.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(result.to_bytes(), options)
    found = ptq.Runner(result.to_bytes()).run(test_images)
    expected = np.concatenate([session.run(None, {"images": image[None]})[0] for image in test_images])
    assert found.shape == expected.shape and found.dtype == np.float32
    # A float that is rounded otherwise can move a code of a later site by one.
    worst = np.abs(found - expected).max(axis=1) / np.abs(expected).max()
    assert np.quantile(worst, 0.9) < 0.02 and worst.max() < 0.1
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.99


def test_the_float_model_runs_as_in_onnxruntime(test_images: np.ndarray) -> None:
    session = onnxruntime.InferenceSession(MODEL)
    runner = ptq.Runner(MODEL)
    expected = np.concatenate([session.run(None, {"images": image[None]})[0] for image in test_images[:20]])
    np.testing.assert_allclose(runner.run(test_images[:20]), expected, atol=1e-4)
    np.testing.assert_array_equal(runner.run(test_images[:1]), runner.run(test_images[:20])[:1])
    with pytest.raises(ptq.DataError, match="the model takes"):
        runner.run(np.zeros((1, 3, 9, 9)))


def test_reports_are_those_of_the_command_line(result: ptq.Result, tmp_path: Path) -> None:
    report = result.report
    assert report["sites"] > 0 and report["images"] == 32 and report["warnings"] == []
    assert report["bytes_after"] < report["bytes_before"]
    assert report["multiplications"]["integer"] > 0
    assert json.loads(result.calibration)["sites"]
    written = tmp_path / "vit.int8.onnx"
    result.save(written)
    assert written.read_bytes() == result.to_bytes()
    by_command = tmp_path / "command.onnx"
    calib = FIXTURES / "digits_calib.npz"
    run_cli("quantize", MODEL, "--calib", calib, "-o", by_command, "--quiet")
    assert by_command.read_bytes() == written.read_bytes()
    found = ptq.check(MODEL, written, FIXTURES / "digits_test.npz", progress=False)
    printed = json.loads(run_cli("check", MODEL, written, "--data", FIXTURES / "digits_test.npz", "--json").stdout)
    assert found.report == printed
    assert ptq.inspect(MODEL) == json.loads(run_cli("inspect", MODEL, "--json").stdout)
    assert ptq.inspect(written)["quantized"] and not ptq.inspect(MODEL)["quantized"]
    assert "sites" in str(result) and "next:" not in str(result)


def test_a_file_is_written_where_it_is_wanted(images: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    result = ptq.quantize(MODEL, images, output, preset="fast", bits="w6a6", exclude="*blocks.1*", progress=False)
    assert output.read_bytes() == result.to_bytes() and os.listdir(tmp_path) == ["out.onnx"]
    assert result.report["options"]["weight_bits"] == 6
    assert not any("blocks.1" in site["name"] for site in ptq.inspect(output)["sites"])
    own = tmp_path / "own.onnx"
    own.write_bytes(MODEL.read_bytes())
    with pytest.raises(ptq.UsageError, match="overwrite"):
        ptq.quantize(own, images, own, progress=False)
    with pytest.raises(ptq.IoError):
        ptq.quantize(MODEL, images, tmp_path / "nowhere" / "out.onnx", progress=False)


def test_a_check_tells_what_passed(result: ptq.Result) -> None:
    test = FIXTURES / "digits_test.npz"
    passed = ptq.check(MODEL, result, test, max_drop=3, min_agreement=90, max_kl=0.5, progress=False)
    assert passed.passed is True and passed and "PASS" in str(passed)
    assert passed.verdict["criteria"][0]["met"] and passed.classifier["agreement"] > 90
    failed = result.check(test, max_kl=0.0, progress=False)
    assert failed.passed is False and not failed
    nothing = result.check(test, progress=False)
    assert nothing.passed is None
    with pytest.raises(ptq.UsageError, match="no threshold"):
        bool(nothing)
    with pytest.raises(AttributeError, match="images"):
        nothing.nonsense
    with pytest.raises(ptq.UsageError, match="labels"):
        result.check(np.load(test)["images"], max_drop=1, progress=False)
    with pytest.raises(ptq.UsageError, match="swapped"):
        ptq.check(result.to_bytes(), MODEL, test, progress=False)


def test_notebooks_show_the_report(images: np.ndarray) -> None:
    result = ptq.quantize(MODEL, images, limit=4, preset="fast", progress=False)
    before = result._repr_html_()
    check = result.check(FIXTURES / "digits_test.npz", limit=40, progress=False)
    for shown in (before, result._repr_html_(), check._repr_html_()):
        assert shown.startswith('<iframe sandbox="allow-scripts" srcdoc="&lt;!DOCTYPE html&gt;')
        assert shown.count("<") == 2, "the page is inside the attribute"
    assert "top-1" in result.to_html() and len(result._repr_html_()) > len(before)


ERRORS = {
    "no model": (lambda: ptq.inspect("nowhere.onnx"), ptq.IoError, FileNotFoundError, "io", "nowhere.onnx"),
    "a text": (lambda: ptq.inspect(FIXTURES / "digits_png" / "labels.csv"), ptq.ModelError, ValueError, "model", None),
    "bytes that are no model": (lambda: ptq.inspect(b"no model"), ptq.ModelError, ValueError, "model", None),
    "no bytes": (lambda: ptq.inspect(b""), ptq.ModelError, ValueError, "model", None),
    "no kind of model": (lambda: ptq.inspect(3), ptq.UsageError, ValueError, "usage", None),
    "bits": (lambda: small(bits="w9a8"), ptq.UsageError, ValueError, "usage", None),
    "bits that are no text": (lambda: small(bits="8"), ptq.UsageError, ValueError, "usage", None),
    "preset": (lambda: small(preset="bst"), ptq.UsageError, ValueError, "usage", None),
    "metric": (lambda: small(metric="l1"), ptq.UsageError, ValueError, "usage", None),
    "twin": (lambda: small(twin="no"), ptq.UsageError, ValueError, "usage", None),
    "gradient": (lambda: small(gradient="no"), ptq.UsageError, ValueError, "usage", None),
    "limit": (lambda: small(limit=0), ptq.UsageError, ValueError, "usage", None),
    "limit that is not whole": (lambda: small(limit=2.5), ptq.UsageError, ValueError, "usage", None),
    "seed": (lambda: small(seed=-1), ptq.UsageError, ValueError, "usage", None),
    "memory": (lambda: small(memory=-1), ptq.UsageError, ValueError, "usage", None),
    "exclude": (lambda: small(exclude=["nowhere"]), ptq.UsageError, ValueError, "usage", None),
    "too large a tensor": (lambda: small(max_tensor=16), ptq.LimitError, ptq.Error, "limit", ...),
    "a task": (lambda: small(task="fly"), ptq.UsageError, ValueError, "usage", None),
}


def small(**options: object) -> ptq.Result:
    return ptq.quantize(MODEL, np.zeros((1, 3, 8, 8)), **{"progress": False, **options})


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_say_who_must_act(kind: str) -> None:
    act, own, builtin, name, place = ERRORS[kind]
    with pytest.raises(own) as caught:
        act()
    error = caught.value
    assert isinstance(error, builtin) and isinstance(error, ptq.Error)
    assert error.kind == name and str(error)
    if place is not ...:
        assert error.place == place or kind in ("a text",)
    if name == "io":
        assert error.errno == 2 and error.filename == "nowhere.onnx"


def test_damaged_models_are_errors_and_not_panics() -> None:
    whole = bytearray(MODEL.read_bytes())
    random = np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 40):
            damaged[at] = random.integers(0, 256)
        try:
            ptq.Runner(bytes(damaged)).run(np.zeros((1, 3, 8, 8)))
        except ptq.Error as error:
            assert error.kind not in ("internal", "usage"), error


def test_progress_is_told_to_a_function(images: np.ndarray) -> None:
    told: list[tuple[str, int, int]] = []
    ptq.quantize(MODEL, images, preset="fast", progress=lambda *step: told.append(step))
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert len(stages) >= 2
    for name in stages:
        steps = [(done, total) for stage, done, total in told if stage == name]
        assert all(0 <= done <= total for done, total in steps)
        assert steps[-1][0] == steps[-1][1], f"{name} comes to its end"

    def fails(*_: object) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        ptq.quantize(MODEL, images, progress=fails)


def test_progress_is_shown_on_stderr(images: np.ndarray, capsys: pytest.CaptureFixture[str]) -> None:
    ptq.quantize(MODEL, images, preset="fast")
    shown = capsys.readouterr()
    assert shown.out == "" and "task: " in shown.err and shown.err.count("\n") >= 3
    ptq.quantize(MODEL, images, preset="fast", progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar(images: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    ptq.quantize(MODEL, images, preset="fast")
    shown = terminal.getvalue()
    assert "] 100%" in shown and "\n" in shown and shown.endswith("\r\x1b[K"), "the bar is taken away"


def test_warnings_are_in_the_report() -> None:
    far = np.random.default_rng(0).normal(size=(4, 3, 8, 8)) * 1000
    assert any("larger" in warning for warning in small_of(far).report["warnings"])


def small_of(images: np.ndarray) -> ptq.Result:
    return ptq.quantize(MODEL, images, preset="fast", progress=False)


def test_an_interrupt_ends_the_work_soon(tmp_path: Path) -> None:
    output = tmp_path / "never.onnx"
    images = np.random.default_rng(0).normal(size=(20_000, 3, 8, 8))
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    start = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        ptq.quantize(MODEL, images, output, limit=None, progress=False)
    assert time.monotonic() - start < 2.0, "the signal comes after 1 s"
    assert not output.exists()
    assert small_of(images[:4]), "the next call works"


def test_other_threads_run_meanwhile(images: np.ndarray) -> None:
    ticks = 0
    stop = threading.Event()

    def tick() -> None:
        nonlocal ticks
        while not stop.wait(0.005):
            ticks += 1

    thread = threading.Thread(target=tick)
    thread.start()
    start = time.monotonic()
    ptq.quantize(MODEL, images, progress=False)
    seconds = time.monotonic() - start
    stop.set()
    thread.join()
    assert ticks > 20 * seconds, "of 200 a second"


def run_cli(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "onnx_ptq4vit", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stderr
    return done


def test_the_version_is_that_of_the_crate() -> None:
    manifest = (FIXTURES.parent / "Cargo.toml").read_text()
    assert f'version = "{ptq.__version__}"' in manifest


def test_the_command_line_is_there(tmp_path: Path) -> None:
    assert run_cli("--version").stdout.startswith(f"onnx-ptq4vit {ptq.__version__}")
    assert "quantize" in run_cli("--help").stdout
    script = Path(sys.executable).parent / "onnx-ptq4vit"
    assert subprocess.run([script, "--version"], capture_output=True, check=True).stdout
    assert "Usage: onnx-ptq4vit" in run_cli("nonsense", code=2).stderr
    assert run_cli("inspect", "nowhere.onnx", code=3).stderr.startswith("error: nowhere.onnx")
    page = tmp_path / "a page.html"
    run_cli("quantize", MODEL, "--calib", FIXTURES / "digits_calib.npz", "--calib-limit", 2, "--preset", "fast",
            "-o", tmp_path / "q.onnx", "--report", page, "--quiet")
    assert "onnx-ptq4vit quantize" in page.read_text(), "the report says how to repeat it"
    test = FIXTURES / "digits_test.npz"
    run_cli("check", MODEL, tmp_path / "q.onnx", "--data", test, "--max-kl", 0, code=1)


def test_an_interrupt_ends_the_command_line() -> None:
    images = np.random.default_rng(0).normal(size=(20_000, 3, 8, 8)).astype(np.float32)
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/many.npy", images)
        command = [sys.executable, "-m", "onnx_ptq4vit", "quantize", MODEL, "--calib", f"{folder}/many.npy",
                   "--calib-limit", "20000", "-o", f"{folder}/out.onnx"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
        assert process.returncode == 130 and "interrupted" in said


def test_a_forked_process_is_told_to_be_spawned(result: ptq.Result) -> None:
    import multiprocessing

    def attempt(queue: multiprocessing.Queue) -> None:
        try:
            ptq.inspect(MODEL)
            queue.put("no error")
        except ptq.UsageError as error:
            queue.put(str(error))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=attempt, args=(queue,))
    process.start()
    assert "spawn" in queue.get(timeout=20)
    process.join(timeout=20)
