# SPDX-License-Identifier: Apache-2.0
"""Hostile archives, and a hostile neighbour: nothing is made or changed outside of the destination."""

from __future__ import annotations

import errno
import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
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
    pax,
    symlink,
)
from unpackplace import IN_ROOT, LAYER, NOBODY, Place

from ctnr.errors import CtnrError
from ctnr.image import dirs, paths
from ctnr.image.policy import UnpackPolicy
from ctnr.image.unpack import unpack

# --- hostile archives: SECURITY.md's list. Each refuses with one line that names the archive and the entry

OUT = b"@outside@"  # stands for the absolute path of the directory outside
Case = tuple[bytes, str, str]


def refused(entry: str, why: str, *members: bytes) -> Case:
    return archive(*members), entry, why


TRUNCATED = archive(member(b"a"), member(b"f", b"x" * 5000))[:3000]
LINKED_OUT = "leads outside"
HOSTILE: dict[str, Case] = {
    "absolute name": refused("/etc/passwd", "absolute name", member(b"/etc/passwd", b"x")),
    "absolute name in the root": refused("/x", "absolute name", member(b"/x", b"x")),
    "absolute name with two slashes": refused("//x", "absolute name", member(b"//x", b"x")),
    "absolute directory": refused("/d/", "absolute name", directory(b"/d/")),
    "root as /": refused("/", "absolute name", directory(b"/")),
    "absolute by PAX": refused("/x", "absolute name", pax((b"path", b"/x")), member(b"x")),
    "absolute by prefix": refused("/p/x", "absolute name", member(b"x", prefix=b"/p")),
    "absolute by long name": refused("/" + "x" * 150, "absolute name", gnu_long(b"/" + b"x" * 150), member(b"x")),
    ".. first": refused("../outside/x", "'..'", member(b"../outside/x", b"x")),
    ".. after .": refused("./../outside/x", "'..'", member(b"./../outside/x", b"x")),
    ".. in the middle": refused("a/../../outside/x", "'..'", directory(b"a"), member(b"a/../../outside/x", b"x")),
    ".. that stays inside": refused("a/../x", "'..'", directory(b"a"), member(b"a/../x", b"x")),
    ".. last": refused("a/..", "'..'", directory(b"a"), directory(b"a/..")),
    ".. alone": refused("..", "'..'", directory(b"..", mode=0o777)),
    ".. as a symlink": refused("..", "'..'", symlink(b"..", b"x")),
    ".. as a file": refused("a/..", "'..'", directory(b"a"), member(b"a/..", b"x")),
    "through an absolute symlink": refused("s/x", LINKED_OUT, symlink(b"s", OUT), member(b"s/x", b"x")),
    "through an absolute symlink, deeper": refused("s/sub/x", LINKED_OUT, symlink(b"s", OUT), member(b"s/sub/x", b"x")),
    "through a symlink to /": refused("s/x", LINKED_OUT, symlink(b"s", b"/"), member(b"s/x", b"x")),
    "through a symlink with ..": refused("s/x", LINKED_OUT, symlink(b"s", b"../outside"), member(b"s/x", b"x")),
    "through a symlink far up": refused("s/x", LINKED_OUT, symlink(b"s", b"../" * 30 + b"tmp"), member(b"s/x", b"x")),
    "through two symlinks": refused("a/x", LINKED_OUT, symlink(b"a", b"b"), symlink(b"b", OUT), member(b"a/x", b"x")),
    "through a symlink deep down": refused(
        "d/s/x", LINKED_OUT, directory(b"d"), symlink(b"d/s", b"../../outside"), member(b"d/s/x", b"x")
    ),
    "directory through a symlink": refused("s/new/", LINKED_OUT, symlink(b"s", OUT), directory(b"s/new/")),
    "existing directory through a symlink": refused(
        "s/sub/", LINKED_OUT, symlink(b"s", OUT), directory(b"s/sub/", mode=0o777)
    ),
    "symlink through a symlink": refused("s/x", LINKED_OUT, symlink(b"s", OUT), symlink(b"s/x", b"y")),
    "fifo through a symlink": refused("s/x", LINKED_OUT, symlink(b"s", OUT), member(b"s/x", kind=b"6")),
    "hardlink through a symlink": refused("s/x", LINKED_OUT, symlink(b"s", OUT), member(b"f"), hardlink(b"s/x", b"f")),
    "through a symlink loop": refused("a/x", "too many symlinks", symlink(b"a", b"b"), symlink(b"b", b"a"), member(b"a/x")),
    "through a symlink to itself": refused("a/x", "too many symlinks", symlink(b"a", b"a"), member(b"a/x")),
    "root is a symlink": refused(".", "root of the archive is not a directory", symlink(b".", OUT), member(b"x", b"x")),
    "root is a symlink with slash": refused("./", "root of the archive is not a directory", symlink(b"./", OUT)),
    "root is a file": refused(".", "root of the archive is not a directory", member(b".", b"x")),
    "root is a fifo": refused("././.", "root of the archive is not a directory", member(b"././.", kind=b"6")),
    "root is a hardlink": refused(".", "root of the archive is not a directory", member(b"f"), hardlink(b".", b"f")),
    "no name": refused("", "without a name", member(b"", b"x")),
    "no name, a directory": refused("", "without a name", directory(b"")),
    "hardlink to an absolute name": refused("h", "an absolute name", hardlink(b"h", OUT + b"/secret")),
    "hardlink with ..": refused("h", "'..'", hardlink(b"h", b"../outside/secret")),
    "hardlink to a symlinked file": refused(
        "h", "hardlink to a symlink", symlink(b"s", OUT + b"/secret"), hardlink(b"h", b"s"), member(b"h", b"x")
    ),
    "hardlink out through a symlink": refused("h", LINKED_OUT, symlink(b"s", OUT), hardlink(b"h", b"s/secret")),
    "hardlink to a directory": refused("h", "hardlink to a directory", directory(b"d"), hardlink(b"h", b"d")),
    "hardlink to the root": refused("h", "hardlink to a directory", hardlink(b"h", b".")),
    "hardlink to nothing": refused("h", "not there", hardlink(b"h", b"missing")),
    "hardlink to nothing in no directory": refused("h", "not there", hardlink(b"h", b"no/missing")),
    "hardlink to no name": refused("h", "hardlink to", hardlink(b"h", b"")),
    "hardlink to itself": refused("h", "not there", hardlink(b"h", b"h")),
    "hardlink to a name too long": refused("h", "too long", gnu_long(b"x/" * 4000, b"K"), hardlink(b"h", b"x")),
    "below a file": refused("f/x", "no directory", member(b"f", b"x"), member(b"f/x", b"x")),
    "below a fifo": refused("p/x", "no directory", member(b"p", kind=b"6"), member(b"p/x", b"x")),
    "below a symlink to a file": refused("s/x", "no directory", member(b"f"), symlink(b"s", b"f"), member(b"s/x")),
    "device node": refused("sda", "device node outside of dev/", header(b"sda", b"4", device=(8, 0))),
    "device node, deeper": refused("etc/mem", "device node outside of dev/", header(b"etc/mem", b"3", device=(1, 1))),
    "device node named dev": refused("dev", "device node outside of dev/", header(b"dev", b"3", device=(1, 1))),
    "device node in a/dev": refused("a/dev/x", "device node outside of dev/", header(b"a/dev/x", b"3", device=(1, 1))),
    "device node in dev by ..": refused("dev/../x", "'..'", directory(b"dev"), header(b"dev/../x", b"3", device=(1, 1))),
    "symlink to nothing": refused("s", "symlink to nothing", symlink(b"s", b"")),
    "symlink target too long": refused("s", "too long", gnu_long(b"x" * 5000, b"K"), symlink(b"s", b"x")),
    "component too long": refused("x" * 150, "name too long", gnu_long(b"x" * 256), member(b"x")),
    "path too long": refused("x/x", "more than 4095 bytes", gnu_long(b"x/" * 3000 + b"x"), member(b"x")),
    "path too long but for its slash": refused("x/x", "more than 4095", gnu_long(b"x/" * 3000), directory(b"x")),
    "NUL in a name": refused("", "NUL", pax((b"path", b"a\0b")), member(b"x")),
    "NUL in a symlink": refused("s", "NUL", pax((b"linkpath", b"a\0b")), symlink(b"s", b"x")),
    "control characters in a name": refused(
        "../a\\nb\\x1b[31m\\u202e\\xff", "'..'", member("../a\nb\x1b[31m\u202e".encode() + b"\xff")
    ),
    "negative size": refused("", "negative size", header(b"f", size=base256(-512, 12))),
    "huge size": refused("f", "truncated", header(b"f", size=base256((1 << 62) - 1, 12))),
    "size beyond all": refused("", "out of range", header(b"f", size=b"\xbf" + b"\xff" * 11)),
    "truncated in the data": (TRUNCATED, "f", "truncated"),
    "truncated in the first header": (TRUNCATED[:300], "", "no tar archive"),
    "truncated in a header": (TRUNCATED[:700], "", "truncated"),
    "truncated between entries": (member(b"f", b"x"), "", "truncated"),
    "wrong checksum": refused("", "checksum", member(b"a"), header(b"f", checksum=b"000000\0 ")),
    "not an archive": (b"#!/bin/sh\necho hello\n" * 100, "", "no tar archive"),
    "empty file": (b"", "", "no tar archive"),
    "a zip": (b"PK\3\4" + bytes(2000), "", "no tar archive"),
    "garbage after the end": (archive(member(b"f")) + b"garbage", "", "garbage after the end"),
    "two archives": (archive(member(b"f")) * 2, "", "garbage after the end"),
    "damaged gzip": (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 600, "", "damaged gzip data"),
    "truncated gzip": (b"\x1f\x8b\x08", "", "truncated gzip data"),
    "unknown kind": refused("f", "not supported", member(b"f", kind=b"Q")),
    "sparse map past the end": refused(
        "f", "bad map", pax((b"GNU.sparse.map", b"8,2"), (b"GNU.sparse.size", b"9")), member(b"f", b"ab")
    ),
    "sparse file of 4 EiB": refused(
        "f", "large", member(b"f", b"", b"S", magic=GNU, tail=bytes(41 + 97) + base256((1 << 62) - 1, 12))
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archive_is_refused(place: Place, resolver: str, name: str) -> None:
    data, entry, why = HOSTILE[name]
    if name == "sparse file of 4 EiB" and not _has_size_limit(place.path):
        pytest.skip("not applicable: this filesystem has no limit a file could exceed")
    outside = str(place.outside).encode()
    message = place.refuses(_with_outside(data, outside))
    assert message.startswith(entry[:150]), message
    assert why in message
    assert message.count("\n") == 0


def _has_size_limit(path: Path) -> bool:
    with tempfile.TemporaryFile(dir=path) as f:
        try:
            os.truncate(f.fileno(), (1 << 62) - 1)
        except OSError as e:
            return e.errno == errno.EFBIG
    return False


def _with_outside(data: bytes, outside: bytes) -> bytes:
    """The archive with OUT replaced, and its checksums made good."""
    if OUT not in data:
        return data
    out = bytearray(data)
    while (at := out.find(OUT)) >= 0:
        start = at // BLOCK * BLOCK
        field = bytes(out[start + 157 : start + 257]).rstrip(b"\0")
        out[start + 157 : start + 257] = field.replace(OUT, outside).ljust(100, b"\0")
        block = out[start : start + BLOCK]
        out[start + 148 : start + 156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
        assert len(out) == len(data), "the path of the test directory is too long for a header"
    return bytes(out)


def test_too_many_entries(place: Place) -> None:
    data = archive(*(member(b"f%d" % i) for i in range(11)))
    assert "f10: the archive has more than the 10 entries" in place.refuses(
        data, UnpackPolicy(owner="none", max_entries=10)
    )
    place.unpack(data, UnpackPolicy(owner="none", max_entries=11))


def test_too_many_bytes(place: Place) -> None:
    data = archive(member(b"f", bytes(100_000)))
    assert "more than the 100000 bytes allowed" in place.refuses(data, UnpackPolicy(owner="none", max_bytes=100_000))


def test_too_long_a_path(place: Place) -> None:
    assert "more than 10 bytes" in place.refuses(archive(member(b"x" * 11)), UnpackPolicy(owner="none", max_path=10))


def test_a_compression_bomb(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    import gzip

    from ctnr.image import compression

    data = gzip.compress(archive(member(b"f", bytes(10 << 20))))
    monkeypatch.setattr(compression, "RATIO_FLOOR", 1 << 20)
    assert place.refuses(data) == "f: it unpacks to more than 200 times its size, like a bomb"


@pytest.mark.parametrize("field", ["uid", "gid"])
@pytest.mark.parametrize("id", [-1, (1 << 32) - 1, 1 << 32, 1 << 40])
def test_owner_out_of_range(place: Place, field: str, id: int) -> None:
    """-1 would leave the owner as it is, others would wrap around to 0."""
    owner = {"uid": os.getuid(), "gid": os.getgid(), field: base256(id, 8)}
    assert place.refuses(archive(member(b"f", **owner)), UnpackPolicy()) == f"f: no such {field}, {id}"


def test_owner_without_a_mapping(place: Place) -> None:
    policy = UnpackPolicy(owner="map", uid_map=((0, os.getuid(), 1),), gid_map=((0, os.getgid(), 1),))
    assert "uid 5 is not in the container's id map" in place.refuses(archive(member(b"f", uid=5)), policy)
    assert "gid 5 is not in the container's id map" in place.refuses(archive(member(b"f", gid=5)), policy)
    place.unpack(archive(member(b"d/f")), policy)
    assert (place.dest / "d/f").stat().st_uid == os.getuid()


@pytest.mark.skipif(os.getuid() == 0, reason="not applicable: root may")
def test_owner_that_cannot_be_kept(place: Place) -> None:
    assert "f: its owner 0:0 cannot be kept without being root" in place.refuses(archive(member(b"f")), UnpackPolicy())


@pytest.mark.parametrize("hidden", [b"", b".", b".."])
def test_whiteout_of_no_name(place: Place, hidden: bytes) -> None:
    assert "whiteout of no name" in place.refuses(archive(directory(b"d"), member(b"d/.wh." + hidden)), LAYER)


# --- nothing is followed


def test_a_file_replaces_a_symlink(place: Place, resolver: str) -> None:
    for kind in (b"0", b"6", b"5"):
        data = archive(
            symlink(b"s", bytes(place.secret)), symlink(b"t", b"nowhere"), member(b"s", b"", kind), member(b"t", b"x")
        )
        place.unpack(data)
        assert not (place.dest / "s").is_symlink()
        assert (place.dest / "t").read_bytes() == b"x"
        shutil.rmtree(place.dest)


def test_a_directory_replaces_a_symlink_to_a_directory(place: Place, resolver: str) -> None:
    place.unpack(archive(symlink(b"s", bytes(place.outside)), directory(b"s/"), member(b"s/x", b"x")))
    assert (place.dest / "s/x").read_bytes() == b"x"
    assert not (place.dest / "s").is_symlink()


def test_a_symlink_replaces_a_directory(place: Place, resolver: str) -> None:
    """The directory was open; what comes after it goes by the new name."""
    data = archive(directory(b"d"), member(b"d/a"), symlink(b"d", bytes(place.outside)), member(b"d/b", b"x"))
    assert "d/b: its path goes through a symlink" in place.refuses(data)
    place.unpack(data, IN_ROOT)
    inside = place.dest / str(place.outside).lstrip("/")
    assert (inside / "b").read_bytes() == b"x"


def test_a_hardlink_is_not_written_through(place: Place) -> None:
    """h becomes a file of its own when it is in the archive again."""
    place.unpack(archive(member(b"f", b"old"), hardlink(b"h", b"f"), member(b"h", b"new")))
    assert [(place.dest / n).read_bytes() for n in "fh"] == [b"old", b"new"]


class Swapping(io.BytesIO):
    """An archive during whose reading, at a certain byte, something happens."""

    def __init__(self, data: bytes, at: int, what: Callable[[], None]) -> None:
        super().__init__(data)
        self.at = at
        self.what: Callable[[], None] | None = what

    def read(self, size: int | None = -1, /) -> bytes:
        if self.tell() >= self.at and self.what is not None:
            self.what()
            self.what = None
        return super().read(512)


@pytest.mark.parametrize("policy", [NOBODY, IN_ROOT])
@pytest.mark.parametrize("open_max", [48, 1])
def test_a_directory_swapped_for_a_symlink_meanwhile(
    place: Place, resolver: str, monkeypatch: pytest.MonkeyPatch, policy: UnpackPolicy, open_max: int
) -> None:
    """The race of CVE-2018-15664 and its kin, with the directory still open and with it to be opened again."""
    monkeypatch.setattr(dirs, "_OPEN_MAX", open_max)
    before = directory(b"d") + member(b"d/a") + directory(b"e") + member(b"e/f")
    data = archive(before, member(b"d/secret", b"pwned", mode=0o777), directory(b"d/sub", mode=0o777))

    def swap() -> None:
        (place.dest / "d").rename(place.dest / "moved")
        (place.dest / "d").symlink_to(place.outside)

    place.dest.mkdir()
    fd = os.open(place.dest, os.O_RDONLY)
    try:
        unpack(Swapping(data, len(before), swap), fd, policy)
    except CtnrError as e:
        assert "symlink" in str(e)
    finally:
        os.close(fd)
    place.check()


def test_a_file_swapped_for_a_symlink_after_it_was_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done to a file is done on its fd: CVE-2021-32760, CVE-2025-47290."""
    real = os.write

    def write(fd: int, data: bytes) -> int:
        (place.dest / "f").unlink()
        (place.dest / "f").symlink_to(place.secret)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    place.unpack(archive(member(b"f", b"x", mode=0o4777, mtime=5)))


def test_a_directory_swapped_for_a_symlink_after_it_was_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.mkdir

    def mkdir(path: bytes, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        real(path, mode, dir_fd=dir_fd)
        if path == b"d":
            (place.dest / "d").rmdir()
            (place.dest / "d").symlink_to(place.outside)

    monkeypatch.setattr(os, "mkdir", mkdir)
    place.refuses(archive(directory(b"d", mode=0o777, mtime=5)))


def test_a_fifo_swapped_for_a_symlink_after_it_was_made(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.mknod

    def mknod(path: bytes, mode: int = 0o600, device: int = 0, *, dir_fd: int | None = None) -> None:
        real(path, mode, device, dir_fd=dir_fd)
        (place.dest / "p").unlink()
        (place.dest / "p").symlink_to(place.secret)

    monkeypatch.setattr(os, "mknod", mknod)
    place.refuses(archive(member(b"p", kind=b"6", mode=0o777, mtime=5)))


def test_open_dir_both_ways_agree(tmp_path: Path) -> None:
    """openat2 is the oracle of the walk."""
    if paths._openat2 is None:
        pytest.skip("no openat2")
    root = tmp_path / "root"
    (root / "a/b/c").mkdir(parents=True)
    (root / "file").touch()
    (tmp_path / "out").mkdir()
    for name, target in {
        "abs": "/a/b",
        "out": f"{tmp_path}/out",
        "up": "../out",
        "a/up": "..",
        "a/upup": "../..",
        "a/b/around": "../../a/./b//c/../c",
        "loop": "loop",
        "tofile": "file",
        "dangling": "nowhere/at/all",
        "chain": "a/up/abs/c",
        "dot": ".",
        "root": "/",
        "dotdot": "/..",
    }.items():
        (root / name).symlink_to(target)
    names = [
        "a",
        "b",
        "c",
        "abs",
        "out",
        "up",
        "upup",
        "around",
        "loop",
        "tofile",
        "file",
        "dangling",
        "chain",
        "dot",
        "root",
    ]
    names += ["dotdot", "missing", ".", "..", ""]
    fd = os.open(root, os.O_RDONLY)

    def outcome(path: bytes, in_root: bool) -> object:
        try:
            found = paths.open_dir(fd, path, in_root)
        except OSError as e:
            return e.errno
        try:
            return dirs.key_of(os.fstat(found))
        finally:
            os.close(found)

    openat2 = paths._openat2
    try:
        for parts in itertools.chain(*(itertools.product(names, repeat=n) for n in (1, 2))):
            path = (
                "/".join(["a", *parts]).encode() if parts[0] in ("upup", "b") else "/".join(parts).encode().lstrip(b"/")
            )
            for in_root in (True, False):
                expected = outcome(path, in_root)
                paths._openat2 = None
                try:
                    assert outcome(path, in_root) == expected, (path, in_root)
                finally:
                    paths._openat2 = openat2
    finally:
        os.close(fd)


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM, errno.EAGAIN])
def test_openat2_refused_falls_back(place: Place, monkeypatch: pytest.MonkeyPatch, error: int) -> None:
    calls = []

    def refuse(*args: object) -> int:
        calls.append(args)
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(paths, "_openat2", refuse)
    place.unpack(archive(*(member(b"d%d/f" % i) for i in range(3))))
    assert len(place.names()) == 6
    assert len(calls) == (3 if error == errno.EAGAIN else 1)


def test_names_that_are_no_utf8(place: Place, resolver: str) -> None:
    place.unpack(
        archive(directory(b"d\xff\xfe"), member(b"d\xff\xfe/x\x80/y\xc3", b"y"), symlink(b"s\xff", b"d\xff\xfe"))
    )
    assert (place.dest / os.fsdecode(b"d\xff\xfe/x\x80/y\xc3")).read_bytes() == b"y"


# --- fuzzing

_CORPUS = archive(
    directory(b"./d/", mtime=5),
    pax((b"path", b"d/pax"), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"b")),
    member(b"f", b"x" * 700),
    gnu_long(b"d/" + b"l" * 120),
    member(b"short", b"data"),
    symlink(b"s", b"d/pax"),
    symlink(b"up", b"../outside"),
    symlink(b"t", b"d"),
    member(b"t/below", b"1"),
    hardlink(b"h", b"d/pax"),
    header(b"dev/null", b"3", device=(1, 3)),
    member(b"d/.wh.pax"),
    member(b"d/.wh..wh..opq"),
    member(
        b"old", b"ab", b"S", magic=GNU, tail=bytes(41) + octal(5, 12) + octal(2, 12) + bytes(72) + b"\0" + octal(9, 12)
    ),
)
_edit = st.tuples(
    st.integers(0, len(_CORPUS) - 1),
    st.one_of(
        st.binary(min_size=1, max_size=4),
        st.sampled_from(
            [b"/", b"..", b"../", b"./", b"up/", b"s/", b"\0", b"0", b"1", b"2", b"3", b"5", b"6", b".wh.", b"7777777"]
        ),
    ),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(_edit, min_size=1, max_size=6), st.sampled_from([NOBODY, IN_ROOT, LAYER]), st.booleans())
def test_mutated_archives_change_nothing_outside(
    edits: list[tuple[int, bytes]], policy: UnpackPolicy, walk: bool
) -> None:
    data = bytearray(_CORPUS)
    for at, patch in edits:
        data[at : at + len(patch)] = patch
    del data[len(_CORPUS) :]
    for at in range(0, len(data), BLOCK):
        if data[at + 257 : at + 262] == b"ustar":
            block = data[at : at + BLOCK]
            data[at + 148 : at + 156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    openat2 = paths._openat2
    with tempfile.TemporaryDirectory() as top:
        place = Place(Path(top))
        if walk:
            paths._openat2 = None
        try:
            place.unpack(bytes(data), policy)
        except CtnrError as e:
            assert str(e).startswith(f"{place.archive}: ") and str(e).isprintable()
            assert not place.dest.exists()
        finally:
            paths._openat2 = openat2
