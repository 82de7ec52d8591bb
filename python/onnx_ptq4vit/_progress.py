"""How work moves, for people or for a function of the caller's."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeAlias, Union

ProgressLike: TypeAlias = Union[bool, Callable[[str, int, int], object]]
Listener: TypeAlias = Callable[[str, str, int, int], object]


def listener(progress: ProgressLike) -> Listener | None:
    """What is told of the work as it moves; `None` to be told nothing."""
    if progress is True:
        return _Stderr()
    if progress is False or progress is None:
        return None

    def call(kind: str, text: str, done: int, total: int) -> None:
        if kind != "note":
            progress(text, done, total)

    return call


class _Stderr:
    """A bar on a terminal; elsewhere a line for each stage, and for each tenth of one that takes long."""

    WIDTH = 32
    FIRST = 10.0
    """Seconds after which a stage is said to be long."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._drawn = False
        self._began = time.monotonic()
        self._said = 0

    def __call__(self, kind: str, text: str, done: int, total: int) -> None:
        if kind == "note":
            self._line(text)
        elif self._terminal:
            self._draw(text, done, total)
        elif kind == "stage":
            self._began, self._said = time.monotonic(), 0
            self._line(text)
        else:
            tenths = 10 * done // max(total, 1)
            if self._said < tenths < 10 and time.monotonic() - self._began >= self.FIRST:
                self._said = tenths
                self._line(f"{text}: {10 * tenths} %")

    def finish(self) -> None:
        """Takes the bar away."""
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

    def _line(self, text: str) -> None:
        self.finish()
        print("".join(c if c.isprintable() else "?" for c in text), file=sys.stderr, flush=True)

    def _draw(self, text: str, done: int, total: int) -> None:
        share = done / max(total, 1)
        bar = "#" * int(self.WIDTH * share)
        sys.stderr.write(f"\r\x1b[K{text} [{bar:<{self.WIDTH}}] {share:4.0%}")
        sys.stderr.flush()
        self._drawn = True


def finish(told: Listener | None) -> None:
    """Ends what is drawn, if anything is."""
    if isinstance(told, _Stderr):
        told.finish()
