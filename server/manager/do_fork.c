/* fork: new sessions on what another one has, or on a snapshot.
 *
 *   asked ─(its origin is captured, if no snapshot has all that it holds)▶ MAKING: rows of all,
 * then each starts as any session does (SESSION_STARTS_MAX at once) ─all have▶ answered
 *
 * Whoever asked and goes, or interrupts it, gets what has started by then; the rest is not made.
 *
 * What an operator gave the origin is the operator's to give again: others leave it, by --plain. */
#include "base/log.h"
#include "manager/do.h"
#include "manager/origin.h"
#include "manager/throwaway.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { FORKS_MAX = 256, NAME_TEXT_BYTES = 96 };

struct fork {
	struct fork *next;
	struct manager *m;
	struct asker asker;
	char origin[64], owner[128], name[64];
	bool many, plain, by_operator;
	bool is_snapshot, starting;
	struct snapshot_row snapshot; /* where is_snapshot */
	bool has_head;
	struct digest head;
	size_t n, ended, failed, asked;
	struct err first;      /* why the first that did did not start */
	char given[512];       /* what was left to an operator */
	char (*ids)[ID_BYTES]; /* owned: of those that were made */
};

static struct fork *forks; /* one for each verb under way */

static void
fork_free(struct fork *f)
{
	for (struct fork **at = &forks; *at; at = &(*at)->next)
		if (*at == f) {
			*at = f->next;
			break;
		}
	free(f->ids);
	free(f);
}

static void
name_of(const struct fork *f, size_t i, char out[NAME_TEXT_BYTES])
{
	if (f->many)
		snprintf(out, NAME_TEXT_BYTES, "%s-%zu", f->name, i + 1);
	else
		snprintf(out, NAME_TEXT_BYTES, "%s", f->name);
}

/* ---- answers ---- */

static void
put_one(const struct fork *f, const struct session *s, struct buf *out)
{
	const struct digest_text head = digest_text(&f->head);

	if (!f->asker.json) {
		buf_fmt(out, "%s: %s, from ", s->row.name, session_state_name(s->state));
		if (f->has_head)
			buf_fmt(out, "%.12s of ", head.text);
		buf_fmt(out, "%s%s%s\n", f->origin, f->given[0] ? ", without " : "", f->given);
		return;
	}
	buf_fmt(out, "{\"session\":\"%s\",\"id\":\"%s\",\"state\":\"%s\",\"origin\":\"%s\"",
		s->row.name, s->row.id, session_state_name(s->state), f->origin);
	if (f->has_head)
		buf_fmt(out, ",\"snapshot\":\"sha256:%s\"", head.text);
	buf_text(out, ",\"without\":");
	json_put(out, str_of(f->given));
	buf_char(out, '}');
}

static void
answer(struct fork *f)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	bool any = false;

	buf_text(&out, f->asker.json && f->many ? "[" : "");
	for (size_t i = 0; i < f->n; i++) {
		const struct session *s = session_find(f->m, str_of(f->ids[i]));
		if (!s)
			continue;
		buf_text(&out, f->asker.json && any ? ",\n" : "");
		put_one(f, s, &out);
		any = true;
	}
	if (f->asker.json)
		buf_text(&out, f->many ? "]\n" : "\n");
	asker_print(&f->asker, buf_view(&out));
	if (f->failed && f->many)
		err_add(&f->first, "%zu of %zu did not start, the first", f->failed, f->n);
	if (f->failed)
		err_what(&f->first, "fork %s", f->origin);
	asker_end(&f->asker, f->failed ? &f->first : NULL);
	fork_free(f);
}

static void on_started(void *ctx, struct session *s, const struct err *failure);

/* A start may fail at once, and tell so from within. */
static void
start(struct fork *f, size_t n)
{
	f->starting = true;
	while (f->asked < n) {
		struct session *s = session_find(f->m, str_of(f->ids[f->asked++]));
		if (!s) /* it was not made, and is counted */
			continue;
		struct want *w = want_new(f->m, WANT_RUN, NULL);
		w->told = on_started;
		w->told_ctx = f;
		session_want(s, w);
	}
	f->starting = false;
	if (f->ended == f->n)
		answer(f);
	else if (f->ended && f->asked < f->n)
		start(f, f->n);
}

static void
on_started(void *ctx, struct session *s, const struct err *failure)
{
	struct fork *f = ctx;

	(void)s;
	if (failure && f->failed++ == 0)
		f->first = *failure;
	f->ended++;
	if (!f->starting)
		start(f, f->n);
}

static int
note_missing(void *ctx, const struct layer_row *layer, struct err *err)
{
	const struct fork *f = ctx;

	(void)err;
	return manager_is_cached(f->m, &layer->digest) ? 0 : 1;
}

/* Else each of them would unpack what the first does. */
static bool
is_ready(struct fork *f)
{
	struct err err;

	return !f->has_head ||
	       index_list_layers(&f->m->index, &f->head, note_missing, f, &err) == 0;
}

/* ---- making them ---- */

/* One that has nothing yet but its row and an empty directory. */
static bool
unmake(struct fork *f, size_t i)
{
	struct session *s = session_find(f->m, str_of(f->ids[i]));
	struct err err;

	if (!s || index_drop_session(&f->m->index, s->row.id, &err) < 0)
		return false;
	unlinkat(f->m->sessions_dir, s->row.id, AT_REMOVEDIR);
	session_free(s);
	return true;
}

static int
check_given(struct fork *f, struct origin *o, struct err *err)
{
	auto_buf given = BUF_MAX(4096);

	if (f->by_operator && !f->plain)
		return 0;
	origin_plain(f->m, o, &given);
	if (given.len && !f->plain) {
		err_set(err, ERR_DENIED, "an operator gave %s: %.300s", f->origin,
			buf_cstr(&given));
		return err_hint(err, "--plain: without it; or let an operator fork it");
	}
	snprintf(f->given, sizeof f->given, "%s", given.len ? buf_cstr(&given) : "");
	return 0;
}

/* All rows, or none. */
static int
make_rows(struct fork *f, const struct origin *o, struct err *err)
{
	for (size_t i = 0; i < f->n; i++) {
		struct session *made = NULL;
		char name[NAME_TEXT_BYTES];
		name_of(f, i, name);
		if (session_create_from(f->m, str_of(name), f->owner, o, &made, err) < 0) {
			while (i > 0)
				unmake(f, --i);
			return -1;
		}
		memcpy(f->ids[i], made->row.id, ID_BYTES);
	}
	return 0;
}

static int
make(struct fork *f, const struct session *s, struct err *err)
{
	auto_origin o = {.has_head = false};

	origin_of(s, f->is_snapshot ? &f->snapshot : NULL, &o);
	f->has_head = o.has_head;
	f->head = o.head;
	f->ids = xnew(f->n, sizeof *f->ids);
	if (check_given(f, &o, err) < 0 || make_rows(f, &o, err) < 0)
		return -1;
	start(f, is_ready(f) ? f->n : 1);
	return 0;
}

/* ---- what it is made of ---- */

static void
on_captured(void *ctx, struct session *s, const struct err *failure)
{
	struct fork *f = ctx;
	struct err err;

	if (!failure && make(f, s, &err) == 0)
		return;
	if (failure)
		err = *failure;
	err_what(&err, "fork %s", f->origin);
	asker_end(&f->asker, &err);
	fork_free(f);
}

/* Whether its head is all that it holds, and stays so: nothing is under way. */
static bool
is_at_rest(const struct session *s)
{
	return s->step == STEP_IDLE && !s->wants && !s->row.unclean && s->keeper.pidfd < 0;
}

static void
capture(struct fork *f, struct session *s)
{
	const bool runs = s->state == SESSION_RUNNING || s->state == SESSION_RESUMING;
	struct want *w = want_new(f->m, runs ? WANT_SNAPSHOT : WANT_PAUSE, NULL);

	snprintf(w->made_by, sizeof w->made_by, "fork");
	w->told = on_captured;
	w->told_ctx = f;
	session_want(s, w);
}

int
do_find_origin(const struct conn *c, struct str ref, struct snapshot_row *out, bool *out_any,
	       struct session **out_s, struct err *err)
{
	struct session *s = session_find(c->m, ref);

	*out_any = !s || s->state == SESSION_DELETED || s->choices.throwaway ||
		   !may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name));
	if (!*out_any) {
		*out_s = s;
		return 0;
	}
	if (do_find_snapshot(c, ref, NULL, out, out_s, err) == 0)
		return 0;
	return memchr(ref.at, '+', ref.len)
		   ? -1
		   : err_set(err, err->code, "no session, and %.200s", err->why);
}

/* 1: it is, or comes before, the head of s; 0; -1. */
static int
is_before(const struct session *s, const struct digest *wanted, struct err *err)
{
	auto_free struct snapshot_row *row = xnew(1, sizeof *row);
	struct digest at = s->row.head;
	int got = s->row.has_head;

	while (got == 1 && !digest_equal(&at, wanted)) {
		got = index_find_snapshot(&s->m->index, &at, row, err);
		if (got == 1 && !row->has_parent)
			return 0;
		at = row->parent;
	}
	return got;
}

int
do_find_ancestor(const struct conn *c, struct str ref, const struct session *s,
		 struct snapshot_row *out, struct err *err)
{
	struct err any;

	if (do_find_snapshot(c, ref, s, out, NULL, err) == 0)
		return 0;
	if (err->code != ERR_ABSENT || do_find_snapshot(c, ref, NULL, out, NULL, &any) < 0)
		return -1;
	const int is = is_before(s, &out->digest, err);
	if (is != 0)
		return is > 0 ? 0 : -1;
	err_set(err, ERR_ABSENT, "%s does not come from %.12s", s->row.name,
		digest_text(&out->digest).text);
	return err_hint(err, "a session of it: ssh berth@HOST fork %.12s NAME",
			digest_text(&out->digest).text);
}

/* Nobody's, and each in the scope of who asks. */
static int
check_names(const struct fork *f, const struct conn *c, struct err *err)
{
	for (size_t i = 0; i < f->n; i++) {
		char name[NAME_TEXT_BYTES];
		name_of(f, i, name);
		if (session_name_check(str_of(name), err) < 0)
			return err_add(err, "%s", name);
		if (!may(c->role, &c->scope, &verbs[VERB_new], str_of(name)))
			return err_set(err, ERR_DENIED, "this key may not make session %s", name);
		const struct session *there = session_find(f->m, str_of(name));
		if (there && there->state != SESSION_DELETED) {
			err_set(err, ERR_USAGE, "there is a session of the name %s", name);
			return err_hint(err, "run: ssh berth@HOST show %s", name);
		}
	}
	return 0;
}

static int
read_request(struct fork *f, const struct conn *c, const struct request *r, struct err *err)
{
	struct str name = {NULL, 0};

	request_text(r, "name", &name);
	const uint64_t count = request_number(r, "count", 1);
	if (count < 1 || count > FORKS_MAX)
		return err_set(err, ERR_USAGE, "--count is 1 to %d", FORKS_MAX);
	f->n = (size_t)count;
	f->many = request_number(r, "count", 0) > 0;
	f->plain = request_flag(r, "plain");
	f->by_operator = c->role == PRINCIPAL_OPERATOR;
	snprintf(f->owner, sizeof f->owner, "%s", c->principal);
	snprintf(f->name, sizeof f->name, "%.*s", (int)name.len, name.at);
	return check_names(f, c, err);
}

int
do_fork(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	struct asker *asker, struct err *err)
{
	struct fork *f = xnew(1, sizeof *f);
	struct str ref = {NULL, 0};

	f->m = m;
	f->asker = *asker;
	f->next = forks;
	forks = f;
	request_text(r, "origin", &ref);
	snprintf(f->origin, sizeof f->origin, "%s", s->row.name);
	int result = read_request(f, c, r, err);
	if (result == 0)
		result = do_find_origin(c, ref, &f->snapshot, &f->is_snapshot, &s, err);
	if (result == 0 && !f->is_snapshot && !is_at_rest(s)) {
		capture(f, s);
		return 0;
	}
	if (result == 0)
		result = make(f, s, err);
	if (result < 0)
		fork_free(f);
	return result;
}

/* Nobody but the fork waits for it, and nothing of it runs. */
static bool
is_unstarted(const struct session *s, const struct fork *f)
{
	const struct want *own = s->current ? s->current : s->wants;

	return s->state == SESSION_NEW &&
	       (!own || (own->told_ctx == f && (s->current ? !s->wants : !s->wants->next))) &&
	       (s->step == STEP_IDLE || s->step == STEP_CACHE || s->step == STEP_TURN);
}

/* Where layers are not stacked, files of it may be there already: then it goes as throwaway ones
 * do. */
static bool
discard(struct fork *f, size_t i, struct session *s)
{
	struct err err;

	if (unlinkat(f->m->sessions_dir, s->row.id, AT_REMOVEDIR) == 0)
		return unmake(f, i);
	s->choices.throwaway = THROWAWAY_BISECT;
	if (session_choices_save(s, &err) < 0) {
		log_err(&err, "session %s", s->row.name);
		s->choices.throwaway = THROWAWAY_NO;
		return false;
	}
	throwaway_end(s);
	return true;
}

static void
drop_unstarted(struct fork *f)
{
	for (size_t i = 0; f->ids && i < f->n; i++) {
		struct session *s = session_find(f->m, str_of(f->ids[i]));
		if (s && is_unstarted(s, f) && discard(f, i, s))
			f->ended++;
	}
	if (f->ids && f->ended == f->n)
		answer(f);
}

void
do_fork_forget(const struct conn *c, const uint32_t *seq)
{
	for (struct fork *f = forks, *next; f; f = next) {
		next = f->next;
		if (f->asker.conn != c || (seq && f->asker.seq != *seq))
			continue;
		asker_forget(&f->asker);
		if (!c->m->closing)
			drop_unstarted(f);
	}
}
