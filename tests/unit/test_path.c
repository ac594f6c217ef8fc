#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "snapshot/base/path.c"

struct place {
	char name[64];
	int dir;
};

static int
make_place(void **state)
{
	static struct place p;

	snprintf(p.name, sizeof p.name, "/tmp/berth-path.XXXXXX");
	if (!mkdtemp(p.name))
		return -1;
	p.dir = open(p.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	mkdirat(p.dir, "in", 0755);
	mkdirat(p.dir, "in/deep", 0755);
	close(openat(p.dir, "secret", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	close(openat(p.dir, "in/file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	symlinkat("../secret", p.dir, "in/link");
	symlinkat("..", p.dir, "in/up");
	symlinkat("/", p.dir, "in/root");
	*state = &p;
	return 0;
}

static int
remove_place(void **state)
{
	struct place *p = *state;
	struct err err;
	auto_close int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int result = path_remove_tree(tmp, p->name + 5, &err);
	close(p->dir);
	return result;
}

/* The kernel's way and ours for kernels without it: the same answers. */
static int
try_open(int which, int dir, const char *name)
{
	return which ? open_by_walk(dir, name, O_RDONLY | O_CLOEXEC, 0) : open_beneath(dir, name, O_RDONLY, 0);
}

static void
no_name_leads_out_of_its_directory(void **state)
{
	static const char *const bad[] = {"../secret", "/etc/passwd", "link", "up/secret", "root/etc/passwd",
					  "deep/../../secret", ".."};
	struct place *p = *state;
	auto_close int in = openat(p->dir, "in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	for (int which = 0; which < 2; which++) {
		for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
			assert_int_equal(try_open(which, in, bad[i]), -1);
		auto_close int fd = try_open(which, in, "file");
		assert_true(fd >= 0);
		auto_close int deep = try_open(which, in, "./deep");
		assert_true(deep >= 0);
	}
}

static void
replace_leaves_the_new_file_and_no_other(void **state)
{
	struct place *p = *state;
	struct err err;
	auto_buf text = BUF_MAX(100);

	assert_int_equal(path_replace(p->dir, "in/deep", 0600, STR_LIT("x"), &err), -1);
	assert_int_equal(path_replace(p->dir, "ref", 0640, STR_LIT("one"), &err), 0);
	assert_int_equal(path_replace(p->dir, "ref", 0640, STR_LIT("two"), &err), 0);
	assert_int_equal(path_read(p->dir, "ref", &text, &err), 0);
	assert_string_equal(buf_cstr(&text), "two");
	auto_close int copy = openat(p->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = fdopendir(fd_steal(&copy));
	int names = 0;
	for (const struct dirent *e; (e = readdir(list));)
		names += e->d_name[0] != '.';
	closedir(list);
	assert_int_equal(names, 3); /* in, secret, ref: no temp file of either attempt */
}

static void
read_stops_at_its_bound(void **state)
{
	struct place *p = *state;
	struct err err;
	auto_buf text = BUF_MAX(2);

	assert_int_equal(path_replace(p->dir, "big", 0600, STR_LIT("123"), &err), 0);
	assert_int_equal(path_read(p->dir, "big", &text, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
}

static void
remove_tree_does_not_follow_links(void **state)
{
	struct place *p = *state;
	struct err err;

	assert_int_equal(path_remove_tree(p->dir, "in", &err), 0);
	assert_false(path_exists(p->dir, "in"));
	assert_true(path_exists(p->dir, "secret"));
	assert_int_equal(path_remove_tree(p->dir, "in", &err), 0);
}

static void
a_directory_holds_itself_and_what_lies_beneath(void **state)
{
	struct place *p = *state;
	struct err err;
	auto_close int in = path_open(p->dir, "in", O_PATH | O_DIRECTORY, &err);
	auto_close int other = path_open_dir(p->dir, "other", 0700, &err);
	auto_close int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(path_holds(p->dir, in, &err), 1);
	assert_int_equal(path_holds(in, in, &err), 1);
	assert_int_equal(path_holds(root, in, &err), 1);
	assert_int_equal(path_holds(in, p->dir, &err), 0);
	assert_int_equal(path_holds(other, in, &err), 0);
	assert_int_equal(path_holds(in, root, &err), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(no_name_leads_out_of_its_directory, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(replace_leaves_the_new_file_and_no_other, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(read_stops_at_its_bound, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(remove_tree_does_not_follow_links, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(a_directory_holds_itself_and_what_lies_beneath, make_place, remove_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
