#include "recall.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"
#include "blob.h"
#include "idx.h"
#include "oci.h"
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CHAIN_DIGESTS = 1024 };

struct fact {
	struct fact *next;
	char kind[RECALL_KIND_BYTES];
	struct buf pairs; /* owned */
};

struct recall {
	struct layer_options o;
	char **names; /* owned: files of refs, in the order in which they are told */
	size_t n, cap, at;
	struct digest *seen; /* owned: layers that were told; a table by their first bytes */
	size_t n_seen, slots;
	struct fact *facts, **tail; /* owned: told before the next file is read */
};

/* ---- facts ---- */

static struct fact *
fact_new(struct recall *r, const char *kind)
{
	struct fact *f = xnew(1, sizeof *f);

	*f = (struct fact){.pairs = BUF_MAX(RECALL_PAIRS_MAX_BYTES)};
	snprintf(f->kind, sizeof f->kind, "%s", kind);
	*r->tail = f;
	r->tail = &f->next;
	return f;
}

static void
pair(struct fact *f, const char *key, struct str value)
{
	buf_add(&f->pairs, key, strlen(key) + 1);
	buf_str(&f->pairs, value);
	buf_char(&f->pairs, '\0');
}

static void
pair_number(struct fact *f, const char *key, uint64_t n)
{
	char text[24];

	snprintf(text, sizeof text, "%llu", (unsigned long long)n);
	pair(f, key, str_of(text));
}

static void
pair_digest(struct fact *f, const char *key, const struct digest *d)
{
	pair(f, key, str_of(digest_text(d).text));
}

static void
fault(struct recall *r, const char *file, const char *why)
{
	struct fact *f = fact_new(r, "fault");

	pair(f, "file", str_of(file));
	pair(f, "why", str_of(why));
}

/* Text and numbers of an object, by their names. */
static void
pair_plain(struct fact *f, const char *key, const json_t *j)
{
	if (json_is_string(j))
		pair(f, key, str_of(json_string_value(j)));
	else if (json_is_integer(j) && json_integer_value(j) >= 0)
		pair_number(f, key, (uint64_t)json_integer_value(j));
	else if (json_is_boolean(j))
		pair(f, key, str_of(json_is_true(j) ? "1" : "0"));
}

static void
pair_labels(struct fact *f, const json_t *labels)
{
	auto_buf lines = BUF_MAX(65536);
	const char *key;
	json_t *value;

	/* Sorted by key, as they were written. */
	json_object_foreach((json_t *)(uintptr_t)labels, key, value) if (json_is_string(value))
	    buf_fmt(&lines, "%s%s=%s", lines.len ? "\n" : "", key, json_string_value(value));
	if (lines.len && !buf_bad(&lines))
		pair(f, "labels", buf_view(&lines));
}

/* Digests of an array of "sha256:<hex>", one after the other. */
static int
pair_digests(struct fact *f, const char *key, const json_t *array, struct err *err)
{
	auto_buf hex = BUF_MAX(RECALL_PAIRS_MAX_BYTES / 2);

	for (size_t i = 0; i < json_array_size(array); i++) {
		const char *text = json_string_value(json_array_get(array, i));
		struct digest d;
		if (!text || digest_parse(str_of(text), &d, err) < 0)
			return err_set(err, ERR_CORRUPT, "a digest of it is damaged");
		buf_text(&hex, digest_text(&d).text);
	}
	pair(f, key, buf_view(&hex));
	return 0;
}

/* ---- the files ---- */

static int
order(const char *name)
{
	struct digest d;
	struct err ignored;
	const size_t n = strlen(name);

	if (str_starts(str_of(name), "image-"))
		return n == 6 + 64 + 5 &&
			       digest_parse((struct str){name + 6, 64}, &d, &ignored) == 0
			   ? 0
			   : 1;
	return str_starts(str_of(name), "session-") ? 2 : 3;
}

static int
by_order(const void *a, const void *b)
{
	const char *x = *(char *const *)a, *y = *(char *const *)b;
	return order(x) != order(y) ? order(x) - order(y) : strcmp(x, y);
}

static int
list_names(struct recall *r, struct err *err)
{
	const int dir = path_open(r->o.store, "refs", O_RDONLY | O_DIRECTORY, err);
	const struct dirent *e;

	if (dir < 0)
		return errno == ENOENT ? 0 : -1;
	DIR *list = fdopendir(dir);
	if (!list) {
		close(dir);
		return err_set(err, ERR_UNAVAILABLE, "list the refs");
	}
	while ((e = readdir(list)) != NULL) {
		const size_t n = strlen(e->d_name);
		if (e->d_name[0] == '.' || n < 6 || strcmp(e->d_name + n - 5, ".json") != 0)
			continue;
		if (r->n == r->cap) {
			r->cap = r->cap ? 2 * r->cap : 64;
			char **at = xnew(r->cap, sizeof *at);
			if (r->n)
				memcpy(at, r->names, r->n * sizeof *at);
			free(r->names);
			r->names = at;
		}
		r->names[r->n++] = xstrdup(e->d_name);
	}
	closedir(list);
	if (r->n)
		qsort(r->names, r->n, sizeof *r->names, by_order);
	return 0;
}

struct recall *
recall_new(const struct layer_options *o, struct err *err)
{
	struct recall *r = xnew(1, sizeof *r);

	*r = (struct recall){.o = *o, .tail = &r->facts};
	if (list_names(r, err) < 0) {
		recall_free(r);
		return NULL;
	}
	return r;
}

static void
free_first(struct recall *r)
{
	struct fact *f = r->facts;

	r->facts = f->next;
	if (!r->facts)
		r->tail = &r->facts;
	buf_free(&f->pairs);
	free(f);
}

void
recall_free(struct recall *r)
{
	if (!r)
		return;
	while (r->facts)
		free_first(r);
	for (size_t i = 0; i < r->n; i++)
		free(r->names[i]);
	free(r->names);
	free(r->seen);
	free(r);
}

/* ---- images ---- */

static int
tell_image(struct recall *r, const char *name, const json_t *j, struct err *err)
{
	static const char *const plain[] = {"cwd", "user",  "home",    "uid",
					    "gid", "bytes", "entries", "dropped"};
	auto_buf env = BUF_MAX(65536);
	struct fact *f = fact_new(r, "image");
	const json_t *lines = json_object_get(j, "env");

	pair(f, "content", (struct str){name + 6, 64});
	for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
		pair_plain(f, plain[i], json_object_get(j, plain[i]));
	for (size_t i = 0; i < json_array_size(lines); i++) {
		const char *line = json_string_value(json_array_get(lines, i));
		buf_fmt(&env, "%s\n", line ? line : "");
	}
	pair(f, "env", buf_view(&env));
	return pair_digests(f, "layers", json_object_get(j, "layers"), err);
}

static int
tell_name(struct recall *r, const json_t *j, struct err *err)
{
	const char *content = json_string_value(json_object_get(j, "content"));
	struct digest d;

	if (!content || digest_parse(str_of(content), &d, err) < 0)
		return err_set(err, ERR_CORRUPT, "it names no content");
	struct fact *f = fact_new(r, "name");
	pair_plain(f, "name", json_object_get(j, "name"));
	pair_digest(f, "content", &d);
	return 0;
}

/* ---- sessions ---- */

/* What was chosen for a session: a word, or whether. */
static void
pair_choice(struct fact *f, const char *name, const json_t *choice)
{
	const json_t *value = json_object_get(choice, "value");

	if (!json_is_true(json_object_get(choice, "set")))
		return; /* it is the node's */
	if (json_is_string(value))
		pair_plain(f, name, value);
	else
		pair(f, name, str_of(json_is_true(value) ? "yes" : "no"));
}

static void
pair_object(struct fact *f, const char *prefix, const json_t *object)
{
	const char *key;
	json_t *value;

	json_object_foreach((json_t *)(uintptr_t)object, key, value)
	{
		char name[80];
		snprintf(name, sizeof name, "%s %.60s", prefix, key);
		if (!json_is_object(value))
			pair_plain(f, name, value);
		else /* of walls */
			pair_choice(f, name, value);
	}
}

static void
pair_mounts(struct fact *f, const json_t *mounts)
{
	for (size_t i = 0; i < json_array_size(mounts); i++) {
		const json_t *m = json_array_get(mounts, i);
		const char *source = json_string_value(json_object_get(m, "source"));
		const char *target = json_string_value(json_object_get(m, "target"));
		auto_buf text = BUF_MAX(16384);
		char key[32];
		if (!source || !target)
			continue;
		snprintf(key, sizeof key, "mount %zu", i);
		buf_fmt(&text, "%s:%s%s", source, target,
			json_is_true(json_object_get(m, "read_only")) ? ":ro" : "");
		pair(f, key, buf_view(&text));
	}
}

static int
tell_session(struct recall *r, const char *file, const json_t *j, struct err *err)
{
	const struct str id = {file + 8, strlen(file) - 13};
	const char *key;
	json_t *value;

	if (!id_is("s_", id))
		return err_set(err, ERR_CORRUPT, "it is not named by the id of a session");
	struct fact *f = fact_new(r, "session");
	pair(f, "id", id);
	json_object_foreach((json_t *)(uintptr_t)j, key, value) if (strcmp(key, "id") != 0)
	    pair_plain(f, key, value);
	pair_labels(f, json_object_get(j, "labels"));
	pair_object(f, "limit", json_object_get(j, "limits"));
	pair_object(f, "ceiling", json_object_get(j, "ceilings"));
	pair_object(f, "wall", json_object_get(j, "walls"));
	pair_mounts(f, json_object_get(j, "mounts"));
	pair_choice(f, "fork-ready", json_object_get(j, "fork_ready"));
	pair_choice(f, "snapshot", json_object_get(j, "snapshot"));
	return 0;
}

/* ---- snapshots ---- */

/* Whether this layer was told before; it is from now on. */
static bool
was_seen(struct recall *r, const struct digest *d)
{
	static const struct digest none;
	size_t at;

	if (2 * (r->n_seen + 1) > r->slots) {
		struct digest *old = r->seen;
		const size_t n = r->slots;
		r->slots = n ? 2 * n : 256;
		r->seen = xnew(r->slots, sizeof *r->seen);
		r->n_seen = 0;
		for (size_t i = 0; i < n; i++)
			if (!digest_equal(&old[i], &none))
				was_seen(r, &old[i]);
		free(old);
	}
	memcpy(&at, d->at, sizeof at);
	for (at %= r->slots; !digest_equal(&r->seen[at], &none); at = (at + 1) % r->slots)
		if (digest_equal(&r->seen[at], d))
			return true;
	r->seen[at] = *d;
	r->n_seen++;
	return false;
}

static int
read_idx(struct recall *r, const struct digest *d, struct frames_sum *sum, uint64_t *entries,
	 struct err *err)
{
	char name[96];

	snprintf(name, sizeof name, "idx/%s.idx", digest_text(d).text);
	auto_close int fd = path_open(r->o.store, name, O_RDONLY, err);
	if (fd < 0)
		return -1;
	auto_of(idx_reader) struct idx_reader *idx = idx_reader_new(fd, err);
	return idx ? idx_layer(idx, sum, entries, err) : -1;
}

static void
tell_layer(struct recall *r, const struct manifest_layer *l)
{
	struct frames_sum sum = {.diff_id = l->diff_id, .bytes = l->bytes};
	uint64_t entries = 0;
	struct err why;
	char name[96];

	if (was_seen(r, &l->digest))
		return;
	if (read_idx(r, &l->digest, &sum, &entries, &why) < 0) {
		snprintf(name, sizeof name, "idx/%s.idx", digest_text(&l->digest).text);
		fault(r, name, why.why);
	}
	struct fact *f = fact_new(r, "layer");
	pair_digest(f, "digest", &l->digest);
	pair_digest(f, "diff_id", &l->diff_id);
	pair_number(f, "bytes", l->bytes);
	pair_number(f, "raw_bytes", sum.raw_bytes);
	pair_number(f, "entries", entries);
}

static void
tell_chain(struct recall *r, const struct manifest *m)
{
	for (size_t from = 0; from < m->n_layers; from += CHAIN_DIGESTS) {
		auto_buf hex = BUF_MAX(CHAIN_DIGESTS * 2 * DIGEST_BYTES + 1);
		for (size_t i = from; i < m->n_layers && i < from + CHAIN_DIGESTS; i++)
			buf_text(&hex, digest_text(&m->layers[i].digest).text);
		pair(fact_new(r, "chain"), "layers", buf_view(&hex));
	}
}

/* The time that the ref has to the nanosecond; the manifest's has milliseconds. */
static uint64_t
created_of(const json_t *ref)
{
	const json_int_t n = json_integer_value(json_object_get(ref, "created_ns"));
	return n > 0 ? (uint64_t)n : 0;
}

static int
tell_snapshot(struct recall *r, const char *file, const json_t *j, struct err *err)
{
	auto_manifest m = {0};
	struct digest d;
	uint64_t own = 0, total = 0;
	const json_t *facts = json_object_get(j, "facts");

	if (digest_parse((struct str){file, strlen(file) - 5}, &d, err) < 0)
		return err_set(err, ERR_CORRUPT, "it is not named by a digest");
	if (oci_load(r->o.store, &d, &m, err) < 0)
		return -1;
	for (size_t i = 0; i < m.n_layers; i++) {
		tell_layer(r, &m.layers[i]);
		total += m.layers[i].bytes;
		own += strcmp(m.layers[i].created, m.created) == 0 ? m.layers[i].bytes : 0;
	}
	tell_chain(r, &m);
	struct fact *f = fact_new(r, "snapshot");
	pair_digest(f, "digest", &d);
	if (m.has_parent)
		pair_digest(f, "parent", &m.parent);
	pair(f, "session", str_of(m.session));
	pair(f, "image", str_of(m.image));
	pair(f, "made_by", str_of(m.made_by));
	pair_plain(f, "calls", json_object_get(j, "calls"));
	pair_number(f, "created_ns", created_of(j));
	pair_number(f, "bytes", own);
	pair_number(f, "total_bytes", total);
	pair_plain(f, "name", json_object_get(facts, "name"));
	pair_plain(f, "note", json_object_get(facts, "note"));
	pair_labels(f, json_object_get(facts, "labels"));
	pair_plain(f, "pinned", json_object_get(facts, "pinned"));
	pair_plain(f, "expires_ns", json_object_get(facts, "expires_ns"));
	return 0;
}

/* ---- all of it ---- */

static int
tell_file(struct recall *r, const char *file, struct err *err)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES);

	if (store_directory.get_object(r->o.store, file, &text, err) < 0)
		return -1;
	json_t *j = json_loadb(text.at ? text.at : "", text.len, JSON_REJECT_DUPLICATES, NULL);
	int result = json_is_object(j) ? 0 : err_set(err, ERR_CORRUPT, "it is not JSON");
	if (result == 0)
		switch (order(file)) {
		case 0:
			result = tell_image(r, file, j, err);
			break;
		case 1:
			result = tell_name(r, j, err);
			break;
		case 2:
			result = tell_session(r, file, j, err);
			break;
		default:
			result = tell_snapshot(r, file, j, err);
			break;
		}
	json_decref(j);
	return result;
}

int
recall_next(struct recall *r, char out_kind[RECALL_KIND_BYTES], struct buf *out_pairs,
	    struct err *err)
{
	while (!r->facts && r->at < r->n) {
		struct err why;
		char file[128];
		snprintf(file, sizeof file, "refs/%s", r->names[r->at]);
		if (tell_file(r, r->names[r->at++], &why) < 0)
			fault(r, file, why.why);
	}
	if (!r->facts)
		return 0;
	struct fact *f = r->facts;
	if (buf_bad(&f->pairs))
		return err_set(err, ERR_UNAVAILABLE, "a %s of more than %d bytes", f->kind,
			       RECALL_PAIRS_MAX_BYTES);
	memcpy(out_kind, f->kind, sizeof f->kind);
	buf_clear(out_pairs);
	buf_str(out_pairs, buf_view(&f->pairs));
	free_first(r);
	return 1;
}
