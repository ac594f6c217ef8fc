/* snapshots restore, and which snapshot a word names */
#include "base/time.h"
#include "manager/do.h"

#include <stdio.h>

struct listing {
	struct buf *out;
	const struct session *s;
	bool json, first;
};

static int
list_json(struct listing *l, const struct snapshot_row *r)
{
	char made[TIME_TEXT_BYTES];

	time_format(r->created_ns, made);
	buf_fmt(l->out, "%s{\"snapshot\":\"sha256:%s\"", l->first ? "\n" : ",\n",
		digest_text(&r->digest).text);
	if (r->has_parent)
		buf_fmt(l->out, ",\"parent\":\"sha256:%s\"", digest_text(&r->parent).text);
	buf_text(l->out, ",\"name\":");
	json_put(l->out, str_of(r->facts.name));
	buf_text(l->out, ",\"note\":");
	json_put(l->out, str_of(r->facts.note));
	buf_text(l->out, ",\"made_by\":");
	json_put(l->out, str_of(r->made_by));
	buf_fmt(l->out, ",\"created\":\"%s\",\"bytes\":%llu,\"total_bytes\":%llu,\"head\":%s}",
		made, (unsigned long long)r->bytes, (unsigned long long)r->total_bytes,
		l->s->row.has_head && digest_equal(&l->s->row.head, &r->digest) ? "true" : "false");
	return 0;
}

static int
list_one(void *ctx, const struct snapshot_row *r, struct err *err)
{
	struct listing *l = ctx;
	char own[16], total[16], age[16];

	(void)err;
	if (l->json) {
		list_json(l, r);
	} else {
		size_format(r->bytes, own);
		size_format(r->total_bytes, total);
		age_format(r->created_ns, age);
		const bool head = l->s->row.has_head && digest_equal(&l->s->row.head, &r->digest);
		buf_fmt(l->out, "%-12.12s %c %-12.12s %10s %10s %5s  %s%s%s\n",
			digest_text(&r->digest).text, head ? '*' : ' ',
			r->has_parent ? digest_text(&r->parent).text : "-", own, total, age,
			r->made_by, r->facts.note[0] ? ": " : "", r->facts.note);
	}
	l->first = false;
	return 0;
}

int
do_snapshots(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	struct listing l = {.out = &out, .s = s, .json = r->json, .first = true};

	(void)c;
	if (r->json)
		buf_char(&out, '[');
	else
		buf_fmt(&out, "%-12s   %-12s %10s %10s %5s  %s\n", "SNAPSHOT", "PARENT", "SIZE",
			"TOTAL", "AGE", "MADE BY");
	if (index_list_snapshots(&m->index, s->row.id, list_one, &l, err) < 0)
		return -1;
	if (r->json)
		buf_text(&out, l.first ? "]\n" : "\n]\n");
	return do_answer(asker, &out, err);
}

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
		if (!named || (s && named != s))
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

	request_text(r, "snapshot", &ref);
	if (do_find_ancestor(c, ref, s, &row, err) < 0)
		return -1;
	if (request_text(r, "path", &ref))
		return do_restore_path(m, r, &row.digest, s, asker, err);
	return do_act(WANT_RESTORE, &row.digest, c, r, s, asker, err);
}
