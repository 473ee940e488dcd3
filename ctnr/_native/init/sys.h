/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls and the few library functions that the static init has. It is freestanding: no libc, no allocator, no
 * errno. Every call returns what the kernel returned: a result, or -errno. With -DCTNR_HOSTED the same sources are built
 * on a libc instead (sanitizers, fuzzing).
 */
#ifndef CTNR_INIT_SYS_H
#define CTNR_INIT_SYS_H

#include <asm/ioctls.h>
#include <asm/stat.h>
#include <asm/termbits.h>
#include <asm/termios.h>
#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/poll.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <linux/stat.h>
#include <linux/wait.h>
#include <stddef.h>
#include <stdint.h>

#ifndef CTNR_HOSTED
#if defined(__x86_64__)
static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    long ret;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
}
#elif defined(__aarch64__)
static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "the static init knows x86_64 and aarch64"
#endif
#else
long sys6(long n, long a, long b, long c, long d, long e, long f);
#endif

#define SYS_(n, a, b, c, d, e, f, ...) sys6(__NR_##n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
#define SYS(n, ...) SYS_(n, ##__VA_ARGS__, 0, 0, 0, 0, 0, 0)
#define SYS0(n) sys6(__NR_##n, 0, 0, 0, 0, 0, 0)

#define S_ISDIR_(m) (((m)&S_IFMT) == S_IFDIR)
#define AT_FDCWD_ (-100)
#define PATH_MAX_ 4096
#define SIGCHLD_ 17
#define SIGKILL_ 9
#define NSIG_ 64
#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x80
#endif
#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif

/* linux/mount.h of Debian 11 and older has it not */
#define MOUNT_ATTR_NOSYMFOLLOW_ 0x00200000

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4
#endif
#ifndef S_IFMT /* linux/stat.h leaves these to the libc */
#define S_IFMT 0170000
#define S_IFLNK 0120000
#define S_IFREG 0100000
#define S_IFBLK 0060000
#define S_IFDIR 0040000
#define S_IFCHR 0020000
#define S_IFIFO 0010000
#define S_IFSOCK 0140000
#endif

struct sys_timespec {
    int64_t sec, nsec;
};

struct sys_stat {
    uint32_t mode, major, minor, uid, gid; /* major, minor: of the device that it is */
    uint64_t dev, ino, size;               /* dev: any number that tells file systems apart */
    struct sys_timespec atime, mtime;
};

struct sys_dirent { /* linux_dirent64, getdents64(2) */
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
};

struct sys_cmsg { /* one SCM_RIGHTS fd */
    size_t len;
    int level, type, fd, pad;
};
struct sys_iovec {
    const void *base;
    size_t len;
};
struct sys_msghdr {
    void *name;
    int namelen;
    struct sys_iovec *iov;
    size_t iovlen;
    void *control;
    size_t controllen;
    int flags;
};

void *memcpy(void *d, const void *s, size_t n);
void *memset(void *d, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);
size_t strlen(const char *s);
int str_eq(const char *a, const char *b);
/* Write n in decimal at d (21 bytes are enough); return the end, where a NUL is. */
char *put_num(char *d, uint64_t n);
/* Append s at d, not beyond end; return the end, where a NUL is. */
char *put_str(char *d, const char *end, const char *s);

static inline long sys_close(int fd)
{
    return fd >= 0 ? SYS(close, fd) : 0;
}
static inline long sys_openat(int dir, const char *path, int flags, int mode)
{
    return SYS(openat, dir, path, flags | O_CLOEXEC, mode);
}
long sys_stat(int dir, const char *path, int flags, struct sys_stat *st);
long sys_fs_magic(int fd);
/* FD_CLOEXEC for every fd from 3 on. Where close_range is refused, *last is the last that was open, else unchanged. */
long sys_cloexec_all(int *last);
/* Everything of buf, or -errno. */
long sys_write_all(int fd, const void *buf, size_t len);
void __attribute__((noreturn)) sys_exit(int code);

#endif
