/* SPDX-License-Identifier: Apache-2.0
 *
 * ctnr._native: mechanism for Python. Every function is one system call (or the launcher), named as the system call, and
 * raises OSError. Stable ABI of Python 3.11: one build serves every later version.
 */
#include "module.h"
#include "ctnr-init.h"
#include "spawn.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x20
#endif
#ifndef MFD_EXEC
#define MFD_EXEC 0x10
#endif
#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8
#endif

PyObject *ctnr_os_error(void)
{
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *ctnr_os_error_path(const char *path)
{
    return PyErr_SetFromErrnoWithFilename(PyExc_OSError, path);
}

static PyObject *none_or_error(long r)
{
    if (r < 0)
        return ctnr_os_error();
    Py_RETURN_NONE;
}

static PyObject *fd_or_error(long r)
{
    return r < 0 ? ctnr_os_error() : PyLong_FromLong(r);
}

static PyObject *path_result(long r, const char *path)
{
    if (r < 0)
        return path ? ctnr_os_error_path(path) : ctnr_os_error();
    Py_RETURN_NONE;
}

static PyObject *n_openat2(PyObject *self, PyObject *args)
{
    int dirfd;
    const char *path;
    unsigned long long flags, mode = 0, resolve = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "isK|KK:openat2", &dirfd, &path, &flags, &mode, &resolve))
        return NULL;
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    long fd;
    int tries = 0;
    do
        fd = syscall(SYS_openat2, dirfd, path, &how, sizeof how);
    while (fd < 0 && (errno == EAGAIN || errno == EINTR) && ++tries < 128);
    return fd < 0 ? ctnr_os_error_path(path) : PyLong_FromLong(fd);
}

static PyObject *n_open_tree(PyObject *self, PyObject *args)
{
    int dirfd;
    const char *path;
    unsigned flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "isI:open_tree", &dirfd, &path, &flags))
        return NULL;
    long fd = syscall(SYS_open_tree, dirfd, path, flags | OPEN_TREE_CLOEXEC);
    return fd < 0 ? ctnr_os_error_path(path) : PyLong_FromLong(fd);
}

static PyObject *n_move_mount(PyObject *self, PyObject *args)
{
    int from, to;
    const char *from_path, *to_path;
    unsigned flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "isisI:move_mount", &from, &from_path, &to, &to_path, &flags))
        return NULL;
    return path_result(syscall(SYS_move_mount, from, from_path, to, to_path, flags), to_path);
}

static PyObject *n_fsopen(PyObject *self, PyObject *args)
{
    const char *type;
    (void)self;
    if (!PyArg_ParseTuple(args, "s:fsopen", &type))
        return NULL;
    return fd_or_error(syscall(SYS_fsopen, type, FSOPEN_CLOEXEC));
}

static PyObject *n_fsconfig(PyObject *self, PyObject *args)
{
    int fd;
    const char *key = NULL, *value = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "i|zz:fsconfig", &fd, &key, &value))
        return NULL;
    unsigned command = !key ? FSCONFIG_CMD_CREATE : value ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG;
    return none_or_error(syscall(SYS_fsconfig, fd, command, key, value, 0));
}

static PyObject *n_fsmount(PyObject *self, PyObject *args)
{
    int fd;
    unsigned attributes;
    (void)self;
    if (!PyArg_ParseTuple(args, "iI:fsmount", &fd, &attributes))
        return NULL;
    return fd_or_error(syscall(SYS_fsmount, fd, FSMOUNT_CLOEXEC, attributes));
}

static PyObject *n_mount_setattr(PyObject *self, PyObject *args)
{
    int dirfd;
    const char *path;
    unsigned flags;
    unsigned long long attr[4] = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "isIKK|KK:mount_setattr", &dirfd, &path, &flags, &attr[0], &attr[1], &attr[2],
                          &attr[3]))
        return NULL;
    return path_result(syscall(SYS_mount_setattr, dirfd, path, flags, attr, sizeof attr), path);
}

static PyObject *n_mount(PyObject *self, PyObject *args)
{
    const char *source, *target, *type, *data = NULL;
    unsigned long flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "zszk|z:mount", &source, &target, &type, &flags, &data))
        return NULL;
    return path_result(mount(source, target, type, flags, data), target);
}

static PyObject *n_umount2(PyObject *self, PyObject *args)
{
    const char *target;
    int flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "si:umount2", &target, &flags))
        return NULL;
    return path_result(umount2(target, flags), target);
}

static PyObject *n_setns(PyObject *self, PyObject *args)
{
    int fd, type;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii:setns", &fd, &type))
        return NULL;
    return none_or_error(setns(fd, type));
}

static PyObject *n_unshare(PyObject *self, PyObject *args)
{
    int flags;
    (void)self;
    if (!PyArg_ParseTuple(args, "i:unshare", &flags))
        return NULL;
    return none_or_error(unshare(flags));
}

static PyObject *n_prctl(PyObject *self, PyObject *args)
{
    int option;
    unsigned long a[4] = {0};
    (void)self;
    if (!PyArg_ParseTuple(args, "i|kkkk:prctl", &option, &a[0], &a[1], &a[2], &a[3]))
        return NULL;
    int r = prctl(option, a[0], a[1], a[2], a[3]);
    return fd_or_error(r);
}

static PyObject *n_prlimit(PyObject *self, PyObject *args)
{
    int pid, resource;
    unsigned long long soft, hard;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiKK:prlimit", &pid, &resource, &soft, &hard))
        return NULL;
    struct rlimit64 lim = {soft, hard};
    return none_or_error(prlimit64(pid, (enum __rlimit_resource)resource, &lim, NULL));
}

static PyObject *n_sched_setattr(PyObject *self, PyObject *args)
{
    int pid;
    Py_buffer attr;
    (void)self;
    if (!PyArg_ParseTuple(args, "iy*:sched_setattr", &pid, &attr))
        return NULL;
    uint32_t size = 0;
    if (attr.len >= (Py_ssize_t)sizeof size)
        memcpy(&size, attr.buf, sizeof size);
    if (size < 48 || (Py_ssize_t)size != attr.len) { /* the kernel reads as much as the structure says that it has */
        PyBuffer_Release(&attr);
        PyErr_SetString(PyExc_ValueError, "sched_attr.size is not the size of the structure");
        return NULL;
    }
    long r = syscall(SYS_sched_setattr, pid, attr.buf, 0);
    PyBuffer_Release(&attr);
    return none_or_error(r);
}

static PyObject *n_ioprio_set(PyObject *self, PyObject *args)
{
    int pid, value;
    (void)self;
    if (!PyArg_ParseTuple(args, "ii:ioprio_set", &pid, &value))
        return NULL;
    return none_or_error(syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, pid, value));
}

static PyObject *n_fstatfs_type(PyObject *self, PyObject *args)
{
    int fd;
    struct statfs st;
    (void)self;
    if (!PyArg_ParseTuple(args, "i:fstatfs_type", &fd))
        return NULL;
    if (fstatfs(fd, &st) < 0)
        return ctnr_os_error();
    return PyLong_FromUnsignedLong((unsigned long)st.f_type & 0xffffffffUL);
}

/* A memfd with data in it that nobody can change any more. */
static int sealed_memfd(const char *name, const void *data, size_t len, unsigned flags, int seals)
{
    int fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 there is no MFD_EXEC: all are executable */
        fd = (int)syscall(SYS_memfd_create, name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -1;
    if (fd < 3) { /* a program with its stdio closed: keep out of the container's */
        int up = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        close(fd);
        if ((fd = up) < 0)
            return -1;
    }
    for (size_t done = 0; done < len;) {
        ssize_t n = write(fd, (const char *)data + done, len - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            close(fd);
            return -1;
        }
        done += (size_t)n;
    }
    if (fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | seals) < 0 &&
        (!seals || fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)) {
        close(fd);
        return -1;
    }
    return fd;
}

static PyObject *n_sealed(PyObject *self, PyObject *args)
{
    const char *name, *data;
    Py_ssize_t len;
    (void)self;
    if (!PyArg_ParseTuple(args, "sy#:sealed_memfd", &name, &data, &len))
        return NULL;
    return fd_or_error(sealed_memfd(name, data, (size_t)len, MFD_NOEXEC_SEAL, 0));
}

/* The init's image, once per process. The GIL is held: nobody else is here. */
static int init_image(void)
{
    static int fd = -1;
    static pid_t owner;
    if (fd >= 0 && owner == getpid() && fcntl(fd, F_GETFD) >= 0)
        return fd;
    fd = sealed_memfd("ctnr-init", ctnr_init, sizeof ctnr_init, MFD_EXEC, F_SEAL_EXEC);
    owner = getpid();
    return fd;
}

static PyObject *n_init_image(PyObject *self, PyObject *args)
{
    (void)self;
    if (!PyArg_ParseTuple(args, ":init_image"))
        return NULL;
    return PyBytes_FromStringAndSize((const char *)ctnr_init, sizeof ctnr_init);
}

#define MAX_ARGS 8
#define MAX_KEEP 4096

static PyObject *n_spawn(PyObject *self, PyObject *args)
{
    struct spawn s = {.pidfd = -1};
    PyObject *argv_o, *keep_o, *held[MAX_ARGS] = {NULL}, *result = NULL;
    char *argv[MAX_ARGS + 1] = {NULL};
    unsigned long long flags;
    int *keep = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "KiOiiiOi:spawn", &flags, &s.cgroup_fd, &argv_o, &s.stdio[0], &s.stdio[1], &s.stdio[2],
                          &keep_o, &s.ambient))
        return NULL;
    Py_ssize_t argc = PySequence_Size(argv_o), nkeep = PySequence_Size(keep_o);
    if (argc < 1 || argc > MAX_ARGS || nkeep < 0 || nkeep > MAX_KEEP) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "spawn: too many arguments or fds");
        return NULL;
    }
    keep = PyMem_Malloc((size_t)(nkeep + 1) * sizeof *keep);
    if (!keep)
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < argc; i++) {
        PyObject *o = PySequence_GetItem(argv_o, i);
        int ok = o && PyUnicode_FSConverter(o, &held[i]);
        Py_XDECREF(o);
        if (!ok || !(argv[i] = PyBytes_AsString(held[i])))
            goto out;
    }
    for (Py_ssize_t i = 0; i < nkeep; i++) {
        PyObject *o = PySequence_GetItem(keep_o, i);
        long v = o ? PyLong_AsLong(o) : -1;
        Py_XDECREF(o);
        if (PyErr_Occurred())
            goto out;
        keep[i] = (int)v;
    }
    s.flags = flags;
    s.argv = argv;
    s.keep = keep;
    s.nkeep = (int)nkeep;
    s.init_fd = init_image();
    if (s.init_fd < 0) {
        ctnr_os_error();
        goto out;
    }
    long pid;
    Py_BEGIN_ALLOW_THREADS pid = ctnr_spawn(&s);
    Py_END_ALLOW_THREADS if (pid < 0)
    {
        errno = (int)-pid;
        if (s.err) /* the namespaces were made, the exec failed: vm.memfd_noexec, a full process table */
            PyErr_SetFromErrnoWithFilename(PyExc_OSError, "ctnr-init");
        else
            ctnr_os_error();
        goto out;
    }
    if (s.pidfd < 0) /* our child: its pid is its own until we wait for it */
        s.pidfd = ctnr_pidfd_open((int)pid, 0);
    if (s.pidfd < 0) {
        ctnr_os_error();
        kill((pid_t)pid, SIGKILL);
        waitpid((pid_t)pid, NULL, 0);
        goto out;
    }
    result = Py_BuildValue("li", pid, s.pidfd);
out:
    for (int i = 0; i < MAX_ARGS; i++)
        Py_XDECREF(held[i]);
    PyMem_Free(keep);
    return result;
}

#define FN(name, fn, doc)                                                                                              \
    {                                                                                                                  \
        name, fn, METH_VARARGS, doc                                                                                    \
    }

static PyMethodDef methods[] = {
    FN("spawn", n_spawn, "spawn(flags, cgroup_fd, argv, stdin, stdout, stderr, keep_fds, ambient) -> (pid, pidfd)"),
    FN("init_image", n_init_image, "init_image() -> bytes: the static init's ELF image"),
    FN("sealed_memfd", n_sealed, "sealed_memfd(name, data) -> fd"),
    FN("pidfd_open", ctnr_n_pidfd_open, "pidfd_open(pid, flags=0) -> fd; see pidfd.c"),
    FN("pidfd_polls", ctnr_n_pidfd_polls, "pidfd_polls(pidfd) -> whether poll(2) sees the end of the process"),
    FN("pidfd_send_signal", ctnr_n_pidfd_send_signal, "pidfd_send_signal(pidfd, signal)"),
    FN("waitid", ctnr_n_waitid, "waitid(pidfd, options) -> (si_code, si_status), or None with WNOHANG"),
    FN("openat2", n_openat2, "openat2(dirfd, path, flags, mode=0, resolve=0) -> fd"),
    FN("open_tree", n_open_tree, "open_tree(dirfd, path, flags) -> fd"),
    FN("move_mount", n_move_mount, "move_mount(from_dirfd, from_path, to_dirfd, to_path, flags)"),
    FN("fsopen", n_fsopen, "fsopen(type) -> fd"),
    FN("fsconfig", n_fsconfig,
       "fsconfig(fd, key, value=None): a string or a flag; fsconfig(fd): create the filesystem"),
    FN("fsmount", n_fsmount, "fsmount(fd, attributes) -> fd of the detached mount"),
    FN("mount_setattr", n_mount_setattr,
       "mount_setattr(dirfd, path, flags, attr_set, attr_clr, propagation=0, userns_fd=0)"),
    FN("mount", n_mount, "mount(source, target, type, flags, data=None)"),
    FN("umount2", n_umount2, "umount2(target, flags)"),
    FN("setns", n_setns, "setns(fd, nstype)"),
    FN("unshare", n_unshare, "unshare(flags)"),
    FN("prctl", n_prctl, "prctl(option, arg2=0, arg3=0, arg4=0, arg5=0) -> int"),
    FN("prlimit", n_prlimit, "prlimit(pid, resource, soft, hard)"),
    FN("sched_setattr", n_sched_setattr, "sched_setattr(pid, struct sched_attr as bytes)"),
    FN("ioprio_set", n_ioprio_set, "ioprio_set(pid, value)"),
    FN("fstatfs_type", n_fstatfs_type, "fstatfs_type(fd) -> the magic number of the filesystem"),
    FN("bpf_prog_load_device", ctnr_bpf_prog_load_device, "bpf_prog_load_device(insns) -> fd"),
    FN("bpf_prog_attach", ctnr_bpf_prog_attach, "bpf_prog_attach(cgroup_fd, prog_fd, type, flags, replace_fd=-1)"),
    FN("bpf_prog_detach", ctnr_bpf_prog_detach, "bpf_prog_detach(cgroup_fd, prog_fd, type)"),
    FN("bpf_prog_query", ctnr_bpf_prog_query, "bpf_prog_query(cgroup_fd, type) -> [program id]"),
    FN("bpf_prog_get_fd_by_id", ctnr_bpf_prog_get_fd_by_id, "bpf_prog_get_fd_by_id(id) -> fd"),
    FN("socketpair", ctnr_socketpair, "socketpair() -> (fd, fd) of SOCK_SEQPACKET"),
    FN("unix_listen", ctnr_unix_listen, "unix_listen(dirfd, name) -> fd of SOCK_SEQPACKET"),
    FN("unix_connect", ctnr_unix_connect, "unix_connect(dirfd or -1, name, type=SOCK_SEQPACKET) -> fd"),
    FN("connect", ctnr_connect, "connect(fd, address)"),
    FN("sendmsg", ctnr_sendmsg, "sendmsg(fd, data, fds=()) -> int"),
    FN("recvmsg", ctnr_recvmsg, "recvmsg(fd, size, maxfds=0) -> (data, [fd])"),
    FN("seccomp_resolve", ctnr_seccomp_resolve, "seccomp_resolve(tokens, names) -> dict: see seccomp.c"),
    FN("process_vm_readv", ctnr_process_vm_readv, "process_vm_readv(pid, address, size) -> bytes, fewer at a hole"),
    FN("pidfd_getfd", ctnr_pidfd_getfd, "pidfd_getfd(pidfd, fd) -> fd"),
    FN("landlock_abi", ctnr_landlock_abi, "landlock_abi() -> landlock_create_ruleset(2)'s version, 0 for none"),
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_native", "Mechanism: system calls, the launcher.", 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
