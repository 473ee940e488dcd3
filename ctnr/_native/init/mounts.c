/* SPDX-License-Identifier: Apache-2.0
 *
 * Mounts, devices, and the change of root. Up to the pivot the host's tree is still visible: host paths come from the
 * parent only, paths of the container go through root.c, and mounts are made on the fds that it returns.
 */
#include "init.h"

static int open_tree(int dir, const char *path, unsigned flags)
{
    return (int)SYS(open_tree, dir, path, flags | OPEN_TREE_CLOEXEC);
}

static int attach(int mount_fd, int dest_fd)
{
    return (int)SYS(move_mount, mount_fd, "", dest_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int setattr(int fd, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation)
{
    struct mount_attr a = {.attr_set = set, .attr_clr = clear, .propagation = propagation};
    return (int)SYS(mount_setattr, fd, "", AT_EMPTY_PATH | flags, &a, sizeof a);
}

static void keep_mount(struct init *in, int fd)
{
    sys_close(in->mount_fd);
    in->mount_fd = fd;
}

int do_propagation(struct init *in, const struct plan_step *s)
{
    return (int)SYS(mount, 0, plan_str(in, s, 0, NULL), 0, s->arg[0], 0);
}

int do_host_mount(struct init *in, const struct plan_step *s)
{
    return (int)SYS(mount, plan_str(in, s, 0, NULL), plan_str(in, s, 2, NULL), plan_str(in, s, 1, NULL), s->arg[0],
                    plan_str(in, s, 3, NULL));
}

int do_host_mkdir(struct init *in, const struct plan_step *s)
{
    long r = SYS(mkdirat, AT_FDCWD_, plan_str(in, s, 0, NULL), s->arg[0]);
    return r == -EEXIST ? 0 : (int)r;
}

/* With --no-pivot the host's proc and sysfs stay below the new root: a container that finds them has more than it should. */
int do_host_hide(struct init *in, const struct plan_step *s)
{
    const char *path = plan_str(in, s, 0, NULL);
    host_proc(in); /* while it can be reached; who needs it later reports its absence */
    long r = SYS(mount, 0, path, 0, MS_SLAVE | MS_REC, 0);
    if (r == 0)
        r = SYS(umount2, path, 2 /* MNT_DETACH */);
    if (r == -EINVAL || r == -EPERM) /* locked: it came with the user namespace */
        r = SYS(mount, "tmpfs", path, "tmpfs", MS_RDONLY, "size=0,nr_inodes=1");
    return r == -ENOENT ? 0 : (int)r;
}

int do_rootfs(struct init *in, const struct plan_step *s)
{
    const char *path = plan_str(in, s, 0, NULL);
    if (s->flags & ROOTFS_PLAIN) {
        in->root_fd = (int)sys_openat(AT_FDCWD_, path, O_PATH | O_DIRECTORY, 0);
        return in->root_fd < 0 ? in->root_fd : 0;
    }
    int tree = open_tree(AT_FDCWD_, path, OPEN_TREE_CLONE | AT_RECURSIVE);
    if (tree < 0)
        return tree;
    long r = SYS(move_mount, tree, "", AT_FDCWD_, path, MOVE_MOUNT_F_EMPTY_PATH);
    if (r == 0)
        in->root_fd = tree;
    else
        sys_close(tree);
    return (int)r;
}

/* The last message of a filesystem context that is an error, into detail. */
static void fs_message(struct init *in, int fs)
{
    char text[256];
    long n;
    while ((n = SYS(read, fs, text, sizeof text - 1)) > 0) {
        text[n] = 0;
        if (text[0] == 'e')
            fail_at(in, 0, text + 2);
    }
}

static int fs_config(struct init *in, int fs, const struct plan_step *s)
{
    const char *source = plan_str(in, s, 0, NULL), *data = plan_str(in, s, 3, NULL);
    static const char *const words[] = {"ro", "sync", "dirsync", "lazytime", "mand"};
    long r = 0;
    if (source)
        r = SYS(fsconfig, fs, FSCONFIG_SET_STRING, "source", source, 0);
    for (int i = 0; r == 0 && i < 5; i++)
        if (s->arg[2] >> i & 1)
            r = SYS(fsconfig, fs, FSCONFIG_SET_FLAG, words[i], 0, 0);
    while (r == 0 && data && *data) {
        char key[PATH_MAX_], *value;
        r = plan_option(&data, key, sizeof key, &value);
        if (r == 0 && value)
            r = SYS(fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0);
        else if (r == 0 && *key)
            r = SYS(fsconfig, fs, FSCONFIG_SET_FLAG, key, 0, 0);
    }
    if (r == 0)
        r = SYS(fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
    if (r < 0)
        fs_message(in, fs);
    return (int)r;
}

static int fsmount_new(struct init *in, const struct plan_step *s)
{
    int fs = (int)SYS(fsopen, plan_str(in, s, 1, NULL), FSOPEN_CLOEXEC);
    if (fs < 0)
        return fs;
    int r = fs_config(in, fs, s);
    if (r == 0) {
        r = (int)SYS(fsmount, fs, FSMOUNT_CLOEXEC, s->arg[0]);
        if (r < 0)
            fs_message(in, fs);
    }
    sys_close(fs);
    return r;
}

/* mount(2) on the current directory: what fchdir() entered cannot be exchanged for something else. */
static int fsmount_legacy(struct init *in, const struct plan_step *s, int dest)
{
    long r = SYS(fchdir, dest);
    if (r == 0)
        r = SYS(mount, plan_str(in, s, 0, NULL), ".", plan_str(in, s, 1, NULL), s->arg[1], plan_str(in, s, 3, NULL));
    return (int)r;
}

int do_fsmount(struct init *in, const struct plan_step *s)
{
    const char *path = plan_str(in, s, 2, NULL);
    int strict = s->flags & FSMOUNT_STRICT ? ROOT_NOFOLLOW : 0;
    int dest = root_make(in, path, 1, 0755, strict), r;
    if (dest < 0)
        return dest;
    struct sys_stat st;
    r = (int)sys_stat(dest, "", AT_EMPTY_PATH, &st);
    if (r == 0 && !S_ISDIR_(st.mode))
        r = -ENOTDIR;
    int mnt = -ENOSYS;
    if (r == 0 && !(s->flags & FSMOUNT_LEGACY)) {
        mnt = fsmount_new(in, s);
        r = mnt < 0 && mnt != -ENOSYS ? mnt : 0;
    }
    if (r == 0 && mnt >= 0) {
        if (s->flags & FSMOUNT_COPYUP) {
            int from = (int)sys_openat(dest, ".", O_RDONLY | O_DIRECTORY, 0);
            r = from < 0 ? from : copy_up(in, from, mnt);
            sys_close(from);
        }
        if (r == 0)
            r = attach(mnt, dest);
        if (r == 0)
            keep_mount(in, mnt);
        else
            sys_close(mnt);
    } else if (r == 0) {
        int from = s->flags & FSMOUNT_COPYUP ? (int)sys_openat(dest, ".", O_RDONLY | O_DIRECTORY, 0) : -1;
        r = fsmount_legacy(in, s, dest);
        if (r == 0) {
            mnt = root_open(in, path, O_PATH | O_DIRECTORY, strict);
            r = mnt < 0 ? mnt : 0;
        }
        if (r == 0 && (s->flags & FSMOUNT_COPYUP))
            r = from < 0 ? from : copy_up(in, from, mnt);
        sys_close(from);
        if (r == 0)
            keep_mount(in, mnt);
    }
    sys_close(dest);
    return r;
}

static int is_device(int fd, uint32_t type, uint32_t major, uint32_t minor)
{
    struct sys_stat st;
    long r = sys_stat(fd, "", AT_EMPTY_PATH, &st);
    if (r < 0)
        return (int)r;
    return (st.mode & S_IFMT) == type && st.major == major && st.minor == minor;
}

int do_tree(struct init *in, const struct plan_step *s)
{
    const char *source = plan_str(in, s, 0, NULL);
    unsigned rec = s->arg[0] ? AT_RECURSIVE : 0;
    if (s->fd >= 0) { /* a detached tree that the parent made */
        keep_mount(in, s->fd);
        return 0;
    }
    if (!source)
        return -EINVAL;
    int fd = open_tree(AT_FDCWD_, source, OPEN_TREE_CLONE | rec | (s->flags & TREE_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0));
    if (fd < 0)
        return fd;
    keep_mount(in, fd);
    if (s->flags & TREE_DEVICE && is_device(fd, (uint32_t)s->arg[1], (uint32_t)s->arg[2], (uint32_t)s->arg[3]) != 1) {
        in->code = ERR_UNSAFE;
        return -ENODEV;
    }
    return 0;
}

int do_attach(struct init *in, const struct plan_step *s)
{
    struct sys_stat st;
    int r = (int)sys_stat(in->mount_fd, "", AT_EMPTY_PATH, &st);
    if (r < 0)
        return r;
    int nofollow = s->flags & ATTACH_NOFOLLOW ? ROOT_NOFOLLOW : 0;
    const char *path = plan_str(in, s, 0, NULL);
    int dest = root_make(in, path, S_ISDIR_(st.mode), S_ISDIR_(st.mode) ? 0755 : 0644, nofollow);
    if (dest < 0)
        return dest;
    r = attach(in->mount_fd, dest);
    sys_close(dest);
    return r;
}

int do_setattr(struct init *in, const struct plan_step *s)
{
    if (s->str[0]) {
        int fd = root_open(in, plan_str(in, s, 0, NULL), O_PATH, 0);
        if (fd < 0)
            return fd;
        keep_mount(in, fd);
    }
    return setattr(in->mount_fd, s->arg[3] ? AT_RECURSIVE : 0, s->arg[0], s->arg[1], s->arg[2]);
}

int do_label(struct init *in, const struct plan_step *s)
{
    size_t len;
    const char *label = plan_str(in, s, 0, &len);
    int fd = (int)sys_openat(in->mount_fd, ".", O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    long r = SYS(fsetxattr, fd, "security.selinux", label, len, 0);
    sys_close(fd);
    return (int)r;
}

int do_remount(struct init *in, const struct plan_step *s)
{
    int fd = root_open(in, plan_str(in, s, 0, NULL), O_PATH | O_DIRECTORY, 0);
    if (fd < 0)
        return fd;
    long r = SYS(fchdir, fd);
    if (r == 0)
        r = SYS(mount, 0, ".", 0, MS_REMOUNT | s->arg[0], plan_str(in, s, 1, NULL));
    keep_mount(in, fd);
    return (int)r;
}

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

static int null_source(struct init *in)
{
    if (in->null_fd < 0) {
        int fd = (int)sys_openat(AT_FDCWD_, "/dev/null", O_PATH | O_NOFOLLOW, 0);
        if (fd < 0)
            return fail_at(in, fd, "/dev/null");
        if (is_device(fd, S_IFCHR, 1, 3) != 1) {
            in->code = ERR_UNSAFE;
            sys_close(fd);
            return fail_at(in, -ENODEV, "/dev/null");
        }
        in->null_fd = fd;
    }
    return in->null_fd;
}

int do_mask(struct init *in, const struct plan_step *s)
{
    const char *path = plan_str(in, s, 0, NULL);
    int dest = root_open(in, path, O_PATH, 0), r;
    if (dest == -ENOENT || dest == -ENOTDIR)
        return 0;
    if (dest < 0)
        return dest;
    struct sys_stat st;
    r = (int)sys_stat(dest, "", AT_EMPTY_PATH, &st);
    int mnt = -1;
    if (r == 0 && !S_ISDIR_(st.mode)) {
        r = null_source(in);
        if (r >= 0)
            r = mnt = open_tree(r, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
    } else if (r == 0 && in->mask_fd >= 0) { /* one empty read-only tmpfs serves all */
        r = mnt = open_tree(in->mask_fd, "", AT_EMPTY_PATH | OPEN_TREE_CLONE);
    } else if (r == 0) {
        struct plan_step t = {.op = OP_FSMOUNT, .arg = {MOUNT_ATTR_RDONLY}};
        int fs = (int)SYS(fsopen, "tmpfs", FSOPEN_CLOEXEC);
        r = fs;
        if (fs >= 0) {
            t.str[3] = s->str[1];
            t.str[0] = 0;
            r = fs_config(in, fs, &t);
            if (r == 0)
                r = mnt = (int)SYS(fsmount, fs, FSMOUNT_CLOEXEC,
                                   MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
            sys_close(fs);
        }
    }
    if (r >= 0)
        r = attach(mnt, dest);
    if (r == 0 && S_ISDIR_(st.mode) && in->mask_fd < 0)
        in->mask_fd = mnt;
    else
        sys_close(mnt);
    sys_close(dest);
    return r;
}

int do_readonly(struct init *in, const struct plan_step *s)
{
    int dest = root_open(in, plan_str(in, s, 0, NULL), O_PATH, 0);
    if (dest == -ENOENT || dest == -ENOTDIR)
        return 0;
    if (dest < 0)
        return dest;
    int tree = open_tree(dest, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | AT_RECURSIVE), r = tree;
    if (r >= 0)
        r = setattr(tree, AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0);
    if (r >= 0)
        r = attach(tree, dest);
    sys_close(tree);
    sys_close(dest);
    return r;
}

int do_pivot(struct init *in, const struct plan_step *s)
{
    long r = SYS(fchdir, in->root_fd);
    if (r < 0)
        return (int)r;
    host_proc(in); /* the last chance; whoever needs it reports its absence */
    if (s->flags & PIVOT_CHROOT) {
        r = SYS(chroot, ".");
    } else if (s->flags & PIVOT_MOVE) {
        r = SYS(mount, ".", "/", 0, MS_MOVE, 0);
        if (r == 0)
            r = SYS(chroot, ".");
    } else {
        int old = (int)sys_openat(AT_FDCWD_, "/", O_PATH | O_DIRECTORY, 0);
        if (old < 0)
            return old;
        r = SYS(pivot_root, ".", "."); /* the old root is now on top of the new one */
        if (r == 0)
            r = SYS(fchdir, old);
        if (r == 0) /* nothing of the unmount must reach the host */
            r = SYS(mount, 0, ".", 0, MS_SLAVE | MS_REC, 0);
        if (r == 0)
            r = SYS(umount2, ".", 2 /* MNT_DETACH */);
        sys_close(old);
    }
    if (r == 0)
        r = SYS(chdir, "/");
    if (r < 0)
        return (int)r;
    sys_close(in->root_fd);
    in->root_fd = (int)sys_openat(AT_FDCWD_, "/", O_PATH | O_DIRECTORY, 0);
    if (in->root_fd < 0)
        return in->root_fd;
    if (s->flags & PIVOT_READONLY)
        return setattr(in->root_fd, 0, MOUNT_ATTR_RDONLY, 0, 0);
    return 0;
}
