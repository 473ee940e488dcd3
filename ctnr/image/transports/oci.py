# SPDX-License-Identifier: Apache-2.0
"""`oci:DIRECTORY[:TAG]` and `oci-archive:FILE[:TAG]`: OCI image layouts (image-layout.md), also inside a tar archive."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any, cast

from ctnr import jsonio
from ctnr.errors import CtnrError, SpecError
from ctnr.image.layout import REF_NAME, Layout, annotated, tag_of
from ctnr.image.members import Members, Writer
from ctnr.image.pool import FileReader, Pool
from ctnr.image.transfer import Reader, digest_of
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor, check_descriptor, check_digest

if TYPE_CHECKING:
    from ctnr.image.transfer import Source


def split(rest: str) -> tuple[str, str]:
    """PATH[:TAG]; as skopeo has it, a path has no colon."""
    path, _, tag = rest.partition(":")
    return path, tag


def _pick(entries: list[Descriptor], tag: str, name: str) -> Descriptor:
    found = [e for e in entries if tag and tag_of(e) == tag]
    if not tag and len(entries) == 1:
        found = entries
    if found:
        return found[0]
    there = ", ".join(sorted(tag_of(e) for e in entries if tag_of(e))) or "none that has a tag"
    if not tag:
        raise CtnrError(f"{name}: {len(entries)} images are in it: add :TAG; there is {there}")
    raise CtnrError(f"{name}: no image with the tag {tag}; there is {there}")


class LayoutSource:
    """An image in a layout's directory."""

    def __init__(self, path: str, tag: str) -> None:
        self.name = f"oci:{path}" + (f":{tag}" if tag else "")
        self._layout = Layout(path)
        if not self._layout.exists():
            raise CtnrError(f"{self.name}: no OCI image layout there (no index.json)")
        self._entry = _pick(self._layout.read(), tag, self.name)
        self._pool = Pool(f"{path}/blobs")

    def manifest(self, digest: str | None = None) -> tuple[bytes, str]:
        said = "" if digest else self._entry.get("mediaType", "")
        return self._pool.read(digest or self._entry["digest"], spec.MANIFEST_LIMIT), said

    def blob(self, descriptor: Descriptor) -> Reader:
        return FileReader(self._pool.open(descriptor["digest"]))

    def close(self) -> None:
        pass


class LayoutTarget:
    """A tag in a layout's directory, made if it is not there; the other images in it stay."""

    def __init__(self, path: str, tag: str) -> None:
        self.name = f"oci:{path}" + (f":{tag}" if tag else "")
        self._tag = tag
        self._layout = Layout(path)
        if not self._layout.exists() and os.path.isdir(path) and os.listdir(path):
            raise CtnrError(f"{self.name}: there is a directory, and it is no OCI image layout")
        self._layout.make()
        self._pool = Pool(f"{path}/blobs")

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self._pool.has(descriptor)

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        return False

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        self._pool.put(descriptor["digest"], reader)

    def put_manifest(self, data: bytes, media_type: str, digest: str, top: bool) -> None:
        descriptor: Descriptor = {**self._pool.add(data, digest.partition(":")[0]), "mediaType": media_type}
        if top:
            with self._layout.changed() as entries:
                same = [e for e in entries if (tag_of(e) == self._tag if self._tag else e["digest"] == digest)]
                for entry in same:
                    entries.remove(entry)
                entries.append(annotated(descriptor, **{REF_NAME: self._tag}))

    def close(self) -> None:
        pass


class ArchiveSource:
    """An image in a layout that is in a tar archive."""

    def __init__(self, path: str, tag: str) -> None:
        self.name = f"oci-archive:{path}" + (f":{tag}" if tag else "")
        self._members = Members(path)
        try:
            self._entry = _pick(self._entries(), tag, self.name)
        except BaseException:
            self.close()
            raise

    def _entries(self) -> list[Descriptor]:
        if "index.json" not in self._members:
            raise CtnrError(f"{self.name}: no OCI image layout in it (no index.json)")
        try:
            document: Any = jsonio.loads(self._members.read("index.json", spec.MANIFEST_LIMIT))
        except ValueError as error:
            raise CtnrError(f"{self.name}: its index.json is damaged: {error}") from None
        entries = document.get("manifests") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise SpecError("manifests", f"{self.name}: its index.json is no index")
        for i, entry in enumerate(entries):
            check_descriptor(entry, f"manifests[{i}]")
        return cast("list[Descriptor]", entries)

    def _path(self, digest: str) -> str:
        return "blobs/" + check_digest(digest).replace(":", "/")

    def manifest(self, digest: str | None = None) -> tuple[bytes, str]:
        said = "" if digest else self._entry.get("mediaType", "")
        return self._members.read(self._path(digest or self._entry["digest"]), spec.MANIFEST_LIMIT), said

    def blob(self, descriptor: Descriptor) -> Reader:
        return self._members.open(self._path(descriptor["digest"]))

    def close(self) -> None:
        self._members.close()


class ArchiveTarget:
    """A new archive with one image."""

    def __init__(self, path: str, tag: str) -> None:
        self.name = f"oci-archive:{path}" + (f":{tag}" if tag else "")
        self._tag = tag
        self._writer = Writer(path)
        self._lock = threading.Lock()  # an archive is written from its beginning to its end
        self._writer.add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')

    def has_blob(self, descriptor: Descriptor) -> bool:
        return False

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        return False

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        with self._lock:
            self._writer.begin("blobs/" + check_digest(descriptor["digest"]).replace(":", "/"), descriptor["size"])
            while data := reader.read(1 << 18):
                self._writer.write(data)
            self._writer.end(descriptor["size"])

    def put_manifest(self, data: bytes, media_type: str, digest: str, top: bool) -> None:
        self._writer.add("blobs/" + check_digest(digest).replace(":", "/"), data)
        if top:
            entry: Descriptor = {"mediaType": media_type, "digest": digest_of(data, digest), "size": len(data)}
            index = {"schemaVersion": 2, "mediaType": spec.OCI_INDEX}
            document = {**index, "manifests": [annotated(entry, **{REF_NAME: self._tag})]}
            self._writer.add("index.json", jsonio.dumps(document).encode())
            self._writer.finish()

    def close(self) -> None:
        self._writer.close()
