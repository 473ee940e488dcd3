# SPDX-License-Identifier: Apache-2.0
"""What test_cgroups.py asks of ctnr.runtime.cgroups on a real kernel. Run as a program, in whichever mount namespace (and so
view of the cgroup tree) the test has made: `cgroup_scenarios.py SCENARIO TOKEN [ARG...]`.

Exit status 77 and a reason: this machine cannot tell. All cgroups made here have TOKEN in their name and are removed.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from ctnr.errors import CtnrError, SpecError, SyscallError
from ctnr.runtime import cgroups
from ctnr.runtime.cgroups import Cgroup, devices, dirs, v1, v2
from ctnr.runtime.cgroups.layout import layout

TOKEN = ""
LAYOUT = layout()
libc = ctypes.CDLL(None, use_errno=True)
CLONE_INTO_CGROUP = 0x200000000
SYS_CLONE3 = 435


class Skip(Exception):
    pass


def read(path: str) -> str:
    return dirs.read(path).strip()


# --- children


def clone_into(cgroup_fd: int) -> int:
    """fork() whose child is born in the cgroup."""
    args = (ctypes.c_uint64 * 11)(CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    pid = int(libc.syscall(SYS_CLONE3, ctypes.byref(args), ctypes.sizeof(args)))
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone3")
    return pid


class Child:
    """A process in the cgroup, put there as the launcher does: cloned into cgroup2, writing itself into v1. It answers
    a question (a line) with what `answer` makes of it, and writes a dot whenever nobody asks, if `ticking`.
    """

    def __init__(
        self, cgroup: Cgroup, answer: Callable[[str], str] = str, ticking: bool = False, sub: str = ""
    ) -> None:
        fds = cgroup.join_fds(sub)
        directory = cgroup.fd_v2(sub)
        here, there = os.pipe(), os.pipe()
        self.pid = clone_into(directory) if directory is not None else os.fork()
        if self.pid == 0:
            try:
                for fd in fds:
                    os.write(fd, b"0")
                self._serve(here[0], there[1], answer, ticking)
            finally:
                os._exit(1)
        for fd in (*fds, here[0], there[1], *([directory] if directory is not None else [])):
            os.close(fd)
        self.to, self.by = here[1], there[0]
        assert self._line() == "ready"

    def _serve(self, questions: int, answers: int, answer: Callable[[str], str], ticking: bool) -> NoReturn:
        os.write(answers, b"ready\n")
        while True:
            if ticking and not select.select([questions], [], [], 0.001)[0]:
                os.write(answers, b".")
                continue
            line = os.read(questions, 65536)
            if not line:
                os._exit(0)
            os.write(answers, answer(line.decode()).encode() + b"\n")

    def _line(self) -> str:
        line = b""
        while not line.endswith(b"\n"):
            chunk = os.read(self.by, 65536)
            assert chunk, "the child ended"
            line += chunk
        return line.decode().strip()

    def ask(self, question: str) -> str:
        os.write(self.to, question.encode())
        return self._line()

    def ticks(self, within: float) -> bool:
        """Whether it writes something more (what it has written so far does not count)."""
        while select.select([self.by], [], [], 0)[0]:
            os.read(self.by, 65536)
        return bool(select.select([self.by], [], [], within)[0])

    def wait(self) -> int:
        """The status as waitpid has it."""
        os.close(self.to)
        os.close(self.by)
        return os.waitpid(self.pid, 0)[1]


def whereabouts(pid: int) -> dict[str, str]:
    found = {}
    for line in read(f"/proc/{pid}/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        for name in names.split(","):
            found[name] = path
    return found


# --- cgroups


@contextmanager
def made(resources: dict[str, Any] | None = None, name: str = "c", path: str | None = None) -> Iterator[Cgroup]:
    """A new cgroup below /TOKEN; removed, processes and all."""
    cgroup = cgroups.new(path or f"/{TOKEN}/{name}", name, resources=resources)
    assert cgroup is not None
    cgroup.create(resources)
    try:
        yield cgroup
    finally:
        cgroup.kill()
        cgroup.delete()


def controllers() -> set[str]:
    """What can be limited here, by v2's names."""
    found = {"io" if name == "blkio" else name for name in LAYOUT.v1}
    if LAYOUT.unified is not None:
        found |= set(read(LAYOUT.unified + "/cgroup.controllers").split())
    return found


def mount_points() -> list[str]:
    points = list(dict.fromkeys(LAYOUT.v1.values()))
    return points + ([LAYOUT.unified] if LAYOUT.unified is not None else [])


def leftovers() -> list[str]:
    return [f"{point}/{TOKEN}" for point in mount_points() if os.path.exists(f"{point}/{TOKEN}")]


def on_v1(controller: str) -> bool:
    return v1.NAME.get(controller, controller) in LAYOUT.v1


def value(cgroup: Cgroup, controller: str, file: str) -> str:
    name = v1.NAME.get(controller, controller)
    return read(f"{cgroup.paths.get(name) or cgroup.paths['']}/{file}")


def refused(call: Callable[[], object], *words: str) -> CtnrError:
    try:
        call()
    except CtnrError as e:
        for word in words:
            assert word in str(e), str(e)
        assert "\n" not in str(e)
        return e
    raise AssertionError(f"not refused: {words}")


# --- scenarios


def the_life_of_a_cgroup() -> None:
    with made() as cgroup:
        assert set(cgroup.paths) == set(LAYOUT.v1) | ({""} if LAYOUT.unified is not None else set())
        child = Child(cgroup, ticking=True)
        for name, path in whereabouts(child.pid).items():
            if name in cgroup.paths:
                assert path == f"/{TOKEN}/c", (name, path)
        assert cgroup.pids() == [child.pid]
        assert child.ticks(5)
        cgroup.freeze()
        assert cgroup.frozen()
        assert not child.ticks(0.05)
        cgroup.freeze()
        cgroup.thaw()
        assert not cgroup.frozen()
        assert child.ticks(5)
        # from its state
        again = cgroups.load(cgroup.paths, cgroup.created)
        assert again.pids() == [child.pid]
        again.freeze()
        again.kill(signal.SIGTERM)
        assert again.frozen()  # the signal waits
        again.kill()
        assert os.WTERMSIG(child.wait()) in (signal.SIGKILL, signal.SIGTERM)
        again.delete()
        assert [path for path in cgroup.paths.values() if os.path.exists(path)] == []
        # the parent is not ours
        assert len(leftovers()) == len(mount_points())


def add_moves_a_running_process() -> None:
    with made() as cgroup:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        cgroup.add(pid)
        for name, path in whereabouts(pid).items():
            if name in cgroup.paths:
                assert path == f"/{TOKEN}/c", (name, path)
        cgroup.kill()
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        error = refused(lambda: cgroup.add(pid), f"add process {pid} to", "no such process")
        assert isinstance(error, SyscallError) and error.errno == errno.ESRCH


def joining_is_cheap() -> None:
    """join_fds() and CLONE_INTO_CGROUP do not wait for an RCU grace period, which takes 3 ms at the very least."""
    with made() as cgroup:
        times = []
        for _ in range(20):
            fds, directory = cgroup.join_fds(), cgroup.fd_v2()
            start = time.perf_counter()
            pid = clone_into(directory) if directory is not None else os.fork()
            if pid == 0:
                for fd in fds:
                    os.write(fd, b"0")
                os._exit(0)
            os.waitpid(pid, 0)
            times.append(time.perf_counter() - start)
            for fd in (*fds, *([directory] if directory is not None else [])):
                os.close(fd)
        print(f"joining: {sorted(times)[10] * 1e6:.0f} us")
        # the best of twenty: a busy machine has bad ones
        assert min(times) < 0.0025, times


def block_device() -> tuple[int, int]:
    for name in sorted(os.listdir("/sys/block")):
        if not name.startswith(("loop", "ram", "zram", "dm-", "md", "sr", "nbd")):
            major, minor = read(f"/sys/block/{name}/dev").split(":")
            return int(major), int(minor)
    raise Skip("no block device")


def limits_are_what_was_asked_for() -> None:
    have = controllers()
    resources: dict[str, Any] = {}
    wanted: list[tuple[str, str, str]] = []  # controller, file, value

    def expect(controller: str, v1_file: str, v1_value: str, v2_file: str, v2_value: str) -> None:
        file, text = (v1_file, v1_value) if on_v1(controller) else (v2_file, v2_value)
        wanted.append((controller, file, text))

    if "memory" in have:
        resources["memory"] = {"limit": 64 << 20, "reservation": 32 << 20}
        expect("memory", "memory.limit_in_bytes", str(64 << 20), "memory.max", str(64 << 20))
        expect("memory", "memory.soft_limit_in_bytes", str(32 << 20), "memory.low", str(32 << 20))
        if on_v1("memory"):
            resources["memory"].update({"swappiness": 7, "useHierarchy": True})
            expect("memory", "memory.swappiness", "7", "", "")
            if os.path.exists(LAYOUT.v1["memory"] + "/memory.memsw.limit_in_bytes"):
                resources["memory"]["swap"] = 96 << 20
                expect("memory", "memory.memsw.limit_in_bytes", str(96 << 20), "", "")
    if "cpu" in have:
        resources["cpu"] = {"shares": 512, "quota": 50000, "period": 200000, "burst": 10000}
        expect("cpu", "cpu.shares", "512", "cpu.weight", "59")
        expect("cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 200000")
        expect("cpu", "cpu.cfs_burst_us", "10000", "cpu.max.burst", "10000")
    if "cpuset" in have:
        resources.setdefault("cpu", {}).update({"cpus": "0", "mems": "0"})
        expect("cpuset", "cpuset.cpus", "0", "cpuset.cpus", "0")
        expect("cpuset", "cpuset.mems", "0", "cpuset.mems", "0")
    if "pids" in have:
        resources["pids"] = {"limit": 17}
        expect("pids", "pids.max", "17", "pids.max", "17")
    if "io" in have:
        major, minor = block_device()
        dev = f"{major}:{minor}"
        resources["blockIO"] = {"throttleReadBpsDevice": [{"major": major, "minor": minor, "rate": 1 << 30}]}
        v2_text = f"{dev} rbps={1 << 30} wbps=max riops=max wiops=max"
        expect("io", "blkio.throttle.read_bps_device", f"{dev} {1 << 30}", "io.max", v2_text)
    if "hugetlb" in have:
        resources["hugepageLimits"] = [{"pageSize": "2MB", "limit": 4 << 20}]
        expect("hugetlb", "hugetlb.2MB.limit_in_bytes", str(4 << 20), "hugetlb.2MB.max", str(4 << 20))
        expect("hugetlb", "hugetlb.2MB.rsvd.limit_in_bytes", str(4 << 20), "hugetlb.2MB.rsvd.max", str(4 << 20))
    if LAYOUT.unified is not None:
        resources["unified"] = {"cgroup.max.depth": "3"}
    with made(resources) as cgroup:
        for controller, file, text in wanted:
            assert value(cgroup, controller, file) == text, (file, value(cgroup, controller, file))
        if LAYOUT.unified is not None:
            assert read(cgroup.paths[""] + "/cgroup.max.depth") == "3"
        print("checked:", *(file for _, file, _ in wanted))
        child = Child(cgroup)
        if "pids" in have:
            cgroup.apply({"pids": {"limit": -1}})
            assert value(cgroup, "pids", "pids.max") == "max"
        if "memory" in have:
            cgroup.apply({"memory": {"limit": -1}})
            limit = value(cgroup, "memory", "memory.limit_in_bytes" if on_v1("memory") else "memory.max")
            assert limit == "max" or int(limit) > 1 << 60
            child.ask("x")
            tiny = {"memory": {"limit": 4096, "checkBeforeUpdate": True}}
            refused(lambda: cgroup.apply(tiny), "linux.resources.memory.limit")
    if not wanted:
        raise Skip("no controller to limit anything with")


def limits_bite() -> None:
    have = controllers()
    if "pids" not in have and "memory" not in have:
        raise Skip("neither pids nor memory")

    def answer(question: str) -> str:
        if question == "fork":
            try:
                pid = os.fork()
            except OSError as e:
                return errno.errorcode[e.errno or 0]
            if pid == 0:
                os._exit(0)
            os.waitpid(pid, 0)
            return "forked"
        return str(len(bytearray(int(question))))

    if "pids" in have:
        with made({"pids": {"limit": 2}}) as cgroup:
            child = Child(cgroup, answer)
            assert child.ask("fork") == "forked"
            cgroup.apply({"pids": {"limit": 0}})
            assert child.ask("fork") == "EAGAIN"
    if "memory" in have:
        with made({"memory": {"limit": 32 << 20, "swap": 32 << 20}}) as cgroup:
            child = Child(cgroup, answer)
            try:
                child.ask(str(256 << 20))
            except AssertionError:
                pass
            assert os.WTERMSIG(child.wait()) == signal.SIGKILL


def shares_out_of_range() -> None:
    if "cpu" not in controllers() or not on_v1("cpu"):
        raise Skip("cpu is not on v1")
    cgroup = cgroups.new(f"/{TOKEN}/c", "c")
    assert cgroup is not None
    refused(
        lambda: cgroup.create({"cpu": {"shares": 300000}}), "linux.resources.cpu.shares", "maximum allowed", "262144"
    )


def every_controller_that_is_not_there() -> None:
    have = controllers()
    asked: dict[str, tuple[dict[str, Any], str]] = {
        "memory": ({"memory": {"limit": 1 << 30}}, "linux.resources.memory.limit"),
        "cpu": ({"cpu": {"shares": 5}}, "linux.resources.cpu.shares"),
        "cpuset": ({"cpu": {"cpus": "0"}}, "linux.resources.cpu.cpus"),
        "pids": ({"pids": {"limit": 5}}, "linux.resources.pids.limit"),
        "io": ({"blockIO": {"weight": 500}}, "linux.resources.blockIO.weight"),
        "hugetlb": ({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, "linux.resources.hugepageLimits"),
        "rdma": ({"rdma": {"mlx": {"hcaHandles": 1}}}, "linux.resources.rdma"),
        "net_cls": ({"network": {"classID": 1}}, "linux.resources.network.classID"),
        "net_prio": ({"network": {"priorities": [{"name": "lo", "priority": 1}]}}, "linux.resources.network.priorities"),
    }  # fmt: skip
    checked = []
    for controller, (resources, field) in asked.items():
        if controller in have:
            continue
        error = refused(lambda r=resources: made(r).__enter__(), field, "not available")  # type: ignore[misc]
        assert isinstance(error, (SpecError, SyscallError))
        checked.append(controller)
    if LAYOUT.unified is None:
        refused(lambda: made({"unified": {"memory.high": "1"}}).__enter__(), "linux.resources.unified", "cgroup v1")
    else:
        refused(
            lambda: made({"unified": {"foo.bar": "1"}}).__enter__(),
            'linux.resources.unified["foo.bar"]',
            "the requested cgroup controller `foo` is not available",
            "no such file or directory",
        )
        refused(lambda: made({"unified": {"cgroup.nope": "1"}}).__enter__(), "no such file or directory")
    assert leftovers() == []
    print("checked:", *checked)


NODES = [("/dev/null", 1, 3), ("/dev/zero", 1, 5), ("/dev/full", 1, 7), ("/dev/kmsg", 1, 11), ("/dev/fuse", 10, 229)]
MODES = {os.O_RDONLY: devices.READ, os.O_WRONLY: devices.WRITE, os.O_RDWR: devices.READ | devices.WRITE}


def use_devices(_: str) -> str:
    """What the kernel lets this process do: [kind, major, minor, access, allowed]."""
    found: list[list[Any]] = []
    for path, major, minor in NODES:
        if not os.path.exists(path):
            continue
        for mode, access in MODES.items():
            try:
                os.close(os.open(path, mode | os.O_NONBLOCK))
                allowed = True
            except OSError as e:
                allowed = e.errno != errno.EPERM
            found.append(["c", major, minor, access, allowed])
    for kind, stat_kind in (("c", 0o020000), ("b", 0o060000)):
        for major, minor in ((1, 3), (1, 5), (8, 0), (10, 229)):
            path = f"/dev/shm/{TOKEN}.node"
            try:
                os.mknod(path, stat_kind | 0o600, os.makedev(major, minor))
                os.unlink(path)
                allowed = True
            except OSError as e:
                assert e.errno == errno.EPERM, e
                allowed = False
            found.append([kind, major, minor, devices.MKNOD, allowed])
    return json.dumps(found)


def allows(policy: devices.Policy, kind: str, major: int, minor: int, access: int) -> bool:
    matching = [
        granted
        for (k, a, b), granted in policy.exceptions.items()
        if k == kind and a in (-1, major) and b in (-1, minor)
    ]
    if policy.default_allow:
        return not any(access & granted for granted in matching)
    return any(not access & ~granted for granted in matching)


def set_devices(cgroup: Cgroup, policy: devices.Policy) -> None:
    if "devices" in cgroup.paths:
        v1.set_devices(cgroup.paths["devices"], policy)
    else:
        v2.set_devices(cgroup.paths[""], policy, fresh=False)


def random_rules(source: random.Random) -> list[dict[str, Any]]:
    rules = []
    for _ in range(source.randrange(6)):
        rule: dict[str, Any] = {"allow": source.random() < 0.6}
        if source.random() < 0.85:
            rule["type"] = source.choice("ccb")
            rule["access"] = "".join(source.sample("rwm", source.randint(1, 3)))
            if source.random() < 0.8:
                rule["major"] = source.choice([1, 1, 8, 10])
            if source.random() < 0.6:
                rule["minor"] = source.choice([0, 3, 5, 7, 11, 229])
        rules.append(rule)
    return rules


def the_kernel_answers_as_the_policy_says() -> None:
    """Random rule lists, one after the other on one cgroup (so transitions and program replacement are tried too)."""
    source = random.Random(20)
    with made({"devices": [{"allow": False, "access": "rwm"}]}) as cgroup:
        child = Child(cgroup, use_devices)
        first = devices.policy([])
        tried = denied = 0
        for policy in [first, *policies(source, 60)]:
            if tried:
                set_devices(cgroup, policy)
            for kind, major, minor, access, allowed in json.loads(child.ask("?")):
                tried += 1
                denied += not allowed
                what = devices.line((kind, major, minor), access)
                wrong = [devices.line(*e) for e in policy.exceptions.items()]
                assert allowed == allows(policy, kind, major, minor, access), (
                    what,
                    allowed,
                    policy.default_allow,
                    wrong,
                )
        print(f"{tried} accesses, {denied} denied")
        assert denied > 100 and tried - denied > 100


def policies(source: random.Random, count: int) -> list[devices.Policy]:
    found: list[devices.Policy] = []
    while len(found) < count:
        try:
            found.append(devices.policy(random_rules(source)))
        except SpecError:
            continue
    return found


def default_devices_only() -> None:
    """What runc's configs ask for: nothing but the default devices may be opened, by a process that may make any node."""
    with made({"devices": [{"allow": False, "access": "rwm"}]}) as cgroup:
        answers = {(a[1], a[2], a[3]): a[4] for a in json.loads(Child(cgroup, use_devices).ask("?")) if a[0] == "c"}
        assert answers[1, 3, devices.READ | devices.WRITE]
        assert answers[10, 229, devices.MKNOD]
        assert not answers[1, 11, devices.READ]
    if "devices" not in LAYOUT.v1:
        from ctnr import _native

        def programs(cgroup: Cgroup) -> list[int]:
            with dirs.Dir(cgroup.paths[""]) as d:
                return list(_native.bpf_prog_query(d.fd, 6))

        with made({"devices": [{"allow": True, "access": "rwm"}]}) as cgroup:
            assert programs(cgroup) == []  # nothing to refuse, no program
            set_devices(cgroup, devices.policy([]))
            [one] = programs(cgroup)
            set_devices(cgroup, devices.policy([{"allow": True, "type": "c", "major": 9, "access": "r"}]))
            [other] = programs(cgroup)
            assert one != other
            set_devices(cgroup, devices.Policy(default_allow=True))
            assert programs(cgroup) == []


def a_cgroup_that_is_there_already() -> None:
    with made(name="other") as other:
        path = f"/{TOKEN}/other"
        second = cgroups.new(path, "x")
        assert second is not None
        second.create()
        second.delete()  # not ours, so it stays
        assert all(os.path.isdir(p) for p in other.paths.values())
        other.freeze()
        refused(second.create, "container's cgroup unexpectedly frozen")
        other.thaw()
        child = Child(other)
        refused(second.create, "container's cgroup is not empty: 1 process(es) found")
        other.kill()
        child.wait()
        second.create()


def children_of_the_container() -> None:
    """A container may make cgroups of its own and move into them: they are listed, frozen, killed and removed with it."""
    with made() as cgroup:
        for path in dict.fromkeys(cgroup.paths.values()):
            for sub in ("a", "a/b", "a/b/c", "d"):
                os.mkdir(f"{path}/{sub}")
            if path == cgroup.paths.get("cpuset"):
                for sub in ("a", "a/b", "a/b/c", "d"):
                    for file in ("cpuset.cpus", "cpuset.mems"):
                        dirs.write(f"{path}/{sub}/{file}", read(f"{path}/{file}"))
        inner, outer = Child(cgroup, sub="a/b/c", ticking=True), Child(cgroup, sub="/d/")
        assert cgroup.pids() == sorted([inner.pid, outer.pid])
        cgroup.freeze()
        assert not inner.ticks(0.05)
        cgroup.thaw()
        assert inner.ticks(5)
        if LAYOUT.unified is not None:
            fd = cgroup.fd_v2(init=inner.pid)
            assert fd is not None
            assert os.readlink(f"/proc/self/fd/{fd}") == cgroup.paths[""] + "/a/b/c"
            os.close(fd)
        cgroup.kill()
        assert [os.WTERMSIG(c.wait()) for c in (inner, outer)] == [signal.SIGKILL] * 2
        cgroup.delete()
        assert [p for p in cgroup.paths.values() if os.path.exists(p)] == []


def a_fork_bomb(way: str) -> None:
    """Processes that do nothing but fork are all killed, by cgroup.kill, by the freezer, and without either."""
    resources = {"pids": {"limit": 60}} if "pids" in controllers() else {}
    with made(resources) as cgroup:
        limited = "pids" in controllers()

        def bomb(question: str) -> str:
            if os.fork() == 0:
                while True:
                    try:
                        # without a limit a chain: each forks one more and ends
                        if os.fork() and not limited:
                            os._exit(0)
                    except BlockingIOError:
                        continue
            return "lit"

        child = Child(cgroup, bomb)
        assert child.ask("go") == "lit"
        deadline = time.monotonic() + 20
        while len(cgroup.pids()) < 2 and time.monotonic() < deadline:
            continue
        target = cgroup
        if way != "as it is":
            paths = dict(cgroup.paths)
            paths.pop("", None)
            if way == "without a freezer":
                paths.pop("freezer", None)
            if not paths or (way == "with the freezer" and "freezer" not in paths):
                raise Skip("v1 is not there")
            target = cgroups.load(paths)
        target.kill()
        child.wait()
        while cgroup.pids() and time.monotonic() < deadline:
            reap()
        assert cgroup.pids() == []


def reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    except ChildProcessError:
        return


def no_internal_processes() -> None:
    """hugetlb stands for any domain controller: it is the one that every view with cgroup2 can have."""
    if LAYOUT.unified is None or "hugetlb" not in read(LAYOUT.unified + "/cgroup.controllers").split():
        raise Skip("no hugetlb on cgroup2")
    with made(name="busy") as busy:
        child = Child(busy)
        limit = {"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}
        error = refused(
            lambda: made(limit, path=f"/{TOKEN}/busy/c").__enter__(),
            "linux.resources.hugepageLimits: enable the hugetlb controller in",
            "busy/cgroup.subtree_control: device or resource busy",
            "has processes of its own",
        )
        assert isinstance(error, SyscallError) and error.errno == errno.EBUSY
        with made(path=f"/{TOKEN}/busy/c") as below:
            Child(below)
        busy.kill()
        child.wait()


def threaded() -> None:
    if LAYOUT.unified is None:
        raise Skip("no cgroup2")
    top = f"{LAYOUT.unified}/{TOKEN}"
    os.makedirs(top + "/t")
    dirs.write(top + "/t/cgroup.type", "threaded")
    try:
        if "hugetlb" in read(LAYOUT.unified + "/cgroup.controllers").split():
            refused(
                lambda: made({"hugepageLimits": [{"pageSize": "2MB", "limit": 0}]}, path=f"/{TOKEN}/t/c").__enter__(),
                "linux.resources.hugepageLimits",
                "with domain controllers -- it is in domain invalid mode",
            )
        with made(path=f"/{TOKEN}/t/c") as cgroup:
            assert read(cgroup.paths[""] + "/cgroup.type") == "threaded"
            child = Child(cgroup, ticking=True)
            # cgroup.procs of a threaded cgroup cannot be read, cgroup.kill not be written
            assert cgroup.pids() == [child.pid]
            cgroup.freeze()
            assert not child.ticks(0.05)
            cgroup.thaw()
            cgroup.kill()
            assert os.WTERMSIG(child.wait()) == signal.SIGKILL
    finally:
        for point in mount_points():
            dirs.remove(f"{point}/{TOKEN}")


def owners(uid: str, gid: str) -> None:
    with made() as cgroup:
        changed = cgroup.chown(int(uid), int(gid))
        assert changed == (LAYOUT.mode == "v2")
        listed = read("/sys/kernel/cgroup/delegate").split()
        for path in dict.fromkeys(cgroup.paths.values()):
            for name in ("", *os.listdir(path)):
                status = os.stat(os.path.join(path, name))
                ours = changed and (not name or name in listed)
                assert (status.st_uid, status.st_gid) == ((int(uid), int(gid)) if ours else (0, 0)), name


def become(uid: str, gid: str) -> None:
    os.setgroups([])
    os.setresgid(int(gid), int(gid), int(gid))
    os.setresuid(int(uid), int(uid), int(uid))


def as_user(uid: str, gid: str, action: Callable[[], None]) -> None:
    """Run `action` as an ordinary user, in a child."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            become(uid, gid)
            action()
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def rootless_without_delegation(uid: str, gid: str) -> None:
    def action() -> None:
        plain: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
        assert cgroups.new(None, TOKEN, rootless=True, resources=plain) is None
        for resources in ({"memory": {"limit": 1 << 30}}, {"pids": {"limit": 5}}):
            refused(
                lambda r=resources: cgroups.new(None, TOKEN, rootless=True, resources=r),  # type: ignore[misc]
                f"linux.resources.{next(iter(resources))}.limit: create the cgroup",
                "permission denied",
                "Delegate=yes",
            )
        refused(lambda: cgroups.new(f"/{TOKEN}/x", TOKEN, rootless=True), "linux.cgroupsPath", "permission denied")

    as_user(uid, gid, action)
    assert leftovers() == []


def rootless_with_a_delegated_cgroup2(uid: str, gid: str) -> None:
    if LAYOUT.unified is None:
        raise Skip("no cgroup2")
    top = f"{LAYOUT.unified}/{TOKEN}"
    os.makedirs(top + "/own")
    hugetlb = "hugetlb" in read(LAYOUT.unified + "/cgroup.controllers").split()
    if hugetlb:
        dirs.write(LAYOUT.unified + "/cgroup.subtree_control", "+hugetlb")
    for directory in (top, top + "/own"):
        for name in ("", "cgroup.procs", "cgroup.threads", "cgroup.subtree_control"):
            os.chown(os.path.join(directory, name), int(uid), int(gid))

    def action() -> None:
        plain: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
        limit = {"hugepageLimits": [{"pageSize": "2MB", "limit": 2 << 20}]} if hugetlb else {}
        for resources in (plain, limit):
            cgroup = cgroups.new(None, "box", rootless=True, resources=resources)
            assert cgroup is not None
            assert cgroup.paths == {"": top + "/box"}
            cgroup.create(resources)
            if resources is limit and hugetlb:
                assert read(top + "/box/hugetlb.2MB.max") == str(2 << 20)
            child = Child(cgroup, ticking=True)
            assert whereabouts(child.pid)[""] == f"/{TOKEN}/box"
            cgroup.freeze()
            assert not child.ticks(0.05)
            cgroup.thaw()
            assert cgroup.chown(os.getuid(), os.getgid())  # nobody's loss
            assert cgroup.chown(os.getuid() + 1, os.getgid()) is False  # not possible, and no error
            cgroup.kill()
            assert os.WTERMSIG(child.wait()) == signal.SIGKILL
            cgroup.delete()
            assert not os.path.exists(top + "/box")
        missing = {"cpuset": {"cpu": {"cpus": "0"}}, "pids": {"pids": {"limit": 3}}}
        for controller, resources in missing.items():
            if controller in read(top + "/cgroup.controllers").split():
                continue
            cgroup = cgroups.new(None, "box", rootless=True, resources=resources)
            assert cgroup is not None
            refused(lambda c=cgroup, r=resources: c.create(r), "linux.resources.", "not available")  # type: ignore[misc]
            assert not os.path.exists(top + "/box")

    pid = os.fork()
    if pid == 0:
        dirs.write(top + "/own/cgroup.procs", str(os.getpid()))
        try:
            as_user(uid, gid, action)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        sys.stdout.flush()
        os._exit(0)
    try:
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        dirs.remove(top)


def rootless_with_delegated_v1(uid: str, gid: str) -> None:
    """As seen on v1 machines with a hand-made delegation: limits work, the device list is left alone."""
    names = [name for name in ("memory", "pids") if on_v1(name)]
    if len(names) < 2:
        raise Skip("memory and pids are not on v1")
    for name in names:
        os.mkdir(f"{LAYOUT.v1[name]}/{TOKEN}")
        os.chown(f"{LAYOUT.v1[name]}/{TOKEN}", int(uid), int(gid))

    def action() -> None:
        resources: dict[str, Any] = {
            "memory": {"limit": 64 << 20},
            "pids": {"limit": 20},
            "devices": [{"allow": False}],
        }
        cgroup = cgroups.new(f"/{TOKEN}/box", "box", rootless=True, resources=resources)
        assert cgroup is not None and sorted(cgroup.paths) == names
        cgroup.create(resources)
        assert value(cgroup, "pids", "pids.max") == "20"
        fds = cgroup.join_fds()
        pid = os.fork()
        if pid == 0:
            for fd in fds:
                os.write(fd, b"0")
            signal.pause()
        for fd in fds:
            os.close(fd)
        while cgroup.pids() != [pid]:
            continue
        cgroup.kill()  # without a freezer
        assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL
        cgroup.delete()
        refused(
            lambda: cgroup.create({"cpu": {"shares": 5}}), "linux.resources.cpu.shares", "not available to this user"
        )

    as_user(uid, gid, action)


def many_at_once() -> None:
    """Containers that start and fail below a common parent, which whoever fails removes if it can."""
    workers = []
    for n in range(8):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                for turn in range(15):
                    cgroup = cgroups.new(f"/{TOKEN}/p/q/{n}", "x")
                    assert cgroup is not None
                    if turn % 2:
                        bad = {"devices": [{"allow": True, "type": "?", "access": "r"}]}
                        refused(lambda c=cgroup, b=bad: c.create(b), "linux.resources.devices[0].type")  # type: ignore[misc]
                    else:
                        cgroup.create()
                        cgroup.delete()
                status = 0
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                os._exit(status)
        workers.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in workers] == [0] * 8
    left = [os.path.join(d, name) for top in leftovers() for d, below, _ in os.walk(top) for name in below]
    assert {os.path.basename(path) for path in left} <= {"p", "q"}


def a_deep_nest() -> None:
    """Cgroups made by relative paths, deeper than PATH_MAX reaches."""
    with made() as cgroup:
        name = "n" * 250
        top = cgroup.paths.get("") or cgroup.paths["devices"]
        fd = os.open(top, os.O_RDONLY)
        for _ in range(40):
            os.mkdir(name, dir_fd=fd)
            child = os.open(name, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = child
        os.close(fd)
        assert cgroup.pids() == []
        cgroup.delete()
        assert not os.path.exists(top)


def default_places() -> None:
    """Without linux.cgroupsPath, and with a relative one: below the caller's own on v1, beside it on cgroup2."""
    for path, inner in ((None, TOKEN), (f"{TOKEN}/r", f"{TOKEN}/r")):
        with made(name=TOKEN, path=path) if path else default(TOKEN) as cgroup:
            for name, directory in cgroup.paths.items():
                own = LAYOUT.own[name]
                base = own if name or own == LAYOUT.unified else os.path.dirname(own)
                assert directory == f"{base}/{inner}"
            Child(cgroup)
        if path:
            for directory in dict.fromkeys(cgroup.paths.values()):
                dirs.remove(os.path.dirname(directory))


@contextmanager
def default(id: str) -> Iterator[Cgroup]:
    cgroup = cgroups.new(None, id)
    assert cgroup is not None
    cgroup.create()
    try:
        yield cgroup
    finally:
        cgroup.kill()
        cgroup.delete()


def kill_minus_nine_of_us() -> None:
    """Whoever dies between create and delete leaves empty cgroups, which load().delete() removes."""
    pid = os.fork()
    if pid == 0:
        cgroup = cgroups.new(f"/{TOKEN}/c", "c")
        assert cgroup is not None
        cgroup.create({"devices": []})
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    left = cgroups.new(f"/{TOKEN}/c", "c")
    assert left is not None
    assert all(os.path.isdir(path) for path in left.paths.values())
    cgroups.load(left.paths).delete()
    assert not any(os.path.isdir(path) for path in left.paths.values())


def main(argv: list[str]) -> int:
    global TOKEN
    name, TOKEN, *rest = argv
    before = read(LAYOUT.unified + "/cgroup.subtree_control").split() if LAYOUT.unified is not None else []
    try:
        globals()[name](*rest)
    except Skip as e:
        print(e)
        return 77
    finally:
        reap()
        for top in leftovers():
            for pid in dirs.pids(top):
                os.kill(pid, signal.SIGKILL)
            reap()
            dirs.remove(top)
        if LAYOUT.unified is not None:
            for controller in read(LAYOUT.unified + "/cgroup.subtree_control").split():
                if controller not in before:
                    try:
                        dirs.write(LAYOUT.unified + "/cgroup.subtree_control", "-" + controller)
                    except OSError as e:
                        assert e.errno == errno.EBUSY, e  # somebody else's cgroup uses it by now
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
