/* Makes system calls fail by a plan that a test writes while the process runs: for tests/faults/plan.py.
 *
 * Preloaded (LD_PRELOAD) it stands before the functions of libc that CPython calls. The plan is a file in shared memory,
 * named by FAULTS_PLAN, which every process of a daemon maps; without it nothing is ever done. A call that no rule
 * names costs one load of a number that is zero.
 *
 * What it cannot reach: system calls that libc makes inside of itself (fopen's open, fork's clone). Those have wrappers
 * of their own here where it matters. Not thread-local, not signal-safe beyond what the wrapped functions are: the only
 * state is the mapping, and numbers in it are changed by single atomic operations.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

/* plan.py has the same layout. */
#define RULES 16
struct rule {
    _Atomic int32_t on;
    int32_t error;      /* errno; 0: the call does one byte only */
    int32_t pid;        /* 0: every process */
    int32_t forever;    /* until it is switched off; else `left` times */
    _Atomic int64_t left;
    _Atomic int64_t hits;
    char call[32];
    char kind[64];      /* see is_kind; "": any descriptor */
};
struct plan {
    _Atomic int32_t on; /* whether any rule is */
    int32_t spare[15];
    struct rule rules[RULES];
};

static struct plan *plan;

static int (*real_open)(const char *, int, ...);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("FAULTS_PLAN");
    if (path == NULL) return;
    real_open = dlsym(RTLD_NEXT, "open64");
    void *(*map)(void *, size_t, int, int, int, off64_t) = dlsym(RTLD_NEXT, "mmap64");
    int fd = real_open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *found = map(NULL, sizeof(struct plan), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (found != MAP_FAILED) plan = found;
}

static int option(int fd, int name) {
    int value = -1;
    socklen_t size = sizeof value;
    return getsockopt(fd, SOL_SOCKET, name, &value, &size) == 0 ? value : -1;
}

static int is_kind(const char *kind, int fd, const char *path) {
    if (kind[0] == 0) return 1;
    if (kind[0] == '/') return path != NULL && strncmp(path, kind, strlen(kind)) == 0;
    if (strcmp(kind, "log") == 0) return fd == 1 || fd == 2;
    if (strcmp(kind, "file") == 0) {
        struct stat64 found;
        return fstat64(fd, &found) == 0 && S_ISREG(found.st_mode);
    }
    int type = option(fd, SO_TYPE), family = option(fd, SO_DOMAIN), listens = option(fd, SO_ACCEPTCONN);
    if (strcmp(kind, "client") == 0)   /* a connection of a client, TCP */
        return type == SOCK_STREAM && family != AF_UNIX && listens == 0;
    if (strcmp(kind, "listener") == 0) return type == SOCK_STREAM && family != AF_UNIX && listens == 1;
    if (strcmp(kind, "channel") == 0) return type == SOCK_SEQPACKET;
    if (strcmp(kind, "unix") == 0)     /* signals, control, a loop's own wake-up */
        return type == SOCK_STREAM && family == AF_UNIX;
    if (strcmp(kind, "epoll") == 0 || strcmp(kind, "eventfd") == 0 || strcmp(kind, "memfd") == 0) {
        char name[64], target[256];
        snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
        ssize_t size = readlink(name, target, sizeof target - 1);
        if (size < 0) return 0;
        target[size] = 0;
        return strstr(target, kind) != NULL;
    }
    return 0;
}

/* Whether `call` shall fail now; 2: it shall do one byte only. errno is set, or as it was. */
static int fails(const char *call, int fd, const char *path) {
    if (plan == NULL || atomic_load_explicit(&plan->on, memory_order_relaxed) == 0) return 0;
    int before = errno;
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &plan->rules[i];
        if (!atomic_load(&rule->on) || strcmp(rule->call, call) != 0) continue;
        if (rule->pid != 0 && rule->pid != getpid()) continue;
        if (!is_kind(rule->kind, fd, path)) continue;
        if (!rule->forever && atomic_fetch_sub(&rule->left, 1) <= 0) {
            atomic_fetch_add(&rule->left, 1);
            continue;
        }
        atomic_fetch_add(&rule->hits, 1);
        errno = rule->error ? rule->error : before;
        return rule->error ? 1 : 2;
    }
    errno = before;
    return 0;
}

#define REAL(name) \
    static __typeof__(&name) real; \
    if (real == NULL) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* type, name, parameters, arguments, the name in the plan, the descriptor */
#define WRAP(type, name, parameters, arguments, call, fd) \
    type name parameters { \
        REAL(name); \
        if (fails(call, fd, NULL) == 1) return (type)-1; \
        return real arguments; \
    }

/* As WRAP, for calls that can be short: `size` is lowered to 1. */
#define SHORT(name, parameters, arguments, call, fd) \
    ssize_t name parameters { \
        REAL(name); \
        switch (fails(call, fd, NULL)) { \
        case 1: return -1; \
        case 2: if (size > 1) size = 1; \
        } \
        return real arguments; \
    }

WRAP(int, accept, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n), "accept", fd)
WRAP(int, accept4, (int fd, struct sockaddr *a, socklen_t *n, int f), (fd, a, n, f), "accept", fd)
SHORT(recv, (int fd, void *data, size_t size, int f), (fd, data, size, f), "recv", fd)
SHORT(recvfrom, (int fd, void *data, size_t size, int f, struct sockaddr *a, socklen_t *n),
      (fd, data, size, f, a, n), "recv", fd)
WRAP(ssize_t, recvmsg, (int fd, struct msghdr *m, int f), (fd, m, f), "recvmsg", fd)
SHORT(send, (int fd, const void *data, size_t size, int f), (fd, data, size, f), "send", fd)
SHORT(sendto, (int fd, const void *data, size_t size, int f, const struct sockaddr *a, socklen_t n),
      (fd, data, size, f, a, n), "send", fd)
WRAP(ssize_t, sendmsg, (int fd, const struct msghdr *m, int f), (fd, m, f), "sendmsg", fd)
SHORT(read, (int fd, void *data, size_t size), (fd, data, size), "read", fd)
SHORT(write, (int fd, const void *data, size_t size), (fd, data, size), "write", fd)
WRAP(ssize_t, writev, (int fd, const struct iovec *v, int n), (fd, v, n), "writev", fd)
SHORT(sendfile64, (int fd, int from, off64_t *at, size_t size), (fd, from, at, size), "sendfile", fd)
SHORT(pread64, (int fd, void *data, size_t size, off64_t at), (fd, data, size, at), "pread", fd)
WRAP(ssize_t, pwrite64, (int fd, const void *data, size_t size, off64_t at), (fd, data, size, at), "pwrite", fd)
WRAP(int, ftruncate64, (int fd, off64_t size), (fd, size), "ftruncate", fd)
WRAP(int, epoll_create1, (int f), (f), "epoll_create", -1)
WRAP(int, epoll_ctl, (int fd, int op, int which, struct epoll_event *e), (fd, op, which, e), "epoll_ctl", which)
WRAP(int, epoll_wait, (int fd, struct epoll_event *e, int n, int t), (fd, e, n, t), "epoll_wait", fd)
WRAP(int, epoll_pwait, (int fd, struct epoll_event *e, int n, int t, const sigset_t *s), (fd, e, n, t, s),
     "epoll_wait", fd)
WRAP(int, poll, (struct pollfd *f, nfds_t n, int t), (f, n, t), "poll", -1)
WRAP(int, select, (int n, fd_set *r, fd_set *w, fd_set *e, struct timeval *t), (n, r, w, e, t), "select", -1)
WRAP(int, eventfd, (unsigned value, int f), (value, f), "eventfd", -1)
WRAP(int, memfd_create, (const char *name, unsigned f), (name, f), "memfd_create", -1)
WRAP(int, socketpair, (int d, int t, int p, int v[2]), (d, t, p, v), "socketpair", -1)
WRAP(int, socket, (int d, int t, int p), (d, t, p), "socket", -1)
WRAP(int, pipe2, (int v[2], int f), (v, f), "pipe", -1)
WRAP(int, getsockname, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n), "getsockname", fd)
WRAP(int, shutdown, (int fd, int how), (fd, how), "shutdown", fd)
WRAP(pid_t, fork, (void), (), "fork", -1)

void *mmap64(void *at, size_t size, int protection, int flags, int fd, off64_t offset) {
    REAL(mmap64);
    /* Not memory for the interpreter itself: only files. */
    if (fd >= 0 && fails("mmap", fd, NULL) == 1) return MAP_FAILED;
    return real(at, size, protection, flags, fd, offset);
}

int pthread_create(pthread_t *id, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
    REAL(pthread_create);
    if (fails("pthread_create", -1, NULL) == 1) return errno;
    return real(id, attributes, body, argument);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) {
    REAL(open);
    MODE(flags)
    return fails("open", -1, path) == 1 ? -1 : real(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    REAL(open64);
    MODE(flags)
    return fails("open", -1, path) == 1 ? -1 : real(path, flags, mode);
}

int openat64(int folder, const char *path, int flags, ...) {
    REAL(openat64);
    MODE(flags)
    return fails("open", -1, path) == 1 ? -1 : real(folder, path, flags, mode);
}

FILE *fopen64(const char *path, const char *mode) {
    REAL(fopen64);
    return fails("open", -1, path) == 1 ? NULL : real(path, mode);
}

DIR *opendir(const char *path) {
    REAL(opendir);
    return fails("open", -1, path) == 1 ? NULL : real(path);
}

/* os.dup is F_DUPFD_CLOEXEC. */
#define CONTROL(name) \
    int name(int fd, int command, ...) { \
        REAL(name); \
        va_list rest; \
        va_start(rest, command); \
        void *argument = va_arg(rest, void *); \
        va_end(rest); \
        if (command == F_DUPFD_CLOEXEC && fails("dup", fd, NULL) == 1) return -1; \
        return real(fd, command, argument); \
    }
CONTROL(fcntl)
CONTROL(fcntl64)

/* CPython asks for a pidfd this way. */
long syscall(long number, ...) {
    REAL(syscall);
    long a[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_pidfd_open && fails("pidfd_open", -1, NULL) == 1) return -1;
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
