/* SPDX-License-Identifier: Apache-2.0 */
/* Another process's memory and fds, for who answers its system calls (seccomp_unotify(2)); what Landlock there is. */
#include "module.h"
#include <errno.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#endif
#define LANDLOCK_VERSION 1u /* LANDLOCK_CREATE_RULESET_VERSION */
#define MAX_READ (1 << 20)

PyObject *ctnr_process_vm_readv(PyObject *self, PyObject *args)
{
    int pid;
    unsigned long long address;
    Py_ssize_t size;
    char room[4096];
    (void)self;
    if (!PyArg_ParseTuple(args, "iKn:process_vm_readv", &pid, &address, &size))
        return NULL;
    if (size < 0 || size > MAX_READ)
        return PyErr_Format(PyExc_ValueError, "process_vm_readv: from 0 to %d bytes", MAX_READ);
    char *buffer = (size_t)size <= sizeof room ? room : PyMem_Malloc((size_t)size);
    if (!buffer)
        return PyErr_NoMemory();
    struct iovec here = {buffer, (size_t)size}, there = {(void *)(uintptr_t)address, (size_t)size};
    ssize_t n;
    /* the memory may be of a file system that its owner serves, and never does */
    Py_BEGIN_ALLOW_THREADS n = process_vm_readv(pid, &here, 1, &there, 1, 0);
    Py_END_ALLOW_THREADS PyObject *result = n < 0 ? ctnr_os_error() : PyBytes_FromStringAndSize(buffer, n);
    if (buffer != room)
        PyMem_Free(buffer);
    return result;
}

PyObject *ctnr_pidfd_getfd(PyObject *self, PyObject *args)
{
    int pidfd, number;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii:pidfd_getfd", &pidfd, &number))
        return NULL;
    long fd = syscall(SYS_pidfd_getfd, pidfd, number, 0);
    return fd < 0 ? ctnr_os_error() : PyLong_FromLong(fd);
}

PyObject *ctnr_landlock_abi(PyObject *self, PyObject *args)
{
    (void)self;
    if (!PyArg_ParseTuple(args, ":landlock_abi"))
        return NULL;
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_VERSION);
    if (abi < 0 && errno != ENOSYS && errno != EOPNOTSUPP)
        return ctnr_os_error();
    return PyLong_FromLong(abi < 0 ? 0 : abi);
}
