# SPDX-License-Identifier: Apache-2.0
"""System calls that are refused to ctnr, and to all that it starts, as by another engine's seccomp profile or an older kernel.

CTNR_TEST_REFUSE=ENOSYS:mount-api does so for a whole test run; the groups are below, and several go with commas. The filter
is there before the user is changed, so it does not take no_new_privs and newuidmap works under it.
"""

from __future__ import annotations

import errno
import os

from . import rootfs

# what is refused together: by its age, and by who knows it
GROUPS = {
    "mount-api": ("open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "mount_setattr"),
    "pidfd": ("pidfd_open", "pidfd_send_signal", "pidfd_getfd"),
    "clone-pidfd": ("pidfd_open", "pidfd_send_signal", "pidfd_getfd", "clone3", "clone_pidfd", "waitid_pidfd"),
    "openat2": ("openat2",),
    "clone3": ("clone3",),
    "close_range": ("close_range",),
    "statx": ("statx",),
}
GROUPS["all"] = tuple(sorted({name for names in GROUPS.values() for name in names}))


def prefix(refuse: str | None = None) -> list[str]:
    """The words before a command line for which the calls of CTNR_TEST_REFUSE (or `refuse`) are refused."""
    wanted = refuse or os.environ.get("CTNR_TEST_REFUSE", "")
    if not wanted:
        return []
    error, _, groups = wanted.partition(":")
    names = [name for group in groups.split(",") for name in GROUPS.get(group, (group,))]
    return [str(rootfs.compiled("refuse")), str(getattr(errno, error)), ",".join(names)]
