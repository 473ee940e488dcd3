# SPDX-License-Identifier: Apache-2.0
"""A criu that checkpoints nothing: it speaks CRIU's protocol, keeps what it was asked, and does what the test says.

argv: DIRECTORY swrk FD. DIRECTORY/behave.json:
    version   [major, minor, sublevel] (default 4.2.0)
    features  {"mem_track": bool, "lazy_pages": bool} (default: both)
    answer    "fail" (success false; the log says "Error (fake.c:1): FAKE"), "die", "garbage", "truncated" for a dump or restore
    notify    the points that it says it has come to, instead of the usual ones
    confined  whether what it restores is as confined as a container (default true)
    master    whether it sends a terminal's master
DIRECTORY/requests gets a line of JSON for each dump and restore: its options, and what the fds in them are.
"""

from __future__ import annotations

import ctypes
import json
import os
import pty
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from ctnr.runtime import criu_rpc as rpc

CLONE_PARENT = 0x8000
# mount, cgroup, uts, ipc, pid, network
NAMESPACES = 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000
SYS_CLONE = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 38, 24
KINDS = {rpc.DUMP: "dump", rpc.PRE_DUMP: "pre-dump", rpc.RESTORE: "restore"}

directory = Path(sys.argv[1])
how: dict[str, Any] = json.loads((directory / "behave.json").read_text())
line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=int(sys.argv[3]))
libc = ctypes.CDLL(None, use_errno=True)


def answer(**message: Any) -> None:
    line.send(rpc.encode(rpc.RESPONSE, message))


def notify(script: str, pid: int | None = None, fds: tuple[int, ...] = ()) -> bool:
    """Whether the runtime wants to go on."""
    data = rpc.encode(rpc.RESPONSE, {"type": rpc.NOTIFY, "success": True, "notify": {"script": script, "pid": pid}})
    socket.send_fds(line, [data], list(fds))
    return bool(rpc.decode(rpc.REQUEST, line.recv(1 << 16)).get("notify_success"))


def keep(kind: str, opts: dict[str, Any]) -> None:
    """Write down what was asked; the peer's fds as paths, by way of /proc as CRIU does it."""
    peer = int.from_bytes(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
    for name in ("images_dir_fd", "work_dir_fd", "status_fd"):
        if name in opts:
            opts[name.removesuffix("_fd")] = os.readlink(f"/proc/{peer}/fd/{opts[name]}")
    for one in opts.get("inherit_fd", []):
        one["link"] = os.readlink(f"/proc/self/fd/{one['fd']}")
    if kind == "restore":
        with os.scandir(f"/proc/{peer}/fd/{opts['images_dir_fd']}") as entries:
            opts["modes"] = {entry.name: entry.stat().st_mode & 0o777 for entry in entries}
        opts["mounted"] = f" {opts['root']} " in Path("/proc/self/mountinfo").read_text()
        opts["cgroup"] = Path("/proc/self/cgroup").read_text()
        opts["same_mounts"] = os.readlink("/proc/self/ns/mnt") == os.readlink(f"/proc/{peer}/ns/mnt")
    with open(directory / "requests", "a") as file:
        file.write(json.dumps({"kind": kind, "opts": opts}) + "\n")


def log(opts: dict[str, Any], text: str) -> None:
    peer = int.from_bytes(line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], "little")
    fd = opts.get("work_dir_fd", opts["images_dir_fd"])
    Path(f"/proc/{peer}/fd/{fd}/{opts['log_file']}").write_text(text)


def restored() -> int:
    """A process that is a child of whoever started us: it waits for SIGTERM."""
    ready, told = os.pipe()
    go, tell = os.pipe()
    flags = CLONE_PARENT | signal.SIGCHLD | (NAMESPACES if how.get("confined", True) else 0)
    pid = libc.syscall(SYS_CLONE, flags, 0, 0, 0, 0)
    if pid < 0:
        sys.exit(f"clone: {os.strerror(ctypes.get_errno())}")
    if pid == 0:
        if how.get("confined", True):
            libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            for cap in range(64):
                libc.prctl(PR_CAPBSET_DROP, cap, 0, 0, 0)
        os.close(tell)
        os.write(told, b"x")
        signal.signal(signal.SIGTERM, lambda *_: os._exit(7))
        if not os.read(go, 1):
            os._exit(1)  # not let go
        os.write(1, b"restored\n")
        while True:
            signal.pause()
    os.read(ready, 1)
    how["go"] = tell
    return int(pid)


def serve(request: dict[str, Any]) -> None:
    kind = request["type"]
    if kind == rpc.VERSION:
        major, minor, sublevel = how.get("version", (4, 2, 0))
        version = {"major": major, "minor": minor, "sublevel": sublevel}
        answer(type=kind, success=True, version=version)
        return
    if kind == rpc.FEATURE_CHECK:
        answer(type=kind, success=True, features=how.get("features", {"mem_track": True, "lazy_pages": True}))
        return
    opts = request["opts"]
    keep(KINDS[kind], opts)
    mode = how.get("answer")
    if mode == "die":
        sys.stderr.write("Error (fake.c:2): this is the end\n")
        os.kill(os.getpid(), signal.SIGKILL)
    if mode in ("garbage", "truncated"):
        line.send(b"\x0f" if mode == "garbage" else b"\x2a\x7f\x01")
        return
    if mode == "fail":
        log(opts, "(00.1) all is well\n(00.2) Error (fake.c:1): FAKE\n(00.3) Error (fake.c:9): Dumping FAILED.\n")
        answer(type=kind, success=False, cr_errno=0, cr_errmsg="a message")
        return
    if kind == rpc.RESTORE:
        pid = restored()
        points = how.get(
            "notify", ["pre-restore", "setup-namespaces", "orphan-pts-master", "post-restore", "pre-resume"]
        )
        for point in points:
            fds: tuple[int, ...] = ()
            if point == "orphan-pts-master":
                if not how.get("master"):
                    continue
                fds = (pty.openpty()[0],)
            if not notify(point, pid if point in ("setup-namespaces", "post-restore") else None, fds):
                os.kill(pid, signal.SIGKILL)
                log(opts, "(00.3) Error (fake.c:3): the script said no\n")
                answer(type=kind, success=False)
                return
        os.write(how["go"], b"x")
        answer(type=kind, success=True, restore={"pid": pid})
        return
    for point in how.get("notify", ["network-lock", "post-dump", "network-unlock"]):
        notify(point)
    if kind == rpc.DUMP and not opts.get("leave_running"):
        os.kill(opts["pid"], signal.SIGKILL)
    answer(type=kind, success=True)


serve(rpc.decode(rpc.REQUEST, line.recv(1 << 18)))
# CRIU stays until its peer has heard the answer
line.recv(1)
