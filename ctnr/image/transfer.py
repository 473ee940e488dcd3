# SPDX-License-Identifier: Apache-2.0
"""Images from one place to another: what a place has to offer (Source, Target), and copy(), which believes neither.

Every byte is compared with the digest and size of its descriptor while it streams; a manifest is written last, so a
target never names what it has not got. A manifest's bytes are passed on as they are: its digest stays.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Protocol

from ctnr.errors import CtnrError
from ctnr.spec import image as spec
from ctnr.spec.image import Descriptor, Index, Manifest, Platform, check_digest

if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 18
# indexes in indexes in indexes: nobody makes more, and a circle has no end
_MAX_DEPTH = 4
_MAX_MANIFESTS = 1000


class Reader(Protocol):
    """The bytes of a blob, from its beginning to its end."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, b"" at the end. Raises CtnrError, OSError."""

    def close(self) -> None: ...


class Source(Protocol):
    """Where an image comes from. Methods may be called from several threads."""

    @property
    def name(self) -> str:
        """What a user calls it, for messages."""

    def manifest(self, digest: str | None = None) -> tuple[bytes, str]:
        """The bytes and the media type ("" if nobody said) of the manifest that the source names, or of another one.

        Raises CtnrError.
        """

    def blob(self, descriptor: Descriptor) -> Reader:
        """Raises CtnrError."""

    def close(self) -> None: ...


class Target(Protocol):
    """Where an image goes. Blobs are put by several threads, manifests by one, after what they name."""

    @property
    def name(self) -> str: ...

    def has_blob(self, descriptor: Descriptor) -> bool:
        """Whether it need not be put."""

    def mount_blob(self, descriptor: Descriptor, source: Source) -> bool:
        """Take the blob from the source without moving its bytes, if there is a way; whether that was done."""

    def put_blob(self, descriptor: Descriptor, reader: Reader) -> None:
        """Take all of the reader, which raises where digest or size are wrong: nothing may be kept then."""

    def put_manifest(self, data: bytes, media_type: str, digest: str, top: bool) -> None:
        """`top`: the one that the target's name is to name."""

    def close(self) -> None: ...


class Bar(Protocol):
    """One blob's progress."""

    def update(self, count: int, /) -> None:
        """So many bytes more."""

    def done(self, note: str, /) -> None:
        """The end of it, and what became of it: "done", "already there"..."""


class _NoBar:
    def update(self, count: int) -> None:
        pass

    def done(self, note: str) -> None:
        pass


def no_progress(digest: str, kind: str, size: int) -> Bar:
    return _NoBar()


class Stopped(Exception):
    """Another blob of the same copy failed."""


class Verified:
    """A reader that raises CtnrError where the bytes are not what the descriptor says: too many, too few, or others."""

    def __init__(
        self,
        reader: Reader,
        descriptor: Descriptor,
        count: Callable[[int], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        algorithm, _, self._wanted = check_digest(descriptor["digest"]).partition(":")
        self._reader = reader
        self._left = descriptor["size"]
        self._size = descriptor["size"]
        self._hash = hashlib.new(algorithm, usedforsecurity=True)
        self._digest = descriptor["digest"]
        self._count = count
        self._stop = stop
        self.finished = False

    def read(self, size: int = CHUNK, /) -> bytes:
        if self._stop is not None and self._stop.is_set():
            raise Stopped
        if self.finished:
            return b""
        # one more than is left: what is too long is found at once
        data = self._reader.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise CtnrError(f"blob {self._digest}: more than the {self._size} bytes its descriptor says; refused")
        if not data:
            self._finish()
            return b""
        self._hash.update(data)
        if self._count is not None:
            self._count(len(data))
        return data

    def _finish(self) -> None:
        if self._left:
            raise CtnrError(f"blob {self._digest}: ends after {self._size - self._left} of {self._size} bytes")
        found = self._hash.hexdigest()
        if found != self._wanted:
            algorithm = self._digest.partition(":")[0]
            raise CtnrError(f"blob {self._digest}: its content is {algorithm}:{found}; refused")
        self.finished = True

    def close(self) -> None:
        self._reader.close()


def read_all(reader: Reader, limit: int) -> bytes:
    """All of a reader. Raises CtnrError for more than `limit` bytes."""
    parts: list[bytes] = []
    size = 0
    while data := reader.read(CHUNK):
        size += len(data)
        if size > limit:
            raise CtnrError(f"more than {limit} bytes; refused")
        parts.append(data)
    return b"".join(parts)


def digest_of(data: bytes, like: str = "sha256:") -> str:
    """The digest of some bytes, by the algorithm of the digest `like`."""
    algorithm = like.partition(":")[0]
    return f"{algorithm}:{hashlib.new(algorithm, data).hexdigest()}"


def read_manifest(source: Source, descriptor: Descriptor | None = None) -> tuple[bytes, Descriptor, Manifest | Index]:
    """The manifest that a source names, or that of a descriptor, checked: bytes, descriptor, document. Raises CtnrError."""
    if descriptor is None:
        data, said = source.manifest()
        digest = digest_of(data)
    else:
        spec.check_descriptor(descriptor)
        data, said = source.manifest(descriptor["digest"])
        digest = digest_of(data, descriptor["digest"])
        if digest != descriptor["digest"]:
            raise CtnrError(f"{source.name}: manifest {descriptor['digest']}: its content is {digest}; refused")
        if len(data) != descriptor["size"]:
            raise CtnrError(
                f"{source.name}: manifest {digest} has {len(data)} bytes, its descriptor says {descriptor['size']}"
            )
        said = descriptor.get("mediaType") or said
    try:
        document = spec.parse_manifest(data, said or None)
    except CtnrError as error:
        raise CtnrError(f"{source.name}: manifest {digest}: {error}") from None
    found: Descriptor = {"mediaType": spec.media_type_of(document), "digest": digest, "size": len(data)}
    return data, found, document


def choose(source: Source, platform: Platform | None = None) -> tuple[bytes, Descriptor, Manifest]:
    """The manifest of the image for a platform (this machine's by default), through whatever indexes. Raises CtnrError."""
    data, descriptor, document = read_manifest(source)
    for _ in range(_MAX_DEPTH):
        if not spec.is_index(document):
            return data, descriptor, document  # type: ignore[return-value]  # it is no index
        try:
            entry = spec.select_platform(document, platform)  # type: ignore[arg-type]  # it is one
        except CtnrError as error:
            raise CtnrError(f"{source.name}: {error}") from None
        data, descriptor, document = read_manifest(source, entry)
        if "platform" in entry:
            descriptor["platform"] = entry["platform"]
    raise CtnrError(f"{source.name}: indexes within indexes, more than {_MAX_DEPTH} deep; refused")


def copy(
    source: Source,
    target: Target,
    *,
    platform: Platform | None = None,
    all_platforms: bool = False,
    progress: Callable[[str, str, int], Bar] = no_progress,
    parallel: int = 3,
    check: Callable[[bytes, Descriptor], None] | None = None,
) -> Descriptor:
    """Copy an image: that of a platform (this machine's by default), or whatever the source names, with all that it names.

    `check` is asked about the manifest that the source names and about each that is copied, before any blob is: it
    raises if it does not trust it. The descriptor returned is that of the manifest at the top. Raises CtnrError.
    """
    data, descriptor, document = read_manifest(source)
    if check is not None:
        check(data, descriptor)
    if all_platforms or not spec.is_index(document):
        manifests = [(data, descriptor, document)]
        if spec.is_index(document):
            manifests = _tree(source, data, descriptor, document)
    else:
        chosen = choose(source, platform)
        if check is not None:
            check(chosen[0], chosen[1])
        manifests = [chosen]
    wanted: dict[str, tuple[Descriptor, str]] = {}
    for _, _, found in manifests:
        if not spec.is_index(found):
            manifest: Manifest = found  # type: ignore[assignment]  # it is no index
            wanted.setdefault(manifest["config"]["digest"], (manifest["config"], "config"))
            for layer in manifest["layers"]:
                wanted.setdefault(layer["digest"], (layer, "layer"))
    _blobs(source, target, list(wanted.values()), progress, parallel)
    top = manifests[0][1]
    for data, descriptor, _ in reversed(manifests):
        bar = progress(descriptor["digest"], "manifest", descriptor["size"])
        target.put_manifest(data, descriptor["mediaType"], descriptor["digest"], descriptor is top)
        bar.update(descriptor["size"])
        bar.done("done")
    return top


def _tree(
    source: Source, data: bytes, descriptor: Descriptor, document: Manifest | Index, depth: int = 0
) -> list[tuple[bytes, Descriptor, Manifest | Index]]:
    """An index and all that it names, parents first."""
    if depth >= _MAX_DEPTH:
        raise CtnrError(f"{source.name}: indexes within indexes, more than {_MAX_DEPTH} deep; refused")
    found: list[tuple[bytes, Descriptor, Manifest | Index]] = [(data, descriptor, document)]
    if spec.is_index(document):
        entries = document["manifests"]  # type: ignore[typeddict-item]  # it is an index
        for entry in entries:
            found += _tree(source, *read_manifest(source, entry), depth + 1)
            if len(found) > _MAX_MANIFESTS:
                raise CtnrError(f"{source.name}: more than {_MAX_MANIFESTS} manifests in one index; refused")
    return found


def _blobs(
    source: Source,
    target: Target,
    wanted: list[tuple[Descriptor, str]],
    progress: Callable[[str, str, int], Bar],
    parallel: int,
) -> None:
    stop = threading.Event()

    def one(descriptor: Descriptor, kind: str) -> None:
        if stop.is_set():
            raise Stopped
        bar = progress(descriptor["digest"], kind, descriptor["size"])
        try:
            if target.has_blob(descriptor):
                bar.done("already there")
                return
            if target.mount_blob(descriptor, source):
                bar.done("mounted")
                return
            reader = Verified(source.blob(descriptor), descriptor, bar.update, stop)
            try:
                target.put_blob(descriptor, reader)
            finally:
                reader.close()
            if not reader.finished:
                raise CtnrError(f"{target.name}: took only a part of blob {descriptor['digest']}")
            bar.done("done")
        except BaseException:
            stop.set()
            bar.done("failed")
            raise

    with ThreadPoolExecutor(max(1, parallel), thread_name_prefix="ctnr-copy") as pool:
        started: list[Future[None]] = [pool.submit(one, *row) for row in wanted]
        try:
            wait(started, return_when=FIRST_EXCEPTION)
        finally:
            # ^C too: the others stop at their next chunk
            if any(not future.done() or future.exception() for future in started):
                stop.set()
                for future in started:
                    future.cancel()
    errors = [e for f in started if not f.cancelled() and (e := f.exception()) and not isinstance(e, Stopped)]
    if errors:
        raise errors[0]
