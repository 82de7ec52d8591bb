"""Runs quantized files in onnxruntime-web (WebAssembly) in headless Chromium, and compares with native runtimes.

The page is that of docs/tutorials/browser. Every file must load, give the logits of the integer runner to within TOLERANCE, and
choose its classes, on one thread and on several. It prints the figures as a Markdown table.
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
from playwright.sync_api import Error, sync_playwright

from report_check import FLAGS

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/tutorials/browser"
FIXTURES = ROOT / "fixtures"
# In multiples of the largest logit. Floats are rounded otherwise, which may change a code by one; a saturated sum is far beyond.
TOLERANCE = 0.03
MODELS = ["digits_vit_ts17", "depth12_ts17"]
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
RUN = """async ([model, images]) => {
  const page = await import("./page.js");
  const pixels = new Float32Array(await (await fetch(images)).arrayBuffer());
  const start = performance.now();
  const session = await page.load(model);
  const loaded = performance.now();
  const logits = await page.run(session, pixels);
  let best = Infinity;
  for (let i = 0; i < 3; i++) {
    const from = performance.now();
    await page.run(session, pixels);
    best = Math.min(best, performance.now() - from);
  }
  return { logits: Array.from(logits), load: loaded - start, run: best };
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
    for fixture in MODELS:
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


def native(binary, file, work, images):
    """The logits of the integer runner, and of native ONNX Runtime."""
    out = work / "logits.npy"
    command = [binary, "run", file, "--input", FIXTURES / "digits_test.npz", "-o", out, "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
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
    """Shows the page the digits of fixtures/digits_png: how many it names, and of how many."""
    rows = [line.split(",") for line in (FIXTURES / "digits_png/labels.csv").read_text().split()[1:]]
    right = 0
    for name, label in rows:
        tab.evaluate("document.querySelector('output').textContent = ''")
        tab.set_input_files("input", FIXTURES / "digits_png" / name)
        tab.wait_for_function("document.querySelector('output').textContent !== ''")
        right += f"This is a {label} " in tab.text_content("output")
    return right, len(rows)


def compare(tab, threads, files, references, labels):
    """The rows of the table, and what is wrong, of all files in one page."""
    rows, faults = [], []
    _, exact = references["extreme"]
    found = tab.evaluate(RUN, ["extreme.onnx", "extreme.f32"])
    off = np.abs(np.array(found["logits"]) - exact.ravel()).max() / np.abs(exact).max()
    rows.append(["extreme codes", "", threads, f"{off:.1e}", "", "", found])
    if off:
        faults.append(f"{threads}: extreme codes: off by {off:.1e}, integers are exact")
    for (fixture, form), file in files.items():
        place = f"{fixture}, {form}, {threads}"
        integer, ort = references[file]
        try:
            found = tab.evaluate(RUN, [file.name, "images.f32"])
        except Error as error:
            faults.append(f"{place}: {error.message.splitlines()[0]}")
            continue
        web = np.array(found["logits"], np.float32).reshape(integer.shape)
        off, ort_off = (np.abs(web - other).max() / np.abs(integer).max() for other in (integer, ort))
        same, top1 = (web.argmax(1) == integer.argmax(1)).sum(), (web.argmax(1) == labels).mean()
        rows.append([fixture, form, threads, f"{off:.1e}", f"{ort_off:.1e}", f"{same}, {100 * top1:.1f} %", found])
        if off > TOLERANCE:
            faults.append(f"{place}: off by {off:.4f} of the largest logit, at most {TOLERANCE}")
        if same < len(labels) - TIES:
            faults.append(f"{place}: {same} of {len(labels)} classes are those of the integer runner")
    return rows, faults


def use(browser, work, isolated, files, references, labels):
    """One page with all files: on several threads if it is isolated, else on one."""
    threads = "several threads" if isolated else "one thread"
    server = Server(work, isolated)
    tab, said, asked = open_page(browser, server)
    faults = []
    if tab.evaluate("crossOriginIsolated") != isolated:
        faults.append(f"{threads}: crossOriginIsolated is {not isolated}")
    right, of = drive(tab)
    if right < of:
        faults.append(f"{threads}: the page names {right} of {of} digits")
    rows, found = compare(tab, threads, files, references, labels)
    faults += found
    faults += [f"{threads}: {text}" for text in said]
    faults += [f"{threads}: asks for {url}" for url in asked if not url.startswith((server.url(), "data:", "blob:"))]
    tab.close()
    server.shutdown()
    return rows, faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/onnx-ptq4vit")
    parser.add_argument("--work", type=Path, default=Path("target/browser-check"))
    parser.add_argument("--install", action="store_true", help="only install the package")
    args = parser.parse_args()
    work = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    install(work)
    if args.install:
        return
    binary = (ROOT / args.binary).resolve()
    files = make(binary, work)
    test = np.load(FIXTURES / "digits_test.npz")
    references = {file: native(binary, file, work, test["images"]) for file in files.values()}
    test["images"].tofile(work / "images.f32")
    references["extreme"] = extreme(work / "extreme.onnx")
    references["extreme"][0].tofile(work / "extreme.f32")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        results = [use(browser, work, isolated, files, references, test["labels"]) for isolated in (False, True)]
        browser.close()
    rows, faults = ([entry for result in results for entry in result[part]] for part in (0, 1))
    print(table(rows))
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"{len(rows)} runs of onnxruntime-web: {len(faults)} faults")
    sys.exit(bool(faults))


def table(rows):
    head = ["model", "form", "threads", "from integer runner", "from ONNX Runtime", "same class, top-1", "load, ms", "run, ms"]
    lines = [[*row[:-1], f"{row[-1]['load']:.0f}", f"{row[-1]['run']:.1f}"] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *lines]) + "\n"


if __name__ == "__main__":
    main()
