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

int
do_find_snapshot(const struct conn *c, struct str ref, const struct session *s,
		 struct snapshot_row *out, struct session **out_s, struct err *err)
{
	struct lookup l = {.c = c, .out = out};
	const char *plus = memchr(ref.at, '+', ref.len);
	struct str word = ref;

	if (plus) {
		const struct str name = {ref.at, (size_t)(plus - ref.at)};
		const struct session *named = session_find(c->m, name);
		word = (struct str){plus + 1, ref.len - name.len - 1};
		if (!named || (s && named != s))
			return err_set(err, ERR_ABSENT, "no snapshot %.*s", (int)ref.len, ref.at);
		s = named;
	}
	if (index_match_snapshots(&c->m->index, s ? s->row.id : "", word, take_match, &l, err) < 0)
		return -1;
	if (l.n != 1) {
		err_set(err, ERR_ABSENT, l.n ? "%.*s fits %u snapshots" : "no snapshot %.*s",
			(int)ref.len, ref.at, l.n);
		return l.n && !s ? err_hint(err, "say whose: SESSION+SNAPSHOT")
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

	(void)m;
	request_text(r, "snapshot", &ref);
	if (do_find_snapshot(c, ref, s, &row, NULL, err) < 0)
		return -1;
	return do_act(WANT_RESTORE, &row.digest, c, r, s, asker, err);
}
