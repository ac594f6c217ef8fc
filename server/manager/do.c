/* A verb from a conn: decoded again by the table, its session found, its right checked, then done.
 */
#include "do.h"
#include "base/time.h"

#include <stdio.h>

enum { GIVEN_MAX_BYTES = 16384, GIVEN_VALUE_MAX_BYTES = 1024 };

void
age_format(uint64_t since_ns, char out[16])
{
	static const struct {
		uint64_t seconds;
		char unit;
	} steps[] = {{86400, 'd'}, {3600, 'h'}, {60, 'm'}, {1, 's'}};
	const uint64_t now = time_real_ns(), s = now > since_ns ? (now - since_ns) / NS_PER_S : 0;

	size_t i = 0;
	while (i + 1 < sizeof steps / sizeof *steps && s < 2 * steps[i].seconds)
		i++;
	snprintf(out, 16, "%llu%c", (unsigned long long)(s / steps[i].seconds), steps[i].unit);
}

int
do_answer(struct asker *asker, struct buf *answer, struct err *err)
{
	if (buf_bad(answer)) {
		err_set(err, ERR_USAGE, "more than %d MiB of answer", ANSWER_MAX_BYTES >> 20);
		return err_hint(err, "ask for less, as with --limit");
	}
	asker_print(asker, buf_view(answer));
	asker_end(asker, NULL);
	return 0;
}

static do_fn
function_of(enum verb_id id)
{
	switch (id) {
	case VERB_new:
		return do_new;
	case VERB_set:
		return do_set;
	case VERB_ls:
		return do_ls;
	case VERB_show:
		return do_show;
	case VERB_why:
		return do_why;
	case VERB_pause:
		return do_pause;
	case VERB_snapshot:
		return do_snapshot;
	case VERB_resume:
		return do_resume;
	case VERB_snapshots:
		return do_snapshots;
	case VERB_restore:
		return do_restore;
	case VERB_files:
	case VERB_cat:
	case VERB_diff:
	case VERB_find:
	case VERB_export:
		return do_read;
	case VERB_import:
		return do_import;
	case VERB_undo:
		return do_undo;
	case VERB_redo:
		return do_redo;
	case VERB_rename:
		return do_rename;
	case VERB_undelete:
		return do_undelete;
	case VERB_label:
		return do_label;
	case VERB_fork:
		return do_fork;
	case VERB_bisect:
		return do_bisect;
	case VERB_rm:
		return do_rm;
	case VERB_calls:
		return do_calls;
	case VERB_call_show:
		return do_call_show;
	case VERB_call_output:
		return do_call_output;
	case VERB_call_input:
		return do_call_input;
	case VERB_call_wait:
		return do_call_wait;
	case VERB_call_kill:
		return do_call_kill;
	case VERB_usage:
		return do_usage;
	case VERB_verify:
		return do_verify;
	case VERB_gc:
		return do_gc;
	case VERB_image_import:
		return do_image_import;
	case VERB_image_ls:
		return do_image_ls;
	case VERB_image_rm:
		return do_image_rm;
	case VERB_audit:
		return do_audit;
	case VERB_version:
	case VERB_help:
	case VERB_exec:
	case VERB_view:
	case VERBS:
		return NULL;
	}
	return NULL;
}

static struct session *
session_of_call(struct manager *m, const struct request *r, struct err *err)
{
	struct call_row row;
	struct str call;
	char id[ID_BYTES];

	if (!request_text(r, "call", &call) || str_copy(call, id, sizeof id, err) < 0)
		return NULL;
	for (struct session *s = m->sessions; s; s = s->next)
		keeper_read(s); /* its start may still be on the way */
	records_flush(m);
	const int got = index_find_call(&m->index, id, &row, err);
	struct session *s = got == 1 ? session_find(m, str_of(row.session)) : NULL;
	if (s && s->choices.throwaway)
		s = NULL;
	if (!s && got >= 0)
		err_set(err, ERR_ABSENT, "no such call");
	return s;
}

/* `s`: one of that name that the verb is not for, a deleted one or, for undelete, one that is not.
 */
static int
refuse_session(const struct conn *c, struct str name, const struct session *s, struct err *err)
{
	if (!s || s->choices.throwaway ||
	    !may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name)))
		return err_set(err, ERR_ABSENT, "no such session: %.*s", (int)name.len, name.at);
	if (s->state != SESSION_DELETED) {
		err_set(err, ERR_ABSENT, "session %s was not deleted", s->row.name);
		return err_hint(err, "run: ssh berth@HOST show %s", s->row.name);
	}
	err_set(err, ERR_ABSENT, "session %s was deleted", s->row.name);
	return err_hint(err, "run: ssh berth@HOST undelete %s", s->row.name);
}

/* The session that a verb names, with the right to do so. A session outside one's scope is answered
 * like one that does not exist. */
static int
find_subject(struct conn *c, const struct request *r, struct session **out, struct err *err)
{
	struct manager *m = c->m;
	const struct verb *v = r->verb;
	const bool about_call = v->parameters[0].type == PARAMETER_CALL;
	bool about_snapshot = v->session < 0 && v->parameters[0].type == PARAMETER_SNAPSHOT;
	struct str ref = {NULL, 0};
	struct session *s = NULL;

	if (about_call) {
		s = session_of_call(m, r, err);
		if (!s)
			return -1;
		if (!may(c->role, &c->scope, v, str_of(s->row.name)))
			return err_set(err, ERR_ABSENT, "no such call");
	} else if (v->session >= 0 && request_text(r, "session", &ref) && v->id != VERB_new &&
		   v->id != VERB_import) {
		s = v->id == VERB_undelete ? session_find_deleted(m, ref) : session_find(m, ref);
		if (!s || s->choices.throwaway ||
		    (s->state == SESSION_DELETED && v->id != VERB_undelete && v->id != VERB_snapshots &&
		     v->id != VERB_calls && v->id != VERB_show && v->id != VERB_why))
			s = NULL;
		if (!s || !may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name)))
			return refuse_session(c, ref, session_find(m, ref), err);
		ref = str_of(s->row.name);
	}
	if (v->parameters[0].type == PARAMETER_SUBJECT) {
		request_text(r, v->parameters[0].name, &ref);
		s = session_find(m, ref);
		if (!s || s->state == SESSION_DELETED || s->choices.throwaway ||
		    !may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name)))
			s = NULL;
		about_snapshot = !s;
		if (s)
			ref = str_of(s->row.name);
	}
	if (about_snapshot) {
		struct snapshot_row row;
		request_text(r, v->parameters[0].name, &ref);
		if (do_find_snapshot(c, ref, NULL, &row, &s, err) < 0)
			return -1;
		ref = str_of(s->row.name);
	}
	if ((v->session >= 0 || !about_call) && !may(c->role, &c->scope, v, ref))
		return err_set(err, ERR_DENIED, "this key's role is %s",
			       principal_role_name(c->role));
	*out = s;
	return 0;
}

/* All that was given but mere formats, in one bounded text: a line of the log that is too long
 * would be none. */
static void
put_given(const struct request *r, struct buf *out)
{
	for (size_t i = 0; i < verb_parameters(r->verb); i++) {
		const char *name = r->verb->parameters[i].name;
		struct str value;
		for (size_t n = 0; request_next(r, name, &n, &value);) {
			if (out->len > GIVEN_MAX_BYTES) {
				buf_text(out, " \xe2\x80\xa6");
				return;
			}
			const size_t most =
			    value.len < GIVEN_VALUE_MAX_BYTES ? value.len : GIVEN_VALUE_MAX_BYTES;
			buf_fmt(out, "%s%s=%.*s", out->len ? " " : "", name, (int)most,
				value.len ? value.at : "");
		}
	}
}

/* What was asked; `result` is how that began. */
static void
audit_verb(struct conn *c, const struct msg_verb_start *v, const struct request *r,
	   const struct session *s, const char *result)
{
	auto_buf given = BUF_MAX(VERB_ARGS_MAX_BYTES);

	if (r)
		put_given(r, &given);
	audit_write(&c->m->audit, "verb", AUDIT_TEXT("conn", c->tag),
		    AUDIT_TEXT("principal", c->principal), AUDIT_STR("verb", v->verb),
		    AUDIT_TEXT("session", s ? s->row.id : ""),
		    AUDIT_TEXT("name", s ? s->row.name : ""),
		    AUDIT_STR("given", buf_view(&given)), AUDIT_TEXT("result", result));
}

void
do_verb(struct conn *c, const struct msg_verb_start *v)
{
	struct request r;
	struct err err;
	struct session *s = NULL;
	struct asker asker = {.conn = c, .seq = v->seq, .is_verb = true, .json = v->json != 0};

	if (!asker_count(&asker))
		return;
	if (!c->control) {
		err_set(&err, ERR_DENIED, "verbs are for user berth");
		audit_verb(c, v, NULL, NULL, err_json(err.code));
	} else if (request_decode(v->verb, v->args, v->json != 0, &r, &err) == 0) {
		const do_fn fn = function_of(r.verb->id);
		bool allowed = false;
		if (!fn)
			err_set(&err, ERR_USAGE, "not for the manager");
		else
			allowed = find_subject(c, &r, &s, &err) == 0;
		audit_verb(c, v, &r, s, allowed ? "begun" : err_json(err.code));
		if (allowed && fn(c->m, c, &r, s, &asker, &err) == 0)
			return;
	} else {
		audit_verb(c, v, NULL, NULL, err_json(err.code));
	}
	if (err.code == ERR_USAGE && !err.hint[0])
		err_hint(&err, "run: ssh berth@HOST help %.*s", (int)v->verb.len, v->verb.at);
	err_what(&err, "%.*s%s%s", (int)v->verb.len, v->verb.at, s ? " " : "",
		 s ? s->row.name : "");
	asker_end(&asker, &err);
}
