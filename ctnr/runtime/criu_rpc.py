# SPDX-License-Identifier: Apache-2.0
"""CRIU's messages (its rpc.proto) as dicts, to and from protobuf's wire format: what of them a runtime needs.

Imported only by checkpoint and restore. A message is a table: name -> (number, kind). A kind is INT, BOOL, TEXT, or the
table of a message within; a list of it stands for a repeated field.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Table = Mapping[str, tuple[int, Any]]

INT, BOOL, TEXT = "int", "bool", "text"

# enum criu_req_type
DUMP, RESTORE, PRE_DUMP, NOTIFY, FEATURE_CHECK, VERSION = 1, 2, 4, 6, 9, 10
# enum criu_cg_mode, by the words of --manage-cgroups-mode; "" leaves it to CRIU
CGROUP_MODES = {"": 6, "ignore": 0, "soft": 3, "full": 4, "strict": 5}
# enum criu_network_lock_method
NETWORK_LOCKS = {"iptables": 1, "nftables": 2, "skip": 3}

_PAGE_SERVER: Table = {"address": (1, TEXT), "port": (2, INT)}
_EXT_MOUNT: Table = {"key": (1, TEXT), "val": (2, TEXT)}
_JOIN_NS: Table = {"ns": (1, TEXT), "ns_file": (2, TEXT)}
_INHERIT_FD: Table = {"key": (1, TEXT), "fd": (2, INT)}
_CGROUP_ROOT: Table = {"ctrl": (1, TEXT), "path": (2, TEXT)}
_FEATURES: Table = {"mem_track": (1, BOOL), "lazy_pages": (2, BOOL)}

OPTIONS: Table = {
    "images_dir_fd": (1, INT),
    "pid": (2, INT),
    "leave_running": (3, BOOL),
    "ext_unix_sk": (4, BOOL),
    "tcp_established": (5, BOOL),
    "evasive_devices": (6, BOOL),
    "shell_job": (7, BOOL),
    "file_locks": (8, BOOL),
    "log_level": (9, INT),
    "log_file": (10, TEXT),
    "ps": (11, _PAGE_SERVER),
    "notify_scripts": (12, BOOL),
    "root": (13, TEXT),
    "parent_img": (14, TEXT),
    "track_mem": (15, BOOL),
    "auto_dedup": (16, BOOL),
    "work_dir_fd": (17, INT),
    "link_remap": (18, BOOL),
    "ext_mnt": (23, [_EXT_MOUNT]),
    "manage_cgroups": (24, BOOL),
    "cg_root": (25, [_CGROUP_ROOT]),
    "rst_sibling": (26, BOOL),
    "inherit_fd": (27, [_INHERIT_FD]),
    "manage_cgroups_mode": (34, INT),
    "external": (37, [TEXT]),
    "empty_ns": (38, INT),
    "join_ns": (39, [_JOIN_NS]),
    "freeze_cgroup": (44, TEXT),
    "tcp_skip_in_flight": (46, BOOL),
    "lazy_pages": (48, BOOL),
    "status_fd": (49, INT),
    "orphan_pts_master": (50, BOOL),
    "config_file": (51, TEXT),
    "tcp_close": (52, BOOL),
    "lsm_profile": (53, TEXT),
    "lsm_mount_context": (63, TEXT),
    "network_lock": (64, INT),
}
REQUEST: Table = {
    "type": (1, INT),
    "opts": (2, OPTIONS),
    "notify_success": (3, BOOL),
    "features": (5, _FEATURES),
}
RESPONSE: Table = {
    "type": (1, INT),
    "success": (2, BOOL),
    "restore": (4, {"pid": (1, INT)}),
    "notify": (5, {"script": (1, TEXT), "pid": (2, INT)}),
    "cr_errno": (7, INT),
    "features": (8, _FEATURES),
    "cr_errmsg": (9, TEXT),
    "version": (10, {"major": (1, INT), "minor": (2, INT), "gitid": (3, TEXT), "sublevel": (4, INT)}),
}

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def encode(table: Table, message: Mapping[str, Any]) -> bytes:
    """The bytes of a message. A member that is None is left out."""
    out = bytearray()
    for name, value in message.items():
        number, kind = table[name]
        if value is None:
            continue
        if isinstance(kind, list):
            for item in value:
                _put(out, number, kind[0], item)
        else:
            _put(out, number, kind, value)
    return bytes(out)


def _put(out: bytearray, number: int, kind: Any, value: Any) -> None:
    if kind is INT or kind is BOOL:
        out += _varint(number << 3 | _VARINT) + _varint(int(value) & (1 << 64) - 1)
        return
    data = value.encode("utf-8", "surrogateescape") if kind is TEXT else encode(kind, value)
    out += _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode(table: Table, data: bytes) -> dict[str, Any]:
    """The message that the bytes are; members of other numbers are skipped. Raises ValueError."""
    names = {number: (name, kind) for name, (number, kind) in table.items()}
    message: dict[str, Any] = {}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire = tag & 7
        value: Any
        if wire == _VARINT:
            value, at = _read_varint(data, at)
        else:
            if wire == _BYTES:
                size, at = _read_varint(data, at)
            elif wire in (_FIXED32, _FIXED64):
                size = 4 if wire == _FIXED32 else 8
            else:
                raise ValueError(f"wire type {wire}")
            if size > len(data) - at:
                raise ValueError("a member is longer than its message")
            value = data[at : at + size]
            at += size
        name, kind = names.get(tag >> 3, ("", None))
        if kind is None:
            continue
        many = isinstance(kind, list)
        one = _get(kind[0] if many else kind, wire, value)
        if many:
            message.setdefault(name, []).append(one)
        else:
            message[name] = one
    return message


def _get(kind: Any, wire: int, value: Any) -> Any:
    if (kind is INT or kind is BOOL) != (wire == _VARINT) or wire in (_FIXED32, _FIXED64):
        raise ValueError(f"wire type {wire} where {kind if isinstance(kind, str) else 'a message'} belongs")
    if kind is INT:
        return value - (1 << 64) if value >> 63 else value
    if kind is BOOL:
        return value != 0
    if kind is TEXT:
        return value.decode("utf-8", "replace")
    return decode(kind, value)


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number that does not end")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value & (1 << 64) - 1, at
