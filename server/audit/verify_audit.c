/* berth-verify-audit: whether a copy of an audit log is whole.
 *   holds      the directory it is given, and a few small files, for reading
 *   may        read them
 *   never      writes, speaks to anybody, trusts a byte that it reads */
#include "audit/check.h"
#include "audit/signature.h"
#include "base/fd.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>

enum { HEAD_FILE_MAX_BYTES = 1 << 20, KEY_FILE_MAX_BYTES = 65536 };

static void
usage(FILE *to)
{
	fputs("usage: berth-verify-audit DIR [--head FILE_OR_LINE] [--key HOSTKEY.pub]...\n"
	      "       berth-verify-audit --help | --version\n\n"
	      "Says whether the audit log in DIR (STATE/audit, or a copy of it) is whole: each line\n"
	      "unchanged, once and in its place, its heads signed. --key: by this host key, such as\n"
	      "STATE/keys/host_ed25519.pub (several for several). --head: a head that was kept\n"
	      "elsewhere, as a line or as the last line of a file: finds out whether the log's end\n"
	      "was cut.\n\n"
	      "Exit status: 0 whole, 65 not, 64 wrong use, 66 there is nothing to read.\n",
	      to);
}

static void
say(void *ctx, bool broken, const char *file, uint64_t line, const char *words)
{
	FILE *to = broken ? stdout : stderr;

	(void)ctx;
	if (file && line)
		fprintf(to, "%s:%llu: %s\n", file, (unsigned long long)line, words);
	else if (file)
		fprintf(to, "%s: %s\n", file, words);
	else
		fprintf(to, "the log: %s\n", words);
}

static int
read_file(const char *path, struct buf *out, struct err *err)
{
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		err_sys(err, errno, "open");
	if (fd < 0 || fd_read_to_end(fd, out, err) < 0)
		return err_add(err, "%s", path);
	return 0;
}

/* Its last line that is not empty; the argument itself where that is one. */
static int
load_head(const char *argument, struct buf *text, struct str *out, struct err *err)
{
	struct str rest, line, last = {NULL, 0};

	if (argument[0] == '{')
		buf_text(text, argument);
	else if (read_file(argument, text, err) < 0)
		return -1;
	rest = buf_view(text);
	while (str_cut(&rest, '\n', &line))
		if (line.len)
			last = line;
	if (!last.len)
		return err_set(err, ERR_USAGE, "%s: no head there", argument);
	*out = last;
	return 0;
}

/* The second word of a .pub file. */
static int
load_key(const char *path, struct check *c, struct err *err)
{
	auto_buf text = BUF_MAX(KEY_FILE_MAX_BYTES);
	struct str rest, type, key;

	if (c->n_keys == CHECK_KEYS_MAX)
		return err_set(err, ERR_USAGE, "more than %d keys", CHECK_KEYS_MAX);
	if (read_file(path, &text, err) < 0)
		return -1;
	rest = buf_view(&text);
	if (!rest.len || !str_cut(&rest, ' ', &type) || !rest.at || !str_is(type, "ssh-ed25519") ||
	    !str_cut(&rest, ' ', &key))
		return err_set(err, ERR_USAGE, "%s: not the public half of an ed25519 key", path);
	while (key.len && key.at[key.len - 1] == '\n')
		key.len--;
	c->keys[c->n_keys++] = xstrndup(key);
	return 0;
}

struct args {
	const char *dir, *head;
};

/* 0 go on, 1 done. */
static int
parse_args(int argc, char **argv, struct args *out, struct check *c, struct err *err)
{
	static const struct option longs[] = {
	    {"head", required_argument, NULL, 'h'}, {"key", required_argument, NULL, 'k'},
	    {"help", no_argument, NULL, '?' + 256}, {"version", no_argument, NULL, 'v'},
	    {NULL, 0, NULL, 0},
	};
	int o;

	opterr = 0;
	while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		switch (o) {
		case 'h':
			out->head = optarg;
			break;
		case 'k':
			if (load_key(optarg, c, err) < 0)
				return -1;
			break;
		case '?' + 256:
			usage(stdout);
			return 1;
		case 'v':
			printf("berth-verify-audit %s\n", BERTH_VERSION);
			return 1;
		default:
			return err_set(err, ERR_USAGE, "unknown option: %s", argv[optind - 1]);
		}
	}
	if (optind + 1 != argc)
		return err_set(err, ERR_USAGE, "one directory is to be given");
	out->dir = argv[optind];
	return 0;
}

static int
run(const struct args *a, struct check *c, struct err *err)
{
	auto_buf head = BUF_MAX(HEAD_FILE_MAX_BYTES);

	if (a->head && load_head(a->head, &head, &c->head, err) < 0)
		return -1;
	auto_close int dir = open(a->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0) {
		err_sys(err, errno, "%s", a->dir);
		err->code = ERR_ABSENT;
		return -1;
	}
	return check_log(dir, c, err);
}

int
main(int argc, char **argv)
{
	struct check c = {.fn = say};
	struct args a = {0};
	struct err err;
	char line[1024];

	int result = parse_args(argc, argv, &a, &c, &err);
	if (result == 1)
		return 0;
	if (result == 0)
		result = run(&a, &c, &err);
	for (size_t i = 0; i < c.n_keys; i++)
		free((void *)(uintptr_t)c.keys[i]);
	if (result < 0) {
		err_what(&err, "verify");
		err_hint(&err, "berth-verify-audit --help");
		err_line(&err, line, sizeof line);
		fprintf(stderr, "%s\n", line);
		return err_exit(err.code);
	}
	if (c.found) {
		printf("broken: %llu places, in %llu lines of %llu files\n",
		       (unsigned long long)c.found, (unsigned long long)c.lines,
		       (unsigned long long)c.files);
		return err_exit(ERR_CORRUPT);
	}
	printf("whole: %llu lines in %llu files, %llu heads%s%s%s, %llu lines after the last\n",
	       (unsigned long long)c.lines, (unsigned long long)c.files,
	       (unsigned long long)c.heads, c.key[0] ? ", the last by " : "", c.key,
	       c.n_keys ? "" : c.key[0] ? " (nobody said whose key that is: --key)" : "",
	       (unsigned long long)c.unsigned_lines);
	return 0;
}
