#include "snapshot/manifest.c"
#include "snapshot/blob.h"
#include "snapshot/oci.h"

#include "tree_room.h"

static struct digest
named(const char *name)
{
	return digest_of(str_of(name));
}

static struct digest
write_snapshot(size_t n, const struct digest *parent, const char *made_by)
{
	static const char *const names[] = {"one", "two", "three"};
	struct digest layers[3], ids[3], out;
	uint64_t sizes[3];
	struct err err;

	for (size_t i = 0; i < n; i++) {
		layers[i] = named(names[i]);
		ids[i] = named(names[2 - i]);
		sizes[i] = 1000 + i;
	}
	const struct oci_snapshot s = {.session = STR_LIT("s_aaaaaaaaaaaaaaaa"),
				       .session_name = STR_LIT("demo"),
				       .image = STR_LIT("host:1"),
				       .made_by = str_of(made_by),
				       .facts = STR_LIT("{\"note\":\"\\n\"}"),
				       .fingerprint = STR_LIT("f"),
				       .parent = parent,
				       .layers = layers,
				       .diff_ids = ids,
				       .sizes = sizes,
				       .n_layers = n,
				       .created_ns = 1000000000ull * n};
	must(oci_write_snapshot(room.store, &s, &out, &err), &err);
	return out;
}

static void
test_a_snapshot_is_read_as_it_was_written(void **state)
{
	struct err err;
	(void)state;
	const struct digest a = write_snapshot(2, NULL, "pause"),
			    b = write_snapshot(3, &a, "call c_1");
	const struct digest again = write_snapshot(3, &a, "call c_1");
	assert_true(digest_equal(&b, &again));
	auto_manifest m = {0};
	must(oci_load(room.store, &b, &m, &err), &err);
	assert_int_equal(m.n_layers, 3);
	assert_true(m.has_parent);
	assert_true(digest_equal(&m.parent, &a));
	assert_string_equal(m.session, "s_aaaaaaaaaaaaaaaa");
	assert_string_equal(m.session_name, "demo");
	assert_string_equal(m.image, "host:1");
	assert_string_equal(m.created, "1970-01-01T00:00:03.000Z");
	/* each layer's history is that of the snapshot in which it was new */
	assert_string_equal(m.layers[1].made_by, "pause");
	assert_string_equal(m.layers[1].created, "1970-01-01T00:00:02.000Z");
	assert_string_equal(m.layers[2].made_by, "call c_1");
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(m.layers[i].bytes, 1000 + i);
	const struct digest want = named("three");
	assert_true(digest_equal(&m.layers[0].diff_id, &want));
	auto_buf text = BUF_MAX(1 << 20);
	must(blob_read(room.store, &b, &text, &err), &err);
	assert_non_null(strstr(buf_cstr(&text),
			       "\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\""));
	assert_non_null(strstr(buf_cstr(&text), "\"schemaVersion\":2"));
	assert_no_temp(room.store);
}

static void
test_a_snapshot_without_layers_is_one(void **state)
{
	struct err err;
	(void)state;
	const struct digest d = write_snapshot(0, NULL, "new");
	auto_manifest m = {0};
	must(oci_load(room.store, &d, &m, &err), &err);
	assert_int_equal(m.n_layers, 0);
	assert_false(m.has_parent);
}

static void
test_a_missing_parent_does_not_stop_a_snapshot(void **state)
{
	struct err err;
	(void)state;
	const struct digest gone = named("gone"), d = write_snapshot(1, &gone, "pause");
	auto_manifest m = {0};
	must(oci_load(room.store, &d, &m, &err), &err);
	assert_string_equal(m.layers[0].made_by, "berth");
}

static void
test_what_is_no_manifest_of_ours_is_refused(void **state)
{
	static const char *const texts[] = {
	    "",
	    "[]",
	    "{}",
	    "{\"schemaVersion\":2}",
	    "{\"schemaVersion\":2,\"layers\":[]}",
	    "{\"schemaVersion\":2,\"layers\":[],\"config\":{\"digest\":\"md5:00\"}}",
	    "{\"schemaVersion\":2,\"layers\":[{}],\"config\":{}}",
	    "{\"schemaVersion\":2,\"layers\":{}}",
	    "{\"schemaVersion\":2,\"schemaVersion\":2,\"layers\":[]}",
	    "{\"a\":\"\xff\"}"};
	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		struct manifest m;
		struct err err;
		if (manifest_parse(str_of(texts[i]), &m, &err) == 0)
			fail_msg("%s was taken", texts[i]);
		assert_int_equal(err.code, ERR_CORRUPT);
	}
	/* a blob that was changed on disk */
	struct err err;
	const struct digest d = write_snapshot(1, NULL, "pause");
	char name[100];
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&d).text);
	put_text(room.store, name, "{}");
	struct manifest m;
	assert_int_equal(oci_load(room.store, &d, &m, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
}

static void
test_foreign_text_becomes_text(void **state)
{
	static const char *const rows[][2] = {
	    {"plain", "plain"},
	    {"\xc3\xa4", "\xc3\xa4"},
	    {"\xff", "\xef\xbf\xbd"},
	    {"a\xc3", "a\xef\xbf\xbd"},
	    {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
	    {"\xf0\x9f\x98\x80", "\xf0\x9f\x98\x80"}};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		auto_free char *text = manifest_text(str_of(rows[i][0]));
		assert_string_equal(text, rows[i][1]);
	}
}

int
main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, room_open, room_close)
	const struct CMUnitTest tests[] = {
	    T(test_a_snapshot_is_read_as_it_was_written),
	    T(test_a_snapshot_without_layers_is_one),
	    T(test_a_missing_parent_does_not_stop_a_snapshot),
	    T(test_what_is_no_manifest_of_ours_is_refused),
	    T(test_foreign_text_becomes_text),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
