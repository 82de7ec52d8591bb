"""Opens the HTML reports in headless Chromium: no message on the console, no request, no overflow, enough contrast.

With --pages DIR it only makes the pages; with --screenshots DIR it also makes pictures of them.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = [390, 1280]
LARGEST = 1_000_000
# WCAG 2.1, 1.4.3 (AA): for text, and for large text.
CONTRAST, CONTRAST_LARGE = 4.5, 3.0
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# The texts whose contrast with what is behind them is too small.
FAINT = """([least, large]) => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const luminance = ([r, g, b]) => {
    const part = (x) => ((x /= 255) <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const faint = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || ["SCRIPT", "STYLE"].includes(element.tagName)) continue;
    const style = getComputedStyle(element);
    const color = parse(element instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(color), luminance(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const size = parseFloat(style.fontSize);
    const isLarge = size >= 24 || (size >= 18.66 && style.fontWeight >= 600);
    count += 1;
    if (ratio < (isLarge ? large : least)) faint.push(`${ratio.toFixed(2)}: ${walker.currentNode.textContent.trim()}`);
  }
  return [count, faint];
}"""

# Elements that lie outside of the page, unless within a frame that scrolls.
OUTSIDE = """() => [...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.right > innerWidth + 1 && !element.closest(".scroll") && !element.closest("svg");
}).map((element) => element.outerHTML.slice(0, 120))"""


def make(binary, folder):
    """The pages of the commands, by name, each with the exit code that is expected."""
    fixture, calib, test = (f"fixtures/{name}" for name in ["digits_vit_ts17.onnx", "digits_calib.npz", "digits_test.npz"])
    model, scales = str(folder / "model.onnx"), str(folder / "scales.json")
    quantize = ["quantize", fixture, "--calib", calib, "-o", model, "--bits", "w4a4"]
    quantize += ["--check", test, "--max-drop", "50", "--checkpoint", scales, "--task-loss", "*fc2*"]
    broken = ["check", fixture, model, "--data", test, "--min-agreement", "100", "--sites"]
    analyze = ["analyze", fixture, "--calibration", scales, "--data", test, "--limit", "16"]
    pages = {}
    for name, arguments, code in [("quantize", quantize, 0), ("check", broken, 1), ("analyze", analyze, 0)]:
        page = folder / f"{name}.html"
        page.unlink(missing_ok=True)
        found = subprocess.run([binary, *arguments, "--quiet", "--report", str(page)], cwd=ROOT, stdout=subprocess.DEVNULL)
        assert found.returncode == code, f"{name}: exit code {found.returncode}, expected {code}"
        pages[name] = page
    return pages


def check(browser, name, page, screenshots):
    faults = []
    size = page.stat().st_size
    if size > LARGEST:
        faults.append(f"{size} bytes, at most {LARGEST}")
    for width in WIDTHS:
        for scheme in ["light", "dark"]:
            place = f"{name} at {width} pixels, {scheme}"
            tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            said, asked = [], []
            tab.on("console", lambda message: said.append(message.text))
            tab.on("pageerror", lambda error: said.append(str(error)))
            tab.on("request", lambda request: asked.append(request.url))
            tab.goto(page.as_uri())
            if screenshots:
                tab.screenshot(path=screenshots / f"{name}-{width}-{scheme}.png")
            tab.evaluate("document.querySelectorAll('details').forEach((d) => (d.open = true))")
            others = [url for url in asked if url != page.as_uri() and not url.startswith("data:")]
            faults += [f"{place}: console: {text}" for text in said]
            faults += [f"{place}: asks for {url}" for url in others]
            faults += [f"{place}: outside: {element}" for element in tab.evaluate(OUTSIDE)]
            over = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
            if over > 0:
                faults.append(f"{place}: {over} pixels too wide")
            count, faint = tab.evaluate(FAINT, [CONTRAST, CONTRAST_LARGE])
            assert count > 100, f"{place}: only {count} texts"
            faults += [f"{place}: contrast {text}" for text in faint]
            tab.close()
    faults += [f"{name}: {fault}" for fault in behaviour(browser, page)]
    return faults


def behaviour(browser, page):
    """Keyboard, screen reader, print."""
    faults = []
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(page.as_uri())
    if tab.evaluate("document.querySelector('.verdict').getBoundingClientRect().top > 300"):
        faults.append("the verdict is not at the top")
    unnamed = "document.querySelectorAll('img:not([alt]), figure > div:not([aria-label]), section:not([aria-labelledby])').length"
    if tab.evaluate(unnamed):
        faults.append("an image, a chart or a section has no name")
    ids = "[...document.querySelectorAll('a[href^=\"#\"]')].filter((a) => !document.getElementById(a.hash.slice(1))).length"
    if tab.evaluate(ids):
        faults.append("a link leads nowhere")
    if tab.locator("table.sortable").count():
        column = "[...document.querySelectorAll('table.sortable tbody tr')].map((row) => row.cells[0].dataset.value)"
        button = tab.locator("table.sortable th button").first
        button.focus()
        tab.keyboard.press("Enter")
        falling = tab.evaluate(column)
        tab.keyboard.press("Enter")
        rising = tab.evaluate(column)
        if rising != falling[::-1] or rising == falling or tab.locator("th[aria-sort=ascending]").count() != 1:
            faults.append("the table is not sorted by Enter on its heading")
        field = tab.locator(".filter input")
        field.fill("no such site")
        if tab.locator("table.sortable tbody tr:visible").count():
            faults.append("the filter leaves rows that do not match")
        field.fill("")
    tab.emulate_media(media="print")
    if tab.locator("nav:visible").count() or not tab.locator(".verdict:visible").count():
        faults.append("print shows the navigation, or not the verdict")
    tab.close()
    # Without scripts everything can still be read.
    plain = browser.new_context(java_script_enabled=False).new_page()
    plain.goto(page.as_uri())
    if not plain.locator("main section:visible").count():
        faults.append("without scripts there is nothing to read")
    plain.close()
    return faults


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/onnx-ptq4vit")
    parser.add_argument("--work", type=Path, default=Path("target/report-check"))
    parser.add_argument("--pages", type=Path, nargs="*", help="check these pages instead")
    parser.add_argument("--screenshots", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    binary = str((ROOT / args.binary).resolve())
    pages = {page.stem: page.resolve() for page in args.pages} if args.pages else make(binary, args.work.resolve())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
        faults = [fault for name, page in pages.items() for fault in check(browser, name, page, args.screenshots)]
        browser.close()
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"{len(pages)} pages at {len(WIDTHS)} widths, light and dark: {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
