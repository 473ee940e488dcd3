/* SPDX-License-Identifier: Apache-2.0 */
/* What the process itself becomes: namespaces, identity, capabilities, seccomp. */
#include "init.h"

#define MAX_CPUS 8192 /* CONFIG_NR_CPUS is at most that */

/* The runtime's own /proc, and nothing that only looks like it (CVE-2025-52881). */
int host_proc(struct init *in)
{
    if (in->host_proc_fd >= 0)
        return in->host_proc_fd;
    int fd = (int)sys_openat(AT_FDCWD_, "/proc", O_PATH | O_DIRECTORY | O_NOFOLLOW, 0);
    if (fd < 0)
        return fd;
    struct sys_stat st;
    if (sys_fs_magic(fd) != PROC_SUPER_MAGIC || sys_stat(fd, "", AT_EMPTY_PATH, &st) < 0 || st.ino != 1) {
        sys_close(fd);
        in->code = ERR_UNSAFE;
        return -ENODEV;
    }
    return in->host_proc_fd = fd;
}

/* Write value to a file of the runtime's /proc, in one write, refusing what is mounted over any part of the path. */
int proc_write(struct init *in, const char *path, const char *value, size_t len)
{
    int proc = host_proc(in);
    if (proc < 0)
        return proc;
    struct open_how how = {.flags = O_WRONLY | O_CLOEXEC | O_NOFOLLOW,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS};
    long fd = SYS(openat2, proc, path, &how, sizeof how);
    if (fd == -ENOSYS || fd == -EPERM) {
        fd = sys_openat(proc, path, O_WRONLY | O_NOFOLLOW, 0);
        if (fd >= 0 && (sys_fs_magic((int)fd) != PROC_SUPER_MAGIC)) {
            sys_close((int)fd);
            in->code = ERR_UNSAFE;
            return -EXDEV;
        }
    }
    if (fd < 0)
        return (int)fd;
    long r;
    do
        r = SYS(write, fd, value, len);
    while (r == -EINTR);
    sys_close((int)fd);
    return r < 0 ? (int)r : 0;
}

int do_oom_score(struct init *in, const struct plan_step *s)
{
    char text[24], *p = text;
    int64_t v = (int64_t)s->arg[0] - 1000;
    if (v < 0)
        *p++ = '-';
    char *end = put_num(p, (uint64_t)(v < 0 ? -v : v));
    return proc_write(in, "self/oom_score_adj", text, (size_t)(end - text));
}

void forget(int *fd)
{
    sys_close(*fd);
    *fd = -1;
}

/* Whoever shares our namespaces may not look into us, and there is nothing of the host's to find: no program may be named by
 * way of /proc/self/fd/N, and no process that outlives a step (the reaper) keeps what it needs no more. */
int do_nodump(struct init *in, const struct plan_step *s)
{
    (void)s;
    forget(&in->host_proc_fd);
    forget(&in->mount_fd);
    forget(&in->null_fd);
    forget(&in->mask_fd);
    return (int)SYS(prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);
}

/* "0" is the writer. With a single thread, on v1's tasks, the kernel need not wait for an RCU grace period (10 ms). */
int do_cgroup(struct init *in, const struct plan_step *s)
{
    (void)in;
    int r = (int)sys_write_all(s->fd, "0", 1);
    sys_close(s->fd);
    return r;
}

int do_sync(struct init *in, const struct plan_step *s)
{
    int fd = -1;
    if (s->flags & SYNC_NETLINK) {
        fd = (int)SYS(socket, 16 /* AF_NETLINK */, 3 /* SOCK_RAW */ | O_CLOEXEC, 0 /* NETLINK_ROUTE */);
        if (fd < 0)
            return fd;
    }
    int r = msg_send(in, MSG_SYNC, (int)s->arg[0], NULL, 0, fd);
    sys_close(fd);
    return r < 0 ? r : msg_wait_go(in);
}

int do_setid0(struct init *in, const struct plan_step *s)
{
    (void)in, (void)s;
    long r = SYS(setresgid, 0, 0, 0);
    if (r == 0)
        r = SYS(setresuid, 0, 0, 0);
    if (r == 0)
        r = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return (int)r;
}

int do_loopback(struct init *in, const struct plan_step *s)
{
    struct { /* struct ifreq (netdevice(7)) */
        char name[16];
        union {
            short flags;
            char room[24];
        };
    } req = {.name = "lo"};
    (void)in, (void)s;
    int fd = (int)SYS(socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */ | O_CLOEXEC, 0);
    if (fd == -EAFNOSUPPORT) /* a kernel with IPv6 only, or none */
        fd = (int)SYS(socket, 10, 2 | O_CLOEXEC, 0);
    if (fd < 0)
        return fd == -EAFNOSUPPORT ? 0 : fd;
    long r = SYS(ioctl, fd, 0x8913 /* SIOCGIFFLAGS */, &req);
    req.flags |= 1; /* IFF_UP */
    if (r == 0)
        r = SYS(ioctl, fd, 0x8914 /* SIOCSIFFLAGS */, &req);
    sys_close(fd);
    return (int)r;
}

int do_setsid(struct init *in, const struct plan_step *s)
{
    (void)in, (void)s;
    long r = SYS0(setsid);
    return r < 0 ? (int)r : 0;
}

int do_hostname(struct init *in, const struct plan_step *s)
{
    size_t n;
    const char *name = plan_str(in, s, 0, &n);
    return (int)SYS(sethostname, name, n);
}

int do_domainname(struct init *in, const struct plan_step *s)
{
    size_t n;
    const char *name = plan_str(in, s, 0, &n);
    return (int)SYS(setdomainname, name, n);
}

int do_sysctl(struct init *in, const struct plan_step *s)
{
    char path[512];
    size_t len;
    const char *value = plan_str(in, s, 1, &len);
    put_str(put_str(path, path + sizeof path, "sys/"), path + sizeof path, plan_str(in, s, 0, NULL));
    return proc_write(in, path, value, len);
}

/* Security attributes go to the runtime's own /proc only: a container's may be anything (CVE-2019-16884, CVE-2019-19921). */
int do_attribute(struct init *in, const struct plan_step *s)
{
    size_t len;
    const char *value = plan_str(in, s, 1, &len);
    int r = proc_write(in, plan_str(in, s, 0, NULL), value, len);
    return r == -ENOENT && (s->flags & ATTRIBUTE_OPTIONAL) ? 0 : r;
}

/* The permissions in "type;uid;gid;permissions in hex;name", or an error. */
static long key_permissions(long key)
{
    char text[512], *p = text;
    long n = SYS(keyctl, KEYCTL_DESCRIBE, key, text, sizeof text - 1, 0), value = 0;
    if (n < 0)
        return n;
    text[n < (long)sizeof text ? n : (long)sizeof text - 1] = 0;
    for (int field = 0; field < 3; p++) {
        if (!*p)
            return -EINVAL;
        field += *p == ';';
    }
    for (; *p && *p != ';'; p++) {
        int digit = *p >= '0' && *p <= '9' ? *p - '0' : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : -1;
        if (digit < 0)
            return -EINVAL;
        value = (value << 4 | digit) & 0xffffffff;
    }
    return value;
}

int do_keyring(struct init *in, const struct plan_step *s)
{
    long key = SYS(keyctl, KEYCTL_JOIN_SESSION_KEYRING, plan_str(in, s, 0, NULL), 0, 0, 0), r = 0;
    if (key == -ENOSYS)
        return 0;
    if (key < 0)
        return (int)key;
    if (s->arg[0]) {
        r = key_permissions(key);
        if (r >= 0)
            r = SYS(keyctl, KEYCTL_SETPERM, key, (uint32_t)r | (uint32_t)s->arg[0], 0, 0);
    }
    return r < 0 ? (int)r : 0;
}

int do_rlimit(struct init *in, const struct plan_step *s)
{
    (void)in;
    return (int)SYS(prlimit64, 0, s->arg[0], &s->arg[1], 0);
}

int do_scheduler(struct init *in, const struct plan_step *s)
{
    return (int)SYS(sched_setattr, 0, plan_str(in, s, 0, NULL), 0);
}

int do_io_priority(struct init *in, const struct plan_step *s)
{
    (void)in;
    return (int)SYS(ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, s->arg[0]);
}

int do_affinity(struct init *in, const struct plan_step *s)
{
    uint64_t all[MAX_CPUS / 64];
    size_t len;
    const char *mask = plan_str(in, s, 0, &len);
    if (mask) {
        long r = SYS(sched_setaffinity, 0, len, mask);
        return r < 0 ? (int)r : 0;
    }
    /* What the runtime was pinned to is not the container's. The kernel takes what exists of it, and of that what the cpuset
     * allows. Nobody has asked for it: where a seccomp filter forbids the call it stays as it is. */
    memset(all, 0xff, sizeof all);
    SYS(sched_setaffinity, 0, sizeof all, all);
    return 0;
}

int do_memory_policy(struct init *in, const struct plan_step *s)
{
    size_t len;
    const char *mask = plan_str(in, s, 0, &len);
    return (int)SYS(set_mempolicy, s->arg[0], mask, mask ? len * 8 + 1 : 0); /* the kernel takes one off the number */
}

int do_personality(struct init *in, const struct plan_step *s)
{
    (void)in;
    long r = SYS(personality, s->arg[0]);
    return r < 0 ? (int)r : 0;
}

int do_mkcwd(struct init *in, const struct plan_step *s)
{
    int fd = root_make(in, plan_str(in, s, 0, NULL), 1, 0755, 0);
    if (fd == -EEXIST || fd == -ENOTDIR || fd == -EROFS || fd == -EACCES)
        return 0; /* CWD will say what is wrong */
    if (fd < 0)
        return fd;
    sys_close(fd);
    return 0;
}

static int is_pipe(const struct sys_stat *st)
{
    uint32_t kind = st->mode & S_IFMT;
    return kind == S_IFIFO || kind == S_IFSOCK;
}

static int is_terminal(int fd, const struct sys_stat *st)
{
    struct termios t;
    return (st->mode & S_IFMT) == S_IFCHR && SYS(ioctl, fd, TCGETS, &t) == 0;
}

static int is_null(const struct sys_stat *st)
{
    return (st->mode & S_IFMT) == S_IFCHR && st->major == 1 && st->minor == 3;
}

/* The host's /dev/null as stdio becomes the container's own: CRIU could not say where the other one is (runc does so too). */
static void own_null(struct init *in, int fd)
{
    struct sys_stat st;
    long mode = SYS(fcntl, fd, 3 /* F_GETFL */);
    /* What is there may be anything: it is looked at before it is opened (some devices act on that). */
    int own = mode < 0 ? -1 : root_open(in, "/dev/null", O_PATH, ROOT_NOFOLLOW);
    int real = own >= 0 && sys_stat(own, "", AT_EMPTY_PATH, &st) == 0 && is_null(&st);
    sys_close(own);
    own = real ? root_open(in, "/dev/null", (int)(mode & 3) | O_NONBLOCK | O_NOCTTY, ROOT_NOFOLLOW) : -1;
    if (own >= 0 && sys_stat(own, "", AT_EMPTY_PATH, &st) == 0 && is_null(&st) && SYS(fcntl, own, 4, mode) == 0)
        SYS(dup3, own, fd, 0);
    sys_close(own);
}

int do_user(struct init *in, const struct plan_step *s)
{
    long r = 0;
    if (s->flags & USER_SETGROUPS)
        r = SYS(setgroups, s->arg[2], plan_str(in, s, 0, NULL));
    if (r < 0)
        return fail_at(in, (int)r, "setgroups");
    /* So that a program that is not root may open /dev/stdout. What has a place in a file system keeps its owner. */
    for (int fd = 0; fd < 3; fd++) {
        struct sys_stat st;
        if (sys_stat(fd, "", AT_EMPTY_PATH, &st) < 0)
            continue;
        if (is_null(&st))
            own_null(in, fd);
        else if (st.uid != s->arg[0] && (is_pipe(&st) || is_terminal(fd, &st)))
            /* best effort: it may not be ours to give. A terminal's group is tty's */
            SYS(fchown, fd, s->arg[0], is_pipe(&st) ? s->arg[1] : (uint64_t)-1);
    }
    r = SYS(prctl, PR_SET_KEEPCAPS, 1, 0, 0, 0);
    if (r == 0)
        r = SYS(setresgid, s->arg[1], s->arg[1], s->arg[1]);
    if (r < 0)
        return fail_at(in, (int)r, "setresgid");
    r = SYS(setresuid, s->arg[0], s->arg[0], s->arg[0]);
    if (r < 0)
        return fail_at(in, (int)r, "setresuid");
    return (int)SYS(prctl, PR_SET_KEEPCAPS, 0, 0, 0, 0);
}

int do_bounding(struct init *in, const struct plan_step *s)
{
    (void)in;
    for (int cap = 0; cap < 64; cap++) {
        if (s->arg[0] >> cap & 1)
            continue;
        long r = SYS(prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
        if (r == -EINVAL)
            break; /* past the kernel's last capability */
        if (r < 0)
            return (int)r;
    }
    return 0;
}

int do_caps(struct init *in, const struct plan_step *s)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2] = {
        {(uint32_t)s->arg[0], (uint32_t)s->arg[1], (uint32_t)s->arg[2]},
        {(uint32_t)(s->arg[0] >> 32), (uint32_t)(s->arg[1] >> 32), (uint32_t)(s->arg[2] >> 32)},
    };
    struct __user_cap_data_struct have[2];
    (void)in;
    long r = SYS(capget, &h, have);
    /* What cannot be granted is left out (runtime-spec config.md#linux-process); the parent has warned. */
    for (int i = 0; i < 2; i++) {
        d[i].permitted &= have[i].permitted;
        d[i].effective &= d[i].permitted;
        d[i].inheritable &= have[i].permitted;
    }
    if (r == 0)
        r = SYS(capset, &h, d);
    if (r == 0)
        r = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    for (int cap = 0; r == 0 && cap < 64; cap++)
        if ((s->arg[3] >> cap & 1) && (d[cap / 32].permitted & d[cap / 32].inheritable) >> (cap % 32) & 1)
            r = SYS(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    return (int)r;
}

int do_umask(struct init *in, const struct plan_step *s)
{
    (void)in;
    SYS(umask, s->arg[0]);
    return 0;
}

int do_cwd(struct init *in, const struct plan_step *s)
{
    char cwd[PATH_MAX_];
    if (in->cwd_done)
        return 0;
    long r = SYS(chdir, plan_str(in, s, 0, NULL));
    if ((r == -EACCES || r == -EPERM) && (s->flags & CWD_TRY))
        return 0; /* root may be less than the user: root-squashed NFS */
    if (r < 0)
        return (int)r;
    in->cwd_done = 1;
    r = SYS(getcwd, cwd, sizeof cwd);
    if (r == -ENOENT || (r > 0 && cwd[0] != '/')) { /* a leaked directory outside the root: CVE-2024-21626 */
        in->code = ERR_ESCAPED;
        return -EXDEV;
    }
    return r < 0 ? (int)r : 0;
}

int do_nnp(struct init *in, const struct plan_step *s)
{
    (void)in, (void)s;
    return (int)SYS(prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

int do_seccomp(struct init *in, const struct plan_step *s)
{
    size_t len;
    const char *code = plan_str(in, s, 0, &len);
    struct sock_fprog prog = {(unsigned short)(len / sizeof(struct sock_filter)), (struct sock_filter *)code};
    if (s->fd >= 0)
        return seccomp_listen(in, s, &prog);
    long r = SYS(seccomp, SECCOMP_SET_MODE_FILTER, s->arg[0], &prog);
    return r < 0 ? (int)r : 0;
}

int do_wait(struct init *in, const struct plan_step *s)
{
    int r = msg_send(in, MSG_READY, 0, NULL, 0, -1);
    if (r < 0)
        return r;
    r = msg_wait_go(in);
    if (r < 0 || s->fd < 0)
        return r;
    sys_close(in->sync_fd);
    for (;;) {
        in->sync_fd = -1;
        long fd = SYS(accept4, s->fd, 0, 0, O_CLOEXEC);
        if (fd == -EINTR || fd == -ECONNABORTED)
            continue;
        if (fd < 0)
            return (int)fd;
        in->sync_fd = (int)fd;
        if (msg_wait_go(in) == 0)
            break;
        sys_close(in->sync_fd); /* `start` died, or somebody only asked whether we still wait */
    }
    sys_close(s->fd);
    return 0;
}
