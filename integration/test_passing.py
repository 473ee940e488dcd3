# SPDX-License-Identifier: Apache-2.0
"""What a start is handed beside its config: fds, sockets of LISTEN_FDS, receivers of pidfds, cgroups of an exec."""

from __future__ import annotations

import array
import os
import select
import socket
from pathlib import Path
from typing import Any

import pytest
from support import machine
from support.bundles import MakeBundle, new_id
from support.runtimes import Runtime
from support.users import User

# gives its own pid to LISTEN_PID, as conmon and systemd do, then becomes the runtime
AS_MANAGER = 'export LISTEN_PID=$$; exec "$@"'


class Receiver:
    """A stream socket that takes one message with one fd."""

    def __init__(self, directory: Path, user: User) -> None:
        self.path = directory / f"{new_id()}.sock"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind(str(self.path))
        self.path.chmod(0o777)
        self.socket.listen()
        self.socket.settimeout(15)

    def receive(self) -> tuple[bytes, int]:
        connection, _ = self.socket.accept()
        with connection:
            connection.settimeout(15)
            data, control, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
        ((_, _, raw),) = control
        fds = array.array("i")
        fds.frombytes(raw)
        self.socket.close()
        return data, fds[0]


def pid_of(pidfd: int) -> int:
    text = Path(f"/proc/self/fdinfo/{pidfd}").read_text()
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Pid:")))


def test_pidfd_socket(runtime: Runtime, bundle: MakeBundle, user: User, work: Path) -> None:
    box = bundle("/probe", "--wait")
    receiver = Receiver(box.path, user)
    id = runtime.create(box, "--pidfd-socket", str(receiver.path))
    name, pidfd = receiver.receive()
    assert name == b"standard" and pid_of(pidfd) == runtime.pid(id)
    runtime("start", id).ok()
    receiver = Receiver(box.path, user)
    pid_file = box.path / "exec.pid"
    flags = ("--detach", "--pid-file", str(pid_file), "--pidfd-socket", str(receiver.path))
    runtime.quiet("exec", *flags, id, "/probe", "--wait").ok()
    name, inner = receiver.receive()
    assert name == b"setns" and pid_of(inner) == int(pid_file.read_text())
    runtime.stop(id)
    for fd in (inner, pidfd):
        assert select.select([fd], [], [], 10)[0], "the process has ended"
        os.close(fd)


def test_pidfd_receiver_annotation(runtime: Runtime, bundle: MakeBundle, user: User) -> None:
    box = bundle("/probe", "--wait")
    receiver = Receiver(box.path, user)
    box.config["annotations"] = {"run.oci.pidfd_receiver": str(receiver.path)}
    id = runtime.start_detached(box)
    _, pidfd = receiver.receive()
    assert pid_of(pidfd) == runtime.pid(id)
    os.close(pidfd)
    runtime.stop(id)


@pytest.mark.parametrize("how", ["flag", "annotation"])
def test_nobody_takes_the_pidfd(how: str, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    flags: tuple[str, ...] = ()
    if how == "flag":
        flags = ("--pidfd-socket", "/no/such.sock")
    else:
        box.config["annotations"] = {"run.oci.pidfd_receiver": "/no/such.sock"}
    box.save()
    refused = runtime.quiet("create", *flags, "--bundle", str(box.path), new_id())
    assert refused.code == 1 and "/no/such.sock" in refused.error_line
    assert ("--pidfd-socket" if how == "flag" else "annotations.run.oci.pidfd_receiver") in refused.error_line
    assert runtime.ids() == []


def listening(runtime: Runtime, box: Any, *flags: str, manager: str = AS_MANAGER, env: dict[str, str]) -> Any:
    """`run` by a shell that opens 3, 4 and 5 and has the environment of a service manager."""
    from support.runtimes import call

    box.save()
    (box.path / "f").write_text("content")
    script = f'exec 3<"{box.path}/f" 4<"{box.path}/f" 5<"{box.path}/f"; {manager}'
    argv = ["/bin/sh", "-c", script, "sh", *runtime.argv("run", *flags, "--bundle", str(box.path), new_id())]
    return call(argv, runtime.user, env=env)


def test_listen_fds(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle(
        "/bin/sh", "-c", 'echo "$LISTEN_FDS $LISTEN_PID $LISTEN_FDNAMES"; ls /proc/self/fd; cat <&4'
    ).writable()
    box.process["env"] += ["LISTEN_FDS=7", "LISTEN_PID=8"]
    done = listening(runtime, box, env={"LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}).ok()
    assert done.out.split() == ["2", "1", "a:b", "0", "1", "2", "3", "4", "5", "content"], (
        "5 is ls reading the directory"
    )
    # with others beside them
    done = listening(runtime, box, "--preserve-fds", "1", env={"LISTEN_FDS": "2"}).ok()
    assert done.out.split() == ["2", "1", "0", "1", "2", "3", "4", "5", "6", "content"]


def test_listen_fds_of_somebody_else(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/sh", "-c", 'echo "[$LISTEN_FDS]"; ls /proc/self/fd')
    done = listening(runtime, box, env={"LISTEN_FDS": "2", "LISTEN_PID": "1"}, manager='exec "$@"').ok()
    assert done.out.split() == ["[]", "0", "1", "2", "3"]
    # left over in an environment: said, and no more
    done = runtime.run(box, env={"LISTEN_FDS": "3"}).ok()
    assert done.out.split() == ["[]", "0", "1", "2", "3"] and "LISTEN_FDS" in done.err
    # meant for us and not there
    done = listening(runtime, box, env={"LISTEN_FDS": "4"})
    assert done.code == 1 and "LISTEN_FDS: fd 6 is not open" in done.error_line
    assert runtime.ids() == []


def test_preserved_fds_that_are_not_there(runtime: Runtime, bundle: MakeBundle) -> None:
    """As crun: those that are there are passed, and it is said."""
    done = listening(runtime, bundle("/bin/sh", "-c", "ls /proc/self/fd"), "--preserve-fds", "4", env={}).ok()
    assert done.out.split() == ["0", "1", "2", "3", "4", "5", "6"] and "--preserve-fds" in done.err


@pytest.mark.parametrize("form", ["path", "controller"])
def test_exec_in_a_cgroup_below(form: str, root_runtime: Runtime, bundle_of: MakeBundle, root: User) -> None:
    id = root_runtime.start_detached(bundle_of(root, "/probe", "--wait"))
    pid = root_runtime.pid(id)
    own = {}
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own[names] = path
    mounted = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        kind, _, options = right.split(" ", 2)
        root_path, point = left.split()[3:5]
        if kind == "cgroup2":
            mounted[""] = (root_path, point)
        elif kind == "cgroup":
            for name in own:
                if name and set(name.split(",")) <= set(options.split(",")):
                    mounted[name] = (root_path, point)
    made = []
    chosen = [name for name in own if name in mounted and (form == "path" or "pids" in name.split(","))]
    if not chosen:
        pytest.skip("not applicable: there is no v1 hierarchy here")
    for name in chosen:
        directory = Path(mounted[name][1] + own[name].removeprefix(mounted[name][0].rstrip("/")) + "/below")
        directory.mkdir()
        made.append(directory)
        if "cpuset" in name.split(","):  # v1's starts without any
            for file in ("cpuset.cpus", "cpuset.mems"):
                (directory / file).write_text((directory.parent / file).read_text())
    sub = "below" if form == "path" else "pids:below"
    text = root_runtime("exec", "--cgroup", sub, id, "/bin/cat", "/proc/self/cgroup").ok().out
    for line in text.splitlines():
        _, names, path = line.split(":", 2)
        if names in mounted:
            assert path.endswith("/below") == (names in chosen), (line, chosen)
    refused = root_runtime("exec", "--cgroup", "nope:below", id, "/bin/true")
    assert refused.code == 255 and "unknown controller" in refused.error_line
    refused = root_runtime("exec", "--cgroup", "../..", id, "/bin/true")
    assert refused.code == 255 and "--cgroup" in refused.error_line
    for directory in made:
        assert machine.poll(lambda directory=directory: not (directory / "cgroup.procs").read_text(), 10)
        directory.rmdir()
    root_runtime.stop(id)
