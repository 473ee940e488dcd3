# SPDX-License-Identifier: Apache-2.0
"""Configurations as no tool writes them: real ones, changed at random. For the tests, the fuzzer and the live containers."""

from __future__ import annotations

import copy
import json
import random
from pathlib import Path
from typing import Any

import spec_sample

_CONFIGS = Path(__file__).parent / "data" / "configs"
Steps = tuple[str | int, ...]

# values from the edges of what the fields hold, and of other types
EDGES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 4096, 65536, 2**31 - 1, 2**31, -(2**31), 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64,
    -(2**63), 10**40, 0.5, 1e300, -0.0, "", " ", "/", "//", ".", "..", "../..", "/..", "/proc", "/proc/self/fd/7", "/dev",
    "/sys/fs/cgroup", "a", "a" * 300, "/" + "a" * 300, "/a" * 2100, "\0", "/a\0b", "\n", "\x1b[31m", "é",
    "\ud800", "\U0001f600", "%s%n",
    "{0}", "-1", "0", "0-3", "3-0", "0,1,,2", "1-", "max", "host", "private", "SCMP_ACT_ALLOW", "CAP_SYS_ADMIN", "RLIMIT_NOFILE",
    "bind", "rbind", "ro", "remount", "idmap", "idmap=uids=0-0-1;gids=0-0-1", "tmpcopyup", "size=1", "=", ",", "a=b,c", "mode=",
    "cgroup", "cgroup2", "tmpfs", "overlay", "user", "pid", "time", "/proc/1/ns/pid", "a:b:c", "system.slice:ctnr:x", [], {},
    [None], [[]], [{}], {"": ""}, {"a": None}, [""], ["bind"], [0], [1, 2, 3], {"type": "user"}, {"path": "/"}, {"key": "value"},
)  # fmt: skip


def seeds() -> list[dict[str, Any]]:
    """The configurations of real callers, and the one that has every field."""
    found = [json.loads(path.read_text()) for path in sorted(_CONFIGS.glob("*.json"))]
    return [spec_sample.full(), *found]


def places(value: Any, steps: Steps = ()) -> list[Steps]:
    """The paths of all values in a document but itself."""
    found: list[Steps] = []
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.append((*steps, key))
        found += places(inner, (*steps, key))
    return found


def get(document: Any, steps: Steps) -> Any:
    for step in steps:
        document = document[step]
    return document


def mutate(document: dict[str, Any], other: Any, draw: random.Random) -> None:
    """Change the document in place once, perhaps with a part of `other`."""
    found = places(document)
    if not found:
        document["ociVersion"] = "1.0.2"
        return
    steps = draw.choice(found)
    holder, key = get(document, steps[:-1]), steps[-1]
    kind = draw.randrange(9)
    if kind == 0:
        del holder[key]
    elif kind <= 3:
        holder[key] = copy.deepcopy(draw.choice(EDGES))
    elif kind == 4:  # from another place in it, or in the other
        source = draw.choice((document, other))
        holder[key] = copy.deepcopy(get(source, draw.choice(places(source) or [()])))
    elif kind == 5 and isinstance(holder, list):
        holder.insert(int(key), copy.deepcopy(draw.choice([holder[int(key)], *EDGES])))
    elif kind == 6 and isinstance(holder, dict):
        holder[str(draw.choice(EDGES))] = copy.deepcopy(draw.choice(EDGES))
    elif kind == 7 and isinstance(holder[key], str):
        text = holder[key]
        at = draw.randrange(len(text) + 1)
        holder[key] = text[:at] + draw.choice([e for e in EDGES if isinstance(e, str)]) + text[at + draw.randrange(2) :]
    elif kind == 8 and isinstance(holder[key], int):
        holder[key] = int(holder[key]) + draw.choice((-1, 1, 256, 2**31, 2**32, -(2**32), 2**63))
    else:  # a field of the specification that is not there
        full = spec_sample.full()
        new = draw.choice(places(full))
        try:
            into = get(document, new[:-1])
            if isinstance(into, dict):
                into[new[-1]] = copy.deepcopy(get(full, new))
        except (KeyError, IndexError, TypeError):
            return


def mutated(draw: random.Random) -> dict[str, Any]:
    """One of the seeds, changed up to eight times."""
    found = seeds()
    document, other = draw.choice(found), draw.choice(found)
    for _ in range(draw.randrange(1, 9)):
        mutate(document, other, draw)
    return document
