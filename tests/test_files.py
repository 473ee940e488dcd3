# SPDX-License-Identifier: Apache-2.0
"""ctnr.files: path arithmetic against posixpath, and files that are written, read and removed."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr import files

paths = st.text(st.sampled_from("/.ab"), max_size=12)


@given(paths, paths)
def test_names_are_those_of_posixpath(a: str, b: str) -> None:
    assert files.join(a, b) == posixpath.join(a, b)
    assert files.basename(a) == posixpath.basename(a)
    assert files.isabs(a) == posixpath.isabs(a)
    # POSIX keeps two leading slashes apart; Linux and Go do not
    assert files.dirname(a).lstrip("/") == posixpath.dirname(a).lstrip("/")
    assert files.normpath("/" + a.lstrip("/")) == posixpath.normpath("/" + a.lstrip("/"))
    if not a.startswith("/"):
        assert files.normpath(a) == posixpath.normpath(a)


@pytest.mark.parametrize(
    ("path", "clean"),
    [
        ("", "."),
        ("/", "/"),
        ("//", "/"),
        ("//a", "/a"),
        ("/..", "/"),
        ("/../a/./b//c/..", "/a/b"),
        ("a/..", "."),
        ("../a", "../a"),
        ("a/../../b", "../b"),
        ("../../", "../.."),
    ],
)
def test_normpath(path: str, clean: str) -> None:
    assert files.normpath(path) == clean


def test_abspath(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert files.abspath("a/../b") == f"{os.getcwd()}/b"
    assert files.abspath("/x/./y") == "/x/y"


@given(st.binary())
def test_any_path_decodes_and_encodes(raw: bytes) -> None:
    assert files.fsencode(files.fsdecode(raw)) == raw
    assert files.fsdecode(raw) == os.fsdecode(raw)


def test_getenv_sees_what_the_program_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTNR_TEST", "é")
    assert files.getenv("CTNR_TEST") == "é"
    monkeypatch.delenv("CTNR_TEST")
    assert files.getenv("CTNR_TEST") is None


def test_getenv_without_os() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from ctnr import files\n"
        "assert 'os' not in sys.modules\n"
        "assert files.getenv('CTNR_TEST') == 'b\\udcff', files.getenv('CTNR_TEST')\n"
        "assert files.getenv('CTNR_MISSING') is None\n"
    )
    root = __file__.rsplit("/", 2)[0]
    env = {b"CTNR_TEST": b"b\xff"}
    subprocess.run([sys.executable, "-I", "-S", "-c", program, root], check=True, timeout=60, env=env)


def test_read_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    for size in (0, 1, 65536, 65537, 3 << 20):
        path.write_bytes(b"x" * size)
        assert files.read_file(str(path)) == b"x" * size
    fd = files.open_dir(str(tmp_path))
    try:
        assert files.read_file("f", dir_fd=fd) == b"x" * (3 << 20)
        assert not os.get_inheritable(fd)
    finally:
        os.close(fd)


@pytest.mark.parametrize("size", [10, 70_000])
def test_read_file_stops_at_the_limit(tmp_path: Path, size: int) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"x" * size)
    assert files.read_file(str(path), limit=size) == b"x" * size
    with pytest.raises(OSError) as e:
        files.read_file(str(path), limit=size - 1)
    assert e.value.errno == errno.EFBIG and e.value.filename == str(path)
    # endless input ends too
    with pytest.raises(OSError) as e:
        files.read_file("/dev/zero", limit=100_000)
    assert e.value.errno == errno.EFBIG


def test_read_file_of_a_pipe() -> None:
    r, w = os.pipe()
    thread = threading.Thread(target=lambda: (files.write_fd(w, b"y" * 300_000), os.close(w)))
    thread.start()
    assert files.read_file(f"/dev/fd/{r}") == b"y" * 300_000
    thread.join()
    os.close(r)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as e:
        files.read_file(str(tmp_path / "none"))
    assert e.value.filename == str(tmp_path / "none")
    with pytest.raises(IsADirectoryError) as e2:
        files.read_file(str(tmp_path))
    assert e2.value.filename == str(tmp_path)


def test_write_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    files.write_file(str(path), b"longer", 0o600)
    files.write_file(str(path), b"new", 0o644)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_write_atomic(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(b"old")
    old_fd = os.open(path, os.O_RDONLY)
    previous = os.umask(0o077)
    try:
        files.write_atomic(str(path), b"new", 0o644)
    finally:
        os.umask(previous)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    # whoever had it open still reads the old one whole
    assert os.read(old_fd, 10) == b"old"
    os.close(old_fd)
    assert os.listdir(tmp_path) == ["f"]


def test_write_atomic_failing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "d"
    target.mkdir()
    (target / "x").touch()
    with pytest.raises(OSError) as e:
        files.write_atomic(str(target), b"new")
    assert e.value.filename == str(target)
    assert os.listdir(tmp_path) == ["d"]


def test_makedirs(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c"
    files.makedirs(str(path) + "/", 0o700)
    files.makedirs(str(path), 0o700)
    files.makedirs("/", 0o700)
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent, path.parent.parent)] == [0o700] * 3
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        files.makedirs(str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError):
        files.makedirs(str(tmp_path / "file" / "x"))
    with pytest.raises(FileNotFoundError):
        files.makedirs("")


def test_remove_tree(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("keep")
    tree = tmp_path / "tree"
    for directory in ("a/b/c", "a/d", "e", "empty"):
        (tree / directory).mkdir(parents=True)
        (tree / directory / "file").touch()
    (tree / "empty" / "file").unlink()
    (tree / "a" / "link").symlink_to(outside)
    (tree / "a" / "filelink").symlink_to(outside / "keep")
    (tree / "dangling").symlink_to("nowhere")
    os.mkfifo(tree / "fifo")
    files.remove_tree(str(tree) + "/")
    assert sorted(os.listdir(tmp_path)) == ["outside"]
    assert (outside / "keep").read_text() == "keep"


def test_remove_tree_of_a_link_removes_the_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").touch()
    (tmp_path / "link").symlink_to("real")
    files.remove_tree(str(tmp_path / "link"))
    assert os.listdir(tmp_path) == ["real"]
    files.remove_tree(str(tmp_path / "real" / "x"))
    assert os.listdir(tmp_path / "real") == []
    with pytest.raises(FileNotFoundError):
        files.remove_tree(str(tmp_path / "link"))


def test_remove_tree_of_any_depth(tmp_path: Path) -> None:
    """Deeper than the recursion limit, than PATH_MAX and than the number of fds a process may have."""
    limit = sys.getrecursionlimit()
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d" * 20, dir_fd=fd)
        deeper = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
        os.close(fd)
        fd = deeper
    os.close(fd)
    before = len(os.listdir("/proc/self/fd"))
    files.remove_tree(str(tmp_path / ("d" * 20)))
    assert os.listdir(tmp_path) == ["file"]
    assert len(os.listdir("/proc/self/fd")) == before
    assert sys.getrecursionlimit() == limit


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o300, 0o400, 0o500, 0o600])
def test_remove_tree_opens_directories_that_are_shut(tmp_path: Path, mode: int) -> None:
    """Only an ordinary user is held up by modes: root becomes one in a child."""
    tree = tmp_path / "tree"
    (tree / "shut" / "sub").mkdir(parents=True)
    (tree / "shut" / "file").touch()
    (tree / "shut" / "sub" / "file").touch()
    for path in (tmp_path, tree, tree / "shut", tree / "shut" / "sub"):
        if os.geteuid() == 0:
            os.chown(path, 12345, 12345)
    (tree / "shut").chmod(mode)
    tree.chmod(mode)
    fd = files.open_dir(str(tmp_path))
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(12345, 12345, 12345)
                os.setresuid(12345, 12345, 12345)
            files.remove_tree_at(fd, "tree")
            status = 0
        finally:
            os._exit(status)
    os.close(fd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
def test_remove_tree_at_takes_one_name(tmp_path: Path, name: str) -> None:
    fd = files.open_dir(str(tmp_path))
    try:
        with pytest.raises(OSError) as e:
            files.remove_tree_at(fd, name)
        assert e.value.errno == errno.EINVAL
    finally:
        os.close(fd)
    assert tmp_path.is_dir()


def test_remove_tree_does_not_enter_mounts(tmp_path: Path) -> None:
    """The bundle of a container that died badly may still hold a bind mount of the host's files."""
    program = (
        "mount --bind host tree/a/mnt && touch tree/a/other || exit 77\n"
        '"$1" -c "import sys; sys.path.insert(0, sys.argv[1]); from ctnr import files; files.remove_tree(\'tree\')" "$2"\n'
    )
    (tmp_path / "tree" / "a" / "mnt").mkdir(parents=True)
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "precious").write_text("precious")
    root = __file__.rsplit("/", 2)[0]
    done = subprocess.run(  # noqa: PLW1510
        ["unshare", "-Urm", "sh", "-c", program, "sh", sys.executable, root],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode == 77 or "unshare failed" in done.stderr:
        pytest.skip(f"no user namespace to mount in: {done.stderr.strip()}")
    assert (tmp_path / "host" / "precious").read_text() == "precious"
    assert done.returncode == 1 and "busy" in done.stderr.lower()


def test_remove_tree_while_another_does(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for i in range(50):
        (tree / str(i) / "x").mkdir(parents=True)
        (tree / str(i) / "f").touch()
    failures: list[OSError] = []

    def remove() -> None:
        try:
            files.remove_tree(str(tree))
        except FileNotFoundError:
            pass  # the other one was first
        except OSError as e:
            failures.append(e)

    threads = [threading.Thread(target=remove) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert not tree.exists()
