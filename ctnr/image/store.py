# SPDX-License-Identifier: Apache-2.0
"""The store of images: one pool of blobs, shared by an OCI image layout for each repository.

    STORE/blobs/<algorithm>/<hex>
    STORE/repos/<repository, / and : escaped>/{oci-layout,index.json,blobs -> ../../blobs}
    STORE/used/<hex of the image's id>      its time is when the image was last used
    STORE/lock, STORE/gate                  locks that die with their holder

skopeo, umoci and whoever else reads OCI layouts can open any repository. Whoever adds holds the lock shared, from before
the first blob until it is named; whoever removes blobs holds it alone. So a blob that was found to be there still is
when it is named. An index.json has the id, size and age of its images as annotations, so that a list reads nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from typing import TYPE_CHECKING

from ctnr import files
from ctnr.errors import CtnrError, SyscallError
from ctnr.image import layout
from ctnr.image.layout import Layout, annotated, bare, tag_of
from ctnr.image.pool import FileReader, Pool
from ctnr.image.reference import Reference, parse
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor, ImageConfig, Index, Manifest, Platform

if TYPE_CHECKING:
    from ctnr.image.transfer import Reader, Source

# what an index.json of ours notes about an entry
ID, CREATED, SIZE, TAGGED = "io.ctnr.image.id", "io.ctnr.image.created", "io.ctnr.image.size", "io.ctnr.image.tagged"
_SHORT = 12
_HEX = frozenset("0123456789abcdef")


class Image:
    """An image of the store under one of its names, as a list shows it.

    `reference`: without a tag if it has lost its own. `id`: the digest of its configuration. `created`: RFC 3339, or "".
    `size`: of its compressed layers, in bytes. `tagged`: when it got the name, in seconds since 1970.
    """

    __slots__ = ("created", "descriptor", "id", "reference", "size", "tagged")

    def __init__(self, reference: Reference, descriptor: Descriptor) -> None:
        notes = descriptor.get("annotations", {})
        self.reference = reference
        self.descriptor = bare(descriptor)
        self.id = _digest(notes.get(ID, ""))
        self.created = notes.get(CREATED, "")
        self.size = int(notes[SIZE]) if notes.get(SIZE, "").isdigit() else 0
        self.tagged = int(notes[TAGGED]) if notes.get(TAGGED, "").isdigit() else 0

    @property
    def short_id(self) -> str:
        return self.id.partition(":")[2][:_SHORT]

    def __repr__(self) -> str:
        return f"<Image {self.reference} {self.short_id}>"


class Contents:
    """What an image consists of."""

    __slots__ = ("config", "config_data", "descriptor", "manifest", "manifest_data")

    def __init__(self, descriptor: Descriptor, manifest_data: bytes, manifest: Manifest, config_data: bytes) -> None:
        self.descriptor = descriptor
        self.manifest_data = manifest_data
        self.manifest = manifest
        self.config_data = config_data
        self.config: ImageConfig = spec.parse_config(config_data)
        spec.check_layers(manifest, self.config)

    @property
    def id(self) -> str:
        return self.manifest["config"]["digest"]

    @property
    def chain_ids(self) -> list[str]:
        return spec.chain_ids(self.config["rootfs"]["diff_ids"])


def _digest(text: str) -> str:
    """The text, "" if it is no digest: what an index.json of somebody else's store notes may be anything."""
    try:
        return spec.check_digest(text)
    except CtnrError:
        return ""


def escape(repository: str) -> str:
    """A repository's name as that of a directory, which skopeo can be given: no / and no :."""
    return repository.replace("%", "%25").replace("/", "%2F").replace(":", "%3A")


def unescape(name: str) -> str:
    return name.replace("%3A", ":").replace("%2F", "/").replace("%25", "%")


class Store:
    """A store of images, and read-only those in `extra` behind it. Nothing is made before something is put in."""

    def __init__(self, path: str, extra: tuple[str, ...] = ()) -> None:
        self.path = path
        self.extra: tuple[Store, ...] = tuple(Store(other) for other in extra)
        self.pool: Pool = Pool(f"{path}/blobs", tuple(store.pool for store in self.extra))

    # --- locks

    @contextmanager
    def adding(self) -> Iterator[None]:
        """While this is held, no blob goes away. Raises SyscallError."""
        with self._locked(LOCK_SH):
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this is held, nobody adds or removes. Raises SyscallError."""
        with self._locked(LOCK_EX):
            yield

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        try:
            files.makedirs(self.path, 0o700)
            gate = os.open(f"{self.path}/gate", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fd = os.open(f"{self.path}/lock", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except BaseException:
                os.close(gate)
                raise
        except OSError as error:
            raise SyscallError("--store-dir: lock", error.errno or 0, self.path) from None
        try:
            # who waits to be alone keeps the gate: else those who share would always find another who does
            flock(gate, kind)
            flock(fd, kind)
            flock(gate, LOCK_UN)
            yield
        finally:
            os.close(gate)
            os.close(fd)

    # --- what there is

    def repositories(self) -> list[str]:
        """The repositories' names, REGISTRY/PATH, sorted."""
        found: set[str] = set()
        for store in (self, *self.extra):
            try:
                names = map(unescape, os.listdir(f"{store.path}/repos"))
                found.update(name for name in names if "/" in name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SyscallError("--store-dir: read", error.errno or 0, store.path) from None
        return sorted(found)

    def own_repositories(self) -> list[str]:
        """Those that are not in a store behind this one only."""
        return [name for name in self.repositories() if os.path.isdir(self.layout(name).path)]

    def layout(self, repository: str) -> Layout:
        return Layout(f"{self.path}/repos/{escape(repository)}")

    def images(self, repository: str | None = None) -> list[Image]:
        """All images, or those of a repository, by name; an image with two names is there twice."""
        found = []
        for name in self.repositories() if repository is None else [repository]:
            seen: set[str] = set()
            for store in (self, *self.extra):
                for entry in store.layout(name).read():
                    tag = tag_of(entry)
                    if not tag and entry["digest"] in seen:
                        continue
                    if tag and f"tag {tag}" in seen:
                        continue  # the same tag in a store behind this one
                    seen.update((entry["digest"], f"tag {tag}"))
                    found.append(
                        Image(
                            _reference(name, entry), entry if ID in entry.get("annotations", {}) else self._noted(entry)
                        )
                    )
        return found

    def _noted(self, entry: Descriptor) -> Descriptor:
        """An entry with the annotations of a list: made for those that others have written. Unreadable: as it is."""
        try:
            contents = self.contents(entry)
        except CtnrError:
            return entry
        layers = sum(layer["size"] for layer in contents.manifest["layers"])
        notes = {ID: contents.id, CREATED: contents.config.get("created", ""), SIZE: str(layers)}
        return annotated(entry, **notes)

    def find(self, name: str) -> Image:
        """An image by name, id, the beginning of an id, or digest. Raises CtnrError, saying what there is."""
        images = self.images()
        algorithm, colon, hexadecimal = name.partition(":")
        wanted = hexadecimal if colon and algorithm in spec.ALGORITHMS else name
        if len(wanted) >= 4 and _HEX.issuperset(wanted):
            found = [image for image in images if image.id.partition(":")[2].startswith(wanted)]
            found = found or [i for i in images if i.descriptor["digest"].partition(":")[2].startswith(wanted)]
            if len({image.id for image in found}) > 1:
                raise CtnrError(f"{name}: the beginning of {len({i.id for i in found})} ids: give more of it")
            if found:
                return found[0]
        if not colon or algorithm not in spec.ALGORITHMS:
            reference = parse(name).tagged()
            for image in images:
                if image.reference.name != reference.name:
                    continue
                if reference.digest and image.descriptor["digest"] != reference.digest:
                    continue
                if reference.digest or image.reference.tag == reference.tag:
                    return image
            there = sorted({i.reference.tag for i in images if i.reference.name == reference.name and i.reference.tag})
            if there:
                raise CtnrError(f"no such image: {reference.familiar()}; of it there is: {', '.join(there[:20])}")
        raise CtnrError(f"no such image: {name} (`ctnr image list` shows what there is)")

    def contents(self, descriptor: Descriptor, platform: Platform | None = None) -> Contents:
        """Manifest and configuration, checked, of an image, or of that for a platform in an index. Raises CtnrError."""
        from ctnr.image.transfer import choose

        data, found, manifest = choose(StoreSource(self, "", descriptor), platform)
        spec.check_image(manifest)
        return Contents(found, data, manifest, self.pool.read(manifest["config"]["digest"], spec.CONFIG_LIMIT))

    # --- changes

    def put(self, reference: Reference, descriptor: Descriptor, now: int | None = None) -> None:
        """Name a manifest that is in the pool, with all that it names. What had the tag loses it.

        Within adding(). `now`: in seconds since 1970.
        """
        from time import time

        entry = self._noted(bare(descriptor))
        stamp = str(int(time()) if now is None else now)
        target = self.layout(reference.name)
        if not target.exists():
            target.make("../../blobs")
        with target.changed() as entries:
            _untag(entries, reference.tag, keep=entry["digest"])
            if reference.tag:
                # the same manifest without a name has got one
                entries[:] = [e for e in entries if tag_of(e) or e["digest"] != entry["digest"]]
                entries.append(annotated(entry, **{layout.REF_NAME: reference.tag, TAGGED: stamp}))
            elif all(e["digest"] != entry["digest"] for e in entries):
                entries.append(annotated(entry, **{TAGGED: stamp}))
        self.touch(entry.get("annotations", {}).get(ID, ""))

    def tag(self, image: Image, reference: Reference) -> None:
        """Give an image one more name. Raises CtnrError."""
        with self.adding():
            if self.pool.size(image.descriptor["digest"]) is None:
                raise CtnrError(f"{image.reference.familiar()} was removed meanwhile")
            self.put(reference.tagged(), image.descriptor)

    def untag(self, reference: Reference) -> bool:
        """Take a name away; the image stays, nameless if it was its last. Whether there was one."""
        target = self.layout(reference.name)
        with self.adding():
            if not target.exists():
                return False
            with target.changed() as entries:
                return _untag(entries, reference.tag)

    def remove(self, image: Image) -> list[Reference]:
        """Remove an image with all its names, in every repository, but not yet its blobs: collect() does. The names."""
        gone = []
        with self.adding():
            for name in self.own_repositories():
                with self.layout(name).changed() as entries:
                    for entry in [e for e in entries if e["digest"] == image.descriptor["digest"]]:
                        entries.remove(entry)
                        gone.append(_reference(name, entry))
        return gone

    def touch(self, id: str, now: float | None = None) -> None:
        """Note that an image was used. Best effort, for a store that is somebody else's."""
        if not id:
            return
        path = f"{self.path}/used/{spec.check_digest(id).partition(':')[2]}"
        try:
            files.makedirs(os.path.dirname(path), 0o700)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            os.utime(path, None if now is None else (now, now))
        except OSError:
            return

    def last_used(self, id: str) -> float:
        """When an image was last used, in seconds since 1970; 0 if that is not known."""
        try:
            return os.stat(f"{self.path}/used/{_digest(id).partition(':')[2]}").st_mtime if id else 0.0
        except OSError:
            return 0.0

    def forget(self, ids: set[str]) -> None:
        """Remove the notes of use of all images but these."""
        keep = {id.partition(":")[2] for id in ids}
        try:
            names = os.listdir(f"{self.path}/used")
        except FileNotFoundError:
            return
        for name in names:
            if name not in keep:
                try:
                    os.unlink(f"{self.path}/used/{name}")
                except FileNotFoundError:
                    continue


def _reference(repository: str, entry: Descriptor) -> Reference:
    registry, _, path = repository.partition("/")
    tag = tag_of(entry)
    return Reference(registry, path, tag, "" if tag else entry["digest"])


def _untag(entries: list[Descriptor], tag: str, keep: str = "") -> bool:
    """Take a tag off its entry, which stays, nameless, unless its manifest has another entry or is `keep`."""
    tagged = [e for e in entries if tag and tag_of(e) == tag]
    for entry in tagged:
        entries.remove(entry)
        digest = entry["digest"]
        if digest != keep and all(e["digest"] != digest for e in entries):
            entries.append(annotated(entry, **{layout.REF_NAME: ""}))
    return bool(tagged)


# --- as a place to copy from and to


class StoreSource:
    """An image of the store, for transfer.copy()."""

    def __init__(self, store: Store, name: str, descriptor: Descriptor) -> None:
        self.store = store
        self.name = name or f"the store's {descriptor['digest'][:19]}"
        self.descriptor = descriptor

    def manifest(self, digest: str | None = None) -> tuple[bytes, str]:
        wanted = digest or self.descriptor["digest"]
        said = "" if digest else self.descriptor.get("mediaType", "")
        return self.store.pool.read(wanted, spec.MANIFEST_LIMIT), said

    def blob(self, descriptor: Descriptor) -> Reader:
        return FileReader(self.store.pool.open(descriptor["digest"]))

    def close(self) -> None:
        pass


class StoreTarget:
    """A name in the store, for transfer.copy(). It must be used within Store.adding()."""

    def __init__(self, store: Store, reference: Reference) -> None:
        self.store = store
        self.reference = reference
        self.name = "the store"

    def has_blob(self, descriptor: Descriptor) -> bool:
        return self.store.pool.has(descriptor)

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        return False

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        self.store.pool.put(descriptor["digest"], reader)

    def put_manifest(self, data: bytes, media_type: str, digest: str, top: bool) -> None:
        descriptor = self.store.pool.add(data, digest.partition(":")[0])
        if top:
            self.store.put(self.reference, {**descriptor, "mediaType": media_type})

    def close(self) -> None:
        pass


def documents(store: Store, descriptor: Descriptor) -> Iterator[tuple[Descriptor, Manifest | Index]]:
    """A manifest of the store and all that it names, if it is an index; what is not there (other platforms) is left out."""
    if store.pool.size(descriptor["digest"]) is None:
        return
    data = store.pool.read(descriptor["digest"], spec.MANIFEST_LIMIT)
    document = spec.parse_manifest(data, descriptor.get("mediaType"))
    yield descriptor, document
    if spec.is_index(document):
        for entry in document["manifests"]:  # type: ignore[typeddict-item]  # it is an index
            yield from documents(store, entry)
