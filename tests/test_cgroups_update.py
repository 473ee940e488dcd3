# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups on a model of cgroupfs: limits that are changed.

integration/test_cgroups.py asks the kernel.
"""

from __future__ import annotations

import copy
import errno
import os
from typing import Any

import pytest
from fake_cgroupfs import Cgroupfs, create, limits, refused

from ctnr import log
from ctnr.errors import SyscallError
from ctnr.runtime.cgroups import dirs, journal
from ctnr.runtime.cgroups.resources import merge


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


def test_devices_on_v1(fake_v1: Cgroupfs) -> None:
    create(fake_v1, {"devices": [{"allow": False}, {"allow": True, "type": "b", "major": 8, "access": "r"}]})
    entries = fake_v1.value("devices/p/c/devices.list").splitlines()
    assert entries[0] == "b 8:* r"
    assert "c 1:3 rwm" in entries and "a *:* rwm" not in entries


def test_kernel_memory_is_not_written(fake_v1: Cgroupfs) -> None:
    create(fake_v1, {"memory": {"kernel": 100, "kernelTCP": 100}})
    assert limits(fake_v1) == []


def test_apply_leaves_the_devices_alone(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1, {})
    fake_v1.log.clear()
    cgroup.apply({"devices": [{"allow": True}], "pids": {"limit": 4}})
    assert fake_v1.log == [("pids/p/c/pids.max", "4")]


# --- what depends on what was there


@pytest.mark.parametrize(
    ("before", "asked", "writes"),
    [
        # v2 limits swap alone, the config the sum of both: the other one counts as it was
        ({"limit": 100, "swap": 300}, {"limit": 200}, [("memory.swap.max", "100"), ("memory.max", "200")]),
        ({"limit": 100, "swap": 300}, {"swap": 400}, [("memory.swap.max", "300"), ("memory.max", "100")]),
        ({"limit": 100, "swap": 300}, {"limit": 200, "swap": 250}, [("memory.swap.max", "50"), ("memory.max", "200")]),
        ({"limit": 100, "swap": 300}, {"limit": -1}, [("memory.swap.max", "max"), ("memory.max", "max")]),
        ({"limit": 100, "swap": 300}, {"swap": -1}, [("memory.swap.max", "max")]),
        ({"limit": 100, "swap": -1}, {"limit": 200}, [("memory.max", "200")]),
        ({"limit": 100}, {"limit": 200, "swap": 0}, [("memory.max", "200")]),
        ({"limit": 100, "swap": 300}, {"reservation": 7}, [("memory.low", "7")]),
        ({}, {"limit": 0, "swap": 0, "reservation": 0}, []),
    ],
)
def test_v2_memory(
    fake_v2: Cgroupfs, before: dict[str, Any], asked: dict[str, Any], writes: list[tuple[str, str]]
) -> None:
    cgroup = create(fake_v2, {"memory": before})
    fake_v2.log.clear()
    cgroup.apply({"memory": asked}, {"memory": before})
    assert limits(fake_v2) == writes


@pytest.mark.parametrize(
    ("before", "asked", "words"),
    [
        ({}, {"swap": 100}, "unable to set swap limit without memory limit"),
        ({"limit": 100, "swap": 300}, {"limit": 400}, "memory+swap limit should be >= memory limit"),
    ],
)
def test_v2_memory_that_makes_no_sense(
    fake_v2: Cgroupfs, before: dict[str, Any], asked: dict[str, Any], words: str
) -> None:
    cgroup = create(fake_v2, {"memory": before})
    fake_v2.log.clear()
    refused(lambda: cgroup.apply({"memory": asked}, {"memory": before}), "linux.resources.memory.swap", words)
    assert fake_v2.log == []


def test_v1_memory_up_and_down(fake_v1: Cgroupfs) -> None:
    """The kernel wants limit <= memory+swap at each step."""
    cgroup = create(fake_v1, {"memory": {"limit": 100, "swap": 200}})
    fake_v1.log.clear()
    cgroup.apply({"memory": {"limit": 300, "swap": 400}}, {"memory": {"limit": 100, "swap": 200}})
    cgroup.apply({"memory": {"limit": 100, "swap": 200}}, {"memory": {"limit": 300, "swap": 400}})
    cgroup.apply({"memory": {"limit": -1}}, {"memory": {"limit": 100, "swap": 200}})
    limit, swap = "memory/memory.limit_in_bytes", "memory/memory.memsw.limit_in_bytes"
    assert limits(fake_v1) == [
        (swap, "400"),
        (limit, "300"),
        (limit, "100"),
        (swap, "200"),
        (swap, "-1"),
        (limit, "-1"),
    ]


# --- all of it or nothing

EVERYTHING: dict[str, Any] = {
    "memory": {"limit": 300, "swap": 400, "reservation": 200},
    "cpu": {"shares": 200, "quota": 5000, "period": 10000, "burst": 10, "cpus": "1", "mems": "0"},
    "pids": {"limit": 5},
    "blockIO": {
        "weight": 500,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 200}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 1, "rate": 1}],
    },
    "hugepageLimits": [{"pageSize": "2MB", "limit": 4}],
    "rdma": {"mlx": {"hcaHandles": 3}},
}


def snapshot(fs: Cgroupfs) -> dict[str, str]:
    return {str(path): path.read_text().strip() for path in sorted(fs.top.rglob("p/c/*")) if path.is_file()}


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_a_failure_at_any_write_sets_all_back(request: pytest.FixtureRequest, mode: str) -> None:
    fs: Cgroupfs = request.getfixturevalue(mode)
    asked = {name: value for name, value in EVERYTHING.items() if mode != "fake_hybrid" or name in ("memory", "pids")}
    first = {"pids": {"limit": 100}, "memory": {"limit": 1000, "swap": 2000}}
    cgroup = create(fs, {**first, "hugepageLimits": [{"pageSize": "2MB", "limit": 8}]})
    fs.log.clear()
    cgroup.apply(asked, first)
    writes = len(fs.log)
    assert writes > (3 if mode == "fake_hybrid" else 10)
    cgroup.delete()
    for n in range(writes):
        cgroup = create(fs, {**first, "hugepageLimits": [{"pageSize": "2MB", "limit": 8}]}, path="/p/c")
        before = snapshot(fs)
        fs.log.clear()
        fs.fail = {n: errno.EIO}
        with pytest.raises(SyscallError):
            cgroup.apply(asked, first)
        fs.fail = {}
        after = snapshot(fs)
        # the model has no files of lines: what was written last is all there is, be it "takes nothing off a device"
        for path in (path for path in before if before[path] != after[path]):
            plain = before[path].rpartition(" ")[2] == after[path]
            assert plain or after[path].partition(" ")[2] in journal._NO_LINE.values(), (n, path, after[path])
        cgroup.delete()


@pytest.mark.parametrize(
    ("name", "old", "new", "back"),
    [
        ("memory.max", "max\n", "5", "max"),
        ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\n", "1", "0"),
        ("cpu.max", "max 100000\n", "5000", "max 100000"),
        ("cpuset.cpus", "\n", "1", "\n"),
        ("io.max", "8:0 rbps=1 wbps=max riops=max wiops=max\n", "8:0 rbps=2", "8:0 rbps=1 wbps=max riops=max wiops=max"),
        ("io.max", "8:0 rbps=1 wbps=max riops=max wiops=max\n", "8:16 rbps=2", "8:16 rbps=max wbps=max riops=max wiops=max"),
        ("io.weight", "default 100\n8:0 50\n", "200", "100"),
        ("io.weight", "default 100\n8:0 50\n", "8:0 70", "8:0 50"),
        ("io.weight", "default 100\n", "8:0 70", "8:0 default"),
        ("blkio.throttle.read_bps_device", "8:0 5\n", "8:0 6", "8:0 5"),
        ("blkio.throttle.read_bps_device", "", "8:0 6", "8:0 0"),
        ("net_prio.ifpriomap", "lo 0\neth0 3\n", "eth0 5", "eth0 3"),
        ("rdma.max", "mlx hca_handle=max hca_object=9\n", "mlx hca_handle=3", "mlx hca_handle=max hca_object=9"),
    ],
)  # fmt: skip
def test_what_sets_a_file_back(name: str, old: str, new: str, back: str) -> None:
    assert journal._restored(name, old, new) == back


def test_what_cannot_be_set_back_is_logged(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1, {"pids": {"limit": 7}})
    said: list[str] = []
    monkeypatch.setattr(log, "warning", said.append)
    fake_v1.log.clear()
    # the two last: the failure, and the way back
    fake_v1.fail = {1: errno.EIO, 2: errno.EBUSY}
    asked = {"memory": {"limit": 5}, "pids": {"limit": 5}}
    refused(lambda: cgroup.apply(asked), "linux.resources.pids.limit", "input/output error")
    assert len(said) == 1 and "cannot set" in said[0] and "memory.limit_in_bytes back to" in said[0]


# --- what is written down


@pytest.mark.parametrize(
    ("before", "asked", "after"),
    [
        ({}, {"pids": {"limit": 5}}, {"pids": {"limit": 5}}),
        (
            {"memory": {"limit": 1, "swap": 2}, "pids": {"limit": 3}},
            {"memory": {"limit": 5}},
            {"memory": {"limit": 5, "swap": 2}, "pids": {"limit": 3}},
        ),
        ({"memory": {"limit": 1, "swap": 2}}, {"memory": {"limit": -1}}, {"memory": {"limit": -1, "swap": -1}}),
        ({"unified": {"a.b": "1"}}, {"unified": {"c.d": "2"}}, {"unified": {"a.b": "1", "c.d": "2"}}),
        (
            {"blockIO": {"weight": 5, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}},
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 1, "rate": 2}, {"major": 8, "minor": 0, "rate": 3}]}},
            {
                "blockIO": {
                    "weight": 5,
                    "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 3}, {"major": 8, "minor": 1, "rate": 2}],
                }
            },
        ),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 10, "leafWeight": 20}]}},
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 30}]}},
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 30, "leafWeight": 20}]}},
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]},
            {"hugepageLimits": [{"pageSize": "1GB", "limit": 2}, {"pageSize": "2MB", "limit": 3}]},
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 3}, {"pageSize": "1GB", "limit": 2}]},
        ),
        (
            {"rdma": {"a": {"hcaHandles": 1}}},
            {"rdma": {"a": {"hcaObjects": 2}, "b": {"hcaHandles": 3}}},
            {"rdma": {"a": {"hcaHandles": 1, "hcaObjects": 2}, "b": {"hcaHandles": 3}}},
        ),
        ({"devices": [{"allow": False}]}, {"devices": [{"allow": True}]}, {"devices": [{"allow": True}]}),
    ],
)  # fmt: skip
def test_merge(before: dict[str, Any], asked: dict[str, Any], after: dict[str, Any]) -> None:
    untouched = copy.deepcopy(before)
    assert merge(before, asked) == after
    assert before == untouched


# --- devices


def test_other_devices(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1, {"devices": [{"allow": False}]})
    fake_v1.log.clear()
    cgroup.allow([{"allow": False}, {"allow": True, "type": "b", "major": 8, "access": "r"}])
    assert fake_v1.log == [("devices/p/c/devices.allow", "b 8:* r")]
    fake_v1.log.clear()
    cgroup.allow([{"allow": False}, {"allow": True, "type": "b", "major": 8, "access": "r"}])
    assert fake_v1.log == []
