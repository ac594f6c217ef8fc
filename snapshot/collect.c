#include "collect.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"
#include "base/time.h"
#include "blob.h"
#include "cache.h"
#include "dirs.h"
#include "measure.h"
#include "oci.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

void
collect_done(struct collect_list *l)
{
	free(l->at);
	*l = (struct collect_list){0};
}

static int
add(struct collect_list *l, const struct collect_item *i, struct err *err)
{
	if (l->n == COLLECT_MOST)
		return err_set(err, ERR_UNAVAILABLE, "more than %d things in the store",
			       COLLECT_MOST);
	if (l->n == l->cap) {
		const size_t cap = l->cap ? 2 * l->cap : 256;
		struct collect_item *at = xnew(cap, sizeof *at);
		if (l->n)
			memcpy(at, l->at, l->n * sizeof *at);
		free(l->at);
		l->at = at;
		l->cap = cap;
	}
	l->at[l->n++] = *i;
	return 0;
}

static uint64_t
time_of(const struct stat *st)
{
	return (uint64_t)st->st_mtim.tv_sec * NS_PER_S + (uint64_t)st->st_mtim.tv_nsec;
}

static uint64_t
disk_bytes(const struct stat *st)
{
	return (uint64_t)st->st_blocks * 512;
}

/* ---- listing ---- */

struct place {
	const struct layer_options *o;
	struct collect_list *out;
	int dir, blobs, idx; /* lent; dir: what is listed */
	uint64_t seen;
};

typedef int (*name_fn)(struct place *p, const char *name, struct err *err);

static int
each_name(struct place *p, int parent, const char *path, name_fn fn, struct err *err)
{
	const struct dirent *e;
	int result = 0;

	auto_close int dir = path_open(parent, path, O_RDONLY | O_DIRECTORY, err);
	if (dir < 0)
		return errno == ENOENT ? 0 : -1;
	DIR *list = fdopendir(dir);
	if (!list)
		return err_sys(err, errno, "list %s", path);
	p->dir = fd_steal(&dir);
	while (result == 0 && (e = readdir(list)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		result = fn(p, e->d_name, err);
		if (result == 0 && ++p->seen % 64 == 0 && p->o->watch.step)
			result = p->o->watch.step(p->o->watch.ctx, 0, p->seen, err);
	}
	closedir(list);
	return result;
}

/* "<hex>SUFFIX" */
static bool
is_named(const char *name, const char *suffix, struct digest *out)
{
	const size_t n = strlen(name), m = strlen(suffix);
	struct err ignored;

	return n == 2 * DIGEST_BYTES + m && strcmp(name + n - m, suffix) == 0 &&
	       digest_parse((struct str){name, n - m}, out, &ignored) == 0;
}

static int
list_blob(struct place *p, const char *name, struct err *err)
{
	struct collect_item i = {.kind = COLLECT_BLOB};
	struct stat st;
	char idx[80];

	if (!is_named(name, "", &i.digest) || fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	i.mtime_ns = time_of(&st);
	i.bytes = disk_bytes(&st);
	snprintf(idx, sizeof idx, "%s.idx", name);
	if (p->idx >= 0 && fstatat(p->idx, idx, &st, AT_SYMLINK_NOFOLLOW) == 0)
		i.bytes += disk_bytes(&st);
	return add(p->out, &i, err);
}

static int
list_idx(struct place *p, const char *name, struct err *err)
{
	struct collect_item i = {.kind = COLLECT_IDX};
	struct stat st;

	if (!is_named(name, ".idx", &i.digest) ||
	    fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	i.mtime_ns = time_of(&st);
	i.bytes = disk_bytes(&st);
	if (p->blobs >= 0 &&
	    fstatat(p->blobs, digest_text(&i.digest).text, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return 0;
	return add(p->out, &i, err);
}

/* "session-<id>.json" */
static bool
is_session(const char *name, struct collect_item *i)
{
	const size_t n = strlen(name);

	if (strncmp(name, "session-", 8) != 0 || n < 14 || strcmp(name + n - 5, ".json") != 0)
		return false;
	const struct str id = {name + 8, n - 13};
	if (!id_is("s_", id))
		return false;
	memcpy(i->digest.at, id.at, id.len < DIGEST_BYTES ? id.len : DIGEST_BYTES);
	return true;
}

static int
list_ref(struct place *p, const char *name, struct err *err)
{
	struct collect_item i = {.kind = COLLECT_REF};
	struct stat st;
	struct err ignored;

	if (fstatat(p->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	i.mtime_ns = time_of(&st);
	i.bytes = disk_bytes(&st);
	if (is_session(name, &i)) {
		i.kind = COLLECT_SESSION;
		i.has_of = oci_session_is_deleted(p->o->store, name);
	} else if (!is_named(name, ".json", &i.digest)) {
		return 0; /* an image's */
	} else {
		i.has_of = oci_find_config(p->o->store, &i.digest, &i.of, &ignored) == 0;
	}
	return add(p->out, &i, err);
}

static int
list_cached(struct place *p, const char *name, struct err *err)
{
	struct collect_item i = {.kind = COLLECT_CACHE};
	struct stat st;
	char marker[80];

	if (!is_named(name, "", &i.digest))
		return 0;
	snprintf(marker, sizeof marker, "%s.json", name);
	if (fstatat(p->dir, marker, &st, AT_SYMLINK_NOFOLLOW) == 0)
		i.mtime_ns = time_of(&st);
	if (cache_measure(p->dir, &i.digest, &i.bytes, err) < 0)
		return err->code == ERR_CANCELLED ? -1 : 0;
	return add(p->out, &i, err);
}

int
collect_read(const struct layer_options *o, struct collect_list *out, struct err *err)
{
	struct place p = {.o = o, .out = out};
	struct err absent;

	auto_close int blobs = path_open(o->store, "blobs/sha256", O_RDONLY | O_DIRECTORY, &absent);
	auto_close int idx = path_open(o->store, "idx", O_RDONLY | O_DIRECTORY, &absent);
	p.blobs = blobs;
	p.idx = idx;
	if (each_name(&p, o->store, "refs", list_ref, err) < 0 ||
	    each_name(&p, o->store, "blobs/sha256", list_blob, err) < 0 ||
	    each_name(&p, o->store, "idx", list_idx, err) < 0 ||
	    each_name(&p, o->cache, "layers", list_cached, err) < 0) {
		collect_done(out);
		return err_add(err, "list the store");
	}
	return 0;
}

/* ---- removal ---- */

/* Under the lock it loses its name; the bytes go afterwards, which may take its time. */
static int
put_aside(int store, int dir, const char *name, uint64_t mtime_ns, struct buf *asides,
	  struct err *err)
{
	struct stat st;
	char tmp[32];

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", name);
	if (mtime_ns && time_of(&st) != mtime_ns)
		return 0;
	auto_close int blobs = path_open(store, "blobs", O_RDONLY | O_DIRECTORY, err);
	if (blobs < 0)
		return -1;
	blob_tmp_name(tmp);
	if (renameat(dir, name, blobs, tmp) < 0)
		return err_sys(err, errno, "remove %s", name);
	buf_add(asides, tmp, sizeof tmp);
	return 1;
}

static int
clear_asides(int store, const struct buf *asides, uint64_t *out_bytes, struct err *err)
{
	struct stat st;

	auto_close int blobs = path_open(store, "blobs", O_RDONLY | O_DIRECTORY, err);
	if (blobs < 0)
		return -1;
	for (size_t at = 0; at < asides->len; at += 32) {
		const char *tmp = asides->at + at;
		const bool known = fstatat(blobs, tmp, &st, AT_SYMLINK_NOFOLLOW) == 0;
		if (unlinkat(blobs, tmp, 0) < 0 &&
		    errno != ENOENT) /* a sweep may have been faster */
			return err_sys(err, errno, "remove what was put aside");
		*out_bytes += known ? disk_bytes(&st) : 0;
	}
	return 0;
}

static int
remove_blob(int store, const struct collect_item *i, struct buf *asides, struct err *err)
{
	const struct digest_text name = digest_text(&i->digest);
	char idx_name[80];

	auto_close int hold = blob_hold(store, true, err);
	if (hold < 0)
		return -1;
	auto_close int blobs = path_open(store, "blobs/sha256", O_RDONLY | O_DIRECTORY, err);
	auto_close int idx = blobs < 0 ? -1 : path_open(store, "idx", O_RDONLY | O_DIRECTORY, err);
	if (idx < 0)
		return -1;
	snprintf(idx_name, sizeof idx_name, "%s.idx", name.text);
	if (i->kind == COLLECT_IDX) /* a layer may have come to it meanwhile */
		return path_exists(blobs, name.text)
			   ? 0
			   : put_aside(store, idx, idx_name, i->mtime_ns, asides, err);
	const int gone = put_aside(store, blobs, name.text, i->mtime_ns, asides, err);
	if (gone == 1 && put_aside(store, idx, idx_name, 0, asides, err) < 0)
		return -1;
	return gone;
}

static int
remove_ref(int store, const struct digest *d, uint64_t *out_bytes, struct err *err)
{
	char name[80];
	struct stat st;

	auto_close int refs = path_open(store, "refs", O_RDONLY | O_DIRECTORY, err);
	if (refs < 0)
		return -1;
	snprintf(name, sizeof name, "%s.json", digest_text(d).text);
	if (fstatat(refs, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", name);
	if (unlinkat(refs, name, 0) < 0)
		return err_sys(err, errno, "remove %s", name);
	*out_bytes += disk_bytes(&st);
	return 1;
}

int
collect_remove(int store, const struct collect_item *i, uint64_t *out_bytes, struct err *err)
{
	auto_buf asides = BUF_MAX(64);

	switch (i->kind) {
	case COLLECT_REF:
		return remove_ref(store, &i->digest, out_bytes, err);
	case COLLECT_BLOB:
	case COLLECT_IDX: {
		const int gone = remove_blob(store, i, &asides, err);
		if (clear_asides(store, &asides, out_bytes, err) < 0)
			return -1;
		return gone;
	}
	case COLLECT_CACHE:
	case COLLECT_SESSION:
	case COLLECT_KINDS:
		break;
	}
	return err_set(err, ERR_CORRUPT, "a removal of another kind");
}

static int
by_bytes(const void *a, const void *b)
{
	return memcmp(a, b, DIGEST_BYTES);
}

int
collect_named(const struct layer_options *o, struct digest **out, size_t *n, struct err *err)
{
	struct collect_list refs = {0};
	struct place p = {.o = o, .out = &refs, .blobs = -1, .idx = -1};

	if (each_name(&p, o->store, "refs", list_ref, err) < 0) {
		collect_done(&refs);
		return -1;
	}
	*out = xnew(2 * refs.n + 1, sizeof **out);
	*n = 0;
	for (size_t i = 0; i < refs.n; i++) {
		if (refs.at[i].kind != COLLECT_REF)
			continue;
		(*out)[(*n)++] = refs.at[i].digest;
		if (refs.at[i].has_of)
			(*out)[(*n)++] = refs.at[i].of;
	}
	collect_done(&refs);
	qsort(*out, *n, sizeof **out, by_bytes);
	return 0;
}

bool
collect_is_named(const struct digest *sorted, size_t n, const struct digest *d)
{
	return n && bsearch(d, sorted, n, sizeof *sorted, by_bytes);
}

int
collect_sync_refs(int store, struct err *err)
{
	auto_close int refs = path_open(store, "refs", O_RDONLY | O_DIRECTORY, err);
	return refs < 0 ? -1 : path_sync_dir(refs, err);
}

int
collect_remove_session(int store, struct str id, struct err *err)
{
	char name[64];

	if (!id_is("s_", id))
		return err_set(err, ERR_CORRUPT, "not the id of a session");
	auto_close int refs = path_open(store, "refs", O_RDONLY | O_DIRECTORY, err);
	if (refs < 0)
		return -1;
	snprintf(name, sizeof name, "session-%.*s.json", (int)id.len, id.at);
	if (unlinkat(refs, name, 0) < 0 && errno != ENOENT)
		return err_sys(err, errno, "remove %s", name);
	return 0;
}

int
collect_clear(const struct layer_options *o, int dir, uint64_t *out_bytes, struct err *err)
{
	const int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;
	int result = 0;

	if (!list) {
		const int why = errno;
		if (copy >= 0)
			close(copy);
		return err_sys(err, why, "list what was put aside");
	}
	while (result == 0 && (e = readdir(list)) != NULL) {
		uint64_t bytes = 0, entries = 0;
		struct err ignored;
		if (strncmp(e->d_name, "gone.", 5) != 0)
			continue;
		auto_close int tree = path_open(dir, e->d_name, O_RDONLY | O_DIRECTORY, &ignored);
		if (tree >= 0 && measure_upper(tree, &bytes, &entries, &ignored) == 0)
			*out_bytes += bytes;
		result = dirs_remove_tree(dir, e->d_name, err);
		if (result == 0 && o->watch.step)
			result = o->watch.step(o->watch.ctx, *out_bytes, entries, err);
	}
	closedir(list);
	return result;
}
