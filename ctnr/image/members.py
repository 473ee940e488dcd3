# SPDX-License-Identifier: Apache-2.0
"""The files in a tar archive, to be read in any order: what images in archives need, of which nothing is unpacked."""

from __future__ import annotations

import os
import tempfile

from ctnr.errors import CtnrError
from ctnr.image import tar
from ctnr.image.archive import open_archive
from ctnr.image.compression import ArchiveError, Stream
from ctnr.image.fields import printable
from ctnr.image.policy import UnpackPolicy

# of one archive: a docker-archive of all images somebody has
_MAX = 100_000


class Member:
    """A transfer.Reader of one file in an archive."""

    def __init__(self, fd: int, offset: int, size: int) -> None:
        self._fd = fd
        self._offset = offset
        self._left = size

    def read(self, size: int, /) -> bytes:
        data = os.pread(self._fd, min(size, self._left), self._offset)
        self._offset += len(data)
        self._left -= len(data)
        return data

    def close(self) -> None:
        pass  # the fd is the archive's


class Members:
    """An archive's regular files by name; a compressed archive is decompressed to a file that has no name. Raises CtnrError."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._where: dict[str, tuple[int, int]] = {}
        self._links: dict[str, str] = {}
        try:
            self._fd = open_archive(path)
            self._index()
        except OSError as error:
            self.close()
            raise CtnrError(f"{path}: {(error.strerror or '').lower()}") from None
        except ArchiveError as error:
            self.close()
            raise CtnrError(f"{path}: {error}") from None
        except BaseException:
            self.close()
            raise

    def _index(self) -> None:
        limits = UnpackPolicy()
        with Stream(self._fd, max_bytes=limits.max_bytes, max_ratio=limits.max_ratio) as stream:
            if stream.compression:
                with tempfile.TemporaryFile(prefix="ctnr-") as plain:
                    while data := stream.read():
                        plain.write(data)
                    plain.flush()
                    fd = os.dup(plain.fileno())
                os.close(self._fd)
                self._fd = fd
        os.lseek(self._fd, 0, os.SEEK_SET)
        with Stream(self._fd, threaded=False) as stream:
            reader = tar.Reader(stream.read, strict=False)
            while (entry := reader.next()) is not None:
                if len(self._where) + len(self._links) > _MAX:
                    raise ArchiveError(f"more than {_MAX} files; refused")
                name = os.fsdecode(entry.name).removeprefix("./")
                if entry.kind == tar.FILE and entry.sparse is None:
                    self._where[name] = reader.position, entry.size
                    self._links.pop(name, None)
                elif entry.kind in (tar.SYMLINK, tar.HARDLINK):
                    target = os.fsdecode(entry.linkname).removeprefix("./")
                    if entry.kind == tar.SYMLINK:
                        # docker's own old archives link a layer that is there already: ../ID/layer.tar
                        target = os.path.normpath(f"{os.path.dirname(name)}/{target}").lstrip("/")
                    self._links[name] = target
                    self._where.pop(name, None)
            reader.finish()

    def _find(self, name: str) -> tuple[int, int]:
        for _ in range(8):
            if name in self._where:
                return self._where[name]
            if name not in self._links:
                break
            name = self._links[name]
        raise CtnrError(f"{self.path}: there is no file {printable(os.fsencode(name))} in it")

    def __contains__(self, name: str) -> bool:
        return name in self._where or name in self._links

    def size(self, name: str) -> int:
        """In bytes. Raises CtnrError if there is no such file."""
        return self._find(name)[1]

    def open(self, name: str) -> Member:
        """Raises CtnrError if there is no such file."""
        return Member(self._fd, *self._find(name))

    def read(self, name: str, limit: int) -> bytes:
        """A small file. Raises CtnrError."""
        member = self.open(name)
        if self.size(name) > limit:
            raise CtnrError(f"{self.path}: {name} has more than {limit} bytes; refused")
        data = b""
        while part := member.read(limit):
            data += part
        return data

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class Writer:
    """An archive being written: it has its name when it is whole."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._temporary = f"{path}.new-{os.getpid()}-{os.urandom(4).hex()}"
        if os.path.lexists(path):
            raise CtnrError(f"{path}: is there already: remove it, or choose another name")
        try:
            self._file = open(self._temporary, "xb")  # noqa: SIM115  closed by finish() or close()
        except OSError as error:
            raise CtnrError(f"{path}: cannot be made: {(error.strerror or '').lower()}") from None

    def begin(self, name: str, size: int) -> None:
        """The header of a file; exactly `size` bytes have to follow."""
        import tarfile

        entry = tarfile.TarInfo(name)
        entry.size = size
        entry.mode = 0o644
        self._file.write(entry.tobuf(tarfile.GNU_FORMAT))

    def write(self, data: bytes) -> None:
        self._file.write(data)

    def end(self, size: int) -> None:
        self._file.write(bytes(-size % tar.BLOCK))

    def add(self, name: str, data: bytes) -> None:
        """A whole file."""
        self.begin(name, len(data))
        self.write(data)
        self.end(len(data))

    def finish(self) -> None:
        """Give it its name; it is on disk then."""
        self._file.write(bytes(2 * tar.BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.rename(self._temporary, self.path)

    def close(self) -> None:
        """Drop it, unless it is finished."""
        if not self._file.closed:
            self._file.close()
            os.unlink(self._temporary)
