# SPDX-License-Identifier: Apache-2.0
"""As much of rtnetlink(7) as moving a network device takes: links and addresses, asked for and changed.

HOT imports only, but loaded only where there is a device. Every attribute's length is checked against the 16 bits it has
in a message: one that wraps around would have its data read as attributes (CVE-2021-43784).
"""

from __future__ import annotations

import _socket
from _struct import Struct
from errno import EINTR, EPROTO

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

# linux/netlink.h
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP_INTR = 1, 4, 0x300, 0x200, 0x400, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
# linux/rtnetlink.h, if_link.h, if_addr.h
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR = 16, 18, 20, 22
IFLA_IFNAME, IFLA_NET_NS_FD = 3, 28
IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_CACHEINFO, IFA_FLAGS = 1, 2, 3, 4, 6, 8
IFA_RT_PRIORITY, IFA_PROTO = 9, 11
IFA_F_PERMANENT, IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x80, 0x02, 0x200
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
IFF_UP = 1

_HEADER = Struct("=IHHII")
_LINK = Struct("=BxHiII")
_ADDRESS = Struct("=BBBBI")
_ATTRIBUTE = Struct("=HH")
_U32 = Struct("=I")
_ERROR = Struct("=i")
_MAX_ATTRIBUTE = 0xFFFF
_BUFFER = 1 << 18
_TRIES = 20
# what of an address is given again; and, where the device is what it was, its label (the name) and what is left of its time
_KEPT = (IFA_ADDRESS, IFA_LOCAL, IFA_BROADCAST, IFA_RT_PRIORITY, IFA_PROTO)
_EXACT = (IFA_LABEL, IFA_CACHEINFO)


class Link:
    """A network device."""

    __slots__ = ("flags", "index", "name")

    def __init__(self, index: int, flags: int, name: str) -> None:
        self.index = index
        self.flags = flags
        self.name = name


class Address:
    """An address of a device, as the kernel described it."""

    __slots__ = ("attributes", "family", "flags", "prefix", "scope")

    def __init__(self, family: int, prefix: int, flags: int, scope: int, attributes: dict[int, bytes]) -> None:
        self.family = family
        self.prefix = prefix
        self.flags = flags
        self.scope = scope
        self.attributes = attributes

    @property
    def permanent(self) -> bool:
        return bool(self.flags & IFA_F_PERMANENT)

    @property
    def universe(self) -> bool:
        return self.scope == RT_SCOPE_UNIVERSE

    @property
    def automatic(self) -> bool:
        """Whether the kernel makes it by itself: an IPv6 address of link scope."""
        return self.family == _socket.AF_INET6 and self.scope == RT_SCOPE_LINK


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute. Raises ValueError if its length does not fit."""
    size = _ATTRIBUTE.size + len(data)
    if size > _MAX_ATTRIBUTE:
        raise ValueError(f"a netlink attribute of {size} bytes: {_MAX_ATTRIBUTE} are the most")
    return _ATTRIBUTE.pack(size, kind) + data + bytes(-size % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """Those in `data`, by kind. Raises OSError EPROTO for what is damaged."""
    found: dict[int, bytes] = {}
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, at)
        if size < _ATTRIBUTE.size or at + size > len(data):
            raise OSError(EPROTO, "damaged netlink attribute")
        found[kind & 0x3FFF] = data[at + _ATTRIBUTE.size : at + size]
        at += size + -size % 4
    return found


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(type, flags, sequence number, payload) of each message in a datagram. Raises OSError EPROTO."""
    at = 0
    while at + _HEADER.size <= len(data):
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if size < _HEADER.size or at + size > len(data):
            raise OSError(EPROTO, "damaged netlink message")
        yield kind, flags, sequence, data[at + _HEADER.size : at + size]
        at += size + -size % 4


class Netlink:
    """A NETLINK_ROUTE socket: one of our own namespace, or `fd` (taken over), which may be of another."""

    __slots__ = ("_sequence", "_socket")

    def __init__(self, fd: int = -1) -> None:
        kind = _socket.SOCK_RAW | _socket.SOCK_CLOEXEC
        if fd >= 0:
            self._socket = _socket.socket(_socket.AF_NETLINK, kind, _socket.NETLINK_ROUTE, fd)
        else:
            self._socket = _socket.socket(_socket.AF_NETLINK, kind, _socket.NETLINK_ROUTE)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def _ask(self, kind: int, flags: int, payload: bytes) -> list[bytes]:
        """Send a request, return the payloads of its answer. Raises OSError with what the kernel says."""
        self._sequence += 1
        size = _HEADER.size + len(payload)
        # no address: the kernel is who we talk to, and our privileges count, not those of who opened the socket
        self._socket.send(_HEADER.pack(size, kind, flags | NLM_F_REQUEST | NLM_F_ACK, self._sequence, 0) + payload)
        answer: list[bytes] = []
        interrupted = False
        while True:
            data, sender = self._socket.recvfrom(_BUFFER)
            if sender[0] != 0:
                continue  # not from the kernel
            for got, marks, sequence, body in messages(data):
                if sequence != self._sequence:
                    continue
                interrupted = interrupted or bool(marks & NLM_F_DUMP_INTR)
                if got == NLMSG_ERROR:
                    (error,) = _ERROR.unpack_from(body)
                    if error:
                        raise OSError(-error, "netlink")
                    return answer
                if got == NLMSG_DONE:
                    if interrupted:
                        raise OSError(EINTR, "netlink")
                    return answer
                answer.append(body)

    def _dump(self, kind: int, payload: bytes) -> list[bytes]:
        for _ in range(_TRIES):
            try:
                return self._ask(kind, NLM_F_DUMP, payload)
            except OSError as error:
                if error.errno != EINTR:
                    raise
        raise OSError(EINTR, "netlink: what was asked for keeps changing")

    def links(self) -> list[Link]:
        """Every device of the namespace."""
        return [_link(body) for body in self._dump(RTM_GETLINK, _LINK.pack(0, 0, 0, 0, 0))]

    def link(self, name: str) -> Link | None:
        """The device of that name, None if there is none."""
        for link in self.links():
            if link.name == name:
                return link
        return None

    def addresses(self, index: int) -> list[Address]:
        """Those of a device."""
        found = []
        for body in self._dump(RTM_GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0)):
            family, prefix, flags, scope, where = _ADDRESS.unpack_from(body)
            if where == index:
                more = attributes(body[_ADDRESS.size :])
                if IFA_FLAGS in more:  # all 32 of them
                    (flags,) = _U32.unpack(more[IFA_FLAGS])
                found.append(Address(family, prefix, flags, scope, more))
        return found

    def set_link(self, index: int, *, name: str = "", ns_fd: int = -1, up: bool | None = None) -> None:
        """Rename a device, move it to the namespace of an fd, bring it up or down."""
        change = 0 if up is None else IFF_UP
        payload = _LINK.pack(0, 0, index, IFF_UP if up else 0, change)
        if name:
            payload += attribute(IFLA_IFNAME, name.encode("utf-8", "surrogateescape") + b"\0")
        if ns_fd >= 0:
            payload += attribute(IFLA_NET_NS_FD, _U32.pack(ns_fd))
        self._ask(RTM_NEWLINK, 0, payload)

    def add_address(self, index: int, address: Address, exact: bool = False) -> None:
        """Give a device an address that it has had elsewhere; `exact`: as it was, not for ever and under the name it has now."""
        payload = _ADDRESS.pack(address.family, address.prefix, 0, address.scope, index)
        for kind in (*_KEPT, *_EXACT) if exact else _KEPT:
            if kind in address.attributes:
                payload += attribute(kind, address.attributes[kind])
        payload += attribute(IFA_FLAGS, _U32.pack(address.flags & (IFA_F_NODAD | IFA_F_NOPREFIXROUTE)))
        self._ask(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payload)


def _link(body: bytes) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(body)
    name = attributes(body[_LINK.size :]).get(IFLA_IFNAME, b"").rstrip(b"\0")
    return Link(index, flags, name.decode("utf-8", "surrogateescape"))
