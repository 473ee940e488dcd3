# SPDX-License-Identifier: Apache-2.0
"""Whiteouts of image layers (image-spec layer.md#whiteouts), applied to the tree the layer is unpacked onto.

They remove what lower layers made and never what their own layer makes, wherever in the archive they stand. So what
this layer makes has to be remembered, but only where a lower layer could have made something beside it: in directories
that were there before.
"""

from __future__ import annotations

import os
import stat
from array import array
from bisect import bisect_left

from ctnr import files
from ctnr.image.compression import ArchiveError
from ctnr.image.dirs import Dir, Dirs, key_of
from ctnr.image.paths import open_dir

PREFIX = b".wh."
_OPAQUE = b".wh..wh..opq"
# other files of aufs, which say nothing about the tree
_META_PREFIX = b".wh..wh."
_RECENT_MAX = 1 << 16

# what a note is about: a directory this layer made; one of a lower layer that it made something in, or below; an entry
_OWN, _SHARED = 0, 1


class _Notes:
    """A set of hashes that takes 8 bytes for each of most of them: a layer may have millions of entries."""

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._runs: list[array[int]] = []

    def add(self, note: tuple[object, ...]) -> None:
        self._recent.add(hash(note))
        if len(self._recent) >= _RECENT_MAX:
            self._runs.append(array("q", sorted(self._recent)))
            self._recent = set()

    def __contains__(self, note: tuple[object, ...]) -> bool:
        wanted = hash(note)
        if wanted in self._recent:
            return True
        for run in self._runs:
            at = bisect_left(run, wanted)
            if at < len(run) and run[at] == wanted:
                return True
        return False


class Layer:
    """What one layer has made so far, and its whiteouts."""

    def __init__(self, dirs: Dirs) -> None:
        self._dirs = dirs
        self._notes = _Notes()
        self._notes.add((_SHARED, dirs.root.key))

    def uses(self, dir: Dir) -> None:
        """The layer mentions the directory, or something in it."""
        if dir.owned is not None:
            return
        dir.owned = (_OWN, dir.key) in self._notes
        if dir.owned or (_SHARED, dir.key) in self._notes:
            return
        self._notes.add((_SHARED, dir.key))
        fd = os.dup(dir.fd)
        try:
            while True:
                parent_fd = os.open(b"..", os.O_PATH | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = parent_fd
                note = (_SHARED, key_of(os.fstat(fd)))
                if note in self._notes:
                    break
                self._notes.add(note)
        finally:
            os.close(fd)

    def made(self, dir: Dir, name: bytes) -> None:
        """The layer made the entry `name` in a directory it uses()."""
        if not dir.owned:
            self._notes.add((dir.key, name))

    def made_dir(self, parent_key: int, name: bytes, key: int) -> None:
        """The layer made the directory `name`."""
        if (_OWN, parent_key) not in self._notes:
            self._notes.add((parent_key, name))
        self._notes.add((_OWN, key))

    def whiteout(self, dir: Dir, name: bytes) -> None:
        """Carry out the whiteout file `name`."""
        if name == _OPAQUE:
            if not dir.owned:
                self._clear(dir.fd)
        elif not name.startswith(_META_PREFIX):
            hidden = name[len(PREFIX) :]
            if hidden in (b"", b".", b".."):
                raise ArchiveError("a whiteout of no name")
            if not dir.owned and self._remove(dir.fd, dir.key, hidden):
                self._clear(dir.fd, hidden)

    def _clear(self, top_fd: int, path: bytes = b".") -> None:
        """Remove what lower layers have in the directory `path`."""
        pending = [path]
        while pending:
            path = pending.pop()
            fd = open_dir(top_fd, path, in_root=False)
            try:
                st = os.fstat(fd)
                pending += [
                    path + b"/" + name
                    for name in map(os.fsencode, os.listdir(fd))
                    if self._remove(fd, key_of(st), name)
                ]
                os.utime(fd, ns=(st.st_atime_ns, st.st_mtime_ns))
            finally:
                os.close(fd)

    def _remove(self, dir_fd: int, dir_key: int, name: bytes) -> bool:
        """Remove an entry of a lower layer; True if it is a directory of both, to be cleared."""
        if (dir_key, name) in self._notes:
            return False
        try:
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(st.st_mode) and (_SHARED, key_of(st)) in self._notes:
            return True
        files.remove_tree_at(dir_fd, os.fsdecode(name))
        self._dirs.forget_names()
        return False
