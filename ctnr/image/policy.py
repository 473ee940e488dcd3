# SPDX-License-Identifier: Apache-2.0
"""What an unpacker is to do and not to do (UnpackPolicy), and what it did (Report)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

# The highest id there is; the next, -1, means "leave it" to chown(2)
ID_MAX = (1 << 32) - 2

Range = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class UnpackPolicy:
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
    """

    owner: str = "keep"
    uid_map: tuple[Range, ...] = ()
    gid_map: tuple[Range, ...] = ()
    devices: str = "skip"
    paths: str = "strict"
    whiteouts: bool = False
    max_bytes: int = 256 << 30
    max_entries: int = 4_000_000
    max_path: int = 4095
    max_ratio: int = 200

    def __post_init__(self) -> None:
        for field, value, known in (
            ("owner", self.owner, ("keep", "map", "none")),
            ("devices", self.devices, ("skip", "create")),
            ("paths", self.paths, ("strict", "in-root")),
        ):
            if value not in known:
                raise ValueError(f"UnpackPolicy.{field}: {value!r} is none of {', '.join(known)}")

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> UnpackPolicy:
        values = json.loads(text)
        for name in ("uid_map", "gid_map"):
            values[name] = tuple(tuple(r) for r in values[name])
        return cls(**values)


@dataclass(slots=True)
class Report:
    """What was unpacked. `bytes` is file data written; what was left out is counted, never silent."""

    entries: int = 0
    bytes: int = 0
    whiteouts: int = 0
    skipped_devices: int = 0
    # security.capability where the caller may not set it, or user.* where the filesystem has none
    skipped_xattrs: int = 0


def map_id(ranges: tuple[Range, ...], id: int) -> int | None:
    """The id on disk of an id in the archive; None if it has none."""
    for inside, outside, count in ranges:
        if inside <= id < inside + count:
            return outside + id - inside
    return None
