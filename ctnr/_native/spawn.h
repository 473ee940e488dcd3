/* SPDX-License-Identifier: Apache-2.0 */
#ifndef CTNR_SPAWN_H
#define CTNR_SPAWN_H

#include <stdint.h>

struct spawn {
    uint64_t flags; /* CLONE_NEW* */
    int cgroup_fd;  /* a cgroup v2 directory to be born in, or -1 */
    int init_fd;    /* the static init */
    char *const *argv;
    int stdio[3];
    const int *keep; /* fds that the init gets under their own numbers */
    int nkeep;
    int ambient; /* carry the capabilities of the new user namespace over the exec */
    /* results */
    int pidfd; /* -1 where CLONE_PIDFD is refused */
    int err;   /* errno of the child's exec */
};

/* Start the init. Returns its pid, or -errno. Safe from any thread; needs no GIL. Where clone3 is refused, clone(2) serves,
 * but not with a cgroup_fd: then ENOSYS or EPERM is the answer, and the init has to join the cgroup itself. */
long ctnr_spawn(struct spawn *s);

#endif
