# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.lsm: what is written where for AppArmor and SELinux, on a host that has them (made of files) and on none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ctnr.errors import CtnrError, SpecError
from ctnr.runtime import compile as compiler
from ctnr.runtime import launch, lsm
from ctnr.runtime import plan as p
from ctnr.runtime.compile import Context
from ctnr.runtime.explain import words
from ctnr.runtime.plan import Plan
from ctnr.spec.runtime import validate

LABEL = "system_u:system_r:container_t:s0:c124,c675"
PROCESS: dict[str, Any] = {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}}


class Host:
    """/sys and /proc of a made-up machine."""

    def __init__(self, root: Path) -> None:
        self.sys, self.proc = str(root / "sys"), str(root / "proc")
        self.root = root

    def file(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def apparmor(self, current: str = "unconfined\n", directory: str = "attr/apparmor") -> Host:
        self.file("sys/module/apparmor/parameters/enabled", "Y\n")
        self.file(f"proc/self/{directory}/current", current)
        return self

    def selinux(self, current: str = "system_u:system_r:unconfined_t:s0\0") -> Host:
        self.file("sys/fs/selinux/policyvers", "33")
        self.file("proc/self/attr/current", current)
        return self

    def written(self, process: dict[str, Any], keyring: bool = True) -> list[tuple[Any, ...]]:
        plan = Plan()
        lsm.process_steps(plan, process, "process", keyring, self.proc)  # type: ignore[arg-type]
        assert {step.op for step in plan.steps} <= {p.ATTRIBUTE}
        return [(step.field, *step.strings, step.flags) for step in plan.steps]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_what_is_enabled(host: Host) -> None:
    assert not lsm.apparmor_enabled(host.sys)
    assert not lsm.selinux_enabled(host.sys, host.proc)
    assert lsm.apparmor_enabled(host.apparmor().sys)
    assert lsm.selinux_enabled(host.selinux().sys, host.proc)
    host.file("sys/module/apparmor/parameters/enabled", "N\n")
    assert not lsm.apparmor_enabled(host.sys)


def test_selinux_without_a_policy_is_not_enabled(host: Host) -> None:
    host.selinux("kernel\0")
    assert not lsm.selinux_enabled(host.sys, host.proc)


APPARMOR, SELINUX = {"apparmorProfile": "box"}, {"selinuxLabel": LABEL}


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ({"process": APPARMOR}, "process.apparmorProfile: AppArmor is not enabled on this host"),
        ({"process": SELINUX}, "process.selinuxLabel: selinux label is specified in config, but selinux is disabled"),
        ({"linux": {"mountLabel": LABEL}}, "linux.mountLabel: SELinux is not enabled on this host"),
    ],
)
def test_what_the_host_has_not_is_refused(config: Any, error: str, host: Host) -> None:
    with pytest.raises(SpecError) as raised:
        lsm.check(config, host.sys, host.proc)
    assert str(raised.value).startswith(error)
    host.apparmor().selinux()
    lsm.check(config, host.sys, host.proc)


def test_apparmor_of_a_new_kernel_and_of_an_old_one(host: Host) -> None:
    host.apparmor()
    assert host.written(APPARMOR) == [("process.apparmorProfile", "self/attr/apparmor/exec", "exec box", 0)]
    (host.root / "proc/self/attr/apparmor/current").unlink()
    (host.root / "proc/self/attr/apparmor").rmdir()
    host.apparmor(directory="attr")
    assert host.written(APPARMOR) == [("process.apparmorProfile", "self/attr/exec", "exec box", 0)]


@pytest.mark.parametrize(
    ("current", "no_new_privileges", "word"),
    [
        ("unconfined\n", True, "exec"),
        ("unconfined", False, "exec"),
        ("snap.runtime (enforce)\n", False, "exec"),
        ("snap.runtime (enforce)\n", True, "stack"),
    ],
)
def test_a_confined_runtime_stacks(current: str, no_new_privileges: bool, word: str, host: Host) -> None:
    host.apparmor(current)
    process = {**APPARMOR, "noNewPrivileges": no_new_privileges}
    assert [value for _, _, value, _ in host.written(process)] == [f"{word} box"]


def test_selinux_labels_the_program_and_its_keyring(host: Host) -> None:
    host.selinux()
    program = ("process.selinuxLabel", "self/attr/exec", LABEL, 0)
    keyring = ("process.selinuxLabel", "self/attr/keycreate", LABEL, p.ATTRIBUTE_OPTIONAL)
    assert host.written(SELINUX) == [keyring, program]
    assert host.written(SELINUX, keyring=False) == [program]


def test_written_while_the_runtimes_proc_is_at_hand_and_before_the_keyring(monkeypatch: pytest.MonkeyPatch) -> None:
    """And never after a namespace of the container's is joined: /proc there is the container's."""
    monkeypatch.setattr(lsm, "check", lambda config: None)
    config: Any = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "process": {**PROCESS, **APPARMOR, **SELINUX},
        "linux": {"namespaces": [{"type": "mount"}, {"type": "pid"}], "sysctl": {"kernel.domainname": "x"}},
    }
    ctx = Context(config, "id", "/bundle")
    ctx.rootfs = "/rootfs"
    ops = [step.op for step in compiler.compile_create(ctx).steps]
    assert ops.index(p.PIVOT) < ops.index(p.ATTRIBUTE) < ops.index(p.NODUMP) < ops.index(p.KEYRING) < ops.index(p.WAIT)
    assert ops.count(p.ATTRIBUTE) == 3
    ops = [step.op for step in compiler.compile_exec(ctx, config["process"], 1).steps]
    last = len(ops) - 1 - ops[::-1].index(p.ATTRIBUTE)
    assert last < ops.index(p.NODUMP) < ops.index(p.JOIN) < ops.index(p.KEYRING)


def mount_plan(**linux: Any) -> list[p.Step]:
    config: Any = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m"]},
            {"destination": "/own", "type": "tmpfs", "source": "tmpfs", "options": ["rootcontext=mine"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts"},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
            {"destination": "/bound", "type": "bind", "source": "/etc", "options": ["bind"]},
        ],
        "process": PROCESS,
        "linux": {"namespaces": [{"type": "mount"}], "maskedPaths": ["/proc/acpi"], **linux},
        "annotations": linux.pop("annotations", {}),
    }
    validate(config)
    ctx = Context(config, "id", "/bundle")
    ctx.rootfs = "/rootfs"
    return compiler.compile_create(ctx).steps


def test_mounts_without_a_label() -> None:
    data = {step.strings[2]: step.strings[3] for step in mount_plan() if step.op == p.FSMOUNT}
    assert data["/tmp"] == "size=1m" and data["/dev/pts"] is None
    assert not [step for step in mount_plan() if step.op == p.LABEL]


def test_mounts_with_a_label() -> None:
    steps = mount_plan(mountLabel=LABEL)
    data = {step.strings[2]: step.strings[3] for step in steps if step.op == p.FSMOUNT}
    assert data == {
        "/proc": None,
        "/tmp": f'size=1m,context="{LABEL}"',
        "/own": "rootcontext=mine",
        "/dev/pts": f'context="{LABEL}"',
        "/dev/mqueue": None,
    }
    [mask] = [step for step in steps if step.op == p.MASK]
    assert mask.strings[1] == f'size=0k,context="{LABEL}"'
    [at] = [i for i, step in enumerate(steps) if step.op == p.LABEL]
    assert steps[at].strings == (LABEL,) and steps[at - 1].strings[1] == "mqueue"


def test_the_kind_of_context_by_annotation(host: Host) -> None:
    steps = mount_plan(mountLabel=LABEL, annotations={"run.oci.mount_context_type": "rootcontext"})
    data = {step.strings[2]: step.strings[3] for step in steps if step.op == p.FSMOUNT}
    assert data["/tmp"] == f'size=1m,rootcontext="{LABEL}"'
    host.selinux()
    config: Any = {"linux": {"mountLabel": LABEL}, "annotations": {"run.oci.mount_context_type": "seclabel"}}
    with pytest.raises(SpecError, match=r"annotations\.run\.oci\.mount_context_type"):
        lsm.check(config, host.sys, host.proc)
    with pytest.raises(SpecError, match=r"linux\.mountLabel: must not have quotes"):
        lsm.check({"linux": {"mountLabel": 'a",size=0,b="'}}, host.sys, host.proc)


def test_an_attribute_is_written_by_the_process_about_itself() -> None:
    """The step itself, with a file that every kernel has and an exec keeps."""

    def program(path: str, value: str, flags: int = 0) -> Plan:
        plan = Plan()
        plan.add(p.ATTRIBUTE, "process.selinuxLabel", path, value, flags=flags)
        plan.add(p.LOOKUP, "", "/bin/grep", "")
        plan.add(p.WAIT, "")
        argv = ["grep", "-qx", "00000041", "/proc/self/coredump_filter"]
        plan.add(p.EXEC, "", p.strings(argv), p.strings([]))
        return plan

    process = launch.program(program("self/coredump_filter", "0x41"), (0, 1, 2))
    assert process.wait() == 0
    process.close()
    process = launch.program(program("self/attr/nothing", "x", p.ATTRIBUTE_OPTIONAL), (0, 1, 2))
    assert process.wait() == 1
    process.close()
    for path, why in (
        ("self/attr/nothing", "no such file or directory"),
        ("self/coredump_filter", "invalid argument"),
        ("self/cwd/etc/hostname", "invalid cross-device link|too many levels"),  # out of /proc
        ("../etc/hostname", "invalid cross-device link"),
    ):
        with pytest.raises(CtnrError, match=f"^process.selinuxLabel: write x to `/proc/{path}`: ({why})"):
            launch.program(program(path, "x"), (0, 1, 2))


def test_words() -> None:
    plan = Plan()
    plan.add(p.ATTRIBUTE, "process.apparmorProfile", "self/attr/apparmor/exec", "exec box")
    # podman: a path in these quotes that ends so is an error of a security module
    assert words(plan.steps[0]) == "write exec box to `/proc/self/attr/apparmor/exec`"
