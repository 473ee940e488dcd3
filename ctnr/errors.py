# SPDX-License-Identifier: Apache-2.0
"""The errors the library raises. The command prints them once, as one line.

HOT: imported by every verb.
"""

from __future__ import annotations

EXIT_FAILURE = 1
# docker's and podman's exit codes of `run` and `exec`
EXIT_ENGINE = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class CtnrError(Exception):
    """Something ctnr could not do. `str()` is one line: what, why, and what to do.

    `exit_code` is what `ctnr run` and `ctnr exec` exit with (docker's 125, 126, 127).
    """

    exit_code = EXIT_ENGINE


class SpecError(CtnrError):
    """A document is not what its specification says.

    `path` is the JSON path of the culprit, e.g. `process.rlimits[1].type` ("" for the whole document).
    """

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path}: {why}" if path else why)
        self.path = path
        self.why = why


class StateError(CtnrError):
    """The container is not in a state that allows the operation."""

    def __init__(self, message: str, id: str = "", status: str = "") -> None:
        super().__init__(message)
        self.id = id
        self.status = status


class HookError(CtnrError):
    """A hook failed, could not be run, or did not end in time."""


class SyscallError(CtnrError):
    """The kernel refused. `step` says what was attempted (with its config field), `errno` and `path` why and where."""

    def __init__(self, step: str, errno: int, path: str = "", hint: str = "", exit_code: int = EXIT_ENGINE) -> None:
        from posix import strerror

        text = step
        if path:
            text += f" {path}"
        text += f": {strerror(errno).lower()}"
        if hint:
            text += f" ({hint})"
        super().__init__(text)
        self.step = step
        self.errno = errno
        self.path = path
        self.exit_code = exit_code
