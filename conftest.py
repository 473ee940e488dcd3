# SPDX-License-Identifier: Apache-2.0
"""For all tests: under CI=true nothing may be skipped, because there whatever is missing can be installed.

Excepted is what has no meaning here whatever is installed; its reason begins with "not applicable".
"""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import settings

# the same examples each time, nothing written into the tree, and no clock: a slow machine is no failure
settings.register_profile("ctnr", derandomize=True, database=None, deadline=None)
settings.load_profile("ctnr")

# whoever started us in the background, or by nohup, ignores these, and whatever we start would
for _number, _handler in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):
    if signal.getsignal(_number) == signal.SIG_IGN:
        signal.signal(_number, _handler)


def _fail_when_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        if str(reason).removeprefix("Skipped: ").startswith("not applicable"):
            return
        report.outcome = "failed"
        report.longrepr = f"CI=true does not allow: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_when_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_when_skipped(report)
    return report
