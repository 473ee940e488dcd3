# SPDX-License-Identifier: Apache-2.0
"""ctnr.runtime.intelrdt on a directory that stands for resctrl; integration/test_inside.py asks this machine's kernel."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime import intelrdt

INFO = {
    "L3/cbm_mask": "fffff",
    "L3/min_cbm_bits": "1",
    "L3/num_closids": "16",
    "MB/bandwidth_gran": "10",
    "MB/delay_linear": "1",
    "MB/min_bandwidth": "10",
    "MB/num_closids": "8",
    "L3_MON/mon_features": "llc_occupancy\nmbm_total_bytes\nmbm_local_bytes\nmbm_new",
    "last_cmd_status": "ok",
}
WHOLE = "    MB:0=100;1=100\n    L3:0=fffff;1=fffff\n"


class Resctrl:
    """`top`, with two caches. `fail`: path below top -> errno of the next call on it; `log`: what was written."""

    def __init__(self, top: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.top = top
        self.log: list[tuple[str, str]] = []
        self.fail: dict[str, int] = {}
        for name, text in INFO.items():
            (top / "info" / name).parent.mkdir(parents=True, exist_ok=True)
            (top / "info" / name).write_text(text + "\n")
        self.populate(top)
        mountinfo = f"36 25 0:32 / {top} rw,relatime shared:9 - resctrl resctrl rw\n"
        monkeypatch.setattr(intelrdt, "_mountinfo", lambda: mountinfo)
        for name in ("mkdir", "rmdir", "write"):
            monkeypatch.setattr(intelrdt, name, getattr(self, name))

    def populate(self, path: Path) -> None:
        if path.parent.name != "mon_groups":
            (path / "schemata").write_text(WHOLE)
            (path / "mon_groups").mkdir()
        (path / "tasks").write_text("")
        for domain in ("mon_L3_00", "mon_L3_01"):
            (path / "mon_data" / domain).mkdir(parents=True)
            for name, text in (("llc_occupancy", "7"), ("mbm_total_bytes", "9"), ("mbm_local_bytes", "Unavailable")):
                (path / "mon_data" / domain / name).write_text(text + "\n")

    def _try(self, path: str) -> None:
        number = self.fail.pop(os.path.relpath(path, self.top), 0)
        if number:
            raise OSError(number, os.strerror(number), path)

    def mkdir(self, path: str, mode: int) -> None:
        self._try(path)
        os.mkdir(path, mode)
        self.populate(Path(path))

    def rmdir(self, path: str) -> None:
        self._try(path)
        if not os.path.isdir(path):
            raise FileNotFoundError(errno.ENOENT, "gone", path)
        shutil.rmtree(path)

    def write(self, path: str, value: str) -> None:
        self._try(path)
        assert os.path.exists(path), path
        self.log.append((os.path.relpath(path, self.top), value))
        Path(path).write_text(value)

    def classes(self) -> list[str]:
        return sorted(p.name for p in self.top.iterdir() if p.is_dir() and p.name not in intelrdt._RESERVED)


@pytest.fixture
def resctrl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Resctrl:
    return Resctrl(tmp_path, monkeypatch)


def make(rdt: dict[str, Any], id: str = "box") -> dict[str, Any]:
    made = intelrdt.plan(rdt, id)
    intelrdt.create(rdt, made)
    return made


def refused(rdt: dict[str, Any], field: str, words: str, id: str = "box") -> CtnrError:
    with pytest.raises(CtnrError) as caught:
        make(rdt, id)
    assert str(caught.value).startswith(field) and words in str(caught.value), str(caught.value)
    return caught.value


def test_a_class_of_its_own(resctrl: Resctrl) -> None:
    rdt = {"l3CacheSchema": "L3:0=f;1=f0", "memBwSchema": "MB:0=20;1=70", "schemata": ["L2:0=f", "L3:0=ff"]}
    made = make(rdt)
    assert resctrl.classes() == ["box"]
    # in this order, in one write
    assert resctrl.log == [("box/schemata", "L3:0=f;1=f0\nMB:0=20;1=70\nL2:0=f\nL3:0=ff\n")]
    intelrdt.join(made, [11, 12])
    assert resctrl.log[1:] == [("box/tasks", "11"), ("box/tasks", "12")]
    intelrdt.remove(made)
    assert resctrl.classes() == []
    intelrdt.remove(made)


def test_nothing_asked_but_a_class(resctrl: Resctrl) -> None:
    made = make({})
    assert (resctrl.classes(), resctrl.log) == (["box"], [])
    intelrdt.remove(made)
    assert resctrl.classes() == []


def test_one_that_is_there_already_stays(resctrl: Resctrl) -> None:
    resctrl.mkdir(str(resctrl.top / "box"), 0o755)
    made = make({"l3CacheSchema": "L3:0=f"})
    assert not made["created"] and not made["removed"]
    intelrdt.remove(made)
    assert resctrl.classes() == ["box"]


def test_a_named_class(resctrl: Resctrl) -> None:
    error = refused({"closID": "gold"}, "linux.intelRdt.closID", "there is no class 'gold'")
    assert isinstance(error, SpecError)
    made = make({"closID": "gold", "schemata": ["L3:0=f"]})
    intelrdt.join(made, [3])
    intelrdt.remove(made)
    # it is whoever's named it
    assert resctrl.classes() == ["gold"]
    made = make({"closID": "gold"}, "other")
    intelrdt.join(made, [4])
    assert resctrl.log[-1] == ("gold/tasks", "4")


def test_the_default_class(resctrl: Resctrl) -> None:
    made = make({"closID": "/"})
    intelrdt.join(made, [5])
    assert resctrl.log == [("tasks", "5")]
    intelrdt.remove(made)
    assert (resctrl.top / "tasks").exists()


@pytest.mark.parametrize(
    ("rdt", "field"),
    [
        ({"l3CacheSchema": "L3:0=ffff0;1=fffff"}, "l3CacheSchema"),
        ({"l3CacheSchema": "L3:2=fffff"}, "l3CacheSchema"),
        ({"l3CacheSchema": "L3:x"}, "l3CacheSchema"),
        ({"l3CacheSchema": "L2:0=f"}, "l3CacheSchema"),
        ({"memBwSchema": "MB:0=90"}, "memBwSchema"),
    ],
)
def test_a_named_class_that_says_something_else(resctrl: Resctrl, rdt: dict[str, Any], field: str) -> None:
    resctrl.mkdir(str(resctrl.top / "gold"), 0o755)
    refused({"closID": "gold", **rdt}, f"linux.intelRdt.{field}", "another configuration")
    assert resctrl.log == []


@pytest.mark.parametrize("rdt", [{"l3CacheSchema": "L3:1=FFFFF;0=0fffff"}, {"memBwSchema": "MB:1=100;"}])
def test_a_named_class_that_says_the_same(resctrl: Resctrl, rdt: dict[str, Any]) -> None:
    resctrl.mkdir(str(resctrl.top / "gold"), 0o755)
    make({"closID": "gold", **rdt})


def test_monitoring(resctrl: Resctrl) -> None:
    made = make({"closID": "gold", "schemata": ["L3:0=f"], "enableMonitoring": True})
    intelrdt.join(made, [6])
    assert resctrl.log[1:] == [("gold/tasks", "6"), ("gold/mon_groups/box/tasks", "6")]
    found = intelrdt.stats(made)
    assert found["mbm_stats"] == [{"mbm_total_bytes": 9, "mbm_local_bytes": 0}] * 2
    assert found["cmt_stats"] == [{"llc_occupancy": 7}] * 2
    intelrdt.remove(made)
    assert os.listdir(resctrl.top / "gold/mon_groups") == []


def test_stats(resctrl: Resctrl) -> None:
    made = make({})
    found = intelrdt.stats(made)
    assert found | {"mbm_stats": 0, "cmt_stats": 0} == {
        "l3_cache_info": {"cbm_mask": "fffff", "min_cbm_bits": 1, "num_closids": 16},
        "l3_cache_schema_root": "L3:0=fffff;1=fffff",
        "l3_cache_schema": "L3:0=fffff;1=fffff",
        "mem_bw_info": {"bandwidth_gran": 10, "delay_linear": 1, "min_bandwidth": 10, "num_closids": 8},
        "mem_bw_schema_root": "MB:0=100;1=100",
        "mem_bw_schema": "MB:0=100;1=100",
        "schemata": ["MB:0=100;1=100", "L3:0=fffff;1=fffff"],
        "mbm_stats": 0,
        "cmt_stats": 0,
    }
    for name in ("L3", "MB", "L3_MON"):
        shutil.rmtree(resctrl.top / "info" / name)
    assert intelrdt.stats(made) == {"schemata": ["MB:0=100;1=100", "L3:0=fffff;1=fffff"]}
    shutil.rmtree(resctrl.top / "box")
    with pytest.raises(SyscallError, match=r"linux\.intelRdt: read the statistics"):
        intelrdt.stats(made)


@pytest.mark.parametrize(
    ("gone", "rdt", "field"),
    [
        ("L3", {"l3CacheSchema": "L3:0=f"}, "linux.intelRdt.l3CacheSchema: is specified in config, but Intel RDT/CAT"),
        ("MB", {"memBwSchema": "MB:0=10"}, "linux.intelRdt.memBwSchema: is specified in config, but Intel RDT/MBA"),
        ("L3_MON", {"enableMonitoring": True}, "linux.intelRdt.enableMonitoring"),
    ],
)
def test_what_the_machine_has_not(resctrl: Resctrl, gone: str, rdt: dict[str, Any], field: str) -> None:
    shutil.rmtree(resctrl.top / "info" / gone)
    refused(rdt, field, "")
    assert resctrl.classes() == []


def test_no_resctrl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intelrdt, "_mountinfo", lambda: "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    refused({}, "linux.intelRdt", "Intel RDT is not enabled: no resctrl is mounted")
    with pytest.raises(CtnrError, match="l3 cache schema is not enabled"):
        intelrdt.update({"path": "/x"}, "L3:0=f", "")
    with pytest.raises(CtnrError, match="memory bandwidth schema is not enabled"):
        intelrdt.update({"path": "/x"}, "", "MB:0=10")


@pytest.mark.parametrize("name", ["info", "mon_groups", "mon_data"])
def test_names_of_resctrls_own(resctrl: Resctrl, name: str) -> None:
    refused({"closID": name, "schemata": ["L3:0=f"]}, "linux.intelRdt.closID", "resctrl's own")
    refused({}, "linux.intelRdt.closID", "resctrl's own", id=name)


@pytest.mark.parametrize(
    ("where", "number", "words"),
    [
        ("box", errno.ENOSPC, "make the class"),
        ("box/schemata", errno.EINVAL, "write 'L3:0=5' to"),
        ("box/mon_groups/box", errno.ENOSPC, "make the monitoring group"),
    ],
)
def test_a_failure_leaves_nothing(resctrl: Resctrl, where: str, number: int, words: str) -> None:
    (resctrl.top / "info/last_cmd_status").write_text("mask has non-consecutive 1-bits\n")
    resctrl.fail = {where: number}
    error = refused({"l3CacheSchema": "L3:0=5", "enableMonitoring": True}, "linux.intelRdt", words)
    # the kernel's own words
    assert "(mask has non-consecutive 1-bits)" in str(error)
    assert resctrl.classes() == []
    resctrl.fail = {"box": errno.ENOSPC}
    (resctrl.top / "info/last_cmd_status").write_text("ok\n")
    assert "(there are no more)" in str(refused({}, "linux.intelRdt", "make the class"))


def test_update(resctrl: Resctrl) -> None:
    made = make({"l3CacheSchema": "L3:0=f"})
    before = intelrdt.update(made, "L3:0=ff", "MB:0=30")
    assert before == "L3:0=f\n"
    assert resctrl.log[-1] == ("box/schemata", "L3:0=ff\nMB:0=30\n")
    with pytest.raises(CtnrError, match="non-existent Intel RDT configuration"):
        intelrdt.update(None, "L3:0=ff", "")
    for l3, mb in (("L3:0=f\nMB:0=1", ""), ("", "L3:0=f"), ("", "MB:0=1\n")):
        with pytest.raises(CtnrError, match="is not one line"):
            intelrdt.update(made, l3, mb)


def test_a_mount_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = "40 25 0:32 / /mnt/rdt rw - resctrl none rw\n"
    monkeypatch.setattr(intelrdt, "_mountinfo", lambda: elsewhere)
    assert intelrdt.root() == "/mnt/rdt"
    usual = elsewhere + "41 25 0:32 / /sys/fs/resctrl rw - resctrl none rw\n"
    monkeypatch.setattr(intelrdt, "_mountinfo", lambda: usual)
    assert intelrdt.root() == "/sys/fs/resctrl"
