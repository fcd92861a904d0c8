/* The load at a fixed rate: requests that are due at fixed times, whether the server keeps up or not (an open loop).
 *
 *     rate_load PORT CONNECTIONS RATE SECONDS REQUEST ANSWER
 *
 * REQUEST and ANSWER are files: the request as it is sent, and the body of the right answer. Eight '#' in a row in the
 * request are replaced by a number that is another one each time. RATE is in requests a second; 0: a closed loop, in
 * which every connection sends its next request when it has its answer.
 *
 * One thread and one epoll. All connections are opened before the clock starts, and kept. Request number i is due at
 * i / RATE seconds and goes out on the connection that has been idle for longest, or waits for one; its latency counts
 * from when it was DUE, so what a slow server holds up is not left out (no "coordinated omission"). Requests that are
 * not answered two seconds after the end count in the percentiles with the time that they have waited until then, and
 * are told as "unanswered". How late this program itself was is told too: from when a request was due and a
 * connection idle until it was sent.
 *
 * Every answer must be a 200 with the length and the bytes of ANSWER; another one counts as an error and ends its
 * connection. Writes one line, RESULT and JSON with the names that wrk_done.lua uses, and ends with 0; what stops it
 * before that it says on standard error, and ends with 1.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 4096, READ = 1 << 18, MICROS = 1000000 /* buckets of 1 us */, MILLIS = 60000 /* then of 1 ms */ };
#define SECOND 1000000000ull
#define GRACE (2 * SECOND)
#define MARK "########"

struct file { char *bytes; size_t length; };
struct histogram { uint64_t total, most; uint32_t counts[MICROS + MILLIS]; };

enum state { IDLE, ASKING, DEAD };
struct connection {
    int fd;
    enum state state;
    int watches_out;      /* the kernel did not take the whole request */
    uint64_t due;         /* of its request */
    uint64_t idle_since;
    size_t sent;          /* bytes of the request */
    size_t head;          /* bytes of the answer's head, so far */
    size_t body;          /* bytes of its body, so far */
    int in_body;
    char number[sizeof MARK];
    char in[HEAD + 1];
    struct connection *next; /* in the queue of the idle */
};

static struct file request, answer;
static size_t mark; /* where the number stands in the request; its length: there is none */
static struct connection *first_idle, *last_idle;
static struct histogram latency, lateness;
static uint64_t answered, bytes, failed_reads, failed_writes, wrong, open_connections, counter;
static uint64_t begin, end;
static int loop;

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * SECOND + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    fprintf(stderr, "rate_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void record(struct histogram *h, uint64_t ns) {
    uint64_t us = ns / 1000, bucket = us;
    if (us >= MICROS)
        bucket = MICROS + (us - MICROS) / 1000;
    if (bucket >= MICROS + MILLIS)
        bucket = MICROS + MILLIS - 1;
    h->counts[bucket]++;
    h->total++;
    if (us > h->most)
        h->most = us;
}

/* The least time that so many thousandths of them did not exceed, in us (to the ms, above a second). */
static uint64_t quantile(const struct histogram *h, uint64_t thousandths) {
    uint64_t wanted = (h->total * thousandths + 999) / 1000, seen = 0;
    for (uint64_t bucket = 0; h->total && bucket < MICROS + MILLIS; bucket++)
        if ((seen += h->counts[bucket]) >= wanted)
            return bucket < MICROS ? bucket : MICROS + (bucket - MICROS) * 1000;
    return h->most;
}

static struct file whole(const char *path) {
    struct file file = {0};
    FILE *stream = fopen(path, "rb");
    if (!stream || fseek(stream, 0, SEEK_END) || (file.length = (size_t)ftell(stream), fseek(stream, 0, SEEK_SET)))
        die(path);
    file.bytes = malloc(file.length + 1);
    if (!file.bytes || fread(file.bytes, 1, file.length, stream) != file.length)
        die(path);
    file.bytes[file.length] = 0;
    fclose(stream);
    return file;
}

static void idle(struct connection *c, uint64_t now) {
    c->state = IDLE;
    c->idle_since = now;
    c->next = NULL;
    if (first_idle)
        last_idle->next = c;
    else
        first_idle = c;
    last_idle = c;
}

/* The connection that has been idle for longest; those that were lost meanwhile are passed over. */
static struct connection *longest_idle(void) {
    while (first_idle && first_idle->state != IDLE)
        first_idle = first_idle->next;
    return first_idle;
}

static void lose(struct connection *c, uint64_t *why) {
    ++*why;
    c->state = DEAD;
    open_connections--;
    close(c->fd);
}

static void watch(struct connection *c, int out) {
    struct epoll_event event = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
    if (c->watches_out != out && epoll_ctl(loop, EPOLL_CTL_MOD, c->fd, &event))
        die("epoll_ctl");
    c->watches_out = out;
}

/* Send what is left of the request, as far as the kernel takes it. */
static void push(struct connection *c) {
    while (c->sent < request.length) {
        size_t behind = mark + strlen(MARK), skip = c->sent;
        struct iovec parts[3] = {{request.bytes, mark}, {c->number, 0}, {NULL, 0}};
        if (mark < request.length) {
            parts[1].iov_len = strlen(MARK);
            parts[2] = (struct iovec){request.bytes + behind, request.length - behind};
        }
        for (int i = 0; i < 3; i++) {
            size_t done = skip < parts[i].iov_len ? skip : parts[i].iov_len;
            parts[i].iov_base = (char *)parts[i].iov_base + done;
            parts[i].iov_len -= done;
            skip -= done;
        }
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = 3};
        ssize_t sent = sendmsg(c->fd, &message, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            watch(c, 1);
            return;
        }
        if (sent < 0) {
            lose(c, &failed_writes);
            return;
        }
        c->sent += (size_t)sent;
    }
    watch(c, 0);
}

static void ask(struct connection *c, uint64_t due) {
    c->state = ASKING;
    c->due = due;
    c->sent = c->head = c->body = 0;
    c->in_body = 0;
    snprintf(c->number, sizeof c->number, "%08u", (unsigned)(counter++ % 100000000u));
    push(c);
}

/* Whether the head of an answer, which is complete, is the right one. */
static int right_head(const char *head) {
    if (strncmp(head, "HTTP/1.1 200 ", 13))
        return 0;
    for (const char *line = head; (line = strstr(line, "\r\n")) && line[2] != '\r'; line += 2)
        if (!strncasecmp(line + 2, "content-length:", 15))
            return strtoull(line + 17, NULL, 10) == answer.length;
    return 0;
}

/* Take in what was received: 1 the answer is complete, 0 not yet, -1 it is wrong. */
static int take(struct connection *c, const char *data, size_t length) {
    if (c->state != ASKING) /* nothing was asked */
        return -1;
    if (!c->in_body) {
        size_t room = HEAD - c->head, part = length < room ? length : room, before = c->head;
        memcpy(c->in + before, data, part);
        c->head += part;
        c->in[c->head] = 0;
        char *stop = strstr(c->in + (before > 3 ? before - 3 : 0), "\r\n\r\n");
        if (!stop)
            return c->head == HEAD ? -1 : 0;
        stop[3] = 0; /* what is behind belongs to the body */
        if (!right_head(c->in))
            return -1;
        c->in_body = 1;
        size_t used = (size_t)(stop + 4 - c->in) - before;
        c->head = (size_t)(stop + 4 - c->in);
        data += used;
        length -= used;
    }
    if (length > answer.length - c->body || memcmp(data, answer.bytes + c->body, length))
        return -1;
    c->body += length;
    if (c->body < answer.length)
        return 0;
    return c->sent == request.length ? 1 : -1; /* an answer before the whole request was sent is none to it */
}

static void on_readable(struct connection *c, int closed_loop) {
    static char data[READ];
    ssize_t got = recv(c->fd, data, READ, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        lose(c, &failed_reads);
        return;
    }
    int found = take(c, data, (size_t)got);
    if (found < 0) {
        if (!wrong)
            fprintf(stderr, "rate_load: wrong: %.60s\n", c->head ? c->in : data);
        lose(c, &wrong);
        return;
    }
    if (!found)
        return;
    uint64_t now = now_ns();
    if (!closed_loop || now < end) {
        record(&latency, now - c->due);
        answered++;
        bytes += c->head + c->body;
    }
    if (closed_loop && now < end)
        ask(c, now);
    else
        idle(c, now);
}

static void open_connection(struct connection *c, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
        die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    if (epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &event))
        die("epoll_ctl");
    open_connections++;
}

static void allow_descriptors(rlim_t count) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur >= count)
        return;
    limit.rlim_cur = count;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        die("setrlimit");
}

/* Wait for events, at most until `until`: to the nanosecond where the kernel can (5.11), else without sleeping. */
static int wait_for(struct epoll_event *events, int room, uint64_t until) {
    static int precise = 1;
    uint64_t now = now_ns(), left = until > now ? until - now : 0;
    struct timespec t = {.tv_sec = (time_t)(left / SECOND), .tv_nsec = (long)(left % SECOND)};
#ifdef SYS_epoll_pwait2
    if (precise) {
        int ready = (int)syscall(SYS_epoll_pwait2, loop, events, room, &t, NULL, (size_t)0);
        if (ready >= 0 || errno != ENOSYS)
            return ready;
        precise = 0;
    }
#endif
    (void)precise, (void)t;
    return epoll_wait(loop, events, room, left > 5000000u ? (int)(left / 1000000u) - 1 : 0);
}

static uint64_t due_at(uint64_t number, double rate) {
    return begin + (uint64_t)((double)number * 1e9 / rate);
}

/* Send what is due and finds an idle connection; returns how many were sent so far. */
static uint64_t ask_what_is_due(uint64_t asked, uint64_t due_in_all, double rate) {
    struct connection *c;
    uint64_t now = now_ns(), due;
    while (asked < due_in_all && (due = due_at(asked, rate)) <= now && (c = longest_idle())) {
        first_idle = c->next;
        record(&lateness, now - (due > c->idle_since ? due : c->idle_since));
        ask(c, due);
        asked++;
        now = now_ns();
    }
    return asked;
}

static uint64_t under_way(const struct connection *all, uint64_t count) {
    uint64_t found = 0;
    for (uint64_t i = 0; i < count; i++)
        found += all[i].state == ASKING;
    return found;
}

/* The times that count; returns how many requests were due. */
static uint64_t run(struct connection *all, uint64_t count, double rate, double seconds) {
    int closed_loop = rate <= 0;
    uint64_t due_in_all = closed_loop ? 0 : (uint64_t)(rate * seconds), asked = 0, now;
    begin = now_ns();
    end = begin + (uint64_t)(seconds * 1e9);
    for (uint64_t i = 0; i < count; i++)
        if (closed_loop)
            ask(&all[i], now_ns());
        else
            idle(&all[i], begin);
    while (open_connections) {
        asked = ask_what_is_due(asked, due_in_all, rate);
        now = now_ns();
        if (now >= end + GRACE || (now >= end && asked == due_in_all && !under_way(all, count)))
            break;
        uint64_t next = now < end ? end : end + GRACE;
        if (asked < due_in_all && longest_idle())
            next = due_at(asked, rate);
        struct epoll_event events[256];
        int ready = wait_for(events, 256, next);
        for (int i = 0; i < ready; i++) {
            struct connection *c = events[i].data.ptr;
            if (c->state == ASKING && events[i].events & EPOLLOUT)
                push(c);
            if (c->state != DEAD && events[i].events & (EPOLLIN | EPOLLERR | EPOLLHUP))
                on_readable(c, closed_loop);
        }
    }
    if (closed_loop)
        return 0;
    now = now_ns();
    for (uint64_t number = asked; number < due_in_all; number++)
        record(&latency, now - due_at(number, rate));
    for (uint64_t i = 0; i < count; i++)
        if (all[i].state == ASKING)
            record(&latency, now - all[i].due);
    return due_in_all;
}

int main(int argc, char **argv) {
    if (argc != 7) {
        fprintf(stderr, "usage: rate_load PORT CONNECTIONS RATE SECONDS REQUEST ANSWER\n");
        return 1;
    }
    uint64_t count = strtoull(argv[2], NULL, 10);
    double rate = atof(argv[3]);
    request = whole(argv[5]);
    answer = whole(argv[6]);
    char *found = memmem(request.bytes, request.length, MARK, strlen(MARK));
    mark = found ? (size_t)(found - request.bytes) : request.length;
    struct connection *all = calloc(count, sizeof *all);
    if (!count || !all || (loop = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("start");
    allow_descriptors(count + 20);
    prctl(PR_SET_TIMERSLACK, 1000ul); /* ns; a thread's timers are 50 us late without it */
    for (uint64_t i = 0; i < count; i++)
        open_connection(&all[i], atoi(argv[1]));
    uint64_t due = run(all, count, rate, atof(argv[4])), stop = now_ns();
    if (rate <= 0)
        stop = end;
    printf("RESULT {\"requests\": %llu, \"duration_us\": %llu, \"bytes\": %llu, \"p50_us\": %llu, \"p99_us\": %llu, "
           "\"p999_us\": %llu, \"max_us\": %llu, \"connect\": 0, \"read\": %llu, \"write\": %llu, \"timeout\": 0, "
           "\"status\": %llu, \"due\": %llu, \"unanswered\": %llu, \"late_p50_us\": %llu, \"late_p99_us\": %llu, "
           "\"late_max_us\": %llu}\n",
           (unsigned long long)answered, (unsigned long long)((stop - begin) / 1000), (unsigned long long)bytes,
           (unsigned long long)quantile(&latency, 500), (unsigned long long)quantile(&latency, 990),
           (unsigned long long)quantile(&latency, 999), (unsigned long long)latency.most,
           (unsigned long long)failed_reads, (unsigned long long)failed_writes, (unsigned long long)wrong,
           (unsigned long long)due, (unsigned long long)(due > answered ? due - answered : 0),
           (unsigned long long)quantile(&lateness, 500), (unsigned long long)quantile(&lateness, 990),
           (unsigned long long)lateness.most);
    return 0;
}
