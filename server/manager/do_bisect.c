/* bisect: the first snapshot on the way from one to a later one on which a command fails. It is run
 * in throwaway sessions by the manager itself, which says to their keepers what a conn would say.
 *
 *   a round: so many runs at once as were asked for, spread over what is not known yet; the ends
 * first a run:   STARTING ─told▶ ASKED ─call_started▶ RUNNING ─its end is in the index▶ judged a
 * run that another one's result makes needless is ended at once; what was begun by a verb that is
 *   cancelled too. Output stays in the run's journal: conn shows the end of it, when it was bad. */
#include "base/time.h"
#include "manager/bisect_run.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { POINTS_MAX = 4096, TAIL_BYTES = 2048, SKIP_STATUS = 125 };

static struct bisect *bisects; /* one for each verb under way */

static void next_round(struct bisect *b);

static void
take_out(struct bisect *b)
{
	for (struct bisect **at = &bisects; *at; at = &(*at)->next)
		if (*at == b) {
			*at = b->next;
			break;
		}
	for (size_t i = 0; i < BISECT_RUNS_MAX; i++)
		bisect_run_end(&b->runs[i]);
	free(b->points);
	free(b->command);
	b->points = NULL;
	b->command = NULL;
	loop_defer(&b->m->loop, free, b); /* a run of it may be what tells of this */
}

void
bisect_fail(struct bisect *b, struct err *why)
{
	err_what(why, "bisect %s", b->session);
	asker_end(&b->asker, why);
	take_out(b);
}

/* ---- what is said ---- */

static void
say_tested(struct bisect *b, const struct run *r, const struct call_row *row)
{
	static const char *const words[] = {[GOOD] = "good", [BAD] = "bad", [SKIPPED] = "skipped"};
	const struct point *p = &b->points[r->point];
	const struct digest_text text = digest_text(&p->digest);
	auto_buf line = BUF_MAX(512);
	struct err err;

	if (b->asker.json)
		buf_fmt(&line,
			"{\"event\":\"tested\",\"snapshot\":\"sha256:%s\",\"verdict\":\"%s\","
			"\"exit\":%u,"
			"\"signal\":%u,\"ended_by\":\"%s\"",
			text.text, words[p->verdict], row->exit_status, row->signal, row->ended_by);
	else if (row->signal)
		buf_fmt(&line, "%.12s: %s (signal %u)\n", text.text, words[p->verdict],
			row->signal);
	else
		buf_fmt(&line, "%.12s: %s (exit %u%s)\n", text.text, words[p->verdict],
			row->exit_status,
			str_is(str_of(row->ended_by), "timeout") ? ", it took too long" : "");
	if (p->verdict != BAD || r->journal < 0 || !b->asker.conn) {
		buf_text(&line, b->asker.json ? "}\n" : "");
		asker_print(&b->asker, buf_view(&line));
		return;
	}
	if (!b->asker.json) {
		asker_print(&b->asker, buf_view(&line));
		buf_clear(&line);
		buf_text(&line, "    ");
	} else {
		buf_text(&line, ",\"output\":");
	}
	const struct msg_verb_tail tail = {.seq = b->asker.seq,
					   .bytes = TAIL_BYTES,
					   .json = b->asker.json,
					   .before = buf_view(&line),
					   .behind = STR_LIT("}\n")};
	if (wire_send_fds(&b->asker.conn->wire, MSG_verb_tail, &tail, &r->journal, 1, &err) < 0)
		conns_drop(b->asker.conn, &err);
}

static void
say_command(struct bisect *b, const char *calls, struct buf *out)
{
	struct str rest = str_of(calls), id;
	struct call_row row;
	struct err err;
	char text[ID_BYTES];

	while (str_cut(&rest, ' ', &id)) {
		if (!id.len || str_copy(id, text, sizeof text, &err) < 0)
			continue;
		const bool known = index_find_call(&b->m->index, text, &row, &err) == 1;
		buf_fmt(out, "call %s%s%s\n", text, known ? ": " : "", known ? row.command : "");
	}
}

/* The first bad one; or those among which it is, since all but the last of them were skipped. */
static void
say_found(struct bisect *b)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	auto_free struct snapshot_row *row = xnew(1, sizeof *row);
	const struct point *p = &b->points[b->bad];
	const struct digest_text first = digest_text(&p->digest),
				 last = digest_text(&b->points[b->good].digest);
	struct err err;

	if (b->bad - b->good > 1) {
		err_set(&err, ERR_UNAVAILABLE,
			"the first bad one is %.12s, or one of the %zu before it, which were all "
			"skipped",
			first.text, b->bad - b->good - 1);
		bisect_fail(b, &err);
		return;
	}
	const int got = index_find_snapshot(&b->m->index, &p->digest, row, &err);
	if (got != 1) {
		if (got == 0)
			err_set(&err, ERR_ABSENT, "snapshot %.12s is not there any more",
				first.text);
		bisect_fail(b, &err);
		return;
	}
	if (b->asker.json) {
		buf_fmt(&out,
			"{\"event\":\"found\",\"first_bad\":\"sha256:%s\",\"last_good\":\"sha256:%"
			"s\",\"made_by\":",
			first.text, last.text);
		json_put(&out, str_of(row->made_by));
		do_put_calls(b->m, row->calls, &out);
		buf_text(&out, "}\n");
	} else {
		buf_fmt(&out, "first bad: %.12s%s%s, made by %s; last good: %.12s\n", first.text,
			row->facts.name[0] ? " " : "", row->facts.name, row->made_by, last.text);
		say_command(b, row->calls, &out);
	}
	asker_print(&b->asker, buf_view(&out));
	asker_end(&b->asker, NULL);
	take_out(b);
}

/* ---- results ---- */

/* The ends must be what they were said to be: else any answer would be wrong. */
static int
check_ends(const struct bisect *b, const struct call_row *row, size_t point, struct err *err)
{
	const enum verdict v = b->points[point].verdict;

	if (point == 0 && v != GOOD)
		err_set(err, ERR_USAGE,
			"the command does not succeed on the good snapshot: exit %u",
			row->signal ? 128 + row->signal : row->exit_status);
	else if (point == b->n - 1 && v != BAD)
		err_set(err, ERR_USAGE, "the command does not fail on the bad snapshot: exit %u",
			row->exit_status);
	else
		return 0;
	return err_hint(err, "take other snapshots, or try it: ssh berth@HOST fork %.12s NAME",
			digest_text(&b->points[point].digest).text);
}

void
bisect_judge(struct run *r, const struct call_row *row)
{
	struct bisect *b = r->of;
	struct point *p = &b->points[r->point];
	const size_t point = r->point;
	struct err err;

	if (str_is(str_of(row->ended_by), "lost") || str_is(str_of(row->ended_by), "kill")) {
		err_set(&err, ERR_UNAVAILABLE,
			"the command was ended on %.12s by something else: %s",
			digest_text(&p->digest).text, row->ended_by);
		bisect_fail(b, &err);
		return;
	}
	p->verdict = row->signal || (row->exit_status && row->exit_status != SKIP_STATUS) ? BAD
		     : row->exit_status                                                   ? SKIPPED
											  : GOOD;
	say_tested(b, r, row);
	bisect_run_end(r);
	if (check_ends(b, row, point, &err) < 0) {
		bisect_fail(b, &err);
		return;
	}
	if (p->verdict == GOOD && point > b->good && point < b->bad)
		b->good = point;
	if (p->verdict == BAD && point < b->bad && point > b->good)
		b->bad = point;
	for (size_t i = 0; i < BISECT_RUNS_MAX; i++) {
		struct run *other = &b->runs[i];
		const bool is_end = other->point == 0 || other->point == b->n - 1;
		if (other->s && !is_end && (other->point <= b->good || other->point >= b->bad))
			bisect_run_end(other);
	}
	if (b->running == 0)
		next_round(b);
}

static struct run *
find_run(const char *session)
{
	for (struct bisect *b = bisects; b; b = b->next)
		for (size_t i = 0; i < BISECT_RUNS_MAX; i++)
			if (b->runs[i].s && b->runs[i].call[0] &&
			    strcmp(b->runs[i].s->row.id, session) == 0)
				return &b->runs[i];
	return NULL;
}

void
do_bisect_told(struct manager *m, const char *session)
{
	auto_free struct call_row *row = xnew(1, sizeof *row);
	struct run *r = find_run(session);
	struct err err;

	if (r && index_find_call(&m->index, r->call, row, &err) == 1 && row->ended_by[0])
		bisect_judge(r, row);
}

/* ---- rounds ---- */

/* Of those between, which are not known: the i-th of k that cut them into parts of one size. */
static size_t
choose(const struct bisect *b, size_t i, size_t k)
{
	size_t n = 0, at = 0;

	for (size_t p = b->good + 1; p < b->bad; p++)
		n += b->points[p].verdict == UNKNOWN;
	const size_t wanted = (i + 1) * n / (k + 1);
	for (size_t p = b->good + 1; p < b->bad; p++)
		if (b->points[p].verdict == UNKNOWN && at++ == wanted)
			return p;
	return b->n;
}

static size_t
plan_round(const struct bisect *b, size_t out[BISECT_RUNS_MAX])
{
	size_t n = 0, open = 0;

	if (b->points[0].verdict == UNKNOWN)
		out[n++] = 0;
	if (b->points[b->n - 1].verdict == UNKNOWN && n < b->parallel)
		out[n++] = b->n - 1;
	for (size_t p = b->good + 1; p < b->bad; p++)
		open += b->points[p].verdict == UNKNOWN;
	size_t k = b->parallel - n < open ? b->parallel - n : open;
	for (size_t i = 0; i < k; i++)
		out[n + i] = choose(b, i, k);
	return n + k;
}

static void
next_round(struct bisect *b)
{
	size_t points[BISECT_RUNS_MAX];
	struct err err;
	const size_t n = plan_round(b, points);

	if (n == 0) {
		say_found(b);
		return;
	}
	for (size_t i = 0; i < n; i++)
		if (bisect_run_begin(b, &b->runs[i], points[i], &err) < 0) {
			bisect_fail(b, &err);
			return;
		}
}

/* ---- the verb ---- */

/* Of the session itself, or of one that it was forked from. */
static int
find_end(const struct conn *c, const struct request *r, const char *which, const struct session *s,
	 struct snapshot_row *out, struct err *err)
{
	struct str ref = {NULL, 0};
	struct err own;

	request_text(r, which, &ref);
	if (do_find_snapshot(c, ref, s, out, NULL, &own) == 0)
		return 0;
	if (own.code != ERR_ABSENT) {
		*err = own;
		return -1;
	}
	return do_find_snapshot(c, ref, NULL, out, NULL, err);
}

/* From the bad one to the good one by parents; what this principal may not see is left out. */
static int
find_path(struct bisect *b, const struct conn *c, const struct digest *good,
	  const struct digest *bad, struct err *err)
{
	auto_free struct snapshot_row *row = xnew(1, sizeof *row);
	struct digest at = *bad;

	b->points = xnew(POINTS_MAX, sizeof *b->points);
	for (;;) {
		const int got = index_find_snapshot(&b->m->index, &at, row, err);
		if (got < 0)
			return -1;
		const struct session *s = got ? session_find(b->m, str_of(row->session)) : NULL;
		if (s && may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name)))
			b->points[b->n++].digest = at;
		if (digest_equal(&at, good))
			break;
		if (got == 0 || !row->has_parent) {
			err_set(err, ERR_USAGE, "the good snapshot is no ancestor of the bad one");
			return err_hint(err, "GOOD first; see: ssh berth@HOST snapshots");
		}
		if (b->n == POINTS_MAX)
			return err_set(err, ERR_USAGE, "more than %d snapshots lie between",
				       POINTS_MAX);
		at = row->parent;
	}
	if (b->n < 2)
		return err_set(err, ERR_USAGE, "the good and the bad snapshot are the same");
	for (size_t i = 0; i < b->n / 2; i++) {
		const struct point p = b->points[i];
		b->points[i] = b->points[b->n - 1 - i];
		b->points[b->n - 1 - i] = p;
	}
	b->bad = b->n - 1;
	return 0;
}

static int
read_request(struct bisect *b, const struct conn *c, const struct request *r,
	     const struct session *s, struct err *err)
{
	auto_free struct snapshot_row *good = xnew(1, sizeof *good), *bad = xnew(1, sizeof *bad);
	auto_buf command = BUF_MAX(131072);
	const long cores = sysconf(_SC_NPROCESSORS_ONLN);

	const uint64_t parallel = request_number(r, "parallel",
						 cores < 1                 ? 1
						 : cores > BISECT_RUNS_MAX ? BISECT_RUNS_MAX
									   : (uint64_t)cores);
	if (parallel < 1 || parallel > BISECT_RUNS_MAX)
		return err_set(err, ERR_USAGE, "--parallel is 1 to %d", BISECT_RUNS_MAX);
	b->parallel = (size_t)parallel;
	b->timeout_ns = request_number(r, "timeout", 0);
	request_command(r, "command", &command);
	if (!command.len || buf_bad(&command))
		return err_set(err, ERR_USAGE,
			       command.len ? "the command is too long" : "the command is empty");
	b->command = xstrndup(buf_view(&command));
	if (find_end(c, r, "good", s, good, err) < 0 || find_end(c, r, "bad", s, bad, err) < 0)
		return -1;
	return find_path(b, c, &good->digest, &bad->digest, err);
}

static void
say_begin(struct bisect *b)
{
	auto_buf line = BUF_MAX(512);
	const struct digest_text good = digest_text(&b->points[0].digest),
				 bad = digest_text(&b->points[b->bad].digest);

	if (b->asker.json)
		buf_fmt(&line,
			"{\"event\":\"begin\",\"good\":\"sha256:%s\",\"bad\":\"sha256:%s\","
			"\"between\":%zu,"
			"\"parallel\":%zu}\n",
			good.text, bad.text, b->n - 2, b->parallel);
	else
		buf_fmt(&line, "%zu snapshots between %.12s and %.12s, %zu at a time\n", b->n - 2,
			good.text, bad.text, b->parallel);
	asker_print(&b->asker, buf_view(&line));
}

int
do_bisect(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	  struct asker *asker, struct err *err)
{
	struct bisect *b = xnew(1, sizeof *b);

	b->m = m;
	b->asker = *asker;
	b->plain = c->role != PRINCIPAL_OPERATOR;
	snprintf(b->session, sizeof b->session, "%s", s->row.name);
	snprintf(b->principal, sizeof b->principal, "%s", c->principal);
	snprintf(b->role, sizeof b->role, "%s", principal_role_name(c->role));
	for (size_t i = 0; i < BISECT_RUNS_MAX; i++)
		b->runs[i] = (struct run){.of = b, .journal = -1};
	if (read_request(b, c, r, s, err) < 0) {
		free(b->points);
		free(b->command);
		free(b);
		return -1;
	}
	b->next = bisects;
	bisects = b;
	say_begin(b);
	next_round(b);
	return 0;
}

void
do_bisect_forget(const struct conn *c, const uint32_t *seq)
{
	for (struct bisect *b = bisects, *next; b; b = next) {
		next = b->next;
		if (b->asker.conn != c || (seq && b->asker.seq != *seq))
			continue;
		asker_forget(&b->asker);
		take_out(b);
	}
}
