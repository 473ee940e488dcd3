# SPDX-License-Identifier: Apache-2.0
"""AppArmor and SELinux: whether this host has them, and what to write where for a process and its mounts.

HOT: imported only for a config with process.apparmorProfile, process.selinuxLabel or linux.mountLabel.

A profile or label is written by the init to its own /proc/self/attr/exec, of the runtime's /proc, and takes effect at the
next exec: of the program, and of a startContainer hook, which is the container's own file.
"""

from __future__ import annotations

import posix
from errno import EACCES, EINVAL, ENOENT, ENOTDIR

from ctnr import files
from ctnr.errors import SpecError
from ctnr.runtime import plan as p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.plan import Plan
    from ctnr.spec.types import Config, Process

_CONTEXTS = ("context", "fscontext", "defcontext", "rootcontext")
# crun's: which of them linux.mountLabel is given as
_CONTEXT_ANNOTATION = "run.oci.mount_context_type"
# no file system of its own to label, or labelled by policy alone; mqueue takes an extended attribute instead
_UNLABELLED = ("proc", "sysfs", "cgroup", "cgroup2", "mqueue")


def _read(path: str) -> str:
    """The first word of a file of the kernel's, "" if there is none."""
    try:
        words = files.read_file(path).decode("utf-8", "replace").rstrip("\0\n").split()
    except OSError as error:
        if error.errno in (ENOENT, ENOTDIR, EACCES, EINVAL):  # EINVAL: attr/current without a module that has one
            return ""
        raise
    return words[0] if words else ""


def apparmor_enabled(sys: str = "/sys") -> bool:
    return _read(f"{sys}/module/apparmor/parameters/enabled") == "Y"


def selinux_enabled(sys: str = "/sys", proc: str = "/proc") -> bool:
    """As libselinux: its file system is mounted, and a policy is loaded: processes have contexts other than "kernel"."""
    if not _read(f"{sys}/fs/selinux/policyvers"):
        return False
    return _read(f"{proc}/self/attr/current") not in ("", "kernel")


def check(config: Config, sys: str = "/sys", proc: str = "/proc") -> None:
    """SpecError for what this host cannot do (runtime.md#errors: what cannot be applied is an error)."""
    process = config.get("process") or {}
    if process.get("apparmorProfile") and not apparmor_enabled(sys):
        raise SpecError("process.apparmorProfile", "AppArmor is not enabled on this host")
    label = (config.get("linux") or {}).get("mountLabel")
    if not process.get("selinuxLabel") and not label:
        return
    if not selinux_enabled(sys, proc):
        if label:
            raise SpecError("linux.mountLabel", "SELinux is not enabled on this host")
        raise SpecError(  # runc's words
            "process.selinuxLabel", "selinux label is specified in config, but selinux is disabled or not supported"
        )
    if label and '"' in label:
        raise SpecError("linux.mountLabel", "must not have quotes in it")
    kind = (config.get("annotations") or {}).get(_CONTEXT_ANNOTATION)
    if kind is not None and kind not in _CONTEXTS:
        raise SpecError(f"annotations.{_CONTEXT_ANNOTATION}", f"must be one of {', '.join(_CONTEXTS)}, not {kind}")


def process_steps(plan: Plan, process: Process, path: str, keyring: bool, proc: str = "/proc") -> None:
    """What the program is executed under. Before the steps that let go of the runtime's /proc.

    `keyring`: a session keyring follows, which has the label too.
    """
    label = process.get("selinuxLabel")
    if label:
        field = f"{path}.selinuxLabel"
        if keyring:
            # an exec resets it
            plan.add(p.ATTRIBUTE, field, "self/attr/keycreate", label, flags=p.ATTRIBUTE_OPTIONAL)
        plan.add(p.ATTRIBUTE, field, "self/attr/exec", label)
    profile = process.get("apparmorProfile")
    if profile:
        directory = "self/attr/apparmor"  # since Linux 5.1; without it attr/ itself is the first module's
        if not _exists(f"{proc}/{directory}"):
            directory = "self/attr"
        # a process that is confined and has no_new_privs may only be confined further
        stack = process.get("noNewPrivileges") and _read(f"{proc}/{directory}/current") != "unconfined"
        words = f"{'stack' if stack else 'exec'} {profile}"
        plan.add(p.ATTRIBUTE, f"{path}.apparmorProfile", f"{directory}/exec", words)


def _exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def mount_data(config: Config, type: str, data: str) -> str:
    """The data of a new mount of that type, with linux.mountLabel in it."""
    for kind, label in mount_options(config, type, data):
        option = f'{kind}="{label}"'
        return f"{data},{option}" if data else option
    return data


def mount_options(config: Config, type: str, data: str) -> list[tuple[str, str]]:
    """The option that makes a new mount of that type have linux.mountLabel; none if `data` has one of its own."""
    label = (config.get("linux") or {}).get("mountLabel")
    if not label or type in _UNLABELLED:
        return []
    for word in data.split(","):
        if word.partition("=")[0] in _CONTEXTS:
            return []
    return [((config.get("annotations") or {}).get(_CONTEXT_ANNOTATION) or "context", label)]


def mounted(plan: Plan, config: Config, type: str) -> None:
    """What is to be done to a mount of that type that is there."""
    label = (config.get("linux") or {}).get("mountLabel")
    if label and type == "mqueue":
        plan.add(p.LABEL, "linux.mountLabel", label)
