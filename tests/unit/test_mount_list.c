/* What may be mounted, and where. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <sys/stat.h>

#include "server/manager/mount_list.c"

static void
texts_become_rows_and_texts_again(void **state)
{
	static const struct {
		const char *text, *source, *target, *again;
		bool read_only;
	} cases[] = {
	    {"/srv/data:/data", "/srv/data", "/data", "/srv/data:/data", false},
	    {"/srv/data/:/data/in/:ro", "/srv/data", "/data/in", "/srv/data:/data/in:ro", true},
	    {"/a b,c:/run/x", "/a b,c", "/run/x", "/a b,c:/run/x", false},
	    {"/s:/workspace", "/s", "/workspace", "/s:/workspace", false},
	    {"/s:/procession", "/s", "/procession", "/s:/procession", false},
	    {"/s:/..x/.y", "/s", "/..x/.y", "/s:/..x/.y", false},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		struct mount_row row;
		struct err err;
		char text[MOUNT_TEXT_BYTES];
		assert_int_equal(mount_parse(str_of(cases[i].text), true, &row, &err), 0);
		assert_string_equal(row.source, cases[i].source);
		assert_string_equal(row.target, cases[i].target);
		assert_int_equal(row.read_only, cases[i].read_only);
		mount_format(&row, text);
		assert_string_equal(text, cases[i].again);
	}
}

static void
what_is_no_mount_is_refused(void **state)
{
	static const char *const bad[] = {
	    "",		  "/a",		 ":",		 "/a:",		  ":/b",	   "a:/b",
	    "/a:b",	  "/a:/b:rw",	 "/a:/b:ro:",	 "/a:/b:",	  "/a:/b:ro:x",	   "/a/../b:/c",
	    "/a:/b/..",	  "/a//b:/c",	 "/a:/b//c",	 "/a/./b:/c",	  "/a:/.",	   "/a:/b\n",
	    "/a:/",	  "/a:/proc",	 "/a:/proc/x",	 "/a:/sys",	  "/a:/dev",	   "/a:/dev/shm",
	    "/a:/run",	  "/a:/run/berth", "/a:/run/berth/out", "/a:/bin", "/a:/lib64/x", "/a:/sbin",
	    "/a:/usr",	  "/a:/usr/local", "/a://",	 "/a:/var/run/x", "/a:/var",
	};
	struct mount_row row;
	struct err err;

	(void)state;
	for (size_t i = 0; i < COUNT(bad); i++)
		if (mount_parse(str_of(bad[i]), true, &row, &err) == 0 || err.code != ERR_USAGE)
			fail_msg("taken: %s", bad[i]);
	assert_int_equal(mount_parse(STR_LIT("/a:/usr/local"), false, &row, &err), 0);
	assert_int_equal(mount_parse((struct str){"/a:/b\0c", 7}, false, &row, &err), -1);
	auto_buf text = BUF_MAX(8192);
	buf_text(&text, "/a:");
	for (int i = 0; i < 200; i++)
		buf_text(&text, "/xx");
	assert_int_equal(mount_parse(buf_view(&text), false, &row, &err), -1);
	buf_clear(&text);
	buf_text(&text, "/a:/");
	for (int i = 0; i < 254; i++)
		buf_char(&text, 'x');
	assert_int_equal(mount_parse(buf_view(&text), false, &row, &err), 0);
	buf_char(&text, 'x'); /* "/" and 255 do not fit with their NUL */
	assert_int_equal(mount_parse(buf_view(&text), false, &row, &err), -1);
}

static void
destinations_do_not_overlap(void **state)
{
	static const struct {
		const char *target;
		bool good;
	} cases[] = {{"/a/b", false}, {"/a", false}, {"/a/b/c", false}, {"/a/bc", true}, {"/b", true}};
	struct mount_row had = {.target = "/a/b"}, row = {.read_only = false};
	struct err err;

	(void)state;
	for (size_t i = 0; i < COUNT(cases); i++) {
		snprintf(row.target, sizeof row.target, "%s", cases[i].target);
		assert_int_equal(mount_check_apart(&had, 1, &row, &err) == 0, cases[i].good);
	}
	assert_int_equal(mount_check_apart(NULL, 0, &had, &err), 0);
}

static void
the_option_is_a_list_and_says_what_is_wrong_with_it(void **state)
{
	static const char *const bad[] = {"x",	  "/a,",     "/a:rw",  "/",	 ",",	"/a, ,/b",
					  "/a:ro:", "/../a", "/a,/a/b:ro", "/a,/a:ro"};
	struct mounts_allowed a;
	struct err err;

	(void)state;
	assert_int_equal(mounts_allowed_parse(STR_LIT(""), &a, &err), 0);
	assert_int_equal(a.n, 0);
	assert_int_equal(mounts_allowed_parse(STR_LIT("/srv/data, /opt/tools:ro ,/x"), &a, &err), 0);
	assert_int_equal(a.n, 3);
	assert_string_equal(a.at[1].path, "/opt/tools");
	assert_true(a.at[1].read_only && !a.at[0].read_only && !a.at[2].read_only);
	assert_int_equal(mounts_allowed_parse(STR_LIT("/a:ro,/a/b"), &a, &err), 0);
	for (size_t i = 0; i < COUNT(bad); i++)
		if (mounts_allowed_parse(str_of(bad[i]), &a, &err) == 0 || err.code != ERR_CONFIG)
			fail_msg("taken: %s", bad[i]);
}

/* ---- directories ---- */

struct place {
	char name[64];
	int top, state, run;
	struct mounts_allowed allowed;
};

static int
make_place(void **state)
{
	static struct place p;
	static const char *const dirs[] = {"state", "state/in", "run",	"data", "data/a",
					   "data/a/b", "ro", "ro/a", "other", "data-2"};
	struct err err;
	char list[512];

	snprintf(p.name, sizeof p.name, "/tmp/berth-mounts.XXXXXX");
	if (!mkdtemp(p.name))
		return -1;
	p.top = open(p.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < COUNT(dirs); i++)
		if (mkdirat(p.top, dirs[i], 0755) < 0)
			return -1;
	if (symlinkat("../other", p.top, "data/out") < 0 || symlinkat("a", p.top, "data/within") < 0 ||
	    symlinkat("data", p.top, "named") < 0 || mkfifoat(p.top, "data/fifo", 0644) < 0)
		return -1;
	p.state = openat(p.top, "state", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	p.run = openat(p.top, "run", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(list, sizeof list, "%s/data,%s/ro:ro,%s/state,%s/named,%s/gone", p.name, p.name,
		 p.name, p.name, p.name);
	*state = &p;
	return mounts_allowed_parse(str_of(list), &p.allowed, &err);
}

static int
remove_place(void **state)
{
	struct place *p = *state;
	struct err err;

	close(p->top);
	close(p->state);
	close(p->run);
	return path_remove_tree(AT_FDCWD, p->name, &err);
}

/* Opens SOURCE beneath the place: 0 or the code of its failure; 100 more when it is read-only. */
static int
opens(struct place *p, const char *source, bool wanted_read_only)
{
	struct mount_row row = {.read_only = wanted_read_only, .target = "/x"};
	struct stat st, expected;
	struct err err;
	bool read_only;

	snprintf(row.source, sizeof row.source, "%s%s%s", p->name, *source ? "/" : "", source);
	auto_close int fd = mount_open(&p->allowed, &row, p->state, p->run, &read_only, &err);
	if (fd < 0)
		return (int)err.code;
	assert_int_equal(fstat(fd, &st) | stat(row.source, &expected), 0);
	assert_true(st.st_ino == expected.st_ino && st.st_dev == expected.st_dev);
	assert_int_equal(mount_is_read_only(&p->allowed, &row), read_only);
	return read_only ? 100 : 0;
}

static void
a_source_lies_beneath_what_is_allowed(void **state)
{
	struct place *p = *state;

	assert_int_equal(opens(p, "data", false), 0);
	assert_int_equal(opens(p, "data/a/b", false), 0);
	assert_int_equal(opens(p, "data/a", true), 100);
	assert_int_equal(opens(p, "ro", false), 100);
	assert_int_equal(opens(p, "ro/a", false), 100);
	assert_int_equal(opens(p, "named/a", false), 0); /* the operator's own link */
	assert_int_equal(opens(p, "other", false), ERR_DENIED);
	assert_int_equal(opens(p, "data-2", false), ERR_DENIED);
	assert_int_equal(opens(p, "", false), ERR_DENIED);
}

static void
no_link_is_followed_below_it(void **state)
{
	struct place *p = *state;

	assert_int_equal(opens(p, "data/out", false), ERR_UNAVAILABLE);
	assert_int_equal(opens(p, "data/within", false), ERR_UNAVAILABLE);
	assert_int_equal(opens(p, "data/within/b", false), ERR_UNAVAILABLE);
	assert_int_equal(opens(p, "data/fifo", false), ERR_UNAVAILABLE);
	assert_int_equal(opens(p, "data/absent", false), ERR_UNAVAILABLE);
	assert_int_equal(opens(p, "gone", false), ERR_UNAVAILABLE);
}

static void
the_servers_own_directories_are_never_shown(void **state)
{
	struct place *p = *state;
	struct err err;
	char list[128];

	assert_int_equal(opens(p, "state", false), ERR_DENIED);
	assert_int_equal(opens(p, "state/in", false), ERR_DENIED);
	snprintf(list, sizeof list, "%s", p->name);
	assert_int_equal(mounts_allowed_parse(str_of(list), &p->allowed, &err), 0);
	assert_int_equal(opens(p, "run", false), ERR_DENIED);
	assert_int_equal(opens(p, "", false), ERR_DENIED); /* it holds both */
	assert_int_equal(opens(p, "other", false), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(texts_become_rows_and_texts_again),
	    cmocka_unit_test(what_is_no_mount_is_refused),
	    cmocka_unit_test(destinations_do_not_overlap),
	    cmocka_unit_test(the_option_is_a_list_and_says_what_is_wrong_with_it),
	    cmocka_unit_test_setup_teardown(a_source_lies_beneath_what_is_allowed, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(no_link_is_followed_below_it, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(the_servers_own_directories_are_never_shown, make_place, remove_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
