// SPDX-License-Identifier: Apache-2.0
/*
 * The command `ctnr` (and, compiled with PROGRAM="ctnr-oci", `ctnr-oci`): finds python3 and the package from where it is
 * itself and becomes
 *
 *     python3 -IS -Xutf8 .../ctnr/__main__.py PROGRAM ARGS...
 *
 * A script cannot do that: pip and uv write their own #! line, without -IS. -I is for safety (no PYTHON* variable, no
 * module of the current directory in a tool that root runs), -S for speed (site costs more than a whole `state`).
 * Static and without libc, because exec + ld.so + libc's start would cost as much as all the rest of this file does.
 * Descriptors and environment go through untouched.
 */

#include <linux/fcntl.h>
#include <linux/limits.h>
#include <sys/syscall.h>

/* The program's name, for __main__.py; not argv[0], so that a link named `runc` to `ctnr-oci` is what it points to. */
#ifndef PROGRAM
#define PROGRAM "ctnr"
#endif

#define EXIT_ENGINE 125
/* <unistd.h>'s, which is libc's */
#define X_OK 1
#define R_OK 4

struct dirent64 {
    unsigned long long d_ino;
    long long d_off;
    unsigned short d_reclen;
    unsigned char d_type;
    char d_name[];
};

#if defined(__x86_64__)

__asm__(".globl _start\n"
        "_start:\n"
        "    xor %ebp, %ebp\n"
        "    mov %rsp, %rdi\n"
        "    and $-16, %rsp\n"
        "    call launch\n");

static long sys4(long nr, long a, long b, long c, long d)
{
    long ret;
    register long r10 __asm__("r10") = d;

    __asm__ volatile("syscall" : "=a"(ret) : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return ret;
}

#elif defined(__aarch64__)

__asm__(".globl _start\n"
        "_start:\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, sp\n"
        "    bl launch\n");

static long sys4(long nr, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;

    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}

#else
#error "launcher/ctnr.c has no _start and no sys4() for this machine"
#endif

static long open_at(const char *path, int flags)
{
    return sys4(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, 0);
}

/* 0, or -1 when the link is not there or does not fit. */
static int read_link(const char *path, char out[PATH_MAX])
{
    long n = sys4(SYS_readlinkat, AT_FDCWD, (long)path, (long)out, PATH_MAX);

    if (n <= 0 || n >= PATH_MAX)
        return -1;
    out[n] = '\0';
    return 0;
}

/* The four parts one after the other; -1 when that is too long for a path. */
static int make_path(char out[PATH_MAX], const char *a, const char *b, const char *c, const char *d)
{
    const char *const parts[] = {a, b, c, d};
    char *at = out;

    for (unsigned i = 0; i < sizeof(parts) / sizeof(*parts); i++) {
        for (const char *from = parts[i]; *from; from++) {
            if (at == out + PATH_MAX - 1)
                return -1;
            *at++ = *from;
        }
    }
    *at = '\0';
    return 0;
}

static int accessible(const char *path, int mode)
{
    return sys4(SYS_faccessat, AT_FDCWD, (long)path, mode, 0) == 0;
}

static const char *basename_of(const char *path)
{
    const char *name = path;

    for (; *path; path++)
        if (*path == '/')
            name = path + 1;
    return name;
}

static int starts_with(const char *text, const char *prefix)
{
    while (*prefix)
        if (*text++ != *prefix++)
            return 0;
    return 1;
}

static __attribute__((noreturn)) void die(const char *why)
{
    char message[PATH_MAX];
    long length = 0;

    if (make_path(message, PROGRAM, ": ", why, "\n") == 0) {
        while (message[length])
            length++;
        sys4(SYS_write, 2, (long)message, length, 0);
    }
    for (;;)
        sys4(SYS_exit_group, EXIT_ENGINE, 0, 0, 0);
}

/*
 * The interpreter behind `path`, with its links resolved: in a virtual environment that spares Python the search for
 * pyvenv.cfg, and the real name has the version, which names the directory to look for the package in.
 */
static int find_python(const char *path, char out[PATH_MAX])
{
    char link[PATH_MAX];
    char digits[24];
    char *number = digits + sizeof(digits) - 1;
    long fd;

    if (!accessible(path, X_OK))
        return -1;
    fd = open_at(path, O_PATH);
    if (fd < 0)
        return -1;
    *number = '\0';
    do {
        *--number = (char)('0' + fd % 10);
        fd /= 10;
    } while (fd);
    if (make_path(link, "/proc/self/fd/", number, "", "") < 0)
        return -1;
    return read_link(link, out);
}

/* Is there an installed package in LIB/NAME? Then `out` is what to run. */
static int try_package(const char *lib, const char *name, char out[PATH_MAX])
{
    static const char *const ends[] = {"/site-packages/ctnr/__main__.py", "/dist-packages/ctnr/__main__.py"};

    for (unsigned i = 0; i < sizeof(ends) / sizeof(*ends); i++)
        if (make_path(out, lib, name, ends[i], "") == 0 && accessible(out, R_OK))
            return 0;
    return -1;
}

/* The package may have been installed by another Python than the one found: any will do (abi3). */
static int scan_packages(const char *lib, char out[PATH_MAX])
{
    char buffer[8192] __attribute__((aligned(8)));
    long fd = open_at(lib, O_RDONLY | O_DIRECTORY);
    long n;

    if (fd < 0)
        return -1;
    while ((n = sys4(SYS_getdents64, fd, (long)buffer, sizeof(buffer), 0)) > 0) {
        for (long at = 0; at < n;) {
            const struct dirent64 *entry = (const struct dirent64 *)(buffer + at);

            if (starts_with(entry->d_name, "python3") && try_package(lib, entry->d_name, out) == 0)
                return 0;
            at += entry->d_reclen;
        }
    }
    return -1;
}

static int find_package(const char *base, const char *python, char out[PATH_MAX])
{
    static const char *const libs[] = {"/lib/", "/lib64/"};
    char lib[PATH_MAX];

#ifdef CTNR_PACKAGE
    if (make_path(out, CTNR_PACKAGE, "/__main__.py", "", "") == 0 && accessible(out, R_OK))
        return 0;
#endif
    for (int scan = 0; scan < 2; scan++) {
        for (unsigned i = 0; i < sizeof(libs) / sizeof(*libs); i++) {
            if (make_path(lib, base, libs[i], "", "") < 0)
                return -1;
            if ((scan ? scan_packages(lib, out) : try_package(lib, basename_of(python), out)) == 0)
                return 0;
        }
    }
    /* pip install --target */
    if (make_path(out, base, "/ctnr/__main__.py", "", "") == 0 && accessible(out, R_OK))
        return 0;
    return -1;
}

/* `stack` is what the kernel left: argc, argv..., 0, envp..., 0, auxv. */
__attribute__((noreturn, used)) void launch(long *stack)
{
    long argc = stack[0];
    char **argv = (char **)(stack + 1);
    char **envp = argv + argc + 1;
    char base[PATH_MAX];
    char beside[PATH_MAX];
    char python[PATH_MAX];
    char package[PATH_MAX];
    const char *interpreter = python;
    const char *args[argc + 8];
    int n = 0;

    if (read_link("/proc/self/exe", base) < 0)
        die("cannot read the link /proc/self/exe: is /proc mounted?");
    /* .../bin/ctnr -> ..., without a slash at its end */
    for (int i = 0; i < 2; i++) {
        char *slash = (char *)basename_of(base);

        if (slash > base)
            slash[-1] = '\0';
    }

    if (make_path(beside, base, "/bin/python3", "", "") < 0)
        die("the path of this program is too long");
    if (
#ifdef CTNR_PYTHON
        find_python(CTNR_PYTHON, python) < 0 &&
#endif
        find_python(beside, python) < 0 && find_python("/usr/bin/python3", python) < 0 &&
        find_python("/usr/local/bin/python3", python) < 0)
        die("no python3 beside it, in /usr/bin or in /usr/local/bin; ctnr needs Python 3.11 or newer");

    if (find_package(base, python, package) == 0) {
        args[n++] = python;
        args[n++] = "-IS";
        args[n++] = "-Xutf8";
        args[n++] = package;
    } else {
        /* Wherever the interpreter has it, e.g. an editable install: with site, and as the virtual environment's own. */
        if (accessible(beside, X_OK))
            interpreter = beside;
        args[n++] = interpreter;
        args[n++] = "-I";
        args[n++] = "-Xutf8";
        args[n++] = "-c";
        args[n++] = "import sys; from ctnr.cli.boot import script; script(sys.argv[1:])";
    }
    args[n++] = PROGRAM;
    for (long i = 1; i < argc; i++)
        args[n++] = argv[i];
    args[n] = 0;
    sys4(SYS_execve, (long)interpreter, (long)args, (long)envp, 0);
    die("cannot execute python3");
}
