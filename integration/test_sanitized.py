# SPDX-License-Identifier: Apache-2.0
"""The init under AddressSanitizer and UBSan: the tables of the inside, of hooks, of mounts and of what serves where newer system
calls are refused once more, with such a build. CTNR_SANITIZE_TESTS="integration/test_x.py ..." names other files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from support import machine

CHECKOUT = Path(__file__).parent.parent
TESTS = (
    "integration/test_inside.py integration/test_hooks.py integration/test_mounts.py integration/test_fallback.py"
    " integration/test_seccomp_notify.py integration/test_landlock.py"
)


def test_the_init_is_clean_over_the_tables_of_the_inside(tmp_path: Path) -> None:
    machine.need("cc")
    tree = tmp_path / "tree"
    shutil.copytree(CHECKOUT / "ctnr", tree / "ctnr", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "launcher", "README.md", "LICENSE"):
        source = CHECKOUT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / name)
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=tree,
        env={**os.environ, "CTNR_SANITIZE": "1"},
        check=True,
    )
    image = subprocess.run(
        [sys.executable, "-c", "from ctnr._native import init_image; print(b'__asan_init' in init_image())"],
        cwd=tree,
        env={"PYTHONPATH": str(tree)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert image.stdout == "True\n", image.stderr
    command = tree / "ctnr-oci"
    command.write_text(f'#!/bin/sh\nexec /usr/bin/python3 -IS {tree}/ctnr/__main__.py ctnr-oci "$@"\n')
    command.chmod(0o755)
    for directory in (tmp_path, *tmp_path.parents):  # the unprivileged users run it, too
        if directory.owner() == "root" and directory.stat().st_mode & 0o777 == 0o700:
            directory.chmod(0o711)
    run = subprocess.run(
        [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not peers"]
        + os.environ.get("CTNR_SANITIZE_TESTS", TESTS).split(),
        cwd=CHECKOUT,
        env={**os.environ, "CTNR_OCI": str(command)},
        check=False,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-6000:]
    assert " passed" in run.stdout
    assert "ERROR: AddressSanitizer" not in run.stdout and "runtime error:" not in run.stdout
