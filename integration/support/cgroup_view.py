# SPDX-License-Identifier: Apache-2.0
"""The cgroup of a container as the kernel shows it, in whichever view of the cgroup tree the container was made."""

from __future__ import annotations

import json

from . import runtimes, users
from .runtimes import Runtime


def read(runtime: Runtime, path: str) -> str:
    """A file of the view, which may be mounted in it only."""
    return runtimes.call(["cat", path], users.me(), view=runtime.view).ok().out


class Group:
    """The container's cgroup: `v1` and `v2` are the controllers it has, by v2's names."""

    def __init__(self, runtime: Runtime, id: str) -> None:
        self.runtime = runtime
        state = json.loads((runtime.state_root / id / "state.json").read_text())
        self.paths: dict[str, str] = (state.get("cgroup") or {}).get("paths") or {}
        self.v1 = {"io" if name == "blkio" else name for name in self.paths if name}
        self.v2: set[str] = set()
        if "" in self.paths:
            self.v2 = set(read(runtime, self.paths[""] + "/cgroup.controllers").split())

    def has(self, controller: str) -> bool:
        return controller in self.v1 or controller in self.v2

    def value(self, controller: str, v1_file: str, v2_file: str) -> str:
        """What a knob reads, on whichever hierarchy the controller is."""
        if controller in self.v1:
            path = f"{self.paths['blkio' if controller == 'io' else controller]}/{v1_file}"
        else:
            path = f"{self.paths['']}/{v2_file}"
        return read(self.runtime, path).strip()

    def exists(self, controller: str, v1_file: str, v2_file: str) -> bool:
        name = "blkio" if controller == "io" else controller
        path = f"{self.paths[name]}/{v1_file}" if controller in self.v1 else f"{self.paths['']}/{v2_file}"
        return runtimes.call(["test", "-e", path], users.me(), view=self.runtime.view).code == 0
