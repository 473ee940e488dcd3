# SPDX-License-Identifier: Apache-2.0
"""containerd's shim drives ctnr-oci as it drives runc: `ctr`'s verbs, through to the kernel."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import leaks, machine, runtimes, users, views
from support.bundles import new_id
from support.containerd import IMAGE, Containerd
from support.runtimes import finished, read_line
from support.terminals import Behind


@pytest.fixture(scope="module", params=(views.HOST, views.V1))
def containerd(request: pytest.FixtureRequest, _session: None) -> Iterator[Containerd]:
    """One daemon for all tests of a view; made before they look at what is left behind."""
    if request.param not in views.available():
        pytest.skip(f"not applicable: this host has no {request.param} view of its cgroups")
    found = Containerd(machine.scratch(), request.param)
    yield found
    found.close()
    shutil.rmtree(found.work)


@pytest.fixture
def box(containerd: Containerd) -> Iterator[str]:
    """The id of a container that sleeps, removed at the end."""
    id = new_id()
    containerd.detached(id, "sleep", "12345")
    yield id
    containerd("task", "kill", "--signal", "KILL", id)
    wait_for(containerd, id, "STOPPED")
    containerd("task", "delete", id)
    containerd("container", "delete", id).ok()


def wait_for(containerd: Containerd, id: str, *wanted: str) -> None:
    assert machine.poll(lambda: containerd.status(id) in wanted, 15.0, every=0.05), containerd.status(id)


def first_pid(containerd: Containerd, id: str) -> int:
    return int(containerd("task", "ps", id).ok().out.splitlines()[1].split()[0])


def test_run(containerd: Containerd) -> None:
    done = containerd.run("--rm", IMAGE, new_id(), "sh", "-c", "echo out; echo err >&2; id -u; exit 7")
    assert (done.code, done.out, done.err) == (7, "out\n0\n", "err\n")
    assert containerd("task", "list", "--quiet").ok().out == ""


def test_what_cannot_be_executed_is_one_clear_error(containerd: Containerd) -> None:
    """The shim takes the last error of our log."""
    id = new_id()
    done = containerd.run("--rm", IMAGE, id, "/nowhere")
    assert done.code != 0
    assert "OCI runtime create failed" in done.err, str(done)
    assert "no such file or directory" in done.err or "executable file not found" in done.err, str(done)
    containerd("container", "delete", id)


def test_exec(containerd: Containerd, box: str) -> None:
    done = containerd("task", "exec", "--exec-id", "one", box, "sh", "-c", "ps; exit 3")
    assert done.code == 3
    assert "sleep 12345" in done.out
    done = containerd("task", "exec", "--exec-id", "two", box, "/nowhere")
    assert done.code != 0
    assert "no such file or directory" in done.err or "executable file not found" in done.err, str(done)
    assert containerd.status(box) == "RUNNING"


def test_a_terminal(containerd: Containerd, box: str) -> None:
    id = new_id()
    for words in (
        containerd.run_words("--rm", "--tty", IMAGE, id, "sh"),
        ["task", "exec", "--tty", "--exec-id", "tty", box, "sh"],
    ):
        shell = Behind(containerd.argv(*words), users.me(), view=containerd.view, rows=30, cols=90)
        try:
            # ctr tells the size when the program runs already
            shell.send("tty; until [ \"$(stty size)\" = '30 90' ]; do :; done; echo si''zed\n")
            shell.expect("/dev/pts/")
            shell.expect("sized")
            shell.resize(41, 120)
            shell.send("until [ \"$(stty size)\" = '41 120' ]; do :; done; echo re''sized\n")
            shell.expect("resized")
            shell.send("exit 5\n")
            assert shell.wait() == 5
        finally:
            shell.close()


def test_pause_and_resume(containerd: Containerd, box: str) -> None:
    containerd("task", "pause", box).ok()
    assert containerd.status(box) == "PAUSED"
    done = containerd("task", "exec", "--exec-id", "no", box, "true")
    assert done.code != 0 and "paused" in done.err, str(done)
    containerd("task", "resume", box).ok()
    assert containerd.status(box) == "RUNNING"
    containerd("task", "exec", "--exec-id", "yes", box, "true").ok()


def test_kill_tells_the_code(containerd: Containerd) -> None:
    id = new_id()
    containerd.detached(id, "sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done")
    try:
        # until the shell has set its trap
        machine.poll(lambda: "sleep" in containerd("task", "exec", "--exec-id", new_id(), id, "ps").out, 10.0)
        containerd("task", "kill", "--signal", "TERM", id).ok()
        wait_for(containerd, id, "STOPPED")
        assert "exit code 9" in containerd("task", "delete", id).err
        assert containerd("task", "kill", id).code != 0
    finally:
        containerd("container", "delete", id).ok()


def test_ps_and_metrics(containerd: Containerd, box: str) -> None:
    """The shim reads the cgroup that the state's pid is in."""
    pids = containerd("task", "ps", box).ok().out.splitlines()
    assert len(pids) == 2, pids
    said = containerd("task", "metrics", box).ok().out
    assert "memory" in said and "pids" in said, said


def test_limits(containerd: Containerd) -> None:
    mode = views.mode_of(containerd.view)
    if mode == "v2":
        pytest.skip("not applicable: ctr's own way of asking differs there")
    id = new_id()
    containerd.detached(id, "sleep", "100", flags=("--memory-limit", str(64 << 20)))
    try:
        lines = Path(f"/proc/{first_pid(containerd, id)}/cgroup").read_text().splitlines()
        cgroup = next(line.split(":")[2] for line in lines if "memory" in line.split(":")[1].split(","))
        where = next(point for names, point in machine.cgroup_mounts().items() if "memory" in names.split(","))
        assert Path(f"{where}{cgroup}/memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
    finally:
        containerd("task", "kill", "--signal", "KILL", id).ok()
        wait_for(containerd, id, "STOPPED")
        containerd("task", "delete", id)
        containerd("container", "delete", id).ok()


def test_events(containerd: Containerd) -> None:
    """What the shim tells of a container's life, an oom-free one."""
    watcher = runtimes.popen(containerd.argv("events"), users.me(), stdout=subprocess.PIPE)
    try:
        id = new_id()
        seen: list[str] = []
        # the watcher is there when it tells of what we do
        machine.poll(lambda: containerd("namespace", "label", containerd.namespace, f"a={new_id()}").code == 0, 1.0)
        containerd.run("--rm", IMAGE, id, "true").ok()
        while "/tasks/delete" not in " ".join(seen):
            seen.append(read_line(watcher))
        said = " ".join(line for line in seen if id in line)
        for topic in ("/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"):
            assert topic in said, seen
    finally:
        watcher.kill()
        finished(watcher)
        if watcher.stdout:
            watcher.stdout.close()


def test_a_killed_shim_leaves_nothing(containerd: Containerd) -> None:
    """containerd then calls `delete --force` itself."""
    id = new_id()
    containerd.detached(id, "sleep", "12345")
    pid = first_pid(containerd, id)
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert "shim" in Path(f"/proc/{shim}/cmdline").read_text()
    os.kill(shim, signal.SIGKILL)
    wait_for(containerd, id, "GONE", "STOPPED")

    def gone() -> bool:
        leaks.reap()  # with the shim gone its children are ours
        return not os.path.exists(f"/proc/{pid}")

    assert machine.poll(gone, 10.0)
    containerd("task", "delete", id)
    containerd("container", "delete", id).ok()
