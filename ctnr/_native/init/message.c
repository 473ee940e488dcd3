/* SPDX-License-Identifier: Apache-2.0 */
/* Talking with the parent, and later with `start`: plan.h has the messages. */
#include "init.h"

#define SOL_SOCKET_ 1
#define SCM_RIGHTS_ 1
#define MSG_NOSIGNAL_ 0x4000
#define MSG_CMSG_CLOEXEC_ 0x40000000
#define MSG_TRUNC_ 0x20

int msg_send(struct init *in, uint32_t type, int err, const void *data, size_t len, int fd)
{
    struct plan_msg m = {.type = type, .step = in->at, .err = err, .code = in->code};
    struct sys_iovec iov[2] = {{&m, sizeof m}, {data, len}};
    struct sys_cmsg c = {.len = offsetof(struct sys_cmsg, pad), .level = SOL_SOCKET_, .type = SCM_RIGHTS_, .fd = fd};
    struct sys_msghdr h = {.iov = iov, .iovlen = len ? 2 : 1};
    if (fd >= 0) {
        h.control = &c;
        h.controllen = sizeof c;
    }
    long r;
    do
        r = SYS(sendmsg, in->sync_fd, &h, MSG_NOSIGNAL_);
    while (r == -EINTR);
    return r < 0 ? (int)r : 0;
}

int msg_wait_go(struct init *in)
{
    if (!in->state) {
        long mem = SYS(mmap, 0, STATE_MAX, 3, 0x22, -1, 0);
        if (mem < 0 && mem > -4096)
            return (int)mem;
        in->state = (char *)mem;
    }
    struct plan_msg m;
    struct sys_iovec iov[2] = {{&m, sizeof m}, {in->state, STATE_MAX}};
    struct sys_msghdr h = {.iov = iov, .iovlen = 2};
    long r;
    do
        r = SYS(recvmsg, in->sync_fd, &h, MSG_CMSG_CLOEXEC_);
    while (r == -EINTR);
    if (r < 0)
        return (int)r;
    if (r == 0)
        return -EPIPE; /* the other side is gone */
    if (r < (long)sizeof m || m.type != MSG_GO || (h.flags & MSG_TRUNC_))
        return -EPROTO;
    if ((size_t)r > sizeof m)
        in->state_len = (size_t)r - sizeof m;
    return 0;
}

int fail_at(struct init *in, int err, const char *detail)
{
    put_str(in->detail, in->detail + sizeof in->detail, detail ? detail : "");
    return err;
}

void fail(struct init *in, int err)
{
    if (in->sync_fd >= 0)
        msg_send(in, MSG_ERROR, -err, in->detail, strlen(in->detail), -1);
    sys_exit(err == -ENOENT ? 127 : 126);
}
