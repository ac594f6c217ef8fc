/* The form of lines and files; chain.h says what it is. Nothing here trusts a byte that it reads: the
 * log may have been changed by whoever it speaks of. */
#include "chain.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/time.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { NAME_DIGITS = 20, READ_BYTES = 256 << 10, KIND_MAX_BYTES = 32 };
_Static_assert((int)READ_BYTES > (int)CHAIN_LINE_MAX_BYTES, "a line fits into what is read at once");

void
chain_format(struct buf *out, const struct chain *c, uint64_t real_ns, const char *kind,
	     struct str fields)
{
	char time[TIME_TEXT_BYTES];

	time_format(real_ns, time);
	buf_fmt(out, "{\"seq\":%llu,\"prev\":\"%s\",\"time\":\"%s\",\"kind\":\"%s\"%s",
		(unsigned long long)c->seq + 1, digest_text(&c->last).text, time, kind,
		fields.len ? "," : "");
	buf_str(out, fields);
	buf_text(out, "}\n");
}

static bool
cut_front(struct str *rest, const char *front)
{
	const size_t n = strlen(front);

	if (!str_starts(*rest, front))
		return false;
	rest->at += n;
	rest->len -= n;
	return true;
}

/* What stands before the next quote. */
static bool
cut_text(struct str *rest, size_t most, struct str *out)
{
	return str_cut(rest, '"', out) && rest->at && out->len > 0 && out->len <= most;
}

static bool
parse_parts(struct str rest, struct chain_line *out)
{
	struct str seq, prev;
	struct err ignored;

	if (!cut_front(&rest, "{\"seq\":") || !str_cut(&rest, ',', &seq) || !rest.at ||
	    seq.len == 0 || seq.at[0] == '0' ||
	    num_parse(seq, 1, UINT64_MAX - 1, &out->seq, &ignored) < 0)
		return false;
	if (!cut_front(&rest, "\"prev\":\"") || !cut_text(&rest, 2 * DIGEST_BYTES, &prev) ||
	    hex_parse(prev, out->prev.at, DIGEST_BYTES, &ignored) < 0 ||
	    !str_is(prev, digest_text(&out->prev).text)) /* one spelling a digest */
		return false;
	if (!cut_front(&rest, ",\"time\":\"") || !cut_text(&rest, TIME_TEXT_BYTES, &out->time) ||
	    !cut_front(&rest, ",\"kind\":\"") || !cut_text(&rest, KIND_MAX_BYTES, &out->kind))
		return false;
	if (rest.len == 0 || rest.at[rest.len - 1] != '}')
		return false;
	rest.len--;
	if (rest.len && !cut_front(&rest, ",\""))
		return false;
	out->fields = rest.len ? (struct str){rest.at - 1, rest.len + 1} : rest;
	return true;
}

int
chain_parse(struct str line, struct chain_line *out, struct err *err)
{
	struct chain_line l = {0};

	for (size_t i = 0; i < line.len; i++)
		if ((unsigned char)line.at[i] < 0x20)
			return err_set(err, ERR_CORRUPT, "it is not a line of the log");
	if (line.len >= CHAIN_LINE_MAX_BYTES || !parse_parts(line, &l))
		return err_set(err, ERR_CORRUPT, "it is not a line of the log");
	*out = l;
	return 0;
}

void
chain_advance(struct chain *c, uint64_t seq, struct str line)
{
	c->seq = seq;
	c->last = digest_of(line);
}

/* ---- files ---- */

void
chain_file_name(uint64_t first, char out[CHAIN_FILE_NAME_BYTES])
{
	snprintf(out, CHAIN_FILE_NAME_BYTES, "%0*llu.jsonl", NAME_DIGITS, (unsigned long long)first);
}

int
chain_file_parse(const char *name, uint64_t *out, struct err *err)
{
	const struct str s = str_of(name);
	char back[CHAIN_FILE_NAME_BYTES];
	uint64_t first;

	if (s.len <= NAME_DIGITS ||
	    num_parse((struct str){name, NAME_DIGITS}, 1, UINT64_MAX - 1, &first, err) < 0)
		return err_set(err, ERR_CORRUPT, "not a file of the log: %.60s", name);
	chain_file_name(first, back);
	if (strcmp(back, name) != 0)
		return err_set(err, ERR_CORRUPT, "not a file of the log: %.60s", name);
	*out = first;
	return 0;
}

void
chain_files_done(struct chain_files *f)
{
	free(f->first);
	*f = (struct chain_files){0};
}

static int
add_file(struct chain_files *f, uint64_t first, struct err *err)
{
	if (f->n == CHAIN_FILES_MAX)
		return err_set(err, ERR_CORRUPT, "more than %d files", CHAIN_FILES_MAX);
	if (f->n == f->cap) {
		f->cap = f->cap ? 2 * f->cap : 64;
		uint64_t *at = xnew(f->cap, sizeof *at);
		if (f->n)
			memcpy(at, f->first, f->n * sizeof *at);
		free(f->first);
		f->first = at;
	}
	f->first[f->n++] = first;
	return 0;
}

static int
compare(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

int
chain_list(int dir, struct chain_files *out, struct err *err)
{
	struct chain_files f = {0};
	const struct dirent *e;
	int result = 0;

	const int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	if (!list) {
		err_sys(err, errno, "list the log's files");
		if (copy >= 0)
			close(copy);
		return -1;
	}
	while (result == 0 && (errno = 0, e = readdir(list)) != NULL) {
		uint64_t first;
		struct err ignored;
		if (chain_file_parse(e->d_name, &first, &ignored) == 0)
			result = add_file(&f, first, err);
		else if (str_glob(STR_LIT("*.jsonl"), str_of(e->d_name)))
			snprintf(f.stranger, sizeof f.stranger, "%.60s", e->d_name);
	}
	if (result == 0 && errno != 0)
		result = err_sys(err, errno, "list the log's files");
	closedir(list);
	if (result < 0) {
		chain_files_done(&f);
		return -1;
	}
	if (f.n)
		qsort(f.first, f.n, sizeof *f.first, compare);
	*out = f;
	return 0;
}

/* ---- lines of a file ---- */

struct chain_reader
chain_reader_new(int fd)
{
	return (struct chain_reader){.fd = fd, .room = xnew(1, READ_BYTES)};
}

void
chain_reader_done(struct chain_reader *r)
{
	free(r->room);
	r->room = NULL;
}

static int
fill(struct chain_reader *r, struct err *err)
{
	memmove(r->room, r->room + r->at, r->have - r->at);
	r->have -= r->at;
	r->at = 0;
	while (!r->ended && r->have < READ_BYTES) {
		const ssize_t n = pread(r->fd, r->room + r->have, READ_BYTES - r->have,
					(off_t)(r->offset + r->have));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, errno, "read the log");
		r->ended = n == 0;
		r->have += (size_t)n;
	}
	return 0;
}

int
chain_next(struct chain_reader *r, struct str *out, struct err *err)
{
	const char *end = NULL;

	if (r->have > r->at)
		end = memchr(r->room + r->at, '\n', r->have - r->at);
	if (!end && !r->ended) {
		if (fill(r, err) < 0)
			return -1;
		end = memchr(r->room, '\n', r->have);
	}
	const size_t there = r->have - r->at;
	const size_t n = end ? (size_t)(end - (r->room + r->at)) : there;
	*out = (struct str){r->room + r->at, n < CHAIN_LINE_MAX_BYTES ? n : CHAIN_LINE_MAX_BYTES};
	if (n >= CHAIN_LINE_MAX_BYTES || (!end && there))
		return CHAIN_TORN;
	if (!end)
		return CHAIN_END;
	r->at += n + 1;
	r->offset += n + 1;
	return CHAIN_WHOLE;
}

int
chain_sum_rest(int fd, uint64_t offset, struct chain_torn *out, struct err *err)
{
	auto_free char *room = xnew(1, READ_BYTES);
	auto_of(hasher) struct hasher *h = hasher_new();
	struct chain_torn t = {0};

	for (;;) {
		const ssize_t n = pread(fd, room, READ_BYTES, (off_t)(offset + t.bytes));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, errno, "read the log");
		if (n == 0)
			break;
		hasher_add(h, room, (size_t)n);
		t.bytes += (uint64_t)n;
	}
	t.sum = hasher_sum(h);
	*out = t;
	return 0;
}

void
chain_cut_fields(struct buf *out, const char *file, const struct chain_torn *t)
{
	buf_fmt(out, "\"file\":\"%s\",\"bytes\":%llu,\"sha256\":\"%s\"", file,
		(unsigned long long)t->bytes, digest_text(&t->sum).text);
}
