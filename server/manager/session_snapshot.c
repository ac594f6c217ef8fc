/* A snapshot of a running session, which goes on: all that can be done before stands ready before its
 * processes are frozen, and all that can be done after is done when they run again.
 *
 *   PREPARE ─remembered▶ STILL ─frozen▶ READ ─upper_read▶ GO_ON ─thawed, captured▶ SAVE ─manifest▶ TELL
 *                                                            │                      ─commit▶ done
 *                                                            └─nothing has changed▶ FACTS of the head
 *   any, on failure ▶ LET_GO where it is frozen ▶ it runs as before
 *
 *  1. the session's row says `running` all the while: whoever dies in between, it is taken back as that,
 *     and a keeper without a manager thaws by itself;
 *  2. a failure of any step leaves the session, its head and what is known of its upper as they were;
 *  3. of a session that rests the head is the answer; an unclean one is captured as a pause does it. */
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/facts.h"
#include "manager/fork_ready.h"
#include "manager/session.h"

#include <stdio.h>

#define ANSWER_MAX_NS (30 * NS_PER_S)  /* a keeper's answer to a command */
#define STALL_MAX_NS  (600 * NS_PER_S) /* a worker without progress */

static void next_step(struct session *s, enum session_step step);

/* ---- what is asked for ---- */

static int
take_row(void *ctx, const struct snapshot_row *row, struct err *err)
{
	(void)err;
	*(struct snapshot_row *)ctx = *row;
	return 1;
}

/* The name is free, or (head_too) the head's, which may turn out to be the answer. */
static int
check_name(struct session *s, bool head_too, struct err *err)
{
	const char *name = s->current->facts.name;
	struct snapshot_row row;

	if (!name[0])
		return 0;
	const int found =
	    index_match_snapshots(&s->m->index, s->row.id, str_of(name), take_row, &row, err);
	if (found <= 0)
		return found;
	if (head_too && s->row.has_head && digest_equal(&row.digest, &s->row.head))
		return 0;
	err_set(err, ERR_USAGE, "a snapshot of this session is named %s already", name);
	return err_hint(err, "run: ssh berth@HOST snapshots %s", s->row.name);
}

/* ---- facts of the head ---- */

/* What the head has already stays; what it has not, it gets. */
static int
merge_facts(struct session *s, struct snapshot_facts *head, struct err *err)
{
	const struct snapshot_facts *f = &s->current->facts;
	const char *at = f->labels;
	struct str label;

	s->still.kept_name = f->name[0] && head->name[0] && strcmp(f->name, head->name) != 0;
	s->still.kept_note = f->note[0] && head->note[0] && strcmp(f->note, head->note) != 0;
	if (!head->name[0])
		memcpy(head->name, f->name, sizeof head->name);
	if (!head->note[0])
		memcpy(head->note, f->note, sizeof head->note);
	while (facts_next_label(&at, &label))
		if (facts_set_label(head->labels, label, err) < 0)
			return -1;
	head->pinned |= f->pinned;
	if (f->expires_ns)
		head->expires_ns = f->expires_ns;
	return 0;
}

static int
send_facts(struct session *s, struct err *err)
{
	auto_buf json = BUF_MAX(FACTS_MAX_BYTES);
	struct snapshot_row row = {0};

	if (index_match_snapshots(&s->m->index, s->row.id, str_of(digest_text(&s->row.head).text),
				  take_row, &row, err) < 0 ||
	    merge_facts(s, &row.facts, err) < 0)
		return -1;
	s->current->facts = row.facts;
	facts_json(&row.facts, &json);
	if (!s->job && job_start(s->m, s->row.name, -1, session_job, s, &s->job, err) < 0)
		return -1;
	return wire_send(job_wire(s->job), snapshot_facts, err,
			 .manifest = {(const char *)s->row.head.at, DIGEST_BYTES},
			 .facts = buf_view(&json));
}

static bool
has_facts(const struct snapshot_facts *f)
{
	return f->name[0] || f->note[0] || f->labels[0] || f->pinned || f->expires_ns;
}

/* The head holds what the session is. */
static void
take_head(struct session *s)
{
	s->manifest = s->row.head;
	s->has_manifest = true;
	s->still.unchanged = true;
	if (has_facts(&s->current->facts))
		next_step(s, STEP_FACTS);
	else
		session_finish(s, NULL);
}

/* ---- the steps ---- */

/* The processes are to go on: answered by done. */
#define command(s, name, err, ...)                                                                 \
	wire_send(&(s)->keeper.wire, name, (err), .seq = ++(s)->seq __VA_OPT__(, ) __VA_ARGS__)

static int
send_read(struct session *s, struct err *err)
{
	/* The first snapshot of all is one, though nothing be in it, where somebody wants to have it. */
	const bool first = !s->row.has_head && !s->current->automatic;
	const uint32_t how =
	    session_live_how(s) | (first || s->n_base < s->n_layers ? CAPTURE_AS_ROOT : 0u);
	return wire_send(job_wire(s->job), capture_as, err, .how = how);
}

/* Where nothing has changed, what was seen is the head's. */
static int
send_told(struct session *s, struct err *err)
{
	const struct digest *of = s->a.any ? &s->manifest : &s->row.head;

	s->still.waits = (s->has_next ? 1u : 0u) + (s->a.any ? 1u : 0u);
	if (s->has_next && wire_send(job_wire(s->job), seal, err,
				     .snapshot = {(const char *)of->at, DIGEST_BYTES}) < 0)
		return -1;
	return s->a.any ? session_send_ref(s, of, err) : 0;
}

static int
begin_step(struct session *s, enum session_step step, struct err *err)
{
	const uint64_t answer = time_now_ns() + ANSWER_MAX_NS, stall = time_now_ns() + STALL_MAX_NS;

	switch ((int)step) {
	case STEP_PREPARE:
		session_enter(s, step, stall, "a worker to learn what was captured before");
		return session_start_capture(s, err) < 0 ? -1 : session_send_remember(s, true, err);
	case STEP_STILL:
		session_enter(s, step, answer, "its processes to freeze");
		s->still.frozen_at_ns = time_now_ns();
		return s->current->settled
			   ? command(s, freeze_settled, err, .number = s->current->settled)
			   : command(s, freeze, err);
	case STEP_READ:
		session_enter(s, step, stall, "its files to be archived");
		return send_read(s, err);
	case STEP_GO_ON:
		session_enter(s, step, stall, "what was read of its files to be durable");
		return command(s, thaw, err);
	case STEP_SAVE:
		session_enter(s, step, stall, "its snapshot to be durable");
		return check_name(s, false, err) < 0 ? -1 : session_send_snapshot(s, false, err);
	case STEP_TELL:
		session_enter(s, step, stall, "its head to be written");
		return send_told(s, err);
	case STEP_FACTS:
		session_enter(s, step, stall, "what is said of its head to be written");
		return send_facts(s, err);
	default:
		return err_set(err, ERR_INTERNAL, "no such step");
	}
}

static void
next_step(struct session *s, enum session_step step)
{
	struct err err;

	if (begin_step(s, step, &err) < 0)
		session_snapshot_failed(s, &err);
}

static void
begin_running(struct session *s)
{
	struct err err;

	s->a = s->b = (struct capture_result){0};
	s->n_layers = s->n_own = s->n_base = 0;
	if (s->row.has_head &&
	    (session_load_layers(s, &s->row.head, &err) < 0 || session_load_own(s, &err) < 0))
		session_snapshot_failed(s, &err);
	else
		next_step(s, STEP_PREPARE);
}

void
session_snapshot_begin(struct session *s)
{
	struct err err;

	memset(&s->still, 0, sizeof s->still);
	s->failure = (struct err){0};
	session_enter(s, STEP_PREPARE, 0, "its turn");
	if (check_name(s, true, &err) < 0) {
		session_finish(s, &err);
	} else if (s->keeper.linked) {
		begin_running(s);
	} else if (s->row.unclean) {
		session_pause_begin(s);
	} else if (s->row.has_head) {
		take_head(s);
	} else {
		err_set(&err, ERR_ABSENT, "it has no files of its own yet");
		err_hint(&err, "a first channel, or resume, starts it");
		session_finish(s, &err);
	}
}

static void
commit(struct session *s)
{
	struct err err;

	if (!s->a.any) {
		session_keep_seen(s);
		take_head(s);
		return;
	}
	s->has_manifest = true;
	if (session_commit_live(s, &err) < 0) {
		session_snapshot_failed(s, &err);
		return;
	}
	if (s->has_next)
		session_keep_seen(s);
	fork_ready_later(s);
	session_merge_done(s);
	session_merge_later(s);
	session_finish(s, NULL);
}

static int
put_facts(struct session *s, struct err *err)
{
	if (index_begin(&s->m->index, err) < 0)
		return -1;
	if (index_put_snapshot_facts(&s->m->index, &s->row.head, &s->current->facts, err) < 0) {
		index_rollback(&s->m->index);
		return -1;
	}
	return index_commit(&s->m->index, err);
}

/* All that was frozen runs, and what was read of it is durable. */
static void
after_read(struct session *s)
{
	if (!s->still.thawed || !s->still.captured)
		return;
	if (s->a.any)
		next_step(s, STEP_SAVE);
	else if (s->has_next && s->n_own)
		next_step(s, STEP_TELL);
	else if (s->row.has_head)
		take_head(s);
	else
		session_finish(s, NULL); /* nobody has asked, and there is nothing */
}

/* ---- what is answered ---- */

static void
let_go(struct session *s)
{
	const struct err why = s->failure;
	session_finish(s, &why);
}

void
session_snapshot_done(struct session *s, const struct msg_done *done)
{
	struct err err;

	if (done->seq != s->seq)
		return; /* of a command that was given up */
	if (done->code && s->step == STEP_LET_GO) {
		log_line("session %s: it does not thaw: its keeper is cut", s->row.name);
		keeper_cut(s);
		return;
	}
	if (done->code) {
		err_set(&err, err_from_number(done->code), "%.*s", (int)done->why.len,
			done->why.at);
		session_snapshot_failed(s, &err);
		return;
	}
	if (s->step == STEP_STILL) {
		s->automatic.ran = done->processes > 0; /* they may change something from here on */
		session_auto_name(s, s->current);
		next_step(s, STEP_READ);
	} else if (s->step == STEP_GO_ON) {
		s->still.frozen_ns = time_now_ns() - s->still.frozen_at_ns;
		s->still.thawed = true;
		session_auto_settled(s, s->current);
		after_read(s);
	} else if (s->step == STEP_LET_GO) {
		let_go(s);
	}
}

static void
take_captured(struct session *s, const struct msg_captured *c)
{
	session_take_captured(&s->a, c);
	s->a.any = s->a.any && !session_is_own(s, &s->a.layer.digest);
	s->still.captured = true;
	after_read(s);
}

static void
take_worked(struct session *s)
{
	struct err err;

	if (s->step == STEP_TELL && --s->still.waits == 0) {
		commit(s);
	} else if (s->step == STEP_FACTS) {
		if (put_facts(s, &err) < 0)
			session_snapshot_failed(s, &err);
		else
			session_finish(s, NULL);
	}
}

void
session_snapshot_job(struct session *s, const struct message *msg, const struct err *failure)
{
	if (failure) {
		session_snapshot_failed(s, failure);
		return;
	}
	switch ((int)msg->id) {
	case MSG_progress:
		session_extend(s, time_now_ns() + STALL_MAX_NS);
		session_progress(s, &msg->progress, s->disk.known ? s->disk.bytes : 0, 0);
		return;
	case MSG_remembered:
		if (s->step != STEP_PREPARE)
			return;
		session_take_remembered(s, msg->remembered.believed != 0);
		next_step(s, STEP_STILL);
		return;
	case MSG_upper_read:
		if (s->step == STEP_READ)
			next_step(s, STEP_GO_ON);
		return;
	case MSG_captured:
		if (s->step == STEP_GO_ON)
			take_captured(s, &msg->captured);
		return;
	case MSG_snapshot_written:
		if (s->step != STEP_SAVE || msg->snapshot_written.manifest.len != DIGEST_BYTES)
			return;
		memcpy(s->manifest.at, msg->snapshot_written.manifest.at, DIGEST_BYTES);
		next_step(s, STEP_TELL);
		return;
	case MSG_worked:
		take_worked(s);
		return;
	default:
		return;
	}
}

/* ---- failures ---- */

static bool
is_frozen(const struct session *s)
{
	return s->keeper.linked && (s->step == STEP_STILL || s->step == STEP_READ ||
				    (s->step == STEP_GO_ON && !s->still.thawed));
}

void
session_snapshot_failed(struct session *s, const struct err *failure)
{
	struct err err;
	const struct err why = *failure;

	s->has_manifest = false;
	job_end(s->job);
	s->job = NULL;
	if (s->step == STEP_TELL)
		session_ref_later(s); /* it may tell what does not come true */
	if (s->step == STEP_LET_GO) { /* its deadline */
		log_line("session %s: its keeper does not answer and is cut", s->row.name);
		keeper_cut(s);
		return;
	}
	if (is_frozen(s)) {
		s->failure = why;
		session_enter(s, STEP_LET_GO, time_now_ns() + ANSWER_MAX_NS,
			      "it to go on as before");
		if (command(s, thaw, &err) < 0)
			keeper_cut(s); /* its end tells the rest */
		return;
	}
	session_finish(s, &why);
}

/* From the manifest on it is nearly done. */
void
session_snapshot_interrupt(struct session *s, const struct err *why)
{
	if (s->step == STEP_PREPARE || s->step == STEP_STILL || s->step == STEP_READ ||
	    s->step == STEP_GO_ON)
		session_snapshot_failed(s, why);
}

/* ---- what its client is told ---- */

void
session_snapshot_json(const struct session *s, const struct want *w, struct buf *out)
{
	buf_fmt(out, ",\"changed\":%s,\"frozen_ms\":%.1f", s->still.unchanged ? "false" : "true",
		(double)s->still.frozen_ns / (double)NS_PER_MS);
	if (!s->still.unchanged)
		buf_fmt(out, ",\"bytes\":%llu,\"raw_bytes\":%llu,\"entries\":%llu",
			(unsigned long long)s->a.layer.bytes,
			(unsigned long long)s->a.layer.raw_bytes,
			(unsigned long long)s->a.layer.entries);
	buf_text(out, ",\"name\":");
	json_put(out, str_of(w->facts.name));
	buf_text(out, ",\"note\":");
	json_put(out, str_of(w->facts.note));
}

void
session_snapshot_text(const struct session *s, const struct want *w, struct buf *out)
{
	if (s->still.unchanged)
		buf_text(out, ", its head: nothing has changed since");
	if (s->still.kept_name)
		buf_fmt(out, "; it keeps its name %s", w->facts.name);
	if (s->still.kept_note)
		buf_text(out, "; it keeps its note");
}
