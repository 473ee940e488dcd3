# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups on a model of cgroupfs: made and removed, and what happens when something fails.

integration/test_cgroups.py asks the kernel.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_cgroupfs import V2, Cgroupfs, create, refused

from ctnr.errors import SyscallError
from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import dirs, killing


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_a_failure_at_any_write_leaves_nothing(request: pytest.FixtureRequest, mode: str) -> None:
    fs: Cgroupfs = request.getfixturevalue(mode)
    resources: dict[str, Any] = {"memory": {"limit": 100, "swap": 200}, "cpu": {"cpus": "0"}, "pids": {"limit": 5}}
    create(fs, resources, path="/a/b/c")
    writes = len(fs.log)
    assert writes > (5 if mode == "fake_v2" else 15)
    for path in ("a/b/c", "a/b", "a"):
        for mount in fs.mounts:
            dirs.remove(f"{mount}/{path}", 0)
    tolerated = 0
    for n in range(writes):
        if fs.unified is not None:
            (fs.unified / "cgroup.subtree_control").write_text("")
        cgroup = cgroups.new("/a/b/c", "id", resources=resources, where=fs.layout())
        assert cgroup is not None
        fs.log.clear()
        fs.fail = {n: errno.EIO}
        try:
            cgroup.create(resources)
        except SyscallError as e:
            assert e.errno == errno.EIO
            assert "linux." in str(e)
            assert cgroup.created == []
        else:
            # enabling all controllers at once failed, one by one it went
            assert fs.log[n][0].endswith("cgroup.subtree_control")
            tolerated += 1
            cgroup.delete()
            for path in ("a/b", "a"):
                for mount in fs.mounts:
                    dirs.remove(f"{mount}/{path}", 0)
        assert fs.left() == []
        fs.fail = {}
    assert tolerated <= 3


def test_delete_leaves_what_others_made(fake_v1: Cgroupfs) -> None:
    first = create(fake_v1, path="/p/one")
    second = create(fake_v1, path="/p/two")
    first.delete()
    assert all(os.path.isdir(path) for path in second.paths.values())
    second.delete()
    assert fake_v1.left() == [f"{mount}/p" for mount in sorted(fake_v1.mounts)]
    second.delete()


def test_delete_removes_what_the_container_made_below(fake_v2: Cgroupfs) -> None:
    cgroup = create(fake_v2, path="/c")
    for name in ("a", "a/b", "a/b/c", "d", "e"):
        fake_v2.mkdir(f"{cgroup.paths['']}/{name}", 0o755)
    cgroup.delete()
    assert fake_v2.left() == []


def test_a_nest_deeper_than_any_path(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container with a writable cgroup makes cgroups by relative paths: deeper than PATH_MAX, Python's stack, our fds."""
    cgroup = create(fake_v2, path="/c")
    monkeypatch.setattr(dirs, "rmdir", os.rmdir)
    (Path(cgroup.paths[""]) / "cgroup.procs").write_text("7\n")
    fd = os.open(cgroup.paths[""], os.O_RDONLY)
    name = "x" * 200
    for depth in range(1200):
        os.mkdir(name, dir_fd=fd)
        child = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = child
        if depth % 100 == 0:
            procs = os.open("cgroup.procs", os.O_CREAT | os.O_WRONLY, dir_fd=fd)
            os.write(procs, b"%d\n" % (1000 + depth))
            os.close(procs)
    os.close(fd)
    assert cgroup.pids() == [7, *range(1000, 2200, 100)]
    # the same walk removes it (in the model a directory must be empty)
    with dirs.Dir(cgroup.paths[""]) as top:
        for parent, child_name in dirs.descendants(top.fd):
            try:
                os.unlink(child_name + "/cgroup.procs", dir_fd=parent)
            except FileNotFoundError:
                pass
            os.rmdir(child_name, dir_fd=parent)
        assert dirs.children(top.fd) == []


def test_an_existing_empty_cgroup_is_used_and_stays(fake_v1: Cgroupfs) -> None:
    for mount in fake_v1.mounts:
        fake_v1.mkdir(f"{mount}/mine", 0o755)
    cgroup = create(fake_v1, {"pids": {"limit": 3}}, path="/mine")
    assert fake_v1.value("pids/mine/pids.max") == "3\n"
    assert cgroup.created == []
    cgroup.delete()
    assert fake_v1.left() == [f"{mount}/mine" for mount in sorted(fake_v1.mounts)]


@pytest.mark.parametrize(
    ("mode", "where"), [("fake_v1", "pids/mine"), ("fake_v2", "mine"), ("fake_hybrid", "unified/mine")]
)
@pytest.mark.parametrize("below", ["", "/below"])
def test_an_existing_cgroup_with_processes(request: pytest.FixtureRequest, mode: str, where: str, below: str) -> None:
    fs: Cgroupfs = request.getfixturevalue(mode)
    fs.mkdir(str(fs.top / where), 0o755)
    if below:
        fs.mkdir(str(fs.top / where) + below, 0o755)
    (fs.top / (where + below) / "cgroup.procs").write_text("12\n13\n")
    left = fs.left()
    refused(lambda: create(fs, {}, path="/mine"), "container's cgroup is not empty: 2 process(es) found", where)
    assert fs.left() == left


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_an_existing_frozen_cgroup(request: pytest.FixtureRequest, mode: str) -> None:
    fs: Cgroupfs = request.getfixturevalue(mode)
    for mount in fs.mounts:
        fs.mkdir(f"{mount}/mine", 0o755)
    where, file = ("freezer/mine", "freezer.self_freezing") if mode != "fake_v2" else ("mine", "cgroup.freeze")
    (fs.top / where / file).write_text("1\n")
    refused(lambda: create(fs, {}, path="/mine"), "container's cgroup unexpectedly frozen", where)


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_the_processes_of_a_refused_cgroup_are_out_of_reach(
    request: pytest.FixtureRequest, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked for the cgroup cleans up with kill() and delete(): nobody else's processes may be hit."""
    fs: Cgroupfs = request.getfixturevalue(mode)
    for mount in fs.mounts:
        fs.mkdir(f"{mount}/theirs", 0o755)
        (Path(mount) / "theirs/cgroup.procs").write_text("12\n")
    monkeypatch.setattr(killing, "send_signal", lambda pid, signal: pytest.fail(f"killed {pid}"))
    cgroup = cgroups.new("/theirs", "id", where=fs.layout())
    assert cgroup is not None
    refused(cgroup.create, "container's cgroup is not empty", "theirs")
    left = fs.left()
    fs.log.clear()
    cgroup.kill()
    cgroup.kill(15)
    cgroup.delete()
    assert cgroup.chown(1, 1) is False
    assert (cgroup.pids(), cgroup.join_fds(), cgroup.fd_v2(), cgroup.frozen()) == ([], [], None, False)
    assert (fs.log, fs.left()) == ([], left)


def test_a_new_cpuset_starts_with_its_parents_values(fake_v1: Cgroupfs) -> None:
    create(fake_v1, {}, path="/a/b/c")
    for path in ("a", "a/b", "a/b/c"):
        assert fake_v1.value(f"cpuset/{path}/cpuset.cpus") == "0-3\n"
        assert fake_v1.value(f"cpuset/{path}/cpuset.mems") == "0\n"


def test_a_cpuset_of_the_configs(fake_v1: Cgroupfs) -> None:
    fake_v1.mkdir(str(fake_v1.top / "cpuset/a"), 0o755)
    (fake_v1.top / "cpuset/a/cpuset.cpus").write_text("1-2\n")
    create(fake_v1, {"cpu": {"cpus": "1"}}, path="/a/b/c")
    assert fake_v1.value("cpuset/a/cpuset.cpus") == "1-2\n"
    assert fake_v1.value("cpuset/a/b/cpuset.cpus") == "1-2\n"
    assert fake_v1.value("cpuset/a/b/c/cpuset.cpus") == "1\n"
    assert [fake_v1.value(f"cpuset/{p}/cpuset.mems") for p in ("a", "a/b", "a/b/c")] == ["0\n"] * 3
    # never the parent's first: it could clash with an exclusive sibling
    assert [v for p, v in fake_v1.log if p == "cpuset/a/b/c/cpuset.cpus"] == ["1"]


def test_v2_controllers_are_passed_on_all_the_way(fake_v2: Cgroupfs) -> None:
    create(fake_v2, {}, path="/a/b/c")
    everything = sorted(V2.split())
    for directory in ("", "a/", "a/b/"):
        assert sorted(fake_v2.value(f"{directory}cgroup.subtree_control").split()) == everything
    assert sorted(fake_v2.value("a/b/c/cgroup.controllers").split()) == everything
    assert fake_v2.value("a/b/c/cgroup.subtree_control") == ""
    fake_v2.log.clear()
    create(fake_v2, {}, path="/a/b/d")
    assert fake_v2.log == []


def test_a_hybrid_machines_cgroup2_gets_no_more_than_needed(fake_hybrid: Cgroupfs) -> None:
    create(fake_hybrid, {}, path="/a")
    assert fake_hybrid.value("unified/cgroup.subtree_control") == ""
    create(fake_hybrid, {"pids": {"limit": 5}}, path="/b")
    assert fake_hybrid.value("unified/cgroup.subtree_control") == "pids\n"
    assert fake_hybrid.value("unified/b/pids.max") == "5\n"


def test_unified_on_a_hybrid_machine_is_for_what_is_there(fake_hybrid: Cgroupfs) -> None:
    create(fake_hybrid, {"unified": {"pids.max": "7"}}, path="/a")
    assert fake_hybrid.value("unified/a/pids.max") == "7\n"
    refused(
        lambda: create(fake_hybrid, {"unified": {"memory.high": "7"}}, path="/b"),
        'linux.resources.unified["memory.high"]',
        "the requested cgroup controller `memory` is not available",
    )


def test_no_internal_processes(fake_v2: Cgroupfs) -> None:
    fake_v2.mkdir(str(fake_v2.top / "busy"), 0o755)
    fake_v2.fail = {"busy/cgroup.subtree_control": errno.EBUSY}
    error = refused(
        lambda: create(fake_v2, {"memory": {"limit": 5}}, path="/busy/c"),
        "linux.resources.memory.limit: enable the memory controller in",
        "busy/cgroup.subtree_control: device or resource busy (that cgroup has processes of its own",
    )
    assert isinstance(error, SyscallError) and error.errno == errno.EBUSY
    # those that threads may have would go through, and make it threaded: not unasked
    assert [v for p, v in fake_v2.log if p == "busy/cgroup.subtree_control"][1:] == ["+memory"]
    # nobody asked: nothing is wrong
    create(fake_v2, {}, path="/busy/c").delete()
    assert len([v for p, v in fake_v2.log if p == "busy/cgroup.subtree_control"]) == 1


def test_one_controller_that_cannot_be_passed_on_does_not_keep_the_others(fake_v2: Cgroupfs) -> None:
    original = fake_v2.write

    def write(name: str, value: str, dir_fd: int | None = None) -> None:
        if name == "cgroup.subtree_control" and "+cpu" in value.split():
            raise OSError(errno.EINVAL, "real-time processes")
        original(name, value, dir_fd)

    dirs.write = write  # type: ignore[assignment]  # monkeypatch restores it
    create(fake_v2, {"memory": {"limit": 5}}, path="/a")
    assert "memory" in fake_v2.value("cgroup.subtree_control")
    refused(
        lambda: create(fake_v2, {"cpu": {"shares": 5}}, path="/b"),
        "linux.resources.cpu.shares: enable the cpu controller in",
        "invalid argument",
    )


def test_below_a_threaded_cgroup(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_cgroupfs import V2_FILES

    monkeypatch.setitem(V2_FILES, "", {**V2_FILES[""], "cgroup.type": "domain invalid\n"})
    create(fake_v2, {"pids": {"limit": 5}}, path="/a")
    assert fake_v2.value("a/cgroup.type") == "threaded\n"
    refused(
        lambda: create(fake_v2, {"memory": {"limit": 5}}, path="/b"),
        "linux.resources.memory.limit",
        "with domain controllers -- it is in domain invalid mode",
    )


def test_the_umask_has_no_say(fake_v2: Cgroupfs) -> None:
    old = os.umask(0o077)
    try:
        create(fake_v2, path="/a/b")
    finally:
        os.umask(old)
    assert [oct(os.stat(fake_v2.top / p).st_mode & 0o777) for p in ("a", "a/b")] == ["0o755", "0o755"]


def test_a_parent_that_vanishes_meanwhile_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other container that made it failed to start, and cleans up."""
    real, times = os.mkdir, iter(range(3))

    def mkdir(path: str, mode: int) -> None:
        if path.endswith("/a/b") and next(times, None) is not None:
            os.rmdir(tmp_path / "a")
        real(path, mode)

    monkeypatch.setattr(dirs, "mkdir", mkdir)
    (tmp_path / "a").mkdir()
    made: list[str] = []
    assert dirs.make(str(tmp_path / "a/b"), made) is True
    assert (tmp_path / "a/b").is_dir()
    assert made[-1] == str(tmp_path / "a/b")

    def never(path: str, mode: int) -> None:
        raise FileNotFoundError(errno.ENOENT, "gone", path)

    monkeypatch.setattr(dirs, "mkdir", never)
    with pytest.raises(FileNotFoundError):
        dirs.make(str(tmp_path / "x/y"), [])


def test_no_process_of_another_pid_namespace(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").write_text("0\n12\n0\n5\n12\n")
    assert dirs.pids(str(tmp_path)) == [5, 12]


ALLOWED = {"posix", "sys", "errno", "fcntl", "time", "select", "_json", "_struct", "pwd", "grp", "math"}


@pytest.mark.parametrize("module", ["", ".dirs", ".layout", ".resources", ".devices", ".v1", ".v2"])
def test_hot_modules_import_nothing_heavy(module: str) -> None:
    code = (
        f"import sys; before = set(sys.modules); import ctnr.runtime.cgroups{module}; print(*set(sys.modules) - before)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    out = subprocess.run([sys.executable, "-S", "-c", code], check=True, capture_output=True, text=True, env=env).stdout
    heavy = {name for name in out.split() if name.partition(".")[0] not in {*ALLOWED, "ctnr"}}
    assert heavy <= {"__future__"}
