# SPDX-License-Identifier: Apache-2.0
"""Where newer system calls are refused, as by the seccomp profiles of other container engines, older ones serve."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import runtimes, users
from support.bundles import Bundle
from support.runtimes import Runtime

MakeRuntime = Callable[..., Runtime]
MakeBundle = Callable[..., Bundle]

# the same on every architecture
CLONE3, OPENAT2 = 435, 437

# argv: ERRNO NUMBER COMMAND...: everything that follows gets that errno for that system call (seccomp(2))
SHIM = """
import ctypes, os, struct, sys
error, number = int(sys.argv[1]), int(sys.argv[2])
program = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | error), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
libc = ctypes.CDLL(None, use_errno=True)
given = Program(len(program), ctypes.addressof(code))
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(given), 0, 0):
    sys.exit("no seccomp: %s" % os.strerror(ctypes.get_errno()))
os.execv(sys.argv[3], sys.argv[3:])
"""


def refusing(work: Path, number: int, error: int) -> Path:
    """ctnr-oci, for which a system call is refused."""
    (work / "shim.py").write_text(SHIM)
    command = work / "ctnr-oci"
    python = f"{sys._base_executable} -I {work}/shim.py"  # type: ignore[attr-defined]
    command.write_text(f'#!/bin/sh\nexec {python} {error} {number} {runtimes.ctnr_oci()} "$@"\n')
    command.chmod(0o755)
    return command


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["ENOSYS", "EPERM"])
@pytest.mark.parametrize("number", [CLONE3, OPENAT2], ids=["clone3", "openat2"])
# a user's filter takes no_new_privs, under which newuidmap is not setuid: one id only
@pytest.mark.parametrize("kind", [users.ROOT, users.ONE_ID])
def test_a_whole_life_without(
    number: int,
    error: int,
    work: Path,
    kind: str,
    view: str,
    runtimes_of: MakeRuntime,
    bundle_of: MakeBundle,
) -> None:
    user = users.get(kind)
    runtime = runtimes_of(user, refusing(work, number, error), view)
    assert runtime.run(bundle_of(user, "/bin/sh", "-c", "echo here; exit 7")).code == 7
    id = runtime.start_detached(bundle_of(user, "/probe", "--wait"))
    assert runtime("exec", id, "/bin/sh", "-c", "exit 3").code == 3
    # a namespace that is joined takes a second clone, by the init
    pid = runtime.pid(id)
    box = bundle_of(user, "/bin/sh", "-c", "readlink /proc/self/ns/ipc")
    if not user.rootless:
        box.namespace("pid", f"/proc/{pid}/ns/pid")
        assert runtime.run(box).ok().out.startswith("ipc:")
    runtime.stop(id)


def test_the_shim_refuses(work: Path) -> None:
    """Else the tests above would show nothing."""
    command = refusing(work, CLONE3, errno.ENOSYS)
    probe = "import ctypes, os; print(ctypes.CDLL(None, use_errno=True).syscall(435, 0, 0), ctypes.get_errno())"
    text = command.read_text().replace(f'{runtimes.ctnr_oci()} "$@"', f"{sys.executable} -c '{probe}'")
    command.write_text(text)
    done = subprocess.run([str(command)], capture_output=True, text=True, check=True)
    assert done.stdout == f"-1 {errno.ENOSYS}\n", done.stderr
