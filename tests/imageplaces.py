# SPDX-License-Identifier: Apache-2.0
"""A place for images in memory, both ways, and images made for it."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

from ctnr.errors import CtnrError
from ctnr.image import transfer
from ctnr.image.transfer import Reader, digest_of
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor


class Memory:
    """A place in memory, both ways. `lies`: digest -> what is handed out instead."""

    name = "memory"

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.top = ""
        self.lies: dict[str, bytes] = {}
        self.order: list[str] = []
        self.lock = threading.Lock()

    def add_blob(self, data: bytes, media_type: str) -> Descriptor:
        digest = digest_of(data)
        self.blobs[digest] = data
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def add_manifest(self, document: dict[str, Any], top: bool = True) -> Descriptor:
        data = json.dumps(document).encode()
        digest = digest_of(data)
        self.manifests[digest] = data, document["mediaType"]
        if top:
            self.top = digest
        return {"mediaType": document["mediaType"], "digest": digest, "size": len(data)}

    def manifest(self, digest: str | None = None) -> tuple[bytes, str]:
        found = digest or self.top
        if found not in self.manifests:
            raise CtnrError(f"memory: no manifest {found}")
        data, media_type = self.manifests[found]
        return self.lies.get(found, data), media_type

    def blob(self, descriptor: Descriptor) -> Reader:
        digest = descriptor["digest"]
        if digest not in self.blobs:
            raise CtnrError(f"memory: no blob {digest}")
        return io.BytesIO(self.lies.get(digest, self.blobs[digest]))

    def has_blob(self, descriptor: Descriptor) -> bool:
        return descriptor["digest"] in self.blobs

    def mount_blob(self, descriptor: Descriptor, source: transfer.Source) -> bool:
        return False

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        data = transfer.read_all(reader, 1 << 20)
        with self.lock:
            self.blobs[descriptor["digest"]] = data
            self.order.append(descriptor["digest"])

    def put_manifest(self, data: bytes, media_type: str, digest: str, top: bool) -> None:
        self.manifests[digest] = data, media_type
        self.order.append(digest)
        if top:
            self.top = digest

    def close(self) -> None:
        pass


def image(place: Memory, name: str, platform: str = "", layers: int = 2) -> Descriptor:
    found = [place.add_blob(f"{name} {i}".encode() * 1000, spec.OCI_LAYER) for i in range(layers)]
    rootfs = {"type": "layers", "diff_ids": [layer["digest"] for layer in found]}
    config = place.add_blob(json.dumps({"os": "linux", "name": name, "rootfs": rootfs}).encode(), spec.OCI_CONFIG)
    manifest = {"schemaVersion": 2, "mediaType": spec.OCI_MANIFEST, "config": config, "layers": found}
    descriptor = place.add_manifest(manifest)
    if platform:
        os, architecture = platform.split("/")
        descriptor["platform"] = {"os": os, "architecture": architecture}
    return descriptor


def index(place: Memory, *entries: Descriptor) -> Descriptor:
    return place.add_manifest({"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": list(entries)})


def config_of(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(data)
    return found
