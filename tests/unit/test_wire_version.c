/* A build of version 2, whose rows begin at a number of today's, beside peers of other versions. */
#define WIRE_VERSION   2
#define WIRE_FIRST_IDS {0, MSG_init_resolve}

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "server/wire/wire.c"

/* A keeper of version 2 with an init of this one. */
static void
open_keeper(struct wire *keeper, int *out_init)
{
	int pair[2];
	struct err err;

	assert_int_equal(wire_pair(pair, &err), 0);
	assert_int_equal(wire_open(keeper, pair[0], ROLE_KEEPER, ROLE_INIT, PHASE_OPEN, &err), 0);
	*out_init = pair[1];
}

static void
greet(int fd, uint32_t version)
{
	const struct msg_hello h = {.version = version, .role = ROLE_INIT};
	struct err err;
	auto_buf b = BUF_MAX(100);

	assert_int_equal(wire_encode(MSG_hello, &h, &b, &err), 0);
	assert_true(send(fd, b.at, b.len, 0) > 0);
}

static int
send_new(struct wire *keeper, struct err *err)
{
	const struct msg_init_resolve m = {.name = STR_LIT("host")};
	return wire_send_fds(keeper, MSG_init_resolve, &m, (const int[]){0}, 1, err);
}

/* How many packets lie at init: hello is the first. */
static int
received(int fd)
{
	char packet[512];
	int n = 0;

	while (recv(fd, packet, sizeof packet, MSG_DONTWAIT) > 0)
		n++;
	return n;
}

static void
an_older_peer_is_not_sent_what_it_does_not_know(void **state)
{
	struct wire keeper;
	struct err err;
	int init;

	(void)state;
	open_keeper(&keeper, &init);
	greet(init, 1);
	assert_int_equal(wire_recv(&keeper, &err), 0);
	assert_int_equal(keeper.version, 1);
	assert_false(wire_knows(&keeper, MSG_init_resolve));
	assert_true(wire_knows(&keeper, MSG_init_signal));
	assert_int_equal(send_new(&keeper, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	assert_string_equal(err.why, "the init is of an earlier version, which has no init_resolve");
	assert_non_null(strstr(err.hint, "pause and resume"));
	assert_int_equal(wire_send(&keeper, init_signal, &err, .signal = 15), 0); /* the link stands */
	assert_int_equal(received(init), 2);
	wire_close(&keeper);
	close(init);
}

static void
peers_of_this_version_and_later_ones_are_sent_all(void **state)
{
	struct wire keeper;
	struct err err;
	int init;

	(void)state;
	for (uint32_t version = 2; version < 4; version++) {
		open_keeper(&keeper, &init);
		greet(init, version);
		assert_int_equal(wire_recv(&keeper, &err), 0);
		assert_int_equal(keeper.version, 2);
		assert_int_equal(send_new(&keeper, &err), 0);
		assert_int_equal(received(init), 2);
		wire_close(&keeper);
		close(init);
	}
}

static void
before_its_hello_a_peer_counts_as_the_oldest(void **state)
{
	struct wire keeper;
	struct err err;
	int init;

	(void)state;
	open_keeper(&keeper, &init);
	assert_int_equal(send_new(&keeper, &err), -1);
	assert_int_equal(wire_send(&keeper, init_signal, &err, .signal = 15), 0);
	greet(init, 2);
	assert_int_equal(wire_recv(&keeper, &err), 0);
	assert_int_equal(send_new(&keeper, &err), 0);
	assert_int_equal(received(init), 3);
	wire_close(&keeper);
	close(init);
}

static void
one_below_the_oldest_is_refused_with_both_numbers(void **state)
{
	struct wire keeper;
	struct err err;
	int init;

	(void)state;
	open_keeper(&keeper, &init);
	greet(init, WIRE_OLDEST - 1);
	assert_int_equal(wire_recv(&keeper, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	assert_string_equal(err.why, "the init speaks version 0, this is version 2 and needs 1");
	wire_close(&keeper);
	close(init);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(an_older_peer_is_not_sent_what_it_does_not_know),
	    cmocka_unit_test(peers_of_this_version_and_later_ones_are_sent_all),
	    cmocka_unit_test(before_its_hello_a_peer_counts_as_the_oldest),
	    cmocka_unit_test(one_below_the_oldest_is_refused_with_both_numbers),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
