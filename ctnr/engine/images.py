# SPDX-License-Identifier: Apache-2.0
"""Images as functions: pull, push, import, export, save, load. What the commands do, these do first. Cold."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ctnr.engine.run import store_dir
from ctnr.errors import CtnrError
from ctnr.image import transfer
from ctnr.image.reference import LATEST, Reference, parse, split_transport
from ctnr.image.store import Image, Store, StoreSource, StoreTarget
from ctnr.image.transfer import no_progress
from ctnr.spec import image as spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ctnr.image.transfer import Bar, Source, Target
    from ctnr.image.transports.registry import Options

    Progress = Callable[[str, str, int], Bar]


def open_store(path: str | None = None) -> Store:
    """The store at `path`, $CTNR_STORE or the user's own; behind it, read-only, those in $CTNR_EXTRA_STORES (a:b)."""
    extra = tuple(os.path.abspath(p) for p in (os.environ.get("CTNR_EXTRA_STORES") or "").split(":") if p)
    return Store(store_dir(path), extra)


def source_of(text: str, options: Options | None = None) -> tuple[Source, Reference | None]:
    """Where an image comes from, TRANSPORT:... or a name in a registry; and the name it has there, if any.

    Raises CtnrError.
    """
    transport, rest = split_transport(text)
    if transport in ("", "docker"):
        from ctnr.image.transports.registry import RegistrySource

        reference = parse(rest).tagged()
        return RegistrySource(reference, options), reference
    if transport in ("oci", "oci-archive"):
        from ctnr.image.transports import oci

        path, tag = oci.split(rest)
        make = oci.LayoutSource if transport == "oci" else oci.ArchiveSource
        return make(path, tag), _name_for(path, tag)
    if transport == "dir":
        from ctnr.image.transports.dir import DirSource

        return DirSource(rest), _name_for(rest, "")
    if transport == "docker-archive":
        from ctnr.image.transports import docker_archive

        path, name = docker_archive.split(rest)
        source = docker_archive.DockerArchiveSource(path, name)
        try:
            if name:
                return source, parse(name).tagged()
            return source, parse(source.tags[0]).tagged() if source.tags else _name_for(path, "")
        except BaseException:
            source.close()
            raise
    raise CtnrError(f"{text}: an image cannot be taken from {transport}:")


def _name_for(path: str, tag: str) -> Reference | None:
    """localhost/NAME:TAG for what lies in a file or directory NAME; None if that makes no name."""
    base = os.path.basename(path.rstrip("/")).lower()
    for suffix in (".tar.gz", ".tgz", ".tar", ".oci"):
        base = base.removesuffix(suffix)
    try:
        return parse(tag).tagged() if "/" in tag else parse(f"localhost/{base}:{tag or LATEST}")
    except CtnrError:
        return None


def target_of(text: str, image: Image, options: Options | None = None) -> Target:
    """Where an image goes: TRANSPORT:..., or a name in a registry. Raises CtnrError."""
    transport, rest = split_transport(text)
    if transport in ("", "docker"):
        from ctnr.image.transports.registry import RegistryTarget

        return RegistryTarget(parse(rest).tagged(), options)
    if transport in ("oci", "oci-archive"):
        from ctnr.image.transports import oci

        path, tag = oci.split(rest)
        make = oci.LayoutTarget if transport == "oci" else oci.ArchiveTarget
        return make(path, tag or image.reference.tag)
    if transport == "dir":
        from ctnr.image.transports.dir import DirTarget

        return DirTarget(rest)
    if transport == "docker-archive":
        from ctnr.image.transports import docker_archive

        path, name = docker_archive.split(rest)
        return docker_archive.DockerArchiveTarget(path, [parse(name).tagged() if name else image.reference])
    raise CtnrError(f"{text}: an image cannot be written to {transport}:")


def pull(
    text: str,
    *,
    store: Store | None = None,
    name: str | None = None,
    platform: str | None = None,
    all_platforms: bool = False,
    options: Options | None = None,
    progress: Progress = no_progress,
) -> Image:
    """Copy an image into the store: of a registry by its name, or of any transport. Raises CtnrError.

    `name`: what it is called in the store, if not as where it comes from. `platform`: OS/ARCHITECTURE[/VARIANT], of an
    index with several; this machine's by default.
    """
    store = store or open_store()
    source, own = source_of(text, options)
    try:
        reference = parse(name).tagged() if name else own
        if reference is None:
            raise CtnrError(f"{text}: has no name that the store could keep it by: give one")
        with store.adding():
            copied = transfer.copy(
                source,
                StoreTarget(store, reference),
                platform=spec.parse_platform(platform) if platform else None,
                all_platforms=all_platforms,
                progress=progress,
                check=_check_image,
            )
            return _stored(store, reference, copied)
    finally:
        source.close()


def _stored(store: Store, reference: Reference, copied: spec.Descriptor) -> Image:
    """The image just copied, under the name it was given."""
    for image in store.images(reference.name):
        if image.descriptor["digest"] == copied["digest"] and image.reference.tag == reference.tag:
            return image
    raise CtnrError(f"{reference.familiar()} was removed again meanwhile, by another process")


def _check_image(data: bytes, descriptor: spec.Descriptor) -> None:
    """Refuse what is no image before any of it is fetched."""
    document = spec.parse_manifest(data, descriptor.get("mediaType"))
    if not spec.is_index(document):
        spec.check_image(document)  # type: ignore[arg-type]  # it is no index


def push(
    name: str,
    destination: str | None = None,
    *,
    store: Store | None = None,
    options: Options | None = None,
    progress: Progress = no_progress,
) -> spec.Descriptor:
    """Copy an image of the store to a registry or any other transport; what was written there. Raises CtnrError."""
    store = store or open_store()
    image = store.find(name)
    if destination is None:
        if not image.reference.tag:
            raise CtnrError(f"{name}: the image has no tag: say where to push it")
        destination = f"docker://{image.reference}"
    target = target_of(destination, image, options)
    source = StoreSource(store, name, image.descriptor)
    try:
        with store.adding():
            document = spec.parse_manifest(store.pool.read(image.descriptor["digest"], spec.MANIFEST_LIMIT))
            return transfer.copy(source, target, all_platforms=spec.is_index(document), progress=progress)
    finally:
        target.close()


def save(names: Sequence[str], path: str, *, store: Store | None = None, progress: Progress = no_progress) -> None:
    """Write an image, under all these names of it, to a new docker archive. Raises CtnrError."""
    store = store or open_store()
    images = [store.find(name) for name in names]
    if len({image.id for image in images}) > 1:
        raise CtnrError("save: several images in one archive are not supported: save each to a file of its own")
    from ctnr.image.transports.docker_archive import DockerArchiveTarget

    target = DockerArchiveTarget(path, [image.reference for image in images])
    try:
        with store.adding():
            transfer.copy(StoreSource(store, names[0], images[0].descriptor), target, progress=progress)
    finally:
        target.close()


def load(path: str, *, store: Store | None = None, progress: Progress = no_progress) -> list[Image]:
    """Every image of a docker archive or an OCI archive, with every name it has there. Raises CtnrError."""
    from ctnr.image.members import Members
    from ctnr.image.transports import docker_archive

    store = store or open_store()
    members = Members(path)
    is_oci = "manifest.json" not in members and "index.json" in members
    members.close()
    if is_oci:
        return [pull(f"oci-archive:{path}", store=store, progress=progress)]
    found = []
    for i, tags in enumerate(docker_archive.names(path)):
        source = docker_archive.DockerArchiveSource(path, index=i)
        try:
            default = _name_for(path, "")
            references = [parse(tag).tagged() for tag in tags] or ([default] if default else [])
            if not references:
                raise CtnrError(
                    f"{path}: its image has no name: load it by `ctnr image import docker-archive:{path} NAME`"
                )
            with store.adding():
                for reference in references:
                    copied = transfer.copy(source, StoreTarget(store, reference), progress=progress, check=_check_image)
                    found.append(_stored(store, reference, copied))
        finally:
            source.close()
    return found
