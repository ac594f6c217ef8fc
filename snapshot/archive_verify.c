/* verify: each byte of a store, or of one snapshot or layer of it, is what was written. Goes on
 * after what is broken, so that one run tells all. */
#include "archive_tool.h"
#include "base/fd.h"
#include "base/path.h"
#include "blob.h"
#include "store.h"

#include <stdio.h>
#include <stdlib.h>

struct check {
	struct archive_job *job;
	json_t *broken;      /* owned; an array */
	struct digest *done; /* owned; blobs that were looked at */
	size_t n, cap;
	size_t snapshots, layers, others, wrong;
	uint64_t bytes;
};

static void
say_broken(struct check *c, const char *what, const struct digest *d, const struct err *why)
{
	json_t *j = json_object();

	c->wrong++;
	json_object_set_new(j, "what", json_string(what));
	json_object_set_new(j, "digest", archive_tell_digest(d));
	json_object_set_new(j, "why", json_string(why->why));
	json_array_append_new(c->broken, j);
	if (c->job->json)
		return;
	archive_tell_end();
	printf("broken: %s %.12s: %s\n", what, digest_text(d).text, why->why);
}

/* Whether it is to be looked at: the first time it is named. */
static bool
is_new(struct check *c, const struct digest *d)
{
	for (size_t i = 0; i < c->n; i++)
		if (digest_equal(&c->done[i], d))
			return false;
	if (c->n == c->cap) {
		struct digest *grown = xnew(c->cap * 2 + 64, sizeof *grown);
		if (c->n)
			memcpy(grown, c->done, c->n * sizeof *grown);
		free(c->done);
		c->done = grown;
		c->cap = c->cap * 2 + 64;
	}
	c->done[c->n++] = *d;
	return true;
}

/* A failure that is no finding, such as a signal, ends all. */
static int
check_layer(struct check *c, const struct digest *d, const struct digest *diff_id, uint64_t bytes,
	    struct err *err)
{
	struct layer_counts n;
	struct err why;

	if (!is_new(c, d))
		return 0;
	c->layers++;
	if (verify_layer(&c->job->o, d, diff_id, &n, &why) < 0) {
		if (why.code == ERR_CANCELLED) {
			*err = why;
			return -1;
		}
		say_broken(c, "layer", d, &why);
		return 0;
	}
	c->bytes += n.bytes;
	if (bytes && bytes != n.bytes) {
		err_set(&why, ERR_CORRUPT, "it has %llu bytes, its manifest says %llu",
			(unsigned long long)n.bytes, (unsigned long long)bytes);
		say_broken(c, "layer", d, &why);
	}
	return 0;
}

static int
check_snapshot(struct check *c, const struct archive_snapshot *s, struct err *err)
{
	c->snapshots++;
	is_new(c, &s->digest);
	if (s->broken) {
		say_broken(c, "snapshot", &s->digest, &s->why);
		return 0;
	}
	is_new(c, &s->m.config);
	for (size_t i = 0; i < s->m.n_layers; i++) {
		const struct manifest_layer *l = &s->m.layers[i];
		if (check_layer(c, &l->digest, &l->diff_id, l->bytes, err) < 0)
			return -1;
	}
	return 0;
}

static int
check_bytes(struct check *c, const struct digest *d, struct err *err)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	auto_free char *piece = xnew(1, 1 << 18);
	uint64_t size;

	auto_close int fd = blob_open(c->job->store, d, &size, err);
	if (fd < 0)
		return -1;
	for (uint64_t at = 0; at < size;) {
		const size_t n = size - at < 1 << 18 ? (size_t)(size - at) : 1 << 18;
		if (fd_pread_all(fd, piece, n, at, err) < 0 ||
		    c->job->o.watch.step(c->job->o.watch.ctx, c->bytes + at, c->n, err) < 0)
			return -1;
		hasher_add(h, piece, n);
		at += n;
	}
	c->bytes += size;
	const struct digest is = hasher_sum(h);
	return digest_equal(&is, d) ? 0 : err_set(err, ERR_CORRUPT, "it holds other bytes");
}

/* What no snapshot names: another session's leavings, layers of images. */
static int
check_blob(void *ctx, const struct digest *d, struct err *err)
{
	struct check *c = ctx;
	struct err why;
	char idx[96];

	snprintf(idx, sizeof idx, "idx/%s.idx", digest_text(d).text);
	if (path_exists(c->job->store, idx))
		return check_layer(c, d, NULL, 0, err);
	if (!is_new(c, d))
		return 0;
	c->others++;
	if (check_bytes(c, d, &why) == 0)
		return 0;
	if (why.code == ERR_CANCELLED) {
		*err = why;
		return -1;
	}
	say_broken(c, "blob", d, &why);
	return 0;
}

static int
check_all(struct check *c, const struct archive_list *l, struct err *err)
{
	for (size_t i = 0; i < l->n; i++)
		if (check_snapshot(c, &l->at[i], err) < 0)
			return -1;
	return store_directory.list(c->job->store, check_blob, c, err);
}

static int
answer(struct check *c, struct err *err)
{
	char size[16];

	archive_tell_end();
	archive_tell_size(c->bytes, size);
	if (c->job->json) {
		json_t *j = json_object();
		json_object_set_new(j, "snapshots", json_integer((json_int_t)c->snapshots));
		json_object_set_new(j, "layers", json_integer((json_int_t)c->layers));
		json_object_set_new(j, "others", json_integer((json_int_t)c->others));
		json_object_set_new(j, "bytes", json_integer((json_int_t)c->bytes));
		json_object_set(j, "broken", c->broken);
		if (archive_tell_json(j, err) < 0)
			return -1;
	} else if (!c->wrong) {
		printf("whole: %zu snapshots, %zu layers, %zu other blobs, %s\n", c->snapshots,
		       c->layers, c->others, size);
	}
	if (c->wrong)
		return err_set(err, ERR_CORRUPT, "%zu things are broken", c->wrong);
	return 0;
}

int
archive_verify(struct archive_job *job, struct err *err)
{
	auto_archive_list l = {0};
	const struct archive_snapshot *one = NULL;
	const struct manifest_layer *layer = NULL;

	if (archive_list_load(job->store, &l, err) < 0 ||
	    (job->words[0] && archive_list_find(&l, job->words[0], &one, &layer, err) < 0))
		return -1;
	archive_tell_begin(job, "verify");
	auto_json *broken = json_array();
	struct check c = {.job = job, .broken = broken};
	int result = one     ? check_snapshot(&c, one, err)
		     : layer ? check_layer(&c, &layer->digest, &layer->diff_id, layer->bytes, err)
			     : check_all(&c, &l, err);
	free(c.done);
	return result < 0 ? -1 : answer(&c, err);
}
