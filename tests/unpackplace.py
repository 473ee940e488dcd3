# SPDX-License-Identifier: Apache-2.0
"""A place to unpack archives to, with something beside it that must stay as it is."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctnr.errors import CtnrError
from ctnr.image import paths
from ctnr.image.archive import unpack_archive
from ctnr.image.policy import Report, UnpackPolicy
from ctnr.image.unpack import unpack

NOBODY = UnpackPolicy(owner="none")
IN_ROOT = UnpackPolicy(owner="none", paths="in-root")
LAYER = UnpackPolicy(owner="none", paths="in-root", whiteouts=True)
SECOND = 10**9


def looks(path: Path) -> dict[str, object]:
    """All there is to see of a tree, by name."""
    seen: dict[str, object] = {}
    for top, dir_names, file_names in os.walk(path):
        for name in [".", *dir_names, *file_names] if top == str(path) else dir_names + file_names:
            p = os.path.join(top, name)
            s = os.lstat(p)
            what: object = None
            if stat.S_ISLNK(s.st_mode):
                what = os.readlink(p)
            elif stat.S_ISREG(s.st_mode):
                what = Path(p).read_bytes()
            seen[os.path.relpath(p, path)] = (
                oct(s.st_mode),
                s.st_uid,
                s.st_gid,
                s.st_nlink,
                s.st_mtime_ns,
                s.st_ctime_ns,
                what,
            )
    return seen


class Place:
    """A directory to unpack to, and one outside of it that must stay as it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dest = path / "dest"
        self.outside = path / "outside"
        (self.outside / "sub").mkdir(parents=True)
        self.secret = self.outside / "secret"
        self.secret.write_text("secret")
        self.secret.chmod(0o600)
        self.archive = path / "some.tar"
        self._before = self._look()

    def _look(self) -> dict[str, object]:
        return {"outside": looks(self.outside), "names": sorted(p.name for p in self.path.iterdir() if p != self.dest)}

    def unpack(self, data: bytes, policy: UnpackPolicy = NOBODY) -> Report:
        self.archive.write_bytes(data)
        try:
            return unpack_archive(str(self.archive), str(self.dest), policy)
        finally:
            self.archive.unlink()
            self.check()

    def add(self, data: bytes, policy: UnpackPolicy = LAYER) -> Report:
        """Unpack onto what is there."""
        self.dest.mkdir(exist_ok=True)
        fd = os.open(self.dest, os.O_RDONLY)
        try:
            return unpack(io.BytesIO(data), fd, policy)
        finally:
            os.close(fd)
            self.check()

    def check(self) -> None:
        assert self._look() == self._before, "something outside of the destination was touched"

    def refuses(self, data: bytes, policy: UnpackPolicy = NOBODY) -> str:
        with pytest.raises(CtnrError) as caught:
            self.unpack(data, policy)
        assert not self.dest.exists()
        message = str(caught.value)
        assert message.startswith(f"{self.archive}: ") and message.isprintable()
        return message.removeprefix(f"{self.archive}: ")

    def names(self) -> list[str]:
        return sorted(name for name in looks(self.dest) if name != ".")


@pytest.fixture(params=["openat2", "walk"])
def resolver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to resolve a parent directory."""
    if request.param == "walk":
        monkeypatch.setattr(paths, "_openat2", None)
    elif paths._openat2 is None:
        pytest.skip("no openat2: ctnr._native is not built, or the kernel refuses it")
    return str(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A Place; what was opened during the test is closed at its end."""
    before = sorted(os.listdir("/proc/self/fd"))
    yield Place(tmp_path)
    assert sorted(os.listdir("/proc/self/fd")) == before
