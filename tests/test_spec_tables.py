# SPDX-License-Identifier: Apache-2.0
"""ctnr.spec.tables against what Python's own modules and this kernel say."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from ctnr.spec import signals, tables


def test_rlimits() -> None:
    for name, number in tables.RLIMITS.items():
        # Python does not name RLIMIT_LOCKS, and gives RTTIME and others only where the libc does
        if hasattr(resource, name):
            assert getattr(resource, name) == number
    assert sorted(tables.RLIMITS.values()) == list(range(16))
    assert resource.RLIM_INFINITY in (-1, tables.RLIM_INFINITY)


def test_capabilities_are_all_the_kernel_has() -> None:
    assert list(tables.CAPABILITIES.values()) == list(range(41))
    last = Path("/proc/sys/kernel/cap_last_cap")
    if last.exists():
        assert int(last.read_text()) <= 40, "the kernel has a capability that the table does not name"


def test_namespaces_are_those_of_proc() -> None:
    here = set(os.listdir("/proc/self/ns"))
    assert set(tables.NAMESPACE_FILES.values()) == {n for n in here if not n.endswith("_for_children")} | {"time"}
    assert set(tables.NAMESPACES) == set(tables.NAMESPACE_FILES)
    for name, flag in tables.NAMESPACES.items():
        if hasattr(os, "CLONE_NEWNS"):  # 3.12
            kind = {"network": "NET", "mount": "NS"}.get(name, name.upper())
            assert flag == getattr(os, f"CLONE_NEW{kind}")
        assert flag.bit_count() == 1


def test_schedulers() -> None:
    for name in ("SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "SCHED_IDLE"):
        assert tables.SCHED_POLICIES[name] == getattr(os, name)


def test_signals() -> None:
    for s in signal.Signals:
        if s.name not in ("SIGRTMIN", "SIGRTMAX"):
            assert signals.SIGNALS[s.name[3:]] == s.value
    assert signals.SIGRTMIN == signal.SIGRTMIN
    assert signals.SIGRTMAX == signal.SIGRTMAX


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigkill", 9),
        ("Hup", 1),
        ("15", 15),
        ("0", 0),
        ("64", 64),
        ("33", 33),
        ("IOT", 6),
        ("SIGPOLL", 29),
        ("SIGRTMIN", 34),
        ("RTMIN+3", 37),
        ("rtmin+30", 64),
        ("SIGRTMAX", 64),
        ("SIGRTMAX-14", 50),
    ],
)
def test_signal_number(text: str, number: int) -> None:
    assert signals.signal_number(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "SIG", "65", "-1", "+9", "9 ", "1e1", "0x9", "٩", "9999999", "NOPE", "SIGSIGTERM", "TERM\n", "RTM", "RTMID"]
    + [f"RTM{end}" for end in ("IN-1", "IN+31", "AX+1", "AX-31", "IN+", "IN3", "IN+-1", "IN+٣")],
)
def test_no_signal(text: str) -> None:
    with pytest.raises(ValueError) as e:
        signals.signal_number(text)
    assert str(e.value) == f'unknown signal "{text}"'


def test_signal_names_come_back() -> None:
    for number in range(1, 65):
        assert signals.signal_number(signals.signal_name(number)) == number
    assert signals.signal_name(6) == "SIGABRT"
    assert signals.signal_name(34) == "SIGRTMIN"
    assert signals.signal_name(37) == "SIGRTMIN+3"
    assert signals.signal_name(32) == "32"
