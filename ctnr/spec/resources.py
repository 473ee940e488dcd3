# SPDX-License-Identifier: Apache-2.0
"""linux.resources: shape and rules (runtime-spec config-linux.md#control-groups). `update` takes the same document.

HOT: imported by create and run.
"""

from __future__ import annotations

from ctnr.errors import SpecError
from ctnr.spec.schema import (
    BOOL,
    I64,
    NAME,
    TEXT,
    U16,
    U32,
    U64,
    check,
    integer,
    list_of,
    map_of,
    member,
    one_of,
    quote,
    record,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import Resources

# bytes or tasks, or -1 for no limit
_LIMIT = integer(-1, (1 << 63) - 1)
# the kernel's dev_t (linux/kdev_t.h); -1 for all
_MAJOR = integer(0, (1 << 12) - 1)
_MINOR = integer(0, (1 << 20) - 1)
_ALL_MAJORS = integer(-1, (1 << 12) - 1)
_ALL_MINORS = integer(-1, (1 << 20) - 1)
_THROTTLE = list_of(record({"major": _MAJOR, "minor": _MINOR, "rate": U64}, ("major", "minor", "rate")))

_RESOURCES = record(
    {
        "devices": list_of(
            record(
                {
                    "allow": BOOL,
                    "type": one_of(("a", "b", "c"), "device type"),
                    "major": _ALL_MAJORS,
                    "minor": _ALL_MINORS,
                    "access": TEXT,
                },
                ("allow",),
            )
        ),
        "memory": record(
            {
                "limit": _LIMIT,
                "reservation": _LIMIT,
                "swap": _LIMIT,
                "kernel": _LIMIT,
                "kernelTCP": _LIMIT,
                "swappiness": integer(0, 100),
                "disableOOMKiller": BOOL,
                "useHierarchy": BOOL,
                "checkBeforeUpdate": BOOL,
            }
        ),
        "cpu": record(
            {
                "shares": U64,
                "quota": I64,
                "burst": U64,
                "period": U64,
                "realtimeRuntime": I64,
                "realtimePeriod": U64,
                "cpus": TEXT,
                "mems": TEXT,
                "idle": integer(0, 1),
            }
        ),
        "pids": record({"limit": _LIMIT}),
        "blockIO": record(
            {
                "weight": U16,
                "leafWeight": U16,
                "weightDevice": list_of(
                    record({"major": _MAJOR, "minor": _MINOR, "weight": U16, "leafWeight": U16}, ("major", "minor"))
                ),
                "throttleReadBpsDevice": _THROTTLE,
                "throttleWriteBpsDevice": _THROTTLE,
                "throttleReadIOPSDevice": _THROTTLE,
                "throttleWriteIOPSDevice": _THROTTLE,
            }
        ),
        "hugepageLimits": list_of(record({"pageSize": TEXT, "limit": U64}, ("pageSize", "limit"))),
        "network": record(
            {
                "classID": U32,
                "priorities": list_of(record({"name": NAME, "priority": U32}, ("name", "priority"))),
            }
        ),
        "rdma": map_of(record({"hcaHandles": U32, "hcaObjects": U32})),
        "unified": map_of(TEXT),
    }
)


def check_resources(resources: Resources, path: str = "linux.resources") -> list[str]:
    """The warnings about a resources document; SpecError for what is none, or what no kernel could do."""
    check(resources, _RESOURCES, path)
    warnings = []
    for i, device in enumerate(resources.get("devices", ())):
        access = device.get("access", "")
        if not set(access) <= {"r", "w", "m"}:
            raise SpecError(f"{path}.devices[{i}].access", f"must be made of r, w and m, not {quote(access)}")
    memory = resources.get("memory", {})
    for name in ("kernel", "kernelTCP"):
        if name in memory:
            warnings.append(f"{path}.memory.{name}: Kernel memory settings are ignored and will be removed")
    cpu = resources.get("cpu", {})
    if 0 < cpu.get("quota", 0) < cpu.get("burst", 0):
        raise SpecError(f"{path}.cpu.burst", "must not be larger than quota")
    for i, weights in enumerate(resources.get("blockIO", {}).get("weightDevice", ())):
        if "weight" not in weights and "leafWeight" not in weights:
            raise SpecError(f"{path}.blockIO.weightDevice[{i}]", "weight or leafWeight is required")
    for i, limit in enumerate(resources.get("hugepageLimits", ())):
        if not _is_page_size(limit["pageSize"]):
            why = f"must be a size like 64KB, 2MB or 1GB, not {quote(limit['pageSize'])}"
            raise SpecError(f"{path}.hugepageLimits[{i}].pageSize", why)
    for name, rdma in resources.get("rdma", {}).items():
        if "hcaHandles" not in rdma and "hcaObjects" not in rdma:
            raise SpecError(f"{path}.rdma{member(name)}", "hcaHandles or hcaObjects is required")
    for name in resources.get("unified", ()):
        # it becomes the name of a file of the cgroup
        if "/" in name or name in (".", ".."):
            raise SpecError(f"{path}.unified{member(name)}", "must be the name of a file, without slashes")
    return warnings


def _is_page_size(text: str) -> bool:
    number = text[:-2]
    return number.isascii() and number.isdigit() and number[0] != "0" and text[-2:] in ("KB", "MB", "GB")
