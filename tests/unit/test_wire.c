#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <sys/stat.h>

#include "server/wire/wire.c"

static void
open_links(struct wire *manager, struct wire *keeper)
{
	int pair[2];
	struct err err;

	assert_int_equal(wire_pair(pair, &err), 0);
	assert_int_equal(wire_open(manager, pair[0], ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, &err), 0);
	assert_int_equal(wire_open(keeper, pair[1], ROLE_KEEPER, ROLE_MANAGER, PHASE_OPEN, &err), 0);
	assert_int_equal(wire_recv(manager, &err), 0);
	assert_int_equal(wire_recv(keeper, &err), 0);
}

static void
a_message_arrives_with_its_fields_and_fds(void **state)
{
	struct wire m, k;
	struct err err;

	(void)state;
	open_links(&m, &k);
	auto_close int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	const struct msg_grant g = {.grant = 1ull << 60, .principal = STR_LIT("who"), .role = STR_LIT("r"),
				    .user = STR_LIT(""), .peer = STR_LIT("p"), .until_ns = 5};
	assert_int_equal(wire_send_fds(&m, MSG_grant, &g, &null, 1, &err), 0);
	assert_int_equal(wire_recv(&k, &err), 1);
	assert_int_equal(k.message.id, MSG_grant);
	assert_true(k.message.grant.grant == 1ull << 60 && str_is(k.message.grant.principal, "who"));
	assert_int_equal(k.message.n_fds, 1);
	struct stat a, b;
	assert_int_equal(fstat(null, &a) | fstat(k.message.fds[0], &b), 0);
	assert_true(a.st_rdev == b.st_rdev);
	assert_true(fcntl(k.message.fds[0], F_GETFD) & FD_CLOEXEC);
	wire_close(&m);
	assert_int_equal(wire_recv(&k, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	wire_close(&k);
}

static void
expect_refused(enum role from, enum role to, enum phase phase, enum msg_id id, const void *body, int fds)
{
	auto_buf b = BUF_MAX(WIRE_PACKET_MAX_BYTES);
	struct message out;
	struct err err;

	assert_int_equal(wire_encode(id, body, &b, &err), 0);
	assert_int_equal(wire_decode(buf_view(&b), from, to, phase, fds, &out, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
}

static void
direction_phase_and_fds_are_checked(void **state)
{
	const struct msg_freeze freeze = {.seq = 1};
	const struct msg_session_want want = {.seq = 1};

	(void)state;
	expect_refused(ROLE_KEEPER, ROLE_MANAGER, PHASE_OPEN, MSG_freeze, &freeze, 0);
	expect_refused(ROLE_MANAGER, ROLE_CONN, PHASE_OPEN, MSG_freeze, &freeze, 0);
	expect_refused(ROLE_MANAGER, ROLE_KEEPER, PHASE_HELLO, MSG_freeze, &freeze, 0);
	expect_refused(ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, MSG_freeze, &freeze, 1);
	expect_refused(ROLE_CONN, ROLE_MANAGER, PHASE_UNPROVEN, MSG_session_want, &want, 0);
}

static void
what_is_too_long_is_not_sent_and_not_taken(void **state)
{
	static char text[300];
	auto_buf b = BUF_MAX(WIRE_PACKET_MAX_BYTES);
	struct message out;
	struct err err;

	(void)state;
	memset(text, 'a', sizeof text);
	struct msg_kill kill = {.ended_by = {text, 17}};
	assert_int_equal(wire_encode(MSG_kill, &kill, &b, &err), -1);
	buf_clear(&b);
	kill.ended_by.len = 16;
	assert_int_equal(wire_encode(MSG_kill, &kill, &b, &err), 0);
	b.at[8] = 17; /* the length on the wire */
	buf_char(&b, 'a');
	assert_int_equal(wire_decode(buf_view(&b), ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, 0, &out, &err), -1);
	b.at[8] = 16; /* now one byte is left over */
	assert_int_equal(wire_decode(buf_view(&b), ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, 0, &out, &err), -1);
	b.len--;
	assert_int_equal(wire_decode(buf_view(&b), ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, 0, &out, &err), 0);
	b.at[12] = '\0'; /* a NUL in a text */
	assert_int_equal(wire_decode(buf_view(&b), ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, 0, &out, &err), -1);
}

static void
random_bytes_are_refused_or_fit_a_row(void **state)
{
	uint64_t seed = 88172645463325252ull;
	uint8_t bytes[512];

	(void)state;
	for (int round = 0; round < 200000; round++) {
		for (size_t i = 0; i < sizeof bytes; i += 8) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			memcpy(bytes + i, &seed, 8);
		}
		bytes[0] = (uint8_t)(seed % 120);
		bytes[1] = bytes[2] = bytes[3] = 0;
		for (size_t i = 5; i < 64; i += 4) /* small lengths, so that some get through */
			bytes[i] = bytes[i + 1] = bytes[i + 2] = 0;
		struct message out;
		struct err err;
		const struct str packet = {(const char *)bytes, seed % sizeof bytes};
		const enum role from = (enum role)(1 + round % 5), to = (enum role)(1 + round / 5 % 5);
		if (wire_decode(packet, from, to, PHASE_OPEN, 0, &out, &err) == 0)
			assert_true(rows[out.id].from == from && rows[out.id].to == to);
		else
			assert_int_equal(err.code, ERR_CORRUPT);
	}
}

static void
a_peer_that_reads_nothing_is_cut_not_waited_for(void **state)
{
	struct wire m, k;
	struct err err;

	(void)state;
	open_links(&m, &k);
	int sent = 0;
	while (wire_send(&m, journal_watch, &err, .seq = 1, .call = STR_LIT("c_x")) == 0 && sent < 1 << 20)
		sent++;
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	assert_true(sent > 1000 && sent < 1 << 20);
	/* all that was accepted arrives, in order, once it is read */
	int got = 0;
	while (got < sent) {
		const int r = wire_recv(&k, &err);
		assert_true(r >= 0);
		got += r;
		if (r == 0)
			assert_int_equal(flush_queue(&m, &err), 0);
	}
	wire_close(&m);
	wire_close(&k);
}

static void
a_flood_of_small_messages_is_bounded_by_what_it_costs(void **state)
{
	enum { IN_SOCKET = 8192 };
	struct wire m, k;
	struct err err;

	(void)state;
	open_links(&m, &k);
	int sent = 0;
	while (wire_send(&m, record_ack, &err, .record = 1) == 0)
		sent++;
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	assert_true((size_t)sent < WIRE_QUEUE_MAX_BYTES / sizeof(struct packet) + IN_SOCKET);
	wire_close(&m);
	wire_close(&k);
}

/* A sender that does not receive in between must not keep what the peer would take. */
static void
what_waits_goes_with_the_next_message(void **state)
{
	struct wire m, k;
	struct err err;

	(void)state;
	open_links(&m, &k);
	int sent = 0, got = 0;
	for (; !m.queue; sent++)
		assert_int_equal(wire_send(&m, record_ack, &err, .record = 1), 0);
	while (wire_recv(&k, &err) == 1)
		got++;
	assert_int_equal(wire_send(&m, record_ack, &err, .record = 2), 0);
	assert_null(m.queue);
	while (wire_recv(&k, &err) == 1)
		got++;
	assert_int_equal(got, sent + 1);
	assert_true(k.message.record_ack.record == 2);
	wire_close(&m);
	wire_close(&k);
}

static void
a_peer_of_another_version_or_role_is_refused(void **state)
{
	int pair[2];
	struct wire m;
	struct err err;
	auto_buf b = BUF_MAX(100);

	(void)state;
	for (int which = 0; which < 2; which++) {
		const struct msg_hello h = {.version = which ? WIRE_VERSION : WIRE_OLDEST - 1,
					    .role = which ? ROLE_CONN : ROLE_KEEPER};
		buf_clear(&b);
		assert_int_equal(wire_pair(pair, &err), 0);
		assert_int_equal(wire_open(&m, pair[0], ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, &err), 0);
		assert_int_equal(wire_encode(MSG_hello, &h, &b, &err), 0);
		assert_true(send(pair[1], b.at, b.len, 0) > 0);
		assert_int_equal(wire_recv(&m, &err), -1);
		assert_int_equal(err.code, ERR_CORRUPT);
		wire_close(&m);
		close(pair[1]);
	}
}

static void
a_link_opened_again_has_no_hello(void **state)
{
	int pair[2];
	struct wire m, z;
	struct err err;

	(void)state;
	assert_int_equal(wire_pair(pair, &err), 0);
	assert_int_equal(wire_open(&m, pair[0], ROLE_MANAGER, ROLE_ZYGOTE, PHASE_OPEN, &err), 0);
	assert_int_equal(wire_open(&z, dup(pair[1]), ROLE_ZYGOTE, ROLE_MANAGER, PHASE_OPEN, &err), 0);
	assert_int_equal(wire_recv(&m, &err), 0);
	assert_int_equal(wire_send_fds(&m, MSG_conn_start, &(struct msg_conn_start){.uid = 7},
				       (const int[]){0, 0}, 2, &err), 0);
	assert_int_equal(wire_send_fds(&m, MSG_conn_start, &(struct msg_conn_start){.uid = 8},
				       (const int[]){0, 0}, 2, &err), 0);
	assert_int_equal(wire_recv(&z, &err), 1);
	assert_int_equal(z.message.conn_start.uid, 7);
	wire_close(&z); /* the process executes itself: what waits stays in the socket */
	assert_int_equal(wire_reopen(&z, pair[1], ROLE_ZYGOTE, ROLE_MANAGER, PHASE_OPEN, &err), 0);
	assert_int_equal(wire_recv(&z, &err), 1);
	assert_int_equal(z.message.conn_start.uid, 8);
	assert_int_equal(wire_recv(&m, &err), 0);
	wire_close(&z);
	assert_int_equal(wire_recv(&m, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	wire_close(&m);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(a_message_arrives_with_its_fields_and_fds),
	    cmocka_unit_test(direction_phase_and_fds_are_checked),
	    cmocka_unit_test(what_is_too_long_is_not_sent_and_not_taken),
	    cmocka_unit_test(random_bytes_are_refused_or_fit_a_row),
	    cmocka_unit_test(a_peer_that_reads_nothing_is_cut_not_waited_for),
	    cmocka_unit_test(a_flood_of_small_messages_is_bounded_by_what_it_costs),
	    cmocka_unit_test(what_waits_goes_with_the_next_message),
	    cmocka_unit_test(a_peer_of_another_version_or_role_is_refused),
	    cmocka_unit_test(a_link_opened_again_has_no_hello),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
