# SPDX-License-Identifier: Apache-2.0
"""A D-Bus client, as much of one as talking to systemd takes. HOT: loaded with the systemd cgroup manager only.

Method calls, their replies and signals over a UNIX socket, one thread, no file descriptors in messages. Whoever is at the
other end is not trusted to send well-formed messages: whatever else arrives is a DBusError, and nothing waits forever.
Source: the D-Bus Specification 0.43, <https://dbus.freedesktop.org/doc/dbus-specification.html>.
"""

from __future__ import annotations

import posix
from _struct import Struct
from errno import EAGAIN, EINTR
from select import POLLIN, poll
from sys import byteorder
from time import monotonic, sleep

from ctnr import _native, files
from ctnr.errors import CtnrError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# How long an answer may take, in seconds (runc's number)
TIMEOUT = 30.0
# Our own limits: the bus's (128 MiB, depth 64) are for other purposes
MAX_MESSAGE = 1 << 20
MAX_DEPTH = 32

METHOD_CALL, METHOD_RETURN, ERROR, SIGNAL = 1, 2, 3, 4
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SENDER, _SIGNATURE = 1, 2, 3, 4, 5, 6, 7, 8
_FIELD_TYPES = ("", "o", "s", "s", "s", "u", "s", "s", "g", "u")
_SOCK_STREAM = 1

# code -> format and size, which is the alignment too
_FIXED = {"y": "B", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "b": "I", "h": "I"}
_SIZES = {"y": 1, "n": 2, "q": 2, "i": 4, "u": 4, "x": 8, "t": 8, "d": 8, "b": 4, "h": 4}
_ALIGN = {**_SIZES, "s": 4, "o": 4, "g": 1, "a": 4, "(": 8, "{": 8, "v": 1}
_STRUCTS = {order + code: Struct(order + format) for order in "<>" for code, format in _FIXED.items()}
_OURS = "<" if byteorder == "little" else ">"


class DBusError(CtnrError):
    """What the other end answered, `name` being the error's; "" when it did not answer, or nonsense."""

    def __init__(self, message: str, name: str = "") -> None:
        super().__init__(message)
        self.name = name


# --- types


def next_type(signature: str, at: int = 0, depth: int = 0) -> int:
    """Where the complete type that begins at `at` ends. Raises ValueError."""
    if at >= len(signature) or depth > MAX_DEPTH:
        raise ValueError(f"not a signature: {signature!r}")
    code = signature[at]
    if code in _SIZES or code in "sogv":
        return at + 1
    if code == "a":
        if signature[at + 1 : at + 2] != "{":
            return next_type(signature, at + 1, depth + 1)
        end = next_type(signature, at + 2, depth + 1)
        if end != at + 3 or signature[at + 2] == "v":
            raise ValueError(f"not a signature: {signature!r}: a key is of a basic type")
        end = next_type(signature, end, depth + 1)
        if signature[end : end + 1] == "}":
            return end + 1
    elif code == "(":
        end = at + 1
        while signature[end : end + 1] not in (")", ""):
            end = next_type(signature, end, depth + 1)
        if signature[end : end + 1] == ")" and end > at + 1:
            return end + 1
    raise ValueError(f"not a signature: {signature!r}")


def split_types(signature: str) -> list[str]:
    """The complete types a signature is made of. Raises ValueError."""
    if len(signature) > 255:
        raise ValueError("a signature has at most 255 characters")
    found = []
    at = 0
    while at < len(signature):
        end = next_type(signature, at)
        found.append(signature[at:end])
        at = end
    return found


# --- writing


def marshal(signature: str, values: Sequence[Any]) -> bytearray:
    """The values as bytes, in this machine's order. A variant is (signature, value), a dict or a list of pairs `a{..}`.

    Raises ValueError for what does not fit.
    """
    out = bytearray()
    types = split_types(signature)
    if len(types) != len(values):
        raise ValueError(f"{len(values)} values for {signature!r}")
    for type, value in zip(types, values, strict=True):
        _put(out, type, value, 0)
    return out


def _pad(out: bytearray, alignment: int) -> None:
    out += bytes(-len(out) % alignment)


def _put(out: bytearray, type: str, value: Any, depth: int) -> None:
    code = type[0]
    _pad(out, _ALIGN[code])
    if code in _FIXED:
        if code == "b" and value not in (0, 1):
            raise ValueError(f"{value!r} is no boolean")
        try:
            out += _STRUCTS[_OURS + code].pack(value)
        except Exception as error:  # struct.error is not among the builtins
            raise ValueError(f"{value!r} is not of type {code}: {error}") from None
    elif code in "sog":
        data = value.encode("utf-8", "strict")
        if b"\0" in data:
            raise ValueError("a string has a NUL")
        if code == "o" and not _is_path(value):
            raise ValueError(f"{value!r} is no object path")
        if code == "g":
            split_types(value)
            out.append(len(data))
        else:
            out += _STRUCTS[_OURS + "u"].pack(len(data))
        out += data
        out.append(0)
    elif code == "v":
        inner, content = value
        if next_type(inner) != len(inner) or depth >= MAX_DEPTH:
            raise ValueError(f"a variant is of one type, not of {inner!r}")
        _put(out, "g", inner, depth)
        _put(out, inner, content, depth + 1)
    elif code == "a":
        inner = type[1:]
        at = len(out)
        out += bytes(4)
        _pad(out, _ALIGN[inner[0]])
        start = len(out)
        if inner == "y":
            out += bytes(value)
        else:
            for item in value.items() if isinstance(value, dict) else value:
                _put(out, inner, item, depth + 1)
        out[at : at + 4] = _STRUCTS[_OURS + "u"].pack(len(out) - start)
    else:
        members = split_types(type[1:-1])
        if len(members) != len(value):
            raise ValueError(f"{value!r} is not of type {type}")
        for member, item in zip(members, value, strict=True):
            _put(out, member, item, depth + 1)


def _is_path(text: str) -> bool:
    if not text.startswith("/") or (text != "/" and (text.endswith("/") or "//" in text)):
        return False
    return all(c.isascii() and (c.isalnum() or c in "_/") for c in text)


# --- reading


class Reader:
    """Reads values from a message's bytes. Raises ValueError for anything that the specification does not allow."""

    __slots__ = ("at", "data", "end", "order")

    def __init__(self, data: bytes, order: str, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.order = order
        self.at = at
        self.end = len(data) if end is None else end

    def _take(self, size: int) -> bytes:
        at = self.at
        if size > self.end - at:
            raise ValueError("a message ends too early")
        self.at = at + size
        return self.data[at : self.at]

    def align(self, alignment: int) -> None:
        if any(self._take(-self.at % alignment)):
            raise ValueError("padding that is not zero")

    def read(self, type: str, depth: int = 0) -> Any:
        """One value of a complete type. Arrays are lists (bytes: `ay`), structs tuples, variants (signature, value)."""
        if depth > MAX_DEPTH:
            raise ValueError("a message is nested too deep")
        code = type[0]
        self.align(_ALIGN[code])
        if code in _FIXED:
            value = _STRUCTS[self.order + code].unpack(self._take(_SIZES[code]))[0]
            if code == "b":
                if value > 1:
                    raise ValueError(f"{value} is no boolean")
                return bool(value)
            return value
        if code in "sog":
            data = self._take(self._take(1)[0] if code == "g" else self.read("u"))
            if self._take(1) != b"\0" or b"\0" in data:
                raise ValueError("a string does not end where it says")
            text = data.decode("utf-8")  # UnicodeDecodeError is a ValueError
            if code == "o" and not _is_path(text):
                raise ValueError("not an object path")
            if code == "g":
                split_types(text)
            return text
        if code == "v":
            inner = self.read("g")
            if not inner or next_type(inner) != len(inner):
                raise ValueError("a variant is not of one type")
            return inner, self.read(inner, depth + 1)
        if code == "a":
            inner = type[1:]
            size = self.read("u")
            self.align(_ALIGN[inner[0]])
            if size > self.end - self.at:
                raise ValueError("an array is longer than its message")
            if inner == "y":
                return self._take(size)
            end = self.at + size
            inside = Reader(self.data, self.order, self.at, end)
            items = []
            while inside.at < end:
                items.append(inside.read(inner, depth + 1))
            self.at = end
            return items
        return tuple(self.read(member, depth + 1) for member in split_types(type[1:-1]))


class Message:
    """A message that has arrived: `type`, `serial`, `fields` by their codes, `body` (a list of values)."""

    __slots__ = ("body", "fields", "serial", "type")

    def __init__(self, data: bytes) -> None:
        order = {b"l": "<", b"B": ">"}[data[:1]]
        self.type = data[1]
        header = Reader(data, order, 8)
        self.serial: int = header.read("u")
        self.fields: dict[int, Any] = {}
        for code, (signature, value) in header.read("a(yv)"):
            if code < len(_FIELD_TYPES) and signature != _FIELD_TYPES[code]:
                raise ValueError("a header field is of the wrong type")
            self.fields[code] = value
        header.align(8)
        self.body = [header.read(type) for type in split_types(self.fields.get(_SIGNATURE, ""))]
        if header.at != len(data):
            raise ValueError("a message is longer than its signature")

    @property
    def text(self) -> str:
        """An error's words."""
        return str(self.body[0]) if self.body and isinstance(self.body[0], str) else ""


def message_size(start: bytes) -> int:
    """How long the message is that starts with these 16 bytes. Raises ValueError."""
    order = {b"l": "<", b"B": ">"}.get(start[:1])
    if order is None or start[3] != 1:
        raise ValueError("not a D-Bus message")
    number = _STRUCTS[order + "u"]
    body, fields = number.unpack(start[4:8])[0], number.unpack(start[12:16])[0]
    size = 16 + fields + -fields % 8 + body
    if size > MAX_MESSAGE:
        raise ValueError(f"a message of {size} bytes")
    return int(size)


def encode(serial: int, destination: str, path: str, interface: str, member: str, signature: str, args: Any) -> bytes:
    """A method call. Raises ValueError."""
    body = marshal(signature, args)
    fields: list[tuple[int, tuple[str, Any]]] = [
        (_PATH, ("o", path)),
        (_INTERFACE, ("s", interface)),
        (_MEMBER, ("s", member)),
    ]
    if destination:
        fields.append((_DESTINATION, ("s", destination)))
    if signature:
        fields.append((_SIGNATURE, ("g", signature)))
    head = marshal("yyyyuua(yv)", (ord("l" if _OURS == "<" else "B"), METHOD_CALL, 0, 1, len(body), serial, fields))
    _pad(head, 8)
    return bytes(head + body)


# --- the connection


class Connection:
    """A connection to a bus (`hello`), or to a service that speaks D-Bus itself. Raises DBusError, OSError.

    `signals` collects those that have arrived while something else was waited for.
    """

    __slots__ = ("_buffer", "_serial", "fd", "signals", "timeout", "where")

    def __init__(self, fd: int, where: str, hello: bool, timeout: float = TIMEOUT) -> None:
        self.fd = fd
        self.where = where
        self.timeout = timeout
        self.signals: list[Message] = []
        self._buffer = b""
        self._serial = 0
        try:
            self._authenticate()
            if hello:
                self.call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.fd >= 0:
            posix.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        self.close()

    def _authenticate(self) -> None:
        # EXTERNAL without a name: the kernel says who we are, which in a user namespace we may not know ourselves
        self._send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")
        end = monotonic() + self.timeout
        for expected in (b"DATA", b"OK"):
            while b"\r\n" not in self._buffer:
                if len(self._buffer) > 4096:
                    raise DBusError(f"{self.where} does not speak D-Bus")
                self._receive(end)
            line, _, self._buffer = self._buffer.partition(b"\r\n")
            if line.split(b" ")[0] != expected:
                raise DBusError(f"{self.where} refused the authentication: {line[:100].decode('ascii', 'replace')}")

    def _send(self, data: bytes) -> None:
        try:
            while data:
                data = data[_native.sendmsg(self.fd, data) :]
        except OSError as error:
            raise DBusError(f"write to {self.where}: {posix.strerror(error.errno or 0).lower()}") from None

    def _receive(self, end: float) -> None:
        poller = poll()
        poller.register(self.fd, POLLIN)
        left = end - monotonic()
        if left <= 0 or not poller.poll(left * 1000):
            raise DBusError(f"timed out after {self.timeout:.0f} s waiting for {self.where}")
        try:
            data = posix.read(self.fd, 65536)
        except OSError as error:
            if error.errno == EINTR:
                return
            raise DBusError(f"read from {self.where}: {posix.strerror(error.errno or 0).lower()}") from None
        if not data:
            raise DBusError(f"{self.where} closed the connection")
        self._buffer += data

    def receive(self, end: float) -> Message:
        """The next message. DBusError when none comes before `end` (time.monotonic()), or what comes is none."""
        try:
            while len(self._buffer) < 16:
                self._receive(end)
            size = message_size(self._buffer[:16])
            while len(self._buffer) < size:
                self._receive(end)
            data, self._buffer = self._buffer[:size], self._buffer[size:]
            return Message(data)
        except ValueError as error:
            raise DBusError(f"{self.where} sent nonsense: {error}") from None

    def call(
        self, destination: str, path: str, interface: str, member: str, signature: str = "", args: Sequence[Any] = ()
    ) -> Message:
        """Call a method; the reply. DBusError for an error reply, with the other end's words."""
        self._serial += 1
        serial = self._serial
        self._send(encode(serial, destination, path, interface, member, signature, args))
        end = monotonic() + self.timeout
        while True:
            message = self.receive(end)
            if message.type == SIGNAL:
                self.signals.append(message)
            elif message.fields.get(_REPLY_SERIAL) == serial:
                if message.type == METHOD_RETURN:
                    return message
                if message.type == ERROR:
                    name = str(message.fields.get(_ERROR_NAME, ""))
                    raise DBusError(message.text or name, name)

    def signal(self, interface: str, member: str, sender: str | None, end: float) -> Message:
        """The next signal of that name, from that sender (None: a service without a bus between)."""
        while True:
            message = self.signals.pop(0) if self.signals else self.receive(end)
            fields = message.fields
            if message.type != SIGNAL or fields.get(_INTERFACE) != interface or fields.get(_MEMBER) != member:
                continue
            if fields.get(_SENDER) == sender:
                return message


def sender(message: Message) -> str | None:
    """Who sent it, as the bus says; None without a bus."""
    found: str | None = message.fields.get(_SENDER)
    return found


def connect(address: str, hello: bool = True, timeout: float = TIMEOUT) -> Connection:
    """Connect to a server address (`unix:path=...` or `unix:abstract=...`; the first of several, `;` between, that answers).

    Raises DBusError, OSError.
    """
    failed: Exception | None = None
    for one in address.split(";"):
        kind, _, rest = one.partition(":")
        keys = dict(part.partition("=")[::2] for part in rest.split(","))
        if kind != "unix" or not ("path" in keys or "abstract" in keys):
            failed = failed or DBusError(
                f"{one or 'an empty address'}: only unix:path= and unix:abstract= are supported"
            )
            continue
        try:
            if "path" in keys:
                where = _unescape(keys["path"])
                return Connection(_open(where), where, hello, timeout)
            where = "@" + _unescape(keys["abstract"])
            return Connection(_open_abstract(where[1:]), where, hello, timeout)
        except (OSError, CtnrError) as error:
            failed = error
    assert failed is not None  # split() yields one at least
    raise failed


def _open(path: str) -> int:
    pause = 0.1
    directory = files.open_dir(files.dirname(path) or "/")
    try:
        while True:
            try:
                return _native.unix_connect(directory, files.basename(path), _SOCK_STREAM)
            except OSError as error:
                # too many who want to connect: runc waits for up to 13 seconds in all
                if error.errno != EAGAIN or pause > 7:
                    raise OSError(error.errno, posix.strerror(error.errno or 0), path) from None
            sleep(pause)
            pause *= 2
    finally:
        posix.close(directory)


def _open_abstract(name: str) -> int:
    from _socket import AF_UNIX, SOCK_STREAM, socket

    end = socket(AF_UNIX, SOCK_STREAM)
    try:
        end.connect("\0" + name)
        return end.detach()
    finally:
        end.close()


def _unescape(text: str) -> str:
    first, *rest = text.split("%")
    try:
        data = first.encode() + b"".join(bytes([int(part[:2], 16)]) + part[2:].encode() for part in rest)
        return data.decode("utf-8", "surrogateescape")
    except ValueError:
        raise DBusError(f"not a D-Bus address: {text!r}") from None
