/* The man pages: words of a page's text, with the tables of the .def files where it says so.
 *   man PAGE.in > PAGE        a line @verbs, @options or @call_options is replaced by that table */
#include "verbs/verbs.h"

#include <stdio.h>
#include <string.h>

struct row {
	const char *name, *value, *help;
};

static const struct row options[] = {
#define OPTION(field, type, standard, help) {#field, standard, help},
#include "config.def"
#undef OPTION
};

static const struct row call_options[] = {
#define CALL_OPTION(field, name, type, help) {name, "", help},
#include "verbs/options.def"
#undef CALL_OPTION
};

/* troff: a hyphen is one to be typed, a backslash is itself, a line begins with no control character. */
static void
put(const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", stdout);
	for (; *text; text++)
		if (*text == '-')
			fputs("\\-", stdout);
		else if (*text == '\\')
			fputs("\\e", stdout);
		else
			putchar(*text);
}

static void
put_row(const char *name, const char *more, const char *help)
{
	fputs(".TP\n.B ", stdout);
	put(name);
	if (*more) {
		fputs("\n.RB ( ", stdout);
		put(more);
		fputs(" )", stdout);
	}
	putchar('\n');
	put(help);
	putchar('\n');
}

static void
put_verb(const struct verb *v)
{
	if (v->where == VERB_AT_CHANNEL)
		return;
	fputs(".TP\n.B ", stdout);
	put(v->name);
	putchar('\n');
	put(v->help);
	printf(" (%s)\n", principal_role_name(v->role));
	for (const struct parameter *p = v->parameters; p->type != PARAMETER_NONE; p++) {
		fputs(".RS\n.TP\n", stdout);
		if (p->positional) {
			fputs(".I ", stdout);
			put(p->name);
		} else {
			fputs(".B ", stdout);
			put("--");
			put(p->name);
			if (p->value[0])
				printf(" \\fI%s\\fR", p->value);
		}
		putchar('\n');
		put(p->help);
		fputs("\n.RE\n", stdout);
	}
}

static void
put_table(const char *name)
{
	if (strcmp(name, "@verbs\n") == 0)
		for (int i = 0; i < VERBS; i++)
			put_verb(&verbs[i]);
	if (strcmp(name, "@options\n") == 0)
		for (size_t i = 0; i < sizeof options / sizeof *options; i++)
			put_row(options[i].name, options[i].value, options[i].help);
	if (strcmp(name, "@call_options\n") == 0)
		for (size_t i = 0; i < sizeof call_options / sizeof *call_options; i++)
			put_row(call_options[i].name, "", call_options[i].help);
}

int
main(int argc, char **argv)
{
	char line[1024];
	FILE *in = argc == 2 ? fopen(argv[1], "re") : NULL;

	if (!in) {
		fputs("man: not a page: usage: man PAGE.in\n", stderr);
		return 64;
	}
	while (fgets(line, sizeof line, in))
		if (line[0] == '@')
			put_table(line);
		else
			fputs(line, stdout);
	fclose(in);
	return fflush(stdout) || ferror(stdout) ? 1 : 0;
}
