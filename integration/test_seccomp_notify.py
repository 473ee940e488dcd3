# SPDX-License-Identifier: Apache-2.0
"""SCMP_ACT_NOTIFY with listenerPath: what the listener is sent, when, by which process, and what the container sees of it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import machine, runtimes
from support.agent import Agent
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import MakeRuntime, Runtime
from support.users import User

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="not applicable: the numbers are x86_64's")

MKDIR, MKDIRAT = 83, 258
NO_MEDIUM = "No medium found"
# of which the init needs some between the filter and the program
IMPORTANT = ["execve", "openat", "open", "read", "close", "fcntl", "sendmsg", "recvmsg", "accept4", "chdir", "getcwd"]
IMPORTANT += [
    "prctl",
    "capset",
    "setresuid",
    "setresgid",
    "setgroups",
    "close_range",
    "statx",
    "mmap",
    "futex",
    "wait4",
]
MakeAgent = Callable[..., Agent]


@pytest.fixture
def agent(work: Path) -> Iterator[MakeAgent]:
    made: list[Agent] = []

    def make(user: User, refused: tuple[int, ...] = (MKDIR, MKDIRAT)) -> Agent:
        made.append(Agent(work / "agent.sock", (user.uid, user.gid), refused))
        return made[-1]

    yield make
    for one in made:
        one.close()


def profile(bundle: Bundle, work: Path, no_new_privileges: bool, names: list[str] | None = None, **more: Any) -> None:
    bundle.process["noNewPrivileges"] = no_new_privileges
    bundle.linux["seccomp"] = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "listenerPath": str(work / "agent.sock"),
        "listenerMetadata": "some metadata",
        "syscalls": [{"names": names or ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        **more,
    }


def shape(message: dict[str, Any]) -> dict[str, Any]:
    """What a message is but for numbers and versions."""
    state = {**message["state"], "ociVersion": "V", "pid": 0}
    return {**message, "ociVersion": "V", "pid": 0, "state": state}


both = pytest.mark.parametrize("no_new_privileges", [True, False])


@both
def test_run(runtime: Runtime, bundle: MakeBundle, agent: MakeAgent, work: Path, no_new_privileges: bool) -> None:
    answers = agent(runtime.user)
    made = bundle("sh", "-c", "mkdir /tmp/x; ls /proc/self/fd")
    made.writable()
    profile(made, work, no_new_privileges)
    result = runtime.run(made)
    assert NO_MEDIUM in result.err
    assert answers.counts == [1]
    # stdio, and the directory that ls reads
    assert result.out.split() == ["0", "1", "2", "3"]
    assert any(number in (MKDIR, MKDIRAT) for _, number in answers.seen)


@both
def test_the_message_is_that_of_runc(
    root: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle, agent: MakeAgent, work: Path, no_new_privileges: bool
) -> None:
    answers = agent(root)
    made = bundle_of(root, "sleep", "1000")
    made.config["annotations"] = {"one": "1"}
    profile(made, work, no_new_privileges)
    sent = []
    same = new_id()
    for path in (None, runtimes.peer("runc")):
        runtime = runtimes_of(root, path)
        id = runtime.create(made, id=same)
        # both tell the listener at create, whatever becomes of start
        assert machine.poll(lambda: len(answers.messages) == 2 * len(sent) + 1, 10)
        created = answers.messages[-1]
        assert created["pid"] == created["state"]["pid"] == runtime.pid(id)
        assert created["state"]["bundle"] == str(made.path)
        runtime("start", id).ok()
        runtime.exec(id, None, id, "true").ok()
        assert machine.poll(lambda: len(answers.messages) == 2 * len(sent) + 2, 10)
        joined = answers.messages[-1]
        assert joined["state"]["pid"] == runtime.pid(id) != joined["pid"]
        sent.append((shape(created), shape(joined)))
        runtime.stop(id)
    ours, runcs = sent
    assert (ours[0]["state"]["status"], ours[1]["state"]["status"]) == ("creating", "running")
    assert ours == runcs
    assert answers.counts == [1, 1, 1, 1]


@both
def test_exec(runtime: Runtime, bundle: MakeBundle, agent: MakeAgent, work: Path, no_new_privileges: bool) -> None:
    answers = agent(runtime.user)
    made = bundle("sleep", "1000")
    profile(made, work, no_new_privileges)
    id = runtime.start_detached(made)
    result = runtime.exec(id, {"args": ["/bin/mkdir", "/tmp/x"], "cwd": "/", "noNewPrivileges": no_new_privileges})
    assert NO_MEDIUM in result.err
    assert len(answers.messages) == 2
    runtime.stop(id)


@both
def test_whatever_the_init_needs_may_be_notified(
    runtime: Runtime, bundle: MakeBundle, agent: MakeAgent, work: Path, no_new_privileges: bool
) -> None:
    answers = agent(runtime.user)
    made = bundle("sh", "-c", "echo here; mkdir /tmp/x")
    made.process["user"] = {"uid": 0, "gid": 0}
    made.config["hooks"] = {"startContainer": [{"path": "/bin/true"}]}
    profile(made, work, no_new_privileges, [*IMPORTANT, "mkdir"])
    result = runtime.run(made)
    assert result.out == "here\n", str(result)
    assert NO_MEDIUM in result.err
    assert len(answers.seen) > 10


@both
def test_hooks_get_no_descriptor_of_it(
    runtime: Runtime, bundle: MakeBundle, agent: MakeAgent, work: Path, no_new_privileges: bool
) -> None:
    agent(runtime.user)
    made = bundle("true")
    made.writable()
    script = "ls /proc/self/fd | wc -l > /tmp/count; test $(cat /tmp/count) = 4"
    made.config["hooks"] = {"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    made.mount("/tmp", "tmpfs", "tmpfs")
    profile(made, work, no_new_privileges)
    runtime.run(made).ok()


@both
def test_nobody_listens(runtime: Runtime, bundle: MakeBundle, work: Path, no_new_privileges: bool) -> None:
    made = bundle("true")
    profile(made, work, no_new_privileges)
    result = runtime.run(made)
    assert result.code == 1
    assert "linux.seccomp.listenerPath: failed to connect with seccomp agent" in result.error_line
    assert runtime.ids() == []


def test_nobody_listens_and_nothing_is_notified(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    made = bundle("true")
    profile(made, work, True, syscalls=[])
    runtime.run(made).ok()


@both
def test_a_listener_that_goes_away(
    runtime: Runtime, bundle: MakeBundle, agent: MakeAgent, work: Path, no_new_privileges: bool
) -> None:
    answers = agent(runtime.user)
    made = bundle("sh", "-c", "while ! mkdir /tmp/x 2>&1 | grep 'not implemented'; do :; done")
    profile(made, work, no_new_privileges)
    id = runtime.create(made)
    runtime("start", id).ok()
    assert machine.poll(lambda: any(n == MKDIR for _, n in answers.seen), 10)
    answers.close()
    runtime.wait_status(id, "stopped")


def test_wait_killable(runtime: Runtime, bundle: MakeBundle, agent: MakeAgent, work: Path) -> None:
    answers = agent(runtime.user)
    made = bundle("mkdir", "/tmp/x")
    profile(made, work, False, flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", "SECCOMP_FILTER_FLAG_TSYNC"])
    assert NO_MEDIUM in runtime.run(made).err
    assert answers.counts == [1]


def test_crun_s_annotation(runtime: Runtime, bundle: MakeBundle, agent: MakeAgent, work: Path) -> None:
    answers = agent(runtime.user)
    made = bundle("mkdir", "/tmp/x")
    profile(made, work, True)
    del made.linux["seccomp"]["listenerPath"], made.linux["seccomp"]["listenerMetadata"]
    made.config["annotations"] = {"run.oci.seccomp.receiver": str(work / "agent.sock")}
    assert NO_MEDIUM in runtime.run(made).err
    assert "metadata" not in answers.messages[0]
    made.config["annotations"] = {"run.oci.seccomp.receiver": "agent.sock"}
    assert "must be an absolute path" in runtime.run(made).error_line
    made.config["annotations"] |= {"run.oci.seccomp.plugins": "/lib/plugin.so"}
    assert "run.oci.seccomp.plugins" in runtime.run(made).error_line


def test_refusals_name_the_field(runtime: Runtime, bundle: MakeBundle, work: Path) -> None:
    made = bundle("true")
    profile(made, work, True)
    made.linux["seccomp"]["listenerPath"] = ""
    del made.linux["seccomp"]["listenerMetadata"]
    assert "linux.seccomp.syscalls[0].action" in runtime.run(made).error_line
    profile(made, work, True, ["write"])
    assert "SCMP_ACT_NOTIFY cannot be used for the write syscall" in runtime.run(made).error_line
    profile(made, work, True, defaultAction="SCMP_ACT_NOTIFY")
    assert "SCMP_ACT_NOTIFY cannot be used as default action" in runtime.run(made).error_line
    profile(made, work, True, syscalls=[], flags=["SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"])
    assert "linux.seccomp.flags[0]" in runtime.run(made).error_line


def test_unknown_calls_are_an_error_where_crun_s_annotation_wants_it(runtime: Runtime, bundle: MakeBundle) -> None:
    made = bundle("true")
    rules = [{"names": ["no_such_call"], "action": "SCMP_ACT_ERRNO"}]
    made.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
    runtime.run(made).ok()
    made.config["annotations"] = {"run.oci.seccomp_fail_unknown_syscall": "1"}
    assert "'no_such_call'" in runtime.run(made).error_line


def test_a_message_that_does_not_fit(
    root_runtime: Runtime, bundle_of: MakeBundle, agent: MakeAgent, work: Path
) -> None:
    agent(root_runtime.user)
    made = bundle_of(root_runtime.user, "true")
    made.config["annotations"] = {"long": "x" * 900_000}
    profile(made, work, False)
    result = root_runtime.run(made)
    assert result.code == 1
    assert "annotations: are too long" in result.error_line
    assert root_runtime.ids() == []
