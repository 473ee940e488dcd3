# SPDX-License-Identifier: Apache-2.0
"""pause and resume: by the freezer of the container's cgroup, or without one by SIGSTOP to all of its processes.

HOT (pause, resume). Source of the rules and the words: runc's pause.go and libcontainer.
"""

from __future__ import annotations

from ctnr import log
from ctnr.errors import CtnrError, StateError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.container import Container


def pause(container: Container) -> None:
    """See Container.pause()."""
    status = container.status()
    if status not in ("created", "running"):
        more = ": it is paused already" if status == "paused" else ""
        raise StateError(f"container not running{more}", container.id, status)
    group = container.cgroup
    if group is not None and group.freezer_file():
        group.freeze()
        return
    if not container.extra.get("own_pids"):
        raise CtnrError(
            "cannot toggle freezer: cgroups not configured for container, and without a pid namespace of its own its"
            " processes cannot be told from others"
        )
    from ctnr.runtime import tree

    tree.stop(container.pid)
    # what says that it is paused is its first process; that it was us is written down
    container.extra["stopped"] = True
    container._dir.write_state(container.extra)
    log.warning("no freezer cgroup: the container's processes were stopped by SIGSTOP, one of them could be continued")


def resume(container: Container) -> None:
    """See Container.resume()."""
    status = container.status()
    if status != "paused":
        raise StateError("container not paused", container.id, status)
    group = container.cgroup
    if group is not None and group.freezer_file():
        group.thaw()
        return
    from ctnr.runtime import tree

    tree.go_on(container.pid)
    container.extra.pop("stopped", None)
    container._dir.write_state(container.extra)
