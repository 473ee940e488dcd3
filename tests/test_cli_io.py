# SPDX-License-Identifier: Apache-2.0
"""ctnr.cli.io on real terminals: a helper of ours holds a program on an inner one, the test plays the person outside."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

# What stands for ctnr: a child on a terminal of its own (or on our stdio), waited for by foreground()
HELPER = """
import os, pty, struct, fcntl, signal, sys, termios
from ctnr.cli.io import foreground

class Process:
    console_fd = None

    def __init__(self, tty):
        if tty:
            self.console_fd, slave = pty.openpty()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            # as the container's init does
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
            if tty:
                fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
                for fd in 0, 1, 2:
                    os.dup2(slave, fd)
                os.close(slave)
                os.close(self.console_fd)
            os.execv("/bin/sh", ["sh", "-c", sys.argv[2]])
        self.pidfd = os.pidfd_open(self.pid)
        if tty:
            os.close(slave)

    def wait(self):
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code if code >= 0 else 128 - code

mode = sys.argv[1]
code = foreground(lambda: Process("t" in mode), "i" in mode)
os._exit(code)
"""


class Person:
    """Somebody at a terminal, who has started the helper there."""

    def __init__(self, mode: str, script: str, size: tuple[int, int] = (24, 80)) -> None:
        self.master, slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(slave)
        self.slave = slave
        self.seen = b""
        self.process = subprocess.Popen(
            # a session of its own, whose terminal this is
            ["setsid", "--ctty", sys.executable, "-P", "-c", HELPER, mode, script],
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("=4H", rows, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def sees(self, text: bytes, seconds: float = 20) -> None:
        """Wait until the screen has shown `text`; what comes up to there is then forgotten."""
        end = time.monotonic() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"no {text!r} in {self.seen!r}"
            self.seen += os.read(self.master, 65536)
        self.seen = self.seen.partition(text)[2]

    def leaves(self) -> int:
        """The exit code of the helper; the terminal must be as it was."""
        code = self.process.wait(20)
        assert termios.tcgetattr(self.slave) == self.before
        return code

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.master, self.slave):
            try:
                os.close(fd)
            except OSError:
                pass


@pytest.fixture
def people() -> Iterator[list[Person]]:
    found: list[Person] = []
    yield found
    for person in found:
        person.close()


@pytest.fixture
def at_terminal(people: list[Person]) -> object:
    def start(mode: str, script: str, size: tuple[int, int] = (24, 80)) -> Person:
        people.append(Person(mode, script, size))
        return people[-1]

    return start


def wait_until(check: object, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not check():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_output_input_and_exit_code(at_terminal) -> None:  # type: ignore[no-untyped-def]
    person = at_terminal("ti", "echo ready; read x; echo got:$x; exit 7")
    person.sees(b"ready\r\n")
    person.type(b"hello\r")
    # the inner terminal echoes, and once
    person.sees(b"hello\r\ngot:hello\r\n")
    assert person.leaves() == 7
    assert b"hello" not in person.seen


def test_the_window_size_is_followed(at_terminal) -> None:  # type: ignore[no-untyped-def]
    script = (
        "trap 'stty size' WINCH; until [ \"$(stty size)\" = '33 111' ]; do sleep 0.01; done; echo ready; "
        "while :; do sleep 0.01; done"
    )
    person = at_terminal("ti", script, (33, 111))
    person.sees(b"ready")
    person.resize(44, 99)
    person.sees(b"44 99")
    person.process.send_signal(signal.SIGTERM)
    assert person.leaves() == 143


def test_keys_make_signals_inside_only(at_terminal) -> None:  # type: ignore[no-untyped-def]
    person = at_terminal(
        "ti", "trap 'echo INT' INT; trap 'echo QUIT; exit 5' QUIT; echo ready; while :; do sleep 0.01; done"
    )
    person.sees(b"ready")
    person.type(b"\x03")
    person.sees(b"INT")
    person.type(b"\x1c")
    person.sees(b"QUIT")
    assert person.leaves() == 5


def test_suspending_a_job_inside(at_terminal) -> None:  # type: ignore[no-untyped-def]
    person = at_terminal("ti", "set -m; sh -c 'echo job; exec sleep 100'; echo back:$?; exec sh -c 'exit 3'")
    person.sees(b"job")
    person.type(b"\x1a")
    # 128 + SIGTSTP: the job was stopped, and the helper was not
    person.sees(b"back:148")
    assert person.leaves() == 3


def test_keys_are_bytes(at_terminal) -> None:  # type: ignore[no-untyped-def]
    person = at_terminal("ti", "stty raw -echo; printf ready; head -c 6 | od -An -tx1")
    person.sees(b"ready")
    person.type(b"\x03\x04\x11\x13\r\xff")
    person.sees(b"03 04 11 13 0d ff")
    assert person.leaves() == 0


def test_signals_are_sent_on(at_terminal) -> None:  # type: ignore[no-untyped-def]
    script = (
        "for s in HUP INT USR1 USR2 ALRM CONT; do trap \"echo got-$s\" $s; done; trap 'exit 9' TERM; echo ready; "
        "while :; do sleep 0.01; done"
    )
    for mode in ("ti", ""):
        person = at_terminal(mode, script)
        person.sees(b"ready")
        for name in ("HUP", "INT", "USR1", "USR2", "ALRM", "CONT"):
            person.process.send_signal(getattr(signal, f"SIG{name}"))
            person.sees(f"got-{name}".encode())
        person.process.send_signal(signal.SIGTERM)
        assert person.leaves() == 9


def test_killed_by_a_signal(at_terminal) -> None:  # type: ignore[no-untyped-def]
    assert at_terminal("ti", "kill -9 $$").leaves() == 137
    assert at_terminal("", "kill -9 $$").leaves() == 137


def test_a_stopped_helper_gives_the_terminal_back(at_terminal) -> None:  # type: ignore[no-untyped-def]
    person = at_terminal("ti", "trap '' TSTP; echo ready; read x; echo got:$x")
    person.sees(b"ready")
    assert termios.tcgetattr(person.slave) != person.before
    person.process.send_signal(signal.SIGTSTP)
    wait_until(lambda: state_of(person.process.pid) == "T")
    assert termios.tcgetattr(person.slave) == person.before
    person.resize(10, 20)
    person.process.send_signal(signal.SIGCONT)
    wait_until(lambda: termios.tcgetattr(person.slave) != person.before)
    person.type(b"x\r")
    person.sees(b"got:x")
    assert person.leaves() == 0


def test_without_stdin_the_terminal_keeps_its_keys(at_terminal) -> None:  # type: ignore[no-untyped-def]
    person = at_terminal("t", "trap 'echo INT; exit 4' INT; echo ready; while :; do sleep 0.01; done")
    person.sees(b"ready\r\n")
    lflag = termios.tcgetattr(person.slave)[3]
    assert lflag == person.before[3]
    person.type(b"\x03")
    person.sees(b"INT")
    assert person.leaves() == 4


def test_all_output_arrives(at_terminal) -> None:  # type: ignore[no-untyped-def]
    person = at_terminal("ti", "seq 1 20000; exit 6")
    person.sees(b"\r\n20000\r\n")
    assert person.leaves() == 6


def test_all_output_arrives_at_a_slow_reader(at_terminal, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Both terminals are full when the program ends: neither what is in ours nor what is in the inner one is lost."""
    person = at_terminal("ti", f"seq 1 5000; touch {tmp_path}/done; exit 6")
    wait_until((tmp_path / "done").exists)
    person.sees(b"\r\n5000\r\n")
    assert person.leaves() == 6


def test_a_paste_that_is_not_read_stops_nothing(at_terminal) -> None:  # type: ignore[no-untyped-def]
    """Neither side may wait for the other: output and signals go on while nobody takes the input."""
    person = at_terminal(
        "ti", "stty raw -echo; trap 'exit 8' TERM; echo ready; while :; do echo tick; sleep 0.01; done"
    )
    person.sees(b"ready")
    os.set_blocking(person.master, False)
    pasted = 0
    try:
        while pasted < 4 << 20:
            pasted += os.write(person.master, b"x" * 4096)
            person.sees(b"tick")
    except BlockingIOError:
        pass
    person.sees(b"tick")
    person.process.send_signal(signal.SIGTERM)
    assert person.leaves() == 8


def test_a_terminal_that_is_stopped_stops_no_signal(at_terminal) -> None:  # type: ignore[no-untyped-def]
    person = at_terminal("ti", "echo ready; exec seq 1 100000000")
    person.sees(b"ready")
    # nobody reads the screen now
    code = None

    def gone() -> bool:
        nonlocal code
        # the first for the program, the second for us, who would wait to show what it said last
        person.process.send_signal(signal.SIGTERM)
        code = person.process.poll()
        return code is not None

    wait_until(gone)
    assert code == 143
    assert termios.tcgetattr(person.slave) == person.before


def test_a_terminal_that_is_closed_takes_the_inner_one_along() -> None:
    person = Person("ti", "trap '' HUP; while echo x; do :; done 2>/dev/null; exit 5")
    person.sees(b"x")
    os.close(person.slave)
    os.close(person.master)
    assert person.process.wait(20) == 5


def helper(mode: str, script: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-P", "-c", HELPER, mode, script], timeout=30, check=False, **options)  # type: ignore[call-overload,no-any-return]


def test_pipes_instead_of_a_terminal() -> None:
    done = helper("ti", "read x; echo got:$x; exit 2", input=b"hello\n", capture_output=True)
    assert (done.returncode, done.stdout) == (2, b"hello\r\ngot:hello\r\n")


def test_a_reader_that_has_gone_ends_the_program() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    # it ignores SIGHUP, as a first process in a container does; the write fails
    done = helper(
        "t", "trap '' HUP; while echo x; do :; done 2>/dev/null; exit 5", stdout=write_end, stdin=subprocess.DEVNULL
    )
    os.close(write_end)
    assert done.returncode == 5


def test_output_to_a_file(tmp_path: Path) -> None:
    with open(tmp_path / "out", "wb") as file:
        file.write(b"before\n")
        file.flush()
        done = helper("ti", "seq 1 3", stdout=file, stdin=subprocess.DEVNULL)
    assert done.returncode == 0
    assert (tmp_path / "out").read_bytes() == b"before\n1\r\n2\r\n3\r\n"


def test_a_pipe_of_ours_stays_blocking() -> None:
    read_end, write_end = os.pipe()
    helper("ti", "echo x", stdout=write_end, stdin=subprocess.DEVNULL)
    assert os.get_blocking(write_end)
    os.close(read_end)
    os.close(write_end)


def test_signals_ignored_by_the_caller_stay_ignored() -> None:
    script = "trap 'exit 4' HUP; trap 'exit 3' USR1; kill -HUP $PPID; kill -USR1 $PPID; while :; do sleep 0.01; done"
    code = subprocess.run(["nohup", sys.executable, "-P", "-c", HELPER, "", script], timeout=30, check=False).returncode
    assert code == 3


def test_signals_are_sent_on_from_the_beginning() -> None:
    """What arrives while the program is being started is not lost, and does not end us."""
    code = HELPER.replace('lambda: Process("t" in mode)', "start").replace(
        "mode = sys.argv[1]",
        "mode = sys.argv[1]\n"
        "def start():\n"
        "    for number in (signal.SIGUSR1, signal.SIGTERM):\n"
        "        os.kill(os.getpid(), number)\n"
        "    process = Process(False)\n"
        "    os.read(read_end, 1)\n"
        "    return process\n"
        "read_end, write_end = os.pipe()\n"
        "os.dup2(write_end, 9)\n",
    )
    script = "trap 'echo usr1' USR1; trap 'exit 9' TERM; echo >&9; while :; do sleep 0.01; done"
    done = subprocess.run([sys.executable, "-P", "-c", code, "", script], timeout=30, check=False, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (9, b"usr1\n", b"")


def test_a_start_that_hangs_can_be_interrupted() -> None:
    code = (
        "import os, signal, sys\n"
        "from ctnr.cli.io import foreground\n"
        "def start():\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    print('still here', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print('never here', flush=True)\n"
        "try:\n"
        "    foreground(start)\n"
        "except KeyboardInterrupt as e:\n"
        "    print(int(e.args[0]))\n"
        "assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], timeout=30, check=True, capture_output=True, text=True)
    assert done.stdout == "still here\n15\n"


def test_handlers_and_descriptors_are_put_back() -> None:
    code = (
        HELPER.replace("os._exit(code)", "")
        + """
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN
assert signal.set_wakeup_fd(-1) == -1
print(len(os.listdir("/proc/self/fd")))
"""
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "", "true"], timeout=30, check=True, capture_output=True, text=True
    )
    # stdio, the pidfd, the listing
    assert done.stdout == "5\n"
