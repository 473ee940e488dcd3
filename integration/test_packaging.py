# SPDX-License-Identifier: Apache-2.0
"""The wheel and ctnr.pyz, made by `make wheel` and `make zipapp`, on a Debian that has python3 and no compiler."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import machine

In = Callable[[str], str]

# Enters ROOT as its own root (a chroot would not do: pivot_root wants a mount) and in pid and mount namespaces that end
# with it, over a throw-away layer.
ENTER = """
set -e
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$LAYER/upper,workdir=$LAYER/work" "$LAYER/root"
cd "$LAYER/root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mkdir -p old
pivot_root . old
umount -l /old
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh -ec "$SCRIPT"
"""


def make(target: str) -> None:
    # not under the flags of the make that runs the tests
    env = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(
        ["make", target], cwd=machine.CHECKOUT, env=env, check=False, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel() -> Path:
    shutil.rmtree(machine.CHECKOUT / "dist", ignore_errors=True)
    make("wheel")
    [path] = (machine.CHECKOUT / "dist").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def pyz() -> Path:
    make("zipapp")
    return machine.CHECKOUT / "ctnr.pyz"


@pytest.fixture(scope="session")
def python_root(debian_root: Path) -> Path:
    """Debian's minbase with python3 and what makes virtual environments. Made once, and kept."""
    root = machine.cache_dir() / "debian-python3"
    with machine.locked(machine.cache_dir() / "debian-python3.lock"):
        if not root.exists():
            machine.need_root()
            new = root.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            subprocess.run(["cp", "-a", debian_root, new], check=True)
            shutil.copy("/etc/resolv.conf", new / "etc/resolv.conf")
            script = "apt-get update -q && apt-get install -qy --no-install-recommends python3-venv"
            done = subprocess.run(
                ["chroot", new, "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]
                + ["sh", "-c", script],
                check=False,
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
            )
            if done.returncode != 0:
                shutil.rmtree(new)
                machine.missing(f"apt-get failed in a Debian root: {(done.stderr or done.stdout)[-300:].strip()}")
            new.rename(root)
    return root


@pytest.fixture
def on_debian(python_root: Path, work: Path) -> Iterator[In]:
    """Runs a shell script on that Debian, as root, and says what it printed. `/work` is the test's directory; changes stay."""
    machine.need_root()
    layer = work / "layer"
    for name in ("upper/work", "work", "root"):
        (layer / name).mkdir(parents=True)
    [unshare] = machine.need("unshare")

    def run(script: str) -> str:
        env = {**os.environ, "LOWER": str(python_root), "LAYER": str(layer), "SCRIPT": script}
        done = subprocess.run(
            [unshare, "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c", ENTER],
            env=env,
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=300,
        )
        assert done.returncode == 0, f"{script}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    yield run
    # the overlay's work directory has a directory without permissions in it
    subprocess.run(["rm", "-rf", layer], check=True)


def put(work: Path, *files: Path) -> None:
    """Into the `/work` of on_debian."""
    for file in files:
        shutil.copy2(file, work / "layer/upper/work" / file.name)


# A bundle of the Debian's own /usr and no more
BUNDLE = """
mkdir -p /bundle/rootfs/usr && cd /bundle
ln -s usr/bin usr/lib usr/lib64 rootfs
mount --bind /usr rootfs/usr
{ctnr}-oci spec
sed -i 's/"terminal": true/"terminal": false/; s/"sh"/"sh", "-c", "echo $$; id -u; hostname"/' config.json
{ctnr}-oci run packaged
{ctnr}-oci list -q
"""


def check_it_runs(on_debian: In, ctnr: str, version: str) -> None:
    """Containers, as root, on the Debian itself: their own pid 1, host name, and a root that forgets."""
    assert on_debian(f"{ctnr} --version").splitlines()[0] == f"ctnr version {version}"
    assert on_debian(f"{ctnr}-oci --version").splitlines()[0] == f"ctnr-oci version {version}"
    assert on_debian(BUNDLE.format(ctnr=ctnr)).split() == ["1", "0", "ctnr"]
    script = "echo $$; id -u; hostname; touch /written"
    out = on_debian(f"{ctnr} run --rm --hostname inside host: sh -c {shlex.quote(script)}; ls -A / | grep written || :")
    assert out.split() == ["1", "0", "inside"]
    on_debian("rm -r /bundle")


def version_of(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def test_the_wheel_is_one_for_all(wheel: Path) -> None:
    name, _, python, abi, platform = wheel.name.removesuffix(".whl").split("-")
    assert (name, python, abi) == ("ctnr", "cp311", "abi3")
    assert platform.startswith("manylinux_"), platform
    names = zipfile.ZipFile(wheel).namelist()
    assert not [n for n in names if n.endswith((".c", ".h", ".o"))]
    assert not [n for n in names if ".libs/" in n]
    assert {"ctnr/py.typed", "ctnr/_native/_native.abi3.so", "ctnr/_native/_native.pyi"} <= set(names)


def test_no_compiler_there(on_debian: In) -> None:
    assert on_debian("for c in cc gcc clang tcc make; do command -v $c || :; done") == ""


def test_wheel_in_a_virtual_environment(on_debian: In, wheel: Path, work: Path) -> None:
    # with what it depends on, found by pip out here
    pip = [machine.CHECKOUT / ".venv/bin/python3", "-I", "-m", "pip", "-q"]
    subprocess.run([*pip, "download", "--only-binary=:all:", "-d", work / "wheels", wheel], check=True)
    put(work, *(work / "wheels").iterdir())
    on_debian(
        "python3 -m venv /opt/ctnr; /opt/ctnr/bin/pip install -q --no-index --find-links /work ctnr 2>&1; rm -r /work"
    )
    check_it_runs(on_debian, "/opt/ctnr/bin/ctnr", version_of(wheel))
    # found through a link, as pipx and uv make them, and as a library
    on_debian("ln -s /opt/ctnr/bin/ctnr /opt/ctnr/bin/ctnr-oci /usr/local/bin/")
    check_it_runs(on_debian, "ctnr", version_of(wheel))
    program = "import ctnr; print(ctnr.__version__)"
    assert on_debian(f"cd /; /opt/ctnr/bin/python -c '{program}'; /opt/ctnr/bin/python -m ctnr --version").startswith(
        f"{version_of(wheel)}\nctnr version {version_of(wheel)}\n"
    )
    # pip left the commands as they are
    with zipfile.ZipFile(wheel) as archive:
        for name in ("ctnr", "ctnr-oci"):
            [entry] = [n for n in archive.namelist() if n.endswith(f".data/scripts/{name}")]
            digest = hashlib.sha256(archive.read(entry)).hexdigest()
            assert (
                on_debian(f"stat -c %a /opt/ctnr/bin/{name}; sha256sum </opt/ctnr/bin/{name}") == f"755\n{digest}  -\n"
            )


def test_wheel_for_the_whole_system(on_debian: In, wheel: Path, work: Path) -> None:
    put(work, wheel)
    on_debian(
        "python3 -m venv /opt/pip; /opt/pip/bin/pip -q --python /usr/bin/python3 install --no-deps --break-system-packages"
        " --root-user-action ignore /work/*.whl 2>&1"
    )
    # Debian's own places: /usr/local/bin without a python3, /usr/local/lib/python3.N/dist-packages
    check_it_runs(on_debian, "ctnr", version_of(wheel))


def test_zipapp(on_debian: In, pyz: Path, wheel: Path, work: Path) -> None:
    put(work, pyz)
    on_debian("mv /work/ctnr.pyz /usr/local/bin/ctnr; ln -s ctnr /usr/local/bin/ctnr-oci")
    check_it_runs(on_debian, "ctnr", version_of(wheel))
