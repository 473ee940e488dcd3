# SPDX-License-Identifier: Apache-2.0
"""From an archive's names to directories below a root, never outside of it: by fds, whoever else writes there.

Two rules for what would lead outside. Beneath: an absolute name, a `..` or a symlink that leaves the root is refused.
In root: all is seen as from inside a container with that root, where / and .. end at the root (RESOLVE_IN_ROOT).
"""

from __future__ import annotations

import errno
import os

from ctnr.image.compression import ArchiveError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

DIR_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_STEP_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# linux/openat2.h
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
# the kernel's MAXSYMLINKS, and a bound for what `..` in symlinks may cost
_SYMLINKS_MAX = 40
_STEPS_MAX = 20_000

_openat2: Callable[[int, str, int, int, int], int] | None
try:
    from ctnr import _native

    _openat2 = getattr(_native, "openat2", None)
except ImportError:
    _openat2 = None


def clean(name: bytes, in_root: bool) -> bytes:
    """`name` without empty and `.` components, relative to the root (itself: b""). ArchiveError if it leads outside."""
    if name.startswith(b"/") and not in_root:
        raise ArchiveError("an absolute name")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not in_root:
                raise ArchiveError("a name with '..' in it")
            if parts:
                parts.pop()
        elif part and part != b".":
            parts.append(part)
    return b"/".join(parts)


def open_dir(root_fd: int, path: bytes, in_root: bool, make: Callable[[int, bytes], None] | None = None) -> int:
    """An fd (O_RDONLY) of the directory `path` below the directory `root_fd`.

    Symlinks on the way are followed, within the root. What is missing is made by `make(parent_fd, name)`.
    Raises OSError: EXDEV for a symlink that leads outside, ELOOP, ENOTDIR, ENOENT ...
    """
    global _openat2
    if _openat2 is not None:
        resolve = _RESOLVE_NO_MAGICLINKS | (_RESOLVE_IN_ROOT if in_root else _RESOLVE_BENEATH)
        try:
            return _openat2(root_fd, path.decode() or ".", DIR_FLAGS, 0, resolve)
        except UnicodeDecodeError:
            pass  # the wrapper takes text
        except OSError as e:
            if e.errno in (errno.ENOSYS, errno.EPERM):
                # Linux before 5.6, or a seccomp filter that does not know it
                _openat2 = None
            elif e.errno != errno.EAGAIN and (e.errno != errno.ENOENT or make is None):
                raise
    return _walk(root_fd, path, in_root, make)


def _walk(root_fd: int, path: bytes, in_root: bool, make: Callable[[int, bytes], None] | None) -> int:
    """open_dir, a component at a time. Nothing is ever followed by the kernel, so no `..` can lead above the root."""
    pending = path.split(b"/")[::-1]
    done: list[bytes] = []
    fd = os.open(b".", _STEP_FLAGS, dir_fd=root_fd)
    symlinks = steps = 0
    try:
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            steps += 1
            if steps > _STEPS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            if name == b"..":
                if done:
                    done.pop()
                elif not in_root:
                    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
                # the kernel's .. could have been moved out of the root meanwhile: down again from the root
                pending.extend(reversed(done))
                done = []
                fd = _replace(fd, os.open(b".", _STEP_FLAGS, dir_fd=root_fd))
                continue
            try:
                fd = _replace(fd, os.open(name, _STEP_FLAGS, dir_fd=fd))
                done.append(name)
            except FileNotFoundError:
                if make is None:
                    raise
                make(fd, name)
                pending.append(name)
            except NotADirectoryError:
                target = _readlink(name, fd)
                symlinks += 1
                if symlinks > _SYMLINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
                if target.startswith(b"/"):
                    if not in_root:
                        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV)) from None
                    done = []
                    fd = _replace(fd, os.open(b".", _STEP_FLAGS, dir_fd=root_fd))
                pending.extend(reversed(target.split(b"/")))
        return os.open(b".", DIR_FLAGS, dir_fd=fd)
    finally:
        os.close(fd)


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


def _readlink(name: bytes, dir_fd: int) -> bytes:
    try:
        return os.readlink(name, dir_fd=dir_fd)
    except OSError as e:
        if e.errno == errno.EINVAL:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None
        raise
