/* A session's life: which acts are asked for, one at a time, and the state that each leaves. The
 * steps of an act are in session_run.c and session_pause.c.
 *
 *   new ─▶ running ⇄ paused ─▶ deleted          run:    CACHE ▶ START
 *            │  pausing, resuming, restoring     pause:  HOLD ▶ FREEZE ▶ CAPTURE_A ▶ WRITE_A ▶ THAW
 * ▶ └▶ failed ─▶ (resume tries again)           TERMINATE ▶ FREEZE_AGAIN ▶ CAPTURE_B ▶ WRITE_B ▶
 * REF ▶ KILL ▶ GONE
 *   running ─snapshot▶ running                 PREPARE ▶ STILL ▶ READ ▶ GO_ON ▶ SAVE ▶ TELL */
#include "session.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/collector.h"
#include "manager/throwaway.h"

#include <stdio.h>
#include <stdlib.h>

static const char *const state_names[SESSION_STATES] = {
    [SESSION_NEW] = "new",
    [SESSION_RUNNING] = "running",
    [SESSION_PAUSED] = "paused",
    [SESSION_DELETED] = "deleted",
    [SESSION_PAUSING] = "pausing",
    [SESSION_RESUMING] = "resuming",
    [SESSION_RESTORING] = "restoring",
    [SESSION_FAILED] = "failed",
};

const char *
session_state_name(enum session_state s)
{
	return state_names[s];
}

struct session *
session_find(struct manager *m, struct str ref)
{
	struct session *deleted = NULL;

	for (struct session *s = m->sessions; s; s = s->next) {
		if (str_is(ref, s->row.id))
			return s;
		if (!str_is(ref, s->row.name))
			continue;
		if (s->state != SESSION_DELETED)
			return s;
		if (!deleted || s->row.deleted_ns > deleted->row.deleted_ns)
			deleted = s;
	}
	return deleted;
}

struct session *
session_find_deleted(struct manager *m, struct str ref)
{
	struct session *last = NULL;

	for (struct session *s = m->sessions; s; s = s->next)
		if (s->state == SESSION_DELETED &&
		    (str_is(ref, s->row.id) ||
		     (str_is(ref, s->row.name) &&
		      (!last || s->row.deleted_ns > last->row.deleted_ns))))
			last = s;
	return last;
}

/* ---- steps and states: the only places that assign them ---- */

static void
on_deadline(void *ctx)
{
	struct session *s = ctx;
	struct err err;

	err_set(&err, ERR_TIMEOUT, "waited too long for %s", s->waits_for);
	log_err(&err, "session %s", s->row.name);
	if (s->step >= STEP_PREPARE)
		session_snapshot_failed(s, &err);
	else if (s->step == STEP_CACHE || s->step == STEP_TURN || s->step == STEP_START)
		session_run_failed(s, &err);
	else if (s->step == STEP_CHANGE)
		session_change_failed(s, &err);
	else if (s->step == STEP_VIEW || s->step == STEP_PUT)
		session_put_failed(s, &err);
	else if (s->ending)
		throwaway_overdue(s, &err);
	else
		session_pause_deadline(s);
}

/* Whoever waits longest for a turn to start gets it. */
static void
next_turn(void *ctx)
{
	struct manager *m = ctx;
	struct session *first = NULL;

	if (m->closing || m->n_starting >= SESSION_STARTS_MAX)
		return;
	for (struct session *s = m->sessions; s; s = s->next)
		if (s->step == STEP_TURN && (!first || s->turn < first->turn))
			first = s;
	if (first)
		session_run_turn(first);
	else
		conns_next(m);
}

void
session_enter(struct session *s, enum session_step step, uint64_t deadline_ns,
	      const char *waits_for)
{
	if (step == STEP_START && s->step != STEP_START) {
		s->m->n_starting++;
	} else if (step != STEP_START && s->step == STEP_START) {
		s->m->n_starting--;
		loop_defer(&s->m->loop, next_turn, s->m);
	}
	s->step = step;
	s->since_ns = time_real_ns();
	snprintf(s->waits_for, sizeof s->waits_for, "%s", waits_for);
	timer_cancel(&s->deadline);
	if (deadline_ns)
		timer_set(&s->m->loop, &s->deadline, deadline_ns, on_deadline, s);
}

void
session_extend(struct session *s, uint64_t deadline_ns)
{
	timer_set(&s->m->loop, &s->deadline, deadline_ns, on_deadline, s);
}

void
session_audit(const struct session *s)
{
	const struct digest_text head = digest_text(&s->row.head);

	audit_write(&s->m->audit, "session", AUDIT_TEXT("session", s->row.id),
		    AUDIT_TEXT("name", s->row.name), AUDIT_TEXT("state", state_names[s->state]),
		    AUDIT_TEXT("reason", s->row.reason), AUDIT_TEXT("owner", s->row.owner),
		    AUDIT_TEXT("head", s->row.has_head ? head.text : ""));
}

static int
set_state(struct session *s, enum session_state state, const char *reason,
	  int (*put)(struct index *, const struct session_row *, struct err *), struct err *err)
{
	struct session_row row = s->row;

	snprintf(row.state, sizeof row.state, "%s", state_names[state]);
	snprintf(row.reason, sizeof row.reason, "%s", reason);
	row.used_ns = time_real_ns();
	if (state == SESSION_DELETED)
		row.deleted_ns = row.used_ns;
	if (put(&s->m->index, &row, err) < 0)
		return err_add(err, "session %s becomes %s", s->row.name, row.state);
	s->row = row;
	s->state = state;
	session_audit(s);
	return 0;
}

int
session_set_state(struct session *s, enum session_state state, const char *reason, struct err *err)
{
	return set_state(s, state, reason, index_put_session, err);
}

int
session_set_running(struct session *s, const char *reason, struct err *err)
{
	return set_state(s, SESSION_RUNNING, reason, index_put_session_soon, err);
}

int
session_claim(struct session *s, enum session_state state, struct err *err)
{
	struct session_row row = s->row;

	snprintf(row.state, sizeof row.state, "%s", state_names[state]);
	row.reason[0] = '\0';
	row.used_ns = time_real_ns();
	if (s->m->owner->claim(&s->m->index, &row, err) < 0)
		return -1;
	s->row = row;
	s->state = state;
	return 0;
}

void
session_job(void *ctx, const struct message *msg, const struct err *failure)
{
	struct session *s = ctx;

	if (s->step >= STEP_PREPARE)
		session_snapshot_job(s, msg, failure);
	else if (s->step == STEP_CACHE || s->step == STEP_START)
		session_run_job(s, msg, failure);
	else if (s->step == STEP_CHANGE)
		session_change_job(s, msg, failure);
	else if (s->step == STEP_VIEW)
		session_put_job(s, msg, failure);
	else
		session_pause_job(s, msg, failure);
}

void
session_done(struct session *s, const struct msg_done *done)
{
	if (s->step >= STEP_PREPARE)
		session_snapshot_done(s, done);
	else
		session_pause_done(s, done);
}

/* ---- wants ---- */

void
want_free(struct want *w)
{
	if (w) {
		free(w->change);
		free(w->path);
	}
	free(w);
}

struct want *
want_new(const struct manager *m, enum want_kind kind, const struct asker *asker)
{
	struct want *w = xnew(1, sizeof *w);

	w->kind = kind;
	w->grace_ns = m->config.kill_grace;
	if (asker)
		w->asker = *asker;
	return w;
}

void
session_forget_conn(struct session *s, const struct conn *c, const uint32_t *seq)
{
	if (s->current && s->current->asker.conn == c && (!seq || s->current->asker.seq == *seq))
		asker_forget(&s->current->asker);
	for (struct want *w = s->wants; w; w = w->next)
		if (w->asker.conn == c && (!seq || w->asker.seq == *seq))
			asker_forget(&w->asker);
}

void
session_progress(struct session *s, const struct msg_progress *done, uint64_t of_bytes,
		 uint64_t of_entries)
{
	if (s->current)
		asker_progress(&s->current->asker, s->waits_for, done, of_bytes, of_entries, s->since_ns);
}

static bool
asked_by(const struct want *w, const struct conn *c, uint32_t seq)
{
	return w->asker.conn == c && w->asker.is_verb && w->asker.seq == seq;
}

static void answer(struct session *s, struct want *w, const struct err *failure);

static bool
interrupt_queued(struct session *s, const struct conn *c, uint32_t seq)
{
	for (struct want **at = &s->wants; *at; at = &(*at)->next) {
		struct want *w = *at;
		if (!asked_by(w, c, seq))
			continue;
		struct err err;
		*at = w->next;
		err_set(&err, ERR_CANCELLED, "interrupted before it began");
		answer(s, w, &err);
		want_free(w);
		return true;
	}
	return false;
}

bool
session_interrupt(struct session *s, const struct conn *c, uint32_t seq)
{
	struct err err;

	if (interrupt_queued(s, c, seq))
		return true;
	if (!s->current || !asked_by(s->current, c, seq))
		return false;
	err_set(&err, ERR_CANCELLED, "interrupted: all is as it was");
	if (s->step >= STEP_PREPARE)
		session_snapshot_interrupt(s, &err);
	else if (s->step == STEP_VIEW || s->step == STEP_PUT)
		session_put_interrupt(s);
	else if (s->step == STEP_CACHE)
		session_run_interrupt(s, &err);
	else
		session_pause_interrupt(s, &err);
	return true;
}

/* A session runs all the while that a snapshot is taken of it. */
static bool
goes_beside(const struct session *s, const struct want *w)
{
	return w->kind == WANT_RUN && s->current && s->current->kind == WANT_SNAPSHOT &&
	       s->state == SESSION_RUNNING && s->keeper.linked && !s->wants;
}

void
session_want(struct session *s, struct want *take_want)
{
	struct want **at = &s->wants;

	if (goes_beside(s, take_want)) {
		answer(s, take_want, NULL);
		free(take_want);
		return;
	}
	take_want->next = NULL;
	while (*at)
		at = &(*at)->next;
	*at = take_want;
	session_next(s);
}

static void
say_result(struct session *s, struct want *w)
{
	auto_buf out = BUF_MAX(16384);
	char made[16] = "";

	if (s->has_manifest && w->kind != WANT_RUN)
		snprintf(made, sizeof made, "%.12s", digest_text(&s->manifest).text);
	if (w->kind == WANT_CHANGE) {
		session_change_say(s, w, &out);
	} else if (w->kind == WANT_PUT) {
		session_put_say(s, w, &out);
	} else if (w->asker.json) {
		buf_fmt(&out, "{\"session\":\"%s\",\"id\":\"%s\",\"state\":\"%s\"", s->row.name,
			s->row.id, state_names[s->state]);
		if (made[0])
			buf_fmt(&out, ",\"snapshot\":\"sha256:%s\"",
				digest_text(&s->manifest).text);
		if (want_goes_back(w))
			session_undo_say(s, w, &out);
		if (w->kind == WANT_SNAPSHOT)
			session_snapshot_json(s, w, &out);
		buf_text(&out, "}\n");
	} else if (want_goes_back(w)) {
		session_undo_say(s, w, &out);
	} else {
		buf_fmt(&out, "%s: %s%s%s", s->row.name, state_names[s->state],
			made[0] ? ", snapshot " : "", made);
		if (w->kind == WANT_SNAPSHOT)
			session_snapshot_text(s, w, &out);
		buf_char(&out, '\n');
	}
	asker_print(&w->asker, buf_view(&out));
}

/* What a want is told once the session is where it wanted it to be. */
static void
answer(struct session *s, struct want *w, const struct err *failure)
{
	static const char *const words[] = {"resume", "pause", "restore", "rm", "undo", "redo",
					     "label", "restore", "snapshot"};
	struct err err;

	if (w->told) {
		w->told(w->told_ctx, s, failure);
		return;
	}
	if (failure) {
		err = *failure;
	} else if (w->asker.conn && !w->asker.is_verb) {
		auto_close int link = -1;
		if (keeper_grant(s, w->asker.conn, &link, &err) == 0) {
			char notice[512];
			const char *warning = rung_warning(s->m->node.isolation.rung);
			snprintf(notice, sizeof notice, "%s%s%s", warning ? warning : "",
				 warning && s->row.reason[0] ? "; " : "", s->row.reason);
			asker_session(&w->asker, link, notice);
			return;
		}
		if (s->keeper.pidfd >= 0) {
			/* It has just ended: the question waits for its end, and the next start. */
			keeper_unlink(s);
			struct want *again = want_new(s->m, WANT_RUN, &w->asker);
			w->asker.conn = NULL;
			session_want(s, again);
			return;
		}
	} else {
		if (w->asker.conn)
			say_result(s, w);
		asker_end(&w->asker, NULL);
		return;
	}
	if (!w->asker.is_verb) {
		asker_session_failed(&w->asker, &err);
		return;
	}
	err_what(&err, "%s %s", w->change ? w->change->verb : words[w->kind], s->row.name);
	asker_end(&w->asker, &err);
}

static void
next_later(void *ctx)
{
	struct session *s = ctx;

	if (s->m->closing)
		return;
	session_next(s);
	manager_stop_when_idle(s->m);
}

void
session_finish(struct session *s, const struct err *failure)
{
	struct want *w = s->current;

	s->current = NULL;
	session_enter(s, STEP_IDLE, 0, "");
	if (s->keeper.pidfd < 0)
		means_forget(s);
	job_end(s->job);
	s->job = NULL;
	if (failure)
		log_err(failure, "session %s is %s", s->row.name, state_names[s->state]);
	else if (w && w->kind == WANT_SNAPSHOT)
		log_line("session %s: snapshot %.12s%s", s->row.name,
			 s->has_manifest ? digest_text(&s->manifest).text : "none",
			 s->still.unchanged ? ", as it is" : "");
	else
		log_line("session %s is %s", s->row.name, state_names[s->state]);
	if (w && w->kind == WANT_SNAPSHOT)
		session_auto_end(s, w, failure);
	if (w)
		answer(s, w, failure);
	want_free(w);
	if (s->state == SESSION_PAUSED || s->state == SESSION_DELETED)
		fd_close(&s->dir);
	if (s->state == SESSION_DELETED)
		collector_note(s->m);
	s->awaited = false;
	collector_job_ended(s->m);
	if (s->keeper.pidfd < 0)
		s->n_mounted = 0;
	/* When the turn ends, not from here: an act that fails at once must not nest the next one.
	 */
	loop_defer(&s->m->loop, next_later, s);
}

/* Nothing to do: the session is already where the want would bring it. */
static bool
is_there(const struct session *s, const struct want *w)
{
	switch (w->kind) {
	case WANT_RUN:
		return s->state == SESSION_RUNNING;
	case WANT_PAUSE:
		return s->state == SESSION_PAUSED && !s->row.unclean;
	case WANT_REMOVE:
		return s->state == SESSION_DELETED;
	case WANT_RESTORE:
	case WANT_UNDO:
	case WANT_REDO:
	case WANT_CHANGE:
	case WANT_PUT:
		return false;
	case WANT_SNAPSHOT: /* a pause has come before it, or an end */
		return w->automatic && (s->state != SESSION_RUNNING || s->m->stopping);
	}
	return false;
}

void
session_refuse_wants(struct session *s, const struct err *why)
{
	while (s->wants) {
		struct want *w = s->wants;
		s->wants = w->next;
		answer(s, w, why);
		want_free(w);
	}
}

void
session_next(struct session *s)
{
	if (s->unsynced) {
		session_sync_rows(s->m);
		return;
	}
	while (s->step == STEP_IDLE && s->wants) {
		struct want *w = s->wants;
		if (s->keeper.pidfd >= 0 && !s->keeper.linked)
			return; /* a keeper that is ending: its end calls us again */
		if (w->kind != WANT_RUN && session_errand_blocks(s)) {
			snprintf(s->waits_for, sizeof s->waits_for, "its first ref to be written");
			return; /* the errand's end, or its deadline, calls us again */
		}
		s->wants = w->next;
		s->has_manifest = false;
		if (w->kind == WANT_RUN && ((!w->asker.conn && !w->told) || s->m->stopping)) {
			struct err err; /* nobody is there to use it, or the server is going */
			err_set(&err, ERR_AGAIN, "the server is being stopped");
			answer(s, w, &err);
			want_free(w);
			continue;
		}
		if (is_there(s, w)) {
			if (w->automatic)
				session_auto_settled(s, w);
			answer(s, w, NULL);
			want_free(w);
			continue;
		}
		if (s->state == SESSION_DELETED && !(w->change && w->change->undelete)) {
			struct err err;
			err_set(&err, ERR_ABSENT, "the session was deleted");
			answer(s, w, &err);
			want_free(w);
			continue;
		}
		s->current = w;
		if (w->kind == WANT_RUN)
			session_run_begin(s);
		else if (w->kind == WANT_CHANGE)
			session_change_begin(s);
		else if (w->kind == WANT_PUT)
			session_put_begin(s);
		else if (w->kind == WANT_SNAPSHOT)
			session_snapshot_begin(s);
		else
			session_pause_begin(s);
	}
}
