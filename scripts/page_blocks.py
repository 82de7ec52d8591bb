"""The blocks of a Markdown page that are executed, and what comments say about them.

A comment at the head of a page says what its folder holds and which environment it runs in:

    <!-- setup: digits -->        <!-- environment: export -->

A comment before a block is about that block alone:

    <!-- exits: 1 -->             the block ends with this code; without it, 0
    <!-- not run: REASON -->      the block is not executed, and the reason is printed
    <!-- needs: export -->        a `sh` block runs in this environment, and the page is in another
    <!-- before: COMMAND -->      this command runs first, and readers do not see it
    <!-- output -->               the text block shows what the block before it prints: numbers may differ, words may not
    <!-- file: PATH -->           the block, of any language, is this file of the repository

Blocks of the languages `sh` and `python` are executed.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

EXECUTED = {"sh", "python"}
COMMENT = re.compile(r"^\s*<!-- ([a-z ]+?)(?:: (.*))? -->$")
FENCE = re.compile(r"^(\s*)(`{3,})(\w*)")
PAGE_NOTES = {"setup", "environment"}
BLOCK_NOTES = {"exits", "not run", "needs", "before", "output", "file"}
ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Block:
    page: Path
    # Of the first line within the fence, from 1.
    line: int
    language: str
    text: str
    exits: int = 0
    not_run: str = ""
    # The environment, if it is not that of the page.
    needs: str = ""
    before: list[str] = field(default_factory=list)
    # What the page shows of what the block prints.
    shown: list[str] = field(default_factory=list)


@dataclass
class Page:
    path: Path
    setup: str
    environment: str
    blocks: list[Block]


def read(path: Path) -> Page:
    notes, pending, blocks = {"setup": "empty", "environment": "pages"}, [], []
    lines = path.read_text().splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if comment := COMMENT.match(line):
            key, value = comment[1], comment[2] or ""
            if key in PAGE_NOTES:
                notes[key] = value
            elif key in BLOCK_NOTES:
                pending.append((key, value))
            continue
        fence = FENCE.match(line)
        if not fence:
            continue
        start = at
        while at < len(lines) and lines[at].strip() != fence[2]:
            at += 1
        text = "\n".join(line.removeprefix(fence[1]) for line in lines[start:at]) + "\n"
        at += 1
        files = [value for key, value in pending if key == "file"]
        for file in files:
            if (ROOT / file).read_text() != text:
                raise ValueError(f"{path}:{start + 1}: the block is not {file}")
        if files:
            pass
        elif ("output", "") in pending:
            if not blocks or fence[3] in EXECUTED:
                raise ValueError(f"{path}:{start}: no block before this output")
            blocks[-1].shown = text.splitlines()
        elif fence[3] in EXECUTED:
            blocks.append(block(path, start + 1, fence[3], text, pending))
        elif pending:
            raise ValueError(f"{path}:{start}: a comment about a block that is not executed")
        pending = []
    return Page(path, notes["setup"], notes["environment"], blocks)


def block(path: Path, line: int, language: str, text: str, notes: list[tuple[str, str]]) -> Block:
    made = Block(path, line, language, text)
    for key, value in notes:
        match key:
            case "exits":
                made.exits = int(value)
            case "not run":
                made.not_run = value
            case "needs":
                made.needs = value
            case "before":
                made.before.append(value)
    return made


def masked(line: str) -> str:
    """A line with its numbers made alike, and its spaces and rules, whose widths follow from the numbers."""
    return re.sub(r"[\s─-]+", " ", re.sub(r"\d+(\.\d+)?(e[-+]?\d+)?", "#", line)).strip()


def missing(shown: list[str], printed: str) -> str | None:
    """The first line shown that is not printed, in order; `…` stands for any lines."""
    rest = iter(masked(line) for line in printed.splitlines())
    for line in shown:
        wanted = masked(line)
        if wanted not in {"", "…"} and not any(wanted == other for other in rest):
            return line
    return None
