/* SPDX-License-Identifier: Apache-2.0 */
/* The freestanding floor of the init: see sys.h. */
#include "sys.h"

#ifndef CTNR_HOSTED
void *memcpy(void *d, const void *s, size_t n)
{
    char *a = d;
    const char *b = s;
#ifdef __x86_64__
    __asm__ volatile("rep movsb" : "+D"(a), "+S"(b), "+c"(n) : : "memory");
#else
    while (n--)
        *a++ = *b++;
#endif
    return d;
}

void *memset(void *d, int c, size_t n)
{
    char *a = d;
    while (n--)
        *a++ = (char)c;
    return d;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const unsigned char *x = a, *y = b;
    for (; n; n--, x++, y++)
        if (*x != *y)
            return *x - *y;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}
#endif

int str_eq(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

char *put_num(char *d, uint64_t n)
{
    char t[21];
    int i = 0;
    do
        t[i++] = (char)('0' + n % 10);
    while (n /= 10);
    while (i)
        *d++ = t[--i];
    *d = 0;
    return d;
}

char *put_str(char *d, const char *end, const char *s)
{
    while (*s && d + 1 < end)
        *d++ = *s++;
    *d = 0;
    return d;
}

/* statx(2) where a seccomp profile is older than it. */
static long old_stat(int dir, const char *path, int flags, struct sys_stat *st)
{
    struct stat x;
    long r = SYS(newfstatat, dir, path, &x, flags);
    if (r < 0)
        return r;
    *st = (struct sys_stat){
        .mode = x.st_mode,
        .major = (uint32_t)((x.st_rdev >> 8 & 0xfff) | (x.st_rdev >> 32 & ~0xfffu)),
        .minor = (uint32_t)((x.st_rdev & 0xff) | (x.st_rdev >> 12 & ~0xffu)),
        .uid = x.st_uid,
        .gid = x.st_gid,
        .dev = x.st_dev,
        .ino = x.st_ino,
        .size = (uint64_t)x.st_size,
        .atime = {x.st_atime, (int64_t)x.st_atime_nsec},
        .mtime = {x.st_mtime, (int64_t)x.st_mtime_nsec},
    };
    return 0;
}

long sys_stat(int dir, const char *path, int flags, struct sys_stat *st)
{
    struct statx x;
    long r = SYS(statx, dir, path, flags, STATX_BASIC_STATS, &x);
    if (r == -ENOSYS || r == -EPERM)
        return old_stat(dir, path, flags, st);
    if (r < 0)
        return r;
    *st = (struct sys_stat){
        .mode = x.stx_mode,
        .major = x.stx_rdev_major,
        .minor = x.stx_rdev_minor,
        .uid = x.stx_uid,
        .gid = x.stx_gid,
        .dev = (uint64_t)x.stx_dev_major << 32 | x.stx_dev_minor,
        .ino = x.stx_ino,
        .size = x.stx_size,
        .atime = {x.stx_atime.tv_sec, x.stx_atime.tv_nsec},
        .mtime = {x.stx_mtime.tv_sec, x.stx_mtime.tv_nsec},
    };
    return 0;
}

long sys_fs_magic(int fd)
{
    long buf[32]; /* struct statfs is smaller; f_type is its first word */
    long r = SYS(fstatfs, fd, buf);
    return r < 0 ? r : buf[0];
}

long sys_cloexec_all(int *last)
{
    long r = SYS(close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC);
    if (r != -ENOSYS && r != -EPERM && r != -EINVAL) /* EINVAL: Linux 5.9 and 5.10 have no CLOSE_RANGE_CLOEXEC */
        return r;
    int dir = (int)sys_openat(AT_FDCWD_, "/proc/self/fd", O_RDONLY | O_DIRECTORY, 0);
    if (dir < 0)
        return dir;
    r = sys_fs_magic(dir) == PROC_SUPER_MAGIC ? 0 : -ENODEV;
    while (r == 0) {
        char buf[1024] __attribute__((aligned(8)));
        long n = SYS(getdents64, dir, buf, sizeof buf);
        if (n <= 0) {
            r = n;
            break;
        }
        for (long at = 0; at < n;) {
            struct sys_dirent *e = (struct sys_dirent *)(buf + at);
            at += e->reclen;
            int fd = 0;
            for (const char *p = e->name; *p >= '0' && *p <= '9'; p++)
                fd = fd * 10 + (*p - '0');
            if (fd >= 3)
                SYS(fcntl, fd, 2 /* F_SETFD */, 1 /* FD_CLOEXEC */);
            *last = fd > *last ? fd : *last;
        }
    }
    sys_close(dir);
    return r;
}

long sys_write_all(int fd, const void *buf, size_t len)
{
    const char *p = buf;
    while (len) {
        long r = SYS(write, fd, p, len);
        if (r == -EINTR)
            continue;
        if (r <= 0)
            return r ? r : -EIO;
        p += r;
        len -= (size_t)r;
    }
    return 0;
}

void sys_exit(int code)
{
    for (;;)
        SYS(exit_group, code);
}
