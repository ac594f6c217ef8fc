/* The flow control recipes of conn. */
#include "server/conn/flow.c"
#include "server/conn/piped.c"

#include "flow_room.h"

/* ---- output ---- */

static void
short_writes_lose_and_repeat_nothing(void **state)
{
	struct room *r = *state;
	struct buf wrote[TEXTS] = {BUF_MAX(64 << 20), BUF_MAX(64 << 20)};

	fake.rekeys = true;
	for (int i = 0; i < 400; i++) {
		char bytes[70000];
		const size_t n = 1 + next_random() % sizeof bytes;
		const enum text t = next_random() % 2 ? TEXT_OUT : TEXT_ERR;
		for (size_t at = 0; at < n; at++)
			bytes[at] = (char)next_random();
		buf_add(&wrote[t], bytes, n);
		journal_put(r, JOURNAL_DATA, t == TEXT_OUT ? JOURNAL_OUT : JOURNAL_ERR, bytes, n);
		if (i % 50 == 0)
			run_output(r);
	}
	end_call(r);
	run_output(r);
	assert_true(r->ch.out.finished);
	for (int t = 0; t < TEXTS; t++) {
		assert_int_equal(fake.sent[t].len, wrote[t].len);
		assert_memory_equal(fake.sent[t].at, wrote[t].at, wrote[t].len);
		buf_free(&wrote[t]);
	}
	assert_true(fake.taken + TAKEN_STEP_BYTES >= r->at);
}

static void
nothing_is_produced_while_the_client_reads_nothing(void **state)
{
	struct room *r = *state;

	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "abc", 3);
	fake.blocked = true;
	assert_int_equal(flow_output(&r->ch), FLOW_STALLED);
	fake.blocked = false;
	fake.window = 0;
	assert_int_equal(flow_output(&r->ch), FLOW_STALLED);
	assert_int_equal(fake.writes, 0);
	assert_int_equal(r->ch.out.reader.at, 0);
	fake.window = 2;
	while (flow_output(&r->ch) == FLOW_MORE && fake.window)
		;
	assert_int_equal(fake.sent[TEXT_OUT].len, 2);
	fake.window = 100;
	run_output(r);
	assert_string_equal(fake.sent[TEXT_OUT].at, "abc");
}

static void
an_ended_call_needs_no_window_to_end(void **state)
{
	struct room *r = *state;

	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "abc", 3);
	run_output(r);
	fake.window = 0;
	end_call(r);
	assert_int_equal(flow_output(&r->ch), FLOW_MORE);
	assert_true(r->ch.out.finished);
}

static void
what_stands_behind_the_end_is_not_shown(void **state)
{
	static const char end[] = "{\"exit_status\":7,\"signal\":0,\"core_dumped\":true,"
				  "\"ended_by\":\"itself\",\"notice\":\"a \\\"b\\\" \\u0007\"}";
	struct room *r = *state;
	auto_buf notice = BUF_MAX(100);

	journal_put(r, JOURNAL_START, JOURNAL_OWN, "{}", 2);
	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "abc", 3);
	journal_put(r, JOURNAL_END, JOURNAL_OWN, end, sizeof end - 1);
	journal_put(r, JOURNAL_DATA, JOURNAL_LATE, "late", 4);
	r->ch.out.follow = false; /* the keeper died before it could say so */
	run_output(r);
	assert_true(r->ch.out.finished);
	assert_string_equal(fake.sent[TEXT_OUT].at, "abc");
	assert_true(flow_end_frame(&r->ch));
	assert_int_equal(r->ch.exit_status, 7);
	assert_int_equal(r->ch.exit_signal, 0);
	assert_true(r->ch.core_dumped);
	flow_end_notice(&r->ch, &notice);
	assert_string_equal(buf_cstr(&notice), "a \"b\" ?0007");
}

static void
a_lost_call_without_an_end_has_none(void **state)
{
	struct room *r = *state;

	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "abc", 3);
	run_output(r);
	assert_false(r->ch.out.finished); /* it may grow */
	r->ch.out.follow = false;
	run_output(r);
	assert_true(r->ch.out.finished);
	assert_false(flow_end_frame(&r->ch));
}

static void
a_followed_journal_ends_with_its_end_frame(void **state)
{
	struct room *r = *state;

	r->ch.state = CHANNEL_VERB; /* `call output --follow`: verb_end comes with the journal */
	r->ch.end_known = true;
	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "abc", 3);
	run_output(r);
	assert_false(r->ch.out.finished);
	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "def", 3);
	journal_put(r, JOURNAL_END, JOURNAL_OWN, "{}", 2);
	run_output(r);
	assert_true(r->ch.out.finished);
	assert_string_equal(fake.sent[TEXT_OUT].at, "abcdef");
}

static void
output_can_begin_later(void **state)
{
	struct room *r = *state;

	r->ch.out.follow = false;
	r->ch.out.skip_bytes = 5;
	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "abc", 3);
	journal_put(r, JOURNAL_DATA, JOURNAL_ERR, "DEFG", 4);
	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "hi", 2);
	run_output(r);
	assert_true(r->ch.out.finished);
	assert_string_equal(fake.sent[TEXT_ERR].at, "FG");
	assert_string_equal(fake.sent[TEXT_OUT].at, "hi");
	assert_false(r->ch.out.has_gap);
}

static void
a_gap_is_said_in_its_place(void **state)
{
	struct room *r = *state;

	journal_put(r, JOURNAL_DATA, JOURNAL_ERR, "abc", 3);
	r->offset[JOURNAL_ERR] += 1000;
	journal_put(r, JOURNAL_DATA, JOURNAL_ERR, "xyz", 3);
	r->ch.out.skip_bytes = 103; /* 100 of the lost ones would not have been shown */
	run_output(r);
	assert_true(r->ch.out.has_gap);
	assert_string_equal(
	    fake.sent[TEXT_ERR].at,
	    "berth: call: 900 bytes of stderr from byte 103 on are no longer kept here\nxyz");
}

static void
a_gap_that_is_skipped_is_none(void **state)
{
	struct room *r = *state;

	r->offset[JOURNAL_OUT] += 1000;
	journal_put(r, JOURNAL_DATA, JOURNAL_OUT, "xyz", 3);
	r->ch.out.skip_bytes = 1001;
	run_output(r);
	assert_false(r->ch.out.has_gap);
	assert_string_equal(fake.sent[TEXT_OUT].at, "yz");
}

static void
a_corrupt_journal_is_an_error(void **state)
{
	struct room *r = *state;

	journal_put(r, (enum journal_kind)77, JOURNAL_OUT, "abc", 3);
	run_output(r);
	assert_int_equal(fake.failed.code, ERR_CORRUPT);
	assert_int_equal(fake.sent[TEXT_OUT].len, 0);
}

/* ---- the stdout of a subsystem ---- */

/* Its channel reads a pipe from now on; the other end. */
static int
begin_pipe(struct room *r)
{
	struct err err;
	int ends[2];

	watch_remove(&r->ch.out.watch);
	fd_close(&r->ch.out.journal);
	assert_int_equal(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
	r->ch.out.pipe = ends[0];
	assert_int_equal(watch_add(&r->conn.loop, &r->ch.out.watch, ends[0], EPOLLIN | EPOLLET,
				   on_readable, &r->ch, &err), 0);
	return ends[1];
}

static void
a_pipe_arrives_whole_and_ends_at_its_end(void **state)
{
	struct room *r = *state;
	auto_buf wrote = BUF_MAX(64 << 20);
	int pipe = begin_pipe(r);

	fake.rekeys = true;
	for (int i = 0; i < 300; i++) {
		char bytes[60000];
		const size_t n = 1 + next_random() % sizeof bytes;
		for (size_t at = 0; at < n; at++)
			bytes[at] = (char)next_random();
		assert_int_equal(write(pipe, bytes, n), n);
		buf_add(&wrote, bytes, n);
		run_output(r);
		assert_false(r->ch.out.finished);
	}
	fd_close(&pipe);
	run_output(r);
	assert_true(r->ch.out.finished);
	assert_int_equal(fake.sent[TEXT_OUT].len, wrote.len);
	assert_memory_equal(fake.sent[TEXT_OUT].at, wrote.at, wrote.len);
	assert_int_equal(fake.sent[TEXT_ERR].len, 0);
	assert_int_equal(r->ch.out.piped, wrote.len);
}

static void
a_pipe_that_somebody_else_holds_ends_with_its_call(void **state)
{
	struct room *r = *state;
	int pipe = begin_pipe(r);

	assert_int_equal(write(pipe, "last", 4), 4);
	end_call(r);
	run_output(r);
	assert_true(r->ch.out.finished);
	assert_int_equal(fake.sent[TEXT_OUT].len, 4);
	fd_close(&pipe);
}

static void
a_pipe_is_not_read_while_the_client_takes_nothing(void **state)
{
	struct room *r = *state;
	int pipe = begin_pipe(r), waiting = 0;

	assert_int_equal(write(pipe, "bytes", 5), 5);
	fake.window = 0;
	assert_int_equal(flow_output(&r->ch), FLOW_STALLED);
	fake.window = 1000;
	fake.blocked = true;
	assert_int_equal(flow_output(&r->ch), FLOW_STALLED);
	assert_int_equal(ioctl(r->ch.out.pipe, FIONREAD, &waiting), 0);
	assert_int_equal(waiting, 5);
	fake.blocked = false;
	fd_close(&pipe);
	run_output(r);
}

/* ---- input ---- */

/* Bytes arrive; as libssh does, all that is buffered is offered, and what is taken leaves. */
static void
arrive(struct room *r, const char *bytes, size_t n)
{
	assert_true(fake.waiting_n + n <= sizeof fake.waiting);
	memcpy(fake.waiting + fake.waiting_n, bytes, n);
	fake.waiting_n += n;
	const int k = flow_on_data(NULL, NULL, fake.waiting, (uint32_t)fake.waiting_n, 0, &r->ch);
	assert_true(k >= 0 && (size_t)k <= fake.waiting_n);
	memmove(fake.waiting, fake.waiting + k, fake.waiting_n - (size_t)k);
	fake.waiting_n -= (size_t)k;
}

static size_t
drain_sink(struct room *r, struct buf *out, size_t most)
{
	char bytes[65536];
	const ssize_t n = read(r->sink, bytes, most < sizeof bytes ? most : sizeof bytes);

	if (n <= 0)
		return 0;
	buf_add(out, bytes, (size_t)n);
	return (size_t)n;
}

static void
input_arrives_whole_through_a_slow_sink(void **state)
{
	struct room *r = *state;
	auto_buf sent = BUF_MAX(64 << 20), got = BUF_MAX(64 << 20);
	size_t held_most = 0;

	for (int i = 0; i < 300; i++) {
		char bytes[32768];
		const size_t n = 1 + next_random() % sizeof bytes;
		for (size_t at = 0; at < n; at++)
			bytes[at] = (char)next_random();
		if (fake.waiting_n + n <= 1280000) { /* the window */
			buf_add(&sent, bytes, n);
			arrive(r, bytes, n);
		}
		drain_sink(r, &got, next_random() % 40000);
		flow_input(&r->ch);
		if (r->ch.in.held_len > held_most)
			held_most = r->ch.in.held_len;
		assert_true(r->ch.in.held_len + fake.waiting_n <= 2 * 1280000);
	}
	assert_true(fake.reads > 0 && held_most > 65536); /* the slow path was walked */
	r->ch.client_eof = true;
	while (r->ch.in.fd >= 0) {
		flow_input(&r->ch);
		drain_sink(r, &got, 65536);
	}
	while (drain_sink(r, &got, 65536))
		;
	assert_int_equal(got.len, sent.len);
	assert_memory_equal(got.at, sent.at, sent.len);
}

static void
a_read_takes_all_that_is_buffered(void **state)
{
	struct room *r = *state;
	static char bytes[1280000];
	auto_buf got = BUF_MAX(64 << 20);

	arrive(r, bytes, sizeof bytes); /* the pipe takes some of it */
	assert_true(r->ch.in.backlog > 0 && r->ch.in.backlog == fake.waiting_n);
	flow_input(&r->ch);
	assert_int_equal(fake.waiting_n, 0); /* a partial read would open the window for nothing */
	assert_int_equal(fake.reads, 1);
	assert_int_equal(r->ch.in.backlog, 0);
	flow_input(&r->ch);
	assert_int_equal(fake.reads, 1);
}

static void
bytes_that_come_within_a_read_keep_their_place(void **state)
{
	struct room *r = *state;
	auto_buf got = BUF_MAX(64 << 20);
	static char bytes[200000];
	size_t sent = 0;

	reader_of = &r->ch;
	memset(bytes, 'p', sizeof bytes);
	for (int i = 0; i < 50; i++) {
		const size_t before = fake.waiting_n;
		if (before + sizeof bytes < sizeof fake.waiting / 4)
			arrive(r, bytes, sizeof bytes), sent += sizeof bytes;
		drain_sink(r, &got, 65536);
		flow_input(&r->ch);
	}
	reader_of = NULL;
	r->ch.client_eof = true;
	while (r->ch.in.fd >= 0) {
		flow_input(&r->ch);
		drain_sink(r, &got, 65536);
	}
	while (drain_sink(r, &got, 65536))
		;
	assert_true(got.len > sent && (got.len - sent) % 1000 == 0); /* those of the pump too */
	assert_int_equal(fake.waiting_n, 0);
}

static void
input_waits_for_the_call_to_start(void **state)
{
	struct room *r = *state;
	auto_buf got = BUF_MAX(1000);

	r->ch.state = CHANNEL_WANTED;
	arrive(r, "early", 5);
	r->ch.client_eof = true;
	flow_input(&r->ch);
	assert_int_equal(fake.waiting_n, 5);
	assert_true(r->ch.in.fd >= 0);
	r->ch.state = CHANNEL_LIVE;
	flow_input(&r->ch);
	drain_sink(r, &got, 1000);
	assert_string_equal(got.at, "early");
	assert_int_equal(r->ch.in.fd, -1); /* and its EOF is passed on */
}

/* A call with a key: another channel has given the first bytes, and then was gone. */
static void
the_next_owner_gives_what_was_not_taken_yet(void **state)
{
	struct room *r = *state;
	auto_buf got = BUF_MAX(1000);
	int feed = fd_steal(&r->ch.in.fd);
	struct err err;

	watch_remove(&r->ch.in.watch);
	r->ch.in.waits = true; /* it has joined, and gives nothing */
	arrive(r, "abcdef", 6);
	r->ch.client_eof = true;
	flow_input(&r->ch);
	assert_int_equal(fake.waiting_n, 6);
	assert_false(fake.input_ended);
	r->ch.in.waits = false;
	r->ch.in.counts = true;
	r->ch.in.fed = r->ch.in.skip = 4;
	assert_int_equal(flow_begin_input(&r->ch, &feed, &err), 0);
	flow_input(&r->ch);
	drain_sink(r, &got, 1000);
	assert_string_equal(got.at, "ef");
	assert_int_equal(fake.fed, 6);
	assert_true(fake.input_ended);
	assert_int_equal(r->ch.in.fd, -1);
}

static void
a_call_that_closed_its_stdin_does_not_stop_the_client(void **state)
{
	struct room *r = *state;
	static char bytes[1000000];

	arrive(r, bytes, sizeof bytes);
	assert_true(fake.waiting_n > 0);
	fd_close(&r->sink);
	flow_input(&r->ch);
	assert_int_equal(fake.waiting_n, 0);
	assert_int_equal(r->ch.in.held_len, 0);
	arrive(r, bytes, sizeof bytes);
	assert_int_equal(fake.waiting_n, 0);
}

/* call input: what comes before the call's stdin is there waits; then all goes in, and the end is told. */
static void
a_verb_that_gives_stdin_tells_what_became_of_it(void **state)
{
	struct room *r = *state;
	auto_buf got = BUF_MAX(1000);
	int feed = fd_steal(&r->ch.in.fd);
	struct err err;

	watch_remove(&r->ch.in.watch);
	r->ch.state = CHANNEL_VERB;
	r->ch.feed = FEED_ASKED;
	arrive(r, "early", 5);
	flow_input(&r->ch);
	assert_int_equal(fake.waiting_n, 5);
	assert_false(fake.given);
	assert_int_equal(flow_begin_input(&r->ch, &feed, &err), 0);
	r->ch.feed = FEED_OPEN;
	flow_input(&r->ch);
	drain_sink(r, &got, 1000);
	assert_string_equal(got.at, "early");
	assert_false(fake.given);
	r->ch.client_eof = true;
	flow_input(&r->ch);
	assert_true(fake.given && !fake.refused && !fake.input_ended);
	assert_int_equal(r->ch.in.fd, -1);
}

static void
a_verb_whose_call_reads_no_more_is_told_so(void **state)
{
	struct room *r = *state;
	static char bytes[1000000];

	r->ch.state = CHANNEL_VERB;
	r->ch.feed = FEED_OPEN;
	arrive(r, bytes, sizeof bytes);
	flow_input(&r->ch);
	assert_false(fake.given);
	fd_close(&r->sink);
	flow_input(&r->ch);
	assert_true(fake.given && fake.refused);
	arrive(r, bytes, sizeof bytes); /* and nothing holds its client any more */
	assert_int_equal(fake.waiting_n, 0);
}

static void
a_client_beyond_its_window_is_cut_off(void **state)
{
	struct room *r = *state;

	flow_on_data(NULL, NULL, fake.waiting, WINDOW_MAX_BYTES, 0, &r->ch);
	assert_null(fake.ended);
	flow_on_data(NULL, NULL, fake.waiting, WINDOW_MAX_BYTES + 1, 0, &r->ch);
	assert_non_null(fake.ended);
}

static void
stderr_of_a_client_is_dropped(void **state)
{
	struct room *r = *state;

	assert_int_equal(flow_on_data(NULL, NULL, fake.waiting, 1000, 1, &r->ch), 1000);
	assert_int_equal(r->ch.in.backlog, 0);
}

#define ROOM(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int
main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
	    ROOM(short_writes_lose_and_repeat_nothing),
	    ROOM(nothing_is_produced_while_the_client_reads_nothing),
	    ROOM(an_ended_call_needs_no_window_to_end),
	    ROOM(what_stands_behind_the_end_is_not_shown),
	    ROOM(a_lost_call_without_an_end_has_none),
	    ROOM(a_followed_journal_ends_with_its_end_frame),
	    ROOM(output_can_begin_later),
	    ROOM(a_gap_is_said_in_its_place),
	    ROOM(a_gap_that_is_skipped_is_none),
	    ROOM(a_corrupt_journal_is_an_error),
	    ROOM(a_pipe_arrives_whole_and_ends_at_its_end),
	    ROOM(a_pipe_that_somebody_else_holds_ends_with_its_call),
	    ROOM(a_pipe_is_not_read_while_the_client_takes_nothing),
	    ROOM(input_arrives_whole_through_a_slow_sink),
	    ROOM(a_read_takes_all_that_is_buffered),
	    ROOM(bytes_that_come_within_a_read_keep_their_place),
	    ROOM(input_waits_for_the_call_to_start),
	    ROOM(the_next_owner_gives_what_was_not_taken_yet),
	    ROOM(a_call_that_closed_its_stdin_does_not_stop_the_client),
	    ROOM(a_verb_that_gives_stdin_tells_what_became_of_it),
	    ROOM(a_verb_whose_call_reads_no_more_is_told_so),
	    ROOM(a_client_beyond_its_window_is_cut_off),
	    ROOM(stderr_of_a_client_is_dropped),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
