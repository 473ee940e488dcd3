/* SPDX-License-Identifier: Apache-2.0 */
/* bpf(2), as far as the device controller of cgroup v2 needs it. */
#include "module.h"
#include <errno.h>
#include <linux/bpf.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long sys_bpf(int cmd, union bpf_attr *attr)
{
    return syscall(SYS_bpf, cmd, attr, sizeof *attr);
}

PyObject *ctnr_bpf_prog_load_device(PyObject *self, PyObject *args)
{
    static char log[16384];
    const char *code;
    Py_ssize_t len;
    (void)self;
    if (!PyArg_ParseTuple(args, "y#:bpf_prog_load_device", &code, &len))
        return NULL;
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    a.insns = (uint64_t)(uintptr_t)code;
    a.insn_cnt = (uint32_t)(len / 8);
    a.license = (uint64_t)(uintptr_t) "Apache-2.0";
    memcpy(a.prog_name, "ctnr_devices", 13);
    long fd = sys_bpf(BPF_PROG_LOAD, &a);
    if (fd < 0 && errno == EINVAL) { /* once more, for the verifier's words */
        log[0] = 0;
        a.log_buf = (uint64_t)(uintptr_t)log;
        a.log_size = sizeof log;
        a.log_level = 1;
        fd = sys_bpf(BPF_PROG_LOAD, &a);
        if (fd < 0 && log[0])
            return PyErr_Format(PyExc_ValueError, "device program refused: %.400s", log);
    }
    return fd < 0 ? ctnr_os_error() : PyLong_FromLong(fd);
}

PyObject *ctnr_bpf_prog_attach(PyObject *self, PyObject *args)
{
    int cgroup, prog, type, flags, replace = -1;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiii|i:bpf_prog_attach", &cgroup, &prog, &type, &flags, &replace))
        return NULL;
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.target_fd = (uint32_t)cgroup;
    a.attach_bpf_fd = (uint32_t)prog;
    a.attach_type = (uint32_t)type;
    a.attach_flags = (uint32_t)flags;
    if (replace >= 0)
        a.replace_bpf_fd = (uint32_t)replace;
    if (sys_bpf(BPF_PROG_ATTACH, &a) < 0)
        return ctnr_os_error();
    Py_RETURN_NONE;
}

PyObject *ctnr_bpf_prog_detach(PyObject *self, PyObject *args)
{
    int cgroup, prog, type;
    (void)self;
    if (!PyArg_ParseTuple(args, "iii:bpf_prog_detach", &cgroup, &prog, &type))
        return NULL;
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.target_fd = (uint32_t)cgroup;
    a.attach_bpf_fd = (uint32_t)prog;
    a.attach_type = (uint32_t)type;
    if (sys_bpf(BPF_PROG_DETACH, &a) < 0)
        return ctnr_os_error();
    Py_RETURN_NONE;
}

PyObject *ctnr_bpf_prog_query(PyObject *self, PyObject *args)
{
    int cgroup, type;
    uint32_t ids[64];
    (void)self;
    if (!PyArg_ParseTuple(args, "ii:bpf_prog_query", &cgroup, &type))
        return NULL;
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.query.target_fd = (uint32_t)cgroup;
    a.query.attach_type = (uint32_t)type;
    a.query.prog_ids = (uint64_t)(uintptr_t)ids;
    a.query.prog_cnt = 64;
    if (sys_bpf(BPF_PROG_QUERY, &a) < 0)
        return ctnr_os_error();
    PyObject *list = PyList_New(0);
    for (uint32_t i = 0; list && i < a.query.prog_cnt; i++) {
        PyObject *id = PyLong_FromUnsignedLong(ids[i]);
        if (!id || PyList_Append(list, id) < 0)
            Py_CLEAR(list);
        Py_XDECREF(id);
    }
    return list;
}

PyObject *ctnr_bpf_prog_get_fd_by_id(PyObject *self, PyObject *args)
{
    unsigned id;
    (void)self;
    if (!PyArg_ParseTuple(args, "I:bpf_prog_get_fd_by_id", &id))
        return NULL;
    union bpf_attr a;
    memset(&a, 0, sizeof a);
    a.prog_id = id;
    long fd = sys_bpf(BPF_PROG_GET_FD_BY_ID, &a);
    return fd < 0 ? ctnr_os_error() : PyLong_FromLong(fd);
}
