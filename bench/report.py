# SPDX-License-Identifier: Apache-2.0
"""What the bench found: the table, the aims and docs/benchmarks.md."""

from __future__ import annotations

import statistics

from rows import Row


def median(row: Row) -> float:
    return statistics.median(row.samples) / 1e6


def tenth(row: Row) -> float:
    return sorted(row.samples)[len(row.samples) // 10] / 1e6


def table(rows: list[Row]) -> list[str]:
    by_name = {row.name: row for row in rows}
    against = [name for name in ("floor", "crun run", "runc run") if name in by_name]
    lines = [
        "| row | what | median ms | p10 ms |" + "".join(f" / {n.split()[0]} |" for n in against),
        "|---|---|---:|---:|" + "---:|" * len(against),
    ]
    for row in rows:
        ratios = "".join(f" {median(row) / median(by_name[n]):.2f} |" for n in against)
        lines.append(f"| {row.name} | {row.what} | {median(row):.2f} | {tenth(row):.2f} |{ratios}")
    return lines


def goals(rows: list[Row], memory: dict[str, float], big: str) -> list[str]:
    """The project's aims, each with what this run got."""
    by_name = {row.name: median(row) for row in rows}
    lines = ["| aim | wanted | got | |", "|---|---|---:|---|"]

    def ratio(a: str, b: str, limit: float) -> None:
        if a in by_name and b in by_name:
            got = by_name[a] / by_name[b]
            lines.append(f"| {a} / {b} | <= {limit} | {got:.2f} | {'met' if got <= limit else '**not met**'} |")

    ratio("ctnr in-process", "crun run", 0.5)
    ratio("ctnr in-process", "floor", 1.6)
    ratio("ctnr-oci run", "runc run", 0.6)
    ratio("ctnr-oci run", "crun run", 2.0)
    ratio(big, "ctnr in-process", 1.15)
    for verb in ("state", "kill", "delete"):
        name = f"ctnr-oci {verb}"
        if name in by_name and "python3 -IS" in by_name:
            got = by_name[name] - by_name["python3 -IS"]
            lines.append(f"| {name} - python3 -IS | <= 5 ms | {got:.2f} ms | {'met' if got <= 5 else '**not met**'} |")
    if memory:
        got = memory["beside"]
        verdict = "met" if got < 1024 else "**not met**"
        lines.append(f"| PSS of ours beside a sleeping detached container | < 1024 KiB | {got:.0f} KiB | {verdict} |")
    return lines


TEXT = """# Benchmarks

Written by `{command}`; run it on your own machine (as root).

{facts}

Every round runs each row once, in random order, so all rows see the same noise ({rounds} rounds after {warm} to warm up).
The container is the one `runc spec` describes, without its terminal: {namespaces} namespaces, {mounts} mounts, devices,
masked and read-only paths, three capabilities, no_new_privs, a cgroup; the program is busybox' `true`. All runtimes get the same
`config.json` and the same view of the cgroup tree.

{table}

- *floor* (`bench/floor.c`) makes the syscalls such a start consists of and nothing else: no JSON, no plan, no state on disk,
  one exec.
- *in-process* rows are timed inside a Python process that has the library loaded, from the call to the return; commands
  from `posix_spawn` to their end.
- *ctnr run DIR true* is the friendly command: docker's defaults (a seccomp profile, more capabilities, a writable root).
- *python3 -IS* starts the interpreter and ends it with `_exit`: what any command in Python pays before its first line.

## Aims

{goals}
{memory}"""
