/* A session is known by what it cannot choose:
 *   host     the socket at the other end belongs to one of the sessions' uids, says the kernel
 *   netns    the peer's address is one of that namespace, as it is now
 *   bridge   the peer's address is one that sessions are given
 * Behind an address translation of the operator's own, a namespace's sessions are not known.
 *
 * Invariants
 *  1. without a network that leads out nothing is asked: a connection costs nothing more;
 *  2. what cannot be asked is refused. */
#include "reach.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/netlink.h"
#include "manager/session.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/inet_diag.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdlib.h>

/* An address in the form of IPv6, where IPv4 is ::ffff:a.b.c.d. */
struct where {
	struct in6_addr at;
	in_port_t port; /* network order */
};

static struct where
where_is(const struct sockaddr_storage *a)
{
	struct where w = {.at = IN6ADDR_ANY_INIT};

	if (a->ss_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)a;
		w.at = v6->sin6_addr;
		w.port = v6->sin6_port;
		return w;
	}
	const struct sockaddr_in *v4 = (const void *)a;
	w.at.s6_addr[10] = w.at.s6_addr[11] = 0xff;
	memcpy(w.at.s6_addr + 12, &v4->sin_addr, 4);
	w.port = v4->sin_port;
	return w;
}

static uint32_t
ipv4_of(const struct where *w)
{
	uint32_t net;
	memcpy(&net, w->at.s6_addr + 12, sizeof net);
	return ntohl(net);
}

static bool
is_loopback(const struct where *w)
{
	return IN6_IS_ADDR_V4MAPPED(&w->at) ? ipv4_of(w) >> 24 == 127
					    : IN6_IS_ADDR_LOOPBACK(&w->at);
}

/* ---- bridge ---- */

static bool
is_on_bridge(const struct network *n, const struct where *peer)
{
	const uint32_t at = ipv4_of(peer);

	return IN6_IS_ADDR_V4MAPPED(&peer->at) && at >= n->first && at <= n->last &&
	       at != n->gateway;
}

/* ---- netns ---- */

static int
match_address(void *ctx, const struct nlmsghdr *m)
{
	const struct where *peer = ctx;
	const struct ifaddrmsg *head = netlink_body(m);
	const bool v4 = IN6_IS_ADDR_V4MAPPED(&peer->at);
	const uint16_t types[] = {IFA_LOCAL, IFA_ADDRESS};
	const size_t bytes = v4 ? 4 : 16;

	if (m->nlmsg_type != RTM_NEWADDR || head->ifa_family != (v4 ? AF_INET : AF_INET6))
		return 0;
	for (int i = 0; i < 2; i++) {
		size_t n;
		const void *at = netlink_attribute(m, sizeof *head, types[i], &n);
		if (at && n == bytes && memcmp(at, peer->at.s6_addr + 16 - bytes, bytes) == 0)
			return 1;
	}
	return 0;
}

/* A netlink socket of a namespace: a socket stays where it was made, so we are there for a moment.
 */
static int
netlink_in(const char *path, struct err *err)
{
	auto_close int own = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	auto_close int there = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (own < 0)
		return err_sys(err, errno, "open our network namespace");
	if (there < 0 || setns(there, CLONE_NEWNET) < 0)
		return err_set(err, ERR_ABSENT, "there is no network namespace %s", path);
	const int fd = netlink_open(NETLINK_ROUTE, err);
	if (setns(own, CLONE_NEWNET) < 0)
		abort(); /* anywhere else we would listen and answer in the wrong network */
	return fd;
}

/* Asked at each connection: addresses come and go, and an open socket would hold the namespace. */
static bool
is_of_netns(const struct network *n, struct where *peer)
{
	const struct ifaddrmsg all = {.ifa_family = AF_UNSPEC};
	struct netlink_request r;
	struct err err;
	int number;

	if (is_loopback(peer))
		return false; /* that of ours: another namespace's does not lead here */
	auto_close int fd = netlink_in(n->place, &err);
	if (fd < 0)
		return err.code != ERR_ABSENT; /* nobody can be where nothing is */
	netlink_begin(&r, RTM_GETADDR, NLM_F_DUMP, &all, sizeof all);
	return netlink_ask(fd, &r, match_address, peer, &number, &err) != 0;
}

/* ---- host ---- */

static int
take_uid(void *ctx, const struct nlmsghdr *m)
{
	uint32_t *uid = ctx;
	const struct inet_diag_msg *d = netlink_body(m);

	if (m->nlmsg_type == SOCK_DIAG_BY_FAMILY && m->nlmsg_len >= NLMSG_LENGTH(sizeof *d))
		*uid = d->idiag_uid;
	return 0;
}

static void
put_end(struct inet_diag_sockid *id, bool source, const struct where *w, bool v4)
{
	memcpy(source ? id->idiag_src : id->idiag_dst, w->at.s6_addr + (v4 ? 12 : 0), v4 ? 4 : 16);
	if (source)
		id->idiag_sport = w->port;
	else
		id->idiag_dport = w->port;
}

/* Whose socket of this node is at the other end: 1 a session's, 0 somebody's or none, -1. */
static int
ask_owner(const struct manager *m, const struct where *ours, const struct where *peer,
	  uint8_t family)
{
	const bool v4 = family == AF_INET;
	struct inet_diag_req_v2 q = {
	    .sdiag_family = family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = ~0u};
	struct netlink_request r;
	struct err err;
	uint32_t uid = UINT32_MAX;
	int number = 0;

	put_end(&q.id, true, peer, v4);
	put_end(&q.id, false, ours, v4);
	q.id.idiag_cookie[0] = q.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	netlink_begin(&r, SOCK_DIAG_BY_FAMILY, 0, &q, sizeof q);
	auto_close int fd = netlink_open(NETLINK_SOCK_DIAG, &err);
	if (fd < 0 || netlink_ask(fd, &r, take_uid, &uid, &number, &err) < 0)
		return number == ENOENT ? 0 : -1;
	return uid >= m->node.uid_base &&
	       uid - m->node.uid_base < 65536u * (uint64_t)node_slots(m->node.uid_base);
}

static bool
is_of_host(const struct manager *m, int client, const struct where *peer)
{
	struct sockaddr_storage a = {0};
	socklen_t n = sizeof a;

	if (getsockname(client, (struct sockaddr *)&a, &n) < 0)
		return true;
	const struct where ours = where_is(&a);
	return ask_owner(m, &ours, peer, IN6_IS_ADDR_V4MAPPED(&peer->at) ? AF_INET : AF_INET6) != 0;
}

/* ---- all of them ---- */

static bool
has_host_session(const struct manager *m)
{
	for (const struct session *s = m->sessions; s; s = s->next)
		if (s->keeper.pidfd >= 0 && strcmp(s->row.network, "host") == 0)
			return true;
	return false;
}

static bool
is_session(const struct manager *m, int client, const struct sockaddr_storage *peer)
{
	struct where from = where_is(peer);

	for (size_t i = 0; i < m->networks.n; i++) {
		const struct network *n = &m->networks.at[i];
		if (n->kind == NETWORK_BRIDGE ? is_on_bridge(n, &from) : is_of_netns(n, &from))
			return true;
	}
	return has_host_session(m) && is_of_host(m, client, &from);
}

/* A session can knock as often as it likes: the log tells, but is not filled by it. */
static void
say_refused(void)
{
	static uint64_t said_ns;
	static unsigned refused;
	const uint64_t now_ns = time_now_ns();

	refused++;
	if (said_ns && now_ns - said_ns < NS_PER_S)
		return;
	log_line("connections out of sessions are refused: %u (sessions_reach_server)", refused);
	said_ns = now_ns;
	refused = 0;
}

bool
reach_is_refused(const struct manager *m, int client, const struct sockaddr_storage *peer)
{
	if (m->config.sessions_reach_server || !is_session(m, client, peer))
		return false;
	say_refused();
	return true;
}
