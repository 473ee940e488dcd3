# SPDX-License-Identifier: Apache-2.0
"""The bench runs, says what it says it says, leaves nothing; and its floor does all of the work it stands for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from support import machine, runtimes
from support.bundles import MakeBundle
from support.facts import facts
from support.runtimes import MakeRuntime, parse_probe
from support.users import User

BENCH = machine.CHECKOUT / "bench"


@pytest.fixture
def floor(work: Path) -> Path:
    machine.need_root()
    [cc] = machine.need("gcc")
    binary = work / "floor"
    subprocess.run(
        [cc, "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-o", binary, BENCH / "floor.c"], check=True
    )
    return binary


def test_the_floor_is_a_whole_container(
    floor: Path, root: User, runtimes_of: MakeRuntime, bundle_of: MakeBundle
) -> None:
    """The same inside as ctnr-oci run makes of the same config: nothing was left out to look fast."""
    asks = (
        "create:/x",
        "open:/proc/sys/kernel/shmmax",
        "list:/sys/firmware",
        "read:/proc/keys",
        "mknod:/dev/mem:c:1:1",
        "open:/dev/null",
    )
    box = bundle_of(root)
    box.config["hostname"] = "floor"
    box.process["args"] = ["/probe", *asks]
    names = ",".join(n["type"] for n in box.linux["namespaces"])
    argv = [str(floor), str(box.root), f"{machine.TOKEN}-floor", names, *box.process["args"]]
    done = runtimes.call(argv, root, stdin="go\n").ok()
    cut = done.out.rindex("}") + 1
    assert int(done.out[cut:]) > 0
    theirs = facts(parse_probe(done.out[:cut]), box)
    ours = facts(parse_probe(runtimes_of(root).run(box).ok().out), box)
    # the floor's own pipe is its stdin
    assert theirs.pop("fds") and ours.pop("fds")
    assert theirs == ours


def test_the_bench_runs(work: Path, root: User, ctnr_bin: Path, ctnr_oci: Path) -> None:
    machine.need_root()
    out = work / "benchmarks.md"
    flags = [
        "--rounds",
        "2",
        "--warm",
        "1",
        "--big-mib",
        "16",
        "--out",
        str(out),
        "--ctnr",
        str(ctnr_bin),
        "--oci",
        str(ctnr_oci),
    ]
    argv = [sys.executable, "-I", str(BENCH / "bench.py"), "--python", str(ctnr_oci.parent / "python3"), *flags]
    machine.need_that((ctnr_oci.parent / "python3").exists(), "there is no interpreter beside ctnr-oci")
    runtimes.call(argv, root, timeout=300).ok()
    text = out.read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if re.match(r"\|.*\d\.\d\d", line)}
    for name in (
        "floor",
        "ctnr in-process",
        "ctnr in-process, 16 MiB touched",
        "ctnr-oci run",
        "ctnr run DIR true",
        "python3 -IS",
    ):
        assert name in rows, text
    for verb in ("state", "kill", "delete"):
        assert f"ctnr-oci {verb}" in rows, text
    assert "PSS" in text and "make bench" in text
