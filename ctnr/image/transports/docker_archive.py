# SPDX-License-Identifier: Apache-2.0
"""`docker-archive:FILE[:NAME]`: what `docker save` writes and `docker load` reads.

It has no manifest, so one is made of its parts; that makes the digest, and the same archive always gives the same one.
"""

from __future__ import annotations

import tempfile
import threading
from typing import IO, TYPE_CHECKING, Any

from ctnr import jsonio
from ctnr.errors import CtnrError, SpecError
from ctnr.image.compression import ArchiveError, Stream
from ctnr.image.members import Members, Writer
from ctnr.image.policy import UnpackPolicy
from ctnr.image.reference import Reference, parse
from ctnr.image.transfer import Reader, digest_of, read_all
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor, Manifest

if TYPE_CHECKING:
    from ctnr.image.transfer import Source

_CHUNK = 1 << 18
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


def split(rest: str) -> tuple[str, str]:
    """FILE[:NAME[:TAG]]; as skopeo has it, a file has no colon."""
    path, _, name = rest.partition(":")
    return path, name


def _rows(members: Members) -> list[dict[str, Any]]:
    if "manifest.json" not in members:
        raise CtnrError(f"{members.path}: no docker archive (no manifest.json in it)")
    try:
        found = jsonio.loads(members.read("manifest.json", spec.MANIFEST_LIMIT))
    except ValueError as error:
        raise CtnrError(f"{members.path}: its manifest.json is damaged: {error}") from None
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise SpecError("", f"{members.path}: its manifest.json is no array of objects")
    for i, row in enumerate(found):
        texts = [row.get("Config"), *(row.get("Layers") or ()), *(row.get("RepoTags") or ())]
        if not all(isinstance(text, str) for text in texts):
            raise SpecError(f"[{i}]", f"{members.path}: its manifest.json must name a Config and Layers")
    return found


def names(path: str) -> list[list[str]]:
    """The names of each image in an archive: for one that is loaded whole. Raises CtnrError."""
    members = Members(path)
    try:
        return [list(row.get("RepoTags") or ()) for row in _rows(members)]
    finally:
        members.close()


class DockerArchiveSource:
    """An image of an archive: that of a name, the `index`th, or the only one."""

    def __init__(self, path: str, name: str = "", index: int | None = None) -> None:
        self.name = f"docker-archive:{path}" + (f":{name}" if name else "")
        self._members = Members(path)
        try:
            self._row = self._pick(_rows(self._members), name, index)
            self._make()
        except BaseException:
            self.close()
            raise

    def _pick(self, rows: list[dict[str, Any]], name: str, index: int | None) -> dict[str, Any]:
        if index is not None:
            return rows[index]
        if not name:
            if len(rows) == 1:
                return rows[0]
            there = ", ".join(tag for row in rows for tag in row.get("RepoTags") or ())
            raise CtnrError(
                f"{self.name}: {len(rows)} images are in it: add :NAME; there is {there or 'none with one'}"
            )
        wanted = parse(name).tagged()
        for row in rows:
            if any(parse(tag).tagged() == wanted for tag in row.get("RepoTags") or ()):
                return row
        there = ", ".join(tag for row in rows for tag in row.get("RepoTags") or ())
        raise CtnrError(f"{self.name}: no image of that name; there is {there or 'none with one'}")

    @property
    def tags(self) -> list[str]:
        return list(self._row.get("RepoTags") or ())

    def _make(self) -> None:
        config = self._members.read(self._row["Config"], spec.CONFIG_LIMIT)
        self._files: dict[str, str] = {}
        document = spec.parse_config(config)
        ids = document["rootfs"]["diff_ids"]
        layers = list(self._row.get("Layers") or ())
        if len(ids) != len(layers):
            raise SpecError("rootfs.diff_ids", f"{self.name}: names {len(ids)} layers, the archive has {len(layers)}")
        described = [self._layer(name, id) for name, id in zip(layers, ids, strict=True)]
        self._config: Descriptor = {"mediaType": spec.OCI_CONFIG, "digest": digest_of(config), "size": len(config)}
        self._files[self._config["digest"]] = self._row["Config"]
        manifest: Manifest = {
            "schemaVersion": 2,
            "mediaType": spec.OCI_MANIFEST,
            "config": self._config,
            "layers": described,
        }
        self._manifest = jsonio.dumps(manifest).encode()

    def _layer(self, name: str, diff_id: str) -> Descriptor:
        size = self._members.size(name)
        first = self._members.open(name).read(4)
        kind, digest = spec.OCI_LAYER, diff_id
        if first.startswith((_GZIP, _ZSTD)):
            # docker writes plain ones; of others the digest is not in the archive
            kind += "+gzip" if first.startswith(_GZIP) else "+zstd"
            digest = self._hash(name)
        self._files[digest] = name
        return {"mediaType": kind, "digest": digest, "size": size}

    def _hash(self, name: str) -> str:
        import hashlib

        found = hashlib.sha256()
        member = self._members.open(name)
        while data := member.read(_CHUNK):
            found.update(data)
        return f"sha256:{found.hexdigest()}"

    def manifest(self, digest: str | None = None) -> tuple[bytes, str]:
        if digest not in (None, digest_of(self._manifest)):
            raise CtnrError(f"{self.name}: there is no manifest {digest} in it")
        return self._manifest, spec.OCI_MANIFEST

    def blob(self, descriptor: Descriptor) -> Reader:
        name = self._files.get(descriptor["digest"])
        if name is None:
            raise CtnrError(f"{self.name}: there is no blob {descriptor['digest']} in it")
        return self._members.open(name)

    def close(self) -> None:
        self._members.close()


class DockerArchiveTarget:
    """A new archive, of one image with any number of names. Layers in it are not compressed, as docker wants them."""

    def __init__(self, path: str, names: list[Reference]) -> None:
        self.name = f"docker-archive:{path}"
        self._writer = Writer(path)
        self._names = [name.familiar() for name in names if name.tag]
        self._lock = threading.Lock()
        self._configs: dict[str, bytes] = {}
        self._layers: dict[str, str] = {}

    def has_blob(self, descriptor: Descriptor) -> bool:
        return False

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        return False

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        digest = descriptor["digest"]
        if descriptor.get("mediaType") in spec.CONFIGS:
            self._configs[digest] = read_all(reader, spec.CONFIG_LIMIT)
            return
        with tempfile.TemporaryFile(prefix="ctnr-") as plain:
            plain_digest = _decompress(reader, plain, self.name)
            size = plain.tell()
            plain.seek(0)
            name = f"{plain_digest.partition(':')[2]}.tar"
            with self._lock:
                known = name in self._layers.values()
                self._layers[digest] = name
                if known:
                    return  # the same layer, compressed otherwise
                self._writer.begin(name, size)
                while data := plain.read(_CHUNK):
                    self._writer.write(data)
                self._writer.end(size)

    def put_manifest(self, data: bytes, media_type: str, digest: str, top: bool) -> None:
        document: Any = spec.parse_manifest(data, media_type)
        if spec.is_index(document):
            raise CtnrError(f"{self.name}: holds images, not indexes of them: choose one with --platform")
        config = document["config"]["digest"]
        name = f"{config.partition(':')[2]}.json"
        self._writer.add(name, self._configs[config])
        layers = [self._layers[layer["digest"]] for layer in document["layers"]]
        rows = [{"Config": name, "RepoTags": self._names or None, "Layers": layers}]
        self._writer.add("manifest.json", jsonio.dumps(rows).encode())
        self._writer.finish()

    def close(self) -> None:
        self._writer.close()


class _Whole:
    """A reader as a file, for Stream; to be read to its end whatever the compressed data's own end is."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def read(self, size: int = -1) -> bytes:
        return self._reader.read(size if size > 0 else _CHUNK)


def _decompress(reader: Reader, plain: IO[bytes], name: str) -> str:
    """A layer without its compression; the digest of that."""
    import hashlib

    found = hashlib.sha256()
    source: Any = _Whole(reader)
    limits = UnpackPolicy()
    try:
        with Stream(source, max_bytes=limits.max_bytes, max_ratio=limits.max_ratio, threaded=False) as stream:
            while data := stream.read():
                found.update(data)
                plain.write(data)
    except ArchiveError as error:
        raise CtnrError(f"{name}: a layer: {error}") from None
    while reader.read(_CHUNK):
        pass  # to the end: only there the digest is checked
    return f"sha256:{found.hexdigest()}"
