# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups.resources: what needs which controller, and v1's numbers as v2's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.errors import SpecError
from ctnr.runtime.cgroups.resources import io_weight, swap_only, wanted, wanted_unified, weight_of_shares


@pytest.mark.parametrize(
    ("resources", "want"),
    [
        ({}, {}),
        ({"devices": [{"allow": False}]}, {}),
        ({"memory": {"limit": 1}}, {"memory": "linux.resources.memory.limit"}),
        ({"memory": {"reservation": 1, "swap": 2}}, {"memory": "linux.resources.memory.reservation"}),
        ({"memory": {"swappiness": 0}}, {"memory": "linux.resources.memory.swappiness"}),
        ({"memory": {"swappiness": -1}}, {}),
        ({"memory": {"disableOOMKiller": True}}, {"memory": "linux.resources.memory.disableOOMKiller"}),
        # no limit, and what every cgroup has anyway
        ({"memory": {"limit": -1, "swap": -1, "disableOOMKiller": False, "useHierarchy": True, "kernel": 5}}, {}),
        ({"memory": None, "cpu": None, "pids": None, "blockIO": None, "network": None, "unified": None}, {}),
        ({"cpu": {"shares": 2}}, {"cpu": "linux.resources.cpu.shares"}),
        ({"cpu": {"cpus": "0"}}, {"cpuset": "linux.resources.cpu.cpus"}),
        ({"cpu": {"mems": "0", "idle": 1}}, {"cpuset": "linux.resources.cpu.mems", "cpu": "linux.resources.cpu.idle"}),
        ({"cpu": {"quota": -1, "idle": 0, "burst": 0, "shares": 0, "cpus": ""}}, {}),
        ({"pids": {"limit": 0}}, {"pids": "linux.resources.pids.limit"}),
        ({"pids": {"limit": -1}}, {}),
        ({"pids": {}}, {}),
        ({"blockIO": {"weight": 10}}, {"io": "linux.resources.blockIO.weight"}),
        ({"blockIO": {"throttleWriteIOPSDevice": [{}]}}, {"io": "linux.resources.blockIO.throttleWriteIOPSDevice"}),
        ({"blockIO": {"weight": 0, "weightDevice": []}}, {}),
        ({"hugepageLimits": [{}]}, {"hugetlb": "linux.resources.hugepageLimits"}),
        ({"hugepageLimits": []}, {}),
        (
            {"network": {"classID": 1, "priorities": [{}]}},
            {"net_cls": "linux.resources.network.classID", "net_prio": "linux.resources.network.priorities"},
        ),
        ({"rdma": {"mlx": {}}}, {"rdma": "linux.resources.rdma"}),
    ],
)
def test_wanted(resources: dict[str, Any], want: dict[str, str]) -> None:
    assert wanted(resources) == want


def test_wanted_unified() -> None:
    keys = {"memory.high": "1", "memory.low": "1", "cgroup.max.depth": "3", "hugetlb.2MB.max": "0"}
    assert wanted_unified({"unified": keys}) == {
        "memory": 'linux.resources.unified["memory.high"]',
        "hugetlb": 'linux.resources.unified["hugetlb.2MB.max"]',
    }


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("../x.y", "1", "no slashes"),
        ("memory.x/y", "1", "no slashes"),
        ("NOT-A-VALID-KEY", "1", "the specified key has not the form CONTROLLER.VALUE `NOT-A-VALID-KEY`"),
        (".x", "1", "CONTROLLER.VALUE"),
        ("..", "1", "CONTROLLER.VALUE"),
        ("memory.", "1", "CONTROLLER.VALUE"),
        ("memory.high", 1, "must be a string"),
    ],
)
def test_wanted_unified_refuses(key: str, value: object, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        wanted_unified({"unified": {key: value}})
    assert caught.value.path == f'linux.resources.unified["{key}"]'
    assert words in caught.value.why


@pytest.mark.parametrize(
    ("shares", "weight"),
    # runc's and crun's own test vectors
    [(1, 1), (2, 1), (3, 2), (512, 59), (1024, 100), (260000, 9929), (262143, 10000), (262144, 10000), (262145, 10000)],
)
def test_weight_of_shares(shares: int, weight: int) -> None:
    assert weight_of_shares(shares) == weight


@given(st.integers(1, 300000), st.integers(1, 300000))
def test_weight_of_shares_keeps_the_order(a: int, b: int) -> None:
    assert 1 <= weight_of_shares(a) <= 10000
    assert (weight_of_shares(a) <= weight_of_shares(b)) or a > b


def test_io_weight() -> None:
    assert [io_weight(w, "f") for w in (10, 11, 500, 1000)] == [1, 11, 4950, 10000]
    for weight in (9, 1001):
        with pytest.raises(SpecError, match="10 to 1000"):
            io_weight(weight, "f")


@pytest.mark.parametrize(
    ("memory", "swap"),
    [
        ({}, -2),
        ({"limit": 100}, -2),
        ({"limit": 100, "swap": 0}, -2),
        ({"limit": 0, "swap": 0}, -2),
        ({"swap": 0}, 0),
        ({"limit": 100, "swap": 100}, 0),
        ({"limit": 100, "swap": 150}, 50),
        ({"limit": 100, "swap": -1}, -1),
        ({"swap": -1}, -1),
        ({"limit": -1}, -1),
        ({"limit": -1, "swap": -1}, -1),
        ({"limit": -1, "swap": 300}, 300),
    ],
)
def test_swap_only(memory: dict[str, int], swap: int) -> None:
    assert swap_only(memory) == swap


@pytest.mark.parametrize("memory", [{"swap": 100}, {"limit": 0, "swap": 100}, {"limit": 100, "swap": 99}])
def test_swap_only_refuses(memory: dict[str, int]) -> None:
    with pytest.raises(SpecError) as caught:
        swap_only(memory)
    assert caught.value.path == "linux.resources.memory.swap"
