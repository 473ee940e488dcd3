# SPDX-License-Identifier: Apache-2.0
"""Collecting what no image of the store needs any more, and checking that the store is sound (fsck)."""

from __future__ import annotations

import os
from time import time
from typing import TYPE_CHECKING

from ctnr.errors import CtnrError, SpecError
from ctnr.image import layout
from ctnr.image.layout import REF_NAME, annotated, tag_of
from ctnr.image.store import ID, TAGGED, Store, documents
from ctnr.image.transfer import Verified
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable


class Collected:
    """What a collection did. `bytes` is what it freed."""

    def __init__(self) -> None:
        self.untagged: list[str] = []
        self.removed: list[str] = []
        self.blobs = 0
        self.bytes = 0


def gc(
    store: Store,
    *,
    ttl: float | None = None,
    ref_ttl: float | None = None,
    max: int | None = None,
    in_use: Iterable[str] = (),
) -> Collected:
    """Remove images that nobody has a name for or use of, then the blobs that none needs.

    `ttl`: a nameless image goes when its last use is longer ago, in seconds; None: it stays. `ref_ttl`: a name goes when
    it was given longer ago and the image not used since. `max`: so many names, the latest, stay in a repository.
    `in_use`: ids that stay. Raises CtnrError, before any blob is removed, if a manifest cannot be read.
    """
    done = Collected()
    keep = set(in_use)
    with store.alone():
        for name in store.own_repositories():
            target = store.layout(name)
            with target.changed() as entries:
                _drop_names(store, name, entries, ref_ttl, max, done)
                _drop_nameless(store, entries, ttl, keep, done)
            if not target.read():
                _remove_layout(target)
        _sweep(store, done)
    return done


def collect(store: Store) -> Collected:
    """Remove the blobs that no image needs."""
    return gc(store)


def _note(entry: Descriptor, name: str) -> str:
    return entry.get("annotations", {}).get(name, "")


def _last(store: Store, entry: Descriptor) -> float:
    """When the image was last used or got its name."""
    tagged = _note(entry, TAGGED)
    return max(store.last_used(_note(entry, ID)), float(tagged) if tagged.isdigit() else 0.0)


def _drop_names(
    store: Store, name: str, entries: list[Descriptor], ref_ttl: float | None, most: int | None, done: Collected
) -> None:
    named = sorted((e for e in entries if tag_of(e)), key=lambda e: _last(store, e), reverse=True)
    gone = [] if most is None else named[most:]
    if ref_ttl is not None:
        gone += [e for e in named if e not in gone and time() - _last(store, e) > ref_ttl]
    for entry in gone:
        done.untagged.append(f"{name}:{tag_of(entry)}")
        entries.remove(entry)
        if all(e["digest"] != entry["digest"] for e in entries):
            entries.append(annotated(entry, **{REF_NAME: ""}))


def _drop_nameless(store: Store, entries: list[Descriptor], ttl: float | None, keep: set[str], done: Collected) -> None:
    if ttl is None:
        return
    for entry in [e for e in entries if not tag_of(e)]:
        if _note(entry, ID) not in keep and time() - _last(store, entry) > ttl:
            done.removed.append(_note(entry, ID) or entry["digest"])
            entries.remove(entry)


def _remove_layout(target: layout.Layout) -> None:
    for name in (layout.INDEX, layout.VERSION, "blobs"):
        try:
            os.unlink(f"{target.path}/{name}")
        except FileNotFoundError:
            continue
    try:
        os.rmdir(target.path)
    except OSError:
        pass  # something of somebody else's is in it


def needed(store: Store) -> set[str]:
    """The digests of all blobs that an image of the store needs. Raises CtnrError if a manifest cannot be read."""
    found: set[str] = set()
    for name in store.own_repositories():
        for entry in store.layout(name).read():
            if entry["digest"] in found:
                continue
            for descriptor, document in documents(store, entry):
                found.add(descriptor["digest"])
                if not spec.is_index(document):
                    found.add(document["config"]["digest"])  # type: ignore[typeddict-item]  # it is no index
                    found.update(layer["digest"] for layer in document["layers"])  # type: ignore[typeddict-item]
    return found


def _sweep(store: Store, done: Collected) -> None:
    live = needed(store)
    for digest in store.pool.digests():
        if digest not in live:
            done.bytes += store.pool.remove(digest)
            done.blobs += 1
    store.pool.sweep()
    store.forget({_note(entry, ID) for name in store.own_repositories() for entry in store.layout(name).read()})


# --- fsck


def fsck(store: Store, repair: bool = False) -> list[str]:
    """What is wrong with the store, a line each; nothing if it is sound.

    `repair` removes blobs that are damaged, and names of images that have lost a blob, so that a pull brings them back.
    """
    faults: list[str] = []
    with store.alone():
        bad: set[str] = set()
        for digest in store.pool.digests():
            try:
                _verify(store, digest)
            except (CtnrError, OSError) as error:
                faults.append(f"blob {digest}: {error}")
                bad.add(digest)
        if repair:
            for digest in bad:
                store.pool.remove(digest)
        for name in store.own_repositories():
            target = store.layout(name)
            try:
                with target.changed() as entries:
                    for entry in list(entries):
                        why = _fault(store, entry, bad)
                        if why:
                            faults.append(f"image {name}:{tag_of(entry) or entry['digest']}: {why}")
                            if repair:
                                entries.remove(entry)
            except CtnrError as error:
                faults.append(f"repository {name}: {error}")
                if repair and isinstance(error, SpecError):  # damaged, and not out of reach
                    os.unlink(f"{target.path}/{layout.INDEX}")
    return faults


def _verify(store: Store, digest: str) -> None:
    from ctnr.image.pool import FileReader

    fd = os.open(store.pool.path(digest), os.O_RDONLY | os.O_CLOEXEC)
    reader = Verified(FileReader(fd), {"digest": digest, "size": os.fstat(fd).st_size})
    try:
        while reader.read():
            pass
    finally:
        reader.close()


def _fault(store: Store, entry: Descriptor, bad: set[str]) -> str:
    """Why an image of an index is not whole, "" if it is."""
    try:
        found = list(documents(store, entry))
    except CtnrError as error:
        return str(error)
    if not found:
        return f"its manifest {entry['digest']} is missing"
    for _, document in found:
        if spec.is_index(document):
            continue
        blobs = [document["config"], *document["layers"]]  # type: ignore[typeddict-item]  # it is no index
        for blob in blobs:
            if blob["digest"] in bad or not store.pool.has(blob):
                return f"its blob {blob['digest']} is missing or damaged"
    return ""
