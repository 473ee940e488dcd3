# SPDX-License-Identifier: Apache-2.0
"""CRIU for the tests: the machine's, where it works on this kernel, and a fake one that speaks its protocol anywhere.

CTNR_TEST_CRIU names another criu than the one in PATH.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import leaks, machine, rootfs, users
from .users import User


def with_path(directory: Path) -> User:
    """Root, whose PATH begins with `directory`."""
    root = users.get(users.ROOT)
    return dataclasses.replace(root, extra_env={"PATH": f"{directory}:{root.env()['PATH']}"})


# --- the real one


@functools.cache
def _why_not() -> tuple[Path, str]:
    """The criu, and why it cannot checkpoint on this kernel: "" if it can dump and restore a process."""
    criu = Path(os.environ.get("CTNR_TEST_CRIU") or machine.need("criu")[0])
    images = machine.scratch() / "criu-probe"
    images.mkdir()
    null = subprocess.DEVNULL
    victim = subprocess.Popen([rootfs.probe(), "--wait"], stdin=null, stdout=null, stderr=null, start_new_session=True)
    leaks.own(victim.pid)
    try:
        argv = [criu, "dump", "--tree", str(victim.pid), "--images-dir", str(images), "--log-file", "log"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, stdin=null)
    finally:
        victim.kill()
        victim.wait()
        leaks.disown(victim.pid)
    if done.returncode == 0:
        return criu, ""
    version = subprocess.run([criu, "--version"], capture_output=True, text=True, check=False).stdout.split("\n")[0]
    log = images / "log"
    lines = [line for line in (done.stderr + (log.read_text() if log.exists() else "")).splitlines() if "Error" in line]
    return criu, f"CRIU {version.removeprefix('Version: ')} cannot checkpoint on this kernel: {(lines or ['?'])[-1]}"


def working() -> User:
    """Root with a CRIU that works here; skips where there is none that does."""
    machine.need_root()
    criu, why = _why_not()
    if why:
        pytest.skip(f"not applicable: {why}")
    return with_path(criu.parent)


def program(user: User) -> str:
    """The criu that is first in the PATH of `user`."""
    return user.extra_env["PATH"].split(":")[0] + "/criu"


def has(user: User, feature: str) -> bool:
    """Whether CRIU and the kernel have a feature (criu check --feature)."""
    argv = [program(user), "check", "--feature", feature]
    return subprocess.run(argv, capture_output=True, timeout=60, check=False).returncode == 0


# --- the fake one


class Fake:
    """A criu whose behaviour the test says and whose requests it sees."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o755)
        self.directory = directory
        script = machine.INTEGRATION / "payload/fake_criu.py"
        command = directory / "criu"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} {script} {directory} "$@"\n')
        command.chmod(0o755)
        self.behave()

    def behave(self, **how: Any) -> None:
        """See payload/fake_criu.py."""
        (self.directory / "behave.json").write_text(json.dumps(how))

    def requests(self, kind: str) -> list[dict[str, Any]]:
        """What was asked of it so far: the options of each request of a kind ("dump", "restore")."""
        file = self.directory / "requests"
        lines = file.read_text().splitlines() if file.exists() else []
        return [found["opts"] for found in map(json.loads, lines) if found["kind"] == kind]

    def user(self) -> User:
        return with_path(self.directory)


def fake(work: Path) -> Fake:
    machine.need_root()
    return Fake(work / "criu")
