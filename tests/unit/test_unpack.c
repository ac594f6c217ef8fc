/* unpack.c against archives that somebody else made: what no workspace can hold is refused, nothing
 * is made outside, nothing stays behind. Numbers are the invariants of apply.h. */
#include "snapshot/apply.c"
#include "snapshot/blob.h"
#include "snapshot/cache.h"

#include "tree_room.h"

#include <archive.h>
#include <archive_entry.h>

/* ---- archives as libarchive writes them ---- */

static struct archive *tar;
static char bytes[1 << 20];
static size_t used;

static void
tar_begin(void)
{
	tar = archive_write_new();
	archive_write_set_format_pax(tar);
	archive_write_add_filter_none(tar);
	archive_write_set_bytes_per_block(tar, 0);
	assert_int_equal(archive_write_open_memory(tar, bytes, sizeof bytes, &used), ARCHIVE_OK);
}

static void
tar_entry(const char *name, unsigned type, const char *link, const char *attr, const char *data)
{
	struct archive_entry *e = archive_entry_new();

	archive_entry_set_pathname(e, name);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_mtime(e, 1, 0);
	if (type == 1)
		archive_entry_set_hardlink(e, link);
	else
		archive_entry_set_filetype(e, type);
	if (type == AE_IFLNK)
		archive_entry_set_symlink(e, link);
	if (attr)
		archive_entry_xattr_add_entry(e, attr, "y", 1);
	if (type == AE_IFCHR || type == AE_IFBLK)
		archive_entry_set_rdev(e, makedev(1, 3));
	archive_entry_set_size(e, data ? (la_int64_t)strlen(data) : 0);
	assert_int_equal(archive_write_header(tar, e), ARCHIVE_OK);
	if (data)
		assert_int_equal(archive_write_data(tar, data, strlen(data)), strlen(data));
	archive_entry_free(e);
}

static struct frames_sum
tar_store(void)
{
	struct err err;
	struct frames_sum sum;

	archive_write_close(tar);
	archive_write_free(tar);
	must(blob_store_init(room.store, &err), &err);
	auto_blob w = BLOB_WRITER_NONE;
	must(blob_begin(room.store, &w, &err), &err);
	auto_of(frames_writer) struct frames_writer *f = frames_writer_new(w.fd, 1, 1, &err);
	must(frames_add(f, bytes, used, &err), &err);
	must(frames_finish(f, &sum, &err), &err);
	must(blob_commit(&w, room.store, &sum.digest, &err), &err);
	return sum;
}

static int
try_unpack(const struct frames_sum *sum, const struct digest *diff_id, struct err *err)
{
	const struct layer_options o = room_options(2);
	struct layer_counts n;
	return unpack_layer(&o, &sum->digest, diff_id, &n, err);
}

static void
assert_refused(const struct frames_sum *sum, const char *what)
{
	struct err err = {0};

	if (try_unpack(sum, &sum->diff_id, &err) == 0)
		fail_msg("%s was unpacked", what);
	if (err.code != ERR_CORRUPT)
		fail_msg("%s: %s", what, err.why);
	assert_false(cache_layer_trusted(room.cache, &sum->digest));
	assert_no_temp(room.cache);
	const int layers = openat(room.cache, "layers", O_RDONLY | O_DIRECTORY);
	assert_int_equal(count_names(layers), 0);
	close(layers);
	assert_false(path_exists(room.dir, "evil"));
	assert_false(path_exists(room.scratch, "evil"));
	assert_false(path_exists(room.cache, "evil"));
	assert_int_equal(access("/evil", F_OK), -1);
}

static void
test_names_that_lead_out_are_refused(void **state)
{
	static const char *const names[] = {
	    "../evil",  "/evil",      "a/../../evil",      "a/..",      "..",       "a//b",
	    "a/./evil", "././evil",   "./../evil",         "d/.wh..",   "d/.wh...", ".wh.",
	    "a/.wh.",   ".wh.x/evil", ".wh..wh..opq/evil", ".wh..wh.x", "/",        "//"};

	(void)state;
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		tar_begin();
		tar_entry("a", AE_IFDIR, NULL, NULL, NULL);
		tar_entry(names[i], AE_IFREG, NULL, NULL, "x");
		const struct frames_sum sum = tar_store();
		assert_refused(&sum, names[i]);
	}
}

static void
test_no_way_leads_over_a_link(void **state)
{
	char target[128];

	(void)state;
	snprintf(target, sizeof target, "%s/scratch", room.path);
	static const char *const inner[] = {"l/evil", "l/deeper/evil", "l/.wh.evil",
					    "l/.wh..wh..opq"};
	for (size_t i = 0; i < sizeof inner / sizeof *inner; i++) {
		tar_begin();
		tar_entry("l", AE_IFLNK, target, NULL, NULL);
		tar_entry(inner[i], AE_IFREG, NULL, NULL, "x");
		const struct frames_sum sum = tar_store();
		assert_refused(&sum, inner[i]);
	}
	/* a file in place of the directory */
	tar_begin();
	tar_entry("f", AE_IFREG, NULL, NULL, "x");
	tar_entry("f/evil", AE_IFREG, NULL, NULL, "x");
	const struct frames_sum sum = tar_store();
	assert_refused(&sum, "a file in a file");
}

static void
test_links_stay_inside_and_among_files(void **state)
{
	static const char *const targets[] = {
	    "../../secret", "/etc/passwd", "l/secret", "d", "gone", "absent", "self", ".", "./"};
	(void)state;
	put_text(room.scratch, "secret", "x");
	for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
		char out[128];
		snprintf(out, sizeof out, "%s/scratch", room.path);
		tar_begin();
		tar_entry("l", AE_IFLNK, out, NULL, NULL);
		tar_entry("d", AE_IFDIR, NULL, NULL, NULL);
		tar_entry(".wh.gone", AE_IFREG, NULL, NULL, NULL);
		tar_entry("self", 1, targets[i], NULL, NULL);
		const struct frames_sum sum = tar_store();
		assert_refused(&sum, targets[i]);
	}
	struct stat st;
	ok(fstatat(room.scratch, "secret", &st, 0));
	assert_int_equal(st.st_nlink, 1);
}

static void
test_what_no_workspace_holds_is_refused(void **state)
{
	static const struct {
		const char *name;
		unsigned type;
		const char *attr;
	} bad[] = {{"null", AE_IFCHR, NULL},
		   {"disk", AE_IFBLK, NULL},
		   {"t", AE_IFREG, "trusted.overlay.opaque"},
		   {"s", AE_IFREG, "security.selinux"},
		   {".", AE_IFREG, NULL}};
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		tar_begin();
		tar_entry(bad[i].name, bad[i].type, NULL, bad[i].attr, NULL);
		const struct frames_sum sum = tar_store();
		assert_refused(&sum, bad[i].name);
	}
	tar_begin();
	tar_entry("twice", AE_IFREG, NULL, NULL, "1");
	tar_entry("twice", AE_IFREG, NULL, NULL, "2");
	const struct frames_sum sum = tar_store();
	assert_refused(&sum, "one name twice");
}

static void
test_a_mark_in_an_archive_is_only_an_attribute(void **state)
{
	struct err err;
	char value[4];

	(void)state; /* invariant 3 */
	tar_begin();
	tar_entry("d", AE_IFDIR, NULL, "user.overlay.opaque", NULL);
	const struct frames_sum sum = tar_store();
	must(try_unpack(&sum, &sum.diff_id, &err), &err);
	const int back = open_layer(&sum.digest), d = openat(back, "d", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fgetxattr(d, "user.overlay.opaque", value, 4), -1);
	assert_int_equal(fgetxattr(d, "user.overlay.overlay.opaque", value, 4), 1);
	close(d);
	close(back);
}

static void
test_foreign_but_honest_archives_are_read(void **state)
{
	struct err err;
	struct stat st;

	(void)state; /* no entries for directories, "./" before names, out of order */
	tar_begin();
	tar_entry("./z/y/file", AE_IFREG, NULL, NULL, "z");
	tar_entry("./a", AE_IFREG, NULL, NULL, "a");
	tar_entry("./z/second", 1, "./a", NULL, NULL);
	tar_entry("z/y/.wh.gone", AE_IFREG, NULL, NULL, NULL);
	const struct frames_sum sum = tar_store();
	must(try_unpack(&sum, &sum.diff_id, &err), &err);
	const int back = open_layer(&sum.digest);
	ok(fstatat(back, "z/second", &st, 0));
	assert_int_equal(st.st_nlink, 2);
	ok(fstatat(back, "z/y", &st, 0));
	assert_int_equal(st.st_mode, S_IFDIR | 0755);
	ok(fstatat(back, "z/y/gone", &st, AT_SYMLINK_NOFOLLOW));
	assert_true(S_ISCHR(st.st_mode));
	close(back);
}

/* ---- damaged archives ---- */

static struct frames_sum
good_archive(void)
{
	tar_begin();
	for (int i = 0; i < 50; i++) {
		char name[64];
		snprintf(name, sizeof name, "file-%d", i);
		tar_entry(name, AE_IFREG, NULL, NULL,
			  "some text that compresses, compresses, compresses");
	}
	return tar_store();
}

static void
test_every_flipped_byte_and_every_cut_is_found(void **state)
{
	const struct frames_sum sum = good_archive();
	char name[100];
	static char whole[1 << 16];
	struct err err;

	(void)state;
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&sum.digest).text);
	const int fd = openat(room.store, name, O_RDWR | O_CLOEXEC);
	ok(fd);
	must(fd_pread_all(fd, whole, sum.bytes, 0, &err), &err);
	for (uint64_t at = 0; at < sum.bytes; at++) {
		const char flipped = (char)(whole[at] ^ 1 << at % 8);
		assert_int_equal(pwrite(fd, &flipped, 1, (off_t)at), 1);
		assert_refused(&sum, "a flipped byte");
		assert_int_equal(pwrite(fd, &whole[at], 1, (off_t)at), 1);
	}
	for (uint64_t n = sum.bytes; n-- > 0;) {
		ok(ftruncate(fd, (off_t)n));
		assert_refused(&sum, "a cut archive");
	}
	must(fd_pwrite_all(fd, whole, sum.bytes, 0, &err), &err);
	must(try_unpack(&sum, &sum.diff_id, &err), &err);
	close(fd);
}

static void
test_the_digest_is_the_one_that_was_asked_for(void **state)
{
	const struct frames_sum sum = good_archive();
	const struct frames_sum other = {.digest = digest_of(STR_LIT("other"))};
	char from[100], to[100];
	struct err err;

	(void)state;
	assert_int_equal(try_unpack(&other, NULL, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	/* a whole archive, under the name of another */
	snprintf(from, sizeof from, "blobs/sha256/%s", digest_text(&sum.digest).text);
	snprintf(to, sizeof to, "blobs/sha256/%s", digest_text(&other.digest).text);
	ok(renameat(room.store, from, room.store, to));
	assert_refused(&other, "an archive under another name");
}

/* ---- the cache's marks ---- */

static void
put_marker(const struct digest *d, const char *text)
{
	char name[100];
	snprintf(name, sizeof name, "layers/%s.json", digest_text(d).text);
	put_text(room.cache, name, text);
}

static void
test_a_layer_of_another_boot_is_trusted_only_when_synced(void **state)
{
	const struct frames_sum sum = good_archive();
	struct err err;

	(void)state;
	must(try_unpack(&sum, NULL, &err), &err);
	assert_true(cache_layer_trusted(room.cache, &sum.digest));
	static const char *const bad[] = {"{\"boot_id\":\"other\",\"synced\":false}",
					  "",
					  "junk",
					  "[]",
					  "{}",
					  "{\"boot_id\":\"\",\"synced\":false}",
					  "{\"synced\":\"true\"}"};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		put_marker(&sum.digest, bad[i]);
		assert_false(cache_layer_trusted(room.cache, &sum.digest));
	}
	/* and is then unpacked again, whatever stands there */
	int back = open_layer(&sum.digest);
	put_text(back, "file-3", "");
	put_text(back, "stray", "");
	close(back);
	must(try_unpack(&sum, NULL, &err), &err);
	assert_true(cache_layer_trusted(room.cache, &sum.digest));
	back = open_layer(&sum.digest);
	struct stat st;
	ok(fstatat(back, "file-3", &st, 0));
	assert_true(st.st_size > 0);
	assert_false(path_exists(back, "stray"));
	close(back);
	assert_no_temp(room.cache);

	must(cache_sync(room.cache, NULL, 0, &err), &err);
	put_marker(&sum.digest, "{\"boot_id\":\"other\",\"synced\":true}");
	assert_true(cache_layer_trusted(room.cache, &sum.digest));
	/* a sync does not make good what was not trusted before it */
	put_marker(&sum.digest, "{\"boot_id\":\"other\",\"synced\":false}");
	must(cache_sync(room.cache, &sum.digest, 1, &err), &err);
	assert_false(cache_layer_trusted(room.cache, &sum.digest));
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_names_that_lead_out_are_refused),
	    T(test_no_way_leads_over_a_link),
	    T(test_links_stay_inside_and_among_files),
	    T(test_what_no_workspace_holds_is_refused),
	    T(test_a_mark_in_an_archive_is_only_an_attribute),
	    T(test_foreign_but_honest_archives_are_read),
	    T(test_every_flipped_byte_and_every_cut_is_found),
	    T(test_the_digest_is_the_one_that_was_asked_for),
	    T(test_a_layer_of_another_boot_is_trusted_only_when_synced),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
