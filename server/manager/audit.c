#include "audit.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "verbs/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HEAD_LINES = 256, FILE_LEAST_BYTES = 4096, FIELDS_MAX_BYTES = CHAIN_LINE_MAX_BYTES - 1024 };
_Static_assert((int)HEAD_LINES < (int)CHAIN_HEAD_LINES_MAX, "what is checked is what is done");
#define HEAD_WAIT_NS  (30 * NS_PER_S)
#define START_WAIT_NS (300 * NS_PER_MS) /* then the bytes are sent to the disk, without waiting */
#define SYNC_WAIT_NS  (500 * NS_PER_MS) /* after that, so that little is left to wait for */
#define RETRY_WAIT_NS (1 * NS_PER_S)

/* ---- the disk ---- */

int
audit_sync(struct audit *a, struct err *err)
{
	timer_cancel(&a->sync_timer);
	a->started = false;
	if (a->fd >= 0 && fdatasync(a->fd) < 0)
		return err_sys(err, errno, "sync the audit log");
	return 0;
}

static void
sync_due(void *ctx)
{
	struct audit *a = ctx;
	struct err err;

	if (!a->started && a->fd >= 0) {
		a->started = true;
		(void)sync_file_range(a->fd, 0, 0, SYNC_FILE_RANGE_WRITE); /* a hint: fdatasync follows */
		timer_set(a->loop, &a->sync_timer, time_now_ns() + SYNC_WAIT_NS, sync_due, a);
		return;
	}
	if (audit_sync(a, &err) < 0)
		log_err(&err, "the audit log");
}

static int
open_file(struct audit *a, uint64_t first, struct err *err)
{
	char name[CHAIN_FILE_NAME_BYTES];
	struct stat st;

	chain_file_name(first, name);
	auto_close int fd =
	    openat(a->dir, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return err_sys(err, errno, "open audit/%s", name);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, ERR_CORRUPT, "audit/%s is not a file", name);
	if (path_sync_dir(a->dir, err) < 0)
		return -1;
	a->fd = fd_steal(&fd);
	a->bytes = (uint64_t)st.st_size;
	return 0;
}

/* A line by one write; what is not whole is taken back at once. */
static int
put(struct audit *a, const char *kind, uint64_t real_ns, struct str fields, struct err *err)
{
	buf_clear(&a->line);
	chain_format(&a->line, &a->chain, real_ns, kind, fields);
	if (buf_bad(&a->line))
		return err_set(err, ERR_INTERNAL, "a line of the audit log is too long");
	const ssize_t n = write(a->fd, a->line.at, a->line.len);
	if (n != (ssize_t)a->line.len) {
		const int why = n < 0 ? errno : ENOSPC;
		if (n > 0 && ftruncate(a->fd, (off_t)a->bytes) < 0)
			fd_close(&a->fd); /* the next one finds the end, and tells of this */
		return err_sys(err, why, "write the audit log");
	}
	a->bytes += a->line.len;
	const struct str line = {a->line.at, a->line.len - 1};
	chain_advance(&a->chain, a->chain.seq + 1, line);
	if (a->on_line)
		a->on_line(line);
	return 0;
}

static int
put_head(struct audit *a, struct err *err)
{
	auto_buf fields = BUF_MAX(1024);
	const uint64_t now = time_real_ns();

	timer_cancel(&a->head_timer);
	if (a->fd < 0 || a->unsigned_lines == 0)
		return 0;
	if (signature_head_fields(&fields, a->key, &a->chain, now, err) < 0 ||
	    put(a, "head", now, buf_view(&fields), err) < 0)
		return -1;
	a->unsigned_lines = 0;
	return 0;
}

static void
written(struct audit *a)
{
	if (!a->always && !a->sync_timer.slot)
		timer_set(a->loop, &a->sync_timer, time_now_ns() + START_WAIT_NS, sync_due, a);
}

static void
head_due(void *ctx)
{
	struct audit *a = ctx;
	struct err err;

	if (put_head(a, &err) < 0) {
		log_err(&err, "the audit log is not signed");
		timer_set(a->loop, &a->head_timer, time_now_ns() + HEAD_WAIT_NS, head_due, a);
	}
	written(a);
}

/* ---- its end, at start and after a line that could not be taken back ---- */

struct end {
	char torn_name[CHAIN_FILE_NAME_BYTES];
	struct chain_torn torn; /* bytes 0: the last file ends with a line */
	uint64_t first;         /* of the file that holds the last line; 0: there is none */
	uint64_t unsigned_lines;
};

/* The last line of one file: 1, 0 it has none, -1. */
static int
read_file_end(struct audit *a, uint64_t first, struct end *e, struct err *err)
{
	char name[CHAIN_FILE_NAME_BYTES];
	struct chain_line l;
	struct err ignored;
	struct str line;
	auto_buf last = BUF_MAX(CHAIN_LINE_MAX_BYTES); /* one sum a file, not one a line */
	uint64_t offset = 0, seq = 0;
	int got;

	chain_file_name(first, name);
	auto_close int fd = path_open(a->dir, name, O_RDONLY | O_NONBLOCK, err);
	if (fd < 0)
		return err_add(err, "audit/%s", name);
	struct chain_reader r = chain_reader_new(fd);
	while ((got = chain_next(&r, &line, err)) == CHAIN_WHOLE &&
	       chain_parse(line, &l, &ignored) == 0) {
		buf_clear(&last);
		buf_str(&last, line);
		seq = l.seq;
		offset = r.offset;
		e->unsigned_lines = str_is(l.kind, "head") ? 0 : e->unsigned_lines + 1;
	}
	chain_reader_done(&r);
	if (got < 0)
		return -1;
	if (seq)
		chain_advance(&a->chain, seq, buf_view(&last));
	if (got != CHAIN_END && !e->torn.bytes) {
		memcpy(e->torn_name, name, sizeof name);
		if (chain_sum_rest(fd, offset, &e->torn, err) < 0)
			return -1;
	}
	return seq > 0;
}

static int
put_cut(struct audit *a, const struct end *e, struct err *err)
{
	auto_buf fields = BUF_MAX(512);

	log_line("the audit log: %llu bytes at the end of audit/%s are no line: a crash cut it",
		 (unsigned long long)e->torn.bytes, e->torn_name);
	chain_cut_fields(&fields, e->torn_name, &e->torn);
	if (put(a, "cut", time_real_ns(), buf_view(&fields), err) < 0)
		return -1;
	a->unsigned_lines++;
	return 0;
}

/* A file without one whole line is begun anew: its name is that of the next line. */
static int
find_end(struct audit *a, struct err *err)
{
	struct chain_files files;
	struct end e = {.first = 0};
	int got = 0;

	fd_close(&a->fd);
	if (chain_list(a->dir, &files, err) < 0)
		return -1;
	a->chain = (struct chain){0};
	for (size_t i = files.n; i-- > 0 && got == 0;) {
		got = read_file_end(a, files.first[i], &e, err);
		if (got == 1)
			e.first = files.first[i];
	}
	chain_files_done(&files);
	if (got < 0)
		return -1;
	a->unsigned_lines = e.unsigned_lines;
	if (!e.torn.bytes)
		return open_file(a, e.first ? e.first : 1, err);
	if (open_file(a, a->chain.seq + 1, err) < 0)
		return -1;
	if (a->bytes && ftruncate(a->fd, 0) < 0) {
		fd_close(&a->fd);
		return err_sys(err, errno, "begin a file of the audit log");
	}
	a->bytes = 0;
	if (put_cut(a, &e, err) < 0) {
		/* an empty file stays, which the next try begins with; the torn one is read again */
		fd_close(&a->fd);
		return -1;
	}
	return 0;
}

static int
next_file(struct audit *a, struct err *err)
{
	if (put_head(a, err) < 0 || audit_sync(a, err) < 0)
		return -1;
	fd_close(&a->fd);
	return open_file(a, a->chain.seq + 1, err);
}

/* ---- lines ---- */

static void
format_fields(struct buf *out, const struct audit_field *f)
{
	for (; f->key; f++) {
		if (!f->is_number && !f->text.len)
			continue;
		buf_fmt(out, "%s\"%s\":", out->len ? "," : "", f->key);
		if (f->is_number)
			buf_fmt(out, "%llu", (unsigned long long)f->number);
		else
			json_put(out, f->text);
	}
}

static int
append(struct audit *a, const char *kind, const struct audit_field *fields, struct err *err)
{
	auto_buf text = BUF_MAX(FIELDS_MAX_BYTES);
	struct err head;

	format_fields(&text, fields);
	if (buf_bad(&text))
		return err_set(err, ERR_INTERNAL, "a line of the audit log is too long");
	if (a->fd < 0 && find_end(a, err) < 0)
		return -1;
	if (a->bytes >= a->max_bytes && next_file(a, err) < 0)
		return -1;
	if (put(a, kind, time_real_ns(), buf_view(&text), err) < 0)
		return -1;
	a->unsigned_lines++;
	if (a->unsigned_lines >= HEAD_LINES && put_head(a, &head) < 0)
		log_err(&head, "the audit log is not signed"); /* the next line tries again */
	else if (a->unsigned_lines && !a->head_timer.slot)
		timer_set(a->loop, &a->head_timer, time_now_ns() + HEAD_WAIT_NS, head_due, a);
	written(a);
	return 0;
}

static int
tell_unwritten(struct audit *a, struct err *err)
{
	char since[TIME_TEXT_BYTES];

	if (!a->unwritten)
		return 0;
	time_format(a->unwritten_ns, since);
	const struct audit_field fields[] = {AUDIT_NUMBER("lines", a->unwritten),
					     AUDIT_TEXT("since", since),
					     {.key = NULL}};
	if (append(a, "unwritten", fields, err) < 0)
		return -1;
	a->unwritten = 0;
	return 0;
}

static void
succeeded(struct audit *a)
{
	if (a->failing)
		log_line("the audit log is written again");
	a->failing = false;
	timer_cancel(&a->retry_timer);
}

static void
retry_due(void *ctx)
{
	struct audit *a = ctx;
	struct err err;

	if (tell_unwritten(a, &err) == 0)
		succeeded(a);
	else
		timer_set(a->loop, &a->retry_timer, time_now_ns() + RETRY_WAIT_NS, retry_due, a);
}

int
audit_append(struct audit *a, const char *kind, const struct audit_field *fields, struct err *err)
{
	if (tell_unwritten(a, err) == 0 && append(a, kind, fields, err) == 0) {
		succeeded(a);
		return 0;
	}
	if (!a->failing)
		log_err(err, "the audit log cannot be written; what happens meanwhile is counted");
	a->failing = true;
	return -1;
}

void
audit_put(struct audit *a, const char *kind, const struct audit_field *fields)
{
	struct err err;

	if (!a->loop)
		return; /* berthd is still starting, or has ended */
	if (audit_append(a, kind, fields, &err) < 0) {
		if (a->unwritten++ == 0)
			a->unwritten_ns = time_real_ns();
		if (!a->retry_timer.slot)
			timer_set(a->loop, &a->retry_timer, time_now_ns() + RETRY_WAIT_NS, retry_due,
				  a);
		return;
	}
	if (a->always && audit_sync(a, &err) < 0)
		log_err(&err, "the audit log");
}

/* ---- begin and end ---- */

/* The calls in lines behind the position, from the file on that holds the first of them. */
static int
note_calls(struct audit *a, uint64_t position, struct err *err)
{
	struct chain_files files;
	int got = 0;

	if (chain_list(a->dir, &files, err) < 0)
		return -1;
	for (size_t i = 0; i < files.n && got >= 0; i++) {
		char name[CHAIN_FILE_NAME_BYTES];
		struct chain_line l;
		struct err ignored;
		struct str line;
		if (i + 1 < files.n && files.first[i + 1] <= position + 1)
			continue;
		chain_file_name(files.first[i], name);
		auto_close int fd = path_open(a->dir, name, O_RDONLY | O_NONBLOCK, err);
		if (fd < 0) {
			got = err_add(err, "audit/%s", name);
			break;
		}
		struct chain_reader r = chain_reader_new(fd);
		while ((got = chain_next(&r, &line, err)) == CHAIN_WHOLE &&
		       chain_parse(line, &l, &ignored) == 0)
			if (l.seq > position)
				audit_calls_note(a, &l);
		chain_reader_done(&r);
	}
	chain_files_done(&files);
	return got < 0 ? -1 : 0;
}

int
audit_open(struct audit *a, struct loop *loop, int state_dir, struct str host_key,
	   const struct audit_options *options, uint64_t position, struct err *err)
{
	*a = (struct audit){.loop = loop,
			    .dir = -1,
			    .fd = -1,
			    .max_bytes = options->file_max_bytes,
			    .always = strcmp(options->sync, "always") == 0,
			    .line = BUF_MAX(CHAIN_LINE_MAX_BYTES),
			    .opened_ns = time_now_ns()};
	if (!a->always && strcmp(options->sync, "soon") != 0)
		return err_set(err, ERR_CONFIG, "audit_sync is neither soon nor always: %.60s",
			       options->sync);
	if (a->max_bytes < FILE_LEAST_BYTES)
		a->max_bytes = FILE_LEAST_BYTES;
	a->key = signature_key_load(host_key, err);
	if (!a->key)
		return err_add(err, "sign the audit log by the host key");
	a->dir = path_open_dir(state_dir, "audit", 0700, err);
	if (a->dir < 0)
		return err_add(err, "open the audit log");
	struct err full;
	if (find_end(a, &full) < 0) /* invariant 5: each line tries again */
		log_err(&full, "the end of the audit log");
	if (note_calls(a, position, err) < 0)
		return -1;
	const uint64_t last = a->chain.seq;
	audit_write(a, "start", AUDIT_TEXT("version", BERTH_VERSION),
		    AUDIT_TEXT("isolation", options->isolation));
	if (last < position)
		audit_write(a, "lost", AUDIT_NUMBER("from", last + 1), AUDIT_NUMBER("to", position));
	if (put_head(a, &full) < 0)
		log_err(&full, "the audit log is not signed");
	return 0;
}

void
audit_close(struct audit *a)
{
	struct err err;

	if (!a->loop)
		return;
	audit_put(a, "stop", &(const struct audit_field){.key = NULL});
	if (put_head(a, &err) < 0 || audit_sync(a, &err) < 0)
		log_err(&err, "the audit log is not closed well");
	if (a->unwritten)
		log_line("%llu lines of the audit log could not be written",
			 (unsigned long long)a->unwritten);
	timer_cancel(&a->sync_timer);
	timer_cancel(&a->head_timer);
	timer_cancel(&a->retry_timer);
	audit_calls_free(a);
	signature_key_free(a->key);
	a->key = NULL;
	buf_free(&a->line);
	fd_close(&a->fd);
	fd_close(&a->dir);
	a->loop = NULL;
}
