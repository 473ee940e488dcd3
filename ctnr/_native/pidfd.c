/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Processes by fd. Where pidfd_open(2) is refused (before Linux 5.3, or by a seccomp profile) the fd is one of /proc/PID:
 * it never means another process either, the kernel takes it for most of what it takes a pidfd for, and only poll(2) does
 * not work (pidfd_polls). Where a call on the fd is refused as well, the pid serves, looked up when it is needed.
 */
#include "module.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

static int refused; /* some fd of this process is not a pidfd. Set under the GIL, never unset */

static int is_proc(int fd)
{
    struct statfs st;
    return refused && fstatfs(fd, &st) == 0 && st.f_type == PROC_SUPER_MAGIC;
}

int ctnr_pidfd_open(int pid, unsigned flags)
{
    char path[32];
    int fd = (int)syscall(SYS_pidfd_open, pid, flags);
    if (fd >= 0 || (errno != ENOSYS && errno != EPERM)) /* it has no EPERM of its own */
        return fd;
    snprintf(path, sizeof path, "/proc/%d", pid);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT)
        errno = ESRCH;
    refused |= fd >= 0;
    return fd;
}

/* The number after `key` in a file; -1 with errno. */
static long number_in(int dir, const char *path, const char *key)
{
    char text[512];
    int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    ssize_t n = read(fd, text, sizeof text - 1);
    int error = n < 0 ? errno : ESRCH;
    close(fd);
    if (n > 0) {
        text[n] = 0;
        char *at = strstr(text, key);
        if (at)
            return strtol(at + strlen(key), NULL, 10);
    }
    errno = error;
    return -1;
}

/* The pid of the process of an fd. ESRCH if it has gone. */
static int pid_of(int fd)
{
    char path[40];
    long pid;
    if (is_proc(fd)) {
        pid = number_in(fd, "stat", ""); /* the first of its fields (proc(5)) */
    } else {
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
        pid = number_in(AT_FDCWD, path, "Pid:\t");
    }
    if (pid > 0)
        return (int)pid;
    if (pid <= 0 && (errno == ENOENT || pid == 0 || pid == -1))
        errno = errno == EBADF ? EBADF : ESRCH;
    return -1;
}

PyObject *ctnr_n_pidfd_open(PyObject *self, PyObject *args)
{
    int pid;
    unsigned flags = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "i|I:pidfd_open", &pid, &flags))
        return NULL;
    int fd = ctnr_pidfd_open(pid, flags);
    return fd < 0 ? ctnr_os_error() : PyLong_FromLong(fd);
}

PyObject *ctnr_n_pidfd_polls(PyObject *self, PyObject *args)
{
    int fd;
    (void)self;
    if (!PyArg_ParseTuple(args, "i:pidfd_polls", &fd))
        return NULL;
    return PyBool_FromLong(!is_proc(fd));
}

PyObject *ctnr_n_pidfd_send_signal(PyObject *self, PyObject *args)
{
    int fd, sig;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii:pidfd_send_signal", &fd, &sig))
        return NULL;
    int r = (int)syscall(SYS_pidfd_send_signal, fd, sig, NULL, 0);
    int error = errno;
    if (r < 0 && error == EPERM) { /* the kernel's own, or is the call refused? No fd gets EBADF from the kernel */
        syscall(SYS_pidfd_send_signal, -1, 0, NULL, 0);
        error = errno == EPERM ? ENOSYS : EPERM;
    }
    if (r < 0 && error == ENOSYS) {
        /* its pid cannot be another's while it lives; that it ends, is reaped and replaced between the two is left */
        int pid = pid_of(fd);
        r = pid < 0 ? -1 : kill(pid, sig);
        error = errno;
    }
    errno = error;
    if (r < 0)
        return ctnr_os_error();
    Py_RETURN_NONE;
}

PyObject *ctnr_n_waitid(PyObject *self, PyObject *args)
{
    int fd, options;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii:waitid", &fd, &options))
        return NULL;
    idtype_t type = (idtype_t)P_PIDFD;
    id_t id = (id_t)fd;
    for (;;) {
        siginfo_t info;
        int r;
        memset(&info, 0, sizeof info);
        Py_BEGIN_ALLOW_THREADS r = waitid(type, id, &info, options);
        Py_END_ALLOW_THREADS if (r == 0 && info.si_pid == 0) Py_RETURN_NONE;
        if (r == 0)
            return Py_BuildValue("ii", info.si_code, info.si_status);
        int error = errno;
        if (type != P_PID &&
            (error == EINVAL || error == ENOSYS || error == EPERM || (error == EBADF && is_proc(fd)))) {
            /* a child's pid is its own until it is waited for */
            int pid = pid_of(fd);
            if (pid < 0) {
                errno = errno == ESRCH ? ECHILD : error;
                return ctnr_os_error();
            }
            type = P_PID;
            id = (id_t)pid;
            continue;
        }
        errno = error;
        if (error != EINTR)
            return ctnr_os_error();
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}
