# SPDX-License-Identifier: Apache-2.0
"""io.ctnr.landlock without a kernel that enforces it: the document, the steps, and what each ABI leaves of them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctnr import Landlock
from ctnr.engine.options import Options
from ctnr.errors import SpecError
from ctnr.runtime import landlock
from ctnr.runtime import plan as p
from ctnr.runtime.plan import Plan, Step


def steps(document: Any, abi: int, monkeypatch: pytest.MonkeyPatch) -> list[Step]:
    monkeypatch.setattr(landlock, "landlock_abi", lambda: abi)
    plan = Plan()
    landlock.compile(plan, document if isinstance(document, str) else json.dumps(document), 5)
    return plan.steps


FULL = {
    "fs": {"/": ["read", "execute"], "/tmp": ["read", "write"]},
    "bind_tcp": [80],
    "connect_tcp": [53, 443],
    "scoped": ["signal", "abstract_unix_socket"],
    "log": ["new_exec_on"],
}


def test_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    made = steps(FULL, 7, monkeypatch)
    assert [(step.op, step.args) for step in made] == [
        (p.LANDLOCK, (0xFFFF, 3, 3, 24)),
        (p.LANDLOCK_PATH, (0b1101,)),
        (p.LANDLOCK_PATH, (0xFFFE,)),
        (p.LANDLOCK_PORT, (1, 80)),
        (p.LANDLOCK_PORT, (2, 53)),
        (p.LANDLOCK_PORT, (2, 443)),
        (p.LANDLOCK_SELF, (2, 5)),
    ]
    assert made[2].field == 'annotations["io.ctnr.landlock"].fs["/tmp"]'
    plan = Plan()
    plan.steps = made
    assert "enforce the Landlock ruleset" in plan.explain()


@pytest.mark.parametrize(
    ("abi", "handled", "size"),
    [
        (1, (0x1FFF, 0, 0), 8),
        (2, (0x3FFF, 0, 0), 8),
        (3, (0x7FFF, 0, 0), 8),
        (4, (0x7FFF, 3, 0), 16),
        (5, (0xFFFF, 3, 0), 16),
        (6, (0xFFFF, 3, 3), 24),
        (7, (0xFFFF, 3, 3), 24),
        (99, (0xFFFF, 3, 3), 24),
    ],
)
def test_best_effort(abi: int, handled: tuple[int, ...], size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = steps(FULL | {"best_effort": True}, abi, monkeypatch)
    assert made[0].args == (*handled, size)
    assert made[-1].args[0] == (2 if abi >= 7 else 0)
    assert all(step.args[0] & ~handled[0] == 0 for step in made if step.op == p.LANDLOCK_PATH)
    assert all(step.flags == p.LANDLOCK_OPTIONAL for step in made if step.op == p.LANDLOCK_PATH)
    assert any(step.op == p.LANDLOCK_PORT for step in made) == (abi >= 4)


def test_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    for document, abi, message in (
        (FULL, 0, "this kernel has no Landlock"),
        (FULL, 4, r"\.fs: ioctl_dev: needs Landlock ABI 5, this kernel has 4"),
        ({"handled_fs": ["truncate"]}, 2, r"\.handled_fs: needs Landlock ABI 3"),
        ({"bind_tcp": []}, 3, r"\.bind_tcp: needs Landlock ABI 4"),
        ({"scoped": ["signal"]}, 5, r"\.scoped: needs Landlock ABI 6"),
        ({"handled_fs": ["execute"], "log": ["new_exec_on"]}, 6, r"\.log: needs Landlock ABI 7"),
        ({}, 7, "handles nothing"),
        ({"fs": {"/": ["read"]}, "handled_fs": ["execute"]}, 7, None),
        (
            {"fs": {"/": ["read_file"]}, "handled_fs": ["execute"]},
            7,
            r'\.fs\["/"\]: allows what is not among handled_fs',
        ),
    ):
        if message is None:
            steps(document, abi, monkeypatch)
            continue
        with pytest.raises(SpecError, match=message):
            steps(document, abi, monkeypatch)
    assert steps({"best_effort": True}, 7, monkeypatch) == []
    assert steps(FULL | {"best_effort": True}, 0, monkeypatch) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "must be an object"),
        ('{"rules": {}}', 'unknown member "rules"'),
        ('{"fs": {"/": ["fly"]}}', 'fs["/"][0]: unknown Landlock right "fly"'),
        ('{"fs": {"tmp": ["read"]}}', 'fs["tmp"]: must be an absolute path'),
        ('{"bind_tcp": [65536]}', "bind_tcp[0]: "),
        ('{"scoped": ["world"]}', "scoped[0]: unknown Landlock scope"),
        ('{"log": ["all"]}', "log[0]: unknown Landlock log flag"),
        ('{"best_effort": 1}', "best_effort: "),
    ],
)
def test_errors_name_the_field(text: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError) as info:
        steps(text, 7, monkeypatch)
    assert str(info.value).startswith('annotations["io.ctnr.landlock"]')
    assert message in str(info.value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json(value: Any) -> None:
    try:
        landlock.parse(json.dumps(value), "x")
    except SpecError:
        pass


def test_the_class() -> None:
    made = Landlock({"/": "rx", "/tmp": ["read", "make_reg"]}, connect_tcp=[443], scoped=["signal"])
    assert json.loads(made.json()) == {
        "fs": {"/": ["read", "execute"], "/tmp": ["read", "make_reg"]},
        "connect_tcp": [443],
        "scoped": ["signal"],
        "log": [],
        "best_effort": False,
    }
    with pytest.raises(SpecError, match=r'landlock.fs\["/"\]\[0\]: unknown Landlock right "q"'):
        Landlock({"/": "q"})
    assert Options(["true"], landlock=made).landlock is made
