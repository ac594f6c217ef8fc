/* Sessions are made, loaded, and freed: whose first row is durable before anything is made of it.
 */
#include "session.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/origin.h"
#include "manager/spares.h"

#include <stdio.h>
#include <stdlib.h>

static struct session *
session_new(struct manager *m, const struct session_row *row)
{
	struct session *s = xnew(1, sizeof *s);

	*s = (struct session){.m = m, .row = *row, .dir = -1, .keeper = {.pidfd = -1, .pid1 = -1}};
	s->place = (struct disk_place){.root = -1, .file = -1};
	return s;
}

void
session_join(struct session *s)
{
	struct session **at = &s->m->sessions;

	while (*at && strcmp((*at)->row.name, s->row.name) < 0)
		at = &(*at)->next;
	s->next = *at;
	*at = s;
}

void
session_leave(struct session *s)
{
	for (struct session **at = &s->m->sessions; *at; at = &(*at)->next)
		if (*at == s) {
			*at = s->next;
			return;
		}
}

void
session_free(struct session *s)
{
	struct manager *m = s->m;

	session_leave(s);
	session_enter(s, STEP_IDLE, 0, "");
	building_end(s);
	session_errand_stop(s);
	session_merge_stop(s);
	disk_forget(s);
	means_forget(s);
	job_end(s->job);
	keeper_close(s);
	fd_close(&s->keeper.pid1);
	while (s->wants) {
		struct want *w = s->wants;
		s->wants = w->next;
		want_free(w);
	}
	want_free(s->current);
	free(s->layers);
	free(s->mounted);
	choices_done(&s->choices);
	fd_close(&s->dir);
	loop_defer(&m->loop, free, s);
}

static int
free_slot(const struct manager *m, unsigned wanted, unsigned *out, struct err *err)
{
	const unsigned slots = node_slots(m->node.uid_base);
	auto_free bool *taken = xnew(slots, sizeof *taken);

	for (const struct session *s = m->sessions; s; s = s->next)
		if (s->state != SESSION_DELETED && s->row.slot < slots)
			taken[s->row.slot] = true;
	for (const struct session *s = m->spares; s; s = s->next)
		taken[s->row.slot] = true;
	if (wanted < slots && !taken[wanted]) {
		*out = wanted;
		return 0;
	}
	for (unsigned slot = 0; slot < slots; slot++)
		if (!taken[slot]) {
			*out = slot;
			return 0;
		}
	return err_set(err, ERR_UNAVAILABLE, "all %u uid ranges are in use", slots);
}

int
session_pick_slot(const struct manager *m, struct session_row *row, struct err *err)
{
	return free_slot(m, 0, &row->slot, err);
}

int
session_find_slot(struct session *s, unsigned *out, struct err *err)
{
	return free_slot(s->m, s->row.slot, out, err);
}

int
session_open_dir(struct session *s, struct err *err)
{
	if (s->dir >= 0)
		return 0;
	s->dir = path_open_dir(s->m->sessions_dir, s->row.id, 0700, err);
	if (s->dir < 0)
		return -1;
	path_spread(s->dir); /* journals apart from what the session writes and deletes */
	return 0;
}

static int
fill_row(struct session_row *row, struct str name, const char *owner, struct err *err)
{
	if (session_name_check(name, err) < 0 ||
	    str_copy(name, row->name, sizeof row->name, err) < 0)
		return -1;
	snprintf(row->owner, sizeof row->owner, "%s", owner);
	row->created_ns = time_real_ns();
	return 0;
}

/* One durable write, which takes with it all that was written before: so a burst of new sessions
 * waits for the disk once a turn, not once each. */
static void
sync_rows(void *ctx)
{
	struct manager *m = ctx;
	const struct session *any = NULL;
	struct err err;

	m->sync_due = false;
	for (const struct session *s = m->sessions; s && !any; s = s->next)
		any = s->unsynced ? s : NULL;
	if (!any || m->closing)
		return;
	const bool failed = index_put_session(&m->index, &any->row, &err) < 0;
	for (struct session *s = m->sessions, *next; s; s = next) {
		next = s->next;
		if (!s->unsynced)
			continue;
		s->unsynced = failed;
		if (failed)
			session_refuse_wants(s, &err);
		else
			session_next(s);
	}
}

void
session_sync_rows(struct manager *m)
{
	if (m->sync_due)
		return;
	m->sync_due = true;
	loop_defer(&m->loop, sync_rows, m);
}

/* Its first row, with the node it is of: one transaction, and the only one of a start that is
 * waited for, when the turn ends. */
static int
claim_new(struct session *s, struct err *err)
{
	struct index *ix = &s->m->index;
	bool ignored;

	if (index_begin_soon(ix, err) < 0)
		return -1;
	if (session_claim(s, SESSION_NEW, err) < 0 || session_put_node(s, &ignored, err) < 0) {
		index_rollback(ix);
		return -1;
	}
	if (index_commit(ix, err) < 0)
		return -1;
	session_note_node(s);
	session_audit(s);
	s->unsynced = true;
	session_sync_rows(s->m);
	return 0;
}

struct session *
session_new_spare(struct manager *m, struct err *err)
{
	struct session_row row = {.upper = 1};

	if (free_slot(m, 0, &row.slot, err) < 0)
		return NULL;
	id_new("s_", row.id);
	snprintf(row.image, sizeof row.image, "%s", m->image_name);
	snprintf(row.network, sizeof row.network, "%.39s", m->config.network);
	struct session *s = session_new(m, &row);
	s->spare = true;
	return s;
}

int
session_claim_spare(struct session *s, struct str name, const char *owner, struct err *err)
{
	if (fill_row(&s->row, name, owner, err) < 0 || claim_new(s, err) < 0)
		return -1;
	s->spare = false;
	return 0;
}

int
session_create(struct manager *m, struct str name, const char *owner, struct session **out,
	       struct err *err)
{
	if (session_name_check(name, err) < 0)
		return -1;
	const int claimed = spares_claim(m, name, owner, out, err);
	if (claimed == 0)
		return session_create_on(m, name, owner, "", m->config.network, out, err);
	if (claimed < 0)
		return err_add(err, "make session %.*s", (int)name.len, name.at);
	log_line("session %s: made as %s by %s", (*out)->row.name, (*out)->row.id, owner);
	return 0;
}

/* Its first row with all that it has: one transaction, durable as those of claim_new. The node it
 * is of is its origin's: what that asks for (--base-differs), it asks for too. */
static int
claim_from(struct session *s, struct err *err)
{
	struct index *ix = &s->m->index;
	bool ignored;

	if (index_begin_soon(ix, err) < 0)
		return -1;
	const bool has_node = s->choices.node[0] != '\0';
	if (session_claim(s, SESSION_NEW, err) < 0 || session_limits_put(s, err) < 0 ||
	    session_choices_put(s, err) < 0 ||
	    (has_node ? session_put_origin_node(s, err) : session_put_node(s, &ignored, err)) < 0) {
		index_rollback(ix);
		return -1;
	}
	if (index_commit(ix, err) < 0)
		return -1;
	if (!has_node)
		session_note_node(s);
	session_audit(s);
	s->unsynced = true;
	session_sync_rows(s->m);
	return 0;
}

static int
begin_row(struct manager *m, const char *owner, const struct origin *o, struct session_row *row,
	  struct err *err)
{
	*row = (struct session_row){.upper = 1, .created_ns = time_real_ns()};
	if (free_slot(m, 0, &row->slot, err) < 0)
		return -1;
	id_new("s_", row->id);
	snprintf(row->owner, sizeof row->owner, "%s", owner);
	snprintf(row->image, sizeof row->image, "%s", o->image);
	snprintf(row->network, sizeof row->network, "%s", o->network);
	row->has_head = o->has_head;
	row->head = o->head;
	return 0;
}

int
session_create_from(struct manager *m, struct str name, const char *owner, const struct origin *o,
		    struct session **out, struct err *err)
{
	struct session_row row;

	/* a throwaway session's name is none that a user can have */
	if ((!o->choices.throwaway && session_name_check(name, err) < 0) ||
	    begin_row(m, owner, o, &row, err) < 0 ||
	    str_copy(name, row.name, sizeof row.name, err) < 0)
		return -1;
	struct session *s = session_new(m, &row);
	s->limits = o->limits;
	choices_copy(&o->choices, &s->choices);
	session_join(s);
	if (session_open_dir(s, err) < 0 || claim_from(s, err) < 0) {
		session_free(s);
		return err_add(err, "make session %s", row.name);
	}
	log_line("session %s: made as %s by %s", row.name, row.id, owner);
	*out = s;
	return 0;
}

struct session *
session_new_cacher(struct manager *m, const struct digest *head)
{
	const struct session_row row = {.name = "fork_ready", .has_head = true, .head = *head};
	struct session *s = session_new(m, &row);

	s->only_cache = true;
	return s;
}

int
session_create_on(struct manager *m, struct str name, const char *owner, const char *image,
		  const char *network, struct session **out, struct err *err)
{
	struct session_row row = {.upper = 1};

	if (fill_row(&row, name, owner, err) < 0 || free_slot(m, 0, &row.slot, err) < 0)
		return -1;
	id_new("s_", row.id);
	snprintf(row.image, sizeof row.image, "%s", *image ? image : m->image_name);
	snprintf(row.network, sizeof row.network, "%s", network);
	struct session *s = session_new(m, &row);
	session_join(s);
	if (session_open_dir(s, err) < 0 || claim_new(s, err) < 0) {
		session_free(s);
		return err_add(err, "make session %s", row.name);
	}
	log_line("session %s: made as %s by %s", row.name, row.id, owner);
	*out = s;
	return 0;
}

struct session *
session_load(struct manager *m, const struct session_row *row)
{
	struct session *s = session_new(m, row);

	session_join(s);
	s->state = SESSION_FAILED;
	for (int i = 0; i < SESSION_STATES; i++)
		if (strcmp(row->state, session_state_name((enum session_state)i)) == 0)
			s->state = (enum session_state)i;
	return s;
}
