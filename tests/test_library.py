# SPDX-License-Identifier: Apache-2.0
"""`import ctnr`: costs nothing, offers what it says, and says what it takes."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import ctnr
from ctnr.engine.api import Result
from ctnr.engine.options import Options
from ctnr.errors import CtnrError


def loaded_by(code: str) -> set[str]:
    """The modules that a bare interpreter has loaded after `code`, beyond those it always loads."""
    where = str(Path(ctnr.__file__).parents[1])
    script = f"import sys; sys.path.append({where!r}); before = set(sys.modules)\n{code}\n"
    script += "loaded = set(sys.modules) - before\nimport json; print(json.dumps(sorted(loaded)))"
    done = subprocess.run([sys.executable, "-ISc", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_import_loads_nothing_but_itself() -> None:
    assert loaded_by("import ctnr") == {"ctnr"}
    assert loaded_by("import ctnr; ctnr.__version__; ctnr.__all__; dir(ctnr)") == {"ctnr"}


def test_running_loads_nothing_dear() -> None:
    loaded = loaded_by("import ctnr; ctnr.run, ctnr.create, ctnr.Container, ctnr.Options, ctnr.list_containers")
    dear = {
        "argparse",
        "dataclasses",
        "enum",
        "json",
        "logging",
        "pathlib",
        "re",
        "subprocess",
        "tarfile",
        "typing",
        "click",
    }
    assert (
        loaded & (dear | {"ctnr.cli", "ctnr.image", "socket", "signal", "asyncio", "contextlib", "threading"}) == set()
    )


@pytest.mark.parametrize("name", ctnr.__all__)
def test_what_it_offers(name: str) -> None:
    found = getattr(ctnr, name)
    assert name in dir(ctnr)
    assert name in vars(ctnr)  # kept: the second time is a plain attribute
    if name != "PIPE":
        assert inspect.getdoc(found), f"{name} has no docstring"


def test_what_it_does_not_offer() -> None:
    with pytest.raises(AttributeError, match="module 'ctnr' has no attribute 'nope'"):
        ctnr.nope  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError):
        exec("from ctnr import nope")


def test_the_stubs_and_the_names_agree() -> None:
    """What type checkers see under TYPE_CHECKING is what is loaded lazily, and __all__ is both."""
    source = Path(ctnr.__file__).read_text()
    seen = {
        line.split(" as ")[1].strip(): line.split()[1]
        for line in source.splitlines()
        if line.startswith("    from ctnr.")
    }
    assert seen == ctnr._HOME
    assert sorted(seen) == sorted(ctnr.__all__)


def test_it_is_typed() -> None:
    assert (Path(ctnr.__file__).parent / "py.typed").exists()
    for function in (ctnr.run, ctnr.create, ctnr.list_containers, ctnr.Container.load, ctnr.Container.exec):
        signature = inspect.signature(function)
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.name in ("self", "cls") or parameter.annotation is not inspect.Parameter.empty


def test_every_option_is_documented() -> None:
    names = set(inspect.signature(Options).parameters)
    assert names == set(Options.__slots__)
    assert names >= {"volumes", "env", "memory", "init"}
    reference = (Path(__file__).parents[1] / "docs/library.md").read_text()
    assert {name for name in names if f"`{name}`" not in reference} == set()


def test_a_result() -> None:
    result = Result(0, b"out", None)
    assert result.check() is result
    assert repr(result) == "Result(exit_code=0, stdout=b'out', stderr=None)"
    with pytest.raises(CtnrError, match="ended with 3: the reason$"):
        Result(3, None, b"first\nthe reason\n").check()
    with pytest.raises(CtnrError, match="ended with 3$"):
        Result(3, None, None).check()


def test_wrong_arguments_make_nothing() -> None:
    with pytest.raises(TypeError):
        ctnr.run("host:", ["true"], nope=1)
    with pytest.raises(CtnrError, match="command: 'true' is text: give a list"):
        ctnr.run("host:", "true")  # type: ignore[arg-type]
    with pytest.raises(CtnrError, match="use create"):
        ctnr.run("host:", ["true"], tty=True)
    with pytest.raises(CtnrError, match="stdout: -7 is no file descriptor"):
        ctnr.run("host:", ["true"], stdout=-7)
    with pytest.raises(CtnrError, match="stdin: text is for str.encode"):
        ctnr.run("host:", ["true"], stdin="text")  # type: ignore[arg-type]
