# SPDX-License-Identifier: Apache-2.0
"""Cgroup scenarios: ordinary users, and whose a cgroup is."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import dirs
from support.cgroup_harness import (
    LAYOUT,
    TOKEN,
    Child,
    Skip,
    leftovers,
    made,
    on_v1,
    read,
    refused,
    value,
    whereabouts,
)


def owners(uid: str, gid: str) -> None:
    with made() as cgroup:
        changed = cgroup.chown(int(uid), int(gid))
        assert changed == (LAYOUT.mode == "v2")
        listed = read("/sys/kernel/cgroup/delegate").split()
        for path in dict.fromkeys(cgroup.paths.values()):
            for name in ("", *os.listdir(path)):
                status = os.stat(os.path.join(path, name))
                ours = changed and (not name or name in listed)
                assert (status.st_uid, status.st_gid) == ((int(uid), int(gid)) if ours else (0, 0)), name


def become(uid: str, gid: str) -> None:
    os.setgroups([])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))


def as_user(uid: str, gid: str, action: Callable[[], None]) -> None:
    """Run `action` as an ordinary user, in a child."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become(uid, gid)
            action()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def rootless_without_delegation(uid: str, gid: str) -> None:
    def action() -> None:
        plain: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
        assert cgroups.new(None, TOKEN, rootless=True, resources=plain) is None
        for resources in ({"memory": {"limit": 1 << 30}}, {"pids": {"limit": 5}}):
            refused(
                lambda r=resources: cgroups.new(None, TOKEN, rootless=True, resources=r),  # type: ignore[misc]
                f"linux.resources.{next(iter(resources))}.limit: create the cgroup",
                "permission denied",
                "Delegate=yes",
            )
        refused(lambda: cgroups.new(f"/{TOKEN}/x", TOKEN, rootless=True), "linux.cgroupsPath", "permission denied")

    as_user(uid, gid, action)
    assert leftovers() == []


def rootless_with_a_delegated_cgroup2(uid: str, gid: str) -> None:
    if LAYOUT.unified is None:
        raise Skip("no cgroup2")
    top = f"{LAYOUT.unified}/{TOKEN}"
    os.makedirs(top + "/own")
    hugetlb = "hugetlb" in read(LAYOUT.unified + "/cgroup.controllers").split()
    if hugetlb:
        dirs.write(LAYOUT.unified + "/cgroup.subtree_control", "+hugetlb")
    for directory in (top, top + "/own"):
        for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
            os.chown(os.path.join(directory, name), int(uid), int(gid))

    def action() -> None:
        plain: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
        limit = {"hugepageLimits": [{"pageSize": "2MB", "limit": 2 << 20}]} if hugetlb else {}
        for resources in (plain, limit):
            cgroup = cgroups.new(None, "box", rootless=True, resources=resources)
            assert cgroup is not None
            assert cgroup.paths == {"": top + "/box"}
            cgroup.create(resources)
            if resources is limit and hugetlb:
                assert read(top + "/box/hugetlb.2MB.max") == str(2 << 20)
            child = Child(cgroup, ticking=True)
            assert whereabouts(child.pid)[""] == f"/{TOKEN}/box"
            cgroup.freeze()
            assert not child.ticks(0.05)
            cgroup.thaw()
            assert cgroup.chown(os.getuid(), os.getgid())  # nobody's loss
            assert cgroup.chown(os.getuid() + 1, os.getgid()) is False  # not possible, and no error
            cgroup.kill()
            assert os.WTERMSIG(child.wait()) == signal.SIGKILL
            cgroup.delete()
            assert not os.path.exists(top + "/box")
        missing = {"cpuset": {"cpu": {"cpus": "0"}}, "pids": {"pids": {"limit": 3}}}
        for controller, resources in missing.items():
            if controller in read(top + "/cgroup.controllers").split():
                continue
            cgroup = cgroups.new(None, "box", rootless=True, resources=resources)
            assert cgroup is not None
            refused(lambda c=cgroup, r=resources: c.create(r), "linux.resources.", "not available")  # type: ignore[misc]
            assert not os.path.exists(top + "/box")

    pid = os.fork()
    if pid == 0:
        dirs.write(top + "/own/cgroup.procs", str(os.getpid()))
        try:
            as_user(uid, gid, action)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    try:
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        dirs.remove(top)


def rootless_with_delegated_v1(uid: str, gid: str) -> None:
    """As seen on v1 machines with a hand-made delegation: limits work, the device list is left alone."""
    names = [name for name in ("memory", "pids") if on_v1(name)]
    if len(names) < 2:
        raise Skip("memory and pids are not on v1")
    for name in names:
        os.mkdir(f"{LAYOUT.v1[name]}/{TOKEN}")
        os.chown(f"{LAYOUT.v1[name]}/{TOKEN}", int(uid), int(gid))

    def action() -> None:
        resources: dict[str, Any] = {
            "memory": {"limit": 64 << 20},
            "pids": {"limit": 20},
            "devices": [{"allow": False}],
        }
        cgroup = cgroups.new(f"/{TOKEN}/box", "box", rootless=True, resources=resources)
        assert cgroup is not None and sorted(cgroup.paths) == names
        cgroup.create(resources)
        assert value(cgroup, "pids", "pids.max") == "20"
        fds = cgroup.join_fds()
        pid = os.fork()
        if pid == 0:
            for fd in fds:
                os.write(fd, b"0")
            signal.pause()
        for fd in fds:
            os.close(fd)
        while cgroup.pids() != [pid]:
            continue
        cgroup.kill()  # without a freezer
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        cgroup.delete()
        refused(
            lambda: cgroup.create({"cpu": {"shares": 5}}), "linux.resources.cpu.shares", "not available to this user"
        )

    as_user(uid, gid, action)
