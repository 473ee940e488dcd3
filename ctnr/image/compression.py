# SPDX-License-Identifier: Apache-2.0
"""The bytes of an archive, whatever it is compressed with: known by its first bytes, never by its name.

Formats: none, gzip (RFC 1952), xz, bzip2, zstd (RFC 8878); several members in a row are one stream, as their own tools
have it. What is read and what comes of it is counted, so that a bomb is noticed while it explodes.
"""

from __future__ import annotations

import os
import stat
import zlib

from ctnr.errors import CtnrError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO, Protocol

    class _Decoder(Protocol):
        """What bz2, lzma and zstd decompressors have in common; one of them decodes one member."""

        @property
        def eof(self) -> bool: ...
        @property
        def needs_input(self) -> bool: ...
        @property
        def unused_data(self) -> bytes: ...
        def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


CHUNK = 1 << 18
# Decoded chunks that may wait for the consumer. 4 are enough to even out small files and large ones
_AHEAD = 4
# A small file of zeros compresses a thousandfold and hurts nobody: ratios count from here on
RATIO_FLOOR = 4 << 30
# `xz -9` needs 65 MiB, `zstd --ultra -22` (and no more, by its decoder's default) 128 MiB
_XZ_MEMORY = 128 << 20

_ZSTD_SKIPPABLE = tuple(bytes([0x50 + i]) + b"\x2a\x4d\x18" for i in range(16))
_MAGIC = {
    "gzip": (b"\x1f\x8b\x08",),
    "xz": (b"\xfd7zXZ\0",),
    "bzip2": (b"BZh",),
    "zstd": (b"\x28\xb5\x2f\xfd", *_ZSTD_SKIPPABLE),
}


class ArchiveError(CtnrError):
    """An archive is damaged, hostile or over a limit. `str()` is the reason alone: who knows the names adds them."""


class _Gzip:
    """zlib's decompressor, or isal's, in the manner of the others."""

    def __init__(self, new: Callable[[int], zlib._Decompress]) -> None:
        self._z = new(16 + zlib.MAX_WBITS)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._z.eof

    @property
    def unused_data(self) -> bytes:
        return self._z.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        tail = self._z.unconsumed_tail
        out: bytes = self._z.decompress(tail + data if tail else data, max_length)
        # a full buffer may mean that there is more, even when no input is left
        self.needs_input = not self._z.unconsumed_tail and len(out) < max_length
        return out


def _decoder(kind: str) -> tuple[Callable[[], _Decoder], tuple[type[Exception], ...]]:
    """How to make a decoder for one member, and the errors it raises for damaged data."""
    try:
        if kind == "gzip":
            try:
                from isal import isal_zlib  # twice as fast
            except ImportError:
                return (lambda: _Gzip(zlib.decompressobj)), (zlib.error,)
            return (lambda: _Gzip(isal_zlib.decompressobj)), (isal_zlib.error,)  # type: ignore[return-value, arg-type, unused-ignore]
        if kind == "xz":
            import lzma

            return (lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY)), (lzma.LZMAError, EOFError)
        if kind == "bzip2":
            import bz2

            return bz2.BZ2Decompressor, (OSError, EOFError)
    except ImportError as e:
        raise ArchiveError(f"compressed with {kind}, which this Python was built without ({e})") from None
    try:
        import compression.zstd as zstd  # type: ignore[import-not-found, unused-ignore]  # Python 3.14
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise ArchiveError(
                "compressed with zstd: install backports.zstd (pip), or decompress it first (zstd -d)"
            ) from None
    return zstd.ZstdDecompressor, (zstd.ZstdError, EOFError)


class Stream:
    """The decompressed bytes of `source` (an fd, or an object with read()), in chunks of no more than 256 KiB.

    `compression` is "", "gzip", "xz", "bzip2" or "zstd". A compressed regular file is decoded in a thread of its own,
    up to 1 MiB ahead. `source` stays open, and must, until close(). Raises ArchiveError for damaged data and once more
    than `max_bytes`, or `max_ratio` times what was read, came out (0: no limit); OSError if reading fails.
    """

    def __init__(
        self, source: int | BinaryIO, *, max_bytes: int = 0, max_ratio: int = 0, threaded: bool | None = None
    ) -> None:
        self._source = source
        self._max_bytes = max_bytes
        self._max_ratio = max_ratio
        self._consumed = 0
        self._produced = 0
        self._worker: _Worker | None = None
        first = b""
        while len(first) < 6 and (data := self._input()):
            first += data
        self.compression = next((name for name, magic in _MAGIC.items() if first.startswith(magic)), "")
        if not self.compression:
            self._chunks = self._plain(first)
            return
        self._chunks = self._decoded(first, *_decoder(self.compression))
        # not for a pipe: the thread could not be stopped while it waits for input
        if threaded or (threaded is None and isinstance(source, int) and stat.S_ISREG(os.fstat(source).st_mode)):
            self._worker = _Worker(self._chunks)

    def read(self) -> bytes:
        """The next chunk; b"" at the end, and only there."""
        if self._worker is not None:
            return self._worker.get()
        return next(self._chunks, b"")

    def close(self) -> None:
        if self._worker is not None:
            self._worker.stop()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _input(self) -> bytes:
        data = os.read(self._source, CHUNK) if isinstance(self._source, int) else self._source.read(CHUNK)
        self._consumed += len(data)
        return data

    def _count(self, chunk: bytes) -> bytes:
        self._produced += len(chunk)
        if self._max_bytes and self._produced > self._max_bytes:
            raise ArchiveError(f"it unpacks to more than the {self._max_bytes} bytes allowed")
        if self._max_ratio and self._produced > max(RATIO_FLOOR, self._max_ratio * self._consumed):
            raise ArchiveError(f"it unpacks to more than {self._max_ratio} times its size, like a bomb")
        return chunk

    def _plain(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield self._count(data)
            data = self._input()

    def _decoded(
        self, data: bytes, new: Callable[[], _Decoder], errors: tuple[type[Exception], ...]
    ) -> Iterator[bytes]:
        while data:
            decoder = new()
            while True:
                try:
                    out = decoder.decompress(data, CHUNK)
                except errors as e:
                    raise ArchiveError(f"damaged {self.compression} data: {str(e) or type(e).__name__}") from None
                if out:
                    yield self._count(out)
                if decoder.eof:
                    break
                data = b""
                if decoder.needs_input:
                    data = self._input()
                    if not data:
                        raise ArchiveError(f"truncated {self.compression} data")
            data = self._next_member(decoder.unused_data)

    def _next_member(self, data: bytes) -> bytes:
        """What follows a member: another one, or zeros (tapes, and xz's padding) up to the end. b"" at the end."""
        while not (data := data.lstrip(b"\0")):
            if not (data := self._input()):
                return b""
        while len(data) < 6 and (more := self._input()):
            data += more
        if not data.startswith(_MAGIC[self.compression]):
            raise ArchiveError(f"garbage after the {self.compression} data")
        return data


class _Worker:
    """Runs an iterator of chunks in a thread, a few chunks ahead."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        import queue
        import threading

        self._chunks = chunks
        self._queue: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self._room = threading.Semaphore(_AHEAD)
        self._stopped = False
        self._done: bytes | BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="ctnr-decompress", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for chunk in self._chunks:
                self._queue.put(chunk)
                self._room.acquire()
                if self._stopped:
                    return
            self._queue.put(b"")
        except BaseException as e:  # the consumer's to handle, whatever it is
            self._queue.put(e)

    def get(self) -> bytes:
        item = self._queue.get() if self._done is None else self._done
        if isinstance(item, bytes) and item:
            self._room.release()
            return item
        self._done = item
        if isinstance(item, BaseException):
            raise item
        return item

    def stop(self) -> None:
        self._stopped = True
        self._room.release()
        self._thread.join()
