# SPDX-License-Identifier: Apache-2.0
"""`events`: statistics and OOM kills of a container as they come, in runc's documents.

HOT: containerd's shim calls `events --stats`.
"""

from __future__ import annotations

from ctnr.cli.args import FLAG, VALUE, Command, UsageError
from ctnr.cli.output import out
from ctnr.errors import StateError
from ctnr.jsonio import dumps
from ctnr.runtime.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.cli.args import Parsed
    from ctnr.cli.boot import Globals, Handler

# nanoseconds
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def events(g: Globals, parsed: Parsed) -> int:
    interval = duration(parsed.value("interval") or "5s", "--interval")
    container = Container.load(parsed.args[0], g.root)
    if parsed.flag("stats"):
        status = container.status()
        if status in ("stopped", "creating"):
            raise StateError(f"container with id {container.id} is not running", container.id, status)
        out(dumps({"type": "stats", "id": container.id, "data": container.stats()}) + "\n")
        return 0
    for event in container.events(interval):
        out(dumps(event) + "\n")
    return 0


def duration(text: str, option: str) -> float:
    """Seconds of what Go writes for a time: 5s, 100ms, 1m30s, 1.5h. Raises UsageError."""
    total = 0.0
    rest = text
    while rest:
        number = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(number) :]
        unit = rest[: len(rest) - len(rest.lstrip("nuµμmsh"))]
        rest = rest[len(unit) :]
        if not number.replace(".", "", 1).isdigit() or not number.isascii() or unit not in _UNITS:
            total = 0.0
            break
        total += float(number) * _UNITS[unit] / 10**9
    if not 0 < total < 1 << 31:
        raise UsageError(f"{option} is a time above 0 such as 5s, 100ms or 1m30s, not {text!r}")
    return total


COMMANDS: dict[str, tuple[Command, Handler]] = {
    "events": (
        Command(
            "events",
            "CONTAINER",
            "show what a container uses, and when it runs out of memory",
            (
                (VALUE, "interval", "", "TIME", "how often the statistics are shown (default: 5s)"),
                (FLAG, "stats", "", "", "show the statistics once"),
            ),
            "One JSON document a line, until the container has stopped.",
        ),
        events,
    )
}
