# SPDX-License-Identifier: Apache-2.0
"""podman calling the runtime: a storage, a configuration and an image of the test's own, for any kind of user."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

from . import leaks, machine, rootfs, runtimes, views
from .runtimes import Result
from .users import User

IMAGE = "localhost/box:1"
LONG = 180.0

_CONTAINERS = """\
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
pids_limit = 0
default_sysctls = []
[network]
network_config_dir = "{work}/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "ctnr-oci"
helper_binaries_dir = ["/usr/libexec/podman", "/usr/lib/podman", "/usr/bin"]
[engine.runtimes]
ctnr-oci = ["{runtime}"]
"""

_STORAGE = """\
[storage]
driver = "vfs"
runroot = "{work}/runroot"
graphroot = "{work}/graphroot"
"""


class Podman:
    """podman of one user, which knows our runtime alone. Its containers have no network: that is not what is tested."""

    def __init__(self, work: Path, user: User, view: str = views.HOST) -> None:
        self.program = machine.need("podman")[0]
        machine.need("conmon", "catatonit")
        self.work = work / f"podman-{user.kind}"
        self.user = user
        self.view = view
        self.home = self.work / "home"
        self.home.mkdir(parents=True)
        for name in ("graphroot", "runroot", "tmpdir", "networks", "run"):
            (self.work / name).mkdir(mode=0o700)
        (self.work / "containers.conf").write_text(
            _CONTAINERS.format(work=self.work, runtime=runtimes.ctnr_oci().resolve())
        )
        (self.work / "storage.conf").write_text(_STORAGE.format(work=self.work))
        (self.work / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        rootfs.give(self.work, user.uid, user.gid)
        self._import()

    @property
    def env(self) -> dict[str, str]:
        env = {
            "HOME": str(self.home),
            "CONTAINERS_CONF": str(self.work / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(self.work / "storage.conf"),
            # podman's own pause process and lock files are this test's, not the user's
            "XDG_RUNTIME_DIR": str(self.work / "run"),
        }
        return env

    def argv(self, *words: str) -> list[str]:
        own = [self.program, "--tmpdir", str(self.work / "tmpdir"), "--log-level", "error"]
        return [*own, *words]

    def __call__(self, *words: str, timeout: float = LONG, **how: Any) -> Result:
        """Run it to its end. Output goes to files: conmon holds what podman's own stdio was."""
        out, err = self.work / "out", self.work / "err"
        given = how.pop("stdin", subprocess.DEVNULL)
        data = given if isinstance(given, str) else None
        with open(out, "wb") as out_file, open(err, "wb") as err_file:
            process = runtimes.popen(
                self.argv(*words),
                self.user,
                view=self.view,
                env=self.env,
                cwd=self.work,
                stdin=subprocess.PIPE if data is not None else given,
                stdout=out_file,
                stderr=err_file,
                **how,
            )
        try:
            process.communicate(data.encode() if data is not None else None, timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            raise AssertionError(f"no end after {timeout} s: podman {shlex.join(words)}: {err.read_text()}") from None
        finally:
            runtimes.finished(process)
        text = (out.read_text(errors="surrogateescape"), err.read_text(errors="surrogateescape"))
        return Result(["podman", *words], process.returncode, *text)

    def _import(self) -> None:
        """The busybox root filesystem as an image."""
        tree = rootfs.make_busybox(self.work / "tree")
        archive = self.work / "box.tar"
        [tar] = machine.need("tar")
        subprocess.run([tar, "-cf", archive, "-C", tree, "--numeric-owner", "--owner=0", "--group=0", "."], check=True)
        archive.chmod(0o644)
        self("import", "--change", "ENV PATH=/bin", str(archive), IMAGE).ok()

    def run(self, *words: str, **how: Any) -> Result:
        return self("run", "--network", "none", *words, **how)

    def close(self) -> None:
        """Containers, pods, the storage, the pause process of a user, the cgroups that podman never removes."""
        self("pod", "rm", "--all", "--force", "--time", "0")
        self("rm", "--all", "--force", "--time", "0")
        if self.user.rootless:
            self("system", "migrate")
            # files of subordinate ids: only the user's own root may remove them
            [unshare] = machine.need("unshare")
            runtimes.call(
                [unshare, "--map-auto", "--map-root-user", "rm", "-rf", str(self.work / "graphroot")], self.user
            )
        remove_cgroups("libpod_parent")


def remove_cgroups(name: str) -> None:
    """Remove the cgroups `name` at the top of each hierarchy, with what is below them, once they are empty."""

    def removed() -> bool:
        leaks.reap()  # conmon ends after the command that it served
        tops = [os.path.join(point, name) for point in machine.cgroup_mounts().values()]
        for top in tops:
            for directory, _, _ in os.walk(top, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError:
                    continue
        return not any(map(os.path.exists, tops))

    machine.poll(removed, 5.0, every=0.05)  # in use by somebody else's podman: the leak check tells ours
