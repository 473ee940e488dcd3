# SPDX-License-Identifier: Apache-2.0
"""ctnr.spec.mounts: every option of the runtime-spec's table, written down here a second time, by the numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr.errors import SpecError
from ctnr.spec import tables
from ctnr.spec.mounts import MountOptions, parse_options

ATIME = 0x70

# config.md#linux-mount-options; (flags, clear, attr_set, attr_clr)
FLAGS: dict[str, tuple[int, int, int, int]] = {
    "async": (0, 0x10, 0, 0),
    "atime": (0, 0x400, 0, ATIME),
    "bind": (0x1000, 0, 0, 0),
    "defaults": (0, 0, 0, 0),
    "dev": (0, 0x4, 0, 0x4),
    "diratime": (0, 0x800, 0, 0x80),
    "dirsync": (0x80, 0, 0, 0),
    "exec": (0, 0x8, 0, 0x8),
    "iversion": (1 << 23, 0, 0, 0),
    "lazytime": (1 << 25, 0, 0, 0),
    "loud": (0, 0x8000, 0, 0),
    "mand": (0x40, 0, 0, 0),
    "noatime": (0x400, 0, 0x10, ATIME),
    "nodev": (0x4, 0, 0x4, 0),
    "nodiratime": (0x800, 0, 0x80, 0),
    "noexec": (0x8, 0, 0x8, 0),
    "noiversion": (0, 1 << 23, 0, 0),
    "nolazytime": (0, 1 << 25, 0, 0),
    "nomand": (0, 0x40, 0, 0),
    "norelatime": (0, 1 << 21, 0, ATIME),
    "nostrictatime": (0, 1 << 24, 0, ATIME),
    "nosuid": (0x2, 0, 0x2, 0),
    "nosymfollow": (0x100, 0, 0x200000, 0),
    "rbind": (0x5000, 0, 0, 0),
    "relatime": (1 << 21, 0, 0, ATIME),
    "remount": (0x20, 0, 0, 0),
    "ro": (0x1, 0, 0x1, 0),
    "rw": (0, 0x1, 0, 0x1),
    "silent": (0x8000, 0, 0, 0),
    "strictatime": (1 << 24, 0, 0x20, ATIME),
    "suid": (0, 0x2, 0, 0x2),
    "symfollow": (0, 0x100, 0, 0x200000),
    "sync": (0x10, 0, 0, 0),
}

# (rec_set, rec_clr)
RECURSIVE: dict[str, tuple[int, int]] = {
    "ratime": (0, ATIME),
    "rdev": (0, 0x4),
    "rdiratime": (0, 0x80),
    "rexec": (0, 0x8),
    "rnoatime": (0x10, ATIME),
    "rnodev": (0x4, 0),
    "rnodiratime": (0x80, 0),
    "rnoexec": (0x8, 0),
    "rnorelatime": (0, ATIME),
    "rnostrictatime": (0, ATIME),
    "rnosuid": (0x2, 0),
    "rnosymfollow": (0x200000, 0),
    "rrelatime": (0, ATIME),
    "rro": (0x1, 0),
    "rrw": (0, 0x1),
    "rstrictatime": (0x20, ATIME),
    "rsuid": (0, 0x2),
    "rsymfollow": (0, 0x200000),
}

PROPAGATION = {
    "private": 1 << 18,
    "rprivate": 1 << 18 | 1 << 14,
    "rshared": 1 << 20 | 1 << 14,
    "rslave": 1 << 19 | 1 << 14,
    "runbindable": 1 << 17 | 1 << 14,
    "shared": 1 << 20,
    "slave": 1 << 19,
    "unbindable": 1 << 17,
}

# (field, value)
EXTENSIONS: dict[str, tuple[str, Any]] = {
    "idmap": ("idmap", "idmap"),
    "ridmap": ("idmap", "ridmap"),
    "tmpcopyup": ("tmpcopyup", True),
    "copy-symlink": ("copy_symlink", True),
    "src-nofollow": ("src_nofollow", True),
    "dest-nofollow": ("dest_nofollow", True),
}

ALL = [*FLAGS, *RECURSIVE, *PROPAGATION, *EXTENSIONS]


def fields(o: MountOptions) -> dict[str, Any]:
    return {name: getattr(o, name) for name in MountOptions.__slots__}


def expected(**changes: Any) -> dict[str, Any]:
    return {**fields(MountOptions()), **changes}


@pytest.mark.parametrize("option", FLAGS)
def test_flags(option: str) -> None:
    flags, clear, attr_set, attr_clr = FLAGS[option]
    assert fields(parse_options([option], "x")) == expected(
        flags=flags,
        clear=clear,
        attr_set=attr_set,
        attr_clr=attr_clr,
        bind=option in ("bind", "rbind"),
        rbind=option == "rbind",
        remount=option == "remount",
    )


@pytest.mark.parametrize("option", RECURSIVE)
def test_recursive(option: str) -> None:
    rec_set, rec_clr = RECURSIVE[option]
    assert fields(parse_options([option], "x")) == expected(rec_set=rec_set, rec_clr=rec_clr)


@pytest.mark.parametrize("option", PROPAGATION)
def test_propagation(option: str) -> None:
    assert fields(parse_options([option], "x")) == expected(propagation=[PROPAGATION[option]])


@pytest.mark.parametrize("option", EXTENSIONS)
def test_extensions(option: str) -> None:
    field, value = EXTENSIONS[option]
    assert fields(parse_options([option], "x")) == expected(**{field: value})


def test_the_tables_have_these_options_and_no_others() -> None:
    known = [*tables.MOUNT_FLAGS, *tables.MOUNT_RECURSIVE, *tables.MOUNT_PROPAGATION, *tables.MOUNT_EXTENSIONS]
    assert sorted(known) == sorted(ALL)


@pytest.mark.parametrize(
    ("on", "off", "flag", "attr"),
    [
        ("ro", "rw", 0x1, 0x1),
        ("nosuid", "suid", 0x2, 0x2),
        ("nodev", "dev", 0x4, 0x4),
        ("noexec", "exec", 0x8, 0x8),
        ("nodiratime", "diratime", 0x800, 0x80),
        ("nosymfollow", "symfollow", 0x100, 0x200000),
        ("sync", "async", 0x10, 0),
        ("iversion", "noiversion", 1 << 23, 0),
        ("lazytime", "nolazytime", 1 << 25, 0),
        ("silent", "loud", 0x8000, 0),
        ("mand", "nomand", 0x40, 0),
    ],
)
def test_the_last_one_wins(on: str, off: str, flag: int, attr: int) -> None:
    assert fields(parse_options([off, on], "x")) == expected(flags=flag, attr_set=attr)
    assert fields(parse_options([on, off], "x")) == expected(clear=flag, attr_clr=attr)
    if "r" + on in RECURSIVE:
        assert fields(parse_options(["r" + off, "r" + on], "x")) == expected(rec_set=attr)
        assert fields(parse_options(["r" + on, "r" + off], "x")) == expected(rec_clr=attr)


@pytest.mark.parametrize(
    ("options", "flags", "attr"),
    [
        (["noatime", "strictatime"], 1 << 24, 0x20),
        (["strictatime", "noatime"], 0x400, 0x10),
        (["strictatime", "relatime"], 1 << 21, 0),
        (["relatime", "noatime"], 0x400, 0x10),
        (["noatime", "atime"], 0, 0),
        (["strictatime", "atime"], 1 << 24, 0x20),
        (["noatime", "nostrictatime"], 0x400, 0x10),
        (["noatime", "norelatime"], 0x400, 0x10),
        (["strictatime", "nostrictatime"], 0, 0),
    ],
)
def test_access_times_are_one_field(options: list[str], flags: int, attr: int) -> None:
    o = parse_options(options, "x")
    assert (o.flags, o.attr_set, o.attr_clr) == (flags, attr, ATIME)
    r = parse_options(["r" + option for option in options], "x")
    assert (r.rec_set, r.rec_clr) == (attr, ATIME)


def test_propagation_keeps_its_order_and_data_its_order() -> None:
    o = parse_options(["mode=755", "rslave", "", "size=64k", "shared", "nosuid"], "x")
    assert o.propagation == [PROPAGATION["rslave"], PROPAGATION["shared"]]
    assert o.data == "mode=755,size=64k"
    assert o.flags == 0x2


@pytest.mark.parametrize("bind", ["bind", "rbind"])
def test_an_unknown_option_of_a_bind_is_an_error_that_names_it(bind: str) -> None:
    with pytest.raises(SpecError) as e:
        parse_options(["ro", "mode", bind, "size=1"], "mounts[3].options")
    assert str(e.value) == 'mounts[3].options[1]: unknown mount option "mode" for a bind mount'
    assert e.value.path == "mounts[3].options[1]"


@given(st.lists(st.sampled_from(ALL)))
def test_any_combination_is_what_the_kernel_takes(options: list[str]) -> None:
    o = parse_options(options, "x")
    assert o.flags & o.clear == 0
    assert o.data == ""
    for attr_set, attr_clr in ((o.attr_set, o.attr_clr), (o.rec_set, o.rec_clr)):
        # mount_setattr(2): the access time is one of three, and may only be cleared as a whole
        assert attr_set & ATIME in (0, 0x10, 0x20)
        assert attr_clr & ATIME in (0, ATIME)
        if attr_set & ATIME:
            assert attr_clr & ATIME == ATIME
        assert attr_set & attr_clr & ~ATIME == 0
        assert not (attr_set | attr_clr) & 0x100000  # MOUNT_ATTR_IDMAP needs a namespace, which nobody has here
    assert (o.flags & (0x400 | 1 << 21 | 1 << 24)).bit_count() <= 1
    assert o.bind == bool(o.flags & 0x1000)


@given(st.lists(st.text()))
def test_anything_else_is_data(options: list[str]) -> None:
    unknown = [option for option in options if option not in ALL]
    assert parse_options(unknown, "x").data == ",".join(option for option in unknown if option)
