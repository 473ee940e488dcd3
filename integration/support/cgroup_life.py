# SPDX-License-Identifier: Apache-2.0
"""Cgroup scenarios: made, entered, frozen, killed, removed; and the rules of cgroup2."""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ctnr.errors import SyscallError
from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import Cgroup, dirs
from support.cgroup_harness import (
    LAYOUT,
    TOKEN,
    Child,
    Skip,
    clone_into,
    controllers,
    leftovers,
    made,
    mount_points,
    on_v1,
    read,
    reap,
    refused,
    value,
    whereabouts,
)


def the_life_of_a_cgroup() -> None:
    with made() as cgroup:
        assert set(cgroup.paths) == set(LAYOUT.v1) | ({""} if LAYOUT.unified is not None else set())
        child = Child(cgroup, ticking=True)
        for name, path in whereabouts(child.pid).items():
            if name in cgroup.paths:
                assert path == f"/{TOKEN}/c", (name, path)
        assert cgroup.pids() == [child.pid]
        assert child.ticks(5)
        cgroup.freeze()
        assert cgroup.frozen()
        assert not child.ticks(0.05)
        cgroup.freeze()
        cgroup.thaw()
        assert not cgroup.frozen()
        assert child.ticks(5)
        # from its state
        again = cgroups.load(cgroup.paths, cgroup.created)
        assert again.pids() == [child.pid]
        again.freeze()
        again.kill(signal.SIGTERM)
        assert again.frozen()  # the signal waits
        again.kill()
        assert os.WTERMSIG(child.wait()) in (signal.SIGKILL, signal.SIGTERM)
        again.delete()
        assert [path for path in cgroup.paths.values() if os.path.exists(path)] == []
        # the parent is not ours
        assert len(leftovers()) == len(mount_points())


def add_moves_a_running_process() -> None:
    with made() as cgroup:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        cgroup.attach(pid)
        for name, path in whereabouts(pid).items():
            if name in cgroup.paths:
                assert path == f"/{TOKEN}/c", (name, path)
        cgroup.kill()
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        error = refused(lambda: cgroup.attach(pid), f"add process {pid} to", "no such process")
        assert isinstance(error, SyscallError) and error.errno == errno.ESRCH


def joining_is_cheap() -> None:
    """join_fds() and CLONE_INTO_CGROUP do not wait for an RCU grace period, as add() does."""
    if LAYOUT.v1 and tuple(int(n) for n in os.uname().release.split("-")[0].split(".")[:2]) < (5, 18):
        raise Skip("before Linux 5.18 every way into v1 waits")
    with made() as cgroup:
        ready, go = os.pipe()
        # the first one waits; one soon after would profit from that
        start = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            os.close(go)
            os.read(ready, 1)
            os._exit(0)
        cgroup.attach(pid)
        os.close(go)
        os.close(ready)
        os.waitpid(pid, 0)
        add = time.perf_counter() - start
        joins = []
        for _ in range(20):
            fds, directory = cgroup.join_fds(), cgroup.fd_v2()
            start = time.perf_counter()
            pid = clone_into(directory) if directory is not None else os.fork()
            if pid == 0:
                for fd in fds:
                    os.write(fd, b"0")
                os._exit(0)
            os.waitpid(pid, 0)
            joins.append(time.perf_counter() - start)
            for fd in (*fds, *([directory] if directory is not None else [])):
                os.close(fd)
        print(f"joining takes {sorted(joins)[10] * 1e6:.0f} us, adding {add * 1e6:.0f} us")
        assert min(joins) < add, (joins, add)


def a_cgroup_that_is_there_already() -> None:
    def second() -> Cgroup:
        found = cgroups.new(f"/{TOKEN}/other", "x")
        assert found is not None
        return found

    with made(name="other") as other:
        guest = second()
        guest.create()
        guest.delete()  # not ours, so it stays
        assert all(os.path.isdir(p) for p in other.paths.values())
        other.freeze()
        refused(second().create, "container's cgroup unexpectedly frozen")
        other.thaw()
        child = Child(other, answer=str.upper)
        guest = second()
        refused(guest.create, "container's cgroup is not empty: 1 process(es) found")
        guest.kill()
        guest.delete()
        assert child.ask("here") == "HERE"
        other.kill()
        child.wait()
        second().create()


def children_of_the_container() -> None:
    """A container may make cgroups of its own and move into them: they are listed, frozen, killed and removed with it."""
    with made() as cgroup:
        for path in dict.fromkeys(cgroup.paths.values()):
            for sub in ("a", "a/b", "a/b/c", "d"):
                os.mkdir(f"{path}/{sub}")
            if path == cgroup.paths.get("cpuset"):
                for sub in ("a", "a/b", "a/b/c", "d"):
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        dirs.write(f"{path}/{sub}/{file}", read(f"{path}/{file}"))
        inner, outer = Child(cgroup, sub="a/b/c", ticking=True), Child(cgroup, sub="/d/")
        assert cgroup.pids() == sorted([inner.pid, outer.pid])
        cgroup.freeze()
        assert not inner.ticks(0.05)
        cgroup.thaw()
        assert inner.ticks(5)
        if LAYOUT.unified is not None:
            fd = cgroup.fd_v2(init=inner.pid)
            assert fd is not None
            assert os.readlink(f"/proc/self/fd/{fd}") == cgroup.paths[""] + "/a/b/c"
            os.close(fd)
        cgroup.kill()
        assert [os.WTERMSIG(c.wait()) for c in (inner, outer)] == [signal.SIGKILL] * 2
        cgroup.delete()
        assert [p for p in cgroup.paths.values() if os.path.exists(p)] == []


def a_fork_bomb(way: str) -> None:
    """Processes that do nothing but fork are all killed, by cgroup.kill, by the freezer, and without either."""
    resources = {"pids": {"limit": 60}} if "pids" in controllers() else {}
    with made(resources) as cgroup:
        limited = "pids" in controllers()

        def bomb(question: str) -> str:
            if os.fork() == 0:
                while True:
                    try:
                        # without a limit a chain: each forks one more and ends
                        if os.fork() and not limited:
                            os._exit(0)
                    except BlockingIOError:
                        continue
            return "lit"

        child = Child(cgroup, bomb)
        assert child.ask("go") == "lit"
        deadline = time.monotonic() + 20
        while len(cgroup.pids()) < 2 and time.monotonic() < deadline:
            continue
        target = cgroup
        if way != "as it is":
            paths = dict(cgroup.paths)
            paths.pop("", None)
            if way == "without a freezer":
                paths.pop("freezer", None)
            if not paths or (way == "with the freezer" and "freezer" not in paths):
                raise Skip("v1 is not there")
            target = cgroups.load(paths)
        target.kill()
        child.wait()
        while cgroup.pids() and time.monotonic() < deadline:
            reap()
        assert cgroup.pids() == []


def no_internal_processes() -> None:
    """hugetlb stands for any domain controller: it is the one that every view with cgroup2 can have."""
    if LAYOUT.unified is None or "hugetlb" not in read(LAYOUT.unified + "/cgroup.controllers").split():
        raise Skip("no hugetlb on cgroup2")
    with made(name="busy") as busy:
        child = Child(busy)
        limit = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}
        error = refused(
            lambda: made(limit, path=f"/{TOKEN}/busy/c").__enter__(),
            "linux.resources.hugepageLimits: enable the hugetlb controller in",
            "busy/cgroup.subtree_control: device or resource busy",
            "has processes of its own",
        )
        assert isinstance(error, SyscallError) and error.errno == errno.EBUSY
        # nor are those that would go through enabled unasked: they would make it threaded
        with made(path=f"/{TOKEN}/busy/c") as below:
            assert read(busy.paths[""] + "/cgroup.subtree_control") == ""
            assert read(below.paths[""] + "/cgroup.type") == "domain"
            Child(below)
        if "pids" in controllers() and not on_v1("pids"):
            with made({"pids": {"limit": 5}}, path=f"/{TOKEN}/busy/c") as below:
                assert read(below.paths[""] + "/cgroup.type") == "threaded"
                assert value(below, "pids", "pids.max") == "5"
                Child(below)
        busy.kill()
        child.wait()


def threaded() -> None:
    if LAYOUT.unified is None:
        raise Skip("no cgroup2")
    top = f"{LAYOUT.unified}/{TOKEN}"
    os.makedirs(top + "/t")
    dirs.write(top + "/t/cgroup.type", "threaded")
    try:
        if "hugetlb" in read(LAYOUT.unified + "/cgroup.controllers").split():
            refused(
                lambda: made({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, path=f"/{TOKEN}/t/c").__enter__(),
                "linux.resources.hugepageLimits: enable the hugetlb controller in",
                "operation not supported (that cgroup is threaded)",
            )
        with made(path=f"/{TOKEN}/t/c") as cgroup:
            assert read(cgroup.paths[""] + "/cgroup.type") == "threaded"
            child = Child(cgroup, ticking=True)
            # cgroup.procs of a threaded cgroup cannot be read, cgroup.kill not be written
            assert cgroup.pids() == [child.pid]
            cgroup.freeze()
            assert not child.ticks(0.05)
            cgroup.thaw()
            cgroup.kill()
            assert os.WTERMSIG(child.wait()) == signal.SIGKILL
    finally:
        for point in mount_points():
            dirs.remove(f"{point}/{TOKEN}")


def many_at_once() -> None:
    """Containers that start and fail below a common parent, which whoever fails removes if it can."""
    workers = []
    for n in range(8):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for turn in range(15):
                    cgroup = cgroups.new(f"/{TOKEN}/p/q/{n}", "x")
                    assert cgroup is not None
                    if turn % 2:
                        bad = {"devices": [{"allow": True, "type": "?", "access": "r"}]}
                        refused(lambda c=cgroup, b=bad: c.create(b), "linux.resources.devices[0].type")  # type: ignore[misc]
                    else:
                        cgroup.create()
                        cgroup.delete()
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        workers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 8
    left = [os.path.join(d, name) for top in leftovers() for d, below, _ in os.walk(top) for name in below]
    assert {os.path.basename(path) for path in left} <= {"p", "q"}


def a_deep_nest() -> None:
    """Cgroups made by relative paths, deeper than PATH_MAX reaches."""
    with made() as cgroup:
        name = "n" * 250
        top = cgroup.paths.get("") or cgroup.paths["devices"]
        fd = os.open(top, os.O_RDONLY)
        for _ in range(40):
            os.mkdir(name, dir_fd=fd)
            child = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = child
        os.close(fd)
        assert cgroup.pids() == []
        cgroup.delete()
        assert not os.path.exists(top)


def default_places() -> None:
    """Without linux.cgroupsPath, and with a relative one: below the caller's own on v1, beside it on cgroup2."""
    for path, inner in ((None, TOKEN), (f"{TOKEN}/r", f"{TOKEN}/r")):
        with made(name=TOKEN, path=path) if path else default(TOKEN) as cgroup:
            for name, directory in cgroup.paths.items():
                own = LAYOUT.own[name]
                base = own if name or own == LAYOUT.unified else os.path.dirname(own)
                assert directory == f"{base}/{inner}"
            Child(cgroup)
        if path:
            for directory in dict.fromkeys(cgroup.paths.values()):
                dirs.remove(os.path.dirname(directory))


@contextmanager
def default(id: str) -> Iterator[Cgroup]:
    cgroup = cgroups.new(None, id)
    assert cgroup is not None
    cgroup.create()
    try:
        yield cgroup
    finally:
        cgroup.kill()
        cgroup.delete()


def kill_minus_nine_of_us() -> None:
    """Whoever dies between create and delete leaves empty cgroups, which load().delete() removes."""
    pid = os.fork()
    if pid == 0:
        cgroup = cgroups.new(f"/{TOKEN}/c", "c")
        assert cgroup is not None
        cgroup.create({"devices": []})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    left = cgroups.new(f"/{TOKEN}/c", "c")
    assert left is not None
    assert all(os.path.isdir(path) for path in left.paths.values())
    cgroups.load(left.paths).delete()
    assert not any(os.path.isdir(path) for path in left.paths.values())
