/* The keeper as its manager and a conn see it. */
#include "keeper_room.h"

/* ---- the claims ---- */

static void
a_call_has_both_streams_and_its_exit_status(void **state)
{
	struct rig *r = *state;
	struct seen s;
	call(r, &s, "echo out; echo err >&2; exit 7");
	assert_string_equal(buf_cstr(&s.out), "out\n");
	assert_string_equal(buf_cstr(&s.err), "err\n");
	assert_int_equal(s.status, 7);
	assert_int_equal(s.signal, 0);
	assert_string_equal(s.ended_by, "itself");
	assert_true(id_is("c_", str_of(s.call)));
	records_reach(r, 1, 1);
	assert_int_equal(r->last_record, 101);
	assert_string_equal(buf_cstr(&r->last_end), "itself 7 0");
	done_with(&s);
}

static void
the_environment_is_base_then_call_and_nothing_else(void **state)
{
	struct seen s;
	call(*state, &s,
	     "pwd; umask; echo $KEEP $LANG; env | grep -c BERTH; ls /proc/self/fd | wc -l; "
	     "grep SigBlk /proc/self/status; grep SigIgn /proc/self/status");
	assert_string_equal(buf_cstr(&s.out),
			    "/\n0022\ncall C\n0\n4\n" /* the fourth is ls's own */
			    "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
	done_with(&s);
}

static void
a_signal_ends_a_call_and_is_told(void **state)
{
	struct rig *r = *state;
	struct seen s;
	ask(r, &s, 7, "echo up; exec sleep 1000", false);
	started(r, &s);
	while (s.out_bytes < 3) {
		struct pollfd p = {.fd = s.growth, .events = POLLIN};
		assert_int_equal(poll(&p, 1, 20000), 1);
		read_journal(r, &s);
	}
	MUST(wire_send(&r->conn, call_signal, err, .channel = 7, .signal = SIGTERM));
	finish_call(r, &s);
	assert_int_equal(s.signal, SIGTERM);
	assert_string_equal(s.ended_by, "signal");
	done_with(&s);
}

static void
fifty_megabytes_arrive_equal_through_a_journal_of_four(void **state)
{
	enum { BYTES = 50 << 20 };
	struct rig *r = *state;
	struct seen s;
	char line[16];
	struct hasher *expect = hasher_new();
	for (uint64_t at = 0, i = 1; at < BYTES; i++) { /* each byte depends on its place */
		const size_t n =
		    (size_t)snprintf(line, sizeof line, "%llu\n", (unsigned long long)i);
		hasher_add(expect, line, n < BYTES - at ? n : (size_t)(BYTES - at));
		at += n;
	}
	ask(r, &s, 7, "seq 1 10000000 | head -c 52428800", false);
	s.sum = hasher_new();
	started(r, &s);
	end_input(r, &s);
	finish_call(r, &s);
	assert_int_equal(s.out_bytes, BYTES);
	const struct digest want = hasher_sum(expect), got = hasher_sum(s.sum);
	assert_true(digest_equal(&want, &got));
	done_with(&s);
	hasher_free(s.sum);
	hasher_free(expect);
}

static void
stdin_arrives_and_its_end_too(void **state)
{
	struct rig *r = *state;
	struct seen s;
	ask(r, &s, 7, "cat; echo done >&2", false);
	started(r, &s);
	assert_int_equal(write(s.input, "typed", 5), 5);
	end_input(r, &s);
	finish_call(r, &s);
	assert_string_equal(buf_cstr(&s.out), "typed");
	assert_string_equal(buf_cstr(&s.err), "done\n");
	done_with(&s);
}

static void
a_child_that_holds_the_pipe_does_not_hold_the_call(void **state)
{
	struct rig *r = *state;
	struct seen s;
	const uint64_t begun = time_now_ns();
	call(r, &s, "sleep 100 & echo $!");
	assert_int_equal(s.status, 0);
	assert_true(s.ended_at_ns - begun < 2 * NS_PER_S);
	uint64_t child;
	const struct str number = {s.out.at, s.out.len - 1};
	MUST(num_parse(number, 2, 1 << 22, &child, err));
	assert_int_equal(kill((pid_t)child, SIGKILL), 0); /* it lived on */
	done_with(&s);
}

static void
a_child_that_goes_on_writing_delays_the_end_two_seconds_at_most(void **state)
{
	struct rig *r = *state;
	struct seen s;
	const uint64_t begun = time_now_ns();
	/* it ends when the keeper does: nobody reads its pipe then */
	call(r, &s, "(while :; do echo x; done) & echo hi");
	assert_true(s.ended_at_ns - begun < 4 * NS_PER_S);
	assert_int_equal(s.status, 0);
	done_with(&s);
}

static void
what_stderr_held_is_kept_though_a_child_floods_stdout(void **state)
{
	struct rig *r = *state;
	struct seen s;
	/* nothing is read until it has ended: the journal is full, and stderr waits in its pipe */
	ask(r, &s, 7, "yes & sleep 0.3; echo important >&2; exit 3", false);
	started(r, &s);
	while (!s.told)
		take(r, &s, 1);
	finish_call(r, &s);
	assert_string_equal(buf_cstr(&s.err), "important\n");
	assert_int_equal(s.status, 3);
	done_with(&s);
}

static void
an_owner_that_reads_nothing_stops_the_writer_and_loses_nothing(void **state)
{
	struct rig *r = *state;
	struct seen s;
	struct stat st;
	uint64_t before = 0, n;
	ask(r, &s, 7, "head -c 20000000 /dev/zero | tr '\\0' a; echo end >&2", false);
	started(r, &s);
	/* growth stops when the journal is full: the keeper is quiet for a while then */
	for (;;) {
		struct pollfd p = {.fd = s.growth, .events = POLLIN};
		if (poll(&p, 1, 500) == 0)
			break;
		assert_int_equal(read(s.growth, &n, sizeof n), sizeof n);
	}
	assert_int_equal(fstat(s.journal, &st), 0);
	before = (uint64_t)st.st_size;
	assert_true(before >= 4 << 20 && before < 5 << 20);
	finish_call(r, &s);
	assert_int_equal(s.out_bytes, 20000000);
	assert_string_equal(buf_cstr(&s.err), "end\n");
	assert_int_equal(fstat(s.journal, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < 6 << 20);
	done_with(&s);
}

/* Of the keeper; asked in a later turn of its loop than what came before. */
static int
count_fds(struct rig *r)
{
	char path[64];
	int n = 0;
	MUST(wire_send(&r->manager, hold, err, .seq = 1, .hold = 0));
	command_done(r, 1);
	snprintf(path, sizeof path, "/proc/%d/fd", (int)r->keeper);
	DIR *d = opendir(path);
	assert_non_null(d);
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void
two_hundred_calls_in_a_row_leave_nothing_open(void **state)
{
	struct rig *r = *state;
	char command[64], expect[32];
	struct seen s;
	call(r, &s, "true"); /* what is made ahead for the next one is there now, and after each */
	done_with(&s);
	records_reach(r, 1, 1);
	const int before = count_fds(r);
	for (int i = 0; i < 200; i++) {
		snprintf(command, sizeof command, "echo call %d; exit %d", i, i % 100);
		snprintf(expect, sizeof expect, "call %d\n", i);
		call(r, &s, command);
		assert_string_equal(buf_cstr(&s.out), expect);
		assert_int_equal(s.status, i % 100);
		done_with(&s);
	}
	records_reach(r, 201, 201);
	assert_int_equal(count_fds(r), before);
}

static void
a_command_may_be_as_long_as_the_kernel_takes_one(void **state)
{
	static char command[131073];
	struct seen s;
	memset(command, 'x', sizeof command - 1);
	memcpy(command, "exit 5 #", 8);
	command[131071] = '\0'; /* the longest: its NUL counts */
	call(*state, &s, command);
	assert_int_equal(s.status, 5);
	done_with(&s);
	command[131071] = 'x';
	call(*state, &s, command);
	assert_int_equal(s.status, 126);
	assert_string_equal(buf_cstr(&s.err), "berth: exec: /bin/sh: Argument list too long\n");
	done_with(&s);
}

static void
sixty_four_calls_at_once(void **state)
{
	struct rig *r = *state;
	static struct seen s[64];
	char command[64], expect[32];
	size_t ended = 0;
	for (uint32_t i = 0; i < 64; i++) {
		snprintf(command, sizeof command, "read x; echo $x %u", i);
		ask(r, &s[i], i, command, false);
	}
	for (int i = 0; i < 64; i++)
		take(r, s, 64);
	for (int i = 63; i >= 0; i--) /* all of them live now */
		assert_int_equal(write(s[i].input, "line\n", 5), 5);
	while (ended < 64) {
		take(r, s, 64);
		ended++;
	}
	for (uint32_t i = 0; i < 64; i++) {
		read_journal(r, &s[i]);
		snprintf(expect, sizeof expect, "line %u\n", i);
		assert_string_equal(buf_cstr(&s[i].out), expect);
		assert_int_equal(s[i].status, 0);
		done_with(&s[i]);
	}
}

static void
a_missing_command_is_127_with_a_reason(void **state)
{
	struct seen s;
	call(*state, &s, "exec /no/such/thing");
	assert_int_equal(s.status, 127);
	done_with(&s);
}

static void
a_terminal_has_size_name_and_end_of_input(void **state)
{
	struct rig *r = *state;
	struct seen s;
	ask(r, &s, 7, "tty; stty size; echo $TERM; cat", true);
	started(r, &s);
	while (!strstr(buf_cstr(&s.out), "vt100")) { /* else the echo may come in between */
		struct pollfd p = {.fd = s.growth, .events = POLLIN};
		assert_int_equal(poll(&p, 1, 20000), 1);
		read_journal(r, &s);
	}
	assert_int_equal(write(s.input, "half", 4),
			 4); /* no newline: the end needs two characters */
	end_input(r, &s);
	finish_call(r, &s);
	assert_int_equal(s.status, 0);
	assert_non_null(strstr(buf_cstr(&s.out), "/dev/pts/"));
	assert_non_null(strstr(buf_cstr(&s.out), "25 81\r\nvt100\r\n"));
	const char *echo = strstr(buf_cstr(&s.out), "half"); /* as it was typed; then cat's */
	assert_non_null(echo);
	assert_non_null(strstr(echo + 4, "half"));
	done_with(&s);
}

static void
a_terminal_changes_its_size(void **state)
{
	struct rig *r = *state;
	struct seen s;
	ask(r, &s, 7, "trap 'stty size; exit 3' WINCH; echo up; while :; do read x; done", true);
	started(r, &s);
	while (!strstr(buf_cstr(&s.out), "up")) {
		struct pollfd p = {.fd = s.growth, .events = POLLIN};
		assert_int_equal(poll(&p, 1, 20000), 1);
		read_journal(r, &s);
	}
	MUST(wire_send(&r->conn, call_resize, err, .channel = 7, .columns = 132, .rows = 50));
	assert_int_equal(write(s.input, "\n", 1), 1); /* dash runs a trap when its read returns */
	finish_call(r, &s);
	assert_int_equal(s.status, 3);
	assert_non_null(strstr(buf_cstr(&s.out), "50 132"));
	done_with(&s);
}

static void
a_lost_link_hangs_up_and_the_call_is_recorded(void **state)
{
	struct rig *r = *state;
	struct seen s;
	ask(r, &s, 7, "exec sleep 1000", false);
	started(r, &s);
	wire_close(&r->conn);
	bool closed = false;
	while (!closed || r->records[1] < 1) {
		MUST(wire_recv_wait(&r->manager, time_now_ns() + patience, err));
		if (r->manager.message.id == MSG_call_record)
			take_record(r);
		else
			closed = r->manager.message.id == MSG_grant_closed;
	}
	assert_string_equal(buf_cstr(&r->last_end), "signal 0 1");
	done_with(&s);
}

static void
held_refuses_with_again_until_it_is_not(void **state)
{
	struct rig *r = *state;
	struct seen s;
	MUST(wire_send(&r->manager, hold, err, .seq = 1, .hold = 1));
	assert_int_equal(command_done(r, 1)->done.code, ERR_NONE);
	ask(r, &s, 7, "true", false);
	take(r, &s, 1);
	assert_true(s.refused);
	assert_int_equal(s.code, ERR_AGAIN);
	MUST(wire_send(&r->manager, hold, err, .seq = 2, .hold = 0));
	assert_int_equal(command_done(r, 2)->done.code, ERR_NONE);
	call(r, &s, "true");
	assert_int_equal(s.status, 0);
	done_with(&s);
}

/* The next word to the owner of one call that goes on. */
static struct str
notice(struct rig *r)
{
	MUST(wire_recv_wait(&r->conn, time_now_ns() + patience, err));
	assert_int_equal(r->conn.message.id, MSG_call_notice);
	assert_int_equal(r->conn.message.call_notice.channel, 7);
	return r->conn.message.call_notice.text;
}

static void
who_sits_before_a_call_is_told_when_it_is_suspended(void **state)
{
	struct rig *r = *state;
	struct seen s;

	ask(r, &s, 7, "cat", false);
	take(r, &s, 1);
	MUST(wire_send(&r->manager, suspend, err, .on = 1, .why = STR_LIT("disk full: so it is"),
		       .hint = STR_LIT("do this")));
	assert_true(str_is(notice(r), "berth: call: disk full: so it is (do this)"));
	MUST(wire_send(&r->manager, suspend, err, .on = 0));
	assert_true(str_is(notice(r), "berth: call: the session goes on"));
	MUST(wire_send(&r->manager, suspend, err, .on = 0)); /* nothing new: not told again */
	end_input(r, &s);
	finish_call(r, &s);
	assert_int_equal(s.status, 0);
	done_with(&s);
}

static void
terminate_ends_commands_and_terminals(void **state)
{
	struct rig *r = *state;
	static struct seen s[2];
	ask(r, &s[0], 1, "trap 'echo bye; exit 5' TERM; echo up; while :; do sleep 0.01; done",
	    false);
	ask(r, &s[1], 2, "trap '' TERM; echo up; exec sleep 1000", true);
	take(r, s, 2);
	take(r, s, 2);
	for (int i = 0; i < 2; i++)
		while (s[i].out_bytes < 3) {
			struct pollfd p = {.fd = s[i].growth, .events = POLLIN};
			assert_int_equal(poll(&p, 1, 20000), 1);
			read_journal(r, &s[i]);
		}
	MUST(wire_send(&r->manager, terminate, err, .seq = 3, .grace_ns = patience));
	assert_int_equal(command_done(r, 3)->done.code, ERR_NONE);
	while (!s[0].told || !s[1].told)
		take(r, s, 2);
	read_journal(r, &s[0]);
	assert_string_equal(buf_cstr(&s[0].out), "up\nbye\n");
	assert_int_equal(s[0].status, 5);
	assert_int_equal(s[1].signal, SIGHUP);
	assert_string_equal(s[1].ended_by, "pause");
	done_with(&s[0]);
	done_with(&s[1]);
}

static void
kill_ends_all_with_its_reason_and_then_the_keeper(void **state)
{
	struct rig *r = *state;
	struct seen s;
	ask(r, &s, 7, "echo kept; exec sleep 1000", false);
	started(r, &s);
	while (s.out_bytes < 5) {
		struct pollfd p = {.fd = s.growth, .events = POLLIN};
		assert_int_equal(poll(&p, 1, 20000), 1);
		read_journal(r, &s);
	}
	MUST(wire_send(&r->manager, kill, err, .seq = 4, .ended_by = STR_LIT("restore")));
	assert_int_equal(command_done(r, 4)->done.code, ERR_NONE);
	assert_int_equal(r->records[1], 1); /* the record came before done */
	assert_string_equal(buf_cstr(&r->last_end), "restore 0 9");
	while (!s.told) /* was said before done; the keeper may be gone, and takes no answer */
		take(r, &s, 1);
	finish_call(r, &s);
	assert_string_equal(s.ended_by, "restore");
	assert_int_equal(wait_keeper(r), 0);
	done_with(&s);
}

static int
connect_to(const char *path)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

static void
a_new_manager_takes_over_calls_grants_and_records(void **state)
{
	struct rig *r = *state;
	struct seen s;
	struct wire second = {.fd = -1};
	int pair[2];
	r->keeps_acks = true;
	ask(r, &s, 7, "read x; echo got $x", false);
	started(r, &s);
	MUST(wire_send(&r->manager, freeze, err, .seq = 1));
	assert_int_equal(command_done(r, 1)->done.code, ERR_NONE);
	MUST(wire_send(&r->manager, hold, err, .seq = 2, .hold = 1));
	assert_int_equal(command_done(r, 2)->done.code, ERR_NONE);
	/* one manager at a time */
	struct err why;
	if (wire_open(&second, connect_to(r->listen_path), ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN,
		      &why) == 0) /* else it was cut before it could greet */
		assert_int_equal(wire_recv_wait(&second, time_now_ns() + patience, &why), -1);
	assert_int_equal(why.code, ERR_UNAVAILABLE);
	wire_close(&second);

	wire_close(&r->manager);
	r->last_record = 99; /* what was not acknowledged comes again */
	r->records[0] = r->records[1] = 0;
	MUST(wire_open(&r->manager, connect_to(r->listen_path), ROLE_MANAGER, ROLE_KEEPER,
		       PHASE_OPEN, err));
	struct message *m = manager_next(r);
	assert_int_equal(m->id, MSG_keeper_state);
	assert_true(str_is(m->keeper_state.name, "demo"));
	assert_int_equal(m->keeper_state.calls, 1);
	assert_int_equal(m->keeper_state.frozen, 0); /* thawed, and admits again */
	assert_int_equal(m->keeper_state.held, 0);
	m = manager_next(r);
	assert_int_equal(m->id, MSG_grant_terms_report);
	assert_int_equal(m->grant_terms_report.grant, 1);
	assert_true(str_is(m->grant_terms_report.key, "x KEY"));
	assert_int_equal(m->grant_terms_report.roles, 6);
	m = manager_next(r);
	assert_int_equal(m->id, MSG_grant_allowances_report);
	assert_int_equal(m->grant_allowances_report.flags, ALLOW_ALL);
	assert_int_equal(m->grant_allowances_report.forwards, 5);
	assert_true(str_is(m->grant_allowances_report.permit_open, "a:1"));
	assert_int_equal(m->grant_allowances_report.permit_listen.len, 0);
	m = manager_next(r);
	assert_int_equal(m->id, MSG_grant_report);
	assert_int_equal(m->grant_report.grant, 1);
	assert_true(str_is(m->grant_report.principal, "tester"));
	r->keeps_acks = false;
	records_reach(r, 1, 0);

	MUST(wire_pair(pair, err));
	const struct msg_conn_adopt adopt = {.grant = 1};
	MUST(wire_send_fds(&r->manager, MSG_conn_adopt, &adopt, &pair[0], 1, err));
	close(pair[0]);
	MUST(wire_recv_wait(&r->conn, time_now_ns() + patience, err));
	assert_int_equal(r->conn.message.id, MSG_manager_link);
	assert_int_equal(write(pair[1], "x", 1), 1);
	char byte = 0;
	assert_int_equal(read(r->conn.message.fds[0], &byte, 1), 1);
	close(pair[1]);

	assert_int_equal(write(s.input, "line\n", 5), 5); /* the call never noticed */
	finish_call(r, &s);
	assert_string_equal(buf_cstr(&s.out), "got line\n");
	records_reach(r, 1, 1);
	done_with(&s);
}

static int
count_record(void *ctx, const struct msg_call_record *record, struct err *err)
{
	(void)record, (void)err;
	++*(int *)ctx;
	return 0;
}

static void
without_a_manager_the_spool_keeps_the_records(void **state)
{
	struct rig *r = *state;
	struct seen s;
	int n = 0;
	wire_close(&r->manager);
	call(r, &s, "exit 1");
	done_with(&s);
	call(r, &s, "kill -9 $PPID"); /* init: the session ends, and so does the keeper */
	assert_int_equal(wait_keeper(r), 0);
	MUST(spool_replay(r->dir, count_record, &n, err));
	assert_int_equal(n, 4);
	done_with(&s);
}

static void
a_call_is_followed_by_others(void **state)
{
	struct rig *r = *state;
	struct seen s, other = {.channel = 99, .out = BUF_MAX(1000), .err = BUF_MAX(1000)};
	ask(r, &s, 7, "echo a; read x; echo b", false);
	started(r, &s);
	MUST(wire_send(&r->manager, journal_watch, err, .seq = 5, .call = str_of(s.call)));
	struct message *m = manager_next(r);
	assert_int_equal(m->id, MSG_journal_watched);
	other.journal = fd_steal(&m->fds[0]);
	other.growth = fd_steal(&m->fds[1]);
	other.input = -1;
	other.journal_bytes = UINT64_MAX; /* it sends no call_taken */
	journal_reader_init(&other.reader, other.journal);
	assert_int_equal(write(s.input, "\n", 1), 1);
	while (!other.journal_ended) {
		struct pollfd p = {.fd = other.growth, .events = POLLIN};
		uint64_t n;
		read_journal(r, &other);
		if (other.journal_ended)
			break;
		assert_int_equal(poll(&p, 1, 20000), 1);
		assert_int_equal(read(other.growth, &n, sizeof n), sizeof n);
	}
	assert_string_equal(buf_cstr(&other.out), "a\nb\n");
	finish_call(r, &s);
	MUST(wire_send(&r->manager, journal_watch, err, .seq = 6, .call = str_of(s.call)));
	assert_int_equal(command_done(r, 6)->done.code, ERR_ABSENT);
	done_with(&s);
	done_with(&other);
}

/* Those who have gone cost no place; who is left hears a hang-up at the end, and when the keeper dies. */
static void
followers_come_and_go_without_number_and_hear_the_end(void **state)
{
	struct rig *r = *state;
	struct seen s, other;
	int growth[2] = {-1, -1};
	ask(r, &s, 7, "read x", false);
	started(r, &s);
	ask(r, &other, 8, "sleep 1000", false);
	started(r, &other);
	for (uint32_t i = 0; i < 3 * CALL_WATCHERS_MAX; i++) {
		struct seen *const of = i % 2 ? &other : &s;
		MUST(wire_send(&r->manager, journal_watch, err, .seq = i, .call = str_of(of->call)));
		struct message *m = manager_next(r);
		assert_int_equal(m->id, MSG_journal_watched);
		fd_close(&growth[i % 2]);
		growth[i % 2] = fd_steal(&m->fds[1]);
	}
	end_input(r, &s);
	finish_call(r, &s);
	char told[64];
	struct pollfd p = {.fd = growth[0], .events = POLLIN};
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_true(read(growth[0], told, sizeof told) > 0);
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_int_equal(p.revents, POLLHUP);
	p.fd = growth[1];
	assert_int_equal(poll(&p, 1, 0), 0);
	assert_int_equal(kill(r->keeper, SIGKILL), 0);
	wait_keeper(r);
	assert_int_equal(poll(&p, 1, 20000), 1);
	assert_true(p.revents & POLLHUP);
	fd_close(&growth[0]);
	fd_close(&growth[1]);
	done_with(&s);
	done_with(&other);
}

static void
a_conn_that_breaks_a_row_is_cut_and_the_others_go_on(void **state)
{
	struct rig *r = *state;
	struct wire bad;
	struct seen s;
	struct err why;
	grant_conn(r, 2, &bad);
	assert_int_equal(wire_recv(&bad, &why), 0); /* hello */
	assert_int_equal(write(bad.fd, "garbage", 7), 7);
	assert_int_equal(manager_next(r)->id, MSG_grant_closed);
	assert_int_equal(r->manager.message.grant_closed.grant, 2);
	call(r, &s, "echo ok");
	assert_string_equal(buf_cstr(&s.out), "ok\n");
	done_with(&s);
	wire_close(&bad);
}

static void
too_many_and_unknown_calls_are_refused_with_a_reason(void **state)
{
	struct rig *r = *state;
	static struct seen s[2];
	ask(r, &s[0], 3, "read x", false);
	started(r, &s[0]);
	MUST(wire_send(&r->conn, call_start, err, .channel = 3, .command = STR_LIT("true")));
	MUST(wire_recv_wait(&r->conn, time_now_ns() + patience, err));
	assert_int_equal(r->conn.message.id, MSG_call_refused); /* the channel has one */
	MUST(wire_send(&r->conn, call_start, err, .channel = 4, .kind = 2,
		       .command = STR_LIT("sftp")));
	MUST(wire_recv_wait(&r->conn, time_now_ns() + patience, err));
	assert_int_equal(r->conn.message.id, MSG_call_refused);
	assert_int_equal(r->conn.message.call_refused.code, ERR_UNAVAILABLE);
	end_input(r, &s[0]);
	finish_call(r, &s[0]);
	done_with(&s[0]);
}

/* Whatever a conn asks, one that was taken too: a snapshot's view runs nothing of the snapshot. */
static int
rig_up_read_only(void **state)
{
	rig_walls = KEEPER_READ_ONLY;
	const int up = rig_up(state);
	rig_walls = 0;
	return up;
}

static void
of_a_snapshot_nothing_is_run_and_nothing_forwarded(void **state)
{
	struct rig *r = *state;
	for (uint32_t kind = 0; kind < 2; kind++) {
		MUST(wire_send(&r->conn, call_start, err, .channel = 3 + kind, .kind = kind,
			       .command = STR_LIT("true")));
		MUST(wire_recv_wait(&r->conn, time_now_ns() + patience, err));
		assert_int_equal(r->conn.message.id, MSG_call_refused);
		assert_int_equal(r->conn.message.call_refused.code, ERR_DENIED);
	}
	MUST(wire_send(&r->conn, forward_open, err, .request = 7, .host = STR_LIT("a"), .port = 1));
	MUST(wire_recv_wait(&r->conn, time_now_ns() + patience, err));
	assert_int_equal(r->conn.message.id, MSG_forward_failed);
	assert_int_equal(r->conn.message.forward_failed.code, ERR_DENIED);
	MUST(wire_send(&r->conn, forward_listen, err, .request = 8, .host = STR_LIT(""), .port = 0));
	MUST(wire_recv_wait(&r->conn, time_now_ns() + patience, err));
	assert_int_equal(r->conn.message.id, MSG_forward_failed);
	assert_int_equal(r->conn.message.forward_failed.code, ERR_DENIED);
}

/* ---- figures, on demand ---- */

static int
compare_ns(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

static void
latency(void **state)
{
	struct rig *r = *state;
	enum { N = 500 };
	static uint64_t ours[N], plain[N];
	extern char **environ;
	if (!getenv("BERTH_BENCH"))
		skip();
	for (int i = 0; i < N; i++) {
		struct seen s;
		const uint64_t begun = time_now_ns();
		call(r, &s, "exec /bin/true");
		ours[i] = time_now_ns() - begun;
		done_with(&s);
	}
	for (int i = 0; i < N; i++) {
		char *argv[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
				(char *)(uintptr_t) "exec /bin/true", NULL};
		pid_t pid;
		const uint64_t begun = time_now_ns();
		assert_int_equal(posix_spawn(&pid, "/bin/sh", NULL, NULL, argv, environ), 0);
		waitpid(pid, NULL, 0);
		plain[i] = time_now_ns() - begun;
	}
	qsort(ours, N, sizeof *ours, compare_ns);
	qsort(plain, N, sizeof *plain, compare_ns);
	printf("sh -c 'exec /bin/true': keeper and init p50 %.3f ms p95 %.3f, posix_spawn p50 %.3f "
	       "p95 "
	       "%.3f\n",
	       (double)ours[N / 2] / 1e6, (double)ours[N * 95 / 100] / 1e6,
	       (double)plain[N / 2] / 1e6, (double)plain[N * 95 / 100] / 1e6);
	const uint64_t begun = time_now_ns();
	struct seen s;
	ask(r, &s, 7, "head -c 524288000 /dev/zero", false);
	s.sum = hasher_new();
	started(r, &s);
	finish_call(r, &s);
	assert_int_equal(s.out_bytes, 524288000);
	printf("500 MiB through the journal, hashed thrice: %.0f MB/s\n",
	       524.288 / ((double)(time_now_ns() - begun) / 1e9));
	hasher_free(s.sum);
	done_with(&s);
}

static void
a_spare_serves_once_it_has_its_name(void **state)
{
	struct rig *r = *state;
	struct seen s;
	MUST(wire_send(&r->manager, keeper_name, err, .name = STR_LIT("late"),
		       .hostname = STR_LIT("late")));
	assert_int_equal(manager_next(r)->id, MSG_keeper_started);
	grant_conn(r, 1, &r->conn);
	call(r, &s, "echo here");
	assert_string_equal(buf_cstr(&s.out), "here\n");
	done_with(&s);
}

static void
a_spare_ends_with_its_manager(void **state)
{
	struct rig *r = *state;
	wire_close(&r->manager);
	assert_true(WIFEXITED(wait_keeper(r)));
}

static void
a_spare_takes_no_command_before_its_name(void **state)
{
	struct rig *r = *state;
	MUST(wire_send(&r->manager, freeze, err, .seq = 1));
	assert_int_equal(manager_next(r)->id, MSG_keeper_failed);
	assert_true(WIFEXITED(wait_keeper(r)));
}

int
main(void)
{
#define S(name) cmocka_unit_test_setup_teardown(name, rig_up_spare, rig_down)
#define T(name) cmocka_unit_test_setup_teardown(name, rig_up, rig_down)
	const struct CMUnitTest tests[] = {
	    T(a_call_has_both_streams_and_its_exit_status),
	    T(the_environment_is_base_then_call_and_nothing_else),
	    T(a_signal_ends_a_call_and_is_told),
	    T(fifty_megabytes_arrive_equal_through_a_journal_of_four),
	    T(stdin_arrives_and_its_end_too),
	    T(a_child_that_holds_the_pipe_does_not_hold_the_call),
	    T(a_child_that_goes_on_writing_delays_the_end_two_seconds_at_most),
	    T(an_owner_that_reads_nothing_stops_the_writer_and_loses_nothing),
	    T(two_hundred_calls_in_a_row_leave_nothing_open),
	    T(a_command_may_be_as_long_as_the_kernel_takes_one),
	    T(sixty_four_calls_at_once),
	    T(a_missing_command_is_127_with_a_reason),
	    T(a_terminal_has_size_name_and_end_of_input),
	    T(a_terminal_changes_its_size),
	    T(a_lost_link_hangs_up_and_the_call_is_recorded),
	    T(held_refuses_with_again_until_it_is_not),
	    T(who_sits_before_a_call_is_told_when_it_is_suspended),
	    T(terminate_ends_commands_and_terminals),
	    T(kill_ends_all_with_its_reason_and_then_the_keeper),
	    T(a_new_manager_takes_over_calls_grants_and_records),
	    T(without_a_manager_the_spool_keeps_the_records),
	    T(a_call_is_followed_by_others),
	    T(followers_come_and_go_without_number_and_hear_the_end),
	    T(what_stderr_held_is_kept_though_a_child_floods_stdout),
	    T(a_conn_that_breaks_a_row_is_cut_and_the_others_go_on),
	    T(too_many_and_unknown_calls_are_refused_with_a_reason),
	    cmocka_unit_test_setup_teardown(of_a_snapshot_nothing_is_run_and_nothing_forwarded, rig_up_read_only, rig_down),
	    S(a_spare_serves_once_it_has_its_name),
	    S(a_spare_ends_with_its_manager),
	    S(a_spare_takes_no_command_before_its_name),
	    T(latency),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
