/* What the parts of the peer's first process share. */
#ifndef INIT_H
#define INIT_H
#include <stdint.h>

enum { MAX_SERVICES = 65535, MESSAGE = 160 };

/* What the kernel's command line says. */
struct order {
    char fleet[40];      /* name of the machine */
    char service[16];    /* `web`, or one of Debian's: `redis`, `nginx`, `mosquitto` */
    int is_boxed;        /* each in namespaces of its own */
    int count;           /* how many */
    int port;            /* TCP port of each */
    uint32_t host;       /* address of the load generator, network byte order */
    uint32_t here;       /* address of this machine */
    uint32_t first;      /* the address before the first service's, host byte order */
    int off;             /* value for the debug-exit device that means a clean end */
};

/* A service under way. */
struct service {
    int pid;
};

/* What went wrong, for the console. */
extern char problem[MESSAGE];

/* Keeps what went wrong, with errno's text, and returns -1. */
int fail(const char *what);

/* Address of service `number`, from 1 on, in network byte order, and as text of at least 16 bytes. */
uint32_t address_of(const struct order *order, int number);
void address_text(const struct order *order, int number, char *text);

/* Starts one process for a service, whose program runs when this returns. `ready` is where it says that it listens.
 * Returns its number, or -1 with `problem` set. */
int start_plain(const struct order *order, int number, int ready);

/* The same in namespaces and a control group of its own, with a pair of interfaces. */
int start_boxed(const struct order *order, int number, int ready, int netlink);

/* Prepares for boxes: where their root is, and control groups. */
int prepare_boxes(void);

/* Writes the configuration files of Debian's services. */
int prepare_debian(const struct order *order);

/* Executes the program of a service; returns only if that fails. */
void execute(const struct order *order, int number, int ready);

/* Writes a file. */
int write_file(const char *path, const char *text);

#endif
