# SPDX-License-Identifier: Apache-2.0
"""`--log journald:ID` and `--log syslog:ID`: each event is a datagram to the machine's log daemon. `logging` costs 20 ms.

Imported only for these. Raises OSError where no daemon listens.
"""

from __future__ import annotations

import _socket
import posix
import time
from errno import EMSGSIZE, EPROTOTYPE

from ctnr.cli.args import UsageError
from ctnr.files import fsencode
from ctnr.log import escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.log import Sink

JOURNAL = "/run/systemd/journal/socket"
SYSLOG = "/dev/log"
# syslog(3): severities, and LOG_USER
_SEVERITY = {"error": 3, "warning": 4, "info": 6, "debug": 7}
_USER = 1 << 3
# what every daemon takes in one piece
_LONGEST = 8 << 10
_MAX_ID = 64


def sink(scheme: str, id: str) -> Sink:
    """What writes an event there under the name `id`. Raises UsageError for a name that could forge a line, OSError."""
    if not id or len(id) > _MAX_ID or not id.isprintable() or any(c in " []:" for c in id):
        raise UsageError(f"--log {scheme}: needs a name of letters, as in {scheme}:NAME")
    return Journal(id) if scheme == "journald" else Syslog(id)


def _connect(path: str) -> tuple[_socket.socket, bool]:
    """The socket, and whether it is a stream."""
    for kind in (_socket.SOCK_DGRAM, _socket.SOCK_STREAM):
        found = _socket.socket(_socket.AF_UNIX, kind | _socket.SOCK_CLOEXEC)
        try:
            found.connect(path)
        except OSError as error:
            found.close()
            if error.errno != EPROTOTYPE or kind == _socket.SOCK_STREAM:
                error.filename = path
                raise
        else:
            return found, kind == _socket.SOCK_STREAM
    raise AssertionError


class Journal:
    """systemd's native protocol (JOURNAL_NATIVE_PROTOCOL.md). ID is crun's field."""

    __slots__ = ("_id", "_socket")

    def __init__(self, id: str) -> None:
        self._id = fsencode(id)
        self._socket, _ = _connect(JOURNAL)

    def write(self, level: str, msg: str) -> None:
        text = msg.encode("utf-8", "backslashreplace")
        try:
            self._send(level, text)
        except OSError as error:
            if error.errno != EMSGSIZE:
                raise
            self._send(level, text[:_LONGEST])

    def _send(self, level: str, text: bytes) -> None:
        fields = b"PRIORITY=%d\nSYSLOG_IDENTIFIER=%s\nID=%s\n" % (_SEVERITY[level], self._id, self._id)
        # with its length before it: it may have any characters
        self._socket.send(fields + b"MESSAGE\n" + len(text).to_bytes(8, "little") + text + b"\n")

    def close(self) -> None:
        self._socket.close()


class Syslog:
    """syslog(3)'s lines, with the pid (RFC 3164)."""

    __slots__ = ("_socket", "_stream", "_tag")

    def __init__(self, id: str) -> None:
        self._tag = f"{id}[{posix.getpid()}]"
        self._socket, self._stream = _connect(SYSLOG)

    def write(self, level: str, msg: str) -> None:
        head = f"<{_USER | _SEVERITY[level]}>{time.strftime('%b %e %H:%M:%S')} {self._tag}: "
        line = (head + escape(msg)).encode("utf-8", "backslashreplace")[:_LONGEST]
        if self._stream:
            self._socket.sendall(line + b"\0")
        else:
            self._socket.send(line)

    def close(self) -> None:
        self._socket.close()
