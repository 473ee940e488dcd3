# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.idmounts: which mappings a mount gets, the words of crun's option, what is refused before there is a mount."""

from __future__ import annotations

from typing import Any

import pytest

from ctnr.errors import SpecError
from ctnr.runtime import compile as compiler
from ctnr.runtime import idmounts
from ctnr.runtime import plan as p
from ctnr.runtime.compile import Context
from ctnr.spec.mounts import parse_options
from ctnr.spec.runtime import validate

MAPS = [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 1000, "hostID": 500, "size": 1}]


def context(
    mount: dict[str, Any], *, euid: int = 0, namespaces: tuple[str, ...] = ("mount", "user"), **linux: Any
) -> Context:
    config: Any = {
        "ociVersion": "1.3.0",
        "root": {"path": "rootfs"},
        "mounts": [{"destination": "/mnt", "source": "/etc", **mount}],
        "process": {"cwd": "/", "args": ["/bin/true"], "user": {"uid": 0, "gid": 0}},
        "linux": {"namespaces": [{"type": n} for n in namespaces], **linux},
    }
    if "user" in namespaces:
        config["linux"] |= {"uidMappings": MAPS, "gidMappings": MAPS}
    validate(config)
    ctx = Context(config, "id", "/bundle")
    ctx.rootfs, ctx.euid, ctx.privileged_parent = "/rootfs", euid, euid == 0 and "user" in namespaces
    return ctx


@pytest.mark.parametrize(
    ("option", "kind", "maps"),
    [
        ("idmap", "idmap", ""),
        ("ridmap", "ridmap", ""),
        ("idmap=uids=0-1-2;gids=3-4-5", "idmap", "uids=0-1-2;gids=3-4-5"),
        ("ridmap=uids=0-1-2;gids=3-4-5", "ridmap", "uids=0-1-2;gids=3-4-5"),
    ],
)
def test_the_option(option: str, kind: str, maps: str) -> None:
    options = parse_options(["rbind", option], "options")
    assert (options.idmap, options.idmap_maps, options.data) == (kind, maps, "")


def test_cruns_mappings() -> None:
    ctx = context({"type": "bind"})
    uids, gids = idmounts.parse_maps(
        ctx, "uids=0-1000-10#10-2000-5;gids=7-@0-1".replace("7-@0-1", "@7-3-1"), "mounts[0]"
    )
    assert uids == [
        {"containerID": 0, "hostID": 1000, "size": 10},
        {"containerID": 10, "hostID": 2000, "size": 5},
    ]
    # 3 in the container is 100003 on the host
    assert gids == [{"containerID": 7, "hostID": 100003, "size": 1}]


@pytest.mark.parametrize(
    "text",
    [
        "uids=0-1-2",
        "gids=0-1-2",
        "uids=0-1;gids=0-1-2",
        "uids=0-1-2-3;gids=0-1-2",
        "uids=a-1-2;gids=0-1-2",
        "uids=0-1-2;uids=0-1-2",
        "uids=0-1-0;gids=0-1-2",
        "uids=0-4294967295-1;gids=0-1-2",
        "uids=@0-70000-1;gids=0-1-2",
        "users=0-1-2;gids=0-1-2",
        "uids=0--1-2;gids=0-1-2",
        "x",
    ],
)
def test_cruns_mappings_that_are_none(text: str) -> None:
    with pytest.raises(SpecError, match=r"^mounts\[0\]\.options: "):
        compiler.compile_create(context({"type": "bind", "options": ["bind", f"idmap={text}"]}))


@pytest.mark.parametrize(
    ("mount", "error"),
    [
        ({"type": "proc", "options": ["idmap"]}, "proc cannot be idmapped"),
        ({"type": "cgroup", "options": ["idmap"]}, "cgroup cannot be idmapped"),
        ({"options": ["idmap", "remount"]}, "a remount cannot be idmapped"),
        ({"type": "tmpfs", "options": ["idmap", "tmpcopyup"]}, "tmpcopyup is not for an idmapped mount"),
        ({"type": "tmpfs", "options": ["idmap", "iversion"]}, "iversion and silent are not for an idmapped mount"),
    ],
)
def test_what_cannot_be_idmapped(mount: dict[str, Any], error: str) -> None:
    with pytest.raises(SpecError, match=error):
        compiler.compile_create(context(mount))


@pytest.mark.parametrize(
    "mount", [{"type": "bind", "options": ["bind", "idmap"]}, {"type": "tmpfs", "options": ["idmap"]}]
)
def test_users_cannot(mount: dict[str, Any]) -> None:
    with pytest.raises(
        SpecError, match=r"mounts\[0\]: id-mapped mounts are not supported for rootless containers: they take root"
    ):
        compiler.compile_create(context(mount, euid=1000))


def test_without_any_mapping() -> None:
    with pytest.raises(SpecError, match="needs uidMappings and gidMappings or a user namespace"):
        context({"type": "bind", "options": ["bind", "idmap"]}, namespaces=("mount",))


def steps_of(ctx: Context) -> list[tuple[int, tuple[int, ...]]]:
    steps = compiler.compile_create(ctx).steps
    first = next(i for i, step in enumerate(steps) if step.op == p.TREE)
    last = next(i for i, step in enumerate(steps) if step.op == p.ATTACH)
    return [(step.op, step.args) for step in steps[first : last + 1]]


@pytest.mark.parametrize("options", [["bind"], ["bind", "idmap"]])
def test_what_the_runtime_opens_is_no_peer_of_the_hosts_mount(options: list[str]) -> None:
    """Else what the container mounts below it is mounted on the host too."""
    slave = (p.SETATTR, (0, 0, 1 << 19, 0))
    assert slave in steps_of(context({"type": "bind", "options": options}))
    assert slave in steps_of(context({"type": "bind", "options": options}, rootfsPropagation="rshared"))
    recursive = (p.SETATTR, (0, 0, 1 << 19, 1))
    assert recursive in steps_of(context({"type": "bind", "options": [*options, "rbind"]}))


def test_a_shared_root_is_asked_for() -> None:
    """Without a user namespace: a peer is what rootfsPropagation means."""
    mount = {"type": "bind", "options": ["bind", "idmap"], "uidMappings": MAPS, "gidMappings": MAPS}
    ctx = context(mount, namespaces=("mount",), rootfsPropagation="shared")
    assert [op for op, _ in steps_of(ctx)] == [p.TREE, p.ATTACH]
