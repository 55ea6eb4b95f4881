/* See netlink.h. */
#define _GNU_SOURCE
#include "netlink.h"
#include <errno.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct request {
    struct nlmsghdr head;
    char rest[1024];
};

static void *append(struct request *request, const void *bytes, size_t len)
{
    char *at = (char *)request + NLMSG_ALIGN(request->head.nlmsg_len);
    if (bytes)
        memcpy(at, bytes, len);
    request->head.nlmsg_len = (uint32_t)(at - (char *)request + len);
    return at;
}

static struct rtattr *attribute(struct request *request, uint16_t type, const void *bytes, size_t len)
{
    struct rtattr head = {.rta_len = (uint16_t)RTA_LENGTH(len), .rta_type = type};
    struct rtattr *at = append(request, &head, sizeof head);
    append(request, bytes, len);
    return at;
}

/* Ends an attribute that has others inside. */
static void close_attribute(struct request *request, struct rtattr *outer)
{
    outer->rta_len = (uint16_t)((char *)request + request->head.nlmsg_len - (char *)outer);
}

static struct request begin(uint16_t type, uint16_t flags)
{
    struct request request = {.head = {.nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type}};
    request.head.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    return request;
}

static int carry_out(int netlink, struct request *request)
{
    struct {
        struct nlmsghdr head;
        struct nlmsgerr error;
        char rest[1024];
    } answer;
    if (send(netlink, request, request->head.nlmsg_len, 0) < 0)
        return -1;
    ssize_t got = recv(netlink, &answer, sizeof answer, 0);
    if (got < (ssize_t)(sizeof answer.head + sizeof(int)) || answer.head.nlmsg_type != NLMSG_ERROR) {
        errno = EPROTO;
        return -1;
    }
    errno = -answer.error.error;
    return errno ? -1 : 0;
}

int netlink_open(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

int link_up(int netlink, int index)
{
    struct request request = begin(RTM_NEWLINK, 0);
    struct ifinfomsg link = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    append(&request, &link, sizeof link);
    return carry_out(netlink, &request);
}

int address_add(int netlink, int index, uint32_t address)
{
    struct request request = begin(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
    struct ifaddrmsg message = {.ifa_family = AF_INET, .ifa_prefixlen = 32, .ifa_index = (unsigned)index};
    append(&request, &message, sizeof message);
    attribute(&request, IFA_LOCAL, &address, sizeof address);
    return carry_out(netlink, &request);
}

int route_add(int netlink, int index, uint32_t address, int bits, uint32_t gateway, int is_local)
{
    struct request request = begin(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL);
    struct rtmsg route = {.rtm_family = AF_INET, .rtm_dst_len = (unsigned char)bits, .rtm_protocol = RTPROT_STATIC};
    route.rtm_table = is_local ? RT_TABLE_LOCAL : RT_TABLE_MAIN;
    route.rtm_type = is_local ? RTN_LOCAL : RTN_UNICAST;
    route.rtm_scope = is_local ? RT_SCOPE_HOST : gateway ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    route.rtm_flags = gateway ? RTNH_F_ONLINK : 0;
    append(&request, &route, sizeof route);
    if (bits)
        attribute(&request, RTA_DST, &address, sizeof address);
    if (gateway)
        attribute(&request, RTA_GATEWAY, &gateway, sizeof gateway);
    attribute(&request, RTA_OIF, &index, sizeof index);
    return carry_out(netlink, &request);
}

int veth_add(int netlink, const char *name, int pid)
{
    struct request request = begin(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);
    struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, down = {0};
    uint32_t target = (uint32_t)pid;
    append(&request, &up, sizeof up);
    attribute(&request, IFLA_IFNAME, name, strlen(name) + 1);
    struct rtattr *info = attribute(&request, IFLA_LINKINFO, NULL, 0);
    attribute(&request, IFLA_INFO_KIND, "veth", 4);
    struct rtattr *data = attribute(&request, IFLA_INFO_DATA, NULL, 0);
    struct rtattr *peer = attribute(&request, VETH_INFO_PEER, &down, sizeof down);
    attribute(&request, IFLA_IFNAME, "eth0", 5);
    attribute(&request, IFLA_NET_NS_PID, &target, sizeof target);
    close_attribute(&request, peer);
    close_attribute(&request, data);
    close_attribute(&request, info);
    return carry_out(netlink, &request);
}
