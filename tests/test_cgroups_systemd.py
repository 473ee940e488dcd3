# SPDX-License-Identifier: Apache-2.0
"""The systemd cgroup manager against a systemd and a cgroupfs of the tests' own; integration/test_systemd.py asks real ones."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_cgroupfs import Cgroupfs, refused
from fake_systemd import Systemd
from hypothesis import given
from hypothesis import strategies as st

from ctnr.errors import CtnrError, SpecError
from ctnr.runtime import cgroups, dbus
from ctnr.runtime.cgroups import devices, properties, systemd
from ctnr.runtime.cgroups.systemd import SystemdCgroup, slice_path, unit_and_slice

UNIT = "ctnr-id.scope"
PID = 4242
MAX = properties.INFINITY


@pytest.fixture
def machine(
    fake_v2: Cgroupfs, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Systemd]:
    yield from _systemd(fake_v2, tmp_path_factory.mktemp("run"), monkeypatch)


def _systemd(fs: Cgroupfs, run: Path, monkeypatch: pytest.MonkeyPatch, **how: Any) -> Iterator[Systemd]:
    """The machine's systemd, whoever the test runs as."""
    fake = Systemd(run / "private", fs, **how)
    monkeypatch.setattr(systemd, "_booted", lambda: True)
    monkeypatch.setattr(systemd, "user_instance", lambda: False)
    monkeypatch.setattr(systemd, "_addresses", lambda user: [(f"unix:path={run}/private", not fake.bus)])
    yield fake
    fake.close()


def plan(fake: Systemd, path: str | None = None, rootless: bool = False, **annotations: str) -> SystemdCgroup:
    group = cgroups.new(path, "id", rootless, "systemd", where=fake.fs.layout(), annotations=annotations)
    assert isinstance(group, SystemdCgroup)
    return group


# --- the life of a scope


@pytest.mark.parametrize("bus", [False, True])
def test_life(
    fake_v2: Cgroupfs, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, bus: bool
) -> None:
    for fake in _systemd(fake_v2, tmp_path_factory.mktemp("run"), monkeypatch, bus=bus):
        group = plan(fake)
        place = fake_v2.top / "system.slice" / UNIT
        assert group.paths == {"": str(place)} and group.joined_by_parent
        assert not place.exists()
        group.create({"memory": {"limit": 4096}, "pids": {"limit": 5}}, (), PID)
        unit = fake.units[UNIT]
        assert unit["Slice"] == "system.slice" and unit["PIDs"] == [PID] and unit["Delegate"] is True
        assert unit["DefaultDependencies"] is False and unit["CollectMode"] == "inactive-or-failed"
        assert all(unit[f"{what}Accounting"] is True for what in ("CPU", "IO", "Memory", "Tasks"))
        assert unit["MemoryMax"] == 4096 and unit["TasksMax"] == 5
        assert unit["DevicePolicy"] == "strict" and ("/dev/char/1:3", "rwm") in unit["DeviceAllow"]
        assert (place / "memory.max").read_text() == "4096\n" and (place / "pids.max").read_text() == "5\n"
        assert not group.joined_by_parent
        # as another process finds it
        note = {**group.note(), "created": group.created}
        assert note["unit"] == UNIT and note["manager"] == "systemd" and note["user"] is False
        loaded = cgroups.load(**note)
        assert isinstance(loaded, SystemdCgroup) and loaded.note() == group.note()
        loaded.apply({"pids": {"limit": 9}}, {"memory": {"limit": 4096}, "pids": {"limit": 5}})
        assert unit["TasksMax"] == 9 and (place / "pids.max").read_text() == "9\n"
        loaded.attach(77)
        loaded.attach(78, "below")
        assert unit["attached"] == [("/", 77), ("/below", 78)]
        loaded.delete()
        assert fake.units == {} and not place.exists()
        assert fake.members()[-2:] == ["StopUnit", "ResetFailedUnit"]
        loaded.delete()  # gone already
        assert fake_v2.left() == [str(fake_v2.top / "system.slice")]


def test_what_update_cannot_do_is_taken_back(machine: Systemd) -> None:
    group = plan(machine)
    group.create({"pids": {"limit": 5}}, (), PID)
    machine.fs.fail[f"system.slice/{UNIT}/memory.max"] = 16
    before = {"pids": {"limit": 5}, "memory": {"limit": 1 << 20}}
    with pytest.raises(CtnrError, match="memory.limit"):
        group.apply({"pids": {"limit": 9}, "memory": {"limit": 4096}}, before)
    assert machine.units[UNIT]["TasksMax"] == 5 and machine.units[UNIT]["MemoryMax"] == 1 << 20
    assert machine.fs.value(f"system.slice/{UNIT}/pids.max") == "5\n"


def test_the_reply_may_come_after_the_end_of_the_job(machine: Systemd) -> None:
    """And signals of other jobs, of others' jobs, before it."""

    def early(end: socket.socket, job: str) -> None:
        machine.job_removed(end, "/org/freedesktop/systemd1/job/77", "failed")
        machine.job_removed(end, job, "failed", sender=":1.666")
        machine.job_removed(end, job, "done")

    machine.before_reply = early
    plan(machine).create({}, (), PID)
    assert UNIT in machine.units


@pytest.mark.parametrize("result", ["failed", "canceled", "timeout", "dependency"])
def test_a_job_that_fails(machine: Systemd, result: str) -> None:
    machine.result = result
    group = plan(machine)
    refused(lambda: group.create({}, (), PID), "error creating systemd unit", f"`{UNIT}`: got `{result}`")
    assert group.paths == {} and group.created == [] and machine.fs.left() == []
    assert machine.members()[-1] == "ResetFailedUnit"


def test_a_name_that_is_taken(machine: Systemd) -> None:
    plan(machine).create({}, (), PID)
    other = plan(machine)
    refused(lambda: other.create({}, (), 99), f"unable to start unit '{UNIT}'", "already loaded")
    assert other.paths == {} and machine.units[UNIT]["PIDs"] == [PID]
    other.delete()
    assert UNIT in machine.units


def test_a_failed_unit_of_the_same_name(machine: Systemd) -> None:
    machine.failed.add(UNIT)
    plan(machine).create({}, (), PID)
    assert machine.members() == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


def test_an_older_systemd(machine: Systemd) -> None:
    """What it does not know is still in the files; what an annotation asks for it has to know."""
    machine.unknown = {"AllowedCPUs", "CollectMode"}
    group = plan(machine)
    group.create({"cpu": {"cpus": "0-1"}}, (), PID)
    assert "AllowedCPUs" not in machine.units[UNIT] and machine.units[UNIT]["Delegate"] is True
    assert machine.fs.value(f"system.slice/{UNIT}/cpuset.cpus") == "0-1\n"
    group.delete()
    machine.unknown = {"NoSuch"}
    group = plan(machine, **{"org.systemd.property.NoSuch": "1"})
    refused(lambda: group.create({}, (), PID), "unable to start unit", "Cannot set property NoSuch")


def test_a_limit_that_cannot_be_set(machine: Systemd) -> None:
    machine.fs.fail[f"system.slice/{UNIT}/memory.max"] = 22
    group = plan(machine)
    with pytest.raises(CtnrError, match=r"linux\.resources\.memory\.limit"):
        group.create({"memory": {"limit": 4096}}, (), PID)
    assert machine.units == {} and group.paths == {}
    # the process is gone first: as pid 1 of a container it would not hear systemd
    assert [value for path, value in machine.fs.log if path.endswith("cgroup.kill")] == ["1"]
    assert machine.fs.left() == [str(machine.fs.top / "system.slice")]


def test_a_process_that_is_somewhere_else(machine: Systemd) -> None:
    machine.moves = False
    with pytest.raises(CtnrError, match=f"systemd did not put process {PID} of {UNIT} into"):
        plan(machine).create({}, (), PID)
    assert machine.units == {}


def test_one_that_was_only_planned_stops_nothing(machine: Systemd) -> None:
    """create was killed: the scope of that name may be another's."""
    plan(machine).create({}, (), PID)
    note = plan(machine).note()
    cgroups.load(**note).delete()
    assert UNIT in machine.units and "StopUnit" not in machine.members()


def test_below(machine: Systemd) -> None:
    group = plan(machine, **{"run.oci.systemd.subgroup": "container", "run.oci.delegate-cgroup": "a/b"})
    group.create({"pids": {"limit": 5}}, (), PID)
    place = machine.fs.top / "system.slice" / UNIT
    assert (place / "container/a/b/cgroup.procs").read_text() == f"{PID}\n"
    assert (place / "pids.max").read_text() == "5\n" and (place / "container/a/b/pids.max").read_text() == "max\n"
    loaded = cgroups.load(**group.note(), created=group.created)
    assert loaded.inner() == "/container/a/b" and loaded.freezer_file() == f"{place}/cgroup.freeze"
    loaded.attach(77, "c")
    assert machine.units[UNIT]["attached"] == [("/container/a/b/c", 77)]
    (place / "container/a/b/cgroup.procs").write_text("")
    loaded.delete()
    assert not place.exists()


def test_v1(fake_v1: Cgroupfs, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    for fake in _systemd(fake_v1, tmp_path_factory.mktemp("run"), monkeypatch):
        group = plan(fake, "a-b.slice:x:y")
        inner = "a.slice/a-b.slice/x-y.scope"
        assert group.paths["memory"] == str(fake_v1.top / "memory" / inner)
        assert group.paths["name=systemd"] == str(fake_v1.top / "systemd" / inner)
        group.create({"memory": {"limit": 4096}, "cpu": {"shares": 100, "cpus": "1"}}, (), PID)
        unit = fake.units["x-y.scope"]
        assert unit["MemoryLimit"] == 4096 and unit["CPUShares"] == 100 and unit["BlockIOAccounting"] is True
        assert fake_v1.value(f"memory/{inner}/memory.limit_in_bytes") == "4096\n"
        assert fake_v1.value(f"cpuset/{inner}/cpuset.cpus") == "1\n"
        # one that systemd knows nothing of
        assert fake_v1.value(f"net_cls,net_prio/{inner}/cgroup.procs") == f"{PID}\n"
        writes = [path for path, _ in fake_v1.log if path.endswith("cgroup.procs")]
        assert writes == [f"net_cls,net_prio/{inner}/cgroup.procs"]
        # the device list is cleared and written again: nobody may notice
        fake_v1.log.clear()
        group.allow([{"allow": False}, {"allow": True, "type": "c", "major": 9, "minor": 9, "access": "r"}])
        states = [value for path, value in fake_v1.log if path.endswith("freezer.state")]
        assert states == ["FROZEN", "THAWED"]
        assert ("/dev/char/9:9", "r") in unit["DeviceAllow"]
        for path in group.paths.values():
            Path(path, "cgroup.procs").write_text("")
        group.delete()
        assert all(path.endswith(".slice") for path in fake_v1.left())


# --- the user's systemd


@pytest.fixture
def users(
    fake_v2: Cgroupfs, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Systemd]:
    run = tmp_path_factory.mktemp("run")
    fake = Systemd(run / "systemd/private", fake_v2, "/user.slice/user@7.service")
    monkeypatch.setattr(systemd, "_booted", lambda: True)
    monkeypatch.setattr(systemd, "user_instance", lambda: True)
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run))
    yield fake
    fake.close()


def test_the_users_own(users: Systemd) -> None:
    group = plan(users, rootless=True)
    place = users.fs.top / "user.slice/user@7.service/user.slice" / UNIT
    assert group.paths == {"": str(place)}
    group.create({"pids": {"limit": 5}}, (), PID)
    unit = users.units[UNIT]
    assert unit["Slice"] == "user.slice" and "DeviceAllow" not in unit
    assert group.note()["user"] is True
    group.delete()
    assert users.units == {}


def test_a_session_bus(fake_v2: Cgroupfs, users: Systemd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Systemd(tmp_path / "a session", fake_v2, "/user.slice/other", bus=True)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path}/a%20session,guid=00")
    group = plan(bus, rootless=True)
    group.create({}, (), PID)
    assert UNIT in bus.units and users.calls == []
    group.delete()
    bus.close()


def test_only_a_bus(fake_v2: Cgroupfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, users: Systemd) -> None:
    bus = Systemd(tmp_path / "run dir" / "bus", fake_v2, "/user.slice/other", bus=True)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run dir"))
    group = plan(bus, rootless=True)
    group.create({}, (), PID)
    group.delete()
    bus.close()


@pytest.mark.parametrize("group", ["/a/../../b", "a\nb"])
def test_a_cgroup_that_leads_elsewhere(users: Systemd, group: str) -> None:
    users.group = group
    refused(lambda: plan(users, rootless=True), "--systemd-cgroup", repr(group))


def test_nobody_there(fake_v2: Cgroupfs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(systemd, "user_instance", lambda: True)

    def new() -> object:
        return cgroups.new(None, "id", True, "systemd", where=fake_v2.layout())

    monkeypatch.setattr(systemd, "_booted", lambda: False)
    refused(new, "systemd not running on this host, cannot use systemd cgroups manager", "")
    monkeypatch.setattr(systemd, "_booted", lambda: True)
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    refused(new, "--systemd-cgroup: failed to connect to the user's systemd by D-Bus", "XDG_RUNTIME_DIR leads to it")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    refused(new, "--systemd-cgroup: failed to connect", "no such file or directory: dbus-user-session")


def test_no_v1_for_users(fake_v1: Cgroupfs, fake_v2: Cgroupfs, users: Systemd) -> None:
    refused(
        lambda: cgroups.new(None, "id", True, "systemd", where=fake_v1.layout()),
        "cannot use rootless systemd cgroups manager on cgroup v1",
        "",
    )


# --- names


@pytest.mark.parametrize(
    ("path", "unit", "slice"),
    [
        (None, "ctnr-a.scope", "system.slice"),
        ("", "ctnr-a.scope", "system.slice"),
        ("::b", "-b.scope", "system.slice"),
        ("machine.slice:libpod:b", "libpod-b.scope", "machine.slice"),
        ("-.slice:cri:b", "cri-b.scope", "-.slice"),
        (
            "kubepods-burstable-pod1_2.slice:cri-containerd:b",
            "cri-containerd-b.scope",
            "kubepods-burstable-pod1_2.slice",
        ),
    ],
)
def test_units(path: str | None, unit: str, slice: str) -> None:
    assert unit_and_slice(path, "a", False) == (unit, slice)


def test_a_users_slice_and_an_id_with_a_plus() -> None:
    assert unit_and_slice(None, "a+b", True) == ("ctnr-a\\x2bb.scope", "user.slice")


@pytest.mark.parametrize(
    "path",
    ["a", "a:b", "a:b:c:d", "/a/b", "x:p:n", "a.slice:p:", "a.slice:p:n.slice", "a.slice:p/q:n", "a.slice:..:../x"]
    + [
        "a/b.slice:p:n",
        "../a.slice:p:n",
        ".slice:p:n",
        "a--b.slice:p:n",
        "-a.slice:p:n",
        "a-.slice:p:n",
        "a\n.slice:p:n",
    ]
    + ["a.slice:p:n\0", "a.slice:p:\u00e9", "a.slice:p:" + "n" * 250, "a.slice:.:n"],
)
def test_no_units(path: str) -> None:
    with pytest.raises(SpecError) as caught:
        unit_and_slice(path, "a", False)
    assert caught.value.path == "linux.cgroupsPath"


@given(st.text(max_size=30))
def test_any_path_stays_inside(path: str) -> None:
    try:
        unit, slice = unit_and_slice(path, "a", False)
    except SpecError:
        return
    parts = [*slice_path(slice).split("/")[1:], unit]
    assert all(part not in ("", ".", "..") and part.endswith((".slice", ".scope")) for part in parts)


@pytest.mark.parametrize(
    ("slice", "path"), [("-.slice", ""), ("a.slice", "/a.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice")]
)
def test_slices(slice: str, path: str) -> None:
    assert slice_path(slice) == path


@pytest.mark.parametrize("name", ["run.oci.systemd.subgroup", "run.oci.delegate-cgroup"])
def test_annotated_paths_stay_inside(machine: Systemd, name: str) -> None:
    refused(lambda: plan(machine, **{name: "a/../../b"}), f'annotations["{name}"]', "`..` components")
    assert plan(machine, **{name: ""}).sub == ""


# --- properties


@pytest.mark.parametrize(
    ("resources", "told"),
    [
        ({}, {}),
        ({"memory": {"limit": -1, "swap": -1}}, {"MemoryMax": MAX, "MemorySwapMax": MAX}),
        ({"memory": {"limit": 100, "swap": 150, "reservation": 50}}, {"MemoryMax": 100, "MemorySwapMax": 50, "MemoryLow": 50}),
        ({"cpu": {"shares": 1024}}, {"CPUWeight": 100}),
        ({"cpu": {"shares": 1024, "idle": 1}}, {"CPUWeight": 0}),
        ({"cpu": {"quota": 5000}}, {"CPUQuotaPerSecUSec": 50_000}),
        ({"cpu": {"quota": 5050}}, {"CPUQuotaPerSecUSec": 60_000}),
        ({"cpu": {"quota": 5000, "period": 10_000}}, {"CPUQuotaPeriodUSec": 10_000, "CPUQuotaPerSecUSec": 500_000}),
        ({"cpu": {"quota": -1}}, {"CPUQuotaPerSecUSec": MAX}),
        ({"cpu": {"period": 10_000}}, {"CPUQuotaPeriodUSec": 10_000, "CPUQuotaPerSecUSec": MAX}),
        ({"cpu": {"cpus": "0-2,9", "mems": "1"}}, {"AllowedCPUs": b"\x07\x02", "AllowedMemoryNodes": b"\x02"}),
        ({"pids": {"limit": 0}}, {"TasksMax": 1}),
        ({"pids": {"limit": -1}}, {"TasksMax": MAX}),
        ({"blockIO": {"weight": 1000}}, {"IOWeight": 10_000}),
        ({"unified": {"memory.high": "max", "pids.max": "0"}}, {"MemoryHigh": MAX, "TasksMax": 1}),
        ({"unified": {"cpu.max": "max 5000"}}, {"CPUQuotaPeriodUSec": 5000, "CPUQuotaPerSecUSec": MAX}),
        ({"unified": {"cpu.max": "50000"}}, {"CPUQuotaPeriodUSec": 100_000, "CPUQuotaPerSecUSec": 500_000}),
        ({"unified": {"cpu.weight": "5", "cpu.idle": "1"}}, {"CPUWeight": 0}),
        ({"unified": {"cpuset.cpus": "1", "memory.max": "1G", "cpu.weight": "x", "io.max": "x"}}, {"AllowedCPUs": b"\x02"}),
    ],
)  # fmt: skip
def test_resources(resources: dict[str, Any], told: dict[str, Any]) -> None:
    found = properties.resource_properties(resources, True)
    assert {name: value for name, (_, value) in found} == told
    dbus.marshal("a(sv)", (found,))


@pytest.mark.parametrize("text", ["", ",", "a", "1-", "-1", "2-1", "1-2-3", "99999999", "\u0661"])
def test_no_cpus(text: str) -> None:
    with pytest.raises(SpecError):
        properties.cpu_mask(text, "f")


@given(st.sets(st.integers(0, 500), min_size=1))
def test_cpus(numbers: set[int]) -> None:
    mask = properties.cpu_mask(",".join(map(str, numbers)), "f")
    assert {i for i in range(len(mask) * 8) if mask[i // 8] >> i % 8 & 1} == numbers


RULES: list[tuple[list[dict[str, Any]], str, list[tuple[str, str]]]] = [
    ([{"allow": False}], "strict", []),
    ([{"allow": True, "type": "b", "major": 8, "minor": 1, "access": "rw"}], "strict", [("/dev/block/8:1", "rw")]),
    ([{"allow": True, "type": "c", "major": 4, "access": "r"}], "strict", [("char-4", "r")]),
    ([{"allow": True, "type": "b", "access": "rwm"}], "strict", [("block-*", "rwm")]),
    # what systemd cannot say is left to the list that comes after it
    ([{"allow": True, "type": "c", "minor": 4, "access": "r"}], "auto", []),
    ([{"allow": True}], "auto", []),
    ([{"allow": True}, {"allow": False, "type": "c", "major": 1, "minor": 1, "access": "rwm"}], "auto", []),
]  # fmt: skip


@pytest.mark.parametrize(("rules", "policy", "allowed"), RULES)
def test_devices(rules: list[dict[str, Any]], policy: str, allowed: list[tuple[str, str]]) -> None:
    found = properties.device_properties(devices.policy(rules))
    assert found[0] == ("DeviceAllow", ("a(ss)", []))
    assert dict(found)["DevicePolicy"] == ("s", policy)
    if policy == "strict":
        listed = dict(found)["DeviceAllow"][1]
        assert set(allowed) <= set(listed) and ("/dev/char/1:3", "rwm") in listed
    dbus.marshal("a(sv)", (found,))


# --- annotations


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", ("b", True)),
        (" false ", ("b", False)),
        ("5", ("i", 5)),
        ("-5", ("i", -5)),
        ("0x10", ("i", 16)),
        ("1.5", ("d", 1.5)),
        ("1e3", ("d", 1000.0)),
        ("uint64 18446744073709551615", ("t", 18446744073709551615)),
        ("int64 -1", ("x", -1)),
        ("uint32 7", ("u", 7)),
        ("byte 0xff", ("y", 255)),
        ("double 3", ("d", 3.0)),
        ("'a b'", ("s", "a b")),
        ('"it\'s"', ("s", "it's")),
        (r"'\'\\\n\u00e9\U0001f600'", ("s", "'\\\n\u00e9\U0001f600")),
        ("objectpath '/a'", ("o", "/a")),
        ("['a', \"b\"]", ("as", ["a", "b"])),
        ("[1,2 , 3]", ("ai", [1, 2, 3])),
        ("[uint32 1, 2]", ("au", [1, 2])),
        ("@as []", ("as", [])),
        ("@at [1]", ("at", [1])),
        ("[byte 1, 2]", ("ay", b"\1\2")),
        ("[[1], [2, 3]]", ("aai", [[1], [2, 3]])),
        ("('a', uint64 1)", ("(st)", ("a", 1))),
        ("[('/dev/null', 'rw')]", ("a(ss)", [("/dev/null", "rw")])),
        ("@a(st) [('a', 1)]", ("a(st)", [("a", 1)])),
    ],
)
def test_values(text: str, value: object) -> None:
    assert properties.parse_variant(text) == value
    dbus.marshal("v", [value])


@pytest.mark.parametrize(
    "text",
    ["", " ", "x", "'a", "'a' b", "5 5", "1_000", "uint32", "uint32 -1", "uint32 4294967296", "byte 256", "int32 'a'"]
    + [
        "2147483648",
        "[1, 'a']",
        "[",
        "[1",
        "[]",
        "[1,]",
        "[1 2]",
        "(",
        "()",
        "(1",
        "@",
        "@z 1",
        "@as [1]",
        "@(ii) (1,)",
    ]
    + ["@(i) (1, 2)", "'\\u12'", "'\\U00110000'", "'\\ud800'", "'a\\u0000b'", "string 5", "true false", "[" * 40 + "1"]
    + ["@s 5", "@i true", "@b 5", "@ai 5", "@i [1]", "@i (1,)"],
)
def test_no_values(text: str) -> None:
    with pytest.raises(SpecError) as caught:
        properties.annotated({properties.PREFIX + "Name": text})
    assert "value parse error" in str(caught.value)


@given(st.text(alphabet="'\"[](),@asiubt0123 \\-.e", max_size=30))
def test_any_value(text: str) -> None:
    try:
        value = properties.parse_variant(text)
    except ValueError:
        return
    dbus.marshal("v", [value])


@pytest.mark.parametrize(
    ("name", "text", "property", "value"),
    [
        ("TimeoutStopUSec", "uint64 5", "TimeoutStopUSec", ("t", 5)),
        ("TimeoutStopSec", "uint64 5", "TimeoutStopUSec", ("t", 5_000_000)),
        ("TimeoutStopSec", "1.5", "TimeoutStopUSec", ("t", 1_500_000)),
        ("CPUWeight", "uint64 5", "CPUWeight", ("t", 5)),
        ("Sec", "5", "Sec", ("i", 5)),
        ("XSec", "5", "XSec", ("i", 5)),
    ],
)
def test_annotations(name: str, text: str, property: str, value: object) -> None:
    assert properties.annotated({properties.PREFIX + name: text, "other": "x"}) == [(property, value)]


@pytest.mark.parametrize(
    ("name", "text"),
    [("", "1"), ("Ab", "1"), ("A.b.c", "1"), ("Abc1", "1"), ("Na\u00efve", "1"), ("TimeoutStopSec", "'a'")]
    + [("TimeoutStopSec", "-1"), ("TimeoutStopSec", "uint64 18446744073709551615")]
    + [(name, "true") for name in ("PIDs", "Slice", "Delegate", "ControlGroup", "Wants")],
)
def test_no_annotations(name: str, text: str) -> None:
    with pytest.raises(SpecError) as caught:
        properties.annotated({properties.PREFIX + name: text})
    assert caught.value.path == f'annotations["{properties.PREFIX}{name}"]'


def test_which_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root's is the machine's; in a user namespace only a systemd that is root there too."""
    from ctnr.runtime import state

    uid, inside, owner = [1000], [False], [0]
    monkeypatch.setattr(systemd.posix, "geteuid", lambda: uid[0])
    monkeypatch.setattr(state, "in_user_namespace", lambda: inside[0])

    def stat(path: str) -> Any:
        assert path == "/run/systemd/private"
        return os.stat_result((0o140700, 0, 0, 1, owner[0], 0, 0, 0, 0, 0))

    monkeypatch.setattr(systemd.posix, "stat", stat)
    assert systemd.user_instance()
    uid[0] = 0
    assert not systemd.user_instance()
    inside[0] = True
    assert not systemd.user_instance()
    owner[0] = 65534
    assert systemd.user_instance()
