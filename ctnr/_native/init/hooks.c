/* SPDX-License-Identifier: Apache-2.0 */
/* Hooks that run in the container's namespaces, and the console. */
#include "init.h"

static int64_t now_ms(void)
{
    struct sys_timespec t;
    SYS(clock_gettime, 1 /* CLOCK_MONOTONIC */, &t);
    return t.sec * 1000 + t.nsec / 1000000;
}

/* Wait until pid ends, at most ms; 0 if it does not, else more. Without a pidfd: a blocked SIGCHLD stays pending. */
static long wait_signal(int pid, uint64_t ms, int *status)
{
    uint64_t child = 1ull << (SIGCHLD_ - 1), old;
    int64_t end = now_ms() + (int64_t)ms, left = (int64_t)ms;
    long r = SYS(rt_sigprocmask, 0 /* SIG_BLOCK */, &child, &old, 8);
    while (r == 0 && left > 0) {
        r = SYS(wait4, pid, status, 1 /* WNOHANG */, 0);
        if (r != 0)
            break;
        struct sys_timespec t = {left / 1000, left % 1000 * 1000000};
        SYS(rt_sigtimedwait, &child, 0, &t, 8);
        left = end - now_ms();
    }
    SYS(rt_sigprocmask, 2 /* SIG_SETMASK */, &old, 0, 8);
    return r;
}

/* Wait for pid at most timeout_ms (0: for ever); on time-out kill it. Returns 0 with *status, -ETIMEDOUT, or -errno. */
static int wait_child(int pid, uint64_t timeout_ms, int *status)
{
    long r = 0;
    if (timeout_ms) {
        int fd = (int)SYS(pidfd_open, pid, 0);
        if (fd == -ENOSYS || fd == -EPERM) {
            r = wait_signal(pid, timeout_ms, status);
            if (r != 0)
                return r < 0 ? (int)r : 0;
        } else if (fd < 0) {
            return fd;
        } else {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            struct sys_timespec t = {(int64_t)(timeout_ms / 1000), (int64_t)(timeout_ms % 1000) * 1000000};
            do /* ppoll leaves in t what remains */
                r = SYS(ppoll, &p, 1, &t, 0, 0);
            while (r == -EINTR);
            sys_close(fd);
        }
        if (r == 0)
            SYS(kill, pid, SIGKILL_);
    }
    long w;
    do
        w = SYS(wait4, pid, status, 0, 0);
    while (w == -EINTR);
    if (w < 0)
        return (int)w;
    return timeout_ms && r == 0 ? -ETIMEDOUT : 0;
}

int do_hook_output(struct init *in, const struct plan_step *s)
{
    in->hook_fd[s->arg[0] == 2] = s->fd;
    return 0;
}

int do_hook(struct init *in, const struct plan_step *s)
{
    const char *path = plan_str(in, s, 0, NULL);
    char **argv = plan_list(in, s, 1, 0, NULL), **env = plan_list(in, s, 2, 0, NULL);
    if (!argv || !env)
        return -ENOMEM;
    int state = (int)SYS(memfd_create, "state", MFD_CLOEXEC), out = (int)SYS(memfd_create, "output", MFD_CLOEXEC);
    long r = state < 0 ? state : out < 0 ? out : sys_write_all(state, in->state, in->state_len);
    if (r == 0)
        r = SYS(lseek, state, 0, 0);
    if (r < 0)
        return (int)r;
    int err[2];
    r = SYS(pipe2, err, O_CLOEXEC);
    if (r < 0)
        return (int)r;
    long pid = SYS(clone, SIGCHLD_, 0, 0, 0, 0);
    if (pid == 0) {
        SYS(dup3, state, 0, 0);
        for (int i = 0; i < 2; i++)
            SYS(dup3, in->hook_fd[i] < 0 ? out : in->hook_fd[i], i + 1, 0);
        SYS(close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
        const char *cwd = plan_str(in, s, 3, NULL);
        int e = cwd ? (int)SYS(chdir, cwd) : 0;
        if (e == 0)
            e = (int)SYS(execve, path, argv, env);
        SYS(write, err[1], &e, sizeof e);
        sys_exit(127);
    }
    sys_close(err[1]);
    int status = 0, exec_err = 0;
    if (pid > 0) {
        long n = SYS(read, err[0], &exec_err, sizeof exec_err);
        r = wait_child((int)pid, s->arg[0], &status);
        if (n == (long)sizeof exec_err)
            r = exec_err;
    } else {
        r = pid;
    }
    sys_close(err[0]);
    sys_close(state);
    fail_at(in, 0, path);
    if (r == 0 && status) {
        char *end = in->detail + strlen(in->detail);
        if (end + 64 < in->detail + sizeof in->detail) {
            end = put_str(end, in->detail + sizeof in->detail, ": ");
            long n = SYS(pread64, out, end, in->detail + sizeof in->detail - end - 1, 0);
            if (n > 0)
                end[n] = 0;
        }
        in->code = ERR_HOOK_STATUS;
        r = -status;
    } else if (r == -ETIMEDOUT) {
        in->code = ERR_HOOK_TIMEOUT;
    }
    sys_close(out);
    return (int)r;
}

static int is_ptmx(int fd)
{
    struct sys_stat st;
    long r = sys_stat(fd, "", AT_EMPTY_PATH, &st);
    return r == 0 && (st.mode & S_IFMT) == S_IFCHR && st.major == 5 && st.minor == 2;
}

/* The container's ptmx. What is there may be anything: it is looked at before it is opened (some devices act on that). */
static int open_ptmx(struct init *in)
{
    const char *path = "/dev/pts/ptmx";
    int fd = root_open(in, path, O_PATH, 0);
    if (fd == -ENOENT) {
        path = "/dev/ptmx";
        fd = root_open(in, path, O_PATH, 0);
    }
    if (fd >= 0 && is_ptmx(fd)) {
        sys_close(fd);
        fd = root_open(in, path, O_RDWR | O_NOCTTY, 0);
    }
    if (fd >= 0 && !(is_ptmx(fd) && sys_fs_magic(fd) == DEVPTS_SUPER_MAGIC)) {
        sys_close(fd);
        in->code = ERR_UNSAFE;
        fd = -ENODEV;
    }
    return fd < 0 ? fail_at(in, fd, "/dev/pts/ptmx") : fd;
}

/* A new pty of the container's own devpts: the slave becomes the stdio, the master goes to whoever asked for it. Only the
 * slave's fd is used, never its name (CVE-2025-52565). */
int do_console(struct init *in, const struct plan_step *s)
{
    int master = open_ptmx(in);
    if (master < 0)
        return master;
    int unlock = 0;
    int r = (int)SYS(ioctl, master, TIOCSPTLCK, &unlock);
    int slave = r < 0 ? r : (int)SYS(ioctl, master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (slave < 0)
        return slave;
    if (s->arg[0] || s->arg[1]) {
        struct winsize size = {.ws_row = (unsigned short)s->arg[0], .ws_col = (unsigned short)s->arg[1]};
        r = (int)SYS(ioctl, master, TIOCSWINSZ, &size);
    }
    if (r == 0) {
        int sync_fd = in->sync_fd;
        if (s->fd >= 0) { /* the console socket speaks runc's protocol: the fd, with any byte */
            struct sys_iovec iov = {"/dev/ptmx", 9};
            struct sys_cmsg c = {.len = offsetof(struct sys_cmsg, pad), .level = 1, .type = 1, .fd = master};
            struct sys_msghdr h = {.iov = &iov, .iovlen = 1, .control = &c, .controllen = sizeof c};
            r = (int)SYS(sendmsg, s->fd, &h, 0x4000);
            r = r < 0 ? r : 0;
            sys_close(s->fd);
        } else {
            r = msg_send(in, MSG_CONSOLE, 0, NULL, 0, master);
        }
        in->sync_fd = sync_fd;
    }
    if (r == 0 && (s->flags & CONSOLE_BIND)) {
        int dest = root_make(in, "/dev/console", 0, 0600, ROOT_NOFOLLOW);
        do {
            int tree = dest < 0 ? dest : mount_tree(in, slave, "", AT_EMPTY_PATH);
            r = tree < 0 ? tree : mount_attach(in, tree, dest);
            sys_close(tree);
        } while (r == AGAIN);
        sys_close(dest);
        if (r < 0)
            fail_at(in, r, "/dev/console");
    }
    for (int fd = 0; r >= 0 && fd < 3; fd++)
        r = (int)SYS(dup3, slave, fd, 0);
    if (r >= 0)
        r = (int)SYS(ioctl, 0, TIOCSCTTY, 0);
    sys_close(slave);
    sys_close(master);
    return r < 0 ? r : 0;
}
