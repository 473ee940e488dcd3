/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the static init share. Functions return 0 or -errno unless they say otherwise. */
#ifndef CTNR_INIT_H
#define CTNR_INIT_H

#include "../plan.h"
#include "sys.h"

#define STATE_MAX (1u << 20)

struct init {
    const uint8_t *plan;
    const struct plan_header *head;
    const struct plan_step *steps;
    uint32_t at; /* index of the step being carried out */
    int plan_fd;
    int sync_fd;          /* to the parent, later to `start`; -1 when nobody listens */
    int root_fd;          /* the container's root: every path of the container is resolved in it */
    int mount_fd;         /* the mount made last */
    int detached;         /* it is attached nowhere: mount(2) does not see it */
    uint32_t mount_step;  /* the step that made it */
    int old_mounts;       /* something of the new mount API is refused: see oldmount.c */
    int staging;          /* its stage is private */
    int null_fd, mask_fd; /* sources of masked files and directories */
    int host_proc_fd;     /* the runtime's /proc, checked; -1 until needed and after the pivot */
    int hook_fd[2];       /* where hooks' stdout and stderr go; -1: into the message of one that fails */
    int last_fd;          /* where close_range is refused: the last fd that was open at the start */
    uint64_t joined;      /* CLONE_NEW* of the namespaces joined so far */
    int cwd_done;
    uint32_t code;    /* ERR_* that goes with the error about to be returned */
    char detail[512]; /* the path or text that goes with it */
    int landlock_fd;  /* the ruleset that is being made */
    char home[1024];  /* HOME=..., once it has been looked for */
    char *state;      /* the state document for hooks */
    size_t state_len;
    char exe[PATH_MAX_]; /* what LOOKUP found */
};

/* plan.c */
int plan_check(const void *buf, size_t size);                                               /* 0, or -EINVAL: damaged */
const char *plan_str(const struct init *in, const struct plan_step *s, int i, size_t *len); /* NULL: none */
/* Pointers to the strings of a list, NULL at the end, in memory of its own (mmap); extra: free places before the NULL. */
char **plan_list(const struct init *in, const struct plan_step *s, int i, int extra, size_t *count);

/* Take the next of a mount's options off *data: its name into key ("": an empty one), its value, if it has one, behind it. */
int plan_option(const char **data, char *key, size_t size, char **value);

/* root.c: paths inside the container's root */
#define ROOT_NOFOLLOW 1                                                  /* no symlink anywhere on the way */
int root_open(struct init *in, const char *path, int oflags, int flags); /* an fd */
int root_make(struct init *in, const char *path, int is_dir, uint32_t mode,
              int flags);                                     /* an O_PATH fd; makes what is missing */
int root_itself(const char *path);                            /* whether it is "/" */
int root_link(struct init *in, const char *path, int is_dir); /* dest-nofollow: what is there, perhaps a symlink */
int root_parent(struct init *in, const char *path, char name[256]); /* the directory's fd; makes it */

/* message.c */
int msg_send(struct init *in, uint32_t type, int err, const void *data, size_t len, int fd);
int msg_wait_go(struct init *in);
void fail(struct init *in, int err) __attribute__((noreturn));
int fail_at(struct init *in, int err, const char *detail); /* returns err */
int missing(struct init *in, const char *call);            /* ERR_MISSING; returns an error */

/* mounts.c, process.c, program.c, hooks.c, copyup.c: one function a step */
typedef int step_fn(struct init *in, const struct plan_step *s);
step_fn do_propagation, do_host_mount, do_host_mkdir, do_host_hide, do_rootfs, do_fsmount, do_tree, do_attach,
    do_setattr, do_remount, do_mknod, do_symlink, do_umount, do_mask, do_readonly, do_pivot;
step_fn do_oom_score, do_nodump, do_cgroup, do_join, do_unshare, do_timens, do_clone, do_sync, do_setid0, do_loopback,
    do_setsid, do_hostname, do_domainname, do_sysctl, do_keyring, do_rlimit, do_mkcwd, do_user, do_bounding, do_caps,
    do_umask, do_cwd, do_nnp, do_seccomp, do_lookup, do_wait, do_reaper, do_exec;
step_fn do_attribute, do_label, do_scheduler, do_io_priority, do_affinity, do_memory_policy, do_personality;
step_fn do_landlock, do_landlock_path, do_landlock_port, do_landlock_self;
step_fn do_console, do_hook_output, do_hook;
int copy_up(struct init *in, int from, int to);
/* program.c: HOME of a uid, from the container's /etc/passwd, into home. */
void find_home(struct init *in, uint64_t uid);
/* notify.c: install the filter and give the listener's fd away. */
int seccomp_listen(struct init *in, const struct plan_step *s, struct sock_fprog *prog);

/* mounts.c. AGAIN, not an errno, makes the main loop go back to the step that made the mount: only now it is known that it
 * has to be made by mount(2). That happens once at most. */
#define AGAIN (-512)
int mount_tree(struct init *in, int dir, const char *path, unsigned flags); /* flags: AT_*; an fd */
int mount_attach(struct init *in, int mount_fd, int dest_fd);

/* oldmount.c: the same by mount(2) */
int mount_api_refused(struct init *in, long err, long call);
int old_tree(struct init *in, int dir, const char *path, unsigned flags);
int old_attach(struct init *in, int mount_fd, int dest_fd);
int old_setattr(struct init *in, int fd, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation);
int old_fsmount(struct init *in, const char *type, const char *source, const char *data, uint64_t attr, uint64_t ms);

int host_proc(struct init *in);
void forget(int *fd); /* close it and note that */
int proc_write(struct init *in, const char *path, const char *value, size_t len);

#endif
