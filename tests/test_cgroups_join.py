# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups on a model of cgroupfs: how processes enter.

integration/test_cgroups.py asks the kernel.
"""

from __future__ import annotations

import errno
import os

from fake_cgroupfs import V1, Cgroupfs, create, refused

from ctnr.runtime.cgroups import dirs


def test_add_writes_to_every_hierarchy_once(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1)
    fake_v1.log.clear()
    cgroup.attach(77)
    assert sorted(p for p, _ in fake_v1.log) == sorted(
        f"{names.removeprefix('name=')}/p/c/cgroup.procs" for names in V1
    )
    assert {v for _, v in fake_v1.log} == {"77"}


def test_add_again_while_the_task_is_new(fake_v2: Cgroupfs) -> None:
    cgroup = create(fake_v2)
    original = fake_v2.write
    refusals = iter([errno.EINVAL, errno.EINVAL])

    def write(name: str, value: str, dir_fd: int | None = None) -> None:
        error = next(refusals, 0)
        if error:
            raise OSError(error, "new")
        original(name, value, dir_fd)

    dirs.write = write  # type: ignore[assignment]  # monkeypatch restores it
    cgroup.attach(77)
    assert fake_v2.value("p/c/cgroup.procs") == "77\n"
    (fake_v2.top / "p/c/cgroup.procs").unlink()
    refused(lambda: cgroup.attach(77), "add process 77 to", "cgroup.procs: no such file or directory")


def test_join_fds(fake_hybrid: Cgroupfs) -> None:
    cgroup = create(fake_hybrid)
    fds = cgroup.join_fds()
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
    assert sorted(names) == sorted(
        f"{fake_hybrid.top}/{c}/p/c/tasks" for c in ("cpuset", "memory", "devices", "freezer")
    )
    both = cgroup.join_fds(unified=True)
    assert os.readlink(f"/proc/self/fd/{both[-1]}") == f"{fake_hybrid.top}/unified/p/c/cgroup.procs"
    assert len(both) == len(fds) + 1
    fd = cgroup.fd_v2()
    assert fd is not None and os.readlink(f"/proc/self/fd/{fd}") == cgroup.paths[""]
    for each in (*fds, *both, fd):
        assert not os.get_inheritable(each)
        os.close(each)


def test_join_fds_that_cannot_all_be_had(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1)
    (fake_v1.top / "name=systemd".removeprefix("name=") / "p/c/tasks").unlink()
    before = set(os.listdir("/proc/self/fd"))
    refused(cgroup.join_fds, "join the cgroup", "systemd/p/c/tasks: no such file or directory")
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_cgroup_below_the_containers_own(fake_v2: Cgroupfs) -> None:
    cgroup = create(fake_v2)
    fake_v2.mkdir(cgroup.paths[""] + "/sub", 0o755)
    cgroup.attach(5, "sub")
    assert fake_v2.value("p/c/sub/cgroup.procs") == "5\n"
    cgroup.attach(5, "/sub/")
    fd = cgroup.fd_v2("sub")
    assert fd is not None and os.readlink(f"/proc/self/fd/{fd}") == cgroup.paths[""] + "/sub"
    os.close(fd)
    for sub in ("..", "sub/..", "../c2", "./../x"):
        for call in (lambda sub=sub: cgroup.attach(5, sub), lambda sub=sub: cgroup.fd_v2(sub)):  # type: ignore[misc]
            error = refused(call, "--cgroup", "`..` components are not allowed")
            assert sub in str(error)
    refused(lambda: cgroup.fd_v2("none"), "open the cgroup", "no such file or directory")


def test_no_cgroup2_no_fd(fake_v1: Cgroupfs) -> None:
    assert create(fake_v1).fd_v2() is None
