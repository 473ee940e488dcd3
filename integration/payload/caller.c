/* SPDX-License-Identifier: Apache-2.0
 *
 * System calls as a hostile or merely unusual program makes them, for on_syscall's tests and Landlock's. Prints a line.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sockaddr_in *address;
static volatile char *path;
static in_port_t good, bad;
static volatile int stop;

static struct sockaddr_in local(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static void *flip_port(void *unused)
{
    (void)unused;
    while (!stop) {
        *(volatile in_port_t *)&address->sin_port = bad;
        *(volatile in_port_t *)&address->sin_port = good;
    }
    return NULL;
}

static void *flip_path(void *unused)
{
    (void)unused;
    while (!stop) {
        path[1] = 'b';
        path[1] = 'g';
    }
    return NULL;
}

/* connect(2) in a loop while another thread changes the address from one port to another and back */
static int race_connect(int a, int b, int rounds)
{
    struct sockaddr_in at = local(a);
    pthread_t thread;
    int connected = 0;
    address = &at;
    good = htons((unsigned short)a);
    bad = htons((unsigned short)b);
    pthread_create(&thread, NULL, flip_port, NULL);
    for (int i = 0; i < rounds; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        connected += connect(fd, (struct sockaddr *)&at, sizeof at) == 0;
        close(fd);
    }
    stop = 1;
    pthread_join(thread, NULL);
    printf("%d of %d\n", connected, rounds);
    return 0;
}

static int race_open(int rounds)
{
    static char name[] = "/good";
    pthread_t thread;
    int opened = 0;
    path = name;
    pthread_create(&thread, NULL, flip_path, NULL);
    for (int i = 0; i < rounds; i++) {
        int fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY);
        char text[64] = "";
        if (fd >= 0 && read(fd, text, sizeof text - 1) >= 0) {
            opened++;
            if (strcmp(text, "good\n") != 0) {
                printf("read %s", text);
                return 1;
            }
        }
        close(fd);
    }
    stop = 1;
    pthread_join(thread, NULL);
    printf("%d of %d\n", opened, rounds);
    return 0;
}

/* socketcall(2), as 32-bit programs have it: everything in the low 4 GiB */
static int int80(int port)
{
#ifdef __x86_64__
    char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    struct sockaddr_in at = local(port);
    unsigned *args = (unsigned *)low;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    memcpy(low + 64, &at, sizeof at);
    args[0] = (unsigned)fd;
    args[1] = (unsigned)(unsigned long)(low + 64);
    args[2] = sizeof at;
    long by_socketcall, direct;
    __asm__ volatile("int $0x80"
                     : "=a"(by_socketcall)
                     : "a"(102L), "b"(3L), "c"((long)low)
                     : "memory", "r8", "r9", "r10", "r11");
    __asm__ volatile("int $0x80"
                     : "=a"(direct)
                     : "a"(362L), "b"((long)fd), "c"((long)(low + 64)), "d"((long)sizeof at)
                     : "memory", "r8", "r9", "r10", "r11");
    printf("%d %d\n", (int)by_socketcall, (int)direct);
#else
    (void)port;
#endif
    return 0;
}

static int bomb(int children, int calls)
{
    for (int i = 0; i < children; i++)
        if (fork() == 0) {
            for (int n = 0; n < calls; n++)
                syscall(SYS_mkdirat, AT_FDCWD, "/tmp/x", 0700);
            _exit(errno == EBUSY ? 0 : 1);
        }
    int good_ones = 0, status;
    while (wait(&status) > 0)
        good_ones += status == 0;
    printf("%d\n", good_ones);
    return 0;
}

/* a filter of its own with a listener of its own, to be asked in our place */
static int listener(void)
{
    struct sock_filter code[] = {{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW}};
    struct sock_fprog program = {1, code};
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    long r = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    printf("%d\n", r < 0 ? errno : 0);
    return 0;
}

static int opened(const char *name)
{
    int fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDONLY);
    char text[64] = "";
    if (fd < 0)
        return printf("errno %d\n", errno) < 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    printf("fd %d flags %d: %.*s\n", fd, fcntl(fd, F_GETFD), (int)n, text);
    return 0;
}

static int connected(int port)
{
    struct sockaddr_in at = local(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    printf("%d\n", connect(fd, (struct sockaddr *)&at, sizeof at) ? errno : 0);
    return 0;
}

static int bound(int port)
{
    struct sockaddr_in at = local(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    printf("%d\n", bind(fd, (struct sockaddr *)&at, sizeof at) ? errno : 0);
    return 0;
}

static int abstract(const char *name)
{
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(at.sun_path + 1, name, sizeof at.sun_path - 2);
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(name));
    printf("%d\n", connect(fd, (struct sockaddr *)&at, size) ? errno : 0);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    int a = argc > 2 ? atoi(argv[2]) : 0, b = argc > 3 ? atoi(argv[3]) : 0, n = argc > 4 ? atoi(argv[4]) : 0;
    if (!strcmp(what, "race-connect"))
        return race_connect(a, b, n);
    if (!strcmp(what, "race-open"))
        return race_open(a);
    if (!strcmp(what, "int80"))
        return int80(a);
    if (!strcmp(what, "bomb"))
        return bomb(a, b);
    if (!strcmp(what, "listener"))
        return listener();
    if (!strcmp(what, "open"))
        return opened(argv[2]);
    if (!strcmp(what, "connect"))
        return connected(a);
    if (!strcmp(what, "bind"))
        return bound(a);
    if (!strcmp(what, "abstract"))
        return abstract(argv[2]);
    if (!strcmp(what, "kill"))
        return printf("%d\n", kill(a, b) ? errno : 0) < 0;
    if (!strcmp(what, "call")) { /* any number, with up to five arguments that are numbers */
        long args[6] = {0};
        for (int i = 0; i < 5 && i + 3 < argc; i++)
            args[i] = atol(argv[i + 3]);
        long r = syscall(atol(argv[2]), args[0], args[1], args[2], args[3], args[4]);
        printf("%ld\n", r < 0 ? -(long)errno : r);
        return 0;
    }
    return 2;
}
