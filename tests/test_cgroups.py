# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups on a model of cgroupfs: which files get which values, in which order, and what happens when one fails.

integration/test_cgroups.py asks the kernel.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_cgroupfs import Cgroupfs

from ctnr import log
from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import Cgroup, dirs, v1, v2

V1 = (
    "cpuset",
    "cpu,cpuacct",
    "memory",
    "devices",
    "freezer",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls,net_prio",
    "rdma",
    "name=systemd",
)
V2 = "cpuset cpu io memory hugetlb pids rdma"


@pytest.fixture
def fake_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroupfs:
    return Cgroupfs(tmp_path, monkeypatch, V1)


@pytest.fixture
def fake_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroupfs:
    monkeypatch.setattr(v2, "set_devices", lambda *a, **k: None)
    return Cgroupfs(tmp_path, monkeypatch, (), "", V2)


@pytest.fixture
def fake_hybrid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroupfs:
    return Cgroupfs(tmp_path, monkeypatch, ("cpuset", "memory", "devices", "freezer"), "unified", "hugetlb pids")


def create(fs: Cgroupfs, resources: dict[str, Any] | None = None, path: str | None = "/p/c", **kw: Any) -> Cgroup:
    cgroup = cgroups.new(path, "id", resources=resources, where=fs.layout(), **kw)
    assert cgroup is not None
    fs.log.clear()
    cgroup.create(resources)
    return cgroup


def limits(fs: Cgroupfs) -> list[tuple[str, str]]:
    """The writes since, but for what each new cgroup gets."""
    skip = ("devices.", "cpuset.", "cgroup.subtree_control")
    return [(p.replace("p/c/", ""), v) for p, v in fs.log if not os.path.basename(p).startswith(skip)]


@pytest.mark.parametrize(
    ("resources", "writes"),
    [
        ({}, []),
        ({"memory": {"limit": 100}}, [("memory/memory.limit_in_bytes", "100")]),
        # from "unlimited" down the limit goes first, up from a lower one the sum
        (
            {"memory": {"limit": 100, "swap": 200}},
            [("memory/memory.limit_in_bytes", "100"), ("memory/memory.memsw.limit_in_bytes", "200")],
        ),
        (
            {"memory": {"limit": 100, "swap": -1}},
            [("memory/memory.memsw.limit_in_bytes", "-1"), ("memory/memory.limit_in_bytes", "100")],
        ),
        (
            {"memory": {"limit": -1}},
            [("memory/memory.memsw.limit_in_bytes", "-1"), ("memory/memory.limit_in_bytes", "-1")],
        ),
        (
            {"memory": {"reservation": 50, "swappiness": 0, "disableOOMKiller": True, "useHierarchy": True}},
            [
                ("memory/memory.soft_limit_in_bytes", "50"),
                ("memory/memory.oom_control", "1"),
                ("memory/memory.swappiness", "0"),
            ],
        ),
        ({"memory": {"limit": 0, "swap": 0, "swappiness": -1, "disableOOMKiller": False}}, []),
        ({"memory": {"useHierarchy": False}}, [("memory/memory.use_hierarchy", "0")]),
        (
            {"cpu": {"shares": 512, "quota": 5000, "period": 10000, "burst": 100, "idle": 0}},
            [
                ("cpu,cpuacct/cpu.shares", "512"),
                ("cpu,cpuacct/cpu.cfs_period_us", "10000"),
                ("cpu,cpuacct/cpu.cfs_burst_us", "100"),
                ("cpu,cpuacct/cpu.cfs_quota_us", "5000"),
                ("cpu,cpuacct/cpu.idle", "0"),
            ],
        ),
        ({"cpu": {"quota": -1}}, [("cpu,cpuacct/cpu.cfs_quota_us", "-1")]),
        (
            {"cpu": {"realtimeRuntime": 5, "realtimePeriod": 10}},
            [("cpu,cpuacct/cpu.rt_period_us", "10"), ("cpu,cpuacct/cpu.rt_runtime_us", "5")],
        ),
        ({"pids": {"limit": 5}}, [("pids/pids.max", "5")]),
        ({"pids": {"limit": 0}}, [("pids/pids.max", "1")]),
        ({"pids": {"limit": -1}}, [("pids/pids.max", "max")]),
        ({"pids": {}}, []),
        (
            {
                "blockIO": {
                    "weight": 500,
                    "weightDevice": [{"major": 8, "minor": 0, "weight": 200}],
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
                    "throttleWriteBpsDevice": [{"major": 8, "minor": 1, "rate": 2}],
                    "throttleReadIOPSDevice": [{"major": 8, "minor": 2, "rate": 3}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 3, "rate": 0}],
                }
            },
            [
                ("blkio/blkio.bfq.weight", "500"),
                ("blkio/blkio.bfq.weight_device", "8:0 200"),
                ("blkio/blkio.throttle.read_bps_device", "8:0 1"),
                ("blkio/blkio.throttle.write_bps_device", "8:1 2"),
                ("blkio/blkio.throttle.read_iops_device", "8:2 3"),
                ("blkio/blkio.throttle.write_iops_device", "8:3 0"),
            ],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}, {"pageSize": "1GB", "limit": 0}]},
            [
                ("hugetlb/hugetlb.2MB.limit_in_bytes", "4"),
                ("hugetlb/hugetlb.2MB.rsvd.limit_in_bytes", "4"),
                ("hugetlb/hugetlb.1GB.limit_in_bytes", "0"),
            ],
        ),
        (
            {"network": {"classID": 7, "priorities": [{"name": "eth0", "priority": 1}, {"name": "lo", "priority": 2}]}},
            [
                ("net_cls,net_prio/net_cls.classid", "7"),
                ("net_cls,net_prio/net_prio.ifpriomap", "eth0 1"),
                ("net_cls,net_prio/net_prio.ifpriomap", "lo 2"),
            ],
        ),
        (
            {"rdma": {"mlx": {"hcaHandles": 3, "hcaObjects": 0}, "rxe": {"hcaObjects": 9}}},
            [("rdma/rdma.max", "mlx hca_handle=3 hca_object=0"), ("rdma/rdma.max", "rxe hca_object=9")],
        ),
    ],
)
def test_v1_values(fake_v1: Cgroupfs, resources: dict[str, Any], writes: list[tuple[str, str]]) -> None:
    cgroup = create(fake_v1, resources)
    assert limits(fake_v1) == writes
    cgroup.delete()


@pytest.mark.parametrize(
    ("resources", "writes"),
    [
        ({}, []),
        (
            {"memory": {"limit": 100, "swap": 150, "reservation": 50}},
            [("memory.swap.max", "50"), ("memory.max", "100"), ("memory.low", "50")],
        ),
        ({"memory": {"limit": 100, "swap": 100}}, [("memory.swap.max", "0"), ("memory.max", "100")]),
        ({"memory": {"limit": -1}}, [("memory.swap.max", "max"), ("memory.max", "max")]),
        ({"memory": {"limit": 6000, "checkBeforeUpdate": True}}, [("memory.max", "6000")]),
        ({"memory": {"disableOOMKiller": False, "useHierarchy": True, "swappiness": -1}}, []),
        ({"cpu": {"shares": 1024}}, [("cpu.weight", "100")]),
        ({"cpu": {"quota": 5000}}, [("cpu.max", "5000")]),
        ({"cpu": {"quota": -1, "period": 20000}}, [("cpu.max", "max 20000")]),
        ({"cpu": {"period": 20000}}, [("cpu.max", "max 20000")]),
        ({"cpu": {"quota": 5000, "period": 20000, "burst": 10}}, [("cpu.max.burst", "10"), ("cpu.max", "5000 20000")]),
        # an idle cgroup's weight cannot be written
        ({"cpu": {"shares": 2, "idle": 1}}, [("cpu.weight", "1"), ("cpu.idle", "1")]),
        ({"cpu": {"shares": 2, "idle": 0}}, [("cpu.idle", "0"), ("cpu.weight", "1")]),
        ({"pids": {"limit": 0}}, [("pids.max", "1")]),
        (
            {
                "blockIO": {
                    "weight": 10,
                    "weightDevice": [{"major": 8, "minor": 0, "weight": 1000}],
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 3, "rate": 0}],
                }
            },
            [("io.weight", "1"), ("io.weight", "8:0 10000"), ("io.max", "8:0 rbps=1"), ("io.max", "8:3 wiops=max")],
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]},
            [("hugetlb.2MB.max", "4"), ("hugetlb.2MB.rsvd.max", "4")],
        ),
        ({"rdma": {"mlx": {"hcaHandles": 3}}}, [("rdma.max", "mlx hca_handle=3")]),
        (
            {"unified": {"memory.high": "7", "io.max": "8:0 rbps=1\n8:1 rbps=2"}},
            [("memory.high", "7"), ("io.max", "8:0 rbps=1"), ("io.max", "8:1 rbps=2")],
        ),
    ],
)
def test_v2_values(fake_v2: Cgroupfs, resources: dict[str, Any], writes: list[tuple[str, str]]) -> None:
    cgroup = create(fake_v2, resources)
    assert limits(fake_v2) == writes
    cgroup.delete()


def test_v2_cpuset(fake_v2: Cgroupfs) -> None:
    create(fake_v2, {"cpu": {"cpus": "0-1", "mems": "0"}})
    assert fake_v2.value("p/c/cpuset.cpus") == "0-1\n"
    assert fake_v2.value("p/c/cpuset.mems") == "0\n"


def test_bfq_is_asked_first(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_cgroupfs import V2_FILES

    monkeypatch.setitem(V2_FILES, "io", {**V2_FILES["io"], "io.bfq.weight": ""})
    create(fake_v2, {"blockIO": {"weight": 500, "weightDevice": [{"major": 8, "minor": 0, "weight": 20}]}})
    assert limits(fake_v2) == [("io.bfq.weight", "500"), ("io.bfq.weight", "8:0 20")]


def test_cfq_files_of_old_kernels(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    from fake_cgroupfs import V1_FILES

    files = dict.fromkeys(["blkio.weight", "blkio.weight_device", "blkio.leaf_weight", "blkio.leaf_weight_device"], "")
    monkeypatch.setitem(V1_FILES, "blkio", files)
    device = {"major": 8, "minor": 0, "weight": 20, "leafWeight": 30}
    create(fake_v1, {"blockIO": {"weight": 500, "leafWeight": 10, "weightDevice": [device]}})
    assert [v for _, v in limits(fake_v1)] == ["500", "10", "8:0 20", "8:0 30"]


def refused(call: Callable[[], object], field: str, words: str) -> CtnrError:
    with pytest.raises(CtnrError) as caught:
        call()
    assert str(caught.value).startswith(field)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("resources", "field", "words"),
    [
        ({"unified": {"memory.high": "1"}}, "linux.resources.unified", "cannot use unified on cgroup v1"),
        ({"memory": {"swappiness": 101}}, "linux.resources.memory.swappiness", "0 to 100"),
        ({"hugepageLimits": [{"pageSize": "3MB", "limit": 1}]}, "linux.resources.hugepageLimits[0].pageSize", "3MB"),
        ({"hugepageLimits": [{"pageSize": "../x", "limit": 1}]}, "linux.resources.hugepageLimits[0].pageSize", "../x"),
        ({"blockIO": {"leafWeight": 10}}, "linux.resources.blockIO.leafWeight", "no such knob"),
        (
            {"network": {"priorities": [{"name": "a 1\nb", "priority": 1}]}},
            "linux.resources.network.priorities[0].name",
            "not a device name",
        ),
        ({"rdma": {"a b": {}}}, 'linux.resources.rdma["a b"]', "not a device name"),
        ({"devices": [{"allow": True, "type": "x"}]}, "linux.resources.devices[0].type", "not one of a, b, c"),
    ],
)
def test_v1_refuses(fake_v1: Cgroupfs, resources: dict[str, Any], field: str, words: str) -> None:
    refused(lambda: create(fake_v1, resources), field, words)
    assert fake_v1.left() == []


@pytest.mark.parametrize(
    ("resources", "field", "words"),
    [
        ({"memory": {"swappiness": 0}}, "linux.resources.memory.swappiness", "cgroupv2"),
        ({"memory": {"disableOOMKiller": True}}, "linux.resources.memory.disableOOMKiller", "cgroupv2"),
        ({"memory": {"useHierarchy": False}}, "linux.resources.memory.useHierarchy", "always hierarchical"),
        ({"memory": {"swap": 10}}, "linux.resources.memory.swap", "without memory limit"),
        ({"memory": {"limit": 5000, "checkBeforeUpdate": True}}, "linux.resources.memory.limit", "<= usage 5000"),
        ({"cpu": {"realtimeRuntime": 1}}, "linux.resources.cpu.realtimeRuntime", "cgroup v2"),
        ({"cpu": {"realtimePeriod": 1}}, "linux.resources.cpu.realtimePeriod", "cgroup v2"),
        ({"blockIO": {"leafWeight": 10}}, "linux.resources.blockIO.leafWeight", "cgroupv2"),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 5}]}},
            "linux.resources.blockIO.weightDevice[0].leafWeight",
            "cgroupv2",
        ),
        ({"blockIO": {"weight": 5}}, "linux.resources.blockIO.weight", "10 to 1000"),
        ({"network": {"classID": 1}}, "linux.resources.network.classID", "cgroup v1's"),
        ({"network": {"priorities": [{}]}}, "linux.resources.network.priorities", "cgroup v1's"),
        ({"unified": {"memory.NOPE": "1"}}, 'linux.resources.unified["memory.NOPE"]', "no such file or directory"),
        (
            {"unified": {"foo.bar": "1"}},
            'linux.resources.unified["foo.bar"]',
            "the requested cgroup controller `foo` is not available",
        ),
        ({"unified": {"nodot": "1"}}, 'linux.resources.unified["nodot"]', "not the form CONTROLLER.VALUE `nodot`"),
    ],
)
def test_v2_refuses(fake_v2: Cgroupfs, resources: dict[str, Any], field: str, words: str) -> None:
    refused(lambda: create(fake_v2, resources), field, words)
    assert fake_v2.left() == []


EVERYTHING = {
    "memory": "limit",
    "cpu": "shares",
    "pids": "limit",
    "blockIO": "weight",
    "network": "classID",
}


@pytest.mark.parametrize("group", [*EVERYTHING, "hugepageLimits", "rdma", "cpuset"])
def test_a_controller_that_nobody_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str) -> None:
    fs = Cgroupfs(tmp_path, monkeypatch, ("devices", "freezer"))
    if group in EVERYTHING:
        resources: dict[str, Any] = {group: {EVERYTHING[group]: 100}}
        field = f"linux.resources.{group}.{EVERYTHING[group]}"
    elif group == "cpuset":
        resources, field = {"cpu": {"cpus": "0"}}, "linux.resources.cpu.cpus"
    else:
        resources = {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}], "rdma": {"a": {}}}
        resources = {group: resources[group]}
        field = f"linux.resources.{group}"
    error = refused(lambda: create(fs, resources), field, "is not available")
    assert isinstance(error, SpecError)
    assert fs.left() == []
    # nobody asked: nothing is wrong
    create(fs, {}).delete()


def test_a_default_of_deny_must_not_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fs = Cgroupfs(tmp_path, monkeypatch, ("memory",))
    refused(lambda: create(fs, {}), "linux.resources.devices", "no devices controller is mounted")
    assert fs.left() == []


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
    monkeypatch.setattr(cgroups, "send_signal", lambda pid, signal: pytest.fail(f"killed {pid}"))
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


def test_a_period_that_must_wait_for_its_quota(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1, {})
    period = f"cpu,cpuacct/{os.path.relpath(cgroup.paths['cpu'], fake_v1.top / 'cpu,cpuacct')}/cpu.cfs_period_us"
    fake_v1.log.clear()
    refusals = iter([errno.EINVAL])
    original = fake_v1.write

    def write(name: str, value: str, dir_fd: int | None = None) -> None:
        fake_v1.fail = {period: next(refusals, 0)} if name == "cpu.cfs_period_us" else {}
        original(name, value, dir_fd)

    dirs.write = write  # type: ignore[assignment]  # monkeypatch restores it
    cgroup.apply({"cpu": {"quota": 1000, "period": 2000}})
    assert limits(fake_v1) == [
        ("cpu,cpuacct/cpu.cfs_period_us", "2000"),
        ("cpu,cpuacct/cpu.cfs_quota_us", "1000"),
        ("cpu,cpuacct/cpu.cfs_period_us", "2000"),
    ]
    # without a quota to come it is an error
    refusals = iter([errno.EINVAL])
    refused(lambda: cgroup.apply({"cpu": {"period": 2000}}), "linux.resources.cpu.period", "invalid argument")


def test_memory_in_use_is_not_taken_away(fake_v1: Cgroupfs) -> None:
    fake_v1.fail = {"memory/p/c/memory.limit_in_bytes": errno.EBUSY}
    refused(
        lambda: create(fake_v1, {"memory": {"limit": 500}}),
        "linux.resources.memory.limit",
        "unable to set memory limit to 500 (current usage: 1000, peak usage: 2000)",
    )


def test_shares_that_the_kernel_clamps(fake_v1: Cgroupfs) -> None:
    original = fake_v1.write

    def write(name: str, value: str, dir_fd: int | None = None) -> None:
        original(name, "262144" if name == "cpu.shares" else value, dir_fd)

    dirs.write = write  # type: ignore[assignment]  # monkeypatch restores it
    refused(
        lambda: create(fake_v1, {"cpu": {"shares": 300000}}),
        "linux.resources.cpu.shares",
        "the maximum allowed cpu-shares is 262144",
    )


def test_kernel_memory_is_ignored_with_a_warning(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(log, "warning", said.append)
    create(fake_v1, {"memory": {"kernel": 100, "kernelTCP": 100}})
    assert limits(fake_v1) == []
    assert [text.split(" ")[0] for text in said] == [
        "linux.resources.memory.kernel",
        "linux.resources.memory.kernelTCP",
    ]


def test_devices_on_v1(fake_v1: Cgroupfs) -> None:
    create(fake_v1, {"devices": [{"allow": False}, {"allow": True, "type": "b", "major": 8, "access": "r"}]})
    entries = fake_v1.value("devices/p/c/devices.list").splitlines()
    assert entries[0] == "b 8:* r"
    assert "c 1:3 rwm" in entries and "a *:* rwm" not in entries


def test_apply_leaves_the_devices_alone(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1, {})
    fake_v1.log.clear()
    cgroup.apply({"devices": [{"allow": True}], "pids": {"limit": 4}})
    assert fake_v1.log == [("pids/p/c/pids.max", "4")]


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


# --- joining


def test_add_writes_to_every_hierarchy_once(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1)
    fake_v1.log.clear()
    cgroup.add(77)
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
    cgroup.add(77)
    assert fake_v2.value("p/c/cgroup.procs") == "77\n"
    (fake_v2.top / "p/c/cgroup.procs").unlink()
    refused(lambda: cgroup.add(77), "add process 77 to", "cgroup.procs: no such file or directory")


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
    cgroup.add(5, "sub")
    assert fake_v2.value("p/c/sub/cgroup.procs") == "5\n"
    cgroup.add(5, "/sub/")
    fd = cgroup.fd_v2("sub")
    assert fd is not None and os.readlink(f"/proc/self/fd/{fd}") == cgroup.paths[""] + "/sub"
    os.close(fd)
    for sub in ("..", "sub/..", "../c2", "./../x"):
        for call in (lambda sub=sub: cgroup.add(5, sub), lambda sub=sub: cgroup.fd_v2(sub)):  # type: ignore[misc]
            error = refused(call, "--cgroup", "`..` components are not allowed")
            assert sub in str(error)
    refused(lambda: cgroup.fd_v2("none"), "open the cgroup", "no such file or directory")


def test_no_cgroup2_no_fd(fake_v1: Cgroupfs) -> None:
    assert create(fake_v1).fd_v2() is None


# --- freezing, killing, owning


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_freeze_and_thaw(request: pytest.FixtureRequest, mode: str) -> None:
    fs: Cgroupfs = request.getfixturevalue(mode)
    cgroup = create(fs)
    assert not cgroup.frozen()
    cgroup.freeze()
    assert cgroup.frozen()
    cgroup.thaw()
    assert not cgroup.frozen()
    cgroup.delete()
    assert not cgroup.frozen()


def test_a_v1_cgroup_that_will_not_freeze_is_thawed(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1)
    original = fake_v1.write
    monkeypatch.setattr(v1, "sleep", lambda seconds: None)

    def write(name: str, value: str, dir_fd: int | None = None) -> None:
        original(name, "FREEZING" if value == "FROZEN" else value, dir_fd)

    dirs.write = write  # type: ignore[assignment]  # monkeypatch restores it
    refused(cgroup.freeze, "unable to freeze the cgroup", "new processes keep appearing")
    assert fake_v1.value("freezer/p/c/freezer.state") == "THAWED\n"


def test_a_v2_cgroup_that_will_not_freeze_is_thawed(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v2)
    original = fake_v2.write
    monkeypatch.setattr(v2.freeze, "__defaults__", (0.01,))

    def write(name: str, value: str, dir_fd: int | None = None) -> None:
        original(name, value, dir_fd)
        (fake_v2.top / "p/c/cgroup.events").write_text("populated 1\nfrozen 0\n")

    monkeypatch.setattr(v2, "write", write)
    refused(cgroup.freeze, "unable to freeze the cgroup", "did not stop in 0.01 s")
    assert fake_v2.value("p/c/cgroup.freeze") == "0\n"


def test_freezing_needs_a_freezer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(Cgroupfs(tmp_path, monkeypatch, ("devices",)))
    refused(cgroup.freeze, "cannot toggle freezer", "cgroups not configured for container")
    refused(cgroup.thaw, "cannot toggle freezer", "cgroups not configured for container")
    assert cgroup.frozen() is False


@pytest.mark.parametrize(("signal", "paused"), [(9, False), (15, False), (15, True), (9, True)])
def test_kill_on_v1(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch, signal: int, paused: bool) -> None:
    cgroup = create(fake_v1)
    (fake_v1.top / "devices/p/c/cgroup.procs").write_text("11\n12\n")
    sent: list[tuple[int, int, str]] = []

    def send(pid: int, number: int) -> None:
        sent.append((pid, number, fake_v1.value("freezer/p/c/freezer.state").strip()))
        if pid == 11:
            raise ProcessLookupError(errno.ESRCH, "gone")

    monkeypatch.setattr(cgroups, "send_signal", send)
    if paused:
        cgroup.freeze()
    cgroup.kill(signal)
    assert sent == [(11, signal, "FROZEN"), (12, signal, "FROZEN")]
    # a pause outlives all but SIGKILL, which v1 would hold back
    assert cgroup.frozen() == (paused and signal != 9)


def test_kill_thaws_after_an_error_too(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1)
    (fake_v1.top / "devices/p/c/cgroup.procs").write_text("11\n12\n")
    sent = []

    def send(pid: int, number: int) -> None:
        sent.append(pid)
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr(cgroups, "send_signal", send)
    refused(cgroup.kill, "send signal 9 to", "operation not permitted")
    assert sent == [11, 12]
    assert not cgroup.frozen()


def test_kill_on_v2_is_one_write(fake_v2: Cgroupfs) -> None:
    cgroup = create(fake_v2)
    fake_v2.log.clear()
    cgroup.kill()
    assert fake_v2.log == [("p/c/cgroup.kill", "1")]


def test_kill_on_a_hybrid_machine_lets_v1_frozen_processes_go(fake_hybrid: Cgroupfs) -> None:
    cgroup = create(fake_hybrid)
    cgroup.freeze()
    fake_hybrid.log.clear()
    cgroup.kill()
    assert fake_hybrid.log == [("unified/p/c/cgroup.kill", "1"), ("freezer/p/c/freezer.state", "THAWED")]


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_what_is_gone_has_no_processes(request: pytest.FixtureRequest, mode: str) -> None:
    cgroup = create(request.getfixturevalue(mode))
    cgroup.delete()
    cgroup.kill()
    cgroup.kill(15)
    assert cgroup.pids() == []
    cgroup.delete()


def test_delete_waits_for_the_dying(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1)
    procs = fake_v1.top / "memory/p/c/cgroup.procs"
    procs.write_text("11\n")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            procs.write_text("")

    monkeypatch.setattr(dirs, "sleep", nap)
    cgroup.delete()
    assert naps == sorted(naps) and len(naps) == 3
    assert all(path.endswith("/p") for path in fake_v1.left())


def test_delete_does_not_wait_for_ever(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1)
    (fake_v1.top / "memory/p/c/cgroup.procs").write_text("11\n12\n")
    refused(lambda: cgroup.delete(timeout=0.01), "remove the cgroup", "it still has processes: 11 12")
    # the others are gone all the same
    assert [p for p in fake_v1.left() if p.endswith("/c")] == [str(fake_v1.top / "memory/p/c")]


def test_delete_waits_once_for_all_hierarchies(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1)
    for name in ("memory", "pids", "freezer"):
        (fake_v1.top / name / "p/c/cgroup.procs").write_text("11\n")
    clock = [0.0]
    monkeypatch.setattr(dirs, "monotonic", lambda: clock[0])

    def nap(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(dirs, "sleep", nap)
    refused(lambda: cgroup.delete(timeout=2), "remove the cgroup", "it still has processes: 11")
    assert 2 <= clock[0] < 2.1


def test_a_read_only_mount_says_erofs_even_of_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def rmdir(path: str, *, dir_fd: int | None = None) -> None:
        raise OSError(errno.EROFS, "read-only", path)

    monkeypatch.setattr(dirs, "rmdir", rmdir)
    dirs.remove(str(tmp_path / "none"))
    refused(lambda: dirs.remove(str(tmp_path)), "remove the cgroup", "read-only file system")


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
    assert cgroups.wants_owner(config) is wants


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
    refused(lambda: cgroups.new(None, "id", manager="systemd", where=where), "--systemd-cgroup", "not supported yet")
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


# --- directories


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
