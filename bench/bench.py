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
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
sys.path.insert(0, str(HERE))  # python3 -I leaves the script's directory out

from host import children, enter_view, facts, pss, reap  # noqa: E402
from report import TEXT, goals, table  # noqa: E402
from rows import PREFIX, Command, Failed, Row, Worker, fail, quietly  # noqa: E402

SLEEP = ["/bin/sleep", "100000"]


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
