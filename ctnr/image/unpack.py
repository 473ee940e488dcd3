# SPDX-License-Identifier: Apache-2.0
"""Unpacks a tar archive below a directory: everything by fd, nothing outside, nothing the archive says believed.

Every parent is an fd (dirs.py, paths.py); entries are made in it by a single name that must not exist (O_EXCL), and what
is done to them is done on the fd just made or, for what has none, without following symlinks. What exists is unlinked
first. The rules for hostile archives: UnpackPolicy.
"""

from __future__ import annotations

import errno
import os
import stat

from ctnr import files
from ctnr.errors import CtnrError
from ctnr.image import tar
from ctnr.image.compression import ArchiveError, Stream
from ctnr.image.dirs import Dir, Dirs, key_of
from ctnr.image.fields import printable
from ctnr.image.paths import DIR_FLAGS, clean
from ctnr.image.policy import ID_MAX, Report, UnpackPolicy, map_id
from ctnr.image.whiteouts import PREFIX, Layer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

_FILE_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_DIR_FLAGS = DIR_FLAGS | os.O_NOFOLLOW
_CHUNK = 1 << 20
NAME_MAX = 4096
_CAPABILITY = b"security.capability"
_NOT_A_NAME = (b"", b".", b"..")
_ROOT_OWNER = (0, 0)


def unpack(
    source: int | BinaryIO, dest_fd: int, policy: UnpackPolicy | None = None, *, name: str = "archive"
) -> Report:
    """Unpack the archive `source`, an fd or an object with read(), below the directory `dest_fd` (opened O_RDONLY).

    Raises CtnrError, one line with `name`, the entry and the reason; what was unpacked until then stays, for the caller
    to remove. Keep those who must not run setuid programs of the archive away from `dest_fd`, by a parent of mode 0700.
    """
    policy = policy or UnpackPolicy()
    reader: tar.Reader | None = None
    entry = b""
    try:
        with Stream(source, max_bytes=policy.max_bytes, max_ratio=policy.max_ratio) as stream:
            reader = tar.Reader(stream.read, strict=policy.paths == "strict")
            unpacker = _Unpacker(reader, dest_fd, policy)
            try:
                unpacker.run()
            finally:
                unpacker.close()
            return unpacker.report
    except ArchiveError as e:
        why = str(e)
    except OSError as e:
        why = _REASONS.get(e.errno or 0) or os.strerror(e.errno or errno.EIO).lower()
    if reader is not None and (entry := reader.name):
        why = f"{printable(entry)}: {why}"
    raise CtnrError(f"{printable(os.fsencode(name), NAME_MAX)}: {why}")


_REASONS = {
    errno.EXDEV: "its path goes through a symlink that leads outside of the archive",
    errno.ENOTDIR: "its path goes through something that is no directory",
    errno.ELOOP: "its path goes through too many symlinks",
}


class _Unpacker:
    def __init__(self, reader: tar.Reader, dest_fd: int, policy: UnpackPolicy) -> None:
        self.report = Report()
        self._reader = reader
        self._policy = policy
        self._in_root = policy.paths == "in-root"
        self._keep = policy.owner == "keep"
        self._owners: dict[tuple[int, int], tuple[int, int]] = {}
        self._dirs = Dirs(dest_fd, self._in_root, self._make_missing)
        self._layer = Layer(self._dirs) if policy.whiteouts else None

    def run(self) -> None:
        next_entry = self._reader.next
        max_entries = self._policy.max_entries
        max_path = self._policy.max_path or (1 << 62)
        entries = 0
        while (entry := next_entry()) is not None:
            entries += 1
            if entries > max_entries > 0:
                raise ArchiveError(f"the archive has more than the {max_entries} entries allowed")
            name = entry.name
            if len(name) > max_path:
                raise ArchiveError(f"a name of more than {max_path} bytes")
            if name.endswith(b"/"):
                name = name.rstrip(b"/")
            parent, _, base = name.rpartition(b"/")
            if base in _NOT_A_NAME or name.startswith(b"/"):
                if not entry.name:
                    raise ArchiveError("an entry without a name")
                parent, _, base = clean(entry.name, self._in_root).rpartition(b"/")
                if not base:
                    self._root(entry)
                    continue
            self._entry(entry, parent, base)
        self.report.entries = entries
        self._reader.name = b""
        self._reader.finish()
        self._dirs.finish()

    def close(self) -> None:
        self._dirs.close()

    def _entry(self, entry: tar.Entry, parent: bytes, base: bytes) -> None:
        kind = entry.kind
        if self._layer is not None:
            if base.startswith(PREFIX):
                self._whiteout(parent, base)
                return
            dir = self._dirs.get(parent)
            self._layer.uses(dir)
        else:
            dir = self._dirs.get(parent)
        if kind == tar.FILE:
            self._file(entry, dir, base)
        elif kind == tar.DIRECTORY:
            self._directory(entry, dir, base)
        elif kind == tar.SYMLINK:
            self._symlink(entry, dir, base)
        elif kind == tar.HARDLINK:
            self._hardlink(entry, dir, base)
        else:
            self._node(entry, dir, base)

    # --- kinds of entries

    def _root(self, entry: tar.Entry) -> None:
        """The entry of the root itself. Were it anything but a directory, all that follows would land elsewhere."""
        if entry.kind != tar.DIRECTORY:
            raise ArchiveError("the root of the archive is not a directory")
        self._dress_dir(entry, self._dirs.root, b"")

    def _file(self, entry: tar.Entry, dir: Dir, base: bytes) -> None:
        try:
            fd = os.open(base, _FILE_FLAGS, 0o600, dir_fd=dir.fd)
        except FileExistsError:
            self._remove(dir, base)
            fd = os.open(base, _FILE_FLAGS, 0o600, dir_fd=dir.fd)
        try:
            if self._layer is not None:
                self._layer.made(dir, base)
            if entry.sparse is None:
                left = entry.size
                while left:
                    left -= os.write(fd, self._more(left))
                self.report.bytes += entry.size
            else:
                self._write_sparse(entry, fd)
            # chown clears setuid bits and capabilities, so it comes first
            self._chown(entry, fd)
            if entry.xattrs:
                self._set_xattrs(entry, fd)
            os.fchmod(fd, entry.mode)
            os.utime(fd, ns=(entry.atime, entry.mtime))
        finally:
            os.close(fd)

    def _write_sparse(self, entry: tar.Entry, fd: int) -> None:
        assert entry.sparse is not None
        segments = iter(entry.sparse)
        for offset, length in zip(segments, segments, strict=True):
            os.lseek(fd, offset, os.SEEK_SET)
            left = length
            while left:
                left -= os.write(fd, self._more(left))
            self.report.bytes += length
        os.ftruncate(fd, entry.size)

    def _directory(self, entry: tar.Entry, dir: Dir, base: bytes) -> None:
        made = False
        try:
            os.mkdir(base, 0o700, dir_fd=dir.fd)
            made = True
            fd = os.open(base, _NEW_DIR_FLAGS, dir_fd=dir.fd)
        except FileExistsError:
            try:
                fd = os.open(base, _NEW_DIR_FLAGS, dir_fd=dir.fd)
            except NotADirectoryError:
                self._remove(dir, base)
                os.mkdir(base, 0o700, dir_fd=dir.fd)
                made = True
                fd = os.open(base, _NEW_DIR_FLAGS, dir_fd=dir.fd)
        path = clean(entry.name, self._in_root)
        new = self._dirs.add(path, fd)
        if self._layer is not None:
            if made:
                self._layer.made_dir(dir.key, base, new.key)
            self._layer.uses(new)
        self._dress_dir(entry, new, path, made)

    def _dress_dir(self, entry: tar.Entry, dir: Dir, path: bytes, made: bool = False) -> None:
        self._chown(entry, dir.fd)
        if not made:
            self._clear_xattrs(dir.fd)
        if entry.xattrs:
            self._set_xattrs(entry, dir.fd)
        self._dirs.set_mode(dir, path, entry.mode)
        dir.times = (entry.atime, entry.mtime)

    def _symlink(self, entry: tar.Entry, dir: Dir, base: bytes) -> None:
        if not entry.linkname:
            raise ArchiveError("a symlink to nothing")
        try:
            os.symlink(entry.linkname, base, dir_fd=dir.fd)
        except FileExistsError:
            self._remove(dir, base)
            os.symlink(entry.linkname, base, dir_fd=dir.fd)
        self._dress_by_name(entry, dir, base)

    def _hardlink(self, entry: tar.Entry, dir: Dir, base: bytes) -> None:
        if len(entry.linkname) > (self._policy.max_path or (1 << 62)):
            raise ArchiveError("a hardlink to a name that is too long")
        try:
            target_parent, _, target = clean(entry.linkname, self._in_root).rpartition(b"/")
        except ArchiveError as e:
            raise ArchiveError(f"a hardlink to {e}: {printable(entry.linkname)}") from None
        try:
            target_dir = self._dirs.get(target_parent, make=False)
            st = os.stat(target or b".", dir_fd=target_dir.fd, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            if self._policy.devices == "skip" and self._in_dev(entry):
                self.report.skipped_devices += 1
                return
            raise ArchiveError(f"a hardlink to {printable(entry.linkname)}, which is not there") from None
        if stat.S_ISDIR(st.st_mode):
            raise ArchiveError(f"a hardlink to a directory, {printable(entry.linkname)}")
        if stat.S_ISLNK(st.st_mode) and not self._in_root:
            raise ArchiveError(f"a hardlink to a symlink, {printable(entry.linkname)}")
        try:
            os.link(target, base, src_dir_fd=target_dir.fd, dst_dir_fd=dir.fd, follow_symlinks=False)
        except FileExistsError:
            if key_of(os.stat(base, dir_fd=dir.fd, follow_symlinks=False)) == key_of(st):
                return
            self._remove(dir, base)
            os.link(target, base, src_dir_fd=target_dir.fd, dst_dir_fd=dir.fd, follow_symlinks=False)
        if self._layer is not None:
            self._layer.made(dir, base)

    def _node(self, entry: tar.Entry, dir: Dir, base: bytes) -> None:
        if entry.kind == tar.FIFO:
            kind, device = stat.S_IFIFO, 0
        else:
            if self._policy.devices == "skip":
                if not self._in_dev(entry):
                    raise ArchiveError("a device node outside of dev/")
                self.report.skipped_devices += 1
                return
            major, minor = entry.device
            if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
                raise ArchiveError(f"no such device number, {major}:{minor}")
            kind = stat.S_IFCHR if entry.kind == tar.CHARDEV else stat.S_IFBLK
            device = os.makedev(major, minor)
        try:
            os.mknod(base, kind | entry.mode, device, dir_fd=dir.fd)
        except FileExistsError:
            self._remove(dir, base)
            os.mknod(base, kind | entry.mode, device, dir_fd=dir.fd)
        self._dress_by_name(entry, dir, base, entry.mode)

    def _whiteout(self, parent: bytes, base: bytes) -> None:
        assert self._layer is not None
        self.report.whiteouts += 1
        try:
            dir = self._dirs.get(parent, make=False)
        except (FileNotFoundError, NotADirectoryError):
            return  # nothing there to hide
        self._layer.uses(dir)
        self._layer.whiteout(dir, base)

    # --- helpers

    def _more(self, left: int) -> memoryview:
        return self._reader.data(left if left < _CHUNK else _CHUNK)

    def _in_dev(self, entry: tar.Entry) -> bool:
        return clean(entry.name, self._in_root).startswith(b"dev/")

    def _make_missing(self, parent_fd: int, name: bytes) -> None:
        """A directory the archive has no entry for, or none yet; its parent keeps its times."""
        st = os.stat(b".", dir_fd=parent_fd)
        os.mkdir(name, 0o700, dir_fd=parent_fd)
        fd = os.open(name, _NEW_DIR_FLAGS, dir_fd=parent_fd)
        try:
            if self._policy.owner != "none":
                os.fchown(fd, *self._owner(_ROOT_OWNER))
            os.fchmod(fd, 0o755)
            if self._layer is not None:
                self._layer.made_dir(key_of(st), name, key_of(os.fstat(fd)))
        finally:
            os.close(fd)
        os.utime(b".", ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=parent_fd)

    def _remove(self, dir: Dir, name: bytes) -> None:
        """Make room for another entry of this name."""
        st = os.stat(name, dir_fd=dir.fd, follow_symlinks=False)
        if stat.S_ISDIR(st.st_mode):
            files.remove_tree_at(dir.fd, os.fsdecode(name))
        else:
            os.unlink(name, dir_fd=dir.fd)
        if not stat.S_ISREG(st.st_mode):
            self._dirs.forget_names()

    def _chown(self, entry: tar.Entry, fd: int) -> None:
        if self._policy.owner != "none":
            uid, gid = self._owner((entry.uid, entry.gid))
            try:
                os.fchown(fd, uid, gid)
            except OSError as e:
                raise self._chown_error(e, entry) from None

    def _dress_by_name(self, entry: tar.Entry, dir: Dir, base: bytes, mode: int = -1) -> None:
        """Owner, mode and times of what was just made and cannot be opened (symlinks), or had better not be (devices)."""
        if self._layer is not None:
            self._layer.made(dir, base)
        if self._policy.owner != "none":
            uid, gid = self._owner((entry.uid, entry.gid))
            try:
                os.chown(base, uid, gid, dir_fd=dir.fd, follow_symlinks=False)
            except OSError as e:
                raise self._chown_error(e, entry) from None
        if mode >= 0:
            # the umask was taken off, and fchmodat(2) would follow a symlink
            fd = os.open(base, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir.fd)
            try:
                os.chmod(f"/proc/self/fd/{fd}", mode)
            finally:
                os.close(fd)
        os.utime(base, ns=(entry.atime, entry.mtime), dir_fd=dir.fd, follow_symlinks=False)

    def _owner(self, owner: tuple[int, int]) -> tuple[int, int]:
        """The owner on disk of an owner in the archive."""
        known = self._owners.get(owner)
        if known is not None:
            return known
        on_disk: list[int] = []
        for kind, id, ranges in (("uid", owner[0], self._policy.uid_map), ("gid", owner[1], self._policy.gid_map)):
            if not 0 <= id <= ID_MAX:
                raise ArchiveError(f"no such {kind}, {id}")
            mapped = id if self._keep else map_id(ranges, id)
            if mapped is None:
                raise ArchiveError(f"its {kind} {id} is not in the container's id map")
            on_disk.append(mapped)
        if len(self._owners) > 1000:
            self._owners.clear()
        self._owners[owner] = result = (on_disk[0], on_disk[1])
        return result

    def _chown_error(self, error: OSError, entry: tar.Entry) -> ArchiveError | OSError:
        if error.errno == errno.EINVAL:
            return ArchiveError(f"its owner {entry.uid}:{entry.gid} is not in the id map of the user namespace")
        if error.errno == errno.EPERM:
            return ArchiveError(f"its owner {entry.uid}:{entry.gid} cannot be kept without being root")
        return error

    def _set_xattrs(self, entry: tar.Entry, fd: int) -> None:
        """Those on the allow-list: security.selinux, trusted.overlay.* and the like are not an archive's to set."""
        assert entry.xattrs is not None
        for name, value in entry.xattrs.items():
            if not _allowed_xattr(name) or (name == _CAPABILITY and entry.kind != tar.FILE):
                continue
            if name == _CAPABILITY and self._policy.owner == "map":
                value = self._mapped_capability(value)
            try:
                os.setxattr(fd, name, value)
            except OSError as e:
                if e.errno != errno.ENOTSUP and (name != _CAPABILITY or e.errno != errno.EPERM):
                    raise ArchiveError(f"extended attribute {printable(name)}: {e.strerror}") from None
                self.report.skipped_xattrs += 1

    def _clear_xattrs(self, fd: int) -> None:
        try:
            names = os.listxattr(fd)
        except OSError as e:
            if e.errno != errno.ENOTSUP:
                raise
            return
        for name in names:
            if _allowed_xattr(os.fsencode(name)):
                os.removexattr(fd, name)

    def _mapped_capability(self, value: bytes) -> bytes:
        """File capabilities for the user namespace whose root is the mapped id 0 (capabilities(7), VFS_CAP_REVISION_3)."""
        if len(value) < 20 or value[3] not in (2, 3):
            raise ArchiveError("bad file capabilities")
        root = self._owner(_ROOT_OWNER)[0]
        return value[:3] + b"\3" + value[4:20] + root.to_bytes(4, "little")


def _allowed_xattr(name: bytes) -> bool:
    if name.startswith(b"user."):
        # overlayfs would obey the first with its option userxattr; the second is how owners are noted without root
        return not name.startswith(b"user.overlay.") and name != b"user.rootlesscontainers"
    return name == _CAPABILITY
