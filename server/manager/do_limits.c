/* set, and the limits of new */
#include "base/log.h"
#include "manager/do.h"
#include "manager/fork_ready.h"

#include <stdio.h>

int
do_new_limits(struct manager *m, const struct conn *c, const struct request *r,
	      struct limits_set *out, struct err *err)
{
	*out = (struct limits_set){0};
	for (int l = 0; l < LIMITS; l++) {
		struct str value;
		if (request_text(r, limit_key((enum limit)l), &value) &&
		    limits_change(&m->standard, out, (enum limit)l, value,
				  c->role == PRINCIPAL_OPERATOR, err) < 0)
			return -1;
	}
	return 0;
}

static int
find_key(const struct request *r, enum limit *out, struct err *err)
{
	struct str key = {NULL, 0};

	request_text(r, "key", &key);
	*out = limit_find(key);
	if (*out != LIMITS)
		return 0;
	err_set(err, ERR_USAGE, "no such key: %.*s", (int)(key.len > 32 ? 32 : key.len), key.at);
	return err_hint(
	    err,
	    "cpu, memory, pids, disk, files, tmp, wall, calls, snapshot, retention or fork-ready");
}

/* What holds now is undone when the kernel, or the index, does not take it. */
static int
change(struct session *s, enum limit l, struct str value, bool by_operator, struct err *err)
{
	const struct limits_set was = s->limits;
	struct err ignored;

	if (limits_change(&s->m->standard, &s->limits, l, value, by_operator, err) < 0)
		return -1;
	if (session_limits_apply(s, l, err) == 0 && session_limits_save(s, err) == 0)
		return 0;
	s->limits = was;
	if (session_limits_apply(s, l, &ignored) < 0)
		log_err(&ignored, "session %s: its %s limit", s->row.name, limit_key(l));
	return -1;
}

/* A choice is no limit, but set in the same way. */
static int
answer_choice(struct session *s, const struct conn *c, const char *key, const char *text,
	      struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(1024);

	session_ref_later(s);
	log_line("session %s: %s %s, set by %s", s->row.name, key, text, c->principal);
	audit_write(&s->m->audit, "limit", AUDIT_TEXT("session", s->row.id),
		    AUDIT_TEXT("name", s->row.name), AUDIT_TEXT("key", key),
		    AUDIT_TEXT("value", text), AUDIT_TEXT("principal", c->principal));
	if (asker->json)
		buf_fmt(&out,
			"{\"session\":\"%s\",\"key\":\"%s\",\"value\":\"%s\",\"in_force\":"
			"true}\n",
			s->row.name, key, text);
	else
		buf_fmt(&out, "%s: %s %s\n", s->row.name, key, text);
	return do_answer(asker, &out, err);
}

/* What its head stands on is unpacked from now on. */
static int
set_fork_ready(struct session *s, const struct conn *c, struct str value, struct asker *asker,
	       struct err *err)
{
	const bool was = s->choices.fork_ready, was_set = s->choices.fork_ready_set;
	const bool yes = str_is(value, "yes"), standard = str_is(value, "default");

	if (!yes && !standard && !str_is(value, "no")) {
		err_set(err, ERR_USAGE, "fork-ready: %.*s", (int)(value.len > 32 ? 32 : value.len),
			value.at);
		return err_hint(err, "yes, no or default");
	}
	s->choices.fork_ready = yes;
	s->choices.fork_ready_set = !standard;
	if (session_choices_save(s, err) < 0) {
		s->choices.fork_ready = was;
		s->choices.fork_ready_set = was_set;
		return -1;
	}
	fork_ready_later(s);
	return answer_choice(s, c, "fork-ready",
			     choices_fork_ready(&s->m->config, &s->choices) ? "yes" : "no", asker,
			     err);
}

/* When snapshots are taken. */
static int
set_snapshot(struct session *s, const struct conn *c, struct str value, struct asker *asker,
	     struct err *err)
{
	const struct snapshot_mode was = s->choices.snapshot;
	char text[SNAPSHOT_MODE_BYTES];

	if (snapshot_mode_parse(value, true, &s->choices.snapshot, err) < 0)
		return -1;
	if (session_choices_save(s, err) < 0) {
		s->choices.snapshot = was;
		return -1;
	}
	session_auto_begin(s);
	snapshot_mode_format(&s->choices.snapshot, text);
	return answer_choice(s, c, "snapshot", text, asker, err);
}

/* A rule is of several words, which a shell on the way here has parted. */
static int
take_words(const struct request *r, struct buf *out, struct err *err)
{
	struct str word;
	size_t n = 0;

	while (request_next(r, "value", &n, &word)) {
		buf_text(out, out->len ? " " : "");
		buf_str(out, word);
	}
	return buf_bad(out) ? err_set(err, ERR_USAGE, "the rule is too long") : 0;
}

int
do_set(struct manager *m, struct conn *c, const struct request *r, struct session *s,
       struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(4096), words = BUF_MAX(VALUE_MAX_BYTES);
	struct str value = {NULL, 0}, key = {NULL, 0};
	char text[LIMIT_TEXT_BYTES];
	enum limit l;

	request_text(r, "key", &key);
	if (str_is(key, "retention")) {
		if (take_words(r, &words, err) < 0)
			return -1;
		return do_set_retention(c, s, buf_view(&words), asker, err);
	}
	size_t n = 0;
	for (struct str word; request_next(r, "value", &n, &word); value = word)
		if (n > 1)
			return err_set(err, ERR_USAGE, "one word too many: %.*s",
				       (int)(word.len > 32 ? 32 : word.len), word.at);
	if (str_is(key, "snapshot"))
		return set_snapshot(s, c, value, asker, err);
	if (str_is(key, "fork-ready"))
		return set_fork_ready(s, c, value, asker, err);
	if (find_key(r, &l, err) < 0 || change(s, l, value, c->role == PRINCIPAL_OPERATOR, err) < 0)
		return -1;
	session_ref_later(s);
	const struct limits now = session_limits(s);
	limit_format(l, now.at[l], text);
	log_line("session %s: %s %s, set by %s", s->row.name, limit_key(l), text, c->principal);
	audit_write(&m->audit, "limit", AUDIT_TEXT("session", s->row.id),
		    AUDIT_TEXT("name", s->row.name), AUDIT_TEXT("key", limit_key(l)),
		    AUDIT_TEXT("value", text), AUDIT_TEXT("principal", c->principal));
	const bool live = limit_is_live(l) && !session_limits_by_rlimit(m, l);
	const bool in_force = live || !s->keeper.linked;
	if (asker->json)
		buf_fmt(&out,
			"{\"session\":\"%s\",\"key\":\"%s\",\"limit\":\"%s\",\"value\":%llu,"
			"\"in_force\":%s}\n",
			s->row.name, limit_key(l), text, (unsigned long long)now.at[l],
			in_force ? "true" : "false");
	else
		buf_fmt(&out, "%s: %s %s%s\n", s->row.name, limit_key(l), text,
			in_force ? "" : ", from its next start on");
	asker_print(asker, buf_view(&out));
	asker_end(asker, NULL);
	return 0;
}
