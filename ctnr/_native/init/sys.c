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

long sys_stat(int dir, const char *path, int flags, struct sys_stat *st)
{
    struct statx x;
    long r = SYS(statx, dir, path, flags, STATX_BASIC_STATS | STATX_MNT_ID, &x);
    if (r < 0)
        return r;
    st->mode = x.stx_mode;
    st->major = x.stx_rdev_major;
    st->minor = x.stx_rdev_minor;
    st->uid = x.stx_uid;
    st->gid = x.stx_gid;
    st->ino = x.stx_ino;
    st->size = x.stx_size;
    st->mnt = x.stx_mnt_id;
    return 0;
}

long sys_fs_magic(int fd)
{
    long buf[32]; /* struct statfs is smaller; f_type is its first word */
    long r = SYS(fstatfs, fd, buf);
    return r < 0 ? r : buf[0];
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
