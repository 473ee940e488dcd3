# SPDX-License-Identifier: Apache-2.0
"""The house: the launcher and the zipapp start the package as they found themselves, and the sources follow the rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import ctnr

CHECKOUT = Path(__file__).resolve().parents[1]
INSTALLED = Path(ctnr.__file__).parent
PYTHON = os.path.realpath(sys.executable)

# What the launcher is pointed at instead of the package: says what it got
TELL = """
import json, posix, sys
print(json.dumps({
    "argv": sys.argv, "path": sys.path, "python": sys.orig_argv[0], "flags": [
        sys.flags.isolated, sys.flags.no_site, sys.flags.utf8_mode, sys.flags.ignore_environment],
    "env": {k.decode(): v.decode() for k, v in posix.environ.items()},
    "fds": sorted(int(fd) for fd in posix.listdir("/proc/self/fd")),
}))
"""


def run(*argv: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, argv)), check=False, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


def built(name: str) -> Path:
    """A command as it is installed beside the interpreter that runs the tests, or compiled where none is installed."""
    path = Path(sys.prefix) / "bin" / name
    if not path.exists():
        pytest.skip(f"{path} is not there: the tests want ctnr installed (make build)")
    return path


@pytest.fixture(params=["ctnr", "ctnr-oci"])
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A command of its own in an otherwise empty prefix."""
    (tmp_path / "prefix/bin").mkdir(parents=True)
    return Path(shutil.copy2(built(request.param), tmp_path / "prefix/bin" / request.param))


def install(program: Path, where: str) -> Path:
    """A package that only tells, below the program's prefix."""
    main = program.parents[1] / where / "ctnr/__main__.py"
    main.parent.mkdir(parents=True)
    main.write_text(TELL)
    return main


def interpreter(program: Path, target: str = PYTHON) -> None:
    (program.parent / "python3").symlink_to(target)


# --- the launcher

PYTHON_DIRECTORY = os.path.basename(PYTHON)  # python3.11


@pytest.mark.parametrize("lib", ["lib", "lib64"])
@pytest.mark.parametrize("packages", ["site-packages", "dist-packages"])
@pytest.mark.parametrize("directory", [PYTHON_DIRECTORY, "python3", "python3.99"])
def test_launcher_finds_interpreter_and_package(program: Path, lib: str, packages: str, directory: str) -> None:
    interpreter(program)
    main = install(program, f"{lib}/{directory}/{packages}")
    told = json.loads(run(program, "a b", "", "--c").stdout)
    assert told["argv"] == [str(main), program.name, "a b", "", "--c"]
    # the interpreter itself, not the link to it, so that Python does not look for a virtual environment
    assert told["python"] == PYTHON
    assert told["flags"] == [1, 1, 1, 1]


def test_launcher_finds_what_pip_target_makes(program: Path) -> None:
    interpreter(program)
    main = install(program, ".")
    assert os.path.normpath(json.loads(run(program).stdout)["argv"][0]) == str(main)


def test_launcher_prefers_the_interpreters_own_package(program: Path) -> None:
    interpreter(program)
    install(program, "lib/python3.0/site-packages")
    main = install(program, f"lib/{PYTHON_DIRECTORY}/site-packages")
    assert json.loads(run(program).stdout)["argv"][0] == str(main)


def test_launcher_takes_the_systems_interpreter_where_there_is_none_beside_it(program: Path) -> None:
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("no /usr/bin/python3")
    interpreter(program, "/nonexistent/python3")
    install(program, "lib/python3.0/site-packages")
    assert json.loads(run(program).stdout)["python"] == os.path.realpath("/usr/bin/python3")


def test_launcher_passes_environment_and_descriptors_untouched(program: Path) -> None:
    interpreter(program)
    install(program, f"lib/{PYTHON_DIRECTORY}/site-packages")
    env = {"A": "1", "PYTHONPATH": "/nonexistent", "LC_ALL": "C.UTF-8", "EMPTY": ""}
    read_fd, write_fd = os.pipe()
    os.dup2(read_fd, 50)
    try:
        told = json.loads(run(program, env=env, pass_fds=(50,)).stdout)
    finally:
        for fd in (read_fd, write_fd, 50):
            os.close(fd)
    assert told["env"] == env
    # 3 is that of listdir itself
    assert told["fds"] == [0, 1, 2, 3, 50]


def test_launcher_works_without_standard_streams(program: Path, tmp_path: Path) -> None:
    interpreter(program)
    install(program, f"lib/{PYTHON_DIRECTORY}/site-packages")
    done = subprocess.run(["sh", "-c", f"{program} x <&- 2>&-"], check=False, capture_output=True, text=True)
    assert json.loads(done.stdout)["argv"][1:] == [program.name, "x"]


def test_launcher_is_found_through_links(program: Path, tmp_path: Path) -> None:
    interpreter(program)
    install(program, f"lib/{PYTHON_DIRECTORY}/site-packages")
    link = tmp_path / "runc"
    link.symlink_to(program)
    assert json.loads(run(link).stdout)["argv"][1:] == [program.name]


def test_launcher_without_a_package_asks_the_interpreter(program: Path) -> None:
    # an interpreter that tells how it was called
    fake = program.parent / "python3"
    fake.write_text('#!/bin/sh\necho "$0" "$@"\n')
    fake.chmod(0o755)
    told = run(program, "x").stdout
    assert told.startswith(f"{fake} -I -Xutf8 -c import sys; from ctnr.cli.boot import script; ")
    assert told.endswith(f" {program.name} x\n")


def test_launcher_takes_many_arguments(program: Path) -> None:
    interpreter(program)
    install(program, f"lib/{PYTHON_DIRECTORY}/site-packages")
    argv = ["x" * (i % 7) for i in range(20_000)]
    assert json.loads(run(program, *argv).stdout)["argv"][2:] == argv


def test_launcher_is_static() -> None:
    for name in ("ctnr", "ctnr-oci"):
        image = built(name).read_bytes()
        assert image[:4] == b"\x7fELF"
        assert b"ld-linux" not in image
        assert len(image) < 16384


# --- the zipapp


@pytest.fixture(scope="module")
def zipapp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (INSTALLED / "_native/_native.abi3.so").exists():
        pytest.skip(f"no extension in {INSTALLED}: the tests want ctnr installed (make build)")
    path = tmp_path_factory.mktemp("zipapp") / "ctnr.pyz"
    done = run(sys.executable, "-I", CHECKOUT / "tools/make_zipapp.py", INSTALLED.parent, path)
    assert done.returncode == 0, done.stderr
    return path


def test_zipapp_is_reproducible(zipapp: Path, tmp_path: Path) -> None:
    run(sys.executable, "-I", CHECKOUT / "tools/make_zipapp.py", INSTALLED.parent, tmp_path / "again.pyz")
    assert (tmp_path / "again.pyz").read_bytes() == zipapp.read_bytes()


def test_zipapp_runs_from_anywhere(zipapp: Path, tmp_path: Path) -> None:
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("no /usr/bin/python3")
    expected = f"ctnr version {ctnr.__version__}\n"
    assert run(zipapp, "--version").stdout.startswith(expected)
    assert run("./ctnr.pyz", "--version", cwd=zipapp.parent).stdout.startswith(expected)
    assert run(sys.executable, "ctnr.pyz", "--version", cwd=zipapp.parent).stdout.startswith(expected)
    shutil.copy(zipapp, tmp_path / "it's a name")
    assert run(tmp_path / "it's a name", "--version").stdout.startswith(expected)
    assert run("it's a name", "--version", env={"PATH": str(tmp_path)}).stdout.startswith(expected)
    (tmp_path / "ctnr-oci").symlink_to(zipapp)
    assert run(tmp_path / "ctnr-oci", "--version").stdout.startswith("ctnr-oci version")


NATIVE = """
import fcntl, posix, sys
sys.path.insert(0, sys.argv[1])
import ctnr._native
path = sys.modules["ctnr._native._native"].__spec__.origin
assert path.startswith("/proc/self/fd/"), path
fd = int(path.rpartition("/")[2])
assert callable(ctnr._native.pidfd_open)
assert fcntl.fcntl(fd, fcntl.F_GETFD) == fcntl.FD_CLOEXEC
seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & seals == seals
print(fd)
"""


@pytest.mark.parametrize(("limit", "expected"), [(256, "100"), (50, "3")])
def test_zipapp_loads_the_extension_from_memory(zipapp: Path, limit: int, expected: str) -> None:
    argv = [sys.executable, "-IS", "-c", NATIVE, zipapp]
    done = run("sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *argv)
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_native_says_when_it_is_not_built(tmp_path: Path) -> None:
    shutil.copytree(INSTALLED, tmp_path / "ctnr", ignore=shutil.ignore_patterns("*.so"))
    done = run(
        sys.executable, "-IS", "-c", "import sys; sys.path.insert(0, sys.argv[1]); import ctnr._native", tmp_path
    )
    last = done.stderr.splitlines()[-1]
    assert last == f"ImportError: {tmp_path}/ctnr/_native/_native.abi3.so is not there: build ctnr first (make build)"


# --- the rules


def sources() -> list[Path]:
    found = [CHECKOUT / "setup.py", CHECKOUT / "conftest.py", CHECKOUT / "Makefile", CHECKOUT / ".ci/run"]
    for top in ("ctnr", "launcher", "tools", "tests", "integration", "bench"):
        for pattern in ("*.py", "*.pyi", "*.c", "*.h", "*.sh"):
            found += sorted((CHECKOUT / top).rglob(pattern))
    return [path for path in found if path.stat().st_size]


def test_every_source_names_its_license() -> None:
    without = [
        str(path.relative_to(CHECKOUT))
        for path in sources()
        if not any("SPDX-License-Identifier: Apache-2.0" in line for line in path.read_text().splitlines()[:2])
    ]
    assert without == []


def test_modules_are_small() -> None:
    large = {
        str(path.relative_to(CHECKOUT)): lines
        for path in sources()
        if path.is_relative_to(CHECKOUT / "ctnr") and (lines := path.read_text().count("\n")) > 500
    }
    assert large == {}


def test_version_is_one() -> None:
    assert version("ctnr") == ctnr.__version__


def test_help_lists_every_target() -> None:
    makefile = (CHECKOUT / "Makefile").read_text()
    phony = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[0].split()
    listed = re.findall(r"^make (\S+) +\S", run("make", "help", cwd=CHECKOUT).stdout, re.MULTILINE)
    assert sorted(listed) == sorted(phony)
