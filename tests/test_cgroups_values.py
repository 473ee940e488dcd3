# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups on a model of cgroupfs: which files get which values, in which order, and what is refused.

integration/test_cgroups.py asks the kernel.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_cgroupfs import Cgroupfs, create, limits, refused

from ctnr.errors import SpecError


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
                ("cpu,cpuacct/cpu.idle", "0"),
                ("cpu,cpuacct/cpu.shares", "512"),
                ("cpu,cpuacct/cpu.cfs_period_us", "10000"),
                ("cpu,cpuacct/cpu.cfs_burst_us", "100"),
                ("cpu,cpuacct/cpu.cfs_quota_us", "5000"),
            ],
        ),
        # an idle cgroup's shares cannot be written
        ({"cpu": {"shares": 2, "idle": 1}}, [("cpu,cpuacct/cpu.shares", "2"), ("cpu,cpuacct/cpu.idle", "1")]),
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
