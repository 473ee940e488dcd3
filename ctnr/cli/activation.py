# SPDX-License-Identifier: Apache-2.0
"""Sockets that whoever started us has opened for the container (sd_listen_fds(3)). Imported only where LISTEN_FDS is set."""

from __future__ import annotations

import posix

from ctnr import log
from ctnr.cli.args import UsageError, whole_number
from ctnr.errors import CtnrError
from ctnr.files import getenv
from ctnr.runtime.launch import check_preserved

_MAX_FDS = 4096


def listen_fds() -> int:
    """How many of our fds from 3 on are for the container. Raises UsageError, CtnrError.

    They are ours if LISTEN_PID says so (conmon sets it); without it, if they are there at all: a variable left over in the
    environment is not worth a failure.
    """
    pid = getenv("LISTEN_PID")
    if pid is not None and pid != str(posix.getpid()):
        return 0
    try:
        count = whole_number(getenv("LISTEN_FDS") or "", "LISTEN_FDS", _MAX_FDS)
        check_preserved(count)
    except CtnrError as e:
        why = str(e).replace("--preserve-fds", "LISTEN_FDS")
        if pid is None:
            log.warning(f"{why}: ignored")
            return 0
        raise UsageError(why) from None
    return count
