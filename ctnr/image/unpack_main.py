# SPDX-License-Identifier: Apache-2.0
"""Unpacking, and removing what was unpacked, in a child process: the one that is uid 0 in a user namespace.

A user with subordinate ids may neither make nor remove files of those ids; uid 0 of a user namespace that maps them may.
How to get into one is the caller's business: it starts the command made here, reads its standard output to the end, and
has the result told by `result`.
"""

from __future__ import annotations

import json
import os
import sys

from ctnr.errors import CtnrError
from ctnr.image.archive import clear
from ctnr.image.policy import Report, UnpackPolicy
from ctnr.image.unpack import unpack

# -I and -S leave sys.path bare; the child gets its parent's, so that it finds the same modules (from a zip, too)
_BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from ctnr.image.unpack_main import main; main(sys.argv[2:])"


def unpack_command(archive_fd: int, dest_fd: int, policy: UnpackPolicy, name: str) -> list[str]:
    """The argv of a process that unpacks `archive_fd` into the empty directory `dest_fd`, both inherited.

    On failure it empties the directory again. `name` is what messages call the archive.
    """
    return [*_python(), "unpack", str(archive_fd), str(dest_fd), policy.to_json(), name]


def clear_command(dir_fd: int) -> list[str]:
    """The argv of a process that removes all that is in the directory `dir_fd`, which it inherits."""
    return [*_python(), "clear", str(dir_fd)]


def result(output: bytes) -> Report:
    """What the process wrote to its standard output. Raises the CtnrError that it met."""
    try:
        answer = json.loads(output)
        if "error" in answer:
            raise CtnrError(answer["error"])
        return Report(**answer)
    except (ValueError, TypeError):
        raise CtnrError("the process that unpacks archives died") from None


def main(argv: list[str]) -> None:
    """Never returns: exit status 0, or 1 with the error in the output."""
    status = 1
    answer: dict[str, object]
    try:
        answer = _run(argv).fields()
        status = 0
    except CtnrError as e:
        answer = {"error": str(e)}
    except OSError as e:
        answer = {"error": f"cannot remove what was unpacked: {e.strerror}"}
    sys.stdout.write(json.dumps(answer))
    sys.stdout.flush()
    sys.exit(status)


def _run(argv: list[str]) -> Report:
    dest_fd = int(argv[1]) if argv[0] == "clear" else int(argv[2])
    if argv[0] == "clear":
        clear(dest_fd)
        return Report()
    try:
        return unpack(int(argv[1]), dest_fd, UnpackPolicy.from_json(argv[3]), name=argv[4])
    except BaseException:
        clear(dest_fd)
        raise


def _python() -> list[str]:
    return [sys.executable, "-I", "-S", "-c", _BOOT, json.dumps([os.path.abspath(p) for p in sys.path])]


if __name__ == "__main__":
    main(sys.argv[1:])
