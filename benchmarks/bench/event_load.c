/* The load for event streams: connections that each ask once, and count the numbered events that come.
 *
 *     event_load PORT CONNECTIONS SECONDS
 *
 * One thread and one epoll. Each stream must be 200, chunked, and have as events `data: {"id":N,"text":"Hello, World!"}`
 * and an empty line, where N has ten digits, is 1 at first and then one more each time: anything else counts as wrong
 * and ends the connection, as does its end. Chunks may be cut in any way. Time and events are counted from the first
 * connect on, so that no event is counted that was made before; a stream without any is a timeout. Writes one line,
 * RESULT and JSON with the names that wrk_done.lua uses (a latency is the time between two reads of one stream that had
 * events), and ends with 0; what stops it before that it says on standard error, and ends with 1.
 */
#define _GNU_SOURCE /* strcasestr */
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
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 65536, HEAD = 4096, BUCKETS = 1000000 /* of 1 us: slower ones count as 1 s */ };
enum { DIGITS = 10, DIGITS_AT = 12, EVENT = 48 };
static const char PATTERN[] = "data: {\"id\":0000000000,\"text\":\"Hello, World!\"}\n\n";
_Static_assert(sizeof PATTERN == EVENT + 1, "the pattern is an event");

/* Where in the chunked body a stream is (RFC 9112 7.1). */
enum part { SIZE, SIZE_END, DATA, DATA_CR, DATA_LF };

struct stream {
    int fd;
    enum part part;
    size_t chunk;    /* what is left of it */
    int digits;      /* of its size that were read */
    uint64_t number; /* of the event that is read */
    uint64_t read;   /* the digits of that event so far */
    size_t at;       /* bytes of it that were read */
    uint64_t last; /* when it had events */
};

static uint32_t histogram[BUCKETS];
static uint64_t answered, timed, slowest, ended, wrong;
static unsigned char buffer[BUFFER];

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void die(const char *what) {
    fprintf(stderr, "event_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void refuse(const char *what, const char *head) {
    fprintf(stderr, "event_load: %s: %.60s\n", what, head);
    exit(1);
}

/* The bytes of events, cut anywhere: how many ended, or -1 when one is wrong. */
static int take_events(struct stream *s, const unsigned char *data, size_t length) {
    int found = 0;
    while (length) {
        if (s->at == 0 && length >= EVENT) { /* a whole one: most are */
            for (int i = 0; i < DIGITS; i++) {
                unsigned digit = data[DIGITS_AT + i] - (unsigned)'0';
                if (digit > 9)
                    return -1;
                s->read = s->read * 10 + digit;
            }
            if (memcmp(data, PATTERN, DIGITS_AT) ||
                memcmp(data + DIGITS_AT + DIGITS, PATTERN + DIGITS_AT + DIGITS, EVENT - DIGITS_AT - DIGITS))
                return -1;
            s->at = EVENT;
            data += EVENT;
            length -= EVENT;
        } else {
            unsigned char byte = *data++;
            length--;
            if (s->at >= DIGITS_AT && s->at < DIGITS_AT + DIGITS) {
                if (byte < '0' || byte > '9')
                    return -1;
                s->read = s->read * 10 + (byte - (unsigned)'0');
            } else if (byte != (unsigned char)PATTERN[s->at]) {
                return -1;
            }
            s->at++;
        }
        if (s->at == EVENT) {
            if (s->read != ++s->number)
                return -1;
            s->read = s->at = 0;
            found++;
        }
    }
    return found;
}

/* Bytes of the chunked body, cut anywhere: how many events ended, or -1 when something is wrong or the stream ends. */
static int take(struct stream *s, const unsigned char *data, size_t length) {
    int found = 0;
    for (size_t i = 0; i < length;) {
        unsigned char byte = data[i];
        switch (s->part) {
        case SIZE:
            i++;
            if (byte == '\r') {
                if (!s->digits || !s->chunk) /* a chunk of no bytes is the end */
                    return -1;
                s->part = SIZE_END;
            } else {
                int digit = byte >= '0' && byte <= '9'   ? byte - '0'
                            : byte >= 'a' && byte <= 'f' ? byte - 'a' + 10
                            : byte >= 'A' && byte <= 'F' ? byte - 'A' + 10
                                                         : -1;
                if (digit < 0 || ++s->digits > 7)
                    return -1;
                s->chunk = s->chunk * 16 + (size_t)digit;
            }
            break;
        case SIZE_END:
            i++;
            if (byte != '\n')
                return -1;
            s->part = DATA;
            break;
        case DATA: {
            size_t part = s->chunk < length - i ? s->chunk : length - i;
            int events = take_events(s, data + i, part);
            if (events < 0)
                return -1;
            found += events;
            i += part;
            if (!(s->chunk -= part))
                s->part = DATA_CR;
            break;
        }
        case DATA_CR:
        case DATA_LF:
            i++;
            if (byte != (s->part == DATA_CR ? '\r' : '\n'))
                return -1;
            s->digits = 0;
            s->part = s->part == DATA_CR ? DATA_LF : SIZE;
            break;
        }
    }
    return found;
}

/* Events that have just been read. */
static void count_events(struct stream *s, int events) {
    uint64_t now = now_us(), took = now - s->last;
    if (s->last) {
        histogram[took < BUCKETS ? took : BUCKETS - 1]++;
        timed++;
        if (took > slowest)
            slowest = took;
    }
    s->last = now;
    answered += (uint64_t)events;
}

/* Connect, ask, and read the head and what came with it. */
static void open_stream(struct stream *s, int port) {
    static const char *request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 5};
    char head[HEAD], *end = NULL;
    size_t have = 0;
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
        die("socket");
    setsockopt(s->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(s->fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    if (send(s->fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
        die("send");
    while (!end) {
        ssize_t got = have < HEAD - 1 ? recv(s->fd, head + have, HEAD - 1 - have, 0) : 0;
        if (got <= 0)
            die("no head");
        have += (size_t)got;
        head[have] = 0;
        end = strstr(head, "\r\n\r\n");
    }
    if (strncmp(head, "HTTP/1.1 200 ", 13))
        refuse("answers", head);
    *end = 0;
    if (!strcasestr(head, "\r\ntransfer-encoding: chunked") || !strcasestr(head, "\r\ncontent-type: text/event-stream"))
        refuse("not a chunked event stream", head);
    int events = take(s, (unsigned char *)end + 4, have - (size_t)(end + 4 - head));
    if (events < 0)
        refuse("sends a wrong event", end + 4);
    if (events)
        count_events(s, events);
    fcntl(s->fd, F_SETFL, O_NONBLOCK);
}

static void on_readable(struct stream *s) {
    ssize_t got = recv(s->fd, buffer, BUFFER, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    int events = got > 0 ? take(s, buffer, (size_t)got) : -1;
    if (events > 0) {
        count_events(s, events);
    } else if (events < 0) {
        got > 0 ? wrong++ : ended++;
        close(s->fd);
    }
}

static uint64_t percentile(unsigned per_mille) {
    uint64_t wanted = timed * per_mille / 1000, seen = 0;
    for (uint64_t us = 0; us < BUCKETS; us++)
        if ((seen += histogram[us]) > wanted)
            return us;
    return BUCKETS;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: event_load PORT CONNECTIONS SECONDS\n");
        return 1;
    }
    int port = atoi(argv[1]), count = atoi(argv[2]), epoll = epoll_create1(EPOLL_CLOEXEC), without = 0;
    struct stream *all = calloc((size_t)count, sizeof *all);
    if (!all || epoll < 0)
        die("start");
    uint64_t begin = now_us(), end = begin + (uint64_t)atoi(argv[3]) * 1000000u, now;
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        open_stream(&all[i], port);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event))
            die("epoll_ctl");
    }
    while ((now = now_us()) < end) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, (int)((end - now) / 1000) + 1);
        for (int i = 0; i < ready; i++)
            on_readable(events[i].data.ptr);
    }
    for (int i = 0; i < count; i++) {
        without += !all[i].last;
        close(all[i].fd);
    }
    printf("RESULT {\"requests\": %llu, \"duration_us\": %llu, \"bytes\": %llu, \"p50_us\": %llu, \"p99_us\": %llu, "
           "\"p999_us\": %llu, \"max_us\": %llu, \"connect\": 0, \"read\": %llu, \"write\": 0, \"timeout\": %d, "
           "\"status\": %llu}\n",
           (unsigned long long)answered, (unsigned long long)(now - begin), (unsigned long long)answered * EVENT,
           (unsigned long long)percentile(500), (unsigned long long)percentile(990),
           (unsigned long long)percentile(999), (unsigned long long)slowest, (unsigned long long)ended, without,
           (unsigned long long)wrong);
    return 0;
}
