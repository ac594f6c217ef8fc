/* undo redo, and restore --path */
#include "manager/do.h"

#include <stdio.h>

enum { STEPS_MAX = 10000 };

static int
step(enum want_kind kind, struct conn *c, const struct request *r, struct session *s,
     struct asker *asker, struct err *err)
{
	const uint64_t steps = request_number(r, "steps", 1);

	if (steps < 1 || steps > STEPS_MAX)
		return err_set(err, ERR_USAGE, "1 to %d steps", STEPS_MAX);
	return do_act(kind, NULL, c, r, s, asker, err);
}

/* Of its parts, none of which leads up: "workspace/a/b". What is not absolute is of /workspace. */
static int
take_path(struct str text, char out[VALUE_MAX_BYTES], struct err *err)
{
	auto_buf path = BUF_MAX(VALUE_MAX_BYTES - 1);
	struct str rest = text, part;

	if (text.len == 0)
		return err_set(err, ERR_USAGE, "--path: it is empty");
	if (!str_starts(text, "/"))
		buf_text(&path, "workspace");
	while (str_cut(&rest, '/', &part)) {
		if (part.len == 0 || str_is(part, "."))
			continue;
		if (str_is(part, "..") || part.len > 255)
			return err_set(err, ERR_USAGE, "--path: a name of 1 to 255 bytes, not ..");
		if (path.len)
			buf_char(&path, '/');
		buf_str(&path, part);
	}
	if (buf_bad(&path))
		return err_set(err, ERR_USAGE, "--path: longer than %d bytes", VALUE_MAX_BYTES - 1);
	if (path.len == 0) {
		err_set(err, ERR_USAGE, "--path: all of it");
		return err_hint(err, "that is restore without --path");
	}
	snprintf(out, VALUE_MAX_BYTES, "%s", buf_cstr(&path));
	return 0;
}

int
do_restore_path(struct manager *m, const struct request *r, const struct digest *snapshot,
		struct session *s, struct asker *asker, struct err *err)
{
	char path[VALUE_MAX_BYTES];
	struct str text = {NULL, 0}, note = {"", 0};

	request_text(r, "path", &text);
	if (take_path(text, path, err) < 0)
		return -1;
	struct want *w = want_new(m, WANT_PUT, asker);
	w->target = *snapshot;
	w->path = xstrdup(path);
	request_text(r, "note", &note);
	snprintf(w->facts.note, sizeof w->facts.note, "%.*s", (int)note.len,
		 note.len ? note.at : "");
	session_want(s, w);
	return 0;
}

int
do_undo(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	struct asker *asker, struct err *err)
{
	(void)m;
	return step(WANT_UNDO, c, r, s, asker, err);
}

int
do_redo(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	struct asker *asker, struct err *err)
{
	(void)m;
	return step(WANT_REDO, c, r, s, asker, err);
}
