/* SPDX-License-Identifier: Apache-2.0 */
/* The program: which file it is, its HOME, the reaper that may stand before it, the exec. */
#include "init.h"

static int executable(const char *path)
{
    struct sys_stat st;
    long r = sys_stat(AT_FDCWD_, path, 0, &st);
    if (r == -EPERM || r == -ENOSYS) /* a seccomp profile that does not know it: let faccessat say */
        return (int)SYS(faccessat, AT_FDCWD_, path, 1 /* X_OK */);
    if (r < 0)
        return (int)r;
    if (S_ISDIR_(st.mode))
        return -EISDIR;
    return (st.mode & 0111) ? 0 : -EACCES;
}

/* As execvp(3) and runc's exec.LookPath: a name with a slash is a path, any other is looked for in PATH. */
int do_lookup(struct init *in, const struct plan_step *s)
{
    const char *file = plan_str(in, s, 0, NULL), *path = plan_str(in, s, 1, NULL);
    int slash = 0, denied = 0, r;
    for (const char *p = file; *p; p++)
        slash |= *p == '/';
    if (strlen(file) >= sizeof in->exe)
        return -ENAMETOOLONG;
    if (slash) {
        put_str(in->exe, in->exe + sizeof in->exe, file);
        r = executable(file);
        in->code = r == -EACCES || r == -EISDIR ? ERR_NOT_EXEC : ERR_SYSCALL;
        return r < 0 ? fail_at(in, r, file) : 0;
    }
    while (path && *path && *file) {
        size_t n = 0;
        while (path[n] && path[n] != ':')
            n++;
        if (n && n + strlen(file) + 2 <= sizeof in->exe) { /* an empty element is not "here": CWE-426 */
            memcpy(in->exe, path, n);
            in->exe[n] = '/';
            put_str(in->exe + n + 1, in->exe + sizeof in->exe, file);
            r = executable(in->exe);
            if (r == 0)
                return 0;
            denied |= r == -EACCES;
        }
        path += path[n] ? n + 1 : n;
    }
    in->code = denied ? ERR_NOT_EXEC : ERR_NOT_FOUND;
    return fail_at(in, denied ? -EACCES : -ENOENT, file);
}

static int has_home(char **env)
{
    for (; *env; env++)
        if (memcmp(*env, "HOME=", strlen(*env) < 5 ? strlen(*env) : 5) == 0 && strlen(*env) >= 5)
            return 1;
    return 0;
}

/* HOME of uid from the container's /etc/passwd; "/" if it does not say. */
void find_home(struct init *in, uint64_t id)
{
    char *home = in->home;
    size_t size = sizeof in->home;
    char buf[4096], uid[24];
    char line[1024];
    size_t n = 0;
    int skip = 0;
    put_num(uid, id);
    put_str(home, home + size, "HOME=/");
    int fd = root_open(in, "/etc/passwd", O_RDONLY | O_NONBLOCK, 0);
    struct sys_stat st;
    if (fd < 0 || sys_stat(fd, "", AT_EMPTY_PATH, &st) < 0 || (st.mode & S_IFMT) != S_IFREG || st.size > (8u << 20)) {
        sys_close(fd);
        return;
    }
    for (int end = 0; !end;) {
        long got = SYS(read, fd, buf, sizeof buf);
        if (got <= 0) { /* the last line may have no newline */
            end = 1;
            got = 1;
            buf[0] = '\n';
        }
        for (long i = 0; i < got; i++) {
            if (buf[i] != '\n') {
                if (n + 1 < sizeof line)
                    line[n++] = buf[i];
                else
                    skip = 1;
                continue;
            }
            line[n] = 0;
            char *field[7];
            int k = 0;
            for (char *p = line; k < 7; k++) {
                field[k] = p;
                while (*p && *p != ':')
                    p++;
                if (!*p) {
                    k++;
                    break;
                }
                *p++ = 0;
            }
            if (!skip && k >= 6 && str_eq(field[2], uid) && field[5][0] == '/') {
                put_str(home + 5, home + size, field[5]);
                sys_close(fd);
                return;
            }
            n = 0;
            skip = 0;
        }
    }
    sys_close(fd);
}

static void reset_mask(void)
{
    uint64_t none = 0;
    SYS(rt_sigprocmask, 2 /* SIG_SETMASK */, &none, 0, 8);
}

#define MAX_FDS 8192 /* --preserve-fds is limited to fewer (module.c) */
#define OWN_FDS 256  /* more than the init itself has ever open: a new fd is the lowest that is free */

/* Pid 1 of --init: forward every signal to the program, reap everything, end as the program does. */
static void __attribute__((noreturn)) reap(int child)
{
    uint64_t all = ~0ull;
    for (;;) {
        long sig = SYS(rt_sigtimedwait, &all, 0, 0, 8);
        if (sig < 0)
            continue;
        if (sig != SIGCHLD_) {
            SYS(kill, child, sig);
            continue;
        }
        for (;;) {
            int status;
            long pid = SYS(wait4, -1, &status, 1 /* WNOHANG */, 0);
            if (pid <= 0)
                break;
            if (pid == child)
                sys_exit(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
        }
    }
}

int do_reaper(struct init *in, const struct plan_step *s)
{
    uint64_t all = ~0ull;
    (void)s;
    SYS(rt_sigprocmask, 0 /* SIG_BLOCK */, &all, 0, 8);
    long pid = SYS(clone, SIGCHLD_, 0, 0, 0, 0);
    if (pid < 0)
        return (int)pid;
    if (pid > 0) {
        if (SYS(close_range, 3, ~0u, 0) < 0) /* refused at the start, too, or by the container's own filter */
            for (int fd = 3; fd < (in->last_fd ? in->last_fd : MAX_FDS) + OWN_FDS; fd++)
                sys_close(fd);
        /* Now there is nothing of the host's in it, and programs may write to /proc/1/fd/1 as under any other pid 1. */
        SYS(munmap, in->plan, in->head->size);
        if (in->state)
            SYS(munmap, in->state, STATE_MAX);
        SYS(prctl, PR_SET_DUMPABLE, 1, 0, 0, 0);
        reap((int)pid);
    }
    /* Its own process group in the foreground of the terminal, if there is one: ^C must not reach pid 1. */
    SYS(setpgid, 0, 0);
    int group = (int)SYS0(getpid);
    SYS(ioctl, 0, TIOCSPGRP, &group);
    reset_mask();
    return 0;
}

int do_exec(struct init *in, const struct plan_step *s)
{
    size_t n;
    char **argv = plan_list(in, s, 0, 0, NULL), **env = plan_list(in, s, 1, 1, &n);
    if (!argv || !env)
        return -ENOMEM;
    if (!argv[0])
        return -ENOEXEC;
    if ((s->flags & EXEC_HOME) && !has_home(env)) {
        if (!in->home[0])
            find_home(in, (uint64_t)SYS0(getuid));
        env[n] = in->home;
    }
    /* Once more than at the start; the container's own seccomp filter may refuse it by now, which is no harm. */
    SYS(close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
    size_t len;
    const char *keep = plan_str(in, s, 2, &len);
    for (size_t i = 0; i + 4 <= len; i += 4) {
        uint32_t fd;
        memcpy(&fd, keep + i, 4);
        SYS(fcntl, fd, 2 /* F_SETFD */, 0);
    }
    long r = SYS(execve, in->exe, argv, env);
    return fail_at(in, (int)r, in->exe);
}
