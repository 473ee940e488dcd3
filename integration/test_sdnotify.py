# SPDX-License-Identifier: Apache-2.0
"""sd_notify(3) out of containers: who is told what, when, and who waits for it."""

from __future__ import annotations

import os
import select
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from support import machine
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import Runtime, finished
from support.users import User


class Manager:
    """A service manager's socket; closed at the end of the test."""

    made: ClassVar[list[Manager]] = []

    def __init__(self, directory: Path) -> None:
        self.made.append(self)
        self.path = directory / f"{new_id()}.sock"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.path.chmod(0o777)

    def receive(self, seconds: float = 15) -> list[str]:
        """The lines of the next message; the fds that came with it are closed, as systemd does."""
        assert select.select([self.socket], [], [], seconds)[0], "nothing was said"
        data, fds, _, _ = socket.recv_fds(self.socket, 4096, 4)
        for fd in fds:
            os.close(fd)
        return data.decode().splitlines()

    def silent(self) -> bool:
        return not select.select([self.socket], [], [], 0)[0]

    def env(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path)}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    while Manager.made:
        Manager.made.pop().socket.close()


def service(box: Bundle) -> Bundle:
    """Says other things first, then that it is ready."""
    said = "STATUS=starting\nMAINPID=1", "RELOADING=1", "X_READY=1", "READY=1\nSTATUS=up"
    box.process["args"] = ["/probe", "--notify", *said, "--wait"]
    return box


@pytest.mark.parametrize("how", ["start", "run"])
def test_who_starts_it_waits_until_it_is_ready(how: str, runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    box = service(bundle())
    manager = Manager(box.path)
    pid_file = box.path / "pid"
    id = new_id()
    verb = "create" if how == "start" else "run --detach"
    box.save()
    flags = ("--bundle", str(box.path), "--pid-file", str(pid_file), id)
    process = runtime.popen(
        *verb.split(), *flags, env=manager.env(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    if how == "start":
        finished(process)
        assert manager.silent()
        process = runtime.popen("start", id, env=manager.env())
    assert sorted(manager.receive()) == [f"MAINPID={runtime.pid(id)}", "READY=1"]
    assert manager.receive() == ["BARRIER=1"]
    finished(process)
    assert process.returncode == 0
    assert runtime.status(id) == "running"
    assert (runtime("exec", id, "/bin/sh", "-c", "echo [$NOTIFY_SOCKET]").ok().out) == "[]\n"
    runtime.stop(id)
    assert manager.silent()


def test_one_that_ends_before_it_is_ready(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true")
    manager = Manager(box.path)
    id = runtime.create(box, env=manager.env())
    runtime("start", id, env=manager.env(), timeout=20).ok()
    assert manager.silent()
    runtime("delete", id).ok()


def test_in_the_foreground_it_is_us_who_are_followed(runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    box = service(bundle()).save()
    manager = Manager(box.path)
    id = new_id()
    process = runtime.popen("run", "--bundle", str(box.path), id, env=manager.env(), stdin=subprocess.DEVNULL)
    main_pid, ready = sorted(manager.receive())
    assert ready == "READY=1"
    assert b"ctnr-oci" in Path(f"/proc/{main_pid.removeprefix('MAINPID=')}/cmdline").read_bytes()
    assert manager.receive() == ["BARRIER=1"]
    runtime("kill", id, "KILL").ok()
    finished(process)
    assert process.returncode == 137
    assert runtime.ids() == []


def test_nobody_listens(runtime: Runtime, bundle: MakeBundle) -> None:
    """The container is not at fault: a warning."""
    box = service(bundle())
    env = {"NOTIFY_SOCKET": "/no/such/socket"}
    id = runtime.create(box, env=env)
    done = runtime("start", id, env=env).ok()
    assert "NOTIFY_SOCKET: tell /no/such/socket" in done.err
    assert runtime.status(id) == "running"
    runtime.stop(id)


def test_without_a_socket_at_create_there_is_none(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    manager = Manager(box.path)
    id = runtime.create(box)
    runtime("start", id, env=manager.env()).ok()
    assert manager.silent()
    runtime.stop(id)


def test_the_managers_own_socket_is_not_in_the_container(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/sh", "-c", "echo $NOTIFY_SOCKET; ls /run/notify; touch /run/notify/x 2>&1")
    manager = Manager(box.path)
    done = runtime.run(box, env=manager.env())
    assert done.out.splitlines()[:2] == ["/run/notify/notify", "notify"]  # the test's is below /dev
    assert "Read-only" in done.out
    assert machine.poll(manager.silent, 1)


def test_the_place_of_the_socket_is_the_managers(runtime: Runtime, bundle: MakeBundle) -> None:
    """As in crun: a directory of the name of the service manager's socket, with ours in it."""
    box = bundle("/bin/sh", "-c", "echo $NOTIFY_SOCKET; ls /tmp/managers/socket")
    done = runtime.run(box.writable(), env={"NOTIFY_SOCKET": "/tmp/managers/socket"}).ok()
    assert done.out.split() == ["/tmp/managers/socket/notify", "notify"]
