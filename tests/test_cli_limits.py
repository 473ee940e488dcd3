# SPDX-License-Identifier: Apache-2.0
"""update, events, pause and resume on a stand-in for the runtime: what they ask of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_runtime import Fake, fake  # noqa: F401  # the fixture

# runs a command line, gives exit code, stdout, stderr
Run = Callable[[str], tuple[int, str, str]]


@pytest.fixture
def run(fake: Fake, capfd: pytest.CaptureFixture[str]) -> Run:  # noqa: F811
    def run(line: str) -> tuple[int, str, str]:
        from ctnr.cli.boot import main

        return (main(line.split()), *capfd.readouterr())

    return run


@pytest.mark.parametrize(
    ("words", "resources"),
    [
        ("--memory 1g --memory-swap=-1", {"memory": {"limit": 1 << 30, "swap": -1}}),
        ("--memory-reservation 512m --kernel-memory 1k", {"memory": {"reservation": 512 << 20, "kernel": 1024}}),
        (
            "--cpu-period 1 --cpu-quota -1 --cpu-burst 0 --cpu-share 2 --cpuset-cpus 0-3 --cpuset-mems 0",
            {"cpu": {"period": 1, "quota": -1, "burst": 0, "shares": 2, "cpus": "0-3", "mems": "0"}},
        ),
        ("--cpu-rt-period 5 --cpu-rt-runtime 4", {"cpu": {"realtimePeriod": 5, "realtimeRuntime": 4}}),
        ("--cpu-idle 1 --blkio-weight 10", {"cpu": {"idle": 1}, "blockIO": {"weight": 10}}),
        ("--pids-limit -1", {"pids": {"limit": -1}}),
        ("--memory=", {}),
    ],
)
def test_update(run: Run, fake: Fake, words: str, resources: dict[str, Any]) -> None:  # noqa: F811
    fake.add("c")
    for line in (f"ctnr update {words} c", f"ctnr-oci update c {words}"):
        fake.calls.clear()
        assert run(line) == (0, "", "")
        assert fake.calls == [("update", {"id": "c", "resources": resources, "rdt": ("", "")})]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("c", "nothing to update: give --resources, or a limit"),
        ("--memory 5x c", "--memory: '5x' is not a size: give a number of bytes, or one like 512m or 2g"),
        ("--memory -2 c", "--memory: '-2' is not a size: give a number of bytes, or one like 512m or 2g"),
        ("--cpu-share -1 c", "--cpu-share is a whole number from 0, not '-1'"),
        ("--cpu-share 99999999999999999999 c", "--cpu-share is a whole number from 0, not '99999999999999999999'"),
        ("--pids-limit --1 c", "--pids-limit is a whole number, not '--1'"),
        ("--pids-limit 1 -r x c", "--pids-limit and --resources exclude each other: put it into the document"),
    ],
)
def test_update_refuses(run: Run, fake: Fake, words: str, message: str) -> None:  # noqa: F811
    fake.add("c")
    code, stdout, stderr = run(f"ctnr update {words}")
    assert (code, stdout) == (1, "") and stderr.startswith(f"ctnr: {message}")
    assert fake.calls == []


def test_update_from_a_file(run: Run, fake: Fake, tmp_path: Path) -> None:  # noqa: F811
    fake.add("c")
    (tmp_path / "r.json").write_text('{"pids": {"limit": 3}}')
    assert run("ctnr update -r r.json c") == (0, "", "")
    assert fake.calls == [("update", {"id": "c", "resources": {"pids": {"limit": 3}}, "rdt": ("", "")})]
    for text, message in (
        ("[]", "r.json: not a JSON object"),
        ("{", "r.json: line 1 column 2"),
        (None, "r.json: no such"),
    ):
        (tmp_path / "r.json").unlink()
        if text is not None:
            (tmp_path / "r.json").write_text(text)
        assert message in run("ctnr update -r r.json c")[2]


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_pause_and_resume(run: Run, fake: Fake, verb: str) -> None:  # noqa: F811
    fake.add("c")
    assert run(f"ctnr {verb} c") == (0, "", "")
    assert fake.calls == [(verb, {"id": "c"})]
    assert run(f"ctnr-oci {verb} d")[0] == 1


@pytest.mark.parametrize(
    ("words", "interval"),
    [("", 5), ("--interval 100ms", 0.1), ("--interval=1m30s", 90), ("--interval 1.5h", 5400), ("--interval 2us", 2e-6)],
)
def test_events(run: Run, fake: Fake, words: str, interval: float) -> None:  # noqa: F811
    fake.add("c")
    code, stdout, stderr = run(f"ctnr-oci events {words} c")
    assert (code, stderr) == (0, "")
    assert stdout == '{"type":"stats","id":"c","data":{"pids":{"current":1}}}\n{"type":"oom","id":"c"}\n'
    [(call, asked)] = fake.calls
    assert call == "events" and asked["interval"] == pytest.approx(interval)


def test_events_once(run: Run, fake: Fake) -> None:  # noqa: F811
    fake.add("c")
    assert run("ctnr events --stats c") == (0, '{"type":"stats","id":"c","data":{"pids":{"current":1}}}\n', "")
    fake.add("d", "stopped")
    assert run("ctnr events --stats d") == (1, "", "ctnr: container with id d is not running\n")


@pytest.mark.parametrize("text", ["0", "0s", "-1s", "5", "s", "1x", "1s5", "1e3s", "²s", "1..5s", "99999999999h"])
def test_no_interval(run: Run, fake: Fake, text: str) -> None:  # noqa: F811
    fake.add("c")
    code, stdout, stderr = run(f"ctnr events --interval={text} c")
    assert (code, stdout) == (1, "")
    assert stderr.startswith(f"ctnr: --interval is a time above 0 such as 5s, 100ms or 1m30s, not '{text}'")
    assert fake.calls == []
