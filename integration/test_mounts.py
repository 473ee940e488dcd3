# SPDX-License-Identifier: Apache-2.0
"""`mounts add` and `mounts remove`: mounts of a container that runs, seen from within it and by nobody else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.bundles import Bundle, MakeBundle
from support.kernel import Json, mount_at, mounts
from support.mount_cases import source_dir
from support.runtimes import Result, Runtime, parse_probe
from support.users import User


@pytest.fixture
def change(work: Path, runtime: Runtime) -> Callable[..., Result]:
    """`mounts VERB ID` with these mounts."""

    def call(verb: str, id: str, *wanted: Any) -> Result:
        path = work / "mounts.json"
        path.write_text(json.dumps(list(wanted)))
        return runtime("mounts", verb, id, str(path))

    return call


@pytest.fixture
def box(runtime: Runtime, bundle: MakeBundle) -> Bundle:
    return bundle("/probe", "--wait").writable()


def inside(runtime: Runtime, id: str, *asks: str) -> Json:
    return parse_probe(runtime("exec", id, "/probe", *asks).ok().out)


def test_a_bind_mount_comes_and_goes(change: Callable[..., Result], runtime: Runtime, box: Bundle, user: User) -> None:
    id = runtime.start_detached(box)
    before = [m.point for m in mounts(inside(runtime, id))]
    wanted = {
        "destination": "/mnt/deep/er",
        "type": "bind",
        "source": str(source_dir(box)),
        "options": ["bind", "ro", "nosuid"],
    }
    change("add", id, wanted).ok()
    seen = inside(runtime, id, "read:/mnt/deep/er/file", "create:/mnt/deep/er/x")
    assert seen["asked"]["read:/mnt/deep/er/file"] == "from the host\n"
    assert seen["asked"]["create:/mnt/deep/er/x"] != 0
    point = mount_at(seen, "/mnt/deep/er")
    assert {"ro", "nosuid"} <= point.options and "shared" not in point.propagation
    assert "/mnt/deep/er" not in Path("/proc/self/mountinfo").read_text()
    change("remove", id, {"destination": "/mnt/deep/er"}).ok()
    assert [m.point for m in mounts(inside(runtime, id))] == before
    runtime.stop(id)


def test_every_kind_of_mount(change: Callable[..., Result], runtime: Runtime, box: Bundle, user: User) -> None:
    """One file, a tmpfs with a mount in it, what is below copied up, the container's own processes and network."""
    box.file("/work/kept", "kept\n")
    id = runtime.start_detached(box)
    source = source_dir(box)
    wanted = [
        {"destination": "/etc/one", "type": "bind", "source": str(source / "file"), "options": ["bind", "ro"]},
        {"destination": "/mnt", "type": "tmpfs", "source": "fresh", "options": ["noexec", "mode=711"]},
        {"destination": "/mnt/in/it", "type": "tmpfs", "source": "tmpfs"},
        {"destination": "/work", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]},
        {"destination": "/var/proc", "type": "proc", "source": "proc", "options": ["nosuid", "nodev", "noexec"]},
        {"destination": "/var/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]},
        {"destination": "/var/mq", "type": "mqueue", "source": "mqueue"},
    ]
    change("add", id, *wanted).ok()
    seen = inside(
        runtime, id, "read:/etc/one", "read:/work/kept", "list:/var/proc", "list:/var/sys/class/net", "list:/mnt"
    )
    asked = seen["asked"]
    assert (asked["read:/etc/one"], asked["read:/work/kept"]) == ("from the host\n", "kept\n")
    assert {name for name in asked["list:/var/proc"] if name.isdigit()} <= {str(n) for n in range(1, 40)}
    if box.has_namespace("network"):  # else sysfs is that of the host, whose network it has
        assert asked["list:/var/sys/class/net"] == ["lo"]
    assert asked["list:/mnt"] == ["in"]
    assert "noexec" in mount_at(seen, "/mnt").options and mount_at(seen, "/mnt").source == "fresh"
    assert mount_at(seen, "/var/mq").type == "mqueue"
    change("remove", id, *wanted).ok()
    points = [m.point for m in mounts(inside(runtime, id))]
    assert not {m["destination"] for m in wanted} & set(points)
    runtime.stop(id)


def test_a_container_that_is_created_or_paused(
    change: Callable[..., Result], runtime: Runtime, box: Bundle, user: User
) -> None:
    id = runtime.create(box)
    wanted = {"destination": "/mnt", "type": "bind", "source": str(source_dir(box)), "options": ["rbind"]}
    change("add", id, wanted).ok()
    runtime("start", id).ok()
    assert inside(runtime, id, "read:/mnt/file")["asked"] == {"read:/mnt/file": "from the host\n"}
    runtime("kill", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    assert "not running" in change("add", id, wanted).error_line
    runtime("delete", id).ok()


def test_it_stays_in_the_root(change: Callable[..., Result], runtime: Runtime, box: Bundle, user: User) -> None:
    """Whatever the container has made of its files meanwhile."""
    (box.root / "way").symlink_to("/../../../../mnt")
    (box.root / "etc/file-way").symlink_to("../../../../../tmp/made")
    id = runtime.start_detached(box)
    source = source_dir(box)
    change("add", id, {"destination": "/way/x", "type": "bind", "source": str(source), "options": ["bind"]}).ok()
    assert mount_at(inside(runtime, id), "/mnt/x").point == "/mnt/x"
    change("remove", id, {"destination": "/way/x"}).ok()
    # sysfs and proc where a symlink leads: CVE-2019-19921
    refused = change("add", id, {"destination": "/way/p", "type": "proc", "source": "proc"})
    assert refused.code != 0 and "mounts[0]" in refused.error_line
    runtime.stop(id)


@pytest.mark.parametrize(
    ("mount", "field"),
    [
        ({"destination": "/", "type": "tmpfs"}, "mounts[1].destination"),
        (
            {"destination": "/mnt/b", "type": "bind", "source": "/proc/self/no-such-file", "options": ["bind"]},
            "mounts[1]",
        ),
        ({"destination": "/mnt/b", "type": "cgroup", "source": "cgroup"}, "mounts[1].type"),
        ({"destination": "/mnt/b", "type": "nosuchfs", "source": "x"}, "mounts[1]"),
        ({"destination": "/mnt/b", "type": "tmpfs", "options": ["size=no"]}, "mounts[1]"),
        ({"destination": 7}, "mounts[1].destination"),
        (7, "mounts[1]"),
    ],
)
def test_all_or_none(
    mount: Any, field: str, change: Callable[..., Result], runtime: Runtime, box: Bundle, user: User
) -> None:
    id = runtime.start_detached(box)
    before = [m.point for m in mounts(inside(runtime, id))]
    done = change("add", id, {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}, mount)
    assert done.code == 1 and field in done.error_line
    assert [m.point for m in mounts(inside(runtime, id))] == before
    runtime.stop(id)


def test_what_is_no_mount_is_not_removed(
    change: Callable[..., Result], runtime: Runtime, box: Bundle, user: User
) -> None:
    id = runtime.start_detached(box)
    assert "mounts[0].destination" in change("remove", id, {"destination": "/etc"}).error_line
    assert "mounts[0].destination" in change("remove", id, {"destination": "/"}).error_line
    assert "mounts[0].destination" in change("remove", id, {"destination": "/etc/passwd"}).error_line
    runtime.stop(id)


def test_bad_words(runtime: Runtime, box: Bundle, work: Path) -> None:
    id = runtime.start_detached(box)
    (work / "m.json").write_text('{"mounts": []}')
    assert "mounts: must be" in runtime("mounts", "add", id, str(work / "m.json")).error_line
    (work / "m.json").write_text("[")
    assert "is not JSON" in runtime("mounts", "remove", id, str(work / "m.json")).error_line
    assert "mounts add or mounts remove" in runtime("mounts", "change", id, str(work / "m.json")).error_line
    assert "no such file" in runtime("mounts", "add", id, str(work / "none.json")).error_line
    runtime.stop(id)


def test_nothing_of_ours_is_left(change: Callable[..., Result], runtime: Runtime, box: Bundle, user: User) -> None:
    """Neither a process nor, in the container's mount namespace, the one that the mounts were made in."""
    id = runtime.start_detached(box)
    before = len(os.listdir("/proc/self/fd"))
    change("add", id, {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"}).ok()
    seen = inside(runtime, id, "list:/proc")
    assert len([name for name in seen["asked"]["list:/proc"] if name.isdigit()]) == 2  # the first and the probe
    assert len(os.listdir("/proc/self/fd")) == before
    runtime.stop(id)


def test_where_the_mount_api_is_refused_it_says_so(
    change: Callable[..., Result], runtime: Runtime, box: Bundle, user: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = runtime.start_detached(box)
    for call in ("open_tree", "mount_setattr"):
        monkeypatch.setenv("CTNR_TEST_REFUSE", f"EPERM:{call}")
        done = change("add", id, {"destination": "/mnt", "type": "tmpfs", "source": "tmpfs"})
        assert f"mounts add needs {call}" in done.error_line
    monkeypatch.delenv("CTNR_TEST_REFUSE")
    runtime.stop(id)
