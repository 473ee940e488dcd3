# SPDX-License-Identifier: Apache-2.0
"""An image of one layer as an OCI archive, made by hand: for callers that only take images."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def make(tree: Path, path: Path, tag: str, config: dict[str, Any]) -> Path:
    """The files of `tree`, all root's, as the image `tag` with `config` (image-spec config.md) in the archive `path`."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(tree, ".", filter=_as_root)
    blobs: dict[str, bytes] = {}

    def blob(media: str, data: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        kind = f"application/vnd.oci.image.{media}"
        return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

    described = blob("layer.v1.tar", layer.getvalue())
    machine = platform.machine()
    image = {
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [described["digest"]]},
    }
    manifest = {
        "schemaVersion": 2,
        "config": blob("config.v1+json", json.dumps(image).encode()),
        "layers": [described],
    }
    top = {**blob("manifest.v1+json", json.dumps(manifest).encode())}
    top["annotations"] = {"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": tag}
    index = {"schemaVersion": 2, "manifests": [top]}
    with tarfile.open(path, "w") as tar:
        for name, data in (
            ("oci-layout", b'{"imageLayoutVersion": "1.0.0"}'),
            ("index.json", json.dumps(index).encode()),
            *((f"blobs/sha256/{digest}", data) for digest, data in blobs.items()),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def _as_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member
