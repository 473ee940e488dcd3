# SPDX-License-Identifier: Apache-2.0
"""Whiteouts of image layers (image-spec layer.md#whiteouts), applied to the tree the layer is unpacked onto.

They remove what lower layers made and never what their own layer makes, wherever in the archive they stand. So what
this layer makes has to be remembered, but only where a lower layer could have made something beside it: in directories
that were there before.
"""

from __future__ import annotations

import os
import stat

from ctnr import files
from ctnr.image.compression import ArchiveError
from ctnr.image.dirs import Dir, Dirs, key_of
from ctnr.image.paths import open_dir

PREFIX = b".wh."
_OPAQUE = b".wh..wh..opq"
# other files of aufs, which say nothing about the tree
_META_PREFIX = b".wh..wh."
_NOTES_MAX = 400_000


class Layer:
    """What one layer has made so far, and its whiteouts."""

    def __init__(self, dirs: Dirs) -> None:
        self._dirs = dirs
        # keys of directories: this layer's own; and those of lower layers in which or below which it made something
        self._own_dirs: set[int] = set()
        self._shared_dirs = {dirs.root.key}
        # hashes of (directory, name): what this layer made in shared directories
        self._own: set[int] = set()

    def uses(self, dir: Dir) -> None:
        """The layer mentions the directory, or something in it."""
        if dir.key in self._own_dirs or dir.key in self._shared_dirs:
            return
        self._shared_dirs.add(dir.key)
        fd = os.dup(dir.fd)
        try:
            while True:
                parent_fd = os.open(b"..", os.O_PATH | os.O_CLOEXEC, dir_fd=fd)
                os.close(fd)
                fd = parent_fd
                key = key_of(os.fstat(fd))
                if key in self._shared_dirs:
                    break
                self._shared_dirs.add(key)
        finally:
            os.close(fd)
        self._check_room()

    def made(self, parent_key: int, name: bytes) -> None:
        """The layer made the entry `name`."""
        if parent_key not in self._own_dirs:
            self._own.add(hash((parent_key, name)))
            self._check_room()

    def made_dir(self, key: int) -> None:
        """It is a directory."""
        self._own_dirs.add(key)
        self._check_room()

    def whiteout(self, dir: Dir, name: bytes) -> None:
        """Carry out the whiteout file `name`."""
        if name == _OPAQUE:
            if dir.key not in self._own_dirs:
                self._clear(dir.fd)
        elif not name.startswith(_META_PREFIX):
            hidden = name[len(PREFIX) :]
            if hidden in (b"", b".", b".."):
                raise ArchiveError("a whiteout of no name")
            if dir.key not in self._own_dirs and self._remove(dir.fd, dir.key, hidden):
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
        if hash((dir_key, name)) in self._own:
            return False
        try:
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(st.st_mode) and key_of(st) in self._shared_dirs:
            return True
        files.remove_tree_at(dir_fd, os.fsdecode(name))
        self._dirs.forget_names()
        return False

    def _check_room(self) -> None:
        if len(self._own) + len(self._own_dirs) + len(self._shared_dirs) > _NOTES_MAX:
            raise ArchiveError(f"a layer with more than {_NOTES_MAX} entries beside those of lower layers")
