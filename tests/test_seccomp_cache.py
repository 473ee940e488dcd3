# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.seccomp: the cache. Whoever can put an entry into it decides on the filter."""

from __future__ import annotations

import copy
import json
import multiprocessing
import os
import posix
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from seccomp_oracle import ERRNO, NATIVE, Filter, audit_arch, number_of

import ctnr
from ctnr.runtime import seccomp, seccomp_build

PACKAGE_ROOT = Path(ctnr.__file__).parents[1]
PROFILE: dict[str, Any] = json.loads((Path(__file__).parent / "data/seccomp.json").read_text())
PROFILE["architectures"] = []
SIMPLE: dict[str, Any] = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ERRNO"}],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of the cache, for root and for anybody else; it is not there yet."""
    monkeypatch.setattr(seccomp, "_ROOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    seccomp._memo.clear()
    yield tmp_path / "cache/ctnr/seccomp"
    seccomp._memo.clear()


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one for each filter that is made and not taken from the cache."""
    made: list[str] = []
    build = seccomp_build.build

    def counted(section: Any, path: str) -> seccomp_build.Built:
        made.append(path)
        return build(section, path)

    monkeypatch.setattr(seccomp_build, "build", counted)
    return made


def compiled(section: dict[str, Any]) -> seccomp.Filter:
    return seccomp.compile(section)  # type: ignore[arg-type]


def answer(section: dict[str, Any], name: str = "read", first: int = 0) -> int:
    return Filter(compiled(section).program).run(audit_arch(NATIVE), number_of(name), [first, 0, 0, 0, 0, 0])


def again() -> None:
    """As if this were another process."""
    seccomp._memo.clear()


def entry(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def test_hit(cache: Path, builds: list[str]) -> None:
    first = compiled(PROFILE)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(entry(cache).stat().st_mode) == 0o600
    assert compiled(PROFILE) is first
    again()
    second = compiled(copy.deepcopy(PROFILE))
    assert (second.program, second.flags) == (first.program, first.flags)
    assert builds == ["linux.seccomp"]


def test_hit_reads_one_file_and_loads_nothing(cache: Path, tmp_path: Path) -> None:
    """Neither libseccomp nor what makes filters, and no module that a hot path may not load."""
    (tmp_path / "profile.json").write_text(json.dumps(PROFILE))
    program = f"""
import sys
sys.path.insert(0, {str(PACKAGE_ROOT)!r})
from ctnr import jsonio, files
section = jsonio.loads(files.read_file({str(tmp_path / "profile.json")!r}))
before = set(sys.modules)
from ctnr.runtime import seccomp
seccomp._ROOT_CACHE = {seccomp._ROOT_CACHE!r}
filter = seccomp.compile(section)
loaded = sorted(set(sys.modules) - before)
print(jsonio.dumps([loaded, b"libseccomp" in files.read_file("/proc/self/maps"), filter.program.hex(), filter.flags]))
"""
    outcomes = [
        json.loads(subprocess.run([sys.executable, "-ISB", "-c", program], check=True, stdout=subprocess.PIPE).stdout)
        for _ in range(2)
    ]
    assert outcomes[0][1:] == [True, compiled(PROFILE).program.hex(), 4]
    own = {"ctnr.runtime", "ctnr.runtime.seccomp", "ctnr.log"}
    assert set(outcomes[1][0]) <= own | {"marshal", "_struct", "_sha256", "_sha2", "time", "_json"}
    assert outcomes[1][1:] == [False, *outcomes[0][2:]]


@pytest.mark.parametrize("at", [0, 5, 8, 20, 40, 44, 48, 60, -1, -9])
def test_a_damaged_entry_is_made_anew(cache: Path, builds: list[str], at: int) -> None:
    good = compiled(PROFILE).program
    data = bytearray(entry(cache).read_bytes())
    data[at] ^= 0x40
    entry(cache).write_bytes(data)
    again()
    assert compiled(PROFILE).program == good
    assert len(builds) == 2
    again()
    assert compiled(PROFILE).program == good
    assert len(builds) == 2


@pytest.mark.parametrize("size", [0, 1, 8, 40, 48, 200, 204])
def test_a_truncated_entry_is_made_anew(cache: Path, builds: list[str], size: int) -> None:
    good = compiled(PROFILE).program
    os.truncate(entry(cache), size)
    again()
    assert compiled(PROFILE).program == good
    assert len(builds) == 2


def test_an_entry_of_another_section_is_not_taken(cache: Path, builds: list[str]) -> None:
    compiled(SIMPLE)
    other = entry(cache).read_bytes()
    good = compiled(PROFILE).program
    for path in cache.iterdir():
        path.write_bytes(other)
    again()
    assert compiled(PROFILE).program == good
    assert len(builds) == 3


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_an_entry_that_others_may_write_is_not_taken(cache: Path, builds: list[str], mode: int) -> None:
    compiled(PROFILE)
    entry(cache).chmod(mode)
    again()
    compiled(PROFILE)
    assert len(builds) == 2
    assert stat.S_IMODE(entry(cache).stat().st_mode) == 0o600


def test_an_entry_of_somebody_else_is_not_taken(
    cache: Path, builds: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good = compiled(PROFILE).program
    if os.geteuid() == 0:
        os.chown(entry(cache), 65534, -1)
    else:
        uid = os.geteuid()
        monkeypatch.setattr(posix, "geteuid", lambda: uid + 1)
    again()
    assert compiled(PROFILE).program == good
    assert len(builds) == 2


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_an_entry_that_is_no_file_is_not_taken(cache: Path, builds: list[str], kind: str) -> None:
    good = compiled(PROFILE).program
    path = entry(cache)
    if kind == "symlink":
        path.rename(cache / "elsewhere")
        path.symlink_to("elsewhere")
    else:
        path.unlink()
        os.mkfifo(path) if kind == "fifo" else path.mkdir()
    again()
    assert compiled(PROFILE).program == good
    assert len(builds) == 2


def test_another_libseccomp_or_kernel_makes_it_anew(
    cache: Path, builds: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libseccomp.so.2"
    library.write_text("2.5.4")
    resolve = seccomp_build._resolve
    monkeypatch.setattr(seccomp_build, "_resolve", lambda *args: resolve(*args) | {"library": str(library)})
    compiled(PROFILE)
    again()
    compiled(PROFILE)
    assert len(builds) == 1
    library.write_text("2.6.0, say")
    again()
    compiled(PROFILE)
    assert len(builds) == 2
    library.unlink()
    again()
    compiled(PROFILE)
    assert len(builds) == 3
    library.write_text("2.6.0, say")
    again()
    compiled(PROFILE)
    assert len(builds) == 4
    uname = os.uname()
    monkeypatch.setattr(posix, "uname", lambda: type("", (), {"machine": uname.machine, "release": "9.0"}))
    again()
    compiled(PROFILE)
    assert len(builds) == 5


def test_a_cache_that_cannot_be_written_is_no_error(cache: Path, builds: list[str], tmp_path: Path) -> None:
    (tmp_path / "cache").rmdir()
    (tmp_path / "cache").write_text("a file")
    assert answer(SIMPLE) == ERRNO | 1
    again()
    assert answer(SIMPLE) == ERRNO | 1
    assert len(builds) == 2


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_directory_that_others_may_write_is_not_used(cache: Path, builds: list[str], mode: int) -> None:
    cache.mkdir(parents=True)
    cache.chmod(mode)
    compiled(PROFILE)
    assert list(cache.iterdir()) == []
    assert len(builds) == 1


def test_a_directory_of_somebody_else_is_not_used(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.mkdir(parents=True, mode=0o700)
    if os.geteuid() == 0:
        os.chown(cache, 65534, -1)
    else:
        uid = os.geteuid()
        monkeypatch.setattr(posix, "geteuid", lambda: uid + 1)
    compiled(PROFILE)
    assert list(cache.iterdir()) == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def where(euid: int, owner: int, **environment: str) -> str:
        monkeypatch.setattr(posix, "geteuid", lambda: euid)
        monkeypatch.setattr(posix, "stat", lambda path: type("", (), {"st_uid": owner}))
        for name in ("XDG_CACHE_HOME", "HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        return seccomp._cache_file(b"\1\2")

    monkeypatch.setattr(seccomp, "_ROOT_CACHE", "/var/cache")
    # root believes no environment: sudo may have left the user's
    assert where(0, 0, HOME="/home/u", XDG_CACHE_HOME="/x") == "/var/cache/ctnr/seccomp/0102"
    # root of a user namespace
    assert where(0, 65534, HOME="/home/u") == "/home/u/.cache/ctnr/seccomp/0102"
    assert where(1000, 0, HOME="/home/u") == "/home/u/.cache/ctnr/seccomp/0102"
    assert where(1000, 0, HOME="/home/u", XDG_CACHE_HOME="/x") == "/x/ctnr/seccomp/0102"
    assert where(1000, 0, HOME="/home/u", XDG_CACHE_HOME="x") == "/home/u/.cache/ctnr/seccomp/0102"
    assert where(1000, 0, HOME="") == where(1000, 0) == where(1000, 0, HOME="u") == ""


def test_the_cache_does_not_grow_without_end(cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    for i in range(seccomp._MAX_ENTRIES):
        (cache / f".left{i}").touch()
        os.utime(cache / f".left{i}", (i, i))
    compiled(PROFILE)
    left = {path.name for path in cache.iterdir()}
    assert len(left) == (seccomp._MAX_ENTRIES + 1) - (seccomp._MAX_ENTRIES + 1) // 2
    assert f".left{seccomp._MAX_ENTRIES - 1}" in left and ".left0" not in left
    assert any(not name.startswith(".") for name in left)


def test_what_is_remembered_does_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "_cache_file", lambda key: "")
    for i in range(2 * seccomp._MAX_MEMO + 1):
        compiled({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": i})
        assert 0 < len(seccomp._memo) <= seccomp._MAX_MEMO


def test_sections_that_differ_have_entries_that_differ() -> None:
    sections: list[Any] = [PROFILE, SIMPLE, {}, {"a": 1}, {"a": True}, {"a": "1"}, {"a": [1]}, {"a": [[1]]}, {"a": 1.0}]
    sections += [{"ab": "c"}, {"a": "bc"}, {"a": {"b": "c"}}, {"a": None}, {"a": -1}, {"a": 2**64 - 1}]
    assert len({seccomp._key(section) for section in sections}) == len(sections)
    for section in sections:
        assert seccomp._key(section) == seccomp._key(json.loads(json.dumps(section)))


def test_values_that_are_not_plain_json_are_not_cached(cache: Path) -> None:
    class Name(str):
        __slots__ = ()

    section = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": [Name("read")], "action": "SCMP_ACT_ERRNO"}]}
    assert answer(section) == ERRNO | 1
    assert not cache.exists()


def _concurrently(number: int) -> tuple[bytes, bytes]:
    seccomp._memo.clear()
    section = SIMPLE | {"flags": [[], ["SECCOMP_FILTER_FLAG_LOG"], ["SECCOMP_FILTER_FLAG_TSYNC"]][number % 3]}
    return bytes([number % 3]), compiled(section).program


def test_concurrent_writers(cache: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        outcomes = pool.map(_concurrently, range(60), chunksize=1)
    assert len({program for _, program in outcomes}) == 1
    assert len(list(cache.iterdir())) == 3
