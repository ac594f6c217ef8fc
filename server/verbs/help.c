/* Help, made from the table alone. */
#include "verbs.h"

#include <stdio.h>

enum { LINE_COLUMNS = 80, VERB_COLUMNS = 28, PARAMETER_COLUMNS = 21 };

/* "pause SESSION [--force] [--grace TIME]", or without options. */
static void
usage(struct buf *out, const struct verb *v, bool options)
{
	buf_text(out, v->name);
	for (const struct parameter *p = v->parameters; p->type != PARAMETER_NONE; p++) {
		if (!options && !p->positional)
			continue;
		buf_text(out, p->type == PARAMETER_WORDS ? " -- " : p->required ? " " : " [");
		if (p->positional)
			for (const char *c = p->name; *c; c++)
				buf_char(out, *c >= 'a' && *c <= 'z' ? (char)(*c - 'a' + 'A') : *c);
		else
			buf_fmt(out, "%s%s%s%s", p->name[1] ? "--" : "-", p->name,
				p->value[0] ? "\t" : "", p->value);
		if (!p->required)
			buf_text(out, p->repeats ? "]..." : "]");
		else if (p->repeats)
			buf_text(out, "...");
	}
}

static const char *
type_name(enum parameter_type type)
{
	switch (type) {
	case PARAMETER_NONE:
		break;
	case PARAMETER_SESSION:
		return "session";
	case PARAMETER_NAME:
		return "name";
	case PARAMETER_SNAPSHOT:
		return "snapshot";
	case PARAMETER_SUBJECT:
		return "session or snapshot";
	case PARAMETER_CALL:
		return "call";
	case PARAMETER_NUMBER:
		return "number";
	case PARAMETER_DURATION:
		return "duration";
	case PARAMETER_FLAG:
		return "flag";
	case PARAMETER_YESNO:
		return "yesno";
	case PARAMETER_TEXT:
		return "text";
	case PARAMETER_WORDS:
		return "words";
	}
	return "";
}

static void
member(struct buf *out, const char *name, const char *value, bool first)
{
	buf_fmt(out, "%s\"%s\":", first ? "" : ",", name);
	json_put(out, str_of(value));
}

static void
verb_json(struct buf *out, const struct verb *v)
{
	buf_char(out, '{');
	member(out, "name", v->name, true);
	member(out, "help", v->help, false);
	member(out, "role", principal_role_name(v->role), false);
	buf_text(out, ",\"parameters\":[");
	for (const struct parameter *p = v->parameters; p->type != PARAMETER_NONE; p++) {
		buf_text(out, p == v->parameters ? "{" : ",{");
		member(out, "name", p->name, true);
		member(out, "type", type_name(p->type), false);
		buf_fmt(out, ",\"positional\":%s,\"required\":%s", p->positional ? "true" : "false",
			p->required ? "true" : "false");
		if (p->repeats)
			buf_text(out, ",\"repeats\":true");
		member(out, "help", p->help, false);
		buf_char(out, '}');
	}
	buf_text(out, "]}");
}

/* Words of text from a column on, in lines of a terminal's width; further ones begin at indent. A
 * tab is a space that ends no line. */
static void
wrap(struct buf *out, size_t column, size_t indent, const char *text)
{
	struct str rest = str_of(text), word;

	for (size_t at = column; str_cut(&rest, ' ', &word);) {
		if (at > indent && at + 1 + word.len > LINE_COLUMNS) {
			buf_fmt(out, "\n%*s", (int)indent, "");
			at = indent;
		}
		buf_text(out, at > indent ? " " : "");
		for (size_t i = 0; i < word.len; i++)
			buf_char(out, word.at[i] == '\t' ? ' ' : word.at[i]);
		at += word.len + (at > indent);
	}
	buf_char(out, '\n');
}

/* "  left            text", the text in a column of its own. */
static void
row(struct buf *out, const char *left, size_t column, const char *text)
{
	const size_t n = 2 + strlen(left);

	buf_fmt(out, "  %s", left);
	buf_fmt(out, n < column ? "%*s" : "\n%*s", (int)(n < column ? column - n : column), "");
	wrap(out, column, column, text);
}

void
help_all(struct buf *out, bool json)
{
	bool first = true;

	buf_text(out, json ? "{\"verbs\":[" : "usage: ssh berth@HOST VERB [ARGS] [--json] [--progress]\n"
					      "       ssh SESSION@HOST [COMMAND]\n\n");
	for (size_t i = 0; i < VERBS; i++) {
		auto_buf left = BUF_MAX(256);

		if (verbs[i].where == VERB_AT_CHANNEL)
			continue;
		if (json) {
			buf_text(out, first ? "" : ",");
			verb_json(out, &verbs[i]);
			first = false;
			continue;
		}
		usage(&left, &verbs[i], false);
		row(out, buf_cstr(&left), VERB_COLUMNS, verbs[i].help);
	}
	buf_text(out, json ? "]}\n" : "\nhelp VERB explains one.\n");
}

void
help_verb(struct buf *out, const struct verb *v, bool json)
{
	if (json) {
		verb_json(out, v);
		buf_char(out, '\n');
		return;
	}
	auto_buf line = BUF_MAX(2048);

	buf_text(&line, "ssh berth@HOST ");
	usage(&line, v, true);
	buf_text(&line, " [--json]");
	buf_text(out, "usage: ");
	wrap(out, 7, 7, buf_cstr(&line));
	buf_char(out, '\n');
	wrap(out, 0, 0, v->help);
	if (v->parameters[0].type != PARAMETER_NONE)
		buf_char(out, '\n');
	for (const struct parameter *p = v->parameters; p->type != PARAMETER_NONE; p++) {
		char left[64];
		snprintf(left, sizeof left, "%s%s%s%s",
			 p->positional ? ""
			 : p->name[1]  ? "--"
				       : "-",
			 p->name, p->value[0] ? " " : "", p->value);
		row(out, left, PARAMETER_COLUMNS, p->help);
	}
	buf_fmt(out, "\nNeeds the role %s.\n", principal_role_name(v->role));
}

void
help_version(struct buf *out, bool json)
{
	buf_fmt(out, json ? "{\"version\":\"%s\"}\n" : "berth %s\n", BERTH_VERSION);
}

/* `help call output`, `help call`, `help ls`. */
static int
help_about(struct str verb, struct str second, bool json, struct buf *out, struct err *err)
{
	auto_words words = {0};
	struct request about;
	bool any = false;

	if (second.len == 0) { /* the first word of several verbs */
		for (size_t i = 0; i < VERBS; i++) {
			const struct str name = str_of(verbs[i].name);
			if (name.len <= verb.len || name.at[verb.len] != ' ' ||
			    memcmp(name.at, verb.at, verb.len) != 0)
				continue;
			buf_text(out, any && !json ? "\n" : "");
			help_verb(out, &verbs[i], json);
			any = true;
		}
		if (any)
			return 0;
	}
	const struct str parts[] = {verb, second};
	for (size_t i = 0; i < 2; i++) {
		words.at[i] = parts[i];
		words.n += parts[i].len > 0;
	}
	words.at[words.n++] = STR_LIT("--help");
	if (parse_request(&words, &about, err) < 0)
		return -1;
	if (about.verb)
		help_verb(out, about.verb, json);
	else
		help_all(out, json);
	return 0;
}

int
help_answer(const struct request *r, struct buf *out, struct err *err)
{
	struct str verb = {"", 0}, second = {"", 0};

	if (!r->verb)
		help_all(out, r->json);
	else if (r->help)
		help_verb(out, r->verb, r->json);
	else if (r->verb->id == VERB_version)
		help_version(out, r->json);
	else if (!request_text(r, "verb", &verb) || verb.len == 0)
		help_all(out, r->json);
	else {
		request_text(r, "second", &second);
		return help_about(verb, second, r->json, out, err);
	}
	return 0;
}
