# SPDX-License-Identifier: Apache-2.0
"""`features` says what is so: each of its claims is tried, and what it does not claim is refused (runtime-spec features.md)."""

from __future__ import annotations

import errno
import platform
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import kernel, rootfs
from support.bundles import Bundle, MakeBundle, new_id
from support.kernel import Json, mount_at
from support.runtimes import Runtime, parse_probe
from support.users import User

LATER = ("is not supported by this version", "is not supported yet")
IDS = [{"containerID": 0, "hostID": 0, "size": 65536}]


@pytest.fixture
def claims(runtime: Runtime) -> Json:
    found: Json = runtime("features").ok().json()
    return found


@pytest.fixture
def as_root(user: User) -> None:
    if user.rootless:
        pytest.skip("not applicable: what is claimed is what root can do")


# ---------------------------------------------------------------- mount options

# by the option that asks for it: how mountinfo shows it, of the mount or of its file system
SHOWN = {name: name for name in "ro nosuid nodev noexec noatime nodiratime relatime nosymfollow".split()}
SUPERBLOCK = {name: name for name in "sync dirsync lazytime mand".split()}
UNDONE = {
    "rw": "ro",
    "suid": "nosuid",
    "dev": "nodev",
    "exec": "noexec",
    "atime": "noatime",
    "diratime": "nodiratime",
    "symfollow": "nosymfollow",
    "async": "sync",
    "nolazytime": "lazytime",
}
# nothing in mountinfo tells of them, but they are taken
SILENT = (
    "defaults iversion noiversion silent loud nomand norelatime nostrictatime".split()
)  # what is not asked for is relatime
PROPAGATION = {"shared": "shared", "slave": "", "private": "", "unbindable": "unbindable"}


def _plain(option: str) -> tuple[list[str], Callable[[kernel.Mount], bool]]:
    """Options of a mount that has `option`, and what its line in mountinfo has to be like."""
    if option in SHOWN:
        return [option], lambda m: SHOWN[option] in m.options
    if option in SUPERBLOCK:
        return [option], lambda m: option in m.data
    if option in UNDONE:
        return [UNDONE[option], option], lambda m: not {UNDONE[option]} & (m.options | m.data)
    if option == "strictatime":
        return [option], lambda m: not {"relatime", "noatime"} & m.options
    assert option in SILENT, f"features claims the mount option {option}, which is not known here"
    return [option], lambda m: True


def test_mount_options(as_root: None, claims: Json, runtime: Runtime, bundle: MakeBundle) -> None:
    """One container with a mount for each."""
    box: Bundle = bundle("/probe", "stat:/m/src-nofollow/link", "stat:/link", "read:/m/tmpcopyup/file", "stat:/copied")
    source = box.path / "source"
    source.mkdir()
    (source / "file").write_text("below")
    (box.path / "link").symlink_to("/far/away")
    for name in ("m/tmpcopyup", "m/src-nofollow"):
        (box.root / name).mkdir(parents=True)
    (box.root / "m/tmpcopyup/file").write_text("copied")
    (box.root / "link").symlink_to("/nowhere")
    rootfs.give(source, 0, 0)
    checks: dict[str, Callable[[kernel.Mount], bool]] = {}
    for option in claims["mountOptions"]:
        place = f"/m/{option}"
        if option in ("bind", "rbind"):
            box.mount(place, "", str(source), option)
            checks[option] = lambda m: True
        elif option == "remount":
            box.mount(place, "tmpfs", "tmpfs")
            box.mount(place, "tmpfs", "tmpfs", "remount", "ro")
            checks[option] = lambda m: "ro" in m.options | m.data
        elif option in ("idmap", "ridmap"):
            box.mount(place, "bind", str(source), "bind" if option == "idmap" else "rbind", option)
            box.config["mounts"][-1].update(uidMappings=IDS, gidMappings=IDS)
            checks[option] = lambda m: "idmapped" in m.options
        elif option == "tmpcopyup":
            box.mount(place, "tmpfs", "tmpfs", option)
        elif option == "copy-symlink":
            box.mount("/copied", "bind", str(box.path / "link"), "bind", option)
        elif option == "src-nofollow":
            box.mount(f"{place}/link", "bind", str(box.path / "link"), "bind", option)
        elif option == "dest-nofollow":
            box.mount("/link", "bind", str(source / "file"), "bind", option)
        elif option.removeprefix("r") in PROPAGATION:
            box.mount(place, "tmpfs", "tmpfs", option)
            word = PROPAGATION[option.removeprefix("r")]
            checks[option] = lambda m, word=word: not word or any(p.startswith(word) for p in m.propagation)  # type: ignore[misc]
        elif option.startswith("r") and option not in SHOWN | UNDONE:
            options, checks[option] = _plain(option.removeprefix("r"))
            # "rstrictatime" after a mount's "noatime" and the like: the r of each
            box.mount(place, "bind", str(source), "rbind", *("r" + each for each in options))
        else:
            options, checks[option] = _plain(option)
            box.mount(place, "tmpfs", "tmpfs", *options)
    done = runtime.run(box).ok()
    assert not done.err, done.err
    probe = parse_probe(done.out)
    wrong = [option for option, holds in checks.items() if not holds(mount_at(probe, f"/m/{option}"))]
    assert wrong == []
    asked = probe["asked"]
    assert asked["stat:/m/src-nofollow/link"]["target"] == asked["stat:/copied"]["target"] == "/far/away"
    assert asked["stat:/link"]["type"] == "file"
    assert asked["read:/m/tmpcopyup/file"] == "copied"


def test_a_mount_option_that_is_not_claimed(runtime: Runtime, claims: Json, bundle: MakeBundle) -> None:
    assert "norelax" not in claims["mountOptions"]
    box = bundle("/probe")
    box.mount("/mnt", "bind", str(box.path), "bind", "norelax")
    assert "norelax" in runtime.run(box).error_line


# ---------------------------------------------------------------- namespaces, capabilities, hooks


def test_namespaces(as_root: None, claims: Json, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe")
    for kind in claims["linux"]["namespaces"]:
        box.namespace(kind)
    box.linux["uidMappings"] = box.linux["gidMappings"] = IDS
    seen = kernel.new_namespaces(runtime.probe(box))
    assert seen == {kernel.NS_FILES[kind] for kind in claims["linux"]["namespaces"]}
    box.namespace("comet")
    assert "comet" in runtime.run(box).error_line


def test_capabilities(claims: Json, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/probe")
    box.process["capabilities"] = {"bounding": claims["linux"]["capabilities"]}
    done = runtime.run(box).ok()
    assert "unknown" not in done.err
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert len(claims["linux"]["capabilities"]) > last, "the kernel has more"


def test_hooks(claims: Json, runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true").writable()
    log = box.path / "log"
    log.mkdir()
    log.chmod(0o777)
    box.mount(str(log), "bind", str(log), "bind")
    box.config["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo >{log}/{kind}"]}] for kind in claims["hooks"]
    }
    runtime.run(box).ok()
    assert {path.name for path in log.iterdir()} == set(claims["hooks"])


# ---------------------------------------------------------------- seccomp

KILLED = 128 + 31  # SIGSYS
ACTIONS: dict[str, object] = {
    "SCMP_ACT_ALLOW": 0,
    "SCMP_ACT_LOG": 0,
    "SCMP_ACT_ERRNO": errno.EPERM,
    "SCMP_ACT_TRACE": errno.ENOSYS,  # nobody traces
    "SCMP_ACT_TRAP": KILLED,
    "SCMP_ACT_KILL": KILLED,
    "SCMP_ACT_KILL_THREAD": KILLED,
    "SCMP_ACT_KILL_PROCESS": KILLED,
}
# whether it holds for an argument of 0: (op, value, valueTwo, holds), each with a call that takes any argument
OPERATORS = [
    ("SCMP_CMP_NE", 1, 0, True),
    ("SCMP_CMP_LT", 1, 0, True),
    ("SCMP_CMP_LE", 0, 0, True),
    ("SCMP_CMP_EQ", 0, 0, True),
    ("SCMP_CMP_GE", 0, 0, True),
    ("SCMP_CMP_GT", 0, 0, False),
    ("SCMP_CMP_MASKED_EQ", 1, 0, True),
]
CALLS = {
    "getpriority": 140,
    "getpgid": 121,
    "getsid": 124,
    "sched_getscheduler": 145,
    "sched_get_priority_max": 146,
    "sched_get_priority_min": 147,
    "sched_getparam": 143,
}


def _filtered(box: Bundle, **more: Any) -> None:
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [], **more}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="not applicable: x86-64 numbers of calls")
def test_seccomp_actions_and_operators(claims: Json, runtime: Runtime, bundle: MakeBundle) -> None:
    seccomp = claims["linux"]["seccomp"]
    # a notification takes a listener, see test_notify.py
    assert set(seccomp["actions"]) == {*ACTIONS, "SCMP_ACT_NOTIFY"}
    for action, wanted in ACTIONS.items():
        box = bundle("/probe", "call:140")
        _filtered(box, syscalls=[{"names": ["getpriority"], "action": action}])
        done = runtime.run(box)
        if wanted == KILLED:
            assert done.code == KILLED, (action, done)
        else:
            assert parse_probe(done.ok().out)["asked"]["call:140"] == wanted, action
    assert set(seccomp["operators"]) == {op for op, *_ in OPERATORS}
    rules = []
    for (op, value, two, _), name in zip(OPERATORS, CALLS, strict=True):
        argument = {"index": 0, "value": value, "valueTwo": two, "op": op}
        rules.append({"names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOTNAM, "args": [argument]})
    box = bundle("/probe", *(f"call:{number}" for number in CALLS.values()))
    _filtered(box, syscalls=rules)
    asked = parse_probe(runtime.run(box).ok().out)["asked"]
    for (op, _, _, holds), number in zip(OPERATORS, CALLS.values(), strict=True):
        assert (asked[f"call:{number}"] == errno.ENOTNAM) == holds, op


def test_seccomp_architectures_and_flags(claims: Json, runtime: Runtime, bundle: MakeBundle) -> None:
    seccomp = claims["linux"]["seccomp"]
    rule = {"names": ["getpriority"], "action": "SCMP_ACT_ERRNO"}
    box = bundle("/bin/true")
    _filtered(box, syscalls=[rule], architectures=seccomp["archs"])
    runtime.run(box).ok()
    for flag in seccomp["knownFlags"]:
        _filtered(box, syscalls=[rule], flags=[flag])
        done = runtime.run(box)
        if flag in seccomp["supportedFlags"]:
            # one for a listener says that it needs one
            assert done.code == 0 or "SCMP_ACT_NOTIFY" in done.error_line, (flag, done)
        else:
            assert flag in done.error_line
    _filtered(box, syscalls=[rule], flags=["SECCOMP_FILTER_FLAG_COMET"])
    assert "SECCOMP_FILTER_FLAG_COMET" in runtime.run(box).error_line


# ---------------------------------------------------------------- what a host may lack

PARTS: list[tuple[tuple[str, ...], Callable[[Bundle], object]]] = [
    (("apparmor", "enabled"), lambda box: box.process.__setitem__("apparmorProfile", "unconfined")),
    (("selinux", "enabled"), lambda box: box.process.__setitem__("selinuxLabel", "a:b:c:s0")),
    (("selinux", "enabled"), lambda box: box.linux.__setitem__("mountLabel", "a:b:c:s0")),
    (("intelRdt", "enabled"), lambda box: box.linux.__setitem__("intelRdt", {"l3CacheSchema": "L3:0=f"})),
    (("intelRdt", "schemata"), lambda box: box.linux.__setitem__("intelRdt", {"schemata": ["L3:0=f"]})),
    (("intelRdt", "monitoring"), lambda box: box.linux.__setitem__("intelRdt", {"enableMonitoring": True})),
    (
        ("cgroup", "rdma"),
        lambda box: box.linux.setdefault("resources", {}).__setitem__("rdma", {"mlx5_1": {"hcaHandles": 3}}),
    ),
    (
        ("netDevices", "enabled"),
        lambda box: (box.namespace("network"), box.linux.__setitem__("netDevices", {"comet0": {"name": "x"}})),
    ),
]


@pytest.mark.parametrize(
    ("claim", "change"), PARTS, ids=["-".join(path) + f"-{i}" for i, (path, _) in enumerate(PARTS)]
)
def test_what_a_host_may_lack(
    claim: tuple[str, str], change: Callable[[Bundle], object], claims: Json, runtime: Runtime, bundle: MakeBundle
) -> None:
    """What is claimed is done, or refused because of the host or the user; what is not, because of ctnr."""
    box = bundle("/bin/true")
    change(box)
    done = runtime.run(box)
    claimed = claims["linux"][claim[0]].get(claim[1], False)
    if not claimed:
        assert done.code != 0 and any(words in done.error_line for words in LATER), done
    elif done.code != 0:
        assert not any(words in done.error_line for words in LATER), done


@pytest.mark.parametrize("user_kind", ["systemd", "systemdUser"])
def test_the_systemd_manager(user_kind: str, claims: Json, runtime: Runtime, user: User, bundle: MakeBundle) -> None:
    if user.rootless != (user_kind == "systemdUser"):
        pytest.skip("not applicable: that is the other user's")
    box = bundle("/bin/true").save()
    done = runtime("--systemd-cgroup", "run", "--bundle", str(box.path), new_id())
    if not claims["linux"]["cgroup"][user_kind]:
        assert done.code != 0 and any(words in done.error_line for words in LATER), done
    elif done.code != 0:
        assert not any(words in done.error_line for words in LATER)
        assert "systemd" in done.error_line or "D-Bus" in done.error_line, done


def test_memory_policies(claims: Json, runtime: Runtime, bundle: MakeBundle) -> None:
    policy = claims["linux"].get("memoryPolicy", {"modes": [], "flags": []})
    box = bundle("/bin/true")
    for mode in policy["modes"]:
        nodes = {} if mode in ("MPOL_DEFAULT", "MPOL_LOCAL") else {"nodes": "0"}
        box.linux["memoryPolicy"] = {"mode": mode, **nodes}
        done = runtime.run(box)
        # a mode may be newer than the kernel
        assert done.code == 0 or "invalid argument" in done.error_line, (mode, done)
    for flag in policy["flags"]:
        mode = "MPOL_BIND" if flag == "MPOL_F_NUMA_BALANCING" else "MPOL_INTERLEAVE"
        box.linux["memoryPolicy"] = {"mode": mode, "nodes": "0", "flags": [flag]}
        done = runtime.run(box)
        assert done.code == 0 or "invalid argument" in done.error_line, (flag, done)


def test_idmapped_mounts_and_versions(claims: Json, runtime: Runtime) -> None:
    assert claims["linux"]["mountExtensions"]["idmap"]["enabled"] == ("idmap" in claims["mountOptions"])
    lines = runtime("--version").ok().out.splitlines()
    assert lines[0].split()[-1] == claims["annotations"]["io.ctnr.version"]
    assert f"spec: {claims['ociVersionMax']}" in lines
    assert claims["linux"]["cgroup"]["v1"] and claims["linux"]["cgroup"]["v2"]


def test_annotations_that_change_what_the_runtime_does_are_named(claims: Json) -> None:
    """Each that the source knows is one of them, or begins as one that ends with a dot."""
    import ctnr

    known = claims["potentiallyUnsafeConfigAnnotations"]
    found = set()
    for path in Path(ctnr.__file__).parent.rglob("*.py"):
        found |= set(re.findall(r'"((?:run\.oci|org\.criu|org\.systemd\.property)\.[\w./-]*)"', path.read_text()))
    assert found
    left = {name for name in found if not any(name == k or (k.endswith(".") and name.startswith(k)) for k in known)}
    assert not left
