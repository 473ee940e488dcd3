# SPDX-License-Identifier: Apache-2.0
"""update: what the kernel's files read then, in each view of the cgroup tree; the refusal where a controller is missing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import runtimes, users, views
from support.bundles import MakeBundle, new_id
from support.cgroup_view import Group
from support.runtimes import MakeRuntime, Runtime
from support.users import User

MIB = 1 << 20
Resources = dict[str, Any]


class Box:
    """A running container whose limits change."""

    def __init__(self, runtime: Runtime, id: str) -> None:
        self.runtime = runtime
        self.id = id
        self.group = Group(runtime, id)

    def update(self, *options: str) -> None:
        self.runtime("update", *options, self.id).ok()

    def document(self, resources: Resources) -> None:
        """By standard input, as containerd and cri-o do."""
        self.runtime("update", "-r", "-", self.id, stdin=json.dumps(resources)).ok()

    def refused(self, words: str, *options: str, document: Resources | None = None) -> None:
        if document is not None:
            done = self.runtime("update", "--resources", "-", self.id, stdin=json.dumps(document))
        else:
            done = self.runtime("update", *options, self.id)
        assert done.code == 1 and words in done.error_line, str(done)

    def need(self, *controllers: str) -> None:
        for controller in controllers:
            if not self.group.has(controller):
                pytest.skip(f"not applicable: no {controller} controller in the {self.runtime.view} view")

    def memory(self) -> tuple[str, str, str]:
        """(limit, swap by v2's way of counting or what v1 has, reservation); "max" for none."""
        found = []
        for v1, v2 in (("limit_in_bytes", "max"), ("memsw.limit_in_bytes", "swap.max"), ("soft_limit_in_bytes", "low")):
            if not self.group.exists("memory", f"memory.{v1}", f"memory.{v2}"):
                found.append("none")
                continue
            text = self.group.value("memory", f"memory.{v1}", f"memory.{v2}")
            found.append("max" if text.isdigit() and int(text) > 1 << 60 else text)
        return found[0], found[1], found[2]

    def swap(self, limit: int, total: int) -> str:
        """What a limit on memory and swap of `total` reads, with a memory limit of `limit`."""
        if not self.group.exists("memory", "memory.memsw.limit_in_bytes", "memory.swap.max"):
            return "none"
        return str(total if "memory" in self.group.v1 else total - limit)

    def cpu(self) -> str:
        if "cpu" in self.group.v1:
            quota = self.group.value("cpu", "cpu.cfs_quota_us", "")
            return f"{'max' if quota == '-1' else quota} {self.group.value('cpu', 'cpu.cfs_period_us', '')}"
        return self.group.value("cpu", "", "cpu.max")

    def stored(self) -> Resources:
        found: Resources = json.loads((self.runtime.state_root / self.id / "config.json").read_text())
        return found["linux"]["resources"]  # type: ignore[no-any-return]


MakeBox = Callable[..., Box]


@pytest.fixture
def box_of(view: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> Iterator[MakeBox]:
    """Makes a box: `box_of(memory={...})`; of its resources those that the view cannot limit are left out."""

    def make(**resources: Any) -> Box:
        runtime = runtimes_of(root, view=view)
        bundle = bundle_of(root, "/probe", "--wait")
        plain = Box(runtime, runtime.start_detached(bundle))
        wanted = {
            "cpu": ("cpu",),
            "memory": ("memory",),
            "pids": ("pids",),
            "blockIO": ("io",),
            "hugepageLimits": ("hugetlb",),
        }
        for name, value in resources.items():
            if all(plain.group.has(c) for c in wanted.get(name, ())):
                bundle.linux.setdefault("resources", {})[name] = value
        runtime.stop(plain.id)
        return Box(runtime, runtime.start_detached(bundle))

    yield make


def test_memory(box_of: MakeBox) -> None:
    box = box_of(memory={"limit": 32 * MIB, "reservation": 24 * MIB})
    box.need("memory")
    assert (box.memory()[0], box.memory()[2]) == (str(32 * MIB), str(24 * MIB))
    box.update("--memory", str(64 * MIB))
    box.update("--memory-reservation", "30m")
    assert (box.memory()[0], box.memory()[2]) == (str(64 * MIB), str(30 * MIB))
    box.update("--memory", "50M", "--memory-swap", "90M")
    assert box.memory()[:2] == (str(50 * MIB), box.swap(50 * MIB, 90 * MIB))
    # up past the old sum, and down again
    box.update("--memory", "100M", "--memory-swap", "120M")
    assert box.memory()[:2] == (str(100 * MIB), box.swap(100 * MIB, 120 * MIB))
    box.update("--memory", "30M", "--memory-swap", "50M")
    assert box.memory()[:2] == (str(30 * MIB), box.swap(30 * MIB, 50 * MIB))
    # one of the two: the other counts as it was
    box.update("--memory", "40M")
    assert box.memory()[:2] == (str(40 * MIB), box.swap(40 * MIB, 50 * MIB))
    box.update("--memory-swap", "60M")
    assert box.memory()[:2] == (str(40 * MIB), box.swap(40 * MIB, 60 * MIB))
    box.document({"memory": {"limit": 0, "swap": 0, "reservation": 0}})
    assert box.memory()[:2] == (str(40 * MIB), box.swap(40 * MIB, 60 * MIB))
    box.update("--memory", "-1")
    assert box.memory()[0] == "max" and box.memory()[1] in ("max", "none")
    assert box.stored()["memory"]["limit"] == -1


def test_memory_in_use(box_of: MakeBox) -> None:
    """checkBeforeUpdate is v2's word for what v1 does anyway: a limit below what is in use is refused, and nobody killed."""
    box = box_of(memory={"limit": 64 * MIB})
    box.need("memory")
    before = box.memory()
    check = {"limit": 4096, "checkBeforeUpdate": True}
    box.refused("memory limit", document={"memory": check})
    if "memory" in box.group.v2:
        box.refused("rejecting memory limit 4096", document={"memory": check})
        box.refused("rejecting memory+swap limit 8192", document={"memory": {**check, "swap": 8192}})
    assert box.runtime.status(box.id) == "running"
    assert box.memory() == before
    assert box.stored()["memory"] == {"limit": 64 * MIB}


def test_quota_and_period(box_of: MakeBox) -> None:
    box = box_of(cpu={"shares": 100, "quota": 500000, "period": 1000000})
    box.need("cpu")
    assert box.cpu() == "500000 1000000"
    for options, wanted in (
        (("--cpu-period", "900000"), "500000 900000"),
        (("--cpu-quota", "600000"), "600000 900000"),
        (("--cpu-quota", "-1"), "max 900000"),
        (("--cpu-quota", "3000", "--cpu-period", "10000"), "3000 10000"),
        (("--cpu-quota", "-1", "--cpu-period", "100000"), "max 100000"),
    ):
        box.update(*options)
        assert box.cpu() == wanted, options
    box.document({"cpu": {"quota": 30000}})
    assert box.cpu() == "30000 100000"
    box.update("--cpu-share", "200")
    assert box.group.value("cpu", "cpu.shares", "cpu.weight") == ("200" if "cpu" in box.group.v1 else "29")
    # out of the kernel's range: nothing changes, in the cgroup or in what is written down
    stored = box.stored()
    box.refused("linux.resources.cpu.period", "--cpu-period", "10", "--cpu-share", "300")
    assert box.cpu() == "30000 100000"
    assert box.group.value("cpu", "cpu.shares", "cpu.weight") == ("200" if "cpu" in box.group.v1 else "29")
    assert box.stored() == stored


def test_burst(box_of: MakeBox) -> None:
    box = box_of(cpu={"quota": 50000, "period": 100000})
    box.need("cpu")
    knob = ("cpu", "cpu.cfs_burst_us", "cpu.max.burst")
    if not box.group.exists(*knob):
        pytest.skip("not applicable: before Linux 5.14")
    box.update("--cpu-burst", "20000")
    assert box.group.value(*knob) == "20000"
    box.update("--cpu-quota", "40000")
    assert box.group.value(*knob) == "20000"
    # more than the old quota allows: the quota comes with it
    box.update("--cpu-burst", "90000", "--cpu-quota", "95000")
    assert (box.group.value(*knob), box.cpu()) == ("90000", "95000 100000")
    box.refused("linux.resources.cpu.burst: must not be larger than quota", "--cpu-burst", "9", "--cpu-quota", "8")
    box.update("--cpu-burst", "0")
    assert box.group.value(*knob) == "0"


def test_idle(box_of: MakeBox) -> None:
    box = box_of()
    box.need("cpu")
    knob = ("cpu", "cpu.idle", "cpu.idle")
    if not box.group.exists(*knob):
        pytest.skip("not applicable: before Linux 5.15")
    for value in ("1", "0", "1"):
        box.update("--cpu-idle", value)
        assert box.group.value(*knob) == value
    for value in ("2", "-1"):
        box.refused("linux.resources.cpu.idle", "--cpu-idle", value)
    box.update("--cpu-quota", "50000")
    assert box.group.value(*knob) == "1"
    box.document({"cpu": {"idle": 0, "shares": 2048}})
    assert box.group.value(*knob) == "0"


def test_cpuset(box_of: MakeBox) -> None:
    box = box_of()
    box.need("cpuset")
    box.update("--cpuset-cpus", "0", "--cpuset-mems", "0")
    assert box.group.value("cpuset", "cpuset.cpus", "cpuset.cpus") == "0"
    assert box.group.value("cpuset", "cpuset.mems", "cpuset.mems") == "0"
    box.refused("linux.resources.cpu.cpus", "--cpuset-cpus", "4000")
    assert box.group.value("cpuset", "cpuset.cpus", "cpuset.cpus") == "0"


def test_pids(box_of: MakeBox) -> None:
    box = box_of(pids={"limit": 20})
    box.need("pids")
    for option, wanted in (("30", "30"), ("-1", "max"), ("0", "1"), ("40", "40")):
        box.update("--pids-limit", option)
        assert box.group.value("pids", "pids.max", "pids.max") == wanted
    assert box.stored()["pids"] == {"limit": 40}
    # a paused container stays paused
    box.runtime("pause", box.id).ok()
    box.update("--pids-limit", "50")
    assert box.runtime.status(box.id) == "paused"
    box.runtime("resume", box.id).ok()


def test_block_devices(box_of: MakeBox) -> None:
    box = box_of()
    box.need("io")
    [number] = runtimes.call(
        ["sh", "-c", "grep -hs . /sys/block/*/dev | grep -v '^[17]:' | head -n 1"], users.me()
    ).out.split()
    major, minor = map(int, number.split(":"))
    device = {"major": major, "minor": minor}
    names = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")
    rates = (10 * MIB, 9 * MIB, 1000, 900)
    for n in (1, 2):
        box.document(
            {"blockIO": {name: [{**device, "rate": n * rate}] for name, rate in zip(names, rates, strict=True)}}
        )
        if "io" in box.group.v2:
            words = [f"{k}={n * rate}" for k, rate in zip(("rbps", "wbps", "riops", "wiops"), rates, strict=True)]
            assert box.group.value("io", "", "io.max") == f"{number} {' '.join(words)}"
        else:
            for file, rate in zip(("read_bps", "write_bps", "read_iops", "write_iops"), rates, strict=True):
                assert box.group.value("io", f"blkio.throttle.{file}_device", "") == f"{number} {n * rate}"
    assert box.stored()["blockIO"][names[0]] == [{**device, "rate": 2 * rates[0]}]
    weight = ("io", "blkio.bfq.weight", "io.bfq.weight")
    if box.group.exists(*weight):
        box.update("--blkio-weight", "300")
        assert box.group.value(*weight).split()[-1] == "300"


def test_unified(box_of: MakeBox) -> None:
    box = box_of()
    if "" not in box.group.paths:
        box.refused("cannot use unified on cgroup v1", document={"unified": {"memory.high": "1000000"}})
        return
    box.document({"unified": {"cgroup.max.depth": "5"}})
    assert box.group.value("", "", "cgroup.max.depth") == "5"
    box.refused("controller `foo` is not available", document={"unified": {"foo.bar": "1", "cgroup.max.depth": "6"}})
    assert box.group.value("", "", "cgroup.max.depth") == "5"
    if "memory" in box.group.v2 and "cpu" in box.group.v2:
        box.document({"unified": {"memory.high": "100003840", "cpu.max": "max 50000", "cpu.weight": "16"}})
        assert box.group.value("memory", "", "memory.high") == "100003840"
        assert box.group.value("cpu", "", "cpu.max") == "max 50000"
        assert box.group.value("cpu", "", "cpu.weight") == "16"


def test_hugepages(box_of: MakeBox) -> None:
    box = box_of(hugepageLimits=[{"pageSize": "2MB", "limit": 8 * MIB}])
    box.need("hugetlb")
    box.document({"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]})
    for part in ("", ".rsvd"):
        assert box.group.value("hugetlb", f"hugetlb.2MB{part}.limit_in_bytes", f"hugetlb.2MB{part}.max") == str(4 * MIB)


def test_devices(box_of: MakeBox) -> None:
    """A list that is what it was (containerd sends it along) is left alone; another one is put in its place."""
    rules = [{"allow": False, "access": "rwm"}]
    box = box_of(devices=rules)
    pid = box.runtime.pid(box.id)

    def opens_kmsg() -> bool:
        # the mknod is allowed anywhere, its use is the list's business
        done = (
            box.runtime(
                "exec", "--cap", "CAP_MKNOD", "--cap", "CAP_SYSLOG", box.id, "/probe", "mknod:/dev/kmsg2:c:1:11"
            )
            .ok()
            .json()
        )
        return bool(done["asked"]["mknod:/dev/kmsg2:c:1:11"] == 0)

    assert not opens_kmsg()
    box.document({"devices": rules})
    assert not opens_kmsg()
    box.document({"devices": [*rules, {"allow": True, "type": "c", "major": 1, "minor": 11, "access": "rw"}]})
    assert opens_kmsg()
    assert len(box.stored()["devices"]) == 2
    box.document({"devices": rules})
    assert not opens_kmsg()
    assert box.runtime.pid(box.id) == pid


CONTROLLER_OF = {
    "memory": (("--memory", "64m"), "linux.resources.memory.limit"),
    "cpu": (("--cpu-share", "200"), "linux.resources.cpu.shares"),
    "cpuset": (("--cpuset-cpus", "0"), "linux.resources.cpu.cpus"),
    "pids": (("--pids-limit", "5"), "linux.resources.pids.limit"),
    "io": (("--blkio-weight", "500"), "linux.resources.blockIO.weight"),
    "rdma": ({"rdma": {"mlx4_0": {"hcaHandles": 3}}}, "linux.resources.rdma"),
    "net_cls": ({"network": {"classID": 3}}, "linux.resources.network.classID"),
    "net_prio": ({"network": {"priorities": [{"name": "lo", "priority": 1}]}}, "linux.resources.network.priorities"),
}


def test_a_controller_that_is_not_there(box_of: MakeBox) -> None:
    """Everything this view cannot limit is refused by its field's name, and nothing has changed."""
    box = box_of()
    before = box.stored()
    for controller, (asked, field) in CONTROLLER_OF.items():
        if not box.group.has(controller):
            if isinstance(asked, dict):
                box.refused(field, document=asked)
            else:
                box.refused(field, *asked)
    assert box.stored() == before


# --- who and what


def test_kernel_memory_is_ignored_with_a_warning(box_of: MakeBox) -> None:
    box = box_of()
    done = box.runtime("update", "--kernel-memory", "10m", "--kernel-memory-tcp", "10m", box.id).ok()
    assert done.err.count("Kernel memory settings are ignored and will be removed") == 2
    assert done.err.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("linux.resources.memory.swappiness", {"memory": {"swappiness": 101}}),
        ("linux.resources.pids.limit", {"pids": {"limit": "5"}}),
        ("linux.resources.blockIO.weightDevice[0]", {"blockIO": {"weightDevice": [{"major": 8, "minor": 0}]}}),
        ("not a JSON object", [1]),
        ("--memory: 'x' is not a size", ("--memory", "x")),
        ("--cpu-period is a whole number from 0", ("--cpu-period", "-1")),
        ("--pids-limit is a whole number", ("--pids-limit", "1.5")),
        ("nothing to update", ()),
        ("exclude each other", ("--memory", "1g", "-r", "/dev/null")),
    ],
)
def test_what_makes_no_sense(
    words: str, options: Any, root_runtime: Runtime, root: User, bundle_of: MakeBundle
) -> None:
    id = root_runtime.create(bundle_of(root, "/probe", "--wait"))
    if isinstance(options, tuple):
        done = root_runtime("update", *options, id)
    else:
        done = root_runtime("update", "-r", "-", id, stdin=json.dumps(options))
    assert done.code == 1 and words in done.error_line, str(done)
    root_runtime("delete", "--force", id).ok()


def test_a_file_and_a_created_container(root_runtime: Runtime, root: User, bundle_of: MakeBundle, work: Any) -> None:
    id = root_runtime.create(bundle_of(root, "/probe", "--wait"))
    group = Group(root_runtime, id)
    if not group.has("pids"):
        pytest.skip("not applicable: no pids controller")
    (work / "resources.json").write_text('{"pids": {"limit": 33}, "memory": null, "unknown": 1}')
    root_runtime("update", "--resources", str(work / "resources.json"), id).ok()
    assert group.value("pids", "pids.max", "pids.max") == "33"
    root_runtime("update", "-r", "-", id, stdin="{}").ok()
    root_runtime("start", id).ok()
    assert "does not exist" in root_runtime("update", "--pids-limit", "3", "nope").error_line
    root_runtime("kill", id, "KILL").ok()
    root_runtime.wait_status(id, "stopped")
    assert "container not running" in root_runtime("update", "--pids-limit", "3", id).error_line
    root_runtime("delete", id).ok()


def test_without_a_cgroup(user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(user, flags=("--cgroup-manager", "disabled"))
    id = runtime.start_detached(bundle_of(user, "/probe", "--wait"))
    refused = runtime("update", "--memory", "64m", id)
    assert refused.code == 1
    assert "linux.resources.memory.limit: cannot be changed: the container has no cgroup" in refused.error_line
    runtime("delete", "--force", id).ok()


@pytest.mark.parametrize("peer", ["runc", "crun"])
def test_like_the_peers(peer: str, runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    """The same updates under a peer read the same in the kernel's files."""
    view = views.V1 if views.V1 in views.available() else views.HOST
    seen = []
    for path in (None, runtimes.peer(peer)):
        runtime = runtimes_of(root, path, view=view)
        bundle = bundle_of(root, "/probe", "--wait")
        bundle.config["ociVersion"] = "1.0.2"
        bundle.linux["cgroupsPath"] = f"/{new_id()}"
        id = runtime.start_detached(bundle)
        pid = runtime.pid(id)
        for options in (
            ("--memory", "104857600", "--memory-swap", "209715200"),
            ("--memory", "209715200", "--memory-swap", "419430400"),
            ("--memory", "52428800", "--memory-reservation", "41943040"),
            ("--cpu-quota", "50000", "--cpu-period", "200000", "--cpu-share", "512"),
            ("--cpu-quota", "25000"),
            ("--pids-limit", "44"),
            ("--cpuset-cpus", "0"),
        ):
            runtime("update", *options, id).ok()
        seen.append(_limits(pid, view))
        runtime("delete", "--force", id).ok()
    assert seen[0] == seen[1]
    assert len(seen[0]) > 3


KNOBS = (
    "memory.limit_in_bytes memory.memsw.limit_in_bytes memory.soft_limit_in_bytes cpu.cfs_quota_us cpu.cfs_period_us "
    "cpu.shares pids.max cpuset.cpus memory.max memory.swap.max memory.low cpu.max cpu.weight"
).split()


def _limits(pid: int, view: str) -> dict[str, str]:
    """All that a process's cgroups say of KNOBS."""
    script = """
    while IFS=: read -r _ names path; do
        for dir in /sys/fs/cgroup/$names$path /sys/fs/cgroup$path; do
            [ -d "$dir" ] && for knob in $2; do [ -f "$dir/$knob" ] && echo "$knob=$(cat "$dir/$knob")"; done
        done
    done <"/proc/$1/cgroup"; true
    """
    text = runtimes.call(["sh", "-c", script, "sh", str(pid), " ".join(KNOBS)], users.me(), view=view).ok().out
    return dict(line.split("=", 1) for line in text.splitlines())
