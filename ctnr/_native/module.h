/* SPDX-License-Identifier: Apache-2.0 */
/* What the parts of the extension share. */
#ifndef CTNR_MODULE_H
#define CTNR_MODULE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000
#endif
#include <Python.h>

/* seccomp.c */
PyObject *ctnr_seccomp_resolve(PyObject *self, PyObject *args);

/* bpf.c */
PyObject *ctnr_bpf_prog_load_device(PyObject *self, PyObject *args);
PyObject *ctnr_bpf_prog_attach(PyObject *self, PyObject *args);
PyObject *ctnr_bpf_prog_detach(PyObject *self, PyObject *args);
PyObject *ctnr_bpf_prog_query(PyObject *self, PyObject *args);
PyObject *ctnr_bpf_prog_get_fd_by_id(PyObject *self, PyObject *args);

/* pidfd.c */
int ctnr_pidfd_open(int pid, unsigned flags); /* an fd, or -1 with errno */
PyObject *ctnr_n_pidfd_open(PyObject *self, PyObject *args);
PyObject *ctnr_n_pidfd_polls(PyObject *self, PyObject *args);
PyObject *ctnr_n_pidfd_send_signal(PyObject *self, PyObject *args);
PyObject *ctnr_n_waitid(PyObject *self, PyObject *args);

/* sock.c */
PyObject *ctnr_socketpair(PyObject *self, PyObject *args);
PyObject *ctnr_unix_listen(PyObject *self, PyObject *args);
PyObject *ctnr_unix_connect(PyObject *self, PyObject *args);
PyObject *ctnr_connect(PyObject *self, PyObject *args);
PyObject *ctnr_sendmsg(PyObject *self, PyObject *args);
PyObject *ctnr_recvmsg(PyObject *self, PyObject *args);

/* task.c */
PyObject *ctnr_process_vm_readv(PyObject *self, PyObject *args);
PyObject *ctnr_pidfd_getfd(PyObject *self, PyObject *args);
PyObject *ctnr_landlock_abi(PyObject *self, PyObject *args);

PyObject *ctnr_os_error(void);                  /* OSError from errno */
PyObject *ctnr_os_error_path(const char *path); /* ... with a file name */

#endif
