# SPDX-License-Identifier: Apache-2.0
"""pause and resume: by the freezer in each view of the cgroup tree, and by signals where there is no cgroup."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support import machine, views
from support.bundles import Bundle, MakeBundle
from support.runtimes import MakeRuntime, Runtime
from support.users import User

COUNTER = "/dev/shm/n"
# two processes at work, one of them with a child at each turn
COUNT = f"while :; do i=$((i+1)); echo $i >{COUNTER}; done & while :; do cat {COUNTER} >/dev/null; done"


def counting(bundle_of: MakeBundle, user: User) -> Bundle:
    return bundle_of(user, "sh", "-c", COUNT)


class Counter:
    """What the container counts, read through its first process's root."""

    def __init__(self, pid: int) -> None:
        self.path = Path(f"/proc/{pid}/root{COUNTER}")

    def read(self) -> str:
        try:
            return self.path.read_text()
        except FileNotFoundError:
            return ""

    def goes_on(self) -> bool:
        before = self.read()
        return machine.poll(lambda: self.read() not in ("", before), 10)

    def stands(self) -> bool:
        before = self.read()
        return not machine.poll(lambda: self.read() != before, 0.3)


def check(runtime: Runtime, bundle: Bundle) -> None:
    id = runtime.start_detached(bundle)
    counter = Counter(runtime.pid(id))
    assert counter.goes_on()
    assert runtime("resume", id).error_line.count("container not paused") == 1
    runtime("pause", id).ok()
    assert runtime.status(id) == "paused"
    assert counter.stands()
    assert "container not running" in runtime("pause", id).error_line
    assert "cannot exec in a paused container" in runtime("exec", id, "true").error_line
    refused = runtime("delete", id)
    assert refused.code == 1 and "not stopped: paused" in refused.error_line
    runtime("resume", id).ok()
    assert runtime.status(id) == "running"
    assert counter.goes_on()
    # a paused one can be killed, and is gone then
    runtime("pause", id).ok()
    runtime("kill", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    runtime("delete", id).ok()
    # and removed
    id = runtime.start_detached(bundle)
    runtime("pause", id).ok()
    runtime("delete", "--force", id).ok()
    assert runtime.ids() == []


def test_pause_and_resume(view: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    check(runtimes_of(root, view=view), counting(bundle_of, root))


def test_a_created_container(view: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(root, view=view)
    id = runtime.create(counting(bundle_of, root))
    runtime("pause", id).ok()
    assert runtime.status(id) == "paused"
    assert "cannot start a container in the paused state" in runtime("start", id).error_line
    runtime("resume", id).ok()
    assert runtime.status(id) == "created"
    runtime("start", id).ok()
    assert Counter(runtime.pid(id)).goes_on()
    runtime("delete", "--force", id).ok()


def test_a_stopped_container(root_runtime: Runtime, root: User, bundle_of: MakeBundle) -> None:
    id = root_runtime.start_detached(bundle_of(root, "true"))
    root_runtime.wait_status(id, "stopped")
    for verb, words in (("pause", "container not running"), ("resume", "container not paused")):
        refused = root_runtime(verb, id)
        assert refused.code == 1 and words in refused.error_line
    assert "does not exist" in root_runtime("pause", "nope").error_line
    root_runtime("delete", id).ok()


def test_by_signals_without_a_cgroup(user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    """Everybody's last resort, ordinary users' usual one: the pause is told by a warning."""
    runtime = runtimes_of(user, view=views.HOST, flags=("--cgroup-manager", "disabled"))
    bundle = counting(bundle_of, user)
    id = runtime.start_detached(bundle)
    pid = runtime.pid(id)
    counter = Counter(pid)
    assert counter.goes_on()
    said = runtime("pause", id).ok().err
    assert "stopped by SIGSTOP" in said and said.count("\n") == 1
    assert runtime.status(id) == "paused"
    assert counter.stands()
    assert "cannot exec in a paused container" in runtime("exec", id, "true").error_line
    # one that joined by exec, and its child, have their parents elsewhere
    runtime("resume", id).ok()
    assert runtime.status(id) == "running"
    assert counter.goes_on()
    runtime.quiet("exec", "--detach", id, "sh", "-c", "while :; do sleep 0.01; done").ok()
    runtime("pause", id).ok()
    pids = runtime("ps", "--format", "json", id).ok().json()
    assert len(pids) >= 3  # beside those, whoever is between two children
    assert {stat_letter(one) for one in pids} <= {"T", "Z"}
    # whoever continues it behind our back: the state is what the kernel says
    os.kill(pid, 18)
    assert machine.poll(lambda: runtime.status(id) == "running", 5)
    runtime("pause", id).ok()
    runtime("kill", id, "KILL").ok()
    runtime.wait_status(id, "stopped")
    runtime("delete", id).ok()


def stat_letter(pid: int) -> str:
    text = Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2]


def test_without_cgroup_and_pid_namespace(root: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(root, flags=("--cgroup-manager", "disabled"))
    bundle = counting(bundle_of, root)
    bundle.without_namespace("pid")
    bundle.process["args"] = ["/probe", "--wait"]
    id = runtime.start_detached(bundle)
    assert "cannot toggle freezer: cgroups not configured for container" in runtime("pause", id).error_line
    assert runtime.status(id) == "running"
    assert runtime("ps", "--format", "json", id).ok().json() == [runtime.pid(id)]
    runtime.stop(id)


@pytest.mark.parametrize("peer", ["runc", "crun"])
def test_the_words_are_the_peers(peer: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    """What a caller sees of `state` while a container is paused."""
    from support import runtimes

    view = views.V1 if views.V1 in views.available() else views.HOST
    found = []
    for path in (None, runtimes.peer(peer)):
        runtime = runtimes_of(root, path, view=view)
        bundle = counting(bundle_of, root)
        bundle.config["ociVersion"] = "1.0.2"
        id = runtime.start_detached(bundle)
        seen = [runtime.status(id)]
        for verb in ("pause", "resume"):
            runtime(verb, id).ok()
            seen.append(runtime.status(id))
        found.append(seen)
        runtime("delete", "--force", id).ok()
    assert found[0] == found[1] == ["running", "paused", "running"]
