#include "means.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "manager/loopdev.h"
#include "manager/pool.h"
#include "manager/quota.h"
#include "manager/session.h"
#include "manager/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PROBE_LIMIT_BYTES = 8 << 20 };

struct means_node {
	bool can[MEANS];
	char why[MEANS][MEANS_WHY_BYTES / 2]; /* why not */
	struct loopdevs loops;
	struct pool *pool; /* owned */
};

static const char *const names[MEANS] = {"watch", "quota", "loop"};
static const char *const words[MEANS] = {"a watcher that freezes it",
					 "a project quota of the store", "a disk image of its own"};

const char *
means_name(enum disk_means k)
{
	return names[k];
}

/* ---- what the node can ---- */

/* All that a start needs of it, with a small limit: formatted, attached, mounted, held back. */
static int
probe_loop(struct manager *m, struct err *err)
{
	struct means_node *n = m->means;
	uint64_t bytes = 0;
	int number;

	if (loopdev_scan(&n->loops, err) < 0 || path_remove_tree(m->scratch, "volume", err) < 0 ||
	    volume_make(m->scratch, "volume", 1, err) < 0)
		return -1;
	auto_close int file = path_open(m->scratch, "volume", O_RDWR, err);
	auto_close int root = file < 0 ? -1 : volume_mount(&n->loops, file, true, &number, err);
	int result = root < 0 ? -1 : volume_limit(number, root, PROBE_LIMIT_BYTES, &bytes, err);
	if (result == 0 && bytes != PROBE_LIMIT_BYTES)
		result = err_set(err, ERR_UNAVAILABLE, "a disk image cannot be limited");
	unlinkat(m->scratch, "volume", 0);
	return result < 0 ? -1 : pool_open(&m->loop, m->state, &n->pool, err);
}

static void
try_means(struct manager *m, enum disk_means k)
{
	struct means_node *n = m->means;
	struct err why;
	if (m->node.isolation.rung != RUNG_ROOT) {
		snprintf(n->why[k], sizeof n->why[k], "isolation rung %s",
			 rung_name(m->node.isolation.rung));
		return;
	}
	const int result = k == MEANS_QUOTA
			       ? quota_probe(m->scratch, (uint32_t)m->config.project_base, &why)
			       : probe_loop(m, &why);

	n->can[k] = result == 0;
	if (result < 0)
		snprintf(n->why[k], sizeof n->why[k], "%.99s", why.why);
}

int
means_begin(struct manager *m, struct err *err)
{
	const struct str wanted = str_of(m->config.disk_means);
	const bool any = str_is(wanted, "auto");
	struct means_node *n = m->means = xnew(1, sizeof *n);
	enum disk_means k = MEANS_WATCH;

	n->can[MEANS_WATCH] = true;
	while (!any && k < MEANS && !str_is(wanted, names[k]))
		k++;
	if (k == MEANS)
		return err_set(err, ERR_CONFIG, "disk_means: auto, quota, loop or watch");
	for (int i = MEANS_QUOTA; i < MEANS; i++)
		snprintf(n->why[i], sizeof n->why[i], "disk_means = %.60s", m->config.disk_means);
	if (any || k == MEANS_QUOTA)
		try_means(m, MEANS_QUOTA);
	if (n->can[MEANS_QUOTA])
		snprintf(n->why[MEANS_LOOP], sizeof n->why[MEANS_LOOP], "there are quotas");
	else if (any || k == MEANS_LOOP)
		try_means(m, MEANS_LOOP);
	if (!n->can[k])
		return err_set(err, ERR_CONFIG, "disk_means = %s: %s", names[k], n->why[k]);
	log_line("disk limits are held by %s", words[n->can[MEANS_QUOTA]  ? MEANS_QUOTA
						     : n->can[MEANS_LOOP] ? MEANS_LOOP
									  : MEANS_WATCH]);
	return 0;
}

void
means_end(struct manager *m)
{
	if (!m->means)
		return;
	pool_close(m->means->pool);
	loopdev_free(&m->means->loops);
	free(m->means);
	m->means = NULL;
}

/* ---- the place of one upper ---- */

static void
upper_name(unsigned n, const char *within, char out[40])
{
	snprintf(out, 40, "upper.%u%s%s", n, *within ? "/" : "", within);
}

static bool
has(struct session *s, unsigned n, const char *within)
{
	char name[40];

	upper_name(n, within, name);
	return path_exists(s->dir, name);
}

void
means_forget(struct session *s)
{
	if (s->place.set) {
		fd_close(&s->place.root);
		fd_close(&s->place.file);
	}
	s->place = (struct disk_place){.root = -1, .file = -1};
}

static int
open_file(struct session *s, unsigned n, struct err *err)
{
	char name[40];

	upper_name(n, VOLUME_NAME, name);
	return path_open(s->dir, name, O_RDWR, err);
}

/* Mounts the volume of the current upper once more, for us to count by and, at a start, to build
 * on: both are one filesystem. */
static int
take_volume(struct session *s, bool attach, int *out_volume, struct err *err)
{
	struct disk_place *p = &s->place;

	p->file = open_file(s, s->row.upper, err);
	if (p->file < 0)
		return -1;
	auto_close int root = volume_mount(&s->m->means->loops, p->file, attach, &p->number, err);
	if (root < 0)
		return err_add(err, "upper.%u", s->row.upper);
	p->root = path_open(root, ".", O_RDONLY | O_DIRECTORY, err);
	if (p->root < 0)
		return -1;
	p->means = MEANS_LOOP;
	if (out_volume)
		*out_volume = fd_steal(&root);
	return 0;
}

static int
open_dir(struct session *s, struct err *err)
{
	char name[40];

	upper_name(s->row.upper, "", name);
	return path_open_dir(s->dir, name, 0700, err);
}

/* What is new becomes a project, limited or not: a limit may be set while it runs. */
static int
take_project(struct session *s, bool fresh, struct err *err)
{
	struct disk_place *p = &s->place;
	const uint32_t base = (uint32_t)s->m->config.project_base;

	if ((fresh ? quota_begin(p->root, base, &p->project, err)
		   : quota_find(p->root, base, &p->project, err)) < 0)
		return -1;
	if (p->project)
		p->means = MEANS_QUOTA;
	return 0;
}

static void
say_why(struct session *s, bool late)
{
	struct disk_place *p = &s->place;
	const struct means_node *n = s->m->means;

	if (p->means == MEANS_WATCH && late && (n->can[MEANS_QUOTA] || n->can[MEANS_LOOP]))
		snprintf(p->why, sizeof p->why, "by %s from its first start after a pause on",
			 words[n->can[MEANS_QUOTA] ? MEANS_QUOTA : MEANS_LOOP]);
	else if (p->means == MEANS_WATCH && !p->why[0])
		snprintf(p->why, sizeof p->why, "no project quota: %.80s; no disk image: %.80s",
			 n->why[MEANS_QUOTA], n->why[MEANS_LOOP]);
	else if (p->means == MEANS_LOOP)
		snprintf(p->why, sizeof p->why, "no project quota: %s", n->why[MEANS_QUOTA]);
}

/* A means that fails for something new is no reason not to start: it has no file yet. */
static void
begin_fresh(struct session *s, uint64_t limit)
{
	const struct means_node *n = s->m->means;
	struct disk_place *p = &s->place;
	struct err why;
	int result = 0;

	if (n->can[MEANS_QUOTA])
		result = take_project(s, true, &why);
	else if (n->can[MEANS_LOOP] && limit)
		result = pool_take(n->pool, limit, p->root, &why);
	if (result == 0)
		return;
	log_err(&why, "session %s: its disk limit", s->row.name);
	snprintf(p->why, sizeof p->why, "%.180s", why.why);
}

static int
place(struct session *s, int *out_volume, struct err *err)
{
	const uint64_t limit = session_limits(s).at[LIMIT_DISK];
	struct disk_place *p = &s->place;
	const bool late = has(s, s->row.upper, "fs");

	p->set = true;
	p->root = open_dir(s, err);
	if (p->root < 0)
		return -1;
	if (!late && !has(s, s->row.upper, VOLUME_NAME))
		begin_fresh(s, limit);
	else if (late && s->m->means->can[MEANS_QUOTA] && take_project(s, false, err) < 0)
		return -1;
	if (has(s, s->row.upper, VOLUME_NAME)) {
		fd_close(&p->root);
		if (take_volume(s, true, out_volume, err) < 0)
			return -1;
	}
	say_why(s, late || !limit);
	if (p->means == MEANS_WATCH)
		fd_close(&p->root);
	return 0;
}

int
means_place(struct session *s, int *out_volume, struct err *err)
{
	*out_volume = -1;
	means_forget(s);
	if (session_open_dir(s, err) < 0 || place(s, out_volume, err) < 0) {
		means_forget(s);
		return err_add(err, "its disk");
	}
	return 0;
}

int
means_find(struct session *s, struct err *err)
{
	struct disk_place *p = &s->place;
	int result = -1;

	means_forget(s);
	if (session_open_dir(s, err) < 0)
		return -1;
	p->set = true;
	if (has(s, s->row.upper, VOLUME_NAME)) {
		result = take_volume(s, false, NULL, err);
	} else {
		p->root = open_dir(s, err);
		result = p->root < 0 ? -1 : 0;
		if (result == 0 && s->m->means->can[MEANS_QUOTA])
			result = take_project(s, false, err);
	}
	say_why(s, true);
	if (p->means == MEANS_WATCH)
		fd_close(&p->root);
	return result;
}

int
means_open_fs(struct session *s, unsigned n, int *out_volume, struct err *err)
{
	char name[40];
	int number;

	if (out_volume)
		*out_volume = -1;
	if (session_open_dir(s, err) < 0)
		return -1;
	if (!has(s, n, VOLUME_NAME)) {
		upper_name(n, "fs", name);
		return path_open(s->dir, name, O_RDONLY | O_DIRECTORY, err);
	}
	const bool lives = s->keeper.pidfd >= 0 && n == s->row.upper;
	auto_close int file = open_file(s, n, err);
	if (file < 0)
		return -1;
	auto_close int root = volume_mount(&s->m->means->loops, file, !lives, &number, err);
	if (root < 0)
		return err_add(err, "upper.%u", n);
	const int fs = path_open(root, "fs", O_RDONLY | O_DIRECTORY, err);
	if (fs >= 0 && out_volume)
		*out_volume = fd_steal(&root);
	return fs;
}

/* ---- its limit ---- */

/* What a keeper counts by: it may ask how full it is, and cannot open anything with it. */
static int
tell_keeper(struct session *s, struct err *err)
{
	const struct disk_place *p = &s->place;
	const struct msg_disk_room body = {.limit_disk = p->bytes};

	auto_close int room = openat(p->root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (room < 0)
		return err_sys(err, errno, "open its upper");
	return wire_send_fds(&s->keeper.wire, MSG_disk_room, &body, &room, 1, err);
}

int
means_apply(struct session *s, struct err *err)
{
	const uint64_t limit = session_limits(s).at[LIMIT_DISK];
	struct disk_place *p = &s->place;

	if (!p->set || p->means == MEANS_WATCH)
		return 0;
	if (p->means == MEANS_QUOTA) {
		if (quota_limit(p->root, p->project, limit, err) < 0)
			return -1;
		p->bytes = limit;
	} else if (volume_limit(p->number, p->root, limit, &p->bytes, err) < 0) {
		return -1;
	}
	return s->keeper.linked ? tell_keeper(s, err) : 0;
}

int
means_read(const struct session *s, struct disk_used *out)
{
	const struct disk_place *p = &s->place;
	struct volume_use use;
	struct err err;

	*out = (struct disk_used){0};
	if (!p->set || p->means == MEANS_WATCH)
		return -1;
	if (p->means == MEANS_QUOTA)
		return quota_read(p->root, p->project, &out->bytes, &err);
	if (volume_read(p->root, p->file, &use, &err) < 0)
		return -1;
	*out = (struct disk_used){.bytes = use.used, .owed = use.owed};
	return 0;
}

void
means_say(const struct session *s, struct buf *out)
{
	const uint64_t limit = session_limits(s).at[LIMIT_DISK];
	const struct disk_place *p = &s->place;
	const struct means_node *n = s->m->means;
	char size[NUM_TEXT_BYTES];

	if (!p->set) { /* it does not run */
		const enum disk_means next = n->can[MEANS_QUOTA]  ? MEANS_QUOTA
					     : n->can[MEANS_LOOP] ? MEANS_LOOP
								  : MEANS_WATCH;
		buf_fmt(out, "%s, when it runs", words[next]);
		return;
	}
	buf_text(out, words[p->means]);
	if (p->means == MEANS_LOOP && (limit == 0 || p->bytes < limit)) {
		num_format_size(p->bytes >> 20 << 20, size);
		buf_fmt(out, " with room for %s, and more from its first start after a pause on",
			size);
	}
	if (p->why[0] && (limit || p->means != MEANS_WATCH))
		buf_fmt(out, " (%s)", p->why);
}
