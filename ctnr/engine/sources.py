# SPDX-License-Identifier: Apache-2.0
"""SOURCE of a container's root filesystem: `host:`, a directory, an archive. HOT (run).

A root is either a directory that the container uses as it is, or an overlay that the init mounts in the container's own
mount namespace, over a tmpfs that goes away with it: nothing to clean up, whatever is killed when.
"""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.errors import CtnrError
from ctnr.runtime import plan as p
from ctnr.runtime.compile import exists
from ctnr.runtime.plan import Step
from ctnr.runtime.rootfs import unescape
from ctnr.spec.tables import MS_NODEV, MS_NOSUID

_HOST_SKIP = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/run")
# of the machine's own root, but of its programs that run now: empty in the container
_HOST_FRESH = (("/run", "755"), ("/tmp", "1777"))
_PSEUDO = frozenset(
    "proc sysfs tmpfs devtmpfs devpts mqueue cgroup cgroup2 bpf tracefs debugfs securityfs pstore efivarfs hugetlbfs configfs"
    " fusectl binfmt_misc autofs rpc_pipefs nsfs ramfs selinuxfs".split()
)
LAYER, ROOT = "layer", "rootfs"


class Source:
    """Where a root comes from.

    rootfs: the directory to be the root, "" for one that root_steps() mount. look: where its files can be read before
    it starts, "" if nowhere yet. lower: what to overlay there, (path inside, lower directory). links: symlinks to copy
    there. binds: what to bind read-only. fresh: empty directories in memory, (path inside, mode). owned: a directory that
    goes with the container.
    """

    __slots__ = ("binds", "fresh", "links", "look", "lower", "owned", "rootfs")

    def __init__(self, rootfs: str, look: str) -> None:
        self.rootfs = rootfs
        self.look = look
        self.lower: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.binds: list[str] = []
        self.fresh: list[tuple[str, str]] = []
        self.owned = ""

    def root(self, state_dir: str) -> str:
        """Where the root is in the host's file tree, for a container with that state directory."""
        return self.rootfs or f"{state_dir}/{LAYER}/{ROOT}"


def resolve(text: str, store: str, id: str, unpack: bool = True) -> Source:
    """What SOURCE means. Raises CtnrError if there is no such thing. Archives are unpacked below `store`, if `unpack`."""
    if text == "host:":
        return _host()
    scheme, colon, _ = text.partition(":")
    if colon and scheme.isalnum() and "/" not in scheme and not exists(text):
        raise CtnrError(
            f"unknown source {text!r}: give host:, a directory or a root filesystem archive (tar, .gz, .xz, .bz2, .zst)"
        )
    path = files.abspath(text)
    try:
        st = posix.stat(path)
    except OSError as error:
        raise CtnrError(
            f"source {text}: {(error.strerror or '').lower()}: give host:, a directory or an archive"
        ) from None
    kind = st.st_mode & 0o170000
    if kind == 0o040000:
        if posix.access(path, posix.W_OK, effective_ids=True):
            return Source(path, path)
        source = Source("", path)  # not the user's to write: a throw-away copy
        source.lower.append(("", path))
        return source
    if kind != 0o100000:
        raise CtnrError(f"source {text}: neither a directory nor a file")
    from ctnr.engine import unpacking

    if not unpack:
        return Source(unpacking.place(store, id), "")
    tree = unpacking.unpack(path, store, id)
    source = Source(tree, tree)
    source.owned = files.dirname(tree)
    return source


def _host() -> Source:
    """The machine's own file trees: the root, and what is mounted below it that is no pseudo filesystem.

    In a user namespace overlayfs refuses a lower directory that has mounts below it, as / has: it would show what they
    hide. There the root is made of its directories, each overlaid, or bound read-only if it has mounts in it.
    """
    source = Source("", "/")
    source.fresh += _HOST_FRESH
    points = []
    for line in files.read_file("/proc/self/mountinfo").decode("utf-8", "surrogateescape").splitlines():
        head, _, tail = line.partition(" - ")
        point = unescape(head.split(" ")[4])
        skip = point == "/" or any(point == name or point.startswith(name + "/") for name in _HOST_SKIP)
        if not skip:
            points.append((point, tail.split(" ", 1)[0]))
    if posix.geteuid() == 0:
        source.lower.append(("", "/"))
        # a file bound over another is what it covers, in the container
        source.lower += [(p, p) for p in sorted({p for p, type in points if type not in _PSEUDO and _is_dir(p)})]
        return source
    for entry in posix.scandir("/"):
        path = f"/{entry.name}"
        if path in _HOST_SKIP:
            continue
        if entry.is_symlink():
            source.links.append(path)
        elif entry.is_dir():
            if any(point == path or point.startswith(path + "/") for point, _ in points):
                source.binds.append(path)
            else:
                source.lower.append((path, path))
    return source


def root_steps(source: Source, state_dir: str, user_namespace: bool) -> list[Step]:
    """Steps that mount the overlays of a source in the container's mount namespace, on a tmpfs at LAYER."""
    if not source.lower:
        return []
    field = "SOURCE"
    plan = p.Plan()
    layer, root = f"{state_dir}/{LAYER}", source.root(state_dir)
    plan.add(p.HOST_MOUNT, field, "tmpfs", "tmpfs", layer, "mode=755", args=(MS_NOSUID | MS_NODEV,))
    plan.add(p.HOST_MKDIR, field, root, args=(0o755,))
    whole = not source.lower[0][0]  # the points below it are directories of its own then
    for i, (point, lower) in enumerate(source.lower):
        target = root + point
        upper, work = f"{layer}/upper{i}", f"{layer}/work{i}"
        for directory in (upper, work) if whole else (upper, work, target):
            plan.add(p.HOST_MKDIR, field, directory, args=(0o755,))
        data = f"lowerdir={_escape(lower)},upperdir={_escape(upper)},workdir={_escape(work)}"
        if user_namespace:
            data += ",userxattr"
        plan.add(p.HOST_MOUNT, field, "overlay", "overlay", target, data)
    return plan.steps


def _escape(path: str) -> str:
    """A path in overlayfs' options, where `:` parts layers and `,` options."""
    return path.replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _is_dir(path: str) -> bool:
    try:
        return posix.stat(path).st_mode & 0o170000 == 0o040000
    except OSError:
        return False
