# SPDX-License-Identifier: Apache-2.0
"""The modules that each verb of ctnr-oci loads: the price of its start, pinned as sets rather than measured.

Of ctnr they are exactly these; of Python's own only some of a list (which are built in differs between versions).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ctnr

MAIN = Path(ctnr.__file__).with_name("__main__.py")

# Runs the command as the launcher does, in this process, and writes down what was loaded
DRIVER = """\
import sys
before = set(sys.modules)
import posix
leave = posix._exit
def tell(code):
    with open(target, "w") as file:
        file.write("\\n".join(set(sys.modules) - before))
    leave(code)
posix._exit = tell
_, target, main, *sys.argv[1:] = sys.argv
with open(main) as file:
    code = compile(file.read(), main, "exec")
exec(code, {"__name__": "__main__", "__file__": main, "__package__": None})
"""

# What of Python's own is free, or nearly (each under half a millisecond)
PYTHON = set("__future__ _json _struct errno fcntl gc grp pwd select time _socket".split())
# seccomp's cache: one of them, by version
PYTHON |= {"_sha256", "_sha2"}

BASE = set("ctnr ctnr.cli ctnr.cli.args ctnr.cli.boot ctnr.cli.output ctnr.errors ctnr.files ctnr.log".split())
CONTAINER = BASE | set(
    "ctnr._native ctnr._native._native ctnr.jsonio ctnr.runtime ctnr.runtime.container ctnr.runtime.process "
    "ctnr.runtime.state".split()
)
CGROUP = set("ctnr.runtime.cgroups ctnr.runtime.cgroups.dirs".split())
TABLES = set("ctnr.spec ctnr.spec.tables".split())
LAUNCH = TABLES | set("ctnr.runtime.launch ctnr.runtime.plan".split())
COMPILE = (
    LAUNCH
    | CGROUP
    | set(
        "ctnr.runtime.cgroups.layout ctnr.runtime.compile ctnr.runtime.creating ctnr.runtime.rootfs "
        "ctnr.spec.mounts ctnr.spec.process ctnr.spec.runtime ctnr.spec.schema".split()
    )
)
# By how the machine's cgroups are mounted, whether we may use them, what is asked of them; id maps without root
MACHINE = CGROUP | set(
    "ctnr.runtime.cgroups.journal ctnr.runtime.cgroups.devices "
    "ctnr.runtime.cgroups.layout ctnr.runtime.cgroups.resources ctnr.runtime.cgroups.v1 "
    "ctnr.runtime.cgroups.v2 ctnr.runtime.idmap ctnr.runtime.limits ctnr.runtime.tree ctnr.spec.resources".split()
)

OCI = {"ctnr.cli.oci"}
FOREGROUND = {"ctnr.cli.io"}
CREATE = CONTAINER | OCI | COMPILE
EXEC = CONTAINER | COMPILE | {"ctnr.cli.exec", "ctnr.cli.values", "ctnr.runtime.joining"}
DOCUMENTS = {"ctnr.cli.documents"}

FEATURES = (
    BASE
    | TABLES
    | DOCUMENTS
    | set(
        "ctnr._native ctnr._native._native ctnr.jsonio ctnr.runtime ctnr.runtime.criu_program ctnr.runtime.features "
        "ctnr.runtime.seccomp_bpf ctnr.runtime.state "
        "ctnr.runtime.seccomp_build ctnr.spec.features ctnr.spec.schema ctnr.spec.seccomp".split()
    )
)

UPDATE = CONTAINER | set(
    "ctnr.cli.update ctnr.runtime.updating "
    "ctnr.spec ctnr.spec.mounts ctnr.spec.process ctnr.spec.runtime ctnr.spec.schema ctnr.spec.sizes ctnr.spec.tables".split()
)

# In the order in which they are called: (arguments, modules)
VERBS: list[tuple[str, set[str]]] = [
    ("--version", BASE | TABLES),
    ("spec -f spec.json", BASE | DOCUMENTS | TABLES | {"ctnr.jsonio", "ctnr.spec.default"}),
    ("features", FEATURES),
    ("state nope", CONTAINER | OCI),
    ("delete --force nope", CONTAINER | OCI),
    ("plan", CONTAINER | DOCUMENTS | COMPILE | {"ctnr.runtime.explain", "ctnr.runtime.planning"}),
    ("create c", CREATE),
    ("state c", CONTAINER | OCI),
    ("start c", CONTAINER | OCI | LAUNCH),
    ("list", CONTAINER | {"ctnr.cli.listing", "ctnr.runtime.listing"}),
    ("ps --format json c", CONTAINER | {"ctnr.cli.listing", "ctnr.runtime.listing"}),
    ("exec c /usr/bin/true", EXEC | FOREGROUND),
    ("update --kernel-memory 1 c", UPDATE),
    ("events --stats c", CONTAINER | {"ctnr.cli.events", "ctnr.runtime.events", "ctnr.runtime.cgroups.stats"}),
    ("pause c", CONTAINER | OCI | {"ctnr.runtime.pausing"}),
    ("resume c", CONTAINER | OCI | {"ctnr.runtime.pausing"}),
    ("kill c 9", CONTAINER | OCI | {"ctnr.spec", "ctnr.spec.signals"}),
    ("delete --force c", CONTAINER | OCI),
    ("run --detach r", CREATE),
    ("delete --force r", CONTAINER | OCI),
    ("run -f true.json t", CREATE | FOREGROUND),
]


class Commands:
    """ctnr-oci in a directory of its own, telling what it loads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "driver.py").write_text(DRIVER)

    def __call__(self, *args: str) -> tuple[int, str, set[str]]:
        """Exit code, stderr, modules loaded."""
        told = self.directory / "modules"
        python = os.path.realpath(sys.executable)
        argv = [python, "-IS", "-Xutf8", "driver.py", str(told), str(MAIN), "ctnr-oci", "--root", "state", *args]
        # what stays in the container holds its stdio open
        with open(self.directory / "stderr", "w+") as stderr:
            code = subprocess.run(
                argv,
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                timeout=60,
                check=False,
            ).returncode
            stderr.seek(0)
            return code, stderr.read(), set(told.read_text().split())


def make_bundle(directory: Path) -> None:
    """This machine's programs in namespaces of their own, for whoever runs the tests."""
    from ctnr.spec.default import default_config

    config: Any = default_config(rootless=True, uid=os.geteuid(), gid=os.getegid())
    config["process"] |= {"terminal": False, "args": ["/usr/bin/sleep", "1000"]}
    (directory / "rootfs").mkdir()
    for name in ("usr", "bin", "lib", "lib32", "lib64"):
        path = Path("/", name)
        if path.is_symlink():
            (directory / "rootfs" / name).symlink_to(os.readlink(path))
        elif path.is_dir():
            (directory / "rootfs" / name).mkdir()
            bind = {"destination": f"/{name}", "type": "bind", "source": f"/{name}", "options": ["rbind", "ro"]}
            config["mounts"].append(bind)
    (directory / "config.json").write_text(json.dumps(config))
    config["process"]["args"] = ["/usr/bin/true"]
    (directory / "true.json").write_text(json.dumps(config))


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    commands = Commands(tmp_path)
    make_bundle(tmp_path)
    yield commands
    for id in ("c", "r"):
        commands("delete", "--force", id)
    shutil.rmtree(tmp_path)


def test_what_each_verb_loads(commands: Commands) -> None:
    for verb, wanted in VERBS:
        code, stderr, loaded = commands(*verb.split())
        if verb == "create c" and "linux.namespaces: create" in stderr:
            pytest.skip("no user namespaces here")
        if verb.startswith("events") and "has no cgroup" in stderr:
            continue  # none that this user may make
        assert (code != 0) == (verb == "state nope"), f"{verb}: {stderr}"
        ours = {name for name in loaded if name.partition(".")[0] == "ctnr"}
        assert ours - MACHINE == wanted - MACHINE, verb
        assert loaded - ours <= PYTHON, verb
