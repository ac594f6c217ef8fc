#include "sftp_log.h"

#include "base/num.h"

/* How the rest of a line goes on behind its first quote. */
enum form {
	FORM_NAME,  /* NAME" */
	FORM_MORE,  /* NAME" MORE */
	FORM_BYTES, /* NAME" bytes read N written N */
	FORM_NAMES, /* NAME" new "NAME" */
	FORM_WHY,   /* NAME": WHY */
};

static const struct {
	const char *front; /* up to the first quote */
	const char *op;    /* NULL: it changes nothing and tells nothing of a file's bytes */
	enum form form;
	const char *more; /* what FORM_MORE begins with; NULL: anything */
} lines[] = {
    {"open \"", "open", FORM_MORE, "\" flags "},
    {"close \"", "close", FORM_BYTES, NULL},
    {"forced close \"", "close", FORM_BYTES, NULL},
    {"remove name \"", "remove", FORM_NAME, NULL},
    {"rename old \"", "rename", FORM_NAMES, NULL},
    {"posix-rename old \"", "rename", FORM_NAMES, NULL},
    {"hardlink old \"", "link", FORM_NAMES, NULL},
    {"symlink old \"", "symlink", FORM_NAMES, NULL},
    {"mkdir name \"", "mkdir", FORM_MORE, "\" mode "},
    {"rmdir name \"", "rmdir", FORM_NAME, NULL},
    {"set \"", "set", FORM_MORE, "\" mode "},
    {"set \"", "set", FORM_MORE, "\" owner "},
    {"set \"", "set", FORM_MORE, "\" size "},
    {"set \"", NULL, FORM_MORE, "\" modtime "},
    {"process_write: write \"", "write", FORM_WHY, NULL},
    {"process_read: read \"", "read", FORM_WHY, NULL},
    {"opendir \"", NULL, FORM_NAME, NULL},
    {"closedir \"", NULL, FORM_NAME, NULL},
    {"forced closedir \"", NULL, FORM_NAME, NULL},
    {"stat name \"", NULL, FORM_NAME, NULL},
    {"lstat name \"", NULL, FORM_NAME, NULL},
    {"realpath \"", NULL, FORM_NAME, NULL},
    {"readlink \"", NULL, FORM_NAME, NULL},
    {"statvfs \"", NULL, FORM_NAME, NULL},
    {"fsync \"", NULL, FORM_NAME, NULL},
    {"expand \"", NULL, FORM_NAME, NULL},
    {"home-directory \"", NULL, FORM_NAME, NULL},
};

/* Lines that are no words of a failure, and tell nothing that is kept. */
static const char *const silent[] = {"session opened ", "session closed ",
				     "received client version ", "users-groups-by-id"};

static bool
starts(struct str s, const char *front, struct str *rest)
{
	const size_t n = strlen(front);

	if (s.len < n || memcmp(s.at, front, n) != 0)
		return false;
	*rest = (struct str){s.at + n, s.len - n};
	return true;
}

/* The last place of `what` in s: what is before it, and behind it. */
static bool
split_last(struct str s, const char *what, struct str *before, struct str *behind)
{
	const size_t n = strlen(what);

	for (size_t at = s.len; at >= n && n; at--)
		if (memcmp(s.at + at - n, what, n) == 0) {
			*before = (struct str){s.at, at - n};
			*behind = (struct str){s.at + at, s.len - at};
			return true;
		}
	return false;
}

static bool
ends_by_quote(struct str *s)
{
	if (!s->len || s->at[s->len - 1] != '"')
		return false;
	s->len--;
	return true;
}

static bool
parse_bytes(struct str s, struct transfer *t)
{
	struct str counts, number;
	struct err ignored;

	if (!split_last(s, "\" bytes read ", &t->path, &counts) ||
	    !str_cut(&counts, ' ', &number) ||
	    num_parse(number, 0, UINT64_MAX, &t->read, &ignored) < 0 || !counts.at)
		return false;
	return starts(counts, "written ", &number) &&
	       num_parse(number, 0, UINT64_MAX, &t->written, &ignored) == 0;
}

static bool
parse_names(struct str s, struct transfer *t)
{
	static const char between[] = "\" new \"";
	struct str before, behind, again;

	if (!ends_by_quote(&s) || !split_last(s, between, &before, &behind))
		return false;
	t->path = before;
	t->to = behind;
	if (split_last(before, between, &before, &again)) {
		t->path = s; /* which of them parts the names cannot be told */
		t->to = (struct str){NULL, 0};
	}
	return true;
}

/* s: what follows the first quote. */
static bool
parse_form(size_t i, struct str s, struct transfer *t)
{
	struct str behind;

	switch (lines[i].form) {
	case FORM_NAME:
		t->path = s;
		return ends_by_quote(&t->path);
	case FORM_MORE:
		if (!split_last(s, lines[i].more, &t->path, &behind))
			return false;
		t->more = (struct str){t->path.at + t->path.len + 2, s.len - t->path.len - 2};
		return true;
	case FORM_BYTES:
		return parse_bytes(s, t);
	case FORM_NAMES:
		return parse_names(s, t);
	case FORM_WHY:
		return split_last(s, "\": ", &t->path, &t->status);
	}
	return false;
}

/* Whether the line has a known form; out->op stays empty where it tells of nothing that is kept. */
static bool
parse_line(struct str line, struct transfer *out)
{
	struct str rest;

	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		struct transfer t = {.read = 0};
		if (!starts(line, lines[i].front, &rest) || !parse_form(i, rest, &t))
			continue;
		t.op = str_of(lines[i].op);
		*out = lines[i].op ? t : (struct transfer){.read = 0};
		return true;
	}
	for (size_t i = 0; i < sizeof silent / sizeof *silent; i++)
		if (starts(line, silent[i], &rest)) {
			*out = (struct transfer){.read = 0};
			return true;
		}
	return false;
}

void
sftp_log_settle(struct sftp_log *l)
{
	if (l->pending.op.len && l->on_transfer)
		l->on_transfer(l->ctx, &l->pending);
	l->pending = (struct transfer){.read = 0};
}

/* To be told if it fails. */
static void
keep_words(struct sftp_log *l, struct str line)
{
	size_t n = 0;

	for (; n < line.len && n < sizeof l->words - 1; n++)
		l->words[n] = line.at[n] >= ' ' && line.at[n] < 0x7f ? line.at[n] : '?';
	l->words[n] = '\0';
}

static void
take_line(struct sftp_log *l)
{
	struct str line = {l->line, l->len}, status;
	struct transfer t;

	while (line.len && line.at[line.len - 1] == '\r')
		line.len--;
	if (starts(line, "sent status ", &status)) {
		if (!l->pending.status.len) /* else the line itself has told more */
			l->pending.status = status;
		sftp_log_settle(l);
		return;
	}
	sftp_log_settle(l);
	if (line.len == 0)
		return;
	memcpy(l->held, line.at, line.len);
	l->held_len = line.len;
	if (parse_line((struct str){l->held, l->held_len}, &t))
		l->pending = t;
	else
		keep_words(l, line);
}

void
sftp_log_take(struct sftp_log *l, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (bytes[i] == '\n') {
			if (!l->dropping)
				take_line(l);
			l->len = 0;
			l->dropping = false;
		} else if (l->len == sizeof l->line) {
			l->dropping = true;
		} else {
			l->line[l->len++] = bytes[i];
		}
	}
}
