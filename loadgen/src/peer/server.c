/* The peer of `apps/web`: the smallest web server that Linux runs well. One process, one epoll, no allocation for a
 * request that comes in one piece. It answers the same bytes: `/` with 128 bytes of text, `/id` with the number of the
 * service and a checksum over a page of random bytes.
 *
 * usage: server ADDRESS PORT NUMBER READY_FD
 *
 * It writes a byte to READY_FD once it listens. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_HEAD = 4096, MAX_CONNECTIONS = 4096, BODY = 128, PAGE = 4096, BACKLOG = 512, EVENTS = 64 };

/* What has come of a head that is not complete. */
struct partial {
    size_t len;
    char bytes[MAX_HEAD];
};

static struct partial *partials[MAX_CONNECTIONS];
static char piece[MAX_HEAD];
/* The answer to `/`, with the connection kept and with it closed. */
static char front[2][320];
static int front_len[2];
static unsigned char page[PAGE];
static int page_is_filled;
static const char *number;
static int poller;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* Writes an answer's head. */
static int head_of(char *out, size_t size, const char *status, const char *type, int len, int stays)
{
    return snprintf(out, size, "HTTP/1.1 %s\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n", status, type, len,
                    stays ? "" : "connection: close\r\n");
}

static void make_front(void)
{
    static const char line[] = "firn is snow packed grain on grain until it bears its own weight";
    for (int stays = 0; stays < 2; stays++) {
        int len = head_of(front[stays], sizeof front[stays], "200 OK", "text/plain", BODY, stays);
        for (int i = 0; i < BODY; i++)
            front[stays][len++] = i % 64 == 63 ? '\n' : line[i % 64];
        front_len[stays] = len;
    }
}

static uint32_t crc32(const unsigned char *bytes, size_t len)
{
    static uint32_t table[256];
    if (table[1] == 0)
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;
            for (int bit = 0; bit < 8; bit++)
                c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
            table[i] = c;
        }
    uint32_t c = ~0u;
    for (size_t i = 0; i < len; i++)
        c = table[(c ^ bytes[i]) & 255] ^ (c >> 8);
    return ~c;
}

static int identity(char *out, size_t size)
{
    char hex[33];
    if (!page_is_filled) {
        for (size_t have = 0; have < sizeof page;) {
            ssize_t got = getrandom(page + have, sizeof page - have, 0);
            if (got <= 0)
                die("getrandom");
            have += (size_t)got;
        }
        page_is_filled = 1;
    }
    for (int i = 0; i < 16; i++)
        sprintf(hex + 2 * i, "%02x", page[i]);
    return snprintf(out, size, "{\"vm\":%s,\"generation\":1,\"random\":\"%s\",\"page\":\"%08x\"}\n", number, hex,
                    crc32(page, sizeof page));
}

static void drop(int fd)
{
    if (fd < MAX_CONNECTIONS && partials[fd]) {
        free(partials[fd]);
        partials[fd] = NULL;
    }
    close(fd);
}

/* Sends an answer. It fits into any socket's buffer; who does not take it is not served any more. */
static int put(int fd, const char *bytes, int len)
{
    return send(fd, bytes, (size_t)len, MSG_NOSIGNAL) == len;
}

/* Answers one head, which ends with a zero byte. Says whether the connection stays. */
static int answer(int fd, const char *head)
{
    char out[512], made[192];
    int stays = strcasestr(head, "\r\nconnection: close\r\n") == NULL, size, len;
    if (strncmp(head, "GET / ", 6) == 0)
        return put(fd, front[stays], front_len[stays]) && stays;
    if (strncmp(head, "GET /id ", 8) == 0) {
        len = identity(made, sizeof made);
        size = head_of(out, sizeof out, "200 OK", "application/json", len, stays);
    } else {
        len = sprintf(made, "not found\n");
        size = head_of(out, sizeof out, "404 Not Found", "text/plain", len, stays);
    }
    memcpy(out + size, made, (size_t)len);
    return put(fd, out, size + len) && stays;
}

/* Answers all whole heads of `bytes`. Returns how many bytes they were, or -1
 * if the connection is over. */
static ssize_t answer_all(int fd, char *bytes, size_t len)
{
    size_t done = 0;
    for (;;) {
        char *end = memmem(bytes + done, len - done, "\r\n\r\n", 4);
        if (end == NULL)
            return (ssize_t)done;
        /* The head keeps the end of its last line. */
        char next = end[2];
        end[2] = 0;
        int stays = answer(fd, bytes + done);
        end[2] = next;
        done = (size_t)(end + 4 - bytes);
        if (!stays)
            return -1;
    }
}

/* Reads what has come. Says whether the connection stays. */
static int serve(int fd)
{
    struct partial *partial = partials[fd];
    size_t had = partial ? partial->len : 0;
    if (had)
        memcpy(piece, partial->bytes, had);
    ssize_t got = recv(fd, piece + had, MAX_HEAD - had, 0);
    if (got < 0)
        return errno == EAGAIN || errno == EINTR;
    if (got == 0)
        return 0;
    size_t len = had + (size_t)got;
    ssize_t done = answer_all(fd, piece, len);
    if (done < 0)
        return 0;
    size_t left = len - (size_t)done;
    if (left == MAX_HEAD)
        return 0;
    if (left == 0) {
        free(partial);
        partials[fd] = NULL;
        return 1;
    }
    if (partial == NULL && (partial = malloc(sizeof *partial)) == NULL)
        return 0;
    memcpy(partial->bytes, piece + done, left);
    partial->len = left;
    partials[fd] = partial;
    return 1;
}

static void take(int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    /* The request has mostly come by now: then a connection that is closed after it is never watched. */
    if (fd >= MAX_CONNECTIONS || !serve(fd)) {
        drop(fd);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) < 0)
        drop(fd);
}

int main(int argc, char **argv)
{
    if (argc != 5) {
        fprintf(stderr, "usage: server ADDRESS PORT NUMBER READY_FD\n");
        return 2;
    }
    number = argv[3];
    make_front();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) {
        fprintf(stderr, "server: %s is no IPv4 address\n", argv[1]);
        return 2;
    }
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        die("bind");
    if (listen(listener, BACKLOG) < 0)
        die("listen");
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (poller < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, listener, &event) < 0)
        die("epoll");
    int ready = atoi(argv[4]);
    if (write(ready, "r", 1) != 1)
        die("write");
    close(ready);
    for (;;) {
        struct epoll_event events[EVENTS];
        int n = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener)
                take(listener);
            else if (!serve(fd))
                drop(fd);
        }
    }
}
