# SPDX-License-Identifier: Apache-2.0
"""A pool of blobs, DIRECTORY/<algorithm>/<hex>: the `blobs` of OCI image layouts (image-layout.md).

A blob appears whole, checked and on disk, or not at all: written under a name no blob has, locked while it is being
written, synced, renamed, and the directory synced. What a killed writer leaves is locked by nobody and gets swept.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_NB, flock
from typing import TYPE_CHECKING

from ctnr import files
from ctnr.errors import CtnrError, SyscallError
from ctnr.spec.image import ALGORITHMS, Descriptor, check_digest

if TYPE_CHECKING:
    from ctnr.image.transfer import Reader

_CHUNK = 1 << 18
# no blob's name: it has a letter that is no hexadecimal digit
_UNFINISHED = "new-"


class FileReader:
    """A transfer.Reader of an open file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int, /) -> bytes:
        return os.read(self._fd, size)

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Pool:
    """The blobs of one directory, and read-only those of `extra` pools behind it."""

    def __init__(self, directory: str, extra: tuple[Pool, ...] = ()) -> None:
        self.directory = directory
        self.extra = extra

    def path(self, digest: str) -> str:
        """Where the blob is, or would be. Raises SpecError for what is no digest."""
        algorithm, _, name = check_digest(digest).partition(":")
        return f"{self.directory}/{algorithm}/{name}"

    def size(self, digest: str) -> int | None:
        """The blob's size in bytes, None if it is nowhere."""
        for pool in (self, *self.extra):
            try:
                return os.stat(pool.path(digest)).st_size
            except FileNotFoundError:
                continue
        return None

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there, in full: what is in the pool was checked when it came, but a disk may lose its end."""
        return self.size(descriptor["digest"]) == descriptor["size"]

    def open(self, digest: str) -> int:
        """An fd of the blob. Raises CtnrError if it is nowhere."""
        for pool in (self, *self.extra):
            try:
                return os.open(pool.path(digest), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SyscallError("open blob", error.errno or 0, pool.path(digest)) from None
        raise CtnrError(f"blob {digest} is missing in {self.directory}")

    def read(self, digest: str, limit: int) -> bytes:
        """A small blob, a manifest or a configuration, compared with its digest. Raises CtnrError."""
        fd = self.open(digest)
        try:
            if os.fstat(fd).st_size > limit:
                raise CtnrError(f"blob {digest} has more than {limit} bytes; refused")
            data = files.read_fd(fd)
        finally:
            os.close(fd)
        from hashlib import new

        algorithm, _, wanted = digest.partition(":")
        if new(algorithm, data).hexdigest() != wanted:
            raise CtnrError(f"blob {self.path(digest)} is damaged: its content is not its digest (image fsck)")
        return data

    @contextmanager
    def _new(self, digest: str) -> Iterator[int]:
        """A file to write the blob to; it becomes the blob when the block ends well."""
        final = self.path(digest)
        parent = os.path.dirname(final)
        files.makedirs(parent, 0o755)
        temporary = f"{parent}/{_UNFINISHED}{os.getpid()}-{os.urandom(6).hex()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            flock(fd, LOCK_EX)
            yield fd
            os.fsync(fd)
            os.rename(temporary, final)
            sync_directory(parent)
        except BaseException:
            try:
                os.unlink(temporary)
            except FileNotFoundError:
                pass  # a sweep came between the open and the lock
            raise
        finally:
            os.close(fd)

    def put(self, digest: str, reader: Reader) -> None:
        """Add a blob; the reader checks what it is (transfer.Verified). Raises CtnrError; nothing is kept then."""
        try:
            with self._new(digest) as fd:
                while data := reader.read(_CHUNK):
                    files.write_fd(fd, data)
        except OSError as error:
            raise SyscallError("write blob", error.errno or 0, self.path(digest)) from None

    def add(self, data: bytes, algorithm: str = "sha256") -> Descriptor:
        """Add these bytes; a descriptor without a media type. Raises CtnrError."""
        from hashlib import new

        digest = f"{algorithm}:{new(algorithm, data).hexdigest()}"
        descriptor: Descriptor = {"digest": digest, "size": len(data)}
        if self.has(descriptor):
            return descriptor
        try:
            with self._new(digest) as fd:
                files.write_fd(fd, data)
        except OSError as error:
            raise SyscallError("write blob", error.errno or 0, self.path(digest)) from None
        return descriptor

    def digests(self) -> list[str]:
        """Of all blobs of the directory itself, sorted; what has another name is no blob."""
        found = []
        for algorithm, length in ALGORITHMS.items():
            try:
                names = os.listdir(f"{self.directory}/{algorithm}")
            except FileNotFoundError:
                continue
            found += [f"{algorithm}:{n}" for n in names if len(n) == length and not n.startswith(_UNFINISHED)]
        return sorted(found)

    def remove(self, digest: str) -> int:
        """Remove a blob; how many bytes that frees."""
        path = self.path(digest)
        try:
            size = os.stat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return 0
        return size

    def sweep(self) -> None:
        """Remove what killed writers have left."""
        for algorithm in ALGORITHMS:
            try:
                names = os.listdir(f"{self.directory}/{algorithm}")
            except FileNotFoundError:
                continue
            for name in names:
                if name.startswith(_UNFINISHED):
                    _sweep(f"{self.directory}/{algorithm}/{name}")


def _sweep(path: str) -> None:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return
    try:
        flock(fd, LOCK_EX | LOCK_NB)
        os.unlink(path)
    except (BlockingIOError, FileNotFoundError):
        pass  # still at work, or done
    finally:
        os.close(fd)


def sync_directory(path: str) -> None:
    """Make the names in a directory survive a crash of the machine."""
    fd = files.open_dir(path)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
