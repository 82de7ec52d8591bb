"""Runs quantized files in onnxruntime-web (WebAssembly) in headless Chromium, and compares with native runtimes.

The page is that of docs/tutorials/browser. Every file must load, give the logits of the integer runner to within TOLERANCE, and
classify as many test digits correctly, on one thread and on two. `--table FILE` also writes the figures as Markdown.
"""

import argparse
import functools
import http.server
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from playwright.sync_api import sync_playwright

from report_check import FLAGS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/tutorials/browser"
FIXTURES = ROOT / "fixtures"
# In multiples of the largest logit. Floats are rounded otherwise, which may change a code by one; a saturated sum is far beyond.
TOLERANCE = {"digits_vit_ts17": 0.03, "depth12_ts17": 0.03}
# Images that may be classified otherwise than by the integer runner.
TIES = 2
FORMS = {
    "w8a8 function": ["--twin", "function"],
    "w8a8 inline": ["--twin", "inline"],
    "w8a8 inline, overflow-safe": ["--twin", "inline", "--overflow-safe"],
    "w4a8 inline, packed": ["--twin", "inline", "--bits", "w4a8"],
    "w4a8 inline, not packed": ["--twin", "inline", "--bits", "w4a8", "--no-pack"],
    "w4a8 function, packed": ["--twin", "function", "--bits", "w4a8"],
}
RUN = """async ([model, images, threads]) => {
  const page = await import("./page.js");
  const pixels = new Float32Array(await (await fetch(images)).arrayBuffer());
  const start = performance.now();
  const session = await page.load(model);
  const loaded = performance.now();
  const logits = await page.run(session, pixels);
  let best = Infinity;
  for (let i = 0; i < 5; i++) {
    const from = performance.now();
    await page.run(session, pixels);
    best = Math.min(best, performance.now() - from);
  }
  return { logits: Array.from(logits), load: loaded - start, run: best, isolated: crossOriginIsolated };
}"""


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder; with `isolated`, with the headers that threads of WebAssembly need."""

    def __init__(self, folder, isolated):
        class Handler(http.server.SimpleHTTPRequestHandler):
            extensions_map = {**http.server.SimpleHTTPRequestHandler.extensions_map, ".mjs": "text/javascript"}

            def end_headers(self):
                if isolated:
                    self.send_header("Cross-Origin-Opener-Policy", "same-origin")
                    self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
                super().end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def url(self, path=""):
        return f"http://127.0.0.1:{self.server_port}/{path}"


def install(work):
    """The page, and the package that its package.json names."""
    for name in ["index.html", "page.js"]:
        shutil.copy(PAGE / name, work)
    wanted = (PAGE / "package.json").read_bytes()
    installed = work / "package.json"
    if (work / "node_modules").exists() and installed.read_bytes() == wanted:
        return
    installed.write_bytes(wanted)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=work, check=True)


def make(binary, work):
    """The quantized files, by fixture and form; the first is what the page loads."""
    files = {}
    for fixture in TOLERANCE:
        for form, options in FORMS.items():
            file = work / f"{fixture}.{form.translate(str.maketrans(' ', '-', ','))}.onnx"
            command = [binary, "quantize", FIXTURES / f"{fixture}.onnx", "--calib", FIXTURES / "digits_calib.npz"]
            subprocess.run([*command, "-o", file, "--quiet", *options], check=True, stdout=subprocess.DEVNULL)
            files[fixture, form] = file
    shutil.copy(files["digits_vit_ts17", "w8a8 inline"], work / "vit.int8.onnx")
    return files


def extreme(file):
    """A quantized MatMul whose sums of two products pass 16 bits everywhere, and its exact result: saturation cannot hide."""
    inner, outer = 192, 10
    weights = np.where(np.arange(inner)[:, None] % 4 < 2, 127, -128).astype(np.int8) + np.zeros((inner, outer), np.int8)
    constants = {
        "one": np.float32(1),
        "zero": np.int8(0),
        "w": weights,
        "w_scale": np.ones(outer, np.float32),
        "w_zero": np.zeros(outer, np.int8),
        "rows": np.array([0, inner], np.int64),
    }
    nodes = [
        helper.make_node("Reshape", ["images", "rows"], ["a"]),
        helper.make_node("QuantizeLinear", ["a", "one", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero"], ["a_hat"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["w_hat"], axis=1),
        helper.make_node("MatMul", ["a_hat", "w_hat"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "extreme",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", outer])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    images = np.where(np.arange(inner) % 4 < 2, 127, -128).astype(np.float32).reshape(1, 3, 8, 8)
    return images, images.reshape(1, inner) @ weights.astype(np.float32)


def native(binary, file, work):
    """The logits of the integer runner, and of native ONNX Runtime."""
    out = work / "logits.npy"
    command = [binary, "run", file, "--input", FIXTURES / "digits_test.npz", "-o", out, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    images = np.load(FIXTURES / "digits_test.npz")["images"]
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.load(out), session.run(None, {"images": images})[0]


def open_page(browser, server):
    tab = browser.new_page()
    faults = []
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    asked = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(server.url())
    tab.wait_for_function("document.querySelector('output').textContent === 'Choose an image.'", timeout=60_000)
    return tab, faults, asked


def drive(tab):
    """Shows the page the digits of fixtures/digits_png; how many it names as the integer runner's top class does."""
    rows = [line.split(",") for line in (FIXTURES / "digits_png/labels.csv").read_text().split()[1:]]
    right = 0
    for name, label in rows:
        tab.evaluate("document.querySelector('output').textContent = ''")
        tab.set_input_files("input", FIXTURES / "digits_png" / name)
        tab.wait_for_function("document.querySelector('output').textContent !== ''")
        right += f"This is a {label} " in tab.text_content("output")
    return right, len(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/onnx-ptq4vit")
    parser.add_argument("--work", type=Path, default=Path("target/browser-check"))
    parser.add_argument("--install", action="store_true", help="only install the package")
    parser.add_argument("--table", type=Path)
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    install(work)
    if args.install:
        return
    binary = (ROOT / args.binary).resolve()
    files = make(binary, work)
    test = np.load(FIXTURES / "digits_test.npz")
    images, labels = test["images"], test["labels"]
    images.tofile(work / "images.f32")
    hard, exact = extreme(work / "extreme.onnx")
    hard.tofile(work / "extreme.f32")

    faults, lines = [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        for isolated in [False, True]:
            server = Server(work, isolated)
            threads = "several threads" if isolated else "one thread"
            tab, said, asked = open_page(browser, server)
            right, of = drive(tab)
            if right < of:
                faults.append(f"{threads}: the page names {right} of {of} digits")
            found = tab.evaluate(RUN, ["extreme.onnx", "extreme.f32", 0])
            off = np.abs(np.array(found["logits"]) - exact.ravel()).max()
            lines.append(("extreme codes", "", threads, off / np.abs(exact).max(), None, None, found))
            if off:
                faults.append(f"{threads}: extreme codes: off by {off}, integers are exact")
            for (fixture, form), file in files.items():
                place = f"{fixture}, {form}, {threads}"
                integer, ort = native(binary, file, work)
                try:
                    found = tab.evaluate(RUN, [file.name, "images.f32", 0])
                except Exception as error:  # noqa: BLE001: whatever the runtime says
                    faults.append(f"{place}: {str(error).splitlines()[0]}")
                    continue
                if found["isolated"] != isolated:
                    faults.append(f"{place}: crossOriginIsolated is {found['isolated']}")
                web = np.array(found["logits"], np.float32).reshape(integer.shape)
                scale = np.abs(integer).max()
                off, ort_off = np.abs(web - integer).max() / scale, np.abs(web - ort).max() / scale
                agree = (web.argmax(1) == integer.argmax(1)).sum()
                right = (web.argmax(1) == labels).mean()
                lines.append((fixture, form, threads, off, ort_off, (agree, right), found))
                if off > TOLERANCE[fixture]:
                    faults.append(f"{place}: off by {off:.4f} of the largest logit, at most {TOLERANCE[fixture]}")
                if agree < len(labels) - TIES:
                    faults.append(f"{place}: {agree} of {len(labels)} classes are those of the integer runner")
            faults += [f"{threads}: {text}" for text in said]
            faults += [f"{threads}: asks for {url}" for url in asked if not url.startswith((server.url(), "data:", "blob:"))]
            server.shutdown()
        browser.close()
    report(lines, args.table)
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"{len(lines)} runs of onnxruntime-web: {len(faults)} faults")
    sys.exit(bool(faults))


def report(lines, table):
    head = ["model", "form", "threads", "from integer runner", "from native ONNX Runtime", "same class, top-1", "load, ms", "run, ms"]
    rows = []
    for fixture, form, threads, off, ort_off, classes, found in lines:
        same = "" if classes is None else f"{classes[0]}, {100 * classes[1]:.1f} %"
        ort = "" if ort_off is None else f"{ort_off:.1e}"
        rows.append([fixture, form, threads, f"{off:.1e}", ort, same, f"{found['load']:.0f}", f"{found['run']:.1f}"])
    text = "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows]) + "\n"
    print(text)
    if table:
        table.write_text(text)


if __name__ == "__main__":
    main()
