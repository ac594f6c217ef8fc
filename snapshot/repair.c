#include "repair.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "blob.h"
#include "rebuild.h"
#include "store.h"
#include "unpack.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- blobs ---- */

/* To `to`, in place of what is there. */
static int
copy_blob(int from, int to, const struct digest *d, struct err *err)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	auto_blob w = BLOB_WRITER_NONE;
	char piece[1 << 16];
	uint64_t size;

	auto_close int fd = blob_open(from, d, &size, err);
	if (fd < 0 || blob_begin(to, &w, err) < 0)
		return -1;
	for (uint64_t at = 0; at < size;) {
		const size_t n = size - at < sizeof piece ? (size_t)(size - at) : sizeof piece;
		if (fd_pread_all(fd, piece, n, at, err) < 0 ||
		    fd_pwrite_all(w.fd, piece, n, at, err) < 0)
			return blob_say_space(&w, err);
		hasher_add(h, piece, n);
		at += n;
	}
	const struct digest sum = hasher_sum(h);
	if (!digest_equal(&sum, d))
		return err_set(err, ERR_CORRUPT, "%.12s does not hold what its name says",
			       digest_text(d).text);
	auto_close int dir = path_open(to, "blobs/sha256", O_RDONLY | O_DIRECTORY, err);
	return dir < 0 ? -1 : blob_commit_as(&w, dir, digest_text(d).text, err);
}

static int
take_from_mirror(int store, int mirror, const struct digest *d, struct err *err)
{
	if (mirror < 0)
		return err_set(err, ERR_CORRUPT, "there is no mirror to take it from");
	if (copy_blob(mirror, store, d, err) < 0)
		return err_add(err, "the mirror");
	return 0;
}

int
mirror_blob(int store, int mirror, const struct digest *d, struct err *err)
{
	char name[96];
	struct stat mine, there;

	if (mirror < 0)
		return 0;
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(d).text);
	if (fstatat(store, name, &mine, AT_SYMLINK_NOFOLLOW) == 0 &&
	    fstatat(mirror, name, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	    mine.st_size == there.st_size)
		return 0;
	if (blob_store_init(mirror, err) < 0 || copy_blob(store, mirror, d, err) < 0)
		return err_add(err, "the mirror");
	return 0;
}

int
mirror_ref(int store, int mirror, const char *name, struct err *err)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES);

	if (mirror < 0)
		return 0;
	if (store_directory.get_object(store, name, &text, err) < 0)
		return -1;
	if (store_directory.put_object(mirror, name, buf_view(&text), err) < 0)
		return err_add(err, "the mirror");
	return 0;
}

int
mirror_snapshot(int store, int mirror, const struct digest *manifest, struct err *err)
{
	struct digest config;
	char name[80];

	if (mirror < 0)
		return 0;
	snprintf(name, sizeof name, "%s.json", digest_text(manifest).text);
	if (oci_find_config(store, manifest, &config, err) < 0 ||
	    mirror_blob(store, mirror, &config, err) < 0 ||
	    mirror_blob(store, mirror, manifest, err) < 0)
		return -1;
	return mirror_ref(store, mirror, name, err);
}

int
mirror_remove(int mirror, const struct collect_item *i, struct err *err)
{
	char name[96];

	if (mirror < 0 || (i->kind != COLLECT_BLOB && i->kind != COLLECT_REF))
		return 0;
	snprintf(name, sizeof name, "%s/%s%s", i->kind == COLLECT_BLOB ? "blobs/sha256" : "refs",
		 digest_text(&i->digest).text, i->kind == COLLECT_BLOB ? "" : ".json");
	if (unlinkat(mirror, name, 0) < 0 && errno != ENOENT)
		return err_sys(err, errno, "the mirror: remove %s", name);
	return 0;
}

/* ---- a layer ---- */

static int
make_idx(const struct layer_options *o, const struct digest *digest, struct err *err)
{
	auto_blob file = BLOB_WRITER_NONE;
	struct layer_counts counts;
	struct frames_sum sum;
	char name[80];
	uint64_t bytes;

	auto_close int blob = blob_open(o->store, digest, &bytes, err);
	if (blob < 0 || blob_begin(o->store, &file, err) < 0)
		return -1;
	if (rebuild_into(o, blob, file.fd, &sum, &counts, err) < 0 ||
	    unpack_judge(&sum, digest, NULL, err) < 0)
		return -1;
	snprintf(name, sizeof name, "%s.idx", digest_text(digest).text);
	auto_close int dir = path_open_dir(o->store, "idx", 0700, err);
	return dir < 0 ? -1 : blob_commit_as(&file, dir, name, err);
}

/* Whether the archive alone is what its name says. */
static bool
is_whole(int store, const struct digest *d)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	char piece[1 << 16];
	struct err ignored;
	uint64_t size;

	auto_close int fd = blob_open(store, d, &size, &ignored);
	if (fd < 0)
		return false;
	for (uint64_t at = 0; at < size;) {
		const size_t n = size - at < sizeof piece ? (size_t)(size - at) : sizeof piece;
		if (fd_pread_all(fd, piece, n, at, &ignored) < 0)
			return false;
		hasher_add(h, piece, n);
		at += n;
	}
	const struct digest sum = hasher_sum(h);
	return digest_equal(&sum, d);
}

int
repair_layer(const struct layer_options *o, int mirror, bool repair, const struct digest *digest,
	     const struct digest *diff_id, struct layer_counts *out, struct err *err)
{
	struct err why;

	if (verify_layer(o, digest, diff_id, out, err) == 0)
		return repair ? mirror_blob(o->store, mirror, digest, err) : 0;
	if (!repair || err->code == ERR_CANCELLED)
		return -1;
	if (!is_whole(o->store, digest) && take_from_mirror(o->store, mirror, digest, &why) < 0)
		return err_add(err, "not repaired (%.100s)", why.why);
	if (verify_layer(o, digest, diff_id, out, &why) < 0 &&
	    (make_idx(o, digest, &why) < 0 || verify_layer(o, digest, diff_id, out, &why) < 0))
		return err_add(err, "not repaired (%.100s)", why.why);
	return 1;
}

/* ---- a snapshot ---- */

static int
check_manifest(const struct manifest *m, const struct repair_snapshot *s, struct err *err)
{
	bool same = m->n_layers == s->n_layers && str_is(s->session, m->session);

	for (size_t i = 0; same && i < m->n_layers; i++)
		same = digest_equal(&m->layers[i].digest, &s->layers[i]);
	return same ? 0
		    : err_set(err, ERR_CORRUPT,
			      "its manifest tells of other layers, or of another "
			      "session, than the index does");
}

static int
check_ref(int store, const char *name, const struct manifest *m, const struct repair_snapshot *s,
	  struct err *err)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES);

	if (store_directory.get_object(store, name, &text, err) < 0)
		return -1;
	json_t *j = json_loadb(text.at ? text.at : "", text.len, JSON_REJECT_DUPLICATES, NULL);
	json_t *facts =
	    json_loadb(s->facts.at ? s->facts.at : "{}", s->facts.at ? s->facts.len : 2, 0, NULL);
	const char *session = json_string_value(json_object_get(j, "session"));
	const char *calls = json_string_value(json_object_get(j, "calls"));
	const json_t *layers = json_object_get(j, "layers");
	bool same = facts && json_equal(facts, json_object_get(j, "facts")) && session && calls &&
		    str_is(s->session, session) && str_is(s->calls, calls) &&
		    json_array_size(layers) == m->n_layers;
	for (size_t i = 0; same && i < m->n_layers; i++) {
		const char *hex =
		    json_string_value(json_object_get(json_array_get(layers, i), "digest"));
		struct digest d;
		same = hex && digest_parse(str_of(hex), &d, err) == 0 &&
		       digest_equal(&d, &m->layers[i].digest);
	}
	const bool readable = json_is_object(j);
	json_decref(facts);
	json_decref(j);
	if (same)
		return 0;
	return err_set(err, ERR_CORRUPT, "refs/%s %s", name,
		       readable ? "tells other facts than the index does" : "is not JSON");
}

static int
take_manifest(int store, int mirror, const struct digest *manifest, struct manifest *m,
	      struct err *err)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES);

	if (blob_read(store, manifest, &text, err) < 0 &&
	    take_from_mirror(store, mirror, manifest, err) < 0)
		return -1;
	buf_clear(&text);
	if (blob_read(store, manifest, &text, err) < 0 ||
	    manifest_parse(buf_view(&text), m, err) < 0)
		return -1;
	const struct digest config = m->config;
	manifest_done(m);
	if (!is_whole(store, &config) && take_from_mirror(store, mirror, &config, err) < 0)
		return -1;
	return oci_load(store, manifest, m, err);
}

int
repair_snapshot(const struct layer_options *o, int mirror, bool repair,
		const struct digest *manifest, const struct repair_snapshot *s, struct err *err)
{
	auto_manifest m = {0};
	char name[80];
	struct err why;
	int result = 0;

	snprintf(name, sizeof name, "%s.json", digest_text(manifest).text);
	if (oci_load(o->store, manifest, &m, err) < 0) {
		if (!repair)
			return -1;
		if (take_manifest(o->store, mirror, manifest, &m, &why) < 0)
			return err_add(err, "not repaired (%.100s)", why.why);
		result = 1;
	}
	if (check_manifest(&m, s, result ? &why : err) < 0) {
		if (result)
			*err = why;
		return -1;
	}
	if (check_ref(o->store, name, &m, s, result ? &why : err) < 0) {
		if (!repair)
			return -1;
		if (oci_rewrite_ref(o->store, manifest, &m, s->calls, s->facts, s->created_ns,
				    &why) < 0)
			return err_add(err, "not repaired (%.100s)", why.why);
		result = 1;
	}
	if (!repair)
		return 0;
	if (mirror_snapshot(o->store, mirror, manifest, &why) < 0) {
		*err = why;
		return -1;
	}
	return result;
}
