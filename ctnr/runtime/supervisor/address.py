# SPDX-License-Identifier: Apache-2.0
"""struct sockaddr, read from a copy: what a program may put there is anything."""

from __future__ import annotations

import socket
import struct
from errno import EINVAL

AF_UNSPEC, AF_UNIX, AF_INET, AF_INET6 = 0, 1, 2, 10
MAX_ADDRESS = 128  # struct sockaddr_storage; the kernel takes no longer one
_FAMILY = struct.Struct("=H")
_IN = struct.Struct("!H4s")
_IN6 = struct.Struct("!HI16s")
_SCOPE = struct.Struct("=I")


class Address:
    """A socket address: `family` (AF_*), `raw` (its bytes), and, as far as the family has them, `host` and `port`, `scope`
    (an interface's index) and `flow` of IPv6, or `path` (AF_UNIX; bytes that begin with a NUL are an abstract name)."""

    __slots__ = ("family", "flow", "host", "path", "port", "raw", "scope")

    def __init__(self, raw: bytes) -> None:
        """From the bytes of a struct sockaddr of that length. OSError EINVAL, EAFNOSUPPORT as connect(2) says them."""
        self.raw = raw
        self.host = ""
        self.port = self.flow = self.scope = 0
        self.path = b""
        if len(raw) < 2 or len(raw) > MAX_ADDRESS:
            raise OSError(EINVAL, "Invalid argument")
        [self.family] = _FAMILY.unpack_from(raw)
        if self.family == AF_INET:
            if len(raw) < 16:
                raise OSError(EINVAL, "Invalid argument")
            self.port, host = _IN.unpack_from(raw, 2)
            self.host = socket.inet_ntop(socket.AF_INET, host)
        elif self.family == AF_INET6:
            if len(raw) < 24:
                raise OSError(EINVAL, "Invalid argument")
            self.port, self.flow, host = _IN6.unpack_from(raw, 2)
            self.host = socket.inet_ntop(socket.AF_INET6, host)
            if len(raw) >= 28:
                [self.scope] = _SCOPE.unpack_from(raw, 24)
        elif self.family == AF_UNIX:
            name = raw[2:]
            if name[:1] != b"\0":  # a path ends at its NUL, if it has one
                name = name.partition(b"\0")[0]
            self.path = name

    def __repr__(self) -> str:
        if self.family == AF_UNIX:
            return f"Address({self.path!r})"
        if self.family in (AF_INET, AF_INET6):
            return f"Address({self.host!r}, {self.port})"
        return f"Address(family={self.family})"

    @property
    def mapped(self) -> str:
        """The host, and of an IPv4 address in IPv6 clothes (::ffff:1.2.3.4) the IPv4 one: what a rule should look at."""
        if self.family == AF_INET6:
            host = socket.inet_pton(socket.AF_INET6, self.host)
            if host[:12] == b"\0" * 10 + b"\xff\xff":
                return socket.inet_ntop(socket.AF_INET, host[12:])
        return self.host


def pack(host: str, port: int) -> bytes:
    """The struct sockaddr of an IP address."""
    try:
        return _FAMILY.pack(AF_INET) + _IN.pack(port, socket.inet_pton(socket.AF_INET, host)) + bytes(8)
    except OSError:
        return _FAMILY.pack(AF_INET6) + _IN6.pack(port, 0, socket.inet_pton(socket.AF_INET6, host)) + bytes(4)
