# SPDX-License-Identifier: Apache-2.0
"""crun's annotations that ask for something, run.oci.*: those that cannot be had are refused, and a filter in one decoded.

HOT imports only, but loaded only where there is such an annotation. SECURITY.md says which are honoured, and who may set them.
"""

from __future__ import annotations

from ctnr.errors import SpecError
from ctnr.spec.schema import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX = "run.oci."
BPF_DATA = "run.oci.seccomp_bpf_data"
_INSTRUCTION = 8  # struct sock_filter
_MOST = 4096  # BPF_MAXINSNS


def refuse(annotations: Mapping[str, str]) -> None:
    """Raise SpecError for one that asks for what is not here."""
    if "run.oci.seccomp.plugins" in annotations:
        why = "crun's plugins are not supported: use linux.seccomp.listenerPath, or on_syscall of the library"
        raise SpecError('annotations["run.oci.seccomp.plugins"]', why)
    handler = annotations.get("run.oci.handler")
    # a pod's own container is a program as any other, whatever its pod is for
    if handler and annotations.get("io.kubernetes.cri.container-type") != "sandbox":
        why = f"there is no handler {quote(handler)}: programs run in namespaces on this kernel, and in nothing else"
        raise SpecError('annotations["run.oci.handler"]', why)
    if annotations.get("run.oci.systemd.force_cgroup_v1"):
        why = "is not supported: mount the cgroup file system that the container needs"
        raise SpecError('annotations["run.oci.systemd.force_cgroup_v1"]', why)


def filter_program(annotations: Mapping[str, str]) -> bytes:
    """The seccomp filter of run.oci.seccomp_bpf_data, base64 of struct sock_filter[]; b"" if there is none. SpecError."""
    text = annotations.get(BPF_DATA)
    if not text:
        return b""
    from binascii import Error, a2b_base64

    field = f'annotations["{BPF_DATA}"]'
    try:
        program = a2b_base64(text, strict_mode=True)
    except Error as error:
        raise SpecError(field, f"is not base64: {error}") from None
    except ValueError:
        raise SpecError(field, "is not base64: it is not ASCII") from None
    if len(program) % _INSTRUCTION or not 0 < len(program) // _INSTRUCTION <= _MOST:
        raise SpecError(field, f"{len(program)} bytes are not 1 to {_MOST} instructions of {_INSTRUCTION}")
    return program
