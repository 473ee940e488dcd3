# SPDX-License-Identifier: Apache-2.0
"""Real terminals: a command behind a pty of its own, and a socket that receives a container's console."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

from . import leaks, machine, views
from .runtimes import finished, full_argv
from .users import User


def set_size(fd: int, rows: int, cols: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))


def get_size(fd: int) -> tuple[int, int]:
    rows, cols, _, _ = struct.unpack("HHHH", fcntl.ioctl(fd, termios.TIOCGWINSZ, b"\0" * 8))
    return rows, cols


class Terminal:
    """The master end of a pty. Reads collect in `seen`."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.seen = b""

    def _pump(self, seconds: float) -> bool:
        """Take what comes within `seconds`; False at the end of the other side."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return True
        try:
            data = os.read(self.master, 65536)
        except OSError:  # EIO: the slave side is closed
            return False
        self.seen += data
        return bool(data)

    def expect(self, text: str, seconds: float = 15.0) -> str:
        """Wait for `text`; what came up to and with it is returned and taken from `seen`."""
        wanted = text.encode()
        end = time.monotonic() + seconds
        alive = True
        while wanted not in self.seen:
            assert alive, f"the terminal closed without {text!r}: {self.seen!r}"
            assert time.monotonic() < end, f"no {text!r} within {seconds} s: {self.seen!r}"
            alive = self._pump(0.05)
        cut = self.seen.index(wanted) + len(wanted)
        found, self.seen = self.seen[:cut], self.seen[cut:]
        return found.decode("utf-8", "replace")

    def read_all(self, seconds: float = 15.0) -> str:
        """Everything until the other side closes."""
        end = time.monotonic() + seconds
        while self._pump(0.05):
            assert time.monotonic() < end, f"the terminal did not close within {seconds} s: {self.seen!r}"
        return self.seen.decode("utf-8", "replace")

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        os.close(self.master)


class Behind(Terminal):
    """A command whose controlling terminal, stdin, stdout and stderr are a new pty of `rows` x `cols`."""

    def __init__(
        self,
        argv: list[str],
        user: User,
        *,
        rows: int = 24,
        cols: int = 80,
        view: str = views.HOST,
        env: dict[str, str] | None = None,
        **how: Any,
    ) -> None:
        master, slave = os.openpty()
        set_size(master, rows, cols)

        if os.getuid() == 0:
            os.fchown(slave, user.uid, user.gid)
        [setsid] = machine.need("setsid")
        self.process = subprocess.Popen(
            [setsid, "--ctty", *full_argv(argv, user, view)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env={**user.env(), **(env or {})},
            **how,
        )
        leaks.own(self.process.pid)
        os.close(slave)
        super().__init__(master)

    def resize(self, rows: int, cols: int) -> None:
        set_size(self.master, rows, cols)

    def wait(self, seconds: float = 20.0) -> int:
        """The exit code, after everything it wrote has been read."""
        self.read_all(seconds)
        code = self.process.wait(seconds)
        finished(self.process)
        return code

    def close(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            finished(self.process)
        super().close()


class ConsoleSocket:
    """The caller's side of `--console-socket`: a listening unix socket that is sent the master of the container's pty."""

    def __init__(self, path: Path, user: User) -> None:
        self.path = path
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        if os.getuid() == 0:
            os.chown(path, user.uid, user.gid)
        self.listener.listen(1)

    def receive(self, seconds: float = 15.0) -> Terminal:
        self.listener.settimeout(seconds)
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(seconds)
            fds = array.array("i")
            _, ancillary, flags, _ = connection.recvmsg(
                4096, socket.CMSG_SPACE(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC
            )
            assert not flags & socket.MSG_CTRUNC
            for level, kind, data in ancillary:
                if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                    fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        assert len(fds) == 1, f"one fd is sent on the console socket, not {len(fds)}"
        return Terminal(fds[0])

    def close(self) -> None:
        self.listener.close()
        self.path.unlink(missing_ok=True)
