# SPDX-License-Identifier: Apache-2.0
"""Unpacking as the real users do it, compared entry by entry with what GNU tar makes of the same archive."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support import machine, users
from support.users import User

from ctnr import files
from ctnr.errors import CtnrError
from ctnr.image import unpack_main
from ctnr.image.archive import unpack_archive
from ctnr.image.policy import Report, UnpackPolicy

# root "exact", as images will need it
EXACT = UnpackPolicy(devices="create")
CAP_NET_RAW = 13
FIRST, COUNT = 300_000, 65_536


def capability(root: int | None = None) -> bytes:
    """security.capability with cap_net_raw=ep: revision 2, or 3 for the root of a user namespace (capabilities(7))."""
    revision = 2 if root is None else 3
    value = struct.pack("<IIIII", revision << 24 | 1, 1 << CAP_NET_RAW, 0, 0, 0)
    return value if root is None else value + struct.pack("<I", root)


Looks = dict[str, tuple[object, ...]]


def looks(tree: Path) -> Looks:
    """Every entry's kind, mode, owner, size, times, links, device, xattrs and contents, by name."""
    seen: Looks = {}
    links: dict[int, str] = {}
    top = os.fsencode(tree)
    for where, dir_names, file_names in os.walk(top):
        dir_names.sort()
        for base in ([b"."] if where == top else []) + sorted(dir_names + file_names):
            path = os.path.join(where, base)
            name = os.fsdecode(os.path.relpath(path, top))
            s = os.lstat(path)
            what: object = s.st_rdev
            if stat.S_ISLNK(s.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(s.st_mode):
                with open(path, "rb") as f:
                    what = hashlib.file_digest(f, "sha256").hexdigest()
            xattrs = {n: os.getxattr(path, n, follow_symlinks=False) for n in os.listxattr(path, follow_symlinks=False)}
            size = 0 if stat.S_ISDIR(s.st_mode) else s.st_size
            nlink = 0 if stat.S_ISDIR(s.st_mode) else s.st_nlink
            same_as = links.setdefault(s.st_ino, name) if nlink > 1 else ""
            seen[name] = (oct(s.st_mode), s.st_uid, s.st_gid, size, s.st_mtime_ns, nlink, same_as, what, xattrs)
    return seen


def assert_same(ours: Looks, theirs: Looks) -> None:
    assert sorted(ours) == sorted(theirs)
    differences = {name: (ours[name], theirs[name]) for name in theirs if ours[name] != theirs[name]}
    assert differences == {}


def gnu_tar(*args: object) -> None:
    [tar] = machine.need("tar")
    subprocess.run([tar, *map(str, args)], check=True, stdin=subprocess.DEVNULL)


def has_user_xattrs(directory: Path) -> bool:
    try:
        os.setxattr(directory, "user.ctnr", b"1")
        os.removexattr(directory, "user.ctnr")
    except OSError as e:
        assert e.errno == errno.ENOTSUP
        return False
    return True


@pytest.fixture
def odd_tree(work: Path) -> Path:
    """All that a root filesystem may hold and a Debian minbase tree does not."""
    machine.need_root()
    tree = work / "odd"
    for name in ("dev", "usr/lib", "var/empty", "srv/" + "long" * 40 + "/" + "name" * 50, "read-only"):
        (tree / name).mkdir(parents=True)
    (tree / "usr/setuid").write_bytes(b"setuid")
    os.chown(tree / "usr/setuid", 0, 42)
    (tree / "usr/setuid").chmod(0o6755)
    os.link(tree / "usr/setuid", tree / "usr/lib/setuid-too")
    for i, owner in enumerate([(1, 2), (33, 33), (1000, 1000), (65534, 65534)]):
        (tree / f"srv/owner{i}").write_text(str(owner))
        (tree / f"srv/dir{i}").mkdir()
        (tree / f"srv/dir{i}/file").touch()
        (tree / f"srv/link{i}").symlink_to(f"owner{i}")
        for kind in ("owner", "dir", "link"):
            os.lchown(tree / f"srv/{kind}{i}", *owner)
    os.mknod(tree / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    os.mknod(tree / "dev/sda", 0o660 | stat.S_IFBLK, os.makedev(8, 0))
    os.chmod(tree / "dev/null", 0o666)
    os.mkfifo(tree / "srv/fifo", 0o620)
    (tree / os.fsdecode(b"srv/caf\xe9\n")).write_text("not UTF-8")
    (tree / "srv/absolute").symlink_to("/etc/passwd")
    (tree / "srv/up").symlink_to("../../../../x" * 15)
    with (tree / "srv/sparse").open("wb") as f:
        for i in range(40):
            f.seek(i << 20)
            f.write(b"data" * 1000)
        f.truncate(100 << 20)
    (tree / "usr/ping").write_bytes(b"ping")
    os.setxattr(tree / "usr/ping", "security.capability", capability())
    if has_user_xattrs(tree):
        os.setxattr(tree / "usr/ping", "user.odd", b"\0=\n\xff")
        os.setxattr(tree / "srv/dir0", "user.dir", b"")
    (tree / "usr").chmod(0o2755)
    (tree / "read-only").chmod(0o555)
    (tree / "var/empty").chmod(0)
    tree.chmod(0o751)
    for i, path in enumerate(sorted(tree.rglob("*"), reverse=True)):
        os.utime(path, ns=(0, 1_500_000_000_123_456_789 + i * 10**9), follow_symlinks=False)
    os.utime(tree, ns=(0, 1_400_000_000_000_000_000))
    return tree


PACK = ("--numeric-owner", "--xattrs", "--xattrs-include=*")
UNPACK = ("-xp", "--numeric-owner", "--xattrs", "--xattrs-include=*")


@pytest.mark.parametrize(
    "form",
    [
        ("--format=posix",),
        ("--format=posix", "--sparse"),
        ("--format=posix", "--sparse", "--sparse-version=0.0"),
        ("--format=posix", "--sparse", "--sparse-version=0.1", "--xz"),
        ("--format=gnu", "--sparse", "--gzip"),
        ("--format=oldgnu", "--sparse", "--bzip2"),
    ],
    ids=lambda form: "".join(form).replace("--", " ").strip(),
)
def test_root_unpacks_as_tar_does(odd_tree: Path, work: Path, form: tuple[str, ...]) -> None:
    packed = work / "packed"
    gnu_tar(*form, *(PACK if "posix" in form[0] else PACK[:1]), "-C", odd_tree, "-cf", packed, ".")
    unpack_archive(str(packed), str(work / "ours"), EXACT)
    (work / "theirs").mkdir()
    gnu_tar(*UNPACK, "-C", work / "theirs", "-f", packed)
    ours = looks(work / "ours")
    assert_same(ours, looks(work / "theirs"))
    if "posix" in form[0]:
        assert_same(ours, looks(odd_tree))
        assert "security.capability" in ours["usr/ping"][-1]  # type: ignore[operator]
    if "--sparse" in form:
        assert (work / "ours/srv/sparse").stat().st_blocks * 512 < 10 << 20


@pytest.mark.parametrize("compression", ["--xz", "--zstd"])
def test_a_debian_root_is_as_it_was(debian_root: Path, work: Path, compression: str) -> None:
    machine.need_root()
    machine.need(compression[2:])
    if compression == "--zstd" and sys.version_info < (3, 14):
        pytest.importorskip("backports.zstd")
    packed = work / "debian"
    env = {**os.environ, "XZ_OPT": "-0 -T0", "ZSTD_CLEVEL": "1"}
    [tar] = machine.need("tar")
    subprocess.run(
        [tar, "--format=posix", *PACK, compression, "-C", debian_root, "-cf", packed, "."], check=True, env=env
    )
    report = unpack_archive(str(packed), str(work / "ours"), EXACT)
    (work / "theirs").mkdir()
    gnu_tar(*UNPACK, "-C", work / "theirs", "-f", packed)
    ours = looks(work / "ours")
    assert_same(ours, looks(work / "theirs"))
    assert_same(ours, looks(debian_root))
    assert report.entries == len(ours) > 5000


def test_devices_are_skipped_in_dev(odd_tree: Path, work: Path) -> None:
    packed = work / "packed"
    gnu_tar("--format=posix", "-C", odd_tree, "-cf", packed, ".")
    assert unpack_archive(str(packed), str(work / "ours")).skipped_devices == 2
    assert list((work / "ours/dev").iterdir()) == []


def test_owners_mapped_for_a_shifted_container(odd_tree: Path, work: Path) -> None:
    """Real root prepares a tree for a user namespace: ids shifted, file capabilities for that namespace's root only."""
    packed = work / "packed"
    gnu_tar("--format=posix", *PACK, "-C", odd_tree, "-cf", packed, ".")
    maps = ((0, FIRST, COUNT),)
    unpack_archive(
        str(packed), str(work / "ours"), UnpackPolicy(owner="map", uid_map=maps, gid_map=maps, devices="create")
    )
    ours, source = looks(work / "ours"), looks(odd_tree)
    for name, (mode, uid, gid, *rest) in source.items():
        assert ours[name][:3] == (mode, uid + FIRST, gid + FIRST)  # type: ignore[operator]
        if name != "usr/ping":
            assert ours[name][3:] == tuple(rest), name
    assert os.getxattr(work / "ours/usr/ping", "security.capability") == capability(FIRST)


def as_user(user: User, argv: list[str], *fds: int, timeout: float = 120) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        user.wrap(argv), check=False, pass_fds=fds, capture_output=True, timeout=timeout, env=user.env(), cwd="/"
    )


def open_both(packed: Path, dest: Path, user: User) -> tuple[int, int]:
    dest.mkdir(mode=0o700)
    os.chown(dest, user.uid, user.gid)
    return os.open(packed, os.O_RDONLY), os.open(dest, os.O_RDONLY | os.O_DIRECTORY)


def python_is_reachable(user: User) -> None:
    machine.need_that(
        not users.closed_ancestors(Path(sys.executable), user)
        and not users.closed_ancestors(Path(files.__file__), user),
        f"{user.name} cannot reach this Python or this checkout",
    )


def test_a_user_with_subordinate_ids_unpacks_in_a_user_namespace(odd_tree: Path, work: Path) -> None:
    user = users.get(users.SUBIDS)
    assert user.sub is not None
    python_is_reachable(user)
    [unshare] = machine.need("unshare")
    in_userns = [unshare, "--user", "--map-auto", "--map-root-user", "--"]
    probe = as_user(user, [*in_userns, "cat", "/proc/self/uid_map", "/proc/self/gid_map"])
    machine.need_that(probe.returncode == 0, f"unshare --map-auto: {probe.stderr.decode()}")
    rows = [tuple(map(int, line.split())) for line in probe.stdout.splitlines()]
    half = len(rows) // 2
    uid_map, gid_map = rows[:half], rows[half:]

    packed = work / "packed"
    gnu_tar("--format=posix", *PACK, "-C", odd_tree, "-cf", packed, ".")
    packed.chmod(0o644)
    dest = work / "ours"
    fd, dest_fd = open_both(packed, dest, user)
    try:
        done = as_user(user, in_userns + unpack_main.unpack_command(fd, dest_fd, UnpackPolicy(), "odd"), fd, dest_fd)
        assert done.stderr == b""
        assert unpack_main.result(done.stdout).skipped_devices == 2

        def on_host(id: int, ranges: list[tuple[int, ...]]) -> int:
            [host] = [outer + id - inner for inner, outer, count in ranges if inner <= id < inner + count]
            return host

        ours, source = looks(dest), looks(odd_tree)
        assert sorted(ours) == sorted(name for name in source if name not in ("dev/null", "dev/sda"))
        for name, (mode, uid, gid, *rest) in ours.items():
            source_mode, source_uid, source_gid, *source_rest = source[name]
            assert (mode, uid, gid) == (source_mode, on_host(source_uid, uid_map), on_host(source_gid, gid_map)), name  # type: ignore[arg-type]
            if name != "usr/ping":
                assert rest == source_rest, name
        # the kernel made it one for the root of that namespace only
        root = on_host(0, uid_map)
        assert os.getxattr(dest / "usr/ping", "security.capability") == capability(root)

        done = as_user(user, unpack_main.clear_command(dest_fd), dest_fd)
        with pytest.raises(CtnrError, match="cannot remove what was unpacked: Permission denied"):
            unpack_main.result(done.stdout)
        done = as_user(user, in_userns + unpack_main.clear_command(dest_fd), dest_fd)
        assert (done.returncode, done.stderr, list(dest.iterdir())) == (0, b"", [])

        # an owner that has no id there, after others that have: one line, and nothing left
        gnu_tar("--format=posix", "-C", odd_tree, "-cf", packed, "srv", "--owner=nobody:70000", "usr/setuid")
        os.lseek(fd, 0, os.SEEK_SET)
        done = as_user(user, in_userns + unpack_main.unpack_command(fd, dest_fd, UnpackPolicy(), "odd"), fd, dest_fd)
        with pytest.raises(
            CtnrError, match=r"^odd: .*: its owner 70000:\d+ is not in the id map of the user namespace$"
        ):
            unpack_main.result(done.stdout)
        assert list(dest.iterdir()) == []
    finally:
        os.close(fd)
        os.close(dest_fd)


@pytest.mark.parametrize("in_userns", [False, True], ids=["as-is", "in-userns"])
def test_a_user_with_one_id_owns_all(odd_tree: Path, work: Path, in_userns: bool) -> None:
    user = users.get(users.ONE_ID)
    python_is_reachable(user)
    prefix = []
    if in_userns:
        prefix = [*machine.need("unshare"), "--user", "--map-root-user", "--"]
        machine.need_that(as_user(user, [*prefix, "true"]).returncode == 0, "user namespaces are off")
    packed = work / "packed"
    gnu_tar("--format=posix", *PACK, "-C", odd_tree, "-cf", packed, ".")
    dest = work / "ours"
    fd, dest_fd = open_both(packed, dest, user)
    try:
        policy = UnpackPolicy(owner="none")
        done = as_user(user, prefix + unpack_main.unpack_command(fd, dest_fd, policy, "odd"), fd, dest_fd)
        assert done.stderr == b""
        report = unpack_main.result(done.stdout)
        assert report.skipped_devices == 2
        # a namespace's root may give capabilities, for itself; a mere user may not
        assert report.skipped_xattrs == (0 if in_userns else 1)
        ours, source = looks(dest), looks(odd_tree)
        assert sorted(ours) == sorted(name for name in source if name not in ("dev/null", "dev/sda"))
        for name, (mode, uid, gid, *rest) in ours.items():
            assert (mode, uid, gid) == (source[name][0], user.uid, user.gid), name
            if name != "usr/ping":
                assert rest == list(source[name][3:]), name
        # and may remove it, closed directories and all
        done = as_user(user, unpack_main.clear_command(dest_fd), dest_fd)
        assert (done.returncode, done.stdout and json.loads(done.stdout).get("error"), list(dest.iterdir())) == (
            0,
            None,
            [],
        )
    finally:
        os.close(fd)
        os.close(dest_fd)


MEMORY = """
import io, json, os, random, struct, sys, tarfile
from ctnr.image.policy import UnpackPolicy
from ctnr.image.unpack import unpack

class Endless:
    '''An archive that is made while it is read.'''
    def __init__(self, members):
        self.members = members
        self.rest = b""
    def read(self, size):
        while len(self.rest) < min(size, 1 << 16):
            try:
                self.rest += next(self.members)
            except StopIteration:
                break
        data, self.rest = self.rest[:size], self.rest[size:]
        return data

def header(name, kind, size=0, **pax):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.mode, info.mtime = kind, size, 0o755, 1
    info.pax_headers = pax
    return info.tobuf(tarfile.PAX_FORMAT)

def many_directories():
    for i in range(30_000):
        yield header(f"d{i % 100}/{'x' * 100}{i}", tarfile.DIRTYPE)
    for i in range(30_000):
        yield header(f"d{i % 100}/{'x' * 100}{i}/f", tarfile.REGTYPE)

def big_files():
    for i in range(3):
        yield header(f"f{i}", tarfile.REGTYPE, 100 << 20)
        for _ in range(100):
            yield bytes(1 << 20)

def big_headers():
    for i in range(60):
        yield header(f"f{i}", tarfile.REGTYPE, **{f"k{i}-{j}": "v" * 1000 for j in range(900)})

def odd_names():
    for i in range(100_000):
        yield header("./" * (i % 50) + "d" + "/." * (i % 53) + "/x", tarfile.REGTYPE)

def sparse_map():
    count = 1_000_000
    def numbers():
        yield b"%d\\n" % count
        for i in range(count):
            yield b"%d\\n1\\n" % (2 * i)
    size = sum(map(len, numbers()))
    yield header("s", tarfile.REGTYPE, size + -size % 512 + count, **{
        "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2 * count)})
    yield from numbers()
    yield bytes(-size % 512)
    yield bytes(count + -count % 512)

def whiteouts():
    for i in range(10_000):
        yield header(f"d{i % 100}/.wh.x{i}", tarfile.REGTYPE)
    for i in range(100_000):
        yield header(f"d{i % 100}/x{i}", tarfile.REGTYPE)

def many_keys():
    for kind in b"gx":
        records = b"".join(b"9 %04x=v\\n" % i for i in range(10_000))
        info = tarfile.TarInfo("x")
        info.type, info.size = bytes([kind]), len(records)
        yield info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)
    yield header("f", tarfile.REGTYPE)

kind = sys.argv[1]
dest = os.open(sys.argv[2], os.O_RDONLY)
if kind == "whiteouts":
    for i in range(100):
        os.mkdir(f"{sys.argv[2]}/d{i}")
def peak():
    with open("/proc/self/status") as f:
        return int([line for line in f if line.startswith("VmHWM")][0].split()[1])
members = globals()[kind]()
def ended():
    yield from members
    yield bytes(1024)
policy = UnpackPolicy(owner="none", whiteouts=kind == "whiteouts")
unpack(Endless(ended()), dest, policy)
print(peak())
"""


@pytest.mark.parametrize(
    "kind", ["many_directories", "big_files", "big_headers", "odd_names", "sparse_map", "whiteouts", "many_keys"]
)
def test_memory_is_bounded(work: Path, kind: str) -> None:
    """Under 64 MiB all in all, the interpreter (about 20) included."""
    dest = work / "dest"
    dest.mkdir()
    root = str(Path(files.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, kind, str(dest)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": root},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 << 10, f"{int(done.stdout) >> 10} MiB"


def test_report_of_a_child_is_the_same(odd_tree: Path, work: Path) -> None:
    packed = work / "packed"
    gnu_tar("--format=posix", "-C", odd_tree, "-cf", packed, ".")
    here = unpack_archive(str(packed), str(work / "here"), EXACT)
    fd, dest_fd = open_both(packed, work / "there", users.get(users.ROOT))
    try:
        done = as_user(users.get(users.ROOT), unpack_main.unpack_command(fd, dest_fd, EXACT, "odd"), fd, dest_fd)
        report = unpack_main.result(done.stdout)
    finally:
        os.close(fd)
        os.close(dest_fd)
    assert report == here
    assert isinstance(report, Report)
    assert_same(looks(work / "there"), looks(work / "here"))
