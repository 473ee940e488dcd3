# SPDX-License-Identifier: Apache-2.0
"""checkpoint and restore with a CRIU that works on this kernel: what ran goes on where it was, as it was."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import criu, leaks, machine, terminals
from support.bundles import Bundle, MakeBundle, new_id
from support.runtimes import MakeRuntime, Runtime, finished
from support.users import User

COUNTER = "i=0; while :; do i=$((i+1)); echo $i >/new; mv /new /count; sleep 0.05; done"


@pytest.fixture(scope="module")
def user() -> User:
    return criu.working()


class Place:
    """A runtime, a bundle in it, and where its images go."""

    def __init__(self, runtime: Runtime, bundle: Bundle, directory: Path) -> None:
        self.runtime = runtime
        self.bundle = bundle.writable()
        self.bundle.config["annotations"] = {"org.criu.config": ""}  # not the machine's
        self.directory = directory
        self.id = new_id()

    def call(self, *args: str) -> tuple[int, str]:
        """A verb whose stdio is /dev/null, as that of the container it leaves: its exit code and its log."""
        log, null = self.directory / "log", subprocess.DEVNULL
        log.write_text("")
        process = self.runtime.popen("--log", str(log), *args, stdin=null, stdout=null, stderr=null)
        process.wait(60)
        finished(process)
        return process.returncode, log.read_text()

    def start(self, *flags: str) -> int:
        self.bundle.save()
        assert self.call("run", "--detach", "--bundle", str(self.bundle.path), *flags, self.id) == (0, "")
        return self.runtime.pid(self.id)

    def where(self, images: str = "images") -> tuple[str, ...]:
        return ("--image-path", str(self.directory / images), "--bundle", str(self.bundle.path))

    def checkpoint(self, *flags: str, images: str = "images") -> None:
        self.runtime("checkpoint", *self.where(images)[:2], *flags, self.id).ok()

    def not_checkpointed(self, *flags: str) -> str:
        """The error of a checkpoint that fails, which leaves the container as it was."""
        refused = self.runtime("checkpoint", *self.where("refused")[:2], *flags, self.id)
        assert refused.code == 1
        assert self.runtime.status(self.id) == "running"
        return refused.error_line

    def restore(self, *flags: str, images: str = "images") -> int:
        code, log = self.call("restore", "--detach", *self.where(images), *flags, self.id)
        assert code == 0 and log == "", log
        return self.runtime.pid(self.id)

    def not_restored(self, *flags: str) -> str:
        """The error of a restore that fails, which leaves nothing."""
        code, log = self.call("restore", "--detach", *self.where(), *flags, self.id)
        assert code == 1 and len(log.splitlines()) == 1, log
        assert self.runtime.ids() == []
        return log

    def count(self) -> int:
        file = self.bundle.root / "count"
        assert machine.poll(file.exists, 10)
        return int(file.read_text())

    def goes_on(self) -> None:
        before = self.count()
        assert machine.poll(lambda: self.count() > before, 10)

    def end(self) -> None:
        self.runtime.stop(self.id)


@pytest.fixture
def place(user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle, work: Path) -> Place:
    return Place(runtimes_of(user), bundle_of(user, "/bin/sh", "-c", COUNTER), work)


Sockets = Callable[[str], terminals.ConsoleSocket]


@pytest.fixture
def sockets(work: Path, user: User) -> Iterator[Sockets]:
    """Makes console sockets."""
    made: list[terminals.ConsoleSocket] = []

    def make(name: str) -> terminals.ConsoleSocket:
        made.append(terminals.ConsoleSocket(work / f"{name}.sock", user))
        return made[-1]

    yield make
    for socket in made:
        socket.close()


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    kept = ("CapBnd", "CapEff", "CapPrm", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups", "Name")
    return {name: value for name, _, value in (line.partition(":") for line in lines) if name in kept}


def mounts(pid: int) -> list[tuple[str, str]]:
    """(mount point, filesystem type) of each mount of a process."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    return sorted((line.split()[4], line.partition(" - ")[2].split()[0]) for line in lines)


def cgroups(pid: int) -> list[str]:
    return sorted(line.partition(":")[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())


def test_what_ran_goes_on(place: Place) -> None:
    place.bundle.linux["resources"] = {"pids": {"limit": 57}, "devices": [{"allow": False, "access": "rwm"}]}
    place.bundle.process["noNewPrivileges"] = True
    pid = place.start()
    place.goes_on()
    was = status(pid), mounts(pid), cgroups(pid)
    place.checkpoint()
    assert "does not exist" in place.runtime("state", place.id).err
    assert place.runtime.ids() == []
    before = place.count()
    pid_file = place.directory / "pid"
    pid = place.restore("--pid-file", str(pid_file))
    assert pid_file.read_text() == str(pid)
    assert machine.poll(lambda: place.count() > before, 10)
    assert place.count() < before + 1000  # it is the same loop
    assert (status(pid), mounts(pid), cgroups(pid)) == was
    assert place.runtime.status(place.id) == "running"
    # an exec sees the same clocks, and the limits hold
    assert place.runtime("exec", place.id, "/bin/sh", "-c", "[ /proc/1/ns/time -ef /proc/self/ns/time ]").ok()
    assert "1: lo: <LOOPBACK,UP" in place.runtime("exec", place.id, "ip", "link").ok().out
    state = place.runtime.state(place.id)
    assert state["bundle"] == str(place.bundle.path)
    place.end()


def test_leave_running_and_paused(place: Place) -> None:
    place.start()
    place.goes_on()
    place.checkpoint("--leave-running")
    assert place.runtime.status(place.id) == "running"
    place.goes_on()
    place.runtime("pause", place.id).ok()
    place.checkpoint("--leave-running", images="second")
    assert place.runtime.status(place.id) == "paused"
    place.runtime("resume", place.id).ok()
    place.goes_on()
    place.checkpoint(images="third")
    place.restore(images="second")
    place.goes_on()
    # and what was restored can be written again
    place.checkpoint(images="fourth")
    place.restore(images="fourth")
    place.goes_on()
    place.end()


def test_pre_dumps_write_the_rest_once(place: Place, user: User) -> None:
    place.start()
    if not criu.has(user, "mem_dirty_track"):
        assert "--pre-dump: CRIU cannot do this on this kernel: it lacks mem_track" in place.not_checkpointed(
            "--pre-dump"
        )
        place.end()
        pytest.skip("not applicable: this kernel has no CONFIG_MEM_SOFT_DIRTY")
    place.goes_on()
    place.checkpoint("--pre-dump", images="first")
    assert place.runtime.status(place.id) == "running"
    place.goes_on()
    place.checkpoint("--pre-dump", "--parent-path", "../first", images="second")
    place.goes_on()
    place.checkpoint("--parent-path", "../second", images="last")
    assert (place.directory / "last/parent").resolve() == place.directory / "second"

    def size(name: str) -> int:
        return sum(file.stat().st_size for file in (place.directory / name).glob("pages-*.img"))

    assert size("last") < size("first")
    place.restore(images="last")
    place.goes_on()
    place.end()


def test_work_path_has_the_logs(place: Place) -> None:
    place.start()
    place.goes_on()
    place.checkpoint("--work-path", str(place.directory / "logs"))
    assert (place.directory / "logs/dump.log").exists()
    place.restore("--work-path", str(place.directory / "logs"))
    assert (place.directory / "logs/restore.log").exists()
    assert not list((place.directory / "images").glob("*.log"))
    assert (place.directory / "images").stat().st_mode & 0o777 == 0o700
    place.end()


def test_bind_mounts_volumes_and_masks(place: Place) -> None:
    (place.directory / "volume").mkdir()
    (place.directory / "volume/file").write_text("first\n")
    (place.directory / "one").write_text("one\n")
    place.bundle.mount("/mnt/volume", "bind", str(place.directory / "volume"), "rbind", "rw")
    place.bundle.mount("/mnt/volume/one", "bind", str(place.directory / "one"), "bind", "ro")
    place.bundle.mount("/scratch", "tmpfs", "tmpfs", "size=1m")
    (place.directory / "volume/one").touch()
    place.bundle.linux["maskedPaths"] = ["/proc/kcore", "/proc/timer_list", "/sys/firmware", "/proc/nothing"]
    place.bundle.linux["readonlyPaths"] = ["/proc/sys"]
    pid = place.start()
    place.runtime("exec", place.id, "/bin/sh", "-c", "echo kept >/scratch/kept").ok()
    was = mounts(pid)
    place.checkpoint()
    # elsewhere: the sources are the bundle's, and the root filesystem has no mount points yet
    (place.directory / "other").mkdir()
    (place.directory / "other/file").write_text("second\n")
    (place.directory / "other/one").touch()
    place.bundle.config["mounts"][-3]["source"] = str(place.directory / "other")
    place.bundle.save()
    for name in ("mnt/volume", "scratch"):
        (place.bundle.root / name).rmdir()
    pid = place.restore()
    assert mounts(pid) == was
    seen = place.runtime("exec", place.id, "cat", "/mnt/volume/file", "/mnt/volume/one", "/scratch/kept").ok().out
    assert seen == "second\none\nkept\n"
    assert place.runtime("exec", place.id, "/bin/sh", "-c", "cat /proc/timer_list").ok().out == ""
    assert place.runtime("exec", place.id, "/bin/sh", "-c", "echo 1 >/mnt/volume/one").code == 1
    place.goes_on()
    place.end()


def test_pipes_are_connected_again(place: Place) -> None:
    place.bundle.process["args"] = ["/bin/sh", "-c", "while read line; do echo got $line; done; echo end"]
    place.bundle.save()
    process = place.runtime.popen(
        "run", "--detach", "--bundle", str(place.bundle.path), place.id,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin and process.stdout
    finished(process)
    with process.stdin, process.stdout:
        os.write(process.stdin.fileno(), b"one\n")
        assert process.stdout.readline() == b"got one\n"
        place.checkpoint()
        links = json.loads((place.directory / "images/descriptors.json").read_text())
        assert [link.partition(":")[0] for link in links[:2]] == ["pipe", "pipe"]
    null, pipe = subprocess.DEVNULL, subprocess.PIPE
    process = place.runtime.popen("restore", *place.where(), place.id, stdin=pipe, stdout=pipe, stderr=null)
    out, _ = process.communicate(b"two\n", timeout=60)
    finished(process)
    assert out == b"got two\nend\n"
    assert process.returncode == 0
    assert place.runtime.ids() == []


def test_a_file_as_stdio_is_the_same_file(place: Place) -> None:
    place.bundle.process["args"] = ["/bin/sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"]
    place.bundle.save()
    file, null = place.directory / "file", subprocess.DEVNULL

    def call(*args: str) -> None:
        with open(file, "a") as out:
            process = place.runtime.popen(*args, place.id, stdin=null, stdout=out, stderr=null)
        assert process.wait(60) == 0
        finished(process)

    call("run", "--detach", "--bundle", str(place.bundle.path))
    assert machine.poll(lambda: file.stat().st_size > 10, 10)
    place.checkpoint()
    size = file.stat().st_size
    call("restore", "--detach", *place.where())
    assert machine.poll(lambda: file.stat().st_size > size + 10, 10)
    place.end()
    lines = file.read_text().split()
    assert lines == [str(n) for n in range(1, len(lines) + 1)]


def test_exit_code_and_signals_in_the_foreground(place: Place) -> None:
    place.bundle.process["args"] = ["/bin/sh", "-c", "trap 'exit 7' TERM; echo up >/up; while :; do sleep 0.05; done"]
    place.start()
    assert machine.poll((place.bundle.root / "up").exists, 10)
    place.checkpoint()
    null = subprocess.DEVNULL
    process = place.runtime.popen("restore", *place.where(), place.id, stdin=null, stdout=null, stderr=null)
    assert machine.poll(lambda: '"running"' in place.runtime("state", place.id).out, 20, 0.1)
    process.terminate()
    assert process.wait(30) == 7
    finished(process)
    assert place.runtime.ids() == []


def test_terminal(place: Place, sockets: Sockets) -> None:
    place.bundle.process["args"] = ["/bin/sh"]
    place.bundle.process["terminal"] = True
    first = sockets("first")
    place.start("--console-socket", str(first.path))
    terminal = first.receive()
    terminal.send("here=before\n")
    terminal.send("echo $here-$((1+1))\n")
    terminal.expect("before-2")
    place.checkpoint()
    terminal.close()
    second = sockets("second")
    place.restore("--console-socket", str(second.path))
    terminal = second.receive()
    terminal.send("echo $here-$((2+2)) $(tty)\n")
    terminal.expect("before-4 /dev/pts/0")
    terminal.send("exit\n")
    place.runtime.wait_status(place.id, "stopped")
    terminal.close()
    place.runtime("delete", place.id).ok()


def test_terminal_in_the_foreground(place: Place, sockets: Sockets, user: User) -> None:
    place.bundle.process["args"] = ["/bin/sh"]
    place.bundle.process["terminal"] = True
    first = sockets("first")
    place.start("--console-socket", str(first.path))
    terminal = first.receive()
    terminal.send("here=before\n")
    terminal.send("echo $here-$((1+1))\n")
    terminal.expect("before-2")
    place.checkpoint()
    terminal.close()
    behind = terminals.Behind(place.runtime.argv("restore", *place.where(), place.id), user, rows=33, cols=111)
    behind.send("echo $here-$((2+2)) $(stty size)\n")
    behind.expect("before-4 33 111")
    behind.send("exit 5\n")
    assert behind.wait() == 5
    behind.close()


def test_shell_job(place: Place, user: User) -> None:
    """A container without a terminal of its own that uses the caller's."""
    behind = terminals.Behind(place.runtime.argv("run", "--bundle", str(place.bundle.save().path), place.id), user)
    place.goes_on()
    assert "criu failed to checkpoint the container" in place.not_checkpointed()
    place.checkpoint("--shell-job")
    behind.wait()
    behind.close()
    again = terminals.Behind(place.runtime.argv("restore", "--shell-job", *place.where(), place.id), user)
    assert machine.poll(lambda: '"running"' in place.runtime("state", place.id).out, 20, 0.1)
    place.goes_on()
    place.runtime("kill", place.id, "KILL").ok()
    assert again.wait() == 137
    again.close()


TCP = """\
sleep 1000 | nc -l -p 7777 >/received &
while ! cat /proc/net/tcp /proc/net/tcp6 | grep -q :1E61; do sleep 0.05; done
i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done | nc 127.0.0.1 7777
echo broken >/broken
"""


def test_established_tcp_connections(place: Place) -> None:
    place.bundle.process["args"] = ["/bin/sh", "-c", TCP]
    place.start()
    received = place.bundle.root / "received"

    def lines() -> list[str]:
        return received.read_text().split() if received.exists() else []

    assert machine.poll(lambda: len(lines()) > 3, 10)
    said = place.not_checkpointed()
    assert "tcp-established" in said and "dump.log" in said
    place.checkpoint("--tcp-established")
    count = len(lines())
    place.restore("--tcp-established")
    assert machine.poll(lambda: len(lines()) > count + 3, 10)
    assert lines() == [str(n) for n in range(1, len(lines()) + 1)]  # nothing was lost
    assert not (place.bundle.root / "broken").exists()
    place.end()


def test_file_locks(place: Place) -> None:
    place.bundle.process["args"] = ["/probe", "--lock", "/lock"]

    def locked() -> bool:
        file = place.bundle.root / "lock"
        return file.exists() and f":{file.stat().st_ino} " in Path("/proc/locks").read_text()

    place.start()
    assert machine.poll(locked, 10)
    assert "--file-locks" in place.not_checkpointed()
    place.checkpoint("--file-locks")
    place.restore("--file-locks")
    assert locked()
    place.end()


def test_lazy_pages(place: Place, user: User) -> None:
    """The memory stays with the dump until the restored container asks for it."""
    if not criu.has(user, "uffd"):
        pytest.skip("not applicable: no userfaultfd for CRIU on this kernel")
    place.start()
    place.goes_on()
    images, target = place.directory / "images", place.directory / "target"
    target.mkdir()
    null = subprocess.DEVNULL
    where = ("--image-path", str(images), "--work-path")
    reader, writer = os.pipe()
    source = place.runtime.popen(
        "checkpoint", *where, str(place.directory / "work"), "--lazy-pages", "--page-server", "127.0.0.1:27277",
        "--status-fd", str(writer), place.id, pass_fds=(writer,), stdin=null, stdout=null, stderr=null,
    )  # fmt: skip
    os.close(writer)
    with open(reader, "rb") as ready:
        assert ready.read(1) == b"\0"
    serve = ("lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", "27277", "-D", images, "-W", target)
    lazy = subprocess.Popen([criu.program(user), *serve], stdin=null, stdout=null, stderr=null)
    leaks.own(lazy.pid)
    other = new_id()
    try:
        assert machine.poll((target / "lazy-pages.socket").exists, 10)
        bundle = ("--bundle", str(place.bundle.path))
        restore = place.runtime.popen(
            "restore",
            "--detach",
            "--lazy-pages",
            *where,
            str(target),
            *bundle,
            other,
            stdin=null,
            stdout=null,
            stderr=null,
        )
        served = machine.poll(lambda: None not in (source.poll(), lazy.poll()), 30)
        if not served or source.returncode or lazy.returncode:
            restore.terminate()  # CRIU would wait for its pages
            restore.wait(60)
            finished(restore)
            assert other not in place.runtime.ids()
            log = (place.directory / "work/dump.log").read_text()
            [why] = [line for line in log.splitlines() if "Error (criu/page-" in line][:1] or ["?"]
            assert why != "?", log[-2000:]
            pytest.skip(f"not applicable: CRIU cannot serve pages on this kernel: {why}")
        assert restore.wait(30) == 0
        finished(restore)
        place.goes_on()
        assert place.runtime.ids() == [other]
        place.runtime.stop(other)
    finally:
        lazy.kill()
        lazy.wait()
        leaks.disown(lazy.pid)
        source.kill()
        finished(source)
        for id in place.runtime.ids():
            place.runtime("delete", "--force", id).ok()


def test_user_namespace(place: Place, user: User) -> None:
    ids = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    place.bundle.namespace("user")
    place.bundle.linux["uidMappings"] = place.bundle.linux["gidMappings"] = ids
    subprocess.run(["chown", "-R", "100000:100000", str(place.bundle.root)], check=True)
    odd = "odd,name:\\with options=1"
    pid = place.start()
    place.goes_on()
    was = status(pid)
    maps = Path(f"/proc/{pid}/uid_map").read_text()
    place.checkpoint(images=odd)
    pid = place.restore(images=odd)
    place.goes_on()
    assert status(pid) == was
    assert Path(f"/proc/{pid}/uid_map").read_text() == maps
    place.end()


@pytest.fixture
def network(work: Path) -> Iterator[str]:
    """A network namespace of somebody else's, with a device in it."""
    name = new_id()
    [ip] = machine.need("ip")
    subprocess.run([ip, "netns", "add", name], check=True)
    subprocess.run([ip, "-n", name, "link", "set", "lo", "up"], check=True)
    subprocess.run([ip, "-n", name, "link", "add", "v0", "type", "veth", "peer", "name", "v1"], check=True)
    yield f"/run/netns/{name}"
    subprocess.run([ip, "netns", "del", name], check=True)


def test_network_namespace_by_path(place: Place, network: str) -> None:
    place.bundle.namespace("network", network)
    place.start()
    place.goes_on()
    place.checkpoint()
    pid = place.restore()
    place.goes_on()
    assert os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(network).st_ino
    assert "v0" in place.runtime("exec", place.id, "ip", "link").ok().out
    place.end()


def test_hooks_of_a_restore(place: Place) -> None:
    log = place.directory / "hooks"

    def hook(kind: str) -> dict[str, Any]:
        script = f'read -r state; echo "{kind} $state" >>{log}'
        return {"path": "/bin/sh", "args": ["sh", "-c", script]}

    place.bundle.config["hooks"] = {kind: [hook(kind)] for kind in ("prestart", "createRuntime", "poststop")}
    place.start()
    place.goes_on()
    log.unlink()
    place.checkpoint()
    assert [line.split(" ", 1)[0] for line in log.read_text().splitlines()] == ["poststop"]
    log.unlink()
    pid = place.restore()
    seen = [line.split(" ", 1) for line in log.read_text().splitlines()]
    assert [kind for kind, _ in seen] == ["prestart", "createRuntime"]
    for _, document in seen:
        assert json.loads(document)["pid"] == pid and json.loads(document)["status"] == "creating"
    place.goes_on()
    place.end()


def test_a_hook_that_fails_leaves_nothing(place: Place) -> None:
    place.start()
    place.goes_on()
    place.checkpoint()
    place.bundle.config["hooks"] = {"createRuntime": [{"path": "/bin/false"}]}
    place.bundle.save()
    assert "error running createRuntime hook #0" in place.not_restored()


def test_a_cgroup_path_of_its_own(place: Place) -> None:
    """The limits and the place are the bundle's, not the image's."""
    place.bundle.linux["cgroupsPath"] = f"/{place.id}-first"
    place.start()
    place.goes_on()
    place.checkpoint()
    place.bundle.linux["cgroupsPath"] = f"/{place.id}-second"
    place.bundle.save()
    pid = place.restore()
    place.goes_on()
    assert all(line.endswith(f"/{place.id}-second") for line in cgroups(pid) if line != ":/"), cgroups(pid)
    place.end()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda process: process["capabilities"].update(bounding=["CAP_KILL"]), "process.capabilities.bounding"),
        (lambda process: process.update(noNewPrivileges=True), "process.noNewPrivileges"),
    ],
    ids=["capabilities", "new privileges"],
)
def test_an_image_that_may_more_than_the_bundle(place: Place, change: Any, said: str) -> None:
    place.bundle.process["noNewPrivileges"] = False
    place.start()
    place.goes_on()
    place.checkpoint()
    change(place.bundle.process)
    place.bundle.save()
    assert said in place.not_restored()
    before = place.count()
    assert not machine.poll(lambda: place.count() > before, 0.3)
