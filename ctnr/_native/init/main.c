/* SPDX-License-Identifier: Apache-2.0
 *
 * The static init: carries a plan out in the container's namespaces, then becomes the program (or its reaper).
 * argv: "ctnr-init" PLAN_FD SYNC_FD [ID]. Everything that needs thinking was decided by the parent.
 */
#include "init.h"

static step_fn *const steps[OP_COUNT] = {
    [OP_OOM_SCORE] = do_oom_score,
    [OP_NODUMP] = do_nodump,
    [OP_CGROUP] = do_cgroup,
    [OP_JOIN] = do_join,
    [OP_UNSHARE] = do_unshare,
    [OP_TIMENS] = do_timens,
    [OP_CLONE] = do_clone,
    [OP_SYNC] = do_sync,
    [OP_SETID0] = do_setid0,
    [OP_LOOPBACK] = do_loopback,
    [OP_SETSID] = do_setsid,
    [OP_PROPAGATION] = do_propagation,
    [OP_HOST_MOUNT] = do_host_mount,
    [OP_HOST_MKDIR] = do_host_mkdir,
    [OP_HOST_HIDE] = do_host_hide,
    [OP_ROOTFS] = do_rootfs,
    [OP_FSMOUNT] = do_fsmount,
    [OP_TREE] = do_tree,
    [OP_ATTACH] = do_attach,
    [OP_SETATTR] = do_setattr,
    [OP_LABEL] = do_label,
    [OP_REMOUNT] = do_remount,
    [OP_MKNOD] = do_mknod,
    [OP_SYMLINK] = do_symlink,
    [OP_UMOUNT] = do_umount,
    [OP_MASK] = do_mask,
    [OP_READONLY] = do_readonly,
    [OP_PIVOT] = do_pivot,
    [OP_HOSTNAME] = do_hostname,
    [OP_DOMAINNAME] = do_domainname,
    [OP_SYSCTL] = do_sysctl,
    [OP_ATTRIBUTE] = do_attribute,
    [OP_KEYRING] = do_keyring,
    [OP_CONSOLE] = do_console,
    [OP_HOOK_OUTPUT] = do_hook_output,
    [OP_HOOK] = do_hook,
    [OP_RLIMIT] = do_rlimit,
    [OP_SCHEDULER] = do_scheduler,
    [OP_IO_PRIORITY] = do_io_priority,
    [OP_AFFINITY] = do_affinity,
    [OP_MEMORY_POLICY] = do_memory_policy,
    [OP_PERSONALITY] = do_personality,
    [OP_MKCWD] = do_mkcwd,
    [OP_USER] = do_user,
    [OP_BOUNDING] = do_bounding,
    [OP_CAPS] = do_caps,
    [OP_UMASK] = do_umask,
    [OP_CWD] = do_cwd,
    [OP_NO_NEW_PRIVS] = do_nnp,
    [OP_LANDLOCK] = do_landlock,
    [OP_LANDLOCK_PATH] = do_landlock_path,
    [OP_LANDLOCK_PORT] = do_landlock_port,
    [OP_LANDLOCK_SELF] = do_landlock_self,
    [OP_SECCOMP] = do_seccomp,
    [OP_LOOKUP] = do_lookup,
    [OP_WAIT] = do_wait,
    [OP_REAPER] = do_reaper,
    [OP_EXEC] = do_exec,
};

static int parse_fd(const char *p)
{
    int n = 0;
    if (!p || !*p)
        return -1;
    for (; *p; p++) {
        if (*p < '0' || *p > '9' || n > 100000000)
            return -1;
        n = n * 10 + (*p - '0');
    }
    return n;
}

static void reset_signals(void)
{
    struct {
        void *handler;
        unsigned long flags;
        void *restorer;
        uint64_t mask;
    } dfl = {0};
    for (int sig = 1; sig <= NSIG_; sig++)
        SYS(rt_sigaction, sig, &dfl, 0, 8); /* SIGKILL and SIGSTOP answer EINVAL */
    uint64_t none = 0;
    SYS(rt_sigprocmask, 2, &none, 0, 8);
}

static int load(struct init *in)
{
    struct sys_stat st;
    long r = sys_stat(in->plan_fd, "", AT_EMPTY_PATH, &st);
    if (r < 0)
        return (int)r;
    if (st.size < sizeof(struct plan_header) || st.size > PLAN_MAX_SIZE)
        return -EINVAL;
    r = SYS(mmap, 0, st.size, 1 /* read */, 2 /* private */, in->plan_fd, 0);
    if (r < 0 && r > -4096)
        return (int)r;
    in->plan = (const uint8_t *)r;
    if (plan_check(in->plan, st.size) < 0) {
        in->code = ERR_PLAN;
        return -EINVAL;
    }
    in->head = (const void *)in->plan;
    in->steps = (const void *)(in->head + 1);
    sys_close(in->plan_fd);
    return 0;
}

int init_main(int argc, char **argv)
{
    static struct init state;
    struct init *in = &state;
    in->plan_fd = argc > 1 ? parse_fd(argv[1]) : -1;
    in->sync_fd = argc > 2 ? parse_fd(argv[2]) : -1;
    in->root_fd = in->mount_fd = in->null_fd = in->mask_fd = in->host_proc_fd = -1;
    in->hook_fd[0] = in->hook_fd[1] = -1;
    if (in->plan_fd < 0 || in->sync_fd < 0) {
        static const char text[] = "ctnr-init: started by ctnr only\n";
        SYS(write, 2, text, sizeof text - 1);
        return 1;
    }
    /* These come from the parent without FD_CLOEXEC: nothing but the program's own fds may survive the exec. */
    long c = sys_cloexec_all(&in->last_fd);
    if (c < 0)
        fail(in, (int)c);
    reset_signals();
    SYS(umask, 0);
    int r = load(in);
    if (r < 0)
        fail(in, r);
    for (in->at = 0; in->at < in->head->nsteps; in->at++) {
        const struct plan_step *s = &in->steps[in->at];
        in->code = ERR_SYSCALL;
        in->detail[0] = 0;
        r = steps[s->op](in, s);
        if (r == AGAIN)
            in->at = in->mount_step - 1;
        else if (r < 0)
            fail(in, r);
    }
    fail(in, -EINVAL); /* plan_check: the last step is EXEC, which does not return */
}

#ifndef CTNR_HOSTED
#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call init_start\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n mov x29,#0\n mov x0,sp\n and sp,x0,#-16\n bl init_start\n");
#endif
void __attribute__((used, noreturn)) init_start(long *sp)
{
    sys_exit(init_main((int)sp[0], (char **)(sp + 1)));
}
#elif !defined(CTNR_NO_MAIN)
int main(int argc, char **argv)
{
    return init_main(argc, argv);
}
#endif
