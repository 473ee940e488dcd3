# SPDX-License-Identifier: Apache-2.0
"""SOURCE of a container's root filesystem: `host:`, a directory, an archive. HOT (run).

A root is either a directory that the container uses as it is, or an overlay that the init mounts in the container's own
mount namespace, over a tmpfs that goes away with it: nothing to clean up, whatever is killed when.
"""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.errors import CtnrError
from ctnr.runtime.compile import exists
from ctnr.runtime.rootfs import unescape

_HOST_SKIP = ("/proc", "/sys", "/dev", "/run", "/tmp", "/var/run")
# of the machine's own root, but of its programs that run now: empty in the container
_HOST_FRESH = (("/run", "755"), ("/tmp", "1777"))
_PSEUDO = frozenset(
    "proc sysfs tmpfs devtmpfs devpts mqueue cgroup cgroup2 bpf tracefs debugfs securityfs pstore efivarfs hugetlbfs configfs"
    " fusectl binfmt_misc autofs rpc_pipefs nsfs ramfs selinuxfs".split()
)
# below a state directory: the tmpfs that holds an overlay, and in it the root
LAYER, ROOT = "layer", "rootfs"
# the name's beginning of what lies beside the directory of an archive while it is being unpacked
UNFINISHED = ".new-"


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
    owned = f"{containers(store)}/{id}"
    tree = f"{owned}/{ROOT}"
    if not unpack:
        return Source(tree, "")
    from ctnr.engine import unpacking

    unpacking.unpack(path, owned)
    source = Source(tree, tree)
    source.owned = owned
    return source


def containers(store: str) -> str:
    """The directory of a store in which the containers' own trees are."""
    return f"{store}/containers"


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


def _is_dir(path: str) -> bool:
    try:
        return posix.stat(path).st_mode & 0o170000 == 0o040000
    except OSError:
        return False
