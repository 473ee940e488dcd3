# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.cgroups on a model of cgroupfs: frozen, killed, waited for.

integration/test_cgroups.py asks the kernel.
"""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from fake_cgroupfs import Cgroupfs, create, refused

from ctnr.runtime.cgroups import dirs, killing, v1, v2


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_freeze_and_thaw(request: pytest.FixtureRequest, mode: str) -> None:
    fs: Cgroupfs = request.getfixturevalue(mode)
    cgroup = create(fs)
    assert not cgroup.frozen()
    cgroup.freeze()
    assert cgroup.frozen()
    cgroup.thaw()
    assert not cgroup.frozen()
    cgroup.delete()
    assert not cgroup.frozen()


def test_a_v1_cgroup_that_will_not_freeze_is_thawed(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1)
    original = fake_v1.write
    monkeypatch.setattr(v1, "sleep", lambda seconds: None)
    monkeypatch.setattr(v1.freeze, "__defaults__", (0.01,))

    def write(name: str, value: str, dir_fd: int | None = None) -> None:
        original(name, "FREEZING" if value == "FROZEN" else value, dir_fd)

    dirs.write = write  # type: ignore[assignment]  # monkeypatch restores it
    refused(cgroup.freeze, "unable to freeze the cgroup", "new processes keep appearing")
    assert fake_v1.value("freezer/p/c/freezer.state") == "THAWED\n"


def test_a_v2_cgroup_that_will_not_freeze_is_thawed(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v2)
    original = fake_v2.write
    monkeypatch.setattr(v2.freeze, "__defaults__", (0.01,))

    def write(name: str, value: str, dir_fd: int | None = None) -> None:
        original(name, value, dir_fd)
        (fake_v2.top / "p/c/cgroup.events").write_text("populated 1\nfrozen 0\n")

    monkeypatch.setattr(v2, "write", write)
    refused(cgroup.freeze, "unable to freeze the cgroup", "did not stop in 0.01 s")
    assert fake_v2.value("p/c/cgroup.freeze") == "0\n"


def test_freezing_needs_a_freezer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(Cgroupfs(tmp_path, monkeypatch, ("devices",)))
    refused(cgroup.freeze, "cannot toggle freezer", "cgroups not configured for container")
    refused(cgroup.thaw, "cannot toggle freezer", "cgroups not configured for container")
    assert cgroup.frozen() is False


@pytest.mark.parametrize(("signal", "paused"), [(9, False), (15, False), (15, True), (9, True)])
def test_kill_on_v1(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch, signal: int, paused: bool) -> None:
    cgroup = create(fake_v1)
    (fake_v1.top / "devices/p/c/cgroup.procs").write_text("11\n12\n")
    sent: list[tuple[int, int, str]] = []

    def send(pid: int, number: int) -> None:
        sent.append((pid, number, fake_v1.value("freezer/p/c/freezer.state").strip()))
        if pid == 11:
            raise ProcessLookupError(errno.ESRCH, "gone")

    monkeypatch.setattr(killing, "send_signal", send)
    if paused:
        cgroup.freeze()
    cgroup.kill(signal)
    assert sent == [(11, signal, "FROZEN"), (12, signal, "FROZEN")]
    # a pause outlives all but SIGKILL, which v1 would hold back
    assert cgroup.frozen() == (paused and signal != 9)


def test_kill_thaws_after_an_error_too(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1)
    (fake_v1.top / "devices/p/c/cgroup.procs").write_text("11\n12\n")
    sent = []

    def send(pid: int, number: int) -> None:
        sent.append(pid)
        raise PermissionError(errno.EPERM, "not yours")

    monkeypatch.setattr(killing, "send_signal", send)
    refused(cgroup.kill, "send signal 9 to", "operation not permitted")
    assert sent == [11, 12]
    assert not cgroup.frozen()


def test_kill_on_v2_is_one_write(fake_v2: Cgroupfs) -> None:
    cgroup = create(fake_v2)
    fake_v2.log.clear()
    cgroup.kill()
    assert fake_v2.log == [("p/c/cgroup.kill", "1")]


def test_kill_on_a_hybrid_machine_lets_v1_frozen_processes_go(fake_hybrid: Cgroupfs) -> None:
    cgroup = create(fake_hybrid)
    cgroup.freeze()
    fake_hybrid.log.clear()
    cgroup.kill()
    assert fake_hybrid.log == [("unified/p/c/cgroup.kill", "1"), ("freezer/p/c/freezer.state", "THAWED")]


@pytest.mark.parametrize("mode", ["fake_v1", "fake_v2", "fake_hybrid"])
def test_what_is_gone_has_no_processes(request: pytest.FixtureRequest, mode: str) -> None:
    cgroup = create(request.getfixturevalue(mode))
    cgroup.delete()
    cgroup.kill()
    cgroup.kill(15)
    assert cgroup.pids() == []
    cgroup.delete()


def test_delete_waits_for_the_dying(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1)
    procs = fake_v1.top / "memory/p/c/cgroup.procs"
    procs.write_text("11\n")
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            procs.write_text("")

    monkeypatch.setattr(dirs, "sleep", nap)
    cgroup.delete()
    assert naps == sorted(naps) and len(naps) == 3
    assert all(path.endswith("/p") for path in fake_v1.left())


def test_delete_does_not_wait_for_ever(fake_v1: Cgroupfs) -> None:
    cgroup = create(fake_v1)
    (fake_v1.top / "memory/p/c/cgroup.procs").write_text("11\n12\n")
    refused(lambda: cgroup.delete(timeout=0.01), "remove the cgroup", "it still has processes: 11 12")
    # the others are gone all the same
    assert [p for p in fake_v1.left() if p.endswith("/c")] == [str(fake_v1.top / "memory/p/c")]


def test_delete_waits_once_for_all_hierarchies(fake_v1: Cgroupfs, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroup = create(fake_v1)
    for name in ("memory", "pids", "freezer"):
        (fake_v1.top / name / "p/c/cgroup.procs").write_text("11\n")
    clock = [0.0]
    monkeypatch.setattr(dirs, "monotonic", lambda: clock[0])

    def nap(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(dirs, "sleep", nap)
    refused(lambda: cgroup.delete(timeout=2), "remove the cgroup", "it still has processes: 11")
    assert 2 <= clock[0] < 2.1


def test_a_read_only_mount_says_erofs_even_of_what_is_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def rmdir(path: str, *, dir_fd: int | None = None) -> None:
        raise OSError(errno.EROFS, "read-only", path)

    monkeypatch.setattr(dirs, "rmdir", rmdir)
    dirs.remove(str(tmp_path / "none"))
    refused(lambda: dirs.remove(str(tmp_path)), "remove the cgroup", "read-only file system")
