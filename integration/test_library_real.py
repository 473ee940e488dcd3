# SPDX-License-Identifier: Apache-2.0
"""The library in real programs: threads, asyncio, big processes, strange stdio, signals, interruptions, and many runs.

As root in this very process; programs.py-style scripts run the same as ordinary users.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import leaks, machine, rootfs, runtimes
from support.bundles import MakeBundle, new_id
from support.runtimes import Result
from support.users import User

import ctnr

# _Exec and friends are CtnrError's
PIPE = ctnr.PIPE


@pytest.fixture(autouse=True, scope="module")
def _warm(_session: None) -> None:
    """What a process keeps open once it has started a container (the init's image) is no leak."""
    if os.getuid() == 0:
        path = machine.scratch() / "warm"
        ctnr.run("host:", ["true"], root=str(path))
        path.rmdir()


@pytest.fixture
def root(work: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The state root of this process's containers; the store is beside it."""
    path = work / "state"
    path.mkdir(mode=0o700)
    leaks.watched_roots.add(str(path))
    monkeypatch.setenv("CTNR_STORE", str(work / "store"))
    yield str(path)
    for state in ctnr.list_containers(str(path)):
        ctnr.Container.load(state["id"], str(path)).delete(force=True)


@pytest.fixture
def tree(busybox_root: Path) -> str:
    return str(busybox_root)


Run = Callable[..., ctnr.Result]


@pytest.fixture
def run(root: str, tree: str) -> Run:
    def call(*command: str, source: str | None = None, **options: Any) -> ctnr.Result:
        return ctnr.run(source or tree, list(command), root=root, **options)

    return call


@pytest.fixture
def program(user: User, work: Path) -> Callable[..., Result]:
    """Runs a script that uses the library, as each kind of user; `ctnr`, `tree` and `root` are there for it."""
    home = work / "home"
    (home / "state").mkdir(parents=True, mode=0o700)
    tree = rootfs.make_busybox(home / "tree", user.uid, user.gid)
    rootfs.give(home, user.uid, user.gid)
    leaks.watched_roots.add(str(home / "state"))
    python = machine.CHECKOUT / ".venv/bin/python3"
    machine.need_that(python.exists(), f"{python} is not there (make build)")

    def call(script: str, *how: str, **more: Any) -> Result:
        head = f"import ctnr, os, sys\ntree, root = {str(tree)!r}, {str(home / 'state')!r}\n"
        head += f"os.environ['CTNR_STORE'] = {str(home / 'store')!r}\n"
        (home / "script.py").write_text(head + textwrap.dedent(script))
        return runtimes.call([str(python), "-I", *how, str(home / "script.py")], user, cwd=home, **more)

    return call


# --- stdio


def test_output_and_exit_code(run: Run) -> None:
    result = run("sh", "-c", "echo out; echo err >&2; exit 3", stdout=PIPE, stderr=PIPE)
    assert (result.exit_code, result.stdout, result.stderr) == (3, b"out\n", b"err\n")
    assert (run("true").stdout, run("true").stderr) == (None, None)


def test_bytes_as_input(run: Run) -> None:
    data = os.urandom(3_000_000)
    assert run("cat", stdin=data, stdout=PIPE).stdout == data
    assert run("cat", stdin=b"", stdout=PIPE).stdout == b""
    assert run("cat", stdin=bytearray(b"x"), stdout=PIPE).stdout == b"x"
    assert run("cat", stdin=memoryview(b"y"), stdout=PIPE).stdout == b"y"
    assert run("cat", stdout=PIPE).stdout == b""
    # who does not read it does not matter
    assert run("true", stdin=data).exit_code == 0
    assert run("sh", "-c", "exec <&-; echo x", stdin=data, stdout=PIPE).stdout == b"x\n"


def test_files_and_descriptors(run: Run, work: Path) -> None:
    (work / "in").write_bytes(b"text")
    with open(work / "in", "rb") as source, open(work / "out", "wb") as out, open(work / "err", "wb") as err:
        run("sh", "-c", "cat; echo e >&2", stdin=source, stdout=out, stderr=err.fileno())
        assert not source.closed
    assert ((work / "out").read_bytes(), (work / "err").read_bytes()) == (b"text", b"e\n")
    reader, writer = os.pipe()
    run("sh", "-c", "echo x; echo y >&2", stdout=writer, stderr=writer)
    os.close(writer)
    assert os.read(reader, 100) == b"x\ny\n"
    os.close(reader)


def test_a_lot_both_ways_at_once(run: Run) -> None:
    data = b"0123456789abcde\n" * 200_000
    result = run("sh", "-c", "tee /dev/stderr", stdin=data, stdout=PIPE, stderr=PIPE)
    assert result.stdout == data
    assert result.stderr == data


def test_what_holds_the_pipe_ends_with_the_container(run: Run) -> None:
    begin = time.monotonic()
    assert run("sh", "-c", "sleep 1000 & echo done", stdout=PIPE, stderr=PIPE).stdout == b"done\n"
    assert time.monotonic() - begin < 30


def test_timeout(run: Run, root: str) -> None:
    for options in ({}, {"stdout": PIPE}, {"init": True}):
        with pytest.raises(TimeoutError, match="was killed: it had not ended in time"):
            run("sleep", "1000", timeout=0.2, **options)
        assert os.listdir(root) == []
    assert run("true", timeout=60).exit_code == 0


# --- errors


@pytest.mark.parametrize(
    ("command", "code"), [(["/nope"], 127), (["nope"], 127), (["/not-executable"], 126), (["/etc"], 126)]
)
def test_what_cannot_be_run(run: Run, root: str, command: list[str], code: int) -> None:
    with pytest.raises(ctnr.CtnrError) as caught:
        run(*command)
    assert caught.value.exit_code == code
    assert os.listdir(root) == []


def test_bad_sources(run: Run, root: str) -> None:
    for source in ("/nope", "nope:x", "/etc/passwd"):
        with pytest.raises(ctnr.CtnrError) as caught:
            run("true", source=source)
        assert caught.value.exit_code == 125
    assert os.listdir(root) == []


# --- class Container


def test_a_containers_life(root: str, tree: str) -> None:
    name = new_id()
    container = ctnr.create(tree, ctnr.Options(["sleep", "1000"], name=name), root=root, stdout=1)
    assert (container.id, container.status()) == (name, "created")
    assert container.state()["pid"] == container.pid > 0
    container.start()
    assert container.status() == "running"
    with pytest.raises(ctnr.StateError, match="cannot start an already running container"):
        container.start()
    reader, writer = os.pipe()
    process = container.exec(
        {"args": ["sh", "-c", "echo $$; exit 4"], "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}},
        stdout=writer,
    )
    os.close(writer)
    assert process.wait() == 4
    assert int(os.read(reader, 100)) > 1
    os.close(reader)
    process.close()
    assert process.exit_code == 4
    assert container.processes() == [container.pid]
    [state] = ctnr.list_containers(root)
    assert (state["id"], state["status"]) == (name, "running")
    other = ctnr.Container.load(name, root)
    assert other.pid == container.pid
    with pytest.raises(ctnr.StateError, match="that is not stopped: running"):
        other.delete()
    other.kill(signal.SIGKILL)
    other.close()
    assert container.wait(10) == 137
    assert container.wait() == 137
    assert container.status() == "stopped"
    with pytest.raises(ctnr.StateError, match="container not running"):
        container.kill(signal.SIGTERM)
    container.delete()
    with pytest.raises(ctnr.StateError, match="does not exist"):
        ctnr.Container.load(name, root)


def test_waiting_with_a_timeout(root: str, tree: str) -> None:
    container = ctnr.create(tree, ctnr.Options(["sleep", "1000"]), root=root)
    container.start()
    with pytest.raises(TimeoutError):
        container.wait(0.05)
    assert container.status() == "running"
    container.delete(force=True)


def test_a_created_container_that_nobody_starts(root: str, tree: str) -> None:
    container = ctnr.create(tree, ctnr.Options(["true"]), root=root)
    container.delete()
    assert os.listdir(root) == []


def test_a_terminal(root: str, tree: str) -> None:
    container = ctnr.create(tree, ctnr.Options(["sh", "-c", "tty; read x; echo got $x"], tty=True), root=root)
    assert container.console_fd is not None
    container.start()
    os.write(container.console_fd, b"word\n")
    seen = b""
    while b"got word" not in seen:
        ready, _, _ = select.select([container.console_fd], [], [], 15)
        assert ready, seen
        seen += os.read(container.console_fd, 1000)
    assert container.wait(15) == 0
    assert b"/dev/pts/0" in seen
    container.delete()


def test_a_bundle(root: str, bundle_of: MakeBundle, work: Path) -> None:
    from support import users

    made = bundle_of(users.get(users.ROOT), "/bin/sh", "-c", "exit 6")
    container = ctnr.Container.create(new_id(), str(made.path), root=root, detach=False)
    container.start()
    assert container.wait() == 6
    container.delete()


# --- threads and asyncio


def test_from_many_threads(run: Run) -> None:
    def one(number: int) -> tuple[int, bytes | None]:
        result = run("sh", "-c", f"cat; exit {number}", stdin=b"%d" % number, stdout=PIPE)
        return result.exit_code, result.stdout

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(40))) == [(n, b"%d" % n) for n in range(40)]


def test_while_other_threads_fork(run: Run) -> None:
    """What others start meanwhile gets none of our fds: a pipe's end of ours in a child of theirs would hang the reader."""
    stop = threading.Event()

    def fork() -> None:
        while not stop.is_set():
            subprocess.run(["/bin/sleep", "0.05"], check=True)

    threads = [threading.Thread(target=fork) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            assert run("cat", stdin=b"x" * 100_000, stdout=PIPE).stdout == b"x" * 100_000
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_asyncio_waits_for_the_pidfd(root: str, tree: str) -> None:
    async def one(number: int) -> int:
        loop = asyncio.get_running_loop()
        options = ctnr.Options(["sh", "-c", f"sleep 0.1; exit {number}"])
        container = await asyncio.to_thread(ctnr.create, tree, options, root=root)
        container.start()
        ended = loop.create_future()
        loop.add_reader(container, ended.set_result, None)
        await asyncio.wait_for(ended, 30)
        loop.remove_reader(container)
        code = container.wait()
        await asyncio.to_thread(container.delete)
        return code

    async def all() -> list[int]:
        return await asyncio.gather(*(one(n) for n in range(8)))

    begin = time.monotonic()
    assert asyncio.run(all()) == list(range(8))
    assert time.monotonic() - begin < 30


def test_beside_asyncios_own_children(root: str, tree: str) -> None:
    async def theirs() -> int:
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "sleep 0.1; exit 5")
        return await process.wait()

    async def both() -> tuple[int, ctnr.Result]:
        ours = asyncio.to_thread(ctnr.run, tree, ["sh", "-c", "sleep 0.1; exit 6"], root=root)
        return await asyncio.gather(theirs(), ours)

    code, result = asyncio.run(both())
    assert (code, result.exit_code) == (5, 6)


# --- hosts of all kinds


def test_a_small_program(program: Callable[..., Result]) -> None:
    done = program("""
        result = ctnr.run(tree, ["sh", "-c", "id -u; cat; exit 3"], stdin=b"in", stdout=ctnr.PIPE, root=root)
        print(result)
        print(ctnr.run("host:", ["cat", "/etc/hostname"], hostname="inside", stdout=ctnr.PIPE, root=root).stdout)
    """).ok()
    assert done.out.splitlines() == ["Result(exit_code=3, stdout=b'0\\nin', stderr=None)", "b'inside\\n'"]
    assert done.err == ""


def test_a_big_process(run: Run) -> None:
    # bytes are written: pages that exist, not just addresses
    big = bytearray(2 << 30)
    big[::4096] = b"x" * (len(big) // 4096)
    assert run("echo", "x", stdout=PIPE).stdout == b"x\n"
    del big


@pytest.mark.parametrize("closed", ["0", "1", "2", "0 1", "1 2", "0 2", "0 1 2"])
def test_a_host_without_stdio(program: Callable[..., Result], work: Path, closed: str) -> None:
    program(f"""
        for fd in {closed!r}.split():
            os.close(int(fd))
        command = ["sh", "-c", "cat; echo out; echo err >&2; exit 7"]
        result = ctnr.run(tree, command, stdin=b"in", stdout=ctnr.PIPE, stderr=ctnr.PIPE, root=root)
        piped = (result.exit_code, result.stdout, result.stderr)
        plain = ctnr.run(tree, ["sh", "-c", "cat; echo out; exit 8"], root=root).exit_code
        left = [fd for fd in {closed!r}.split() if os.path.exists("/proc/self/fd/" + fd)]
        with open("report", "w") as file:
            print(piped, plain, left, file=file)
        os._exit(0)
    """).ok()
    assert (work / "home/report").read_text() == "(7, b'inout\\n', b'err\\n') 8 []\n"


def test_a_hosts_signal_handlers_are_its_own(program: Callable[..., Result]) -> None:
    done = program("""
        import signal
        seen = []
        signal.signal(signal.SIGCHLD, lambda number, frame: seen.append(number))
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        before = {n: signal.getsignal(n) for n in signal.valid_signals()}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
        code = ctnr.run(tree, ["sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status"], root=root).exit_code
        assert before == {n: signal.getsignal(n) for n in signal.valid_signals()}
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == {signal.SIGUSR2}
        print(code, set(seen) <= {signal.SIGCHLD})
    """).ok()
    # the container's program has none of them (SIGQUIT, 4, is ignored by busybox' own shell)
    seen = [line.split() for line in done.out.splitlines()]
    assert seen[0] == ["SigBlk:", "0000000000000000"]
    assert seen[1] in (["SigIgn:", "0000000000000000"], ["SigIgn:", "0000000000000004"])
    assert seen[2] == ["0", "True"]


def test_a_host_that_ignores_sigchld(program: Callable[..., Result]) -> None:
    """Its children vanish without a trace, and so do exit codes: an error in words, not a hang."""
    done = program("""
        import signal
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        try:
            print(ctnr.run(tree, ["sh", "-c", "exit 3"], root=root).exit_code)
        except ctnr.CtnrError as error:
            print(error)
    """).ok()
    assert done.out == "3\n" or "SIGCHLD" in done.out


def test_a_host_with_odd_limits(program: Callable[..., Result]) -> None:
    done = program("""
        import resource
        os.umask(0o077)
        os.nice(3)
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))
        print(ctnr.run(tree, ["sh", "-c", "umask; touch /x; stat -c %a /x"], stdout=ctnr.PIPE, root=root).stdout)
    """).ok()
    assert done.out == "b'0022\\n644\\n'\n"


# --- nothing is left


def test_two_hundred_runs(run: Run, tree: str) -> None:
    run("true")
    fds, before = sorted(os.listdir("/proc/self/fd")), leaks.Snapshot.take()
    for number in range(200):
        if number % 3:
            run("sh", "-c", "exit 1", stdout=PIPE, stdin=b"x")
        elif number % 2:
            with pytest.raises(ctnr.CtnrError):
                run("/nope", stdout=PIPE, stderr=PIPE)
        else:
            run("true", init=True)
    assert sorted(os.listdir("/proc/self/fd")) == fds
    assert leaks.Snapshot.take().left_behind(before) == {}
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


@pytest.mark.parametrize("milliseconds", [1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 30, 50])
def test_interrupted(run: Run, root: str, tree: str, milliseconds: int) -> None:
    """^C at any time: KeyboardInterrupt comes out, and nothing is left."""
    fds = sorted(os.listdir("/proc/self/fd"))
    previous = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, milliseconds / 1000)
            run("sleep", "1000", stdout=PIPE, stdin=b"x")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert os.listdir(root) == []
    assert sorted(os.listdir("/proc/self/fd")) == fds
