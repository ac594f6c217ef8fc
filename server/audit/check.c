#include "check.h"
#include "audit/signature.h"
#include "base/fd.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>

/* Where the check stands. */
struct place {
	struct check *c;
	char file[CHAIN_FILE_NAME_BYTES];
	uint64_t line;         /* in the file; 0: the file */
	bool last_is_head;     /* of what was read so far */
	bool torn;             /* the file before ended in something that is no line */
	char torn_file[CHAIN_FILE_NAME_BYTES];
	uint64_t torn_line;
	struct chain_torn rest;
	bool has_head;         /* the one that was expected has come by */
	uint64_t head_seq;
};

static void tell(struct place *p, const char *file, uint64_t line, const char *fmt, ...)
    printflike(4, 5);

static void
tell(struct place *p, const char *file, uint64_t line, const char *fmt, ...)
{
	char words[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(words, sizeof words, fmt, ap);
	va_end(ap);
	if (p->c->found++ < CHECK_FOUND_MAX)
		p->c->fn(p->c->ctx, true, file, line, words);
}

static void
check_head(struct place *p, struct str line)
{
	struct check *c = p->c;
	struct err err;

	if (signature_head_check(line, c->key, &err) < 0) {
		tell(p, p->file, p->line, "%s", err.why);
		return;
	}
	bool known = c->n_keys == 0;
	for (size_t i = 0; i < c->n_keys; i++)
		known |= strcmp(c->keys[i], c->key) == 0;
	if (!known)
		tell(p, p->file, p->line, "the head is signed by another key: %.68s", c->key);
	c->heads++;
	c->unsigned_lines = 0;
}

/* Against the line before it, by number and by sum. */
static void
check_place(struct place *p, const struct chain_line *l)
{
	const struct chain *before = &p->c->chain;

	if (l->seq > before->seq + 1)
		tell(p, p->file, p->line, "%llu lines are missing before it: it is number %llu after %llu",
		     (unsigned long long)(l->seq - before->seq - 1), (unsigned long long)l->seq,
		     (unsigned long long)before->seq);
	else if (l->seq <= before->seq)
		tell(p, p->file, p->line, "it is out of its place: it is number %llu after %llu",
		     (unsigned long long)l->seq, (unsigned long long)before->seq);
	else if (!digest_equal(&l->prev, &before->last))
		tell(p, p->file, p->line, "the line before it, or it, was changed: the sums differ");
}

/* The first line of a file tells of what a crash left of the file before; else that was a cut. */
static void
settle_torn(struct place *p, const struct chain_line *first)
{
	auto_buf fields = BUF_MAX(512);

	if (!p->torn)
		return;
	p->torn = false;
	chain_cut_fields(&fields, p->torn_file, &p->rest);
	if (first && str_is(first->kind, "cut") && str_equal(first->fields, buf_view(&fields)))
		p->c->fn(p->c->ctx, false, p->torn_file, p->torn_line,
			 "a crash cut it, and the log says so");
	else
		tell(p, p->torn_file, p->torn_line, "it is cut, or not a line of the log");
}

static void
take_line(struct place *p, const struct chain_line *l, struct str line)
{
	struct check *c = p->c;

	check_place(p, l);
	chain_advance(&c->chain, l->seq, line);
	c->lines++;
	p->last_is_head = str_is(l->kind, "head");
	if (p->last_is_head)
		check_head(p, line);
	else if (++c->unsigned_lines == CHAIN_HEAD_LINES_MAX + 1)
		tell(p, p->file, p->line, "no head in the %d lines before it", CHAIN_HEAD_LINES_MAX);
	if (c->head.len && l->seq == p->head_seq) {
		p->has_head = true;
		if (!str_equal(line, c->head))
			tell(p, p->file, p->line, "it differs from the head that was kept elsewhere");
	}
}

/* The bytes that are no line, to the file's end. */
static int
take_torn(struct place *p, int fd, uint64_t offset, struct err *err)
{
	p->torn = true;
	p->torn_line = p->line;
	memcpy(p->torn_file, p->file, sizeof p->torn_file);
	return chain_sum_rest(fd, offset, &p->rest, err);
}

static int
read_lines(struct place *p, struct chain_reader *r, uint64_t first, struct err *err)
{
	struct chain_line l;
	struct err why;
	struct str line;
	int got;

	for (;;) {
		const uint64_t offset = r->offset;
		got = chain_next(r, &line, err);
		if (got <= 0)
			break;
		p->line++;
		if (got == CHAIN_TORN || chain_parse(line, &l, &why) < 0) {
			if (p->line == 1)
				settle_torn(p, NULL);
			return take_torn(p, r->fd, offset, err);
		}
		if (p->line == 1) {
			settle_torn(p, &l);
			if (l.seq != first)
				tell(p, p->file, 1, "its first line is number %llu: the file was renamed, or changed",
				     (unsigned long long)l.seq);
		}
		take_line(p, &l, line);
	}
	return got;
}

static int
check_file(struct place *p, int dir, uint64_t first, struct err *err)
{
	struct check *c = p->c;
	char before[CHAIN_FILE_NAME_BYTES];

	memcpy(before, p->file, sizeof before);
	if (c->files++ && !p->torn && !p->last_is_head)
		tell(p, before, 0, "it does not end with a head: its end is missing");
	chain_file_name(first, p->file);
	p->line = 0;
	auto_close int fd = path_open(dir, p->file, O_RDONLY | O_NONBLOCK, err);
	if (fd < 0)
		return err_add(err, "%s", p->file);
	struct chain_reader r = chain_reader_new(fd);
	const int result = read_lines(p, &r, first, err);
	chain_reader_done(&r);
	if (result == 0 && p->line == 0 && first != c->chain.seq + 1)
		tell(p, p->file, 0, "it is empty");
	return result;
}

int
check_log(int dir, struct check *c, struct err *err)
{
	struct chain_files files;
	struct place p = {.c = c};
	struct chain_line head = {0};
	char key[SIGNATURE_KEY_CHARS + 1];
	int result = 0;

	if (c->head.len) {
		if (signature_head_check(c->head, key, err) < 0 ||
		    chain_parse(c->head, &head, err) < 0)
			return err_add(err, "the head that was kept elsewhere");
		p.head_seq = head.seq;
	}
	if (chain_list(dir, &files, err) < 0)
		return -1;
	if (files.stranger[0])
		tell(&p, files.stranger, 0, "it is not a file of the log");
	for (size_t i = 0; i < files.n && result == 0; i++)
		result = check_file(&p, dir, files.first[i], err);
	const bool empty = files.n == 0;
	chain_files_done(&files);
	if (result < 0)
		return -1;
	settle_torn(&p, NULL);
	if (empty)
		tell(&p, NULL, 0, "there is no file of a log");
	if (c->head.len && !p.has_head)
		tell(&p, NULL, 0, "its end is cut: it ends with line %llu, and there was a line %llu",
		     (unsigned long long)c->chain.seq, (unsigned long long)p.head_seq);
	return 0;
}
