# SPDX-License-Identifier: Apache-2.0
"""`update`: the limits of a container, by runc's and crun's options or from a document.

HOT: podman, containerd and cri-o call it.
"""

from __future__ import annotations

from ctnr.cli.args import VALUE, Command, UsageError
from ctnr.errors import SpecError
from ctnr.files import read_fd, read_file
from ctnr.jsonio import loads
from ctnr.runtime.container import Container
from ctnr.spec.sizes import parse_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.cli.args import Option, Parsed
    from ctnr.cli.boot import Globals, Handler

_TOP = (1 << 63) - 1
# How a value is written: a number from 0, one from -1 or below, bytes with a unit or -1, words
UNSIGNED, SIGNED, SIZE, WORDS = range(4)

# (option, group and member of linux.resources, how it is written, metavar, help)
_FIELDS = (
    ("blkio-weight", "blockIO", "weight", UNSIGNED, "WEIGHT", "share of the block devices' time, 10 to 1000"),
    ("cpu-period", "cpu", "period", UNSIGNED, "USEC", "the time in which --cpu-quota is counted"),
    ("cpu-quota", "cpu", "quota", SIGNED, "USEC", "CPU time in each period, -1 for no limit"),
    ("cpu-burst", "cpu", "burst", UNSIGNED, "USEC", "unused quota that may be saved up"),
    ("cpu-share", "cpu", "shares", UNSIGNED, "SHARES", "CPU time relative to that of others"),
    ("cpu-rt-period", "cpu", "realtimePeriod", UNSIGNED, "USEC", "the time in which --cpu-rt-runtime is counted"),
    ("cpu-rt-runtime", "cpu", "realtimeRuntime", SIGNED, "USEC", "real-time CPU time in each period"),
    ("cpuset-cpus", "cpu", "cpus", WORDS, "LIST", "the CPUs to use, such as 0-2,5"),
    ("cpuset-mems", "cpu", "mems", WORDS, "LIST", "the memory nodes to use"),
    ("cpu-idle", "cpu", "idle", SIGNED, "0|1", "1: run only when nobody else wants to (SCHED_IDLE)"),
    ("kernel-memory", "memory", "kernel", SIZE, "BYTES", ""),
    ("kernel-memory-tcp", "memory", "kernelTCP", SIZE, "BYTES", ""),
    ("memory", "memory", "limit", SIZE, "BYTES", "memory, such as 512m; -1 for no limit"),
    ("memory-reservation", "memory", "reservation", SIZE, "BYTES", "memory to keep when others want some"),
    ("memory-swap", "memory", "swap", SIZE, "BYTES", "memory and swap together, -1 for no limit"),
    ("pids-limit", "pids", "limit", SIGNED, "N", "tasks, -1 for no limit"),
)


def update(g: Globals, parsed: Parsed) -> int:
    """The document is what the command line stands for: it is checked and merged by the library."""
    source = parsed.value("resources")
    given = [row[0] for row in _FIELDS if row[0] in parsed.options]
    if source is not None and given:
        raise UsageError(f"--{given[0]} and --resources exclude each other: put it into the document")
    shares = [parsed.value(option) or "" for option in ("l3-cache-schema", "mem-bw-schema")]
    if source is None and not given and not any(shares):
        raise UsageError("nothing to update: give --resources, or a limit")
    resources = _options(parsed) if source is None else _document(source)
    Container.load(parsed.args[0], g.root).update(resources, *shares)
    return 0


def _document(source: str) -> dict[str, Any]:
    where = "standard input" if source == "-" else source
    try:
        resources = loads(read_fd(0) if source == "-" else read_file(source))
    except ValueError as e:
        raise SpecError("", f"{where}: {e}") from None
    if resources is not None and not isinstance(resources, dict):
        raise SpecError("", f"{where}: not a JSON object")
    return resources or {}


def _options(parsed: Parsed) -> dict[str, Any]:
    resources: dict[str, Any] = {}
    for option, group, member, kind, _, _ in _FIELDS:
        text = parsed.value(option)
        # as runc, which cannot tell an empty value from none
        if text:
            resources.setdefault(group, {})[member] = text if kind == WORDS else _number(text, "--" + option, kind)
    return resources


def _number(text: str, option: str, kind: int) -> int:
    if kind == SIZE:
        return -1 if text == "-1" else parse_size(text, option)
    digits = text.removeprefix("-") if kind == SIGNED else text
    if digits.isascii() and digits.isdigit() and len(digits) < 20 and int(digits) <= _TOP:
        return int(text)
    raise UsageError(f"{option} is a whole number{'' if kind == SIGNED else ' from 0'}, not {text!r}")


_OPTIONS: tuple[Option, ...] = (
    (VALUE, "resources", "r", "FILE", "take the limits from FILE (-: standard input), JSON as in linux.resources"),
    (VALUE, "l3-cache-schema", "", "SCHEMA", "the share of the L3 cache, such as L3:0=f;1=f0 (Intel RDT)"),
    (VALUE, "mem-bw-schema", "", "SCHEMA", "the share of the memory bandwidth, such as MB:0=50;1=70 (Intel RDT)"),
    *((VALUE, option, "", metavar, text) for option, _, _, _, metavar, text in _FIELDS),
)

COMMANDS: dict[str, tuple[Command, Handler]] = {
    "update": (
        Command(
            "update",
            "CONTAINER",
            "change the limits of a container",
            _OPTIONS,
            "What is not named stays as it is. 0 means the same, but for --pids-limit, --cpu-burst and --cpu-idle.",
        ),
        update,
    )
}
