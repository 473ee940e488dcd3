# SPDX-License-Identifier: Apache-2.0
"""The index.json of an OCI image layout (image-layout.md): which manifests there are, and their tags.

A layout of the store and one of somebody else's are the same here. The file is replaced whole, under a lock on the
directory, so that a reader sees what was before or what is after.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from typing import Any, cast

from ctnr import files, jsonio
from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.image.pool import sync_directory
from ctnr.spec.image import MANIFEST_LIMIT, OCI_INDEX, Descriptor, Index, check_descriptor

REF_NAME = "org.opencontainers.image.ref.name"
INDEX, VERSION = "index.json", "oci-layout"
_VERSION_TEXT = b'{"imageLayoutVersion":"1.0.0"}'
# an index of a repository with thousands of tags is more than a manifest may be
_LIMIT = 16 * MANIFEST_LIMIT


class Layout:
    """One layout's directory."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def exists(self) -> bool:
        return os.path.exists(f"{self.path}/{INDEX}")

    def make(self, blobs: str | None = None) -> None:
        """Make the layout where there is none; `blobs`: what its blobs are a symlink to. Raises SyscallError."""
        try:
            files.makedirs(self.path, 0o755)
            if blobs is not None and not os.path.lexists(f"{self.path}/blobs"):
                try:
                    os.symlink(blobs, f"{self.path}/blobs")
                except FileExistsError:
                    pass  # another process was faster
            if not os.path.exists(f"{self.path}/{VERSION}"):
                _write(f"{self.path}/{VERSION}", _VERSION_TEXT)
            with self.changed():
                pass  # an empty index, unless there is one
        except OSError as error:
            raise SyscallError("make the image layout", error.errno or 0, self.path) from None

    def read(self) -> list[Descriptor]:
        """The manifests; none where there is no index. Raises SpecError, SyscallError."""
        path = f"{self.path}/{INDEX}"
        try:
            data = files.read_file(path)
        except OSError as error:
            if isinstance(error, (FileNotFoundError, NotADirectoryError)):
                return []
            raise SyscallError("read", error.errno or 0, path) from None
        if len(data) > _LIMIT:
            raise SpecError("", f"{path} has more than {_LIMIT} bytes; refused")
        try:
            document = jsonio.loads(data)
        except ValueError as error:
            raise SpecError("", f"{path} is damaged: {error}") from None
        entries = document.get("manifests") if isinstance(document, dict) else None
        if entries is None and isinstance(document, dict):
            return []
        if not isinstance(entries, list):
            raise SpecError("manifests", f"{path} is no index: it must be an array")
        for i, entry in enumerate(entries):
            try:
                check_descriptor(entry, f"manifests[{i}]")
            except SpecError as error:
                raise SpecError(error.path, f"{error.why} ({path})") from None
        return cast("list[Descriptor]", entries)

    @contextmanager
    def changed(self) -> Iterator[list[Descriptor]]:
        """The manifests, to be changed in place; written back when the block ends well. Others wait meanwhile."""
        fd = files.open_dir(self.path)
        try:
            flock(fd, LOCK_EX)
            if os.fstat(fd).st_nlink == 0:
                raise CtnrError(f"{self.path} was removed meanwhile: try again")
            entries = self.read()
            before = jsonio.dumps(entries)
            yield entries
            if jsonio.dumps(entries) != before or not os.path.exists(f"{self.path}/{INDEX}"):
                document: Index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}
                _write(f"{self.path}/{INDEX}", jsonio.dumps(document).encode())
        finally:
            os.close(fd)


def _write(path: str, data: bytes) -> None:
    """Replace a file, on disk when this returns."""
    parent = os.path.dirname(path)
    temporary = f"{parent}/.{os.path.basename(path)}-{os.getpid()}-{os.urandom(4).hex()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        try:
            files.write_fd(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    sync_directory(parent)


def tag_of(entry: Descriptor) -> str:
    """The tag of an entry, "" for one without."""
    return entry.get("annotations", {}).get(REF_NAME, "")


def annotated(entry: Descriptor, **more: str) -> Descriptor:
    """A copy of an entry with annotations set, or removed where the value is ""."""
    copy: Any = dict(entry)
    notes = {**entry.get("annotations", {}), **more}
    copy["annotations"] = {name: value for name, value in notes.items() if value}
    if not copy["annotations"]:
        del copy["annotations"]
    return cast("Descriptor", copy)


def bare(entry: Descriptor) -> Descriptor:
    """The descriptor without what a layout notes about it."""
    found: Descriptor = {"digest": entry["digest"], "size": entry["size"]}
    if "mediaType" in entry:
        found["mediaType"] = entry["mediaType"]
    return found
