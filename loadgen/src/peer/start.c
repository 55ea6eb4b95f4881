/* Starts services: as plain processes, and boxed as containers are. */
#define _GNU_SOURCE
#include "init.h"
#include "netlink.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Where a boxed service's program lies, which becomes its root. */
#define BOX "/box"
#define GROUPS "/sys/fs/cgroup"

/* What a boxed service may have of memory. */
#define MEMORY_MAX "67108864"

/* The descriptor on which a service says that it listens. */
enum { READY = 3 };

int write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text)) {
        if (fd >= 0)
            close(fd);
        return fail(path);
    }
    return close(fd);
}

void execute(const struct order *order, int number, int ready)
{
    char address[16], port[8], name[12], fd[4], file[40];
    address_text(order, number, address);
    snprintf(port, sizeof port, "%d", order->port);
    snprintf(name, sizeof name, "%d", number);
    snprintf(fd, sizeof fd, "%d", READY);
    char *environment[] = {"PATH=/usr/sbin:/usr/bin", NULL};
    if (strcmp(order->service, "web") == 0) {
        char *arguments[] = {"server", address, port, name, fd, NULL};
        if (ready != READY && dup2(ready, READY) < 0)
            return;
        execve("/server", arguments, environment);
        return;
    }
    snprintf(file, sizeof file, "/run/%s-%d.conf", order->service, number);
    char *redis[] = {"/usr/bin/redis-server", file, NULL};
    char *nginx[] = {"/usr/sbin/nginx", "-c", file, NULL};
    char *mosquitto[] = {"/usr/sbin/mosquitto", "-c", file, NULL};
    char **arguments = order->service[0] == 'r' ? redis : order->service[0] == 'n' ? nginx : mosquitto;
    execve(arguments[0], arguments, environment);
}

int prepare_debian(const struct order *order)
{
    for (int number = 1; number <= order->count; number++) {
        char address[16], file[40], text[700];
        address_text(order, number, address);
        if (strcmp(order->service, "redis") == 0)
            snprintf(text, sizeof text,
                     "bind %s\nport %d\nprotected-mode no\nsave \"\"\nappendonly no\ndaemonize no\nlogfile /dev/null\n"
                     "dir /tmp\n",
                     address, order->port);
        else if (strcmp(order->service, "nginx") == 0)
            snprintf(text, sizeof text,
                     "user root;\nworker_processes 1;\ndaemon off;\npid /run/nginx-%d.pid;\nerror_log /dev/null;\n"
                     "events { worker_connections 1024; }\n"
                     "http { access_log off; sendfile on; tcp_nopush on; default_type text/plain; keepalive_requests 1000000000;\n"
                     "server { listen %s:%d; root /srv; } }\n",
                     number, address, order->port);
        else
            snprintf(text, sizeof text,
                     "listener %d %s\nallow_anonymous true\npersistence false\nuser root\nlog_dest none\n"
                     "max_queued_messages 0\n",
                     order->port, address);
        snprintf(file, sizeof file, "/run/%s-%d.conf", order->service, number);
        if (write_file(file, text) < 0)
            return -1;
    }
    return 0;
}

int start_plain(const struct order *order, int number, int ready)
{
    /* The parent goes on when the child's program runs. */
    int pid = vfork();
    if (pid == 0) {
        execute(order, number, ready);
        _exit(127);
    }
    return pid < 0 ? fail("vfork") : pid;
}

int prepare_boxes(void)
{
    if (mount("cgroup2", GROUPS, "cgroup2", 0, NULL) < 0)
        return fail("mount the control groups");
    if (write_file(GROUPS "/cgroup.subtree_control", "+memory +pids +cpu") < 0)
        return -1;
    if (mkdir(BOX "/proc", 0755) < 0 && errno != EEXIST)
        return fail("mkdir " BOX "/proc");
    return 0;
}

/* Makes the box's folder the root of this process, which sees nothing else of the machine's files. */
static int enter_box(void)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mount(BOX, BOX, NULL, MS_BIND, NULL) < 0 ||
        mount("proc", BOX "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0 || chdir(BOX) < 0 ||
        mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        return fail("make the box's root");
    return 0;
}

static int set_up_network(const struct order *order, int number)
{
    int netlink = netlink_open(), index = (int)if_nametoindex("eth0");
    if (netlink < 0 || index == 0)
        return fail("find the box's interface");
    if (link_up(netlink, (int)if_nametoindex("lo")) < 0 || link_up(netlink, index) < 0 ||
        address_add(netlink, index, address_of(order, number)) < 0 ||
        route_add(netlink, index, 0, 0, order->here, 0) < 0)
        return fail("set up the box's interface");
    close(netlink);
    return 0;
}

/* The child's part: waits until its interface is there, shuts itself in, and executes the program. */
static void run_boxed(const struct order *order, int number, int ready, int line)
{
    char go, name[24];
    snprintf(name, sizeof name, "s%d", number);
    if (read(line, &go, 1) == 1 && enter_box() == 0 && set_up_network(order, number) == 0) {
        if (sethostname(name, strlen(name)) < 0)
            fail("sethostname");
        else {
            execute(order, number, ready);
            fail("execute the service");
        }
    }
    /* The parent reads this in place of the end that execution brings. */
    if (write(line, problem, strlen(problem)) < 0)
        _exit(126);
    _exit(127);
}

/* Makes the control group of a service. Returns its folder. */
static int make_group(int number)
{
    char path[64], file[80];
    snprintf(path, sizeof path, GROUPS "/s%d", number);
    snprintf(file, sizeof file, "%s/memory.max", path);
    if (mkdir(path, 0755) < 0)
        return fail("make a control group");
    if (write_file(file, MEMORY_MAX) < 0)
        return -1;
    int group = open(path, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
    return group < 0 ? fail("open a control group") : group;
}

/* The parent's part: the pair of interfaces and the route; then waits until the program runs. */
static int connect_box(const struct order *order, int number, int pid, int netlink, int line)
{
    char name[16];
    snprintf(name, sizeof name, "v%d", number);
    if (veth_add(netlink, name, pid) < 0)
        return fail("make a pair of interfaces");
    if (route_add(netlink, (int)if_nametoindex(name), address_of(order, number), 32, 0, 0) < 0)
        return fail("route to a box");
    if (write(line, "g", 1) != 1)
        return fail("tell a box to go on");
    ssize_t said = read(line, problem, sizeof problem - 1);
    if (said == 0)
        return 0;
    problem[said > 0 ? said : 0] = 0;
    return -1;
}

int start_boxed(const struct order *order, int number, int ready, int netlink)
{
    int line[2], group = make_group(number);
    if (group < 0)
        return -1;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, line) < 0)
        return fail("socketpair");
    struct clone_args arguments = {
        .flags = CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD,
        .cgroup = (uint64_t)group,
    };
    int pid = (int)syscall(SYS_clone3, &arguments, sizeof arguments);
    if (pid == 0) {
        close(line[0]);
        run_boxed(order, number, ready, line[1]);
    }
    close(line[1]);
    close(group);
    int result = pid < 0 ? fail("clone3") : connect_box(order, number, pid, netlink, line[0]);
    close(line[0]);
    if (result < 0 && pid > 0)
        kill(pid, SIGKILL);
    return result < 0 ? -1 : pid;
}
