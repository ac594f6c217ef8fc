/* A session's own rule of retention: a choice of it (choice_rows.h), told in its ref and by show.
 */
#include "index/choice_rows.h"
#include "manager/do.h"
#include "manager/session.h"

#include <stdio.h>

#define KEY_RETENTION "retention"

static int
take_choice(void *ctx, const char *key, const char *value, struct err *err)
{
	struct session *s = ctx;

	if (strcmp(key, KEY_RETENTION) != 0 || !*value)
		return 0;
	if (retention_parse(str_of(value), &s->retention.rule, err) < 0)
		return err_add(err, "index.db");
	s->retention.set = true;
	return 0;
}

int
session_retention_load(struct session *s, struct err *err)
{
	s->retention.set = false;
	return choice_rows_list(&s->m->index, s->row.id, take_choice, s, err);
}

void
session_retention_text(const struct session *s, char out[RETENTION_TEXT_BYTES])
{
	retention_format(s->retention.set ? &s->retention.rule : &s->m->retention, out);
}

int
session_retention_set(struct session *s, struct str text, struct err *err)
{
	const bool is_default = str_is(text, "default");
	struct retention rule = {0};
	char now[RETENTION_TEXT_BYTES] = "";

	if (!is_default && retention_parse(text, &rule, err) < 0)
		return -1;
	if (!is_default)
		retention_format(&rule, now);
	if (choice_rows_put(&s->m->index, s->row.id, KEY_RETENTION, now, err) < 0)
		return -1;
	s->retention.set = !is_default;
	s->retention.rule = rule;
	return 0;
}

int
do_set_retention(const struct conn *c, struct session *s, struct str value, struct asker *asker,
		 struct err *err)
{
	auto_buf out = BUF_MAX(4096);
	char text[RETENTION_TEXT_BYTES];

	if (session_retention_set(s, value, err) < 0)
		return -1;
	session_ref_later(s);
	session_retention_text(s, text);
	audit_write(&s->m->audit, "limit", AUDIT_TEXT("session", s->row.id),
		    AUDIT_TEXT("name", s->row.name), AUDIT_TEXT("key", KEY_RETENTION),
		    AUDIT_TEXT("value", text), AUDIT_TEXT("principal", c->principal));
	if (asker->json)
		buf_fmt(&out, "{\"session\":\"%s\",\"key\":\"retention\",\"value\":\"%s\"}\n",
			s->row.name, text);
	else
		buf_fmt(&out, "%s: retention %s%s\n", s->row.name, text,
			s->retention.set ? "" : " (default)");
	return do_answer(asker, &out, err);
}
