#include "snapshot/whiteout.c"

#include "tree_room.h"

static void
test_names_of_the_archive(void **state)
{
	static const struct {
		enum entry_type type;
		const char *path, *name;
	} rows[] = {
	    {ENTRY_DIR, "", "./"},
	    {ENTRY_DIR, "a/b", "a/b/"},
	    {ENTRY_FILE, "a/b", "a/b"},
	    {ENTRY_WHITEOUT, "b", ".wh.b"},
	    {ENTRY_WHITEOUT, "a/b", "a/.wh.b"},
	    {ENTRY_OPAQUE, "a/b", "a/b/.wh..wh..opq"},
	    {ENTRY_FILE, "a/.wh.b", "a/.wh..wh..esc.b"},
	    {ENTRY_DIR, ".wh..wh..opq", ".wh..wh..esc..wh..opq/"},
	    {ENTRY_FILE, ".wh./x", ".wh..wh..esc./x"},
	    {ENTRY_FILE, ".wh..wh..esc.x", ".wh..wh..esc..wh..esc.x"},
	    {ENTRY_WHITEOUT, ".wh.b", ".wh..wh..wh..esc.b"},
	    {ENTRY_WHITEOUT, ".wh..opq", ".wh..wh..wh..esc..opq"},
	    {ENTRY_WHITEOUT, ".wh..esc.x", ".wh..wh..wh..esc..esc.x"},
	    {ENTRY_FILE, ".w", ".w"},
	    {ENTRY_FILE, "...", "..."},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		auto_buf name = BUF_MAX(1000), path = BUF_MAX(1000);
		struct err err;
		enum entry_type type = rows[i].type == ENTRY_DIR ? ENTRY_DIR : ENTRY_FILE;
		whiteout_encode(rows[i].type, str_of(rows[i].path), &name);
		assert_string_equal(buf_cstr(&name), rows[i].name);
		must(whiteout_decode(buf_view(&name), &type, &path, &err), &err);
		assert_string_equal(buf_cstr(&path), rows[i].path);
		assert_int_equal(type, rows[i].type);
	}
}

static void
test_names_that_are_refused(void **state)
{
	static const char *const names[] = {
	    "",       "/",      "/a",      "..",        "../a",           "a/..",
	    "a/../b", "a//b",   "a/./b",   "./.",       ".wh.",           ".wh..",
	    ".wh...", "a/.wh.", ".wh.a/b", ".wh..wh.x", ".wh..wh..opq/b", "a/.wh..wh..opq/b",
	    "a//",    "./",     "."};
	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		auto_buf path = BUF_MAX(1000);
		struct err err;
		enum entry_type type = ENTRY_FILE;
		if (whiteout_decode(str_of(names[i]), &type, &path, &err) == 0)
			fail_msg("\"%s\" was taken as %s", names[i], buf_cstr(&path));
		assert_int_equal(err.code, ERR_CORRUPT);
	}
	char name[400];
	memset(name, 'n', sizeof name);
	for (size_t n = 254; n < 258; n++) {
		auto_buf path = BUF_MAX(1000);
		struct err err;
		enum entry_type type = ENTRY_FILE;
		assert_int_equal(whiteout_decode((struct str){name, n}, &type, &path, &err),
				 n < 256 ? 0 : -1);
	}
	auto_buf link = BUF_MAX(1000);
	struct err err;
	assert_int_equal(whiteout_decode_link(STR_LIT("a/.wh.b"), &link, &err), -1);
	buf_clear(&link);
	must(whiteout_decode_link(STR_LIT("a/.wh..wh..esc.b"), &link, &err), &err);
	assert_string_equal(buf_cstr(&link), "a/.wh.b");
}

/* Every path of a small world of nasty parts comes back, and no two have one name. */
static void
test_encoding_loses_nothing(void **state)
{
	static const char *const parts[] = {
	    "a",         ".wh.",          ".wh.a",          ".wh..opq",  ".wh..wh..opq",
	    ".wh..esc.", ".wh..wh..esc.", ".wh..wh..esc.a", ".wh..wh.a", "...",
	    ".w"};
	enum { N = sizeof parts / sizeof *parts };
	static const enum entry_type types[] = {ENTRY_FILE, ENTRY_DIR, ENTRY_WHITEOUT,
						ENTRY_OPAQUE};
	static char seen[N * N * 4][128];
	size_t n = 0;
	(void)state;
	for (size_t i = 0; i < N * N * 4; i++) {
		char want[128];
		auto_buf name = BUF_MAX(1000), path = BUF_MAX(1000);
		struct err err;
		const enum entry_type type = types[i % 4];
		enum entry_type back = type == ENTRY_DIR ? ENTRY_DIR : ENTRY_FILE;
		snprintf(want, sizeof want, "%s/%s", parts[i / 4 % N], parts[i / 4 / N]);
		whiteout_encode(type, str_of(want), &name);
		must(whiteout_decode(buf_view(&name), &back, &path, &err), &err);
		assert_string_equal(buf_cstr(&path), want);
		assert_int_equal(back, type);
		for (size_t k = 0; k < n; k++)
			assert_string_not_equal(seen[k], buf_cstr(&name));
		snprintf(seen[n++], sizeof seen[0], "%s", buf_cstr(&name));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_names_of_the_archive),
	    cmocka_unit_test(test_names_that_are_refused),
	    cmocka_unit_test(test_encoding_loses_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
