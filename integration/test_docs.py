# SPDX-License-Identifier: Apache-2.0
"""The documentation's examples are true: each is run, and shows what the page says."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

from support import leaks, machine, rootfs, runtimes
from support.runtimes import Result, Runtime
from support.users import User

DOCS = machine.CHECKOUT / "docs"


def test_the_library(user: User, work: Path) -> None:
    """docs/library.md, by each kind of user: doctest in a program of its own."""
    home = work / "home"
    (home / "run").mkdir(parents=True)
    tree = rootfs.make_busybox(home / "tree", user.uid, user.gid)
    (home / "run").chmod(0o700)
    page = DOCS / "library.md"
    assert len(doctest.DocTestParser().get_examples(page.read_text())) > 30
    # state goes where a new user's would
    script = f"""
import doctest, sys
from ctnr.runtime import state
state.default_root = lambda: {str(home / "run" / "ctnr")!r}
found = doctest.testfile({str(home / "library.md")!r}, False, globs={{"tree": {str(tree)!r}}}, optionflags=doctest.ELLIPSIS)
sys.exit(found.failed != 0)
"""
    (home / "library.md").write_text(page.read_text())
    (home / "script.py").write_text(script)
    rootfs.give(home, user.uid, user.gid)
    leaks.watched_roots.add(str(home / "run/ctnr"))
    python = machine.CHECKOUT / ".venv/bin/python3"
    machine.need_that(python.exists(), f"{python} is not there (make build)")
    done = runtimes.call([str(python), "-I", str(home / "script.py")], user)
    assert done.code == 0, done.out + done.err


def test_every_flag_of_run_is_documented(ctnr_bin: Path, root: User) -> None:
    help = runtimes.call([str(ctnr_bin), "run", "--help"], root).ok().out
    page = (DOCS / "run.md").read_text()
    flags = set(re.findall(r"--[a-z][a-z-]+", help)) - {"--help"}
    assert len(flags) > 25
    assert {flag for flag in flags if f"`{flag}" not in page} == set()
    # and no other
    told = set(re.findall(r"^\| (?:`-.`, )?`(--[a-z-]+)", page, re.MULTILINE)) | set(
        re.findall(r"`(--cap-[a-z]+)", page)
    )
    assert told <= flags


def test_the_how_tos_of_run(runtime: Runtime, work: Path) -> None:
    """The commands of docs/run.md that need no network, as they stand there."""
    user = runtime.user
    home = work / "home"
    home.mkdir()
    rootfs.make_busybox(home / "debian", user.uid, user.gid)
    (home / "debian/bin/make").symlink_to("busybox")
    (home / "data").mkdir()
    (home / "data/file").write_text("one\ntwo\n")
    (home / "Makefile").write_text("")
    rootfs.give(home, user.uid, user.gid)

    def call(line: str) -> Result:
        argv = [str(runtimes.ctnr_bin()), "--root", str(runtime.state_root)]
        script = line.replace("ctnr ", " ".join(argv) + " ").replace("~", str(home))
        return runtimes.call(["/bin/sh", "-c", script], user, cwd=home)

    page = (DOCS / "run.md").read_text()
    for line, wanted in (
        ("ctnr run -v ~/data:/data:ro ./debian sh -c 'wc -l /data/*'", "2 /data/file\n"),
        ("echo 'print(6 * 7)' | ctnr run -i host: python3", "42\n"),
    ):
        assert f"\n{line}\n" in page
        assert call(line).ok().out == wanted
