# SPDX-License-Identifier: Apache-2.0
"""The parts of ctnr.spec with rules of their own: resources, seccomp, sysctl."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from spec_sample import change, full

from ctnr.errors import SpecError
from ctnr.spec import runtime, seccomp
from ctnr.spec.resources import check_resources
from ctnr.spec.seccomp import check_seccomp
from ctnr.spec.sysctl import check_sysctl, sysctl_path


def refused(changes: dict[str, Any]) -> str:
    config = full()
    for path, value in changes.items():
        change(config, path, value)
    with pytest.raises(SpecError) as e:
        runtime.validate(config)  # type: ignore[arg-type]
    return str(e.value)


# --- resources


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices[0].access": "rwx"}, 'devices[0].access: must be made of r, w and m, not "rwx"'),
        ({"devices[1].type": "ab"}, 'devices[1].type: unknown device type "ab"'),
        ({"devices[1].type": "p"}, 'devices[1].type: unknown device type "p"'),
        ({"cpu.burst": 1000001}, "cpu.burst: must not be larger than quota"),
        (
            {"blockIO.weightDevice[0]": {"major": 1, "minor": 1}},
            "blockIO.weightDevice[0]: weight or leafWeight is required",
        ),
        ({"rdma[mlx5_1]": {}}, 'rdma["mlx5_1"]: hcaHandles or hcaObjects is required'),
        ({"rdma[mlx5_1]": {"x": 1}}, 'rdma["mlx5_1"]: hcaHandles or hcaObjects is required'),
        *(
            ({"unified": {name: "1"}}, f'unified["{name}"]: must be the name of a file, without slashes')
            for name in ("../memory.max", "a/b", "..", ".", "/")
        ),
        *(
            (
                {"hugepageLimits[1].pageSize": size},
                f"hugepageLimits[1].pageSize: must be a size like 64KB, 2MB or 1GB, not {json.dumps(size)}",
            )
            for size in ("64kB", "KB", "0KB", "064KB", "-1KB", "64K", "64KiB", "6 4KB", "٣KB", "1TB", "", "B")
        ),
    ],
)
def test_resources(changes: dict[str, Any], message: str) -> None:
    assert (
        refused({f"linux.resources.{path}": value for path, value in changes.items()}) == f"linux.resources.{message}"
    )


def test_resources_of_an_update() -> None:
    """`update --resources` has the document alone."""
    assert check_resources({"memory": {"limit": 1}}, "resources") == []
    assert check_resources({}, "resources") == []
    # no quota, no ceiling for burst
    assert check_resources({"cpu": {"quota": -1, "burst": 5}}) == []
    with pytest.raises(SpecError) as e:
        check_resources({"memory": {"limit": "1"}}, "resources")  # type: ignore[typeddict-item]
    assert str(e.value) == 'resources.memory.limit: must be an integer, not the string "1"'
    with pytest.raises(SpecError) as e:
        check_resources([], "resources")  # type: ignore[arg-type]
    assert str(e.value) == "resources: must be an object, not an array"


# --- seccomp


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"defaultAction": "SCMP_ACT_NOTIFY", "defaultErrnoRet": ...},
            "defaultAction: SCMP_ACT_NOTIFY cannot be used as default action",
        ),
        ({"defaultAction": "SCMP_ACT_KILL"}, "defaultErrnoRet: SCMP_ACT_KILL takes no errno"),
        ({"defaultErrnoRet": 4096}, "defaultErrnoRet: must be from 0 to 4095, not 4096"),
        ({"syscalls[0].errnoRet": 4096}, "syscalls[0].errnoRet: must be from 0 to 4095, not 4096"),
        ({"syscalls[0].action": "SCMP_ACT_ALLOW"}, "syscalls[0].errnoRet: SCMP_ACT_ALLOW takes no errno"),
        ({"syscalls[1].errnoRet": 0}, "syscalls[1].errnoRet: SCMP_ACT_NOTIFY takes no errno"),
        ({"syscalls[0].names": []}, "syscalls[0].names: must hold at least one system call"),
        ({"syscalls[0].names[1]": ""}, "syscalls[0].names[1]: must not be empty"),
        ({"syscalls[1].names[1]": "write"}, "syscalls[1].names: SCMP_ACT_NOTIFY cannot be used for the write syscall"),
        ({"listenerPath": ...}, "listenerMetadata: must not be set without listenerPath"),
        (
            {"listenerPath": ..., "listenerMetadata": ...},
            "syscalls[1].action: SCMP_ACT_NOTIFY needs linux.seccomp.listenerPath",
        ),
        ({"defaultAction": ...}, "defaultAction: is required"),
        ({"defaultAction": ""}, 'defaultAction: unknown seccomp action ""'),
    ],
)
def test_seccomp(changes: dict[str, Any], message: str) -> None:
    assert refused({f"linux.seccomp.{path}": value for path, value in changes.items()}) == f"linux.seccomp.{message}"


def test_trace_takes_what_errno_does_not() -> None:
    check_seccomp({"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 65535})
    check_seccomp({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4095})
    check_seccomp({"defaultAction": "SCMP_ACT_ALLOW"})


def test_seccomp_numbers_are_those_of_this_libseccomp() -> None:
    """libseccomp turns an architecture's name into its token; actions and operators it has only in its header."""
    import ctypes

    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("no libseccomp.so.2")
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    known = 0
    for name, token in seccomp.ARCHITECTURES.items():
        found = library.seccomp_arch_resolve_name(name.removeprefix("SCMP_ARCH_").lower().encode())
        if found:
            known += 1
            assert found == token, name
    assert known >= 15
    # an action it does not know, it refuses: try each as a filter's default
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_release.argtypes = [ctypes.c_void_p]
    for name, action in seccomp.ACTIONS.items():
        context = library.seccomp_init(action | (errno.EPERM if name in seccomp.ERRNO_MAX else 0))
        assert context, name
        library.seccomp_release(context)


# --- sysctl


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eno2/100.rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
        ("net/ipv4/conf/eno2.100/rp_filter", "net/ipv4/conf/eno2.100/rp_filter"),
        ("kernel.sem", "kernel/sem"),
    ],
)
def test_sysctl_path(key: str, path: str) -> None:
    assert sysctl_path(key) == path


@pytest.mark.parametrize(
    "key",
    ["", "net", ".", "/", "net.", ".net", "net..x", "/net/x", "net/x/", "net/../kernel/sysrq", "net/./x", "net.//.x"]
    + ["net/ipv4/..", "../net/x"],
)
def test_no_sysctl_path(key: str) -> None:
    with pytest.raises(ValueError, match="does not name a sysctl"):
        sysctl_path(key)
    with pytest.raises(SpecError) as e:
        check_sysctl({key: "1"}, ("network", "ipc", "uts", "user"), "linux.sysctl")
    assert e.value.path == f"linux.sysctl[{json.dumps(key)}]"


@given(st.text(st.sampled_from("./netkrl"), max_size=12), st.text(max_size=8))
def test_a_sysctl_path_stays_below_proc_sys(key: str, more: str) -> None:
    try:
        path = sysctl_path(key + more)
    except ValueError:
        return
    parts = path.split("/")
    assert len(parts) > 1 and not {"", ".", ".."} & set(parts)


IPC = ["kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax"] + [
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
    "fs.mqueue.queues_max",
    "fs/mqueue/msg_max",
]


@pytest.mark.parametrize(
    ("key", "namespace", "why"),
    [
        *((key, "ipc", "is not allowed in the hosts ipc namespace") for key in IPC),
        ("net.core.somaxconn", "network", "not allowed in host network namespace"),
        ("net/ipv4/ping_group_range", "network", "not allowed in host network namespace"),
        ("kernel.domainname", "uts", "is not in a separate kernel namespace"),
        ("user.max_user_namespaces", "user", "setting ucounts without a user namespace not allowed"),
    ],
)
def test_sysctl_needs_its_namespace(key: str, namespace: str, why: str) -> None:
    check_sysctl({key: "1"}, (namespace,), "s")
    others = [name for name in ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time") if name != namespace]
    with pytest.raises(SpecError) as e:
        check_sysctl({key: "1"}, others, "s")
    assert e.value.path == f's["{key}"]' and why in e.value.why
    assert key.replace("/", ".") in e.value.why


@pytest.mark.parametrize(
    "key", ["kernel.sysrq", "kernel.core_pattern", "vm.overcommit_memory", "fs.file-max", "netx.y", "kernel.semx"]
)
def test_the_hosts_sysctls(key: str) -> None:
    everything = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")
    with pytest.raises(SpecError) as e:
        check_sysctl({key: "1"}, everything, "s")
    assert e.value.why == f'sysctl "{key}" is not in a separate kernel namespace'


def test_the_hostname_has_a_field_of_its_own() -> None:
    with pytest.raises(SpecError) as e:
        check_sysctl({"kernel.hostname": "x"}, ("uts",), "s")
    assert e.value.why == 'sysctl "kernel.hostname" is not allowed as it conflicts with the OCI "hostname" field'
    with pytest.raises(SpecError) as e:
        check_sysctl({"kernel.hostname": "x"}, (), "s")
    assert e.value.why == 'sysctl "kernel.hostname" is not in a separate kernel namespace'


def test_sysctl_in_a_configuration() -> None:
    assert refused({"linux.sysctl[kernel.sysrq]": "0"}) == (
        'linux.sysctl["kernel.sysrq"]: sysctl "kernel.sysrq" is not in a separate kernel namespace'
    )
