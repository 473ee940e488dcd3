/* SPDX-License-Identifier: Apache-2.0 */
/* Namespaces: joining them, making them, going on in a new process. */
#include "init.h"

/* Mounts can be made on fds of the own mount namespace only: /proc has to be opened once more. */
static void left_mounts(struct init *in, uint64_t namespaces)
{
    if (namespaces & CLONE_NEWNS)
        forget(&in->host_proc_fd);
}

/* Where there are no pidfds the fd is /proc/PID, and its namespaces are joined one by one: what a user namespace takes the
 * privilege for before it, all else after it. r: what setns(2) said. */
static long join_each(int fd, uint64_t types, long r)
{
    static const struct {
        uint32_t type;
        const char *path;
    } all[] = {
        {CLONE_NEWCGROUP, "ns/cgroup"}, {CLONE_NEWIPC, "ns/ipc"},
        {CLONE_NEWUTS, "ns/uts"},       {CLONE_NEWNET, "ns/net"},
        {CLONE_NEWPID, "ns/pid"},       {CLONE_NEWTIME, "ns/time"},
        {CLONE_NEWNS, "ns/mnt"},        {(uint32_t)CLONE_NEWUSER, "ns/user"},
    };
    enum { COUNT = sizeof all / sizeof *all };
    int ns[COUNT];
    if (sys_fs_magic(fd) != PROC_SUPER_MAGIC)
        return r;
    r = 0;
    for (int i = 0; i < COUNT; i++) {
        ns[i] = types & all[i].type ? (int)sys_openat(fd, all[i].path, O_RDONLY, 0) : -1;
        if ((types & all[i].type) && ns[i] < 0)
            r = ns[i];
    }
    for (int pass = 0; pass < 2 && r == 0; pass++)
        for (int i = 0; i < COUNT && r == 0; i++) {
            if (ns[i] < 0)
                continue;
            r = SYS(setns, ns[i], all[i].type);
            if (r == 0) {
                sys_close(ns[i]);
                ns[i] = -1;
            } else if (r == -EPERM && pass == 0) {
                r = 0;
            }
        }
    for (int i = 0; i < COUNT; i++)
        sys_close(ns[i]);
    return r;
}

int do_join(struct init *in, const struct plan_step *s)
{
    if ((in->joined & s->arg[0]) == s->arg[0])
        return 0;
    long r = SYS(setns, s->fd, s->arg[0]);
    if (r == -EINVAL || r == -EBADF)
        r = join_each(s->fd, s->arg[0], r);
    if (r == -EPERM && (s->flags & JOIN_RETRY))
        return 0; /* tried again once the user namespace is joined */
    if (r == 0) {
        in->joined |= s->arg[0];
        left_mounts(in, s->arg[0]);
        sys_close(s->fd); /* a second JOIN of it returns above */
    }
    return (int)r;
}

int do_unshare(struct init *in, const struct plan_step *s)
{
    left_mounts(in, s->arg[0]);
    return (int)SYS(unshare, s->arg[0]);
}

int do_timens(struct init *in, const struct plan_step *s)
{
    size_t len;
    const char *text = plan_str(in, s, 0, &len);
    long r = SYS(unshare, CLONE_NEWTIME);
    if (r == 0 && len)
        r = proc_write(in, "self/timens_offsets", text, len);
    return (int)r;
}

int do_clone(struct init *in, const struct plan_step *s)
{
    int pidfd = -1;
    struct clone_args a = {.flags = s->arg[0] | CLONE_PARENT | CLONE_PIDFD, .pidfd = (uint64_t)(uintptr_t)&pidfd};
    long pid = SYS(clone3, &a, sizeof a);
    if (pid == -ENOSYS || pid == -EPERM) /* some seccomp profiles refuse clone3 only */
        pid = SYS(clone, s->arg[0] | CLONE_PARENT | CLONE_PIDFD, 0, &pidfd, 0, 0);
    if (pid == -ENOSYS || pid == -EPERM || pid == -EINVAL)
        pid = SYS(clone, s->arg[0] | CLONE_PARENT, 0, 0, 0, 0);
    if (pid < 0)
        return (int)pid;
    if (pid == 0) {
        left_mounts(in, s->arg[0]);
        return 0;
    }
    /* The parent must hear of its new child: nobody else can. */
    int r = msg_send(in, MSG_PID, (int)pid, NULL, 0, pidfd);
    if (r < 0)
        SYS(kill, pid, SIGKILL_);
    sys_exit(r < 0);
}
