# SPDX-License-Identifier: Apache-2.0
"""The in-process rows of the bench: a long-lived Python process that starts containers with the library.

    python worker.py BUNDLE STATE_ROOT ID MEBIBYTES

Touches MEBIBYTES of memory first, then runs one container per line on stdin and writes its nanoseconds from call to return.
"""

import os
import sys
import time


def main() -> None:
    bundle, state_root, id, mebibytes = sys.argv[1:]
    # every page is written: what a parent with a heap of that size has to carry through a fork
    ballast = bytearray(int(mebibytes) << 20)
    for page in range(0, len(ballast), 4096):
        ballast[page] = 1

    from ctnr.runtime.creating import create

    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    for _ in sys.stdin:
        begin = time.perf_counter_ns()
        container = create(id, bundle, root=state_root, stdin=null, stdout=null, stderr=null, detach=False)
        try:
            container.start()
            code = container.wait()
        finally:
            container.delete(force=True)
        took = time.perf_counter_ns() - begin
        if code != 0:
            sys.exit(f"the container exited with {code}")
        print(took, flush=True)


main()
