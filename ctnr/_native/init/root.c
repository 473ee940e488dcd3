/* SPDX-License-Identifier: Apache-2.0
 *
 * Paths inside the container's root. The tree belongs to whoever made the image and may be changing under us, so a path is
 * never handed to the kernel as a whole from the host's root: openat2(RESOLVE_IN_ROOT) resolves it, and where something has
 * to be made, or openat2 is missing, it is walked component by component with O_NOFOLLOW, symlinks being read and resolved
 * here, against the container's root (CVE-2021-30465, CVE-2024-45310, CVE-2026-41579).
 */
#include "init.h"

#define MAX_LINKS 40

/* Open `done`, a path with no symlink in it, below the root. */
static int open_plain(struct init *in, const char *done)
{
    int dir = (int)SYS(fcntl, in->root_fd, 1030 /* F_DUPFD_CLOEXEC */, 3);
    char name[256];
    while (dir >= 0) {
        while (*done == '/')
            done++;
        if (!*done)
            break;
        size_t n = 0;
        while (done[n] && done[n] != '/')
            n++;
        if (n >= sizeof name) {
            sys_close(dir);
            return -ENAMETOOLONG;
        }
        memcpy(name, done, n);
        name[n] = 0;
        done += n;
        int next = (int)sys_openat(dir, name, O_PATH | O_NOFOLLOW | O_DIRECTORY, 0);
        sys_close(dir);
        dir = next;
    }
    return dir;
}

struct walk {
    char done[PATH_MAX_]; /* resolved so far, free of symlinks */
    char rest[PATH_MAX_]; /* still to resolve */
    char name[256];
    int links;
};

/* Take the next component of rest into name; 0 at the end. */
static int next_name(struct walk *w)
{
    char *p = w->rest;
    while (*p == '/')
        p++;
    size_t n = 0;
    while (p[n] && p[n] != '/')
        n++;
    if (n >= sizeof w->name)
        return -ENAMETOOLONG;
    memcpy(w->name, p, n);
    w->name[n] = 0;
    p += n;
    char *d = w->rest;
    while ((*d++ = *p++))
        ;
    return n != 0;
}

static int at_end(const struct walk *w)
{
    const char *p = w->rest;
    while (*p == '/')
        p++;
    return *p == 0;
}

static int follow(struct walk *w, int fd)
{
    char target[PATH_MAX_];
    if (++w->links > MAX_LINKS)
        return -ELOOP;
    long n = SYS(readlinkat, fd, "", target, sizeof target - 1);
    if (n < 0)
        return (int)n;
    if ((size_t)n + 1 + strlen(w->rest) + 1 > sizeof w->rest)
        return -ENAMETOOLONG;
    target[n] = 0;
    char rest[PATH_MAX_];
    put_str(rest, rest + sizeof rest, w->rest);
    char *d = put_str(w->rest, w->rest + sizeof w->rest, target);
    d = put_str(d, w->rest + sizeof w->rest, "/");
    put_str(d, w->rest + sizeof w->rest, rest);
    if (target[0] == '/')
        w->done[0] = 0;
    return 0;
}

#define WALK_MAKE 1   /* make what is missing */
#define WALK_FILE 2   /* what is made last is a file */
#define WALK_PARENT 4 /* stop before the last component: its name is in w->name */

/* Returns an O_PATH fd. */
static int walk(struct init *in, struct walk *w, const char *path, int mode, uint32_t perm, int flags)
{
    if (strlen(path) >= sizeof w->rest)
        return -ENAMETOOLONG;
    w->done[0] = 0; /* not the whole of it: 8 KiB a walk */
    w->links = 0;
    put_str(w->rest, w->rest + sizeof w->rest, path);
    int dir = open_plain(in, "");
    for (;;) {
        if (dir < 0)
            return dir;
        int r = next_name(w);
        if (r <= 0) {
            if (r == 0 && (mode & WALK_PARENT))
                r = -EINVAL; /* the root itself has no parent to speak of */
            if (r == 0)
                return dir;
            sys_close(dir);
            return r;
        }
        if (str_eq(w->name, "."))
            continue;
        if (str_eq(w->name, "..")) {
            size_t n = strlen(w->done);
            while (n && w->done[n - 1] != '/')
                n--;
            w->done[n ? n - 1 : 0] = 0;
            sys_close(dir);
            dir = open_plain(in, w->done);
            continue;
        }
        if ((mode & WALK_PARENT) && at_end(w))
            return dir;
        int last = at_end(w), fd;
        for (int tries = 0;; tries++) {
            fd = (int)sys_openat(dir, w->name, O_PATH | O_NOFOLLOW, 0);
            if (fd != -ENOENT || !(mode & WALK_MAKE) || tries > 16)
                break;
            long made = last && (mode & WALK_FILE) ? SYS(mknodat, dir, w->name, S_IFREG | perm, 0)
                                                   : SYS(mkdirat, dir, w->name, last ? perm : 0755);
            if (made < 0 && made != -EEXIST) {
                fd = (int)made;
                break;
            }
        }
        if (fd < 0) {
            sys_close(dir);
            return fd;
        }
        struct sys_stat st;
        long r2 = sys_stat(fd, "", AT_EMPTY_PATH, &st);
        if (r2 == 0 && (st.mode & S_IFMT) == S_IFLNK) {
            r2 = flags & ROOT_NOFOLLOW ? -ELOOP : follow(w, fd);
            sys_close(fd);
            sys_close(dir);
            if (r2 < 0)
                return (int)r2;
            dir = open_plain(in, w->done);
            continue;
        }
        if (r2 == 0 && !last && !S_ISDIR_(st.mode))
            r2 = -ENOTDIR;
        sys_close(dir);
        if (r2 < 0) {
            sys_close(fd);
            return (int)r2;
        }
        if (strlen(w->done) + strlen(w->name) + 2 > sizeof w->done) {
            sys_close(fd);
            return -ENAMETOOLONG;
        }
        char *d = put_str(w->done + strlen(w->done), w->done + sizeof w->done, "/");
        put_str(d, w->done + sizeof w->done, w->name);
        dir = fd;
    }
}

int root_open(struct init *in, const char *path, int oflags, int flags)
{
    struct open_how how = {.flags = (uint64_t)(oflags | O_CLOEXEC), .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
    if (flags & ROOT_NOFOLLOW)
        how.resolve |= RESOLVE_NO_SYMLINKS;
    long fd;
    int tries = 0;
    do /* EAGAIN: a rename or mount anywhere raced with a ".." */
        fd = SYS(openat2, in->root_fd, path, &how, sizeof how);
    while ((fd == -EAGAIN || fd == -EINTR) && ++tries < 128);
    if (fd != -ENOSYS && fd != -EPERM)
        return (int)fd;
    struct walk w;
    int at = walk(in, &w, path, 0, 0, flags);
    if (at < 0 || oflags == O_PATH)
        return at;
    if (oflags & O_PATH) {
        struct sys_stat st;
        long r = sys_stat(at, "", AT_EMPTY_PATH, &st);
        if (r == 0 && (oflags & O_DIRECTORY) && !S_ISDIR_(st.mode))
            r = -ENOTDIR;
        if (r == 0)
            return at;
        sys_close(at);
        return (int)r;
    }
    /* Open the very inode we found: through the runtime's own /proc, the only way without openat2. */
    char name[32];
    int proc = host_proc(in);
    if (proc >= 0) {
        put_num(put_str(name, name + sizeof name, "self/fd/"), (uint64_t)at);
        fd = sys_openat(proc, name, oflags, 0);
    } else {
        fd = proc;
    }
    sys_close(at);
    return (int)fd;
}

int root_make(struct init *in, const char *path, int is_dir, uint32_t mode, int flags)
{
    int fd = root_open(in, path, O_PATH, flags);
    if (fd != -ENOENT)
        return fd;
    struct walk w;
    return walk(in, &w, path, WALK_MAKE | (is_dir ? 0 : WALK_FILE), mode, flags);
}

int root_parent(struct init *in, const char *path, char name[256])
{
    struct walk w;
    int fd = walk(in, &w, path, WALK_MAKE | WALK_PARENT, 0755, 0);
    if (fd >= 0)
        memcpy(name, w.name, sizeof w.name);
    return fd;
}

int root_itself(const char *path)
{
    return path[0] == '/' && !path[1];
}

/* The last component itself, a symlink or not (one of procfs is a way into other processes, not a place). */
int root_link(struct init *in, const char *path, int is_dir)
{
    char dir[PATH_MAX_];
    struct sys_stat st;
    size_t n = strlen(path);
    while (n && path[n - 1] != '/')
        n--;
    if (n >= sizeof dir)
        return -ENAMETOOLONG;
    memcpy(dir, path, n);
    dir[n] = 0;
    int at = root_open(in, dir, O_PATH | O_DIRECTORY, ROOT_NOFOLLOW);
    if (at < 0)
        return at;
    int fd = (int)sys_openat(at, path + n, O_PATH | O_NOFOLLOW, 0);
    sys_close(at);
    if (fd < 0)
        return fd;
    long r = sys_stat(fd, "", AT_EMPTY_PATH, &st);
    if (r == 0 && (st.mode & S_IFMT) == S_IFLNK && (is_dir || sys_fs_magic(fd) == PROC_SUPER_MAGIC))
        r = -ELOOP;
    if (r == 0)
        return fd;
    sys_close(fd);
    return (int)r;
}
