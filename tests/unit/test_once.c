/* Keys of calls on disk: found again, bound, torn tails, taken back, dropped; a disk that fails. */
#include "base/path.h"

static int open_or_fail(int dir, const char *name, int flags, struct err *err);
static int sync_or_fail(int dir, struct err *err);
static int replace_or_fail(int dir, const char *name, mode_t mode, struct str bytes,
			   struct err *err);
#define path_open     open_or_fail
#define path_sync_dir sync_or_fail
#define path_replace  replace_or_fail
#include "server/keeper/once.c"
#undef path_open
#undef path_sync_dir
#undef path_replace

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

struct room {
	char path[64];
	int dir;
	struct once o;
};

static struct err err;
static bool opens_fail, syncs_fail; /* from now on */
static unsigned syncs;              /* of the directory */

static int
open_or_fail(int dir, const char *name, int flags, struct err *why)
{
	if (opens_fail) {
		errno = EMFILE;
		return err_sys(why, errno, "open %s", name);
	}
	return path_open(dir, name, flags, why);
}

static int
sync_or_fail(int dir, struct err *why)
{
	if (syncs_fail)
		return err_sys(why, EIO, "sync a directory");
	syncs++;
	return path_sync_dir(dir, why);
}

/* As path_replace: the name is the new file's before the directory is synced. */
static int
replace_or_fail(int dir, const char *name, mode_t mode, struct str bytes, struct err *why)
{
	if (path_replace(dir, name, mode, bytes, why) < 0)
		return -1;
	return sync_or_fail(dir, why);
}

static const struct digest asked = {{1, 2, 3}}, other = {{4}};

static int
room_up(void **state)
{
	struct room *r = xnew(1, sizeof *r);

	opens_fail = syncs_fail = false;
	syncs = 0;
	snprintf(r->path, sizeof r->path, "/tmp/once.XXXXXX");
	assert_non_null(mkdtemp(r->path));
	r->dir = open(r->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(once_open(&r->o, r->dir, &err), 0);
	*state = r;
	return 0;
}

static int
room_down(void **state)
{
	struct room *r = *state;

	once_close(&r->o);
	unlinkat(r->dir, ONCE_NAME, 0);
	close(r->dir);
	assert_int_equal(rmdir(r->path), 0);
	free(r);
	return 0;
}

static void
add(struct room *r, const char *key, const char *call)
{
	assert_int_equal(once_add(&r->o, str_of(key), &asked, call, &err), 0);
}

static void
again(struct room *r)
{
	once_close(&r->o);
	assert_int_equal(once_open(&r->o, r->dir, &err), 0);
}

static const char *
call_of(const struct room *r, const char *key)
{
	const struct once_key *k = once_find(&r->o, str_of(key));
	return k ? k->call : "";
}

static void
keys_are_found_again(void **state)
{
	struct room *r = *state;
	char longest[ONCE_KEY_BYTES + 1];

	memset(longest, 'k', ONCE_KEY_BYTES);
	longest[ONCE_KEY_BYTES] = '\0';
	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	add(r, longest, "c_bbbbbbbbbbbbbbbb");
	for (int i = 0; i < 2; i++) {
		assert_string_equal(call_of(r, "a"), "c_aaaaaaaaaaaaaaaa");
		assert_string_equal(call_of(r, longest), "c_bbbbbbbbbbbbbbbb");
		assert_null(once_find(&r->o, str_of("aa")));
		assert_true(digest_equal(&once_find(&r->o, str_of("a"))->request, &asked));
		assert_false(digest_equal(&once_find(&r->o, str_of("a"))->request, &other));
		again(r);
	}
}

/* A crash at any byte of the last record: those before are there, and the next one too. */
static void
a_torn_record_harms_no_other(void **state)
{
	struct room *r = *state;

	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	for (int left = 0; left < ONCE_RECORD_BYTES; left += 17) {
		add(r, "torn", "c_tttttttttttttttt");
		assert_int_equal(ftruncate(r->o.fd, ONCE_RECORD_BYTES + left), 0);
		again(r);
		assert_null(once_find(&r->o, str_of("torn")));
		assert_string_equal(call_of(r, "a"), "c_aaaaaaaaaaaaaaaa");
	}
	add(r, "b", "c_bbbbbbbbbbbbbbbb");
	again(r);
	assert_string_equal(call_of(r, "b"), "c_bbbbbbbbbbbbbbbb");
}

static void
a_changed_byte_makes_it_no_record(void **state)
{
	struct room *r = *state;

	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	add(r, "b", "c_bbbbbbbbbbbbbbbb");
	assert_int_equal(pwrite(r->o.fd, "X", 1, AT_REQUEST + 5), 1);
	again(r);
	assert_null(once_find(&r->o, str_of("a")));
	assert_string_equal(call_of(r, "b"), "c_bbbbbbbbbbbbbbbb");
}

static void
the_newest_can_be_taken_back(void **state)
{
	struct room *r = *state;

	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	add(r, "b", "c_bbbbbbbbbbbbbbbb");
	once_take_back(&r->o);
	for (int i = 0; i < 2; i++) {
		assert_null(once_find(&r->o, str_of("b")));
		assert_non_null(once_find(&r->o, str_of("a")));
		again(r);
	}
}

static bool
is_b(void *ctx, const char *call)
{
	++*(unsigned *)ctx;
	return call[2] == 'b';
}

static void
a_dropped_key_is_free_again(void **state)
{
	struct room *r = *state;
	unsigned n = 0;

	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	add(r, "b", "c_bbbbbbbbbbbbbbbb");
	assert_int_equal(once_drop(&r->o, is_b, &n, &err), 0);
	assert_int_equal(n, 2);
	for (int i = 0; i < 2; i++) {
		assert_null(once_find(&r->o, str_of("b")));
		assert_string_equal(call_of(r, "a"), "c_aaaaaaaaaaaaaaaa");
		again(r);
	}
	add(r, "b", "c_cccccccccccccccc");
	assert_string_equal(call_of(r, "b"), "c_cccccccccccccccc");
}

static int
try_add(struct room *r, const char *key, const char *call)
{
	return once_add(&r->o, str_of(key), &asked, call, &err);
}

/* The name of the new file may be lost to a power cut: no key is kept in it until it cannot be. */
static void
a_file_whose_name_was_not_synced_takes_no_key(void **state)
{
	struct room *r = *state;

	syncs_fail = true;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(try_add(r, "a", "c_aaaaaaaaaaaaaaaa"), -1);
		assert_non_null(strstr(err.why, "sync a directory"));
		assert_null(once_find(&r->o, str_of("a")));
	}
	assert_int_equal(once_ready(&r->o, &err), -1);
	syncs_fail = false;
	assert_int_equal(once_ready(&r->o, &err), 0);
	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	again(r);
	assert_string_equal(call_of(r, "a"), "c_aaaaaaaaaaaaaaaa");
}

static void
a_file_that_cannot_be_opened_again_takes_no_key(void **state)
{
	struct room *r = *state;

	opens_fail = true;
	assert_int_equal(try_add(r, "a", "c_aaaaaaaaaaaaaaaa"), -1);
	assert_int_equal(try_add(r, "a", "c_aaaaaaaaaaaaaaaa"), -1);
	opens_fail = false;
	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	again(r);
	assert_string_equal(call_of(r, "a"), "c_aaaaaaaaaaaaaaaa");
}

/* Whatever failed behind the rename: no key goes to the file that has lost its name. */
static void
after_a_drop_that_failed_keys_go_to_the_file_that_has_the_name(void **state)
{
	struct room *r = *state;
	unsigned n = 0;

	for (int i = 0; i < 2; i++) {
		add(r, "a", "c_aaaaaaaaaaaaaaaa");
		add(r, "b", "c_bbbbbbbbbbbbbbbb");
		opens_fail = i == 0;
		syncs_fail = i == 1;
		assert_int_equal(once_drop(&r->o, is_b, &n, &err), -1);
		assert_int_equal(once_ready(&r->o, &err), -1);
		assert_int_equal(try_add(r, "c", "c_cccccccccccccccc"), -1);
		assert_int_equal(once_drop(&r->o, is_b, &n, &err), -1);
		assert_string_equal(call_of(r, "a"), "c_aaaaaaaaaaaaaaaa"); /* it is not begun again */
		opens_fail = syncs_fail = false;
		add(r, "c", "c_cccccccccccccccc");
		for (int j = 0; j < 2; j++) {
			assert_string_equal(call_of(r, "a"), "c_aaaaaaaaaaaaaaaa");
			assert_string_equal(call_of(r, "c"), "c_cccccccccccccccc");
			assert_null(once_find(&r->o, str_of("b")));
			again(r);
		}
		once_close(&r->o);
		assert_int_equal(unlinkat(r->dir, ONCE_NAME, 0), 0);
		assert_int_equal(once_open(&r->o, r->dir, &err), 0);
	}
}

/* Nothing says whether the keeper before came to sync the name of what it had made. */
static void
the_name_of_a_file_that_was_found_is_synced_before_the_next_key(void **state)
{
	struct room *r = *state;

	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	again(r);
	syncs = 0;
	add(r, "b", "c_bbbbbbbbbbbbbbbb");
	add(r, "c", "c_cccccccccccccccc");
	assert_int_equal(syncs, 1);
}

static void
a_file_that_was_taken_away_is_not_begun_anew(void **state)
{
	struct room *r = *state;
	unsigned n = 0;

	add(r, "a", "c_aaaaaaaaaaaaaaaa");
	add(r, "b", "c_bbbbbbbbbbbbbbbb");
	opens_fail = true;
	assert_int_equal(once_drop(&r->o, is_b, &n, &err), -1);
	opens_fail = false;
	assert_int_equal(unlinkat(r->dir, ONCE_NAME, 0), 0);
	assert_int_equal(try_add(r, "c", "c_cccccccccccccccc"), -1);
	assert_string_equal(call_of(r, "a"), "c_aaaaaaaaaaaaaaaa");
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, room_up, room_down)
	const struct CMUnitTest tests[] = {
	    T(keys_are_found_again),
	    T(a_torn_record_harms_no_other),
	    T(a_changed_byte_makes_it_no_record),
	    T(the_newest_can_be_taken_back),
	    T(a_dropped_key_is_free_again),
	    T(a_file_whose_name_was_not_synced_takes_no_key),
	    T(a_file_that_cannot_be_opened_again_takes_no_key),
	    T(after_a_drop_that_failed_keys_go_to_the_file_that_has_the_name),
	    T(the_name_of_a_file_that_was_found_is_synced_before_the_next_key),
	    T(a_file_that_was_taken_away_is_not_begun_anew),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
