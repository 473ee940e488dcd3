# SPDX-License-Identifier: Apache-2.0
"""All containers of a state root. HOT (list, ps)."""

from __future__ import annotations

from ctnr.errors import StateError
from ctnr.runtime import state
from ctnr.runtime.container import Container

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def list_containers(root: str | None = None) -> list[dict[str, Any]]:
    """The state documents of all containers under a root, by id; one that goes away meanwhile is left out."""
    found = []
    for id in state.ids(root or state.default_root()):
        try:
            container = Container.load(id, root)
        except StateError:
            continue
        try:
            found.append(container.state())
        finally:
            container.close()
    return found
