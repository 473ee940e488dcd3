/* SPDX-License-Identifier: Apache-2.0
 *
 * The plan: what the parent (ctnr/runtime/plan.py, its only producer) tells the static init to do. One flat buffer in a
 * sealed memfd: a header, an array of fixed-size steps, then strings. All integers are little endian (the host's).
 *
 * A string is {u32 length; bytes; NUL}, 4-aligned, named by its offset from the start of the buffer; 0 is "no string".
 * A list (argv, env) is a string whose bytes are NUL-terminated strings one after another.
 * plan_check() accepts a buffer only if every offset, length and list in it is sound, so that what follows need not look.
 */
#ifndef CTNR_PLAN_H
#define CTNR_PLAN_H

#include <stdint.h>

#define PLAN_MAGIC 0x314e4c50u /* "PLN1" */
#define PLAN_MAX_SIZE (16u << 20)
#define PLAN_MAX_STEPS 65536u
#define PLAN_STRINGS 4
#define PLAN_ARGS 5

struct plan_header {
    uint32_t magic;
    uint32_t size;   /* of the whole buffer */
    uint32_t nsteps; /* steps follow the header */
    uint32_t flags;
};

struct plan_step {
    uint16_t op;
    uint16_t flags;
    int32_t fd; /* an inherited fd, or -1 */
    uint64_t arg[PLAN_ARGS];
    uint32_t str[PLAN_STRINGS];
};

/* Steps. Kept in the same order as OPS in plan.py; a test compares the two. */
enum plan_op {
    OP_NONE = 0,
    OP_OOM_SCORE, /* arg0: oom_score_adj + 1000 */
    OP_NODUMP,    /* PR_SET_DUMPABLE 0, nothing of the host's stays open: strangers are near (CVE-2016-9962) */
    OP_CGROUP,    /* fd: a tasks or cgroup.procs file that this process writes itself into */
    OP_JOIN,      /* fd: namespace; arg0: CLONE_NEW*; flags JOIN_RETRY: EPERM is tried again after the user namespace */
    OP_UNSHARE,   /* arg0: CLONE_NEW* */
    OP_TIMENS,    /* str0: text for timens_offsets ("" for none); unshares the time namespace of the children */
    OP_CLONE,     /* arg0: CLONE_NEW*; this process ends, its child (a sibling of it) goes on with the next step */
    OP_SYNC, /* arg0: phase; flags SYNC_NETLINK: with a netlink socket of this namespace; wait until the parent has done its part */
    OP_SETID0,   /* become 0:0 of the user namespace */
    OP_LOOPBACK, /* bring lo up in a new network namespace */
    OP_SETSID,
    OP_PROPAGATION, /* str0: host path; arg0: MS_* */
    OP_HOST_MOUNT,  /* str0: source; str1: type; str2: host path; str3: data; arg0: MS_* */
    OP_HOST_MKDIR,  /* str0: host path; arg0: mode */
    OP_HOST_HIDE,   /* str0: host path of a mount that must not survive --no-pivot: unmounted, else covered */
    OP_ROOTFS,  /* str0: host path; becomes a mount of its own (flags ROOTFS_PLAIN: not) and the root of later paths */
    OP_FSMOUNT, /* str0: source; str1: type; str2: destination; str3: data; arg0: MOUNT_ATTR_*; arg1: the same as MS_*;
                       arg2: SB_* words; flags FSMOUNT_*; -> mount */
    OP_TREE, /* fd or str0: source; arg0: 1 recursive; flags TREE_*; arg1..3 type, major, minor; -> mount (detached) */
    OP_ATTACH,     /* str0: destination; flags ATTACH_*: attach the mount */
    OP_SETATTR,    /* arg0: set; arg1: clear; arg2: propagation; arg3: 1 recursive; on the mount, or on str0 */
    OP_LABEL,      /* str0: security.selinux of the root of the mount made last */
    OP_REMOUNT,    /* str0: destination; arg0: MS_*; str1: data: superblock and flags of what is there */
    OP_MKNOD,      /* str0: path; arg0: mode; arg1: major; arg2: minor; arg3: uid; arg4: gid */
    OP_SYMLINK,    /* str0: target; str1: path; flags SYMLINK_* */
    OP_UMOUNT,     /* str0: path: what is mounted there last, with all that is below */
    OP_MASK,       /* str0: path; str1: data of the tmpfs */
    OP_READONLY,   /* str0: path */
    OP_PIVOT,      /* flags PIVOT_* */
    OP_HOSTNAME,   /* str0 */
    OP_DOMAINNAME, /* str0 */
    OP_SYSCTL,     /* str0: path below /proc/sys; str1: value */
    OP_ATTRIBUTE,  /* str0: path below /proc; str1: value; flags ATTRIBUTE_*: written by this process, about itself */
    OP_KEYRING,    /* str0: name of the session keyring to join or make; arg0: permissions to add (keyctl_setperm(3)) */
    OP_CONSOLE, /* fd: console socket or -1 (the parent gets the master); arg0: rows; arg1: columns; flags CONSOLE_* */
    OP_HOOK_OUTPUT,   /* fd: a file; arg0: 1 or 2, the fd of the hooks below that it is for */
    OP_HOOK,          /* str0: path; str1: argv; str2: env; str3: directory; arg0: timeout in ms, 0 none */
    OP_RLIMIT,        /* arg0: resource; arg1: soft; arg2: hard */
    OP_SCHEDULER,     /* str0: struct sched_attr (sched_setattr(2)) */
    OP_IO_PRIORITY,   /* arg0: ioprio_set(2)'s value */
    OP_AFFINITY,      /* str0: mask of CPUs (sched_setaffinity(2)), multiple of 8 bytes; none: every CPU there is */
    OP_MEMORY_POLICY, /* arg0: mode and flags (set_mempolicy(2)); str0: mask of nodes, multiple of 8 bytes, or none */
    OP_PERSONALITY,   /* arg0: personality(2)'s */
    OP_MKCWD,         /* str0: directory to make if missing */
    OP_USER,          /* arg0: uid; arg1: gid; arg2: number of groups; str0: u32 groups; flags USER_* */
    OP_BOUNDING,      /* arg0: capabilities kept in the bounding set */
    OP_CAPS,          /* arg0: effective; arg1: permitted; arg2: inheritable; arg3: ambient */
    OP_UMASK,         /* arg0 */
    OP_CWD,           /* str0; flags CWD_TRY: once more later if it is refused now */
    OP_NO_NEW_PRIVS,
    OP_LANDLOCK, /* arg0: handled_access_fs; arg1: handled_access_net; arg2: scoped; arg3: how many bytes of these */
    OP_LANDLOCK_PATH, /* str0: path; arg0: allowed_access; flags LANDLOCK_* */
    OP_LANDLOCK_PORT, /* arg0: allowed_access; arg1: port */
    OP_LANDLOCK_SELF, /* arg0: LANDLOCK_RESTRICT_SELF_*; arg1: uid that the program will have */
    OP_SECCOMP, /* arg0: SECCOMP_FILTER_FLAG_*; str0: struct sock_filter[]; fd: the connection to the listener of its
                   notifications, which gets the last GO's document with the listener's fd; flags SECCOMP_* */
    OP_LOOKUP,  /* str0: file; str1: value of PATH */
    OP_WAIT,    /* fd: listening socket on which `start` connects, or -1: the parent says go */
    OP_REAPER,  /* fork: the child goes on, this process stays as pid 1, forwards signals and reaps */
    OP_EXEC,    /* str0: argv; str1: env; str2: u32 numbers of the fds that the program gets; flags EXEC_* */
    OP_COUNT,
};

#define JOIN_RETRY 1
#define TREE_NOFOLLOW 1     /* src-nofollow */
#define TREE_DEVICE 2       /* the source must be the device arg1..arg3 */
#define TREE_PARENT 4       /* only the tree that the parent made will do (it is idmapped) */
#define FSMOUNT_LEGACY 1    /* by mount(2): an option that fsconfig cannot express */
#define FSMOUNT_STRICT 2    /* no symlink on the way to the destination (proc, sysfs: CVE-2019-19921) */
#define FSMOUNT_COPYUP 4    /* tmpcopyup: with a copy of what is below */
#define FSMOUNT_MODE 8      /* with the mode of the directory below, if there is one */
#define FSMOUNT_DETACHED 16 /* attached by an ATTACH, later and perhaps in another mount namespace */
#define SB_WORD_RO 1
#define SB_WORD_SYNC 2
#define SB_WORD_DIRSYNC 4
#define SB_WORD_LAZYTIME 8
#define SB_WORD_MAND 16
#define ATTACH_NOFOLLOW 1 /* dest-nofollow: on a symlink itself; the way to it has none */
#define PIVOT_MOVE 1      /* --no-pivot: MS_MOVE and chroot */
#define PIVOT_READONLY 2  /* then remount / read-only */
#define PIVOT_CHROOT 4    /* no mount namespace of its own: chroot */
#define ROOTFS_PLAIN 1
#define ATTRIBUTE_OPTIONAL 1 /* the kernel need not have it */
#define SYMLINK_REPLACE 1    /* remove what is there */
#define SYMLINK_KEEP 2       /* what is there may stay */
#define CWD_TRY 1
#define CONSOLE_BIND 1      /* bind the slave over /dev/console */
#define USER_SETGROUPS 1    /* setgroups is possible here */
#define LANDLOCK_OPTIONAL 1 /* a path that is not there is left out */
#define SECCOMP_PIPE 1 /* with it goes the end of a pipe that the exec closes: what came before was the init's own */
#define EXEC_HOME 1    /* set HOME from /etc/passwd if env has none */

#define SYNC_NETLINK 1

/* SYNC phases */
#define PHASE_MAPS 1     /* uid and gid maps are written */
#define PHASE_HOOKS 2    /* prestart and createRuntime hooks have run */
#define PHASE_LIMITS 3   /* the parent has set rlimits that only it may set */
#define PHASE_DEVICES 5  /* the network devices of the config are in this namespace */
#define PHASE_LISTENER 4 /* the document for the listener of seccomp notifications is in the GO */
#define PHASE_CGROUP 6   /* the parent has put the process into its cgroup */

/* Messages on the sync socket (SOCK_SEQPACKET). data follows the struct. */
struct plan_msg {
    uint32_t type;
    uint32_t step;
    int32_t err;   /* errno of MSG_ERROR; phase of MSG_SYNC; pid of MSG_PID */
    uint32_t code; /* what of the step failed, ERR_* */
};

#define MSG_ERROR 1   /* init -> parent; data: path or text */
#define MSG_SYNC 2    /* init -> parent: do your part of phase err */
#define MSG_PID 3     /* init -> parent: the pid (in the parent's pid namespace) that goes on; SCM_RIGHTS: its pidfd */
#define MSG_CONSOLE 4 /* init -> parent: SCM_RIGHTS with the pty master */
#define MSG_READY                                                                                                      \
    5            /* init -> parent: created; the parent's GO is needed even if `start` comes over a socket: without it
                         the parent may have died before it wrote down that we exist */
#define MSG_GO 6 /* parent or start -> init; data: the state document, for hooks */

#define ERR_SYSCALL 0      /* err is what the kernel said */
#define ERR_NOT_FOUND 1    /* LOOKUP: not in PATH */
#define ERR_NOT_EXEC 2     /* LOOKUP: found, not executable */
#define ERR_ESCAPED 3      /* CWD: outside the container's root (CVE-2024-21626) */
#define ERR_UNSAFE 4       /* something there is not what it must be (a fake /proc, /dev/null ...) */
#define ERR_HOOK_STATUS 5  /* HOOK: err is the wait status */
#define ERR_HOOK_TIMEOUT 6 /* HOOK */
#define ERR_PLAN 7         /* the plan is damaged */
#define ERR_MISSING 8      /* a system call (data) is refused here, and what it should do cannot be done without */

#endif
