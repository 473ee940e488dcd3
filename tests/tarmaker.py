# SPDX-License-Identifier: Apache-2.0
"""Tar archives byte by byte, for what no sane tool writes."""

from __future__ import annotations

BLOCK = 512
END = bytes(2 * BLOCK)
USTAR = b"ustar\x0000"
GNU = b"ustar  \0"


def octal(number: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, number)


def base256(number: int, width: int) -> bytes:
    return (number & ((1 << (8 * width)) - 1) | 1 << (8 * width - 1)).to_bytes(width, "big")


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def header(
    name: bytes,
    kind: bytes = b"0",
    *,
    size: int | bytes = 0,
    mode: int = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 0,
    link: bytes = b"",
    magic: bytes = USTAR,
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    checksum: bytes | None = None,
    tail: bytes | None = None,
) -> bytes:
    """A header block. Numbers given as bytes are taken as they are; `tail` replaces everything from byte 345 on."""

    def number(value: int | bytes, width: int) -> bytes:
        return value.ljust(width, b"\0") if isinstance(value, bytes) else octal(value, width)

    assert len(name) <= 100 and len(link) <= 100 and len(prefix) <= 155
    block = (
        name.ljust(100, b"\0") + octal(mode, 8) + number(uid, 8) + number(gid, 8) + number(size, 12) + number(mtime, 12)
    )
    block += b" " * 8 + kind + link.ljust(100, b"\0") + magic + bytes(64) + octal(device[0], 8) + octal(device[1], 8)
    block += prefix.ljust(167, b"\0") if tail is None else tail.ljust(167, b"\0")
    assert len(block) == BLOCK
    if checksum is None:
        checksum = b"%06o\0 " % sum(block)
    return block[:148] + checksum + block[156:]


def member(name: bytes, data: bytes = b"", kind: bytes = b"0", **fields: object) -> bytes:
    """A header with its data."""
    fields.setdefault("size", len(data))
    return header(name, kind, **fields) + padded(data)  # type: ignore[arg-type]


def directory(name: bytes, **fields: object) -> bytes:
    fields.setdefault("mode", 0o755)
    return member(name, kind=b"5", **fields)


def symlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return member(name, kind=b"2", link=target, mode=0o777, **fields)


def hardlink(name: bytes, target: bytes, **fields: object) -> bytes:
    return member(name, kind=b"1", link=target, **fields)


def record(key: bytes, value: bytes) -> bytes:
    """A record of a PAX header: its length counts itself."""
    rest = b" " + key + b"=" + value + b"\n"
    length = len(rest) + 1
    while length != len(rest) + len(str(length)):
        length = len(rest) + len(str(length))
    return str(length).encode() + rest


def pax(*records: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    return member(b"PaxHeaders/x", b"".join(record(key, value) for key, value in records), kind)


def gnu_long(name: bytes, kind: bytes = b"L") -> bytes:
    return member(b"././@LongLink", name + b"\0", kind, magic=GNU)


def archive(*members: bytes) -> bytes:
    return b"".join(members) + END
