/* new ls show pause snapshot resume rm, and the act of others such as restore */
#include "base/time.h"
#include "manager/do.h"
#include "manager/facts.h"
#include "manager/imported.h"

#include <stdio.h>

/* Nothing was asked for but a name. */
static bool
is_plain(const struct request *r, const struct limits_set *limits)
{
	for (size_t i = 0; i < verb_parameters(r->verb); i++)
		if (r->given[i] && strcmp(r->verb->parameters[i].name, "session") != 0)
			return false;
	return !limits_any(limits);
}

int
do_new(struct manager *m, struct conn *c, const struct request *r, struct session *s,
       struct asker *asker, struct err *err)
{
	struct str name = {NULL, 0}, image;
	char content[80] = "";

	(void)s;
	request_text(r, "session", &name);
	struct session *there = session_find(m, name);
	if (there && there->state != SESSION_DELETED) {
		err_set(err, ERR_USAGE, "there is a session of this name");
		return err_hint(err, "run: ssh berth@HOST show %s", there->row.name);
	}
	if (request_text(r, "image", &image) && !str_is(image, "host") &&
	    imported_find_name(m, image, content, err) < 0)
		return -1;
	struct limits_set limits;
	auto_choices choices = {.n_mounts = 0};
	char network[NETWORK_TEXT_BYTES];
	if (do_new_limits(m, c, r, &limits, err) < 0 ||
	    choices_of_request(m, c, r, !content[0], &choices, err) < 0 ||
	    session_network_choose(m, c, r, network, err) < 0)
		return -1;
	if ((is_plain(r, &limits)
		 ? session_create(m, name, c->principal, &there, err)
		 : session_create_on(m, name, c->principal, content, network, &there, err)) < 0)
		return -1;
	there->limits = limits;
	there->choices = choices;
	choices = (struct choices){.n_mounts = 0};
	if ((limits_any(&limits) && session_limits_save(there, err) < 0) ||
	    (choices_any(&there->choices) && session_choices_save(there, err) < 0)) {
		struct err ignored; /* what cannot be kept to its limits is not made */
		if (index_drop_session(&m->index, there->row.id, &ignored) == 0)
			session_free(there);
		return -1;
	}
	session_want(there, want_new(m, WANT_RUN, asker));
	return 0;
}

struct summary {
	unsigned snapshots;
	uint64_t bytes;
};

static int
sum_snapshot(void *ctx, const struct snapshot_row *row, struct err *err)
{
	struct summary *sum = ctx;

	(void)err;
	sum->snapshots++;
	sum->bytes += row->bytes;
	return 0;
}

static void
session_json(struct buf *out, const struct session *s, const struct summary *sum)
{
	char made[TIME_TEXT_BYTES], used[TIME_TEXT_BYTES];

	time_format(s->row.created_ns, made);
	time_format(s->row.used_ns, used);
	buf_text(out, "{\"name\":");
	json_put(out, str_of(s->row.name));
	buf_fmt(out, ",\"id\":\"%s\",\"state\":\"%s\",\"unclean\":%s,\"reason\":", s->row.id,
		session_state_name(s->state), s->row.unclean ? "true" : "false");
	json_put(out, str_of(s->row.reason));
	buf_text(out, ",\"waits_for\":");
	json_put(out, str_of(s->waits_for));
	buf_text(out, ",\"owner\":");
	json_put(out, str_of(s->row.owner));
	buf_text(out, ",\"image\":");
	json_put(out, str_of(s->row.image));
	buf_text(out, ",\"labels\":");
	facts_labels_json(s->row.labels, out);
	buf_fmt(out, ",\"isolation\":\"%s\",\"created\":\"%s\",\"used\":\"%s\"",
		rung_name(s->m->node.isolation.rung), made, used);
	session_network_json(s, out);
	if (s->row.has_head)
		buf_fmt(out, ",\"head\":\"sha256:%s\"", digest_text(&s->row.head).text);
	buf_fmt(out, ",\"snapshots\":%u,\"snapshot_bytes\":%llu", sum->snapshots,
		(unsigned long long)sum->bytes);
}

static bool
has_labels(const struct session *s, const struct request *r)
{
	struct str label;
	size_t n = 0;

	while (request_next(r, "label", &n, &label))
		if (!facts_have_label(s->row.labels, label))
			return false;
	return true;
}

int
do_ls(struct manager *m, struct conn *c, const struct request *r, struct session *s,
      struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	bool first = true;

	if (r->json)
		buf_char(&out, '[');
	else
		buf_fmt(&out, "%-24s %-10s %6s %9s %10s  %s\n", "NAME", "STATE", "USED",
			"SNAPSHOTS", "SIZE", "REASON");
	for (s = m->sessions; s; s = s->next) {
		struct summary sum = {0};
		if (s->state == SESSION_DELETED || s->choices.throwaway || !has_labels(s, r) ||
		    !may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name)))
			continue;
		if (index_list_snapshots(&m->index, s->row.id, sum_snapshot, &sum, err) < 0)
			return -1;
		if (r->json) {
			buf_text(&out, first ? "\n" : ",\n");
			session_json(&out, s, &sum);
			buf_char(&out, '}');
		} else {
			char size[16], age[16];
			num_format_about(sum.bytes, size);
			age_format(s->row.used_ns, age);
			buf_fmt(&out, "%-24s %-10s %6s %9u %10s  %s%s\n", s->row.name,
				session_state_name(s->state), age, sum.snapshots, size,
				s->row.unclean ? "unclean; " : "", s->row.reason);
		}
		first = false;
	}
	if (r->json)
		buf_text(&out, first ? "]\n" : "\n]\n");
	return do_answer(asker, &out, err);
}

static void
show_text(struct buf *out, const struct session *s, const struct summary *sum)
{
	char made[TIME_TEXT_BYTES], size[16], age[16];

	time_format(s->row.created_ns, made);
	num_format_about(sum->bytes, size);
	age_format(s->row.used_ns, age);
	buf_fmt(out, "%-12s%s\n%-12s%s\n%-12s%s%s\n", "name", s->row.name, "id", s->row.id, "state",
		session_state_name(s->state),
		s->row.unclean ? " (unclean: files that no archive holds yet; they are kept)" : "");
	if (s->row.reason[0])
		buf_fmt(out, "%-12s%s\n", "reason", s->row.reason);
	if (s->waits_for[0])
		buf_fmt(out, "%-12s%s\n", "waits for", s->waits_for);
	const struct isolation *i = &s->m->node.isolation;
	buf_fmt(out, "%-12s%s: %s\n", "isolation", rung_name(i->rung), rung_words(i->rung));
	if (i->lacks[0])
		buf_fmt(out, "%-12s%s\n", "", i->lacks);
	buf_fmt(out, "%-12s%s\n%-12s%s\n", "image", s->row.image, "owner", s->row.owner);
	for (const char *l = s->row.labels; *l; l += strcspn(l, "\n"), l += *l == '\n')
		buf_fmt(out, "%-12s%.*s\n", l == s->row.labels ? "labels" : "",
			(int)strcspn(l, "\n"), l);
	session_network_text(s, out);
	buf_fmt(out, "%-12s%s\n%-12s%s ago\n", "created", made, "used", age);
	buf_fmt(out, "%-12s%.12s\n", "head",
		s->row.has_head ? digest_text(&s->row.head).text : "none");
	buf_fmt(out, "%-12s%u, %s\n", "snapshots", sum->snapshots, size);
}

static void
show_retention(struct buf *out, const struct session *s)
{
	char text[RETENTION_TEXT_BYTES];

	session_retention_text(s, text);
	buf_fmt(out, "%-12s%s%s\n", "retention", text, s->retention.set ? "" : " (default)");
}

int
do_show(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(65536);
	struct summary sum = {0};

	(void)c;
	if (index_list_snapshots(&m->index, s->row.id, sum_snapshot, &sum, err) < 0)
		return -1;
	if (r->json) {
		session_json(&out, s, &sum);
		char retention[RETENTION_TEXT_BYTES];
		session_retention_text(s, retention);
		buf_fmt(&out, ",\"retention\":\"%s\"", retention);
		session_limits_json(s, &out, true);
		session_choices_json(s, &out);
		buf_text(&out, ",\"snapshot_failure\":");
		json_put(&out, str_of(s->automatic.failure.why));
		buf_text(&out, "}\n");
	} else {
		show_text(&out, s, &sum);
		show_retention(&out, s);
		session_limits_text(s, &out);
		session_choices_text(s, &out);
	}
	return do_answer(asker, &out, err);
}

/* Live calls of somebody else stand in the way of what would end them. */
struct others {
	const char *principal;
	char list[400];
	unsigned n;
};

static int
note_other(void *ctx, const struct call_row *row, struct err *err)
{
	struct others *o = ctx;
	const size_t used = strlen(o->list);

	(void)err;
	if (row->ended_by[0] || strcmp(row->principal, o->principal) == 0)
		return 0;
	o->n++;
	snprintf(o->list + used, sizeof o->list - used, "%s%s %.40s", used ? "; " : "", row->id,
		 row->command);
	return 0;
}

static int
check_others(struct session *s, const struct conn *c, const struct request *r, struct err *err)
{
	struct others o = {.principal = c->principal};

	if (request_flag(r, "force") || s->state != SESSION_RUNNING)
		return 0;
	keeper_read(s);
	records_flush(s->m);
	if (index_list_calls(&s->m->index, s->row.id, 10000, note_other, &o, err) < 0)
		return -1;
	if (o.n == 0)
		return 0;
	err_set(err, ERR_AGAIN, "%u live calls of others: %s", o.n, o.list);
	return err_hint(err, "--force ends them");
}

int
do_act(enum want_kind kind, const struct digest *target, struct conn *c, const struct request *r,
       struct session *s, struct asker *asker, struct err *err)
{
	struct str note = {NULL, 0};

	if (check_others(s, c, r, err) < 0)
		return -1;
	struct want *w = want_new(s->m, kind, asker);
	if (target)
		w->target = *target;
	if (kind == WANT_UNDO || kind == WANT_REDO)
		w->steps = (unsigned)request_number(r, "steps", 1);
	if (kind != WANT_REMOVE && request_text(r, "note", &note))
		snprintf(w->facts.note, sizeof w->facts.note, "%.*s", (int)note.len, note.at);
	if (kind == WANT_PAUSE)
		w->grace_ns = request_number(r, "grace", w->grace_ns);
	session_want(s, w);
	return 0;
}

int
do_pause(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	 struct asker *asker, struct err *err)
{
	(void)m;
	return do_act(WANT_PAUSE, NULL, c, r, s, asker, err);
}

int
do_snapshot(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err)
{
	struct str name, text;
	struct snapshot_facts facts = {.pinned = request_flag(r, "pin")};

	(void)c;
	if (request_text(r, "name", &name) &&
	    (snapshot_name_check(name, err) < 0 ||
	     str_copy(name, facts.name, sizeof facts.name, err) < 0))
		return err_add(err, "--name");
	if (request_text(r, "note", &text) &&
	    str_copy(text, facts.note, sizeof facts.note, err) < 0)
		return err_add(err, "--note");
	for (size_t n = 0; request_next(r, "label", &n, &text);)
		if (facts_set_label(facts.labels, text, err) < 0)
			return err_add(err, "--label %.*s", (int)(text.len > 80 ? 80 : text.len),
				       text.at);
	const uint64_t ttl_ns = request_number(r, "ttl", 0);
	if (ttl_ns && __builtin_add_overflow(time_real_ns(), ttl_ns, &facts.expires_ns))
		return err_set(err, ERR_USAGE, "--ttl is too long");
	struct want *w = want_new(m, WANT_SNAPSHOT, asker);
	w->facts = facts;
	session_want(s, w);
	return 0;
}

int
do_resume(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	  struct asker *asker, struct err *err)
{
	(void)c;
	(void)err;
	struct want *w = want_new(m, WANT_RUN, asker);
	w->base_differs = request_flag(r, "base-differs");
	session_want(s, w);
	return 0;
}

int
do_rm(struct manager *m, struct conn *c, const struct request *r, struct session *s,
      struct asker *asker, struct err *err)
{
	(void)m;
	return do_act(WANT_REMOVE, NULL, c, r, s, asker, err);
}
