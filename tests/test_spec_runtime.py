# SPDX-License-Identifier: Apache-2.0
"""ctnr.spec.runtime: what passes, what does not, and that the error names the culprit."""

from __future__ import annotations

import copy
import json
import sys
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_sample import MAPS, change, full, json_path, parent, walk

from ctnr.errors import SpecError
from ctnr.spec import runtime, types
from ctnr.spec.process import check_process, number_list

DATA = Path(__file__).parent / "data" / "configs"
FULL_WARNINGS = [
    "linux.resources.memory.kernel: Kernel memory settings are ignored and will be removed",
    "linux.resources.memory.kernelTCP: Kernel memory settings are ignored and will be removed",
]
MINIMAL: dict[str, Any] = {"ociVersion": "1.0.0", "root": {"path": "rootfs"}}


def refused(config: Any) -> SpecError:
    with pytest.raises(SpecError) as e:
        runtime.validate(config)
    assert str(e.value) == (f"{e.value.path}: {e.value.why}" if e.value.path else e.value.why)
    assert str(e.value).isprintable()
    return e.value


# --- what passes


def test_the_sample_passes_unchanged() -> None:
    config = full()
    assert runtime.validate(config) == FULL_WARNINGS
    assert config == full()


def test_the_sample_has_every_field_that_the_types_have() -> None:
    """So that the tests below, which walk it, leave nothing out."""

    def compare(kind: Any, value: Any, where: str) -> None:
        if typing.is_typeddict(kind):
            hints = typing.get_type_hints(kind)
            # Windows' alone
            missing = set(hints) - set(value) - {"username", "commandLine"}
            assert not missing, f"{where} lacks {missing}"
            assert not set(value) - set(hints), f"{where} has what {kind.__name__} has not"
            for name in value:
                compare(hints[name], value[name], f"{where}.{name}")
        elif typing.get_origin(kind) is list:
            if value:
                compare(typing.get_args(kind)[0], value[0], where + "[0]")
        elif typing.get_origin(kind) is dict:
            compare(typing.get_args(kind)[1], next(iter(value.values())), where + "[]")

    sample = full()
    # the fullest entry first
    sample["mounts"] = sample["mounts"][1:2]
    sample["linux"]["resources"]["devices"].reverse()
    compare(types.Config, sample, "config")


@pytest.mark.parametrize("path", sorted(DATA.glob("*.json")), ids=lambda p: p.stem)
def test_what_others_write_passes(path: Path) -> None:
    """As runc spec, crun spec, podman, buildah and containerd's ctr wrote them."""
    if path.stem == "podman-exec":
        assert check_process(json.loads(path.read_bytes())) == []
        return
    config = runtime.parse(path.read_bytes())
    assert runtime.validate(config) == []
    again = copy.deepcopy(config)
    assert runtime.validate(again) == []
    assert again == config


def test_minimal() -> None:
    assert runtime.validate(copy.deepcopy(MINIMAL)) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "version",
    ["1.0.0", "1.0.2-dev", "1.0.0-rc5-dev", "1.3.0", "1.2.1+dev", "1.99.0", "1.0.0-0.a-b.x", "1.0.0--", "1.1.0+001"],
)
def test_versions(version: str) -> None:
    assert runtime.validate({**MINIMAL, "ociVersion": version}) == []  # type: ignore[typeddict-item]


@pytest.mark.parametrize(
    "version",
    ["1", "1.0", "1.0.0.0", "v1.0.0", "1.0.0-", "1.0.0+", "1.0.0-a..b", "01.0.0", "1.00.0", "1.0.0-01", "1.0.x"]
    + ["1.0.0 ", " 1.0.0", "1.0.0-é", "1.٠.0", "1..0", "-1.0.0", "1.0.0-a+b+c"],
)
def test_no_versions(version: str) -> None:
    e = refused({**MINIMAL, "ociVersion": version})
    assert e.path == "ociVersion" and e.why.startswith("must be a version like 1.3.0, not ")


@pytest.mark.parametrize("version", ["0.5.0-dev", "2.0.0", "10.0.0"])
def test_other_versions(version: str) -> None:
    e = refused({**MINIMAL, "ociVersion": version})
    assert str(e) == f'ociVersion: "{version}" is not supported: only version 1 of the runtime-spec is'


def test_unknown_properties_are_ignored() -> None:
    """config.md#extensibility. Everywhere but in hooks, where a kind nobody runs would be a hook lost."""
    config = full()
    for _, value in [((), config), *walk(config)]:
        if isinstance(value, dict):
            value["someNewThing"] = {"any": ["thing", None]}
    del config["hooks"]["someNewThing"]
    for name in MAPS:
        (config if name == "annotations" else config["linux"].get("resources") or {}).get(name, {}).pop(
            "someNewThing", None
        )
        config["linux"].get(name, {}).pop("someNewThing", None)
    expected = copy.deepcopy(config)
    assert runtime.validate(config) == FULL_WARNINGS  # type: ignore[arg-type]
    assert config == expected


# --- the shape: every value of the sample, in turn

ALL = [steps for steps, _ in walk(full())]


def _wrong(value: Any) -> tuple[Any, str]:
    """Something of another type than `value`, and how the error calls it."""
    if isinstance(value, (dict, list)):
        return "wrong", 'the string "wrong"'
    if isinstance(value, bool):
        return 1, "1"
    if isinstance(value, int):
        return True, "true"
    return ["wrong"], "an array"


_WANTED = {dict: "an object", list: "an array", bool: "true or false", int: "an integer", str: "a string"}


def test_a_wrong_type_is_an_error_that_names_the_field() -> None:
    for steps in ALL:
        config = full()
        where = parent(config, steps)
        wanted = _WANTED[type(where[steps[-1]])]
        where[steps[-1]], found = _wrong(where[steps[-1]])
        assert str(refused(config)) == f"{json_path(steps)}: must be {wanted}, not {found}"


REQUIRED = {
    "ociVersion",
    "root",
    "root.path",
    "process.cwd",
    "process.args",
    "process.user.uid",
    "process.user.gid",
    "process.consoleSize.height",
    "process.consoleSize.width",
    "process.scheduler.policy",
    "process.ioPriority.class",
    "linux.seccomp.defaultAction",
    "linux.memoryPolicy.mode",
    "linux.personality.domain",
    "linux.resources.network.priorities[0].name",
    "linux.resources.network.priorities[0].priority",
    "linux.resources.blockIO.weightDevice[0].major",
    "linux.resources.blockIO.weightDevice[0].minor",
    "linux.devices[0].type",
    "linux.devices[0].path",
    "linux.devices[0].major",
    "linux.devices[0].minor",
    "linux.devices[1].type",
    "linux.devices[1].path",
    "linux.seccomp.syscalls[0].names",
    "linux.seccomp.syscalls[0].action",
    "linux.seccomp.syscalls[1].names",
    "linux.seccomp.syscalls[1].action",
    "linux.seccomp.syscalls[0].args[0].index",
    "linux.seccomp.syscalls[0].args[0].value",
    "linux.seccomp.syscalls[0].args[0].op",
    *(f"mounts[{i}].destination" for i in range(3)),
    *(
        f"{where}Mappings[{i}].{name}"
        for where, count in (("mounts[1].uid", 1), ("mounts[1].gid", 1), ("linux.uid", 2), ("linux.gid", 1))
        for i in range(count)
        for name in ("containerID", "hostID", "size")
    ),
    *(f"process.rlimits[{i}].{name}" for i in range(2) for name in ("type", "soft", "hard")),
    *(f"hooks.{kind}[0].path" for kind in full()["hooks"]),
    *(f"linux.namespaces[{i}].type" for i in range(8)),
    *(f"linux.resources.devices[{i}].allow" for i in range(2)),
    *(f"linux.resources.hugepageLimits[{i}].{name}" for i in range(2) for name in ("pageSize", "limit")),
    *(
        f"linux.resources.blockIO.throttle{kind}Device[0].{name}"
        for kind in ("ReadBps", "WriteBps", "ReadIOPS", "WriteIOPS")
        for name in ("major", "minor", "rate")
    ),
}

MEMBERS = [steps for steps in ALL if isinstance(steps[-1], str)]
STRINGS = [steps for steps, value in walk(full()) if isinstance(value, str)]
# other fields need these; what happens without them has its own tests
NEEDED = {
    "linux",
    "linux.namespaces",
    "linux.uidMappings",
    "linux.gidMappings",
    "linux.seccomp.listenerPath",
    "linux.memoryPolicy.nodes",
    "mounts[0].type",
    "mounts[1].source",
    "mounts[1].uidMappings",
    "mounts[1].gidMappings",
    "mounts[2].type",
}


@pytest.mark.parametrize("how", ["null", "absent"])
def test_null_is_absent(how: str) -> None:
    """Go writes null for a nil slice or pointer."""
    for steps in MEMBERS:
        config, without = full(), full()
        del parent(without, steps)[steps[-1]]
        if how == "null":
            parent(config, steps)[steps[-1]] = None
        else:
            del parent(config, steps)[steps[-1]]
        path = json_path(steps)
        if path in REQUIRED:
            e = refused(config)
            assert e.path == path
            assert e.why in ("is required", "must hold at least the program to run")
        elif path in NEEDED:
            refused(config)
        else:
            runtime.validate(config)  # type: ignore[arg-type]
            assert config == without, path


def test_an_empty_optional_string_is_absent() -> None:
    """Go cannot tell the two apart."""
    for steps in STRINGS:
        if isinstance(steps[-1], int):
            continue
        config, without = full(), full()
        parent(config, steps)[steps[-1]] = ""
        del parent(without, steps)[steps[-1]]
        path = json_path(steps)
        if path in REQUIRED:
            assert refused(config).path == path
        elif path in NEEDED:
            refused(config)
        elif len(steps) > 1 and steps[-2] in MAPS:
            runtime.validate(config)  # type: ignore[arg-type]
            assert parent(config, steps)[steps[-1]] == "", path
        else:
            runtime.validate(config)  # type: ignore[arg-type]
            assert config == without, path


def test_null_in_an_array_or_map() -> None:
    for steps in ALL:
        if isinstance(steps[-1], int):
            config = full()
            parent(config, steps)[steps[-1]] = None
            e = refused(config)
            assert e.path == json_path(steps) and e.why.endswith(", not null")
        elif len(steps) > 1 and steps[-2] in MAPS:
            config = full()
            parent(config, steps)[steps[-1]] = None
            runtime.validate(config)  # type: ignore[arg-type]
            assert steps[-1] not in parent(config, steps)


@pytest.mark.parametrize(("bad", "why"), [("\0", "must not contain a NUL byte"), ("\ud800", "is not valid Unicode")])
def test_no_string_that_the_kernel_cannot_have(bad: str, why: str) -> None:
    for steps in STRINGS:
        config = full()
        parent(config, steps)[steps[-1]] += bad
        assert str(refused(config)) == f"{json_path(steps)}: {why}"


@pytest.mark.parametrize("name", sorted(MAPS))
@pytest.mark.parametrize(
    ("key", "why"),
    [("a\0", "must not contain a NUL byte"), ("\ud800", "is not valid Unicode"), ("", "a key must not be empty")],
)
def test_map_keys(name: str, key: str, why: str) -> None:
    config = full()
    where = next(value for steps, value in walk(config) if steps[-1] == name)
    where[key] = next(iter(where.values()))
    e = refused(config)
    assert e.path.endswith(f".{name}[{json.dumps(key)}]") or e.path == f"{name}[{json.dumps(key)}]"
    assert e.why == why


def test_a_key_that_is_no_string() -> None:
    """JSON cannot have it; a caller's dict can."""
    e = refused({**MINIMAL, "annotations": {1: "x"}})
    assert str(e) == "annotations: must be a string for each key, not 1"
    e = refused({**MINIMAL, "hooks": {1: []}})
    assert str(e) == 'hooks: unknown hook "1"'


def test_names_that_are_no_unicode_pass() -> None:
    """As os.fsdecode makes them of a path that is no UTF-8."""
    config = full()
    config["root"]["path"] = "/srv/caf\udce9"
    assert runtime.validate(config) == FULL_WARNINGS  # type: ignore[arg-type]


# --- ranges and names

OUT_OF_RANGE = [
    ("process.user.uid", 0, 2**32 - 2),
    ("process.user.gid", 0, 2**32 - 2),
    ("process.user.umask", 0, 0o777),
    ("process.user.additionalGids[1]", 0, 2**32 - 2),
    ("process.consoleSize.height", 0, 65535),
    ("process.consoleSize.width", 0, 65535),
    ("process.rlimits[0].soft", 0, 2**64 - 1),
    ("process.rlimits[1].hard", 0, 2**64 - 1),
    ("process.oomScoreAdj", -1000, 1000),
    ("process.scheduler.nice", -(2**31), 2**31 - 1),
    ("process.scheduler.priority", -(2**31), 2**31 - 1),
    ("process.scheduler.runtime", 0, 2**64 - 1),
    ("process.scheduler.deadline", 0, 2**64 - 1),
    ("process.scheduler.period", 0, 2**64 - 1),
    ("process.ioPriority.priority", 0, 7),
    ("hooks.prestart[0].timeout", 1, 2**31 - 1),
    ("mounts[1].uidMappings[0].hostID", 0, 2**32 - 2),
    ("linux.uidMappings[1].containerID", 0, 2**32 - 2),
    ("linux.uidMappings[1].hostID", 0, 2**32 - 2),
    ("linux.uidMappings[0].size", 1, 2**32 - 1),
    ("linux.devices[0].major", 0, 4095),
    ("linux.devices[0].minor", 0, 2**20 - 1),
    ("linux.devices[0].fileMode", 0, 2**32 - 1),
    ("linux.devices[0].uid", 0, 2**32 - 2),
    ("linux.devices[0].gid", 0, 2**32 - 2),
    ("linux.timeOffsets[monotonic].secs", -(2**63), 2**63 - 1),
    ("linux.timeOffsets[monotonic].nanosecs", 0, 999_999_999),
    ("linux.seccomp.defaultErrnoRet", 0, 65535),
    ("linux.seccomp.syscalls[0].errnoRet", 0, 65535),
    ("linux.seccomp.syscalls[0].args[0].index", 0, 5),
    ("linux.seccomp.syscalls[0].args[0].value", 0, 2**64 - 1),
    ("linux.seccomp.syscalls[0].args[0].valueTwo", 0, 2**64 - 1),
    ("linux.resources.devices[1].major", -1, 4095),
    ("linux.resources.devices[1].minor", -1, 2**20 - 1),
    ("linux.resources.memory.limit", -1, 2**63 - 1),
    ("linux.resources.memory.reservation", -1, 2**63 - 1),
    ("linux.resources.memory.swap", -1, 2**63 - 1),
    ("linux.resources.memory.swappiness", 0, 100),
    ("linux.resources.cpu.shares", 0, 2**64 - 1),
    ("linux.resources.cpu.quota", -(2**63), 2**63 - 1),
    ("linux.resources.cpu.burst", 0, 2**64 - 1),
    ("linux.resources.cpu.period", 0, 2**64 - 1),
    ("linux.resources.cpu.realtimeRuntime", -(2**63), 2**63 - 1),
    ("linux.resources.cpu.realtimePeriod", 0, 2**64 - 1),
    ("linux.resources.cpu.idle", 0, 1),
    ("linux.resources.pids.limit", -1, 2**63 - 1),
    ("linux.resources.blockIO.weight", 0, 65535),
    ("linux.resources.blockIO.weightDevice[0].leafWeight", 0, 65535),
    ("linux.resources.blockIO.throttleReadBpsDevice[0].rate", 0, 2**64 - 1),
    ("linux.resources.hugepageLimits[0].limit", 0, 2**64 - 1),
    ("linux.resources.network.classID", 0, 2**32 - 1),
    ("linux.resources.network.priorities[0].priority", 0, 2**32 - 1),
    ("linux.resources.rdma[mlx5_1].hcaHandles", 0, 2**32 - 1),
]


@pytest.mark.parametrize(("path", "low", "high"), OUT_OF_RANGE)
def test_ranges(path: str, low: int, high: int) -> None:
    why = f"must be from {low} to {high}, not "
    for value in (low - 1, high + 1):
        e = refused(change(full(), path, value))
        assert str(e).replace('["', "[").replace('"]', "]") == f"{path}: {why}{value}"
    for value in (10**5000, -(10**5000)):
        assert refused(change(full(), path, value)).why == why + "a number that large"
    for value in (low, high):
        try:
            runtime.validate(change(full(), path, value))  # type: ignore[arg-type]
        except SpecError as e:
            # another rule may have its say, the range must not
            assert not e.why.startswith(why)
    # a number, but no integer
    e = refused(change(full(), path, 1.0))
    assert e.why == "must be an integer, not 1.0"


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("linux.namespaces[2].type", "namespace type"),
        ("process.rlimits[1].type", "rlimit"),
        ("process.scheduler.policy", "scheduling policy"),
        ("process.scheduler.flags[0]", "scheduling flag"),
        ("process.ioPriority.class", "I/O priority class"),
        ("linux.rootfsPropagation", "mount propagation"),
        ("linux.devices[0].type", "device type"),
        ("linux.resources.devices[1].type", "device type"),
        ("linux.memoryPolicy.mode", "memory policy"),
        ("linux.memoryPolicy.flags[0]", "memory policy flag"),
        ("linux.personality.domain", "personality domain"),
        ("linux.personality.flags[0]", "personality flag"),
        ("linux.seccomp.defaultAction", "seccomp action"),
        ("linux.seccomp.architectures[0]", "seccomp architecture"),
        ("linux.seccomp.flags[0]", "seccomp flag"),
        ("linux.seccomp.syscalls[0].action", "seccomp action"),
        ("linux.seccomp.syscalls[0].args[0].op", "seccomp operator"),
    ],
)
def test_unknown_names(path: str, what: str) -> None:
    for name in ("nonsense", "PID", "ab", "private "):
        assert str(refused(change(full(), path, name))) == f'{path}: unknown {what} "{name}"'


def test_a_name_in_an_error_is_one_short_line() -> None:
    e = refused(change(full(), "linux.namespaces[0].type", "x\n\x1b[31m" + "y" * 10_000))
    assert len(str(e)) < 200


@pytest.mark.parametrize(
    "path",
    ["process.cwd", "linux.namespaces[0].path", "linux.devices[0].path", "linux.maskedPaths[0]"]
    + ["linux.readonlyPaths[0]", *(f"hooks.{kind}[0].path" for kind in full()["hooks"])],
)
def test_absolute_paths(path: str) -> None:
    assert str(refused(change(full(), path, "a/b"))) == f'{path}: must be an absolute path, not "a/b"'


# --- the rules between fields

MAPPING = {"containerID": 0, "hostID": 0, "size": 1}

RULES: list[tuple[dict[str, Any], str]] = [
    # config.md
    ({"root.path": ""}, "root.path: must not be empty"),
    ({"hooks.postmortem": []}, 'hooks: unknown hook "postmortem"'),
    ({"process.args": []}, "process.args: must hold at least the program to run"),
    ({"process.env[1]": "PATH"}, 'process.env[1]: must be NAME=value, not "PATH"'),
    ({"process.env[1]": "=x"}, 'process.env[1]: must be NAME=value, not "=x"'),
    ({"process.env[1]": ""}, 'process.env[1]: must be NAME=value, not ""'),
    ({"hooks.poststop[0].env[0]": "x"}, 'hooks.poststop[0].env[0]: must be NAME=value, not "x"'),
    ({"process.rlimits[1].type": "RLIMIT_CORE"}, 'process.rlimits[1].type: duplicated rlimit "RLIMIT_CORE"'),
    ({"process.rlimits[1].soft": 1025}, "process.rlimits[1].soft: must not be above hard, which is 1024"),
    ({"process.scheduler.priority": 1}, "process.scheduler.priority: can only be specified for SCHED_FIFO or SCHED_RR"),
    (
        {"process.scheduler.policy": "SCHED_BATCH"},
        "process.scheduler.runtime: can only be specified for SCHED_DEADLINE",
    ),
    (
        {"process.scheduler": {"policy": "SCHED_OTHER", "nice": 20}},
        "process.scheduler.nice: must be from -20 to 19, not 20",
    ),
    (
        {"process.scheduler": {"policy": "SCHED_FIFO", "priority": 1, "period": 1}},
        "process.scheduler.period: can only be specified for SCHED_DEADLINE",
    ),
    (
        {"process.execCPUAffinity.initial": "3-1"},
        'process.execCPUAffinity.initial: must be a list like 0-3,7, not "3-1"',
    ),
    ({"process.execCPUAffinity.final": "all"}, 'process.execCPUAffinity.final: must be a list like 0-3,7, not "all"'),
    ({"hostname": "x" * 65}, "hostname: must not be longer than 64 bytes"),
    ({"domainname": "é" * 33}, "domainname: must not be longer than 64 bytes"),
    # mounts
    ({"mounts[0].type": ""}, "mounts[0].type: is required for what is not a bind mount"),
    ({"mounts[1].source": ""}, "mounts[1].source: is required for a bind mount"),
    (
        {"mounts[1].options[1]": "size"},
        'mounts[1].options[1]: unknown mount option "size" for a bind mount',
    ),
    (
        {"mounts[1].options[1]": "x\ny"},
        'mounts[1].options[1]: unknown mount option "x\\ny" for a bind mount',
    ),
    ({"mounts[2].type": "ramfs"}, "mounts[2].options: tmpcopyup is for mounts of type tmpfs"),
    (
        {"mounts[1].options": ["rbind", "tmpcopyup"]},
        "mounts[1].options: tmpcopyup is for mounts of type tmpfs",
    ),
    (
        {"mounts[1].uidMappings": ...},
        "mounts[1].uidMappings: uidMappings and gidMappings must be specified together",
    ),
    (
        {"mounts[1].gidMappings": []},
        "mounts[1].gidMappings: uidMappings and gidMappings must be specified together",
    ),
    (
        {"mounts[1].uidMappings[1]": {"containerID": 5, "hostID": 1000, "size": 1}},
        "mounts[1].uidMappings[1].hostID: the range overlaps one before it",
    ),
    # namespaces
    ({"linux.namespaces[8]": {"type": "uts"}}, 'linux.namespaces[8].type: duplicated namespace "uts"'),
    ({"linux.namespaces[8]": {"type": "pid"}}, 'linux.namespaces[8].type: duplicated namespace "pid"'),
    (
        {"linux.namespaces[5]": ..., "linux.sysctl[user.max_net_namespaces]": ...},
        "linux.uidMappings: user namespace mappings specified, but user namespace isn't enabled in the config",
    ),
    (
        {"linux.namespaces[5]": ..., "linux.sysctl[user.max_net_namespaces]": ..., "linux.uidMappings": []},
        "linux.gidMappings: user namespace mappings specified, but user namespace isn't enabled in the config",
    ),
    ({"linux.gidMappings": ...}, "linux.gidMappings: a user namespace needs both uidMappings and gidMappings"),
    ({"linux.uidMappings": []}, "linux.uidMappings: a user namespace needs both uidMappings and gidMappings"),
    ({"linux.uidMappings[1].hostID": 999}, "linux.uidMappings[1].hostID: the range overlaps one before it"),
    ({"linux.uidMappings[1].containerID": 0}, "linux.uidMappings[1].containerID: the range overlaps one before it"),
    ({"linux.uidMappings[0].size": 2}, "linux.uidMappings[1].containerID: the range overlaps one before it"),
    (
        {"linux.uidMappings[1].size": 2**32 - 1},
        "linux.uidMappings[1].size: goes beyond the last id, 4294967294, from containerID 1",
    ),
    (
        {"linux.gidMappings[0].size": 2**32 - 1},
        "linux.gidMappings[0].size: goes beyond the last id, 4294967294, from hostID 1000",
    ),
    (
        {"linux.uidMappings": [{"containerID": i, "hostID": i, "size": 1} for i in range(341)]},
        "linux.uidMappings: holds 341 ranges, the kernel takes 340",
    ),
    ({"process.user.uid": 65536}, "process.user.uid: 65536 is not mapped in the user namespace"),
    ({"process.user.gid": 32000}, "process.user.gid: 32000 is not mapped in the user namespace"),
    (
        {"process.user.additionalGids[1]": 99999},
        "process.user.additionalGids[1]: 99999 is not mapped in the user namespace",
    ),
    (
        {"process.user": ..., "linux.uidMappings[0]": ...},
        "process.user.uid: 0 is not mapped in the user namespace",
    ),
    ({"linux.namespaces[4]": ...}, "hostname: unable to set hostname without a private UTS namespace"),
    (
        {"linux.namespaces[4]": ..., "hostname": ...},
        "domainname: unable to set domainname without a private UTS namespace",
    ),
    (
        {"linux.namespaces[2]": ...},
        "linux.maskedPaths: unable to restrict sys entries without a private MNT namespace",
    ),
    (
        {"linux.namespaces[2]": ..., "linux.maskedPaths": []},
        "linux.readonlyPaths: unable to restrict sys entries without a private MNT namespace",
    ),
    (
        {"linux.namespaces[1]": ...},
        "linux.netDevices: unable to move network devices without a NET namespace",
    ),
    (
        {"linux.namespaces[7]": ...},
        "linux.timeOffsets: time namespace offsets specified, but time namespace isn't enabled in the config",
    ),
    (
        {"linux.namespaces[7].path": "/proc/1/ns/time"},
        "linux.timeOffsets: time namespace enabled, but both namespace path and time offsets specified"
        " -- you may only provide one",
    ),
    (
        {"linux.timeOffsets[realtime]": {}},
        'linux.timeOffsets["realtime"]: unknown clock: monotonic and boottime are',
    ),
    # devices
    ({"linux.devices[0].major": ...}, "linux.devices[0].major: is required"),
    ({"linux.devices[1].type": "b"}, "linux.devices[1].major: is required"),
    (
        {"linux.netDevices[a/b]": {}},
        'linux.netDevices["a/b"]: invalid network device name "a/b"',
    ),
    (
        {"linux.netDevices[eth0].name": "sixteen_letters_"},
        'linux.netDevices["eth0"]: invalid network device name "sixteen_letters_"',
    ),
    *(
        (
            {"linux.netDevices[eth0].name": name},
            f'linux.netDevices["eth0"]: invalid network device name {json.dumps(name)}',
        )
        for name in (".", "..", "a b", "a:b", "a\tb", "a\nb")
    ),
    # the rest of linux
    ({"linux.intelRdt.closID": ".."}, 'linux.intelRdt.closID: invalid closID ".."'),
    ({"linux.intelRdt.closID": "a/b"}, 'linux.intelRdt.closID: invalid closID "a/b"'),
    ({"linux.intelRdt.memBwSchema": "L3:0"}, 'linux.intelRdt.memBwSchema: must start with "MB:"'),
    ({"linux.intelRdt.memBwSchema": "MB:0\n"}, "linux.intelRdt.memBwSchema: must be one line"),
    ({"linux.intelRdt.l3CacheSchema": "L3:\n"}, "linux.intelRdt.l3CacheSchema: must be one line"),
    ({"linux.intelRdt.schemata[1]": "L3:\nx"}, "linux.intelRdt.schemata[1]: must be one line"),
    (
        {"linux.memoryPolicy.nodes": ""},
        "linux.memoryPolicy.nodes: MPOL_INTERLEAVE requires at least one node but got 0",
    ),
    (
        {"linux.memoryPolicy.mode": "MPOL_LOCAL"},
        "linux.memoryPolicy.nodes: MPOL_LOCAL requires 0 nodes but got 3",
    ),
    ({"linux.memoryPolicy.nodes": "0-x"}, 'linux.memoryPolicy.nodes: must be a list like 0-3,7, not "0-x"'),
]


@pytest.mark.parametrize(("changes", "message"), RULES, ids=[m for _, m in RULES])
def test_rules(changes: dict[str, Any], message: str) -> None:
    config = full()
    for path, value in changes.items():
        change(config, path, value)
    assert str(refused(config)) == message


ALLOWED: list[dict[str, Any]] = [
    {"process": ...},
    {"process.user": ...},
    {"linux.intelRdt.closID": "/"},
    {"linux.rootfsPropagation": "rshared"},
    {"linux.rootfsPropagation": "unbindable"},
    # a joined namespace has its own mappings
    {"linux.namespaces[5].path": "/proc/1/ns/user", "linux.uidMappings": ..., "linux.gidMappings": ...},
    {"linux.namespaces[5].path": "/proc/1/ns/user", "process.user.uid": 4294967294},
    # the runtime's choice
    {"linux.uidMappings": ..., "linux.gidMappings": ...},
    {"mounts[1].uidMappings": ..., "mounts[1].gidMappings": ...},
    {"mounts[1].options": ["bind"]},
    {"mounts[0]": {"destination": "/", "options": ["remount", "ro"]}},
    {"linux.uidMappings": [{"containerID": 0, "hostID": 0, "size": 2**32 - 1}]},
    {"linux.memoryPolicy": {"mode": "MPOL_DEFAULT"}},
    {"linux.memoryPolicy": {"mode": "MPOL_PREFERRED"}},
    {"process.scheduler": {"policy": "SCHED_RR", "priority": 99}},
    {"process.ioPriority": {"class": "IOPRIO_CLASS_IDLE"}},
    {"process.rlimits": [{"type": "RLIMIT_RTTIME", "soft": 5, "hard": 5}]},
    {"hooks": {}},
    {"linux.netDevices[eth0].name": "eth%d"},
    {"windows": {"layerFolders": 7}, "vm": "x"},
]


@pytest.mark.parametrize("changes", ALLOWED, ids=[" ".join(c) for c in ALLOWED])
def test_allowed(changes: dict[str, Any]) -> None:
    config = full()
    for path, value in changes.items():
        change(config, path, value)
    runtime.validate(config)  # type: ignore[arg-type]


def test_idmap_needs_mappings_or_a_user_namespace() -> None:
    mount = {"destination": "/d", "source": "/s", "options": ["bind", "idmap"]}
    e = refused({**MINIMAL, "mounts": [mount]})
    assert str(e) == "mounts[0].options: idmap needs uidMappings and gidMappings or a user namespace"
    mount["uidMappings"] = mount["gidMappings"] = [dict(MAPPING)]
    assert runtime.validate({**MINIMAL, "mounts": [mount]}) == []  # type: ignore[typeddict-item]


# --- what is put into one form, and what is worth a warning


def test_a_file_systems_option_on_a_bind_mount_is_a_warning() -> None:
    config = full()
    change(config, "mounts[1].options[1]", "size=1k")
    warnings = runtime.validate(config)  # type: ignore[arg-type]
    assert 'mounts[1].options: "size=1k" has no effect on a bind mount' in warnings


def test_unknown_capabilities_are_warnings() -> None:
    config = change(full(), "process.capabilities.ambient[1]", "CAP_BOGUS")
    change(config, "process.capabilities.bounding[0]", "kill")
    assert runtime.validate(config)[:2] == [  # type: ignore[arg-type]
        'process.capabilities.bounding[0]: unknown capability "kill" is ignored',
        'process.capabilities.ambient[1]: unknown capability "CAP_BOGUS" is ignored',
    ]


def test_a_relative_destination_is_taken_from_the_root() -> None:
    config = change(full(), "mounts[0].destination", "proc/../x")
    assert runtime.validate(config)[0] == (  # type: ignore[arg-type]
        'mounts[0].destination: relative path "proc/../x" is deprecated, taken from /'
    )
    assert config["mounts"][0]["destination"] == "/proc/../x"


@pytest.mark.parametrize("kind", ["bind", "rbind"])
def test_a_mount_of_type_bind_is_one(kind: str) -> None:
    mount: dict[str, Any] = {"destination": "/d", "source": "/s", "type": kind, "options": ["ro"]}
    warnings = runtime.validate({**MINIMAL, "mounts": [mount]})  # type: ignore[typeddict-item]
    assert warnings == [f'mounts[0].options: neither "bind" nor "rbind" is there, taking the type\'s "{kind}"']
    assert mount["options"] == ["ro", kind]
    mount = {"destination": "/d", "source": "/s", "type": kind, "options": ["bogus"]}
    assert refused({**MINIMAL, "mounts": [mount]}).path == "mounts[0].options[0]"


def test_a_device_mode_loses_its_type() -> None:
    config = change(full(), "linux.devices[0].fileMode", 0o20660)
    runtime.validate(config)  # type: ignore[arg-type]
    assert config["linux"]["devices"][0]["fileMode"] == 0o660


@pytest.mark.parametrize("seccomp", [{}, {"defaultAction": ""}, {"defaultAction": None, "syscalls": None}])
def test_a_seccomp_section_that_says_nothing_is_none(seccomp: Any) -> None:
    """runc does the same: Go callers with an empty struct."""
    config = change(full(), "linux.seccomp", seccomp)
    warnings = runtime.validate(config)  # type: ignore[arg-type]
    assert "linux.seccomp: has no defaultAction and no syscalls, so there is no filter" in warnings
    assert "seccomp" not in config["linux"]


# --- parse


def test_parse() -> None:
    assert runtime.parse(json.dumps(full()).encode()) == full()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "config.json is not JSON: line 1 column 1: expecting value"),
        (b'{"a": 1 "b"}', "config.json is not JSON: line 1 column 9: expecting ',' delimiter"),
        (b"\xff", "config.json is not JSON: line 1 column 1: not UTF-8"),
        (b"null", "config cannot be null"),
        (b"[]", "config.json must hold an object"),
        (b'"x"', "config.json must hold an object"),
    ],
)
def test_parse_errors(data: bytes, message: str) -> None:
    with pytest.raises(SpecError) as e:
        runtime.parse(data)
    assert str(e.value).startswith(message) and e.value.path == ""


@pytest.mark.parametrize("config", [None, [], "x", 1])
def test_validate_of_no_object(config: Any) -> None:
    assert refused(config).why.startswith("must be an object, not ")


# --- number_list


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("", []), ("0", [0]), ("0-3,7", [0, 1, 2, 3, 7]), ("7, 1-1 ,", [1, 7]), ("1,1,0-1", [0, 1]), ("99999", [99999])],
)
def test_number_list(text: str, numbers: list[int]) -> None:
    assert number_list(text, "x") == numbers


@pytest.mark.parametrize("text", ["-", "1-", "-1", "a", "0x1", "1--2", "2-1", "100000", "0-100000", "٣", "1 2", "\n"])
def test_no_number_list(text: str) -> None:
    if text == "\n":
        assert number_list(text, "x") == []
        return
    with pytest.raises(SpecError) as e:
        number_list(text, "x")
    assert e.value.path == "x"


# --- whatever comes

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from([2**31, 2**32 - 1, 2**32, 2**64, -(2**63)])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(
        ["", "/", "\0", "\ud800", "pid", "bind", "rbind", "idmap", "CAP_KILL", "a=b", "1-2", "SCMP_ACT_NOTIFY"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=250)
@given(st.data())
def test_any_change_passes_or_is_a_spec_error(data: st.DataObject) -> None:
    config = full()
    for _ in range(data.draw(st.integers(1, 4))):
        steps = data.draw(st.sampled_from([s for s, _ in walk(config)]))
        where = parent(config, steps)
        what = data.draw(st.sampled_from(["replace", "delete", "copy", "add"]))
        if what == "replace":
            where[steps[-1]] = data.draw(json_values)
        elif what == "delete":
            del where[steps[-1]]
        elif what == "add" and isinstance(where, dict):
            where[data.draw(st.text(max_size=5))] = data.draw(json_values)
        elif isinstance(where, list):
            where.append(copy.deepcopy(where[steps[-1]]))  # type: ignore[index]
        if not config:
            break
    try:
        warnings = runtime.validate(config)  # type: ignore[arg-type]
    except SpecError as e:
        assert str(e).isprintable() and len(str(e)) < 400
        return
    assert all(isinstance(w, str) and w.isprintable() for w in warnings)
    # what has passed is in one form, and passes again
    again = copy.deepcopy(config)
    runtime.validate(again)  # type: ignore[arg-type]
    assert repr(again) == repr(config)


@given(json_values)
def test_any_json_passes_or_is_a_spec_error(value: Any) -> None:
    try:
        runtime.validate(value)
    except SpecError:
        pass


@given(json_values)
def test_any_process_passes_or_is_a_spec_error(value: Any) -> None:
    with pytest.raises(SpecError) as e:
        check_process(value)
    assert e.value.path.startswith("process")


def test_the_hot_modules_load_nothing_dear() -> None:
    import subprocess

    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from ctnr.spec import default, features, resources, runtime, seccomp, sysctl\n"
        "from ctnr import log\n"
        'runtime.validate(runtime.parse(b\'{"ociVersion": "1.0.0", "root": {"path": "x"}}\'))\n'
        "print(*sys.modules)\n"
    )
    root = str(Path(__file__).parent.parent)
    run = [sys.executable, "-I", "-S", "-c", program, root]
    loaded = set(subprocess.run(run, check=True, timeout=60, capture_output=True, text=True).stdout.split())
    bare = set(
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", "import sys; print(*sys.modules)"],
            check=True,
            timeout=60,
            capture_output=True,
            text=True,
        ).stdout.split()
    )
    ours = {name for name in loaded - bare if not (name == "ctnr" or name.startswith("ctnr."))}
    assert ours <= {"__future__", "_json", "errno", "posix", "time"}
