# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.dbus: what is written and read is what jeepney, another implementation, writes and reads; nonsense is refused."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jeepney
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney.low_level import Parser

from ctnr.runtime import dbus
from ctnr.runtime.dbus import Connection, DBusError, Message, Reader, encode, marshal, message_size, split_types

# --- values of any type

_BASIC: dict[str, st.SearchStrategy[Any]] = {
    "y": st.integers(0, 255),
    "b": st.booleans(),
    "n": st.integers(-(1 << 15), (1 << 15) - 1),
    "q": st.integers(0, (1 << 16) - 1),
    "i": st.integers(-(1 << 31), (1 << 31) - 1),
    "u": st.integers(0, (1 << 32) - 1),
    "x": st.integers(-(1 << 63), (1 << 63) - 1),
    "t": st.integers(0, (1 << 64) - 1),
    "d": st.floats(allow_nan=False),
    "s": st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=20),
    "o": st.lists(st.text("abzAZ09_", min_size=1, max_size=5), max_size=3).map(lambda parts: "/" + "/".join(parts)),
    "g": st.sampled_from(["", "s", "a(sv)", "a{sv}", "(ii)au", "aay"]),
}
_types = st.recursive(
    st.sampled_from([*_BASIC, "v"]),
    lambda inner: st.one_of(
        inner.map(lambda t: "a" + t),
        st.lists(inner, min_size=1, max_size=3).map(lambda ts: f"({''.join(ts)})"),
        st.tuples(st.sampled_from("ybnqiuxtsog"), inner).map(lambda kv: f"a{{{kv[0]}{kv[1]}}}"),
    ),
    max_leaves=5,
)


def values(type: str) -> st.SearchStrategy[Any]:
    if type in _BASIC:
        return _BASIC[type]
    if type == "v":
        return _types.flatmap(lambda t: st.tuples(st.just(t), values(t)))
    if type == "ay":
        return st.binary(max_size=10)
    if type.startswith("a{"):
        key, value = split_types(type[2:-1])
        return st.lists(st.tuples(values(key), values(value)), max_size=3, unique_by=lambda pair: pair[0])
    if type.startswith("a"):
        return st.lists(values(type[1:]), max_size=3)
    return st.tuples(*map(values, split_types(type[1:-1])))


_messages = st.lists(_types, max_size=3).flatmap(
    lambda ts: st.tuples(st.just("".join(ts)), st.tuples(*map(values, ts)))
)


def as_jeepney(type: str, value: Any) -> Any:
    """jeepney reads dicts as dicts and has lists where we have tuples."""
    if type == "v":
        return (value[0], as_jeepney(value[0], value[1]))
    if type.startswith("a{"):
        key, inner = split_types(type[2:-1])
        return {as_jeepney(key, k): as_jeepney(inner, v) for k, v in value}
    if type == "ay":
        return value
    if type.startswith("a"):
        return [as_jeepney(type[1:], item) for item in value]
    if type.startswith("("):
        return tuple(as_jeepney(t, v) for t, v in zip(split_types(type[1:-1]), value, strict=True))
    return value


@given(_messages)
def test_round_trip(case: tuple[str, tuple[Any, ...]]) -> None:
    signature, args = case
    data = bytes(marshal(signature, args))
    reader = Reader(data, "<" if dbus.byteorder == "little" else ">")
    assert tuple(reader.read(type) for type in split_types(signature)) == args
    assert reader.at == len(data)


@given(_messages)
def test_jeepney_reads_what_we_write(case: tuple[str, tuple[Any, ...]]) -> None:
    signature, args = case
    parser = Parser()
    parser.add_data(encode(7, "a.b", "/c", "d.e", "F", signature, args))
    message = parser.get_next_message()
    assert message is not None and message.header.serial == 7
    assert message.header.fields[jeepney.HeaderFields.member] == "F"
    assert message.body == tuple(as_jeepney(t, v) for t, v in zip(split_types(signature), args, strict=True))


@given(_messages, st.booleans())
def test_we_read_what_jeepney_writes(case: tuple[str, tuple[Any, ...]], big: bool) -> None:
    signature, args = case
    theirs = tuple(as_jeepney(t, v) for t, v in zip(split_types(signature), args, strict=True))
    message = jeepney.new_signal(jeepney.DBusAddress("/c", "a.b", "d.e"), "F", signature or None, theirs)
    if big:
        message.header.endianness = jeepney.Endianness.big
    data = message.serialise(serial=9)
    assert message_size(data[:16]) == len(data)
    read = Message(data)
    assert read.serial == 9 and read.type == dbus.SIGNAL
    assert tuple(read.body) == args


@pytest.mark.parametrize(
    ("signature", "args"),
    [
        ("y", [256]),
        ("y", [-1]),
        ("b", [2]),
        ("i", ["x"]),
        ("s", ["a\0b"]),
        ("s", ["\udc80"]),
        ("o", ["a"]),
        ("o", ["/a//b"]),
        ("g", ["a"]),
        ("v", [("", 1)]),
        ("v", [("ii", 1)]),
        ("(ii)", [(1,)]),
        ("ii", [1]),
        ("a", [[]]),
        ("a{vs}", [[]]),
        ("{ss}", [("a", "b")]),
        ("()", [()]),
        ("z", [1]),
        ("a" * 40 + "y", [[]]),
        ("y" * 256, [1] * 256),
    ],
)
def test_what_does_not_fit_is_not_written(signature: str, args: list[Any]) -> None:
    with pytest.raises(ValueError):
        marshal(signature, args)


# --- the other end


class Server:
    """Someone who answers on a socket: authenticates as a D-Bus server does, then `serve` decides."""

    def __init__(self, serve: Callable[[Server, Any], None]) -> None:
        self.here, there = socket.socketpair()
        self.fd = there.detach()
        self.serve = serve
        self.parser = Parser()
        self.said = b""
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with self.here:
            try:
                self._greet()
                while (message := self.next()) is not None:
                    self.serve(self, message)
            except OSError:
                return

    def _greet(self) -> None:
        while not self.said.endswith(b"BEGIN\r\n"):
            data = self.here.recv(1000)
            if not data:
                return
            self.said += data
        assert self.said.startswith(b"\0AUTH EXTERNAL\r\n")
        self.here.sendall(b"DATA\r\nOK 0123456789abcdef0123456789abcdef\r\n")

    def next(self) -> Any:
        while (message := self.parser.get_next_message()) is None:
            data = self.here.recv(4096)
            if not data:
                return None
            self.parser.add_data(data)
        return message

    def reply(self, message: Any, signature: str | None = None, body: tuple[Any, ...] = ()) -> None:
        reply = jeepney.new_method_return(message, signature, body)
        self.here.sendall(reply.serialise(serial=1000))


@contextmanager
def connected(serve: Callable[[Server, Any], None], timeout: float = 10) -> Iterator[Connection]:
    server = Server(serve)
    connection = Connection(server.fd, "the server", False, timeout)
    try:
        yield connection
    finally:
        connection.close()
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_calls_signals_and_errors() -> None:
    def serve(server: Server, message: Any) -> None:
        member = message.header.fields[jeepney.HeaderFields.member]
        if member == "Twice":
            for word in ("other", "Done"):
                signal = jeepney.new_signal(jeepney.DBusAddress("/x", "b.us", "i.f"), word, "u", (5,))
                server.here.sendall(signal.serialise(serial=3))
            other = jeepney.new_method_return(message, "s", ("not for you",))
            other.header.fields[jeepney.HeaderFields.reply_serial] = 77
            server.here.sendall(other.serialise(serial=4))
            data = jeepney.new_method_return(message, "s", (message.body[0] * 2,)).serialise(serial=5)
            for byte in data:
                server.here.sendall(bytes([byte]))
        else:
            server.here.sendall(jeepney.new_error(message, "a.b.Wrong", "s", ("no such method",)).serialise(serial=6))

    with connected(serve) as connection:
        assert connection.call("d", "/p", "i.f", "Twice", "s", ("ab",)).body == ["abab"]
        assert connection.signal("i.f", "Done", None, dbus.monotonic() + 5).body == [5]
        with pytest.raises(DBusError, match="no such method") as caught:
            connection.call("d", "/p", "i.f", "Wrong")
        assert caught.value.name == "a.b.Wrong"


def refused(connection: Connection, words: str) -> None:
    with pytest.raises(DBusError, match=words) as caught:
        connection.call("d", "/p", "i.f", "M")
    assert "\n" not in str(caught.value)


def test_no_answer() -> None:
    with connected(lambda server, message: None, timeout=0.05) as connection:
        refused(connection, "timed out after 0 s waiting for the server")


def test_closed() -> None:
    with connected(lambda server, message: server.here.shutdown(socket.SHUT_RDWR)) as connection:
        refused(connection, "the server closed the connection")


HEADER = b"l\2\0\1"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"l\2\0\2" + bytes(12),
        HEADER + struct.pack("<III", 0xFFFFFFFF, 1, 0),
        HEADER + struct.pack("<III", 0, 1, 0xFFFFFFF0),
        HEADER + struct.pack("<III", 0, 1, 8) + b"\x05\1u\0" + struct.pack("<I", 1)[:3] + b"\1",
        HEADER + struct.pack("<III", 0, 1, 8) + b"\x05\1s\0" + struct.pack("<I", 1),  # of the wrong type
        HEADER + struct.pack("<III", 4, 1, 8) + b"\x05\1u\0" + struct.pack("<I", 1) + b"abcd",  # a body of no type
        HEADER + struct.pack("<III", 0, 1, 7) + b"\x08\1g\0\2aa\0" + b"",
        HEADER + struct.pack("<III", 0, 1, 8) + b"\x09\1v\0\1v\0\1",
    ],
)
def test_nonsense(data: bytes) -> None:
    with connected(lambda server, message: server.here.sendall(data + bytes(64))) as connection:
        refused(connection, "the server sent nonsense|closed the connection")


def _deep(depth: int) -> bytes:
    return b"\1v\0" * depth + b"\1y\0\1"


@given(st.binary(max_size=200), st.integers(0, 60))
def test_any_bytes(data: bytes, depth: int) -> None:
    """Whatever arrives is read or is a ValueError, which receive() makes a DBusError of."""
    for start in (b"", HEADER):
        whole = start + data
        if len(whole) >= 16:
            try:
                message_size(whole[:16])
                Message(whole)
            except (ValueError, KeyError):
                pass
    for signature in ("v", "a{sv}", "aav", "a(sogv)"):
        try:
            Reader(data, "<").read(signature)
        except ValueError:
            pass
    try:
        Reader(_deep(depth), "<").read("v")
        assert depth <= dbus.MAX_DEPTH
    except ValueError:
        assert depth >= dbus.MAX_DEPTH - 1


@given(_messages, st.integers(0, 1000), st.integers(1, 255))
def test_a_broken_message(case: tuple[str, tuple[Any, ...]], at: int, change: int) -> None:
    data = bytearray(encode(7, "a.b", "/c", "d.e", "F", *case))
    data[at % len(data)] ^= change
    try:
        if message_size(bytes(data[:16])) == len(data):
            Message(bytes(data))
    except ValueError:
        pass


@pytest.mark.parametrize("answer", [b"REJECTED EXTERNAL\r\n", b"ERROR\r\n", b"DATA\r\nREJECTED\r\n", b"x" * 5000])
def test_not_let_in(answer: bytes) -> None:
    here, there = socket.socketpair()
    with here:
        here.sendall(answer)
        with pytest.raises(DBusError, match="refused the authentication|does not speak D-Bus"):
            Connection(there.detach(), "the server", False)


# --- addresses


@pytest.mark.parametrize("kind", ["path", "escaped", "abstract", "second"])
def test_addresses(tmp_path: Path, kind: str) -> None:
    listener = socket.socket(socket.AF_UNIX)
    name = f"ctnr-test-{os.getpid()}-{kind}"
    path = tmp_path / ("a bus" if kind == "escaped" else "bus")
    listener.bind("\0" + name if kind == "abstract" else str(path))
    listener.listen()
    address = {
        "path": f"unix:path={path},guid=00",
        "escaped": f"unix:path={tmp_path}/a%20bus",
        "abstract": f"unix:guid=00,abstract={name}",
        "second": f"tcp:host=localhost,port=1;unix:path={tmp_path}/none;unix:path={path}",
    }[kind]

    def accept() -> None:
        with listener, listener.accept()[0] as end:
            end.recv(1000)
            end.sendall(b"DATA\r\nOK 00\r\n")

    thread = threading.Thread(target=accept)
    thread.start()
    dbus.connect(address, hello=False).close()
    thread.join(10)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("", "an empty address: only unix:path="),
        ("tcp:host=a", "only unix:path="),
        ("unix:path=%zz", "not a D-Bus address"),
        ("unix:runtime=yes", "only unix:path="),
    ],
)
def test_bad_addresses(address: str, words: str) -> None:
    with pytest.raises(DBusError, match=words):
        dbus.connect(address)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        dbus.connect(f"unix:path={tmp_path}/none")
