# SPDX-License-Identifier: Apache-2.0
"""Unpacking as from inside the root, and the whiteouts of layers."""

from __future__ import annotations

import itertools
import os
import shutil
import stat

import pytest
from tarmaker import (
    BLOCK,
    archive,
    directory,
    hardlink,
    header,
    member,
    pax,
    symlink,
)
from unpackplace import IN_ROOT, Place

from ctnr.image import dirs, whiteouts

# --- as from inside the root


def test_in_root_names(place: Place, resolver: str) -> None:
    place.unpack(
        archive(
            directory(b"/"),
            member(b"/abs", b"1"),
            member(b"../up", b"2"),
            member(b"a/b/../../../c", b"3"),
            directory(b"a/.."),
            symlink(b"link", b"/usr/lib"),
            member(b"link/x", b"4"),
            symlink(b"far", b"../../../../opt"),
            directory(b"far/y"),
            symlink(b"usr/out", bytes(place.outside)),
            member(b"usr/out/z", b"5"),
            hardlink(b"hard", b"/link/x"),
        ),
        IN_ROOT,
    )
    read = {n: (place.dest / n).read_text() for n in ("abs", "up", "c", "usr/lib/x", "hard")}
    assert read == {"abs": "1", "up": "2", "c": "3", "usr/lib/x": "4", "hard": "4"}
    assert (place.dest / "opt/y").is_dir()
    assert (place.dest / str(place.outside)[1:] / "z").read_text() == "5"


def test_in_root_still_refuses(place: Place, resolver: str) -> None:
    assert "not a directory" in place.refuses(archive(symlink(b".", b"x")), IN_ROOT)
    assert "not a directory" in place.refuses(archive(symlink(b"a/..", b"x")), IN_ROOT)
    assert "no directory" in place.refuses(archive(member(b"f"), member(b"f/x")), IN_ROOT)
    assert "symlinks" in place.refuses(archive(symlink(b"a", b"a"), member(b"a/x")), IN_ROOT)
    assert "device node" in place.refuses(archive(header(b"x", b"3")), IN_ROOT)


def test_in_root_is_lenient_about_the_end(place: Place) -> None:
    place.add(member(b"f"), IN_ROOT)
    place.add(archive(member(b"g")) + b"garbage", IN_ROOT)
    assert place.names() == ["f", "g"]


# --- layers

LOWER = archive(
    directory(b"."),
    directory(b"etc", mtime=10),
    member(b"etc/a", b"lower"),
    member(b"etc/b", b"lower"),
    directory(b"etc/sub", mtime=11),
    member(b"etc/sub/x", b"lower"),
    member(b"etc/sub/y", b"lower"),
    directory(b"opt/deep/er", mtime=12),
    member(b"opt/deep/er/f", b"lower"),
    member(b"opt/deep/f", b"lower"),
    member(b"opt/f", b"lower"),
    symlink(b"link", b"etc"),
    member(b".wh..wh.aufs", b""),
)  # fmt: skip
LOWER_NAMES = {
    "etc", "etc/a", "etc/b", "etc/sub", "etc/sub/x", "etc/sub/y", "link",
    "opt", "opt/deep", "opt/deep/er", "opt/deep/er/f", "opt/deep/f", "opt/f",
}  # fmt: skip
OPAQUE = b"/.wh..wh..opq"
# members of a layer; what of the lower layer they remove; what they add
LAYERS: dict[str, tuple[tuple[bytes, ...], set[str], set[str]]] = {
    "a file": ((member(b"etc/.wh.a"),), {"etc/a"}, set()),
    "a symlink": ((member(b".wh.link"),), {"link"}, set()),
    "a directory": ((member(b"etc/.wh.sub"),), {"etc/sub", "etc/sub/x", "etc/sub/y"}, set()),
    "what is not there": ((member(b"etc/.wh.none"), member(b"none/.wh.x"), member(b"etc/a/.wh.x")), set(), set()),
    "opaque": ((member(b"etc" + OPAQUE),), {"etc/a", "etc/b", "etc/sub", "etc/sub/x", "etc/sub/y"}, set()),
    "opaque root": ((member(OPAQUE[1:]), member(b"new/f")), LOWER_NAMES, {"new", "new/f"}),
    "opaque, with new and replaced files": (
        (member(b"etc" + OPAQUE), member(b"etc/a", b"upper"), member(b"etc/new", b"upper"), directory(b"etc/d")),
        {"etc/b", "etc/sub", "etc/sub/x", "etc/sub/y"},
        {"etc/new", "etc/d"},
    ),
    "opaque, with a directory of both": (
        (member(b"etc" + OPAQUE), directory(b"etc/sub"), member(b"etc/sub/new", b"upper")),
        {"etc/a", "etc/b", "etc/sub/x", "etc/sub/y"},
        {"etc/sub/new"},
    ),
    "opaque, with an implied directory of both": (
        (member(b"opt" + OPAQUE), member(b"opt/deep/er/new", b"upper")),
        {"opt/f", "opt/deep/f", "opt/deep/er/f"},
        {"opt/deep/er/new"},
    ),
    "opaque twice, one below the other": (
        (member(b"opt" + OPAQUE), member(b"opt/deep" + OPAQUE), member(b"opt/deep/er/new", b"upper")),
        {"opt/f", "opt/deep/f", "opt/deep/er/f"},
        {"opt/deep/er/new"},
    ),
    "opaque new directory": ((directory(b"new"), member(b"new" + OPAQUE), member(b"new/f")), set(), {"new", "new/f"}),
    "whiteout of what the layer makes anew": ((member(b"etc/.wh.a"), member(b"etc/a", b"upper")), set(), set()),
    "whiteout of a directory the layer makes anew": (
        (member(b"etc/.wh.sub"), directory(b"etc/sub"), member(b"etc/sub/z", b"upper")),
        {"etc/sub/x", "etc/sub/y"},
        {"etc/sub/z"},
    ),
    "whiteout of a directory the layer makes a file": (
        (member(b"etc/.wh.sub"), member(b"etc/sub", b"upper")),
        {"etc/sub/x", "etc/sub/y"},
        set(),
    ),
    "whiteout below a symlinked directory": ((member(b"link/.wh.a"), member(b"link/new", b"upper")), {"etc/a"}, {"etc/new"}),
    "opaque by way of a symlink": (
        (member(b"link" + OPAQUE), member(b"etc/new", b"upper"), member(b"link/sub/z", b"upper")),
        {"etc/a", "etc/b", "etc/sub/x", "etc/sub/y"},
        {"etc/new", "etc/sub/z"},
    ),
    "other files of aufs": ((member(b".wh..wh.plnk"), member(b".wh..wh.orph"), member(b"etc/.wh..wh.x")), set(), set()),
    "hardlinks and nodes": (
        (member(b"etc" + OPAQUE), member(b"etc/p", kind=b"6"), symlink(b"etc/s", b"t"), directory(b"etc/d")),
        {"etc/a", "etc/b", "etc/sub", "etc/sub/x", "etc/sub/y"},
        {"etc/p", "etc/s", "etc/d"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("recent", [1, 1 << 16])
@pytest.mark.parametrize("name", LAYERS)
def test_whiteouts_in_any_order(
    place: Place, resolver: str, monkeypatch: pytest.MonkeyPatch, name: str, recent: int
) -> None:
    monkeypatch.setattr(whiteouts, "_RECENT_MAX", recent)
    members, removed, added = LAYERS[name]
    named = {m[:100].rstrip(b"\0").decode() for m in members if b"upper" in m[BLOCK:]}
    upper = {n.replace("link/", "etc/") for n in named}
    for order in itertools.permutations(members):
        place.add(LOWER)
        place.add(archive(*order))
        assert set(place.names()) == LOWER_NAMES - removed | added, [m[:30].rstrip(b"\0") for m in order]
        for path in place.dest.rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size:
                assert path.read_text() == ("upper" if str(path.relative_to(place.dest)) in upper else "lower")
        shutil.rmtree(place.dest)


@pytest.mark.parametrize("open_max", [1, 48])
def test_whiteouts_leave_directory_times(place: Place, monkeypatch: pytest.MonkeyPatch, open_max: int) -> None:
    monkeypatch.setattr(dirs, "_OPEN_MAX", open_max)
    place.add(LOWER)
    place.add(
        archive(member(b"opt/deep/er/new"), member(b"etc/sub/.wh.x"), member(b"etc/.wh.a"), member(b"opt" + OPAQUE))
    )
    times = {n: (place.dest / n).stat().st_mtime for n in ("etc", "etc/sub", "opt/deep/er")}
    assert times == {"etc": 10, "etc/sub": 11, "opt/deep/er": 12}


def test_whiteouts_off_are_files(place: Place) -> None:
    place.unpack(archive(member(b"a"), member(b".wh.a"), member(b".wh..wh..opq")))
    assert place.names() == [".wh..wh..opq", ".wh.a", "a"]


def test_whiteout_of_a_symlink_removes_the_link(place: Place, resolver: str) -> None:
    place.add(archive(symlink(b"s", bytes(place.outside))))
    report = place.add(archive(member(b".wh.s")))
    assert place.names() == []
    assert report.whiteouts == 1


def test_whiteouts_do_not_reach_outside(place: Place, resolver: str) -> None:
    place.add(archive(symlink(b"s", bytes(place.outside)), symlink(b"t", b"../outside")))
    place.add(
        archive(member(b"s/.wh.secret"), member(b"s" + OPAQUE), member(b"t/.wh.sub"), member(b"../outside/.wh.secret"))
    )


def test_a_layer_replaces_metadata_of_directories(place: Place) -> None:
    place.add(archive(pax((b"SCHILY.xattr.user.old", b"1")), directory(b"d", mode=0o700), member(b"d/f")))
    if "user.old" not in os.listxattr(place.dest / "d"):
        pytest.skip("this filesystem has no user.* attributes")
    place.add(archive(pax((b"SCHILY.xattr.user.new", b"2")), directory(b"d", mode=0o711, mtime=9)))
    d = place.dest / "d"
    assert (stat.S_IMODE(d.stat().st_mode), d.stat().st_mtime) == (0o711, 9)
    assert [x for x in os.listxattr(d) if x.startswith("user.")] == ["user.new"]
    assert (d / "f").exists()
