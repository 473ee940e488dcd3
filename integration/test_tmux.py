# SPDX-License-Identifier: Apache-2.0
"""`ctnr run -it` where people use it: a shell in a tmux window. vi, resizing, ^C, ^Z, and a terminal as it was before."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import leaks, machine, rootfs, runtimes
from support.bundles import new_id
from support.runtimes import Runtime
from support.users import User


class Tmux:
    """A tmux server of the user's with one window that runs a shell; text is read off its screen."""

    def __init__(self, user: User, work: Path, rows: int = 24, cols: int = 80) -> None:
        [self.tmux] = machine.need("tmux")
        self.user = user
        self.socket = work / "tmux"
        shell = "env PS1='host$ ' ENV= /bin/sh"
        self("new-session", "-d", "-x", str(cols), "-y", str(rows), shell)
        self("set-option", "-g", "window-size", "manual")
        self("set-option", "-g", "remain-on-exit", "on")
        self.until(r"host\$ *$")

    def __call__(self, *words: str) -> str:
        argv = runtimes.full_argv(
            # the checkout has to be in reach of what runs inside
            [str(runtimes.ctnr_bin()), "--version"],
            self.user,
        )
        [command] = [n for n, word in enumerate(argv) if word == str(runtimes.ctnr_bin())]
        argv[command:] = [self.tmux, "-f", "/dev/null", "-S", str(self.socket), *words]
        done = subprocess.run(argv, env=self.user.env(), capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"tmux {words}: {done.stderr}"
        leaks.reap()
        return done.stdout

    def screen(self) -> str:
        lines = self("capture-pane", "-p").splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip("\n")

    def until(self, pattern: str, seconds: float = 20.0) -> re.Match[str]:
        """Wait until the screen matches."""
        last = ""
        found: re.Match[str] | None = None

        def matches() -> bool:
            nonlocal last, found
            last = self.screen()
            found = re.search(pattern, last, re.MULTILINE)
            return found is not None

        assert machine.poll(matches, seconds, every=0.05), f"no {pattern!r} on the screen within {seconds} s:\n{last}"
        assert found
        return found

    def type(self, text: str) -> None:
        self("send-keys", "-l", text)
        self("send-keys", "Enter")

    def keys(self, *names: str) -> None:
        self("send-keys", *names)

    def close(self) -> None:
        self("kill-server")


@pytest.fixture
def tmux(user: User, work: Path) -> Iterator[Tmux]:
    place = work / "tmux-place"
    place.mkdir()
    rootfs.give(place, user.uid, user.gid)
    made = Tmux(user, place)
    yield made
    made.close()


@pytest.fixture
def command(runtime: Runtime, work: Path) -> str:
    """`ctnr --root ... run` for a shell to type."""
    return shlex.join([str(runtimes.ctnr_bin()), "--root", str(runtime.state_root), "run"])


@pytest.fixture
def tree(user: User, work: Path) -> Path:
    return rootfs.make_busybox(work / "tree", user.uid, user.gid)


def start(tmux: Tmux, command: str, tree: Path, *flags: str) -> None:
    """A shell in a container in the window."""
    tmux.type(f"clear; stty -a | cksum; {command} -it -e PS1='inside> ' {' '.join(flags)} {tree} sh")
    tmux.until(r"^inside> *$")


def test_a_session(tmux: Tmux, command: str, tree: Path) -> None:
    start(tmux, command, tree)
    before = tmux.until(r"^(\d+ \d+)$").group(1)
    tmux.type("tty; stty size; echo $TERM")
    tmux.until(r"^/dev/pts/0\n24 80\nxterm")
    # ^C ends what runs inside, not the shell there, nor ctnr
    tmux.type("sleep 1000; echo after $?")
    tmux.keys("C-c")
    tmux.until(r"^inside> *$")
    # ^D ends the shell; its exit code is the command's
    tmux.type("(exit 7)")
    tmux.until(r"\(exit 7\)\ninside> *$")
    tmux.keys("C-d")
    tmux.until(r"host\$ *$")
    tmux.type("echo code $?; stty -a | cksum")
    tmux.until(r"^code 7$")
    # the terminal is as it was
    assert tmux.until(r"^code 7\n(\d+ \d+)$").group(1) == before


def test_the_size_follows(tmux: Tmux, command: str, tree: Path) -> None:
    (tree / "watch").write_text("trap 'echo now $(stty size)' WINCH; echo ready; while :; do sleep 0.1; done")
    start(tmux, command, tree)
    tmux.type("sh /watch")
    tmux.until(r"^ready$")
    tmux("resize-window", "-x", "100", "-y", "30")
    tmux.until(r"^now 30 100$")
    tmux("resize-window", "-x", "71", "-y", "17")
    tmux.until(r"^now 17 71$")
    tmux.keys("C-c")
    tmux.until(r"inside> *$")
    tmux.type("exit")
    tmux.until(r"host\$ *$")


def test_vi(tmux: Tmux, command: str, tree: Path) -> None:
    start(tmux, command, tree)
    tmux.type("vi /tmp/text")
    tmux.until(r"(?s)~.*/tmp/text")
    tmux.keys("i")
    tmux("send-keys", "-l", "first line")
    tmux.keys("Enter")
    tmux("send-keys", "-l", "second")
    tmux.until(r"^first line\nsecond")
    tmux.keys("Escape")
    tmux.until(r"^- /tmp/text")  # a key that comes at once would make a sequence of the two
    tmux("send-keys", "-l", "k0x")
    tmux.until(r"^irst line")
    tmux.type(":wq")
    tmux.until(r"inside> *$")
    tmux.type("clear; cat /tmp/text; exit 3")
    tmux.until(r"irst line\nsecond\n(.*\n)?host\$ *$")
    assert (tree / "tmp/text").read_text() == "irst line\nsecond\n"


def test_suspending_inside(tmux: Tmux, command: str, tree: Path) -> None:
    """^Z is the inner shell's, as any key."""
    start(tmux, command, tree)
    tmux.type("cat")
    tmux.keys("C-z")
    tmux.until(r"Stopped +cat")
    tmux.type("fg")
    tmux.type("through")
    tmux.until(r"^through\nthrough$")
    tmux.keys("C-c")
    tmux.type("exit")
    tmux.until(r"host\$ *$")


def test_suspending_the_command(tmux: Tmux, command: str, tree: Path) -> None:
    """Without -t, ^Z stops ctnr, and fg has it go on."""
    tmux.type(f"set -m; clear; {command} {tree} sh -c 'echo ready; while :; do sleep 0.1; [ -e /go ] && exit 4; done'")
    tmux.until(r"^ready$")
    tmux.keys("C-z")
    tmux.until(r"(?i)stopped")
    tmux.until(r"host\$ *$")
    (tree / "go").write_text("")
    tmux.type("fg")
    tmux.until(r"host\$ *$(?!\n*.*fg)")
    tmux.type("clear; echo code $?")
    tmux.until(r"^code \d+$")


def test_interrupting_the_command(tmux: Tmux, command: str, tree: Path, runtime: Runtime) -> None:
    """Without -t, ^C goes to the container's program; with --init even one without a handler ends."""
    tmux.type(f"clear; {command} --init {tree} sh -c 'echo ready; exec sleep 1000'")
    tmux.until(r"^ready$")
    tmux.keys("C-c")
    tmux.until(r"host\$ *$")
    tmux.type("echo code $?")
    tmux.until(r"^code 130$")
    assert runtime.ids() == []


def test_a_lost_window(tmux: Tmux, command: str, tree: Path, runtime: Runtime, user: User) -> None:
    """The window is closed: the container ends, and is gone."""
    name = new_id()
    start(tmux, command, tree, "--name", name, "--rm")
    assert runtime.status(name) == "running"
    tmux("respawn-pane", "-k", "sleep 1000")
    assert machine.poll(lambda: runtime.ids() == [], 20), runtime.ids()


def test_a_terminal_whose_program_dies_restores_ours(tmux: Tmux, command: str, tree: Path) -> None:
    start(tmux, command, tree)
    before = tmux.until(r"^(\d+ \d+)$").group(1)
    tmux.type("stty raw -echo; exec false")
    tmux.until(r"host\$ *$")
    tmux.type("clear; stty -a | cksum")
    assert tmux.until(r"^(\d+ \d+)$").group(1) == before
