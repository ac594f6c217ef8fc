/* calls, call show, call output, call kill */
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/do.h"
#include "manager/imported.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

enum { CALLS_LISTED = 100, CALLS_LISTED_MAX = 100000 };

struct listing {
	struct buf *out;
	bool json, first;
};

void
do_call_json(struct buf *out, const struct call_row *r)
{
	char started[TIME_TEXT_BYTES], ended[TIME_TEXT_BYTES] = "";

	time_format(r->started_ns, started);
	if (r->ended_ns)
		time_format(r->ended_ns, ended);
	buf_fmt(out, "{\"call\":\"%s\",\"session\":\"%s\",\"principal\":", r->id, r->session);
	json_put(out, str_of(r->principal));
	buf_fmt(out, ",\"kind\":\"%s\",\"command\":", r->kind);
	json_put(out, str_of(r->command));
	buf_fmt(out,
		",\"started\":\"%s\",\"ended\":\"%s\",\"live\":%s,\"exit_status\":%u,\"signal\":%u",
		started, ended, r->ended_by[0] ? "false" : "true", r->exit_status, r->signal);
	buf_fmt(out, ",\"ended_by\":\"%s\",\"stdout_bytes\":%llu,\"stderr_bytes\":%llu",
		r->ended_by, (unsigned long long)r->out_bytes, (unsigned long long)r->err_bytes);
	buf_fmt(out,
		",\"wall_ns\":%llu,\"cpu_ns\":%llu,\"peak_bytes\":%llu,\"stdout_sha256\":\"%s\","
		"\"stderr_sha256\":\"%s\"",
		(unsigned long long)r->wall_ns, (unsigned long long)r->cpu_ns,
		(unsigned long long)r->peak_bytes, r->out_sha256, r->err_sha256);
	if (r->limit_hit[0])
		buf_fmt(out, ",\"limit\":\"%s\"", r->limit_hit);
	buf_text(out, ",\"left_running\":[");
	struct str rest = str_of(r->left_running), line;
	bool first = true;
	while (rest.len && str_cut(&rest, '\n', &line)) {
		if (!line.len)
			continue;
		if (!first)
			buf_char(out, ',');
		json_put(out, line);
		first = false;
	}
	buf_text(out, "]}");
}

static void
exit_text(const struct call_row *r, char out[32])
{
	if (!r->ended_by[0])
		snprintf(out, 32, "live");
	else if (r->signal)
		snprintf(out, 32, "SIG%s",
			 sigabbrev_np((int)r->signal) ? sigabbrev_np((int)r->signal) : "?");
	else
		snprintf(out, 32, "%u", r->exit_status);
}

static int
list_one(void *ctx, const struct call_row *r, struct err *err)
{
	struct listing *l = ctx;
	char age[16], bytes[16], ended[32];

	(void)err;
	if (l->json) {
		buf_text(l->out, l->first ? "\n" : ",\n");
		do_call_json(l->out, r);
	} else {
		char command[61];
		age_format(r->started_ns, age);
		size_format(r->out_bytes + r->err_bytes, bytes);
		exit_text(r, ended);
		snprintf(command, sizeof command, "%.60s", r->command);
		for (char *p = command; *p; p++)
			if ((unsigned char)*p < 0x20 || *p == 0x7f)
				*p = ' ';
		buf_fmt(l->out, "%-18s %5s %8s %-8s %10s  %s\n", r->id, age, ended, r->ended_by,
			bytes, command);
	}
	l->first = false;
	return 0;
}

int
do_calls(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	 struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	struct listing l = {.out = &out, .json = r->json, .first = true};
	const uint64_t most = request_number(r, "limit", CALLS_LISTED);

	(void)c;
	keeper_read(s); /* what has ended is listed as ended */
	records_flush(m);
	if (r->json)
		buf_char(&out, '[');
	else
		buf_fmt(&out, "%-18s %5s %8s %-8s %10s  %s\n", "CALL", "AGE", "EXIT", "BY",
			"OUTPUT", "COMMAND");
	if (index_list_calls(&m->index, s->row.id,
			     (unsigned)(most < CALLS_LISTED_MAX ? most : CALLS_LISTED_MAX),
			     list_one, &l, err) < 0)
		return -1;
	if (r->json)
		buf_text(&out, l.first ? "]\n" : "\n]\n");
	return do_answer(asker, &out, err);
}

int
do_find_call(struct manager *m, const struct request *r, struct session *s, struct call_row *out,
	     struct err *err)
{
	struct str call = {NULL, 0};
	char id[ID_BYTES];

	request_text(r, "call", &call);
	if (str_copy(call, id, sizeof id, err) < 0)
		return -1;
	keeper_read(s);
	records_flush(m);
	const int got = index_find_call(&m->index, id, out, err);
	return got == 1 ? 0 : got < 0 ? -1 : err_set(err, ERR_ABSENT, "no such call");
}

int
do_call_show(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(65536);
	struct call_row row;
	char started[TIME_TEXT_BYTES], ended[32], bytes[2][16];

	(void)c;
	if (do_find_call(m, r, s, &row, err) < 0)
		return -1;
	if (r->json) {
		do_call_json(&out, &row);
		buf_char(&out, '\n');
	} else {
		time_format(row.started_ns, started);
		exit_text(&row, ended);
		size_format(row.out_bytes, bytes[0]);
		size_format(row.err_bytes, bytes[1]);
		buf_fmt(&out, "%-10s%s\n%-10s%s\n%-10s%s\n%-10s%s\n%-10s%s\n%-10s%s\n", "call",
			row.id, "session", s->row.name, "kind", row.kind, "command", row.command,
			"by", row.principal, "started", started);
		buf_fmt(&out, "%-10s%s%s%s\n", "exit", ended, row.ended_by[0] ? ", ended by " : "",
			row.ended_by);
		if (row.limit_hit[0])
			buf_fmt(&out, "%-10s%s\n", "limit", row.limit_hit);
		buf_fmt(&out, "%-10s%.3f s, cpu %.3f s\n", "wall", (double)row.wall_ns / 1e9,
			(double)row.cpu_ns / 1e9);
		buf_fmt(&out, "%-10s%s, stderr %s\n", "stdout", bytes[0], bytes[1]);
		if (row.out_sha256[0])
			buf_fmt(&out, "%-10s%s stdout\n%-10s%s stderr\n", "sha256", row.out_sha256,
				"", row.err_sha256);
		if (row.left_running[0])
			buf_fmt(&out, "%-10s%s\n", "left", row.left_running);
	}
	return do_answer(asker, &out, err);
}

/* ---- call output: the journal's fd to the conn, never its bytes through us ---- */

enum { WATCH_SEQ = 0x80000000u }; /* of our questions to keepers, apart from session.c's */

struct watch_ask {
	struct watch_ask *next;
	struct asker asker;
	struct session *s;
	uint32_t seq;
	char call[ID_BYTES];
	uint64_t from;
	bool follow;
	uint32_t stream;
	bool kill; /* it asks for a signal, not for the journal */
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

static void
give_up(struct watch_ask *a, enum err_code code, const char *why)
{
	struct err err;

	err_set(&err, code, "%s", why);
	err_what(&err, a->kill ? "call kill" : "call output");
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

/* Takes `a` over, unless it fails. */
static int
sent(struct session *s, struct watch_ask *a, int wire_sent)
{
	if (wire_sent < 0) {
		free(a);
		return -1;
	}
	a->next = asks;
	asks = a;
	timer_set(&s->m->loop, &a->deadline, time_now_ns() + WATCH_MAX_NS, overdue, a);
	return 0;
}

static struct watch_ask *
new_ask(struct session *s, const struct asker *asker, const struct call_row *row)
{
	struct watch_ask *a = xnew(1, sizeof *a);

	*a = (struct watch_ask){.asker = *asker, .s = s, .seq = WATCH_SEQ | ++last_seq};
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
	struct watch_ask *a = new_ask(s, asker, &row);
	a->from = from;
	a->stream = stream;
	a->follow = request_flag(r, "follow");
	return sent(s, a, wire_send(&s->keeper.wire, journal_watch, err, .seq = a->seq,
				    .call = str_of(row.id)));
}

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
	struct watch_ask *a = new_ask(s, asker, &row);
	a->kill = true;
	return sent(s, a, wire_send(&s->keeper.wire, call_kill, err, .seq = a->seq,
				    .call = str_of(row.id), .signal = signal));
}

/* The keeper's word on a kill. */
static void
answer_kill(struct watch_ask *a, const struct msg_done *done)
{
	struct err err;

	if (done && done->code == ERR_NONE) {
		asker_end(&a->asker, NULL);
		return;
	}
	err_set(&err, done ? err_from_number(done->code) : ERR_INTERNAL, "%.*s",
		done ? (int)done->why.len : 0, done ? done->why.at : "");
	err_hint(&err, "what became of it: ssh berth@HOST call show %s", a->call);
	err_what(&err, "call kill");
	asker_end(&a->asker, &err);
}

bool
do_keeper_answer(struct session *s, uint32_t seq, struct message *watched,
		 const struct msg_done *done)
{
	struct err err;

	if (!(seq & WATCH_SEQ))
		return false;
	struct watch_ask *a = take_ask(s, seq, false);
	if (!a)
		return true; /* it was given up */
	if (a->kill) {
		answer_kill(a, done);
	} else if (watched) {
		hand_over(&a->asker, watched->fds, a->from, a->stream, a->follow, true);
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
	do_audit_forget_conn(c, seq);
	do_wait_forget(c, seq);
	for (struct watch_ask *a = asks; a; a = a->next)
		if (a->asker.conn == c && (!seq || a->asker.seq == *seq))
			asker_forget(&a->asker);
}
