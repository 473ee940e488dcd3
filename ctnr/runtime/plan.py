# SPDX-License-Identifier: Apache-2.0
"""The plan: typed steps in execution order, each with the config field it came from; its encoding; its words.

HOT. The only producer of the format in `_native/plan.h`. What a step means is written there and in `init/`.
"""

from __future__ import annotations

from _struct import Struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# enum plan_op of plan.h, in its order; a test compares the two
(
    NONE,
    OOM_SCORE,
    NODUMP,
    CGROUP,
    JOIN,
    UNSHARE,
    TIMENS,
    CLONE,
    SYNC,
    SETID0,
    LOOPBACK,
    SETSID,
    PROPAGATION,
    HOST_MOUNT,
    HOST_MKDIR,
    HOST_HIDE,
    ROOTFS,
    FSMOUNT,
    TREE,
    ATTACH,
    SETATTR,
    LABEL,
    REMOUNT,
    MKNOD,
    SYMLINK,
    UMOUNT,
    MASK,
    READONLY,
    PIVOT,
    HOSTNAME,
    DOMAINNAME,
    SYSCTL,
    ATTRIBUTE,
    KEYRING,
    CONSOLE,
    HOOK_OUTPUT,
    HOOK,
    RLIMIT,
    SCHEDULER,
    IO_PRIORITY,
    AFFINITY,
    MEMORY_POLICY,
    PERSONALITY,
    MKCWD,
    USER,
    BOUNDING,
    CAPS,
    UMASK,
    CWD,
    NO_NEW_PRIVS,
    LANDLOCK,
    LANDLOCK_PATH,
    LANDLOCK_PORT,
    LANDLOCK_SELF,
    SECCOMP,
    LOOKUP,
    WAIT,
    REAPER,
    EXEC,
) = range(59)

# flags, as in plan.h
JOIN_RETRY = 1
SYNC_NETLINK = 1
FSMOUNT_LEGACY, FSMOUNT_STRICT, FSMOUNT_COPYUP, FSMOUNT_MODE, FSMOUNT_DETACHED = 1, 2, 4, 8, 16
TREE_NOFOLLOW, TREE_DEVICE, TREE_PARENT = 1, 2, 4
ATTACH_NOFOLLOW = 1
PIVOT_MOVE, PIVOT_READONLY, PIVOT_CHROOT = 1, 2, 4
ROOTFS_PLAIN = 1
SYMLINK_REPLACE, SYMLINK_KEEP = 1, 2
ATTRIBUTE_OPTIONAL = 1
CWD_TRY = 1
CONSOLE_BIND = 1
USER_SETGROUPS = 1
LANDLOCK_OPTIONAL = 1
SECCOMP_PIPE = 1
EXEC_HOME = 1

PHASE_MAPS, PHASE_HOOKS, PHASE_LIMITS, PHASE_LISTENER, PHASE_DEVICES, PHASE_CGROUP = 1, 2, 3, 4, 5, 6
MSG_ERROR, MSG_SYNC, MSG_PID, MSG_CONSOLE, MSG_READY, MSG_GO = 1, 2, 3, 4, 5, 6
ERR_SYSCALL, ERR_NOT_FOUND, ERR_NOT_EXEC, ERR_ESCAPED, ERR_UNSAFE = 0, 1, 2, 3, 4
ERR_HOOK_STATUS, ERR_HOOK_TIMEOUT, ERR_PLAN, ERR_MISSING = 5, 6, 7, 8
MESSAGE = Struct("<IIiI")

_MAGIC = 0x314E4C50
_HEADER = Struct("<IIII")
_STEP = Struct("<HHi5Q4I")
_LENGTH = Struct("<I")
_NO_ARGS = (0, 0, 0, 0, 0)


class Step:
    """One step. `ref` names an fd that the launcher opens or makes ("" for none): see launch.py."""

    __slots__ = ("args", "field", "flags", "op", "ref", "strings")

    def __init__(
        self,
        op: int,
        field: str,
        strings: tuple[str | bytes | None, ...],
        args: tuple[int, ...],
        flags: int,
        ref: str,
    ) -> None:
        self.op = op
        self.field = field
        self.strings = strings
        self.args = args
        self.flags = flags
        self.ref = ref


class Plan:
    """Steps, in order. `clone` is the CLONE_NEW* of the first process; the rest is in the steps."""

    __slots__ = ("clone", "steps")

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.clone = 0

    def add(
        self,
        op: int,
        field: str,
        *strings: str | bytes | None,
        args: tuple[int, ...] = (),
        flags: int = 0,
        ref: str = "",
    ) -> None:
        self.steps.append(Step(op, field, strings, args, flags, ref))

    def encode(self, fds: dict[str, int]) -> bytes:
        """The buffer for the init; `fds` has a number for every ref."""
        steps = self.steps
        offset = _HEADER.size + len(steps) * _STEP.size
        head = []
        body: list[bytes] = []
        pack = _STEP.pack
        for step in steps:
            offsets = [0, 0, 0, 0]
            for i, text in enumerate(step.strings):
                if text is not None:
                    packed = _packed.get(text) or _pack(text)
                    offsets[i] = offset
                    body.append(packed)
                    offset += len(packed)
            args = step.args
            if len(args) < 5:
                args += _NO_ARGS[len(args) :]
            ref = step.ref
            head.append(pack(step.op, step.flags, fds[ref] if ref else -1, *args, *offsets))
        return _HEADER.pack(_MAGIC, offset, len(steps), 0) + b"".join(head) + b"".join(body)

    def explain(self) -> str:
        """The plan in words, a line a step, each with the config field it came from."""
        from ctnr.runtime.explain import explain

        return explain(self)


# strings as the plan has them: most are the same in every plan of a program
_packed: dict[str | bytes, bytes] = {}
_MAX_PACKED = 4096


def _pack(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    packed = _LENGTH.pack(len(data)) + data + b"\0\0\0\0"[len(data) & 3 :]  # at least one NUL
    if len(data) < 256:
        if len(_packed) >= _MAX_PACKED:
            _packed.clear()
        _packed[text] = packed
    return packed


def explain_step(step: Step) -> str:
    from ctnr.runtime.explain import words

    return words(step)


def numbers(items: Iterable[int]) -> bytes:
    """A list of u32 as the plan has it."""
    return b"".join([item.to_bytes(4, "little") for item in items])


def strings(items: list[str]) -> bytes:
    """A list (argv, env) as the plan has it."""
    if not items:
        return b""
    return ("\0".join(items) + "\0").encode("utf-8", "surrogateescape")
