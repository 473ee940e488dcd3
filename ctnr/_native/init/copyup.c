/* SPDX-License-Identifier: Apache-2.0 */
/* tmpcopyup: copy a tree into a fresh filesystem, by fds only: owners, modes, times, links and extended attributes. */
#include "init.h"

#define DEPTH 64

static int copy_xattrs(int from, int to)
{
    char names[4096], value[8192];
    long n = SYS(flistxattr, from, names, sizeof names);
    if (n < 0)
        return n == -EOPNOTSUPP ? 0 : (int)n;
    for (char *p = names; p < names + n; p += strlen(p) + 1) {
        long len = SYS(fgetxattr, from, p, value, sizeof value);
        if (len < 0)
            return (int)len;
        long r = SYS(fsetxattr, to, p, value, len, 0);
        if (r < 0 && r != -EOPNOTSUPP && r != -EPERM) /* tmpfs has no user.* before Linux 6.6 */
            return (int)r;
    }
    return 0;
}

static int copy_data(int from, int to)
{
    char buf[16384];
    for (;;) {
        long n = SYS(read, from, buf, sizeof buf);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            return (int)n;
        long r = sys_write_all(to, buf, (size_t)n);
        if (r < 0)
            return (int)r;
    }
}

static int set_times(int dir, const char *name, int flags, const struct sys_stat *x)
{
    struct sys_timespec t[2] = {x->atime, x->mtime};
    return (int)SYS(utimensat, dir, name, t, flags);
}

static int copy_dir(struct init *in, int from, int to, int depth);

static int copy_one(struct init *in, int from, int to, const char *name, int depth)
{
    struct sys_stat x;
    long r = sys_stat(from, name, AT_SYMLINK_NOFOLLOW, &x);
    if (r < 0)
        return (int)r;
    uint32_t kind = x.mode & S_IFMT;
    int a = -1, b = -1;
    if (kind == S_IFLNK) {
        char target[PATH_MAX_];
        long n = SYS(readlinkat, from, name, target, sizeof target - 1);
        if (n < 0)
            return (int)n;
        target[n] = 0;
        r = SYS(symlinkat, target, to, name);
    } else if (kind == S_IFDIR) {
        r = SYS(mkdirat, to, name, 0700);
        a = r < 0 ? (int)r : (int)sys_openat(from, name, O_RDONLY | O_NOFOLLOW | O_DIRECTORY, 0);
        b = a < 0 ? a : (int)sys_openat(to, name, O_RDONLY | O_NOFOLLOW | O_DIRECTORY, 0);
        r = b < 0 ? b : copy_dir(in, a, b, depth + 1);
    } else if (kind == S_IFREG) {
        a = (int)sys_openat(from, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK, 0);
        b = a < 0 ? a : (int)sys_openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
        r = b < 0 ? b : copy_data(a, b);
    } else {
        uint32_t dev = (x.minor & 0xff) | (x.major << 8) | ((x.minor & ~0xffu) << 12);
        r = SYS(mknodat, to, name, x.mode, dev);
    }
    if (r == 0)
        r = SYS(fchownat, to, name, x.uid, x.gid, AT_SYMLINK_NOFOLLOW);
    if (r == 0 && b >= 0)
        r = copy_xattrs(a, b);
    if (r == 0 && kind != S_IFLNK)
        r = b >= 0 ? SYS(fchmod, b, x.mode & 07777) : SYS(fchmodat, to, name, x.mode & 07777);
    if (r == 0)
        r = set_times(to, name, AT_SYMLINK_NOFOLLOW, &x);
    sys_close(a);
    sys_close(b);
    return r < 0 ? fail_at(in, (int)r, name) : 0;
}

static int copy_dir(struct init *in, int from, int to, int depth)
{
    char buf[4096] __attribute__((aligned(8)));
    if (depth > DEPTH)
        return -ELOOP;
    for (;;) {
        long n = SYS(getdents64, from, buf, sizeof buf);
        if (n <= 0)
            return (int)n;
        for (long at = 0; at < n;) {
            struct sys_dirent *e = (struct sys_dirent *)(buf + at);
            at += e->reclen;
            if (str_eq(e->name, ".") || str_eq(e->name, ".."))
                continue;
            int r = copy_one(in, from, to, e->name, depth);
            if (r < 0)
                return r;
        }
    }
}

int copy_up(struct init *in, int from, int to)
{
    struct sys_stat x;
    int out = (int)sys_openat(to, ".", O_RDONLY | O_DIRECTORY, 0);
    if (out < 0)
        return out;
    long r = sys_stat(from, "", AT_EMPTY_PATH, &x);
    if (r == 0)
        r = copy_dir(in, from, out, 0);
    if (r == 0)
        r = SYS(fchown, out, x.uid, x.gid);
    if (r == 0)
        r = SYS(fchmod, out, x.mode & 07777);
    sys_close(out);
    return (int)r;
}
