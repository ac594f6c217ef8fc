/* view.c, and with it merge.c, idx_rows.c, content.c, frames_at.c, rebuild.c: a view of layers
 * shows what the upper showed that they were made of, read from little. */
#include "snapshot/view.c"

#include "view_room.h"

#include <sqlite3.h>

static unsigned long seed;

static unsigned
dice(unsigned n)
{
	seed = seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned)(seed >> 33) % n;
}

/* Names that sort before and behind a slash, so that a directory and what is in it are apart. */
static void
pick(char out[64])
{
	static const char *const names[] = {"a", "a-b", "a!", "b", "a0"};
	size_t n = 0;

	for (unsigned depth = 1 + dice(3); depth; depth--)
		n += (size_t)snprintf(out + n, 64 - n, "%s%s", n ? "/" : "", names[dice(5)]);
}

static void
remove_all(int dir, const char *name)
{
	char command[256];
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	if (!S_ISDIR(st.st_mode)) {
		unlinkat(dir, name, 0);
		return;
	}
	snprintf(command, sizeof command, "rm -rf '%s/upper/%s'", room.path, name);
	shell(command);
}

static void
change(int dir)
{
	char a[64], b[64], text[64];
	int fd;

	pick(a);
	pick(b);
	snprintf(text, sizeof text, "%lu", seed);
	switch (dice(9)) {
	case 0:
	case 1:
	case 2:
		fd = openat(dir, a, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
		if (fd >= 0) {
			assert_int_equal(write(fd, text, strlen(text)), strlen(text));
			close(fd);
		}
		return;
	case 3:
	case 4:
		(void)!mkdirat(dir, a, 0700 + dice(64));
		return;
	case 5:
		remove_all(dir, a);
		return;
	case 6: /* a directory made anew where one was, and its opposite */
		remove_all(dir, a);
		(void)!(dice(2) ? mkdirat(dir, a, 0755) : symlinkat(text, dir, a));
		return;
	case 7:
		(void)!renameat(dir, a, dir, b);
		return;
	default:
		(void)!linkat(dir, a, dir, b, 0);
	}
}

static void
test_a_view_shows_what_the_upper_showed(void **state)
{
	const char *given = getenv("BERTH_TEST_SEED");

	(void)state;
	seed = given ? strtoul(given, NULL, 10) : (unsigned long)getpid() * 2654435761u + 7;
	print_message("BERTH_TEST_SEED=%lu\n", seed);
	for (int history = 0; history < 12; history++) {
		layers_begin();
		for (int i = 0; i < 6; i++) {
			for (int n = 0; n < 12; n++)
				change(room.upper);
			layers_add();
			auto_of(view) struct view *v = view_of(layers.n);
			assert_view_is(v, room.upper);
		}
		layers_end();
		remove_all(room.upper, "a");
		remove_all(room.upper, "b");
	}
}

static void
test_everything_that_a_workspace_can_hold(void **state)
{
	struct view_entry e, file;
	struct err err;

	(void)state;
	put_rich_tree(room.upper);
	layers_begin();
	layers_add();
	auto_of(view) struct view *v = view_of(1);
	assert_view_is(v, room.upper);
	/* a hard link leads to its file */
	assert_int_equal(view_find(v, STR_LIT("links/three"), &e, &err), 1);
	assert_int_equal(e.row.type, ENTRY_LINK);
	must(view_resolve(v, &e, &file, &err), &err);
	assert_int_equal(file.row.size, 6);
	layers_end();
}

static void
test_an_opaque_directory_and_what_replaces_one(void **state)
{
	struct view_entry e;
	struct err err;

	(void)state;
	ok(mkdirat(room.upper, "d", 0755));
	put_text(room.upper, "d/old", "1");
	put_text(room.upper, "d-x", "between d and what is in it");
	ok(mkdirat(room.upper, "f", 0755));
	put_text(room.upper, "f/old", "1");
	layers_begin();
	layers_add();
	ok(unlinkat(room.upper, "d/old", 0));
	put_text(room.upper, "d/new", "2");
	put_attr_at(room.upper, "d", "user.overlay.opaque", "y", 1);
	remove_all(room.upper, "f");
	put_text(room.upper, "f", "a file now");
	layers_add();
	ok(unlinkat(room.upper, "f", 0));
	ok(mkdirat(room.upper, "f", 0700));
	layers_add();
	assert_int_equal(layers.n, 3);
	for (size_t n = 1; n <= 3; n++) {
		auto_of(view) struct view *v = view_of(n);
		assert_int_equal(view_find(v, STR_LIT("d/old"), &e, &err), n == 1);
		assert_int_equal(view_find(v, STR_LIT("d/new"), &e, &err), n > 1);
		assert_int_equal(view_find(v, STR_LIT("f/old"), &e, &err), n == 1);
		assert_int_equal(view_find(v, STR_LIT("d-x"), &e, &err), 1);
	}
	auto_of(view) struct view *v = view_of(3);
	assert_view_is(v, room.upper);
	layers_end();
}

static void
test_a_small_file_of_a_large_archive_costs_about_a_frame(void **state)
{
	enum { SMALL = 4096, LARGE = 96 << 20 };
	auto_close int noise = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
	auto_free char *large = malloc(LARGE);
	struct view_entry e;
	struct err err;

	(void)state;
	assert_non_null(large);
	must(fd_pread_all(noise, large, LARGE, 0, &err), &err);
	put_file(room.upper, "a-large", large, LARGE);
	put_file(room.upper, "b-small", large + 12345, SMALL);
	put_file(room.upper, "c-large", large, LARGE / 2);
	layers_begin();
	layers_add();
	assert_true(layers.sum[0].bytes > LARGE);
	auto_of(view) struct view *v = view_of(1);
	assert_int_equal(view_find(v, STR_LIT("b-small"), &e, &err), 1);
	assert_same_content(v, &e, openat(room.upper, "b-small", O_RDONLY | O_CLOEXEC), SMALL);
	print_message("read %llu bytes of an archive of %llu\n",
		      (unsigned long long)view_read_bytes(v),
		      (unsigned long long)layers.sum[0].bytes);
	/* one frame, two where it lies on their border, and the seek table of 12 bytes a frame */
	assert_true(view_read_bytes(v) < 2 * (FRAME_BYTES + FRAME_BYTES / 64) + 8192);
	/* and a part of a large one, over a border */
	char piece[100];
	size_t n;
	assert_int_equal(view_find(v, STR_LIT("a-large"), &e, &err), 1);
	auto_of(content) struct content *c = content_open(v, &e, &err);
	for (size_t at = 0, got = 0; got < sizeof piece; got += n, at += n)
		must(content_read(c, 50 * FRAME_BYTES - 50 + at, piece + got, sizeof piece - got,
				  &n, &err),
		     &err);
	assert_memory_equal(piece, large + 50 * FRAME_BYTES - 50, sizeof piece);
	layers_end();
}

static int
open_store(const char *form, const struct digest *d, int flags)
{
	char name[128];
	snprintf(name, sizeof name, form, digest_text(d).text);
	const int fd = openat(room.store, name, flags | O_CLOEXEC);
	ok(fd);
	return fd;
}

static void
test_a_missing_index_is_made_again_the_same(void **state)
{
	char name[128];
	struct idx_row a, b;
	struct err err;
	int more;

	(void)state;
	put_rich_tree(room.upper);
	layers_begin();
	layers_add();
	auto_close int was = open_store("idx/%s.idx", &layers.at[0], O_RDONLY);
	snprintf(name, sizeof name, "idx/%s.idx", digest_text(&layers.at[0]).text);
	ok(unlinkat(room.store, name, 0));
	auto_of(view) struct view *v = view_of(1);
	assert_view_is(v, room.upper);
	assert_false(path_exists(room.store, name)); /* invariant 2 */
	auto_of(idx_rows) struct idx_rows *before = idx_rows_open(was, &layers.at[0], &err);
	auto_of(idx_scan) struct idx_scan *x = idx_scan_new(before, &err);
	auto_of(idx_scan) struct idx_scan *y = idx_scan_new(view_rows(v, 0, &err), &err);
	const struct str all = {NULL, 0};
	must(idx_scan_range(x, all, all, &err), &err);
	must(idx_scan_range(y, all, all, &err), &err);
	while ((more = idx_scan_next(x, &a, &err)) > 0) {
		assert_int_equal(idx_scan_next(y, &b, &err), 1);
		assert_int_equal(a.key.len, b.key.len);
		assert_memory_equal(a.key.at, b.key.at, a.key.len);
		assert_true(str_equal(a.link, b.link));
		if (a.type != b.type || a.size != b.size || a.data_at != b.data_at ||
		    a.mtime_ns != b.mtime_ns || a.mode != b.mode || a.sparse != b.sparse)
			fail_msg("%.*s", (int)a.key.len, a.key.at);
	}
	must(more, &err);
	assert_int_equal(idx_scan_next(y, &b, &err), 0);
	layers_end();
}

static void
test_a_live_upper_is_the_topmost_layer(void **state)
{
	struct view_entry e;
	struct err err;

	(void)state;
	ok(mkdirat(room.upper, "d", 0755));
	put_text(room.upper, "d/kept", "old");
	put_text(room.upper, "d/gone", "old");
	layers_begin();
	layers_add();
	const int live = room_dir("live");
	ok(mkdirat(live, "d", 0711));
	put_text(live, "d/new", "from the workspace");
	ok(mknodat(live, "d/gone", S_IFCHR, makedev(0, 0)));
	auto_of(view) struct view *v = view_of(1);
	must(view_add_live(v, live, &err), &err);
	assert_int_equal(view_find(v, STR_LIT("d/gone"), &e, &err), 0);
	assert_int_equal(view_find(v, STR_LIT("d/kept"), &e, &err), 1);
	assert_int_equal(view_find(v, STR_LIT("d"), &e, &err), 1);
	assert_int_equal(e.row.mode, 0711);
	assert_int_equal(view_find(v, STR_LIT("d/new"), &e, &err), 1);
	assert_same_content(v, &e, openat(live, "d/new", O_RDONLY | O_CLOEXEC), 18);
	close(live);
	layers_end();
}

/* Whatever stands in an index or an archive: an answer or CORRUPT, no crash, no endless loop. */
static void
look_at_all(struct view *v)
{
	char room_for[4096];
	struct view_entry e;
	struct err err;
	size_t n;
	int more = -1;

	struct view_walk *w = view_walk_new(v, STR_LIT(""), true, &err);
	while (w && (more = view_walk_next(w, &e, &err)) > 0) {
		if (e.row.type != ENTRY_FILE && e.row.type != ENTRY_LINK)
			continue;
		struct content *c = content_open(v, &e, &err);
		if (c && content_read(c, 0, room_for, sizeof room_for, &n, &err) < 0)
			assert_int_equal(err.code, ERR_CORRUPT);
		content_free(c);
	}
	if (more < 0 && err.code != ERR_CORRUPT)
		fail_msg("%s: %s", err_json(err.code), err.why);
	view_walk_free(w);
}

static void
test_damage_is_said_and_never_followed(void **state)
{
	static const char *const lies[] = {
	    "UPDATE entry SET size=1<<40 WHERE type='f'",
	    "UPDATE entry SET data_at=1<<60 WHERE type='f'",
	    "UPDATE entry SET data_at=-1 WHERE type='f'",
	    "UPDATE entry SET sparse=1 WHERE type='f'",
	    "UPDATE entry SET link=CAST('../../etc/shadow' AS BLOB) WHERE type='h'",
	    "UPDATE entry SET link=CAST('d' AS BLOB) WHERE type='h'",
	    "UPDATE entry SET path=CAST('../x' AS BLOB) WHERE path=CAST('d/plain' AS BLOB)",
	    "UPDATE entry SET path=CAST('/x' AS BLOB) WHERE path=CAST('d/plain' AS BLOB)",
	    "UPDATE entry SET type='z' WHERE path=CAST('d/plain' AS BLOB)",
	    "UPDATE entry SET type='O' WHERE path=CAST('d/plain' AS BLOB)",
	    "UPDATE entry SET size='many', mode=x'00', uid=1.5",
	    "UPDATE layer SET digest=x'00'",
	    "DELETE FROM layer",
	    "ALTER TABLE entry RENAME TO e; CREATE VIEW entry AS SELECT * FROM e",
	    "DROP TABLE entry",
	};
	struct err err;

	(void)state;
	put_rich_tree(room.upper);
	layers_begin();
	layers_add();
	char path[256], copy[600];
	snprintf(path, sizeof path, "%s/store/idx/%s.idx", room.path,
		 digest_text(&layers.at[0]).text);
	for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
		snprintf(copy, sizeof copy, "cp %s %s.good", path, path);
		shell(copy);
		sqlite3 *db;
		assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
		assert_int_equal(sqlite3_exec(db, lies[i], NULL, NULL, NULL), SQLITE_OK);
		sqlite3_close(db);
		auto_of(view) struct view *v = view_of(1);
		look_at_all(v);
		snprintf(copy, sizeof copy, "mv %s.good %s", path, path);
		shell(copy);
	}
	/* a bit in the archive: the frame that holds it is refused, others are read */
	auto_close int blob = open_store("blobs/sha256/%s", &layers.at[0], O_RDWR);
	char byte;
	assert_int_equal(pread(blob, &byte, 1, 1000), 1);
	byte = (char)(byte ^ 0x10);
	assert_int_equal(pwrite(blob, &byte, 1, 1000), 1);
	auto_of(view) struct view *v = view_of(1);
	struct view_entry e;
	char piece[64];
	size_t n;
	assert_int_equal(view_find(v, STR_LIT("d/plain"), &e, &err), 1);
	auto_of(content) struct content *c = content_open(v, &e, &err);
	assert_int_equal(content_read(c, 0, piece, 10, &n, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	look_at_all(v);
	layers_end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_a_view_shows_what_the_upper_showed, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_everything_that_a_workspace_can_hold, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_an_opaque_directory_and_what_replaces_one,
					    room_open, room_close),
	    cmocka_unit_test_setup_teardown(
		test_a_small_file_of_a_large_archive_costs_about_a_frame, room_open, room_close),
	    cmocka_unit_test_setup_teardown(test_a_missing_index_is_made_again_the_same, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_a_live_upper_is_the_topmost_layer, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_damage_is_said_and_never_followed, room_open,
					    room_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
