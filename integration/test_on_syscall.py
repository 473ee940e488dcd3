# SPDX-License-Identifier: Apache-2.0
"""on_syscall: Python answers a container's system calls; and programs that try to make use of the time in between."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import platform
import shutil
import socket
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import leaks, machine, rootfs, runtimes
from support.runtimes import Result
from support.users import User

import ctnr

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="not applicable: the payload's numbers are x86_64's"
)
PIPE = ctnr.PIPE
Run = Callable[..., str]


@pytest.fixture(autouse=True, scope="module")
def _warm(_session: None) -> None:
    """What a process keeps open once it has started a container (the init's image) is no leak."""
    if os.getuid() == 0:
        path = machine.scratch() / "warm"
        ctnr.run("host:", ["true"], root=str(path))
        path.rmdir()


@pytest.fixture
def tree(busybox_root: Path) -> Path:
    shutil.copy(rootfs.compiled("caller"), busybox_root / "caller")
    return busybox_root


@pytest.fixture
def root(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    machine.need_root()
    path = work / "state"
    path.mkdir(mode=0o700)
    leaks.watched_roots.add(str(path))
    monkeypatch.setenv("CTNR_STORE", str(work / "store"))
    yield str(path)
    for state in ctnr.list_containers(str(path)):
        ctnr.Container.load(state["id"], str(path)).delete(force=True)


@pytest.fixture
def run(root: str, tree: Path) -> Run:
    """Runs a command; its output."""

    def call(*command: str, **options: Any) -> str:
        result = ctnr.run(str(tree), list(command), root=root, stdout=PIPE, stderr=PIPE, timeout=60, **options)
        assert result.stdout is not None and result.stderr is not None
        return (result.stdout + result.stderr).decode()

    return call


class Server:
    """Listens on a port of the loopback interface and counts who comes."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.socket.getsockname()[1]
        self.count = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            connection.close()
            self.count += 1

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    both = Server(), Server()
    hook, threading.excepthook = threading.excepthook, lambda _: None
    yield both
    for server in both:
        server.close()
        server._thread.join()
    threading.excepthook = hook


# --- answers


def test_return_value_and_errno(run: Run) -> None:
    assert run("mkdir", "/no/such/directory", on_syscall={"mkdir": lambda r: 0}) == ""
    assert run("/caller", "call", "39", on_syscall={"getpid": lambda r: r.answer(4711)}) == "4711\n"
    assert run("/caller", "call", "39", on_syscall={"getpid": lambda r: 1 << 40}) == f"{1 << 40}\n"
    assert run("/caller", "call", "39", on_syscall={"getpid": lambda r: r.deny(errno.ENOTNAM)}) == f"-{errno.ENOTNAM}\n"
    assert run("/caller", "call", "39", on_syscall={"getpid": lambda r: r.deny()}) == f"-{errno.EPERM}\n"

    def raises(request: Any) -> None:
        raise FileNotFoundError(errno.ENOENT, "not here")

    assert run("/caller", "call", "39", on_syscall={"getpid": raises}) == f"-{errno.ENOENT}\n"


def test_allow_is_for_what_was_decided_by_the_arguments(run: Run) -> None:
    seen = []

    def mkdir(request: Any) -> None:
        seen.append((request.name, request.args[1]))
        request.allow()

    assert run("sh", "-c", "mkdir -m 0711 /tmp/a && ls /tmp", on_syscall={"mkdir": mkdir}) == "a\n"
    assert seen == [("mkdir", 0o777)] or seen == [("mkdir", 0o711)]


def test_what_was_read_cannot_be_allowed(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    paths = []

    def mkdir(request: Any) -> None:
        paths.append(request.path(0))
        request.allow()

    assert "Operation not permitted" in run("mkdir", "/tmp/a", on_syscall={"mkdir": mkdir})
    assert paths == ["/tmp/a"]
    assert "may have changed by the time the kernel reads it" in capfd.readouterr().err

    def told(request: Any) -> None:
        request.path(0)
        request.allow(unsafe=True)

    assert run("sh", "-c", "mkdir /tmp/a; ls /tmp", on_syscall={"mkdir": told}) == "a\n"


def test_an_exception_is_eperm_and_is_reported_once(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    def fails(request: Any) -> None:
        raise RuntimeError("what an error")

    out = run("sh", "-c", "mkdir /a; mkdir /b; mkdir /c", on_syscall={"mkdir": fails})
    assert out.count("Operation not permitted") == 3
    err = capfd.readouterr().err
    assert err.count("what an error") == 1
    assert "on_syscall: mkdir: RuntimeError: what an error" in err and "test_on_syscall.py:" in err
    assert "Operation not permitted" in run("mkdir", "/a", on_syscall={"mkdir": lambda r: None})
    assert "gave no answer" in capfd.readouterr().err
    assert "Operation not permitted" in run("mkdir", "/a", on_syscall={"mkdir": lambda r: "text"})
    assert "returned 'text'" in capfd.readouterr().err


def test_one_answer(run: Run) -> None:
    problems = []

    def twice(request: Any) -> None:
        request.answer(0)
        for again in (lambda: request.answer(0), request.deny, request.allow, lambda: request.answer_fd(0)):
            try:
                again()
            except ctnr.CtnrError as error:
                problems.append(str(error))

    run("mkdir", "/a", on_syscall={"mkdir": twice})
    assert len(problems) == 4
    assert all("answered already" in problem for problem in problems)
    for wrong in (lambda r: r.deny(0), lambda r: r.deny(4096), lambda r: r.answer(-1), lambda r: r.answer(1 << 63)):
        assert "not permitted" in run("mkdir", "/a", on_syscall={"mkdir": wrong})


def test_a_file_of_ours(run: Run, work: Path) -> None:
    (work / "secret").write_text("inside")

    def give(**how: Any) -> Callable[[Any], None]:
        def openat(request: Any) -> None:
            if request.int32(0) != -100 or request.path(1) != "/magic":
                request.deny(errno.EACCES)
                return
            with open(work / "secret") as file:
                request.answer_fd(file.fileno(), **how)

        return openat

    assert run("/caller", "open", "/magic", on_syscall={"openat": give()}) == "fd 3 flags 1: inside\n"
    assert run("/caller", "open", "/magic", on_syscall={"openat": give(cloexec=False)}) == "fd 3 flags 0: inside\n"
    assert run("/caller", "open", "/magic", on_syscall={"openat": give(number=77)}) == "fd 77 flags 1: inside\n"
    assert run("/caller", "open", "/other", on_syscall={"openat": give()}) == f"errno {errno.EACCES}\n"


def test_memory_is_written(run: Run) -> None:
    def uname(request: Any) -> int:
        request.write(request.args[0] + 65, b"elsewhere\0")
        return 0

    assert run("uname", "-n", on_syscall={"uname": uname}) == "elsewhere\n"
    reads = []

    def nowhere(request: Any) -> None:
        for what in (
            lambda: request.read(0, 1),
            lambda: request.read(1 << 63, 1),
            lambda: request.string(16),
            lambda: request.write(16, b"x"),
            lambda: request.write((1 << 64) - 1, b"x"),
        ):
            with pytest.raises(OSError) as info:
                what()
            reads.append(info.value.errno)
        request.read(0, 1)

    assert run("/caller", "call", "39", on_syscall={"getpid": nowhere}) == f"-{errno.EFAULT}\n"
    assert reads == [errno.EFAULT] * 5


# --- what the init does is its own


@pytest.mark.parametrize("options", [{}, {"security_opt": ["no-new-privileges"]}, {"init": True}])
def test_the_init_is_not_asked_about(run: Run, options: dict[str, Any]) -> None:
    """A callback that fakes what makes the container safe."""
    asked = set()

    def fake(request: Any) -> int:
        asked.add((request.name, os.readlink(f"/proc/{request.pid}/exe")))
        return 0

    names = [
        "setresuid",
        "setresgid",
        "setgroups",
        "capset",
        "prctl",
        "chdir",
        "execve",
        "close_range",
        "sendmsg",
        "recvmsg",
    ]
    script = "sh -c 'exit 5'; echo $?; pwd; while read a b; do case $a in *Eff:|Uid:|NoNew*) echo $a $b;; esac; done"
    out = run(
        "sh", "-c", script + " < /proc/self/status; kill -9 $$",
        user="1000:1000", workdir="/tmp", on_syscall=dict.fromkeys(names, fake), **options,
    )  # fmt: skip
    # the shell is told that it has executed sh, and goes on as if it had
    assert ("execve", "/bin/busybox") in asked
    assert {exe for _, exe in asked} == {"/bin/busybox"}, asked
    assert "/tmp\n" in out and "Uid: 1000" in out and "CapEff: 0000000000000000" in out, out
    assert f"NoNewPrivs: {int('security_opt' in options)}" in out


def test_the_users_are_the_program_s(run: Run) -> None:
    seen = []

    def mkdir(request: Any) -> int:
        status = Path(f"/proc/{request.pid}/status").read_text()
        seen.append(next(line for line in status.splitlines() if line.startswith("Uid")))
        return 0

    run("mkdir", "/x", user="1000", on_syscall={"mkdir": mkdir, "setresuid": lambda r: 0})
    assert seen == ["Uid:\t1000\t1000\t1000\t1000"]


# --- between the check and the use


def test_the_address_is_the_one_that_was_looked_at(run: Run, servers: tuple[Server, Server]) -> None:
    """Not by chance: the callback waits until the program has changed it."""
    good, bad = servers

    def connect(request: Any) -> None:
        if request.sockaddr().port != good.port:
            request.deny()
            return
        while request.read(request.args[1] + 2, 2) != bad.port.to_bytes(2, "big"):
            pass
        request.connect()

    out = run("/caller", "race-connect", str(good.port), str(bad.port), "200", on_syscall={"connect": connect})
    done = int(out.split()[0])
    assert 0 < done <= 200
    assert machine.poll(lambda: good.count == done, 10)
    assert bad.count == 0


def test_why_allow_is_refused(run: Run, servers: tuple[Server, Server]) -> None:
    """The same with unsafe=True goes through: the test above can fail."""
    good, bad = servers

    def connect(request: Any) -> None:
        if request.sockaddr().port != good.port:
            request.deny()
            return
        while request.read(request.args[1] + 2, 2) != bad.port.to_bytes(2, "big"):
            pass
        request.allow(unsafe=True)

    def through() -> bool:
        run("/caller", "race-connect", str(good.port), str(bad.port), "200", on_syscall={"connect": connect})
        return bad.count > 0

    assert machine.poll(through, 60)


def test_races_are_lost(run: Run, servers: tuple[Server, Server], tree: Path) -> None:
    good, bad = servers

    def connect(request: Any) -> None:
        if request.sockaddr().port == good.port:
            request.connect()
        else:
            request.deny()

    out = run("/caller", "race-connect", str(good.port), str(bad.port), "3000", on_syscall={"connect": connect})
    done = int(out.split()[0])
    assert 0 < done <= 3000
    assert machine.poll(lambda: good.count == done, 10)
    assert bad.count == 0

    (tree / "good").write_text("good\n")
    (tree / "bood").write_text("bad\n")

    def openat(request: Any) -> None:
        if request.path(1) != "/good":
            request.deny(errno.EACCES)
            return
        with open(tree / "good") as file:
            request.answer_fd(file.fileno())

    out = run("/caller", "race-open", "3000", on_syscall={"openat": openat})
    assert out.endswith(" of 3000\n") and out != "0 of 3000\n", out


def test_other_ways_to_connect(run: Run, servers: tuple[Server, Server]) -> None:
    """32-bit calls, directly and by socketcall, x32's, and io_uring, are no way around."""
    good, bad = servers
    names = []

    def connect(request: Any) -> None:
        names.append((request.arch, request.sockaddr().port))
        request.deny(errno.EACCES)

    assert (
        run("/caller", "int80", str(bad.port), on_syscall={"connect": connect}) == f"-{errno.EACCES} -{errno.EACCES}\n"
    )
    assert names == [(0x40000003, bad.port)] * 2
    x32 = str(0x40000000 | 42)
    assert (
        run("/caller", "call", x32, "-1", on_syscall={"connect": lambda r: r.deny(errno.EACCES)})
        == f"-{errno.EACCES}\n"
    )
    assert run("/caller", "call", "425", "8", on_syscall={"connect": connect}) == f"-{errno.ENOSYS}\n"
    assert run("/caller", "call", "426", on_syscall={"connect": connect}) == f"-{errno.ENOSYS}\n"
    assert bad.count == good.count == 0
    # and of 32 bits done for it
    done = run("/caller", "int80", str(good.port), on_syscall={"connect": lambda r: r.connect()})
    assert done == f"0 -{errno.EISCONN}\n"


def test_connections_are_made_elsewhere(run: Run, servers: tuple[Server, Server]) -> None:
    good, bad = servers
    assert (
        run("/caller", "connect", str(bad.port), on_syscall={"connect": lambda r: r.connect(port=good.port)}) == "0\n"
    )
    assert machine.poll(lambda: good.count == 1, 10)
    assert bad.count == 0
    refused = run("/caller", "connect", "1", on_syscall={"connect": lambda r: r.connect("127.0.0.1", 1)})
    assert refused == f"{errno.ECONNREFUSED}\n"
    denied = run("/caller", "abstract", "x", on_syscall={"connect": lambda r: r.connect()})
    assert denied == f"{errno.EPERM}\n"


def test_nobody_is_asked_in_our_place(run: Run) -> None:
    assert run("/caller", "listener", on_syscall={"mkdir": lambda r: 0}) == f"{errno.EBUSY}\n"


def test_setuid_programs_are_asked_about(run: Run, tree: Path) -> None:
    shutil.copy(tree / "bin/busybox", tree / "setuid")
    (tree / "setuid").chmod(0o4755)
    (tree / "mkdir").symlink_to("setuid")
    seen = []

    def mkdir(request: Any) -> int:
        seen.append(request.path(0))
        return 0

    (tree / "bin/mkdir").unlink()
    (tree / "bin/mkdir").symlink_to("/setuid")
    assert run("mkdir", "/root/x", user="1000", on_syscall={"mkdir": mkdir}) == ""
    assert seen == ["/root/x"]


# --- ends


def test_killed_while_it_is_asked(root: str, tree: Path) -> None:
    asked, go_on, outcome = threading.Event(), threading.Event(), []

    def mkdir(request: Any) -> None:
        asked.set()
        go_on.wait(60)
        outcome.append(request.valid())
        for use in (lambda: request.path(0), lambda: request.write(request.args[0], b"x"), lambda: request.fd(0)):
            with pytest.raises(ProcessLookupError):
                use()
        with pytest.raises(OSError):
            request.add_fd(0)
        request.answer(0)  # nobody hears it
        outcome.append(request.answered)

    options = ctnr.Options(["mkdir", "/x"])
    container = ctnr.create(str(tree), options, root=root, on_syscall={"mkdir": mkdir})
    container.start()
    assert asked.wait(30)
    container.kill(9)
    assert container.wait(30) == 137
    go_on.set()
    assert machine.poll(lambda: len(outcome) == 2, 10)
    assert outcome == [False, True]
    container.delete()


def test_a_callback_that_never_returns(root: str, tree: Path) -> None:
    asked, never = threading.Event(), threading.Event()

    def mkdir(request: Any) -> None:
        asked.set()
        never.wait()
        request.deny()

    container = ctnr.create(str(tree), ctnr.Options(["mkdir", "/x"]), root=root, on_syscall={"mkdir": mkdir})
    container.start()
    assert asked.wait(30)
    container.delete(force=True)
    with pytest.raises(TimeoutError):
        ctnr.run(str(tree), ["mkdir", "/x"], root=root, timeout=1, on_syscall={"mkdir": mkdir})
    never.set()


def test_without_a_supervisor_nothing_is_let_through(root: str, tree: Path) -> None:
    container = ctnr.create(
        str(tree), ctnr.Options(["sh", "-c", "read x; mkdir /tmp/x"]), root=root,
        on_syscall={"mkdir": lambda r: r.allow()}, stdin=(pipe := os.pipe())[0], stderr=(err := os.pipe())[1],
    )  # fmt: skip
    container.start()
    assert container._supervisor is not None
    container._supervisor.stop()
    os.write(pipe[1], b"\n")
    assert container.wait(30) == 1
    assert b"Function not implemented" in os.read(err[0], 1000)
    with pytest.raises(ctnr.CtnrError, match="failed to connect with seccomp agent|container not running|stopped"):
        container.exec({"args": ["/bin/true"], "cwd": "/"})
    container.delete()
    for fd in (*pipe, *err):
        os.close(fd)


def test_many_at_once(run: Run) -> None:
    count = []

    def mkdirat(request: Any) -> None:
        count.append(1)
        request.deny(errno.EBUSY)

    assert run("/caller", "bomb", "50", "100", on_syscall={"mkdirat": mkdirat}) == "50\n"
    assert len(count) == 5000


# --- containers and their execs


def test_exec(root: str, tree: Path, ctnr_bin: Path) -> None:
    names = []

    def mkdir(request: Any) -> None:
        names.append(request.path(0))
        request.deny(errno.ENOTNAM)

    options = ctnr.Options(["sleep", "1000"], name="box")
    container = ctnr.create(str(tree), options, root=root, on_syscall={"mkdir": mkdir, "setresuid": lambda r: 0})
    container.start()
    null = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    process = container.exec({"args": ["/bin/mkdir", "/one"], "cwd": "/", "user": {"uid": 5, "gid": 5}}, stderr=null)
    assert process.wait(30) == 1
    process.close()
    os.close(null)
    user = _root_user()
    by_command = runtimes.call([str(ctnr_bin), "--root", root, "exec", "box", "mkdir", "/two"], user)
    assert by_command.code == 1 and "Not a XENIX named type file" in by_command.err, str(by_command)
    assert names == ["/one", "/two"]
    container.on_syscall("mkdir", lambda r: 0)
    assert runtimes.call([str(ctnr_bin), "--root", root, "exec", "box", "mkdir", "/three"], user).code == 0
    with pytest.raises(ctnr.CtnrError, match="was not made to ask about 'connect'"):
        container.on_syscall("connect", lambda r: 0)
    container.delete(force=True)


def _root_user() -> User:
    from support import users

    return users.get(users.ROOT)


def test_refusals(root: str, tree: Path) -> None:
    for wanted, message in (
        ({"no_such_call": lambda r: 0}, "'no_such_call' is not a system call"),
        ({"write": lambda r: 0}, "'write' cannot be asked about"),
        ({"mkdir": 5}, "5 is not callable"),
    ):
        with pytest.raises(ctnr.CtnrError, match=message):
            ctnr.run(str(tree), ["true"], root=root, on_syscall=wanted)  # type: ignore[arg-type]
    container = ctnr.create(str(tree), ctnr.Options(["true"]), root=root)
    with pytest.raises(ctnr.CtnrError, match="name the system calls to create"):
        container.on_syscall("mkdir", lambda r: 0)
    container.delete(force=True)


def test_beside_a_profile(run: Run, work: Path) -> None:
    profile = work / "seccomp.json"
    rule = {"names": ["mkdir", "rmdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    options = {"security_opt": [f"seccomp={profile}"]}
    out = run("sh", "-c", "mkdir /tmp/a; rmdir /tmp; ls /tmp", on_syscall={"mkdir": lambda r: r.allow()}, **options)
    assert out == "a\nrmdir: '/tmp': Operation not supported\n"


# --- asyncio


def test_coroutines_run_in_the_caller_s_loop(root: str, tree: Path) -> None:
    loops = []

    async def mkdir(request: Any) -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        request.deny(errno.ENOTNAM)

    async def value(request: Any) -> int:
        await asyncio.sleep(0)
        return 4711

    async def main() -> int:
        options = ctnr.Options(["sh", "-c", "mkdir /x 2>/dev/null || exit 7"])
        container = ctnr.create(str(tree), options, root=root, on_syscall={"mkdir": mkdir})
        container.start()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_reader(container, ended.set)
        await asyncio.wait_for(ended.wait(), 30)
        asyncio.get_running_loop().remove_reader(container)
        with pytest.raises(ctnr.CtnrError, match="would block the loop"):
            ctnr.run(str(tree), ["true"], root=root, on_syscall={"mkdir": mkdir})
        assert loops == [asyncio.get_running_loop()]
        code = container.wait()
        container.delete()
        return code

    assert asyncio.run(main()) == 7
    # nobody's loop: one of its own
    result = ctnr.run(str(tree), ["/caller", "call", "39"], root=root, stdout=PIPE, on_syscall={"getpid": value})
    assert result.stdout == b"4711\n"


# --- as each kind of user


def test_as_each_user(user: User, work: Path) -> None:
    home = work / "home"
    (home / "state").mkdir(parents=True, mode=0o700)
    tree = rootfs.make_busybox(home / "tree", user.uid, user.gid)
    shutil.copy(rootfs.compiled("caller"), tree / "caller")
    rootfs.give(home, user.uid, user.gid)
    leaks.watched_roots.add(str(home / "state"))
    script = """
        import os, sys, ctnr, errno
        tree, root = sys.argv[1:3]
        asked = []
        def mkdir(request):
            asked.append(request.path(0))
            request.deny(errno.ENOTNAM)
        def uname(request):
            request.write(request.args[0] + 65, b"elsewhere\\0")
            return 0
        def connect(request):
            request.connect("127.0.0.1", 1)
        def openat(request):
            if request.path(1) == "/magic":
                with open(__file__) as file:
                    request.answer_fd(file.fileno())
            else:
                request.deny(errno.EACCES)
        calls = {"mkdir": mkdir, "uname": uname, "connect": connect, "openat": openat, "setresuid": lambda r: 0}
        def run(*argv, **more):
            more = {"stdout": ctnr.PIPE, "stderr": ctnr.PIPE, "root": root, "on_syscall": calls, "timeout": 60, **more}
            result = ctnr.run(tree, list(argv), **more)
            return (result.stdout + result.stderr).decode()
        for options in ({}, {"security_opt": ["no-new-privileges"]}, {"init": True}):
            assert "Not a XENIX" in run("mkdir", "/a", **options)
            assert run("uname", "-n", **options) == "elsewhere\\n"
            assert run("/caller", "connect", "9", **options) == f"{errno.ECONNREFUSED}\\n"
            assert run("/caller", "open", "/magic", **options).startswith("fd 3 flags 1: ")
        assert asked == ["/a"] * 3
        for init in (False, True):
            box = ctnr.create(tree, ctnr.Options(["sleep", "1000"]), root=root, on_syscall=calls)
            box.start()
            process = box.exec({"args": ["/bin/mkdir", "/b"], "cwd": "/"}, stderr=os.open("/dev/null", os.O_RDWR), init=init)
            assert process.wait(30) == 1
            box.delete(force=True)
        assert asked == ["/a"] * 3 + ["/b"] * 2
        print("done")
    """
    (home / "script.py").write_text(textwrap.dedent(script))
    python = machine.CHECKOUT / ".venv/bin/python3"
    env = {"CTNR_STORE": str(home / "store")}
    result: Result = runtimes.call(
        [str(python), "-I", str(home / "script.py"), str(tree), str(home / "state")], user, cwd=home, env=env
    )
    assert result.ok().out == "done\n", str(result)
