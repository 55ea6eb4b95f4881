/* The first process of the Linux that Firn is compared with. It loads the modules, sets up the network, starts the
 * services and tells on the console what that took, in the words of Firn's supervisor: `firn` need not know the
 * difference. A line `status` or `memory` is answered in JSON, `down` ends the machine. */
#define _GNU_SOURCE
#include "init.h"
#include "netlink.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* Port of the device that ends the emulator. */
enum { DEBUG_EXIT = 0xf4 };

/* Processes whose memory is looked at in detail, at most. */
enum { LOOKED_AT = 100 };

/* Patience with services that are to listen, in seconds. */
enum { PATIENCE = 600 };

char problem[MESSAGE] = "no problem";

static struct order order;
static struct service services[MAX_SERVICES + 1];
static long long started_ns, listening_ns, base_bytes;
static int alive;
static int netlink;

int fail(const char *what)
{
    int why = errno;
    snprintf(problem, sizeof problem, "%s: %s", what, strerror(why));
    return -1;
}

static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Says a line as the supervisor does. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[1024];
    long long now = now_ns() / 1000;
    int len = snprintf(line, sizeof line, "[%5lld.%06lld] vm 0| ", now / 1000000, now % 1000000);
    va_list values;
    va_start(values, format);
    int more = vsnprintf(line + len, sizeof line - (size_t)len - 1, format, values);
    va_end(values);
    len += more < (int)sizeof line - len - 1 ? more : (int)sizeof line - len - 2;
    line[len++] = '\n';
    for (int done = 0; done < len;) {
        ssize_t put = write(STDOUT_FILENO, line + done, (size_t)(len - done));
        if (put <= 0)
            return;
        done += (int)put;
    }
}

static void power_off(int value)
{
    sync();
    if (ioperm(DEBUG_EXIT, 1, 1) == 0)
        outb((unsigned char)value, DEBUG_EXIT);
    reboot(RB_AUTOBOOT);
}

/* Gives up: `firn up` shows the message and ends the machine. */
static void give_up(void)
{
    say("error: %s", problem);
    for (;;)
        pause();
}

uint32_t address_of(const struct order *from, int number)
{
    return htonl(from->first + (uint32_t)number);
}

void address_text(const struct order *from, int number, char *text)
{
    struct in_addr address = {address_of(from, number)};
    inet_ntop(AF_INET, &address, text, INET_ADDRSTRLEN);
}

/* Copies the value of NAME=VALUE in the kernel's command line. */
static int word(const char *line, const char *name, char *value, size_t size)
{
    size_t len = strlen(name);
    for (const char *at = line; (at = strstr(at, name)) != NULL; at += len)
        if ((at == line || at[-1] == ' ') && at[len] == '=') {
            size_t end = strcspn(at + len + 1, " \n");
            if (end >= size)
                break;
            memcpy(value, at + len + 1, end);
            value[end] = 0;
            return 0;
        }
    snprintf(problem, sizeof problem, "the kernel's command line has no good %s=", name);
    return -1;
}

static int number_of(const char *line, const char *name, int least, int most, int *value)
{
    char text[16];
    if (word(line, name, text, sizeof text) < 0)
        return -1;
    *value = atoi(text);
    if (*value >= least && *value <= most)
        return 0;
    snprintf(problem, sizeof problem, "%s=%s on the kernel's command line: give %d to %d", name, text, least, most);
    return -1;
}

static int address_in(const char *line, const char *name, uint32_t *value)
{
    char text[20];
    if (word(line, name, text, sizeof text) < 0)
        return -1;
    if (inet_pton(AF_INET, text, value) == 1)
        return 0;
    snprintf(problem, sizeof problem, "%s=%s on the kernel's command line is no address", name, text);
    return -1;
}

static int read_order(void)
{
    char line[1024] = "";
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t got = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (got < 0)
        return fail("read the kernel's command line");
    close(fd);
    if (word(line, "fleet", order.fleet, sizeof order.fleet) < 0 ||
        word(line, "service", order.service, sizeof order.service) < 0 ||
        number_of(line, "boxed", 0, 1, &order.is_boxed) < 0 ||
        number_of(line, "count", 0, MAX_SERVICES, &order.count) < 0 ||
        number_of(line, "port", 1, 65535, &order.port) < 0 || number_of(line, "off", 0, 255, &order.off) < 0 ||
        address_in(line, "host", &order.host) < 0 || address_in(line, "here", &order.here) < 0 ||
        address_in(line, "first", &order.first) < 0)
        return -1;
    order.first = ntohl(order.first);
    return 0;
}

static int load_modules(void)
{
    char name[128];
    FILE *list = fopen("/modules/list", "r");
    if (list == NULL)
        return fail("open /modules/list");
    while (fgets(name, sizeof name, list)) {
        char path[160];
        name[strcspn(name, "\n")] = 0;
        snprintf(path, sizeof path, "/modules/%s", name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)) {
            fclose(list);
            return fail(path);
        }
        close(fd);
    }
    fclose(list);
    return 0;
}

static int mount_all(void)
{
    static const struct {
        const char *type, *where;
    } all[] = {{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"tmpfs", "/tmp"}, {"tmpfs", "/run"}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (mount(all[i].type, all[i].where, all[i].type, 0, NULL) < 0 && errno != EBUSY)
            return fail(all[i].where);
    return 0;
}

/* The interface has this machine's address; packets to any service's are for this machine, too, or go on to its box. */
static int set_up_network(void)
{
    netlink = netlink_open();
    int index = (int)if_nametoindex("eth0"), lo = (int)if_nametoindex("lo");
    if (netlink < 0 || index == 0) {
        errno = index ? errno : ENODEV;
        return fail("find the network interface");
    }
    if (link_up(netlink, lo) < 0 || link_up(netlink, index) < 0 || address_add(netlink, index, order.here) < 0 ||
        route_add(netlink, index, order.host, 32, 0, 0) < 0)
        return fail("set up the network interface");
    if (order.is_boxed)
        return write_file("/proc/sys/net/ipv4/ip_forward", "1");
    return route_add(netlink, lo, htonl(order.first), 16, 0, 1) < 0 ? fail("route to the services") : 0;
}

/* Bounds that are in the way of many services. */
static int lift_limits(void)
{
    struct rlimit files = {.rlim_cur = 65536, .rlim_max = 65536};
    if (setrlimit(RLIMIT_NOFILE, &files) < 0)
        return fail("allow many files");
    static const char *const bounds[][2] = {
        {"/proc/sys/kernel/pid_max", "4194304"},
        {"/proc/sys/kernel/threads-max", "100000"},
        {"/proc/sys/net/ipv4/neigh/default/gc_thresh1", "65536"},
        {"/proc/sys/net/ipv4/neigh/default/gc_thresh2", "131072"},
        {"/proc/sys/net/ipv4/neigh/default/gc_thresh3", "262144"},
    };
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++)
        if (write_file(bounds[i][0], bounds[i][1]) < 0)
            return -1;
    return 0;
}

/* Bytes that programs could still have. */
static long long available_bytes(void)
{
    char line[128];
    long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "MemAvailable: %lld", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

static long long pss_bytes(int pid)
{
    char path[48], line[128];
    long long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file))
        if (sscanf(line, "Pss: %lld", &kib) == 1)
            break;
    if (file)
        fclose(file);
    return kib * 1024;
}

/* Waits for a byte of each service that listens. */
static int wait_for_servers(int ready)
{
    char bytes[4096];
    for (int left = order.count; left > 0;) {
        struct pollfd poll_ready = {.fd = ready, .events = POLLIN};
        if (poll(&poll_ready, 1, PATIENCE * 1000) <= 0) {
            snprintf(problem, sizeof problem, "%d of %d services do not listen", left, order.count);
            return -1;
        }
        ssize_t got = read(ready, bytes, sizeof bytes);
        if (got <= 0)
            return fail("wait for the services");
        left -= (int)got;
    }
    return 0;
}

static int start_services(void)
{
    int ready[2], is_web = strcmp(order.service, "web") == 0;
    if (pipe2(ready, O_CLOEXEC) < 0)
        return fail("pipe");
    if (order.is_boxed && prepare_boxes() < 0)
        return -1;
    if (!is_web && prepare_debian(&order) < 0)
        return -1;
    base_bytes = available_bytes();
    say("ready");
    long long begun = now_ns();
    for (int number = 1; number <= order.count; number++) {
        int pid = order.is_boxed ? start_boxed(&order, number, ready[1], netlink)
                                 : start_plain(&order, number, ready[1]);
        if (pid < 0) {
            char why[MESSAGE];
            memcpy(why, problem, sizeof why);
            snprintf(problem, sizeof problem, "service %d of %d: %.100s", number, order.count, why);
            return -1;
        }
        services[number].pid = pid;
        alive++;
    }
    started_ns = now_ns() - begun;
    /* Debian's do not say so: who asks them has to wait. */
    if (is_web && wait_for_servers(ready[0]) < 0)
        return -1;
    listening_ns = now_ns() - begun;
    close(ready[0]);
    close(ready[1]);
    return 0;
}

/* Takes note of processes that have ended. */
static void reap(void)
{
    int status, pid;
    while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
        for (int number = 1; number <= order.count; number++)
            if (services[number].pid == pid) {
                services[number].pid = 0;
                alive--;
                say("service %d has ended (status %#x)", number, status);
            }
}

static void say_memory(void)
{
    int looked_at = order.count < LOOKED_AT ? order.count : LOOKED_AT, found = 0;
    long long pss = 0;
    for (int i = 0; i < looked_at; i++) {
        int pid = services[1 + (long long)i * order.count / looked_at].pid;
        long long bytes = pid ? pss_bytes(pid) : 0;
        pss += bytes;
        found += bytes > 0;
    }
    say("memory {\"base_available_bytes\":%lld,\"available_bytes\":%lld,\"looked_at\":%d,\"pss_bytes\":%lld}",
        base_bytes, available_bytes(), found, pss);
}

static void obey(const char *line)
{
    if (strcmp(line, "status") == 0)
        say("status {\"peer\":\"%s\",\"service\":\"%s\",\"vms\":%d,\"started\":%d,\"alive\":%d,\"started_ns\":%lld,"
            "\"listening_ns\":%lld}",
            order.is_boxed ? "linux-ns" : "linux", order.service, order.count, order.count, alive, started_ns,
            listening_ns);
    else if (strcmp(line, "memory") == 0)
        say_memory();
    else if (strcmp(line, "down") == 0) {
        say("going down");
        tcdrain(STDOUT_FILENO);
        power_off(order.off);
    } else
        say("error: there is no command %.40s", line);
}

/* Hears what is typed, for ever. */
static void listen_to_console(void)
{
    char line[200];
    size_t len = 0;
    for (;;) {
        struct pollfd console = {.fd = STDIN_FILENO, .events = POLLIN};
        poll(&console, 1, 1000);
        reap();
        char byte;
        while (read(STDIN_FILENO, &byte, 1) == 1)
            if (byte == '\n' || byte == '\r') {
                line[len] = 0;
                if (len)
                    obey(line);
                len = 0;
            } else if (len < sizeof line - 1)
                line[len++] = byte;
    }
}

static int open_console(void)
{
    int fd = open("/dev/ttyS0", O_RDWR | O_NOCTTY | O_NONBLOCK);
    struct termios how;
    if (fd < 0 || tcgetattr(fd, &how) < 0)
        return fail("open the console");
    cfmakeraw(&how);
    if (tcsetattr(fd, TCSANOW, &how) < 0)
        return fail("set up the console");
    /* A second description, so that writing waits while reading does not. */
    int out = open("/dev/ttyS0", O_WRONLY | O_NOCTTY);
    if (out < 0 || dup2(fd, STDIN_FILENO) < 0 || dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0)
        return fail("open the console");
    if (fd > STDERR_FILENO)
        close(fd);
    if (out > STDERR_FILENO)
        close(out);
    return 0;
}

int main(void)
{
    int is_set_up = mount_all() == 0 && open_console() == 0;
    if (!is_set_up || read_order() < 0 || load_modules() < 0 || lift_limits() < 0 || set_up_network() < 0 ||
        start_services() < 0)
        give_up();
    reap();
    if (alive != order.count) {
        snprintf(problem, sizeof problem, "%d of %d services ended at once", order.count - alive, order.count);
        give_up();
    }
    say("fleet %s: %d VMs started", order.fleet, order.count);
    listen_to_console();
}
