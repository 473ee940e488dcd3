# SPDX-License-Identifier: Apache-2.0
"""A plan in words: `ctnr plan`, `ctnr run --explain`. Reads plans, decides nothing."""

from __future__ import annotations

from ctnr.runtime import plan as p
from ctnr.runtime.plan import Plan, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# {0}.. are args, {s0}.. strings, {flags0}-like names a reading of an arg
WORDS = {
    p.OOM_SCORE: "set oom_score_adj",
    p.NODUMP: "become undumpable and let go of the host's files: nobody who shares a namespace may look into this process",
    p.CGROUP: "join {ref}",
    p.JOIN: "join namespace {ref}",
    p.UNSHARE: "enter a new {clone0} namespace",
    p.TIMENS: "make a time namespace for the next process, offsets: {s0}",
    p.CLONE: "go on in a new process{clone0}",
    p.SYNC: "wait for the runtime: {phase}",
    p.SETID0: "become user 0:0 of the user namespace",
    p.LOOPBACK: "bring the loopback interface up",
    p.SETSID: "start a new session",
    p.PROPAGATION: "make mounts at {s0} {ms0}",
    p.HOST_MOUNT: "mount {s1} on {s2} of the new mount namespace ({s3})",
    p.HOST_MKDIR: "make directory {s0} in the new mount namespace",
    p.HOST_HIDE: "unmount or cover the host's {s0}",
    p.ROOTFS: "take {s0} as the root",
    p.FSMOUNT: "mount {s1} on {s2} ({attr0} {s3})",
    p.TREE: "take {s0}{ref} to be bound",
    p.ATTACH: "bind it on {s0}",
    p.SETATTR: "set attributes of the mount {s0}: set {attr0}, clear {attr1}, propagation {ms2}",
    p.LABEL: "give it the SELinux label {s0}",
    p.REMOUNT: "remount {s0} ({ms0} {s1})",
    p.MKNOD: "make node {s0} (type and mode {oct0}, {1}:{2}, owner {3}:{4})",
    p.SYMLINK: "make symlink {s1} -> {s0}",
    p.UMOUNT: "unmount {s0}",
    p.MASK: "mask {s0}",
    p.READONLY: "make {s0} read-only",
    p.PIVOT: "{pivot}",
    p.HOSTNAME: "set hostname {s0}",
    p.DOMAINNAME: "set domainname {s0}",
    p.SYSCTL: "write {s1} to /proc/sys/{s0}",
    p.ATTRIBUTE: "write {s1} to `/proc/{s0}`",  # podman looks for a path in such quotes
    p.KEYRING: "join session keyring {s0}",
    p.CONSOLE: "open a terminal of {0} rows and {1} columns as stdio",
    p.HOOK_OUTPUT: "send what hooks write to their fd {0} to a file",
    p.HOOK: "run hook {s0} (timeout {0} ms)",
    p.RLIMIT: "set rlimit {0} to {1} (hard {2})",
    p.SCHEDULER: "be scheduled as {s1}",
    p.IO_PRIORITY: "set the I/O priority {s0}",
    p.AFFINITY: "run on CPUs {s1}",
    p.MEMORY_POLICY: "set the memory policy {s1}",
    p.PERSONALITY: "set the personality {s0}",
    p.MKCWD: "make the working directory {s0} if it is missing",
    p.USER: "become user {0}:{1} with {2} supplementary groups",
    p.BOUNDING: "keep in the bounding set {caps0}",
    p.CAPS: "set capabilities: effective {caps0}, permitted {caps1}, inheritable {caps2}, ambient {caps3}",
    p.UMASK: "set umask {oct0}",
    p.CWD: "change to directory {s0}",
    p.NO_NEW_PRIVS: "give up new privileges",
    p.LANDLOCK: "make a Landlock ruleset: access to files {0:#x}, to TCP ports {1:#x}, scopes {2:#x}",
    p.LANDLOCK_PATH: "let the program have access {0:#x} below {s0}",
    p.LANDLOCK_PORT: "let the program have access {0:#x} to TCP port {1}",
    p.LANDLOCK_SELF: "enforce the Landlock ruleset",
    p.SECCOMP: "install the seccomp filter",
    p.LOOKUP: "find the program {s0} in {s1}",
    p.WAIT: "wait for start",
    p.REAPER: "stay as pid 1 and reap; the program is its child",
    p.EXEC: "execute {list0}",
}

PHASES = {
    p.PHASE_MAPS: "to write the id maps",
    p.PHASE_HOOKS: "to run the prestart and createRuntime hooks",
    p.PHASE_LIMITS: "to set the resource limits that only it may set",
    p.PHASE_DEVICES: "to move the network devices here",
    p.PHASE_CGROUP: "to put this process into its cgroup",
    p.PHASE_LISTENER: "to say what the listener of seccomp notifications is told",
}


def explain(plan: Plan) -> str:
    """The plan in words, a line a step, each with the config field it came from."""
    lines = []
    if plan.clone:
        lines.append(f"start in new namespaces: {_clone_words(plan.clone)}  [linux.namespaces]")
    for step in plan.steps:
        text = words(step)
        lines.append(f"{text}  [{step.field}]" if step.field else text)
    width = len(str(len(lines)))
    return "".join(f"{i + 1:{width}} {line}\n" for i, line in enumerate(lines))


def _clone_words(flags: int) -> str:
    from ctnr.spec.tables import NAMESPACES

    return " ".join(name for name, flag in NAMESPACES.items() if flags & flag)


def _flag_words(value: int, prefix: str) -> str:
    from ctnr.spec import tables

    names = [
        (name[len(prefix) :].lower(), number)
        for name, number in vars(tables).items()
        if name.startswith(prefix) and isinstance(number, int) and number and name != "MOUNT_ATTR__ATIME"
    ]
    return ",".join(name for name, number in names if value & number == number) or "none"


def _caps_words(mask: int) -> str:
    from ctnr.spec.tables import CAPABILITIES

    if mask == 0:
        return "none"
    names = [name for name, number in CAPABILITIES.items() if mask >> number & 1]
    return "all" if len(names) == len(CAPABILITIES) else " ".join(names)


def words(step: Step) -> str:
    args = (*step.args, 0, 0, 0, 0, 0)[:5]
    values: dict[str, Any] = {"ref": step.ref}
    for i in range(4):
        text = step.strings[i] if i < len(step.strings) else None
        if isinstance(text, bytes):
            values[f"list{i}"] = " ".join(part.decode("utf-8", "replace") for part in text.split(b"\0"))
            text = values[f"list{i}"] if step.op in (p.EXEC, p.HOOK) else f"{len(text)} bytes"
        values[f"s{i}"] = text if text is not None else ""
    form = WORDS[step.op]
    for i, value in enumerate(args):
        if f"{{clone{i}}}" in form:
            names = _clone_words(value)
            values[f"clone{i}"] = f" in new namespaces: {names}" if step.op == p.CLONE and names else names
        if f"{{ms{i}}}" in form:
            values[f"ms{i}"] = _flag_words(value, "MS_")
        if f"{{attr{i}}}" in form:
            values[f"attr{i}"] = _flag_words(value, "MOUNT_ATTR_")
        if f"{{caps{i}}}" in form:
            values[f"caps{i}"] = _caps_words(value)
        if f"{{oct{i}}}" in form:
            values[f"oct{i}"] = f"{value:o}"
    if step.op == p.SECCOMP and step.ref:
        form += " and send the fd of its notifications to the listener"
    if step.op == p.SYNC:
        values["phase"] = PHASES[args[0]]
    if step.op == p.PIVOT:
        how = {p.PIVOT_MOVE: "move the root to / and chroot", p.PIVOT_CHROOT: "chroot into the root"}
        values["pivot"] = how.get(
            step.flags & (p.PIVOT_MOVE | p.PIVOT_CHROOT), "pivot_root into the root, detach the old one"
        )
        if step.flags & p.PIVOT_READONLY:
            values["pivot"] += ", make it read-only"
    if step.op == p.AFFINITY and not values["s1"]:
        form = "run on whatever CPU the cgroup allows"
    text = form.format(*args, **values)
    if step.op == p.OOM_SCORE:
        text += f" {args[0] - 1000}"
    return " ".join(text.split())
