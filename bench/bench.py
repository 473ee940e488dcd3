# SPDX-License-Identifier: Apache-2.0
"""How long a container takes to start: ctnr as a library and as a command beside crun, runc, bwrap and a floor in C.

Interleaved: every round runs each row once, in random order, so that all rows see the same noise; medians and ratios count,
milliseconds are this machine's. Run it with `make bench`, as root; it writes docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import platform
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
PREFIX = f"ctbench{os.getpid()}"
SLEEP = ["/bin/sleep", "100000"]


class Failed(Exception):
    """A row could not be measured: the bench ends with this one line."""


def fail(text: str) -> NoReturn:
    raise Failed(text)


# ---------------------------------------------------------------- rows


class Row:
    """Something that is measured once per round."""

    def __init__(self, name: str, what: str) -> None:
        self.name = name
        self.what = what
        self.samples: list[int] = []

    def open(self) -> None:
        """Before the first round."""

    def measure(self) -> int:
        """One sample, in nanoseconds."""
        raise NotImplementedError

    def close(self) -> None:
        """After the last round."""


class Worker(Row):
    """A long-lived process that does the thing once per line and says how many nanoseconds it took."""

    def __init__(self, name: str, what: str, argv: list[str]) -> None:
        super().__init__(name, what)
        self.argv = argv
        self.process: subprocess.Popen[str] | None = None

    def open(self) -> None:
        self.process = subprocess.Popen(self.argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/")

    def measure(self) -> int:
        assert self.process and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line.strip():
            fail(f"{self.name}: the worker ended ({shlex.join(self.argv)})")
        return int(line)

    def close(self) -> None:
        if self.process and self.process.stdin and self.process.stdout:
            self.process.stdin.close()
            self.process.stdout.close()
            self.process.wait()


class Command(Row):
    """A command from posix_spawn to its end. `before` and `after` run outside the measured time."""

    def __init__(
        self,
        name: str,
        what: str,
        argv: Callable[[str], list[str]],
        before: Callable[[str], None] | None = None,
        after: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(name, what)
        self.argv = argv
        self.before = before
        self.after = after
        self.count = 0

    def measure(self) -> int:
        self.count += 1
        id = f"{PREFIX}-{self.name.replace(' ', '-').replace('/', '-')}-{self.count}"
        if self.before:
            self.before(id)
        took = timed(self.argv(id), self.name)
        if self.after:
            self.after(id)
        return took


_null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
_log = os.memfd_create("stderr")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}


def timed(argv: list[str], name: str) -> int:
    """Nanoseconds of one run; anything but exit 0 ends the bench with the command's own words."""
    os.ftruncate(_log, 0)
    os.lseek(_log, 0, os.SEEK_SET)
    actions = [(os.POSIX_SPAWN_DUP2, _null, 0), (os.POSIX_SPAWN_DUP2, _null, 1), (os.POSIX_SPAWN_DUP2, _log, 2)]
    begin = time.perf_counter_ns()
    pid = os.posix_spawn(argv[0], argv, ENVIRONMENT, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter_ns() - begin
    if status != 0:
        said = os.pread(_log, 4096, 0).decode("utf-8", "replace").strip()
        fail(f"{name}: {shlex.join(argv)}: exit {os.waitstatus_to_exitcode(status)}: {said}")
    return took


def quietly(*argv: str) -> None:
    timed(list(argv), argv[0])


# ---------------------------------------------------------------- the machine


def cgroup_mode() -> str:
    text = Path("/proc/self/mountinfo").read_text()
    v1, v2 = " - cgroup " in text, " - cgroup2 " in text
    return "hybrid" if v1 and v2 else "v1" if v1 else "v2" if v2 else "none"


def enter_view(view: str) -> None:
    """Re-execute in a private mount namespace where the hybrid host looks like pure v1 or v2: crun refuses hybrid."""
    mode = cgroup_mode()
    if view == "auto":
        view = "v1" if mode == "hybrid" else mode
    if view in (mode, "host") or os.environ.get("CTNR_BENCH_VIEW"):
        return
    if mode != "hybrid":
        fail(f"--view {view}: this host's cgroups are {mode}")
    points = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, right = line.split(" - ", 1)
        kind, _, options = right.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            points["unified" if kind == "cgroup2" else options] = left.split(" ")[4]
    # whoever started us may sit in a memory cgroup of its own; runc wants one path in all hierarchies
    script = [
        f"echo $$ >{shlex.quote(p)}/cgroup.procs" for options, p in points.items() if "memory" in options.split(",")
    ]
    top = shlex.quote(os.path.commonpath(list(points.values())))
    script += [f"umount {points['unified']}"] if view == "v1" else [f"umount -R {top}", f"mount -t cgroup2 none {top}"]
    os.environ["CTNR_BENCH_VIEW"] = view
    shell = "set -e; " + "; ".join(script) + '; exec "$@"'
    os.execvp(
        "unshare", ["unshare", "-m", "--propagation", "private", "sh", "-c", shell, "sh", sys.executable, *sys.argv]
    )


def version(path: str, *flags: str) -> str:
    said = subprocess.run([path, *(flags or ("--version",))], capture_output=True, text=True, check=False)
    lines = (said.stdout or said.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def facts(options: argparse.Namespace) -> list[str]:
    """What a reader needs to compare: no host names, no paths."""
    release = platform.release().split("-")[0].split("+")[0]
    memory = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal"))
    gibibytes = round(int(memory.split()[1]) / 1024 / 1024)
    system = next(
        (
            line.split("=", 1)[1].strip('"')
            for line in Path("/etc/os-release").read_text().splitlines()
            if line.startswith("PRETTY_NAME=")
        ),
        "?",
    )
    lines = [
        f"Linux {release}, {os.cpu_count()} CPUs, {gibibytes} GiB, {system}",
        f"cgroups as the bench saw them: {cgroup_mode()}",
        f"Python {version(options.python)[7:]}, {version(options.ctnr)}",
    ]
    for name in ("crun", "runc", "bwrap"):
        path = getattr(options, name)
        if path:
            lines.append(version(path))
    return lines


def make_rootfs(root: Path, busybox: str) -> None:
    for name in ("bin", "dev", "etc", "proc", "run", "sys", "tmp"):
        (root / name).mkdir(parents=True)
    shutil.copyfile(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(0o755)
    for applet in ("sh", "true", "sleep", "cat"):
        (root / "bin" / applet).symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\n")


def make_bundle(path: Path, rootfs: Path, args: list[str], options: argparse.Namespace) -> dict[str, Any]:
    """`runc spec`'s config without its terminal, and of a version every peer takes."""
    script = "import json; from ctnr.spec.default import default_config; print(json.dumps(default_config()))"
    config: dict[str, Any] = json.loads(
        subprocess.run([options.python, "-c", script], check=True, capture_output=True, text=True).stdout
    )
    config["ociVersion"] = "1.0.2"
    config["process"]["terminal"] = False
    config["process"]["args"] = args
    config["root"]["path"] = str(rootfs)
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config, indent=1))
    return config


# ---------------------------------------------------------------- what is measured


class Plan:
    """The rows, and the containers some of them need."""

    def __init__(self, options: argparse.Namespace, work: Path) -> None:
        self.options = options
        self.work = work
        self.rows: list[Row] = []
        self.sleeper = f"{PREFIX}-sleeper"
        busybox = shutil.which("busybox")
        if not busybox:
            raise Failed("busybox is not installed (package busybox-static)")
        self.rootfs = work / "rootfs"
        make_rootfs(self.rootfs, busybox)
        self.bundle = work / "true"
        self.config = make_bundle(self.bundle, self.rootfs, ["/bin/true"], options)
        self.sleeping = work / "sleep"
        make_bundle(self.sleeping, self.rootfs, SLEEP, options)

    def oci(self, *args: str) -> list[str]:
        return [self.options.oci, "--root", str(self.work / "state"), *args]

    def add_all(self) -> None:
        o, work = self.options, self.work
        floor = work / "floor"
        quietly(
            shutil.which("gcc") or shutil.which("cc") or "cc",
            "-std=gnu11",
            "-O2",
            "-o",
            str(floor),
            str(HERE / "floor.c"),
        )
        names = ",".join(n["type"] for n in self.config["linux"]["namespaces"])
        self.rows.append(
            Worker(
                "floor",
                "the same syscalls in C, in-process",
                [str(floor), str(self.rootfs), f"{PREFIX}-floor", names, "/bin/true"],
            )
        )
        for name, mebibytes in (("ctnr in-process", 0), (f"ctnr in-process, {o.big_mib} MiB touched", o.big_mib)):
            id = f"{PREFIX}-worker{mebibytes}"
            argv = [
                o.python,
                str(HERE / "worker.py"),
                str(self.bundle),
                str(work / f"state-{mebibytes}"),
                id,
                str(mebibytes),
            ]
            self.rows.append(Worker(name, "library call to return, start to exit", argv))
        self.rows.append(
            Command("ctnr-oci run", "the command", lambda id: self.oci("run", "--bundle", str(self.bundle), id))
        )
        for name in ("crun", "runc"):
            path = getattr(o, name)
            if path:
                self.rows.append(self.peer(f"{name} run", path))
        # docker's word, docker's defaults: seccomp profile, more capabilities, a writable overlay
        self.rows.append(
            Command(
                "ctnr run DIR true",
                "the friendly command",
                lambda id: [o.ctnr, "run", "--rm", str(self.rootfs), "true"],
            )
        )
        if o.bwrap:
            self.rows.append(Command("bwrap", "the same namespaces, no cgroup", lambda id: self.bwrap(o.bwrap)))
        bare = [o.python, "-IS", "-c", "import posix; posix._exit(0)"]
        self.rows.append(Command("python3 -IS", "the bare interpreter", lambda id: bare))
        self.rows.append(
            Command("ctnr-oci state", "of a running container", lambda id: self.oci("state", self.sleeper))
        )
        # a signal pid 1 of a pid namespace ignores: the container lives on
        self.rows.append(
            Command("ctnr-oci kill", "of a running container", lambda id: self.oci("kill", self.sleeper, "WINCH"))
        )
        self.rows.append(
            Command("ctnr-oci delete", "of a stopped container", lambda id: self.oci("delete", id), before=self.stopped)
        )

    def peer(self, name: str, path: str) -> Row:
        state = str(self.work / f"state-{name.split()[0]}")
        return Command(name, "the command", lambda id: [path, "--root", state, "run", "--bundle", str(self.bundle), id])

    def bwrap(self, path: str) -> list[str]:
        argv = [
            path,
            "--unshare-all",
            "--ro-bind",
            str(self.rootfs),
            "/",
            "--proc",
            "/proc",
            "--dev",
            "/dev",
            "--tmpfs",
            "/dev/shm",
        ]
        return [*argv, "--hostname", "bwrap", "--cap-drop", "ALL", "--", "/bin/true"]

    def start_sleeper(self, id: str) -> None:
        quietly(*self.oci("run", "--detach", "--bundle", str(self.sleeping), id))

    def state(self, id: str) -> dict[str, Any]:
        said = subprocess.run(self.oci("state", id), check=True, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(said.stdout)
        return found

    def stopped(self, id: str) -> None:
        """A stopped container named `id`."""
        self.start_sleeper(id)
        pid = int(self.state(id)["pid"])
        os.kill(pid, signal.SIGKILL)
        reap(pid)

    def memory(self) -> dict[str, float]:
        """PSS in KiB of ours: beside a sleeping detached container, and of one that is created and waits for `start`."""
        before = children()
        program = int(self.state(self.sleeper)["pid"])
        beside = sum(pss(pid) for pid in before if pid != program and not is_row(self.rows, pid))
        id = f"{PREFIX}-created"
        quietly(*self.oci("create", "--bundle", str(self.sleeping), id))
        waiting = sum(pss(pid) for pid in children() - before)
        quietly(*self.oci("delete", "--force", id))
        return {"beside": beside, "waiting": waiting, "program": pss(program)}

    def close(self) -> None:
        for row in self.rows:
            row.close()
        if (self.work / "state").exists():
            for entry in (self.work / "state").iterdir():
                subprocess.run(self.oci("delete", "--force", entry.name), check=False, stdout=subprocess.DEVNULL)


def is_row(rows: list[Row], pid: int) -> bool:
    return any(isinstance(row, Worker) and row.process is not None and row.process.pid == pid for row in rows)


def reap(pid: int) -> None:
    """Wait for an orphan that came to us, the subreaper."""
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        while os.path.exists(f"/proc/{pid}"):
            time.sleep(0.001)


def children() -> set[int]:
    """Everything below us."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            if fields[0] != "Z":
                parents[int(entry)] = int(fields[1])
    below: set[int] = set()
    inside = {os.getpid()}
    while inside:
        inside = {pid for pid, parent in parents.items() if parent in inside} - below
        below |= inside
    return below


def pss(pid: int) -> float:
    """Proportional set size in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return float(line.split()[1])
    raise Failed(f"/proc/{pid}/smaps_rollup has no Pss line")


# ---------------------------------------------------------------- the answer


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="measured rounds (default 60)")
    parser.add_argument("--warm", type=int, default=5, help="rounds before the measured ones (default 5)")
    parser.add_argument(
        "--view",
        choices=("auto", "host", "v1", "v2"),
        default="auto",
        help="cgroup view; auto: v1 where the host is hybrid",
    )
    parser.add_argument("--oci", default=str(CHECKOUT / ".venv/bin/ctnr-oci"), help="the ctnr-oci to measure")
    parser.add_argument("--ctnr", default=str(CHECKOUT / ".venv/bin/ctnr"), help="the ctnr to measure")
    parser.add_argument(
        "--python", default=str(CHECKOUT / ".venv/bin/python3"), help="the interpreter that has the library"
    )
    for name in ("crun", "runc", "bwrap"):
        parser.add_argument(
            f"--{name}",
            default=shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin") or "",
            help=f"another {name} (empty: none)",
        )
    parser.add_argument(
        "--big-mib", type=int, default=2048, help="memory the big parent touches, in MiB (default 2048)"
    )
    parser.add_argument(
        "--only", default="", help="only the rows whose names contain one of these, comma-separated; writes nothing"
    )
    parser.add_argument("--out", default=str(CHECKOUT / "docs/benchmarks.md"), help="where to write ('-': nowhere)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="of the random order")
    options = parser.parse_args()
    if os.getuid() != 0:
        fail("the bench needs root: the floor mounts and makes cgroups without a user namespace")
    enter_view(options.view)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: detached containers are ours to see and to reap
    parent = next(d for d in ("/dev/shm", "/var/tmp") if os.path.isdir(d) and not os.statvfs(d).f_flag & os.ST_NOEXEC)
    work = Path(parent) / PREFIX
    work.mkdir(mode=0o755)
    plan = Plan(options, work)
    try:
        memory = measure(plan, options)
    finally:
        plan.close()
        shutil.rmtree(work, ignore_errors=True)
    write(plan, options, memory)


def measure(plan: Plan, options: argparse.Namespace) -> dict[str, float]:
    plan.add_all()
    words = [w.strip() for w in options.only.split(",") if w.strip()]
    if words:
        plan.rows = [row for row in plan.rows if any(w in row.name for w in words)]
    needs_sleeper = any(row.name.startswith("ctnr-oci") for row in plan.rows)
    if needs_sleeper:
        plan.start_sleeper(plan.sleeper)
    for row in plan.rows:
        row.open()
    order = random.Random(options.seed)
    for turn in range(options.warm + options.rounds):
        for row in order.sample(plan.rows, len(plan.rows)):
            took = row.measure()
            if turn >= options.warm:
                row.samples.append(took)
    return plan.memory() if needs_sleeper else {}


def write(plan: Plan, options: argparse.Namespace, memory: dict[str, float]) -> None:
    rows = plan.rows
    big = f"ctnr in-process, {options.big_mib} MiB touched"
    results, aims = table(rows), goals(rows, memory, big)
    print("\n".join([*results, "", *aims, f"seed {options.seed}"]))
    if options.out == "-" or options.only:
        return
    more = ""
    if memory:
        more = (
            f"\nA container that is created and waits for `start` holds {memory['waiting']:.0f} KiB (PSS) of ours; "
            f"once it runs, the program is alone ({memory['program']:.0f} KiB for busybox' `sleep`).\n"
        )
    text = TEXT.format(
        command="make bench",
        facts="\n".join(f"- {fact}" for fact in facts(options)),
        rounds=options.rounds,
        warm=options.warm,
        namespaces=len(plan.config["linux"]["namespaces"]),
        mounts=len(plan.config["mounts"]),
        table="\n".join(results),
        goals="\n".join(aims),
        memory=more,
    )
    Path(options.out).write_text(text)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"bench: {error}")
