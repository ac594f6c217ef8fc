#include "journal.h"

#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/uio.h>
#include <unistd.h>

enum { NAME_BYTES = 32, HEADER_PUNCHED_TO = 48, START_MAX_BYTES = JOURNAL_SEGMENT_BYTES - 4096 };

static void
put_u32(uint8_t *p, uint32_t v)
{
	for (int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static void
put_u64(uint8_t *p, uint64_t v)
{
	put_u32(p, (uint32_t)v);
	put_u32(p + 4, (uint32_t)(v >> 32));
}

static void
name_of(const char *call, char out[NAME_BYTES])
{
	snprintf(out, NAME_BYTES, "%.24s.j", call);
}

/* ---- life ---- */

static int
write_header(struct journal *j, const char *call, struct err *err)
{
	uint8_t h[JOURNAL_HEADER_BYTES] = {0};

	memcpy(h, JOURNAL_MAGIC, sizeof JOURNAL_MAGIC - 1);
	memcpy(h + 8, call, strnlen(call, JOURNAL_ID_BYTES));
	put_u64(h + 32, time_real_ns());
	put_u64(h + 40, j->punched_from);
	put_u64(h + HEADER_PUNCHED_TO, j->punched_to);
	put_u32(h + 56, JOURNAL_SEGMENT_BYTES);
	return fd_pwrite_all(j->fd, h, sizeof h, 0, err);
}

int
journal_create(int dir, const char *call, struct err *err)
{
	char name[NAME_BYTES];

	name_of(call, name);
	const int fd = path_create(dir, name, 0600, err);
	return fd < 0 ? err_add(err, "journal of call %s", call) : fd;
}

int
journal_open(struct journal *j, int dir, const char *call, uint64_t bound_bytes,
	     int take_file, struct err *err)
{
	char name[NAME_BYTES];

	if (bound_bytes < JOURNAL_BOUND_LEAST_BYTES)
		bound_bytes = JOURNAL_BOUND_LEAST_BYTES;
	const uint64_t head = bound_bytes / 4 / JOURNAL_SEGMENT_BYTES * JOURNAL_SEGMENT_BYTES;
	*j = (struct journal){.fd = -1,
			      .at = JOURNAL_HEADER_BYTES,
			      .bound_bytes = bound_bytes,
			      .punched_from = head,
			      .punched_to = head,
			      .owned = true};
	name_of(call, name);
	j->fd = take_file >= 0 ? take_file : journal_create(dir, call, err);
	if (j->fd < 0)
		return -1;
	if (write_header(j, call, err) < 0) {
		fd_close(&j->fd);
		unlinkat(dir, name, 0);
		return err_add(err, "journal of call %s", call);
	}
	j->sum_out = hasher_new();
	j->sum_err = hasher_new();
	return 0;
}

void
journal_close(struct journal *j)
{
	fd_close(&j->fd);
	hasher_free(j->sum_out);
	hasher_free(j->sum_err);
	j->sum_out = j->sum_err = NULL;
}

void
journal_remove(int dir, const char *call)
{
	char name[NAME_BYTES];

	name_of(call, name);
	unlinkat(dir, name, 0);
}

int
journal_open_reader(int dir, const char *call, struct err *err)
{
	char name[NAME_BYTES];

	name_of(call, name);
	return path_open(dir, name, O_RDONLY, err);
}

/* Bytes that a frame starting at `at` can hold; 0: it must go into the next segment. */
static uint64_t
room_at(uint64_t at)
{
	const uint64_t left = JOURNAL_SEGMENT_BYTES - at % JOURNAL_SEGMENT_BYTES;
	return left > JOURNAL_FRAME_BYTES ? left - JOURNAL_FRAME_BYTES : 0;
}

/* Where a reader that has all waits: at the next segment where no frame fits into the rest of this.
 */
static uint64_t
next_frame_at(const struct journal *j)
{
	return room_at(j->at) ? j->at : (j->at / JOURNAL_SEGMENT_BYTES + 1) * JOURNAL_SEGMENT_BYTES;
}

/* ---- the bound ---- */

static uint64_t
kept_bytes(const struct journal *j)
{
	return j->at - (j->punched_to - j->punched_from);
}

/* Whether the oldest segment behind the head may go. */
static bool
may_punch(const struct journal *j)
{
	const uint64_t to = j->punched_to + JOURNAL_SEGMENT_BYTES;
	return to <= j->at && (!j->owned || to <= j->taken);
}

bool
journal_is_full(const struct journal *j)
{
	return j->owned && kept_bytes(j) >= j->bound_bytes && !may_punch(j);
}

static int
punch_segment(struct journal *j, struct err *err)
{
	uint8_t to[8];

	/* The header first: a reader that meets the hole knows it for one (invariant 3 of the
	 * form). */
	put_u64(to, j->punched_to + JOURNAL_SEGMENT_BYTES);
	if (fd_pwrite_all(j->fd, to, sizeof to, HEADER_PUNCHED_TO, err) < 0)
		return -1;
	if (fallocate(j->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)j->punched_to,
		      JOURNAL_SEGMENT_BYTES) < 0) {
		j->keeps_no_more = true;
		return err_sys(err, errno, "punch a hole into a journal");
	}
	j->punched_to += JOURNAL_SEGMENT_BYTES;
	return 0;
}

static int
keep_bound(struct journal *j, struct err *err)
{
	while (kept_bytes(j) > j->bound_bytes && may_punch(j) && !j->keeps_no_more)
		if (punch_segment(j, err) < 0)
			return -1;
	return 0;
}

void
journal_take(struct journal *j, uint64_t file_bytes)
{
	if (file_bytes > j->taken && file_bytes <= next_frame_at(j))
		j->taken = file_bytes;
}

void
journal_disown(struct journal *j)
{
	j->owned = false;
}

void
journal_own(struct journal *j)
{
	j->owned = true;
	j->taken = 0;
}

/* ---- frames ---- */

static int
write_frame(struct journal *j, enum journal_kind kind, enum journal_stream s, const void *bytes,
	    size_t n, struct err *err)
{
	uint8_t h[JOURNAL_FRAME_BYTES] = {(uint8_t)kind, (uint8_t)s};
	const struct iovec parts[2] = {{h, sizeof h}, {(void *)(uintptr_t)bytes, n}};
	const size_t whole = sizeof h + n;
	ssize_t k;

	put_u32(h + 4, (uint32_t)n);
	put_u64(h + 8, time_real_ns());
	put_u64(h + 16, j->offset[s]);
	do
		k = pwritev(j->fd, parts, 2, (off_t)j->at);
	while (k < 0 && errno == EINTR);
	if (k >= 0 && (size_t)k == whole) {
		j->newest[s] = j->at;
		j->at += whole;
		return 0;
	}
	const int why = k < 0 ? errno : ENOSPC;
	if (k > 0 && ftruncate(j->fd, (off_t)j->at) < 0)
		j->torn = true; /* half a frame stays: nothing may follow it */
	return err_sys(err, why, "append to a journal");
}

/* One piece of a stream, of at most room_at bytes. */
static int
append_piece(struct journal *j, enum journal_stream s, const char *at, size_t n, struct err *err)
{
	int result;

	if (j->keeps_no_more || j->torn)
		result = err_set(err, ERR_NO_SPACE, "this journal keeps no more");
	else
		result = write_frame(j, JOURNAL_DATA, s, at, n, err);
	j->offset[s] += n; /* kept or not: the jump of the next frame tells the gap */
	if (result < 0)
		j->lost_bytes += n;
	return result;
}

/* Says where streams stand: those whose newest frame was punched out, or `all` (invariant 5). */
static int
say_offsets(struct journal *j, bool all, struct err *err)
{
	for (int s = JOURNAL_OUT; s <= JOURNAL_ERR; s++) {
		if (!all && (j->newest[s] < j->punched_from || j->newest[s] >= j->punched_to))
			continue;
		j->at = next_frame_at(j);
		if (write_frame(j, JOURNAL_DATA, (enum journal_stream)s, "", 0, err) < 0)
			return -1;
	}
	return 0;
}

static size_t
late_room(const struct journal *j, size_t n)
{
	const uint64_t left = j->offset[JOURNAL_LATE] < JOURNAL_LATE_MAX_BYTES
				  ? JOURNAL_LATE_MAX_BYTES - j->offset[JOURNAL_LATE]
				  : 0;
	return n < left ? n : (size_t)left;
}

int
journal_append(struct journal *j, enum journal_stream s, const void *bytes, size_t n,
	       struct err *err)
{
	const char *at = bytes;
	struct err second; /* the first failure is the one told */
	int result = 0;

	assert(s != JOURNAL_OWN && n <= JOURNAL_WRITE_MAX_BYTES);
	if (s == JOURNAL_LATE)
		n = late_room(j, n);
	else
		hasher_add(s == JOURNAL_OUT ? j->sum_out : j->sum_err, bytes, n);
	while (n) {
		j->at = next_frame_at(j);
		const uint64_t room = room_at(j->at);
		const size_t piece = n < room ? n : (size_t)room;
		if (append_piece(j, s, at, piece, err) < 0)
			result = -1;
		at += piece;
		n -= piece;
	}
	/* Not behind the end: its owner may still be reading what is before it. */
	struct err *const why = result < 0 ? &second : err;
	if (s != JOURNAL_LATE &&
	    (keep_bound(j, why) < 0 || (result == 0 && say_offsets(j, false, why) < 0)))
		result = -1;
	return result;
}

/* START or END: never cut, so it may leave a segment's rest empty. */
static int
append_own(struct journal *j, enum journal_kind kind, const struct buf *json, struct err *err)
{
	if (buf_bad(json))
		return err_set(err, ERR_INTERNAL, "a journal's own text is too long");
	if (room_at(j->at) < json->len)
		j->at = (j->at / JOURNAL_SEGMENT_BYTES + 1) * JOURNAL_SEGMENT_BYTES;
	if (write_frame(j, kind, JOURNAL_OWN, json->at, json->len, err) < 0)
		return -1;
	j->offset[JOURNAL_OWN] += json->len;
	return 0;
}

/* Length of the UTF-8 sequence at the front, 0 when there is none. */
static size_t
utf8_length(struct str s)
{
	const uint8_t *p = (const uint8_t *)s.at;
	const size_t n = p[0] < 0x80   ? 1
			 : p[0] < 0xc2 ? 0
			 : p[0] < 0xe0 ? 2
			 : p[0] < 0xf0 ? 3
			 : p[0] < 0xf5 ? 4
				       : 0;

	if (n == 0 || n > s.len)
		return 0;
	for (size_t i = 1; i < n; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
	    (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
		return 0; /* too long a form, a surrogate, or past U+10FFFF */
	return n;
}

void
journal_add_json(struct buf *b, struct str text)
{
	buf_char(b, '"');
	while (text.len) {
		const size_t n = utf8_length(text);
		const char c = text.at[0];
		if (n == 0)
			buf_text(b, "\\ufffd");
		else if (c == '"' || c == '\\')
			buf_fmt(b, "\\%c", c);
		else if (n == 1 && (c < 0x20 || c == 0x7f))
			buf_fmt(b, "\\u%04x", (unsigned)c);
		else
			buf_add(b, text.at, n);
		text.at += n ? n : 1;
		text.len -= n ? n : 1;
	}
	buf_char(b, '"');
}

int
journal_start(struct journal *j, const char *call, struct str command, struct str principal,
	      struct err *err)
{
	auto_buf json = BUF_MAX(START_MAX_BYTES);

	buf_text(&json, "{\"call\":");
	journal_add_json(&json, str_of(call));
	buf_text(&json, ",\"command\":");
	journal_add_json(&json, command);
	buf_text(&json, ",\"principal\":");
	journal_add_json(&json, principal);
	buf_text(&json, "}");
	return append_own(j, JOURNAL_START, &json, err);
}

static void
add_sum(struct buf *json, const char *name, const struct hasher *h)
{
	const struct digest sum = hasher_sum(h);
	buf_fmt(json, ",\"%s\":\"%s\"", name, digest_text(&sum).text);
}

int
journal_finish(struct journal *j, const struct journal_outcome *o, struct err *err)
{
	auto_buf json = BUF_MAX(4096);
	struct err ignored; /* of offsets: the end matters more, and has a way to make room */

	buf_fmt(&json, "{\"exit_status\":%u,\"signal\":%u,\"core_dumped\":%s,\"exec_errno\":%u",
		o->exit_status, o->signal, o->core_dumped ? "true" : "false", o->exec_errno);
	buf_fmt(&json, ",\"ended_by\":\"%s\",\"out_bytes\":%llu,\"err_bytes\":%llu", o->ended_by,
		(unsigned long long)j->offset[JOURNAL_OUT],
		(unsigned long long)j->offset[JOURNAL_ERR]);
	buf_fmt(&json, ",\"lost_bytes\":%llu", (unsigned long long)j->lost_bytes);
	add_sum(&json, "out_sha256", j->sum_out);
	add_sum(&json, "err_sha256", j->sum_err);
	if (o->notice && o->notice[0]) {
		buf_text(&json, ",\"notice\":");
		journal_add_json(&json, str_of(o->notice));
	}
	buf_text(&json, "}");
	if (j->torn)
		return err_set(err, ERR_NO_SPACE, "this journal keeps no more");
	/* Where the streams ended, in case nothing was kept since a loss. */
	(void)!say_offsets(j, j->lost_bytes > 0, &ignored);
	if (append_own(j, JOURNAL_END, &json, err) == 0)
		return 0;
	/* A full disk: a middle segment for the end of the story. */
	if (!may_punch(j) || punch_segment(j, err) < 0)
		return -1;
	(void)!say_offsets(j, j->lost_bytes > 0, &ignored);
	return append_own(j, JOURNAL_END, &json, err);
}
