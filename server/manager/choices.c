/* Choices as they are made, and what they come to on this node. */
#include "choices.h"
#include "base/fd.h"
#include "config.h"
#include "manager/conns.h"
#include "manager/manager.h"

#include <stdlib.h>

enum wall_who { OPERATORS, ANYBODY };

static const struct {
	const char *key;
	uint32_t bit;
	enum wall_who who;
} rows[WALLS] = {
#define WALL(id, key, field, bit, who) [WALL_##id] = {key, bit, who},
#include "walls.def"
#undef WALL
};

const char *
wall_key(enum wall w)
{
	return rows[w].key;
}

static bool
standard_of(const struct config *c, enum wall w)
{
	switch (w) {
#define WALL(id, key, field, bit, who)                                                             \
	case WALL_##id:                                                                            \
		return c->field;
#include "walls.def"
#undef WALL
	case WALLS:
		break;
	}
	return false;
}

bool
choices_wall(const struct config *c, const struct choices *own, enum wall w)
{
	return own->wall_set[w] ? own->wall[w] : standard_of(c, w);
}

uint32_t
choices_walls(const struct config *c, const struct choices *own)
{
	uint32_t bits = 0;

	for (int w = 0; w < WALLS; w++)
		if (choices_wall(c, own, (enum wall)w))
			bits |= rows[w].bit;
	return bits;
}

void
choices_done(struct choices *c)
{
	free(c->mounts);
	*c = (struct choices){0};
}

void
choices_copy(const struct choices *c, struct choices *out)
{
	*out = *c;
	if (!c->mounts)
		return;
	out->mounts = xnew(MOUNTS_MAX, sizeof *out->mounts);
	memcpy(out->mounts, c->mounts, c->n_mounts * sizeof *out->mounts);
}

bool
choices_fork_ready(const struct config *c, const struct choices *own)
{
	return own->fork_ready_set ? own->fork_ready : c->fork_ready;
}

void
choices_plain(const struct config *c, struct choices *own, struct buf *words)
{
	for (int w = 0; w < WALLS; w++) {
		if (!own->wall_set[w] || !own->wall[w] || rows[w].who != OPERATORS ||
		    standard_of(c, (enum wall)w))
			continue;
		buf_fmt(words, "%s%s", words->len ? ", " : "", rows[w].key);
		own->wall_set[w] = own->wall[w] = false;
	}
	for (size_t i = 0; i < own->n_mounts; i++)
		buf_fmt(words, "%smount %s", words->len ? ", " : "", own->mounts[i].target);
	free(own->mounts);
	own->mounts = NULL;
	own->n_mounts = 0;
}

bool
choices_any(const struct choices *c)
{
	for (int w = 0; w < WALLS; w++)
		if (c->wall_set[w])
			return true;
	return c->n_mounts > 0 || c->fork_ready_set || c->snapshot.when != SNAPSHOT_STANDARD;
}

/* ---- of a request ---- */

static int
take_walls(const struct manager *m, bool by_operator, const struct request *r, struct choices *out,
	   struct err *err)
{
	for (int w = 0; w < WALLS; w++) {
		const uint64_t value = request_number(r, rows[w].key, UINT64_MAX);
		if (value == UINT64_MAX)
			continue;
		if (value && rows[w].who == OPERATORS && !by_operator &&
		    !standard_of(&m->config, (enum wall)w))
			return err_set(err, ERR_DENIED, "--%s yes is for operators", rows[w].key);
		out->wall_set[w] = true;
		out->wall[w] = value != 0;
	}
	return 0;
}

static int
take_mount(const struct manager *m, struct str text, bool image_host, struct choices *out,
	   struct err *err)
{
	struct mount_row row;

	if (out->n_mounts == MOUNTS_MAX)
		return err_set(err, ERR_USAGE, "more than %d mounts", MOUNTS_MAX);
	if (mount_parse(text, image_host, &row, err) < 0 ||
	    mount_check_apart(out->mounts, out->n_mounts, &row, err) < 0)
		return -1;
	auto_close int fd = mount_open(&m->mounts, &row, m->state, m->run, &row.read_only, err);
	if (fd < 0)
		return -1;
	if (!out->mounts)
		out->mounts = xnew(MOUNTS_MAX, sizeof *out->mounts);
	out->mounts[out->n_mounts++] = row;
	return 0;
}

int
choices_of_request(const struct manager *m, const struct conn *c, const struct request *r,
		   bool image_host, struct choices *out, struct err *err)
{
	const bool by_operator = c->role == PRINCIPAL_OPERATOR;
	auto_choices made = {.n_mounts = 0};
	struct str text;

	if (take_walls(m, by_operator, r, &made, err) < 0)
		return -1;
	const uint64_t ready = request_number(r, "fork-ready", UINT64_MAX);
	made.fork_ready_set = ready != UINT64_MAX;
	made.fork_ready = ready == 1;
	for (size_t n = 0; request_next(r, "mount", &n, &text);) {
		if (!by_operator)
			return err_set(err, ERR_DENIED, "--mount is for operators");
		if (take_mount(m, text, image_host, &made, err) < 0)
			return err_add(err, "--mount %.*s", (int)(text.len > 80 ? 80 : text.len),
				       text.at);
	}
	if (request_text(r, "snapshot", &text) &&
	    snapshot_mode_parse(text, true, &made.snapshot, err) < 0)
		return err_add(err, "--snapshot");
	*out = made;
	made.mounts = NULL;
	return 0;
}
