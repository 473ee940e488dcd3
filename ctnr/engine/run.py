# SPDX-License-Identifier: Apache-2.0
"""`ctnr run` as functions: a SOURCE and options to a container, to a result. HOT (run)."""

from __future__ import annotations

import posix

from ctnr import files
from ctnr.engine import config as configs
from ctnr.engine import overlay, sources
from ctnr.engine.deferred import Deferred
from ctnr.engine.options import Options
from ctnr.errors import CtnrError
from ctnr.runtime import creating, state
from ctnr.runtime.compile import exists
from ctnr.runtime.container import Container
from ctnr.runtime.creating import Made

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctnr.engine.sources import Source
    from ctnr.runtime.plan import Plan, Step
    from ctnr.runtime.supervisor import Callback
    from ctnr.spec.types import Config


def store_dir(path: str | None = None) -> str:
    """The store: what was asked for, $CTNR_STORE, or the user's own (DESIGN: /var/lib/ctnr, ~/.local/share/ctnr)."""
    chosen = path or files.getenv("CTNR_STORE")
    if chosen:
        return files.abspath(chosen)
    if posix.geteuid() == 0:
        return "/var/lib/ctnr"
    base = files.getenv("XDG_DATA_HOME")
    if base:
        return f"{base}/ctnr"
    home = files.getenv("HOME")
    if not home:
        raise CtnrError("no HOME to keep the store in: set CTNR_STORE, or use --store-dir")
    return f"{home}/.local/share/ctnr"


def _prepare(source: str, options: Options, id: str, root: str, store: str) -> tuple[Config, Made]:
    directory = files.join(root, id)
    found = sources.resolve(source, store, id)
    made = Made()
    if found.owned:
        made.state["owned"] = found.owned
    try:
        config = configs.build(options, found, id, directory)
        configs.make_volumes(options)
        made.files = configs.etc_files(options, config["hostname"])
        if found.lower:
            made.directories = [sources.LAYER]
            made.rootfs = found.root(directory)
            made.root_steps = _root_steps(found, directory, config)
        made.state["source"] = source
        made.state["autoremove"] = options.rm if options.rm is not None else options.name is None
        made.held = True
    except BaseException:
        _disown(made)
        raise
    return config, made


def _root_steps(source: Source, directory: str, config: Config) -> list[Step]:
    targets = [mount["destination"] for mount in config["mounts"]]
    return overlay.root_steps(source, directory, posix.geteuid() != 0, targets)


def create(
    source: str,
    options: Options | None = None,
    *,
    root: str | None = None,
    store: str | None = None,
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
    detach: bool = False,
    cgroup_manager: str | None = None,
    rootless: bool | None = None,
    on_syscall: Mapping[str, Callback] | None = None,
) -> Container:
    """A created container from a SOURCE: host:, a directory or an archive. Raises CtnrError; nothing is left behind then.

    stdin, stdout, stderr are fds. Unless `detach`, it belongs to this process: only this one can start it.
    cgroup_manager, rootless, on_syscall: as ctnr.Container.create() has them.
    """
    options = options or Options()
    root = root or state.default_root()
    id = options.name or posix.urandom(6).hex()
    state.check_id(id)
    if not id[0].isalnum():
        raise CtnrError(f"--name: {id!r}: a name begins with a letter or a digit")
    store = store_dir(store)
    sweep(root, store)
    if options.name and id in state.ids(root):
        raise CtnrError(
            f"--name: {id} is taken by another container: remove it (ctnr delete {id}) or choose another name"
        )
    config, made = _prepare(source, options, id, root, store)
    container = None
    try:
        with Deferred():
            container = creating.create(
                id,
                files.join(root, id),
                root=root,
                config=config,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                detach=detach,
                cgroup_manager=cgroup_manager or "cgroupfs",
                rootless=rootless,
                init=options.init,
                made=made,
                on_syscall=on_syscall,
            )
            _own(made)
        return container
    except BaseException as error:
        if container is not None:
            container.delete(force=True)
        else:
            _disown(made)
        if isinstance(error, CtnrError):
            error.args = (_in_options(str(error)),)
        raise


# what a user asked for, for what the runtime names as the culprit
_OPTION_OF = (
    ("linux.resources.memory", "--memory"),
    ("linux.resources.cpu", "--cpus"),
    ("linux.resources.pids", "--pids-limit"),
    ("process.rlimits", "--ulimit"),
    ("linux.devices", "--device"),
    ("process.cwd", "--workdir"),
)


def _in_options(message: str) -> str:
    field, colon, rest = message.partition(": ")
    for name, option in _OPTION_OF:
        if colon and field.startswith(name) and field[len(name) : len(name) + 1] in ("", ".", "["):
            return f"{option}: {rest}"
    return message


def _own(made: Made) -> None:
    """The container is written down, and what was unpacked for it with it."""
    if "owned" in made.state:
        from ctnr.engine import unpacking

        unpacking.done(made.state["owned"])


def _disown(made: Made) -> None:
    """Remove what was unpacked for a container that is not to be."""
    if "owned" in made.state:
        from ctnr.engine import unpacking

        unpacking.remove(made.state["owned"])


def explain(source: str, options: Options | None = None, *, root: str | None = None, store: str | None = None) -> Plan:
    """The plan that create() would carry out. Nothing is made: an archive's files are where they would be unpacked."""
    options = options or Options()
    id = options.name or "ID"
    directory = files.join(root or state.default_root(), id)
    found = sources.resolve(source, store_dir(store), id, unpack=False)
    made = Made()
    config = configs.build(options, found, id, directory)
    made.rootfs = found.root(directory)
    made.root_steps = _root_steps(found, directory, config)
    from ctnr.runtime import planning

    return planning.plan(directory, id=id, config=config, init=options.init, made=made)


def sweep(root: str, store: str) -> None:
    """Remove what runs that were killed have left: containers that were to be removed at their end, unpacked archives."""
    for id in state.ids(root):
        if not exists(f"{root}/{id}/{state.HELD}"):
            continue  # not made here
        try:
            container = Container.load(id, root)
        except CtnrError:
            continue
        try:
            if container.abandoned() and is_unwanted(container) and container.status() == "stopped":
                container.delete(force=True)
        except CtnrError:
            continue  # another sweep, or its own run, is at it
        finally:
            container.close()
    try:
        unfinished = any(name.startswith(sources.UNFINISHED) for name in posix.listdir(sources.containers(store)))
    except OSError:
        return  # nothing was ever unpacked there
    if unfinished:
        from ctnr.engine import unpacking

        unpacking.sweep(sources.containers(store))


def is_unwanted(container: Container) -> bool:
    """Whether the container is to be removed at its end."""
    return bool(container.extra.get("autoremove"))
