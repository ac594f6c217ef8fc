/* rename undelete label: what sessions and snapshots are called, and how long they are kept */
#include "base/time.h"
#include "manager/do.h"
#include "manager/facts.h"

#include <stdio.h>

static struct want *
change_new(struct manager *m, const struct request *r, const struct asker *asker)
{
	struct want *w = want_new(m, WANT_CHANGE, asker);

	w->change = xnew(1, sizeof *w->change);
	w->change->verb = r->verb->name;
	return w;
}

/* Rights over both names, and nobody there who has it. */
static int
check_name(struct conn *c, const struct request *r, const struct session *s, struct str name,
	   struct err *err)
{
	const struct session *there = session_find(c->m, name);

	if (!may(c->role, &c->scope, r->verb, name))
		return err_set(err, ERR_DENIED, "this key may not use the name %.*s", (int)name.len,
			       name.at);
	if (!there || there == s || there->state == SESSION_DELETED)
		return 0;
	err_set(err, ERR_USAGE, "there is a session of the name %.*s", (int)name.len, name.at);
	return r->verb->id == VERB_undelete
		   ? err_hint(err, "give it another one: undelete %s NAME", s->row.id)
		   : err_hint(err, "choose another one, or rename that one first");
}

int
do_rename(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	  struct asker *asker, struct err *err)
{
	struct str name = {NULL, 0};

	request_text(r, "name", &name);
	if (check_name(c, r, s, name, err) < 0)
		return -1;
	struct want *w = change_new(m, r, asker);
	snprintf(w->change->name, sizeof w->change->name, "%.*s", (int)name.len, name.at);
	session_want(s, w);
	return 0;
}

int
do_undelete(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err)
{
	struct str name = str_of(s->row.name);

	request_text(r, "name", &name);
	if (s->state != SESSION_DELETED)
		return err_set(err, ERR_USAGE, "the session was not deleted");
	if (s->row.deleted_ns + m->config.tombstone <= time_real_ns()) {
		err_set(err, ERR_ABSENT, "it was deleted too long ago");
		return err_hint(err, "the option tombstone says how long that can be undone");
	}
	if (check_name(c, r, s, name, err) < 0)
		return -1;
	struct want *w = change_new(m, r, asker);
	w->change->undelete = true;
	snprintf(w->change->name, sizeof w->change->name, "%.*s", (int)name.len, name.at);
	session_want(s, w);
	return 0;
}

/* Judged here, so that the answer does not wait for the session's turn. */
static int
take_labels(const struct request *r, char out[1025], struct err *err)
{
	char tried[1025] = "";
	struct str label;
	size_t n = 0, used = 0;

	while (request_next(r, "label", &n, &label)) {
		if (facts_set_label(tried, label, err) < 0)
			return err_add(err, "%.*s", (int)(label.len < 64 ? label.len : 64),
				       label.at);
		if (used + label.len + 2 > 1025)
			return err_set(err, ERR_USAGE, "more than 1 KiB of labels");
		used += (size_t)snprintf(out + used, 1025 - used, "%s%.*s", used ? "\n" : "",
					 (int)label.len, label.at);
	}
	return 0;
}

static int
take_facts(const struct request *r, struct session_change *c, struct err *err)
{
	struct snapshot_facts *f = &c->facts;
	struct str name = {"", 0}, note = {"", 0}, pin;

	c->has_name = request_text(r, "name", &name);
	c->has_note = request_text(r, "note", &note);
	if (facts_check_name(name, err) < 0 || facts_check_note(note, err) < 0)
		return -1;
	snprintf(f->name, sizeof f->name, "%.*s", (int)name.len, name.len ? name.at : "");
	snprintf(f->note, sizeof f->note, "%.*s", (int)note.len, note.len ? note.at : "");
	c->has_pin = request_text(r, "pin", &pin);
	f->pinned = request_number(r, "pin", 0) != 0;
	const uint64_t ttl_ns = request_number(r, "ttl", UINT64_MAX), now_ns = time_real_ns();
	c->has_end = ttl_ns != UINT64_MAX;
	if (c->has_end && ttl_ns && __builtin_add_overflow(now_ns, ttl_ns, &f->expires_ns))
		return err_set(err, ERR_USAGE, "a ttl of centuries");
	if (f->expires_ns > INT64_MAX)
		return err_set(err, ERR_USAGE, "a ttl of centuries");
	return 0;
}

int
do_label(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	 struct asker *asker, struct err *err)
{
	struct str ref = {NULL, 0};
	struct snapshot_row row;

	request_text(r, "subject", &ref);
	struct want *w = change_new(m, r, asker);
	struct session_change *change = w->change;
	change->of_snapshot = session_find(m, ref) != s;
	int result = take_labels(r, change->labels, err) < 0 ? -1 : take_facts(r, change, err);
	const bool facts =
	    change->has_name || change->has_note || change->has_pin || change->has_end;
	if (result == 0 && !change->labels[0] && !facts) {
		err_set(err, ERR_USAGE, "nothing to change was given");
		result = err_hint(err, "run: ssh berth@HOST help label");
	} else if (result == 0 && facts && !change->of_snapshot) {
		err_set(err, ERR_USAGE, "%s is a session: it has labels alone", s->row.name);
		result = err_hint(err, "a snapshot of it: label %s+SNAPSHOT", s->row.name);
	} else if (result == 0 && change->of_snapshot) {
		result = do_find_snapshot(c, ref, NULL, &row, NULL, err);
		w->target = row.digest;
	}
	if (result < 0) {
		want_free(w);
		return -1;
	}
	session_want(s, w);
	return 0;
}
