/* From running to paused, and the same on the way to a restore or a removal: capture A while all
 * are frozen, then let them shut down, then capture B, what that wrote; kill; commit.
 *
 * Until the kill every failure is undone: thawed, admitted, running as before. From the kill on,
 * all that the session had is in durable archives. An unclean upper, which has no keeper, is
 * captured by the same steps from CAPTURE_B on. */
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/fork_ready.h"
#include "manager/session.h"
#include "manager/spares.h"
#include "manager/throwaway.h"

#include <stdio.h>

#define ANSWER_MAX_NS (30 * NS_PER_S)  /* a keeper's answer to a command */
#define STALL_MAX_NS  (600 * NS_PER_S) /* a worker without progress */

static void next_step(struct session *s, enum session_step step);

static void
fail_with(struct session *s, const struct err *err)
{
	session_pause_failed(s, err);
}

/* Sends a command that is answered by one `done` with this seq. */
#define command(s, name, err, ...)                                                                 \
	wire_send(&(s)->keeper.wire, name, (err), .seq = ++(s)->seq __VA_OPT__(, ) __VA_ARGS__)

static const char *
ended_by(const struct session *s)
{
	switch (s->current->kind) {
	case WANT_RESTORE:
	case WANT_UNDO:
	case WANT_REDO:
		return "restore";
	case WANT_REMOVE:
		return "kill";
	case WANT_PAUSE:
	case WANT_RUN:
	case WANT_CHANGE:
	case WANT_PUT:
	case WANT_SNAPSHOT:
		return "pause";
	}
	return "pause";
}

static int
send_remember(struct session *s, struct err *err)
{
	return session_start_capture(s, err) < 0 ? -1 : session_send_remember(s, false, err);
}

/* how: enum capture_as_how. All of an upper that was captured before takes the place of
 * its layers, so it is a layer even where nothing is left in it. */
static int
send_capture(struct session *s, unsigned how, struct err *err)
{
	if (session_start_capture(s, err) < 0)
		return -1;
	if (s->n_base < s->n_layers)
		how |= CAPTURE_AS_ROOT;
	return wire_send(job_wire(s->job), capture_as, err, .how = how);
}

/* The head as it will be, for the session's ref. */
static const struct digest *
next_head(struct session *s)
{
	if (want_goes_back(s->current))
		return s->current->to_nothing ? NULL : &s->current->target;
	if (s->has_manifest)
		return &s->manifest;
	return s->row.has_head ? &s->row.head : NULL;
}

/* After the kill an act cannot be undone. Its archives are whole, and so is the upper, if it has
 * one: that is kept as unclean. */
static void
fail_dead(struct session *s, const struct err *why)
{
	struct err ignored;

	s->row.unclean |= s->had_keeper;
	if (session_set_state(s, SESSION_FAILED, why->why, &ignored) < 0)
		s->state = SESSION_FAILED;
	session_finish(s, why);
	if (s->ref_written) /* it tells what did not come true */
		session_ref_later(s);
}

static void
commit(struct session *s)
{
	struct err err;

	if (session_commit_pause(s, &err) < 0) {
		fail_dead(s, &err);
		return;
	}
	session_sync_later(s);
	fork_ready_later(s);
	session_merge_done(s);
	session_merge_later(s);
	session_finish(s, NULL);
}

/* No process is left. What outlived the kill may have written after the capture. */
static void
after_gone(struct session *s)
{
	struct err err;

	s->still_unclean = false;
	if (keeper_clear(s, &err) < 0) {
		log_err(&err, "session %s: its cgroup stays, its upper is unclean", s->row.name);
		s->still_unclean = true;
	}
	/* An unclean upper stays, and belongs on the head that it stood on: no other can take its place. */
	if (s->still_unclean && want_goes_back(s->current)) {
		fail_dead(s, &err);
		return;
	}
	if (s->ref_written)
		commit(s);
	else
		next_step(s, STEP_REF);
}

/* Without a keeper nothing may be mounted or alive: else what is captured is not all there is. */
static int
check_dead(struct session *s, struct err *err)
{
	if (!keeper_lives(s) && !prepare_is_populated(&s->m->node, s->row.id))
		return 0;
	return err_set(err, ERR_AGAIN, "processes of the session still live");
}

/* The ref of a pause tells of a snapshot that exists, whatever comes then. That of a restore or
 * removal must not be there before the session is dead. */
static void
after_written(struct session *s)
{
	const bool early =
	    s->current->kind == WANT_PAUSE || !s->keeper.linked; /* a snapshot has none */
	next_step(s, early ? STEP_REF : STEP_KILL);
}

/* While it stands still for want of disk, that is its reason: an act that fails changes nothing of
 * it. */
static const char *
still_why(const struct session *s)
{
	return s->disk.suspended ? s->row.reason : "";
}

/* What a step begins with. A failure leaves the step to fail_with. */
static int
begin_step(struct session *s, enum session_step step, struct err *err)
{
	const uint64_t answer = time_now_ns() + ANSWER_MAX_NS, stall = time_now_ns() + STALL_MAX_NS;

	switch ((int)step) {
	case STEP_REMEMBER:
		session_enter(s, step, stall, "a worker to learn what was captured before");
		return send_remember(s, err);
	case STEP_HOLD:
		session_enter(s, step, answer, "its keeper to hold new calls");
		return command(s, hold, err, .hold = 1);
	case STEP_FREEZE:
	case STEP_FREEZE_AGAIN:
		session_enter(s, step, answer, "its processes to freeze");
		return command(s, freeze, err);
	case STEP_CAPTURE_A:
		session_enter(s, step, stall, "its files to be archived");
		return send_capture(s, session_live_how(s), err);
	case STEP_WRITE_A:
		session_enter(s, step, stall, "its snapshot to be durable");
		return session_send_snapshot(s, false, err);
	case STEP_THAW:
		session_enter(s, step, answer, "its processes to thaw");
		return command(s, thaw, err);
	case STEP_TERMINATE: {
		const uint64_t grace = s->current->grace_ns;
		session_enter(s, step, answer + grace, "its processes to heed SIGTERM");
		return command(s, terminate, err, .grace_ns = grace);
	}
	case STEP_CAPTURE_B:
		session_enter(s, step, stall,
			      s->has_manifest ? "what its shutdown wrote to be archived"
					      : "its files to be archived");
		return send_capture(s, s->row.unclean ? CAPTURE_AS_TRUSTLESS : 0, err);
	case STEP_WRITE_B:
		session_enter(s, step, stall, "its snapshot to be durable");
		return session_send_snapshot(s, true, err);
	case STEP_REF:
		session_enter(s, step, stall, "its head to be written");
		return session_send_ref(s, next_head(s), err);
	case STEP_KILL:
		session_enter(s, step, answer, "its processes to be killed");
		return command(s, kill, err, .ended_by = str_of(ended_by(s)));
	case STEP_GONE:
		session_enter(s, step, answer, "its keeper to end");
		return 0;
	default:
		return err_set(err, ERR_INTERNAL, "no such step");
	}
}

static void
next_step(struct session *s, enum session_step step)
{
	struct err err;

	if (begin_step(s, step, &err) < 0)
		fail_with(s, &err);
}

static int
count_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	(void)row;
	(void)err;
	++*(size_t *)ctx;
	return 0;
}

/* The snapshot was there when it was asked for; an act that came between may have replaced it. */
static int
check_target(struct session *s, struct err *err)
{
	size_t n = 0;

	if (index_list_layers(&s->m->index, &s->current->target, count_layer, &n, err) < 0)
		return -1;
	return n ? 0 : err_set(err, ERR_ABSENT, "the snapshot is not there any more");
}

static void after_b(struct session *s);

static void
forget_last(struct session *s)
{
	s->a = s->b = (struct capture_result){0};
	s->wrote_a = s->has_manifest = s->ref_written = s->still_unclean = false;
	s->had_keeper = s->keeper.linked;
	s->failure = (struct err){0};
	s->n_layers = s->n_own = s->n_base = 0;
}

void
session_save_begin(struct session *s)
{
	struct err err;

	forget_last(s);
	session_enter(s, STEP_HOLD, 0, "its turn");
	if (s->row.has_head &&
	    (session_load_layers(s, &s->row.head, &err) < 0 || session_load_own(s, &err) < 0))
		session_finish(s, &err);
	else
		next_step(s, s->n_own ? STEP_REMEMBER : STEP_HOLD);
}

/* Saved, and thawed: its new calls are let in again. */
static void
after_thaw(struct session *s)
{
	struct err err;

	if (s->current->kind != WANT_PUT)
		next_step(s, STEP_TERMINATE);
	else if (command(s, hold, &err, .hold = 0) < 0)
		fail_with(s, &err);
	else
		session_put_saved(s);
}

void
session_pause_begin(struct session *s)
{
	struct err err;
	const enum session_state state =
	    want_goes_back(s->current) ? SESSION_RESTORING : SESSION_PAUSING;

	forget_last(s);
	timer_cancel(&s->ref_timer); /* this act writes the ref */
	const bool was_new = s->state == SESSION_NEW;
	session_enter(s, STEP_HOLD, 0, "its turn");
	const bool captures = s->keeper.linked || s->row.unclean;
	if ((captures && s->row.has_head &&
	     (session_load_layers(s, &s->row.head, &err) < 0 || session_load_own(s, &err) < 0)) ||
	    (s->current->kind == WANT_RESTORE && check_target(s, &err) < 0) ||
	    session_undo_begin(s, captures, &err) < 0) {
		session_finish(s, &err);
		return;
	}
	if (s->keeper.linked) {
		if (session_set_state(s, state, still_why(s), &err) < 0) {
			session_finish(s, &err);
			return;
		}
		next_step(s, s->n_own ? STEP_REMEMBER : STEP_HOLD);
	} else if (s->row.unclean && !session_has_upper(s)) {
		after_b(s); /* it had nothing yet */
	} else if (s->row.unclean) {
		if (check_dead(s, &err) < 0)
			fail_with(s, &err);
		else
			next_step(s, STEP_CAPTURE_B);
	} else if (was_new && s->current->kind == WANT_PAUSE) {
		commit(s);
	} else {
		next_step(s, STEP_REF);
	}
}

void
session_pause_done(struct session *s, const struct msg_done *done)
{
	if (s->step == STEP_UNDO && done->seq + 1 == s->seq && done->code) {
		log_line("session %s: it does not thaw: its keeper is cut", s->row.name);
		keeper_cut(s);
		return;
	}
	if (done->seq != s->seq)
		return; /* of a command that was given up */
	if (done->code && s->step != STEP_UNDO) {
		struct err err;
		err_set(&err, err_from_number(done->code), "%.*s", (int)done->why.len,
			done->why.at);
		fail_with(s, &err);
		return;
	}
	switch ((int)s->step) {
	case STEP_HOLD:
		next_step(s, STEP_FREEZE);
		return;
	case STEP_FREEZE: /* without processes there is nobody to shut down */
		next_step(s, done->processes || s->current->kind == WANT_PUT ? STEP_CAPTURE_A
									     : STEP_CAPTURE_B);
		return;
	case STEP_THAW:
		after_thaw(s);
		return;
	case STEP_TERMINATE:
		next_step(s, STEP_FREEZE_AGAIN);
		return;
	case STEP_FREEZE_AGAIN:
		next_step(s, STEP_CAPTURE_B);
		return;
	case STEP_KILL:
		next_step(s, STEP_GONE);
		return;
	case STEP_UNDO: {
		struct err err;
		const struct err why = s->failure;
		if (session_set_state(s, SESSION_RUNNING, still_why(s), &err) < 0)
			log_err(&err, "session %s", s->row.name);
		s->state = SESSION_RUNNING;
		if (s->ref_written) /* it tells what did not come true */
			session_ref_later(s);
		session_finish(s, &why);
		return;
	}
	default:
		return;
	}
}

static void
after_a(struct session *s)
{
	struct err err;

	if (session_undo_decide(s, s->a.any && !session_is_own(s, &s->a.layer.digest), &err) < 0)
		fail_with(s, &err);
	else
		next_step(s, s->a.any ? STEP_WRITE_A : STEP_THAW);
}

/* After B is known: which snapshot is it? None, A alone, or one with both layers. */
static void
after_b(struct session *s)
{
	struct err err;

	if (session_undo_decide(s, s->b.any, &err) < 0) {
		fail_with(s, &err);
		return;
	}
	if (s->b.any) {
		next_step(s, STEP_WRITE_B);
		return;
	}
	if (s->a.any) {
		s->manifest = s->manifest_a;
		s->has_manifest = true;
	}
	after_written(s);
}

void
session_pause_job(struct session *s, const struct message *msg, const struct err *failure)
{
	struct err err;

	if (failure) {
		fail_with(s, failure);
		return;
	}
	switch ((int)msg->id) {
	case MSG_progress:
		session_extend(s, time_now_ns() + STALL_MAX_NS);
		session_progress(s, &msg->progress,
				 s->step == STEP_CAPTURE_A && s->disk.known ? s->disk.bytes : 0, 0);
		return;
	case MSG_remembered:
		session_take_remembered(s, msg->remembered.believed != 0);
		if (s->step == STEP_REMEMBER)
			next_step(s, STEP_HOLD);
		return;
	case MSG_captured:
		if (s->step == STEP_CAPTURE_A) {
			session_take_captured(&s->a, &msg->captured);
			after_a(s);
		} else if (s->step == STEP_CAPTURE_B) {
			session_take_captured(&s->b, &msg->captured);
			s->b.any = s->b.any && (s->a.any || !session_is_own(s, &s->b.layer.digest));
			after_b(s);
		}
		return;
	case MSG_snapshot_written:
		if (s->step == STEP_WRITE_A && msg->snapshot_written.manifest.len == DIGEST_BYTES) {
			memcpy(s->manifest_a.at, msg->snapshot_written.manifest.at, DIGEST_BYTES);
			s->wrote_a = true;
			if (session_commit_a(s, &err) < 0)
				fail_with(s, &err);
			else
				next_step(s, STEP_THAW);
		} else if (s->step == STEP_WRITE_B &&
			   msg->snapshot_written.manifest.len == DIGEST_BYTES) {
			memcpy(s->manifest.at, msg->snapshot_written.manifest.at, DIGEST_BYTES);
			s->has_manifest = true;
			after_written(s);
		}
		return;
	case MSG_worked:
		if (s->step != STEP_REF)
			return;
		s->ref_written = true;
		job_end(s->job); /* its death does not concern what follows */
		s->job = NULL;
		if (s->keeper.linked)
			next_step(s, STEP_KILL);
		else
			commit(s);
		return;
	default:
		return;
	}
}

void
session_pause_failed(struct session *s, const struct err *failure)
{
	struct err err;

	s->failure = *failure;
	job_end(s->job);
	s->job = NULL;
	if (s->keeper.linked && s->step != STEP_UNDO && s->step != STEP_KILL &&
	    s->step != STEP_GONE) {
		session_enter(s, STEP_UNDO, time_now_ns() + ANSWER_MAX_NS, "it to go on as before");
		if (command(s, thaw, &err) == 0 && command(s, hold, &err, .hold = 0) == 0)
			return;
	}
	if (s->keeper.pidfd >= 0) { /* it does not answer: only its end can tell what is */
		log_err(failure, "session %s: its keeper is cut", s->row.name);
		session_enter(s, STEP_UNDO, time_now_ns() + ANSWER_MAX_NS, "its keeper to end");
		keeper_cut(s);
		return;
	}
	if (s->had_keeper) { /* REF after the kill */
		fail_dead(s, failure);
		return;
	}
	const enum session_state back = s->row.deleted_ns ? SESSION_DELETED : SESSION_PAUSED;
	if (session_set_state(s, back, s->row.reason, &err) < 0)
		log_err(&err, "session %s", s->row.name);
	session_finish(s, failure);
}

/* Whether nothing of an act is lost yet that its undoing would not bring back. */
static bool
can_undo(const struct session *s)
{
	switch (s->step) {
	case STEP_REMEMBER:
	case STEP_HOLD:
	case STEP_FREEZE:
	case STEP_CAPTURE_A:
	case STEP_WRITE_A:
	case STEP_THAW:
	case STEP_CAPTURE_B:
	case STEP_WRITE_B:
	case STEP_TERMINATE:
	case STEP_FREEZE_AGAIN:
		return true;
	case STEP_IDLE:
	case STEP_CACHE:
	case STEP_TURN:
	case STEP_START:
	case STEP_KILL:
	case STEP_GONE:
	case STEP_UNDO:
	case STEP_REF:
	case STEP_VIEW:
	case STEP_PUT:
	case STEP_CHANGE:
	case STEP_REMOVE:
	case STEP_PREPARE:
	case STEP_STILL:
	case STEP_READ:
	case STEP_GO_ON:
	case STEP_SAVE:
	case STEP_TELL:
	case STEP_FACTS:
	case STEP_LET_GO:
		return false;
	}
	return false;
}

void
session_pause_interrupt(struct session *s, const struct err *why)
{
	if (can_undo(s))
		session_pause_failed(s, why);
}

void
session_pause_deadline(struct session *s)
{
	struct err err;

	err_set(&err, ERR_TIMEOUT, "waited too long for %s", s->waits_for);
	fail_with(s, &err);
}

/* Its processes are gone with it, its files are not: the upper is unclean until a capture has read
 * all of it. */
void
session_pause_keeper_gone(struct session *s)
{
	struct err err, why;

	err_set(&why, ERR_UNAVAILABLE, "its first process or its keeper ended");
	if (s->spare) {
		spares_lost(s, &why);
		return;
	}
	if ((s->step == STEP_GONE || s->step == STEP_KILL) && !s->ending) {
		after_gone(s);
		return;
	}
	if (s->step == STEP_START) {
		session_run_failed(s, &why);
		return;
	}
	if (s->choices.throwaway) {
		throwaway_gone(s);
		return;
	}
	building_end(s); /* of a view */
	if (keeper_clear(s, &err) < 0)
		log_err(&err, "session %s", s->row.name);
	s->row.unclean = true;
	if (session_set_state(s, SESSION_PAUSED, "its processes ended unexpectedly", &err) < 0) {
		log_err(&err, "session %s", s->row.name);
		s->state = SESSION_PAUSED;
	}
	if (s->ref_written || s->step == STEP_TELL)
		session_ref_later(s);
	if (s->step != STEP_IDLE) {
		session_finish(s, s->failure.code ? &s->failure : &why);
		return;
	}
	means_forget(s);
	log_err(&why, "session %s is paused, unclean", s->row.name);
	session_next(s);
}
