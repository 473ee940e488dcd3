# SPDX-License-Identifier: Apache-2.0
"""Roots that forget: overlays on a tmpfs, mounted by the init in the container's own mount namespace. HOT (run)."""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.engine.sources import LAYER
from ctnr.runtime import plan as p
from ctnr.spec.tables import MS_NODEV, MS_NOSUID

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ctnr.engine.sources import Source
    from ctnr.runtime.plan import Step

_MAX_LINKS = 40
# where everybody expects to be able to write
_OWN = ("/tmp", "/var/tmp", "/root", "/run")
_S_IFMT, _S_IFDIR, _S_IFLNK = 0o170000, 0o040000, 0o120000


def root_steps(source: Source, state_dir: str, user_namespace: bool, targets: Iterable[str] = ()) -> list[Step]:
    """Steps that mount the overlays of a source. `targets`: paths in the container where something will be mounted.

    In a user namespace the directories of somebody else stay somebody else's, and nothing can be made in them. Those that
    get a mount target, or in which everybody writes, are made anew in the upper layer, where they merge with what is below.
    """
    if not source.lower:
        return []
    field = "SOURCE"
    plan = p.Plan()
    layer, root = f"{state_dir}/{LAYER}", source.root(state_dir)
    plan.add(p.HOST_MOUNT, field, "tmpfs", "tmpfs", layer, "mode=755", args=(MS_NOSUID | MS_NODEV,))
    plan.add(p.HOST_MKDIR, field, root, args=(0o755,))
    own = _own_directories(source.look, targets) if user_namespace else {}
    whole = not source.lower[0][0]  # the points below it are directories of its own then
    for i, (point, lower) in enumerate(source.lower):
        target = root + point
        upper, work = f"{layer}/upper{i}", f"{layer}/work{i}"
        for directory in (upper, work) if whole else (upper, work, target):
            plan.add(p.HOST_MKDIR, field, directory, args=(0o755,))
        for path, mode in own.items():
            if path.startswith(point + "/"):
                plan.add(p.HOST_MKDIR, field, upper + path[len(point) :], args=(mode,))
        data = f"lowerdir={_escape(lower)},upperdir={_escape(upper)},workdir={_escape(work)}"
        if user_namespace:
            data += ",userxattr"
        plan.add(p.HOST_MOUNT, field, "overlay", "overlay", target, data)
    return plan.steps


def _escape(path: str) -> str:
    """A path in overlayfs' options, where `:` parts layers and `,` options."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _own_directories(look: str, targets: Iterable[str]) -> dict[str, int]:
    """Directories of the tree `look` that have to be the container's own, parents first, and their modes."""
    own: dict[str, int] = {}
    root_fd = files.open_dir(look)
    try:
        for path in (*_OWN, *targets):
            names, missing = _walk(root_fd, path)
            if not missing and path not in _OWN:
                continue
            for end in range(1, len(names) + 1):
                name = "/".join(names[:end])
                try:
                    own["/" + name] = posix.stat(name, dir_fd=root_fd, follow_symlinks=False).st_mode & 0o7777
                except OSError:
                    break  # it went away
    finally:
        posix.close(root_fd)
    return own


def _walk(root_fd: int, path: str) -> tuple[list[str], bool]:
    """Where `path` leads within a root: as many directories as there are, and whether something is missing below them."""
    found: list[str] = []
    rest = path.split("/")[::-1]
    links = 0
    while rest:
        name = rest.pop()
        if name in ("", "."):
            continue
        if name == "..":
            del found[-1:]
            continue
        here = "/".join([*found, name])
        try:
            kind = posix.stat(here, dir_fd=root_fd, follow_symlinks=False).st_mode & _S_IFMT
            if kind == _S_IFLNK:
                target = posix.readlink(here, dir_fd=root_fd)
        except OSError:
            return found, True
        if kind == _S_IFDIR:
            found.append(name)
        elif kind == _S_IFLNK and links < _MAX_LINKS:
            links += 1
            rest += target.split("/")[::-1]
            if target.startswith("/"):
                found = []
        else:
            return found, False  # a file
    return found, False
