/* Interfaces, addresses and routes, through one netlink socket for each network namespace. */
#ifndef NETLINK_H
#define NETLINK_H
#include <stdint.h>

/* A socket in this process' network namespace, or -1. */
int netlink_open(void);

/* All return 0, or -1 with errno set. Addresses are in network byte order. */
int link_up(int netlink, int index);
int address_add(int netlink, int index, uint32_t address);

/* A route to address/bits through interface `index`: directly, or by `gateway` if it is not 0. With `is_local`, all these
 * addresses are this machine's own. */
int route_add(int netlink, int index, uint32_t address, int bits, uint32_t gateway, int is_local);

/* A pair of interfaces: `name` here, which is up, and `eth0` in the network namespace of process `pid`, which is not. */
int veth_add(int netlink, const char *name, int pid);

#endif
