/* SPDX-License-Identifier: Apache-2.0 */
/* Landlock: the ruleset of this process and all that come of it (landlock(7)). What the kernel knows the parent has asked. */
#include "init.h"

#define RULE_PATH_BENEATH 1
#define RULE_NET_PORT 2
/* what there is to be allowed of something that is no directory; the kernel refuses the rest there */
#define OF_FILES                                                                                                       \
    (1u << 0 /* execute */ | 1u << 1 /* write_file */ | 1u << 2 /* read_file */ | 1u << 14 /* truncate */ |            \
     1u << 15 /* ioctl_dev */)

#ifndef __NR_landlock_create_ruleset
#define __NR_landlock_create_ruleset 444
#define __NR_landlock_add_rule 445
#define __NR_landlock_restrict_self 446
#endif

struct path_beneath {
    uint64_t allowed;
    int32_t parent_fd;
} __attribute__((packed));

struct net_port {
    uint64_t allowed, port;
};

int do_landlock(struct init *in, const struct plan_step *s)
{
    if (s->arg[3] > 3 * sizeof s->arg[0])
        return -EINVAL;
    long fd = SYS(landlock_create_ruleset, s->arg, s->arg[3], 0);
    if (fd >= 0)
        in->landlock_fd = (int)fd;
    return fd < 0 ? (int)fd : 0;
}

int do_landlock_path(struct init *in, const struct plan_step *s)
{
    const char *path = plan_str(in, s, 0, NULL);
    int fd = root_open(in, path, O_PATH, 0);
    if ((fd == -ENOENT || fd == -ENOTDIR) && (s->flags & LANDLOCK_OPTIONAL))
        return 0;
    if (fd < 0)
        return fd;
    struct sys_stat st;
    struct path_beneath rule = {s->arg[0], fd};
    long r = sys_stat(fd, "", AT_EMPTY_PATH, &st);
    if (r == 0 && !S_ISDIR_(st.mode))
        rule.allowed &= OF_FILES;
    if (r == 0 && rule.allowed)
        r = SYS(landlock_add_rule, in->landlock_fd, RULE_PATH_BENEATH, &rule, 0);
    sys_close(fd);
    return (int)r;
}

int do_landlock_port(struct init *in, const struct plan_step *s)
{
    struct net_port rule = {s->arg[0], s->arg[1]};
    return (int)SYS(landlock_add_rule, in->landlock_fd, RULE_NET_PORT, &rule, 0);
}

int do_landlock_self(struct init *in, const struct plan_step *s)
{
    find_home(in, s->arg[1]); /* /etc/passwd may be out of reach from here on */
    long r = SYS(landlock_restrict_self, in->landlock_fd, s->arg[0]);
    sys_close(in->landlock_fd);
    in->landlock_fd = -1;
    return (int)r;
}
