/* restore --path: one file or tree of a snapshot into the workspace, while the session runs.
 *
 *   (paused: a start) ▶ HOLD ▶ FREEZE ▶ CAPTURE_A ▶ WRITE_A ▶ THAW   it is saved
 *   ▶ VIEW   the snapshot's layers are stacked, read only, in a mount that nobody sees
 *   ▶ PUT    a child of the session's init copies out of it
 *
 *  1. what is written into the workspace is written by a process of the session, with the session's
 *     ids and in its mounts: nothing that lies in the snapshot or on the way to the path can lead
 *     further than the session itself could go;
 *  2. nothing of an archive is parsed for it that a resume would not parse: layers come from the
 *     cache;
 *  3. no call is ended. What was replaced is durable before the first byte is;
 *  4. a failure in the middle leaves what was done until then, and says so: the snapshot has the
 *     rest. */
#include "base/log.h"
#include "base/time.h"
#include "manager/facts.h"
#include "manager/session.h"

#include <stdio.h>

#define VIEW_MAX_NS (3600 * NS_PER_S) /* layers are unpacked, as for a start */
#define PUT_MAX_NS  (120 * NS_PER_S)  /* without progress */

void
session_put_begin(struct session *s)
{
	struct err err;

	if (!node_stacks(&s->m->node)) {
		err_set(&err, ERR_UNAVAILABLE,
			"a path alone cannot be restored on isolation rung process");
		err_hint(&err, "restore all of it");
		session_finish(s, &err);
	} else if (s->m->stopping) {
		err_set(&err, ERR_AGAIN, "the server is being stopped");
		session_finish(s, &err);
	} else if (s->state == SESSION_RUNNING) {
		session_put_running(s);
	} else {
		session_run_begin(s);
	}
}

void
session_put_running(struct session *s)
{
	s->put = (struct msg_tree_put_report){.seq = 0};
	session_save_begin(s);
}

/* ---- the snapshot's tree ---- */

static void
go_on(struct session *s)
{
	struct err err;

	if (session_run_view(s, &err) < 0)
		session_put_failed(s, &err);
}

void
session_put_saved(struct session *s)
{
	struct err err;

	s->manifest = s->manifest_a;
	s->has_manifest = s->wrote_a;
	job_end(s->job);
	s->job = NULL;
	session_enter(s, STEP_VIEW, time_now_ns() + VIEW_MAX_NS, "the snapshot's layers");
	if (session_load_layers(s, &s->current->target, &err) < 0)
		session_put_failed(s, &err);
	else
		go_on(s);
}

void
session_put_job(struct session *s, const struct message *msg, const struct err *failure)
{
	if (failure) {
		session_put_failed(s, failure);
		return;
	}
	if (msg->id == MSG_progress) {
		session_extend(s, time_now_ns() + VIEW_MAX_NS);
		session_progress(s, &msg->progress, s->asked_raw_bytes, s->asked_entries);
	}
	if (msg->id == MSG_unpacked)
		session_run_unpacked(s, &msg->unpacked);
	if (msg->id == MSG_worked)
		go_on(s);
}

void
session_put_built(struct session *s, int tree, const struct err *failure)
{
	struct err err;

	if (failure) {
		session_put_failed(s, failure);
		return;
	}
	job_end(s->job);
	s->job = NULL;
	session_enter(s, STEP_PUT, time_now_ns() + PUT_MAX_NS, "its files to be put back");
	const struct msg_tree_put body = {.seq = ++s->seq, .path = str_of(s->current->path)};
	if (wire_send_fds(&s->keeper.wire, MSG_tree_put, &body, &tree, 1, &err) < 0)
		session_put_failed(s, &err);
}

/* ---- what the session says of it ---- */

void
session_put_report(struct session *s, const struct msg_tree_put_report *r)
{
	struct err err;

	if (s->step != STEP_PUT || r->seq != s->seq)
		return; /* of one that was given up */
	if (r->ended && r->code) {
		err_set(&err, err_from_number(r->code), "%.*s", (int)r->why.len, r->why.at);
		session_put_failed(s, &err);
		return;
	}
	s->put = *r;
	s->put.why = (struct str){NULL, 0};
	if (r->ended) {
		session_finish(s, NULL);
		return;
	}
	const struct msg_progress done = {.bytes = r->bytes,
					  .entries = r->written + r->removed + r->same};
	session_extend(s, time_now_ns() + PUT_MAX_NS);
	session_progress(s, &done, 0, 0);
}

void
session_put_interrupt(struct session *s)
{
	struct err err;

	if (s->step == STEP_PUT)
		err_set(&err, ERR_CANCELLED, "interrupted: a part of it was put back");
	else
		err_set(&err, ERR_CANCELLED, "interrupted: all is as it was");
	session_put_failed(s, &err);
}

void
session_put_failed(struct session *s, const struct err *failure)
{
	const bool began = s->step == STEP_PUT;
	struct err err = *failure, ignored;

	building_end(s);
	if (began && s->keeper.linked &&
	    wire_send(&s->keeper.wire, tree_put_stop, &ignored, .seq = s->seq) < 0)
		log_err(&ignored, "session %s: stop what puts files back", s->row.name);
	s->seq++; /* what it still says is of nobody's */
	if (s->has_manifest)
		err_hint(&err, "what it was before is snapshot %.12s",
			 digest_text(&s->manifest).text);
	else if (err.code == ERR_ABSENT && !err.hint[0])
		err_hint(&err, "what it has: ssh berth@HOST files %.12s",
			 digest_text(&s->current->target).text);
	session_finish(s, &err);
}

void
session_put_say(struct session *s, const struct want *w, struct buf *out)
{
	const struct msg_tree_put_report *n = &s->put;
	const struct digest_text from = digest_text(&w->target), saved = digest_text(&s->manifest);

	if (!w->asker.json) {
		buf_fmt(out,
			"%s: /%s is as in %.12s: %llu written, %llu removed, %llu as they were",
			s->row.name, w->path, from.text, (unsigned long long)n->written,
			(unsigned long long)n->removed, (unsigned long long)n->same);
		if (n->skipped)
			buf_fmt(out, ", %llu mounts left alone", (unsigned long long)n->skipped);
		if (s->has_manifest)
			buf_fmt(out, "; what it was before is snapshot %.12s", saved.text);
		buf_char(out, '\n');
		return;
	}
	buf_fmt(out, "{\"session\":\"%s\",\"id\":\"%s\",\"state\":\"%s\",\"path\":", s->row.name,
		s->row.id, session_state_name(s->state));
	auto_buf path = BUF_MAX(8192);
	buf_fmt(&path, "/%s", w->path);
	json_put(out, buf_view(&path));
	buf_fmt(out, ",\"from\":\"sha256:%s\"", from.text);
	if (s->has_manifest)
		buf_fmt(out, ",\"snapshot\":\"sha256:%s\"", saved.text);
	buf_fmt(
	    out,
	    ",\"written\":%llu,\"bytes\":%llu,\"removed\":%llu,\"same\":%llu,\"skipped\":%llu}\n",
	    (unsigned long long)n->written, (unsigned long long)n->bytes,
	    (unsigned long long)n->removed, (unsigned long long)n->same,
	    (unsigned long long)n->skipped);
}
