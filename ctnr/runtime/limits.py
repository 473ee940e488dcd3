# SPDX-License-Identifier: Apache-2.0
"""What only the runtime may do to a process that is in a user namespace already.

HOT imports only, but loaded only where there is something of it to be done.
"""

from __future__ import annotations

from ctnr import _native, files
from ctnr.errors import SyscallError
from ctnr.spec.tables import RLIMITS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import Process


def write_oom_score(pid: int, score: int) -> None:
    """process.oomScoreAdj. Raises SyscallError."""
    path = f"/proc/{pid}/oom_score_adj"
    try:
        files.write_file(path, str(score).encode())
    except OSError as error:
        raise SyscallError("process.oomScoreAdj: write", error.errno or 0, path) from None


def set(pid: int, process: Process, init: bool) -> None:
    """Raise limits, schedule it better than others. Raises SyscallError."""
    for i, limit in enumerate(process.get("rlimits") or ()):
        try:
            _native.prlimit(pid, RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        except OSError as error:
            raise SyscallError(f"process.rlimits[{i}]: set {limit['type']}", error.errno or 0) from None
    if process.get("scheduler") or process.get("ioPriority"):
        from ctnr.runtime import tuning

        tuning.limits(pid, process, "process", init)
