/* Facts of snapshots: into JSON, and labels into their list. */
#include "manager/facts.h"
#include "verbs/verbs.h"

#include <stdio.h>

static bool
is_key_byte(char c, bool first)
{
	if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'))
		return true;
	return !first && (c == '.' || c == '_' || c == '/' || c == '-');
}

/* The next line of a list, without its end. false: no more. */
bool
facts_next_label(const char **at, struct str *out)
{
	if (!**at)
		return false;
	const char *end = strchrnul(*at, '\n');
	*out = (struct str){*at, (size_t)(end - *at)};
	*at = *end ? end + 1 : end;
	return true;
}

static size_t
key_of(struct str line)
{
	const char *equal = memchr(line.at, '=', line.len);
	return equal ? (size_t)(equal - line.at) : line.len;
}

void
facts_labels_json(const char *labels, struct buf *out)
{
	struct str line;
	bool first = true;

	buf_char(out, '{');
	while (facts_next_label(&labels, &line)) {
		const size_t n = key_of(line);
		if (!first)
			buf_char(out, ',');
		json_put(out, (struct str){line.at, n});
		buf_char(out, ':');
		json_put(out, n < line.len ? (struct str){line.at + n + 1, line.len - n - 1}
					   : (struct str){"", 0});
		first = false;
	}
	buf_char(out, '}');
}

void
facts_json(const struct snapshot_facts *f, struct buf *out)
{
	const char *comma = "";

	buf_char(out, '{');
	if (f->name[0]) {
		buf_text(out, "\"name\":");
		json_put(out, str_of(f->name));
		comma = ",";
	}
	if (f->note[0]) {
		buf_fmt(out, "%s\"note\":", comma);
		json_put(out, str_of(f->note));
		comma = ",";
	}
	if (f->labels[0]) {
		buf_fmt(out, "%s\"labels\":", comma);
		facts_labels_json(f->labels, out);
		comma = ",";
	}
	if (f->pinned) {
		buf_fmt(out, "%s\"pinned\":true", comma);
		comma = ",";
	}
	if (f->expires_ns)
		buf_fmt(out, "%s\"expires_ns\":%llu", comma, (unsigned long long)f->expires_ns);
	buf_char(out, '}');
}

static int
check_label(struct str text, struct err *err)
{
	const size_t n = key_of(text);

	for (size_t i = 0; i < n; i++)
		if (!is_key_byte(text.at[i], i == 0))
			return err_set(err, ERR_USAGE, "a label's key is a-z 0-9 . _ / -");
	for (size_t i = n; i < text.len; i++)
		if ((unsigned char)text.at[i] < 0x20 || text.at[i] == 0x7f)
			return err_set(err, ERR_USAGE, "a control character in a label");
	if (n == 0 || n == text.len || n > LABEL_KEY_MAX_BYTES) {
		err_set(err, ERR_USAGE, "not a label");
		return err_hint(err, "KEY=VALUE, KEY at most %d letters; KEY= removes it",
				LABEL_KEY_MAX_BYTES);
	}
	return 0;
}

bool
facts_have_label(const char *labels, struct str text)
{
	struct str line;
	const size_t n = key_of(text);

	while (facts_next_label(&labels, &line)) {
		const size_t compared = n == text.len ? key_of(line) : line.len;
		if (compared == text.len && memcmp(line.at, text.at, compared) == 0)
			return true;
	}
	return false;
}

int
facts_check_name(struct str name, struct err *err)
{
	if (name.len == 0)
		return 0;
	if (session_name_check(name, err) < 0)
		return err_set(err, ERR_USAGE,
			       "a snapshot's name is made as a session's: a-z 0-9 . _ -");
	for (size_t i = 0; i < name.len; i++)
		if (!strchr("0123456789abcdef", name.at[i]))
			return 0;
	err_set(err, ERR_USAGE, "a snapshot's name that looks like a digest");
	return err_hint(err, "give it a letter from g to z, or one of . _ -");
}

int
facts_check_note(struct str note, struct err *err)
{
	if (note.len > 1024)
		return err_set(err, ERR_USAGE, "a note of more than 1 KiB");
	for (size_t i = 0; i < note.len; i++)
		if (((unsigned char)note.at[i] < 0x20 && note.at[i] != '\n' &&
		     note.at[i] != '\t') ||
		    note.at[i] == 0x7f)
			return err_set(err, ERR_USAGE, "a control character in a note");
	return 0;
}

int
facts_set_label(char labels[1025], struct str text, struct err *err)
{
	auto_buf out = BUF_MAX(1025);
	const char *at = labels;
	struct str line;
	size_t count = 0;

	if (check_label(text, err) < 0)
		return -1;
	const size_t n = key_of(text);
	bool placed = text.len == n + 1; /* KEY= */
	while (facts_next_label(&at, &line)) {
		const size_t k = key_of(line), least = k < n ? k : n;
		const int order = memcmp(line.at, text.at, least);
		if (order == 0 && k == n)
			continue;
		if (!placed && (order > 0 || (order == 0 && k > n))) {
			buf_fmt(&out, "%s%.*s", out.len ? "\n" : "", (int)text.len, text.at);
			placed = true;
			count++;
		}
		buf_fmt(&out, "%s%.*s", out.len ? "\n" : "", (int)line.len, line.at);
		count++;
	}
	if (!placed) {
		buf_fmt(&out, "%s%.*s", out.len ? "\n" : "", (int)text.len, text.at);
		count++;
	}
	if (buf_bad(&out) || out.len > 1024 || count > LABELS_MAX)
		return err_set(err, ERR_USAGE, "more than %d labels, or 1 KiB of them", LABELS_MAX);
	memcpy(labels, buf_cstr(&out), out.len);
	labels[out.len] = '\0';
	return 0;
}
