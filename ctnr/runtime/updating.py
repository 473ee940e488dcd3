# SPDX-License-Identifier: Apache-2.0
"""update: other limits for a container that is there. HOT (update).

Only what the update names is written, all of it or nothing; then the container's config.json is what later updates,
execs and a checkpoint go by. Source of the rules: runc's update.go.
"""

from __future__ import annotations

from ctnr import jsonio, log
from ctnr.errors import SpecError, StateError
from ctnr.runtime import state
from ctnr.runtime.cgroups.devices import FIELD as DEVICES
from ctnr.runtime.cgroups.resources import merge, wanted, wanted_unified
from ctnr.spec.resources import check_resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ctnr.runtime.container import Container


def update(container: Container, resources: dict[str, Any], l3_cache_schema: str, mem_bw_schema: str) -> None:
    """See Container.update()."""
    for warning in check_resources(resources):  # type: ignore[arg-type]  # that is what is checked
        log.warning(warning)
    status = container.status()
    if status in ("stopped", "creating"):
        raise StateError("container not running", container.id, status)
    config: dict[str, Any] = container.config  # type: ignore[assignment]
    linux = config.get("linux") or {}
    before = linux.get("resources") or {}
    group = container.cgroup
    rules = resources.get("devices")
    changed = rules is not None and rules != before.get("devices")
    nodes = linux.get("devices") or ()
    asked = [*wanted(resources).values(), *wanted_unified(resources).values(), *([DEVICES] if changed else ())]
    if group is None and asked:
        why = "cannot be changed: the container has no cgroup (its user may not make one, or none was wanted)"
        raise SpecError(asked[0], why)
    schemas = {"l3CacheSchema": l3_cache_schema, "memBwSchema": mem_bw_schema}
    shares = {name: text for name, text in schemas.items() if text}
    rdt = container.extra.get("rdt")
    schemata = ""
    if shares:
        from ctnr.runtime import intelrdt

        schemata = intelrdt.update(rdt, l3_cache_schema, mem_bw_schema)
        linux = {**linux, "intelRdt": {**(linux.get("intelRdt") or {}), **shares}}
    try:
        if group is not None:
            if changed:
                group.allow(rules or (), nodes)
            group.apply(resources, before)
    except BaseException:
        if changed and group is not None:
            group.allow(before.get("devices") or (), nodes)
        if rdt and shares:
            intelrdt.write_schemata(rdt["path"], schemata.splitlines())
        raise
    config["linux"] = {**linux, "resources": merge(before, resources)}
    container._dir.write(state.CONFIG, jsonio.dumps(config).encode("utf-8", "surrogateescape"))
