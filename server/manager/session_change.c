/* A session's or a snapshot's new name, labels, note or pin, and a session's way back from
 * deletion.
 *
 *  1. an act like others, one at a time: what it does not change it takes from the row as it is
 *     then;
 *  2. the ref is durable before the row. Cut between them, the ref tells what did not come true,
 *     until the next act of the session writes it anew; what is answered with success is in both;
 *  3. no process or call of the session is touched, and no connection but of those whose scope has
 *     not the new name: connections that came by the old name are those of the session, not of the
 *     name. */
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/facts.h"
#include "manager/session.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CHANGE_MAX_NS (60 * NS_PER_S)

/* ---- what it will be ---- */

static int
set_labels(char labels[1025], const char *edits, struct err *err)
{
	while (*edits) {
		const struct str one = {edits, strcspn(edits, "\n")};
		if (facts_set_label(labels, one, err) < 0)
			return -1;
		edits += one.len + (edits[one.len] == '\n');
	}
	return 0;
}

/* The name may have been taken since it was asked for. */
static int
check_name(struct session *s, const char *name, struct err *err)
{
	const struct session *there = session_find(s->m, str_of(name));

	if (!there || there == s || there->state == SESSION_DELETED)
		return 0;
	err_set(err, ERR_USAGE, "there is a session of the name %s", name);
	return err_hint(err, "give another name, or rename that one first");
}

static int
count_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	(void)row;
	(void)err;
	++*(size_t *)ctx;
	return 0;
}

static int
fill_undelete(struct session *s, struct session_row *row, struct err *err)
{
	size_t n = 0;

	if (s->state != SESSION_DELETED)
		return err_set(err, ERR_AGAIN, "the session was not deleted, or is back already");
	if (row->has_head && index_list_layers(&s->m->index, &row->head, count_layer, &n, err) < 0)
		return -1;
	if (row->has_head && n == 0)
		return err_set(err, ERR_ABSENT, "its files have been collected");
	if (session_find_slot(s, &row->slot, err) < 0)
		return -1;
	/* a workspace without ids of its own per mount is made anew for those that it gets */
	if (!node_stacks(&s->m->node) && row->slot != s->row.slot && row->has_head)
		row->upper++;
	row->deleted_ns = 0;
	row->reason[0] = '\0';
	snprintf(row->state, sizeof row->state, "%s", session_state_name(SESSION_PAUSED));
	return 0;
}

static int
fill_row(struct session *s, struct err *err)
{
	struct session_change *c = s->current->change;

	c->row = s->row;
	if (c->undelete && fill_undelete(s, &c->row, err) < 0)
		return -1;
	if (c->name[0])
		snprintf(c->row.name, sizeof c->row.name, "%s", c->name);
	if (set_labels(c->row.labels, c->labels, err) < 0)
		return -1;
	return check_name(s, c->row.name, err);
}

struct found {
	struct session *s;
	const struct want *w;
	struct snapshot_row row;
	bool any, taken;
};

static int
take_snapshot(void *ctx, const struct snapshot_row *row, struct err *err)
{
	struct found *f = ctx;
	const struct session_change *c = f->w->change;

	(void)err;
	if (digest_equal(&row->digest, &f->w->target)) {
		f->row = *row;
		f->any = true;
	} else if (c->has_name && c->facts.name[0] && strcmp(c->facts.name, row->facts.name) == 0) {
		f->taken = true;
	}
	return 0;
}

static int
fill_facts(struct session *s, struct err *err)
{
	struct want *w = s->current;
	struct session_change *c = w->change;
	struct found f = {.s = s, .w = w};

	if (index_list_snapshots(&s->m->index, s->row.id, take_snapshot, &f, err) < 0)
		return -1;
	if (!f.any)
		return err_set(err, ERR_ABSENT, "the snapshot is not there any more");
	if (f.taken) {
		err_set(err, ERR_USAGE, "another snapshot of it is named %s", c->facts.name);
		return err_hint(err, "choose another name, or: label %s+%s --name ''", s->row.name,
				c->facts.name);
	}
	struct snapshot_facts now = f.row.facts;
	if (c->has_name)
		memcpy(now.name, c->facts.name, sizeof now.name);
	if (c->has_note)
		memcpy(now.note, c->facts.note, sizeof now.note);
	if (c->has_pin)
		now.pinned = c->facts.pinned;
	if (c->has_end)
		now.expires_ns = c->facts.expires_ns;
	if (set_labels(now.labels, c->labels, err) < 0)
		return -1;
	c->facts = now;
	return 0;
}

/* ---- its steps: the ref, then the row ---- */

static int
send_facts(struct session *s, struct err *err)
{
	const struct want *w = s->current;
	auto_buf facts = BUF_MAX(FACTS_MAX_BYTES);

	facts_json(&w->change->facts, &facts);
	if (job_start(s->m, s->row.name, -1, session_job, s, &s->job, err) < 0)
		return -1;
	return wire_send(job_wire(s->job), snapshot_facts, err,
			 .manifest = {(const char *)w->target.at, DIGEST_BYTES},
			 .facts = buf_view(&facts));
}

void
session_change_begin(struct session *s)
{
	const struct session_change *c = s->current->change;
	struct err err;

	session_enter(s, STEP_CHANGE, time_now_ns() + CHANGE_MAX_NS, "its ref to be written");
	if ((c->of_snapshot ? fill_facts(s, &err) : fill_row(s, &err)) < 0) {
		session_finish(s, &err);
		return;
	}
	s->ref_written = !c->of_snapshot; /* from here on it may tell what does not come true */
	if (!c->of_snapshot)
		timer_cancel(&s->ref_timer); /* this one tells it all */
	if ((c->of_snapshot ? send_facts(s, &err)
			    : session_send_ref(s, s->row.has_head ? &s->row.head : NULL, &err)) < 0)
		session_change_failed(s, &err);
}

/* Files of the keeper, in directories of its own, for the ids that it has from now on. */
static int
give_files(struct session *s, const char *name, unsigned slot, struct err *err)
{
	const struct node *n = &s->m->node;
	const int fd = session_open_dir(s, err) < 0
			   ? -1
			   : openat(s->dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	const struct dirent *e;
	int result = 0;

	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "open %s", name);
	DIR *list = fdopendir(fd);
	if (!list) {
		close(fd);
		return err_sys(err, errno, "list %s", name);
	}
	while (result == 0 && (e = readdir(list)) != NULL)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
		    fchownat(fd, e->d_name, node_keeper_uid(n, slot), node_session_uid(n, slot),
			     AT_SYMLINK_NOFOLLOW) < 0)
			result = err_sys(err, errno, "give %s/%s to its session", name, e->d_name);
	closedir(list);
	return result;
}

static int
take_slot(struct session *s, unsigned slot, struct err *err)
{
	if (slot == s->row.slot || !s->m->node.isolation.own_uids)
		return 0;
	return give_files(s, "calls", slot, err) < 0 ? -1 : give_files(s, "spill", slot, err);
}

static int
commit_row(struct session *s, struct err *err)
{
	const struct session_change *c = s->current->change;
	char old[sizeof s->row.name];

	if (check_name(s, c->row.name, err) < 0 || take_slot(s, c->row.slot, err) < 0 ||
	    index_put_session(&s->m->index, &c->row, err) < 0)
		return -1;
	memcpy(old, s->row.name, sizeof old);
	s->row = c->row;
	if (c->undelete)
		s->state = SESSION_PAUSED;
	if (strcmp(old, s->row.name) != 0) {
		session_leave(s);
		session_join(s);
		if (!c->undelete) /* its old name is another session's by now */
			conns_session_renamed(s, old);
	}
	session_audit(s);
	return 0;
}

void
session_change_job(struct session *s, const struct message *msg, const struct err *failure)
{
	const struct want *w = s->current;
	struct err err;

	if (!failure && msg->id != MSG_worked)
		return;
	if (failure)
		session_change_failed(s, failure);
	else if ((w->change->of_snapshot
		      ? index_put_snapshot_facts(&s->m->index, &w->target, &w->change->facts, &err)
		      : commit_row(s, &err)) < 0)
		session_change_failed(s, &err);
	else
		session_finish(s, NULL);
}

void
session_change_failed(struct session *s, const struct err *failure)
{
	const bool of_snapshot = s->current->change->of_snapshot;

	session_finish(s, failure);
	if (!of_snapshot) /* what it may tell did not come true */
		session_ref_later(s);
}

/* ---- what it has become, as an answer ---- */

static void
say_snapshot(struct session *s, const struct want *w, struct buf *out)
{
	const struct snapshot_facts *f = &w->change->facts;
	const struct digest_text digest = digest_text(&w->target);

	if (w->asker.json) {
		buf_fmt(out,
			"{\"session\":\"%s\",\"id\":\"%s\",\"snapshot\":\"sha256:%s\",\"facts\":",
			s->row.name, s->row.id, digest.text);
		facts_json(f, out);
		buf_text(out, "}\n");
		return;
	}
	buf_fmt(out, "%s: snapshot %.12s%s%s%s", s->row.name, digest.text, f->name[0] ? " is " : "",
		f->name, f->pinned ? ", pinned" : "");
	for (const char *l = f->labels; *l; l += strcspn(l, "\n"), l += *l == '\n')
		buf_fmt(out, ", %.*s", (int)strcspn(l, "\n"), l);
	buf_char(out, '\n');
}

void
session_change_say(struct session *s, const struct want *w, struct buf *out)
{
	if (w->change->of_snapshot) {
		say_snapshot(s, w, out);
		return;
	}
	if (w->asker.json) {
		buf_fmt(out, "{\"session\":\"%s\",\"id\":\"%s\",\"state\":\"%s\",\"labels\":",
			s->row.name, s->row.id, session_state_name(s->state));
		facts_labels_json(s->row.labels, out);
		buf_text(out, "}\n");
		return;
	}
	buf_fmt(out, "%s: %s", s->row.name, session_state_name(s->state));
	for (const char *l = s->row.labels; *l; l += strcspn(l, "\n"), l += *l == '\n')
		buf_fmt(out, ", %.*s", (int)strcspn(l, "\n"), l);
	buf_char(out, '\n');
}
