# SPDX-License-Identifier: Apache-2.0
"""The socket for sd_notify: what a container may put into its directory meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from ctnr.errors import SyscallError
from ctnr.runtime import sdnotify
from ctnr.runtime.state import StateDir


def test_a_link_in_place_of_the_socket_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between bind and chmod: what the link leads to keeps its mode."""
    victim = tmp_path / "victim"
    victim.write_text("")
    victim.chmod(0o600)
    (tmp_path / "state" / sdnotify.DIRECTORY).mkdir(parents=True)

    class Raced(sdnotify._socket.socket):
        def bind(self, address: Any) -> None:
            super().bind(address)
            place = tmp_path / "state" / sdnotify.DIRECTORY / "notify"
            place.unlink()
            place.symlink_to(victim)

    monkeypatch.setattr(sdnotify._socket, "socket", Raced)
    dir = StateDir(str(tmp_path / "state"), os.open(tmp_path / "state", os.O_RDONLY))
    try:
        with pytest.raises(SyscallError):
            sdnotify.Proxy(dir, "/nobody", 1)
    finally:
        dir.close()
    assert victim.stat().st_mode & 0o777 == 0o600


def test_everybody_may_write_to_the_socket(tmp_path: Path) -> None:
    (tmp_path / sdnotify.DIRECTORY).mkdir()
    dir = StateDir(str(tmp_path), os.open(tmp_path, os.O_RDONLY))
    try:
        sdnotify.Proxy(dir, "/nobody", 1).close()
    finally:
        dir.close()
    assert (tmp_path / sdnotify.DIRECTORY / "notify").stat().st_mode & 0o777 == 0o777
