# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.without_cgroup: what is held by an rlimit, and what the user is told.

integration/test_rootless_limits.py has it for real.
"""

from __future__ import annotations

import resource
from types import SimpleNamespace
from typing import Any

import pytest

from ctnr import log
from ctnr.runtime import without_cgroup
from ctnr.runtime.compile import Context

OWN = [{"type": "pid"}, {"type": "user"}]


def hold(
    monkeypatch: pytest.MonkeyPatch, resources: dict[str, Any], namespaces: list[dict[str, str]] | None = None
) -> tuple[int | None, list[str], Context]:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", said.append)
    config: Any = {
        "process": {"args": ["x"], "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]},
        "linux": {"namespaces": namespaces or OWN, "resources": resources},
    }
    ctx = Context(config, "id", "/")
    return without_cgroup.hold(ctx), said, ctx


def test_nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for resources in ({}, {"devices": [{"allow": False}]}, {"memory": {"limit": -1}, "pids": {"limit": -1}}):
        assert hold(monkeypatch, resources)[:2] == (None, [])


def test_what_is_not_enforced_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"memory": {"limit": 5}, "cpu": {"shares": 5}, "unified": {"memory.high": "1"}}
    limit, [said], ctx = hold(monkeypatch, asked)
    assert limit is None
    told = 'memory.limit, cpu.shares, unified["memory.high"] '
    assert said.startswith(f"linux.resources: this user may make no cgroup: not enforced: {told}")
    assert said.endswith("Delegate=yes; --rootless=false makes it an error)") and "\n" not in said
    assert [one["type"] for one in ctx.config["process"]["rlimits"]] == ["RLIMIT_CORE"]


def test_pids(monkeypatch: pytest.MonkeyPatch) -> None:
    limit, [said], ctx = hold(monkeypatch, {"pids": {"limit": 7}})
    assert limit == 7 and "not enforced" not in said
    assert "pids.limit holds for each user of the container by itself (RLIMIT_NPROC)" in said
    assert ctx.config["process"]["rlimits"][1:] == [{"type": "RLIMIT_NPROC", "soft": 7, "hard": 7}]
    limit, [said], _ = hold(monkeypatch, {"pids": {"limit": 0}, "memory": {"limit": 5}})
    assert limit == 1 and "not enforced: memory.limit; pids.limit holds" in said


def test_where_no_rlimit_can_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of others would be counted: in somebody else's user namespace, and before Linux 5.14."""
    joined = [{"type": "user", "path": "/proc/1/ns/user"}]
    assert hold(monkeypatch, {"pids": {"limit": 7}}, joined)[0] is None
    assert hold(monkeypatch, {"unified": {"pids.max": "7"}})[0] is None
    monkeypatch.setattr(without_cgroup, "uname", lambda: SimpleNamespace(release="5.13.0-rc1"))
    limit, [said], _ = hold(monkeypatch, {"pids": {"limit": 7}})
    assert limit is None and "not enforced: pids.limit" in said
    monkeypatch.setattr(without_cgroup, "uname", lambda: SimpleNamespace(release="6.1-arch"))
    assert hold(monkeypatch, {"pids": {"limit": 7}})[0] == 7


def test_no_higher_than_what_was_asked_or_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(without_cgroup, "getrlimit", lambda which: (5, 100))
    lower: Any = [{"type": "RLIMIT_NPROC", "soft": 3, "hard": 50}]
    assert without_cgroup.with_processes(lower, 10) == [{"type": "RLIMIT_NPROC", "soft": 3, "hard": 10}]
    assert without_cgroup.with_processes(None, 1000) == [{"type": "RLIMIT_NPROC", "soft": 100, "hard": 100}]
    monkeypatch.setattr(without_cgroup, "getrlimit", lambda which: (5, resource.RLIM_INFINITY))
    assert without_cgroup.with_processes([], 1000) == [{"type": "RLIMIT_NPROC", "soft": 1000, "hard": 1000}]
