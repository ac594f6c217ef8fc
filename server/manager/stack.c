/* Which directories a workspace stands on: kept uppers where they fit, layers of the cache, and below
 * those one directory into which many layers were merged. */
#include "manager/stack.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* Layers are merged by so many, so that a merge is used for a while; what is newest stays apart. */
enum { FLAT_STRIDE = 16, FLAT_ABOVE = 8 };

void
stack_close(struct lowers *l)
{
	for (size_t i = 0; i < l->n; i++) {
		fd_close(&l->at[i]);
		fd_close(&l->volume[i]);
	}
	l->n = 0;
}

struct kept {
	struct session *s;
	size_t end; /* the upper must end where so many layers do */
	struct upper_row found;
	bool any;
};

/* An upper equals the layers it was captured into, unless a power cut came before its sync. */
static int
match_upper(void *ctx, const struct upper_row *r, struct err *err)
{
	struct kept *k = ctx;
	struct session *s = k->s;

	(void)err;
	if (r->n_layers == 0 || r->n_layers > k->end || k->end - r->n_layers < s->n_flat)
		return 0;
	if (s->kept_unused ||
	    r->n == s->row.upper) /* the one that is to be the upper again (session_seen.c) */
		return 0;
	if (!r->synced && strcmp(r->boot, time_boot_id()) != 0)
		return 0;
	for (size_t i = 0; i < r->n_layers; i++)
		if (!digest_equal(&r->layers[i], &s->layers[k->end - r->n_layers + i].digest))
			return 0;
	k->found = *r;
	k->any = true;
	return 1;
}

/* A few in volumes, each to be mounted; the layers of those below come from the cache. */
enum { VOLUMES_MAX = 4 };

static int
open_kept_upper(struct session *s, unsigned n, struct lowers *l, int *out_volume)
{
	struct err err;

	const int fs = means_open_fs(s, n, out_volume, &err);
	if (fs < 0)
		log_err(&err, "session %s: a kept upper is not used", s->row.name);
	if (fs >= 0 && *out_volume >= 0 && l->n_volumes++ == VOLUMES_MAX) {
		l->n_volumes--;
		fd_close(out_volume);
		close(fs);
		return -1;
	}
	return fs;
}

static int
open_cached(struct session *s, const struct digest *d)
{
	char name[80];
	struct err err;

	if (!manager_is_cached(s->m, d))
		return -1;
	snprintf(name, sizeof name, "layers/%s", digest_text(d).text);
	const int fd = path_open(s->m->cache, name, O_RDONLY | O_DIRECTORY, &err);
	snprintf(name, sizeof name, "layers/%s.json", digest_text(d).text);
	if (fd >= 0)
		utimensat(s->m->cache, name, NULL, AT_SYMLINK_NOFOLLOW); /* its last use (collect_aside.c) */
	return fd;
}

/* Overlayfs refuses one directory as two lowers, and an equal layer higher up hides all of the
 * lower one. */
static bool
is_stacked(const struct lowers *l, int fd)
{
	struct stat st, other;

	if (fstat(fd, &st) < 0)
		return false;
	for (size_t i = 0; i < l->n; i++)
		if (fstat(l->at[i], &other) == 0 && other.st_dev == st.st_dev &&
		    other.st_ino == st.st_ino)
			return true;
	return false;
}

/* One directory serves all layers that are equal. */
static void
note_missing(const struct session *s, size_t layer, struct lowers *l)
{
	for (size_t i = 0; i < l->n_missing; i++)
		if (digest_equal(&s->layers[l->missing[i]].digest, &s->layers[layer].digest))
			return;
	l->missing[l->n_missing++] = layer;
}

/* From the top down: a kept upper where one fits, else the layer from the cache. */
int
stack_find(struct session *s, struct lowers *out, struct err *err)
{
	for (size_t end = s->n_layers; end > s->n_flat;) {
		struct kept k = {.s = s, .end = end};
		int fd = -1, volume = -1;
		size_t step = 1;
		if (index_list_uppers(&s->m->index, s->row.id, match_upper, &k, err) < 0)
			return -1;
		if (k.any && session_open_dir(s, err) == 0) {
			fd = open_kept_upper(s, k.found.n, out, &volume);
			step = k.found.n_layers;
		}
		if (fd < 0) {
			step = 1;
			fd = open_cached(s, &s->layers[end - 1].digest);
		}
		if (out->n + out->n_missing == LOWERS_MAX - 1) {
			fd_close(&fd);
			fd_close(&volume);
			out->too_many = true;
			return 0;
		}
		end -= step;
		if (fd < 0) {
			note_missing(s, end, out);
			continue;
		}
		if (is_stacked(out, fd)) {
			close(fd);
			fd_close(&volume);
			continue;
		}
		out->volume[out->n] = volume;
		out->at[out->n++] = fd;
	}
	if (s->n_flat) {
		const int fd = open_cached(s, &s->flat);
		if (fd < 0) {
			out->flat_missing = true;
			return 0;
		}
		out->volume[out->n] = -1;
		out->at[out->n++] = fd;
	}
	return 0;
}

/* So many of the topmost directories stay as they are. */
static size_t
flat_above(const struct manager *m)
{
	const size_t half = m->config.chain_max / 2;
	return half < FLAT_ABOVE ? half : FLAT_ABOVE;
}

static struct digest
flat_name(const struct layer_row *layers, size_t n)
{
	auto_of(hasher) struct hasher *h = hasher_new();

	for (size_t i = 0; i < n; i++)
		hasher_add(h, layers[i].digest.at, DIGEST_BYTES);
	return hasher_sum(h);
}

size_t
stack_flat(const struct manager *m, const struct layer_row *layers, size_t n, struct digest *out)
{
	if (n <= m->config.chain_max)
		return 0;
	const size_t below = n - flat_above(m), flat = below - below % FLAT_STRIDE;
	*out = flat_name(layers, flat);
	return flat;
}

/* The directories of a workspace from the top: kept uppers, each of which may stand for many layers, and
 * single layers. Returns how many there are; *out_below: layers below the topmost FLAT_ABOVE. */
static int
count_directories(struct session *s, size_t *out_below, struct err *err)
{
	const size_t above = flat_above(s->m);
	int n = 0;

	*out_below = s->n_layers;
	for (size_t end = s->n_layers; end > 0; n++) {
		struct kept k = {.s = s, .end = end};
		if (index_list_uppers(&s->m->index, s->row.id, match_upper, &k, err) < 0)
			return -1;
		end -= k.any ? k.found.n_layers : 1;
		if ((size_t)n < above)
			*out_below = end;
	}
	return n;
}

int
stack_plan(struct session *s, struct err *err)
{
	size_t below;

	s->n_flat = 0;
	const int n = count_directories(s, &below, err);
	if (n < 0)
		return -1;
	if ((size_t)n <= s->m->config.chain_max)
		return 0;
	s->n_flat = below - below % FLAT_STRIDE;
	s->flat = flat_name(s->layers, s->n_flat);
	return 0;
}
