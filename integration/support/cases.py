# SPDX-License-Identifier: Apache-2.0
"""The tables of test_inside.py: what a config asks for, and how the kernel must show it.

A case changes a bundle and says what the payload has to see. `asks` are questions to the payload (payload/probe.c).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from .bundles import Bundle
from .kernel import Json
from .users import KINDS, ROOT, SUBIDS, User

Change = Callable[[Bundle], object]
Check = Callable[[Json, Bundle, User], object]
Row = tuple[Change, Check]


@dataclass
class Case:
    """One row. `kinds`: the users it makes sense for. `peers`: which version of a peer does it too ({} for none)."""

    name: str
    change: Change
    check: Check
    asks: tuple[str, ...] = ()
    kinds: tuple[str, ...] = KINDS
    peers: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"runc": (1, 1), "crun": (1, 8)})
    exec_too: bool = True

    def __str__(self) -> str:
        return self.name


CASES: list[Case] = []
ROOT_AND_SUBIDS = (ROOT, SUBIDS)


def case(
    *asks: str,
    kinds: tuple[str, ...] = KINDS,
    peers: Mapping[str, tuple[int, ...]] | None = None,
    exec_too: bool = True,
) -> Callable[[Callable[[], Row]], None]:
    """Registers a function that returns (change, check) as a row named after it."""

    def register(make: Callable[[], Row]) -> None:
        change, check = make()
        row = Case(make.__name__, change, check, asks, kinds, exec_too=exec_too)
        if peers is not None:
            row.peers = peers
        CASES.append(row)

    return register


def nothing(bundle: Bundle) -> None:
    """The default config as it is."""


def expect(what: object, wanted: object) -> None:
    assert what == wanted, f"{what!r} is not {wanted!r}"
