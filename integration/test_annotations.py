# SPDX-License-Identifier: Apache-2.0
"""crun's annotations, run.oci.*: a filter as bytes, and those that are refused. The others are tested where they act."""

from __future__ import annotations

import base64
import errno
import platform
import struct

import pytest
from support.bundles import MakeBundle, new_id
from support.runtimes import Runtime

# linux/filter.h, linux/seccomp.h
LOAD_NUMBER, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
SETHOSTNAME = {"x86_64": 170, "aarch64": 161}


def program(number: int, error: int) -> bytes:
    """struct sock_filter[]: an error for one call."""
    steps = (
        (LOAD_NUMBER, 0, 0, 0),
        (JUMP_EQUAL, 0, 1, number),
        (RETURN, 0, 0, ERRNO | error),
        (RETURN, 0, 0, ALLOW),
    )
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_filter_in_an_annotation(no_new_privileges: bool, runtime: Runtime, bundle: MakeBundle) -> None:
    """In place of linux.seccomp, for exec too."""
    box = bundle("/probe", "--wait")
    box.process["noNewPrivileges"] = no_new_privileges
    for kind in ("bounding", "effective", "permitted"):
        box.process["capabilities"][kind].append("CAP_SYS_ADMIN")
    box.linux["seccomp"] = {"defaultAction": "SCMP_ACT_KILL"}
    text = base64.b64encode(program(SETHOSTNAME[platform.machine()], errno.ENOTTY)).decode()
    box.config["annotations"] = {"run.oci.seccomp_bpf_data": text}
    id = runtime.start_detached(box)
    done = runtime("exec", id, "/bin/sh", "-c", "grep Seccomp: /proc/self/status; hostname other 2>&1").out
    assert done.split()[:2] == ["Seccomp:", "2"]
    assert "Inappropriate ioctl for device" in done or "Not a tty" in done
    runtime.stop(id)


REFUSED = {
    "plugins": ({"run.oci.seccomp.plugins": "/x.so"}, 'annotations["run.oci.seccomp.plugins"]: crun\'s plugins'),
    "krun": ({"run.oci.handler": "krun"}, 'annotations["run.oci.handler"]: there is no handler "krun"'),
    "wasm": ({"run.oci.handler": "wasm"}, 'annotations["run.oci.handler"]: there is no handler "wasm"'),
    "v1": (
        {"run.oci.systemd.force_cgroup_v1": "/x"},
        'annotations["run.oci.systemd.force_cgroup_v1"]: is not supported',
    ),
    "base64": ({"run.oci.seccomp_bpf_data": "A"}, 'annotations["run.oci.seccomp_bpf_data"]: is not base64'),
    "ascii": ({"run.oci.seccomp_bpf_data": "é"}, 'annotations["run.oci.seccomp_bpf_data"]: is not base64'),
    "length": ({"run.oci.seccomp_bpf_data": "AAAA"}, 'annotations["run.oci.seccomp_bpf_data"]: 3 bytes are not'),
    "program": ({"run.oci.seccomp_bpf_data": base64.b64encode(bytes(8)).decode()}, "run.oci.seccomp_bpf_data"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_what_cannot_be_had_is_refused(which: str, runtime: Runtime, bundle: MakeBundle) -> None:
    annotations, message = REFUSED[which]
    box = bundle("/bin/true")
    box.config["annotations"] = annotations
    box.process["noNewPrivileges"] = False  # else a filter is installed at start
    box.save()
    refused = runtime.quiet("create", "--bundle", str(box.path), new_id())
    assert refused.code == 1 and message in refused.error_line.replace('\\"', '"'), str(refused)
    assert runtime.ids() == []


def test_a_pods_own_container_needs_no_handler(runtime: Runtime, bundle: MakeBundle) -> None:
    box = bundle("/bin/true")
    box.config["annotations"] = {"run.oci.handler": "wasm", "io.kubernetes.cri.container-type": "sandbox"}
    runtime.run(box).ok()
    box.config["annotations"] = {"run.oci.handler": ""}
    runtime.run(box).ok()
