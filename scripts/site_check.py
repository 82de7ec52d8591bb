"""Executes every `sh` and `python` block of the documentation, page by page and in order, each page in a fresh folder.

`--environment NAME=FOLDER` names a virtual environment that has the wheel of onnx-ptq4vit; the comments of a page say which one it
needs and what its folder holds (page_blocks.py, page_setups.py). Without an environment, its pages must be named by `--without`.
On the path of a page are the programs of its environment, and three that stand for what a reader would install:

- `cargo run --release -- …` is `onnx-ptq4vit …`; `cargo test`, `cargo install` and `cargo doc` are CI's, and do nothing;
- `pip install …` succeeds if the environment has what is asked for; nothing is downloaded;
- `python3 -m venv FOLDER` makes a link to the environment.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import page_blocks
import page_setups
from page_blocks import Block, Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = ["README.md", "python/README.md", *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md"))]
# Pages without comments of their own, since these would show where a package's page is rendered from plain text.
SETUPS = {"README.md": "repository", "python/README.md": "loaders"}
SECONDS = 300
SHIMS = {
    "cargo": """case "$1" in
    run) while [[ "$1" != -- ]]; do shift; done; shift; exec onnx-ptq4vit "$@" ;;
    test|install|doc|build|add) echo "cargo $1: not run here" ;;
    *) echo "cargo $1: site_check.py does not know it" >&2; exit 2 ;;
esac""",
    "pip": """arguments=("${@//.\\/python/onnx-ptq4vit}")
PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 exec "$ENVIRONMENT/bin/python" -m pip "${arguments[@]}" """,
    "python3": """if [[ "$1 $2" == "-m venv" ]]; then exec ln -sfn "$ENVIRONMENT" "$3"; fi
exec "$ENVIRONMENT/bin/python" "$@" """,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", default=PAGES, metavar="PAGE")
    parser.add_argument("--environment", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--without", action="append", default=[], metavar="NAME")
    parser.add_argument("--hub", type=Path, help="a folder for HF_HOME, made by hub_cache.py")
    parser.add_argument("--work", type=Path, default=ROOT / "target/site-check")
    args = parser.parse_args()
    shims = args.work.absolute() / "bin"
    make_shims(shims)
    named = (entry.split("=", 1) for entry in args.environment)
    environments = {name: variables_of(Path(folder).absolute(), shims, args.hub) for name, folder in named}

    executed, faults, skipped = 0, [], []
    for name in args.pages:
        page = page_blocks.read(ROOT / name)
        page.setup = SETUPS.get(name, page.setup)
        blocks = []
        for block in page.blocks:
            needed = block.needs or page.environment
            if needed not in environments and needed not in args.without:
                sys.exit(f"{name}:{block.line}: needs --environment {needed}=FOLDER")
            reason = block.not_run or ("" if needed in environments else f"needs the environment `{needed}`")
            if reason:
                skipped.append(f"{name}:{block.line}: {reason}")
            else:
                blocks.append(block)
        if not blocks:
            continue
        start = time.monotonic()
        page.blocks = blocks
        count, found = execute(page, name, args.work.absolute() / re.sub(r"\W+", "-", name.removesuffix(".md")), environments)
        executed += count
        faults += found
        print(f"{name}: {count} blocks, {time.monotonic() - start:.1f} s", flush=True)
    for line in skipped:
        print(f"not run: {line}")
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"{executed} blocks executed, {len(skipped)} not run, {len(faults)} faults")
    sys.exit(bool(faults))


def make_shims(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, script in SHIMS.items():
        file = folder / name
        file.write_text(f"#!/usr/bin/env bash\n{script}\n")
        file.chmod(0o755)


def variables_of(environment: Path, shims: Path, hub: Path | None) -> dict[str, str]:
    variables = os.environ | {
        "PATH": f"{shims}:{environment}/bin:{os.environ['PATH']}",
        "VIRTUAL_ENV": str(environment),
        "ENVIRONMENT": str(environment),
        "REPOSITORY": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
    }
    if hub:
        variables["HF_HOME"] = str(hub.absolute())
    return variables


def execute(page: Page, name: str, folder: Path, environments: dict[str, dict[str, str]]) -> tuple[int, list[str]]:
    """How many blocks ran, and what is wrong. The blocks after one that fails are not run: they would need it."""
    variables = environments[page.environment]
    prelude = page_setups.PRELUDES.get(page.setup)
    set_up(page.setup, folder, variables)
    worker = Worker(folder, variables)
    log = folder.with_suffix(".log")
    for count, block in enumerate(page.blocks):
        if prelude and count:
            set_up(page.setup, folder, variables)
        place = f"{name}:{block.line}"
        log.write_text("")
        there = environments[block.needs or page.environment]
        for command in block.before:
            if code := shell(command, folder, there, log):
                return count, [f"{place}: before the block, `{command}` ends with {code}\n{log.read_text()}"]
        log.write_text("")
        if block.language == "sh":
            code = shell(block.text, folder, there, log)
        else:
            if prelude:
                worker.run(Block(Path(page.setup), 1, "python", prelude), log)
            code = worker.run(block, log)
        printed = log.read_text(errors="replace")
        if code != block.exits:
            return count, [f"{place}: ends with {code}, expected {block.exits}\n{block.text}---\n{printed}"]
        if line := page_blocks.missing(block.shown, printed):
            return count, [f"{place}: the page shows a line that is not printed:\n{line}\n---\n{printed}"]
    worker.end()
    return len(page.blocks), []


def set_up(setup: str, folder: Path, variables: dict[str, str]) -> None:
    """The folder anew; it stays the same one, since the worker is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
    page_setups.SETUPS[setup](folder, variables)


def shell(text: str, folder: Path, variables: dict[str, str], log: Path) -> int:
    command = ["timeout", str(SECONDS), "bash", "-euo", "pipefail", "-c", text]
    with open(log, "a") as out:
        return subprocess.run(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT
        ).returncode


class Worker:
    """The process of a page's Python blocks, started when there is one."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder, self.variables = folder, variables
        self.process: subprocess.Popen[str] | None = None

    def run(self, block: Block, log: Path) -> int:
        if self.process is None or self.process.poll() is not None:
            command = ["timeout", str(SECONDS), "python", str(ROOT / "scripts/page_worker.py")]
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=self.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        request = {"text": block.text, "line": block.line, "page": str(block.page), "log": str(log)}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        return json.loads(answer) if answer else self.process.wait()

    def end(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.wait()


if __name__ == "__main__":
    main()
