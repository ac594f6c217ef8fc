/* Call records from keepers' spools to the audit log and to rows. They are gathered for a moment and
 * committed together; only then are they acknowledged, so a record is in the spool or in the index, never
 * in neither; its line in the log is written before (audit_calls.c). */
#include "base/log.h"
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/do.h"
#include "wire/spool_read.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { BATCH_MAX = 128 };
#define BATCH_WAIT_NS (100 * NS_PER_MS)
#define RETRY_WAIT_NS (1 * NS_PER_S)

/* Of the last two `command` holds what is told, and no row of the index. */
enum record_kind { RECORD_START, RECORD_END, RECORD_FILES, RECORD_FORWARD };

struct pending {
	struct pending *next;
	struct call_row row;
	char session[ID_BYTES];
	uint64_t record;
	enum record_kind kind;
	bool told; /* of FILES and FORWARD: in the audit log, by a transaction that failed */
};

/* In order of arrival, until they are committed. Bounded by what keepers send without an
 * acknowledgement (256 each). */
struct call_batch {
	struct pending *first, **last; /* owned */
	size_t n;
	struct timer timer;
};

static void
copy(char *out, size_t size, struct str s)
{
	snprintf(out, size, "%.*s", (int)s.len, s.len ? s.at : "");
}

/* Words that are printed as they stand, in JSON too, from a keeper that may have been taken. */
static void
copy_word(char *out, size_t size, struct str s)
{
	copy(out, size, s);
	for (char *c = out; *c; c++)
		if (!(*c >= 'a' && *c <= 'z') && !(*c >= '0' && *c <= '9') && !strchr("_-. ", *c))
			*c = '?';
}

static void
fill(struct pending *p, const struct session *s, const struct msg_call_record *r)
{
	const struct session_row *session = &s->row;

	*p = (struct pending){
	    .record = r->record,
	    .kind = str_is(r->kind, "end")	 ? RECORD_END
		    : str_is(r->kind, "files")	 ? RECORD_FILES
		    : str_is(r->kind, "forward") ? RECORD_FORWARD
						 : RECORD_START,
	};
	const bool end = p->kind == RECORD_END;
	memcpy(p->session, session->id, sizeof p->session);
	struct call_row *c = &p->row;
	copy_word(c->id, sizeof c->id, r->call);
	memcpy(c->session, session->id, sizeof c->session);
	copy(c->principal, sizeof c->principal, r->principal);
	copy_word(c->ended_by, sizeof c->ended_by, r->ended_by);
	copy_word(c->out_sha256, sizeof c->out_sha256, r->out_sha256);
	copy_word(c->err_sha256, sizeof c->err_sha256, r->err_sha256);
	copy(c->command, sizeof c->command, r->command);
	copy(c->left_running, sizeof c->left_running, r->left_running);
	copy_word(c->limit_hit, sizeof c->limit_hit, r->limit_hit);
	if (str_is(r->kind, "sftp"))
		copy(c->kind, sizeof c->kind, r->kind);
	c->started_ns = end ? r->time_ns - r->wall_ns : r->time_ns;
	c->ended_ns = end ? r->time_ns : 0;
	c->exit_status = r->exit_status;
	c->signal = r->signal;
	c->out_bytes = r->out_bytes;
	c->err_bytes = r->err_bytes;
	c->wall_ns = r->wall_ns;
	c->cpu_ns = r->cpu_ns;
	c->cpu_told = s->m->node.cgroup < 0; /* calls have a cgroup each, or none has */
	c->peak_bytes = r->peak_bytes;
}

static const char *
name_of(struct manager *m, const char *session)
{
	const struct session *s = session_find(m, str_of(session));
	return s ? s->row.name : "";
}

static void
tell(struct manager *m, const struct pending *p)
{
	if (p->kind == RECORD_FILES)
		audit_files(&m->audit, &p->row, name_of(m, p->session));
	else
		audit_write(&m->audit, "forward", AUDIT_TEXT("session", p->session),
			    AUDIT_TEXT("name", name_of(m, p->session)),
			    AUDIT_TEXT("principal", p->row.principal),
			    AUDIT_TEXT("what", p->row.command));
}

/* What an earlier manager has committed, but not acknowledged, is in the log too. */
static int
put(struct manager *m, struct pending *p, struct err *err)
{
	struct index *ix = &m->index;
	uint64_t last;

	if (index_spool_last(ix, p->session, &last, err) < 0)
		return -1;
	if (p->kind == RECORD_FILES || p->kind == RECORD_FORWARD) {
		if (p->record > last && !p->told)
			tell(m, p);
		p->told = true;
		return index_put_spool_last(ix, p->session, p->record > last ? p->record : last,
					    err);
	}
	if (p->record > last &&
	    audit_call(&m->audit, &p->row, name_of(m, p->session), p->kind == RECORD_END, err) < 0)
		return -1;
	if ((p->kind == RECORD_END ? index_put_call_end(ix, &p->row, err)
		    : index_put_call_start(ix, &p->row, err)) < 0)
		return -1;
	return index_put_spool_last(ix, p->session, p->record > last ? p->record : last, err);
}

/* The end of the transaction, with how far the audit log is. */
static int
commit(struct manager *m, struct err *err)
{
	uint64_t position;

	if (audit_calls_position(&m->audit, &position, err) < 0 ||
	    index_put_spool_last(&m->index, AUDIT_POSITION, position, err) < 0 ||
	    index_commit(&m->index, err) < 0)
		return -1;
	audit_calls_committed(&m->audit);
	return 0;
}

static void
roll_back(struct manager *m)
{
	index_rollback(&m->index);
	audit_calls_rolled_back(&m->audit);
}

static void
acknowledge(struct manager *m, const struct pending *p)
{
	struct err err;
	struct session *s = session_find(m, str_of(p->session));

	if (s && s->keeper.linked &&
	    wire_send(&s->keeper.wire, record_ack, &err, .record = p->record) < 0)
		log_err(&err, "session %s", s->row.name);
}

static void
timer_flush(void *ctx)
{
	records_flush(ctx);
}

/* Calls of this session have ended in the index. */
static void
told(struct manager *m, const char *session)
{
	do_wait_told(m, session);
	do_input_told(m, session);
	do_bisect_told(m, session);
}

void
records_flush(struct manager *m)
{
	struct call_batch *b = m->batch;
	struct err err;

	if (!b || b->n == 0)
		return;
	timer_cancel(&b->timer);
	int result = index_begin(&m->index, &err);
	for (struct pending *p = b->first; p && result == 0; p = p->next)
		result = put(m, p, &err);
	if (result == 0)
		result = commit(m, &err);
	if (result < 0) { /* nothing is acknowledged: an acknowledgement speaks for all before it */
		roll_back(m);
		log_err(&err, "%zu call records wait", b->n);
		timer_set(&m->loop, &b->timer, time_now_ns() + RETRY_WAIT_NS, timer_flush, m);
		return;
	}
	struct pending *done = b->first;
	b->first = NULL;
	b->last = &b->first;
	b->n = 0;
	while (done) {
		struct pending *p = done;
		done = p->next;
		acknowledge(m, p);
		if (p->kind == RECORD_END)
			told(m, p->session);
		free(p);
	}
}

void
records_add(struct session *s, const struct msg_call_record *r)
{
	struct manager *m = s->m;

	if (!m->batch) {
		m->batch = xnew(1, sizeof *m->batch);
		m->batch->last = &m->batch->first;
	}
	s->automatic.ran = true;
	struct call_batch *b = m->batch;
	struct pending *p = xnew(1, sizeof *p);
	fill(p, s, r);
	*b->last = p;
	b->last = &p->next;
	if (++b->n % BATCH_MAX == 0)
		records_flush(m);
	else if (b->n == 1)
		timer_set(&m->loop, &b->timer, time_now_ns() + BATCH_WAIT_NS, timer_flush, m);
}

void
records_free(struct manager *m)
{
	while (m->batch && m->batch->first) {
		struct pending *p = m->batch->first;
		m->batch->first = p->next;
		free(p);
	}
	free(m->batch);
	m->batch = NULL;
}

/* ---- a spool without its keeper ---- */

struct replay {
	struct session *s;
	uint64_t last;
};

static int
replay_one(void *ctx, const struct msg_call_record *r, struct err *err)
{
	struct replay *replay = ctx;
	struct pending *p = xnew(1, sizeof *p);

	int result = 0;
	if (r->record > replay->last) {
		fill(p, replay->s, r);
		result = put(replay->s->m, p, err);
	}
	free(p);
	return result;
}

static int
lose_one(void *ctx, const struct call_row *row, struct err *err)
{
	struct session *s = ctx;
	struct call_row lost = *row;

	lost.ended_ns = time_real_ns();
	snprintf(lost.ended_by, sizeof lost.ended_by, "lost");
	return audit_call(&s->m->audit, &lost, s->row.name, true, err);
}

void
records_replay(struct session *s)
{
	struct manager *m = s->m;
	struct err err;
	struct replay replay = {.s = s};
	auto_close int calls =
	    session_open_dir(s, &err) < 0
		? -1
		: openat(s->dir, "calls", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	if (calls < 0)
		return;
	if (index_spool_last(&m->index, s->row.id, &replay.last, &err) < 0 ||
	    index_begin(&m->index, &err) < 0) {
		log_err(&err, "session %s: its spool waits", s->row.name);
		return;
	}
	if (spool_replay(calls, replay_one, &replay, &err) < 0 ||
	    index_list_open_calls(&m->index, s->row.id, lose_one, s, &err) < 0 ||
	    index_lose_calls(&m->index, s->row.id, time_real_ns(), &err) < 0) {
		roll_back(m);
		log_err(&err, "session %s: its spool waits", s->row.name);
		return;
	}
	if (commit(m, &err) < 0) {
		roll_back(m);
		log_err(&err, "session %s: its spool waits", s->row.name);
		return;
	}
	unlinkat(calls, SPOOL_NAME, 0);
	told(m, s->row.id);
}
