# SPDX-License-Identifier: Apache-2.0
"""config.json -> Plan: every decision about a container's start, and none of its system calls.

HOT. compile_create() is the container's first process, compile_exec() a process that joins it.
"""

from __future__ import annotations

import posix

from ctnr.errors import SpecError
from ctnr.runtime import plan as p
from ctnr.runtime import rootfs, state
from ctnr.runtime.cgroups.layout import layout
from ctnr.runtime.plan import Plan
from ctnr.spec.tables import (
    CAPABILITIES,
    CLONE_NEWCGROUP,
    CLONE_NEWPID,
    CLONE_NEWTIME,
    CLONE_NEWUSER,
    NAMESPACES,
    RLIMITS,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ctnr.runtime.cgroups import Cgroup
    from ctnr.runtime.cgroups.layout import Layout
    from ctnr.runtime.netdev import Moved
    from ctnr.runtime.plan import Step
    from ctnr.spec.mounts import MountOptions
    from ctnr.spec.types import Config, Hook, IDMapping, Linux, Mount, Process

_DEFAULT_UMASK = 0o022
KEEP_GROUPS = "run.oci.keep_original_groups"  # crun's annotation
_KEY_USR_SEARCH, _KEY_OTH_SEARCH = 0x00080000, 0x00000008  # linux/key.h


class Context:
    """Facts and options that the compilation needs beside the config; nothing here is decided by the container."""

    __slots__ = (
        "bind_devices",
        "bundle",
        "cgroup",
        "cgroup_files",
        "cgroup_ready",
        "cgroup_wait",
        "config",
        "console",
        "euid",
        "foreign_network",
        "has_kcore",
        "hook_outputs",
        "id",
        "init",
        "layout",
        "lenient",
        "linux",
        "listen",
        "listener",
        "listener_is_ours",
        "mount_namespace",
        "moved",
        "new_cgroup_namespace",
        "no_new_keyring",
        "no_pivot",
        "nodes",
        "passed_fds",
        "privileged_parent",
        "root_steps",
        "rootfs",
        "setgroups",
        "trees",
        "user_namespace",
    )

    def __init__(self, config: Config, id: str, bundle: str) -> None:
        self.config = config
        self.linux: Linux = config.get("linux") or {}
        self.id = id
        self.bundle = bundle
        self.rootfs = ""
        self.euid = posix.geteuid()
        self.cgroup: Cgroup | None = None
        self.cgroup_files = 0  # how many files the process writes itself into to join
        self.cgroup_ready = False
        self.cgroup_wait = False  # the parent puts the process in
        self.layout: Layout | None = None
        self.lenient = False  # go on without a cgroup where the user may make none
        self.console = ""  # ref of the console socket; "" sends the master to the parent
        self.moved: Moved | None = None  # network devices
        self.listen = True  # `start` comes over a socket, not from the parent
        # the socket on which somebody listens for seccomp notifications, and whether it is of a supervisor of ours
        self.listener = _listener(config)
        self.listener_is_ours = False
        self.init = False  # --init: reap
        self.no_pivot = False
        self.no_new_keyring = False
        self.passed_fds: tuple[int, ...] = ()  # what the program gets beside its stdio
        self.hook_outputs: tuple[int, ...] = ()  # which of the stdio of the init's hooks have a file: fds "hooks:N"
        self.setgroups = True
        self.root_steps: list[Step] = []  # mounts that make the root filesystem itself (engine)
        self.trees: dict[str, tuple[str, bool, MountOptions, Mount, str]] = {}
        self.nodes: dict[str, tuple[int, int, int, int, int, str]] = {}  # mode, major, minor, uid, gid, field
        namespaces = {n["type"]: n.get("path", "") for n in self.linux.get("namespaces") or ()}
        self.user_namespace = "user" in namespaces
        inside = state.in_user_namespace()
        # of whom the user namespace is not the owner; two that are joined may belong together
        self.foreign_network = self.user_namespace and (
            "network" not in namespaces or (bool(namespaces["network"]) and not namespaces["user"])
        )
        # the runtime can do what the container's root cannot
        self.privileged_parent = self.user_namespace and self.euid == 0 and not inside
        # mknod(2) of a device is for the initial user namespace only: below it the host's are bound
        self.bind_devices = self.user_namespace or inside
        self.mount_namespace = "mount" in namespaces
        self.new_cgroup_namespace = namespaces.get("cgroup", "-") == ""
        self.has_kcore = exists("/proc/kcore")

    def cgroup_layout(self) -> Layout:
        if self.layout is None:
            self.layout = layout()
        return self.layout

    def cgroup_dir(self, controller: str) -> tuple[str, bool]:
        """The directory of the container's cgroup in a hierarchy, and whether it is the container's own."""
        if self.cgroup is not None and controller in self.cgroup.paths:
            return self.cgroup.paths[controller] + self.cgroup.inner(), True
        layout = self.cgroup_layout()
        point = layout.v1[controller] if controller else layout.unified or ""
        return layout.own.get(controller, point), False

    def need_cgroup_namespace(self, plan: Plan) -> None:
        """A cgroup namespace shows the cgroup that its maker is in: the init is in the container's from the start."""
        if self.new_cgroup_namespace and not self.cgroup_ready:
            self.cgroup_ready = True
            plan.add(p.UNSHARE, "linux.namespaces", args=(CLONE_NEWCGROUP,))


def _listener(config: Config) -> str:
    section = (config.get("linux") or {}).get("seccomp")
    if not section:
        return ""
    from ctnr.spec.seccomp import listener

    return listener(section, config.get("annotations"))


def exists(path: str) -> bool:
    try:
        posix.stat(path)
    except OSError:
        return False
    return True


def check_supported(config: Config) -> None:
    """Refuse what the config asks for and this version does not do."""
    process = config.get("process") or {}
    linux = config.get("linux") or {}
    if any(name.startswith("run.oci.") for name in config.get("annotations") or ()):
        from ctnr.runtime import annotations

        annotations.refuse(config["annotations"])
    if _labelled(process) or linux.get("mountLabel"):
        from ctnr.runtime import lsm

        lsm.check(config)


def _labelled(process: Process) -> bool:
    return bool(process.get("apparmorProfile") or process.get("selinuxLabel"))


def compile_create(ctx: Context) -> Plan:
    """The plan of the container's first process."""
    plan = Plan()
    config = ctx.config
    process: Process = config.get("process") or {}
    _namespaces(plan, ctx, process)
    _cgroup(plan, ctx)
    plan.add(p.AFFINITY, "")
    if any(n["type"] == "network" and not n.get("path") for n in ctx.linux.get("namespaces") or ()):
        plan.add(p.LOOPBACK, "linux.namespaces")
    if ctx.linux.get("netDevices"):
        plan.add(p.SYNC, "linux.netDevices", args=(p.PHASE_DEVICES,), flags=p.SYNC_NETLINK)
    plan.add(p.SETSID, "")
    rootfs.begin(plan, ctx)
    if ctx.mount_namespace:
        rootfs.mounts(plan, ctx)
        rootfs.devices(plan, ctx)
    hooks = config.get("hooks") or {}
    terminal = process.get("terminal", False)
    if terminal:
        _console(plan, ctx, process, p.CONSOLE_BIND if ctx.mount_namespace else 0)
    ctx.need_cgroup_namespace(plan)
    if hooks.get("prestart") or hooks.get("createRuntime"):
        plan.add(p.SYNC, "hooks", args=(p.PHASE_HOOKS,))
    elif hooks.get("createContainer"):
        plan.add(p.SYNC, "hooks.createContainer", args=(p.PHASE_HOOKS,))
    _hooks(plan, ctx, "createContainer", ctx.bundle)
    if process.get("cwd"):
        plan.add(p.MKCWD, "process.cwd", process["cwd"])  # before the root is read-only
    if ctx.mount_namespace:
        rootfs.protect(plan, ctx)
    rootfs.enter(plan, ctx)
    if config.get("hostname"):
        plan.add(p.HOSTNAME, "hostname", config["hostname"])
    if config.get("domainname"):
        plan.add(p.DOMAINNAME, "domainname", config["domainname"])
    rootfs.sysctls(plan, ctx)
    if process.get("args"):
        if _labelled(process):
            from ctnr.runtime import lsm

            lsm.process_steps(plan, process, "process", not ctx.no_new_keyring)
        _become(plan, ctx, process, "process", first=True)
    plan.add(p.WAIT, "", ref="start" if ctx.listen else "")
    if process.get("args"):
        _hooks(plan, ctx, "startContainer")
        _execute(plan, ctx, process, "process")
    else:
        plan.add(p.EXEC, "process", b"", b"")  # without a program only `start` fails (runtime.md#start)
    return plan


def compile_exec(ctx: Context, process: Process, namespaces: int, path: str = "process") -> Plan:
    """The plan of one more process in a running container; `namespaces` are the CLONE_NEW* to join, by its pidfd."""
    if not process.get("args"):
        raise SpecError(f"{path}.args", "nothing to run")
    plan = Plan()
    _oom_score(plan, process, path)
    if _labelled(process):
        from ctnr.runtime import lsm

        lsm.process_steps(plan, process, path, not ctx.no_new_keyring)
    cpus = process.get("execCPUAffinity") or {}
    initial, final = cpus.get("initial", ""), cpus.get("final", "")
    if initial:
        from ctnr.runtime import tuning

        tuning.affinity(plan, initial, f"{path}.execCPUAffinity.initial")
    _cgroup(plan, ctx)
    if final:
        from ctnr.runtime import tuning

        tuning.affinity(plan, final, f"{path}.execCPUAffinity.final")
    elif not initial:
        plan.add(p.AFFINITY, "")
    plan.add(p.NODUMP, "")
    if namespaces:
        plan.add(p.JOIN, "linux.namespaces", args=(namespaces,), ref="container")
    plan.add(p.CLONE, "", args=(0,))
    plan.add(p.ROOTFS, "", "/", flags=p.ROOTFS_PLAIN)
    if ctx.user_namespace:
        plan.add(p.SETID0, "linux.uidMappings")
    plan.add(p.SETSID, "")
    if process.get("terminal"):
        _console(plan, ctx, process, 0)
    _become(plan, ctx, process, path, first=False)
    plan.add(p.WAIT, "")
    _execute(plan, ctx, process, path)
    return plan


def _namespaces(plan: Plan, ctx: Context, process: Process) -> None:
    """Joins and clones, in the one order that has the needed privileges at each step.

    Namespaces that are only new come with the clone of the first process. A pid or user namespace that is joined, or a
    time namespace with offsets, is entered by a process that then makes the container's first one, and so is whatever must
    be joined before a new user namespace takes the privileges away.
    """
    new = 0
    joined: list[tuple[str, int, str, str]] = []
    for i, namespace in enumerate(ctx.linux.get("namespaces") or ()):
        name: str = namespace["type"]
        path = namespace.get("path", "")
        if path:
            joined.append((name, NAMESPACES[name], path, f"linux.namespaces[{i}].path"))
        else:
            new |= NAMESPACES[name]
    new &= ~CLONE_NEWCGROUP  # later: Context.need_cgroup_namespace
    offsets = _time_offsets(ctx)
    types = 0
    for _, flag, _, _ in joined:
        types |= flag
    relay = types & (CLONE_NEWPID | CLONE_NEWUSER) or (joined and new & CLONE_NEWUSER) or new & CLONE_NEWTIME
    if not relay:
        plan.clone = new
        if not new & CLONE_NEWUSER:
            _oom_score(plan, process, "process")
        for name, flag, path, field in joined:
            plan.add(p.JOIN, field, args=(flag,), ref=f"ns:{name}:{path}")
    else:
        if new & CLONE_NEWTIME and new & CLONE_NEWUSER and ctx.euid != 0:
            # only the owner of a user namespace may make the time namespace: make that first, for both processes
            plan.clone = CLONE_NEWUSER
            plan.add(p.SYNC, "linux.uidMappings", args=(p.PHASE_MAPS,))
            plan.add(p.SETID0, "linux.uidMappings")
            new &= ~CLONE_NEWUSER
        elif not new & CLONE_NEWUSER:
            _oom_score(plan, process, "process")
        if types:
            plan.add(p.NODUMP, "")
        first = [j for j in joined if j[1] != CLONE_NEWUSER]
        user = [j for j in joined if j[1] == CLONE_NEWUSER]
        for name, flag, path, field in first if ctx.euid == 0 or not user else ():
            plan.add(p.JOIN, field, args=(flag,), flags=p.JOIN_RETRY if user else 0, ref=f"ns:{name}:{path}")
        for name, flag, path, field in user:
            plan.add(p.JOIN, field, args=(flag,), ref=f"ns:{name}:{path}")
        for name, flag, path, field in first if user else ():
            plan.add(p.JOIN, field, args=(flag,), ref=f"ns:{name}:{path}")
        if new & CLONE_NEWTIME:
            plan.add(p.TIMENS, "linux.timeOffsets", offsets)
            new &= ~CLONE_NEWTIME
        plan.add(p.CLONE, "linux.namespaces", args=(new,))
        if user:
            plan.add(p.SETID0, "linux.uidMappings")
    if new & CLONE_NEWUSER:
        plan.add(p.SYNC, "linux.uidMappings", args=(p.PHASE_MAPS,))
        plan.add(p.SETID0, "linux.uidMappings")


def _cgroup(plan: Plan, ctx: Context) -> None:
    if ctx.cgroup_wait:
        plan.add(p.SYNC, "linux.cgroupsPath", args=(p.PHASE_CGROUP,))
    for i in range(ctx.cgroup_files):
        plan.add(p.CGROUP, "linux.cgroupsPath", ref=f"cgroup:{i}")


def _time_offsets(ctx: Context) -> str:
    """time_namespaces(7): a line for each clock."""
    lines = []
    for clock, offset in (ctx.linux.get("timeOffsets") or {}).items():
        lines.append(f"{clock} {offset.get('secs', 0)} {offset.get('nanosecs', 0)}\n")
    return "".join(lines)


def _oom_score(plan: Plan, process: Process, path: str) -> None:
    score = process.get("oomScoreAdj")
    if score is not None:
        plan.add(p.OOM_SCORE, f"{path}.oomScoreAdj", args=(score + 1000,))


def _console(plan: Plan, ctx: Context, process: Process, flags: int) -> None:
    size = process.get("consoleSize") or {}
    args = (size.get("height", 0), size.get("width", 0))
    plan.add(p.CONSOLE, "process.terminal", args=args, flags=flags, ref=ctx.console)


def _hooks(plan: Plan, ctx: Context, kind: str, directory: str | None = None) -> None:
    config = ctx.config
    hooks: dict[str, list[Hook]] = config.get("hooks") or {}  # type: ignore[assignment]
    if hooks.get(kind) and not any(step.op == p.HOOK_OUTPUT for step in plan.steps):
        for fd in ctx.hook_outputs:
            plan.add(p.HOOK_OUTPUT, "annotations", args=(fd,), ref=f"hooks:{fd}")
    process = config.get("process") or {}
    for i, hook in enumerate(hooks.get(kind) or ()):
        timeout = (hook.get("timeout") or 0) * 1000
        argv = p.strings(hook.get("args") or [hook["path"]])
        # as in runc: a hook without one gets the program's, where that is what runs next
        given = hook.get("env")
        env = p.strings((process.get("env") if given is None and kind == "startContainer" else given) or [])
        plan.add(p.HOOK, f"hooks.{kind}[{i}]", hook["path"], argv, env, directory, args=(timeout,))


def capability_mask(names: list[str] | None) -> int:
    """The set as a bit mask; unknown names were warned about by validate()."""
    mask = 0
    for name in names or ():
        number = CAPABILITIES.get(name)
        if number is not None:
            mask |= 1 << number
    return mask


def _become(plan: Plan, ctx: Context, process: Process, path: str, first: bool) -> None:
    """What the process is, up to the point where it waits for `start`; order matters, see each."""
    plan.add(p.NODUMP, "")  # from here on its neighbours in a shared pid namespace (a pod's, the host's) are its equals
    if not ctx.no_new_keyring:
        # searchable, so that exec'd processes find it and have the same; in a user namespace runc's is for others only, but
        # they have the same user
        permissions = _KEY_USR_SEARCH | (_KEY_OTH_SEARCH if ctx.user_namespace else 0) if first else 0
        plan.add(p.KEYRING, "", f"_ses.{ctx.id}", args=(permissions,))
    for i, limit in enumerate(process.get("rlimits") or ()):
        if ctx.privileged_parent:
            continue
        args = (RLIMITS[limit["type"]], limit["soft"], limit["hard"])
        plan.add(p.RLIMIT, f"{path}.rlimits[{i}]", args=args)
    if ctx.privileged_parent and (process.get("rlimits") or process.get("scheduler") or process.get("ioPriority")):
        plan.add(p.SYNC, f"{path}.rlimits", args=(p.PHASE_LIMITS,))
    if _tuned(ctx, process):
        from ctnr.runtime import tuning

        tuning.steps(plan, ctx, process, path)
    cwd = process.get("cwd") or "/"
    user = process.get("user") or {}
    capabilities = process.get("capabilities") or {}
    plan.add(p.CWD, f"{path}.cwd", cwd, flags=p.CWD_TRY)  # by now: a seccomp filter may refuse getcwd(2)
    no_new_privs = process.get("noNewPrivileges", False)
    if no_new_privs:
        plan.add(p.NO_NEW_PRIVS, f"{path}.noNewPrivileges")
    if rules := (ctx.config.get("annotations") or {}).get("io.ctnr.landlock"):
        from ctnr.runtime import landlock

        landlock.compile(plan, rules, user.get("uid", 0))
    if not no_new_privs:
        _seccomp(plan, ctx)  # without no_new_privs it takes CAP_SYS_ADMIN
    plan.add(p.BOUNDING, f"{path}.capabilities.bounding", args=(capability_mask(capabilities.get("bounding")),))
    groups = user.get("additionalGids") or []
    keep = (ctx.config.get("annotations") or {}).get(KEEP_GROUPS, "0") != "0"
    if keep and groups:
        raise SpecError(f"{path}.user.additionalGids", f"annotation {KEEP_GROUPS} says that the caller's groups stay")
    if groups and not ctx.setgroups:
        raise SpecError(
            f"{path}.user.additionalGids",
            "cannot be set in a user namespace with a single id (setgroups is denied there)",
        )
    plan.add(
        p.USER,
        f"{path}.user",
        p.numbers(groups),
        args=(user.get("uid", 0), user.get("gid", 0), len(groups)),
        flags=p.USER_SETGROUPS if ctx.setgroups and not keep else 0,
    )
    sets = ("effective", "permitted", "inheritable", "ambient")
    masks = tuple(capability_mask(capabilities.get(name)) for name in sets)  # type: ignore[arg-type]
    plan.add(p.CAPS, f"{path}.capabilities", args=masks)
    plan.add(p.CWD, f"{path}.cwd", cwd)
    umask = user.get("umask")
    plan.add(p.UMASK, f"{path}.user.umask", args=(_DEFAULT_UMASK if umask is None else umask,))
    search = ""
    for entry in process.get("env") or ():
        if entry.startswith("PATH="):
            search = entry[5:]
    plan.add(p.LOOKUP, f"{path}.args[0]", process["args"][0], search)
    if no_new_privs and ctx.listener:
        _seccomp(plan, ctx)  # as runc: the listener hears of it at create


def _tuned(ctx: Context, process: Process) -> bool:
    linux = ctx.linux
    return bool(
        process.get("scheduler") or process.get("ioPriority") or linux.get("memoryPolicy") or linux.get("personality")
    )


def _seccomp(plan: Plan, ctx: Context) -> None:
    if "run.oci.seccomp_bpf_data" in (ctx.config.get("annotations") or ()):
        from ctnr.runtime import annotations

        program = annotations.filter_program(ctx.config["annotations"])
        if program:
            # as in crun: instead of linux.seccomp
            plan.add(p.SECCOMP, f'annotations["{annotations.BPF_DATA}"]', program, args=(0,))
            return
    section = ctx.linux.get("seccomp")
    if section:
        from ctnr.runtime import seccomp

        unknown = (ctx.config.get("annotations") or {}).get("run.oci.seccomp_fail_unknown_syscall", "0")
        filter = seccomp.compile(section, fail_unknown=unknown != "0")
        flags, ref = 0, ""
        if ctx.listener:
            plan.add(p.SYNC, "linux.seccomp.listenerPath", args=(p.PHASE_LISTENER,))
            flags, ref = p.SECCOMP_PIPE if ctx.listener_is_ours else 0, "listener"
        if filter.program:
            plan.add(p.SECCOMP, "linux.seccomp", filter.program, args=(filter.flags,), flags=flags, ref=ref)


def _execute(plan: Plan, ctx: Context, process: Process, path: str) -> None:
    if ctx.init:
        plan.add(p.REAPER, "--init")
        if process.get("scheduler"):
            from ctnr.runtime import tuning

            tuning.below_reaper(plan, process, path)
    if process.get("noNewPrivileges", False) and not ctx.listener:
        _seccomp(plan, ctx)
    argv = p.strings(process["args"])
    env = p.strings(process.get("env") or [])
    keep = p.numbers(ctx.passed_fds)
    plan.add(p.EXEC, f"{path}.args", argv, env, keep, flags=p.EXEC_HOME)


def joined_namespaces(config: Config) -> int:
    """CLONE_NEW* of the namespaces that the container has to itself or joined: what an exec has to join."""
    flags = 0
    for namespace in (config.get("linux") or {}).get("namespaces") or ():
        flags |= NAMESPACES[namespace["type"]]
    return flags


def id_maps(linux: Linux) -> tuple[list[IDMapping], list[IDMapping]]:
    return list(linux.get("uidMappings") or ()), list(linux.get("gidMappings") or ())
