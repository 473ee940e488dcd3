# SPDX-License-Identifier: Apache-2.0
"""How far a copy is, on stderr: a bar for each blob on a terminal, a line for each where there is none, nothing if quiet."""

from __future__ import annotations

import os
import threading
import time

from ctnr.cli.output import complain

_WIDTH = 28
_EVERY = 0.08


def size_text(size: int) -> str:
    """As docker writes sizes: units of 1000, three digits."""
    number = float(size)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            return f"{number:.4g}{unit}" if unit != "B" else f"{size}B"
        number /= 1000
    raise AssertionError  # TB ends it


def age_text(seconds: float) -> str:
    """As docker writes ages: "3 days ago"."""
    for length, name in ((31536000, "year"), (2592000, "month"), (604800, "week"), (86400, "day"), (3600, "hour")):
        if seconds >= 2 * length or (seconds >= length and name in ("hour", "day")):
            count = int(seconds // length)
            return f"{count} {name}{'s' if count > 1 else ''} ago"
    if seconds >= 60:
        count = int(seconds // 60)
        return f"{count} minute{'s' if count > 1 else ''} ago"
    return "less than a minute ago" if seconds >= 1 else "just now"


class Bars:
    """Call it as copy()'s `progress`; at the end of the block its last state is left on the terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = not quiet and os.isatty(2) and os.environ.get("TERM") not in (None, "", "dumb")
        self._lock = threading.Lock()
        self._bars: list[_Bar] = []
        self._drawn = 0
        self._next = 0.0

    def __call__(self, digest: str, kind: str, size: int) -> _Bar:
        bar = _Bar(self, digest, kind, size)
        with self._lock:
            if kind != "manifest":
                self._bars.append(bar)
        self.changed(True)
        return bar

    def changed(self, now: bool = False) -> None:
        if not self._terminal:
            return
        with self._lock:
            if not now and time.monotonic() < self._next:
                return
            self._next = time.monotonic() + _EVERY
            self._draw()

    def _draw(self) -> None:
        try:
            columns, rows = os.get_terminal_size(2)
        except OSError:
            columns, rows = 80, 24
        shown = self._bars[-(rows - 1) :]
        lines = [bar.line()[: columns - 1] for bar in shown]
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        text = up + "".join(f"\r\x1b[K{line}\n" for line in lines)
        self._drawn = len(lines)
        try:
            os.write(2, text.encode())
        except OSError:
            self._terminal = False  # it went away; the copy goes on

    def say(self, bar: _Bar) -> None:
        """One is done."""
        if self._terminal:
            self.changed(True)
        elif not self._quiet and bar.kind != "manifest" and bar.note != "failed":  # the error says that
            complain(f"{bar.kind} {bar.digest[7:19]} {size_text(bar.size)}: {bar.note}")

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *error: object) -> None:
        if self._terminal:
            with self._lock:
                self._draw()


class _Bar:
    def __init__(self, bars: Bars, digest: str, kind: str, size: int) -> None:
        self._bars = bars
        self.digest = digest
        self.kind = kind
        self.size = size
        self.count = 0
        self.note = ""

    def update(self, count: int, /) -> None:
        self.count += count
        self._bars.changed()

    def done(self, note: str, /) -> None:
        self.note = note
        self._bars.say(self)

    def line(self) -> str:
        head = f"{self.kind:6} {self.digest[7:19]} "
        if self.note:
            return f"{head}{size_text(self.size):>8}  {self.note}"
        part = min(self.count / self.size, 1.0) if self.size else 1.0
        full = int(part * _WIDTH)
        return f"{head}{size_text(self.size):>8}  [{'=' * full}{' ' * (_WIDTH - full)}] {int(part * 100):3}%"
