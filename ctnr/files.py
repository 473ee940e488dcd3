# SPDX-License-Identifier: Apache-2.0
"""Paths as text, and small whole files: what of `os` and `os.path` the hot modules need.

HOT: imported by every verb. All failures are OSError; every fd made is close-on-exec (PEP 446).
"""

from __future__ import annotations

import errno
import posix
import sys

_ENCODING = sys.getfilesystemencoding()


# --- names


def fsencode(path: str) -> bytes:
    """The kernel's bytes of a path, as `os.fsencode`. Raises ValueError for what no path can be."""
    return path.encode(_ENCODING, "surrogateescape")


def fsdecode(path: bytes) -> str:
    """A path's text, as `os.fsdecode`: bytes that are no UTF-8 become lone surrogates."""
    return path.decode(_ENCODING, "surrogateescape")


def isabs(path: str) -> bool:
    return path.startswith("/")


def join(a: str, b: str) -> str:
    """`b` seen from `a`: `b` itself if absolute."""
    if b.startswith("/") or not a:
        return b
    return a + b if a.endswith("/") else a + "/" + b


def dirname(path: str) -> str:
    head = path[: path.rfind("/") + 1]
    return head.rstrip("/") or head[:1]


def basename(path: str) -> str:
    return path[path.rfind("/") + 1 :]


def normpath(path: str) -> str:
    """The shortest path lexically equal (Go's filepath.Clean): symlinks are not looked at, `..` above / is /."""
    root = "/" if path.startswith("/") else ""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "" or part == ".":
            continue
        if part == "..":
            if parts and parts[-1] != "..":
                parts.pop()
                continue
            if root:
                continue
        parts.append(part)
    return root + "/".join(parts) or "."


def abspath(path: str) -> str:
    """`path` made absolute by the working directory, lexically shortened."""
    return normpath(path if path.startswith("/") else join(posix.getcwd(), path))


def getenv(name: str) -> str | None:
    """An environment variable, or None."""
    # posix.environ is the environment at start; in a program that has loaded os, os.environ is what it may have changed
    os = sys.modules.get("os")
    if os is not None:
        value: str | None = os.environ.get(name)
        return value
    raw = posix.environ.get(fsencode(name))
    return None if raw is None else fsdecode(raw)


# --- files


def open_dir(path: str) -> int:
    """An fd of the directory `path` (symlinks followed)."""
    return posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC)


def read_fd(fd: int, limit: int = 16 << 20) -> bytes:
    """Everything up to the end of `fd`; EFBIG beyond `limit` bytes."""
    data = posix.read(fd, min(limit + 1, 1 << 16))
    if not data:
        return data
    chunks = [data]
    size = len(data)
    while size <= limit:
        data = posix.read(fd, min(limit + 1 - size, 1 << 20))
        if not data:
            return b"".join(chunks) if len(chunks) > 1 else chunks[0]
        chunks.append(data)
        size += len(data)
    raise OSError(errno.EFBIG, posix.strerror(errno.EFBIG))


def read_file(path: str, limit: int = 16 << 20, dir_fd: int | None = None) -> bytes:
    """A whole file; EFBIG beyond `limit` bytes."""
    fd = posix.open(path, posix.O_RDONLY | posix.O_NOCTTY | posix.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return read_fd(fd, limit)
    except OSError as e:
        e.filename = path
        raise
    finally:
        posix.close(fd)


def write_fd(fd: int, data: bytes) -> None:
    """All of `data`, however many writes that takes."""
    done = posix.write(fd, data)
    while done < len(data):
        done += posix.write(fd, data[done:])


def write_file(path: str, data: bytes, mode: int = 0o644) -> None:
    """Create or truncate `path`; `mode` (less the umask) is for a new file only."""
    fd = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOCTTY | posix.O_CLOEXEC, mode)
    try:
        write_fd(fd, data)
    except OSError as e:
        e.filename = path
        raise
    finally:
        posix.close(fd)


def write_atomic(path: str, data: bytes, mode: int = 0o600) -> None:
    """Replace `path` as a whole: readers see the old file or the new one. `mode` is exact, whatever the umask.

    Nothing is synced: what must outlive a power cut needs more.
    """
    tmp = join(dirname(path), f".{basename(path)}.{posix.urandom(8).hex()}")
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL | posix.O_NOFOLLOW | posix.O_CLOEXEC
    fd = posix.open(tmp, flags, 0o600)
    try:
        try:
            posix.fchmod(fd, mode)
            write_fd(fd, data)
        finally:
            posix.close(fd)
        posix.rename(tmp, path)
    except BaseException as e:
        posix.unlink(tmp)
        if isinstance(e, OSError):
            e.filename = path
        raise


def makedirs(path: str, mode: int = 0o755) -> None:
    """Make the directory `path` and those above it, all of `mode` less the umask. It may be there already."""
    missing: list[str] = []
    above = False  # what is above has been seen to exist: /proc says "no such file" to mkdir
    path = path.rstrip("/") or path[:1]
    while True:
        try:
            posix.mkdir(path, mode)
        except FileExistsError:
            if not _is_dir(path):
                raise
        except FileNotFoundError:
            parent = dirname(path)
            if not parent or parent == path or above:
                raise
            missing.append(path)
            path = parent
            continue
        if not missing:
            return
        path = missing.pop()
        above = True


def _is_dir(path: str) -> bool:
    return posix.stat(path).st_mode & 0o170000 == 0o040000


# --- removing trees


def remove_tree(path: str) -> None:
    """Remove `path` with all that is below; of a symlink only the link. See remove_tree_at."""
    path = path.rstrip("/")
    parent_fd = open_dir(dirname(path) or ".")
    try:
        remove_tree_at(parent_fd, basename(path))
    finally:
        posix.close(parent_fd)


def remove_tree_at(dir_fd: int, name: str) -> None:
    """Remove the entry `name` of the directory `dir_fd` with all that is below.

    No symlink is followed and no mount entered (EBUSY), any depth takes two fds, and directories the caller owns but
    may not write are made writable first. FileNotFoundError if there is no such entry; those that vanish meanwhile
    are fine.
    """
    if name in ("", ".", "..") or "/" in name:
        raise OSError(errno.EINVAL, posix.strerror(errno.EINVAL), name)
    if _remove_leaf(dir_fd, name):
        return
    fd = _open_below(dir_fd, name)
    try:
        # from the top down to where we are: each directory's name, its identity, and the directories left in it
        way = [(name, _identity(fd), _clear(fd))]
        while True:
            here, _, left = way[-1]
            if left:
                child = left.pop()
                try:
                    child_fd = _open_below(fd, child)
                except FileNotFoundError:
                    continue
                posix.close(fd)
                fd = child_fd
                way.append((child, _identity(fd), _clear(fd)))
                continue
            way.pop()
            if not way:
                break
            # back up by "..", making sure that it is still where we came from
            parent_fd = posix.open("..", posix.O_RDONLY | posix.O_DIRECTORY | posix.O_CLOEXEC, dir_fd=fd)
            posix.close(fd)
            fd = parent_fd
            if _identity(fd) != way[-1][1]:
                raise OSError(errno.ESTALE, "the tree was changed while it was being removed", way[-1][0])
            _rmdir(fd, here)
    finally:
        posix.close(fd)
    _rmdir(dir_fd, name)


def _identity(fd: int) -> tuple[int, int]:
    st = posix.fstat(fd)
    return st.st_dev, st.st_ino


def _rmdir(dir_fd: int, name: str) -> None:
    try:
        posix.rmdir(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass


def _remove_leaf(dir_fd: int, name: str) -> bool:
    """Remove a file or an empty directory; False for a directory that is not empty. EBUSY for a mount point."""
    try:
        posix.unlink(name, dir_fd=dir_fd)
        return True
    except (IsADirectoryError, PermissionError):
        # EPERM is what POSIX and some filesystems say for a directory; if it is none, rmdir says ENOTDIR
        pass
    try:
        # the kernel looks for a mount before it looks for entries, so ENOTEMPTY also means: not a mount point
        posix.rmdir(name, dir_fd=dir_fd)
        return True
    except NotADirectoryError:
        posix.unlink(name, dir_fd=dir_fd)
        return True
    except OSError as e:
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        return False


def _open_below(dir_fd: int, name: str) -> int:
    flags = posix.O_DIRECTORY | posix.O_NOFOLLOW | posix.O_CLOEXEC
    try:
        fd = posix.open(name, flags | posix.O_RDONLY, dir_fd=dir_fd)
    except PermissionError:
        path_fd = posix.open(name, flags | posix.O_PATH, dir_fd=dir_fd)
        try:
            # fchmod refuses O_PATH fds; the magic link leads to this very inode
            posix.chmod(f"/proc/self/fd/{path_fd}", 0o700)
        finally:
            posix.close(path_fd)
        fd = posix.open(name, flags | posix.O_RDONLY, dir_fd=dir_fd)
    return fd


def _clear(fd: int) -> list[str]:
    """Remove the entries of the directory `fd`; the names of the directories that are not empty."""
    left = []
    st = posix.fstat(fd)
    if st.st_mode & 0o300 != 0o300 and st.st_uid == posix.geteuid():
        posix.fchmod(fd, 0o700)
    for name in posix.listdir(fd):
        try:
            if not _remove_leaf(fd, name):
                left.append(name)
        except FileNotFoundError:
            continue
    return left
