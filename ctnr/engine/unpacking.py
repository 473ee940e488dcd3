# SPDX-License-Identifier: Apache-2.0
"""Archives as root filesystems: unpacked below the store, with the owners that the user can have. Cold."""

from __future__ import annotations

import os

from ctnr import files
from ctnr.errors import SyscallError
from ctnr.image.archive import unpack_archive
from ctnr.image.policy import UnpackPolicy
from ctnr.image.unpack_main import result, unpack_command
from ctnr.runtime import idmap, userns

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import IDMapping

_ROOT = "rootfs"


def place(store: str, id: str) -> str:
    """Where the tree of the container `id` is unpacked; the directory that it is in belongs to the container."""
    return f"{store}/containers/{id}/{_ROOT}"


def unpack(path: str, store: str, id: str) -> str:
    """Unpack an archive for the container `id`: place(). Raises CtnrError; nothing is left behind then."""
    rootfs = place(store, id)
    directory = files.dirname(rootfs)
    parent = files.dirname(directory)
    try:
        files.makedirs(parent, 0o700)
        os.mkdir(directory, 0o700)
    except OSError as error:
        raise SyscallError("--store-dir: make", error.errno or 0, directory) from None
    try:
        if os.geteuid() == 0:
            unpack_archive(path, rootfs, UnpackPolicy(owner="keep"))
            return rootfs
        uids, gids = idmap.rootless_maps(os.geteuid(), os.getegid())
        if len(uids) == 1:
            unpack_archive(path, rootfs, UnpackPolicy(owner="none"))
            return rootfs
        # the ids of the tree are the user's own beside others that only the namespace's root may give away
        os.chmod(directory, 0o711)
        os.mkdir(rootfs, 0o755)
        _unpack_mapped(path, rootfs, uids, gids)
        return rootfs
    except BaseException:
        userns.remove_tree(directory)
        raise


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
