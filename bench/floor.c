// SPDX-License-Identifier: Apache-2.0
// The floor of the benchmarks: the syscalls of a whole container start, from a C program that knows everything beforehand.
//
//   floor ROOTFS CGROUP_NAME NAMESPACES PROGRAM [ARG...]
//
// reads one line from stdin per container, runs PROGRAM in a new one, writes the nanoseconds from before the first to after the
// last syscall to stdout. It does what `runc spec`'s config asks for and nothing else: new namespaces, a cgroup in every
// hierarchy that is mounted (v1 controllers and v2 alike, with the device list), all mounts of the config, devices and links,
// masked and read-only paths, pivot_root, hostname, loopback, session keyring, rlimit, capabilities, no_new_privs, exec, wait,
// cgroups removed. No JSON, no plan, no state directory, no second exec: what a runtime costs on top of this is its own.
// Any failed step ends the bench: a floor that skipped work would be no floor.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { HIERARCHIES = 32 };

struct hierarchy {
    char mount_point[256];
    char controllers[128]; // "" for cgroup2
    char tasks[768];       // the tasks file of the container's cgroup (v1)
    char dir[512];
    int tasks_fd;
};

static struct hierarchy tree[HIERARCHIES];
static int hierarchies;
static const char *rootfs, *name;
static char **program;
static uint64_t namespaces;
static int v2_fd = -1;

// Written by the child, which shares our memory until it execs (CLONE_VM).
static const char *volatile failed_step;
static volatile int failed_errno;

static void die(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static _Noreturn void child_failed(const char *step)
{
    failed_step = step;
    failed_errno = errno;
    _exit(111);
}

#define CHECK(step, call)                                                                                              \
    do {                                                                                                               \
        if ((call) < 0)                                                                                                \
            child_failed(step);                                                                                        \
    } while (0)

// The list a container may use by default, for devices.allow and for the v2 program alike; -1 is a wildcard.
static const struct {
    char type;
    int major, minor;
    const char *access;
} allowed[] = {{'c', -1, -1, "m"}, {'b', -1, -1, "m"}, {'c', 1, 3, "rwm"}, {'c', 1, 5, "rwm"}, {'c', 1, 7, "rwm"},
               {'c', 1, 8, "rwm"}, {'c', 1, 9, "rwm"}, {'c', 5, 0, "rwm"}, {'c', 5, 2, "rwm"}, {'c', 136, -1, "rwm"}};
enum { ALLOWED = sizeof allowed / sizeof *allowed };

static void find_hierarchies(void)
{
    FILE *table = fopen("/proc/self/mountinfo", "re");
    char line[4096];
    if (!table)
        die("/proc/self/mountinfo");
    while (fgets(line, sizeof line, table)) {
        char mount_point[256], type[64], options[512];
        char *right = strstr(line, " - ");
        if (!right || sscanf(line, "%*s %*s %*s %*s %255s", mount_point) != 1 ||
            sscanf(right, " - %63s %*s %511s", type, options) != 2)
            continue;
        int v1 = !strcmp(type, "cgroup"), v2 = !strcmp(type, "cgroup2");
        if ((!v1 && !v2) || hierarchies == HIERARCHIES)
            continue;
        struct hierarchy *h = &tree[hierarchies++];
        snprintf(h->mount_point, sizeof h->mount_point, "%s", mount_point);
        snprintf(h->dir, sizeof h->dir, "%s/%s", mount_point, name);
        snprintf(h->tasks, sizeof h->tasks, "%s/%s/tasks", mount_point, name);
        if (v1)
            for (char *save, *option = strtok_r(options, ",", &save); option; option = strtok_r(NULL, ",", &save))
                if (strcmp(option, "rw") && strcmp(option, "ro") && strcmp(option, "xattr"))
                    snprintf(h->controllers + strlen(h->controllers), sizeof h->controllers - strlen(h->controllers),
                             "%s%s", *h->controllers ? "," : "", option);
    }
    fclose(table);
}

static int has_controller(const struct hierarchy *h, const char *controller)
{
    const char *found = strstr(h->controllers, controller);
    return found && (found == h->controllers || found[-1] == ',') && strchr(",", found[strlen(controller)]);
}

static void put(const char *dir, const char *file, const char *text, size_t length)
{
    char path[768];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, text, length) < 0)
        die(path);
    close(fd);
}

// An empty cpuset takes no process: v1 wants the parent's cpus and mems copied.
static void inherit(const struct hierarchy *h, const char *file)
{
    char path[768], value[4096];
    snprintf(path, sizeof path, "%s/%s", h->mount_point, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, value, sizeof value);
    if (n < 0)
        die(path);
    close(fd);
    put(h->dir, file, value, (size_t)n);
}

static int load_device_program(void)
{
    struct bpf_insn insns[8 * ALLOWED + 8], *at = insns;
#define INSN(...) *at++ = (struct bpf_insn){__VA_ARGS__}
    INSN(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = 0); // access << 16 | type
    INSN(.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 3, .src_reg = 2);
    INSN(.code = BPF_ALU64 | BPF_AND | BPF_K, .dst_reg = 2, .imm = 0xffff);
    INSN(.code = BPF_ALU64 | BPF_RSH | BPF_K, .dst_reg = 3, .imm = 16);
    INSN(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 4, .src_reg = 1, .off = 4);
    INSN(.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 5, .src_reg = 1, .off = 8);
    for (int i = 0; i < ALLOWED; i++) {
        int access = 0;
        for (const char *a = allowed[i].access; *a; a++)
            access |= *a == 'm' ? BPF_DEVCG_ACC_MKNOD : *a == 'r' ? BPF_DEVCG_ACC_READ : BPF_DEVCG_ACC_WRITE;
        int skip = 5 + (allowed[i].major >= 0) + (allowed[i].minor >= 0);
        INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 2, .off = (int16_t)skip,
             .imm = allowed[i].type == 'c' ? BPF_DEVCG_DEV_CHAR : BPF_DEVCG_DEV_BLOCK);
        INSN(.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = 6, .src_reg = 3);
        INSN(.code = BPF_ALU64 | BPF_AND | BPF_K, .dst_reg = 6, .imm = ~access & 7);
        skip -= 3;
        INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 6, .off = (int16_t)skip, .imm = 0);
        if (allowed[i].major >= 0)
            INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 4, .off = (int16_t)--skip, .imm = allowed[i].major);
        if (allowed[i].minor >= 0)
            INSN(.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = 5, .off = (int16_t)--skip, .imm = allowed[i].minor);
        INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 1);
        INSN(.code = BPF_JMP | BPF_EXIT);
    }
    INSN(.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = 0);
    INSN(.code = BPF_JMP | BPF_EXIT);
    union bpf_attr attr;
    memset(&attr, 0, sizeof attr);
    attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
    attr.insns = (uintptr_t)insns;
    attr.insn_cnt = (uint32_t)(at - insns);
    attr.license = (uintptr_t) "Apache-2.0";
    int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &attr, sizeof attr);
    if (fd < 0)
        die("bpf(BPF_PROG_LOAD)");
    return fd;
}

static void make_cgroups(void)
{
    for (int i = 0; i < hierarchies; i++) {
        struct hierarchy *h = &tree[i];
        if (mkdir(h->dir, 0755) < 0)
            die(h->dir);
        if (has_controller(h, "cpuset")) {
            inherit(h, "cpuset.cpus");
            inherit(h, "cpuset.mems");
        }
        if (has_controller(h, "devices")) {
            put(h->dir, "devices.deny", "a", 1);
            for (int d = 0; d < ALLOWED; d++) {
                char rule[64], major[16] = "*", minor[16] = "*";
                if (allowed[d].major >= 0)
                    snprintf(major, sizeof major, "%d", allowed[d].major);
                if (allowed[d].minor >= 0)
                    snprintf(minor, sizeof minor, "%d", allowed[d].minor);
                int n = snprintf(rule, sizeof rule, "%c %s:%s %s", allowed[d].type, major, minor, allowed[d].access);
                put(h->dir, "devices.allow", rule, (size_t)n);
            }
        }
        if (!*h->controllers) {
            v2_fd = open(h->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
            if (v2_fd < 0)
                die(h->dir);
            int with_v1_devices = 0;
            for (int j = 0; j < hierarchies; j++)
                with_v1_devices |= has_controller(&tree[j], "devices");
            if (!with_v1_devices) {
                int program_fd = load_device_program();
                union bpf_attr attr;
                memset(&attr, 0, sizeof attr);
                attr.target_fd = (uint32_t)v2_fd;
                attr.attach_bpf_fd = (uint32_t)program_fd;
                attr.attach_type = BPF_CGROUP_DEVICE;
                attr.attach_flags = BPF_F_ALLOW_MULTI;
                if (syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof attr) < 0)
                    die("bpf(BPF_PROG_ATTACH)");
                close(program_fd);
            }
        } else {
            h->tasks_fd = open(h->tasks, O_WRONLY | O_CLOEXEC);
            if (h->tasks_fd < 0)
                die(h->tasks);
        }
    }
}

static void remove_cgroups(void)
{
    for (int i = 0; i < hierarchies; i++) {
        struct timespec pause = {0, 100000};
        int tries = 0;
        while (rmdir(tree[i].dir) < 0) {
            if (errno != EBUSY || ++tries > 20000)
                die(tree[i].dir);
            nanosleep(&pause, NULL);
        }
        if (*tree[i].controllers)
            close(tree[i].tasks_fd);
    }
    if (v2_fd >= 0)
        close(v2_fd);
    v2_fd = -1;
}

static int in_root(int root, const char *path, int flags)
{
    struct open_how how = {.flags = (uint64_t)(flags | O_CLOEXEC), .resolve = RESOLVE_IN_ROOT};
    return (int)syscall(SYS_openat2, root, path, &how, sizeof how);
}

static char *fd_path(int fd)
{
    static char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return path;
}

static void mount_in(int root, const char *source, const char *target, const char *type, unsigned long flags,
                     const char *data)
{
    int fd = in_root(root, target, O_PATH);
    if (fd < 0 && errno == ENOENT) {
        CHECK(target, mkdirat(root, target, 0755));
        fd = in_root(root, target, O_PATH);
    }
    CHECK(target, fd);
    CHECK(target, mount(source, fd_path(fd), type, flags, data));
    close(fd);
}

static void mount_cgroups(int root)
{
    const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RELATIME;
    int v1 = 0;
    for (int i = 0; i < hierarchies; i++)
        v1 |= *tree[i].controllers != 0;
    if (!v1) {
        if (hierarchies)
            mount_in(root, "cgroup", "sys/fs/cgroup", "cgroup2", flags | MS_RDONLY, NULL);
        return;
    }
    mount_in(root, "cgroup", "sys/fs/cgroup", "tmpfs", flags, "mode=755");
    for (int i = 0; i < hierarchies; i++) {
        char target[512], base[128];
        const struct hierarchy *h = &tree[i];
        snprintf(base, sizeof base, "%s", strrchr(h->mount_point, '/') + 1);
        snprintf(target, sizeof target, "sys/fs/cgroup/%s", base);
        if (!(namespaces & CLONE_NEWCGROUP)) { // the container's own part of the host's tree
            mount_in(root, h->dir, target, NULL, MS_BIND | MS_REC, NULL);
            int fd = in_root(root, target, O_PATH);
            CHECK(target, fd);
            CHECK(target, mount(NULL, fd_path(fd), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL));
            close(fd);
        } else if (*h->controllers)
            mount_in(root, "cgroup", target, "cgroup", flags | MS_RDONLY, h->controllers);
        else
            mount_in(root, "cgroup", target, "cgroup2", flags | MS_RDONLY, NULL);
    }
    int fd = in_root(root, "sys/fs/cgroup", O_PATH);
    CHECK("sys/fs/cgroup", fd);
    CHECK("sys/fs/cgroup", mount(NULL, fd_path(fd), NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | flags, NULL));
    close(fd);
}

static void make_devices(int root)
{
    static const struct {
        const char *path;
        unsigned major, minor;
    } devices[] = {{"dev/null", 1, 3},   {"dev/zero", 1, 5},    {"dev/full", 1, 7},
                   {"dev/random", 1, 8}, {"dev/urandom", 1, 9}, {"dev/tty", 5, 0}};
    static const struct {
        const char *target, *path;
    } links[] = {{"pts/ptmx", "dev/ptmx"},          {"/proc/self/fd", "dev/fd"},       {"/proc/self/fd/0", "dev/stdin"},
                 {"/proc/self/fd/1", "dev/stdout"}, {"/proc/self/fd/2", "dev/stderr"}, {"/proc/kcore", "dev/core"}};
    umask(0);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        CHECK(devices[i].path,
              mknodat(root, devices[i].path, S_IFCHR | 0666, makedev(devices[i].major, devices[i].minor)));
        CHECK(devices[i].path, fchownat(root, devices[i].path, 0, 0, 0));
    }
    umask(022);
    for (size_t i = 0; i < sizeof links / sizeof *links; i++)
        CHECK(links[i].path, symlinkat(links[i].target, root, links[i].path));
}

static void mask_paths(void)
{
    static const char *masked[] = {"/proc/acpi",          "/proc/asound",     "/proc/kcore",       "/proc/keys",
                                   "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug",
                                   "/sys/firmware",       "/proc/scsi"};
    static const char *readonly[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
    for (size_t i = 0; i < sizeof readonly / sizeof *readonly; i++) {
        int fd = open(readonly[i], O_PATH | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            continue;
        CHECK(readonly[i], fd);
        CHECK(readonly[i], mount(fd_path(fd), fd_path(fd), NULL, MS_BIND | MS_REC, NULL));
        close(fd);
        CHECK(readonly[i], fd = open(readonly[i], O_PATH | O_CLOEXEC));
        CHECK(readonly[i], mount(NULL, fd_path(fd), NULL,
                                 MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
        close(fd);
    }
    for (size_t i = 0; i < sizeof masked / sizeof *masked; i++) {
        struct stat st;
        int fd = open(masked[i], O_PATH | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            continue;
        CHECK(masked[i], fd);
        CHECK(masked[i], fstat(fd, &st));
        if (S_ISDIR(st.st_mode))
            CHECK(masked[i], mount("tmpfs", fd_path(fd), "tmpfs", MS_RDONLY, NULL));
        else
            CHECK(masked[i], mount("/dev/null", fd_path(fd), NULL, MS_BIND, NULL));
        close(fd);
    }
}

static void loopback_up(void)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    strcpy(request.ifr_name, "lo");
    request.ifr_flags = IFF_UP;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    CHECK("socket", fd);
    CHECK("lo", ioctl(fd, SIOCSIFFLAGS, &request));
    close(fd);
}

static void drop_privileges(void)
{
    static const int keep[] = {29 /* CAP_AUDIT_WRITE */, 5 /* CAP_KILL */, 10 /* CAP_NET_BIND_SERVICE */};
    uint64_t mask = 0;
    for (size_t i = 0; i < sizeof keep / sizeof *keep; i++)
        mask |= 1ULL << keep[i];
    for (int capability = 0; capability <= CAP_LAST_CAP; capability++)
        if (!(mask >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0 && errno != EINVAL)
            child_failed("PR_CAPBSET_DROP");
    CHECK("PR_SET_KEEPCAPS", prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0));
    CHECK("setgroups", syscall(SYS_setgroups, 0, NULL));
    CHECK("setresgid", syscall(SYS_setresgid, 0, 0, 0));
    CHECK("setresuid", syscall(SYS_setresuid, 0, 0, 0));
    CHECK("PR_SET_KEEPCAPS", prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0));
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    for (int half = 0; half < 2; half++) {
        uint32_t bits = (uint32_t)(mask >> (32 * half));
        data[half] = (struct __user_cap_data_struct){.effective = bits, .permitted = bits};
    }
    CHECK("capset", syscall(SYS_capset, &header, data));
    CHECK("PR_CAP_AMBIENT", prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0));
    CHECK("PR_SET_NO_NEW_PRIVS", prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}

static _Noreturn __attribute__((noinline)) void container(void)
{
    // a thread that moves itself by `tasks` needs no RCU grace period (Linux 5.18), a write to cgroup.procs does
    for (int i = 0; i < hierarchies; i++)
        if (*tree[i].controllers)
            CHECK(tree[i].tasks, write(tree[i].tasks_fd, "0", 1));
    // a cgroup namespace is rooted where its maker stands: only now
    if (namespaces & CLONE_NEWCGROUP)
        CHECK("unshare(CLONE_NEWCGROUP)", unshare(CLONE_NEWCGROUP));
    CHECK("setsid", setsid());
    CHECK("sethostname", sethostname("floor", 5));
    if (namespaces & CLONE_NEWNET)
        loopback_up();
    CHECK("/", mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL));
    CHECK("rootfs", mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL));
    int root = open(rootfs, O_PATH | O_DIRECTORY | O_CLOEXEC);
    CHECK("rootfs", root);
    mount_in(root, "proc", "proc", "proc", 0, NULL);
    mount_in(root, "tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k");
    mount_in(root, "devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5");
    mount_in(root, "shm", "dev/shm", "tmpfs", MS_NOSUID | MS_NOEXEC | MS_NODEV, "mode=1777,size=65536k");
    mount_in(root, "mqueue", "dev/mqueue", "mqueue", MS_NOSUID | MS_NOEXEC | MS_NODEV, NULL);
    mount_in(root, "sysfs", "sys", "sysfs", MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RDONLY, NULL);
    mount_cgroups(root);
    make_devices(root);
    CHECK("rootfs", fchdir(root));
    CHECK("pivot_root", syscall(SYS_pivot_root, ".", "."));
    CHECK("old root", mount(NULL, ".", NULL, MS_SLAVE | MS_REC, NULL));
    CHECK("old root", umount2(".", MNT_DETACH));
    CHECK("/", chdir("/"));
    mask_paths();
    CHECK("read-only root", mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    CHECK("keyctl", syscall(SYS_keyctl, 1L /* KEYCTL_JOIN_SESSION_KEYRING */, name));
    struct rlimit limit = {1024, 1024};
    CHECK("RLIMIT_NOFILE", prlimit(0, RLIMIT_NOFILE, &limit, NULL));
    drop_privileges();
    CHECK("/", chdir("/"));
    CHECK("close_range", syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC));
    static char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm",
                                  NULL};
    execve(program[0], program, environment);
    child_failed(program[0]);
}

// clone3 on our own stack, as vfork does: inline, because a libc wrapper's return address would be overwritten by the child.
static inline __attribute__((always_inline)) long clone3(struct clone_args *args)
{
#if defined __x86_64__
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"((long)SYS_clone3), "D"(args), "S"(sizeof *args)
                     : "rcx", "r11", "memory");
    return result;
#elif defined __aarch64__
    register long number __asm__("x8") = SYS_clone3;
    register long first __asm__("x0") = (long)args;
    register long second __asm__("x1") = sizeof *args;
    __asm__ volatile("svc 0" : "+r"(first) : "r"(number), "r"(second) : "memory");
    return first;
#else
    args->flags &= ~(uint64_t)(CLONE_VM | CLONE_VFORK);
    long result = syscall(SYS_clone3, args, sizeof *args);
    return result < 0 ? -errno : result;
#endif
}

static __attribute__((noinline)) long long one_container(void)
{
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    make_cgroups();
    struct clone_args args = {.flags = CLONE_VM | CLONE_VFORK | (namespaces & ~(uint64_t)CLONE_NEWCGROUP),
                              .exit_signal = SIGCHLD};
    if (v2_fd >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (uint64_t)v2_fd;
    }
    long pid = clone3(&args);
    if (pid == 0)
        container();
    if (pid < 0) {
        errno = (int)-pid;
        die("clone3");
    }
    int status;
    if (waitpid((pid_t)pid, &status, 0) < 0)
        die("waitpid");
    remove_cgroups();
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (failed_step) {
        errno = failed_errno;
        die(failed_step);
    }
    if (status != 0) {
        fprintf(stderr, "floor: %s ended with status %#x\n", program[0], status);
        exit(1);
    }
    return (end.tv_sec - begin.tv_sec) * 1000000000LL + (end.tv_nsec - begin.tv_nsec);
}

static uint64_t parse_namespaces(char *list)
{
    static const struct {
        const char *name;
        uint64_t flag;
    } known[] = {{"pid", CLONE_NEWPID}, {"network", CLONE_NEWNET}, {"ipc", CLONE_NEWIPC},
                 {"uts", CLONE_NEWUTS}, {"mount", CLONE_NEWNS},    {"cgroup", CLONE_NEWCGROUP}};
    uint64_t flags = 0;
    for (char *save, *word = strtok_r(list, ",", &save); word; word = strtok_r(NULL, ",", &save)) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(known[i].name, word))
            i++;
        if (i == sizeof known / sizeof *known) {
            fprintf(stderr, "floor: unknown namespace %s\n", word);
            exit(1);
        }
        flags |= known[i].flag;
    }
    return flags;
}

int main(int argc, char **argv)
{
    char line[64];
    if (argc < 5) {
        fprintf(stderr, "usage: floor ROOTFS CGROUP_NAME NAMESPACES PROGRAM [ARG...]\n");
        return 1;
    }
    rootfs = argv[1];
    name = argv[2];
    namespaces = parse_namespaces(argv[3]);
    program = argv + 4;
    find_hierarchies();
    while (fgets(line, sizeof line, stdin)) {
        printf("%lld\n", one_container());
        fflush(stdout);
    }
    return 0;
}
