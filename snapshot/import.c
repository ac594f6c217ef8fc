#include "import.h"
#include "base/fd.h"
#include "base/path.h"
#include "blob.h"
#include "rebuild.h"
#include "unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/vfs.h>

enum {
	TEXTS_MAX = 16,
	LINE_MAX_BYTES = 200,
	LOOK_BYTES = 16 << 20, /* of what comes in, between two looks at what is free */
	RESERVE_MAX_BYTES = 1 << 30,
};
static const char FRONT[] = "blobs/sha256/";

struct text { /* a manifest, a config */
	struct digest digest;
	struct buf bytes;
};

struct run {
	const struct layer_options *o;
	struct tar_source in;
	struct archive *archive; /* owned */
	struct err why;          /* of the source, when it fails in a callback */
	bool in_failed;
	uint64_t bytes, entries;
	struct buf index;
	struct text texts[TEXTS_MAX];
	size_t n_texts;
	struct import_layer *layers; /* owned */
	size_t n_layers, cap;
	uint64_t raw_bytes; /* of all layers, as their tables say */
};

/* ---- room ---- */

/* Others use this disk too, so a part of it is left free; and a small layer may unpack to much. */
static int
check_room(const struct run *r, uint64_t bytes, struct err *err)
{
	struct statfs fs;

	if (fstatfs(r->o->store, &fs) < 0)
		return err_sys(err, errno, "look at the store's free space");
	const uint64_t unit = (uint64_t)fs.f_bsize, part = fs.f_blocks / 20 * unit;
	const uint64_t reserve = part < RESERVE_MAX_BYTES ? part : RESERVE_MAX_BYTES;
	const uint64_t free_bytes = fs.f_bavail * unit;
	if (free_bytes >= reserve && free_bytes - reserve >= bytes)
		return 0;
	return err_set(err, ERR_NO_SPACE,
		       "%llu bytes more are needed, and %llu to be left free; %llu are free",
		       (unsigned long long)bytes, (unsigned long long)reserve,
		       (unsigned long long)free_bytes);
}

/* ---- the tar ---- */

static la_ssize_t
read_in(struct archive *a, void *ctx, const void **out)
{
	struct run *r = ctx;
	struct str bytes = {NULL, 0};

	const int got = r->in.next(r->in.ctx, &bytes, &r->why);
	if (got < 0) {
		r->in_failed = true;
		archive_set_error(a, EIO, "the source");
		return -1;
	}
	*out = bytes.at;
	return got ? (la_ssize_t)bytes.len : 0;
}

static int
fail(struct run *r, struct err *err)
{
	if (r->in_failed) {
		*err = r->why;
		return -1;
	}
	const char *text = archive_error_string(r->archive);
	err_set(err, ERR_CORRUPT, "not a whole tar of an OCI layout: %s",
		text ? text : "it is empty");
	return err_hint(err, "give what export SNAPSHOT --oci has written");
}

static int
open_tar(struct run *r, struct err *err)
{
	r->archive = archive_read_new();
	if (!r->archive || archive_read_support_format_tar(r->archive) != ARCHIVE_OK ||
	    archive_read_open(r->archive, r, NULL, read_in, NULL) != ARCHIVE_OK)
		return fail(r, err);
	return 0;
}

/* The next piece of the current file. 1, 0 the end, -1. */
static int
next_piece(struct run *r, uint64_t expected, struct str *out, struct err *err)
{
	const void *bytes;
	size_t n = 0;
	la_int64_t at = 0;
	int got = ARCHIVE_OK;

	while (got == ARCHIVE_OK && n == 0)
		got = archive_read_data_block(r->archive, &bytes, &n, &at);
	if (got == ARCHIVE_EOF)
		return 0;
	if (got != ARCHIVE_OK)
		return fail(r, err);
	if (at < 0 || (uint64_t)at != expected)
		return err_set(err, ERR_CORRUPT, "a file with holes");
	r->bytes += n;
	if (r->o->watch.step && r->o->watch.step(r->o->watch.ctx, r->bytes, r->entries, err) < 0)
		return -1;
	*out = (struct str){bytes, n};
	return 1;
}

static int
take_text(struct run *r, struct buf *out, struct err *err)
{
	struct str piece;
	int more;

	while ((more = next_piece(r, out->len, &piece, err)) > 0) {
		buf_str(out, piece);
		if (buf_bad(out))
			return err_set(err, ERR_CORRUPT, "longer than %d MiB",
				       MANIFEST_MAX_BYTES >> 20);
	}
	return more;
}

/* ---- blobs ---- */

static int
copy_in(struct run *r, int fd, uint64_t *out_bytes, struct digest *out, struct err *err)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	struct str piece;
	uint64_t at = 0, looked = 0;
	int more;

	while ((more = next_piece(r, at, &piece, err)) > 0) {
		if (at >= looked && check_room(r, LOOK_BYTES, err) < 0)
			return -1;
		if (at >= looked)
			looked = at + LOOK_BYTES;
		if (fd_write_all(fd, piece.at, piece.len, err) < 0)
			return -1;
		hasher_add(h, piece.at, piece.len);
		at += piece.len;
	}
	*out_bytes = at;
	*out = hasher_sum(h);
	return more;
}

static int
add_layer(struct run *r, const struct import_layer *l, struct err *err)
{
	if (r->n_layers == r->cap) {
		const size_t cap = r->cap ? 2 * r->cap : 16;
		struct import_layer *grown =
		    cap > 2 * MANIFEST_LAYERS_MAX ? NULL : realloc(r->layers, cap * sizeof *grown);
		if (!grown)
			return err_set(err, ERR_UNAVAILABLE, "no memory for %zu layers", cap);
		r->layers = grown;
		r->cap = cap;
	}
	r->layers[r->n_layers++] = *l;
	return 0;
}

static int
commit_layer(struct run *r, struct blob_writer *blob, const struct digest *d, struct err *err)
{
	auto_blob index = BLOB_WRITER_NONE;
	struct import_layer l;
	char name[80];

	if (blob_begin(r->o->store, &index, err) < 0)
		return -1;
	if (rebuild_into(r->o, blob->fd, index.fd, &l.sum, &l.counts, err) < 0)
		return blob_say_space(&index, err);
	if (unpack_judge(&l.sum, d, NULL, err) < 0)
		return -1;
	snprintf(name, sizeof name, "%s.idx", digest_text(d).text);
	auto_close int idx = path_open(r->o->store, "idx", O_RDONLY | O_DIRECTORY, err);
	if (idx < 0)
		return -1;
	/* The index first: an archive that is there has one. */
	if (blob_commit_as(&index, idx, name, err) < 0 ||
	    blob_commit(blob, r->o->store, d, err) < 0)
		return -1;
	return add_layer(r, &l, err);
}

static bool
is_layer(int fd, uint64_t *out_raw_bytes)
{
	struct frames_table table = {0};
	auto_buf raw = BUF_MAX(0);
	struct err ignored;
	const bool is = frames_table_load(fd, LAYER_RAW_MAX_BYTES, &table, &raw, &ignored) == 0;

	*out_raw_bytes = table.raw_bytes;
	frames_table_done(&table);
	return is;
}

static int
keep_text(struct run *r, int fd, uint64_t bytes, const struct digest *d, struct err *err)
{
	if (bytes > MANIFEST_MAX_BYTES) {
		err_set(err, ERR_USAGE, "a layer of another form than is written here");
		return err_hint(err, "images of other tools: image import NAME SOURCE");
	}
	if (r->n_texts == TEXTS_MAX)
		return err_set(err, ERR_USAGE, "more than one snapshot's manifests and configs");
	struct text *t = &r->texts[r->n_texts];
	*t = (struct text){*d, BUF_MAX(MANIFEST_MAX_BYTES)};
	char *at = bytes ? buf_room(&t->bytes, bytes) : NULL;
	if (bytes && (!at || fd_pread_all(fd, at, bytes, 0, err) < 0))
		return at ? -1 : err_set(err, ERR_UNAVAILABLE, "no memory for a manifest");
	t->bytes.len = bytes;
	r->n_texts++;
	return 0;
}

static int
take_blob(struct run *r, const char *hex, struct err *err)
{
	auto_blob blob = BLOB_WRITER_NONE;
	struct digest wanted, found;
	uint64_t bytes, raw_bytes;

	if (digest_parse(str_of(hex), &wanted, err) < 0)
		return err_set(err, ERR_CORRUPT, "a blob that is named by no sha256 digest");
	if (blob_begin(r->o->store, &blob, err) < 0)
		return -1;
	if (copy_in(r, blob.fd, &bytes, &found, err) < 0)
		return blob_say_space(&blob, err);
	if (!digest_equal(&wanted, &found))
		return err_set(err, ERR_CORRUPT, "it holds bytes of %.12s",
			       digest_text(&found).text);
	if (!is_layer(blob.fd, &raw_bytes))
		return keep_text(r, blob.fd, bytes, &wanted, err);
	r->raw_bytes += raw_bytes;
	if (check_room(r, r->raw_bytes, err) < 0)
		return err_add(err, "to unpack it");
	return commit_layer(r, &blob, &wanted, err);
}

static int
take_entry(struct run *r, struct archive_entry *e, struct err *err)
{
	const char *name = archive_entry_pathname(e);

	if (!name || archive_entry_filetype(e) != AE_IFREG || archive_entry_hardlink(e))
		return 0;
	while (strncmp(name, "./", 2) == 0)
		name += 2;
	r->entries++;
	if (strcmp(name, "index.json") == 0)
		return r->index.len ? err_set(err, ERR_CORRUPT, "index.json is there twice")
				    : take_text(r, &r->index, err);
	if (strncmp(name, FRONT, sizeof FRONT - 1) != 0)
		return 0;
	if (take_blob(r, name + sizeof FRONT - 1, err) < 0)
		return err_add(err, "%.*s", LINE_MAX_BYTES, name);
	return 0;
}

static int
take_all(struct run *r, struct err *err)
{
	struct archive_entry *e;
	int got;

	while ((got = archive_read_next_header(r->archive, &e)) == ARCHIVE_OK ||
	       got == ARCHIVE_WARN)
		if (take_entry(r, e, err) < 0)
			return -1;
	return got == ARCHIVE_EOF ? 0 : fail(r, err);
}

/* ---- what it all makes ---- */

static int
find_text(const struct run *r, const struct digest *d, const char *what, struct str *out,
	  struct err *err)
{
	for (size_t i = 0; i < r->n_texts; i++)
		if (digest_equal(&r->texts[i].digest, d)) {
			*out = buf_view(&r->texts[i].bytes);
			return 0;
		}
	return err_set(err, ERR_CORRUPT, "its %s %.12s is missing", what, digest_text(d).text);
}

static int
find_manifest(const struct run *r, struct digest *out, struct err *err)
{
	json_t *j = json_loadb(r->index.at ? r->index.at : "", r->index.len, 0, NULL);
	const json_t *list = json_object_get(j, "manifests");
	const char *text = json_string_value(json_object_get(json_array_get(list, 0), "digest"));
	int result = 0;

	if (json_array_size(list) != 1 || !text)
		result = err_set(err, ERR_CORRUPT,
				 r->index.len ? "its index.json names not one manifest"
					      : "it has no index.json: not an OCI layout");
	else
		result = digest_parse(str_of(text), out, err);
	json_decref(j);
	if (result < 0)
		err->code = ERR_CORRUPT;
	return result;
}

static int
take_layers(const struct run *r, struct import *out, struct err *err)
{
	const struct manifest *m = &out->manifest;

	if (m->n_layers == 0)
		return err_set(err, ERR_CORRUPT, "it has no layers");
	out->layers = xnew(m->n_layers, sizeof *out->layers);
	for (size_t i = 0; i < m->n_layers; i++) {
		const struct import_layer *l = NULL;
		for (size_t k = 0; k < r->n_layers && !l; k++)
			if (digest_equal(&r->layers[k].sum.digest, &m->layers[i].digest))
				l = &r->layers[k];
		if (!l)
			return err_set(err, ERR_CORRUPT, "layer %.12s is missing",
				       digest_text(&m->layers[i].digest).text);
		if (unpack_judge(&l->sum, &m->layers[i].digest, &m->layers[i].diff_id, err) < 0)
			return -1;
		out->layers[i] = *l;
	}
	return 0;
}

static int
finish(const struct run *r, struct import *out, struct err *err)
{
	struct digest manifest;
	struct str text;

	if (find_manifest(r, &manifest, err) < 0 ||
	    find_text(r, &manifest, "manifest", &text, err) < 0 ||
	    manifest_parse(text, &out->manifest, err) < 0 ||
	    find_text(r, &out->manifest.config, "config", &text, err) < 0 ||
	    manifest_parse_config(text, &out->manifest, err) < 0)
		return -1;
	return take_layers(r, out, err);
}

void
import_done(struct import *i)
{
	manifest_done(&i->manifest);
	free(i->layers);
	*i = (struct import){0};
}

int
import_oci(const struct layer_options *o, const struct tar_source *in, struct import *out,
	   struct err *err)
{
	struct run r = {.o = o, .in = *in, .index = BUF_MAX(MANIFEST_MAX_BYTES)};
	auto_import made = {0};

	int result = blob_store_init(o->store, err);
	if (result == 0)
		result = open_tar(&r, err);
	if (result == 0)
		result = take_all(&r, err);
	if (result == 0)
		result = finish(&r, &made, err);
	archive_read_free(r.archive);
	for (size_t i = 0; i < r.n_texts; i++)
		buf_free(&r.texts[i].bytes);
	buf_free(&r.index);
	free(r.layers);
	if (result < 0)
		return -1;
	*out = made;
	made = (struct import){0};
	return 0;
}
