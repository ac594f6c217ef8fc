#include "export.h"
#include "base/fd.h"
#include "blob.h"
#include "oci.h"
#include "unpack.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { PIECE_BYTES = 256 * 1024 };

struct run {
	const struct layer_options *o;
	struct tar_writer tar;
	uint64_t bytes, entries;
};

static int
step(struct run *r, size_t n, struct err *err)
{
	r->bytes += n;
	return r->o->watch.step ? r->o->watch.step(r->o->watch.ctx, r->bytes, r->entries, err) : 0;
}

static int
put_head(struct run *r, const char *name, uint64_t bytes, struct err *err)
{
	const struct entry e = {
	    .type = ENTRY_FILE, .path = str_of(name), .mode = 0644, .size = bytes};
	uint64_t ignored;

	r->entries++;
	return tar_put(&r->tar, &e, &ignored, err);
}

static int
put_text(struct run *r, const char *name, struct str text, struct err *err)
{
	if (put_head(r, name, text.len, err) < 0)
		return -1;
	return text.len ? tar_put_data(&r->tar, text.at, text.len, err) : 0;
}

/* ---- OCI ---- */

static int
copy_bytes(struct run *r, int fd, uint64_t bytes, struct digest *out, struct err *err)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	auto_free char *piece = xnew(1, PIECE_BYTES);

	for (uint64_t at = 0; at < bytes;) {
		const ssize_t n = pread(fd, piece, PIECE_BYTES, (off_t)at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, errno, "read");
		if (n == 0)
			return err_set(err, ERR_CORRUPT, "it ends early");
		hasher_add(h, piece, (size_t)n);
		at += (uint64_t)n;
		if (tar_put_data(&r->tar, piece, (size_t)n, err) < 0 || step(r, (size_t)n, err) < 0)
			return -1;
	}
	*out = hasher_sum(h);
	return 0;
}

static int
put_blob(struct run *r, const struct digest *d, struct err *err)
{
	struct digest found;
	uint64_t bytes;
	char name[96];

	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(d).text);
	auto_close int fd = blob_open(r->o->store, d, &bytes, err);
	if (fd < 0)
		return -1;
	if (put_head(r, name, bytes, err) < 0 || copy_bytes(r, fd, bytes, &found, err) < 0)
		return err_add(err, "%s", name);
	if (!digest_equal(&found, d))
		return err_set(err, ERR_CORRUPT, "%s holds bytes of %.12s", name,
			       digest_text(&found).text);
	return 0;
}

static bool
is_repeated(const struct manifest *m, size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (digest_equal(&m->layers[k].digest, &m->layers[i].digest))
			return true;
	return false;
}

static int
put_layout(struct run *r, const struct digest *manifest, const struct manifest *m, struct err *err)
{
	auto_buf index = BUF_MAX(4096);
	uint64_t bytes;

	auto_close int fd = blob_open(r->o->store, manifest, &bytes, err);
	if (fd < 0)
		return -1;
	buf_fmt(
	    &index,
	    "{\"manifests\":[{\"annotations\":{\"org.opencontainers.image.ref.name\":\"%.12s\"},"
	    "\"digest\":\"sha256:%s\",\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\","
	    "\"size\":%llu}],\"mediaType\":\"application/vnd.oci.image.index.v1+json\","
	    "\"schemaVersion\":2}\n",
	    digest_text(manifest).text, digest_text(manifest).text, (unsigned long long)bytes);
	if (put_text(r, "oci-layout", STR_LIT("{\"imageLayoutVersion\":\"1.0.0\"}\n"), err) < 0 ||
	    put_text(r, "index.json", buf_view(&index), err) < 0 ||
	    put_blob(r, manifest, err) < 0 || put_blob(r, &m->config, err) < 0)
		return -1;
	for (size_t i = 0; i < m->n_layers; i++)
		if (!is_repeated(m, i) && put_blob(r, &m->layers[i].digest, err) < 0)
			return -1;
	return tar_end(&r->tar, err);
}

int
export_oci(const struct layer_options *o, const struct digest *manifest, struct tar_sink sink,
	   struct err *err)
{
	auto_manifest m = {0};
	struct run r = {.o = o};

	if (oci_load(o->store, manifest, &m, err) < 0)
		return -1;
	tar_writer_init_sink(&r.tar, sink);
	const int result = put_layout(&r, manifest, &m, err);
	tar_writer_done(&r.tar);
	return result;
}

/* ---- docker-archive ---- */

static int
put_plain_layer(struct run *r, const struct manifest_layer *l, struct err *err)
{
	struct frames_sum sum;
	struct str piece;
	uint64_t bytes;
	char name[96];
	int more;

	snprintf(name, sizeof name, "%s.tar", digest_text(&l->diff_id).text);
	auto_close int fd = blob_open(r->o->store, &l->digest, &bytes, err);
	if (fd < 0)
		return -1;
	auto_of(frames_reader) struct frames_reader *frames =
	    frames_reader_new(fd, unpack_threads(r->o), LAYER_RAW_MAX_BYTES, err);
	if (!frames || put_head(r, name, frames_raw_bytes(frames), err) < 0)
		return -1;
	while ((more = frames_next(frames, &piece, err)) > 0)
		if (tar_put_data(&r->tar, piece.at, piece.len, err) < 0 ||
		    step(r, piece.len, err) < 0)
			return -1;
	if (more < 0 || frames_reader_sum(frames, &sum, err) < 0)
		return -1;
	return unpack_judge(&sum, &l->digest, &l->diff_id, err);
}

static int
put_docker(struct run *r, const struct manifest *m, const char *tag, struct err *err)
{
	auto_buf config = BUF_MAX(MANIFEST_MAX_BYTES), list = BUF_MAX(MANIFEST_MAX_BYTES);
	char name[96];

	snprintf(name, sizeof name, "%s.json", digest_text(&m->config).text);
	buf_fmt(&list, "[{\"Config\":\"%s\",\"RepoTags\":[\"%s\"],\"Layers\":[", name, tag);
	for (size_t i = 0; i < m->n_layers; i++)
		buf_fmt(&list, "%s\"%s.tar\"", i ? "," : "",
			digest_text(&m->layers[i].diff_id).text);
	buf_text(&list, "]}]\n");
	if (buf_bad(&list))
		return err_set(err, ERR_UNAVAILABLE, "no memory for the list of layers");
	if (blob_read(r->o->store, &m->config, &config, err) < 0 ||
	    put_text(r, "manifest.json", buf_view(&list), err) < 0 ||
	    put_text(r, name, buf_view(&config), err) < 0)
		return -1;
	for (size_t i = 0; i < m->n_layers; i++)
		if (!is_repeated(m, i) && put_plain_layer(r, &m->layers[i], err) < 0)
			return err_add(err, "layer %.12s", digest_text(&m->layers[i].digest).text);
	return tar_end(&r->tar, err);
}

int
export_docker(const struct layer_options *o, const struct digest *manifest, const char *tag,
	      struct tar_sink sink, struct err *err)
{
	auto_manifest m = {0};
	struct run r = {.o = o};

	if (oci_load(o->store, manifest, &m, err) < 0)
		return -1;
	tar_writer_init_sink(&r.tar, sink);
	const int result = put_docker(&r, &m, tag, err);
	tar_writer_done(&r.tar);
	return result;
}
