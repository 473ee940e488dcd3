/* SPDX-License-Identifier: Apache-2.0
 *
 * Mounts where the mount API of Linux 5.2 and 5.12 (open_tree, fsopen, move_mount, mount_setattr) is refused: by a seccomp
 * profile, or because the kernel is older. mount(2) serves, and gives nothing up: no path of the container is resolved
 * twice. A mount that has no place yet is kept on a stage, where a detached one would be an fd alone: something of the
 * runtime's own /proc, which the container never sees. There it gets its attributes, by an fd of it, and from there it is
 * moved onto the fd of its destination. All fds are named through that /proc, which was checked (host_proc).
 */
#include "init.h"

#define ST_NOSYMFOLLOW_ 0x2000
#define ST_RELATIME_ 0x1000
#define MOUNTINFO_MAX (16u << 20)

/* Whether err is the absence of call, and no more. From then on nothing of the API is used. Costs nothing but after errors:
 * with no sound argument the call itself says EINVAL. */
int mount_api_refused(struct init *in, long err, long call)
{
    if (err == -EPERM)
        err = sys6(call, -1, -1, -1, -1, -1, -1);
    if (err != -ENOSYS && err != -EPERM)
        return 0;
    in->old_mounts = 1;
    return 1;
}

int missing(struct init *in, const char *call)
{
    in->code = ERR_MISSING;
    return fail_at(in, -ENOSYS, call);
}

/* mount(2) on fds; from < 0: none. The working directory is the runtime's /proc then. */
static int mount_fds(struct init *in, int from, int to, const char *type, uint64_t flags, const char *data)
{
    char source[32], target[32];
    int proc = host_proc(in);
    if (proc < 0)
        return proc;
    if (from >= 0)
        put_num(put_str(source, source + sizeof source, "self/fd/"), (uint64_t)from);
    put_num(put_str(target, target + sizeof target, "self/fd/"), (uint64_t)to);
    long r = SYS(fchdir, proc);
    if (r == 0)
        r = SYS(mount, from >= 0 ? source : NULL, target, type, flags, data);
    return (int)r;
}

/* What is on the stage now: an O_PATH fd. */
static int stage(struct init *in, int is_dir)
{
    int proc = host_proc(in);
    if (proc < 0)
        return proc;
    if (!in->staging) { /* a mount with a shared parent cannot be moved away, and would be seen elsewhere */
        int r = mount_fds(in, -1, proc, NULL, MS_PRIVATE | MS_REC, NULL);
        if (r < 0)
            return r;
        in->staging = 1;
    }
    return (int)sys_openat(proc, is_dir ? "fs" : "version", O_PATH | O_NOFOLLOW, 0);
}

/* A copy of the mount at source (an O_PATH fd) on the stage, as open_tree(OPEN_TREE_CLONE) would make a detached one. */
static int stage_copy(struct init *in, int source, int recursive)
{
    struct sys_stat st, seen;
    int r = (int)sys_stat(source, "", AT_EMPTY_PATH, &st);
    if (r < 0)
        return r;
    int at = stage(in, S_ISDIR_(st.mode));
    if (at < 0)
        return at;
    r = mount_fds(in, source, at, NULL, MS_BIND | (recursive ? MS_REC : 0), NULL);
    sys_close(at);
    int fd = r < 0 ? r : stage(in, S_ISDIR_(st.mode));
    r = fd < 0 ? fd : (int)sys_stat(fd, "", AT_EMPTY_PATH, &seen);
    if (r == 0 && (seen.ino != st.ino || seen.dev != st.dev)) {
        in->code = ERR_UNSAFE;
        r = -ESTALE;
    }
    if (r < 0)
        sys_close(fd);
    return r < 0 ? r : fd;
}

int old_tree(struct init *in, int dir, const char *path, unsigned flags)
{
    int source = dir;
    if (!(flags & AT_EMPTY_PATH)) {
        int nofollow = flags & AT_SYMLINK_NOFOLLOW ? O_NOFOLLOW : 0;
        source = (int)sys_openat(dir, path, O_PATH | O_DIRECTORY | nofollow, 0); /* this way automounts are, too */
        if (source == -ENOTDIR || source == -ELOOP)
            source = (int)sys_openat(dir, path, O_PATH | nofollow, 0);
        if (source < 0)
            return source;
    }
    int fd = stage_copy(in, source, flags & AT_RECURSIVE);
    if (source != dir)
        sys_close(source);
    return fd;
}

int old_attach(struct init *in, int mount_fd, int dest_fd)
{
    return mount_fds(in, mount_fd, dest_fd, NULL, MS_MOVE, NULL);
}

static const struct {
    uint64_t attr;
    unsigned long ms, st;
} bits[] = {
    {MOUNT_ATTR_RDONLY, MS_RDONLY, MS_RDONLY},
    {MOUNT_ATTR_NOSUID, MS_NOSUID, MS_NOSUID},
    {MOUNT_ATTR_NODEV, MS_NODEV, MS_NODEV},
    {MOUNT_ATTR_NOEXEC, MS_NOEXEC, MS_NOEXEC},
    {MOUNT_ATTR_NOATIME, MS_NOATIME, MS_NOATIME},
    {MOUNT_ATTR_NODIRATIME, MS_NODIRATIME, MS_NODIRATIME},
    {MOUNT_ATTR_NOSYMFOLLOW_, MS_NOSYMFOLLOW, ST_NOSYMFOLLOW_},
};

static unsigned long ms_flags(uint64_t attr)
{
    unsigned long flags = 0;
    for (unsigned i = 0; i < sizeof bits / sizeof *bits; i++)
        if (attr & bits[i].attr)
            flags |= bits[i].ms;
    if (attr & MOUNT_ATTR_STRICTATIME)
        flags |= MS_STRICTATIME;
    else if (!(attr & MOUNT_ATTR_NOATIME))
        flags |= MS_RELATIME;
    return flags;
}

/* mount_setattr(2) of one mount: a remount sets all of its flags, so those that it has come first. */
static int remount(struct init *in, int fd, uint64_t set, uint64_t clear)
{
    long buf[32];
    long r = SYS(fstatfs, fd, buf);
    if (r < 0)
        return (int)r;
    unsigned long have = (unsigned long)buf[10]; /* statfs.f_flags, statvfs(3) */
    uint64_t attr = have & (MS_NOATIME | ST_RELATIME_) ? 0 : MOUNT_ATTR_STRICTATIME;
    for (unsigned i = 0; i < sizeof bits / sizeof *bits; i++)
        if (have & bits[i].st)
            attr |= bits[i].attr;
    attr = (attr & ~clear) | set;
    return mount_fds(in, -1, fd, NULL, MS_REMOUNT | MS_BIND | ms_flags(attr), NULL);
}

/* --- the mounts below a mount, from mountinfo (proc(5)) */

struct line {
    uint64_t id, parent;
    const char *point;
    size_t len;
};

/* The line at p; where the next one begins, NULL at the end. */
static const char *next_line(const char *p, struct line *line)
{
    uint64_t number[2] = {0, 0};
    if (!*p)
        return NULL;
    for (int i = 0; i < 2; i++, p++)
        for (; *p >= '0' && *p <= '9'; p++)
            number[i] = number[i] * 10 + (uint64_t)(*p - '0');
    for (int skip = 0; skip < 2 && *p && *p != '\n'; p++) /* device, root */
        skip += *p == ' ';
    line->id = number[0];
    line->parent = number[1];
    line->point = p;
    while (*p && *p != ' ' && *p != '\n')
        p++;
    line->len = (size_t)(p - line->point);
    while (*p && *p != '\n')
        p++;
    return *p ? p + 1 : p;
}

static int find_line(const char *text, uint64_t id, struct line *line)
{
    for (const char *p = text; (p = next_line(p, line));)
        if (line->id == id)
            return 1;
    return 0;
}

static int is_below(const char *text, uint64_t id, uint64_t top)
{
    struct line line;
    for (int depth = 0; depth < 4096 && find_line(text, id, &line) && line.parent != line.id; depth++) {
        if (line.parent == top)
            return 1;
        id = line.parent;
    }
    return 0;
}

static int same(const struct line *a, const struct line *b)
{
    return a->len == b->len && memcmp(a->point, b->point, a->len) == 0;
}

/* Whether a mount below top is covered by another: one on its root, or on that of a mount it is on. */
static int is_covered(const char *text, struct line at, uint64_t top)
{
    struct line other;
    for (uint64_t from = 0; at.id != top;) {
        for (const char *p = text; (p = next_line(p, &other));)
            if (other.parent == at.id && other.id != from && same(&other, &at))
                return 1;
        from = at.id;
        if (!find_line(text, at.parent, &at))
            return 0;
    }
    return 0;
}

/* The id of the mount that an fd is on, 0 if it cannot be told. */
static uint64_t mount_id(struct init *in, int fd)
{
    char name[40], text[512];
    put_num(put_str(name, name + sizeof name, "self/fdinfo/"), (uint64_t)fd);
    int proc = host_proc(in);
    int info = proc < 0 ? proc : (int)sys_openat(proc, name, O_RDONLY, 0);
    long n = info < 0 ? info : SYS(read, info, text, sizeof text - 1);
    sys_close(info);
    if (n < 0)
        return 0;
    text[n] = 0;
    for (const char *p = text; *p; p++) {
        if (memcmp(p, "mnt_id:\t", 8) == 0 && (p == text || p[-1] == '\n')) {
            uint64_t id = 0;
            for (p += 8; *p >= '0' && *p <= '9'; p++)
                id = id * 10 + (uint64_t)(*p - '0');
            return id;
        }
        if (strlen(p) < 9)
            break;
    }
    return 0;
}

/* Blanks, newlines and backslashes are octal there. */
static int unescape(char *to, size_t size, const char *from, size_t len)
{
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (n + 1 >= size)
            return -ENAMETOOLONG;
        if (from[i] == '\\' && i + 3 < len) {
            to[n++] = (char)((from[i + 1] - '0') * 64 + (from[i + 2] - '0') * 8 + (from[i + 3] - '0'));
            i += 3;
        } else {
            to[n++] = from[i];
        }
    }
    to[n] = 0;
    return 0;
}

static int below(struct init *in, int fd, const char *text, uint64_t set, uint64_t clear)
{
    struct line top, line;
    uint64_t id = mount_id(in, fd);
    if (!id || !find_line(text, id, &top))
        return -ESTALE;
    for (const char *p = text; (p = next_line(p, &line));) {
        char path[PATH_MAX_];
        if (!is_below(text, line.id, id))
            continue;
        int at = -1, r = -ESTALE;
        if (line.len > top.len)
            r = unescape(path, sizeof path, line.point + top.len + 1, line.len - top.len - 1);
        if (r == 0)
            r = at = (int)sys_openat(fd, path, O_PATH | O_NOFOLLOW, 0);
        /* Whatever the path led over, it is the mount that was meant. One that is covered cannot be had; who may uncover
         * it could as well undo what is set here. */
        if (at >= 0 && mount_id(in, at) != line.id)
            r = is_covered(text, line, id) ? 0 : -ESTALE;
        else if (r >= 0)
            r = remount(in, at, set, clear);
        sys_close(at);
        if (r == -ESTALE || (r == -EACCES && at < 0))
            return missing(in, "mount_setattr (a mount below cannot be reached)");
        if (r < 0)
            return r;
    }
    return 0;
}

static int remount_below(struct init *in, int fd, uint64_t set, uint64_t clear)
{
    int proc = host_proc(in);
    int info = proc < 0 ? proc : (int)sys_openat(proc, "self/mountinfo", O_RDONLY, 0);
    if (info < 0)
        return info;
    long mem = SYS(mmap, 0, MOUNTINFO_MAX, 3, 0x22 | 0x4000 /* NORESERVE */, -1, 0), r = 1;
    if (mem < 0 && mem > -4096) {
        sys_close(info);
        return (int)mem;
    }
    char *text = (char *)mem;
    size_t len = 0;
    while (r > 0 && len + 1 < MOUNTINFO_MAX) {
        r = SYS(read, info, text + len, MOUNTINFO_MAX - 1 - len);
        len += r > 0 ? (size_t)r : 0;
    }
    sys_close(info);
    if (r > 0)
        r = -E2BIG;
    if (r == 0)
        r = below(in, fd, text, set, clear);
    SYS(munmap, mem, MOUNTINFO_MAX);
    return (int)r;
}

int old_setattr(struct init *in, int fd, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation)
{
    int r = 0;
    if ((set | clear) & MOUNT_ATTR_IDMAP)
        return missing(in, "mount_setattr");
    if (set | clear) {
        r = remount(in, fd, set, clear);
        if (r == 0 && (flags & AT_RECURSIVE))
            r = remount_below(in, fd, set, clear);
    }
    if (r == 0 && propagation)
        r = mount_fds(in, -1, fd, NULL, propagation | (flags & AT_RECURSIVE ? MS_REC : 0), NULL);
    return r;
}

/* A new file system on the stage. attr is for the mount alone, ms is for the file system as well. */
int old_fsmount(struct init *in, const char *type, const char *source, const char *data, uint64_t attr, uint64_t ms)
{
    if (data && strlen(data) >= 4095) /* mount(2) reads a page */
        return missing(in, "fsconfig (for options longer than a page)");
    int at = stage(in, 1);
    if (at < 0)
        return at;
    char target[32];
    put_num(put_str(target, target + sizeof target, "self/fd/"), (uint64_t)at);
    long r = SYS(fchdir, host_proc(in));
    if (r == 0)
        r = SYS(mount, source, target, type, ms | ms_flags(attr & ~(uint64_t)MOUNT_ATTR_RDONLY), data);
    sys_close(at);
    int fd = r < 0 ? (int)r : stage(in, 1);
    r = fd;
    if (fd >= 0 && (attr & MOUNT_ATTR_RDONLY) && !(ms & MS_RDONLY))
        r = remount(in, fd, MOUNT_ATTR_RDONLY, 0);
    if (r < 0)
        sys_close(fd);
    return r < 0 ? (int)r : fd;
}
