/* Where an undo goes, where a redo comes back to.
 *
 *   undo 2, of a session at head C with changes that no snapshot holds, parents A ◀─ B ◀─ C:
 *     its changes become snapshot X, a child of C;  X ─▶ C ─▶ B: B is the new head;
 *     the way forward, next first: C X. redo comes to C, another redo to X
 *
 *  1. the way forward is written in the transaction that moves the head, and by no other;
 *  2. whether there are unsaved changes is judged before anything is asked to end: what a shutdown
 *     writes is kept in the snapshot, and is no step of its own;
 *  3. steps go over the session's own snapshots, to the one it was forked from, or to nothing: what
 *     it was made with. One that was not kept ends the way;
 *  4. any other new snapshot, and a restore, end the way forward: those snapshots stay, as a
 *     branch. What a redo replaces is such a branch, but ends it not. */
#include "base/log.h"
#include "manager/do.h"
#include "manager/session.h"

#include <stdio.h>

typedef int (*pass_fn)(struct session *s, const struct digest *passed, struct err *err);

static int
refuse(unsigned least, struct err *err)
{
	err_set(err, ERR_ABSENT,
		least == 0   ? "there is nothing to go back to"
		: least == 1 ? "there is 1 step to go back"
			     : "there are %u steps to go back",
		least);
	return err_hint(err, "snapshots lists them");
}

/* From the head, n times to the parent. *out_any false: to nothing. pass: with each that is
 * left. */
static int
walk(struct session *s, unsigned n, bool unsaved, bool *out_any, struct digest *out, pass_fn pass,
     struct err *err)
{
	bool any = s->row.has_head;
	struct digest at = s->row.head;

	for (unsigned i = 0; i < n; i++) {
		struct parent_row row = {.has_parent = false};
		const int found = any ? index_find_parent(&s->m->index, &at, &row, err) : 0;
		if (found < 0 || (pass && any && pass(s, &at, err) < 0))
			return -1;
		if (found == 0 || strcmp(row.session, s->row.id) != 0)
			return refuse(i + unsaved, err);
		any = row.has_parent;
		at = row.parent;
	}
	struct parent_row there;
	const int found = any ? index_find_parent(&s->m->index, &at, &there, err) : 1;
	if (found < 0)
		return -1;
	if (found == 0)
		return err_set(err, ERR_ABSENT, "snapshot %.12s was not kept",
			       digest_text(&at).text);
	*out_any = any;
	*out = at;
	return 0;
}

static int
find_forward(struct session *s, struct err *err)
{
	struct want *w = s->current;
	struct parent_row row;

	const int count = index_find_redo(&s->m->index, s->row.id, w->steps, &w->target, err);
	if (count < 0)
		return -1;
	if ((unsigned)count < w->steps) {
		err_set(err, ERR_ABSENT,
			count == 0   ? "nothing was undone, or another snapshot was made since"
			: count == 1 ? "there is 1 step to come back"
				     : "there are %d steps to come back",
			count);
		return err_hint(err, "restore goes to any of its snapshots");
	}
	const int found = index_find_parent(&s->m->index, &w->target, &row, err);
	if (found == 0)
		return err_set(err, ERR_ABSENT, "snapshot %.12s was not kept",
			       digest_text(&w->target).text);
	w->decided = true;
	return found < 0 ? -1 : 0;
}

int
session_undo_begin(struct session *s, bool captures, struct err *err)
{
	struct want *w = s->current;
	struct digest ignored;
	bool any;

	if (w->kind == WANT_REDO)
		return find_forward(s, err);
	if (w->kind != WANT_UNDO)
		return 0;
	w->decided = false;
	if (!captures)
		return session_undo_decide(s, false, err);
	return walk(s, w->steps - 1, true, &any, &ignored, NULL, err);
}

int
session_undo_decide(struct session *s, bool unsaved, struct err *err)
{
	struct want *w = s->current;
	bool any;

	if (w->kind != WANT_UNDO || w->decided)
		return 0;
	if (walk(s, w->steps - unsaved, unsaved, &any, &w->target, NULL, err) < 0)
		return -1;
	w->unsaved = unsaved;
	w->to_nothing = !any;
	w->decided = true;
	return 0;
}

static int
push(struct session *s, const struct digest *passed, struct err *err)
{
	return index_push_redo(&s->m->index, s->row.id, passed, err);
}

int
session_undo_commit(struct session *s, struct err *err)
{
	const struct want *w = s->current;
	struct digest ignored;
	bool any;

	if (w->kind == WANT_REDO)
		return index_pop_redo(&s->m->index, s->row.id, w->steps, err);
	const bool ends = w->kind == WANT_UNDO ? w->unsaved : s->has_manifest || want_goes_back(w);
	if (ends && index_clear_redo(&s->m->index, s->row.id, err) < 0)
		return -1;
	if (w->kind != WANT_UNDO)
		return 0;
	if (w->unsaved && push(s, &s->manifest, err) < 0)
		return -1;
	return walk(s, w->steps - w->unsaved, w->unsaved, &any, &ignored, push, err);
}

/* ---- what it is at, as an answer ---- */

static int
take_row(void *ctx, const struct snapshot_row *row, struct err *err)
{
	(void)err;
	*(struct snapshot_row *)ctx = *row;
	return 1;
}

/* "call c_… (make test)", or the verb. */
static void
add_maker(struct session *s, const struct snapshot_row *row, struct buf *out)
{
	struct call_row call;
	struct err ignored;
	char id[ID_BYTES];

	if (!row->calls[0]) {
		buf_text(out, row->made_by);
		return;
	}
	snprintf(id, sizeof id, "%.*s", (int)strcspn(row->calls, " "), row->calls);
	buf_fmt(out, "call %s", row->calls);
	if (index_find_call(&s->m->index, id, &call, &ignored) != 1)
		return;
	buf_text(out, " (");
	for (const char *c = call.command; *c && c < call.command + 60; c++)
		buf_char(out, (unsigned char)*c < ' ' || *c == 0x7f ? ' ' : *c);
	buf_char(out, ')');
}

static void
say_text(struct session *s, const struct snapshot_row *row, struct buf *out)
{
	buf_fmt(out, "%s: %s, ", s->row.name, session_state_name(s->state));
	if (s->row.has_head) {
		buf_fmt(out, "at %.12s, made by ", digest_text(&s->row.head).text);
		add_maker(s, row, out);
	} else {
		buf_text(out, "as it was made");
	}
	if (s->has_manifest)
		buf_fmt(out, "; what it replaces is snapshot %.12s",
			digest_text(&s->manifest).text);
	buf_char(out, '\n');
}

void
session_undo_say(struct session *s, const struct want *w, struct buf *out)
{
	struct index *ix = &s->m->index;
	struct snapshot_row row = {.bytes = 0};
	struct digest ignored;
	struct err err;

	if (s->row.has_head && index_match_snapshots(ix, "", str_of(digest_text(&s->row.head).text),
						     take_row, &row, &err) < 0)
		log_err(&err, "session %s: say where it is", s->row.name);
	if (!w->asker.json) {
		say_text(s, &row, out);
		return;
	}
	if (s->row.has_head) {
		buf_fmt(out,
			",\"head\":\"sha256:%s\",\"made_by\":", digest_text(&s->row.head).text);
		json_put(out, str_of(row.made_by));
		do_put_calls(s->m, row.calls, out);
	} else {
		buf_text(out, ",\"head\":null");
	}
	const int left = index_find_redo(ix, s->row.id, 0, &ignored, &err);
	buf_fmt(out, ",\"redo\":%d", left < 0 ? 0 : left);
}
