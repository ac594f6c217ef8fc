#include "views.h"
#include "manager/do.h"
#include "manager/throwaway.h"

#include <stdio.h>

bool
views_is(struct str user, struct str *out_session)
{
	const char *plus = memchr(user.at, '+', user.len);

	*out_session = plus ? (struct str){user.at, (size_t)(plus - user.at)} : user;
	return plus != NULL;
}

static struct session *
find(const struct manager *m, const struct digest *head)
{
	for (struct session *s = m->sessions; s; s = s->next)
		if (s->choices.throwaway == THROWAWAY_VIEW && !s->ending &&
		    digest_equal(&s->row.head, head))
			return s;
	return NULL;
}

/* Of what a session has, a reader needs its image and the node that it is of. */
static int
make(struct conn *c, const struct session *of, const struct snapshot_row *row, struct session **out,
     struct err *err)
{
	auto_origin o = {.has_head = true, .head = row->digest, .network = "none"};

	snprintf(o.image, sizeof o.image, "%s", row->image);
	o.choices.throwaway = THROWAWAY_VIEW;
	memcpy(o.choices.node, of->choices.node, sizeof o.choices.node);
	return throwaway_make(of, &o, c->principal, NULL, NULL, out, err);
}

struct session *
views_of(struct conn *c, struct err *err)
{
	struct snapshot_row row;
	struct session *of = NULL, *s;

	if (snapshot_ref_check(str_of(c->user), err) < 0 ||
	    do_find_snapshot(c, str_of(c->user), NULL, &row, &of, err) < 0)
		return NULL;
	if (!may(c->role, &c->scope, &verbs[VERB_view], str_of(of->row.name))) {
		err_set(err, ERR_DENIED, "this key may not read snapshots of %s", of->row.name);
		return NULL;
	}
	s = find(c->m, &row.digest);
	if (!s && make(c, of, &row, &s, err) < 0)
		return NULL;
	if (c->view != s) {
		views_leave(c);
		c->view = s;
		audit_write(&c->m->audit, "view", AUDIT_TEXT("conn", c->tag),
			    AUDIT_TEXT("session", of->row.id), AUDIT_TEXT("name", of->row.name),
			    AUDIT_TEXT("snapshot", digest_text(&row.digest).text),
			    AUDIT_TEXT("by", s->row.id), AUDIT_TEXT("principal", c->principal));
	}
	return s;
}

void
views_leave(struct conn *c)
{
	struct session *s = c->view;

	c->view = NULL;
	for (const struct conn *other = c->m->conns; other && s; other = other->next)
		if (other->view == s)
			return;
	if (s)
		throwaway_end(s);
}

void
views_lost(const struct session *s)
{
	for (struct conn *c = s->m->conns; c; c = c->next)
		if (c->view == s)
			c->view = NULL;
}
