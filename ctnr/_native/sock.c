/* SPDX-License-Identifier: Apache-2.0 */
/* Unix sockets: the sync socket, the socket that `start` connects to, passing fds. Without the price of importing socket. */
#include "module.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MAX_FDS 64

PyObject *ctnr_socketpair(PyObject *self, PyObject *args)
{
    int fd[2];
    (void)self;
    if (!PyArg_ParseTuple(args, ":socketpair"))
        return NULL;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fd) < 0)
        return ctnr_os_error();
    return Py_BuildValue("ii", fd[0], fd[1]);
}

/* A path too long for sun_path is reached through its directory's fd. */
static int address(struct sockaddr_un *a, int dirfd, const char *name)
{
    memset(a, 0, sizeof *a);
    a->sun_family = AF_UNIX;
    int n = dirfd < 0 ? snprintf(a->sun_path, sizeof a->sun_path, "%s", name)
                      : snprintf(a->sun_path, sizeof a->sun_path, "/proc/self/fd/%d/%s", dirfd, name);
    if (n < 0 || (size_t)n >= sizeof a->sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    return 0;
}

PyObject *ctnr_unix_listen(PyObject *self, PyObject *args)
{
    int dirfd;
    const char *name;
    struct sockaddr_un a;
    (void)self;
    if (!PyArg_ParseTuple(args, "is:unix_listen", &dirfd, &name))
        return NULL;
    if (address(&a, dirfd, name) < 0)
        return ctnr_os_error_path(name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ctnr_os_error();
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || listen(fd, 8) < 0) {
        int err = errno;
        close(fd);
        errno = err;
        return ctnr_os_error_path(name);
    }
    return PyLong_FromLong(fd);
}

PyObject *ctnr_unix_connect(PyObject *self, PyObject *args)
{
    int dirfd, type = SOCK_SEQPACKET;
    const char *name;
    struct sockaddr_un a;
    (void)self;
    if (!PyArg_ParseTuple(args, "is|i:unix_connect", &dirfd, &name, &type))
        return NULL;
    if (address(&a, dirfd, name) < 0)
        return ctnr_os_error_path(name);
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return ctnr_os_error();
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0) {
        int err = errno;
        close(fd);
        errno = err;
        return ctnr_os_error_path(name);
    }
    return PyLong_FromLong(fd);
}

/* connect(2) with an address as it is in memory; interrupted, it is an error: who waits blocks the signals. */
PyObject *ctnr_connect(PyObject *self, PyObject *args)
{
    int fd, r;
    const char *address;
    Py_ssize_t len;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy#:connect", &fd, &address, &len))
        return NULL;
    Py_BEGIN_ALLOW_THREADS r = connect(fd, (const struct sockaddr *)address, (socklen_t)len);
    Py_END_ALLOW_THREADS if (r < 0) return ctnr_os_error();
    Py_RETURN_NONE;
}

PyObject *ctnr_sendmsg(PyObject *self, PyObject *args)
{
    int fd;
    const char *data;
    Py_ssize_t len;
    PyObject *fds = NULL;
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } c;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy#|O:sendmsg", &fd, &data, &len, &fds))
        return NULL;
    struct iovec iov = {(void *)data, (size_t)len};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    Py_ssize_t n = fds ? PySequence_Size(fds) : 0;
    if (n < 0 || n > MAX_FDS)
        return n < 0 ? NULL : PyErr_Format(PyExc_ValueError, "at most %d fds in a message", MAX_FDS);
    if (n) {
        memset(&c, 0, sizeof c);
        c.h.cmsg_level = SOL_SOCKET;
        c.h.cmsg_type = SCM_RIGHTS;
        c.h.cmsg_len = CMSG_LEN((size_t)n * sizeof(int));
        for (Py_ssize_t i = 0; i < n; i++) {
            PyObject *o = PySequence_GetItem(fds, i);
            int v = o ? (int)PyLong_AsLong(o) : -1;
            Py_XDECREF(o);
            if (PyErr_Occurred())
                return NULL;
            memcpy(CMSG_DATA(&c.h) + (size_t)i * sizeof(int), &v, sizeof v);
        }
        m.msg_control = &c;
        m.msg_controllen = CMSG_SPACE((size_t)n * sizeof(int));
    }
    for (;;) {
        ssize_t r;
        Py_BEGIN_ALLOW_THREADS r = sendmsg(fd, &m, MSG_NOSIGNAL);
        Py_END_ALLOW_THREADS if (r >= 0) return PyLong_FromSsize_t(r);
        if (errno != EINTR)
            return ctnr_os_error();
        if (PyErr_CheckSignals() < 0)
            return NULL;
    }
}

PyObject *ctnr_recvmsg(PyObject *self, PyObject *args)
{
    int fd;
    Py_ssize_t size, maxfds = 0;
    union {
        struct cmsghdr h;
        char room[CMSG_SPACE(MAX_FDS * sizeof(int))];
    } c;
    (void)self;
    if (!PyArg_ParseTuple(args, "in|n:recvmsg", &fd, &size, &maxfds))
        return NULL;
    if (maxfds < 0 || maxfds > MAX_FDS || size < 0)
        return PyErr_Format(PyExc_ValueError, "recvmsg: bad size");
    char *buf = PyMem_Malloc((size_t)size + 1);
    if (!buf)
        return PyErr_NoMemory();
    struct iovec iov = {buf, (size_t)size};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    ssize_t r;
    for (;;) {
        m.msg_control = maxfds ? &c : NULL;
        m.msg_controllen = maxfds ? CMSG_SPACE((size_t)maxfds * sizeof(int)) : 0;
        Py_BEGIN_ALLOW_THREADS r = recvmsg(fd, &m, MSG_CMSG_CLOEXEC);
        Py_END_ALLOW_THREADS if (r >= 0 || errno != EINTR) break;
        if (PyErr_CheckSignals() < 0) {
            PyMem_Free(buf);
            return NULL;
        }
    }
    if (r < 0) {
        PyMem_Free(buf);
        return ctnr_os_error();
    }
    PyObject *list = PyList_New(0);
    for (struct cmsghdr *h = maxfds ? CMSG_FIRSTHDR(&m) : NULL; h; h = CMSG_NXTHDR(&m, h)) {
        if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
            continue;
        size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int v;
            memcpy(&v, CMSG_DATA(h) + i * sizeof(int), sizeof v);
            PyObject *o = list ? PyLong_FromLong(v) : NULL;
            if (!o || PyList_Append(list, o) < 0) {
                Py_CLEAR(list);
                close(v);
            }
            Py_XDECREF(o);
        }
    }
    PyObject *data = list ? PyBytes_FromStringAndSize(buf, r) : NULL;
    PyMem_Free(buf);
    if (!data) {
        Py_XDECREF(list);
        return NULL;
    }
    return Py_BuildValue("NN", data, list);
}
