# SPDX-License-Identifier: Apache-2.0
"""The directories an unpacker works in: a few open ones, found by name, and what has to wait until they are done.

A directory's times change with every entry made in it. They are noted when it is opened and set again when it is
closed, so memory is bounded by the number of open directories, whatever the archive holds.
"""

from __future__ import annotations

import os

from ctnr.image.compression import ArchiveError
from ctnr.image.paths import clean, open_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_OPEN_MAX = 48
_NAMES_MAX = 4 * _OPEN_MAX
_LATE_MODES_MAX = 64_000
_LATE_BYTES_MAX = 8 << 20


class Dir:
    """An open directory. `key` tells inodes apart; `times` (atime, mtime in ns) are what it will have when closed.

    `owned` is for whiteouts.py: whether the layer being unpacked made it; None: not looked up yet.
    """

    __slots__ = ("fd", "key", "names", "owned", "times")

    def __init__(self, fd: int, key: int, times: tuple[int, int]) -> None:
        self.fd = fd
        self.key = key
        self.times = times
        self.names: list[bytes] = []
        self.owned: bool | None = None


def key_of(st: os.stat_result) -> int:
    return st.st_dev << 64 | st.st_ino


class Dirs:
    """Directories below `root_fd`, which stays the caller's. `make(parent_fd, name)` makes those that are missing."""

    def __init__(self, root_fd: int, in_root: bool, make: Callable[[int, bytes], None]) -> None:
        self._root_fd = root_fd
        self._in_root = in_root
        self._make = make
        # least recently used first; the root is in none of them and never closed
        self._open: dict[int, Dir] = {}
        self._by_name: dict[bytes, Dir] = {}
        # who has no CAP_DAC_OVERRIDE gets u+rwx on a directory until all is unpacked
        self._override = os.geteuid() == 0
        self._late_modes: dict[int, tuple[bytes, int]] = {}
        self._late_bytes = 0
        fd = os.dup(root_fd)
        st = os.fstat(fd)
        self.root = Dir(fd, key_of(st), (st.st_atime_ns, st.st_mtime_ns))
        self._last = self.root

    def get(self, name: bytes, make: bool = True) -> Dir:
        """The directory `name` (as the archive spells it), good until three others were asked for.

        Missing ones are made if `make`. Raises ArchiveError and OSError as clean() and open_dir() do.
        """
        if not name:
            return self.root
        dir = self._by_name.get(name)
        if dir is None:
            path = clean(name, self._in_root)
            dir = self._by_name.get(path)
            if dir is None:
                fd = open_dir(self._root_fd, path, self._in_root, self._make if make else None)
                dir = self._adopt(fd, path)
                self._remember(path, dir)
            if path != name:
                self._remember(name, dir)
        if dir is not self._last and dir is not self.root:
            del self._open[dir.key]
            self._open[dir.key] = self._last = dir
        return dir

    def add(self, path: bytes, fd: int) -> Dir:
        """Take over the fd of the directory `path` (a clean one)."""
        dir = self._adopt(fd, path)
        self._remember(path, dir)
        return dir

    def forget_names(self) -> None:
        """Something that may have been a directory or a symlink is gone: names may mean something else now."""
        for dir in (self.root, *self._open.values()):
            dir.names.clear()
        self._by_name.clear()

    def set_mode(self, dir: Dir, path: bytes, mode: int) -> None:
        """chmod, as soon as nothing more has to be made in it."""
        self._late_modes.pop(dir.key, None)
        if not self._override and mode & 0o700 != 0o700:
            self._late_modes[dir.key] = (path, mode)
            self._late_bytes += len(path)
            if len(self._late_modes) > _LATE_MODES_MAX or self._late_bytes > _LATE_BYTES_MAX:
                raise ArchiveError(
                    "too many directories their owner may not write (unpack as root, or in a user namespace)"
                )
            mode |= 0o700
        os.fchmod(dir.fd, mode)

    def finish(self) -> None:
        """Give all directories their times and modes."""
        while self._open:
            self._evict()
        os.utime(self.root.fd, ns=self.root.times)
        # the deepest first: a directory's mode may bar the way to those below
        late = sorted(self._late_modes.items(), key=lambda item: -item[1][0].count(b"/") - bool(item[1][0]))
        for key, (path, mode) in late:
            try:
                fd = open_dir(self._root_fd, path, self._in_root)
            except (FileNotFoundError, NotADirectoryError):
                continue  # replaced since
            try:
                if key_of(os.fstat(fd)) == key:
                    os.fchmod(fd, mode)
            finally:
                os.close(fd)

    def close(self) -> None:
        for dir in self._open.values():
            os.close(dir.fd)
        self._open.clear()
        os.close(self.root.fd)

    def _adopt(self, fd: int, path: bytes) -> Dir:
        try:
            st = os.fstat(fd)
            key = key_of(st)
            # one inode, one Dir, whatever names lead to it
            dir = self.root if key == self.root.key else self._open.get(key)
            if dir is not None:
                os.close(fd)
                return dir
            if not self._override and st.st_mode & 0o700 != 0o700:
                self._late_modes.setdefault(key, (path, st.st_mode & 0o7777))
                os.fchmod(fd, st.st_mode & 0o7777 | 0o700)
            while len(self._open) >= _OPEN_MAX:
                self._evict()
        except BaseException:
            os.close(fd)
            raise
        dir = self._open[key] = Dir(fd, key, (st.st_atime_ns, st.st_mtime_ns))
        return dir

    def _remember(self, name: bytes, dir: Dir) -> None:
        if len(self._by_name) >= _NAMES_MAX:
            self.forget_names()
        self._by_name[name] = dir
        dir.names.append(name)

    def _evict(self) -> None:
        dir = self._open.pop(next(iter(self._open)))
        for name in dir.names:
            self._by_name.pop(name, None)
        try:
            os.utime(dir.fd, ns=dir.times)
        finally:
            os.close(dir.fd)
