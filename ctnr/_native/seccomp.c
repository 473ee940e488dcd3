// SPDX-License-Identifier: Apache-2.0
/*
 * seccomp_resolve(): what libseccomp knows of system calls: their numbers on each architecture.
 *
 * libseccomp is loaded by dlopen(3) at the first call: neither its header nor its presence is needed to build ctnr, or to
 * run a container whose filter is cached or that has none. The prototypes below are its stable 2.x API (seccomp.h).
 * The filter is written by ctnr/runtime/seccomp_bpf.py, which says why. Called with the GIL held.
 */

#include "module.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SONAME "libseccomp.so.2"
#define NR_SCMP_ERROR (-1) /* __NR_SCMP_ERROR: no such system call, or no such architecture */

/* --- the library */

struct scmp_version {
    unsigned int major, minor, micro;
};

static struct {
    void *handle;
    const struct scmp_version *(*version)(void);
    uint32_t (*arch_native)(void);
    int (*resolve_name_arch)(uint32_t arch_token, const char *name);
    char *(*resolve_num_arch)(uint32_t arch_token, int num);
} lib;

static int load_library(void)
{
    const struct {
        const char *name;
        void *slot;
    } symbols[] = {
        {"seccomp_version", &lib.version},
        {"seccomp_arch_native", &lib.arch_native},
        {"seccomp_syscall_resolve_name_arch", &lib.resolve_name_arch},
        {"seccomp_syscall_resolve_num_arch", &lib.resolve_num_arch},
    };

    if (lib.handle)
        return 0;
    void *handle = dlopen(SONAME, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        PyErr_Format(PyExc_ImportError,
                     "cannot load libseccomp (%s): install the package libseccomp2 (Debian, Ubuntu) or libseccomp",
                     dlerror());
        return -1;
    }
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(handle, symbols[i].name);
        if (!address) {
            PyErr_Format(PyExc_ImportError, SONAME " has no %s: libseccomp 2.3 or later is needed", symbols[i].name);
            dlclose(handle);
            return -1;
        }
        /* ISO C knows no cast from void * to a function pointer */
        memcpy(symbols[i].slot, &address, sizeof address);
    }
    lib.handle = handle;
    return 0;
}

/* The file libseccomp was loaded from, "" if the loader does not say. */
static const char *library_path(void)
{
    Dl_info info;
    void *address;

    memcpy(&address, &lib.version, sizeof address);
    return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "";
}

/* --- the kernel */

#define SET_MODE_FILTER 1 /* SECCOMP_SET_MODE_FILTER and SECCOMP_FILTER_FLAG_* of linux/seccomp.h */
#define NEW_LISTENER (1u << 3)
#define WAIT_KILLABLE_RECV (1u << 5)

/* The mask of the SECCOMP_FILTER_FLAG_* that the kernel knows: with them it gets as far as reading the (absent) filter. */
static unsigned long supported_flags(void)
{
    unsigned long mask = 0;

    for (int bit = 0; bit < 6; bit++) {
        unsigned int flag = 1u << bit;
        /* this one is valid only with a listener */
        unsigned int with = flag == WAIT_KILLABLE_RECV ? NEW_LISTENER : 0;
        if (syscall(SYS_seccomp, SET_MODE_FILTER, flag | with, NULL) < 0 && errno == EFAULT)
            mask |= flag;
    }
    return mask;
}

/* --- numbers */

/* dict[key] = value; steals both references, of which either may be NULL with an exception set. */
static int set_item(PyObject *dict, PyObject *key, PyObject *value)
{
    int rc = key && value ? PyDict_SetItem(dict, key, value) : -1;

    Py_XDECREF(key);
    Py_XDECREF(value);
    return rc;
}

/* The number of each name; of one that is no text a C string can hold, NR_SCMP_ERROR. */
static PyObject *numbers(uint32_t token, PyObject *names)
{
    Py_ssize_t n = PyList_Size(names);
    PyObject *list = PyList_New(n);

    for (Py_ssize_t i = 0; list && i < n; i++) {
        Py_ssize_t length;
        const char *name = PyUnicode_AsUTF8AndSize(PyList_GetItem(names, i), &length);
        PyObject *number = NULL;
        if (name)
            number =
                PyLong_FromLong(strlen(name) == (size_t)length ? lib.resolve_name_arch(token, name) : NR_SCMP_ERROR);
        if (!number || PyList_SetItem(list, i, number) < 0)
            Py_CLEAR(list);
    }
    return list;
}

/*
 * {name: number} of the system calls whose names libseccomp resolves to a pseudo number since the architecture also has
 * them in socketcall(2) or ipc(2). Their own numbers can only be found from the other end.
 */
static PyObject *direct_numbers(uint32_t token)
{
    PyObject *dict = PyDict_New();
    int base = lib.resolve_name_arch(token, "socketcall");

    if (!dict || base < 0)
        return dict;
    base -= base % 1000; /* o32 MIPS counts from 4000 */
    for (int number = base; number < base + 1000; number++) {
        char *name = lib.resolve_num_arch(token, number);
        int rc = 0;
        if (name && lib.resolve_name_arch(token, name) < 0)
            rc = set_item(dict, PyUnicode_FromString(name), PyLong_FromLong(number));
        free(name);
        if (rc < 0) {
            Py_DECREF(dict);
            return NULL;
        }
    }
    return dict;
}

/* {token: (numbers, direct numbers)}, without the architectures that libseccomp does not know */
static int add_arch(PyObject *archs, uint32_t token, PyObject *names)
{
    PyObject *list = NULL, *direct = NULL;
    int rc = -1;

    /* every architecture has it */
    if (lib.resolve_name_arch(token, "read") == NR_SCMP_ERROR)
        return 0;
    list = numbers(token, names);
    if (list)
        direct = direct_numbers(token);
    if (direct)
        rc = set_item(archs, PyLong_FromUnsignedLong(token), PyTuple_Pack(2, list, direct));
    Py_XDECREF(list);
    Py_XDECREF(direct);
    return rc;
}

/*
 * seccomp_resolve(tokens, names) -> dict
 *
 * tokens: SCMP_ARCH_*, to which the native one is added; names: of system calls. Of the result: `archs` maps each token
 * that libseccomp knows to ([number of each name], {name: number of those that are multiplexed as well}); a number is
 * negative if the architecture has no such call (a pseudo number, __PNR_*), -1 if libseccomp has never heard of it.
 * `native` is the native token, `flags` the mask of the SECCOMP_FILTER_FLAG_* the kernel knows, `version` and `library`
 * are libseccomp's, the latter the path it was loaded from. Raises ImportError without libseccomp.
 */
PyObject *ctnr_seccomp_resolve(PyObject *self, PyObject *args)
{
    PyObject *tokens, *names, *archs, *version = NULL, *library = NULL, *result = NULL;

    (void)self;
    if (!PyArg_ParseTuple(args, "O!O!:seccomp_resolve", &PyList_Type, &tokens, &PyList_Type, &names))
        return NULL;
    if (load_library() < 0)
        return NULL;
    archs = PyDict_New();
    if (!archs)
        return NULL;
    uint32_t native = lib.arch_native();
    if (add_arch(archs, native, names) < 0)
        goto out;
    for (Py_ssize_t i = 0; i < PyList_Size(tokens); i++) {
        unsigned long token = PyLong_AsUnsignedLong(PyList_GetItem(tokens, i));
        if (PyErr_Occurred())
            goto out;
        if (token != native && token <= UINT32_MAX && add_arch(archs, (uint32_t)token, names) < 0)
            goto out;
    }
    const struct scmp_version *v = lib.version();
    version = PyUnicode_FromFormat("%u.%u.%u", v->major, v->minor, v->micro);
    if (version)
        library = PyUnicode_DecodeFSDefault(library_path());
    if (library)
        result = Py_BuildValue("{s:O,s:k,s:k,s:O,s:O}", "archs", archs, "native", (unsigned long)native, "flags",
                               supported_flags(), "version", version, "library", library);
out:
    Py_DECREF(archs);
    Py_XDECREF(version);
    Py_XDECREF(library);
    return result;
}
