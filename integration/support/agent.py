# SPDX-License-Identifier: Apache-2.0
"""A listener for seccomp notifications, as the agents are that runc sends the fd to (config-linux.md#seccomp)."""

from __future__ import annotations

import array
import errno
import fcntl
import json
import os
import select
import socket
import struct
import threading
from pathlib import Path
from typing import Any

RECV, SEND = 0xC0502100, 0xC0182101
_NOTIF = struct.Struct("=QIIiIQ6Q")
_RESP = struct.Struct("=QqiI")
_CONTINUE = 1


class Agent:
    """Listens at `path` in a thread. `refused`: system call numbers that are answered with `error`; all others go on."""

    def __init__(
        self, path: Path, owner: tuple[int, int], refused: tuple[int, ...], error: int = errno.ENOMEDIUM
    ) -> None:
        self.refused, self.error = refused, error
        self.messages: list[dict[str, Any]] = []
        self.counts: list[int] = []  # fds in each message
        self.seen: list[tuple[int, int]] = []  # (pid, number)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        if os.getuid() == 0:
            os.chown(path, *owner)
        self._socket.listen(8)
        self._stop, self._wake = os.pipe()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.register(self._stop, select.POLLIN)
        notifications: set[int] = set()
        while True:
            for fd, event in poll.poll():
                if fd == self._stop:
                    for other in notifications:
                        os.close(other)
                    return
                if fd == self._socket.fileno():
                    found = self._accept()
                    notifications |= found
                    for new in found:
                        poll.register(new, select.POLLIN)
                elif event & select.POLLIN:
                    self._answer(fd)
                else:
                    poll.unregister(fd)
                    notifications.discard(fd)
                    os.close(fd)

    def _accept(self) -> set[int]:
        connection, _ = self._socket.accept()
        with connection:
            fds = array.array("i")
            data, ancillary, _, _ = connection.recvmsg(1 << 20, socket.CMSG_SPACE(64))
            for _, _, content in ancillary:
                fds.frombytes(content)
        if not data:
            return set()  # the start failed before it came to this
        self.counts.append(len(fds))
        self.messages.append(json.loads(data))
        return set(fds)

    def _answer(self, fd: int) -> None:
        buffer = bytearray(_NOTIF.size)
        try:
            fcntl.ioctl(fd, RECV, buffer)
            id, pid, _, number, *_ = _NOTIF.unpack(buffer)
            self.seen.append((pid, number))
            refuse = number in self.refused
            fcntl.ioctl(fd, SEND, _RESP.pack(id, 0, -self.error if refuse else 0, 0 if refuse else _CONTINUE))
        except OSError as problem:
            if problem.errno != errno.ENOENT:  # its process has been killed
                raise

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        os.write(self._wake, b"x")
        self._thread.join(10)
        self._socket.close()
        os.close(self._stop)
        os.close(self._wake)
