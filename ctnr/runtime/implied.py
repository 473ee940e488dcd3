# SPDX-License-Identifier: Apache-2.0
"""The user namespace that a config leaves out, as crun has it: a user's container cannot be without one.

HOT: imported by create only for a user without one in the config, and for one without mappings.
"""

from __future__ import annotations

import posix

from ctnr.runtime import idmap
from ctnr.spec.runtime import check_user_namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.spec.types import Config


def add_user_namespace(config: Config) -> None:
    """Add the namespace, and its mappings if there are none: root is who calls, the rest are his subordinate ids.

    Raises SpecError if an id of process.user is not among them.
    """
    linux = config.setdefault("linux", {})
    namespaces = linux.setdefault("namespaces", [])
    if not any(n["type"] == "user" for n in namespaces):
        namespaces.append({"type": "user"})
    if not linux.get("uidMappings"):
        uids, gids = idmap.rootless_maps(posix.geteuid(), posix.getegid())
        linux["uidMappings"], linux["gidMappings"] = uids, gids
        check_user_namespace(config)
