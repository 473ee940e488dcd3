# SPDX-License-Identifier: Apache-2.0
"""A directory tree that stands for /sys/fs/cgroup: what of the kernel's behaviour ctnr.runtime.cgroups counts on, and a log of
every write. It is a model, so integration/test_cgroups.py asks the same of a kernel.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctnr.errors import CtnrError
from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import Cgroup, dirs, v2
from ctnr.runtime.cgroups.layout import Layout, layout

V1_FILES = {
    "": {"cgroup.procs": "", "tasks": ""},
    "cpuset": {"cpuset.cpus": "", "cpuset.mems": ""},
    "devices": {"devices.list": "a *:* rwm\n", "devices.allow": "", "devices.deny": ""},
    "freezer": {"freezer.state": "THAWED\n", "freezer.self_freezing": "0\n"},
    "pids": {"pids.max": "max\n"},
    "net_cls": {"net_cls.classid": "0\n"},
    "net_prio": {"net_prio.ifpriomap": ""},
    "rdma": {"rdma.max": ""},
    "blkio": {
        "blkio.bfq.weight": "100\n",
        "blkio.bfq.weight_device": "",
        **{f"blkio.throttle.{rw}_{unit}_device": "" for rw in ("read", "write") for unit in ("bps", "iops")},
    },
    "hugetlb": {"hugetlb.2MB.limit_in_bytes": "", "hugetlb.2MB.rsvd.limit_in_bytes": "", "hugetlb.1GB.limit_in_bytes": ""},
    "cpu": {
        "cpu.shares": "1024\n",
        "cpu.cfs_quota_us": "-1\n",
        "cpu.cfs_period_us": "100000\n",
        "cpu.cfs_burst_us": "0\n",
        "cpu.idle": "0\n",
        "cpu.rt_period_us": "1000000\n",
        "cpu.rt_runtime_us": "0\n",
    },
    "memory": {
        "memory.limit_in_bytes": f"{2**63 - 4096}\n",
        "memory.memsw.limit_in_bytes": f"{2**63 - 4096}\n",
        "memory.soft_limit_in_bytes": f"{2**63 - 4096}\n",
        "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
        "memory.swappiness": "60\n",
        "memory.use_hierarchy": "1\n",
        "memory.usage_in_bytes": "1000\n",
        "memory.max_usage_in_bytes": "2000\n",
    },
}  # fmt: skip
V2_FILES = {
    "": {
        "cgroup.procs": "",
        "cgroup.threads": "",
        "cgroup.type": "domain\n",
        "cgroup.controllers": "",
        "cgroup.subtree_control": "",
        "cgroup.freeze": "0\n",
        "cgroup.kill": "",
        "cgroup.events": "populated 0\nfrozen 0\n",
    },
    "memory": {
        "memory.max": "max\n",
        "memory.low": "0\n",
        "memory.high": "max\n",
        "memory.swap.max": "max\n",
        "memory.current": "5000\n",
    },
    "cpu": {"cpu.weight": "100\n", "cpu.max": "max 100000\n", "cpu.max.burst": "0\n", "cpu.idle": "0\n"},
    "cpuset": {"cpuset.cpus": "\n", "cpuset.mems": "\n"},
    "io": {"io.weight": "default 100\n", "io.max": ""},
    "pids": {"pids.max": "max\n"},
    "hugetlb": {"hugetlb.2MB.max": "max\n", "hugetlb.2MB.rsvd.max": "max\n"},
    "rdma": {"rdma.max": ""},
}


class Cgroupfs:
    """`top` with a directory for each v1 hierarchy (its controllers joined by commas), and cgroup2 at `unified` ("" is top)."""

    def __init__(
        self,
        top: Path,
        monkeypatch: pytest.MonkeyPatch,
        v1: tuple[str, ...] = (),
        unified: str | None = None,
        controllers: str = "",
        own: str = "/",
    ) -> None:
        self.top = top
        self.log: list[tuple[str, str]] = []
        # path below top -> errno of a write to it; a number n: of the nth write of all
        self.fail: dict[str | int, int] = {}
        self.mounts: list[str] = []
        lines = [f"20 1 0:20 / {top} rw - tmpfs tmpfs rw"]
        table = []
        for n, names in enumerate(v1):
            where = names.removeprefix("name=")
            (top / where).mkdir()
            self._populate(top / where, names.split(","))
            if "cpuset" in names.split(","):
                (top / where / "cpuset.cpus").write_text("0-3\n")
                (top / where / "cpuset.mems").write_text("0\n")
            self.mounts.append(str(top / where))
            lines.append(f"{30 + n} 20 0:{30 + n} / {top / where} rw - cgroup cgroup rw,{names}")
            table.append(f"{n + 1}:{names}:{own}")
        self.unified = None
        if unified is not None:
            self.unified = top / unified
            self.unified.mkdir(exist_ok=True)
            self._populate(self.unified, [""])
            (self.unified / "cgroup.type").unlink()
            (self.unified / "cgroup.controllers").write_text(controllers + "\n")
            self.mounts.append(str(self.unified))
            lines.append(f"60 20 0:60 / {self.unified} rw - cgroup2 cgroup2 rw")
            table.append(f"0::{own}")
        self.mountinfo, self.cgroup = "".join(line + "\n" for line in lines), "".join(line + "\n" for line in table)
        for module, name in ((dirs, "mkdir"), (dirs, "rmdir"), (dirs, "write"), (v2, "write")):
            monkeypatch.setattr(module, name, getattr(self, name))

    def layout(self) -> Layout:
        return layout(self.mountinfo, self.cgroup)

    def left(self) -> list[str]:
        """All cgroups but the roots."""
        found = []
        for mount in self.mounts:
            for directory, below, _ in os.walk(mount):
                found += [
                    os.path.join(directory, name) for name in below if os.path.join(directory, name) not in self.mounts
                ]
        return sorted(set(found))

    def value(self, path: str) -> str:
        return (self.top / path).read_text()

    def _populate(self, path: Path, controllers: list[str]) -> None:
        if controllers == [""]:
            available = []
            if (path.parent / "cgroup.subtree_control").exists():
                available = (path.parent / "cgroup.subtree_control").read_text().split()
            for name in ("", *available):
                for file, content in V2_FILES.get(name, {}).items():
                    (path / file).write_text(content)
            (path / "cgroup.controllers").write_text(" ".join(available) + "\n")
            return
        for name in ("", *controllers):
            for file, content in V1_FILES.get(name, {}).items():
                (path / file).write_text(content)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)
        for mount in sorted(self.mounts, key=len, reverse=True):
            if path.startswith(mount + "/"):
                is_v2 = self.unified is not None and mount == str(self.unified)
                self._populate(Path(path), [""] if is_v2 else os.path.basename(mount).split(","))
                return
        raise AssertionError(f"{path} is in no hierarchy")

    def _resolve(self, name: str, dir_fd: int | None) -> str:
        return name if dir_fd is None else os.path.join(os.readlink(f"/proc/self/fd/{dir_fd}"), name)

    def rmdir(self, name: str, *, dir_fd: int | None = None) -> None:
        path = Path(self._resolve(name, dir_fd))
        entries = list(path.iterdir())
        if any(entry.is_dir() for entry in entries) or (path / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "busy", str(path))
        for entry in entries:
            entry.unlink()
        path.rmdir()

    def write(self, name: str, value: str, dir_fd: int | None = None) -> None:
        path = self._resolve(name, dir_fd)
        relative = os.path.relpath(path, self.top)
        if not os.path.exists(path):
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        error = self.fail.get(relative) or self.fail.get(len(self.log))
        self.log.append((relative, value))
        if error:
            raise OSError(error, os.strerror(error), path)
        file = os.path.basename(path)
        directory = Path(path).parent
        if file in ("devices.allow", "devices.deny"):
            entries = (directory / "devices.list").read_text().splitlines()
            if value == "a":
                entries = ["a *:* rwm"] if file == "devices.allow" else []
            elif file == "devices.allow":
                entries.append(value)
            else:
                entries.remove(value)
            (directory / "devices.list").write_text("".join(entry + "\n" for entry in entries))
            return
        if file == "cgroup.subtree_control":
            have = (directory / file).read_text().split()
            for word in value.split():
                if word[1:] not in (directory / "cgroup.controllers").read_text().split():
                    raise OSError(errno.ENOENT, "no such controller", path)
                have.append(word[1:])
                for child in directory.iterdir():
                    if child.is_dir():
                        with open(child / "cgroup.controllers", "a") as controllers:
                            controllers.write(word[1:] + " ")
                        for knob, content in V2_FILES.get(word[1:], {}).items():
                            (child / knob).write_text(content)
            value = " ".join(have)
        if file == "freezer.state":
            (directory / "freezer.self_freezing").write_text("1\n" if value == "FROZEN" else "0\n")
        if file == "cgroup.freeze":
            (directory / "cgroup.events").write_text(f"populated 1\nfrozen {value}\n")
        Path(path).write_text(value + "\n")


V1 = (
    "cpuset",
    "cpu,cpuacct",
    "memory",
    "devices",
    "freezer",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls,net_prio",
    "rdma",
    "name=systemd",
)
V2 = "cpuset cpu io memory hugetlb pids rdma"


@pytest.fixture
def fake_v1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroupfs:
    return Cgroupfs(tmp_path, monkeypatch, V1)


@pytest.fixture
def fake_v2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroupfs:
    monkeypatch.setattr(v2, "set_devices", lambda *a, **k: None)
    return Cgroupfs(tmp_path, monkeypatch, (), "", V2)


@pytest.fixture
def fake_hybrid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cgroupfs:
    return Cgroupfs(tmp_path, monkeypatch, ("cpuset", "memory", "devices", "freezer"), "unified", "hugetlb pids")


def create(fs: Cgroupfs, resources: dict[str, Any] | None = None, path: str | None = "/p/c", **kw: Any) -> Cgroup:
    cgroup = cgroups.new(path, "id", resources=resources, where=fs.layout(), **kw)
    assert cgroup is not None
    fs.log.clear()
    cgroup.create(resources)
    return cgroup


def limits(fs: Cgroupfs) -> list[tuple[str, str]]:
    """The writes since, but for what each new cgroup gets."""
    skip = ("devices.", "cpuset.", "cgroup.subtree_control")
    return [(p.replace("p/c/", ""), v) for p, v in fs.log if not os.path.basename(p).startswith(skip)]


def refused(call: Callable[[], object], field: str, words: str) -> CtnrError:
    with pytest.raises(CtnrError) as caught:
        call()
    assert str(caught.value).startswith(field)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    return caught.value
