/* SPDX-License-Identifier: Apache-2.0
 *
 * refuse ERRNO NAME[,NAME...] PROGRAM ARGS...: PROGRAM, and all that it starts, for which these system calls fail with ERRNO,
 * as under another engine's seccomp profile, or an older kernel. As root no_new_privs is not set.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef CLONE_PIDFD
#define CLONE_PIDFD 0x1000
#endif

/* arg, mask, value: only if (arg & mask) == value; arg -1: always */
static const struct {
    const char *name;
    int number, arg;
    unsigned mask, value;
} calls[] = {
    {"open_tree", 428, -1, 0, 0},
    {"move_mount", 429, -1, 0, 0},
    {"fsopen", 430, -1, 0, 0},
    {"fsconfig", 431, -1, 0, 0},
    {"fsmount", 432, -1, 0, 0},
    {"fspick", 433, -1, 0, 0},
    {"mount_setattr", 442, -1, 0, 0},
    {"clone3", 435, -1, 0, 0},
    {"openat2", 437, -1, 0, 0},
    {"close_range", 436, -1, 0, 0},
    {"statx", SYS_statx, -1, 0, 0},
    {"pidfd_send_signal", 424, -1, 0, 0},
    {"pidfd_open", 434, -1, 0, 0},
    {"pidfd_getfd", 438, -1, 0, 0},
    {"clone_pidfd", SYS_clone, 0, CLONE_PIDFD, CLONE_PIDFD},
    {"waitid_pidfd", SYS_waitid, 0, ~0u, 3 /* P_PIDFD */},
};

#define MAX 256
static struct sock_filter program[MAX];
static unsigned short length;

static void put(unsigned short code, unsigned k, unsigned char jt, unsigned char jf)
{
    if (length == MAX)
        exit(125);
    program[length++] = (struct sock_filter){code, jt, jf, k};
}

static int add(const char *name, unsigned error)
{
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (strcmp(calls[i].name, name))
            continue;
        put(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr), 0, 0);
        put(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)calls[i].number, 0, calls[i].arg < 0 ? 1 : 4);
        if (calls[i].arg >= 0) {
            put(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args) + 8 * (unsigned)calls[i].arg, 0, 0);
            put(BPF_ALU | BPF_AND | BPF_K, calls[i].mask, 0, 0);
            put(BPF_JMP | BPF_JEQ | BPF_K, calls[i].value, 0, 1);
        }
        put(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error, 0, 0);
        return 1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc < 4) {
        fprintf(stderr, "usage: refuse ERRNO NAME[,NAME...] PROGRAM [ARGS...]\n");
        return 125;
    }
    for (char *name = strtok(argv[2], ","); name; name = strtok(NULL, ","))
        if (!add(name, (unsigned)atoi(argv[1]))) {
            fprintf(stderr, "refuse: unknown system call %s\n", name);
            return 125;
        }
    put(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    struct sock_fprog given = {length, program};
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &given) &&
        (errno != EACCES || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &given))) {
        perror("refuse: seccomp");
        return 125;
    }
    execvp(argv[3], argv + 3);
    perror(argv[3]);
    return 127;
}
