# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups.stats: files of v1 and v2 as the kernel writes them, and the document that runc makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctnr.errors import SyscallError
from ctnr.runtime.cgroups import stats

V1 = {
    "cpu/cpu.stat": "nr_periods 4\nnr_throttled 2\nthrottled_time 77\n",
    "cpuacct/cpuacct.usage": "1234567\n",
    "cpuacct/cpuacct.usage_percpu": "1000000 234567 \n",
    "cpuacct/cpuacct.usage_all": "cpu user system\n0 900000 100000\n1 200000 34567\n",
    "cpuacct/cpuacct.stat": "user 3\nsystem 2\n",
    "cpuset/cpuset.cpus": "0-1,3\n",
    "cpuset/cpuset.mems": "0\n",
    "cpuset/cpuset.sched_load_balance": "1\n",
    "cpuset/cpuset.sched_relax_domain_level": "-1\n",
    "memory/memory.stat": "rss 10\ncache 20\nactive_file 0\n",
    "memory/memory.limit_in_bytes": "9223372036854771712\n",
    "memory/memory.usage_in_bytes": "4096\n",
    "memory/memory.max_usage_in_bytes": "8192\n",
    "memory/memory.failcnt": "0\n",
    "pids/pids.current": "3\n",
    "pids/pids.max": "max\n",
    "blkio/blkio.throttle.io_service_bytes_recursive": "8:0 Read 5\n8:0 Write 0\n8:0 Total 5\nTotal 5\n",
    "blkio/blkio.throttle.io_serviced_recursive": "Total 0\n",
    "hugetlb/hugetlb.2MB.rsvd.usage_in_bytes": "0\n",
    "hugetlb/hugetlb.2MB.rsvd.max_usage_in_bytes": "4\n",
    "hugetlb/hugetlb.2MB.rsvd.failcnt": "1\n",
    "hugetlb/hugetlb.1GB.usage_in_bytes": "7\n",
}
V2 = {
    "cpu.stat": "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\nnr_throttled 1\nthrottled_usec 4\n",
    "cpu.pressure": "some avg10=1.50 avg60=0.00 avg300=0.00 total=9\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "memory.stat": "file 30\nanon 40\n",
    "memory.current": "100\n",
    "memory.max": "max\n",
    "memory.peak": "150\n",
    "memory.swap.current": "11\n",
    "memory.swap.max": "50\n",
    "memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
    "pids.current": "2\n",
    "pids.max": "17\n",
    "io.stat": "8:0 rbytes=1 wbytes=2 rios=3 wios=0 dbytes=0 dios=0\n253:0\n",
    "hugetlb.2MB.rsvd.current": "3\n",
    "hugetlb.2MB.events": "max 6\n",
}
NO_CPUSET = dict.fromkeys(stats._CPUSET, 0)


@pytest.fixture(autouse=True)
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hugepages-2048kB", "hugepages-1048576kB", "hugepages-64kB"):
        (tmp_path / "pages" / name).mkdir(parents=True)
    monkeypatch.setattr(stats, "HUGEPAGES", str(tmp_path / "pages"))


def write(top: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text)


def test_v1(tmp_path: Path) -> None:
    write(tmp_path, V1)
    names = "cpu cpuacct cpuset memory pids blkio hugetlb freezer".split()
    found = stats.collect({name: str(tmp_path / name) for name in names})
    assert found == {
        "cpu": {
            "usage": {
                "total": 1234567,
                "percpu": [1000000, 234567],
                "percpu_kernel": [100000, 34567],
                "percpu_user": [900000, 200000],
                "kernel": 20_000_000,
                "user": 30_000_000,
            },
            "throttling": {"periods": 4, "throttledPeriods": 2, "throttledTime": 77},
        },
        "cpuset": {
            **NO_CPUSET,
            "cpus": [0, 1, 3],
            "mems": [0],
            "sched_load_balance": 1,
            "sched_relax_domain_level": -1,
        },
        "memory": {
            "cache": 20,
            "usage": {"limit": 9223372036854771712, "usage": 4096, "max": 8192, "failcnt": 0},
            "raw": {"active_file": 0, "cache": 20, "rss": 10},
        },
        "pids": {"current": 3},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 8, "op": "Read", "value": 5},
                {"major": 8, "op": "Write"},
                {"major": 8, "op": "Total", "value": 5},
            ]
        },
        "hugetlb": {"1GB": {"usage": 7, "failcnt": 0}, "2MB": {"max": 4, "failcnt": 1}},
        "intel_rdt": {},
        "network_interfaces": None,
    }
    assert list(found["memory"]["raw"]) == ["active_file", "cache", "rss"]


def test_v2(tmp_path: Path) -> None:
    write(tmp_path, V2)
    found = stats.collect({"": str(tmp_path)})
    assert found == {
        "cpu": {
            "usage": {"total": 5000, "kernel": 2000, "user": 3000},
            "throttling": {"periods": 1, "throttledPeriods": 1, "throttledTime": 4000},
            "psi": {"some": {"avg10": 1.5, "avg60": 0, "avg300": 0, "total": 9}},
        },
        "cpuset": NO_CPUSET,
        "memory": {
            "cache": 30,
            "usage": {"limit": 2**64 - 1, "usage": 100, "max": 150, "failcnt": 0},
            # v1's way of counting: with the memory in it
            "swap": {"limit": 2**64 - 1, "usage": 111, "failcnt": 0},
            "raw": {"anon": 40, "file": 30},
            "psi": {},
        },
        "pids": {"current": 2, "limit": 17},
        "blkio": {
            "ioServiceBytesRecursive": [
                {"major": 8, "op": "Read", "value": 1},
                {"major": 8, "op": "Write", "value": 2},
            ],
            "ioServicedRecursive": [{"major": 8, "op": "Read", "value": 3}, {"major": 8, "op": "Write"}],
        },
        "hugetlb": {"2MB": {"usage": 3, "failcnt": 6}},
        "intel_rdt": {},
        "network_interfaces": None,
    }


def test_a_hybrid_machine(tmp_path: Path) -> None:
    """Numbers come from where the controller is, pressure from cgroup2."""
    write(tmp_path, V1)
    write(tmp_path / "unified", {name: V2[name] for name in ("cpu.pressure", "cpu.stat", "memory.pressure")})
    paths: dict[str, str] = {name: str(tmp_path / name) for name in ("cpu", "cpuacct", "memory", "pids")}
    found = stats.collect({**paths, "": str(tmp_path / "unified")})
    assert found["cpu"]["usage"]["total"] == 1234567
    assert found["cpu"]["throttling"]["throttledTime"] == 77
    assert found["cpu"]["psi"]["some"]["total"] == 9
    assert (found["memory"]["usage"]["usage"], found["memory"]["psi"]) == (4096, {})


@pytest.mark.parametrize("names", [(), ("",), ("memory", "cpuset")])
def test_nothing_there(names: tuple[str, ...], tmp_path: Path) -> None:
    found = stats.collect({name: str(tmp_path / "gone") for name in names})
    assert (found["cpu"], found["memory"], found["pids"], found["blkio"], found["hugetlb"]) == ({}, {}, {}, {}, {})


def test_processes_are_counted_where_pids_is_not(tmp_path: Path) -> None:
    write(tmp_path, {"cgroup.procs": "5\n6\n"})
    assert stats.collect({"": str(tmp_path)})["pids"] == {"current": 2}


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: str) -> str:
        raise PermissionError(13, "no", path)

    monkeypatch.setattr(stats.dirs, "read", read)
    with pytest.raises(SyscallError, match="read the statistics of the cgroup.*permission denied"):
        stats.collect({"": str(tmp_path)})


@pytest.mark.parametrize(("text", "numbers"), [("", []), ("\n", []), ("3\n", [3]), ("0-2,5,7-8", [0, 1, 2, 5, 7, 8])])
def test_lists(text: str, numbers: list[Any]) -> None:
    assert stats._list(text) == numbers
