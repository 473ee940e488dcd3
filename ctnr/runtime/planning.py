# SPDX-License-Identifier: Apache-2.0
"""What create would do, without doing it: for `plan` and `ctnr run --explain`. HOT (plan)."""

from __future__ import annotations

from ctnr import files
from ctnr.runtime import cgroups, creating
from ctnr.runtime import compile as compiler
from ctnr.runtime.compile import Context
from ctnr.runtime.rootfs import resolve_rootfs
from ctnr.spec.runtime import parse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.creating import Made
    from ctnr.runtime.plan import Plan
    from ctnr.spec.types import Config


def plan(
    bundle: str,
    *,
    id: str = "ID",
    config: Config | None = None,
    config_path: str | None = None,
    no_pivot: bool = False,
    no_new_keyring: bool = False,
    cgroup_manager: str = "cgroupfs",
    init: bool = False,
    made: Made | None = None,
) -> Plan:
    """The plan that create would carry out; nothing is made."""
    bundle = files.abspath(bundle)
    if config is None:
        config = parse(creating.read_config(bundle, config_path))
    creating.check_config(config)
    ctx = Context(config, id, bundle)
    lenient = made is None
    made = made or creating.Made()
    ctx.rootfs = made.rootfs or resolve_rootfs(config, bundle)
    ctx.no_pivot, ctx.no_new_keyring, ctx.init = no_pivot, no_new_keyring, init
    ctx.root_steps = made.root_steps
    rootless = creating.is_rootless()
    ctx.setgroups = creating.setgroups(config, rootless)
    linux = ctx.linux
    resources, annotations = linux.get("resources") or {}, config.get("annotations")
    path = linux.get("cgroupsPath")
    ctx.cgroup = cgroups.new(path, id, rootless, cgroup_manager, resources, None, lenient, annotations)
    ctx.cgroup_wait = ctx.cgroup is not None and ctx.cgroup.joined_by_parent
    if ctx.cgroup is not None and not ctx.cgroup_wait:
        ctx.cgroup_files = len({path for name, path in ctx.cgroup.paths.items() if name})
    return compiler.compile_create(ctx)
