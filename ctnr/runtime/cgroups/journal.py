# SPDX-License-Identifier: Apache-2.0
"""What an update has overwritten, so that one that fails half way leaves the limits as they were.

HOT (update).
"""

from __future__ import annotations

from ctnr import log
from ctnr.runtime.cgroups import dirs

# Files of one line for each device: what takes the line of one off again
_NO_LINE = {
    "io.max": "rbps=max wbps=max riops=max wiops=max",
    "io.weight": "default",
    "io.bfq.weight": "default",
    "blkio.weight_device": "0",
    "blkio.leaf_weight_device": "0",
    "blkio.bfq.weight_device": "default",
    "blkio.throttle.read_bps_device": "0",
    "blkio.throttle.write_bps_device": "0",
    "blkio.throttle.read_iops_device": "0",
    "blkio.throttle.write_iops_device": "0",
    "rdma.max": "hca_handle=max hca_object=max",
    "net_prio.ifpriomap": "0",
}


class Journal:
    """open() gives directories whose writes are noted; undo() takes them back, the last first."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        # (path of the file, what stood there, what was written)
        self.entries: list[tuple[str, str, str]] = []

    def open(self, path: str) -> dirs.Dir:
        return _Noting(path, self.entries)

    def undo(self) -> None:
        """Write back what was there. What cannot be is logged: the failure that led here is the one to be raised."""
        for path, old, new in reversed(self.entries):
            text = _restored(path.rpartition("/")[2], old, new)
            try:
                dirs.write(path, text)
            except OSError as e:
                log.warning(f"cannot set {path} back to {text!r}: {(e.strerror or '').lower()}")
        self.entries.clear()


class _Noting(dirs.Dir):
    __slots__ = ("_entries",)

    def __init__(self, path: str, entries: list[tuple[str, str, str]]) -> None:
        super().__init__(path)
        self._entries = entries

    def write(self, name: str, value: str) -> None:
        try:
            old = self.read(name)
        except OSError:
            # not there, or one that is for writing only: nothing that could be set back
            super().write(name, value)
            return
        super().write(name, value)
        self._entries.append((f"{self.path}/{name}", old, value))


def _restored(name: str, old: str, new: str) -> str:
    """What to write into the file `name`, which read `old`, after `new` was written to it."""
    if name == "memory.oom_control":
        return old.split()[1]  # oom_kill_disable 0
    key, blank, _ = new.partition(" ")
    if name not in _NO_LINE or not blank:
        first = old.partition("\n")[0]
        # io.weight's first line: "default 100". An empty write would be none
        return first.rpartition(" ")[2] if name in _NO_LINE else first or "\n"
    for line in old.splitlines():
        if line.startswith(key + " "):
            return line
    return f"{key} {_NO_LINE[name]}"
