/* Verbs that ask a session's keeper about one call: call output, call kill, call input.
 *
 *   asked ─the keeper's answer, its end, or WATCH_MAX▶ answered
 *   call input: asked ─call_input_open▶ GIVING ─verb_input_end▶ (--end: asked once more) ▶ answered
 *                                        └─the call's end▶ answered
 * Bytes of a call never go through the manager: it passes fds on. */
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/collector.h"
#include "manager/do.h"
#include "manager/imported.h"
#include "manager/verifier.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { WATCH_SEQ = 0x80000000u }; /* of our questions to keepers, apart from session.c's */

enum ask_kind { ASK_OUTPUT, ASK_KILL, ASK_INPUT, ASK_GIVING, ASK_CLOSE };

struct watch_ask {
	struct watch_ask *next;
	struct asker asker;
	struct session *s;
	uint32_t seq;
	char call[ID_BYTES];
	enum ask_kind kind;
	uint64_t from; /* of the output */
	bool follow;
	uint32_t stream;
	bool close; /* call input --end */
	uint64_t given;
	struct timer deadline;
};

static struct watch_ask *asks; /* waiting for a keeper's answer; few and short-lived */
static uint32_t last_seq;

#define WATCH_MAX_NS (30 * NS_PER_S)

/* Takes one out of the list; the caller answers, then drops it. */
static struct watch_ask *
take_ask(const struct session *s, uint32_t seq, bool any)
{
	for (struct watch_ask **at = &asks; *at; at = &(*at)->next) {
		struct watch_ask *a = *at;
		if (a->s != s || (!any && a->seq != seq))
			continue;
		*at = a->next;
		timer_cancel(&a->deadline);
		return a;
	}
	return NULL;
}

static const char *
verb_of(const struct watch_ask *a)
{
	switch (a->kind) {
	case ASK_OUTPUT:
		return "call output";
	case ASK_KILL:
		return "call kill";
	case ASK_INPUT:
	case ASK_GIVING:
	case ASK_CLOSE:
		break;
	}
	return "call input";
}

static void
give_up(struct watch_ask *a, enum err_code code, const char *why)
{
	struct err err;

	err_set(&err, code, "%s", why);
	err_what(&err, "%s", verb_of(a));
	asker_end(&a->asker, &err);
	free(a);
}

static void
overdue(void *ctx)
{
	struct watch_ask *a = ctx;

	give_up(take_ask(a->s, a->seq, false), ERR_UNAVAILABLE,
		"the session's keeper does not answer");
}

/* ---- call output: the journal's fd to the conn ---- */

static void
hand_over(struct asker *a, const int fds[2], uint64_t from, uint32_t stream, bool follow, bool live)
{
	struct err err;

	if (!a->conn)
		return;
	if (stream && wire_send(&a->conn->wire, verb_stream, &err, .seq = a->seq, .stream = stream) < 0) {
		shutdown(a->conn->wire.fd, SHUT_RDWR);
		return;
	}
	const struct msg_verb_journal j = {
	    .seq = a->seq, .from = from, .follow = follow, .live = live};
	if (wire_send_fds(&a->conn->wire, MSG_verb_journal, &j, fds, 2, &err) < 0)
		shutdown(a->conn->wire.fd, SHUT_RDWR);
	else
		asker_end(a, NULL);
}

static int
no_journal(const char *id, struct err *err)
{
	err_set(err, ERR_ABSENT, "the output of this call is no longer kept");
	return err_hint(err, "how it ended: ssh berth@HOST call show %s", id);
}

static int
give_file(struct session *s, const char *id, struct asker *a, uint64_t from, uint32_t stream,
	  struct err *err)
{
	char name[ID_BYTES + 16];

	snprintf(name, sizeof name, "calls/%s.j", id);
	auto_close int journal =
	    session_open_dir(s, err) < 0 ? -1 : path_open(s->dir, name, O_RDONLY, err);
	if (journal < 0)
		return errno == ENOENT ? no_journal(id, err) : -1;
	auto_close int growth = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (growth < 0)
		return err_sys(err, errno, "make an eventfd");
	const int fds[2] = {journal, growth};
	hand_over(a, fds, from, stream, false, false);
	return 0;
}

static void
await(struct watch_ask *take)
{
	take->next = asks;
	asks = take;
	timer_set(&take->s->m->loop, &take->deadline, time_now_ns() + WATCH_MAX_NS, overdue, take);
}

static int
sent(struct watch_ask *take, int wire_sent)
{
	if (wire_sent < 0)
		free(take);
	else
		await(take);
	return wire_sent;
}

static struct watch_ask *
new_ask(struct session *s, const struct asker *asker, const struct call_row *row,
	enum ask_kind kind)
{
	struct watch_ask *a = xnew(1, sizeof *a);

	*a = (struct watch_ask){
	    .asker = *asker, .s = s, .kind = kind, .seq = WATCH_SEQ | ++last_seq};
	memcpy(a->call, row->id, sizeof a->call);
	return a;
}

/* 0: both. */
static int
stream_of(const struct request *r, uint32_t *out, struct err *err)
{
	struct str text = STR_LIT("both");

	request_text(r, "stream", &text);
	if (str_is(text, "both"))
		*out = 0;
	else if (str_is(text, "out"))
		*out = 1; /* as streams of journals are numbered */
	else if (str_is(text, "err"))
		*out = 2;
	else
		return err_set(err, ERR_USAGE, "--stream is out, err or both");
	return 0;
}

int
do_call_output(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	       struct asker *asker, struct err *err)
{
	struct call_row row;
	const uint64_t from = request_number(r, "from", 0);
	uint32_t stream = 0;

	(void)c;
	if (stream_of(r, &stream, err) < 0 || do_find_call(m, r, s, &row, err) < 0)
		return -1;
	if (row.ended_by[0] || !s->keeper.linked)
		return give_file(s, row.id, asker, from, stream, err);
	struct watch_ask *a = new_ask(s, asker, &row, ASK_OUTPUT);
	a->from = from;
	a->stream = stream;
	a->follow = request_flag(r, "follow");
	return sent(a, wire_send(&s->keeper.wire, journal_watch, err, .seq = a->seq,
				    .call = str_of(row.id)));
}

/* ---- call kill ---- */

/* A name with or without SIG, or a number. */
static int
signal_of(const struct request *r, uint32_t *out, struct err *err)
{
	struct str text = STR_LIT("TERM");
	uint64_t number;

	request_text(r, "signal", &text);
	if (num_parse(text, 1, 64, &number, err) == 0) {
		*out = (uint32_t)number;
		return 0;
	}
	if (str_starts(text, "SIG"))
		text = (struct str){text.at + 3, text.len - 3};
	for (int i = 1; i < NSIG; i++) {
		const char *name = sigabbrev_np(i);
		if (name && str_is(text, name)) {
			*out = (uint32_t)i;
			return 0;
		}
	}
	return err_set(err, ERR_USAGE, "--signal is a name such as TERM or KILL, or 1 to 64");
}

int
do_call_kill(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err)
{
	struct call_row row;
	uint32_t signal = 0;

	(void)c;
	if (signal_of(r, &signal, err) < 0 || do_find_call(m, r, s, &row, err) < 0)
		return -1;
	if (!s->keeper.linked) {
		err_set(err, ERR_ABSENT, "nothing of it runs any more");
		return err_hint(err, "what became of it: ssh berth@HOST call show %s", row.id);
	}
	struct watch_ask *a = new_ask(s, asker, &row, ASK_KILL);
	return sent(a, wire_send(&s->keeper.wire, call_kill, err, .seq = a->seq,
				    .call = str_of(row.id), .signal = signal));
}

/* ---- call input: a write end of its stdin to the conn ---- */

int
do_call_input(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	      struct asker *asker, struct err *err)
{
	struct call_row row;

	(void)c;
	if (do_find_call(m, r, s, &row, err) < 0)
		return -1;
	if (row.ended_by[0] || !s->keeper.linked) {
		err_set(err, ERR_ABSENT, "its command has ended");
		return err_hint(err, "what became of it: ssh berth@HOST call show %s", row.id);
	}
	struct watch_ask *a = new_ask(s, asker, &row, ASK_INPUT);
	a->close = request_flag(r, "end");
	return sent(a, wire_send(&s->keeper.wire, call_input, err, .seq = a->seq,
				    .call = str_of(row.id)));
}

static void
end_input(struct watch_ask *a)
{
	auto_buf out = BUF_MAX(256);

	buf_fmt(&out, "{\"call\":\"%s\",\"bytes\":%llu}\n", a->call, (unsigned long long)a->given);
	if (a->asker.json)
		asker_print(&a->asker, buf_view(&out));
	asker_end(&a->asker, NULL);
}

/* Its fd goes to the conn, which says when all is given: no deadline, for the client gives it. */
static struct watch_ask *
begin_giving(struct watch_ask *a, struct message *open)
{
	const struct msg_verb_input given = {.seq = a->asker.seq};
	struct err err;

	if (!a->asker.conn)
		return a;
	if (wire_send_fds(&a->asker.conn->wire, MSG_verb_input, &given, open->fds, 1, &err) < 0) {
		shutdown(a->asker.conn->wire.fd, SHUT_RDWR);
		return a;
	}
	a->kind = ASK_GIVING;
	a->next = asks;
	asks = a;
	return NULL;
}

static struct watch_ask *
take_giving(const struct conn *c, uint32_t seq)
{
	for (struct watch_ask *a = asks; a; a = a->next)
		if (a->kind == ASK_GIVING && a->asker.conn == c && a->asker.seq == seq)
			return take_ask(a->s, a->seq, false);
	return NULL;
}

void
do_input_given(struct conn *c, const struct msg_verb_input_end *m)
{
	struct watch_ask *a = take_giving(c, m->seq);
	struct err err;

	if (!a && do_import_given(c, m))
		return;
	if (!a)
		return;
	a->given = m->bytes;
	if (m->refused) {
		err_set(&err, ERR_INCOMPLETE, "the call reads no more: %llu bytes were written",
			(unsigned long long)m->bytes);
		err_what(&err, "call input");
		asker_end(&a->asker, &err);
		free(a);
	} else if (a->close) {
		a->kind = ASK_CLOSE;
		if (wire_send(&a->s->keeper.wire, call_input_close, &err, .seq = a->seq,
			      .call = str_of(a->call)) < 0)
			give_up(a, err.code, err.why);
		else
			await(a);
	} else {
		end_input(a);
		free(a);
	}
}

void
do_input_told(struct manager *m, const char *session)
{
	struct call_row row;
	struct err err;

	for (struct watch_ask *a = asks, *next; a; a = next) {
		next = a->next;
		if (a->kind != ASK_GIVING || strcmp(a->s->row.id, session) != 0 ||
		    index_find_call(&m->index, a->call, &row, &err) != 1 || !row.ended_by[0])
			continue;
		take_ask(a->s, a->seq, false);
		err_set(&err, ERR_INCOMPLETE, "its command has ended before its input");
		err_hint(&err, "what became of it: ssh berth@HOST call show %s", a->call);
		err_what(&err, "call input");
		asker_end(&a->asker, &err);
		free(a);
		next = asks; /* an answer that cuts its conn takes out others of that */
	}
}

/* ---- what keepers answer ---- */

/* On a kill, or on stdin. */
static void
answer_done(struct watch_ask *a, const struct msg_done *done)
{
	struct err err;

	if (done && done->code == ERR_NONE && a->kind == ASK_KILL) {
		asker_end(&a->asker, NULL);
		return;
	}
	if (done && done->code == ERR_NONE) {
		end_input(a);
		return;
	}
	err_set(&err, done ? err_from_number(done->code) : ERR_INTERNAL, "%.*s",
		done ? (int)done->why.len : 0, done ? done->why.at : "");
	err_hint(&err, "what became of it: ssh berth@HOST call show %s", a->call);
	err_what(&err, "%s", verb_of(a));
	asker_end(&a->asker, &err);
}

bool
do_keeper_answer(struct session *s, uint32_t seq, struct message *opened,
		 const struct msg_done *done)
{
	struct err err;

	if (!(seq & WATCH_SEQ))
		return false;
	struct watch_ask *a = take_ask(s, seq, false);
	if (!a)
		return true; /* it was given up */
	if (a->kind == ASK_INPUT && opened)
		a = begin_giving(a, opened);
	else if (a->kind != ASK_OUTPUT) {
		answer_done(a, done);
	} else if (opened) {
		hand_over(&a->asker, opened->fds, a->from, a->stream, a->follow, true);
	} else {
		/* ABSENT: it has ended meanwhile, and its file tells all. Else the keeper's word
		 * stands. */
		const enum err_code code = done ? err_from_number(done->code) : ERR_INTERNAL;
		if (code != ERR_ABSENT)
			err_set(&err, code, "%.*s", done ? (int)done->why.len : 0,
				done ? done->why.at : "");
		if (code != ERR_ABSENT || give_file(s, a->call, &a->asker, a->from, a->stream, &err) < 0) {
			err_what(&err, "call output");
			asker_end(&a->asker, &err);
		}
	}
	free(a);
	return true;
}

void
do_keeper_gone(struct session *s)
{
	struct watch_ask *a;

	while ((a = take_ask(s, 0, true)))
		give_up(a, ERR_AGAIN, "the session's keeper ended");
}

void
do_forget_conn(const struct conn *c, const uint32_t *seq)
{
	imported_forget_conn(c, seq);
	do_read_forget(c, seq);
	do_import_forget(c, seq);
	collector_forget_conn(c, seq);
	verifier_forget_conn(c, seq);
	do_usage_forget_conn(c, seq);
	do_audit_forget_conn(c, seq);
	do_wait_forget(c, seq);
	do_bisect_forget(c, seq);
	do_fork_forget(c, seq);
	for (struct watch_ask *a = asks, *next; a; a = next) {
		next = a->next;
		if (a->asker.conn != c || (seq && a->asker.seq != *seq))
			continue;
		asker_forget(&a->asker);
		if (a->kind == ASK_GIVING) /* nobody else would ever end it */
			free(take_ask(a->s, a->seq, false));
	}
}
