# SPDX-License-Identifier: Apache-2.0
"""What an unpacker is to do and not to do (UnpackPolicy), and what it did (Report).

No dataclasses: they would be half of what `ctnr run ARCHIVE` spends on imports.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# The highest id there is; the next, -1, means "leave it" to chown(2)
ID_MAX = (1 << 32) - 2

Range = tuple[int, int, int]


class _Record:
    __slots__: tuple[str, ...] = ()

    def fields(self) -> dict[str, Any]:
        """Its fields by name, fit for JSON."""
        return {name: getattr(self, name) for name in self.__slots__}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and isinstance(other, _Record) and other.fields() == self.fields()

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.fields().items())})"


class UnpackPolicy(_Record):
    """How to unpack. The defaults are those for a root filesystem archive unpacked by root.

    owner     "keep": as in the archive (needs root, or to be uid 0 in a user namespace with enough ids);
              "map": changed by `uid_map` and `gid_map`, ranges (id in the archive, id on disk, count), needs root;
              "none": whoever unpacks owns all.
    devices   "skip": device nodes in dev/ are left out (a container has its own), others refuse the archive;
              "create": all are made.
    paths     "strict": absolute names, `..`, symlinks on the way that lead out of the root, and hardlinks to symlinks
              refuse the archive, as do a missing end-of-archive marker and data behind it;
              "in-root": all is seen as from inside the root, as layers of images need it.
    whiteouts `.wh.NAME` removes NAME, `.wh..wh..opq` all that was in the directory before this archive
              (image-spec layer.md#whiteouts), wherever in the archive they stand.
    max_*     bytes and entries after decompression, bytes of a path, and how many times its compressed size an archive
              may unpack to (counted from 4 GiB on). 0 is no limit.

    Raises ValueError for a word that is none of these.
    """

    __slots__ = (
        "devices",
        "gid_map",
        "max_bytes",
        "max_entries",
        "max_path",
        "max_ratio",
        "owner",
        "paths",
        "uid_map",
        "whiteouts",
    )

    def __init__(
        self,
        *,
        owner: str = "keep",
        uid_map: tuple[Range, ...] = (),
        gid_map: tuple[Range, ...] = (),
        devices: str = "skip",
        paths: str = "strict",
        whiteouts: bool = False,
        max_bytes: int = 256 << 30,
        max_entries: int = 4_000_000,
        max_path: int = 4095,
        max_ratio: int = 200,
    ) -> None:
        self.owner = owner
        self.uid_map = uid_map
        self.gid_map = gid_map
        self.devices = devices
        self.paths = paths
        self.whiteouts = whiteouts
        self.max_bytes = max_bytes
        self.max_entries = max_entries
        self.max_path = max_path
        self.max_ratio = max_ratio
        for field, value, known in (
            ("owner", owner, ("keep", "map", "none")),
            ("devices", devices, ("skip", "create")),
            ("paths", paths, ("strict", "in-root")),
        ):
            if value not in known:
                raise ValueError(f"UnpackPolicy.{field}: {value!r} is none of {', '.join(known)}")

    def to_json(self) -> str:
        import json

        return json.dumps(self.fields())

    @classmethod
    def from_json(cls, text: str) -> UnpackPolicy:
        import json

        values = json.loads(text)
        for name in ("uid_map", "gid_map"):
            values[name] = tuple(tuple(r) for r in values[name])
        return cls(**values)


class Report(_Record):
    """What was unpacked. `bytes` is file data written; what was left out is counted, never silent.

    `skipped_xattrs`: security.capability where the caller may not set it, user.* where the filesystem has none.
    """

    __slots__ = ("bytes", "entries", "skipped_devices", "skipped_xattrs", "whiteouts")

    def __init__(
        self,
        *,
        entries: int = 0,
        bytes: int = 0,
        whiteouts: int = 0,
        skipped_devices: int = 0,
        skipped_xattrs: int = 0,
    ) -> None:
        self.entries = entries
        self.bytes = bytes
        self.whiteouts = whiteouts
        self.skipped_devices = skipped_devices
        self.skipped_xattrs = skipped_xattrs


def map_id(ranges: tuple[Range, ...], id: int) -> int | None:
    """The id on disk of an id in the archive; None if it has none."""
    for inside, outside, count in ranges:
        if inside <= id < inside + count:
            return outside + id - inside
    return None
