/* SPDX-License-Identifier: Apache-2.0 */
/* Reading the plan. plan_check() is the only place where the buffer is not trusted; it is fuzzed. */
#include "init.h"

static int check_string(const uint8_t *buf, uint32_t size, uint32_t first, uint32_t off)
{
    uint32_t len;
    if (off == 0)
        return 0;
    if (off % 4 || off < first || off > size - 5)
        return -EINVAL;
    memcpy(&len, buf + off, 4);
    if (len > size - off - 5 || buf[off + 4 + len] != 0)
        return -EINVAL;
    return 0;
}

/* Which strings an op must have (bit i), and which of them are lists (bit 4+i): the rest may be absent. */
static unsigned needs(uint16_t op)
{
    switch (op) {
    case OP_PROPAGATION:
    case OP_HOST_MKDIR:
    case OP_HOST_HIDE:
    case OP_ROOTFS:
    case OP_ATTACH:
    case OP_LABEL:
    case OP_REMOUNT:
    case OP_MKNOD:
    case OP_UMOUNT:
    case OP_MASK:
    case OP_READONLY:
    case OP_HOSTNAME:
    case OP_DOMAINNAME:
    case OP_KEYRING:
    case OP_SCHEDULER:
    case OP_MKCWD:
    case OP_CWD:
    case OP_LANDLOCK_PATH:
    case OP_SECCOMP:
        return 1;
    case OP_HOST_MOUNT:
    case OP_FSMOUNT:
        return 2 | 4;
    case OP_SYMLINK:
    case OP_SYSCTL:
    case OP_ATTRIBUTE:
        return 1 | 2;
    case OP_LOOKUP:
        return 1;
    case OP_HOOK:
        return 1 | 2 | 4 | 32 | 64;
    case OP_EXEC:
        return 1 | 2 | 16 | 32;
    default:
        return 0;
    }
}

int plan_check(const void *data, size_t size)
{
    const uint8_t *buf = data;
    const struct plan_header *h = data;
    if (size < sizeof *h || size > PLAN_MAX_SIZE)
        return -EINVAL;
    if (h->magic != PLAN_MAGIC || h->size != size || h->nsteps == 0 || h->nsteps > PLAN_MAX_STEPS)
        return -EINVAL;
    uint64_t first = sizeof *h + (uint64_t)h->nsteps * sizeof(struct plan_step);
    if (first > size)
        return -EINVAL;
    const struct plan_step *s = (const void *)(h + 1);
    for (uint32_t n = 0; n < h->nsteps; n++, s++) {
        if (s->op == OP_NONE || s->op >= OP_COUNT || s->fd < -1)
            return -EINVAL;
        unsigned need = needs(s->op);
        for (int i = 0; i < PLAN_STRINGS; i++) {
            uint32_t len;
            if (s->str[i] == 0) {
                if (need >> i & 1)
                    return -EINVAL;
                continue;
            }
            if (size < 5 || check_string(buf, (uint32_t)size, (uint32_t)first, s->str[i]))
                return -EINVAL;
            memcpy(&len, buf + s->str[i], 4);
            if ((need >> (4 + i) & 1) && len && buf[s->str[i] + 4 + len - 1] != 0)
                return -EINVAL; /* a list that does not end with its last string */
        }
        if (s->op == OP_USER) {
            uint32_t len = 0;
            if (s->str[0])
                memcpy(&len, buf + s->str[0], 4);
            if (s->arg[2] > 65536 || len != s->arg[2] * 4)
                return -EINVAL;
        }
        if (s->op == OP_SCHEDULER) {
            uint32_t len, said; /* the kernel reads as much as the structure says that it has */
            memcpy(&len, buf + s->str[0], 4);
            if (len < 48)
                return -EINVAL;
            memcpy(&said, buf + s->str[0] + 4, 4);
            if (len != said)
                return -EINVAL;
        }
        if (s->op == OP_EXEC && s->str[2]) {
            uint32_t len;
            memcpy(&len, buf + s->str[2], 4);
            if (len % 4)
                return -EINVAL;
        }
        if (s->op == OP_SECCOMP) {
            uint32_t len;
            memcpy(&len, buf + s->str[0], 4);
            if (len == 0 || len % sizeof(struct sock_filter) || len / sizeof(struct sock_filter) > BPF_MAXINSNS)
                return -EINVAL;
        }
    }
    if (s[-1].op != OP_EXEC)
        return -EINVAL;
    return 0;
}

const char *plan_str(const struct init *in, const struct plan_step *s, int i, size_t *len)
{
    uint32_t n;
    if (s->str[i] == 0) {
        if (len)
            *len = 0;
        return NULL;
    }
    memcpy(&n, in->plan + s->str[i], 4);
    if (len)
        *len = n;
    return (const char *)in->plan + s->str[i] + 4;
}

char **plan_list(const struct init *in, const struct plan_step *s, int i, int extra, size_t *count)
{
    size_t len, n = 0;
    const char *p = plan_str(in, s, i, &len);
    for (size_t k = 0; k < len; k++)
        n += p[k] == 0;
    long mem = SYS(mmap, 0, (n + (size_t)extra + 1) * sizeof(char *), 3 /* rw */, 0x22 /* private anonymous */, -1, 0);
    if (mem < 0 && mem > -4096)
        return NULL;
    char **list = (char **)mem; /* mmap'ed memory is zero: the end is there already */
    n = 0;
    for (size_t k = 0; k < len; k += strlen(p + k) + 1)
        list[n++] = (char *)p + k;
    if (count)
        *count = n;
    return list;
}

/* Whether the option's name, of that length, is one whose value is an SELinux context: it may have commas, and then quotes. */
static int is_label(const char *option, size_t len)
{
    static const char *const names[] = {"context", "fscontext", "defcontext", "rootcontext"};
    for (int i = 0; i < 4; i++)
        if (len == strlen(names[i]) && memcmp(option, names[i], len) == 0)
            return 1;
    return 0;
}

int plan_option(const char **data, char *key, size_t size, char **value)
{
    const char *p = *data;
    size_t n = 0, eq = 0;
    int quoted = 0;
    *value = NULL;
    for (; p[n] && (p[n] != ',' || quoted == 1); n++) {
        if (p[n] == '=' && !eq) {
            eq = n;
            quoted = is_label(p, n) && p[n + 1] == '"';
        } else if (p[n] == '"' && quoted == 1 && n > eq + 1) {
            quoted = 2;
        }
    }
    if (n >= size)
        return -ENAMETOOLONG;
    memcpy(key, p, n);
    key[n] = 0;
    *data = p[n] ? p + n + 1 : p + n;
    if (eq) {
        key[eq] = 0;
        *value = key + eq + 1;
        if (quoted == 2 && key[n - 1] == '"') { /* the quotes are for mount(2) only */
            key[n - 1] = 0;
            (*value)++;
        }
    }
    return 0;
}
