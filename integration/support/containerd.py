# SPDX-License-Identifier: Apache-2.0
"""containerd and its shim calling the runtime: a daemon of the test's own, and `ctr` to talk to it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from . import leaks, machine, ociarchive, rootfs, runtimes, users, views
from .podman import remove_cgroups
from .runtimes import Result

IMAGE = "localhost/box:1"

# no plugin that needs more than this machine is sure to have; nothing is left in /opt or /run
_CONFIG = """\
version = 2
root = "{work}/root"
state = "{work}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.aufs"]
[grpc]
address = "{socket}"
[ttrpc]
address = "{socket}.ttrpc"
"""


class Containerd:
    """A containerd in `work`. `ctr` words are called like a function; `run` has the flags that name our runtime."""

    def __init__(self, work: Path, view: str = views.HOST) -> None:
        machine.need_root()
        program, self.ctr, _ = machine.need("containerd", "ctr", "containerd-shim-runc-v2")
        self.work = work / f"containerd-{view}"
        self.view = view
        self.namespace = f"{machine.TOKEN}-{view}"
        self.socket = self.work / "containerd.sock"
        self.work.mkdir()
        config = self.work / "config.toml"
        config.write_text(_CONFIG.format(work=self.work, socket=self.socket))
        self.log = self.work / "log"
        with open(self.log, "wb") as log:
            self.daemon = runtimes.popen(
                [program, "--config", str(config)],
                users.me(),
                view=view,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        started = machine.poll(lambda: self.socket.exists() and self("version").code == 0, 30.0, every=0.1)
        assert started, self.log.read_text()[-3000:]
        tree = rootfs.make_busybox(self.work / "tree")
        archive = ociarchive.make(tree, self.work / "box.oci", IMAGE, {"Env": ["PATH=/bin"]})
        self("image", "import", "--snapshotter", "native", str(archive)).ok()
        # the cgroup of the namespace, which stays: before a test looks at what is left behind
        self.run("--rm", IMAGE, "first", "true").ok()

    def argv(self, *words: str) -> list[str]:
        return [self.ctr, "--address", str(self.socket), "--namespace", self.namespace, *words]

    def __call__(self, *words: str, **how: Any) -> Result:
        return runtimes.call(self.argv(*words), users.me(), view=self.view, **how)

    def run_words(self, *words: str) -> list[str]:
        """`ctr run` with the runtime under test; `words` are flags, IMAGE, the id, the command."""
        runtime = str(runtimes.ctnr_oci().resolve())
        own = ("--snapshotter", "native", "--runc-binary", runtime, "--runc-root", str(self.work / "runc"))
        return ["run", *own, *words]

    def run(self, *words: str, **how: Any) -> Result:
        return self(*self.run_words(*words), **how)

    def detached(self, id: str, *words: str, flags: tuple[str, ...] = ()) -> None:
        """A container in the background: its output goes nowhere."""
        self.run("--detach", "--null-io", *flags, IMAGE, id, *words).ok()

    def status(self, id: str) -> str:
        for line in self("task", "list").ok().out.splitlines():
            if line.split()[0] == id:
                return line.split()[-1]
        return "GONE"

    def close(self) -> None:
        for id in self("container", "list", "--quiet").out.split():
            self("task", "kill", "--signal", "KILL", id)
            machine.poll(lambda id=id: self.status(id) in ("STOPPED", "GONE"), 10.0, every=0.05)  # type: ignore[misc]
            self("task", "delete", id)
            self("container", "delete", id)
        self.daemon.terminate()
        runtimes.finished(self.daemon)
        remove_cgroups(self.namespace)
        leaks.reap()
        assert [str(path) for path in (self.work / "runc").rglob("state.json")] == []
