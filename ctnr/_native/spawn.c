/* SPDX-License-Identifier: Apache-2.0
 *
 * The launcher. The child of clone3(CLONE_VM|CLONE_VFORK) borrows our memory until it has exec'ed the static init, so a
 * start costs the same whatever the size of this process, and is safe from any thread: nothing is copied, no lock is
 * needed, no interpreter runs. In return the child may touch nothing but its own stack and `struct spawn`, and may make
 * raw system calls only: libc's wrappers of set*id and the like talk to the other threads of the process, and errno is
 * ours.
 *
 * It is not visible to any container while it shares our memory: it is either alone in a new pid namespace or in ours.
 * Joining a container's namespaces is the init's business, after the exec (CVE-2016-9962).
 */
#define _GNU_SOURCE
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE 16384
#define NOINLINE __attribute__((noinline))

#if defined(__x86_64__)
#define HAVE_RAW 1
static inline long raw(long n, long a, long b, long c, long d, long e)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e;
    long ret;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
                     : "rcx", "r11", "memory");
    return ret;
}

/* A clone system call whose child runs fn(arg) on the stack that the call names, and ends with fn's result. */
static NOINLINE long clone_call(long n, long a, long b, long c, int (*fn)(void *), void *arg)
{
    register void *r8 __asm__("r8") = (void *)fn;
    register void *r9 __asm__("r9") = arg;
    register long r10 __asm__("r10") = 0;
    long ret;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "xor %%ebp, %%ebp\n\t"
                     "mov %%r9, %%rdi\n\t"
                     "call *%%r8\n\t"
                     "mov %%eax, %%edi\n\t"
                     "mov $60, %%eax\n\t"
                     "syscall\n\t"
                     "1:"
                     : "=a"(ret), "+r"(r8), "+r"(r9)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory", "cc");
    return ret;
}
#elif defined(__aarch64__)
#define HAVE_RAW 1
static inline long raw(long n, long a, long b, long c, long d, long e)
{
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
    return x0;
}

static NOINLINE long clone_call(long n, long a, long b, long c, int (*fn)(void *), void *arg)
{
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
                     x3 __asm__("x3") = 0;
    register void *x9 __asm__("x9") = (void *)fn;
    register void *x10 __asm__("x10") = arg;
    __asm__ volatile("svc 0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, x10\n\t"
                     "blr x9\n\t"
                     "mov x8, #93\n\t"
                     "svc 0\n\t"
                     "1:"
                     : "+r"(x0), "+r"(x9), "+r"(x10)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
                     : "memory", "cc", "x30");
    return x0;
}
#else
#error "the launcher knows x86_64 and aarch64"
#endif

#define RAW(n, ...) RAW_(n, ##__VA_ARGS__, 0, 0, 0, 0, 0)
#define RAW_(n, a, b, c, d, e, ...) raw(SYS_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e))

/* The capabilities of a fresh user namespace do not survive an exec by a uid that is not mapped yet, unless ambient. */
static long keep_capabilities(void)
{
    struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct d[2];
    long r = RAW(capget, &h, d);
    if (r < 0)
        return r;
    d[0].inheritable = d[0].permitted;
    d[1].inheritable = d[1].permitted;
    r = RAW(capset, &h, d);
    for (int cap = 0; r == 0 && cap < 64; cap++) {
        if (!(d[cap / 32].permitted >> (cap % 32) & 1))
            continue;
        r = RAW(prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap);
    }
    return r;
}

/* close_range(2) before Linux 5.11: every fd of /proc/self/fd, which nobody can have replaced yet. */
static long close_on_exec(void)
{
    struct {
        uint64_t ino, off;
        unsigned short len;
        unsigned char type;
        char name[];
    } const *e;
    char buf[1024] __attribute__((aligned(8)));
    long magic[32];
    long dir = RAW(openat, -100, "/proc/self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    long n = dir < 0 ? dir : RAW(fstatfs, dir, magic);
    if (n == 0 && magic[0] != 0x9fa0 /* PROC_SUPER_MAGIC */)
        n = -ENODEV;
    while (n >= 0 && (n = RAW(getdents64, dir, buf, sizeof buf)) > 0) {
        for (long at = 0; at < n; at += e->len) {
            int fd = 0;
            e = (const void *)(buf + at);
            for (const char *p = e->name; *p >= '0' && *p <= '9'; p++)
                fd = fd * 10 + (*p - '0');
            if (fd >= 3 && fd != dir)
                RAW(fcntl, fd, 2 /* F_SETFD */, 1);
        }
    }
    RAW(close, dir);
    return n;
}

/* In the child, on its own stack, in the parent's memory. */
static int child(void *arg)
{
    struct spawn *s = arg;
    char *const env[] = {NULL};
    long r = RAW(close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC); /* whatever this program has open is not the container's */
    if (r == -ENOSYS || r == -EPERM || r == -EINVAL)
        r = close_on_exec();
    for (int i = 0; i < 3 && r >= 0; i++)
        if (s->stdio[i] < 3 && s->stdio[i] != i)
            r = s->stdio[i] = (int)RAW(fcntl, s->stdio[i], 1030 /* F_DUPFD_CLOEXEC */, 3);
    for (int i = 0; i < 3 && r >= 0; i++)
        r = s->stdio[i] == i ? RAW(fcntl, i, 2 /* F_SETFD */, 0) : RAW(dup3, s->stdio[i], i, 0);
    for (int i = 0; i < s->nkeep && r >= 0; i++)
        r = RAW(fcntl, s->keep[i], 2, 0);
    if (r >= 0 && s->ambient)
        r = keep_capabilities();
    if (r >= 0)
        r = RAW(execveat, s->init_fd, "", s->argv, env, 0x1000 /* AT_EMPTY_PATH */);
    s->err = (int)-r;
    return 127;
}

NOINLINE long ctnr_spawn(struct spawn *s)
{
    char stack[STACK_SIZE] __attribute__((aligned(16)));
    sigset_t all, old;
    struct clone_args a = {
        .flags = s->flags | CLONE_VM | CLONE_VFORK | CLONE_PIDFD,
        .pidfd = (uint64_t)(uintptr_t)&s->pidfd,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = sizeof stack,
    };
    if (s->cgroup_fd >= 0) {
        a.flags |= CLONE_INTO_CGROUP;
        a.cgroup = (uint64_t)s->cgroup_fd;
    }
    s->pidfd = -1;
    s->err = 0;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &old); /* a handler of ours must not run in the child */
    long pid = clone_call(SYS_clone3, (long)&a, sizeof a, 0, child, s);
    if ((pid == -ENOSYS || pid == -EPERM) && s->cgroup_fd < 0) { /* a seccomp profile that knows clone only */
        pid = clone_call(SYS_clone, (long)((s->flags & 0xffffffffu) | CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD),
                         (long)(stack + sizeof stack), (long)&s->pidfd, child, s);
        if (pid == -EINVAL || pid == -ENOSYS || pid == -EPERM) /* or one that knows no pidfds */
            pid = clone_call(SYS_clone, (long)((s->flags & 0xffffffffu) | CLONE_VM | CLONE_VFORK | SIGCHLD),
                             (long)(stack + sizeof stack), 0, child, s);
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    if (pid < 0)
        return pid;
    if (s->err) {
        int status;
        while (waitpid((pid_t)pid, &status, 0) < 0 && errno == EINTR)
            ;
        if (s->pidfd >= 0)
            close(s->pidfd);
        return -s->err;
    }
    return pid;
}
