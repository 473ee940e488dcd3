/* SPDX-License-Identifier: Apache-2.0
 *
 * seccomp user notification: the listener's fd goes to whoever listens (runtime-spec config-linux.md#seccomp).
 *
 * From the moment the filter is there every system call of this thread may be one that is notified, and nobody could answer
 * before the fd is delivered. So this thread makes none until then: a second one, made before and so not filtered, finds the
 * number in memory, sends it and closes it in the table of fds that both share. No call need be refused for our sake.
 */
#include "init.h"

#define STACK_SIZE 65536
#define MSG_NOSIGNAL_ 0x4000
#define MSG_DONTWAIT_ 0x40
#define WAITING (-4096) /* neither an fd nor an errno */

struct handover {
    int32_t fd;   /* the filtered thread's answer: the fd, or -errno */
    int32_t sent; /* the other one's: 0, or -errno */
    int sock;
    int pipe
        [2]; /* of which nobody but us has the end for writing, until the exec closes it; -1 if that is not asked for */
    const void *data;
    size_t len;
};

static int send_fd(const struct handover *h)
{
    struct sys_iovec iov = {h->data, h->len};
    struct sys_cmsg c = {.len = offsetof(struct sys_cmsg, pad), .level = 1, .type = 1, .fd = h->fd}; /* SCM_RIGHTS */
    if (h->pipe[0] >= 0) {
        c.pad = h->pipe[0];
        c.len = sizeof c;
    }
    struct sys_msghdr m = {.iov = &iov, .iovlen = 1, .control = &c, .controllen = sizeof c};
    long r;
    do
        r = SYS(sendmsg, h->sock, &m, MSG_NOSIGNAL_ | MSG_DONTWAIT_);
    while (r == -EINTR);
    if (r < 0)
        return (int)r;
    return (size_t)r == h->len ? 0 : -EMSGSIZE;
}

static void __attribute__((noreturn)) deliver(struct handover *h)
{
    struct sys_timespec pause = {0, 20000};
    int32_t fd;
    while ((fd = __atomic_load_n(&h->fd, __ATOMIC_ACQUIRE)) == WAITING)
        SYS(nanosleep, &pause, 0);
    int32_t sent = 0;
    if (fd >= 0) {
        sent = send_fd(h);
        sys_close(fd);
    }
    sys_close(h->sock);
    sys_close(h->pipe[0]);
    __atomic_store_n(&h->sent, sent, __ATOMIC_RELEASE);
    for (;;)
        SYS(exit, 0); /* of this thread */
}

/* clone(2) of a thread that runs deliver() on a stack of its own. */
static long start_thread(struct handover *h, uintptr_t top)
{
    uintptr_t *sp = (uintptr_t *)top - 2;
    sp[0] = (uintptr_t)deliver;
    sp[1] = (uintptr_t)h;
    long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = 0, r8 __asm__("r8") = 0;
    long ret;
    __asm__ volatile(
        "syscall\n\ttest %%rax, %%rax\n\tjnz 1f\n\txor %%ebp, %%ebp\n\tpop %%rax\n\tpop %%rdi\n\tcall *%%rax\n\t"
        "hlt\n1:"
        : "=a"(ret)
        : "a"(__NR_clone), "D"(flags), "S"(sp), "d"(0L), "r"(r10), "r"(r8)
        : "rcx", "r11", "memory");
    return ret;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = __NR_clone, x0 __asm__("x0") = flags, x1 __asm__("x1") = (long)sp;
    register long x2 __asm__("x2") = 0, x3 __asm__("x3") = 0, x4 __asm__("x4") = 0;
    __asm__ volatile("svc 0\n\tcbnz x0, 1f\n\tmov x29, #0\n\tldp x1, x0, [sp], #16\n\tblr x1\n1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4)
                     : "x30", "memory");
    return x0;
#endif
}

static void relax(int realtime)
{
#if defined(__x86_64__)
    __asm__ volatile("pause" ::: "memory");
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#endif
    /* A real-time thread on the only processor must let the other one run, by a call that the filter may know. */
    if (realtime)
        SYS0(sched_yield);
}

int seccomp_listen(struct init *in, const struct plan_step *s, struct sock_fprog *prog)
{
    static struct handover h;
    h.fd = h.sent = WAITING;
    h.sock = s->fd;
    h.pipe[0] = h.pipe[1] = -1;
    h.data = in->state;
    h.len = in->state_len;
    if (!h.data || !h.len)
        return -EPROTO;
    long r = s->flags & SECCOMP_PIPE ? SYS(pipe2, h.pipe, O_CLOEXEC) : 0;
    if (r < 0)
        return (int)r;
    long policy = SYS(sched_getscheduler, 0);
    long stack = SYS(mmap, 0, STACK_SIZE, 3 /* rw */, 0x22 /* private anonymous */, -1, 0);
    if (stack < 0 && stack > -4096)
        return (int)stack;
    r = start_thread(&h, (uintptr_t)stack + STACK_SIZE);
    if (r < 0)
        return fail_at(in, (int)r, "clone");
    r = SYS(seccomp, SECCOMP_SET_MODE_FILTER, s->arg[0] | SECCOMP_FILTER_FLAG_NEW_LISTENER, prog);
    __atomic_store_n(&h.fd, (int32_t)r, __ATOMIC_RELEASE);
    int32_t sent;
    while ((sent = __atomic_load_n(&h.sent, __ATOMIC_ACQUIRE)) == WAITING)
        relax(policy > 0);
    in->state_len = 0; /* it was not for hooks */
    if (r < 0)
        return (int)r;
    return sent < 0 ? fail_at(in, sent, "send its fd to the listener") : 0;
}
