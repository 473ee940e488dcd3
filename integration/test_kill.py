# SPDX-License-Identifier: Apache-2.0
"""kill and delete beyond one process: --all, --regex, shared pid namespaces, starts that hang."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import machine
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import Runtime, finished
from support.users import User


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def family(box: Bundle) -> Bundle:
    """A first process that ends of TERM, and one in a session of its own that does not."""
    box.process["args"] = [
        "/bin/sh",
        "-c",
        "trap 'exit 0' TERM; setsid sh -c 'trap : TERM; while :; do sleep 1000; done' & while :; do wait; done",
    ]
    return box


def pids_of(runtime: Runtime, id: str, count: int) -> list[int]:
    found: list[int] = []

    def there() -> bool:
        found[:] = runtime("ps", "--format", "json", id).ok().json()
        return len(found) >= count

    assert machine.poll(there, 10), found
    return found


def test_all_reaches_every_process(root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    id = root_runtime.start_detached(family(bundle_of(root)))
    pids = pids_of(root_runtime, id, 3)
    root_runtime("kill", "--all", id, "KILL").ok()
    root_runtime.wait_status(id, "stopped")
    assert machine.poll(lambda: not any(map(alive, pids)), 10)
    # nothing is left that it could reach: that is what was wanted
    root_runtime("kill", "--all", id, "TERM").ok()
    refused = root_runtime("kill", id, "TERM")
    assert refused.code == 1 and "container not running" in refused.err
    root_runtime("delete", id).ok()


@pytest.mark.parametrize("share", ["host", "other"])
def test_kill_in_a_shared_pid_namespace_leaves_nobody(
    share: str, root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    """As runc: there the others do not end with the first process."""
    other = ""
    box = family(bundle_of(root))
    if share == "other":
        other = root_runtime.start_detached(bundle_of(root, "/probe", "--wait"))
        box.namespace("pid", f"/proc/{root_runtime.pid(other)}/ns/pid")
    else:
        box.without_namespace("pid")
    id = root_runtime.start_detached(box)
    pids = pids_of(root_runtime, id, 3)
    root_runtime("kill", id, "KILL").ok()
    assert machine.poll(lambda: not any(map(alive, pids)), 10), [p for p in pids if alive(p)]
    root_runtime.wait_status(id, "stopped")
    assert root_runtime("kill", id, "KILL").code == 1
    root_runtime("delete", id).ok()
    if other:
        assert root_runtime.status(other) == "running"
        root_runtime.stop(other)


def test_kill_finds_those_who_outlive_the_first_process(
    root_runtime: Runtime, bundle_of: MakeBundle, root: User
) -> None:
    box = family(bundle_of(root))
    box.without_namespace("pid")
    id = root_runtime.start_detached(box)
    pids = pids_of(root_runtime, id, 3)
    first = root_runtime.pid(id)
    root_runtime("kill", id, "TERM").ok()
    root_runtime.wait_status(id, "stopped")
    rest = [pid for pid in pids if pid != first and alive(pid)]
    assert rest
    root_runtime("kill", id, "KILL").ok()
    assert machine.poll(lambda: not any(map(alive, rest)), 10)
    root_runtime("delete", id).ok()


def test_all_without_a_cgroup(runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    if not user.rootless:
        runtime.flags = ("--cgroup-manager", "disabled")
    box = family(bundle())
    box.linux.pop("resources", None)
    id = runtime.start_detached(box)
    pids = pids_of(runtime, id, 3)
    runtime("kill", "-a", id, "9").ok()
    runtime.wait_status(id, "stopped")
    assert machine.poll(lambda: not any(map(alive, pids)), 10)
    runtime("delete", id).ok()


def test_regex_kills_and_deletes_what_it_matches(runtime: Runtime, bundle: MakeBundle) -> None:
    tag = new_id()
    ids = [runtime.create(bundle("/probe", "--wait"), id=f"{tag}-{word}") for word in ("a1", "a2", "b1")]
    runtime("kill", "--regex", f"^{tag}-a[[:digit:]]$", "KILL").ok()
    runtime.wait_status(ids[0], "stopped")
    runtime.wait_status(ids[1], "stopped")
    assert runtime.status(ids[2]) == "created"
    runtime("start", ids[2]).ok()
    # two can be, one cannot: all have their turn, and it is told
    mixed = runtime("delete", "-r", tag)
    assert mixed.code == 1 and ids[2] in mixed.err and "not stopped" in mixed.error_line
    assert runtime.ids() == [ids[2]]
    runtime("delete", "--force", "--regex", f"{tag}-.*").ok()
    assert runtime.ids() == []
    runtime("delete", "--regex", "no-such-container").ok()
    refused = runtime("delete", "--regex", "(")
    assert refused.code == 1 and "invalid regular expression" in refused.error_line


@pytest.mark.parametrize("kind", ["startContainer", "poststart"])
def test_force_does_not_wait_for_a_start_that_hangs(kind: str, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait").writable()
    pipes = box.path / "pipes"
    pipes.mkdir()
    for name in ("here", "end"):
        os.mkfifo(pipes / name)
        (pipes / name).chmod(0o666)
    box.mount(str(pipes), "bind", str(pipes), "bind")
    script = f"echo here >{pipes}/here; cat {pipes}/end"
    box.config["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    id = runtime.create(box)
    start = runtime.popen("start", id, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert (pipes / "here").read_text() == "here\n"
        runtime("delete", "--force", id, timeout=20).ok()
        assert runtime.ids() == []
        if kind == "poststart":  # a hook of the runtime's goes on, and start waits for it
            (pipes / "end").write_text("")
    finally:
        finished(start)


def test_a_start_hook_that_fails_undoes_the_container(root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    """runtime.md#lifecycle, 7 and 9: an error, stop, and then on with its destruction and poststop."""
    for kind in ("startContainer", "poststart"):
        box = bundle_of(root, "/probe", "--wait")
        mark = box.path / "poststop"
        box.config["hooks"] = {
            kind: [{"path": "/bin/false"}],
            "poststop": [{"path": "/bin/sh", "args": ["sh", "-c", f"cat >{mark}"]}],
        }
        id = root_runtime.create(box)
        refused = root_runtime("start", id)
        assert refused.code == 1 and f"error running {kind} hook" in refused.error_line
        assert root_runtime.ids() == []
        assert '"status":"stopped"' in mark.read_text()
        assert "does not exist" in root_runtime("state", id).err


def test_signals_by_name(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/sh", "-c", "trap 'echo usr1 >/said' USR1; echo >/ready; while :; do sleep 0.1; done").writable()
    id = runtime.start_detached(box)
    assert machine.poll((box.root / "ready").exists, 10)
    runtime("kill", id, "0").ok()
    runtime("kill", id, "sigusr1").ok()
    assert machine.poll((box.root / "said").exists, 10)
    for wrong in ("NOPE", "-1", "65", "SIG", "9x"):
        refused = runtime("kill", "--", id, wrong)
        assert refused.code == 1 and "unknown signal" in refused.error_line and wrong in refused.error_line
    runtime.stop(id)
