# SPDX-License-Identifier: Apache-2.0
"""The unpacker: what it makes is what the archive says."""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tarmaker import (
    GNU,
    archive,
    directory,
    gnu_long,
    hardlink,
    header,
    member,
    octal,
    padded,
    pax,
    symlink,
)
from unpackplace import IN_ROOT, NOBODY, SECOND, Place, looks

from ctnr.errors import CtnrError
from ctnr.image import dirs, unpack_main
from ctnr.image.archive import is_archive, unpack_archive
from ctnr.image.policy import Report, UnpackPolicy
from ctnr.image.unpack import unpack

# --- what is unpacked is what was packed


def test_names_are_normalised(place: Place, resolver: str) -> None:
    place.unpack(
        archive(
            directory(b"./"),
            directory(b"./a//b/./"),
            member(b".//a/./b/f", b"1"),
            member(b"a/b/./g", b"2"),
            directory(b"c///"),
        )
    )
    assert place.names() == ["a", "a/b", "a/b/f", "a/b/g", "c"]


def test_modes_whatever_the_umask(place: Place) -> None:
    modes = (0o4755, 0o2755, 0o1777, 0o6711, 0o000, 0o777, 0o400)
    old = os.umask(0o077)
    try:
        data = [member(b"f%o" % m, b"x", mode=m) for m in modes] + [directory(b"d%o" % m, mode=m) for m in modes]
        data += [member(b"p%o" % m, kind=b"6", mode=m) for m in modes]
        place.unpack(archive(directory(b".", mode=0o751), *data, member(b"implied/x")))
    finally:
        os.umask(old)
    for mode, kind in itertools.product(modes, "fdp"):
        assert stat.S_IMODE((place.dest / f"{kind}{mode:o}").lstat().st_mode) == mode
    assert stat.S_IMODE(place.dest.stat().st_mode) == 0o751
    assert stat.S_IMODE((place.dest / "implied").stat().st_mode) == 0o755


def test_root_without_an_entry(place: Place) -> None:
    old = os.umask(0o077)
    try:
        place.unpack(archive(member(b"f")))
    finally:
        os.umask(old)
    assert stat.S_IMODE(place.dest.stat().st_mode) == 0o755


@pytest.mark.parametrize("pretend", [False, True])
def test_directories_that_may_not_be_written(place: Place, monkeypatch: pytest.MonkeyPatch, pretend: bool) -> None:
    """Without CAP_DAC_OVERRIDE their modes have to wait until all is in them; also below one another, in any order."""
    if pretend:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(dirs, "_OPEN_MAX", 2)
    members = [
        member(b"a/b/early", b"1"),
        directory(b"a", mode=0o555, mtime=1),
        directory(b"a/b", mode=0o000, mtime=2),
        directory(b"a/b/c", mode=0o111, mtime=3),
        directory(b"x", mode=0o000, mtime=4),
        directory(b"y", mode=0o755, mtime=5),
        member(b"a/b/c/f", b"2"),
        member(b"x/f", b"3"),
        directory(b"y", mode=0o500, mtime=6),
        directory(b"x", mode=0o700, mtime=7),
        member(b"a/b/late", b"4"),
        directory(b"gone", mode=0o000),
        member(b"gone", b"5"),
    ]
    place.unpack(archive(*members))
    dest = place.dest
    modes = {}
    for name in ("a", "x", "y", "a/b", "a/b/c"):  # parents first: opened up on the way
        s = (dest / name).stat()
        modes[name] = (stat.S_IMODE(s.st_mode), s.st_mtime)
        (dest / name).chmod(0o700)
    assert modes == {"a": (0o555, 1), "a/b": (0, 2), "a/b/c": (0o111, 3), "x": (0o700, 7), "y": (0o500, 6)}
    assert [(dest / n).read_text() for n in ("a/b/early", "a/b/c/f", "x/f", "a/b/late", "gone")] == list("12345")


def test_too_many_directories_that_may_not_be_written(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    data = archive(*(directory(b"d%d" % i, mode=0o555) for i in range(3)))
    monkeypatch.setattr(dirs, "_LATE_MODES_MAX", 2)
    assert "d2: too many directories" in place.refuses(data)
    monkeypatch.setattr(dirs, "_LATE_MODES_MAX", 3)
    monkeypatch.setattr(dirs, "_LATE_BYTES_MAX", 5)
    assert "d2: too many directories" in place.refuses(data)
    monkeypatch.setattr(dirs, "_LATE_BYTES_MAX", 6)
    place.unpack(data)


def test_times_to_the_nanosecond(place: Place) -> None:
    stamp = pax((b"mtime", b"1700000000.123456789"), (b"atime", b"1600000000.5"))
    names = [b"f", b"d/", b"s", b"p"]
    blocks = [member(b"f", b"x"), directory(b"d/"), symlink(b"s", b"f"), member(b"p", kind=b"6")]
    old = pax((b"mtime", b"-1.5"))
    place.unpack(archive(*(stamp + block for block in blocks), old, member(b"d/f"), directory(b"./", mtime=42)))
    for name in names:
        s = (place.dest / os.fsdecode(name)).lstat()
        assert s.st_mtime_ns == 1700000000123456789
        if name != b"d/":
            assert s.st_atime_ns == 1600000000500000000
    assert (place.dest / "d/f").stat().st_mtime_ns in (-1_500_000_000, 0)  # some filesystems know nothing before 1970
    assert place.dest.stat().st_mtime == 42


@pytest.mark.parametrize("open_max", [1, 2, 48])
def test_directory_times_survive_what_comes_later(place: Place, monkeypatch: pytest.MonkeyPatch, open_max: int) -> None:
    """Entries of many directories mixed, by several names of each, through symlinks, replaced, hardlinked, implied."""
    monkeypatch.setattr(dirs, "_OPEN_MAX", open_max)
    rng = random.Random(open_max)
    tops = [b"d%d" % i for i in range(8)]
    subs = [top + b"/sub" for top in tops]
    members = [directory(name + b"/", mtime=1000 + i) for i, name in enumerate(tops + subs)]
    members += [symlink(b"link%d" % i, top) for i, top in enumerate(tops)]
    later = []
    for i in range(300):
        where = rng.choice(
            [*tops, *subs, *(b"link%d" % i for i in range(8)), *(b"./" + t for t in tops), *(s + b"/." for s in subs)]
        )
        later.append(
            rng.choice(
                [member(where + b"/f%d" % (i % 7), b"x"), directory(where + b"/new%d/deep/er" % (i % 5), mtime=7)]
            )
        )
        if i % 20 == 0:
            later.append(hardlink(where + b"/h%d" % i, b"first"))
    place.unpack(archive(directory(b".", mtime=99), member(b"first"), *members, *later))
    assert place.dest.stat().st_mtime == 99
    for i, name in enumerate(tops + subs):
        assert (place.dest / os.fsdecode(name)).stat().st_mtime == 1000 + i
    for path in place.dest.glob("**/er"):
        assert path.stat().st_mtime == 7


def test_hardlinks(place: Place, resolver: str) -> None:
    data = archive(
        member(b"./a/f", b"data", mode=0o640),
        hardlink(b"b", b"./a/f"),
        hardlink(b"c/d", b"a/f"),
        member(b"e", b"other"),
        hardlink(b"e", b"a/f"),
        hardlink(b"b", b"b"),
        hardlink(b"a/f", b"c/d"),
        symlink(b"l", b"a"),
        hardlink(b"g", b"l/f"),
        member(b"p", kind=b"6"),
        hardlink(b"q", b"p"),
    )
    place.unpack(data)
    inodes = {(place.dest / n).stat().st_ino for n in ("a/f", "b", "c/d", "e", "g")}
    assert len(inodes) == 1
    assert (place.dest / "b").stat().st_nlink == 5
    assert (place.dest / "p").samefile(place.dest / "q")


def test_hardlink_to_a_symlink_where_layers_have_them(place: Place) -> None:
    place.unpack(archive(symlink(b"s", b"/nowhere"), hardlink(b"h", b"s"), hardlink(b"i", b"/s")), IN_ROOT)
    assert os.readlink(place.dest / "h") == "/nowhere"
    assert (place.dest / "i").lstat().st_nlink == 3


def test_symlinks_may_point_anywhere(place: Place) -> None:
    targets = {
        b"a": b"/etc/passwd",
        b"b": b"../../../..",
        b"c": b"nowhere",
        b"d": b"\xff\n",
        b"e": b"/proc/self/exe",
        b"f": b"x" * 4000,
    }
    place.unpack(archive(*(gnu_long(t, b"K") + symlink(n, b"") for n, t in targets.items())))
    assert {os.fsencode(p.name): os.readlink(bytes(p)) for p in place.dest.iterdir()} == targets


def test_duplicate_entries_the_last_wins(place: Place) -> None:
    kinds = {
        "file": member(b"x", b"1"),
        "directory": directory(b"x") + member(b"x/y/z", b"2"),
        "symlink": symlink(b"x", b"t"),
        "fifo": member(b"x", kind=b"6"),
        "hardlink": hardlink(b"x", b"f"),
    }
    looks_like = {
        "file": stat.S_IFREG,
        "directory": stat.S_IFDIR,
        "symlink": stat.S_IFLNK,
        "fifo": stat.S_IFIFO,
        "hardlink": stat.S_IFREG,
    }
    for first, second in itertools.product(kinds, kinds):
        place.unpack(archive(member(b"f", b"f"), kinds[first], kinds[second]))
        assert stat.S_IFMT((place.dest / "x").lstat().st_mode) == looks_like[second], (first, second)
        assert ("x/y/z" in place.names()) == (second == "directory")
        shutil.rmtree(place.dest)


def test_sparse_files_stay_sparse(place: Place) -> None:
    size = 64 << 20
    old = octal(1 << 20, 12) + octal(4, 12) + octal(size, 12) + octal(0, 12) + bytes(49) + octal(size, 12)
    assert len(old) == 24 * 4 + 1 + 12
    data = archive(
        member(b"old", b"data", b"S", magic=GNU, tail=bytes(41) + old),
        pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"%d" % size)),
        member(b"new", padded(b"1\n%d\n4\n" % (1 << 20)) + b"data"),
        pax((b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"%d" % size)),
        member(b"hole", padded(b"0\n")),
    )
    report = place.unpack(data)
    for name, content in (("old", b"data"), ("new", b"data"), ("hole", bytes(4))):
        s = (place.dest / name).stat()
        assert (s.st_size, s.st_blocks * 512 < 1 << 20) == (size, True)
        with (place.dest / name).open("rb") as f:
            f.seek(1 << 20)
            assert f.read(4) == content
    assert report.bytes == 8


def test_big_files_and_small_chunks(place: Place) -> None:
    rng = random.Random(3)
    data = {b"f%d" % i: rng.randbytes(size) for i, size in enumerate((0, 1, 511, 512, 513, 3 << 20, 1 << 18, 0))}
    report = place.unpack(archive(*(member(n, d) for n, d in data.items())))
    assert {os.fsencode(p.name): p.read_bytes() for p in place.dest.iterdir()} == data
    assert report == Report(entries=8, bytes=sum(map(len, data.values())))


def test_xattrs_by_an_allow_list(place: Place) -> None:
    place.dest.mkdir()
    try:
        os.setxattr(place.dest, "user.x", b"1")
    except OSError:
        pytest.skip("this filesystem has no user.* attributes")
    place.dest.rmdir()
    xattrs = (
        (b"SCHILY.xattr.user.a", b"1\0\n2"),
        (b"SCHILY.xattr.user.empty", b""),
        (b"SCHILY.xattr.user.overlay.redirect", b"/etc"),
        (b"SCHILY.xattr.user.overlay.opaque", b"y"),
        (b"SCHILY.xattr.user.rootlesscontainers", b"x"),
        (b"SCHILY.xattr.trusted.overlay.opaque", b"y"),
        (b"SCHILY.xattr.security.selinux", b"label"),
        (b"SCHILY.xattr.security.ima", b"x"),
        (b"SCHILY.xattr.system.posix_acl_access", b"x"),
        (b"SCHILY.xattr.nonsense", b"x"),
        (b"SCHILY.xattr.", b"x"),
    )
    stamp = pax(*xattrs)
    report = place.unpack(
        archive(
            stamp,
            member(b"f", b"x", mode=0o400),
            stamp,
            directory(b"d", mode=0o500),
            stamp,
            symlink(b"s", b"f"),
            stamp,
            directory(b"."),
        )
    )
    for path in (place.dest / "f", place.dest / "d", place.dest):
        found = {n: os.getxattr(path, n) for n in os.listxattr(path) if n.startswith(("user.", "trusted."))}
        assert found == {"user.a": b"1\0\n2", "user.empty": b""}
    assert report.skipped_xattrs == 0


def test_xattrs_without_support_are_counted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*args: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    assert place.unpack(archive(pax((b"SCHILY.xattr.user.a", b"1")), member(b"f"))).skipped_xattrs == 1


def test_xattr_that_cannot_be_set(place: Place) -> None:
    message = place.refuses(archive(pax((b"SCHILY.xattr.user.a\n", b"x" * 70_000)), member(b"f")))
    assert message.startswith("f: extended attribute user.a\\n: ")


def test_devices_in_dev_are_left_out(place: Place) -> None:
    report = place.unpack(
        archive(
            directory(b"./dev/", mtime=5),
            header(b"./dev/null", b"3", device=(1, 3)),
            header(b"dev/sub/sda", b"4", device=(8, 0)),
            hardlink(b"dev/zero", b"dev/null"),
            member(b"dev/log", kind=b"6"),
            symlink(b"dev/fd", b"/proc/self/fd"),
            member(b"dev/file", b"x"),
        )
    )
    assert report.skipped_devices == 3
    assert [name for name in place.names() if name != "dev/sub"] == ["dev", "dev/fd", "dev/file", "dev/log"]
    assert (place.dest / "dev").stat().st_mtime == 5


def test_report_counts_entries(place: Place) -> None:
    assert place.unpack(archive(directory(b"."), member(b"a", b"xyz"), symlink(b"b", b"a"))) == Report(
        entries=3, bytes=3
    )
    shutil.rmtree(place.dest)
    assert place.unpack(archive()) == Report()


# --- random trees

_part = st.sampled_from([b"a", b"b", b"c", b"long" * 30, b"\xc3\xa9", b"dev", b"..."])
_path = st.lists(_part, min_size=1, max_size=4).map(b"/".join)
_node = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=1200), st.integers(0, 0o777)),
    st.tuples(st.just("symlink"), st.sampled_from([b"x", b"/abs/olute", b"../..", b"t" * 200]), st.just(0)),
    st.tuples(st.just("fifo"), st.just(b""), st.integers(0, 0o777)),
)


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(_path, _node, max_size=12),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 3, 48]),
)
def test_random_trees_round_trip(
    nodes: dict[bytes, tuple[str, bytes, int]], format: int, rng: random.Random, open_max: int
) -> None:
    """Files first, directories before, between or after what is in them."""
    leaves = {p: n for p, n in nodes.items() if not any(other.startswith(p + b"/") for other in nodes)}
    folders = {p.rsplit(b"/", i)[0] for p in leaves for i in range(1, p.count(b"/") + 1)}
    order = [*leaves, *(f for f in sorted(folders) if rng.random() < 0.7)]
    rng.shuffle(order)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as writer:
        for i, path in enumerate(order):
            info = tarfile.TarInfo(os.fsdecode(path))
            kind, data, mode = leaves.get(path, ("directory", b"", 0o750))
            info.mtime, info.mode = i, mode
            if kind == "file":
                info.size = len(data)
            else:
                info.type = {"symlink": tarfile.SYMTYPE, "fifo": tarfile.FIFOTYPE, "directory": tarfile.DIRTYPE}[kind]
                info.linkname = os.fsdecode(data)
            writer.addfile(info, io.BytesIO(data))
    old, dirs._OPEN_MAX = dirs._OPEN_MAX, open_max
    try:
        with tempfile.TemporaryDirectory() as top:
            fd = os.open(top, os.O_RDONLY)
            try:
                unpack(io.BytesIO(out.getvalue()), fd, NOBODY)
            finally:
                os.close(fd)
            base = os.fsencode(top) + b"/"
            found = {
                os.path.join(where, name)[len(base) :]
                for where, dir_names, names in os.walk(os.fsencode(top))
                for name in dir_names + names
            }
            assert found == set(leaves) | folders
            for i, path in enumerate(order):
                s = os.lstat(base + path)
                kind, data, mode = leaves.get(path, ("directory", b"", 0o750))
                assert s.st_mtime == i
                if kind == "symlink":
                    assert os.readlink(base + path) == data
                else:
                    assert stat.S_IMODE(s.st_mode) == mode
                if kind == "file" and (mode & 0o400 or os.geteuid() == 0):
                    assert Path(os.fsdecode(base + path)).read_bytes() == data
    finally:
        dirs._OPEN_MAX = old


@pytest.mark.skipif(shutil.which("tar") is None, reason="tar is not installed")
@pytest.mark.parametrize("format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
@pytest.mark.parametrize("compression", ["", "--gzip", "--xz", "--bzip2", "--zstd"])
def test_what_tar_packs(place: Place, format: str, compression: str) -> None:
    """A tree packed by tar and unpacked by us looks as it did."""
    if compression and shutil.which(compression[2:]) is None:
        pytest.skip(f"{compression[2:]} is not installed")
    if compression == "--zstd" and sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd")
    source = place.path / "source"
    (source / "usr/lib").mkdir(parents=True, mode=0o755)
    (source / "usr/lib/long-name-but-not-too-long-for-old-formats").write_bytes(b"x" * 70_000)
    (source / "usr/bin").symlink_to("lib")
    (source / "setuid").write_bytes(b"s")
    (source / "setuid").chmod(0o4755)
    os.link(source / "setuid", source / "usr/hard")
    os.mkfifo(source / "fifo", 0o620) if format != "v7" else None
    (source / "tmp").mkdir()
    (source / "tmp").chmod(0o1777)
    for i, path in enumerate([*sorted(source.rglob("*"), reverse=True), source]):
        os.utime(path, ns=(0, (1_600_000_000 + i) * SECOND), follow_symlinks=False)
    packed = place.path / "packed"
    subprocess.run(
        ["tar", "-C", source, "-c", f"--format={format}", *filter(None, [compression]), "-f", packed, "."], check=True
    )
    unpack_archive(str(packed), str(place.dest), UnpackPolicy())

    def without_ctime(tree: Path) -> dict[str, object]:
        return {n: (*v[:5], v[6]) for n, v in looks(tree).items() if isinstance(v, tuple)}

    expected = without_ctime(source)
    assert without_ctime(place.dest) == expected
    assert len(expected) >= 8


# --- where it comes from, where it goes


def test_sources(place: Place) -> None:
    """An fd of a file, an fd of a pipe, an object."""
    import gzip

    data = gzip.compress(archive(member(b"f", b"x" * 1000)))
    place.dest.mkdir()
    dest_fd = os.open(place.dest, os.O_RDONLY)
    read_fd, write_fd = os.pipe()
    os.write(write_fd, data)
    os.close(write_fd)
    with tempfile.TemporaryFile(buffering=0) as f:
        f.write(data)
        f.seek(0)
        for source in (f.fileno(), read_fd, io.BytesIO(data)):
            assert unpack(source, dest_fd, NOBODY).bytes == 1000
            (place.dest / "f").unlink()
    os.close(read_fd)
    os.close(dest_fd)


def test_unpack_archive_errors(place: Place) -> None:
    good = place.path / "good.tar"
    good.write_bytes(archive(member(b"f")))

    def error(path: Path, dest: Path = place.dest) -> str:
        with pytest.raises(CtnrError) as caught:
            unpack_archive(str(path), str(dest), NOBODY)
        return str(caught.value)

    assert error(place.path / "missing") == f"{place.path}/missing: no such file or directory"
    assert error(place.outside) == f"{place.outside}: is a directory"
    os.mkfifo(place.path / "fifo")
    assert error(place.path / "fifo") == f"{place.path}/fifo: invalid argument"
    assert error(good, place.outside) == f"{good}: cannot make {place.outside}: file exists"
    assert (
        error(good, place.path / "no/where") == f"{good}: cannot make {place.path}/no/where: no such file or directory"
    )
    assert not place.dest.exists()
    good.unlink()
    (place.path / "fifo").unlink()
    place.check()


def test_an_interrupt_leaves_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "write", interrupted)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as writer:
        info = tarfile.TarInfo("d/f")
        info.size = 3
        writer.addfile(info, io.BytesIO(b"abc"))
    place.archive.write_bytes(data.getvalue())
    with pytest.raises(KeyboardInterrupt):
        unpack_archive(str(place.archive), str(place.dest), NOBODY)
    assert not place.dest.exists()


def test_no_room(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    place.archive.write_bytes(archive(member(b"d/f", b"x")))
    with pytest.raises(CtnrError, match=r"some.tar: d/f: no space left on device$"):
        unpack_archive(str(place.archive), str(place.dest), NOBODY)
    assert not place.dest.exists()


def test_is_archive(tmp_path: Path) -> None:
    import bz2
    import gzip
    import lzma

    path = tmp_path / "x.txt"
    good = archive(member(b"f", b"x" * 100_000))
    for data in (
        good,
        gzip.compress(good),
        bz2.compress(good),
        lzma.compress(good),
        good[:512],
        gzip.compress(good)[:-4],
    ):
        path.write_bytes(data)
        assert is_archive(str(path))
    for data in (
        b"",
        b"x" * 5000,
        gzip.compress(b"x" * 5000),
        gzip.compress(b""),
        b"\x1f\x8b\x08",
        good[:511],
        bytes(1024),
    ):
        path.write_bytes(data)
        assert not is_archive(str(path))
    for bad in (tmp_path, tmp_path / "missing"):
        with pytest.raises(OSError):
            is_archive(str(bad))


def test_policy_travels_as_json() -> None:
    policy = UnpackPolicy(
        owner="map", uid_map=((0, 100000, 65536),), gid_map=((0, 5, 1), (1, 100000, 9)), whiteouts=True
    )
    assert UnpackPolicy.from_json(policy.to_json()) == policy
    for field in ("owner", "devices", "paths"):
        with pytest.raises(ValueError, match=field):
            UnpackPolicy(**{field: "nonsense"})


def child(argv: list[str], *fds: int) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, check=False, pass_fds=fds, capture_output=True, timeout=60, env={})


def test_unpacking_in_a_child(place: Place) -> None:
    place.dest.mkdir()
    dest_fd = os.open(place.dest, os.O_RDONLY)
    with tempfile.TemporaryFile(buffering=0) as f:
        f.write(archive(member(b"d/f", b"x")))
        f.seek(0)
        done = child(unpack_main.unpack_command(f.fileno(), dest_fd, NOBODY, "the archive"), f.fileno(), dest_fd)
        assert (done.returncode, done.stderr) == (0, b"")
        assert unpack_main.result(done.stdout) == Report(entries=1, bytes=1)
        assert place.names() == ["d", "d/f"]

        done = child(unpack_main.clear_command(dest_fd), dest_fd)
        assert (done.returncode, done.stderr, place.names()) == (0, b"", [])
        assert unpack_main.result(done.stdout) == Report()

        f.seek(0)
        f.write(archive(member(b"d/f", b"x"), member(b"../x")))
        f.seek(0)
        done = child(unpack_main.unpack_command(f.fileno(), dest_fd, NOBODY, "the archive"), f.fileno(), dest_fd)
        assert (done.returncode, done.stderr, place.names()) == (1, b"", [])
        with pytest.raises(CtnrError, match=r"^the archive: \.\./x: a name with '\.\.' in it$"):
            unpack_main.result(done.stdout)
    os.close(dest_fd)
    place.check()


@pytest.mark.parametrize("output", [b"", b"{", b"[]", b'{"entries": 1, "nonsense": 2}', b"\xff"])
def test_a_child_that_died(output: bytes) -> None:
    with pytest.raises(CtnrError, match="died"):
        unpack_main.result(output)
