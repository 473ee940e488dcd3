# SPDX-License-Identifier: Apache-2.0
"""Archives as root filesystems: unpacked below the store, with the owners that the user can have. Cold.

A lock file beside the directory says that no container has it yet. Whoever unpacks holds the lock; the next run removes
what belongs to a lock that nobody holds.
"""

from __future__ import annotations

import os
from fcntl import LOCK_EX, LOCK_NB, flock

from ctnr import files
from ctnr.engine.sources import ROOT, UNFINISHED
from ctnr.errors import SyscallError
from ctnr.image.archive import unpack_archive
from ctnr.image.policy import UnpackPolicy
from ctnr.image.unpack_main import result, unpack_command
from ctnr.runtime import idmap, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import IDMapping

_locks: dict[str, int] = {}  # directory -> fd


def unpack(path: str, directory: str) -> None:
    """Unpack an archive to `directory`/rootfs. done() or remove() must follow. Raises CtnrError; nothing is left then."""
    try:
        files.makedirs(files.dirname(directory), 0o700)
        _lock(directory)
        os.mkdir(directory, 0o700)
    except OSError as error:
        done(directory)
        raise SyscallError("--store-dir: make", error.errno or 0, directory) from None
    rootfs = f"{directory}/{ROOT}"
    try:
        if os.geteuid() == 0:
            unpack_archive(path, rootfs, UnpackPolicy(owner="keep"))
            return
        uids, gids = idmap.rootless_maps(os.geteuid(), os.getegid())
        if len(uids) == 1:
            unpack_archive(path, rootfs, UnpackPolicy(owner="none"))
            return
        # the ids of the tree are the user's own beside others that only the namespace's root may give away
        os.chmod(directory, 0o711)
        os.mkdir(rootfs)
        os.chmod(rootfs, 0o755)
        _unpack_mapped(path, rootfs, uids, gids)
    except BaseException:
        remove(directory)
        raise


def done(directory: str) -> None:
    """The directory belongs to a container now, which is written down."""
    fd = _locks.pop(directory, -1)
    if fd >= 0:
        os.unlink(_lock_path(directory))
        os.close(fd)


def remove(directory: str) -> None:
    """Remove the directory: no container wants it."""
    userns.remove_tree(directory)
    done(directory)


def sweep(parent: str) -> None:
    """Remove what was unpacked in `parent` by processes that were killed."""
    for name in os.listdir(parent):
        if not name.startswith(UNFINISHED):
            continue
        directory = f"{parent}/{name.removeprefix(UNFINISHED)}"
        try:
            _lock(directory)
        except OSError:
            continue  # at work, or just done
        remove(directory)


def _lock_path(directory: str) -> str:
    parent, _, name = directory.rpartition("/")
    return f"{parent}/{UNFINISHED}{name}"


def _lock(directory: str) -> None:
    fd = os.open(_lock_path(directory), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        if os.fstat(fd).st_nlink == 0:
            raise FileNotFoundError(2, "removed meanwhile", directory)
    except BaseException:
        os.close(fd)
        raise
    _locks[directory] = fd


def _unpack_mapped(path: str, rootfs: str, uids: list[IDMapping], gids: list[IDMapping]) -> None:
    try:
        archive = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        raise SyscallError("source: open", error.errno or 0, path) from None
    dest = files.open_dir(rootfs)
    try:
        output = _run(unpack_command(archive, dest, UnpackPolicy(owner="keep"), path), uids, gids, (archive, dest))
    finally:
        os.close(archive)
        os.close(dest)
    result(output)


def _run(argv: list[str], uids: list[IDMapping], gids: list[IDMapping], passed: tuple[int, ...]) -> bytes:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        process = userns.run(argv, uids, gids, passed, (null, writer, 2))
        os.close(writer)
        writer = -1
        try:
            return files.read_fd(reader)
        finally:
            process.wait()
            process.close()
    finally:
        os.close(reader)
        os.close(null)
        if writer >= 0:
            os.close(writer)
