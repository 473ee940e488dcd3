# SPDX-License-Identifier: Apache-2.0
"""Fields whose evidence takes more than one run of the payload: what exec inherits, what the kernel refuses, user namespaces."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from support import machine
from support.bundles import RANGE, Bundle, MakeBundle, new_id
from support.runtimes import MakeRuntime, Runtime, parse_probe
from support.users import User

Json = dict[str, Any]


def in_user_namespace(box: Bundle) -> None:
    """As root, with ids of nobody's."""
    box.namespace("user")
    for kind in ("uid", "gid"):
        box.linux[f"{kind}Mappings"] = [{"containerID": 0, "hostID": 100000, "size": RANGE}]
    for path in (box.root, *box.root.rglob("*")):
        os.chown(path, 100000, 100000, follow_symlinks=False)


# ---------------------------------------------------------------- execCPUAffinity


@pytest.fixture
def cpus() -> list[int]:
    found = sorted(os.sched_getaffinity(0))
    if len(found) < 2:
        pytest.skip("not applicable: there is one CPU only")
    return found


def asked(runtime: Runtime, id: str, process: Json, *asks: str) -> Json:
    found: Json = parse_probe(runtime.exec(id, {**process, "args": ["/probe", *asks]}).ok().out)["asked"]
    return found


@pytest.mark.parametrize(
    ("affinity", "seen"),
    [
        ({"initial": "{0}", "final": "{1}"}, [1]),
        ({"final": "{1}"}, [1]),
        # the initial one is what the process starts with, and nobody changes it afterwards
        ({"initial": "{1}"}, [1]),
        ({"initial": "{0}", "final": "{0},{1}"}, [0, 1]),
    ],
)
def test_exec_affinity(
    affinity: dict[str, str], seen: list[int], cpus: list[int], runtime: Runtime, bundle: MakeBundle
) -> None:
    box = bundle("/probe", "--wait")
    wanted = {name: text.format(*cpus) for name, text in affinity.items()}
    id = runtime.start_detached(box)
    process = {**box.process, "execCPUAffinity": wanted}
    assert asked(runtime, id, process, "self:cpus")["self:cpus"] == [cpus[i] for i in seen]
    runtime.stop(id)


def test_exec_inherits_the_affinity_of_the_config_and_the_first_process_has_none(
    cpus: list[int], runtime: Runtime, user: User, bundle_of: MakeBundle
) -> None:
    box = bundle_of(user, "/probe", "--wait")
    box.process["execCPUAffinity"] = {"final": str(cpus[1])}
    id = runtime.start_detached(box)
    assert os.sched_getaffinity(runtime.pid(id)) == set(cpus)
    plain = {name: value for name, value in box.process.items() if name != "execCPUAffinity"}
    assert asked(runtime, id, plain, "self:cpus")["self:cpus"] == [cpus[1]]
    assert parse_probe(runtime("exec", id, "/probe", "self:cpus").ok().out)["asked"]["self:cpus"] == [cpus[1]]
    runtime.stop(id)


def test_what_the_runtime_is_pinned_to_is_not_the_containers(
    cpus: list[int], runtime: Runtime, bundle: MakeBundle
) -> None:
    """As with runc and crun: else a container of a pinned daemon would never leave that CPU."""
    box = bundle("/probe", "--wait")
    os.sched_setaffinity(0, {cpus[0]})
    try:
        id = runtime.start_detached(box)
        seen = asked(runtime, id, box.process, "self:cpus")["self:cpus"]
    finally:
        os.sched_setaffinity(0, set(cpus))
    assert os.sched_getaffinity(runtime.pid(id)) == set(cpus)
    assert seen == cpus
    runtime.stop(id)


def test_an_affinity_that_is_nowhere(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    id = runtime.start_detached(box)
    for name in ("initial", "final"):
        process = {**box.process, "args": ["/probe"], "execCPUAffinity": {name: "8000"}}
        done = runtime.exec(id, process)
        assert done.code == 255
        assert f"process.execCPUAffinity.{name}: run on CPUs 8000: invalid argument" in done.error_line
    runtime.stop(id)


# ---------------------------------------------------------------- inherited, or not


def test_exec_is_scheduled_like_the_config_unless_it_says_otherwise(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    box.process["scheduler"] = {"policy": "SCHED_BATCH", "nice": 5}
    box.process["ioPriority"] = {"class": "IOPRIO_CLASS_BE", "priority": 6}
    box.linux["memoryPolicy"] = {"mode": "MPOL_BIND", "nodes": "0"}
    box.linux["personality"] = {"domain": "LINUX32"}
    box.process["user"]["umask"] = 0o027
    id = runtime.start_detached(box)
    silent = {name: box.process[name] for name in ("cwd", "env", "capabilities")}
    silent["user"] = {"uid": 0, "gid": 0}
    asks = ("self:scheduler", "self:ioprio", "self:mempolicy")
    seen = parse_probe(runtime.exec(id, {**silent, "args": ["/probe", *asks]}).ok().out)
    assert seen["asked"]["self:scheduler"][:3] == [3, 0, 5]
    assert seen["asked"]["self:ioprio"] == [2, 6]
    assert seen["asked"]["self:mempolicy"] == [2, 0, [0]]
    assert seen["personality"] == 8
    assert seen["umask"] == 0o027
    own = {"scheduler": {"policy": "SCHED_IDLE"}, "ioPriority": {"class": "IOPRIO_CLASS_IDLE", "priority": 0}}
    seen = parse_probe(runtime.exec(id, {**silent, **own, "args": ["/probe", *asks]}).ok().out)
    assert seen["asked"]["self:scheduler"][0] == 5
    assert seen["asked"]["self:ioprio"] == [3, 0]
    runtime.stop(id)


# ---------------------------------------------------------------- what takes privileges


def test_in_roots_user_namespace_the_runtime_schedules(
    root_runtime: Runtime, root: User, bundle_of: MakeBundle
) -> None:
    """The container's root may do neither itself."""
    box = bundle_of(root, "/probe", "--wait")
    in_user_namespace(box)
    box.process["scheduler"] = {"policy": "SCHED_OTHER", "nice": -4, "flags": ["SCHED_FLAG_RESET_ON_FORK"]}
    box.process["ioPriority"] = {"class": "IOPRIO_CLASS_RT", "priority": 2}
    box.process["user"] = {"uid": 7, "gid": 8}
    box.process["args"] = ["/probe", "self:scheduler", "self:ioprio"]
    seen = parse_probe(root_runtime.run(box).ok().out)
    assert seen["uids"] == [7] * 3
    assert seen["asked"]["self:scheduler"][:3] == [0, 1, -4]
    assert seen["asked"]["self:ioprio"] == [1, 2]
    process = dict(box.process)
    box.process.update(args=["/probe", "--wait"])
    id = root_runtime.start_detached(box)
    for document in (process, {k: v for k, v in process.items() if k not in ("scheduler", "ioPriority")}):
        assert asked(root_runtime, id, document, "self:scheduler")["self:scheduler"][:3] == [0, 1, -4]
    root_runtime.stop(id)


REFUSED = {
    "process.scheduler: be scheduled as SCHED_FIFO priority 5": {"scheduler": {"policy": "SCHED_FIFO", "priority": 5}},
    "process.scheduler: be scheduled as SCHED_RR priority 1": {"scheduler": {"policy": "SCHED_RR", "priority": 1}},
    "process.scheduler: be scheduled as SCHED_OTHER nice -1": {"scheduler": {"policy": "SCHED_OTHER", "nice": -1}},
    "process.scheduler: be scheduled as SCHED_DEADLINE runtime 1000000 deadline 9000000": {
        "scheduler": {"policy": "SCHED_DEADLINE", "runtime": 1000000, "deadline": 9000000}
    },
    "process.ioPriority: set the I/O priority IOPRIO_CLASS_RT 0": {
        "ioPriority": {"class": "IOPRIO_CLASS_RT", "priority": 0}
    },
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_users_may_not(words: str, rootless_user: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle) -> None:
    runtime = runtimes_of(rootless_user)
    box = bundle_of(rootless_user, "/probe")
    box.process.update(REFUSED[words])
    done = runtime.quiet("run", "--bundle", str(box.save().path), new_id())
    assert done.code == 1
    assert words in done.error_line and os.strerror(errno.EPERM).lower() in done.error_line, done
    assert runtime.ids() == []


def test_realtime_or_the_kernels_no(root_runtime: Runtime, root: User, bundle_of: MakeBundle) -> None:
    """In a cgroup of its own it takes a share of the machine's real time (cpu.rt_runtime_us), which nobody has given it."""
    machine.need_root()
    for policy, number in (("SCHED_FIFO", 1), ("SCHED_RR", 2)):
        box = bundle_of(root, "/probe", "self:scheduler")
        box.process["scheduler"] = {"policy": policy, "priority": 9}
        done = root_runtime.run(box)
        if done.code == 0:
            assert parse_probe(done.out)["asked"]["self:scheduler"][:4] == [number, 0, 0, 9]
        else:
            wanted = f"process.scheduler: be scheduled as {policy} priority 9: operation not permitted"
            assert wanted in done.error_line
        assert root_runtime.ids() == []


# ---------------------------------------------------------------- keyrings


def test_exec_shares_the_keyring(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe", "--wait")
    id = runtime.start_detached(box)
    first, second = (parse_probe(runtime("exec", id, "/probe", "self:keyring").ok().out) for _ in range(2))
    assert first["keyring"] == second["keyring"]
    assert first["asked"]["self:keyring"].endswith(f";_ses.{id}")
    runtime.stop(id)


def test_another_container_has_another_keyring(runtime: Runtime, bundle: MakeBundle) -> None:
    seen = {runtime.probe(bundle())["keyring"] for _ in range(2)}
    assert len(seen) == 2


def test_no_new_keyring(runtime: Runtime, bundle: MakeBundle) -> None:
    """Neither for the first process nor for those exec'd later: they are with whatever their callers have."""
    box = bundle("/probe", "--wait")
    id = runtime.start_detached(box, "--no-new-keyring")
    seen = parse_probe(runtime("exec", id, "/probe", "self:keyring").ok().out)
    assert f"_ses.{id}" not in str(seen["asked"]["self:keyring"])
    runtime.stop(id)


# ---------------------------------------------------------------- AppArmor and SELinux


@pytest.fixture
def no_lsm() -> None:
    from ctnr.runtime import lsm

    if lsm.apparmor_enabled() or lsm.selinux_enabled():
        pytest.skip("not applicable: AppArmor or SELinux is enabled here")


LSM = {
    "process.apparmorProfile: AppArmor is not enabled on this host": ("process", "apparmorProfile", "--apparmor"),
    "process.selinuxLabel: selinux label is specified in config, but selinux is disabled or not supported": (
        "process",
        "selinuxLabel",
        "--process-label",
    ),
    "linux.mountLabel: SELinux is not enabled on this host": ("linux", "mountLabel", ""),
}


@pytest.mark.parametrize("words", LSM)
def test_security_modules_that_the_host_has_not(words: str, no_lsm: None, runtime: Runtime, bundle: MakeBundle) -> None:
    section, name, option = LSM[words]
    box = bundle("/probe")
    box.config[section][name] = "u:r:t:s0"
    done = runtime.run(box)
    assert done.code == 1 and words in done.error_line
    assert runtime.ids() == []
    if not option:
        return
    box = bundle("/probe", "--wait")
    id = runtime.start_detached(box)
    done = runtime("exec", option, "u:r:t:s0", id, "/probe")
    assert done.code == 255 and words in done.error_line
    runtime.stop(id)
