/* SPDX-License-Identifier: Apache-2.0
 *
 * Mounts, and the change of root. Up to the pivot the host's tree is still visible: host paths come from the
 * parent only, paths of the container go through root.c, and mounts are made on the fds that it returns.
 */
#include "init.h"

/* A copy of a mount that is attached nowhere (or, without the API, on the stage of oldmount.c). */
int mount_tree(struct init *in, int dir, const char *path, unsigned flags)
{
    int fd = -ENOSYS;
    if (!in->old_mounts) {
        fd = (int)SYS(open_tree, dir, path, flags | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
        if (fd >= 0 || !mount_api_refused(in, fd, __NR_open_tree))
            return fd;
    }
    return old_tree(in, dir, path, flags);
}

/* AGAIN: what was made cannot be attached by what is left; the step that made it has to make another. */
int mount_attach(struct init *in, int mount_fd, int dest_fd)
{
    if (in->old_mounts)
        return old_attach(in, mount_fd, dest_fd);
    int r = (int)SYS(move_mount, mount_fd, "", dest_fd, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
    return r < 0 && mount_api_refused(in, r, __NR_move_mount) ? AGAIN : r;
}

static int setattr(struct init *in, int fd, unsigned flags, uint64_t set, uint64_t clear, uint64_t propagation)
{
    struct mount_attr a = {.attr_set = set, .attr_clr = clear, .propagation = propagation};
    if (!in->old_mounts) {
        int r = (int)SYS(mount_setattr, fd, "", AT_EMPTY_PATH | flags, &a, sizeof a);
        if (r >= 0 || !mount_api_refused(in, r, __NR_mount_setattr))
            return r;
        if (in->detached)
            return AGAIN; /* mount(2) does not see it */
    }
    return old_setattr(in, fd, flags, set, clear, propagation);
}

static void keep_mount(struct init *in, int fd, int detached)
{
    sys_close(in->mount_fd);
    in->mount_fd = fd;
    in->detached = detached;
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
    if (!in->old_mounts) {
        int tree = (int)SYS(open_tree, AT_FDCWD_, path, OPEN_TREE_CLOEXEC | OPEN_TREE_CLONE | AT_RECURSIVE);
        if (tree < 0 && !mount_api_refused(in, tree, __NR_open_tree))
            return tree;
        long r = tree < 0 ? tree : SYS(move_mount, tree, "", AT_FDCWD_, path, MOVE_MOUNT_F_EMPTY_PATH);
        if (r == 0) {
            in->root_fd = tree;
            return 0;
        }
        sys_close(tree);
        if (!in->old_mounts && !mount_api_refused(in, r, __NR_move_mount))
            return (int)r;
    }
    long r = SYS(mount, path, path, 0, MS_BIND | MS_REC, 0);
    if (r == 0)
        r = in->root_fd = (int)sys_openat(AT_FDCWD_, path, O_PATH | O_DIRECTORY, 0);
    return r < 0 ? (int)r : 0;
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

/* Configure the context and make the file system; bits: SB_WORD_*. */
static int fs_config(int fs, const char *source, const char *data, uint64_t bits)
{
    static const char *const words[] = {"ro", "sync", "dirsync", "lazytime", "mand"};
    long r = 0;
    if (source)
        r = SYS(fsconfig, fs, FSCONFIG_SET_STRING, "source", source, 0);
    for (int i = 0; r == 0 && i < 5; i++)
        if (bits >> i & 1)
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
    return (int)r;
}

/* A new file system, attached nowhere. -ENOSYS: the API is refused. */
static int fs_new(struct init *in, const char *type, const char *source, const char *data, uint64_t attr, uint64_t bits)
{
    int fs = (int)SYS(fsopen, type, FSOPEN_CLOEXEC);
    if (fs < 0)
        return mount_api_refused(in, fs, __NR_fsopen) ? -ENOSYS : fs;
    int r = fs_config(fs, source, data, bits);
    if (r < 0 && mount_api_refused(in, r, __NR_fsconfig)) {
        r = -ENOSYS;
    } else if (r < 0) {
        fs_message(in, fs);
    } else {
        r = (int)SYS(fsmount, fs, FSMOUNT_CLOEXEC, attr);
        if (r < 0 && mount_api_refused(in, r, __NR_fsmount))
            r = -ENOSYS;
        else if (r < 0)
            fs_message(in, fs);
    }
    sys_close(fs);
    return r;
}

/* MS_* that are the file system's; MS_RDONLY where arg2 asks for it. */
#define SB_FLAGS (MS_SYNCHRONOUS | MS_DIRSYNC | MS_LAZYTIME | MS_MANDLOCK | MS_I_VERSION | MS_SILENT)

static int step_fs(struct init *in, const struct plan_step *s, const char *data)
{
    const char *source = plan_str(in, s, 0, NULL), *type = plan_str(in, s, 1, NULL);
    if (!in->old_mounts && !(s->flags & FSMOUNT_LEGACY)) {
        int r = fs_new(in, type, source, data, s->arg[0], s->arg[2]);
        if (r >= 0 || !in->old_mounts)
            return r;
    }
    return old_fsmount(in, type, source, data, s->arg[0],
                       (s->arg[1] & SB_FLAGS) | (s->arg[2] & SB_WORD_RO ? MS_RDONLY : 0));
}

/* A mount on the root itself is the root from now on. */
static int enter_root(struct init *in, const char *path)
{
    if (!root_itself(path))
        return 0;
    int fd = (int)SYS(fcntl, in->mount_fd, 1030 /* F_DUPFD_CLOEXEC */, 3);
    if (fd < 0)
        return fd;
    sys_close(in->root_fd);
    in->root_fd = fd;
    return 0;
}

/* mode= before data, whose own would win; NULL: it is too long. */
static const char *with_mode(char with[PATH_MAX_], const char *data, uint32_t mode)
{
    char text[] = "mode=0000,";
    for (int i = 0; i < 4; i++)
        text[5 + i] = (char)('0' + (mode >> (9 - 3 * i) & 7));
    if (strlen(data) + sizeof text > PATH_MAX_)
        return NULL;
    put_str(put_str(with, with + PATH_MAX_, text), with + PATH_MAX_, data);
    return with;
}

int do_fsmount(struct init *in, const struct plan_step *s)
{
    const char *path = plan_str(in, s, 2, NULL), *data = plan_str(in, s, 3, NULL);
    int strict = s->flags & FSMOUNT_STRICT ? ROOT_NOFOLLOW : 0;
    char with[PATH_MAX_];
    in->mount_step = in->at;
    if (s->flags & FSMOUNT_DETACHED) {
        int fd = fs_new(in, plan_str(in, s, 1, NULL), plan_str(in, s, 0, NULL), data, s->arg[0], s->arg[2]);
        if (fd < 0)
            return in->old_mounts ? missing(in, "fsopen") : fd;
        keep_mount(in, fd, 1);
        return 0;
    }
    int dest = root_open(in, path, O_PATH, strict);
    int old = dest >= 0;
    if (dest == -ENOENT)
        dest = root_make(in, path, 1, 0755, strict);
    if (dest < 0)
        return dest;
    struct sys_stat st;
    int mnt = -1, r = (int)sys_stat(dest, "", AT_EMPTY_PATH, &st);
    if (r == 0 && !S_ISDIR_(st.mode))
        r = -ENOTDIR;
    if (r == 0 && old && (s->flags & FSMOUNT_MODE))
        data = with_mode(with, data ? data : "", st.mode);
    if (r == 0)
        r = data || !s->str[3] ? 0 : -ENAMETOOLONG;
    if (r == 0)
        r = mnt = step_fs(in, s, data);
    if (r >= 0 && (s->flags & FSMOUNT_COPYUP)) {
        int from = (int)sys_openat(dest, ".", O_RDONLY | O_DIRECTORY, 0);
        r = from < 0 ? from : copy_up(in, from, mnt);
        sys_close(from);
    }
    if (r >= 0)
        r = mount_attach(in, mnt, dest);
    sys_close(dest);
    if (r < 0) {
        sys_close(mnt);
        return r;
    }
    keep_mount(in, mnt, 0);
    return enter_root(in, path);
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
    in->mount_step = in->at;
    if (s->fd >= 0 && !in->old_mounts) { /* a detached tree that the parent made */
        keep_mount(in, s->fd, 1);
        return 0;
    }
    if (s->flags & TREE_PARENT) /* nobody else could */
        return missing(in, "move_mount");
    if (!source)
        return -EINVAL;
    int fd = mount_tree(in, AT_FDCWD_, source, rec | (s->flags & TREE_NOFOLLOW ? AT_SYMLINK_NOFOLLOW : 0));
    if (fd < 0)
        return fd;
    keep_mount(in, fd, !in->old_mounts);
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
    const char *path = plan_str(in, s, 0, NULL);
    int nofollow = (s->flags & ATTACH_NOFOLLOW) && !root_itself(path);
    int dest = nofollow ? root_link(in, path, S_ISDIR_(st.mode)) : -ENOENT;
    if (dest == -ENOENT)
        dest = root_make(in, path, S_ISDIR_(st.mode), S_ISDIR_(st.mode) ? 0755 : 0644, nofollow ? ROOT_NOFOLLOW : 0);
    if (dest < 0)
        return dest;
    r = mount_attach(in, in->mount_fd, dest);
    if (r == 0)
        in->detached = 0;
    sys_close(dest);
    return r < 0 ? r : enter_root(in, path);
}

int do_setattr(struct init *in, const struct plan_step *s)
{
    if (s->str[0]) {
        int fd = root_open(in, plan_str(in, s, 0, NULL), O_PATH, 0);
        if (fd < 0)
            return fd;
        keep_mount(in, fd, 0);
    }
    return setattr(in, in->mount_fd, s->arg[3] ? AT_RECURSIVE : 0, s->arg[0], s->arg[1], s->arg[2]);
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
    keep_mount(in, fd, 0);
    return (int)r;
}

/* By the directory itself, or by a name in one: what a path led to cannot be exchanged for something else meanwhile. */
int do_umount(struct init *in, const struct plan_step *s)
{
    const char *path = plan_str(in, s, 0, NULL);
    char name[256];
    int fd = root_open(in, path, O_PATH, 0);
    if (fd < 0)
        return fd;
    struct sys_stat st;
    long r = sys_stat(fd, "", AT_EMPTY_PATH, &st);
    if (r == 0 && !S_ISDIR_(st.mode)) {
        sys_close(fd);
        r = fd = root_parent(in, path, name);
    } else {
        put_str(name, name + sizeof name, ".");
    }
    if (r >= 0)
        r = SYS(fchdir, fd);
    if (r == 0)
        r = SYS(umount2, name, 2 | 8 /* MNT_DETACH, UMOUNT_NOFOLLOW */);
    SYS(fchdir, in->root_fd);
    sys_close(fd);
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

/* What lies over a masked directory: one empty read-only tmpfs serves all. */
static int mask_source(struct init *in, const char *data)
{
    const uint64_t attr = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    if (in->mask_fd >= 0)
        return mount_tree(in, in->mask_fd, "", AT_EMPTY_PATH);
    int fd = in->old_mounts ? -ENOSYS : fs_new(in, "tmpfs", NULL, data, attr, 0);
    return in->old_mounts ? old_fsmount(in, "tmpfs", NULL, data, attr, 0) : fd;
}

int do_mask(struct init *in, const struct plan_step *s)
{
    in->mount_step = in->at;
    int dest = root_open(in, plan_str(in, s, 0, NULL), O_PATH, 0), r;
    if (dest == -ENOENT || dest == -ENOTDIR)
        return 0;
    if (dest < 0)
        return dest;
    struct sys_stat st;
    r = (int)sys_stat(dest, "", AT_EMPTY_PATH, &st);
    int mnt = -1;
    if (r == 0 && S_ISDIR_(st.mode))
        r = mnt = mask_source(in, plan_str(in, s, 1, NULL));
    else if (r == 0)
        r = null_source(in);
    if (r >= 0 && mnt < 0)
        r = mnt = mount_tree(in, r, "", AT_EMPTY_PATH);
    if (r >= 0)
        r = mount_attach(in, mnt, dest);
    if (r == 0 && S_ISDIR_(st.mode) && in->mask_fd < 0)
        in->mask_fd = mnt;
    else
        sys_close(mnt);
    sys_close(dest);
    return r;
}

int do_readonly(struct init *in, const struct plan_step *s)
{
    in->mount_step = in->at;
    int dest = root_open(in, plan_str(in, s, 0, NULL), O_PATH, 0);
    if (dest == -ENOENT || dest == -ENOTDIR)
        return 0;
    if (dest < 0)
        return dest;
    int tree = mount_tree(in, dest, "", AT_EMPTY_PATH | AT_RECURSIVE), r = tree;
    in->detached = !in->old_mounts;
    if (r >= 0)
        r = setattr(in, tree, AT_RECURSIVE, MOUNT_ATTR_RDONLY, 0, 0);
    if (r >= 0)
        r = mount_attach(in, tree, dest);
    in->detached = 0;
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
    in->detached = 0;
    if (s->flags & PIVOT_READONLY)
        return setattr(in, in->root_fd, 0, MOUNT_ATTR_RDONLY, 0, 0);
    return 0;
}
