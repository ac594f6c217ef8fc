#include "config.h"
#include "base/fd.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>

enum option_type { OPTION_TEXT, OPTION_YESNO, OPTION_NUMBER, OPTION_DURATION, OPTION_SIZE };

struct option {
	const char *name;
	size_t offset;
	enum option_type type;
	uint64_t least, most;
	const char *standard, *help;
};

#define TEXT           OPTION_TEXT, 0, 0
#define YESNO          OPTION_YESNO, 0, 1
#define NUMBER(lo, hi) OPTION_NUMBER, lo, hi
#define DURATION       OPTION_DURATION, 0, UINT64_MAX
#define SIZE           OPTION_SIZE, 0, UINT64_MAX
static const struct option options[] = {
#define OPTION(field, type, standard, help)                                                        \
	{#field, offsetof(struct config, field), type, standard, help},
#include "config.def"
#undef OPTION
};
#undef TEXT
#undef YESNO
#undef NUMBER
#undef DURATION
#undef SIZE

enum { OPTIONS = sizeof options / sizeof *options };

static int
store(struct config *c, const struct option *o, struct str value, struct err *err)
{
	char *field = (char *)c + o->offset;
	uint64_t number = 0;

	switch (o->type) {
	case OPTION_TEXT:
		return str_copy(value, field, CONFIG_TEXT_BYTES, err);
	case OPTION_YESNO:
		if (!str_is(value, "yes") && !str_is(value, "no"))
			return err_set(err, ERR_USAGE, "not yes or no: %.*s", (int)value.len,
				       value.at);
		*(bool *)field = str_is(value, "yes");
		return 0;
	case OPTION_NUMBER:
		if (num_parse(value, o->least, o->most, &number, err) < 0)
			return -1;
		break;
	case OPTION_DURATION:
		if (num_parse_duration(value, &number, err) < 0)
			return -1;
		break;
	case OPTION_SIZE:
		if (num_parse_size(value, &number, err) < 0)
			return -1;
		break;
	}
	*(uint64_t *)(void *)field = number;
	return 0;
}

int
config_set(struct config *c, struct str name, struct str value, struct err *err)
{
	for (size_t i = 0; i < OPTIONS; i++) {
		if (!str_is(name, options[i].name))
			continue;
		if (store(c, &options[i], value, err) < 0) {
			err->code = ERR_CONFIG;
			return err_add(err, "%s", options[i].name);
		}
		return 0;
	}
	return err_set(err, ERR_CONFIG, "no such option: %.*s", (int)name.len, name.at);
}

void
config_default(struct config *c)
{
	*c = (struct config){0};
	for (size_t i = 0; i < OPTIONS; i++) {
		struct err err;
		if (store(c, &options[i], str_of(options[i].standard), &err) < 0)
			abort(); /* a row of config.def contradicts itself */
	}
}

static struct str
trim(struct str s)
{
	while (s.len && (s.at[0] == ' ' || s.at[0] == '\t')) {
		s.at++;
		s.len--;
	}
	while (s.len && strchr(" \t\r", s.at[s.len - 1]))
		s.len--;
	return s;
}

int
config_load(struct config *c, const char *path, struct err *err)
{
	auto_buf text = BUF_MAX(CONFIG_FILE_MAX_BYTES);
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	int result = 0;

	if (fd < 0)
		result = err_sys(err, errno, "open");
	else
		result = fd_read_to_end(fd, &text, err);
	struct str rest = buf_view(&text), line;
	for (unsigned n = 1; result == 0 && str_cut(&rest, '\n', &line); n++) {
		struct str before, name;
		if (!str_cut(&line, '#', &before))
			continue;
		before = trim(before);
		if (before.len == 0)
			continue;
		if (!str_cut(&before, '=', &name) || !before.at)
			result = err_set(err, ERR_CONFIG, "not of the form name = value");
		else
			result = config_set(c, trim(name), trim(before), err);
		if (result < 0)
			err_add(err, "line %u", n);
	}
	if (result < 0) {
		err->code = ERR_CONFIG;
		err_hint(err, "berthd --help lists the options");
		return err_what(err, "%s", path);
	}
	return 0;
}

void
config_help(struct buf *out)
{
	for (size_t i = 0; i < OPTIONS; i++)
		buf_fmt(out, "# %s\n%s = %s\n", options[i].help, options[i].name,
			options[i].standard);
}
