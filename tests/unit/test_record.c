/* Invariants of keeper/record.h, and wire/spool_read.h. */
#include "server/keeper/record.c"
#include "server/wire/spool_read.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>

struct rig {
	char path[40];
	int dir;
	struct wire keeper, manager;
	struct spool spool;
};

static void
link_up(struct rig *r)
{
	int pair[2];
	struct err err;
	assert_int_equal(wire_pair(pair, &err), 0);
	assert_int_equal(
	    wire_open(&r->keeper, pair[0], ROLE_KEEPER, ROLE_MANAGER, PHASE_OPEN, &err), 0);
	assert_int_equal(
	    wire_open(&r->manager, pair[1], ROLE_MANAGER, ROLE_KEEPER, PHASE_OPEN, &err), 0);
}

static int
setup(void **state)
{
	struct rig *r = xnew(1, sizeof *r);
	struct err err;
	memcpy(r->path, "/tmp/berth-record-XXXXXX", 25);
	assert_non_null(mkdtemp(r->path));
	r->dir = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(record_open(&r->spool, r->dir, 10, &err), 0);
	link_up(r);
	*state = r;
	return 0;
}

static int
teardown(void **state)
{
	struct rig *r = *state;
	struct err err;
	record_close(&r->spool);
	wire_close(&r->keeper);
	wire_close(&r->manager);
	close(r->dir);
	const int root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int gone = path_remove_tree(root, r->path + 1, &err);
	close(root);
	free(r);
	return gone;
}

static void
add(struct rig *r, int n)
{
	struct err err;
	for (int i = 0; i < n; i++) {
		struct msg_call_record m = {
		    .kind = STR_LIT("start"), .call = STR_LIT("c_x"), .command = STR_LIT("true")};
		assert_int_equal(record_append(&r->spool, &m, &err), 0);
	}
}

static void
send_all(struct rig *r)
{
	struct err err;
	assert_int_equal(record_send(&r->spool, &r->keeper, &err), 0);
}

/* Counts what has arrived, whose numbers must go on from *last. */
static int
arrived(struct rig *r, uint64_t *last)
{
	struct err err;
	int n = 0;
	while (wire_recv(&r->manager, &err) > 0) {
		assert_int_equal(r->manager.message.id, MSG_call_record);
		assert_int_equal(r->manager.message.call_record.record, ++*last);
		n++;
	}
	return n;
}

static off_t
spool_bytes(const struct rig *r)
{
	struct stat st;
	assert_int_equal(fstatat(r->dir, SPOOL_NAME, &st, 0), 0);
	return st.st_size;
}

static int
count(void *ctx, const struct msg_call_record *m, struct err *err)
{
	uint64_t *last = ctx;
	(void)err;
	assert_true(str_is(m->command, "true") || m->command.len == 4096);
	*last = m->record;
	return 0;
}

static void
a_record_is_in_the_file_until_it_is_acknowledged(void **state)
{
	struct rig *r = *state;
	struct err err;
	uint64_t last = 9, replayed = 0;
	add(r, 3);
	assert_int_equal(spool_replay(r->dir, count, &replayed, &err), 3); /* before it was sent */
	assert_int_equal(replayed, 12);
	send_all(r);
	assert_int_equal(arrived(r, &last), 3);
	record_ack(&r->spool, 11, 0);
	assert_false(record_all_acked(&r->spool));
	assert_true(spool_bytes(r) > 0);
	record_ack(&r->spool, 12, 0);
	assert_true(record_all_acked(&r->spool));
	assert_int_equal(spool_bytes(r), 0);
	add(r, 1); /* and numbers go on */
	send_all(r);
	assert_int_equal(arrived(r, &last), 1);
	assert_int_equal(last, 13);
}

static uint64_t
disk_bytes(const struct rig *r)
{
	struct stat st;
	assert_int_equal(fstat(r->spool.fd, &st), 0);
	return (uint64_t)st.st_blocks * 512;
}

/* Else a call that was admitted would end unheard of when the disk fills up. */
static void
the_disk_keeps_room_for_the_ends_of_live_calls(void **state)
{
	enum { LIVE = 200 };
	struct rig *r = *state;
	struct err err;
	uint64_t last = 9;
	assert_int_equal(record_reserve(&r->spool, LIVE, &err), 0);
	if (disk_bytes(r) == 0)
		skip(); /* a filesystem that reserves nothing */
	assert_true(disk_bytes(r) >= LIVE * CALL_RECORDS_BYTES);
	assert_int_equal(spool_bytes(r), 0);
	add(r, 5);
	send_all(r);
	assert_int_equal(arrived(r, &last), 5);
	record_ack(&r->spool, last, LIVE);
	assert_true(record_all_acked(&r->spool));
	assert_true(disk_bytes(r) >= LIVE * CALL_RECORDS_BYTES); /* what is reserved is not given back */
	add(r, 1);
	send_all(r);
	assert_int_equal(arrived(r, &last), 1);
	record_ack(&r->spool, last, 0);
	assert_int_equal(disk_bytes(r), 0);
}

static void
an_acknowledgement_of_what_was_never_sent_counts_for_nothing(void **state)
{
	struct rig *r = *state;
	add(r, 2);
	record_ack(&r->spool, 11, 0);
	record_ack(&r->spool, UINT64_MAX, 0);
	assert_false(record_all_acked(&r->spool));
	assert_true(spool_bytes(r) > 0);
}

static void
only_a_window_is_under_way(void **state)
{
	struct rig *r = *state;
	uint64_t last = 9;
	add(r, 1000);
	send_all(r);
	assert_int_equal(arrived(r, &last), RECORD_WINDOW);
	send_all(r);
	assert_int_equal(arrived(r, &last), 0);
	for (int i = 0; i < 10 && !record_all_acked(&r->spool); i++) {
		record_ack(&r->spool, last, 0);
		send_all(r);
		arrived(r, &last);
	}
	assert_int_equal(last, 1009);
	record_ack(&r->spool, last, 0);
	assert_int_equal(spool_bytes(r), 0);
}

static void
a_new_manager_gets_the_rest_again(void **state)
{
	struct rig *r = *state;
	uint64_t last = 9;
	add(r, 5);
	send_all(r);
	assert_int_equal(arrived(r, &last), 5);
	record_ack(&r->spool, 12, 0);
	wire_close(&r->keeper);
	wire_close(&r->manager);
	add(r, 1);   /* meanwhile */
	send_all(r); /* to nobody */
	link_up(r);
	record_rewind(&r->spool);
	send_all(r);
	last = 12;
	assert_int_equal(arrived(r, &last), 3);
}

static void
what_a_keeper_left_is_sent_first_by_the_next(void **state)
{
	struct rig *r = *state;
	struct err err;
	uint64_t last = 9;
	add(r, 4);
	record_close(&r->spool);
	assert_int_equal(record_open(&r->spool, r->dir, 3, &err), 0);
	assert_int_equal(r->spool.next, 14);
	add(r, 1);
	send_all(r);
	assert_int_equal(arrived(r, &last), 5);
}

static void
a_tail_cut_short_is_dropped_and_the_rest_kept(void **state)
{
	struct rig *r = *state;
	struct err err;
	uint64_t last = 0;
	add(r, 2);
	const off_t two = spool_bytes(r);
	add(r, 1);
	for (off_t size = spool_bytes(r) - 1; size > two; size--) {
		assert_int_equal(ftruncate(r->spool.fd, size), 0);
		assert_int_equal(spool_replay(r->dir, count, &last, &err), 2);
	}
	record_close(&r->spool);
	assert_int_equal(record_open(&r->spool, r->dir, 1, &err), 0);
	add(r, 1); /* not behind the half one */
	assert_int_equal(spool_replay(r->dir, count, &last, &err), 3);
	assert_int_equal(last, 12);
}

static void
a_full_spool_admits_no_call(void **state)
{
	struct rig *r = *state;
	static char command[4096];
	struct err err;
	memset(command, 'x', sizeof command);
	assert_true(record_has_room(&r->spool));
	struct msg_call_record m = {.kind = STR_LIT("end"), .command = {command, sizeof command}};
	while (record_has_room(&r->spool))
		assert_int_equal(record_append(&r->spool, &m, &err), 0);
	for (int i = 0; i < 100; i++) /* the calls that run already can still end */
		assert_int_equal(record_append(&r->spool, &m, &err), 0);
	while (record_append(&r->spool, &m, &err) == 0)
		;
	assert_int_equal(err.code, ERR_NO_SPACE);
	assert_true(spool_bytes(r) <= SPOOL_MAX_BYTES);
}

static void
what_is_no_file_is_refused(void **state)
{
	struct rig *r = *state;
	struct err err;
	uint64_t last;
	assert_int_equal(unlinkat(r->dir, SPOOL_NAME, 0), 0);
	assert_int_equal(spool_replay(r->dir, count, &last, &err), 0); /* none: nothing */
	assert_int_equal(mkfifoat(r->dir, SPOOL_NAME, 0600), 0);
	assert_int_equal(spool_replay(r->dir, count, &last, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	assert_int_equal(unlinkat(r->dir, SPOOL_NAME, 0), 0);
	assert_int_equal(symlinkat("/etc/passwd", r->dir, SPOOL_NAME), 0);
	assert_int_equal(spool_replay(r->dir, count, &last, &err), -1);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    T(a_record_is_in_the_file_until_it_is_acknowledged),
	    T(the_disk_keeps_room_for_the_ends_of_live_calls),
	    T(an_acknowledgement_of_what_was_never_sent_counts_for_nothing),
	    T(only_a_window_is_under_way),
	    T(a_new_manager_gets_the_rest_again),
	    T(what_a_keeper_left_is_sent_first_by_the_next),
	    T(a_tail_cut_short_is_dropped_and_the_rest_kept),
	    T(a_full_spool_admits_no_call),
	    T(what_is_no_file_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
