# SPDX-License-Identifier: Apache-2.0
"""A systemd of the tests' own: org.freedesktop.systemd1's Manager as far as a runtime calls it, over real D-Bus bytes, and
its cgroups in a model of cgroupfs.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jeepney
from fake_cgroupfs import Cgroupfs
from jeepney.low_level import Parser

MANAGER = "org.freedesktop.systemd1.Manager"
_FIELD = jeepney.HeaderFields


class Failure(Exception):
    """An error reply: its name (after org.freedesktop.) and its words."""


class Systemd:
    """Listens on `path`, as the private socket or (`bus`) as a message bus would. `units`: name -> properties;
    `calls`: (member, arguments) of what was asked. `result`: what becomes of the next jobs. `unknown`: properties that it
    does not know, as an older version.
    """

    def __init__(self, path: Path, fs: Cgroupfs, group: str = "", bus: bool = False) -> None:
        self.fs = fs
        self.group = group
        self.bus = bus
        self.units: dict[str, dict[str, Any]] = {}
        self.failed: set[str] = set()
        self.unknown: set[str] = set()
        self.calls: list[tuple[str, Any]] = []
        self.result = "done"
        self.before_reply: Callable[[socket.socket, str], None] = lambda end, job: None
        self.moves = True
        self._jobs = 0
        self._listener = socket.socket(socket.AF_UNIX)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._listener.bind(str(path))
        self._listener.listen()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def members(self) -> list[str]:
        return [member for member, _ in self.calls]

    def directories(self, unit: str) -> list[Path]:
        """Where the unit is in each hierarchy that systemd has to do with."""
        slice = self.units[unit].get("Slice", "system.slice").removesuffix(".slice")
        parts = [] if slice == "-" else slice.split("-")
        place = "/".join("-".join(parts[: i + 1]) + ".slice" for i in range(len(parts)))
        return [Path(top) / self.group.strip("/") / place / unit for top in self.fs.mounts if "net_cls" not in top]

    def _make(self, path: Path) -> None:
        if not path.parent.exists():
            self._make(path.parent)
        self.fs.mkdir(str(path), 0o755)

    def _accept(self) -> None:
        while True:
            try:
                end = self._listener.accept()[0]
            except OSError:
                return
            thread = threading.Thread(target=self._until_closed, args=(end,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _until_closed(self, end: socket.socket) -> None:
        try:
            self._serve(end)
        except (BrokenPipeError, ConnectionResetError):
            return  # whoever called has heard enough

    def _serve(self, end: socket.socket) -> None:
        parser = Parser()
        with end:
            said = b""
            while not said.endswith(b"BEGIN\r\n"):
                data = end.recv(1000)
                if not data:
                    return
                said += data
            end.sendall(b"DATA\r\nOK 00\r\n")
            while True:
                message = parser.get_next_message()
                if message is None:
                    data = end.recv(65536)
                    if not data:
                        return
                    parser.add_data(data)
                    continue
                self._answer(end, message)

    def _send(self, end: socket.socket, message: Any) -> None:
        if self.bus:
            message.header.fields[_FIELD.sender] = ":1.7"
        end.sendall(message.serialise(serial=1))

    def _answer(self, end: socket.socket, message: Any) -> None:
        fields = message.header.fields
        member = fields[_FIELD.member]
        assert (fields.get(_FIELD.destination) is not None) == self.bus, "a bus wants to know to whom, systemd does not"
        self.calls.append((member, message.body))
        job = ""
        try:
            handler = getattr(self, "_" + member)
            signature, body = handler(*message.body)
            if signature == "o":
                job = body[0]
                self.before_reply(end, job)
            reply = jeepney.new_method_return(message, signature or None, body)
        except Failure as error:
            reply = jeepney.new_error(message, "org.freedesktop." + error.args[0], "s", (error.args[1],))
        self._send(end, reply)
        if job:
            self.job_removed(end, job, self.result)

    def job_removed(self, end: socket.socket, job: str, result: str, sender: str | None = None) -> None:
        address = jeepney.DBusAddress("/org/freedesktop/systemd1", "org.freedesktop.systemd1", MANAGER)
        signal = jeepney.new_signal(address, "JobRemoved", "uoss", (1, job, "x", result))
        if sender:
            signal.header.fields[_FIELD.sender] = sender
            end.sendall(signal.serialise(serial=1))
        else:
            self._send(end, signal)

    def _job(self) -> tuple[str, tuple[str]]:
        self._jobs += 1
        return "o", (f"/org/freedesktop/systemd1/job/{self._jobs}",)

    def _check(self, unit: str, properties: list[tuple[str, tuple[str, Any]]]) -> None:
        for name, _ in properties:
            if name in self.unknown:
                raise Failure("DBus.Error.PropertyReadOnly", f"Cannot set property {name}, or unknown property.")

    # --- what is called

    def _Hello(self) -> tuple[str, tuple[str]]:
        assert self.bus
        return "s", (":1.8",)

    def _AddMatch(self, rule: str) -> tuple[str, tuple[()]]:
        assert self.bus and "JobRemoved" in rule
        return "", ()

    def _Get(self, interface: str, name: str) -> tuple[str, tuple[tuple[str, str]]]:
        assert (interface, name) == (MANAGER, "ControlGroup")
        return "v", (("s", self.group),)

    def _StartTransientUnit(self, unit: str, mode: str, properties: Any, aux: Any) -> tuple[str, tuple[str]]:
        assert mode == "fail" and not aux
        if unit in self.units or unit in self.failed:
            raise Failure("systemd1.UnitExists", f"Unit {unit} was already loaded or has a fragment file.")
        self._check(unit, properties)
        if self.result == "done":
            self.units[unit] = {name: value for name, (_, value) in properties}
            for place in self.directories(unit):
                self._make(place)
                if self.moves:
                    (place / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in self.units[unit]["PIDs"]))
        return self._job()

    def _StopUnit(self, unit: str, mode: str) -> tuple[str, tuple[str]]:
        if unit not in self.units:
            raise Failure("systemd1.NoSuchUnit", f"Unit {unit} not loaded.")
        for place in self.directories(unit):
            (place / "cgroup.procs").write_text("")
            if not any(entry.is_dir() for entry in place.iterdir()):
                self.fs.rmdir(str(place))
        del self.units[unit]
        return self._job()

    def _ResetFailedUnit(self, unit: str) -> tuple[str, tuple[()]]:
        if unit not in self.failed and unit not in self.units:
            raise Failure("systemd1.NoSuchUnit", f"Unit {unit} not loaded.")
        self.failed.discard(unit)
        return "", ()

    def _SetUnitProperties(self, unit: str, runtime: bool, properties: Any) -> tuple[str, tuple[()]]:
        assert runtime is True
        if unit not in self.units:
            raise Failure("systemd1.NoSuchUnit", f"Unit {unit} not loaded.")
        self._check(unit, properties)
        self.units[unit].update({name: value for name, (_, value) in properties})
        return "", ()

    def _AttachProcessesToUnit(self, unit: str, sub: str, pids: list[int]) -> tuple[str, tuple[()]]:
        if unit not in self.units:
            raise Failure("systemd1.NoSuchUnit", f"Unit {unit} not loaded.")
        self.units[unit].setdefault("attached", []).extend((sub, pid) for pid in pids)
        return "", ()
