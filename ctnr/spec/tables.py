# SPDX-License-Identifier: Apache-2.0
"""The names of the runtime-spec and the kernel's numbers for them (Linux UAPI headers; the same on x86 and ARM).

HOT: imported by every verb that starts something. Constants only.
"""

from __future__ import annotations

OCI_VERSION = "1.3.0"

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")

# --- linux/sched.h

CLONE_NEWTIME = 0x00000080
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

NAMESPACES = {
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
    "mount": CLONE_NEWNS,
    "ipc": CLONE_NEWIPC,
    "uts": CLONE_NEWUTS,
    "user": CLONE_NEWUSER,
    "cgroup": CLONE_NEWCGROUP,
    "time": CLONE_NEWTIME,
}

# their names in /proc/PID/ns
NAMESPACE_FILES = {
    "pid": "pid",
    "network": "net",
    "mount": "mnt",
    "ipc": "ipc",
    "uts": "uts",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
}

SCHED_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}

SCHED_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}

# --- linux/ioprio.h, linux/personality.h, linux/mempolicy.h

IOPRIO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}

PERSONALITIES = {"LINUX": 0x0000, "LINUX32": 0x0008}

MEMORY_POLICIES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}

MEMORY_POLICY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}

# --- linux/capability.h

CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_LINUX_IMMUTABLE": 9,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_BROADCAST": 11,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_IPC_OWNER": 15,
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_PACCT": 20,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_BOOT": 22,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_SYS_TIME": 25,
    "CAP_SYS_TTY_CONFIG": 26,
    "CAP_MKNOD": 27,
    "CAP_LEASE": 28,
    "CAP_AUDIT_WRITE": 29,
    "CAP_AUDIT_CONTROL": 30,
    "CAP_SETFCAP": 31,
    "CAP_MAC_OVERRIDE": 32,
    "CAP_MAC_ADMIN": 33,
    "CAP_SYSLOG": 34,
    "CAP_WAKE_ALARM": 35,
    "CAP_BLOCK_SUSPEND": 36,
    "CAP_AUDIT_READ": 37,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}

# --- asm-generic/resource.h

RLIM_INFINITY = (1 << 64) - 1

RLIMITS = {
    "RLIMIT_CPU": 0,
    "RLIMIT_FSIZE": 1,
    "RLIMIT_DATA": 2,
    "RLIMIT_STACK": 3,
    "RLIMIT_CORE": 4,
    "RLIMIT_RSS": 5,
    "RLIMIT_NPROC": 6,
    "RLIMIT_NOFILE": 7,
    "RLIMIT_MEMLOCK": 8,
    "RLIMIT_AS": 9,
    "RLIMIT_LOCKS": 10,
    "RLIMIT_SIGPENDING": 11,
    "RLIMIT_MSGQUEUE": 12,
    "RLIMIT_NICE": 13,
    "RLIMIT_RTPRIO": 14,
    "RLIMIT_RTTIME": 15,
}

# --- linux/mount.h

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
# three exclusive values in one field, of which relatime is 0
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x00
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# option: (is it the name of the flag's absence?, MS_* flag, the MOUNT_ATTR_* that says the same of one mount)
# None: a property of the filesystem, or of the call, which no mount_setattr(2) can change
MOUNT_FLAGS: dict[str, tuple[bool, int, int | None]] = {
    "async": (True, MS_SYNCHRONOUS, None),
    "atime": (True, MS_NOATIME, MOUNT_ATTR_NOATIME),
    "bind": (False, MS_BIND, None),
    "defaults": (False, 0, None),
    "dev": (True, MS_NODEV, MOUNT_ATTR_NODEV),
    "diratime": (True, MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    "dirsync": (False, MS_DIRSYNC, None),
    "exec": (True, MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    "iversion": (False, MS_I_VERSION, None),
    "lazytime": (False, MS_LAZYTIME, None),
    "loud": (True, MS_SILENT, None),
    "mand": (False, MS_MANDLOCK, None),
    "noatime": (False, MS_NOATIME, MOUNT_ATTR_NOATIME),
    "nodev": (False, MS_NODEV, MOUNT_ATTR_NODEV),
    "nodiratime": (False, MS_NODIRATIME, MOUNT_ATTR_NODIRATIME),
    "noexec": (False, MS_NOEXEC, MOUNT_ATTR_NOEXEC),
    "noiversion": (True, MS_I_VERSION, None),
    "nolazytime": (True, MS_LAZYTIME, None),
    "nomand": (True, MS_MANDLOCK, None),
    "norelatime": (True, MS_RELATIME, MOUNT_ATTR_RELATIME),
    "nostrictatime": (True, MS_STRICTATIME, MOUNT_ATTR_STRICTATIME),
    "nosuid": (False, MS_NOSUID, MOUNT_ATTR_NOSUID),
    "nosymfollow": (False, MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
    "rbind": (False, MS_BIND | MS_REC, None),
    "relatime": (False, MS_RELATIME, MOUNT_ATTR_RELATIME),
    "remount": (False, MS_REMOUNT, None),
    "ro": (False, MS_RDONLY, MOUNT_ATTR_RDONLY),
    "rw": (True, MS_RDONLY, MOUNT_ATTR_RDONLY),
    "silent": (False, MS_SILENT, None),
    "strictatime": (False, MS_STRICTATIME, MOUNT_ATTR_STRICTATIME),
    "suid": (True, MS_NOSUID, MOUNT_ATTR_NOSUID),
    "symfollow": (True, MS_NOSYMFOLLOW, MOUNT_ATTR_NOSYMFOLLOW),
    "sync": (False, MS_SYNCHRONOUS, None),
}

# option: (is it the name of the attribute's absence?, MOUNT_ATTR_*), for AT_RECURSIVE
MOUNT_RECURSIVE = {
    "ratime": (True, MOUNT_ATTR_NOATIME),
    "rdev": (True, MOUNT_ATTR_NODEV),
    "rdiratime": (True, MOUNT_ATTR_NODIRATIME),
    "rexec": (True, MOUNT_ATTR_NOEXEC),
    "rnoatime": (False, MOUNT_ATTR_NOATIME),
    "rnodev": (False, MOUNT_ATTR_NODEV),
    "rnodiratime": (False, MOUNT_ATTR_NODIRATIME),
    "rnoexec": (False, MOUNT_ATTR_NOEXEC),
    "rnorelatime": (True, MOUNT_ATTR_RELATIME),
    "rnostrictatime": (True, MOUNT_ATTR_STRICTATIME),
    "rnosuid": (False, MOUNT_ATTR_NOSUID),
    "rnosymfollow": (False, MOUNT_ATTR_NOSYMFOLLOW),
    "rrelatime": (False, MOUNT_ATTR_RELATIME),
    "rro": (False, MOUNT_ATTR_RDONLY),
    "rrw": (True, MOUNT_ATTR_RDONLY),
    "rstrictatime": (False, MOUNT_ATTR_STRICTATIME),
    "rsuid": (True, MOUNT_ATTR_NOSUID),
    "rsymfollow": (True, MOUNT_ATTR_NOSYMFOLLOW),
}

MOUNT_PROPAGATION = {
    "private": MS_PRIVATE,
    "rprivate": MS_PRIVATE | MS_REC,
    "rshared": MS_SHARED | MS_REC,
    "rslave": MS_SLAVE | MS_REC,
    "runbindable": MS_UNBINDABLE | MS_REC,
    "shared": MS_SHARED,
    "slave": MS_SLAVE,
    "unbindable": MS_UNBINDABLE,
}

# what is neither a flag nor an attribute; the last three are crun's
MOUNT_EXTENSIONS = ("idmap", "ridmap", "tmpcopyup", "copy-symlink", "src-nofollow", "dest-nofollow")
