/* The option `networks`, the addresses of a bridge, and a real session on one: in a network
 * namespace of this test's own, so nothing of it is seen outside, or left. */
#include "server/manager/networks.c"

#include "engine_room.h"
#include "manager/netlink.h"

#include <linux/rtnetlink.h>
#include <sched.h>

/* ---- the config ---- */

static int
parse(const char *text, struct networks *out, struct err *err)
{
	return networks_parse(text, "none", out, err);
}

static void
test_what_an_operator_writes_is_understood(void **state)
{
	struct networks n;

	(void)state;
	assert_ok(parse("", &n, room_err));
	assert_int_equal(n.n, 0);
	assert_ok(
	    parse(" lab = netns:lab ,p=netns:/run/x y/z,corp=bridge:br0/10.90.0.16/24/10.90.0.1,"
		  "b=bridge:br-1/10.1.0.0/16",
		  &n, room_err));
	assert_int_equal(n.n, 4);
	assert_string_equal(n.at[0].name, "lab");
	assert_string_equal(n.at[0].place, "/run/netns/lab");
	assert_string_equal(n.at[1].place, "/run/x y/z");
	assert_int_equal(n.at[2].kind, NETWORK_BRIDGE);
	assert_string_equal(n.at[2].place, "br0");
	assert_int_equal(n.at[2].first, 0x0a5a0010);
	assert_int_equal(n.at[2].last, 0x0a5a00fe);
	assert_int_equal(n.at[2].gateway, 0x0a5a0001);
	assert_int_equal(n.at[3].first, 0x0a010002); /* behind the subnet's own and the bridge's */
	assert_int_equal(n.at[3].gateway, 0);
}

static void
test_what_does_not_fit_is_refused(void **state)
{
	static const char *const bad[] = {
	    "lab",
	    "lab=",
	    "=netns:x",
	    "lab=netns",
	    "lab=netns:",
	    "lab=netns:a/b",
	    "lab=netns:..",
	    "lab=veth:x",
	    "l/b=netns:a",
	    "-x=netns:a",
	    "a=netns:a,a=netns:b",
	    "a=netns:a,,b=netns:b",
	    "b=bridge:",
	    "b=bridge:br0",
	    "b=bridge:br0/10.0.0.1",
	    "b=bridge:br0/10.0.0.1/7",
	    "b=bridge:br0/10.0.0.1/31",
	    "b=bridge:br0/10.0.0/24",
	    "b=bridge:br0/10.0.0.0x1/24",
	    "b=bridge:a-name-of-16-byt/10.0.0.1/24",
	    "b=bridge:../x/10.0.0.1/24",
	    "b=bridge:br0/10.0.0.1/24/x",
	    "b=bridge:br0/10.0.0.1/24/10.0.1.1",
	    "b=bridge:br0/10.0.0.255/24",
	};
	struct networks n;
	struct err err;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		if (parse(bad[i], &n, &err) == 0)
			fail_msg("taken: %s", bad[i]);
		assert_int_equal(err.code, ERR_CONFIG);
	}
	assert_int_equal(networks_parse("a=netns:a", "host", &n, &err), -1);
	assert_int_equal(networks_parse("a=netns:a", "join:b", &n, &err), -1);
	assert_int_equal(err.code, ERR_CONFIG);
	assert_ok(networks_parse("a=netns:a", "join:a", &n, room_err));
}

static void
test_slots_have_addresses_of_their_own(void **state)
{
	struct networks n;
	struct err err;
	uint32_t address, before = 0;

	(void)state;
	assert_ok(parse("b=bridge:br0/10.0.0.0/28/10.0.0.5", &n, room_err));
	for (unsigned slot = 0; slot < 12; slot++) { /* .2 to .14 without .5 */
		assert_ok(network_address(&n.at[0], slot, &address, room_err));
		assert_true(address > before && address != n.at[0].gateway);
		assert_in_range(address, 0x0a000002, 0x0a00000e);
		before = address;
	}
	assert_int_equal(network_address(&n.at[0], 12, &address, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	assert_int_equal(network_address(&n.at[0], UINT32_MAX, &address, &err), -1);
	assert_ok(parse("b=bridge:br0/255.255.255.0/24", &n, room_err));
	assert_int_equal(network_address(&n.at[0], 253, &address, &err), -1);
}

static void
test_names_are_compared_and_nothing_else(void **state)
{
	struct networks n;
	struct network found;
	struct err err;

	(void)state;
	assert_ok(parse("lab=netns:lab", &n, room_err));
	assert_ok(networks_find(&n, STR_LIT("join:lab"), &found, room_err));
	assert_int_equal(found.kind, NETWORK_NETNS);
	assert_int_equal(networks_find(&n, STR_LIT("join:lab2"), &found, &err), -1);
	assert_int_equal(err.code, ERR_ABSENT);
	assert_int_equal(networks_find(&n, (struct str){"join:lab\0x", 10}, &found, &err), -1);
	assert_int_equal(networks_find(&n, STR_LIT("join:"), &found, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	assert_int_equal(networks_find(&n, STR_LIT(""), &found, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
}

/* ---- a bridge ---- */

static int link_events = -1; /* netlink: tells when an interface goes */

static int
setup(void **state)
{
	const struct sockaddr_nl links = {.nl_family = AF_NETLINK, .nl_groups = RTMGRP_LINK};
	const struct ifinfomsg up = {.ifi_flags = 1, .ifi_change = 1};
	struct netlink_request r;

	if (room_setup(state) < 0)
		return -1;
	if (!room.open)
		return 0;
	assert_return_code(unshare(CLONE_NEWNET), errno);
	auto_close int netlink = -1;
	assert_ok(netlink = netlink_open(NETLINK_ROUTE, room_err));
	netlink_begin(&r, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof up);
	netlink_text(&r, IFLA_IFNAME, "br0");
	const uint32_t nest = netlink_nest(&r, IFLA_LINKINFO, "", 0);
	netlink_text(&r, IFLA_INFO_KIND, "bridge");
	netlink_end(&r, nest);
	assert_ok(netlink_do(netlink, &r, room_err));
	assert_ok(link_events = netlink_open(NETLINK_ROUTE, room_err));
	assert_return_code(bind(link_events, (const struct sockaddr *)&links, sizeof links), errno);
	return 0;
}

static int
teardown(void **state)
{
	fd_close(&link_events);
	return room_teardown(state);
}

static int
count_cable(void *ctx, const struct nlmsghdr *m)
{
	size_t n;
	const char *name = netlink_attribute(m, sizeof(struct ifinfomsg), IFLA_IFNAME, &n);
	*(unsigned *)ctx += name && strncmp(name, "bth", 3) == 0;
	return 0;
}

static unsigned
cables(void)
{
	const struct ifinfomsg all = {0};
	struct netlink_request r;
	unsigned found = 0;
	int number;

	auto_close int netlink = -1;
	assert_ok(netlink = netlink_open(NETLINK_ROUTE, room_err));
	netlink_begin(&r, RTM_GETLINK, NLM_F_DUMP, &all, sizeof all);
	assert_ok(netlink_ask(netlink, &r, count_cable, &found, &number, room_err));
	return found;
}

/* The kernel takes a namespace down when it comes to it, and tells. */
static void
await_no_cable(void)
{
	char told[8192];
	while (cables() > 0) {
		struct pollfd p = {.fd = link_events, .events = POLLIN};
		assert_int_equal(poll(&p, 1, 20000), 1);
		assert_true(recv(link_events, told, sizeof told, MSG_DONTWAIT) > 0);
	}
}

static const struct network corp = {.name = "corp",
				    .kind = NETWORK_BRIDGE,
				    .place = "br0",
				    .first = 0x0a5a0010,
				    .last = 0x0a5a00fe,
				    .gateway = 0x0a5a0001,
				    .bits = 24};

static void
test_a_session_on_a_bridge_has_a_cable_while_it_lives(void **state)
{
	struct session s;
	char out[1024];

	(void)state;
	room_or_skip();
	session_new(&s);
	struct workspace w = session_workspace(&s);
	w.network = &corp;
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	assert_int_equal(cables(), 1);
	session_launch(&s, false);
	fd_close(&s.fds[KEEPER_NETNS]); /* pid 1 holds it */
	assert_int_equal(
	    session_run(
		&s,
		"cat /sys/class/net/eth0/address; cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6; "
		"ls /sys/class/net; cat /proc/net/route | wc -l",
		out, sizeof out),
	    0);
	assert_string_equal(
	    out, "02:62:0a:5a:00:17\n1\neth0\nlo\n3"); /* slot 7; two routes and a head */
	assert_int_equal(cables(), 1);
	session_stop(&s);
	await_no_cable();
}

static void
test_a_start_that_fails_leaves_no_cable(void **state)
{
	struct session s;
	struct err err;

	(void)state;
	room_or_skip();
	session_new(&s);
	auto_close int foreign = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	struct workspace w = session_workspace(&s);
	w.network = &corp;
	w.lowers = &foreign; /* cannot be mapped: fails after the cable was made */
	w.n_lowers = 1;
	assert_int_equal(prepare_workspace(&room.node, &w, s.spill, s.fds, &err), -1);
	assert_non_null(strstr(err.why, "layer 0"));
	await_no_cable();
	assert_int_equal(waitpid(-1, NULL, WNOHANG | __WALL), -1);
	w.n_lowers = 0; /* prepared, and never started */
	assert_ok(prepare_workspace(&room.node, &w, s.spill, s.fds, room_err));
	assert_int_equal(cables(), 1);
	session_close_fds(&s);
	assert_ok(prepare_clear(&room.node, s.id, room_err));
	await_no_cable();
	fd_close(&s.spill);
	fd_close(&s.dir);
}

static void
test_what_is_no_bridge_is_said_so(void **state)
{
	struct session s;
	struct err err;
	struct network n = corp;

	(void)state;
	room_or_skip();
	session_new(&s);
	struct workspace w = session_workspace(&s);
	w.network = &n;
	snprintf(n.place, sizeof n.place, "lo");
	assert_int_equal(prepare_workspace(&room.node, &w, s.spill, s.fds, &err), -1);
	assert_int_equal(err.code, ERR_ABSENT);
	assert_non_null(strstr(err.why, "network corp: lo is no bridge"));
	snprintf(n.place, sizeof n.place, "br1");
	assert_int_equal(prepare_workspace(&room.node, &w, s.spill, s.fds, &err), -1);
	assert_non_null(strstr(err.why, "network corp: there is no bridge br1"));
	n = corp;
	n.last = n.first; /* slot 7 is behind it */
	assert_int_equal(prepare_workspace(&room.node, &w, s.spill, s.fds, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	assert_int_equal(cables(), 0);
	fd_close(&s.spill);
	fd_close(&s.dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_what_an_operator_writes_is_understood),
	    cmocka_unit_test(test_what_does_not_fit_is_refused),
	    cmocka_unit_test(test_slots_have_addresses_of_their_own),
	    cmocka_unit_test(test_names_are_compared_and_nothing_else),
	    cmocka_unit_test(test_a_session_on_a_bridge_has_a_cable_while_it_lives),
	    cmocka_unit_test(test_a_start_that_fails_leaves_no_cable),
	    cmocka_unit_test(test_what_is_no_bridge_is_said_so),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
