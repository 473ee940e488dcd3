# SPDX-License-Identifier: Apache-2.0
"""Cgroup scenarios: limits and devices, written and then felt."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
from typing import Any

from ctnr.errors import SpecError, SyscallError
from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import Cgroup, devices, dirs, v1, v2
from support.cgroup_harness import (
    LAYOUT,
    TOKEN,
    Child,
    Skip,
    controllers,
    leftovers,
    made,
    on_v1,
    read,
    refused,
    value,
)


def block_device() -> tuple[int, int]:
    for name in sorted(os.listdir("/sys/block")):
        if not name.startswith(("loop", "ram", "zram", "dm-", "md", "sr", "nbd")):
            major, minor = read(f"/sys/block/{name}/dev").split(":")
            return int(major), int(minor)
    raise Skip("no block device")


def limits_are_what_was_asked_for() -> None:
    have = controllers()
    resources: dict[str, Any] = {}
    wanted: list[tuple[str, str, str]] = []  # controller, file, value

    def expect(controller: str, v1_file: str, v1_value: str, v2_file: str, v2_value: str) -> None:
        file, text = (v1_file, v1_value) if on_v1(controller) else (v2_file, v2_value)
        wanted.append((controller, file, text))

    if "memory" in have:
        resources["memory"] = {"limit": 64 << 20, "reservation": 32 << 20}
        expect("memory", "memory.limit_in_bytes", str(64 << 20), "memory.max", str(64 << 20))
        expect("memory", "memory.soft_limit_in_bytes", str(32 << 20), "memory.low", str(32 << 20))
        if on_v1("memory"):
            resources["memory"].update({"swappiness": 7, "useHierarchy": True})
            expect("memory", "memory.swappiness", "7", "", "")
            if os.path.exists(LAYOUT.v1["memory"] + "/memory.memsw.limit_in_bytes"):
                resources["memory"]["swap"] = 96 << 20
                expect("memory", "memory.memsw.limit_in_bytes", str(96 << 20), "", "")
    if "cpu" in have:
        resources["cpu"] = {"shares": 512, "quota": 50000, "period": 200000, "burst": 10000}
        expect("cpu", "cpu.shares", "512", "cpu.weight", "59")
        expect("cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 200000")
        expect("cpu", "cpu.cfs_burst_us", "10000", "cpu.max.burst", "10000")
    if "cpuset" in have:
        resources.setdefault("cpu", {}).update({"cpus": "0", "mems": "0"})
        expect("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0")
        expect("cpuset", "cpuset.mems", "0", "cpuset.mems", "0")
    if "pids" in have:
        resources["pids"] = {"limit": 17}
        expect("pids", "pids.max", "17", "pids.max", "17")
    if "io" in have:
        major, minor = block_device()
        dev = f"{major}:{minor}"
        resources["blockIO"] = {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 30}]}
        v2_text = f"{dev} rbps={1 << 30} wbps=max riops=max wiops=max"
        expect("io", "blkio.throttle.read_bps_device", f"{dev} {1 << 30}", "io.max", v2_text)
    if "hugetlb" in have:
        resources["hugepageLimits"] = [{"pageSize": "2MB", "limit": 4 << 20}]
        expect("hugetlb", "hugetlb.2MB.limit_in_bytes", str(4 << 20), "hugetlb.2MB.max", str(4 << 20))
        expect("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", str(4 << 20), "hugetlb.2MB.rsvd.max", str(4 << 20))
    if LAYOUT.unified is not None:
        resources["unified"] = {"cgroup.max.depth": "3"}
    with made(resources) as cgroup:
        for controller, file, text in wanted:
            assert value(cgroup, controller, file) == text, (file, value(cgroup, controller, file))
        if LAYOUT.unified is not None:
            assert read(cgroup.paths[""] + "/cgroup.max.depth") == "3"
        print("checked:", *(file for _, file, _ in wanted))
        child = Child(cgroup)
        if "pids" in have:
            cgroup.apply({"pids": {"limit": -1}})
            assert value(cgroup, "pids", "pids.max") == "max"
        if "memory" in have:
            cgroup.apply({"memory": {"limit": -1}})
            limit = value(cgroup, "memory", "memory.limit_in_bytes" if on_v1("memory") else "memory.max")
            assert limit == "max" or int(limit) > 1 << 60
            child.ask("x")
            tiny = {"memory": {"limit": 4096, "checkBeforeUpdate": True}}
            refused(lambda: cgroup.apply(tiny), "linux.resources.memory.limit")
    if not wanted:
        raise Skip("no controller to limit anything with")


def limits_bite() -> None:
    have = controllers()
    if "pids" not in have and "memory" not in have:
        raise Skip("neither pids nor memory")

    def answer(question: str) -> str:
        if question == "fork":
            try:
                pid = os.fork()
            except OSError as e:
                return errno.errorcode[e.errno or 0]
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            return "forked"
        return str(len(bytearray(int(question))))

    if "pids" in have:
        with made({"pids": {"limit": 2}}) as cgroup:
            child = Child(cgroup, answer)
            assert child.ask("fork") == "forked"
            cgroup.apply({"pids": {"limit": 0}})
            assert child.ask("fork") == "EAGAIN"
    if "memory" in have:
        with made({"memory": {"limit": 32 << 20, "swap": 32 << 20}}) as cgroup:
            child = Child(cgroup, answer)
            try:
                child.ask(str(256 << 20))
            except AssertionError:
                pass
            assert os.WTERMSIG(child.wait()) == signal.SIGKILL


def shares_out_of_range() -> None:
    if "cpu" not in controllers() or not on_v1("cpu"):
        raise Skip("cpu is not on v1")
    cgroup = cgroups.new(f"/{TOKEN}/c", "c")
    assert cgroup is not None
    refused(
        lambda: cgroup.create({"cpu": {"shares": 300000}}), "linux.resources.cpu.shares", "maximum allowed", "262144"
    )


def every_controller_that_is_not_there() -> None:
    have = controllers()
    asked: dict[str, tuple[dict[str, Any], str]] = {
        "memory": ({"memory": {"limit": 1 << 30}}, "linux.resources.memory.limit"),
        "cpu": ({"cpu": {"shares": 5}}, "linux.resources.cpu.shares"),
        "cpuset": ({"cpu": {"cpus": "0"}}, "linux.resources.cpu.cpus"),
        "pids": ({"pids": {"limit": 5}}, "linux.resources.pids.limit"),
        "io": ({"blockIO": {"weight": 500}}, "linux.resources.blockIO.weight"),
        "hugetlb": ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, "linux.resources.hugepageLimits"),
        "rdma": ({"rdma": {"mlx": {"hcaHandles": 1}}}, "linux.resources.rdma"),
        "net_cls": ({"network": {"classID": 1}}, "linux.resources.network.classID"),
        "net_prio": ({"network": {"priorities": [{"name": "lo", "priority": 1}]}}, "linux.resources.network.priorities"),
    }  # fmt: skip
    checked = []
    for controller, (resources, field) in asked.items():
        if controller in have:
            continue
        error = refused(lambda r=resources: made(r).__enter__(), field, "not available")  # type: ignore[misc]
        assert isinstance(error, (SpecError, SyscallError))
        checked.append(controller)
    if LAYOUT.unified is None:
        refused(lambda: made({"unified": {"memory.high": "1"}}).__enter__(), "linux.resources.unified", "cgroup v1")
    else:
        refused(
            lambda: made({"unified": {"foo.bar": "1"}}).__enter__(),
            'linux.resources.unified["foo.bar"]',
            "the requested cgroup controller `foo` is not available",
            "no such file or directory",
        )
        refused(lambda: made({"unified": {"cgroup.nope": "1"}}).__enter__(), "no such file or directory")
    assert leftovers() == []
    print("checked:", *checked)


NODES = [("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/kmsg", 1, 11), ("/dev/fuse", 10, 229)]
MODES = {os.O_RDONLY: devices.READ, os.O_WRONLY: devices.WRITE, os.O_RDWR: devices.READ | devices.WRITE}


def use_devices(_: str) -> str:
    """What the kernel lets this process do: [kind, major, minor, access, allowed]."""
    found: list[list[Any]] = []
    for path, major, minor in NODES:
        if not os.path.exists(path):
            continue
        for mode, access in MODES.items():
            try:
                os.close(os.open(path, mode | os.O_NONBLOCK))
                allowed = True
            except OSError as e:
                allowed = e.errno != errno.EPERM
            found.append(["c", major, minor, access, allowed])
    for kind, stat_kind in (("c", 0o020000), ("b", 0o060000)):
        for major, minor in ((1, 3), (1, 5), (8, 0), (10, 229)):
            path = f"/dev/shm/{TOKEN}.node"
            try:
                os.mknod(path, stat_kind | 0o600, os.makedev(major, minor))
                os.unlink(path)
                allowed = True
            except OSError as e:
                assert e.errno == errno.EPERM, e
                allowed = False
            found.append([kind, major, minor, devices.MKNOD, allowed])
    return json.dumps(found)


def allows(policy: devices.Policy, kind: str, major: int, minor: int, access: int) -> bool:
    matching = [
        granted
        for (k, a, b), granted in policy.exceptions.items()
        if k == kind and a in (-1, major) and b in (-1, minor)
    ]
    if policy.default_allow:
        return not any(access & granted for granted in matching)
    return any(not access & ~granted for granted in matching)


def set_devices(cgroup: Cgroup, policy: devices.Policy) -> None:
    if "devices" in cgroup.paths:
        v1.set_devices(cgroup.paths["devices"], policy)
    else:
        v2.set_devices(cgroup.paths[""], policy, fresh=False)


def random_rules(source: random.Random) -> list[dict[str, Any]]:
    rules = []
    for _ in range(source.randrange(6)):
        rule: dict[str, Any] = {"allow": source.random() < 0.6}
        if source.random() < 0.85:
            rule["type"] = source.choice("ccb")
            rule["access"] = "".join(source.sample("rwm", source.randint(1, 3)))
            if source.random() < 0.8:
                rule["major"] = source.choice([1, 1, 8, 10])
            if source.random() < 0.6:
                rule["minor"] = source.choice([0, 3, 5, 7, 11, 229])
        rules.append(rule)
    return rules


def the_kernel_answers_as_the_policy_says() -> None:
    """Random rule lists, one after the other on one cgroup (so transitions and program replacement are tried too)."""
    source = random.Random(20)
    with made({"devices": [{"allow": False, "access": "rwm"}]}) as cgroup:
        child = Child(cgroup, use_devices)
        first = devices.policy([])
        tried = denied = 0
        for policy in [first, *policies(source, 60)]:
            if tried:
                set_devices(cgroup, policy)
            for kind, major, minor, access, allowed in json.loads(child.ask("?")):
                tried += 1
                denied += not allowed
                what = devices.line((kind, major, minor), access)
                wrong = [devices.line(*e) for e in policy.exceptions.items()]
                assert allowed == allows(policy, kind, major, minor, access), (
                    what,
                    allowed,
                    policy.default_allow,
                    wrong,
                )
        print(f"{tried} accesses, {denied} denied")
        assert denied > 100 and tried - denied > 100


def policies(source: random.Random, count: int) -> list[devices.Policy]:
    found: list[devices.Policy] = []
    while len(found) < count:
        try:
            found.append(devices.policy(random_rules(source)))
        except SpecError:
            continue
    return found


def default_devices_only() -> None:
    """What runc's configs ask for: nothing but the default devices may be opened, by a process that may make any node."""
    with made({"devices": [{"allow": False, "access": "rwm"}]}) as cgroup:
        answers = {(a[1], a[2], a[3]): a[4] for a in json.loads(Child(cgroup, use_devices).ask("?")) if a[0] == "c"}
        assert answers[1, 3, devices.READ | devices.WRITE]
        assert answers[10, 229, devices.MKNOD]
        assert not answers[1, 11, devices.READ]
    if "devices" not in LAYOUT.v1:
        from ctnr import _native

        def programs(cgroup: Cgroup) -> list[int]:
            with dirs.Dir(cgroup.paths[""]) as d:
                return list(_native.bpf_prog_query(d.fd, 6))

        with made({"devices": [{"allow": True, "access": "rwm"}]}) as cgroup:
            assert programs(cgroup) == []  # nothing to refuse, no program
            set_devices(cgroup, devices.policy([]))
            [one] = programs(cgroup)
            set_devices(cgroup, devices.policy([{"allow": True, "type": "c", "major": 9, "access": "r"}]))
            [other] = programs(cgroup)
            assert one != other
            set_devices(cgroup, devices.Policy(default_allow=True))
            assert programs(cgroup) == []
