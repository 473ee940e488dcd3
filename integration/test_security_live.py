# SPDX-License-Identifier: Apache-2.0
"""Attacks on what is done to a container that lives: mounts added, executions with a listener, a socket for sd_notify."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from support import machine
from support.agent import Agent
from support.bundles import MakeBundle
from support.runtimes import Runtime, parse_probe
from support.users import User
from test_security_processes import LOOK, log_of, with_tracing

# In the container: two names that change places all the time, one a directory, one a link to where nobody may go.
SWAP = (
    "mkdir -p /vol/dir; ln -s %s /vol/link; while :; do mv -T /vol/dir /vol/x && mv -T /vol/link /vol/dir; "
    "mv -T /vol/dir /vol/link && mv -T /vol/x /vol/dir; done"
)


def add(runtime: Runtime, id: str, work: Path, *wanted: object) -> bool:
    path = work / "mounts.json"
    path.write_text(json.dumps(list(wanted)))
    done = runtime("mounts", "add", id, str(path))
    assert done.code == 0 or done.error_line, str(done)
    return done.code == 0


def test_cve_2021_30465_a_destination_that_the_running_container_changes(
    runtime: Runtime, bundle: MakeBundle, work: Path, user: User
) -> None:
    """mounts add: what is made or mounted is in the container's root, whatever the names are at that moment."""
    host = work / "host"
    host.mkdir(mode=0o777)
    host.chmod(0o777)
    source = work / "source"
    source.mkdir()
    box = bundle("/bin/sh", "-c", SWAP % host).writable()
    (box.root / "vol").mkdir(mode=0o777)
    (box.root / "vol").chmod(0o777)
    id = runtime.start_detached(box)
    good = sum(
        add(
            runtime,
            id,
            work,
            {"destination": f"/vol/dir/new{i}", "type": "bind", "source": str(source), "options": ["bind"]},
        )
        for i in range(25)
    )
    assert good
    assert not list(host.iterdir())
    assert "/new" not in Path("/proc/self/mountinfo").read_text()
    runtime.stop(id)


@pytest.mark.parametrize("kind", ["bind", "proc"])
def test_cve_2016_9962_whoever_adds_a_mount_cannot_be_looked_into(
    kind: str, runtime: Runtime, bundle: MakeBundle, work: Path
) -> None:
    machine.need_root()
    source = work / "source"
    source.mkdir()
    box = bundle("/bin/sh", "-c", LOOK).writable()
    if runtime.user.rootless:
        with_tracing(box)
    id = runtime.start_detached(box)
    for i in range(15):
        wanted = {"destination": f"/mnt/{i}", "type": kind, "source": str(source) if kind == "bind" else "proc"}
        add(runtime, id, work, {**wanted, "options": ["bind"] if kind == "bind" else []})
    assert log_of(runtime, id) in ([], ["seen"])
    runtime.stop(id)


def test_cve_2024_21626_nothing_is_open_beside_stdio_whatever_was_asked_for(
    runtime: Runtime, bundle: MakeBundle, work: Path, user: User
) -> None:
    """A listener for seccomp, one for sd_notify, files for hooks, Landlock, a receiver of the pidfd: none stays open."""
    agent = Agent(work / "agent.sock", (user.uid, user.gid), ())
    receiver = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    receiver.bind(str(work / "receiver.sock"))
    (work / "receiver.sock").chmod(0o777)
    receiver.listen(8)
    logs = work / "logs"
    logs.mkdir()
    logs.chmod(0o777)
    try:
        for no_new_privileges in (True, False):
            box = bundle("/probe", "--wait")
            box.process["noNewPrivileges"] = no_new_privileges
            box.linux["seccomp"] = {
                "defaultAction": "SCMP_ACT_ALLOW",
                "listenerPath": str(work / "agent.sock"),
                "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}],
            }
            box.config["annotations"] = {
                "run.oci.hooks.stdout": str(logs / "out"),
                "run.oci.hooks.stderr": str(logs / "err"),
                "run.oci.pidfd_receiver": str(work / "receiver.sock"),
                "io.ctnr.landlock": json.dumps({"fs": {"/": ["read", "write", "execute"]}, "best_effort": True}),
            }
            hook = {"path": "/bin/true"}
            box.config["hooks"] = {"createContainer": [hook], "startContainer": [hook], "poststart": [hook]}
            id = runtime.create(box, env={"NOTIFY_SOCKET": str(work / "nobody")})
            runtime("start", id).ok()
            entered = parse_probe(runtime("exec", id, "/probe").ok().out)
            assert set(entered["fds"]) <= {"0", "1", "2"}, entered["fds"]
            of_first = os.listdir(f"/proc/{runtime.pid(id)}/fd")
            assert set(of_first) <= {"0", "1", "2"}, of_first
            runtime.stop(id)
    finally:
        agent.close()
        receiver.close()


def test_a_null_device_that_is_none_is_not_opened(root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    """exec with /dev/null as stdin puts the container's own in its place; here whoever opens that is noticed."""
    runtime = root_runtime  # for others /dev/null is a mount, and stays what it is
    script = (
        "rm /dev/null && mkfifo /dev/null && : >/dev/shm/ready && : >/dev/null; : >/dev/shm/opened; exec sleep 1000"
    )
    id = runtime.start_detached(bundle_of(root, "/bin/sh", "-c", script))
    inside = Path(f"/proc/{runtime.pid(id)}/root/dev/shm")
    assert machine.poll((inside / "ready").exists, 10)
    for _ in range(5):
        runtime.quiet("exec", id, "/bin/true").ok()
    assert not (inside / "opened").exists()
    runtime.stop(id)
