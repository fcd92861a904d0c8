/* The load for WebSockets: connections that each send a text message, wait for its echo, and send the next.
 *
 *     ws_load PORT CONNECTIONS SECONDS SIZE
 *
 * One thread and one epoll. Every message is SIZE bytes (1 to 125) of ASCII, differs from the one before it, and is
 * masked with a fresh key (RFC 6455 5.3); an echo that is not the same text in one unmasked frame counts as an error
 * and ends its connection. No extension is offered, so nothing is compressed. Pings are answered. Writes one line,
 * RESULT and JSON with the names that wrk_done.lua uses, and ends with 0; what stops it before that it says on
 * standard error, and ends with 1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SIZE = 125, BUFFER = 4096, BUCKETS = 1000000 /* of 1 us: slower ones count as 1 s */ };

struct connection {
    int fd;
    uint64_t sent_at;
    size_t have;
    unsigned char in[BUFFER];
    char text[MAX_SIZE + 1];
};

static uint32_t histogram[BUCKETS];
static uint64_t answered, bytes, slowest, failed_reads, failed_writes, wrong;
static uint32_t random_state = 2463534242u, counter;
static size_t size;

static uint64_t now_us(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint32_t next_random(void) { /* xorshift32: a key must differ, not be secret */
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

static void die(const char *what) {
    fprintf(stderr, "ws_load: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* One masked frame of at most 125 bytes; 0 when it was sent whole. */
static int send_frame(int fd, unsigned char first, const void *payload, size_t length) {
    unsigned char frame[6 + MAX_SIZE];
    uint32_t key = next_random();
    frame[0] = first;
    frame[1] = 0x80 | (unsigned char)length;
    memcpy(frame + 2, &key, 4);
    for (size_t i = 0; i < length; i++)
        frame[6 + i] = ((const unsigned char *)payload)[i] ^ frame[2 + i % 4];
    return send(fd, frame, 6 + length, MSG_NOSIGNAL) == (ssize_t)(6 + length) ? 0 : -1;
}

static int send_message(struct connection *c) {
    char number[9];
    snprintf(number, sizeof number, "%08x", counter++);
    memcpy(c->text, number, size < 8 ? size : 8);
    c->sent_at = now_us();
    return send_frame(c->fd, 0x81, c->text, size);
}

static void open_connection(struct connection *c, int port) {
    static const char *request = "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    struct timeval patience = {.tv_sec = 5};
    int on = 1;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0)
        die("socket");
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(c->fd, (struct sockaddr *)&address, sizeof address))
        die("connect");
    if (send(c->fd, request, strlen(request), MSG_NOSIGNAL) != (ssize_t)strlen(request))
        die("handshake: send");
    for (;;) {
        ssize_t got = recv(c->fd, c->in + c->have, BUFFER - 1 - c->have, 0);
        if (got <= 0)
            die("handshake: recv");
        c->have += (size_t)got;
        c->in[c->have] = 0;
        if (strstr((char *)c->in, "\r\n\r\n"))
            break;
    }
    if (strncmp((char *)c->in, "HTTP/1.1 101 ", 13)) {
        fprintf(stderr, "ws_load: handshake: %.60s\n", c->in);
        exit(1);
    }
    c->have = 0;
    memset(c->text, 'x', size);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
}

/* Take one complete frame off what was received: 1 the echo, 0 something else that is fine, -1 wrong, 2 incomplete. */
static int take_frame(struct connection *c) {
    if (c->have < 2)
        return 2;
    size_t length = c->in[1];
    if (length > MAX_SIZE) /* longer than anything sent, or masked */
        return -1;
    if (c->have < 2 + length)
        return 2;
    int result = -1;
    if (c->in[0] == 0x81)
        result = length == size && !memcmp(c->in + 2, c->text, size) ? 1 : -1;
    else if (c->in[0] == 0x89)
        result = send_frame(c->fd, 0x8a, c->in + 2, length);
    c->have -= 2 + length;
    memmove(c->in, c->in + 2 + length, c->have);
    return result;
}

static void on_readable(struct connection *c) {
    ssize_t got = recv(c->fd, c->in + c->have, BUFFER - c->have, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        failed_reads++;
        close(c->fd);
        return;
    }
    c->have += (size_t)got;
    for (;;) {
        int frame = take_frame(c);
        if (frame == 2)
            return;
        if (frame < 0) {
            wrong++;
            close(c->fd);
            return;
        }
        if (frame == 0)
            continue;
        uint64_t took = now_us() - c->sent_at;
        histogram[took < BUCKETS ? took : BUCKETS - 1]++;
        if (took > slowest)
            slowest = took;
        answered++;
        bytes += 2 + size;
        if (send_message(c)) {
            failed_writes++;
            close(c->fd);
            return;
        }
    }
}

static uint64_t percentile(int permille) {
    uint64_t wanted = answered * (uint64_t)permille / 1000, seen = 0;
    for (uint64_t us = 0; us < BUCKETS; us++)
        if ((seen += histogram[us]) > wanted)
            return us;
    return BUCKETS;
}

/* Close as a good client does, so that no server is busy with errors in the next run: 1000 (normal closure), then wait
 * for what is under way and for the end, a second for all of them. A connection that failed has no descriptor left. */
static void leave(struct connection *all, int count) {
    uint64_t end = now_us() + 1000000u;
    for (int i = 0; i < count; i++)
        send_frame(all[i].fd, 0x88, "\x03\xe8", 2);
    for (int i = 0; i < count; i++) {
        ssize_t got;
        do {
            uint64_t now = now_us();
            struct timeval patience = {.tv_usec = now < end ? (long)(end - now) % 1000000 : 1};
            fcntl(all[i].fd, F_SETFL, 0);
            setsockopt(all[i].fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
            got = recv(all[i].fd, all[i].in, BUFFER, 0);
        } while (got > 0);
        close(all[i].fd);
    }
}

int main(int argc, char **argv) {
    if (argc != 5 || (size = (size_t)atoi(argv[4])) < 1 || size > MAX_SIZE) {
        fprintf(stderr, "usage: ws_load PORT CONNECTIONS SECONDS SIZE   (SIZE: 1 to 125)\n");
        return 1;
    }
    int port = atoi(argv[1]), count = atoi(argv[2]), epoll = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc((size_t)count, sizeof *all);
    if (!all || epoll < 0)
        die("start");
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        open_connection(&all[i], port);
        if (epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event))
            die("epoll_ctl");
    }
    uint64_t begin = now_us(), end = begin + (uint64_t)atoi(argv[3]) * 1000000u, now;
    for (int i = 0; i < count; i++)
        if (send_message(&all[i]))
            die("send");
    while ((now = now_us()) < end) {
        struct epoll_event events[256];
        int ready = epoll_wait(epoll, events, 256, (int)((end - now) / 1000) + 1);
        for (int i = 0; i < ready; i++)
            on_readable(events[i].data.ptr);
    }
    leave(all, count);
    printf("RESULT {\"requests\": %llu, \"duration_us\": %llu, \"bytes\": %llu, \"p50_us\": %llu, \"p99_us\": %llu, "
           "\"p999_us\": %llu, \"max_us\": %llu, \"connect\": 0, \"read\": %llu, \"write\": %llu, \"timeout\": 0, \"status\": %llu}\n",
           (unsigned long long)answered, (unsigned long long)(now - begin), (unsigned long long)bytes,
           (unsigned long long)percentile(500), (unsigned long long)percentile(990), (unsigned long long)percentile(999),
           (unsigned long long)slowest,
           (unsigned long long)failed_reads, (unsigned long long)failed_writes, (unsigned long long)wrong);
    return 0;
}
