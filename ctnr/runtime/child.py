# SPDX-License-Identifier: Apache-2.0
"""Running a host program to its end: hooks, newuidmap. A fresh environment, no inherited fds, output kept.

HOT: imported only when there is something to run. The program is started by the launcher, as containers are: safe from
any thread, at the same cost whatever the size of this process.
"""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.runtime import launch
from ctnr.runtime import plan as p

_SIGKILL = 9
_OUTPUT_LIMIT = 4096


class TimedOut(Exception):
    """The program did not end in time and was killed."""


def run_program(
    path: str,
    argv: list[str],
    env: list[str],
    stdin: bytes,
    timeout: float | None,
    cwd: str = "/",
    outputs: tuple[int, int] = (-1, -1),
) -> tuple[int, str]:
    """Run the program at `path` in `cwd` and return (exit code or 128+signal, the tail of its output as one line).

    `env` is its whole environment, `timeout` in seconds; `outputs` are fds for its stdout and stderr (-1: kept and
    returned). Raises CtnrError if it cannot be executed, TimedOut.
    """
    given = posix.memfd_create("stdin", posix.MFD_CLOEXEC)
    output = posix.memfd_create("output", posix.MFD_CLOEXEC)
    try:
        files.write_fd(given, stdin)
        posix.lseek(given, 0, 0)
        plan = p.Plan()
        plan.add(p.CWD, "", cwd)
        plan.add(p.LOOKUP, "", path, "")
        plan.add(p.UMASK, "", args=(0o022,))
        plan.add(p.WAIT, "")
        plan.add(p.EXEC, "", p.strings(argv), p.strings(env))
        out, err = outputs
        process = launch.program(plan, (given, out if out >= 0 else output, err if err >= 0 else output))
        try:
            status = process.wait(timeout)
        except TimeoutError:
            process.kill(_SIGKILL)
            process.wait()
            raise TimedOut from None
        finally:
            process.close()
        size = posix.fstat(output).st_size
        posix.lseek(output, max(0, size - _OUTPUT_LIMIT), 0)
        text = posix.read(output, _OUTPUT_LIMIT).decode("utf-8", "replace")
    finally:
        posix.close(given)
        posix.close(output)
    return status, " ".join(text.split())
