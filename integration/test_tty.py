# SPDX-License-Identifier: Apache-2.0
"""Terminals: a person before ours, a program in the container's, and conmon's way of having neither.

What is in runc's language holds for runc as well (CTNR_OCI=/usr/sbin/runc).
"""

from __future__ import annotations

import os
import signal
import subprocess
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import machine, runtimes
from support.bundles import MakeBundle, new_id
from support.machine import poll
from support.runtimes import Runtime
from support.terminals import Behind, ConsoleSocket, get_size
from support.users import User

AtTerminal = Callable[..., Behind]


@pytest.fixture
def behind() -> Iterator[AtTerminal]:
    """Starts a command at a terminal of its own."""
    started: list[Behind] = []

    def start(argv: list[str], user: User, **how: Any) -> Behind:
        started.append(Behind(argv, user, **how))
        return started[-1]

    yield start
    for one in started:
        one.close()


@pytest.fixture
def sleeper(runtime: Runtime, bundle: MakeBundle) -> str:
    return runtime.start_detached(bundle("/probe", "--wait"))


@pytest.fixture(params=["run", "exec"])
def script_at(request: pytest.FixtureRequest, behind: AtTerminal, runtime: Runtime, bundle: MakeBundle) -> AtTerminal:
    """Runs a shell script as a container with a terminal or by `exec --tty`, at a terminal."""

    def start(script: str, **how: Any) -> Behind:
        if request.param == "exec":
            sleeper = runtime.start_detached(bundle("/probe", "--wait"))
            argv = runtime.argv("exec", "--tty", sleeper, "/bin/sh", "-c", script)
        else:
            made = bundle("/bin/sh", "-c", script)
            made.process["terminal"] = True
            argv = runtime.argv("run", "--bundle", str(made.save().path), new_id())
        return behind(argv, runtime.user, **how)

    return start


def mode(person: Behind) -> list[Any]:
    return termios.tcgetattr(person.master)


def test_what_is_typed_and_shown(script_at: AtTerminal) -> None:
    person = script_at("tty; echo ready; read x; echo got:$x; exit 7")
    # a terminal of the container's own /dev/pts
    person.expect("/dev/pts/0\r\n")
    person.expect("ready\r\n")
    person.send("hello\r")
    person.expect("hello\r\ngot:hello\r\n")
    assert person.wait() == 7


def test_it_is_the_controlling_terminal(script_at: AtTerminal) -> None:
    person = script_at("echo by name >/dev/tty; exit 3")
    person.expect("by name\r\n")
    assert person.wait() == 3


def test_the_size_is_ours_and_follows(script_at: AtTerminal) -> None:
    script = "stty size; trap 'stty size' WINCH; trap 'exit 2' TERM; echo ready; while :; do sleep 0.05; done"
    person = script_at(script, rows=33, cols=111)
    # from the beginning, without asking twice
    person.expect("33 111\r\n")
    person.expect("ready")
    person.resize(44, 99)
    person.expect("44 99")
    person.process.send_signal(signal.SIGTERM)
    assert person.wait() == 2


def test_interrupt_goes_inside(script_at: AtTerminal) -> None:
    person = script_at("trap 'echo INT; exit 4' INT; echo ready; while :; do sleep 0.05; done")
    person.expect("ready")
    person.send("\x03")
    person.expect("INT")
    assert person.wait() == 4


def test_a_job_is_stopped_inside(script_at: AtTerminal) -> None:
    person = script_at("set -m; sh -c 'echo job; exec sleep 100'; echo back:$?; kill -9 %1; exec sh -c 'exit 5'")
    person.expect("job")
    person.send("\x1a")
    person.expect("back:148")
    assert person.wait() == 5


def test_the_terminal_is_raw_and_then_as_it_was(script_at: AtTerminal) -> None:
    person = script_at("echo ready; read x; exit 0")
    before = mode(person)
    person.expect("ready")
    assert poll(lambda: mode(person) != before, 10)
    assert not mode(person)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)
    person.send("\r")
    assert poll(lambda: person.process.poll() is not None or not person._pump(0.01), 20)
    assert mode(person) == before
    assert person.wait() == 0


def test_terminate_restores_the_terminal(script_at: AtTerminal) -> None:
    person = script_at("trap 'exit 6' TERM; echo ready; while :; do sleep 0.05; done")
    before = mode(person)
    person.expect("ready")
    assert poll(lambda: mode(person) != before, 10)
    person.process.send_signal(signal.SIGTERM)
    assert poll(lambda: person.process.poll() is not None or not person._pump(0.01), 20)
    assert mode(person) == before
    assert person.wait() == 6


def test_much_output_arrives(script_at: AtTerminal) -> None:
    person = script_at("seq 1 30000")
    text = person.read_all(30)
    assert text.splitlines()[-1] == "30000"
    assert len(text.splitlines()) == 30000
    assert person.wait() == 0


def test_a_shell_for_people(script_at: AtTerminal) -> None:
    """What a shell needs: job control, a prompt, line editing."""
    person = script_at("PS1='box> ' exec sh -i")
    person.expect("box> ")
    person.send("echo $((6 * 7))\r")
    person.expect("\r\n42\r\n")
    person.expect("box> ")
    # the shell has left its own line editing once it says something
    person.send("echo start''; cat\r")
    person.expect("\r\nstart\r\n")
    person.send("x\r")
    person.expect("x\r\nx\r\n")
    person.send("\x04")
    person.expect("box> ")
    person.send("exit 9\r")
    assert person.wait() == 9


def test_no_terminal_of_ours(runtime: Runtime, bundle: MakeBundle) -> None:
    """The container's can do without: its output comes with its line ends."""
    if runtime.name == "runc":
        pytest.skip("not applicable: runc wants one")
    made = bundle("/bin/sh", "-c", "read x; echo got:$x")
    made.process["terminal"] = True
    done = runtime.run(made, stdin="in\n").ok()
    assert done.out == "in\r\ngot:in\r\n"


# --- the console socket


@pytest.fixture
def console(work: Path, user: User) -> Iterator[ConsoleSocket]:
    os.chmod(work, 0o777)
    socket = ConsoleSocket(work / "console.sock", user)
    yield socket
    socket.close()


def test_create_with_a_console_socket(runtime: Runtime, bundle: MakeBundle, console: ConsoleSocket) -> None:
    made = bundle("/bin/sh", "-c", "stty size; read x; echo got:$x; exec /probe --wait")
    made.process.update(terminal=True, consoleSize={"height": 12, "width": 34})
    id = runtime.create(made, "--console-socket", str(console.path))
    terminal = console.receive()
    try:
        assert get_size(terminal.master) == (12, 34)
        runtime("start", id).ok()
        terminal.expect("12 34\r\n")
        terminal.send("hello\n")
        terminal.expect("got:hello\r\n")
    finally:
        terminal.close()


def test_exec_with_a_console_socket(runtime: Runtime, sleeper: str, console: ConsoleSocket, work: Path) -> None:
    script = "read x; echo got:$x; exec /probe --wait"
    flags = ["--detach", "--console-socket", str(console.path), "--pid-file", str(work / "pid")]
    runtime.quiet("exec", "--tty", *flags, sleeper, "/bin/sh", "-c", script).ok()
    terminal = console.receive()
    try:
        terminal.send("hello\n")
        terminal.expect("got:hello\r\n")
        os.kill(int((work / "pid").read_text()), signal.SIGKILL)
        runtime.wait_pid_gone(int((work / "pid").read_text()))
    finally:
        terminal.close()


def test_a_terminal_wants_somebody(runtime: Runtime, bundle: MakeBundle, sleeper: str, work: Path) -> None:
    made = bundle("/bin/true")
    made.process["terminal"] = True
    made.save()
    done = runtime("create", "--bundle", str(made.path), new_id())
    assert done.code == 1
    assert "cannot allocate tty if runc will detach without setting console socket" in done.err
    done = runtime("exec", "--tty", "--detach", sleeper, "/bin/true")
    assert done.code == 255
    assert "cannot allocate tty if runc will detach without setting console socket" in done.err
    done = runtime("exec", "--console-socket", str(work / "nope"), sleeper, "/bin/true")
    assert done.code == 255
    assert "cannot use console socket if runc will not detach or allocate tty" in done.err
    assert runtime.ids() == [sleeper]


# --- a terminal emulator


class Screen:
    """A tmux server of the test's own: a real terminal, of which the screen can be read."""

    def __init__(self, argv: list[str], user: User, cols: int, rows: int, work: Path) -> None:
        [self.tmux] = machine.need("tmux")
        self.socket = work / "tmux.sock"
        self.code = work / "code"
        shell = 'code=$0; "$@"; echo $? >"$code"; exec sleep 1000'
        command = ["/bin/sh", "-c", shell, str(self.code), *runtimes.full_argv(argv, user)]
        env = {**os.environ, **user.env(), "TERM": "xterm-256color"}
        self.call("-f", "/dev/null", "new-session", "-d", "-x", str(cols), "-y", str(rows), *command, env=env)

    def call(self, *args: str, env: dict[str, str] | None = None) -> str:
        done = subprocess.run(
            [self.tmux, "-S", str(self.socket), *args], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    def shows(self, text: str, seconds: float = 20.0) -> str:
        screen = ""

        def there() -> bool:
            nonlocal screen
            screen = self.call("capture-pane", "-p")
            return text in screen

        assert poll(there, seconds, every=0.05), f"no {text!r} on\n{screen}"
        return screen

    def keys(self, *keys: str) -> None:
        self.call("send-keys", *keys)

    def exit_code(self) -> int:
        assert poll(lambda: self.code.exists() and self.code.read_text().endswith("\n"), 20)
        return int(self.code.read_text())

    def close(self) -> None:
        self.call("kill-server")
        self.socket.unlink(missing_ok=True)


def test_vi_in_a_terminal_emulator(root_runtime: Runtime, root: User, bundle_of: MakeBundle, work: Path) -> None:
    made = bundle_of(root, "/bin/sh").writable()
    made.process["terminal"] = True
    made.process["env"] += ["TERM=xterm", "PS1=box> "]
    made.save()
    screen = Screen(root_runtime.argv("run", "--bundle", str(made.path), new_id()), root, 90, 20, work)
    try:
        screen.shows("box>")
        screen.keys("stty size", "Enter")
        # tmux keeps a line for itself
        screen.shows("19 90") if "19 90" in screen.shows("90") else screen.shows("20 90")
        screen.keys("vi /tmp/file", "Enter")
        screen.shows("~")
        screen.keys("i", "one", "Enter", "two")
        screen.shows("I /tmp/file")
        # vi waits for what may follow an escape
        screen.keys("Escape")
        screen.shows("- /tmp/file")
        screen.call("resize-window", "-x", "60", "-y", "15")
        screen.keys("G", "o", "three")
        screen.shows("I /tmp/file")
        screen.keys("Escape")
        screen.shows("- /tmp/file")
        screen.keys(":wq", "Enter")
        screen.shows("box>")
        screen.keys("clear; cat /tmp/file; stty size", "Enter")
        text = screen.shows("three")
        assert [line for line in text.splitlines() if line in ("one", "two", "three")] == ["one", "two", "three"]
        screen.shows("15 60")
        screen.keys("clear; echo sleep''ing; sleep 1000", "Enter")
        screen.shows("sleeping")
        screen.keys("C-c")
        screen.shows("box>")
        screen.keys("clear; echo sleep''ing; sleep 1000", "Enter")
        screen.shows("sleeping")
        screen.keys("C-z")
        screen.shows("Stopped")
        screen.keys("kill -9 %1; exec sh -c 'exit 11'", "Enter")
        assert screen.exit_code() == 11
        # cooked again: the shell behind it echoes
        screen.keys("typed")
        screen.shows("typed")
    finally:
        screen.close()
    assert root_runtime.ids() == []
