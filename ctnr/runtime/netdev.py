# SPDX-License-Identifier: Apache-2.0
"""linux.netDevices: the host's network devices, moved into the container's network namespace (config-linux.md#network-devices).

HOT imports only, but loaded only for the field. This process stays in its own namespace: what has to be done in the
container's is asked for through a netlink socket that the init has opened there. That socket keeps the namespace, so that
what was moved can be taken back even when the init is dead. Nothing is done at the container's end: the namespace's
owner has the devices then, and the kernel when it goes.
"""

from __future__ import annotations

import posix
from errno import ENODEV, EPERM

from ctnr.errors import SpecError, SyscallError
from ctnr.runtime.rtnetlink import Link, Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctnr.runtime.rtnetlink import Address
    from ctnr.spec.types import NetDevice

_FIELD = "linux.netDevices"
_IFF_UP = 1


class Device:
    """One device on its way: what it was here, and its index there once it has been moved."""

    __slots__ = ("addresses", "field", "index", "link", "name")

    def __init__(self, link: Link, name: str, addresses: list[Address], field: str) -> None:
        self.link = link
        self.name = name
        self.addresses = addresses
        self.field = field
        self.index = 0


class Moved:
    """The devices of one container. undo() brings them back as they were, close() leaves them where they are."""

    __slots__ = ("_devices", "_host_ns", "_inner", "_outer")

    def __init__(self, inner_fd: int, host_ns: int) -> None:
        self._inner = Netlink(inner_fd)
        self._outer = Netlink()
        self._host_ns = host_ns
        self._devices: list[Device] = []

    def move(self, wanted: Mapping[str, NetDevice], ns: int) -> None:
        """All or none. Raises SpecError, SyscallError naming the field."""
        there = {link.name for link in self._inner.links()}
        devices = [self._look(name, entry.get("name") or name, there) for name, entry in wanted.items()]
        try:
            for device in devices:
                self._move(device, ns)
        except BaseException:
            self.undo()
            raise

    def _look(self, name: str, new: str, there: set[str]) -> Device:
        field = f'{_FIELD}["{name}"]'
        link = self._outer.link(name)
        if link is None:
            raise SpecError(field, "there is no such network device in the runtime's network namespace")
        if "%d" not in new:  # a template: the kernel finds a free number
            if new in there:
                raise SpecError(f"{field}.name", f'the container\'s network namespace has a device "{new}" already')
            there.add(new)
        return Device(link, new, self._outer.addresses(link.index), field)

    def _move(self, device: Device, ns: int) -> None:
        before = {link.index for link in self._inner.links()}
        try:
            self._outer.set_link(device.link.index, name=device.name, ns_fd=ns)
        except OSError as error:
            # the kernel moves first and renames then: the name may have been taken meanwhile
            self._find(device, before)
            hint = "it takes CAP_NET_ADMIN over the device: not possible without root" if error.errno == EPERM else ""
            raise SyscallError(f"{device.field}: move it to the container", error.errno or 0, "", hint) from None
        if not self._find(device, before):
            raise SyscallError(f"{device.field}: find it in the container", ENODEV)
        try:
            # the kernel forgets addresses when a device leaves, and keeps what else it is
            for address in device.addresses:
                if address.permanent and address.universe:
                    self._inner.add_address(device.index, address)
            self._inner.set_link(device.index, up=True)
        except OSError as error:
            raise SyscallError(f"{device.field}: set it up in the container", error.errno or 0) from None

    def _find(self, device: Device, before: set[int]) -> bool:
        """Its index in the container's namespace, which is new there; noted, for undo()."""
        new = [link for link in self._inner.links() if link.index not in before]
        named = [link for link in new if link.name == device.name] or [
            link for link in new if "%d" in device.name or link.name == device.link.name
        ]
        if not named:
            return False
        device.index = named[0].index
        self._devices.append(device)
        return True

    def undo(self) -> None:
        """Bring back what was moved, with its name, its addresses, and up if it was. Raises SyscallError for the first
        that cannot be, after all have been tried."""
        failed: SyscallError | None = None
        while self._devices:
            device = self._devices.pop()
            try:
                self._inner.set_link(device.index, up=False)
                before = {link.index for link in self._outer.links()}
                self._inner.set_link(device.index, name=device.link.name, ns_fd=self._host_ns)
                new = [link.index for link in self._outer.links() if link.index not in before]
                index = device.link.index if device.link.index in new else new[0]
                for address in device.addresses:
                    if not address.automatic:
                        self._outer.add_address(index, address, exact=True)
                if device.link.flags & _IFF_UP:
                    self._outer.set_link(index, up=True)
            except (OSError, IndexError) as error:
                number = error.errno if isinstance(error, OSError) else ENODEV
                failed = failed or SyscallError(f"{device.field}: bring it back", number or 0)
        self.close()
        if failed is not None:
            raise failed

    def close(self) -> None:
        self._inner.close()
        self._outer.close()
        if self._host_ns >= 0:
            posix.close(self._host_ns)
            self._host_ns = -1


def move(wanted: Mapping[str, NetDevice], inner_fd: int, pid: int) -> Moved:
    """Move them to the network namespace of process `pid`, in which the netlink socket `inner_fd` (taken over) is open."""
    flags = posix.O_RDONLY | posix.O_CLOEXEC
    moved = Moved(inner_fd, posix.open("/proc/self/ns/net", flags))
    try:
        ns = posix.open(f"/proc/{pid}/ns/net", flags)
        try:
            here, there = posix.fstat(moved._host_ns), posix.fstat(ns)
            if (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino):
                raise SpecError(_FIELD, "the container's network namespace is the one its devices are in already")
            moved.move(wanted, ns)
        finally:
            posix.close(ns)
    except BaseException:
        moved.close()
        raise
    return moved
