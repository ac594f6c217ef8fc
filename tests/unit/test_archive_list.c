/* archive_list.c: what a store holds by its refs; each byte of a snapshot's files, flipped. */
#include "snapshot/archive_list.c"

#include "tree_room.h"

static struct digest first, second;
static struct frames_sum layer;

static void
write_snapshot(const struct digest *parent, const char *name, struct digest *out)
{
	struct err err;
	const struct oci_snapshot s = {
	    .session = STR_LIT("s_aaaaaaaaaaaaaaaa"),
	    .session_name = str_of(name),
	    .image = STR_LIT("host"),
	    .made_by = STR_LIT("pause"),
	    .facts = STR_LIT("{\"note\":\"a note\"}"),
	    .fingerprint = STR_LIT("f"),
	    .parent = parent,
	    .layers = &layer.digest,
	    .diff_ids = &layer.diff_id,
	    .sizes = &layer.bytes,
	    .n_layers = 1,
	    .created_ns = parent ? 2000000000 : 1000000000,
	};
	must(oci_write_snapshot(room.store, &s, out, &err), &err);
}

static int
open_store(void **state)
{
	struct layer_counts n;
	struct err err;

	room_open(state);
	const struct layer_options o = room_options(1);
	put_text(room.upper, "a", "text");
	struct capture *c = capture_new(&o, room.upper, room.scratch, &err);
	must(c ? capture_run(c, false, &layer, &n, &err) : -1, &err);
	capture_free(c);
	write_snapshot(NULL, "one", &first);
	write_snapshot(&first, "two", &second);
	return 0;
}

static void
test_the_oldest_comes_first_and_each_is_found_by_digest_prefix_and_name(void **state)
{
	auto_archive_list l = {0};
	const struct archive_snapshot *s = NULL;
	const struct manifest_layer *one = NULL;
	struct err err;
	char prefix[16];

	(void)state;
	must(archive_list_load(room.store, &l, &err), &err);
	assert_int_equal(l.n, 2);
	assert_true(digest_equal(&l.at[0].digest, &first));
	assert_true(l.at[1].m.has_parent && digest_equal(&l.at[1].m.parent, &first));
	assert_string_equal(l.at[1].note, "a note");
	must(archive_list_find(&l, "two", &s, &one, &err), &err);
	assert_ptr_equal(s, &l.at[1]);
	snprintf(prefix, sizeof prefix, "%.12s", digest_text(&first).text);
	must(archive_list_find(&l, prefix, &s, &one, &err), &err);
	assert_ptr_equal(s, &l.at[0]);
	must(archive_list_find(&l, digest_text(&layer.digest).text, &s, &one, &err), &err);
	assert_null(s);
	assert_true(digest_equal(&one->digest, &layer.digest));
	prefix[5] = '\0'; /* shorter than a prefix may be */
	assert_int_equal(archive_list_find(&l, prefix, &s, &one, &err), -1);
	assert_int_equal(err.code, ERR_ABSENT);
	assert_int_equal(archive_list_find(&l, "", &s, &one, &err), -1);
}

/* Whether the list still says what was written. */
static bool
is_as_written(const struct archive_list *l)
{
	const struct archive_snapshot *s = &l->at[1];
	return l->n == 2 && !s->broken && digest_equal(&s->digest, &second) &&
	       digest_equal(&s->m.parent, &first) && s->m.n_layers == 1 &&
	       digest_equal(&s->m.layers[0].digest, &layer.digest) &&
	       strcmp(s->m.session_name, "two") == 0 && strcmp(s->m.image, "host") == 0;
}

static void
flip_each(const char *name, bool must_be_found)
{
	static char whole[1 << 14];
	struct err err;

	const int fd = openat(room.store, name, O_RDWR | O_CLOEXEC);
	ok(fd);
	const ssize_t n = pread(fd, whole, sizeof whole, 0);
	assert_in_range(n, 1, sizeof whole - 1);
	for (ssize_t at = 0; at < 2 * n; at++) {
		const char flipped = (char)(whole[at % n] ^ 1 << (at + at / n) % 8);
		auto_archive_list l = {0};
		assert_int_equal(pwrite(fd, &flipped, 1, at % n), 1);
		must(archive_list_load(room.store, &l, &err), &err);
		size_t broken = 0;
		for (size_t i = 0; i < l.n; i++)
			broken += l.at[i].broken;
		if (must_be_found ? broken != 1 : broken == 0 && !is_as_written(&l))
			fail_msg("%s: byte %zd", name, at % n);
		assert_int_equal(pwrite(fd, &whole[at % n], 1, at % n), 1);
	}
	for (ssize_t cut = n - 1; cut >= 0; cut--) {
		auto_archive_list l = {0};
		ok(ftruncate(fd, cut));
		must(archive_list_load(room.store, &l, &err), &err);
		/* a ref without its newline is whole */
		if (l.n != 2 || (!(l.at[0].broken || l.at[1].broken) && cut != n - 1))
			fail_msg("%s cut to %zd", name, cut);
	}
	assert_int_equal(pwrite(fd, whole, (size_t)n, 0), n);
	close(fd);
}

static void
test_every_flipped_byte_of_manifest_and_config_is_found_and_none_of_a_ref_lies(void **state)
{
	auto_manifest m = {0};
	struct err err;
	char name[100];

	(void)state;
	must(oci_load(room.store, &second, &m, &err), &err);
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&second).text);
	flip_each(name, true);
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&m.config).text);
	flip_each(name, true);
	snprintf(name, sizeof name, "refs/%s.json", digest_text(&second).text);
	flip_each(name, false);
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, open_store, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_the_oldest_comes_first_and_each_is_found_by_digest_prefix_and_name),
	    T(test_every_flipped_byte_of_manifest_and_config_is_found_and_none_of_a_ref_lies),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
