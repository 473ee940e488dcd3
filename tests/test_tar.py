# SPDX-License-Identifier: Apache-2.0
"""The tar reader and the decompression below it: every format, every chunking, and nothing but ArchiveError for the rest."""

from __future__ import annotations

import bz2
import gzip
import importlib
import importlib.util
import io
import lzma
import os
import random
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tarmaker import (
    BLOCK,
    GNU,
    archive,
    base256,
    directory,
    gnu_long,
    hardlink,
    header,
    member,
    octal,
    padded,
    pax,
    record,
    symlink,
)

from ctnr.errors import CtnrError
from ctnr.image import compression, fields, tar
from ctnr.image.compression import ArchiveError, Stream

MTIME = 1_700_000_000
SECOND = 10**9


def zstd() -> object:
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    return pytest.importorskip(name)


# --- helpers


def chunks_of(data: bytes, size: int = 1 << 16) -> Callable[[], bytes]:
    stream = io.BytesIO(data)
    return lambda: stream.read(size)


def contents(reader: tar.Reader, entry: tar.Entry) -> bytes:
    """A file's bytes, holes filled in."""
    data = b"".join(iter(lambda: bytes(reader.data(1000)), b""))
    if entry.sparse is None:
        return data
    out = bytearray(entry.size)
    pos = 0
    for offset, length in zip(entry.sparse[::2], entry.sparse[1::2], strict=True):
        out[offset : offset + length] = data[pos : pos + length]
        pos += length
    assert pos == len(data)
    return bytes(out)


Read = tuple[tar.Entry, bytes]


def read_all(data: bytes, chunk: int = 1 << 16, strict: bool = True) -> list[Read]:
    reader = tar.Reader(chunks_of(data, chunk), strict)
    entries = []
    while (entry := reader.next()) is not None:
        entries.append((entry, contents(reader, entry)))
    reader.finish()
    return entries


def read_one(*blocks: bytes) -> tar.Entry:
    [(entry, _)] = read_all(archive(*blocks))
    return entry


def as_tuple(read: Read) -> tuple[object, ...]:
    return (*(getattr(read[0], name) for name in tar.Entry.__slots__), read[1])


def error_of(data: bytes, strict: bool = True) -> str:
    with pytest.raises(ArchiveError) as caught:
        read_all(data, strict=strict)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what tarfile writes

_component = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=60
).filter(lambda s: s not in (".", ".."))
_name = st.lists(_component, min_size=1, max_size=6).map("/".join)
_kinds = st.sampled_from(
    [
        tarfile.REGTYPE,
        tarfile.DIRTYPE,
        tarfile.SYMTYPE,
        tarfile.LNKTYPE,
        tarfile.CHRTYPE,
        tarfile.BLKTYPE,
        tarfile.FIFOTYPE,
    ]
)


@st.composite
def tar_infos(draw: st.DrawFn, big: bool) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(draw(_name))
    info.type = draw(_kinds)
    data = b""
    if info.type == tarfile.REGTYPE:
        data = draw(st.binary(max_size=1500))
        info.size = len(data)
    elif info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        info.linkname = draw(_name)
    elif info.type in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        info.devmajor, info.devminor = draw(st.integers(0, 4095)), draw(st.integers(0, 0o7777777))
    info.mode = draw(st.integers(0, 0o7777))
    info.uid = draw(st.integers(0, (1 << 32) - 2 if big else 0o7777777))
    info.gid = draw(st.integers(0, (1 << 32) - 2 if big else 0o7777777))
    info.mtime = draw(st.integers(-(1 << 40) if big else 0, 1 << 40 if big else (1 << 33) - 1))
    return info, data


def check_against_tarfile(infos: list[tuple[tarfile.TarInfo, bytes]], format: int, chunk: int) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as writer:
        for info, data in infos:
            writer.addfile(info, io.BytesIO(data))
    entries = read_all(out.getvalue(), chunk)
    assert len(entries) == len(infos)
    for (entry, read), (info, data) in zip(entries, infos, strict=True):
        slash = "/" if info.isdir() else ""
        assert entry.name == (info.name + slash).encode()
        assert entry.kind == info.type[0]
        assert read == data
        assert (entry.mode, entry.uid, entry.gid, entry.size) == (info.mode, info.uid, info.gid, len(data))
        assert entry.mtime == entry.atime == info.mtime * SECOND
        if info.issym() or info.islnk():
            assert entry.linkname == info.linkname.encode()
        if info.isdev() and not info.isfifo():
            assert entry.device == (info.devmajor, info.devminor)


@given(st.lists(tar_infos(big=True), max_size=8), st.sampled_from([1, 511, 512, 513, 10240, 1 << 18]))
def test_reads_what_tarfile_writes_in_gnu_format(infos: list[tuple[tarfile.TarInfo, bytes]], chunk: int) -> None:
    check_against_tarfile(infos, tarfile.GNU_FORMAT, chunk)


@given(st.lists(tar_infos(big=True), max_size=8), st.sampled_from([1, 511, 512, 513, 10240, 1 << 18]))
def test_reads_what_tarfile_writes_in_pax_format(infos: list[tuple[tarfile.TarInfo, bytes]], chunk: int) -> None:
    check_against_tarfile(infos, tarfile.PAX_FORMAT, chunk)


@given(st.lists(tar_infos(big=False), max_size=8))
def test_reads_what_tarfile_writes_in_ustar_format(infos: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    def fits(info: tarfile.TarInfo) -> bool:
        try:
            info.tobuf(tarfile.USTAR_FORMAT)
        except ValueError:
            return False
        return True

    check_against_tarfile([(info, data) for info, data in infos if fits(info)], tarfile.USTAR_FORMAT, 10240)


@given(st.floats(-(1 << 33), 1 << 33, allow_nan=False))
def test_pax_times_to_the_nanosecond(time: float) -> None:
    text = f"{time:.9f}"
    sign = -1 if text.startswith("-") else 1
    seconds, fraction = text.lstrip("-").split(".")
    entry = read_one(pax((b"mtime", text.encode())), member(b"f"))
    assert entry.mtime == entry.atime == sign * (int(seconds) * SECOND + int(fraction))


def test_pax_atime() -> None:
    entry = read_one(pax((b"atime", b"5.5"), (b"mtime", b"7")), member(b"f"))
    assert (entry.atime, entry.mtime) == (5_500_000_000, 7 * SECOND)


# --- what GNU tar writes

gnu_tar = shutil.which("tar")
needs_gnu_tar = pytest.mark.skipif(
    gnu_tar is None or b"GNU tar" not in subprocess.run([gnu_tar, "--version"], capture_output=True, check=True).stdout,
    reason="GNU tar is not installed",
)


def run_tar(*args: str | Path) -> bytes:
    assert gnu_tar is not None
    return subprocess.run([gnu_tar, *args], check=True, stdout=subprocess.PIPE).stdout


@needs_gnu_tar
@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_reads_gnu_tar(tmp_path: Path, format: str) -> None:
    long = "n" * 90 if format in ("v7", "ustar") else "n" * 200
    (tmp_path / "dir").mkdir(mode=0o2750)
    (tmp_path / "dir" / long).write_bytes(b"long")
    (tmp_path / "file").write_bytes(b"x" * 1234)
    (tmp_path / "empty").touch(mode=0o400)
    (tmp_path / "link").symlink_to("t" * (90 if format in ("v7", "ustar") else 300))
    os.link(tmp_path / "file", tmp_path / "hard")
    os.utime(tmp_path / "file", ns=(0, MTIME * SECOND + 123456789))
    names = ["dir", f"dir/{long}", "file", "empty", "link", "hard"]
    entries = read_all(run_tar("-C", tmp_path, "-c", f"--format={format}", "--no-recursion", *names))
    by_name = {entry.name.rstrip(b"/").decode(): (entry, data) for entry, data in entries}
    assert list(by_name) == names
    for name, (entry, data) in by_name.items():
        stat = os.lstat(tmp_path / name)
        if name == "hard":
            assert (entry.kind, entry.linkname) == (tar.HARDLINK, b"file")
            continue
        assert (entry.mode, entry.uid, entry.gid) == (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid)
        assert entry.mtime == (stat.st_mtime_ns if format == "posix" else stat.st_mtime_ns // SECOND * SECOND)
        if name == "link":
            assert (entry.kind, entry.linkname.decode()) == (tar.SYMLINK, os.readlink(tmp_path / name))
        elif name == "dir":
            assert entry.kind == tar.DIRECTORY
        else:
            assert entry.kind == tar.FILE
            assert data == (tmp_path / name).read_bytes()


SPARSE = [
    ("gnu", ()),
    ("oldgnu", ()),
    ("posix", ("--sparse-version=0.0",)),
    ("posix", ("--sparse-version=0.1",)),
    ("posix", ("--sparse-version=1.0",)),
]


@needs_gnu_tar
@pytest.mark.parametrize(("format", "args"), SPARSE)
@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 24, 25, 200])
@pytest.mark.parametrize("name", ["sparse", "s" * 150])
def test_reads_gnu_sparse_files(tmp_path: Path, format: str, args: tuple[str, ...], count: int, name: str) -> None:
    path = tmp_path / name
    with path.open("wb") as f:
        for i in range(count):
            f.seek((2 * i + 1) << 16)
            f.write(b"data %d" % i)
        f.truncate((2 * count + 2) << 16)
    (tmp_path / "after").write_bytes(b"after")
    data = run_tar("-C", tmp_path, "-cS", f"--format={format}", *args, name, "after")
    assert len(data) < path.stat().st_size or count > 24
    (entry, read), (after, after_data) = read_all(data)
    assert entry.kind == tar.FILE
    assert entry.name == name.encode()
    assert entry.sparse is not None
    assert entry.size == path.stat().st_size
    assert read == path.read_bytes()
    assert (after.name, after_data) == (b"after", b"after")


@needs_gnu_tar
def test_reads_gnu_incremental_and_label(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "f").write_bytes(b"f")
    snapshot = f"--listed-incremental={tmp_path}/snapshot"
    data = run_tar("-C", tmp_path, "-c", "--format=gnu", "--label=volume", snapshot, "d")
    assert [(entry.name, entry.kind) for entry, _ in read_all(data)] == [(b"d/", tar.DIRECTORY), (b"d/f", tar.FILE)]


# --- headers


def test_numbers() -> None:
    for field, number in (
        (b"0000644\0", 0o644),
        (b"000644 \0", 0o644),
        (b"   644 \0", 0o644),
        (b"644\0junk", 0o644),
        (b"\0" * 8, 0),
        (b"        ", 0),
        (b"77777777", 0o77777777),
        (base256(0, 8), 0),
        (base256(1 << 40, 8), 1 << 40),
        (base256(-1, 8), -1),
        (base256(-(1 << 40), 12), -(1 << 40)),
        (base256((1 << 32) - 2, 8), (1 << 32) - 2),
    ):
        assert fields.number_of(field) == number, field


@pytest.mark.parametrize(
    "field", [b"0000648\0", b"-000001\0", b"0x00001\0", b"1_00000\0", b"+000001\0", b"\xb2\xb2", b"12 3\0"]
)
def test_bad_numbers(field: bytes) -> None:
    if field[0] & 0x80:
        field = base256(1 << 90, 12)
    with pytest.raises(fields.FieldError):
        fields.number_of(field)


@given(st.integers(-(1 << 62) + 1, (1 << 62) - 1))
def test_base256_round_trip(number: int) -> None:
    assert fields.number_of(base256(number, 12)) == number


def test_prefix_is_for_posix_headers_only() -> None:
    assert read_one(member(b"name", prefix=b"some/prefix")).name == b"some/prefix/name"
    assert read_one(member(b"name", magic=GNU, prefix=b"some/prefix")).name == b"name"
    assert read_one(member(b"name", magic=bytes(8), prefix=b"some/prefix")).name == b"name"


def test_v7_directories_and_kinds() -> None:
    assert read_one(member(b"dir/", kind=b"\0", magic=bytes(8))).kind == tar.DIRECTORY
    assert read_one(member(b"file", kind=b"\0", magic=bytes(8))).kind == tar.FILE
    assert read_one(member(b"file", kind=b"7")).kind == tar.FILE
    assert "slash" in error_of(archive(member(b"dir/", b"data", kind=b"\0")))


def test_size_of_what_has_no_data_is_ignored() -> None:
    for kind in (b"1", b"2", b"3", b"4", b"5", b"6"):
        entries = read_all(archive(header(b"x", kind, size=1 << 20, link=b"t"), member(b"next")))
        assert [(entry.name, entry.size) for entry, _ in entries] == [(b"x", 0), (b"next", 0)]


def test_signed_checksum_of_old_archives() -> None:
    block = header(b"caf\xe9")
    signed = sum(b - 256 if b > 127 else b for b in block[:148] + b" " * 8 + block[156:])
    assert read_one(header(b"caf\xe9", checksum=b"%06o\0 " % signed)).name == b"caf\xe9"


def test_gnu_long_names_and_links() -> None:
    entry = read_one(gnu_long(b"n" * 5000), gnu_long(b"l" * 3000, b"K"), symlink(b"short", b"short"))
    assert (entry.name, entry.linkname) == (b"n" * 5000, b"l" * 3000)


def test_pax_overrides_the_header_and_long_names() -> None:
    records = ((b"path", b"p"), (b"linkpath", b"l"), (b"uid", b"4000000000"), (b"gid", b"5"), (b"comment", b"a=b\nc"))
    entry = read_one(gnu_long(b"n" * 200), pax(*records), symlink(b"short", b"short", uid=1, gid=2))
    assert (entry.name, entry.linkname, entry.uid, entry.gid) == (b"p", b"l", 4_000_000_000, 5)


def test_pax_size_overrides_the_header() -> None:
    [(entry, data), (after, _)] = read_all(
        archive(pax((b"size", b"3")), header(b"f", size=0) + padded(b"abc"), member(b"g"))
    )
    assert (entry.size, data, after.name) == (3, b"abc", b"g")


def test_pax_empty_value_leaves_the_header_standing() -> None:
    entry = read_one(pax((b"path", b""), (b"uid", b"")), member(b"f", uid=7))
    assert (entry.name, entry.uid) == (b"f", 7)


def test_pax_headers_are_for_one_entry_and_global_ones_for_all() -> None:
    entries = read_all(
        archive(
            pax((b"uid", b"11"), (b"gid", b"12"), kind=b"g"),
            pax((b"uid", b"21")),
            member(b"a"),
            member(b"b"),
            pax((b"gid", b""), kind=b"g"),
            member(b"c", gid=5),
        )
    )
    assert [(e.name, e.uid, e.gid) for e, _ in entries] == [(b"a", 21, 12), (b"b", 11, 12), (b"c", 11, 5)]


def test_xattrs_of_star_and_libarchive() -> None:
    entry = read_one(
        pax(
            (b"LIBARCHIVE.xattr.user.both", b"b2xk"),
            (b"SCHILY.xattr.user.both", b"new"),
            (b"SCHILY.xattr.user.bin", b"\0\n=\xff"),
            (b"SCHILY.xattr.user.empty", b""),
            (b"SCHILY.xattr.user.odd%3Dna%25me", b"1"),
            (b"LIBARCHIVE.xattr.user.a%20b", b"Ynl0ZXM"),
        ),
        member(b"f"),
    )
    assert entry.xattrs == {
        b"user.both": b"new",
        b"user.bin": b"\0\n=\xff",
        b"user.empty": b"",
        b"user.odd=na%me": b"1",
        b"user.a b": b"bytes",
    }


def test_sparse_with_pax_size_and_name() -> None:
    data = padded(b"1\n4\n3\n") + b"abc"
    [(entry, read)] = read_all(
        archive(
            pax(
                (b"GNU.sparse.major", b"1"),
                (b"GNU.sparse.minor", b"0"),
                (b"GNU.sparse.name", b"real"),
                (b"path", b"GNUSparseFile.1/real"),
                (b"GNU.sparse.realsize", b"10"),
            ),
            member(b"GNUSparseFile.1/real", data),
        )
    )
    assert (entry.name, entry.size, read) == (b"real", 10, b"\0\0\0\0abc\0\0\0")


# --- where the archive ends


def test_end_of_archive() -> None:
    whole = member(b"f", b"data")
    for good in (whole + bytes(1024), whole + bytes(512), whole + bytes(10240), whole + bytes(1024 + 7)):
        assert len(read_all(good)) == 1
    assert read_all(bytes(1024)) == []
    assert "truncated" in error_of(whole)
    assert len(read_all(whole, strict=False)) == 1
    for strict in (True, False):
        assert "zeros" in error_of(whole + bytes(512) + member(b"g") + bytes(1024), strict)
        assert "truncated" in error_of(whole + bytes(511), strict)
        assert "empty" in error_of(b"", strict)
    garbage = archive(whole) + b"garbage"
    assert "garbage" in error_of(garbage)
    assert "garbage" in error_of(archive(whole) + archive(whole))
    assert len(read_all(garbage, strict=False)) == 1


@given(st.integers(1, 3000))
def test_truncated_anywhere_is_an_error(missing: int) -> None:
    data = pax((b"path", b"x" * 300)) + member(b"f", b"data" * 300)
    error_of(data[: max(0, len(data) - missing)])


def test_not_an_archive() -> None:
    for data in (
        b"x",
        b"hello world\n" * 1000,
        b"\x7fELF" + bytes(5000),
        b"PK\3\4" + bytes(600),
        random.Random(1).randbytes(4096),
    ):
        assert error_of(data).startswith("no tar archive")


def test_damaged_header_in_the_middle_says_where() -> None:
    data = bytearray(archive(member(b"f", b"data"), member(b"g")))
    data[1024] ^= 1
    assert "near byte 1536" in error_of(bytes(data)) and "checksum" in error_of(bytes(data))


# --- hostile headers


def sparse(*records: tuple[bytes, bytes], data: bytes = b"") -> bytes:
    return archive(pax(*records), member(b"f", data))


V1 = ((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"))
BAD = {
    "negative size": archive(header(b"f", size=base256(-1, 12))),
    "size over 2^62": archive(header(b"f", size=b"\xbf" + b"\xff" * 11)),
    "size no number": archive(header(b"f", size=b"12x")),
    "size of 8 EiB, truncated": archive(header(b"f", size=base256((1 << 62) - 1, 12))),
    "mode no number": archive(header(b"f")[:100] + b"99999999" + header(b"f")[108:]),
    "bad checksum": archive(header(b"f", checksum=b"000000\0 ")),
    "checksum no number": archive(member(b"e"), header(b"f", checksum=b"abcdefgh")),
    "unknown kind": archive(member(b"f", kind=b"Q")),
    "continued from another volume": archive(member(b"f", kind=b"M")),
    "huge long name": archive(header(b"x", b"L", size=2 << 20)) + bytes(2 << 20),
    "huge pax header": archive(header(b"x", b"x", size=2 << 20)) + bytes(2 << 20),
    "pax header last": archive(pax((b"path", b"x"))),
    "long name last": archive(gnu_long(b"x" * 200)),
    "pax length 0": archive(member(b"x", b"0 a=b\n", b"x"), member(b"f")),
    "pax length short": archive(member(b"x", b"3 a=b\n", b"x"), member(b"f")),
    "pax length long": archive(member(b"x", b"99 a=b\n", b"x"), member(b"f")),
    "pax length negative": archive(member(b"x", b"-6 a=b\n", b"x"), member(b"f")),
    "pax length signed": archive(member(b"x", b"+7 a=b\n", b"x"), member(b"f")),
    "pax length endless": archive(member(b"x", b"1" * 5000, b"x"), member(b"f")),
    "pax without =": archive(member(b"x", b"6 abc\n", b"x"), member(b"f")),
    "pax without key": archive(member(b"x", b"6 =bc\n", b"x"), member(b"f")),
    "pax without newline": archive(member(b"x", b"6 a=bcd", b"x"), member(b"f")),
    "pax path with NUL": archive(pax((b"path", b"a\0b")), member(b"f")),
    "pax linkpath with NUL": archive(pax((b"linkpath", b"a\0b")), symlink(b"f", b"x")),
    "pax size negative": archive(pax((b"size", b"-1")), member(b"f")),
    "pax size underscore": archive(pax((b"size", b"1_0")), member(b"f")),
    "pax size huge": archive(pax((b"size", b"9" * 30)), member(b"f")),
    "pax uid no number": archive(pax((b"uid", b"root")), member(b"f")),
    "pax mtime no number": archive(pax((b"mtime", b"nan")), member(b"f")),
    "pax mtime two points": archive(pax((b"mtime", b"1.2.3")), member(b"f")),
    "pax mtime huge": archive(pax((b"mtime", b"9" * 20)), member(b"f")),
    "pax xattr with NUL": archive(pax((b"SCHILY.xattr.user.a\0b", b"1")), member(b"f")),
    "pax xattr bad base64": archive(pax((b"LIBARCHIVE.xattr.user.a", b"A")), member(b"f")),
    "global headers without end": archive(
        *(pax((b"k%d" % i, b"v" * (1 << 19)), kind=b"g") for i in range(3)), member(b"f")
    ),
    "pax header of too many keys": archive(pax(*((b"%d" % i, b"v") for i in range(10_001))), member(b"f")),
    "global headers of too many keys": archive(
        *(pax(*((b"%d" % i, b"v") for i in range(n, n + 6_000)), kind=b"g") for n in (0, 6_000)), member(b"f")
    ),
    "sparse without size": sparse(*V1),
    "sparse unknown version": sparse((b"GNU.sparse.major", b"2"), (b"GNU.sparse.realsize", b"1")),
    "sparse map missing": sparse(*V1, (b"GNU.sparse.realsize", b"1")),
    "sparse map empty": sparse(*V1, (b"GNU.sparse.realsize", b"1"), data=bytes(512)),
    "sparse map no numbers": sparse(*V1, (b"GNU.sparse.realsize", b"1"), data=b"x\n" * 256),
    "sparse map endless number": sparse(*V1, (b"GNU.sparse.realsize", b"1"), data=b"1" * 5120),
    "sparse map too many": sparse(*V1, (b"GNU.sparse.realsize", b"1"), data=padded(b"99999999999\n")),
    "sparse map longer than data": sparse(*V1, (b"GNU.sparse.realsize", b"9"), data=padded(b"500\n" + b"1\n" * 100)),
    "sparse map overlap": sparse(*V1, (b"GNU.sparse.realsize", b"99"), data=padded(b"2\n0\n2\n1\n2\n") + b"abcd"),
    "sparse map backwards": sparse(*V1, (b"GNU.sparse.realsize", b"99"), data=padded(b"2\n9\n2\n1\n2\n") + b"abcd"),
    "sparse map past end": sparse(*V1, (b"GNU.sparse.realsize", b"9"), data=padded(b"1\n8\n2\n") + b"ab"),
    "sparse map too short": sparse(*V1, (b"GNU.sparse.realsize", b"9"), data=padded(b"1\n0\n1\n") + b"ab"),
    "sparse map too long": sparse(*V1, (b"GNU.sparse.realsize", b"9"), data=padded(b"1\n0\n3\n") + b"ab"),
    "sparse 0.1 odd": sparse((b"GNU.sparse.map", b"1,2,3"), (b"GNU.sparse.size", b"9"), data=b"ab"),
    "sparse 0.1 negative": sparse((b"GNU.sparse.map", b"-1,2"), (b"GNU.sparse.size", b"9"), data=b"ab"),
    "sparse 0.0 half a pair": sparse((b"GNU.sparse.offset", b"1"), (b"GNU.sparse.size", b"9"), data=b"ab"),
    "old sparse negative": archive(
        member(b"f", b"ab", b"S", magic=GNU, tail=bytes(41) + base256(-5, 12) + base256(2, 12) + bytes(73) + octal(9, 12))
    ),
    "old sparse negative real size": archive(
        member(b"f", b"", b"S", magic=GNU, tail=bytes(41) + bytes(97) + base256(-9, 12))
    ),
    "old sparse extension missing": archive(
        header(b"f", b"S", magic=GNU, tail=bytes(41) + bytes(96) + b"\1" + octal(9, 12))
    )[:512],
}  # fmt: skip


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_headers(data: bytes) -> None:
    error_of(data)


def test_endless_old_sparse_map_is_bounded() -> None:
    """An archive that is nothing but extension blocks."""
    first = [header(b"f", b"S", magic=GNU, tail=bytes(41) + bytes(96) + b"\1" + octal(9, 12))]
    block = (octal(0, 12) * 2 * 21).ljust(504, b"\0") + b"\1" + bytes(7)
    reader = tar.Reader(lambda: first.pop() if first else block * 64)
    with pytest.raises(ArchiveError, match="segments"):
        reader.next()


# --- fuzzing

CORPUS = archive(
    pax((b"comment", b"global"), kind=b"g"),
    directory(b"d/", mtime=MTIME),
    pax((b"path", b"d/pax"), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"b"), (b"size", b"700")),
    member(b"f", b"x" * 700),
    gnu_long(b"d/" + b"l" * 120),
    member(b"short", b"data"),
    symlink(b"s", b"d/pax"),
    hardlink(b"h", b"d/pax"),
    header(b"null", b"3", device=(1, 3)),
    pax(*V1, (b"GNU.sparse.name", b"sp"), (b"GNU.sparse.realsize", b"1000")),
    member(b"GNUSparseFile.0/sp", padded(b"2\n10\n3\n500\n4\n") + b"abcdefg"),
    member(
        b"old", b"ab", b"S", magic=GNU, tail=bytes(41) + octal(5, 12) + octal(2, 12) + bytes(72) + b"\0" + octal(9, 12)
    ),
)


def test_corpus_is_good() -> None:
    assert [e.name for e, _ in read_all(CORPUS)] == [
        b"d/",
        b"d/pax",
        b"d/" + b"l" * 120,
        b"s",
        b"h",
        b"null",
        b"sp",
        b"old",
    ]


def fixed_checksums(data: bytes) -> bytes:
    """Mutations behind a wrong checksum would test nothing but the checksum."""
    out = bytearray(data)
    for at in range(0, len(out) - BLOCK + 1, BLOCK):
        block = out[at : at + BLOCK]
        if block[257:262] == b"ustar":
            out[at + 148 : at + 156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    return bytes(out)


_patch = st.tuples(
    st.integers(0, len(CORPUS) - 1),
    st.one_of(
        st.binary(min_size=1, max_size=16),
        st.sampled_from(
            [b"\xff" * 12, b"\x80" + bytes(11), b"77777777777\0", b"9", b"\0", b"S", b"x", b"g", b"L", b"="]
        ),
    ),
)


@settings(max_examples=400)
@given(st.lists(_patch, max_size=6), st.booleans(), st.booleans(), st.integers(1, 2000), st.integers(0, len(CORPUS)))
@example([(0, b"")], True, True, 1, 0)
def test_mutated_archives_raise_nothing_but_archive_errors(
    patches: list[tuple[int, bytes]], fix: bool, strict: bool, chunk: int, cut: int
) -> None:
    data = bytearray(CORPUS)
    for at, patch in patches:
        data[at : at + len(patch)] = patch
    mutated = fixed_checksums(data) if fix else bytes(data)
    outcomes = []
    for size in (chunk, 1 << 16):
        try:
            outcomes.append([as_tuple(read) for read in read_bounded(mutated[: len(mutated) - cut // 2], size, strict)])
        except ArchiveError as e:
            outcomes.append(str(e))
    assert outcomes[0] == outcomes[1], "what is read depends on how the stream is cut into chunks"


def read_bounded(data: bytes, chunk: int, strict: bool) -> Iterator[Read]:
    """read_all, without making gigabytes of holes."""
    reader = tar.Reader(chunks_of(data, chunk), strict)
    while (entry := reader.next()) is not None:
        if entry.sparse is None or entry.size < 1 << 20:
            yield entry, contents(reader, entry)
        else:
            yield entry, b"".join(iter(lambda: bytes(reader.data(1000)), b""))
    reader.finish()


@given(st.binary(max_size=3000), st.booleans())
def test_random_bytes_raise_nothing_but_archive_errors(data: bytes, strict: bool) -> None:
    try:
        read_all(data, strict=strict)
    except ArchiveError:
        pass


@given(st.binary(max_size=300))
def test_random_pax_records(data: bytes) -> None:
    try:
        records = fields.pax_records(data)
    except fields.FieldError:
        return
    assert all(key for key in records)


_keys = st.binary(min_size=1, max_size=20).filter(lambda key: b"=" not in key and b"." not in key)


@given(st.dictionaries(_keys, st.binary(max_size=200)))
def test_pax_records_round_trip(records: dict[bytes, bytes]) -> None:
    data = b"".join(record(key, value) for key, value in records.items())
    assert fields.pax_records(data) == records


@given(st.binary(max_size=2000))
def test_printable_is_one_short_line(name: bytes) -> None:
    text = fields.printable(name)
    assert text.isprintable() and len(text) <= 200


# --- compression


def compressors() -> dict[str, Callable[[bytes], bytes]]:
    found: dict[str, Callable[[bytes], bytes]] = {
        "": bytes,
        "gzip": lambda data: gzip.compress(data, 1),
        "xz": lzma.compress,
        "bzip2": bz2.compress,
    }
    name = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    try:
        found["zstd"] = importlib.import_module(name).compress
    except ImportError:
        pass
    return found


COMPRESSORS = compressors()
each_format = pytest.mark.parametrize("kind", ["gzip", "xz", "bzip2", "zstd"])
_noise = random.Random(2).randbytes(100_000)
PLAIN = b"".join(b"line %d\n" % i for i in range(60_000)) + _noise + bytes(1_000_000)


@pytest.fixture(autouse=True)
def no_threads_left() -> Iterator[None]:
    yield
    assert [t for t in threading.enumerate() if t.name == "ctnr-decompress"] == []


def compress(kind: str, data: bytes) -> bytes:
    if kind not in COMPRESSORS:
        zstd()  # skips
    return COMPRESSORS[kind](data)


def read_stream(tmp_path: Path, data: bytes, **limits: int) -> tuple[str, bytes]:
    """By fd (in a thread if compressed) and by file object: the same either way."""
    results: list[tuple[str, bytes] | str] = []
    path = tmp_path / "misleading.zip"
    path.write_bytes(data)
    with path.open("rb", buffering=0) as f:
        for source in (f.fileno(), io.BytesIO(data)):
            try:
                with Stream(source, **limits) as stream:
                    chunks = list(iter(stream.read, b""))
                    assert stream.read() == b""
                    assert max(map(len, chunks), default=0) <= compression.CHUNK
                    results.append((stream.compression, b"".join(chunks)))
            except ArchiveError as e:
                results.append(str(e))
    assert results[0] == results[1]
    if isinstance(results[0], str):
        raise ArchiveError(results[0])
    return results[0]


@each_format
def test_decompresses_by_content(tmp_path: Path, kind: str) -> None:
    assert read_stream(tmp_path, compress(kind, PLAIN)) == (kind, PLAIN)
    assert read_stream(tmp_path, compress(kind, b"")) == (kind, b"")
    assert read_stream(tmp_path, PLAIN) == ("", PLAIN)
    assert read_stream(tmp_path, b"") == ("", b"")


@pytest.mark.parametrize("tool", ["gzip", "xz", "bzip2", "zstd"])
def test_decompresses_what_the_tools_write(tmp_path: Path, tool: str) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    if tool == "zstd":
        zstd()
    out = subprocess.run([tool, "-c", "-9"], input=PLAIN, stdout=subprocess.PIPE, check=True).stdout
    assert read_stream(tmp_path, out) == (tool, PLAIN)


@each_format
def test_members_in_a_row_are_one_stream(tmp_path: Path, kind: str) -> None:
    half = len(PLAIN) // 2
    data = compress(kind, PLAIN[:half]) + compress(kind, b"") + compress(kind, PLAIN[half:])
    assert read_stream(tmp_path, data) == (kind, PLAIN)
    assert read_stream(tmp_path, data + bytes(1024)) == (kind, PLAIN)


def test_zstd_skippable_frames(tmp_path: Path) -> None:
    skippable = b"\x5a\x2a\x4d\x18" + (7).to_bytes(4, "little") + b"skip me"
    data = compress("zstd", PLAIN)
    assert read_stream(tmp_path, skippable + data + skippable) == ("zstd", PLAIN)


@each_format
@pytest.mark.parametrize("missing", [1, 5, 1000])
def test_truncated_data(tmp_path: Path, kind: str, missing: int) -> None:
    with pytest.raises(ArchiveError, match=f"truncated {kind} data"):
        read_stream(tmp_path, compress(kind, PLAIN)[:-missing])


@each_format
def test_damaged_data(tmp_path: Path, kind: str) -> None:
    data = bytearray(compress(kind, PLAIN))
    if kind == "zstd":
        pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
        data[4] |= 0x08  # a reserved bit: without a checksum zstd has no other way to know
    else:
        middle = data.index(_noise[1000:1010]) if kind == "xz" and _noise[1000:1010] in data else len(data) // 2
        data[middle] ^= 0xFF
    with pytest.raises(ArchiveError, match=f"damaged {kind} data"):
        read_stream(tmp_path, bytes(data))


@each_format
def test_garbage_after_compressed_data(tmp_path: Path, kind: str) -> None:
    for garbage in (b"g", b"garbage" * 100):
        with pytest.raises(ArchiveError, match=f"garbage after the {kind} data"):
            read_stream(tmp_path, compress(kind, PLAIN) + garbage)


@each_format
def test_bomb_stops_at_max_bytes(tmp_path: Path, kind: str) -> None:
    bomb = compress(kind, bytes(50 << 20))
    with pytest.raises(ArchiveError, match="more than the 1000000 bytes"):
        read_stream(tmp_path, bomb, max_bytes=1_000_000)


@each_format
def test_bomb_stops_at_max_ratio(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = compress(kind, bytes(20 << 20))
    assert len(read_stream(tmp_path, bomb, max_ratio=20)[1]) == 20 << 20
    monkeypatch.setattr(compression, "RATIO_FLOOR", 1 << 20)
    with pytest.raises(ArchiveError, match="more than 20 times"):
        read_stream(tmp_path, bomb, max_ratio=20)


def test_xz_that_needs_too_much_memory(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 512 << 20, "preset": 0}]
    compressor = lzma.LZMACompressor(lzma.FORMAT_XZ, filters=filters)
    data = compressor.compress(b"x") + compressor.flush()
    with pytest.raises(ArchiveError, match=r"[Mm]emory"):
        read_stream(tmp_path, data)


def test_zstd_without_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("compression", "compression.zstd", "backports", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ArchiveError, match="install backports.zstd"):
        read_stream(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(100))


@pytest.mark.parametrize("isal", [True, False])
def test_gzip_with_and_without_isal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, isal: bool) -> None:
    if not isal:
        monkeypatch.setitem(sys.modules, "isal", None)
    elif importlib.util.find_spec("isal") is None:
        pytest.skip("isal is not installed")
    data = gzip.compress(PLAIN)
    assert read_stream(tmp_path, data + data) == ("gzip", PLAIN + PLAIN)
    with pytest.raises(ArchiveError, match="truncated gzip data"):
        read_stream(tmp_path, data[:-4])
    with pytest.raises(ArchiveError, match="damaged gzip data"):
        read_stream(tmp_path, data[:-8] + bytes(4) + data[-4:])


def test_a_stream_closed_early_stops_its_thread(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(PLAIN * 10, 1))
    with path.open("rb") as f, Stream(f.fileno()) as stream:
        assert stream.read()
    assert threading.active_count() == 1


def test_an_error_of_the_source_reaches_the_reader() -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() > 0:
                raise OSError(5, "broken")
            return super().read(100)

    with Stream(Broken(gzip.compress(_noise)), threaded=True) as stream, pytest.raises(OSError, match="broken"):
        list(iter(stream.read, b""))


def test_is_header() -> None:
    assert tar.is_header(header(b"f"))
    assert not tar.is_header(bytes(512))
    assert not tar.is_header(b"x" * 512)
    assert not tar.is_header(header(b"f")[:511])


def test_archive_errors_are_ctnr_errors() -> None:
    assert issubclass(ArchiveError, CtnrError)
