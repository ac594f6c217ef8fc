/* Files of keys while somebody works on them. Time is moved by hand: seen_ns is since when. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/manager/keys_file.c"

#include <stdlib.h>
#include <unistd.h>

static char room[] = "/tmp/berth-keys-file.XXXXXX";
static int dir = -1;

static int
writer(void)
{
	const int fd = openat(dir, "keys", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	return fd;
}

static void
put(const char *text)
{
	const int fd = writer();

	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static enum keys_found
look(struct keys_file *f, const char *text)
{
	auto_buf out = BUF_MAX(4096);
	struct err err;
	const enum keys_found found = keys_file_look(f, dir, &out, &err);

	if (text)
		assert_string_equal(out.len ? buf_cstr(&out) : "", text);
	return found;
}

static void
much_later(struct keys_file *f)
{
	if (f->seen_ns)
		f->seen_ns -= KEYS_FILE_QUIET_NS;
}

static void
what_is_being_written_is_later(void **state)
{
	struct keys_file f = {.name = "keys"};

	(void)state;
	put("one\n");
	assert_int_equal(look(&f, "one\n"), KEYS_TAKEN);
	const int fd = writer();
	assert_int_equal(look(&f, ""), KEYS_LATER);
	assert_int_equal(write(fd, "ha", 2), 2);
	assert_int_equal(look(&f, ""), KEYS_LATER);
	assert_int_equal(write(fd, "lf\n", 3), 3);
	close(fd);
	assert_int_equal(look(&f, "half\n"), KEYS_TAKEN);
}

static void
what_stands_still_is_read_though_it_is_held_open(void **state)
{
	struct keys_file f = {.name = "keys"};

	(void)state;
	put("one\n");
	assert_int_equal(look(&f, "one\n"), KEYS_TAKEN);
	const int fd = writer();
	assert_int_equal(look(&f, ""), KEYS_LATER);
	much_later(&f);
	assert_int_equal(write(fd, "two\n", 4), 4); /* it does not stand still */
	assert_int_equal(look(&f, ""), KEYS_LATER);
	much_later(&f);
	assert_int_equal(look(&f, "two\n"), KEYS_TAKEN);
	close(fd);
}

static void
a_file_is_gone_when_no_other_comes(void **state)
{
	struct keys_file f = {.name = "keys"};

	(void)state;
	put("one\n");
	assert_int_equal(look(&f, "one\n"), KEYS_TAKEN);
	assert_int_equal(unlinkat(dir, "keys", 0), 0);
	assert_int_equal(look(&f, ""), KEYS_LATER);
	put("two\n");
	assert_int_equal(look(&f, "two\n"), KEYS_TAKEN);
	assert_int_equal(unlinkat(dir, "keys", 0), 0);
	assert_int_equal(look(&f, ""), KEYS_LATER);
	much_later(&f);
	assert_int_equal(look(&f, ""), KEYS_TAKEN);
	assert_int_equal(look(&f, ""), KEYS_SAME);
}

static void
a_first_look_at_nothing_finds_nothing(void **state)
{
	struct keys_file f = {.name = "keys"};

	(void)state;
	assert_int_equal(look(&f, ""), KEYS_TAKEN);
	assert_int_equal(look(&f, ""), KEYS_SAME);
}

/* Same size, same inode, within one step of the clock: only another look tells. */
static void
a_change_in_the_same_moment_is_seen(void **state)
{
	struct keys_file f = {.name = "keys"};

	(void)state;
	put("one\n");
	assert_int_equal(look(&f, "one\n"), KEYS_TAKEN);
	put("two\n");
	assert_int_equal(look(&f, "two\n"), KEYS_TAKEN);
	f.taken.changed.tv_sec -= 10;
	f.settled = is_settled(&f.taken);
	assert_true(f.settled);
	f.taken.changed.tv_sec += 20; /* the clock was set back since */
	assert_false(is_settled(&f.taken));
}

static void
what_cannot_be_read_is_bad_until_it_can(void **state)
{
	struct keys_file f = {.name = "keys"};

	(void)state;
	assert_int_equal(mkdirat(dir, "keys", 0700), 0);
	assert_int_equal(look(&f, ""), KEYS_BAD);
	assert_int_equal(look(&f, ""), KEYS_BAD);
	assert_int_equal(unlinkat(dir, "keys", AT_REMOVEDIR), 0);
	assert_int_equal(mkfifoat(dir, "keys", 0600), 0);
	assert_int_equal(look(&f, ""), KEYS_BAD);
	assert_int_equal(unlinkat(dir, "keys", 0), 0);
	assert_int_equal(symlinkat("/etc/passwd", dir, "keys"), 0);
	assert_int_equal(look(&f, ""), KEYS_BAD);
	assert_int_equal(unlinkat(dir, "keys", 0), 0);
	put("one\n");
	assert_int_equal(look(&f, "one\n"), KEYS_TAKEN);
}

static int
set_up(void **state)
{
	(void)state;
	memcpy(room + sizeof room - 7, "XXXXXX", 6);
	if (!mkdtemp(room))
		return -1;
	dir = open(room, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 ? -1 : 0;
}

static int
tear_down(void **state)
{
	(void)state;
	unlinkat(dir, "keys", 0);
	close(dir);
	return rmdir(room);
}

int
main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
	    T(what_is_being_written_is_later),
	    T(what_stands_still_is_read_though_it_is_held_open),
	    T(a_file_is_gone_when_no_other_comes),
	    T(a_first_look_at_nothing_finds_nothing),
	    T(a_change_in_the_same_moment_is_seen),
	    T(what_cannot_be_read_is_bad_until_it_can),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
