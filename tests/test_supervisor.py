# SPDX-License-Identifier: Apache-2.0
"""on_syscall without containers: what is parsed of a program's memory, the kernel's structures, the rules of the filter."""

from __future__ import annotations

import asyncio
import ctypes
import os
import platform
import socket
import struct
import threading
from errno import EAGAIN, EINVAL
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.errors import CtnrError, SpecError
from ctnr.runtime.supervisor import Source, Supervisor, request, rules
from ctnr.runtime.supervisor.address import AF_INET, AF_INET6, AF_UNIX, Address, pack

hosts = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_address_or_an_errno(raw: bytes) -> None:
    try:
        address = Address(raw)
    except OSError as error:
        assert error.errno == EINVAL
        assert len(raw) < 24 or len(raw) > 128
    else:
        assert address.raw == raw
        assert repr(address)
        assert isinstance(address.mapped, str)


@given(st.sampled_from([AF_INET, AF_INET6, AF_UNIX]), st.binary(min_size=22, max_size=126))
def test_of_the_families_that_matter(family: int, rest: bytes) -> None:
    address = Address(struct.pack("=H", family) + rest)
    assert address.family == family
    if family != AF_UNIX:
        assert address.port == int.from_bytes(rest[:2], "big")
        assert socket.inet_pton(family, address.host) == (rest[2:6] if family == AF_INET else rest[6:22])
    elif rest[0]:
        assert address.path == rest.partition(b"\0")[0]
    else:
        assert address.path == rest


@given(hosts, st.integers(0, 65535))
def test_what_is_packed_is_what_the_kernel_takes(host: str, port: int) -> None:
    address = Address(pack(host, port))
    family = AF_INET6 if ":" in host else AF_INET
    assert address.port == port
    assert socket.inet_pton(family, address.host) == socket.inet_pton(family, host)
    assert len(address.raw) == (16 if family == AF_INET else 28)
    assert address.family == family


def test_ipv4_in_ipv6() -> None:
    assert Address(pack("::ffff:169.254.169.254", 80)).mapped == "169.254.169.254"
    assert Address(pack("::1", 80)).mapped == "::1"
    assert Address(pack("10.0.0.1", 80)).mapped == "10.0.0.1"


def test_not_a_host() -> None:
    with pytest.raises(OSError):
        pack("example.org", 80)


def test_structures_are_the_kernel_s() -> None:
    class Sizes(ctypes.Structure):
        _fields_ = [("notif", ctypes.c_uint16), ("response", ctypes.c_uint16), ("data", ctypes.c_uint16)]

    sizes = Sizes()
    number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(number, 3, 0, ctypes.byref(sizes)) == 0  # SECCOMP_GET_NOTIF_SIZES
    assert (sizes.notif, sizes.response) == (request.NOTIF.size, request.RESP.size)
    # _IOWR('!', 0, struct seccomp_notif) ...
    assert 3 << 30 | sizes.notif << 16 | ord("!") << 8 == request.IOCTL_RECV
    assert 3 << 30 | sizes.response << 16 | ord("!") << 8 | 1 == request.IOCTL_SEND
    assert 1 << 30 | request.ADDFD.size << 16 | ord("!") << 8 | 3 == request.IOCTL_ADDFD


@given(st.integers(0, 2**64 - 1))
def test_int32(value: int) -> None:
    made = request.Request(cast("Any", None), 0, 0, "x", 0, 0, (value,) * 6)
    assert made.int32(0) == ctypes.c_int32(value & 0xFFFFFFFF).value


# --- the rules


def test_rules_come_first_and_io_uring_goes() -> None:
    given: Any = {
        "linux": {
            "seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["a"], "action": "SCMP_ACT_KILL"}]}
        }
    }
    config = rules.with_notifications(given, {"openat", "connect"}, "/run/x")
    section = config["linux"]["seccomp"]
    assert [rule["names"] for rule in section["syscalls"]] == [
        ["connect", "openat"],
        ["io_uring_setup", "io_uring_enter", "io_uring_register"],
        ["a"],
    ]
    assert section["listenerPath"] == "/run/x"
    assert "SECCOMP_FILTER_FLAG_SPEC_ALLOW" in section["flags"]
    assert len(given["linux"]["seccomp"]["syscalls"]) == 1  # not the caller's
    asked = rules.with_notifications({}, ["io_uring_setup"], "/run/x")  # type: ignore[typeddict-item]
    assert "io_uring_setup" not in asked["linux"]["seccomp"]["syscalls"][1]["names"]


def test_one_listener() -> None:
    config: Any = {"linux": {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent"}}}
    with pytest.raises(SpecError, match=r"linux.seccomp.listenerPath: somebody else is asked already"):
        rules.with_notifications(config, ["mkdir"], "/run/x")


@pytest.mark.skipif(platform.machine() != "x86_64", reason="not applicable: the numbers are x86_64's")
def test_numbers_of_every_architecture() -> None:
    section = rules.with_notifications({}, ["connect", "semop"], "/x")["linux"]["seccomp"]  # type: ignore[typeddict-item]
    found = rules.numbers(section, ["connect", "semop"])
    x86_64, x86 = 0xC000003E, 0x40000003
    assert found.direct[x86_64, 42] == found.direct[x86_64, 0x40000000 | 42] == found.direct[x86, 362] == "connect"
    assert found.multiplexed[x86, 102] == {3: "connect"}
    assert found.direct[x86_64, 65] == "semop"
    assert found.multiplexed[x86, 117] == {1: "semop"}


def test_callbacks() -> None:
    supervisor = Supervisor({"mkdir": lambda r: None})
    supervisor.set("mkdir", lambda r: None)
    with pytest.raises(CtnrError, match="was not made to ask about 'rmdir'"):
        supervisor.set("rmdir", lambda r: None)
    with pytest.raises(CtnrError, match="is not callable"):
        supervisor.set("mkdir", cast("Any", 1))

    async def inside() -> object:
        return Supervisor({"mkdir": lambda r: None})._loop is asyncio.get_running_loop()

    assert asyncio.run(inside())
    assert supervisor._loop is None


def test_connections_that_hang_take_no_place_from_another_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that makes more than it may is told EAGAIN; its neighbours in the same process are not."""
    reading, writing = os.pipe()
    hanging = threading.Event()
    monkeypatch.setattr(request._native, "connect", lambda fd, address: hanging.wait(60))
    monkeypatch.setattr(request.Request, "fd", lambda self, number: os.dup(reading))
    monkeypatch.setattr(request.Request, "sockaddr", lambda self: Address(pack("192.0.2.1", 1)))
    monkeypatch.setattr(request.Request, "answer", lambda self, value: None)

    def connect(source: Source) -> None:
        request.Request(source, 1, 1, "connect", 42, 0, (0,) * 6).connect()

    before = threading.active_count()
    hostile, other = (Source(os.dup(reading), os.dup(reading), os.getpid(), False) for _ in range(2))
    try:
        for _ in range(request.CONNECTIONS):
            connect(hostile)
        with pytest.raises(OSError, match="too many") as refused:
            connect(hostile)
        assert refused.value.errno == EAGAIN
        connect(other)
    finally:
        hanging.set()
        while threading.active_count() > before:
            threading.Event().wait(0.01)
        hostile.close()
        other.close()
        os.close(reading)
        os.close(writing)
