# SPDX-License-Identifier: Apache-2.0
"""Bundles: a directory with a config.json that the test changes, and a busybox root filesystem owned by whoever runs it."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from . import machine, rootfs
from .users import ONE_ID, SUBIDS, User

_numbers = itertools.count(1)
Config = dict[str, Any]
# ids that are mapped for a user with ranges: 0 is the user, 1..65535 the range
RANGE = 65535


def base_config(user: User) -> Config:
    """The document `ctnr-oci spec` (`--rootless` for users) writes, without a terminal, with the ranges `user` has."""
    from ctnr.spec.default import default_config

    config = cast("Config", default_config(rootless=user.rootless, uid=user.uid, gid=user.gid))
    config["process"]["terminal"] = False
    if user.kind == SUBIDS and user.sub:
        config["linux"]["uidMappings"] = [
            {"containerID": 0, "hostID": user.uid, "size": 1},
            {"containerID": 1, "hostID": user.sub[0], "size": RANGE},
        ]
        config["linux"]["gidMappings"] = [
            {"containerID": 0, "hostID": user.gid, "size": 1},
            {"containerID": 1, "hostID": user.sub[1], "size": RANGE},
        ]
    return config


def new_id() -> str:
    """A container id nobody else uses; it carries our token."""
    return f"{machine.TOKEN}-{next(_numbers)}"


class Bundle:
    """A bundle on disk. `config` is written by `save()`, which the runtime helpers call."""

    def __init__(self, path: Path, config: Config, user: User) -> None:
        self.path = path
        self.config = config
        self.user = user

    @property
    def root(self) -> Path:
        return self.path / "rootfs"

    @property
    def process(self) -> Config:
        found: Config = self.config["process"]
        return found

    @property
    def linux(self) -> Config:
        found: Config = self.config["linux"]
        return found

    def save(self) -> Bundle:
        (self.path / "config.json").write_text(json.dumps(self.config, indent=1))
        return self

    def namespace(self, kind: str, path: str | None = None) -> None:
        """Ask for a namespace of `kind` (joined at `path`), replacing what was asked for it."""
        self.without_namespace(kind)
        self.linux["namespaces"].append({"type": kind} | ({"path": path} if path else {}))

    def without_namespace(self, kind: str) -> None:
        self.linux["namespaces"] = [n for n in self.linux["namespaces"] if n["type"] != kind]

    def has_namespace(self, kind: str) -> bool:
        return any(n["type"] == kind for n in self.linux["namespaces"])

    def mount(self, destination: str, type: str, source: str, *options: str) -> None:
        self.config["mounts"].append(
            {"destination": destination, "type": type, "source": source, "options": list(options)}
        )

    def file(self, name: str, text: str, mode: int = 0o644) -> Path:
        """A file in the root filesystem."""
        path = self.root / name.lstrip("/")
        missing = [p for p in path.parents if not p.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)
        for made in (path, *missing):
            rootfs.give(made, self.user.uid, self.user.gid)
        return path

    def writable(self) -> Bundle:
        self.config["root"]["readonly"] = False
        return self


Change = Callable[[Bundle], object]
MakeBundle = Callable[..., Bundle]  # the fixtures bundle and bundle_of


def make(path: Path, user: User, *args: str, change: Change | None = None) -> Bundle:
    """A bundle at `path` for `user` whose program is `args` (default: the payload's facts)."""
    path.mkdir(parents=True)
    rootfs.make_busybox(path / "rootfs", user.uid, user.gid)
    bundle = Bundle(path, base_config(user), user)
    bundle.process["args"] = list(args) or ["/probe"]
    if change:
        change(bundle)
    bundle.save()
    if os.getuid() == 0:
        os.chown(path, user.uid, user.gid)
    return bundle


def one_id(user: User) -> bool:
    return user.kind == ONE_ID
