# SPDX-License-Identifier: Apache-2.0
"""events: runc's documents, OOM kills as they happen, the end with the container; from the command and from the library."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import machine, runtimes, views
from support.bundles import Bundle, MakeBundle
from support.cgroup_view import Group
from support.runtimes import MakeRuntime, Runtime
from support.users import User

import ctnr

LIMIT = 32 << 20
# reads a line without an end into memory
HOG = ["sh", "-c", "tail /dev/zero"]


def limited(bundle_of: MakeBundle, user: User, runtime: Runtime, *args: str) -> Bundle:
    """With a memory limit where the view has one to give."""
    bundle = bundle_of(user, *(args or ("/probe", "--wait")))
    id = runtime.start_detached(bundle)
    group = Group(runtime, id)
    runtime.stop(id)
    if not group.has("memory"):
        pytest.skip(f"not applicable: no memory controller in the {runtime.view} view")
    memory = {"limit": LIMIT}
    if group.exists("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"):
        memory["swap"] = LIMIT
    bundle.linux.setdefault("resources", {})["memory"] = memory
    return bundle


def test_stats_once(view: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(root, view=view)
    id = runtime.start_detached(bundle_of(root, "/probe", "--wait"))
    group = Group(runtime, id)
    event = runtime("events", "--stats", id).ok().json()
    assert (event["type"], event["id"]) == ("stats", id)
    data = event["data"]
    assert list(data) == "cpu cpuset memory pids blkio hugetlb intel_rdt network_interfaces".split()
    assert data["pids"]["current"] == 1
    assert (data["cpu"]["usage"]["total"] > 0) is True
    assert data["intel_rdt"] == {} and data["network_interfaces"] is None
    if group.has("memory"):
        assert data["memory"]["usage"]["usage"] > 0 and data["memory"]["raw"]
    if "" in group.paths and os.path.exists("/proc/pressure"):
        assert set(data["cpu"]["psi"]) <= {"some", "full"}
        assert "psi" in data["memory"]
    runtime.stop(id)


def shape(value: Any, skip: tuple[str, ...], path: str = "") -> set[str]:
    """The names of a document, with the kinds of their values."""
    if not isinstance(value, dict):
        return {f"{path} {type(value).__name__}"}
    return {path}.union(*(shape(inner, skip, f"{path}.{name}") for name, inner in value.items() if name not in skip))


def test_the_shape_is_runcs(runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    seen = []
    view = views.V1 if views.V1 in views.available() else views.HOST
    for path in (None, runtimes.peer("runc")):
        runtime = runtimes_of(root, path, view=view)
        bundle = bundle_of(root, "/probe", "--wait")
        bundle.config["ociVersion"] = "1.0.2"
        id = runtime.start_detached(bundle)
        # where the time goes, and what an old runc shows although it is nothing, are not the shape
        skip = ("id", "throttling", "blkio", "psi", "kernel", "kernelTCP", "cache", "hugetlb")
        seen.append(shape(runtime("events", "--stats", id).ok().json(), skip))
        runtime("delete", "--force", id).ok()
    assert seen[0] ^ seen[1] == set()


def test_an_oom_is_told(view: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(root, view=view)
    bundle = limited(bundle_of, root, runtime)
    id = runtime.start_detached(bundle)
    events = runtime.popen("events", "--interval", "50ms", id, stdout=subprocess.PIPE)
    first = json.loads(runtimes.read_line(events))
    assert first["type"] == "stats" and first["data"]["memory"]["usage"]["limit"] == LIMIT
    assert runtime("exec", id, *HOG).code != 0
    for _ in range(200):
        event = json.loads(runtimes.read_line(events))
        if event["type"] == "oom":
            break
    assert event == {"type": "oom", "id": id}
    # the container lives: its end ends the stream
    assert runtime.status(id) == "running"
    runtime("delete", "--force", id).ok()
    while line := runtimes.read_line(events):
        assert json.loads(line)["type"] == "stats"
    finish(events)
    assert events.returncode == 0


def test_a_container_that_dies_of_it(view: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    """The OOM is told before the end, and the state is what any killed container's is."""
    runtime = runtimes_of(root, view=view)
    bundle = limited(bundle_of, root, runtime, *HOG)
    id = runtime.create(bundle)
    events = runtime.popen("events", "--interval", "1h", id, stdout=subprocess.PIPE)
    assert machine.poll(lambda: watching(events.pid), 10)
    runtime("start", id).ok()
    assert runtimes.read_line(events) == json.dumps({"type": "oom", "id": id}, separators=(",", ":"))
    assert runtimes.read_line(events) == ""
    finish(events)
    runtime.wait_status(id, "stopped")
    assert runtime.state(id)["pid"] == 0
    runtime("delete", id).ok()


def test_a_limit_too_low_to_start_in(view: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(root, view=view)
    bundle = limited(bundle_of, root, runtime)
    bundle.linux["resources"]["memory"] = dict.fromkeys(bundle.linux["resources"]["memory"], 40960)
    done = runtime.run(bundle)
    assert done.code == 1 and "container init was OOM-killed (memory limit too low?)" in done.error_line
    assert runtime.ids() == []


def finish(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    runtimes.finished(process)


def watching(pid: int) -> bool:
    """Whether the command, or what a view has wrapped around it, has its epoll."""
    try:
        return any(
            os.readlink(f"/proc/{pid}/fd/{fd}") == "anon_inode:[eventpoll]" for fd in os.listdir(f"/proc/{pid}/fd")
        )
    except OSError:
        return False


def test_who_cannot_be_watched(
    root_runtime: Runtime, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle
) -> None:
    id = root_runtime.start_detached(bundle_of(root, "true"))
    root_runtime.wait_status(id, "stopped")
    for words in ((), ("--stats",)):
        assert f"container with id {id} is not running" in root_runtime("events", *words, id).error_line
    root_runtime("delete", id).ok()
    assert "--interval is a time above 0" in root_runtime("events", "--interval", "0", id).error_line
    plain = runtimes_of(root, flags=("--cgroup-manager", "disabled"))
    id = plain.start_detached(bundle_of(root, "/probe", "--wait"))
    assert "the container has no cgroup" in plain("events", "--stats", id).error_line
    plain.stop(id)


# --- the library


@pytest.fixture(autouse=True, scope="module")
def _warm(_session: None) -> None:
    """What a process keeps open once it has started a container (the init's image) is no leak."""
    if os.getuid() == 0:
        path = machine.scratch() / "warm-events"
        ctnr.run("host:", ["true"], root=str(path))
        path.rmdir()


@pytest.fixture
def container(work: Path, busybox_root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctnr.Container]:
    machine.need_root()
    state = work / "state"
    state.mkdir(mode=0o700)
    monkeypatch.setenv("CTNR_STORE", str(work / "store"))
    options = ctnr.Options(["sleep", "1000"], name="watched")
    container = ctnr.create(str(busybox_root), options, root=str(state))
    container.start()
    yield container
    container.delete(force=True)


def test_iterating(container: ctnr.Container) -> None:
    with container.events(0.01) as events:
        assert [next(events)["type"] for _ in range(3)] == ["stats"] * 3
        container.kill(signal.SIGKILL)
        assert {event["type"] for event in events} <= {"stats"}
    assert list(events) == []
    with pytest.raises(ctnr.StateError, match="is not running"):
        container.events()


def test_asyncio(container: ctnr.Container) -> None:
    async def watch() -> list[str]:
        found = []
        async for event in container.events(0.01):
            found.append(event["type"])
            if len(found) == 3:
                container.kill(signal.SIGKILL)
        return found

    async def both() -> list[str]:
        return await asyncio.wait_for(watch(), 20)

    assert asyncio.run(both())[:3] == ["stats"] * 3


def test_pressure(container: ctnr.Container) -> None:
    group = container.cgroup
    assert group is not None
    if "" not in group.paths or not os.path.exists(group.paths[""] + "/cpu.pressure"):
        pytest.skip("not applicable: no cgroup2 with pressure")
    with container.events(None, {"cpu": "some 1000 2000000"}) as events:
        # two that want one CPU: time is lost within any window (2 s is what everybody may ask for)
        mask = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(mask)})
        process = {
            "args": ["sh", "-c", "while :; do :; done"],
            "cwd": "/",
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        }
        try:
            busy = [container.exec(process) for _ in range(2)]  # type: ignore[arg-type]
        finally:
            os.sched_setaffinity(0, mask)
        assert next(events) == {"type": "pressure", "id": container.id, "data": {"resource": "cpu"}}
        for one in busy:
            one.kill(signal.SIGKILL)
            one.wait()
            one.close()
    for pressure, words in (({"x": "some 1 1"}, "'x' is not one of"), ({"cpu": "nonsense"}, "invalid argument")):
        with pytest.raises(ctnr.CtnrError, match=words):
            container.events(None, pressure)


def test_stats_and_update(container: ctnr.Container) -> None:
    assert container.stats()["pids"]["current"] == 1
    container.pause()
    assert container.status() == "paused"
    container.resume()
    group = container.cgroup
    assert group is not None
    if "pids" not in group.paths:
        pytest.skip("not applicable: no pids controller")
    container.update({"pids": {"limit": 55}})
    assert container.stats()["pids"]["limit"] == 55
    assert container.config["linux"]["resources"]["pids"] == {"limit": 55}
