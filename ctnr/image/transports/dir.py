# SPDX-License-Identifier: Apache-2.0
"""`dir:DIRECTORY`: an image as loose files, manifest.json and blobs by their hexadecimal digits (skopeo's format)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ctnr import files
from ctnr.errors import CtnrError, SyscallError
from ctnr.image.pool import FileReader
from ctnr.image.transfer import Reader
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor, check_digest

if TYPE_CHECKING:
    from ctnr.image.transfer import Source

_VERSION = b"Directory Transport Version: 1.1\n"


def _name(digest: str) -> str:
    algorithm, _, hexadecimal = check_digest(digest).partition(":")
    return hexadecimal if algorithm == "sha256" else digest.replace(":", "-")


class DirSource:
    def __init__(self, path: str) -> None:
        self.name = f"dir:{path}"
        self._path = path
        if not os.path.isfile(f"{path}/manifest.json"):
            raise CtnrError(f"{self.name}: no image there (no manifest.json)")

    def _open(self, name: str) -> int:
        try:
            return os.open(f"{self._path}/{name}", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise SyscallError(f"{self.name}: open", error.errno or 0, name) from None

    def manifest(self, digest: str | None = None) -> tuple[bytes, str]:
        fd = self._open("manifest.json" if digest is None else f"{_name(digest)}.manifest.json")
        try:
            if os.fstat(fd).st_size > spec.MANIFEST_LIMIT:
                raise CtnrError(f"{self.name}: its manifest has more than {spec.MANIFEST_LIMIT} bytes; refused")
            return files.read_fd(fd), ""
        finally:
            os.close(fd)

    def blob(self, descriptor: Descriptor) -> Reader:
        return FileReader(self._open(_name(descriptor["digest"])))

    def close(self) -> None:
        pass


class DirTarget:
    """A directory that is empty or not there yet."""

    def __init__(self, path: str) -> None:
        self.name = f"dir:{path}"
        self._path = path
        try:
            files.makedirs(path, 0o755)
            if os.listdir(path):
                raise CtnrError(f"{self.name}: is not empty: remove what is in it, or choose another directory")
            files.write_file(f"{path}/version", _VERSION)
        except OSError as error:
            raise SyscallError(f"{self.name}: make", error.errno or 0, path) from None

    def has_blob(self, descriptor: Descriptor) -> bool:
        return False

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        return False

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        path = f"{self._path}/{_name(descriptor['digest'])}"
        try:
            fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                while data := reader.read(1 << 18):
                    files.write_fd(fd, data)
                os.fsync(fd)
            except BaseException:
                os.unlink(path + ".new")
                raise
            finally:
                os.close(fd)
            os.rename(path + ".new", path)
        except OSError as error:
            raise SyscallError(f"{self.name}: write", error.errno or 0, path) from None

    def put_manifest(self, data: bytes, media_type: str, digest: str, top: bool) -> None:
        name = "manifest.json" if top else f"{_name(digest)}.manifest.json"
        files.write_atomic(f"{self._path}/{name}", data, 0o644)

    def close(self) -> None:
        pass
