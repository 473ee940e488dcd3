# SPDX-License-Identifier: Apache-2.0
"""`completion SHELL`: bash completes by what it prints; what fish and zsh get is complete."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from ctnr.cli.boot import main

PROGRAMS = ("ctnr", "ctnr-oci")


def script(program: str, shell: str, capfd: pytest.CaptureFixture[str]) -> str:
    assert main([program, "completion", shell]) == 0
    return capfd.readouterr().out


def complete(tmp_path: Path, text: str, program: str, *words: str) -> list[str]:
    """What bash would offer for the last of the words."""
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("not applicable: there is no bash")
    (tmp_path / program).write_text("#!/bin/sh\necho box-1; echo box-2\n")
    (tmp_path / program).chmod(0o755)
    ask = f'{text}\nCOMP_WORDS=("$@"); COMP_CWORD=$(($#-1)); _{program}; printf "%s\\n" "${{COMPREPLY[@]}}"'
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    argv = [bash, "--norc", "-c", ask, "bash", program, *words]
    return subprocess.run(argv, env=env, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("program", PROGRAMS)
def test_bash(program: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    text = script(program, "bash", capfd)
    assert complete(tmp_path, text, program, "che") == ["checkpoint"]
    assert complete(tmp_path, text, program, "--log-f") == ["--log-format"]
    assert complete(tmp_path, text, program, "--log-format", "") == ["text", "json"]
    assert complete(tmp_path, text, program, "--root", "/x", "kill", "") == ["box-1", "box-2"]
    assert complete(tmp_path, text, program, "kill", "--reg") == ["--regex"]
    assert complete(tmp_path, text, program, "list", "-f", "") == ["table", "json"]
    # a new container's name, a file: nothing of ours
    assert complete(tmp_path, text, program, "create", "") == []
    assert complete(tmp_path, text, program, "create", "--bun") == ["--bundle"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_fish_and_zsh(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert script(program, "zsh", capfd).startswith(f"#compdef {program}\n")
    lines = script(program, "fish", capfd).splitlines()
    assert all(line.startswith((f"complete -c {program} ", "#")) for line in lines)
    assert any("-a kill -d" in line for line in lines)
    assert any("__fish_seen_subcommand_from kill" in line and "-l regex" in line for line in lines)


def test_other_shells(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["ctnr", "completion", "tcsh"]) == 1
    assert "SHELL is bash, fish or zsh, not 'tcsh'" in capfd.readouterr().err
