# SPDX-License-Identifier: Apache-2.0
"""dockerd with our runtime as one of its own (--add-runtime), docker and docker-compose to talk to it."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from . import machine, rootfs, runtimes, users
from .podman import remove_cgroups
from .runtimes import Result

IMAGE = "box:1"


class Docker:
    """A dockerd in `work`, without bridge and iptables: the machine's network stays as it is. Call it with docker's words."""

    def __init__(self, work: Path) -> None:
        machine.need_root()
        dockerd, self.docker, _ = machine.need("dockerd", "docker", "containerd")
        self.work = work / "docker"
        self.work.mkdir()
        self.socket = self.work / "docker.sock"
        self.parent = f"{machine.TOKEN}-docker"
        self.log = self.work / "log"
        own = [
            f"--host=unix://{self.socket}",
            f"--data-root={self.work}/data",
            f"--exec-root={self.work}/exec",
            f"--pidfile={self.work}/pid",
            f"--config-file={self.work}/daemon.json",
            f"--cgroup-parent=/{self.parent}",
            "--storage-driver=vfs",
            "--bridge=none",
            "--iptables=false",
            "--ip6tables=false",
            f"--add-runtime=ctnr={runtimes.ctnr_oci().resolve()}",
            "--default-runtime=ctnr",
        ]
        (self.work / "daemon.json").write_text("{}")
        with open(self.log, "wb") as log:
            self.daemon = runtimes.popen(
                [dockerd, *own], users.me(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.work
            )
        started = machine.poll(lambda: self("version").code == 0, 60.0, every=0.2)
        assert started, self.log.read_text()[-3000:]
        tree = rootfs.make_busybox(self.work / "tree")
        archive = self.work / "box.tar"
        [tar] = machine.need("tar")
        subprocess.run([tar, "-cf", archive, "-C", tree, "--numeric-owner", "--owner=0", "--group=0", "."], check=True)
        self("import", "--change", "ENV PATH=/bin", str(archive), IMAGE).ok()
        # what dockerd makes once and keeps: before a test looks at what is left behind
        self("run", "--rm", "--network", "none", IMAGE, "true").ok()

    @property
    def env(self) -> dict[str, str]:
        return {"DOCKER_HOST": f"unix://{self.socket}", "DOCKER_CONFIG": str(self.work), "HOME": str(self.work)}

    def argv(self, *words: str) -> list[str]:
        return [self.docker, *words]

    def __call__(self, *words: str, **how: Any) -> Result:
        return runtimes.call(self.argv(*words), users.me(), env=self.env, cwd=self.work, **how)

    def run(self, *words: str, **how: Any) -> Result:
        return self("run", "--network", "none", *words, **how)

    def close(self) -> None:
        for id in self("ps", "--all", "--quiet").out.split():
            self("rm", "--force", id)
        self.daemon.terminate()
        runtimes.finished(self.daemon)
        points = [line.split(" ")[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for point in sorted(points, reverse=True):
            if point.startswith(f"{self.work}/"):
                subprocess.run([machine.need("umount")[0], "--lazy", point], check=True)
        remove_cgroups(self.parent)
        assert [str(path) for path in (self.work / "exec").rglob("state.json")] == []
