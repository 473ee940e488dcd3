// SPDX-License-Identifier: Apache-2.0
// The payload of the integration tests: a static program that tells, as one JSON object, what it sees from inside a container.
//
//   probe [ASK...]      the standing facts, and an answer for each ASK:
//     stat:PATH         type, mode, owner, device number, link target, or the errno
//     read:PATH         the first 4 KiB, or the errno          (sysctls, masked files)
//     open:PATH         the errno of open(O_WRONLY), 0 if it opens
//     create:PATH       the errno of creating (and removing) a file there, 0 if it can be made
//     list:PATH         the directory's entries, or the errno
//     mknod:PATH:C:MAJ:MIN  the errno of making and opening a device node, 0 if it opens
//     call:NR           the errno of syscall NR with arguments 0 (seccomp)
//     env:NAME          one variable
//     self:scheduler    [policy, flags, nice, priority, runtime, deadline, period] (sched_getattr)
//     self:ioprio       [class, priority] (ioprio_get)
//     self:mempolicy    [mode, flags, nodes] (get_mempolicy)
//     self:cpus         the CPUs it may run on (sched_getaffinity)
//     self:machine      uname -m
//     self:keyring      type;uid;gid;permissions;name of the session keyring (keyctl describe)
//   probe --wait        say "ready" and wait for SIGTERM (exit 0); TERM as pid 1 needs the handler
//   probe --lock FILE   the same with FILE locked (flock(2)); exit 9 if somebody else has it locked
//   probe --exit N      exit with N;   probe --signal N   die of signal N
//   probe --out FILE ASK...   the JSON goes to FILE
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <unistd.h>

static FILE *out;

static void json_string(const char *text, size_t length)
{
    putc('"', out);
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20 || c >= 0x7f)
            fprintf(out, "\\u%04x", c); // latin-1: the reader encodes it back
        else
            putc(c, out);
    }
    putc('"', out);
}

static void key(const char *name)
{
    json_string(name, strlen(name));
    fputs(": ", out);
}

static void text(const char *name, const char *value)
{
    key(name);
    if (value)
        json_string(value, strlen(value));
    else
        fputs("null", out);
    fputs(",\n", out);
}

static void number(const char *name, long long value)
{
    key(name);
    fprintf(out, "%lld,\n", value);
}

static ssize_t slurp(const char *path, char *buffer, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return -1;
    size_t have = 0;
    while (have < size) {
        ssize_t n = read(fd, buffer + have, size - have);
        if (n < 0) {
            int saved = errno;
            close(fd);
            errno = saved;
            return -1;
        }
        if (n == 0)
            break;
        have += (size_t)n;
    }
    close(fd);
    return (ssize_t)have;
}

static void file(const char *name, const char *path)
{
    static char buffer[1 << 18];
    ssize_t n = slurp(path, buffer, sizeof buffer);
    key(name);
    if (n < 0)
        fputs("null", out);
    else
        json_string(buffer, (size_t)n);
    fputs(",\n", out);
}

static void link_value(const char *path)
{
    char target[4096];
    ssize_t n = readlink(path, target, sizeof target);
    if (n < 0)
        fputs("null", out);
    else
        json_string(target, (size_t)n);
}

static void strings(const char *name, char **list)
{
    key(name);
    putc('[', out);
    for (int i = 0; list[i]; i++) {
        if (i)
            putc(',', out);
        json_string(list[i], strlen(list[i]));
    }
    fputs("],\n", out);
}

static void namespaces(void)
{
    static const char *names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"};
    key("ns");
    putc('{', out);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        if (i)
            putc(',', out);
        key(names[i]);
        link_value(path);
    }
    fputs("},\n", out);
}

static void descriptors(void)
{
    // fstat, not /proc: the list must be right without /proc too
    key("fds");
    putc('{', out);
    const char *comma = "";
    for (int fd = 0; fd < 256; fd++) {
        int flags = fcntl(fd, F_GETFD);
        if (flags < 0 || fd == fileno(out))
            continue;
        char path[64], name[16];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        snprintf(name, sizeof name, "%d", fd);
        fputs(comma, out);
        comma = ",";
        key(name);
        link_value(path);
    }
    fputs("},\n", out);
}

static const char *kind_of(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFREG:
        return "file";
    case S_IFDIR:
        return "dir";
    case S_IFLNK:
        return "link";
    case S_IFCHR:
        return "char";
    case S_IFBLK:
        return "block";
    case S_IFIFO:
        return "fifo";
    case S_IFSOCK:
        return "socket";
    default:
        return "?";
    }
}

static void describe(const char *path)
{
    struct stat st;
    if (lstat(path, &st) < 0) {
        fprintf(out, "{\"errno\": %d}", errno);
        return;
    }
    fprintf(out, "{\"type\": \"%s\", \"mode\": %u, \"uid\": %u, \"gid\": %u, \"size\": %lld", kind_of(st.st_mode),
            st.st_mode & 07777, st.st_uid, st.st_gid, (long long)st.st_size);
    if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
        fprintf(out, ", \"rdev\": \"%u:%u\"", major(st.st_rdev), minor(st.st_rdev));
    if (S_ISLNK(st.st_mode)) {
        fputs(", \"target\": ", out);
        link_value(path);
    }
    putc('}', out);
}

static void list_directory(const char *path, int details)
{
    DIR *dir = opendir(path);
    if (!dir) {
        fprintf(out, "{\"errno\": %d}", errno);
        return;
    }
    putc(details ? '{' : '[', out);
    const char *comma = "";
    for (struct dirent *entry; (entry = readdir(dir));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        fputs(comma, out);
        comma = ",";
        if (details) {
            char full[4096];
            snprintf(full, sizeof full, "%s/%s", path, entry->d_name);
            key(entry->d_name);
            describe(full);
        } else
            json_string(entry->d_name, strlen(entry->d_name));
    }
    putc(details ? '}' : ']', out);
    closedir(dir);
}

static void terminal(void)
{
    struct winsize size;
    key("tty");
    if (!isatty(0)) {
        fputs("null,\n", out);
        return;
    }
    memset(&size, 0, sizeof size);
    ioctl(0, TIOCGWINSZ, &size);
    int controlling = open("/dev/tty", O_RDWR | O_CLOEXEC | O_NOCTTY);
    fprintf(out, "{\"rows\": %u, \"cols\": %u, \"controlling\": %s, \"foreground\": %s, \"name\": ", size.ws_row,
            size.ws_col, controlling >= 0 ? "true" : "false", tcgetpgrp(0) == getpgrp() ? "true" : "false");
    if (controlling >= 0)
        close(controlling);
    link_value("/proc/self/fd/0");
    fputs("},\n", out);
}

static void interfaces(void)
{
    key("loopback_up");
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, "lo");
    if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
        fputs("null,\n", out);
    else
        fputs(request.ifr_flags & IFF_UP ? "true,\n" : "false,\n", out);
    if (fd >= 0)
        close(fd);
}

static void numbers(void)
{
    gid_t groups[1024];
    int count = getgroups(1024, groups);
    key("groups");
    putc('[', out);
    for (int i = 0; i < count; i++)
        fprintf(out, "%s%u", i ? "," : "", groups[i]);
    fputs("],\n", out);
    uid_t ru, eu, su;
    gid_t rg, eg, sg;
    getresuid(&ru, &eu, &su);
    getresgid(&rg, &eg, &sg);
    key("uids");
    fprintf(out, "[%u,%u,%u],\n", ru, eu, su);
    key("gids");
    fprintf(out, "[%u,%u,%u],\n", rg, eg, sg);
    mode_t mask = umask(0);
    umask(mask);
    number("umask", mask);
    number("pid", getpid());
    number("ppid", getppid());
    number("sid", getsid(0));
    number("pgid", getpgrp());
    number("personality", personality(0xffffffff));
    number("nice", getpriority(PRIO_PROCESS, 0));
    number("scheduler", sched_getscheduler(0));
    number("dumpable", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    number("securebits", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
    number("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    int death = -1;
    prctl(PR_GET_PDEATHSIG, &death, 0, 0, 0);
    number("pdeathsig", death);
    int reaper = -1;
    prctl(PR_GET_CHILD_SUBREAPER, &reaper, 0, 0, 0);
    number("subreaper", reaper);
    number("keyring", syscall(SYS_keyctl, 0L /* KEYCTL_GET_KEYRING_ID */, -3L /* session */, 0L));
}

static void bits(const unsigned char *mask, size_t size)
{
    const char *comma = "";
    putc('[', out);
    for (size_t i = 0; i < size * 8; i++)
        if (mask[i / 8] >> (i % 8) & 1) {
            fprintf(out, "%s%zu", comma, i);
            comma = ",";
        }
    putc(']', out);
}

static void about_self(const char *what)
{
    if (!strcmp(what, "scheduler")) {
        struct {
            unsigned size, policy;
            unsigned long long flags;
            int nice;
            unsigned priority;
            unsigned long long runtime, deadline, period;
            unsigned util_min, util_max;
        } attr;
        memset(&attr, 0, sizeof attr);
        if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0)
            fprintf(out, "[%u,%llu,%d,%u,%llu,%llu,%llu]", attr.policy, attr.flags, attr.nice, attr.priority,
                    attr.runtime, attr.deadline, attr.period);
        else
            fprintf(out, "%d", errno);
    } else if (!strcmp(what, "ioprio")) {
        long value = syscall(SYS_ioprio_get, 1 /* a process */, 0);
        fprintf(out, "[%ld,%ld]", value >> 13, value & 0x1fff);
    } else if (!strcmp(what, "mempolicy")) {
        unsigned char mask[1024] = {0};
        int mode = 0;
        if (syscall(SYS_get_mempolicy, &mode, mask, sizeof mask * 8 + 1, 0L, 0L) < 0) {
            fprintf(out, "%d", errno);
            return;
        }
        fprintf(out, "[%d,%d,", mode & 0xff, mode & ~0xff);
        bits(mask, sizeof mask);
        putc(']', out);
    } else if (!strcmp(what, "cpus")) {
        unsigned char mask[1024] = {0};
        long n = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
        bits(mask, n > 0 ? (size_t)n : 0);
    } else if (!strcmp(what, "machine")) {
        struct utsname uts;
        uname(&uts);
        json_string(uts.machine, strlen(uts.machine));
    } else if (!strcmp(what, "keyring")) {
        char text[512];
        long n = syscall(SYS_keyctl, 6L /* KEYCTL_DESCRIBE */, -3L /* session */, text, sizeof text);
        if (n > 0)
            json_string(text, strnlen(text, sizeof text));
        else
            fprintf(out, "%d", errno);
    } else
        fputs("\"?\"", out);
}

static void answer(const char *ask)
{
    const char *value = strchr(ask, ':');
    key(ask);
    if (!value) {
        fputs("\"?\"", out);
        return;
    }
    value++;
    if (!strncmp(ask, "stat:", 5))
        describe(value);
    else if (!strncmp(ask, "read:", 5)) {
        char buffer[4096];
        ssize_t n = slurp(value, buffer, sizeof buffer);
        if (n < 0)
            fprintf(out, "{\"errno\": %d}", errno);
        else
            json_string(buffer, (size_t)n);
    } else if (!strncmp(ask, "open:", 5)) {
        int fd = open(value, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
        fprintf(out, "%d", fd < 0 ? errno : 0);
        if (fd >= 0)
            close(fd);
    } else if (!strncmp(ask, "create:", 7)) {
        int fd = open(value, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        fprintf(out, "%d", fd < 0 ? errno : 0);
        if (fd >= 0) {
            close(fd);
            unlink(value);
        }
    } else if (!strncmp(ask, "list:", 5))
        list_directory(value, 0);
    else if (!strncmp(ask, "mknod:", 6)) {
        char path[512], type;
        unsigned ma, mi;
        if (sscanf(value, "%511[^:]:%c:%u:%u", path, &type, &ma, &mi) != 4) {
            fputs("\"?\"", out);
            return;
        }
        int error = 0, fd = -1;
        if (mknod(path, (type == 'b' ? S_IFBLK : S_IFCHR) | 0600, makedev(ma, mi)) < 0 ||
            (fd = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK)) < 0)
            error = errno;
        if (fd >= 0)
            close(fd);
        unlink(path);
        fprintf(out, "%d", error);
    } else if (!strncmp(ask, "call:", 5)) {
        long result = syscall(atol(value), 0L, 0L, 0L, 0L, 0L, 0L);
        fprintf(out, "%d", result < 0 ? errno : 0);
    } else if (!strncmp(ask, "self:", 5)) {
        about_self(value);
    } else if (!strncmp(ask, "env:", 4)) {
        const char *found = getenv(value);
        if (found)
            json_string(found, strlen(found));
        else
            fputs("null", out);
    } else
        fputs("\"?\"", out);
}

// sd_notify(3)
static void notify(const char *message)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", getenv("NOTIFY_SOCKET") ? getenv("NOTIFY_SOCKET") : "");
    if (sendto(fd, message, strlen(message), 0, (struct sockaddr *)&a, sizeof a) < 0) {
        perror("sendto");
        exit(1);
    }
    close(fd);
}

static void stop(int signal)
{
    (void)signal;
    _exit(0);
}

int main(int argc, char **argv, char **environ_)
{
    int first = 1;
    out = stdout;
    if (argc > 2 && !strcmp(argv[1], "--lock")) {
        int fd = open(argv[2], O_RDWR | O_CREAT, 0644);
        if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
            return 9;
        argv[1] = "--wait";
    }
    if (argc > 1 && !strcmp(argv[1], "--notify")) { // messages, and then --wait
        int i = 2;
        while (i < argc && strcmp(argv[i], "--wait"))
            notify(argv[i++]);
        argv[1] = "--wait";
    }
    if (argc > 1 && !strcmp(argv[1], "--wait")) {
        signal(SIGTERM, stop);
        if (write(1, "ready\n", 6) < 0)
            return 1;
        for (;;)
            pause();
    }
    if (argc > 2 && !strcmp(argv[1], "--exit"))
        return atoi(argv[2]);
    if (argc > 2 && !strcmp(argv[1], "--signal")) {
        signal(atoi(argv[2]), SIG_DFL);
        kill(getpid(), atoi(argv[2]));
        return 99; // pid 1 of a pid namespace ignores its own signals
    }
    if (argc > 2 && !strcmp(argv[1], "--out")) {
        out = fopen(argv[2], "we");
        if (!out) {
            perror(argv[2]);
            return 1;
        }
        first = 3;
    }
    struct utsname uts;
    char cwd[4096];
    fputs("{\n", out);
    descriptors();
    strings("argv", argv);
    strings("env", environ_);
    // the raw syscall: libc's getcwd hides "(unreachable)"
    text("cwd", syscall(SYS_getcwd, cwd, sizeof cwd) < 0 ? NULL : cwd);
    uname(&uts);
    text("hostname", uts.nodename);
    text("domainname", uts.domainname);
    numbers();
    namespaces();
    terminal();
    interfaces();
    file("status", "/proc/self/status");
    file("uid_map", "/proc/self/uid_map");
    file("gid_map", "/proc/self/gid_map");
    file("setgroups", "/proc/self/setgroups");
    file("mountinfo", "/proc/self/mountinfo");
    file("limits", "/proc/self/limits");
    file("cgroup", "/proc/self/cgroup");
    file("oom_score_adj", "/proc/self/oom_score_adj");
    file("timens_offsets", "/proc/self/timens_offsets");
    key("exe");
    link_value("/proc/self/exe");
    fputs(",\n", out);
    key("dev");
    list_directory("/dev", 1);
    fputs(",\n", out);
    key("asked");
    putc('{', out);
    for (int i = first; i < argc; i++) {
        if (i > first)
            putc(',', out);
        answer(argv[i]);
    }
    fputs("}\n}\n", out);
    return fflush(out) || ferror(out) ? 1 : 0;
}
