/* SPDX-License-Identifier: Apache-2.0 */
/* Devices and symlinks in the container's root. */
#include "init.h"

int do_mknod(struct init *in, const struct plan_step *s)
{
    char name[256];
    int dir = root_parent(in, plan_str(in, s, 0, NULL), name);
    if (dir < 0)
        return dir;
    uint32_t mode = (uint32_t)s->arg[0], major = (uint32_t)s->arg[1], minor = (uint32_t)s->arg[2];
    uint32_t dev = (minor & 0xff) | (major << 8) | ((minor & ~0xffu) << 12);
    long r = SYS(mknodat, dir, name, mode, dev); /* the umask is 0 */
    int fd = r == 0 || r == -EEXIST ? (int)sys_openat(dir, name, O_PATH | O_NOFOLLOW, 0) : (int)r;
    sys_close(dir);
    if (fd < 0)
        return fd;
    struct sys_stat st;
    r = sys_stat(fd, "", AT_EMPTY_PATH, &st);
    if (r == 0 && ((st.mode ^ mode) & S_IFMT))
        r = -EEXIST;
    if (r == 0 && ((mode & S_IFMT) == S_IFCHR || (mode & S_IFMT) == S_IFBLK) &&
        (st.major != major || st.minor != minor))
        r = -EEXIST;
    if (r == 0 && (st.uid != s->arg[3] || st.gid != s->arg[4]))
        r = SYS(fchownat, fd, "", s->arg[3], s->arg[4], AT_EMPTY_PATH);
    sys_close(fd);
    return (int)r;
}

int do_symlink(struct init *in, const struct plan_step *s)
{
    char name[256], old[PATH_MAX_];
    const char *target = plan_str(in, s, 0, NULL);
    int dir = root_parent(in, plan_str(in, s, 1, NULL), name);
    if (dir < 0)
        return dir;
    if (s->flags & SYMLINK_REPLACE)
        SYS(unlinkat, dir, name, 0); /* symlinkat will say if it is still there */
    long r = SYS(symlinkat, target, dir, name);
    if (r == -EEXIST && (s->flags & SYMLINK_KEEP)) {
        r = 0;
    } else if (r == -EEXIST) {
        long n = SYS(readlinkat, dir, name, old, sizeof old - 1);
        if (n > 0) {
            old[n] = 0;
            if (str_eq(old, target))
                r = 0;
        }
    }
    sys_close(dir);
    return (int)r;
}
