# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the integration tests: real containers on a real kernel. `support/` has the machinery.

CTNR_BIN, CTNR_OCI        the commands to test (default ./.venv/bin/ctnr, ./.venv/bin/ctnr-oci); runc and crun work as CTNR_OCI
CTNR_RUNC, CTNR_CRUN      the peers to compare with (default: the installed ones)
CTNR_TEST_CACHE           what is slow to make is kept here (default /var/cache/ctnr-tests)
CTNR_TEST_TMP             bundles and state go here (default /dev/shm)
CTNR_TEST_SHARED=1        others use this machine now: the leak check looks only at names that are ours
CTNR_TEST_REFUSE=ENOSYS:mount-api   refuse these system calls to the commands to test; support/refusals.py has the groups
CI=true                   a missing prerequisite is a failure, not a skip
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import bundles, leaks, machine, rootfs, runtimes, users, views
from support.bundles import Bundle, MakeBundle
from support.runtimes import MakeRuntime, Runtime
from support.users import User


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "leaks(reason): this test is allowed to leave something behind")
    os.umask(0o022)
    leaks.become_subreaper()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if machine.scratch.cache_info().currsize:
        shutil.rmtree(machine.scratch(), ignore_errors=True)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    return val.__name__ if callable(val) and hasattr(val, "__name__") else None


@pytest.fixture(autouse=True, scope="session")
def _session() -> None:
    """What is made once is made before the first snapshot of the leak check."""
    machine.scratch()
    rootfs.probe()
    if os.getuid() == 0:
        for kind in users.KINDS:
            users.get(kind)


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest, _session: None) -> Iterator[None]:
    """Compares the machine before and after each test; what is left makes the test fail, and is removed."""
    leaks.watched_roots.clear()
    before = leaks.Snapshot.take()
    yield
    left = leaks.settled(before)
    if not left:
        return
    leaks.clean_up(left)
    if request.node.get_closest_marker("leaks") is None:
        pytest.fail(leaks.report(left), pytrace=False)


@pytest.fixture
def work(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[Path]:
    """A directory for the test, passable for every user."""
    path = machine.scratch() / f"work-{bundles.new_id()}"
    path.mkdir(mode=0o755)
    yield path
    if os.environ.get("CTNR_TEST_KEEP") != "1":
        shutil.rmtree(path)


@pytest.fixture(params=users.KINDS)
def user(request: pytest.FixtureRequest) -> User:
    """Root, a user with subordinate ids, a user with one id: the test runs as each."""
    return users.get(request.param)


@pytest.fixture
def root() -> User:
    return users.get(users.ROOT)


@pytest.fixture(params=(users.SUBIDS, users.ONE_ID))
def rootless_user(request: pytest.FixtureRequest) -> User:
    return users.get(request.param)


@pytest.fixture(params=(views.HOST, views.V1, views.V2))
def view(request: pytest.FixtureRequest) -> str:
    """The host's cgroup tree as it is, as pure v1 and as v2 only, where the host can show it so."""
    if request.param not in views.available():
        pytest.skip(
            f"this host has no {request.param} view of its cgroups (it is {machine.cgroup_mode()}, and this may need root)"
        )
    return str(request.param)


@pytest.fixture
def runtimes_of(work: Path) -> Iterator[MakeRuntime]:
    """Makes runtimes: `runtimes_of(user, path=None, view="host")`; what their containers leave is deleted at the end."""
    made: list[Runtime] = []

    def make(user: User, path: Path | None = None, view: str = views.HOST, flags: tuple[str, ...] = ()) -> Runtime:
        state = work / f"state-{len(made)}"
        state.mkdir(mode=0o700)
        if os.getuid() == 0:
            os.chown(state, user.uid, user.gid)
        path = path or runtimes.ctnr_oci()
        machine.need_that(path.exists(), f"{path} is not built (make build)")
        runtime = Runtime(path, state, user, view, flags)
        made.append(runtime)
        return runtime

    yield make
    for runtime in made:
        runtime.cleanup()


@pytest.fixture
def runtime(runtimes_of: MakeRuntime, user: User) -> Runtime:
    """ctnr-oci as `user`, with a state root of its own."""
    return runtimes_of(user)


@pytest.fixture
def root_runtime(runtimes_of: MakeRuntime, root: User) -> Runtime:
    """ctnr-oci as root."""
    return runtimes_of(root)


@pytest.fixture
def bundle_of(work: Path) -> MakeBundle:
    """Makes bundles: `bundle_of(user, *args, change=function)`."""
    count = iter(range(1, 1_000_000))

    def make(user: User, *args: str, change: bundles.Change | None = None) -> Bundle:
        return bundles.make(work / f"bundle-{next(count)}", user, *args, change=change)

    return make


@pytest.fixture
def bundle(bundle_of: MakeBundle, user: User) -> Callable[..., Bundle]:
    """Makes bundles for `user`: `bundle("/bin/true", change=function)`."""

    def make(*args: str, change: bundles.Change | None = None) -> Bundle:
        return bundle_of(user, *args, change=change)

    return make


@pytest.fixture(scope="session")
def ctnr_bin() -> Path:
    path = runtimes.ctnr_bin()
    machine.need_that(path.exists(), f"{path} is not built (make build)")
    return path


@pytest.fixture(scope="session")
def ctnr_oci() -> Path:
    path = runtimes.ctnr_oci()
    machine.need_that(path.exists(), f"{path} is not built (make build)")
    return path


@pytest.fixture(scope="session")
def debian_root(_session: None) -> Path:
    """A Debian minbase tree. Read-only by agreement: copy or overlay it."""
    return rootfs.debian()


@pytest.fixture
def busybox_root(work: Path) -> Path:
    """A busybox root filesystem of the test's own, owned by root (or whoever runs the tests)."""
    return rootfs.make_busybox(work / "busybox")
