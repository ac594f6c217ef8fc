/* restore, and which snapshot a word names */
#include "manager/do.h"

/* ---- which snapshot a word names ---- */

struct lookup {
	const struct conn *c;
	struct snapshot_row *out;
	struct session *of;
	unsigned n;
};

static int
take_match(void *ctx, const struct snapshot_row *row, struct err *err)
{
	struct lookup *l = ctx;
	struct session *s = session_find(l->c->m, str_of(row->session));

	(void)err;
	if (!s || !may(l->c->role, &l->c->scope, &verbs[VERB_show], str_of(s->row.name)))
		return 0; /* outside one's scope: answered like one that does not exist */
	*l->out = *row;
	l->of = s;
	l->n++;
	return 0;
}

/* The live session of this name or id, where this principal may know of it. */
static struct session *
session_named(const struct conn *c, struct str ref)
{
	struct session *s = session_find(c->m, ref);

	return s && s->state != SESSION_DELETED &&
		       may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name))
		   ? s
		   : NULL;
}

/* A word that could have been a session's name too. */
static int
refuse_word(const struct conn *c, struct str ref, struct err *err)
{
	const struct session *s = session_find(c->m, ref);

	if (!s || s->choices.throwaway ||
	    !may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name)))
		return err_set(err, ERR_ABSENT, "no session or snapshot %.*s", (int)ref.len,
			       ref.at);
	err_set(err, ERR_ABSENT, "session %s was deleted", s->row.name);
	return err_hint(err, "run: ssh berth@HOST snapshots %s; a snapshot of it: %s+SNAPSHOT",
			s->row.name, s->row.name);
}

int
do_find_snapshot(const struct conn *c, struct str ref, const struct session *s,
		 struct snapshot_row *out, struct session **out_s, struct err *err)
{
	struct lookup l = {.c = c, .out = out};
	const char *plus = memchr(ref.at, '+', ref.len);
	struct str word = ref;
	struct digest_text head;

	if (plus) {
		const struct str name = {ref.at, (size_t)(plus - ref.at)};
		const struct session *named = session_find(c->m, name);
		word = (struct str){plus + 1, ref.len - name.len - 1};
		/* of one outside one's scope not even a hint tells its name */
		if (!named || (s && named != s) ||
		    !may(c->role, &c->scope, &verbs[VERB_show], str_of(named->row.name)))
			return err_set(err, ERR_ABSENT, "no snapshot %.*s", (int)ref.len, ref.at);
		s = named;
	}
	struct session *whole = s || plus ? NULL : session_named(c, ref);
	if (whole) {
		if (!whole->row.has_head) {
			err_set(err, ERR_ABSENT, "session %s has no snapshot yet", whole->row.name);
			return err_hint(err, "run: ssh berth@HOST pause %s", whole->row.name);
		}
		head = digest_text(&whole->row.head);
		word = str_of(head.text);
		s = whole;
	}
	if (index_match_snapshots(&c->m->index, s ? s->row.id : "", word, take_match, &l, err) < 0)
		return -1;
	if (l.n == 0 && !s)
		return refuse_word(c, ref, err);
	if (l.n != 1) {
		err_set(err, ERR_ABSENT, l.n ? "%.*s fits %u snapshots" : "no snapshot %.*s",
			(int)ref.len, ref.at, l.n);
		return !s ? err_hint(err, "say whose: SESSION+SNAPSHOT")
			  : err_hint(err, "run: ssh berth@HOST snapshots %s",
				     s ? s->row.name : "SESSION");
	}
	if (out_s)
		*out_s = l.of;
	return 0;
}

int
do_restore(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	   struct asker *asker, struct err *err)
{
	struct snapshot_row row;
	struct str ref = {NULL, 0};

	request_text(r, "snapshot", &ref);
	if (do_find_ancestor(c, ref, s, &row, err) < 0)
		return -1;
	if (request_text(r, "path", &ref))
		return do_restore_path(m, r, &row.digest, s, asker, err);
	return do_act(WANT_RESTORE, &row.digest, c, r, s, asker, err);
}
