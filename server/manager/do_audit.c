/* audit: the last lines of the log. The manager reads them itself, no more than a bounded end of the log, which
 * it wrote and which is cached; what is older is read where it lies, by the operator. */
#include "base/fd.h"
#include "base/path.h"
#include "manager/do.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

enum { LINES_SHOWN = 100, LINES_SHOWN_MAX = 10000, READ_MAX_BYTES = 4 << 20 };

struct shown {
	struct manager *m;
	char pattern[ID_BYTES + 16]; /* what its lines have; empty: all */
	uint64_t skip;               /* of those that fit, the first */
	struct buf *out;             /* NULL: they are only counted */
	bool json, follow, any;
};

/* A part of one file, from a line's beginning on. */
struct part {
	uint64_t first, from;
};

static void
print_line(struct shown *s, struct str line)
{
	struct chain_line l;
	struct err ignored;

	if (s->json && s->follow) {
		buf_str(s->out, line);
		buf_char(s->out, '\n');
	} else if (s->json) {
		buf_text(s->out, s->any ? ",\n" : "\n");
		buf_str(s->out, line);
	} else if (chain_parse(line, &l, &ignored) == 0) {
		buf_fmt(s->out, "%8llu  %.*s  %-10.*s  %.*s\n", (unsigned long long)l.seq,
			(int)l.time.len, l.time.at, (int)l.kind.len, l.kind.at, (int)l.fields.len,
			l.fields.len ? l.fields.at : "");
	}
	s->any = true;
}

static bool
line_fits(const struct shown *s, struct str line)
{
	return !s->pattern[0] || memmem(line.at, line.len, s->pattern, strlen(s->pattern));
}

/* How many lines of a part fit; prints those that are not skipped. */
static int
read_part(struct shown *s, const struct part *p, uint64_t *out_n, struct err *err)
{
	char name[CHAIN_FILE_NAME_BYTES];
	struct str line;
	int got;

	chain_file_name(p->first, name);
	auto_close int fd = path_open(s->m->audit.dir, name, O_RDONLY | O_NONBLOCK, err);
	if (fd < 0)
		return err_add(err, "audit/%s", name);
	struct chain_reader r = chain_reader_new(fd);
	r.offset = p->from;
	bool whole = p->from == 0; /* else the first one has lost its beginning */
	*out_n = 0;
	while ((got = chain_next(&r, &line, err)) == CHAIN_WHOLE) {
		const bool fits = whole && line_fits(s, line);
		whole = true;
		*out_n += fits;
		if (!fits || !s->out)
			continue;
		if (s->skip)
			s->skip--;
		else
			print_line(s, line);
	}
	chain_reader_done(&r);
	return got < 0 ? -1 : 0;
}

/* The newest parts that hold `most` lines together, or are READ_MAX_BYTES; the newest first. */
static int
choose_parts(struct shown *s, const struct chain_files *files, uint64_t most, struct part *out,
	     size_t parts_max, size_t *out_n, uint64_t *out_lines, struct err *err)
{
	uint64_t left = READ_MAX_BYTES, lines = 0;
	size_t n = 0;

	for (size_t i = files->n; i-- > 0 && left && lines < most && n < parts_max; n++) {
		char name[CHAIN_FILE_NAME_BYTES];
		struct stat st;
		uint64_t here;
		chain_file_name(files->first[i], name);
		if (fstatat(s->m->audit.dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return err_sys(err, errno, "audit/%s", name);
		const uint64_t size = (uint64_t)st.st_size;
		out[n] = (struct part){files->first[i], size > left ? size - left : 0};
		left -= size > left ? left : size;
		if (read_part(s, &out[n], &here, err) < 0)
			return -1;
		lines += here;
	}
	*out_n = n;
	*out_lines = lines;
	return 0;
}

static int
show(struct shown *s, uint64_t most, struct buf *out, struct err *err)
{
	enum { PARTS_MAX = 64 };
	struct part parts[PARTS_MAX];
	struct chain_files files;
	uint64_t lines = 0, ignored;
	size_t n = 0;

	if (chain_list(s->m->audit.dir, &files, err) < 0)
		return -1;
	const int chosen = choose_parts(s, &files, most, parts, PARTS_MAX, &n, &lines, err);
	chain_files_done(&files);
	if (chosen < 0)
		return -1;
	s->out = out;
	s->skip = lines > most ? lines - most : 0;
	while (n-- > 0)
		if (read_part(s, &parts[n], &ignored, err) < 0)
			return -1;
	return 0;
}

/* A key that is bound to some sessions sees one of them at a time. */
static int
find_session(struct manager *m, const struct conn *c, const struct request *r, struct shown *s,
	     struct err *err)
{
	struct str ref;

	if (!request_text(r, "session", &ref)) {
		if (!c->scope.globs[0])
			return 0;
		err_set(err, ERR_DENIED, "this key is for some sessions only");
		return err_hint(err, "name one: audit --session SESSION");
	}
	struct session *found = session_find(m, ref);
	if (!found || !may(c->role, &c->scope, &verbs[VERB_show], str_of(found->row.name)))
		return err_set(err, ERR_ABSENT, "no such session");
	keeper_read(found); /* what has ended is there as ended */
	snprintf(s->pattern, sizeof s->pattern, "\"session\":\"%s\"", found->row.id);
	return 0;
}

/* ---- those who follow: each line goes to them as it is written ---- */

struct follower {
	struct follower *next;
	struct asker asker;
	struct shown shown;
};

static struct follower *followers; /* operators' channels: few */

/* Who does not read is cut by asker_print; the end of that conn brings it out of the list. */
static void
tell_followers(struct str line)
{
	for (struct follower *f = followers; f; f = f->next) {
		auto_buf out = BUF_MAX(2 * CHAIN_LINE_MAX_BYTES);
		if (!f->asker.conn || !line_fits(&f->shown, line))
			continue;
		f->shown.out = &out;
		print_line(&f->shown, line);
		f->shown.out = NULL;
		asker_print(&f->asker, buf_view(&out));
	}
}

void
do_audit_forget_conn(const struct conn *c, const uint32_t *seq)
{
	for (struct follower **at = &followers; *at;) {
		struct follower *f = *at;
		if (f->asker.conn != c || (seq && f->asker.seq != *seq)) {
			at = &f->next;
			continue;
		}
		asker_forget(&f->asker);
		*at = f->next;
		free(f);
	}
}

/* From the next line on: nothing is written between what was shown and this. */
static void
follow(struct manager *m, const struct asker *asker, const struct shown *shown)
{
	struct follower *f = xnew(1, sizeof *f);

	f->asker = *asker;
	f->shown = *shown;
	f->next = followers;
	followers = f;
	m->audit.on_line = tell_followers;
}

int
do_audit(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	 struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	struct shown shown = {.m = m, .json = r->json, .follow = request_flag(r, "follow")};
	const uint64_t most = request_number(r, "limit", LINES_SHOWN);

	(void)s;
	if (find_session(m, c, r, &shown, err) < 0)
		return -1;
	records_flush(m);
	const bool is_list = r->json && !shown.follow;
	if (is_list)
		buf_char(&out, '[');
	if (show(&shown, most < LINES_SHOWN_MAX ? most : LINES_SHOWN_MAX, &out, err) < 0)
		return -1;
	if (shown.follow && !buf_bad(&out)) {
		shown.out = NULL;
		asker_print(asker, buf_view(&out));
		follow(m, asker, &shown);
		return 0;
	}
	if (is_list)
		buf_text(&out, shown.any ? "\n]\n" : "]\n");
	return do_answer(asker, &out, err);
}
