# SPDX-License-Identifier: Apache-2.0
"""What test_cgroups.py asks of ctnr.runtime.cgroups on a real kernel. Run as a program, in whichever mount namespace (and so
view of the cgroup tree) the test has made: `cgroup_scenarios.py SCENARIO TOKEN [ARG...]`.

Exit status 77 and a reason: this machine cannot tell. All cgroups made here have TOKEN in their name and are removed.
"""

from __future__ import annotations

import errno
import os
import signal
import sys

from ctnr.runtime.cgroups import dirs
from support import cgroup_life, cgroup_limits, cgroup_users
from support.cgroup_harness import LAYOUT, Skip, leftovers, read, reap


def main(argv: list[str]) -> int:
    name, _, *rest = argv
    scenario = next(
        getattr(module, name) for module in (cgroup_life, cgroup_limits, cgroup_users) if hasattr(module, name)
    )
    before = read(LAYOUT.unified + "/cgroup.subtree_control").split() if LAYOUT.unified is not None else []
    try:
        scenario(*rest)
    except Skip as e:
        print(e)
        return 77
    finally:
        reap()
        for top in leftovers():
            for pid in dirs.pids(top):
                os.kill(pid, signal.SIGKILL)
            reap()
            dirs.remove(top)
        if LAYOUT.unified is not None:
            for controller in read(LAYOUT.unified + "/cgroup.subtree_control").split():
                if controller not in before:
                    try:
                        dirs.write(LAYOUT.unified + "/cgroup.subtree_control", "-" + controller)
                    except OSError as e:
                        assert e.errno == errno.EBUSY, e  # somebody else's cgroup uses it by now
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
