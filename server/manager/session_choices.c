/* What was chosen for a session: kept in the index, told in its ref and by `show`, and brought to
 * each of its starts. */
#include "base/fd.h"
#include "base/log.h"
#include "index/choice_rows.h"
#include "manager/choices.h"
#include "manager/do.h"
#include "manager/imported.h"
#include "manager/session.h"

#include <stdio.h>
#include <sys/stat.h>

/* Keys of the rows: those of walls.def, "node", "snapshot", and "mount 0" to "mount 7". */
#define KEY_SNAPSHOT "snapshot"
#define KEY_NODE  "node"
#define KEY_MOUNT "mount "
#define KEY_FORK_READY "fork-ready"
#define KEY_THROWAWAY  "throwaway"

static const char *const throwaways[] = {
    [THROWAWAY_BISECT] = "bisect",
    [THROWAWAY_VIEW] = "view",
};

static int
take_mount(struct choices *c, const char *value, struct err *err)
{
	struct mount_row row;

	if (c->n_mounts == MOUNTS_MAX)
		return err_set(err, ERR_CORRUPT, "index.db: more than %d mounts", MOUNTS_MAX);
	if (mount_parse(str_of(value), false, &row, err) < 0)
		return err_add(err, "index.db");
	if (!c->mounts)
		c->mounts = xnew(MOUNTS_MAX, sizeof *c->mounts);
	c->mounts[c->n_mounts++] = row;
	return 0;
}

static int
take_choice(void *ctx, const char *key, const char *value, struct err *err)
{
	struct choices *c = ctx;

	if (strcmp(key, KEY_NODE) == 0) {
		snprintf(c->node, sizeof c->node, "%s", value);
		return 0;
	}
	if (strcmp(key, KEY_SNAPSHOT) == 0)
		return snapshot_mode_parse(str_of(value), true, &c->snapshot, err);
	if (str_starts(str_of(key), KEY_MOUNT))
		return take_mount(c, value, err);
	if (strcmp(key, KEY_FORK_READY) == 0) {
		c->fork_ready_set = value[0] != '\0'; /* empty: it was set, and is the node's again */
		c->fork_ready = strcmp(value, "yes") == 0;
	}
	if (strcmp(key, KEY_THROWAWAY) == 0) /* whatever for: it goes */
		c->throwaway = strcmp(value, throwaways[THROWAWAY_VIEW]) == 0 ? THROWAWAY_VIEW
									      : THROWAWAY_BISECT;
	for (int w = 0; w < WALLS; w++) {
		if (strcmp(key, wall_key((enum wall)w)) != 0)
			continue;
		c->wall_set[w] = true;
		c->wall[w] = strcmp(value, "yes") == 0;
	}
	return 0; /* else of a newer berthd */
}

int
session_choices_load(struct session *s, struct err *err)
{
	choices_done(&s->choices);
	return choice_rows_list(&s->m->index, s->row.id, take_choice, &s->choices, err);
}

int
session_choices_put(struct session *s, struct err *err)
{
	const struct choices *c = &s->choices;

	for (int w = 0; w < WALLS; w++)
		if (c->wall_set[w] &&
		    choice_rows_put(&s->m->index, s->row.id, wall_key((enum wall)w),
				    c->wall[w] ? "yes" : "no", err) < 0)
			return -1;
	char mode[SNAPSHOT_MODE_BYTES];
	snapshot_mode_format(&c->snapshot, mode);
	if (choice_rows_put(&s->m->index, s->row.id, KEY_SNAPSHOT, mode, err) < 0)
		return -1;
	for (size_t i = 0; i < c->n_mounts; i++) {
		char key[32], text[MOUNT_TEXT_BYTES];
		snprintf(key, sizeof key, KEY_MOUNT "%zu", i);
		mount_format(&c->mounts[i], text);
		if (choice_rows_put(&s->m->index, s->row.id, key, text, err) < 0)
			return -1;
	}
	const char *ready = !c->fork_ready_set ? "" : c->fork_ready ? "yes" : "no";
	if (choice_rows_put(&s->m->index, s->row.id, KEY_FORK_READY, ready, err) < 0)
		return -1;
	return c->throwaway ? choice_rows_put(&s->m->index, s->row.id, KEY_THROWAWAY,
					      throwaways[c->throwaway], err)
			    : 0;
}

int
session_choices_save(struct session *s, struct err *err)
{
	if (index_begin(&s->m->index, err) < 0)
		return -1;
	if (session_choices_put(s, err) < 0) {
		index_rollback(&s->m->index);
		return -1;
	}
	return index_commit(&s->m->index, err);
}

/* ---- shown ---- */

void
session_choices_json(const struct session *s, struct buf *out)
{
	const struct choices *c = &s->choices;

	buf_text(out, ",\"walls\":{");
	for (int w = 0; w < WALLS; w++)
		buf_fmt(out, "%s\"%s\":{\"value\":%s,\"set\":%s}", w ? "," : "",
			wall_key((enum wall)w),
			choices_wall(&s->m->config, c, (enum wall)w) ? "true" : "false",
			c->wall_set[w] ? "true" : "false");
	buf_text(out, "},\"mounts\":[");
	for (size_t i = 0; i < c->n_mounts; i++) {
		buf_text(out, i ? ",{\"source\":" : "{\"source\":");
		json_put(out, str_of(c->mounts[i].source));
		buf_text(out, ",\"target\":");
		json_put(out, str_of(c->mounts[i].target));
		buf_fmt(out, ",\"read_only\":%s}",
			mount_is_read_only(&s->m->mounts, &c->mounts[i]) ? "true" : "false");
	}
	buf_fmt(out, "],\"node\":\"%s\",\"fork_ready\":{\"value\":%s,\"set\":%s}", c->node,
		choices_fork_ready(&s->m->config, c) ? "true" : "false",
		c->fork_ready_set ? "true" : "false");
	const bool own = c->snapshot.when != SNAPSHOT_STANDARD;
	char mode[SNAPSHOT_MODE_BYTES];
	snapshot_mode_format(own ? &c->snapshot : &s->m->snapshot, mode);
	buf_fmt(out, ",\"snapshot\":{\"value\":\"%s\",\"set\":%s}", mode, own ? "true" : "false");
}

void
session_choices_text(const struct session *s, struct buf *out)
{
	const struct choices *c = &s->choices;
	struct err why;

	for (int w = 0; w < WALLS; w++)
		buf_fmt(out, "%-12s%s %s%s\n", w ? "" : "walls", wall_key((enum wall)w),
			choices_wall(&s->m->config, c, (enum wall)w) ? "yes" : "no",
			c->wall_set[w] ? "" : " (default)");
	for (size_t i = 0; i < c->n_mounts; i++)
		buf_fmt(out, "%-12s%s on %s%s\n", i ? "" : "mounts", c->mounts[i].source,
			c->mounts[i].target,
			mount_is_read_only(&s->m->mounts, &c->mounts[i]) ? ", read-only" : "");
	buf_fmt(out, "%-12s%s%s\n", "fork-ready",
		choices_fork_ready(&s->m->config, c) ? "yes" : "no",
		c->fork_ready_set ? "" : " (default)");
	const bool own = c->snapshot.when != SNAPSHOT_STANDARD;
	char mode[SNAPSHOT_MODE_BYTES], age[16];
	snapshot_mode_format(own ? &c->snapshot : &s->m->snapshot, mode);
	buf_fmt(out, "%-12s%s%s\n", "snapshot", mode, own ? "" : " (default)");
	if (s->automatic.failure.code) {
		age_format(s->automatic.failed_ns, age);
		buf_fmt(out, "%-12sthe last one failed %s ago: %s\n", "", age,
			s->automatic.failure.why);
	}
	if (session_check_node(s, false, &why) < 0)
		buf_fmt(out, "%-12s%s\n", "node", why.why);
}

/* ---- at a start ---- */

int
session_open_mounts(const struct session *s, int fds[MOUNTS_MAX], bool read_only[MOUNTS_MAX],
		    struct err *err)
{
	const struct manager *m = s->m;

	for (size_t i = 0; i < s->choices.n_mounts; i++) {
		fds[i] = mount_open(&m->mounts, &s->choices.mounts[i], m->state, m->run,
				    &read_only[i], err);
		if (fds[i] < 0)
			return -1;
	}
	return 0;
}

void
session_note_mounts(const struct session *s, const int *dirs, const int *made)
{
	struct stat of_node, inside;

	for (size_t i = 0; i < s->choices.n_mounts; i++)
		if (fstat(dirs[i], &of_node) == 0 && fstat(made[i], &inside) == 0 &&
		    of_node.st_uid == inside.st_uid)
			log_line("session %s: the filesystem of %s cannot map ids: its files "
				 "belong to nobody inside",
				 s->row.name, s->choices.mounts[i].source);
}

void
session_mount_targets(const struct session *s, struct buf *out)
{
	for (size_t i = 0; i < s->choices.n_mounts; i++)
		buf_add(out, s->choices.mounts[i].target, strlen(s->choices.mounts[i].target) + 1);
}

/* ---- the node it is of ---- */

int
session_check_node(const struct session *s, bool base_differs, struct err *err)
{
	const char *node = s->choices.node;

	if (base_differs || imported_is(s->row.image) || !node[0] ||
	    strcmp(node, s->m->node_name) == 0)
		return 0;
	err_set(
	    err, ERR_UNAVAILABLE,
	    "it was made on the /usr of another node (%.12s), and this one (%.12s) may have other "
	    "programs",
	    node, s->m->node_name);
	return err_hint(err, "to let it have this one's: ssh berth@HOST resume %s --base-differs",
			s->row.name);
}

int
session_put_node(struct session *s, bool *out_news, struct err *err)
{
	*out_news = strcmp(s->choices.node, s->m->node_name) != 0;
	return *out_news ? choice_rows_put(&s->m->index, s->row.id, KEY_NODE, s->m->node_name, err)
			 : 0;
}

int
session_put_origin_node(struct session *s, struct err *err)
{
	return choice_rows_put(&s->m->index, s->row.id, KEY_NODE, s->choices.node, err);
}

void
session_note_node(struct session *s)
{
	memcpy(s->choices.node, s->m->node_name, sizeof s->choices.node);
}
