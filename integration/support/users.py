# SPDX-License-Identifier: Apache-2.0
"""The three kinds of caller: root, a user with ranges of subordinate ids, and a user with one id only.

As root the two users are made (system accounts, kept for the next run); otherwise whoever runs the tests is the only one.
"""

from __future__ import annotations

import functools
import grp
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from . import machine

ROOT, SUBIDS, ONE_ID = "root", "subids", "one-id"
KINDS = (ROOT, SUBIDS, ONE_ID)
_NAMES = {SUBIDS: "ctnr-test-subids", ONE_ID: "ctnr-test-one"}
_COUNT = 65536


@dataclass(frozen=True)
class User:
    """Somebody to run as. `sub` is the first (uid, gid) of the subordinate ranges, None when there are none."""

    kind: str
    name: str
    uid: int
    gid: int
    home: str
    sub: tuple[int, int] | None = None
    extra_env: dict[str, str] = field(default_factory=dict, hash=False, compare=False)

    @property
    def rootless(self) -> bool:
        return self.uid != 0

    @property
    def runtime_dir(self) -> str:
        return f"/run/user/{self.uid}" if self.rootless else "/run"

    def env(self) -> dict[str, str]:
        """A clean environment: nothing of the caller's reaches the runtime by accident."""
        env = {
            "HOME": self.home,
            "USER": self.name,
            "LOGNAME": self.name,
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "TMPDIR": str(machine.scratch() / "tmp"),
        }
        if self.rootless:
            env["XDG_RUNTIME_DIR"] = (
                os.environ.get("XDG_RUNTIME_DIR", self.runtime_dir) if _is_me(self) else self.runtime_dir
            )
        # sanitizer and coverage builds of the runtime are steered by these
        env.update({name: value for name, value in os.environ.items() if name.startswith(("ASAN_", "UBSAN_", "CTNR_"))})
        return {**env, **self.extra_env}

    def wrap(self, argv: list[str]) -> list[str]:
        """`argv` so that it runs as this user when root runs it."""
        if _is_me(self):
            return list(argv)
        [setpriv] = machine.need("setpriv")
        return [setpriv, f"--reuid={self.uid}", f"--regid={self.gid}", "--clear-groups", "--inh-caps=-all", "--", *argv]


def _is_me(user: User) -> bool:
    return os.getuid() == user.uid


def _sub_start(path: str, name: str, id: int) -> int | None:
    """The first id of a range of at least 65536 in /etc/subuid or /etc/subgid, which name their owner by name or number."""
    try:
        lines = Path(path).read_text().splitlines()
    except FileNotFoundError:
        return None
    for line in lines:
        parts = line.split(":")
        if len(parts) == 3 and parts[0] in (name, str(id)) and int(parts[2]) >= _COUNT:
            return int(parts[1])
    return None


def _free_start() -> int:
    highest = 231072  # past what useradd hands out first
    for path in ("/etc/subuid", "/etc/subgid"):
        if os.path.exists(path):
            for line in Path(path).read_text().splitlines():
                parts = line.split(":")
                if len(parts) == 3:
                    highest = max(highest, int(parts[1]) + int(parts[2]))
    return highest


def _sub_of(name: str, uid: int) -> tuple[int, int] | None:
    first_uid, first_gid = _sub_start("/etc/subuid", name, uid), _sub_start("/etc/subgid", name, uid)
    if first_uid is None or first_gid is None:
        return None
    return first_uid, first_gid


def _made(kind: str) -> User:
    """The test account of `kind`, made when it is not there yet. Root only."""
    name = _NAMES[kind]
    with machine.locked(machine.cache_dir() / "users.lock"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            [useradd] = machine.need("useradd")
            home = f"/var/lib/{name}"
            subprocess.run(
                [useradd, "--system", "--create-home", "--home-dir", home, "--shell", "/bin/sh", name],
                check=True,
                capture_output=True,
            )
            entry = pwd.getpwnam(name)
        sub = _sub_of(name, entry.pw_uid)
        if kind == SUBIDS and sub is None:
            [usermod] = machine.need("usermod")
            machine.need("newuidmap", "newgidmap")
            start = _free_start()
            span = f"{start}-{start + _COUNT - 1}"
            subprocess.run(
                [usermod, "--add-subuids", span, "--add-subgids", span, name], check=True, capture_output=True
            )
            sub = start, start
        assert kind == SUBIDS or sub is None, f"{name} must not have subordinate ids"
        runtime_dir = Path(f"/run/user/{entry.pw_uid}")
        if not runtime_dir.exists():
            runtime_dir.parent.mkdir(mode=0o755, exist_ok=True)
            runtime_dir.mkdir(mode=0o700)
            os.chown(runtime_dir, entry.pw_uid, entry.pw_gid)
    return User(kind, name, entry.pw_uid, entry.pw_gid, entry.pw_dir, sub)


@functools.cache
def me() -> User:
    """Whoever runs the tests."""
    entry = pwd.getpwuid(os.getuid())
    if entry.pw_uid == 0:
        return User(ROOT, "root", 0, 0, entry.pw_dir)
    sub = _sub_of(entry.pw_name, entry.pw_uid) if shutil.which("newuidmap") else None
    return User(SUBIDS if sub else ONE_ID, entry.pw_name, entry.pw_uid, os.getgid(), entry.pw_dir, sub)


@functools.cache
def _get(kind: str) -> User | None:
    if me().kind == kind:
        return me()
    return _made(kind) if os.getuid() == 0 else None


def get(kind: str) -> User:
    """The user of `kind`; skips when the tests do not run as root and are not that user."""
    user = _get(kind)
    if user is None:
        pytest.skip(f"the tests run as {me().name} ({me().kind}), not as root: no {kind} user")
    return user


def group_name(gid: int) -> str:
    return grp.getgrgid(gid).gr_name


def closed_ancestors(path: Path, user: User) -> list[Path]:
    """The directories above `path` that `user` may not pass: a checkout under /root or in a mkdtemp directory."""
    closed: list[Path] = []
    if user.uid == 0:
        return closed
    for parent in reversed(path.resolve().parents):
        status = parent.stat()
        bit = stat.S_IXUSR if status.st_uid == user.uid else stat.S_IXGRP if status.st_gid == user.gid else stat.S_IXOTH
        if not status.st_mode & bit:
            closed.append(parent)
    return closed
