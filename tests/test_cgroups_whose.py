# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups on a model of cgroupfs: which cgroup it is, for whom, and who owns it.

integration/test_cgroups.py asks the kernel.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from fake_cgroupfs import Cgroupfs, create, refused

from ctnr.errors import SyscallError
from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import layout, v2


def test_chown(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v2, path="/c")
    owned: list[object] = []
    monkeypatch.setattr(v2, "fchown", lambda fd, uid, gid: owned.append((os.readlink(f"/proc/self/fd/{fd}"), uid, gid)))

    def chown(name: str, uid: int, gid: int, *, dir_fd: int, follow_symlinks: bool) -> None:
        assert not follow_symlinks
        os.stat(name, dir_fd=dir_fd)
        owned.append((name, uid, gid))

    monkeypatch.setattr(v2, "chown_path", chown)
    names = "cgroup.procs\ncgroup.threads\ncgroup.subtree_control\nmemory.oom.group\n"
    monkeypatch.setattr(v2, "read", lambda path: names)
    assert cgroup.chown(1000, 2000)
    listed = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"]
    assert owned == [(cgroup.paths[""], 1000, 2000), *((name, 1000, 2000) for name in listed)]

    def no_list(path: str) -> str:
        raise FileNotFoundError(path)

    owned.clear()
    monkeypatch.setattr(v2, "read", no_list)
    assert cgroup.chown(1, 2)
    assert sorted(str(o[0]) for o in owned[1:]) == sorted(listed)  # type: ignore[index]


@pytest.mark.parametrize("mode", ["fake_v1", "fake_hybrid"])
def test_chown_never_on_v1(request: pytest.FixtureRequest, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(v2, "chown", lambda *a: pytest.fail("changed an owner"))
    assert create(request.getfixturevalue(mode)).chown(1, 1) is False


CGROUP_MOUNT = {"source": "cgroup", "destination": "/sys/fs/cgroup", "options": ["nosuid"]}
NEW_NAMESPACE = {"namespaces": [{"type": "cgroup"}]}


@pytest.mark.parametrize(
    ("config", "wants"),
    [
        ({"linux": NEW_NAMESPACE, "mounts": [CGROUP_MOUNT]}, True),
        ({"linux": NEW_NAMESPACE, "mounts": [{**CGROUP_MOUNT, "options": None}]}, True),
        ({"linux": NEW_NAMESPACE, "mounts": [{**CGROUP_MOUNT, "options": ["ro"]}]}, False),
        ({"linux": NEW_NAMESPACE, "mounts": [{**CGROUP_MOUNT, "destination": "/cg"}]}, False),
        ({"linux": NEW_NAMESPACE, "mounts": [{**CGROUP_MOUNT, "source": "x"}]}, False),
        ({"linux": NEW_NAMESPACE}, False),
        ({"linux": {"namespaces": [{"type": "cgroup", "path": "/x"}]}, "mounts": [CGROUP_MOUNT]}, False),
        ({"linux": {"namespaces": [{"type": "pid"}]}, "mounts": [CGROUP_MOUNT]}, False),
        ({"mounts": [CGROUP_MOUNT]}, False),
    ],
)
def test_wants_owner(config: dict[str, Any], wants: bool) -> None:
    assert layout.wants_owner(config) is wants


# --- which cgroup


def test_load(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1)
    again = cgroups.load(cgroup.paths, cgroup.created)
    again.apply({"pids": {"limit": 9}})
    assert fake_v1.value("pids/p/c/pids.max") == "9\n"
    again.delete()
    cgroups.load(cgroup.paths).delete()
    assert all(path.endswith("/p") for path in fake_v1.left())


def test_managers(fake_v1: Cgroupfs) -> None:
    where = fake_v1.layout()
    refused(lambda: cgroups.new(None, "id", manager="x", where=where), "--cgroup-manager", "'x'")
    assert cgroups.new(None, "id", manager="disabled", where=where) is None
    refused(
        lambda: cgroups.new(None, "id", manager="disabled", resources={"pids": {"limit": 5}}, where=where),
        "linux.resources.pids.limit",
        "--cgroup-manager disabled",
    )


def test_nothing_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = Cgroupfs(tmp_path, monkeypatch)
    refused(lambda: cgroups.new(None, "id", where=fs.layout()), "no cgroup file system is mounted", "disabled")
    assert cgroups.new(None, "id", rootless=True, where=fs.layout()) is None
    refused(
        lambda: cgroups.new(None, "id", rootless=True, resources={"pids": {"limit": 5}}, where=fs.layout()),
        "linux.resources.pids.limit",
        "Delegate=yes",
    )


def deny(monkeypatch: pytest.MonkeyPatch, *allowed: Path) -> None:
    """A user who may write to `allowed` only."""
    from ctnr.runtime.cgroups import layout

    def access(path: str, mode: int, *, effective_ids: bool = False) -> bool:
        assert effective_ids
        return any(Path(path) == a for a in allowed)

    monkeypatch.setattr(layout, "access", access)


DEVICES_ONLY: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}], "memory": {"limit": -1}}


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_rootless_without_permission(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    fs: Cgroupfs = request.getfixturevalue(mode)
    deny(monkeypatch)
    where = fs.layout()
    assert cgroups.new(None, "id", rootless=True, resources=DEVICES_ONLY, where=where) is None
    error = refused(
        lambda: cgroups.new(None, "id", rootless=True, resources={"memory": {"limit": 5}}, where=where),
        "linux.resources.memory.limit: create the cgroup",
        "permission denied (have the cgroup delegated to this user, e.g. systemd-run --user --scope -p Delegate=yes)",
    )
    assert isinstance(error, SyscallError) and error.errno == errno.EACCES
    asked = {"memory": {"limit": 5}}
    assert cgroups.new(None, "id", rootless=True, resources=asked, where=where, lenient=True) is None
    # a path is a wish too
    refused(lambda: cgroups.new("/x", "id", rootless=True, where=where), "linux.cgroupsPath", "permission denied")


def test_rootless_with_a_delegated_cgroup2(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller in /user/own; only what is below /user is its."""
    fake_v2.mkdir(str(fake_v2.top / "user"), 0o755)
    fake_v2.mkdir(str(fake_v2.top / "user/own"), 0o755)
    fake_v2.cgroup = "0::/user/own\n"
    user = fake_v2.top / "user"
    deny(monkeypatch, user, user / "cgroup.procs")
    cgroup = cgroups.new(None, "id", rootless=True, where=fake_v2.layout())
    assert cgroup is not None and cgroup.paths == {"": str(user / "id")}
    # the directory alone is not enough: moving a process takes the common ancestor's cgroup.procs
    deny(monkeypatch, user)
    assert cgroups.new(None, "id", rootless=True, where=fake_v2.layout()) is None


def test_rootless_with_only_its_own_cgroup2(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    own = fake_v2.top / "own"
    fake_v2.mkdir(str(own), 0o755)
    fake_v2.cgroup = "0::/own\n"
    deny(monkeypatch, own, own / "cgroup.procs")
    cgroup = cgroups.new("a/b", "id", rootless=True, where=fake_v2.layout())
    assert cgroup is not None and cgroup.paths == {"": str(own / "a/b")}


def test_rootless_with_some_of_v1(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, fake_v1.top / "memory", fake_v1.top / "pids")
    cgroup = cgroups.new(None, "id", rootless=True, where=fake_v1.layout())
    assert cgroup is not None and sorted(cgroup.paths) == ["memory", "pids"]
    fake_v1.log.clear()
    cgroup.create({"memory": {"limit": 5}, "devices": [{"allow": False}]})
    assert fake_v1.log == [("memory/id/memory.limit_in_bytes", "5")]
    cgroup.delete()
    refused(
        lambda: cgroup.create({"cpu": {"shares": 5}}),
        "linux.resources.cpu.shares",
        "is not available to this user: have",
    )


def test_a_root_who_cannot_see_its_own_cgroup(fake_v2: Cgroupfs) -> None:
    fake_v2.cgroup = "0::/../elsewhere\n"
    refused(lambda: cgroups.new("rel", "id", where=fake_v2.layout()), "linux.cgroupsPath", "must be absolute here")
    assert cgroups.new("/abs", "id", where=fake_v2.layout()) is not None
    assert cgroups.new(None, "id", rootless=True, where=fake_v2.layout()) is None
