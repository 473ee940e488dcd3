# SPDX-License-Identifier: Apache-2.0
"""Root filesystem archives: what is one, and unpacking it to a new directory, wholly or not at all."""

from __future__ import annotations

import errno
import os
import stat

from ctnr import files
from ctnr.errors import CtnrError
from ctnr.image import tar
from ctnr.image.compression import ArchiveError, Stream
from ctnr.image.fields import printable
from ctnr.image.paths import DIR_FLAGS
from ctnr.image.policy import Report, UnpackPolicy
from ctnr.image.unpack import NAME_MAX, unpack


def is_archive(path: str) -> bool:
    """Whether the file `path` begins like a tar archive, compressed or not. Its name does not matter. Raises OSError."""
    fd = open_archive(path)
    try:
        with Stream(fd, threaded=False) as stream:
            data = b""
            while len(data) < tar.BLOCK and (chunk := stream.read()):
                data += chunk
            return tar.is_header(data[: tar.BLOCK])
    except ArchiveError:
        return False
    finally:
        os.close(fd)


def unpack_archive(path: str, dest: str, policy: UnpackPolicy | None = None) -> Report:
    """Unpack the archive `path` to the new directory `dest`, whose parent exists and is best of mode 0700.

    Raises CtnrError, after removing `dest` with all that was unpacked. See unpack().
    """
    fd = -1
    try:
        fd = open_archive(path)
        os.mkdir(dest, 0o700)
    except OSError as e:
        if fd >= 0:
            os.close(fd)
        where = path if fd < 0 else f"{path}: cannot make {dest}"
        raise CtnrError(f"{_text(where)}: {os.strerror(e.errno or 0).lower()}") from None
    try:
        dest_fd = os.open(dest, DIR_FLAGS | os.O_NOFOLLOW)
        try:
            # unless the archive has an entry for its root
            os.fchmod(dest_fd, 0o755)
            return unpack(fd, dest_fd, policy, name=path)
        finally:
            os.close(dest_fd)
    except BaseException as error:
        try:
            files.remove_tree(dest)
        except OSError as e:
            raise CtnrError(f"{error}; and {_text(dest)} could not be removed: {e.strerror}") from error
        raise
    finally:
        os.close(fd)


def clear(dir_fd: int) -> None:
    """Remove all that is in the directory `dir_fd`. Raises OSError."""
    for name in os.listdir(dir_fd):
        files.remove_tree_at(dir_fd, name)


def open_archive(path: str) -> int:
    """The file opened for reading, if it may be an archive; a FIFO without a writer would block, a device do worse.

    Raises OSError: EISDIR, EINVAL for other things that are no file, and what open(2) says.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, os.strerror(number), path)
    return fd


def _text(path: str) -> str:
    return printable(os.fsencode(path), NAME_MAX)
