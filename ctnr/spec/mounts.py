# SPDX-License-Identifier: Apache-2.0
"""What the option strings of a mount mean (runtime-spec config.md#linux-mount-options).

HOT: imported by create, run and start.
"""

from __future__ import annotations

from ctnr.errors import SpecError
from ctnr.spec.schema import quote
from ctnr.spec.tables import (
    MOUNT_ATTR__ATIME,
    MOUNT_EXTENSIONS,
    MOUNT_FLAGS,
    MOUNT_PROPAGATION,
    MOUNT_RECURSIVE,
    MS_BIND,
    MS_NOATIME,
    MS_REC,
    MS_RELATIME,
    MS_REMOUNT,
    MS_STRICTATIME,
)

_MS_ATIME = MS_NOATIME | MS_RELATIME | MS_STRICTATIME


class MountOptions:
    """One mount's options, taken apart. What is asked for last wins.

    flags, clear: MS_* asked for, and asked not to be (`clear` matters where something is inherited: binds, remounts).
    attr_set, attr_clr: the part of the same that mount_setattr(2) can do, as its MOUNT_ATTR_*; with any of the
        access-time options attr_clr has the whole MOUNT_ATTR__ATIME, as the call wants it.
    rec_set, rec_clr: MOUNT_ATTR_* of the r* options, for mount_setattr(2) with AT_RECURSIVE.
    propagation: MS_SHARED, MS_SLAVE, MS_PRIVATE, MS_UNBINDABLE, each perhaps with MS_REC, in order.
    data: the filesystem's own options, joined by commas.
    bind: a bind mount, recursive (`rbind`) or not.
    idmap, idmap_maps: "", "idmap" or "ridmap", and the mappings behind it, if it has any (crun).
    """

    __slots__ = (
        "attr_clr",
        "attr_set",
        "bind",
        "clear",
        "copy_symlink",
        "data",
        "dest_nofollow",
        "flags",
        "idmap",
        "idmap_maps",
        "propagation",
        "rbind",
        "rec_clr",
        "rec_set",
        "remount",
        "src_nofollow",
        "tmpcopyup",
    )

    def __init__(self) -> None:
        self.flags = 0
        self.clear = 0
        self.attr_set = 0
        self.attr_clr = 0
        self.rec_set = 0
        self.rec_clr = 0
        self.propagation: list[int] = []
        self.data = ""
        self.bind = False
        self.rbind = False
        self.remount = False
        self.idmap = ""
        self.idmap_maps = ""
        self.tmpcopyup = False
        self.copy_symlink = False
        self.src_nofollow = False
        self.dest_nofollow = False


# the same few lists are read by validation and by the plan, for every container of a program; nobody changes the result
_known: dict[tuple[str, ...], MountOptions] = {}
_MAX_KNOWN = 256


def parse_options(options: list[str], path: str) -> MountOptions:
    """Take a mount's `options` apart; `path` is their JSON path, for errors.

    An unknown option is the filesystem's own. A bind mount has no filesystem to give it to: there a word is a SpecError,
    and what has a value (mode=755) goes nowhere, as with mount(8), runc and crun; validate() warns of it.
    """
    key = tuple(options)
    known = _known.get(key)
    if known is not None:
        return known
    o = MountOptions()
    data: list[str] = []
    for option in options:
        flag = MOUNT_FLAGS.get(option)
        if flag is not None:
            _flag(o, *flag)
        elif option in MOUNT_PROPAGATION:
            o.propagation.append(MOUNT_PROPAGATION[option])
        elif option in MOUNT_RECURSIVE:
            inverse, attr = MOUNT_RECURSIVE[option]
            o.rec_set, o.rec_clr = _attr(o.rec_set, o.rec_clr, inverse, attr)
        elif option == "idmap" or option == "ridmap":
            o.idmap = option
        elif option.startswith(("idmap=", "ridmap=")):
            o.idmap, _, o.idmap_maps = option.partition("=")
        elif option in MOUNT_EXTENSIONS:
            setattr(o, option.replace("-", "_"), True)
        elif option:
            data.append(option)
    o.bind = o.flags & MS_BIND != 0
    o.rbind = o.flags & MS_REC != 0
    o.remount = o.flags & MS_REMOUNT != 0
    if o.bind:
        for option in data:
            if "=" not in option:
                where = f"{path}[{options.index(option)}]"
                raise SpecError(where, f"unknown mount option {quote(option)} for a bind mount")
    o.data = ",".join(data)
    if len(_known) >= _MAX_KNOWN:
        _known.clear()
    _known[key] = o
    return o


def _flag(o: MountOptions, inverse: bool, flag: int, attr: int | None) -> None:
    if inverse:
        o.flags &= ~flag
        o.clear |= flag
    else:
        if flag & _MS_ATIME:
            # one field in truth: MS_STRICTATIME would beat a later noatime
            o.flags &= ~_MS_ATIME
        o.flags |= flag
        o.clear &= ~flag
    if attr is not None:
        o.attr_set, o.attr_clr = _attr(o.attr_set, o.attr_clr, inverse, attr)


def _attr(attr_set: int, attr_clr: int, inverse: bool, attr: int) -> tuple[int, int]:
    """The sets with one attribute asked for, or (`inverse`) asked not to be."""
    if attr & MOUNT_ATTR__ATIME == attr:
        # the access-time values exclude each other and are set by clearing the field first (mount_setattr(2));
        # the inverse of one leaves the others alone
        if not inverse:
            attr_set = attr_set & ~MOUNT_ATTR__ATIME | attr
        elif attr_set & MOUNT_ATTR__ATIME == attr:
            attr_set &= ~MOUNT_ATTR__ATIME
        return attr_set, attr_clr | MOUNT_ATTR__ATIME
    if inverse:
        return attr_set & ~attr, attr_clr | attr
    return attr_set | attr, attr_clr & ~attr
