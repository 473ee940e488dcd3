# SPDX-License-Identifier: Apache-2.0
"""--systemd-cgroup: scopes of the machine's systemd and of users' own; what systemd says of them, and what the kernel does.

Where systemd does not run only the refusal can be seen; `make test-vm` boots a machine where it does.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import machine, rootfs
from support.bundles import MakeBundle, new_id
from support.runtimes import MakeRuntime, Runtime, call, finished, popen
from support.users import ONE_ID, User

BOOTED = Path("/run/systemd/system").is_dir()
needs_systemd = pytest.mark.skipif(
    not BOOTED, reason="not applicable: this machine is not run by systemd (make test-vm)"
)
SLEEP = ("sh", "-c", "trap exit TERM; while :; do sleep 0.1; done")
MIB = 1 << 20


def systemctl(user: User, *words: str) -> str:
    return call(["systemctl", *(["--user"] if user.rootless else []), *words], user).out


def show(user: User, unit: str, *names: str) -> dict[str, str]:
    lines = systemctl(
        user, "show", *(f"--property={name}" for name in names), *(["--", unit] if unit else [])
    ).splitlines()
    return dict(line.split("=", 1) for line in lines)


def gone(user: User, unit: str) -> bool:
    return machine.poll(lambda: show(user, unit, "LoadState")["LoadState"] == "not-found", 10)


def cgroup_of(pid: int) -> Path:
    """Where a process is in cgroup2."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        if line.startswith("0::"):
            return Path(machine.cgroup_mounts()[""] + line[3:])
    raise AssertionError("no cgroup2")


@pytest.fixture
def systemd(runtimes_of: MakeRuntime, user: User) -> Runtime:
    return runtimes_of(user, flags=("--systemd-cgroup",))


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if not BOOTED:
        return
    found = subprocess.run(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend"], check=False, capture_output=True, text=True
    )
    left = [line for line in found.stdout.splitlines() if machine.TOKEN in line]
    assert left == [], left


# --- without systemd


@pytest.mark.skipif(BOOTED, reason="not applicable: systemd runs here")
@pytest.mark.parametrize("flags", [["--systemd-cgroup"], ["--cgroup-manager", "systemd"], ["--cgroup-manager=systemd"]])
def test_without_systemd(runtimes_of: MakeRuntime, user: User, bundle_of: MakeBundle, flags: list[str]) -> None:
    runtime = runtimes_of(user, flags=tuple(flags))
    done = runtime.run(bundle_of(user, "/bin/true"))
    assert done.code == 1
    assert "systemd not running on this host, cannot use systemd cgroups manager" in done.error_line
    assert runtime.ids() == []


# --- the life of a container


@needs_systemd
def test_life(systemd: Runtime, user: User, bundle_of: MakeBundle) -> None:
    box = bundle_of(user, *SLEEP)
    box.linux["resources"] = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 50}}
    id = systemd.create(box)
    unit = f"ctnr-{id}.scope"
    pid = systemd.pid(id)
    where = cgroup_of(pid)
    assert where.name == unit
    assert where.parent.name == ("user.slice" if user.rootless else "system.slice")
    told = show(
        user, unit, "ActiveState", "Delegate", "ControlGroup", "MemoryMax", "TasksMax", "Slice", "DefaultDependencies"
    )
    assert told["ActiveState"] == "active" and told["Delegate"] == "yes" and told["DefaultDependencies"] == "no"
    assert told["Slice"] == where.parent.name
    assert str(where).endswith(told["ControlGroup"])
    assert told["MemoryMax"] == str(64 * MIB) and told["TasksMax"] == "50"
    assert (where / "memory.max").read_text() == f"{64 * MIB}\n"
    assert (where / "pids.max").read_text() == "50\n"
    systemd("start", id).ok()
    # one more process, and one in a cgroup below
    inside = systemd("exec", id, "cat", "/proc/self/cgroup").ok().out
    assert inside == "0::/\n"
    process = systemd.popen("exec", id, "sleep", "1000")
    pids = where / "cgroup.procs"
    assert machine.poll(lambda: len(pids.read_text().split()) >= 2, 10)
    # paused and not
    systemd("pause", id).ok()
    assert (where / "cgroup.freeze").read_text() == "1\n" and systemd.status(id) == "paused"
    systemd("resume", id).ok()
    # other limits, in the kernel's files and in systemd's mind
    systemd(
        "update", "--memory", "100M", "--pids-limit", "70", "--cpu-quota", "25000", "--cpu-period", "50000", id
    ).ok()
    assert (where / "memory.max").read_text() == f"{100 * MIB}\n"
    assert (where / "pids.max").read_text() == "70\n"
    assert (where / "cpu.max").read_text() == "25000 50000\n"
    told = show(user, unit, "MemoryMax", "TasksMax", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec")
    assert told == {
        "MemoryMax": str(100 * MIB),
        "TasksMax": "70",
        "CPUQuotaPerSecUSec": "500ms",
        "CPUQuotaPeriodUSec": "50ms",
    }
    # all or nothing: in systemd's mind too
    refused = systemd("update", "--memory", "120M", "--cpuset-cpus", "4000", id)
    assert refused.code == 1
    assert (where / "memory.max").read_text() == f"{100 * MIB}\n"
    assert show(user, unit, "MemoryMax") == {"MemoryMax": str(100 * MIB)}
    systemd("kill", id, "KILL").ok()
    systemd.wait_status(id, "stopped")
    finished(process)
    systemd("delete", id).ok()
    assert gone(user, unit) and not where.exists()


@needs_systemd
def test_limits_outlive_a_daemon_reload(systemd: Runtime, user: User, bundle_of: MakeBundle) -> None:
    box = bundle_of(user, *SLEEP)
    box.linux["resources"] = {"memory": {"limit": 64 * MIB}, "cpu": {"shares": 512}, "pids": {"limit": 50}}
    id = systemd.start_detached(box)
    where = cgroup_of(systemd.pid(id))
    names = ("memory.max", "cpu.weight", "pids.max")
    before = {name: (where / name).read_text() for name in names}
    systemctl(user, "daemon-reload")
    assert {name: (where / name).read_text() for name in names} == before
    assert systemd("exec", id, "true").code == 0
    systemd.stop(id)


LIMITS: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, str]]] = {
    # resources, the kernel's files, systemd's properties
    "memory": (
        {"memory": {"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB}},
        {"memory.max": str(64 * MIB), "memory.low": str(32 * MIB), "memory.swap.max": str(32 * MIB)},
        {"MemoryMax": str(64 * MIB), "MemoryLow": str(32 * MIB), "MemorySwapMax": str(32 * MIB)},
    ),
    "cpu": (
        {"cpu": {"shares": 2048, "quota": 33333, "period": 100000}},
        {"cpu.max": "33333 100000"},
        {"CPUQuotaPerSecUSec": "340ms", "CPUQuotaPeriodUSec": "100ms"},
    ),
    "idle": ({"cpu": {"idle": 1}}, {"cpu.idle": "1"}, {"CPUWeight": "idle"}),
    "cpuset": ({"cpu": {"cpus": "0", "mems": "0"}}, {"cpuset.cpus": "0", "cpuset.mems": "0"}, {"AllowedCPUs": "0"}),
    "pids": ({"pids": {"limit": 33}}, {"pids.max": "33"}, {"TasksMax": "33"}),
    "no pids": ({"pids": {"limit": -1}}, {"pids.max": "max"}, {"TasksMax": "infinity"}),
    "unified": (
        {"unified": {"memory.high": str(50 * MIB), "memory.min": "4096", "cpu.weight": "77", "pids.max": "44"}},
        {"memory.high": str(50 * MIB), "memory.min": "4096", "cpu.weight": "77", "pids.max": "44"},
        {"MemoryHigh": str(50 * MIB), "MemoryMin": "4096", "CPUWeight": "77", "TasksMax": "44"},
    ),
    "unified that systemd does not know": (
        {"unified": {"memory.oom.group": "1"}},
        {"memory.oom.group": "1"},
        {},
    ),
}


@needs_systemd
@pytest.mark.parametrize("what", list(LIMITS))
def test_limits(systemd: Runtime, user: User, bundle_of: MakeBundle, what: str) -> None:
    resources, files, properties = LIMITS[what]
    box = bundle_of(user, *SLEEP)
    box.linux["resources"] = resources
    id = systemd.create(box)
    where = cgroup_of(systemd.pid(id))
    assert {name: (where / name).read_text().strip() for name in files} == files
    assert show(user, where.name, *properties) == properties or not properties
    systemd("delete", "--force", id).ok()
    assert gone(user, where.name)


@needs_systemd
def test_hugetlb_which_systemd_does_not_have(runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(root, flags=("--systemd-cgroup",))
    box = bundle_of(root, *SLEEP)
    box.linux["resources"] = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 * MIB}]}
    id = runtime.create(box)
    where = cgroup_of(runtime.pid(id))
    assert (where / "hugetlb.2MB.max").read_text() == f"{4 * MIB}\n"
    runtime("delete", "--force", id).ok()


@needs_systemd
def test_devices(runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    """What is not in the list cannot be opened, whoever keeps the list; update replaces it."""
    runtime = runtimes_of(root, flags=("--systemd-cgroup",))
    box = bundle_of(root, *SLEEP).writable()
    box.process["capabilities"] = {kind: ["CAP_MKNOD", "CAP_KILL"] for kind in ("bounding", "effective", "permitted")}
    allowed = {"allow": True, "type": "c", "major": 60, "minor": 11, "access": "rm"}
    box.linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}, allowed]}
    id = runtime.start_detached(box)
    told = show(root, f"ctnr-{id}.scope", "DevicePolicy", "DeviceAllow")
    assert told["DevicePolicy"] == "strict" and "/dev/char/60:11 rm" in told["DeviceAllow"]
    # no driver has major 60: the kernel asks for the permission first
    script = (
        "for n in '1 3' '60 4' '60 11'; do rm -f /tmp/d; mknod /tmp/d c $n || exit;"
        " cat /tmp/d 2>&1 | grep -q 'not permitted' || echo $n; done; :"
    )
    assert runtime("exec", id, "sh", "-c", script).out.splitlines() == ["1 3", "60 11"]
    rules = [{"allow": False, "access": "rwm"}, {**allowed, "minor": 4}]
    runtime("update", "--resources", "-", id, stdin=json.dumps({"devices": rules})).ok()
    assert runtime("exec", id, "sh", "-c", script).out.splitlines() == ["1 3", "60 4"]
    systemctl(root, "daemon-reload")
    assert runtime("exec", id, "sh", "-c", script).out.splitlines() == ["1 3", "60 4"]
    runtime.stop(id)


# --- names


@needs_systemd
@pytest.mark.parametrize(
    ("path", "end"),
    [
        ("", "{default}/ctnr-{id}.scope"),
        ("::{id}", "{default}/-{id}.scope"),
        (":pre:{id}", "{default}/pre-{id}.scope"),
        ("machine.slice:libpod:{id}", "/machine.slice/libpod-{id}.scope"),
        ("ct-a-b.slice:x:{id}", "/ct.slice/ct-a.slice/ct-a-b.slice/x-{id}.scope"),
        ("-.slice:x:{id}", "/x-{id}.scope"),
    ],
)
def test_cgroups_path(systemd: Runtime, user: User, bundle_of: MakeBundle, path: str, end: str) -> None:
    id = new_id()
    box = bundle_of(user, *SLEEP)
    box.linux["cgroupsPath"] = path.format(id=id)
    systemd.create(box, id=id)
    where = cgroup_of(systemd.pid(id))
    default = "/user.slice" if user.rootless else "/system.slice"
    top = show(user, "", "ControlGroup")["ControlGroup"].rstrip("/") if user.rootless else ""
    assert str(where) == machine.cgroup_mounts()[""] + top + end.format(id=id, default=default)
    systemd("start", id).ok()
    systemd.stop(id)
    assert gone(user, where.name)


@needs_systemd
def test_a_name_that_is_taken(systemd: Runtime, user: User, bundle_of: MakeBundle) -> None:
    """The other container goes on, with its limits."""
    name = new_id()
    box, other = bundle_of(user, *SLEEP), bundle_of(user, *SLEEP)
    box.linux["cgroupsPath"] = other.linux["cgroupsPath"] = f":x:{name}"
    box.linux["resources"] = {"pids": {"limit": 33}}
    id = systemd.start_detached(box)
    pid = systemd.pid(id)
    done = systemd.run(other)
    assert done.code == 1 and f"x-{name}.scope" in done.error_line and "already" in done.error_line
    assert systemd.ids() == [id] and systemd.status(id) == "running"
    assert (cgroup_of(pid) / "pids.max").read_text() == "33\n"
    systemd.stop(id)


@needs_systemd
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cgroupsPath": "/a/b"}, "linux.cgroupsPath"),
        ({"cgroupsPath": "a.slice:x:../../y"}, "linux.cgroupsPath"),
        ({"cgroupsPath": "../a.slice:x:y"}, "linux.cgroupsPath"),
        ({"cgroupsPath": "a:x:y"}, "linux.cgroupsPath"),
        ({"cgroupsPath": "a--b.slice:x:y"}, "linux.cgroupsPath"),
        ({"cgroupsPath": "a.slice:x:y.slice"}, "linux.cgroupsPath"),
        ({"resources": {"unified": {"no.such": "1"}}}, "linux.resources.unified"),
        ({"resources": {"cpu": {"cpus": "4000"}}}, "linux.resources.cpu.cpus"),
        ({"resources": {"memory": {"swappiness": 3}}}, "linux.resources.memory.swappiness"),
        ({"annotations": {"org.systemd.property.Slice": "'a.slice'"}}, "org.systemd.property.Slice"),
        ({"annotations": {"org.systemd.property.TimeoutStopUSec": "uint64"}}, "org.systemd.property.TimeoutStopUSec"),
        ({"annotations": {"org.systemd.property.NoSuchThing": "1"}}, "NoSuchThing"),
        ({"annotations": {"run.oci.systemd.subgroup": "../x"}}, "run.oci.systemd.subgroup"),
        ({"annotations": {"run.oci.delegate-cgroup": "a/../../x"}}, "run.oci.delegate-cgroup"),
    ],
)
def test_refused(systemd: Runtime, user: User, bundle_of: MakeBundle, change: dict[str, Any], field: str) -> None:
    box = bundle_of(user, "/bin/true")
    for name, value in change.items():
        (box.config if name == "annotations" else box.linux)[name] = value
    done = systemd.run(box)
    assert done.code == 1
    assert field in done.error_line, done.err
    assert systemd.ids() == []


# --- annotations


@needs_systemd
def test_properties(systemd: Runtime, user: User, bundle_of: MakeBundle) -> None:
    box = bundle_of(user, *SLEEP)
    box.config["annotations"] = {
        "org.systemd.property.TimeoutStopUSec": "uint64 123456789",
        "org.systemd.property.RuntimeMaxSec": "3600",
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.Description": "'a box'",
        "org.systemd.property.After": "['basic.target', 'sockets.target']",
        "org.systemd.property.SendSIGHUP": "true",
    }
    id = systemd.create(box)
    told = show(user, f"ctnr-{id}.scope", "TimeoutStopUSec", "RuntimeMaxUSec", "Description", "After", "SendSIGHUP")
    assert told["TimeoutStopUSec"] == "2min 3.456789s" and told["RuntimeMaxUSec"] == "1h"
    assert told["Description"] == "a box" and told["SendSIGHUP"] == "yes"
    assert {"basic.target", "sockets.target"} <= set(told["After"].split())
    systemd("delete", "--force", id).ok()


@needs_systemd
@pytest.mark.parametrize("manager", ["systemd", "cgroupfs"])
def test_cgroups_below(runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle, manager: str) -> None:
    """crun's annotations: the processes are further down, the limits are not."""
    runtime = runtimes_of(root, flags=("--cgroup-manager", manager))
    box = bundle_of(root, *SLEEP)
    box.config["annotations"] = {"run.oci.systemd.subgroup": "container", "run.oci.delegate-cgroup": "to/you"}
    box.linux["resources"] = {"pids": {"limit": 50}}
    id = runtime.start_detached(box)
    inner = "/container/to/you" if manager == "systemd" else "/to/you"
    where = cgroup_of(runtime.pid(id))
    assert str(where).endswith(inner)
    top = Path(str(where).removesuffix(inner))
    assert (top / "pids.max").read_text() == "50\n" and (where / "pids.max").read_text() == "max\n"
    assert runtime("exec", id, "cat", "/proc/self/cgroup").out == "0::/\n"
    runtime("pause", id).ok()
    assert (top / "cgroup.freeze").read_text() == "1\n"
    runtime("resume", id).ok()
    runtime.stop(id)
    assert not top.exists()


@needs_systemd
def test_owner(systemd: Runtime, user: User, bundle_of: MakeBundle) -> None:
    """config-linux.md#cgroup-ownership: whoever is in a user namespace can make cgroups in its own."""
    box = bundle_of(user, *SLEEP).writable()
    box.config["mounts"] = [m for m in box.config["mounts"] if m["destination"] not in ("/sys", "/sys/fs/cgroup")]
    box.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "nodev", "noexec", "rw")
    box.namespace("cgroup")
    owner = user.uid
    if not user.rootless:
        box.namespace("user")
        rootfs.give(box.root, 300000, 300000)
        for kind in ("uid", "gid"):
            box.linux[f"{kind}Mappings"] = [{"containerID": 0, "hostID": 300000, "size": 65536}]
        box.process["user"] = {"uid": 5, "gid": 5}
        owner = 300005
    id = systemd.start_detached(box)
    where = cgroup_of(systemd.pid(id))
    assert os.stat(where).st_uid == os.stat(where / "cgroup.procs").st_uid == owner
    assert os.stat(where / "memory.max").st_uid == user.uid
    assert systemd("exec", id, "mkdir", "/sys/fs/cgroup/mine").code == 0
    assert (where / "mine").is_dir()
    systemd.stop(id)
    assert gone(user, where.name)


# --- from where a user starts, and whatever is killed when


@needs_systemd
def test_from_below_the_users_manager(runtimes_of: MakeRuntime, rootless_user: User, bundle_of: MakeBundle) -> None:
    """As in a terminal of a desktop: the runtime is in the user's own part of the tree, new processes join by themselves."""
    if os.getuid() != 0:
        pytest.skip("not applicable: already there, or not")
    user = rootless_user
    runtime = runtimes_of(user, flags=("--systemd-cgroup",))
    box = bundle_of(user, *SLEEP)
    id = runtime.start_detached(box)
    script = ["systemd-run", "--user", "--quiet", "--collect", "--wait", "--pipe", f"--unit={new_id()}"]
    found = call([*script, *runtime.argv("exec", id, "cat", "/proc/self/cgroup")], user)
    assert found.out == "0::/\n", found.err
    runtime.stop(id)


@needs_systemd
def test_kill_minus_nine(systemd: Runtime, user: User, bundle_of: MakeBundle) -> None:
    """Killed at any message to systemd or to the init, create leaves what delete --force removes, and the name works again."""
    [strace] = machine.need("strace")
    if user.kind == ONE_ID:
        pytest.skip("not applicable: as the other user")
    box = bundle_of(user, *SLEEP)
    box.save()
    id = new_id()
    killed = 0
    for n in range(1, 40):
        flags = ["-qqq", "-o", "/dev/null", "-e", f"inject=sendmsg:signal=KILL:when={n}"]
        argv = [strace, *flags, *systemd.argv("create", "--bundle", str(box.path), id)]
        process = popen(argv, user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.wait(60)
        finished(process)
        if process.returncode == 0:
            break
        killed += 1
        systemd("delete", "--force", id)
        assert systemd.ids() == []
        assert gone(user, f"ctnr-{id}.scope"), n
    assert killed >= 4
    systemd("start", id).ok()
    # and delete
    for n in range(1, 40):
        flags = ["-qqq", "-o", "/dev/null", "-e", f"inject=sendmsg:signal=KILL:when={n}"]
        argv = [strace, *flags, *systemd.argv("delete", "--force", id)]
        process = popen(argv, user, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        process.wait(60)
        finished(process)
        if process.returncode == 0:
            break
    assert systemd.ids() == []
    assert gone(user, f"ctnr-{id}.scope")


@needs_systemd
def test_a_failed_unit_of_the_same_name(runtimes_of: MakeRuntime, root: User, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(root, flags=("--systemd-cgroup",))
    id = new_id()
    scope = [
        "systemd-run",
        "--quiet",
        "--scope",
        f"--unit=ctnr-{id}.scope",
        "--property=RuntimeMaxSec=1",
        "sleep",
        "60",
    ]
    call(scope, root)
    assert show(root, f"ctnr-{id}.scope", "ActiveState") == {"ActiveState": "failed"}
    box = bundle_of(root, *SLEEP)
    runtime.create(box, id=id)
    runtime("delete", "--force", id).ok()
    assert gone(root, f"ctnr-{id}.scope")


@needs_systemd
def test_out_of_memory(systemd: Runtime, user: User, bundle_of: MakeBundle) -> None:
    """The kernel kills; the scope is gone afterwards, not failed."""
    box = bundle_of(user, "sh", "-c", "head -c 200M /dev/zero | tail; echo $?")
    box.linux["resources"] = {"memory": {"limit": 32 * MIB, "swap": 32 * MIB}}
    id = new_id()
    systemd.run(box, id=id)
    assert gone(user, f"ctnr-{id}.scope")


@needs_systemd
def test_features_say_so(systemd: Runtime) -> None:
    cgroup = systemd("features").json()["linux"]["cgroup"]
    assert cgroup["systemd"] is True and cgroup["systemdUser"] is True


def test_the_machine_has_what_these_tests_want() -> None:
    """Not a test of ours, but of `make test-vm`."""
    if not BOOTED:
        pytest.skip("not applicable: this machine is not run by systemd (make test-vm)")
    assert machine.cgroup_mode() == "v2"
    version = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, check=True).stdout
    assert re.match(r"systemd \d+", version)
