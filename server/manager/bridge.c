/* A session on a bridge: a network namespace of its own, and a pair of virtual cables.
 *
 *   bridge ── bth<random> ═══ eth0 (FIRST + slot) in the session's namespace
 *
 * Invariants
 *  1. the namespace is the session's (its user namespace owns it), held by the fd that is returned:
 * when that and pid 1 are gone the kernel removes it, eth0, and with eth0 the other end. Nothing is
 * left, whatever failed;
 *  2. an address has one hardware address for ever, so that neighbours need not learn anew who has
 * it after a restart;
 *  3. eth0 has no IPv6: the kernel would give it an address that nobody handed out. */
#include "attach.h"
#include "base/fd.h"
#include "manager/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- a namespace of the session's ---- */

/* Makes it, says so with one byte, and waits for its end: whoever holds the namespace's fd needs no
 * process in it. */
static _Noreturn void
hold_namespace(int userns, int told, pid_t parent)
{
	const char ready = 1;

	if (setns(userns, CLONE_NEWUSER) < 0 || unshare(CLONE_NEWNET) < 0)
		_exit(1);
	/* after the change of credentials, which can clear it */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) < 0 || getppid() != parent ||
	    write(told, &ready, 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

static int
make_namespace(int userns, struct err *err)
{
	char path[48], ready;
	int ends[2], netns = -1;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return err_sys(err, errno, "make a pipe");
	auto_close int told = ends[0], tell = ends[1];
	const pid_t self = getpid();
	const pid_t pid = fork();
	if (pid == 0)
		hold_namespace(userns, tell, self);
	if (pid < 0)
		return err_sys(err, errno, "start a process for a network namespace");
	fd_close(&tell); /* its end of the pipe is then the only one: no wait for ever */
	if (read(told, &ready, 1) != 1) {
		err_set(err, ERR_INTERNAL, "no network namespace could be made");
	} else {
		snprintf(path, sizeof path, "/proc/%d/ns/net", (int)pid);
		netns = open(path, O_RDONLY | O_CLOEXEC);
		if (netns < 0)
			err_sys(err, errno, "open a network namespace");
	}
	kill(pid, SIGKILL); /* ours, and not waited for yet */
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
	return netns;
}

/* ---- the cable, from the node's side ---- */

struct found {
	unsigned index;
	bool is_bridge;
};

static int
take_link(void *ctx, const struct nlmsghdr *m)
{
	struct found *f = ctx;
	const struct ifinfomsg *head = netlink_body(m);
	size_t n, kind_n;

	if (m->nlmsg_type != RTM_NEWLINK)
		return 0;
	f->index = (unsigned)head->ifi_index;
	const void *linkinfo = netlink_attribute(m, sizeof *head, IFLA_LINKINFO, &n);
	const char *kind = linkinfo ? netlink_find(linkinfo, n, IFLA_INFO_KIND, &kind_n) : NULL;
	f->is_bridge = kind && kind_n >= 6 && memcmp(kind, "bridge", 6) == 0;
	return 0;
}

/* Not by sysfs, which may show another network namespace than ours. */
static int
find_bridge(int netlink, const struct network *n, unsigned *out, struct err *err)
{
	const struct ifinfomsg any = {0};
	struct found found = {0};
	struct netlink_request r;
	int number;

	netlink_begin(&r, RTM_GETLINK, 0, &any, sizeof any);
	netlink_text(&r, IFLA_IFNAME, n->place);
	if (netlink_ask(netlink, &r, take_link, &found, &number, err) < 0 && number != ENODEV)
		return -1;
	*out = found.index;
	if (found.is_bridge)
		return 0;
	err_set(err, ERR_ABSENT, found.index ? "%s is no bridge" : "there is no bridge %s",
		n->place);
	return err_hint(err, "make it: ip link add %.15s type bridge", n->place);
}

static int
make_cable(int netlink, unsigned bridge, uint32_t address, int netns, struct err *err)
{
	struct netlink_request r;
	const struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP}, none = {0};
	const uint32_t net = htonl(address), place = (uint32_t)netns, master = bridge;
	uint8_t hardware[6] = {0x02, 'b'}; /* locally administered */
	uint32_t random;
	char name[IFNAMSIZ];

	if (getrandom(&random, sizeof random, 0) != sizeof random)
		return err_sys(err, errno, "get random bytes");
	snprintf(name, sizeof name, "bth%08x", random);
	memcpy(hardware + 2, &net, 4);
	netlink_begin(&r, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
	netlink_text(&r, IFLA_IFNAME, name);
	netlink_put(&r, IFLA_MASTER, &master, sizeof master);
	const uint32_t link = netlink_nest(&r, IFLA_LINKINFO, "", 0);
	netlink_text(&r, IFLA_INFO_KIND, "veth");
	const uint32_t parts = netlink_nest(&r, IFLA_INFO_DATA, "", 0);
	const uint32_t peer = netlink_nest(&r, VETH_INFO_PEER, &none, sizeof none);
	netlink_text(&r, IFLA_IFNAME, "eth0");
	netlink_put(&r, IFLA_ADDRESS, hardware, sizeof hardware);
	netlink_put(&r, IFLA_NET_NS_FD, &place, sizeof place);
	netlink_end(&r, peer);
	netlink_end(&r, parts);
	netlink_end(&r, link);
	return netlink_do(netlink, &r, err) < 0 ? err_add(err, "a virtual cable to its bridge") : 0;
}

/* ---- and from the session's ---- */

static int
raise_link(int netlink, unsigned index, struct err *err)
{
	struct netlink_request r;
	const struct ifinfomsg up = {
	    .ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};

	netlink_begin(&r, RTM_NEWLINK, 0, &up, sizeof up);
	return netlink_do(netlink, &r, err);
}

static int
add_address(int netlink, unsigned index, const struct network *n, uint32_t address, struct err *err)
{
	struct netlink_request r;
	const struct ifaddrmsg head = {
	    .ifa_family = AF_INET, .ifa_prefixlen = (uint8_t)n->bits, .ifa_index = index};
	const uint32_t net = htonl(address), all = htonl(address | ~(~0u << (32 - n->bits)));

	netlink_begin(&r, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof head);
	netlink_put(&r, IFA_LOCAL, &net, sizeof net);
	netlink_put(&r, IFA_ADDRESS, &net, sizeof net);
	netlink_put(&r, IFA_BROADCAST, &all, sizeof all);
	return netlink_do(netlink, &r, err);
}

static int
add_gateway(int netlink, const struct network *n, struct err *err)
{
	struct netlink_request r;
	const struct rtmsg head = {.rtm_family = AF_INET,
				   .rtm_table = RT_TABLE_MAIN,
				   .rtm_protocol = RTPROT_STATIC,
				   .rtm_scope = RT_SCOPE_UNIVERSE,
				   .rtm_type = RTN_UNICAST};
	const uint32_t net = htonl(n->gateway);

	if (!n->gateway)
		return 0;
	netlink_begin(&r, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &head, sizeof head);
	netlink_put(&r, RTA_GATEWAY, &net, sizeof net);
	return netlink_do(netlink, &r, err);
}

/* /proc/sys/net is that of the namespace that its reader is in. */
static int
disable_ipv6(struct err *err)
{
	auto_close int fd = open("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "keep IPv6 off eth0");
	return fd_write_all(fd, "1", 1, err);
}

static int
set_up_inside(const struct network *n, uint32_t address, int netns, struct err *err)
{
	if (setns(netns, CLONE_NEWNET) < 0)
		return err_sys(err, errno, "enter its network namespace");
	auto_close int netlink = netlink_open(NETLINK_ROUTE, err);
	if (netlink < 0)
		return -1;
	const unsigned lo = if_nametoindex("lo"), eth0 = if_nametoindex("eth0");
	if (disable_ipv6(err) < 0 || raise_link(netlink, lo, err) < 0 ||
	    add_address(netlink, eth0, n, address, err) < 0 || raise_link(netlink, eth0, err) < 0)
		return err_add(err, "set up eth0");
	return add_gateway(netlink, n, err) < 0 ? err_add(err, "set the route to its gateway") : 0;
}

int
bridge_attach(const struct network *n, uint32_t address, int userns, struct err *err)
{
	unsigned bridge;

	auto_close int netlink = netlink_open(NETLINK_ROUTE, err);
	if (netlink < 0 || find_bridge(netlink, n, &bridge, err) < 0)
		return -1;
	auto_close int netns = make_namespace(userns, err);
	if (netns < 0)
		return -1;
	if (make_cable(netlink, bridge, address, netns, err) < 0 ||
	    set_up_inside(n, address, netns, err) < 0)
		return -1;
	return fd_steal(&netns);
}
