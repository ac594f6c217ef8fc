#include "journal_read.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

struct head {
	uint8_t at[JOURNAL_FRAME_BYTES];
};

static uint32_t
get_u32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t
get_u64(const uint8_t *p)
{
	return (uint64_t)get_u32(p + 4) << 32 | get_u32(p);
}

void
journal_reader_init(struct journal_reader *r, int fd)
{
	*r = (struct journal_reader){.fd = fd};
}

/* As much as there is, up to n: the count, or -1. */
static ssize_t
read_at(int fd, void *out, size_t n, uint64_t at, struct err *err)
{
	size_t got = 0;

	if (at > INT64_MAX - n)
		return err_set(err, ERR_CORRUPT, "journal: an offset past all files");
	while (got < n) {
		const ssize_t k = pread(fd, (char *)out + got, n - got, (off_t)(at + got));
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys(err, errno, "read the journal");
		if (k == 0)
			break;
		got += (size_t)k;
	}
	return (ssize_t)got;
}

static uint64_t
next_segment(uint64_t at)
{
	return (at / JOURNAL_SEGMENT_BYTES + 1) * JOURNAL_SEGMENT_BYTES;
}

/* The hole as the header tells it now: 1, 0 no header yet, -1. */
static int
read_header(struct journal_reader *r, uint64_t *punched_to, struct err *err)
{
	uint8_t h[JOURNAL_HEADER_BYTES];
	const ssize_t n = read_at(r->fd, h, sizeof h, 0, err);

	if (n < (ssize_t)sizeof h)
		return n < 0 ? -1 : 0;
	const uint64_t from = get_u64(h + 40), to = get_u64(h + 48);
	if (memcmp(h, JOURNAL_MAGIC, 8) != 0 || get_u32(h + 56) != JOURNAL_SEGMENT_BYTES)
		return err_set(err, ERR_CORRUPT, "journal: not one of version 1");
	if (from == 0 || from > INT64_MAX || from % JOURNAL_SEGMENT_BYTES || to < from ||
	    to > INT64_MAX || to % JOURNAL_SEGMENT_BYTES ||
	    (r->punched_from && from != r->punched_from))
		return err_set(err, ERR_CORRUPT, "journal: a hole from %llu to %llu",
			       (unsigned long long)from, (unsigned long long)to);
	r->punched_from = from;
	*punched_to = to;
	return 1;
}

/* Steps over what was punched out at `at`: 1 go on, 0 no header yet, -1. */
static int
skip_hole(struct journal_reader *r, struct err *err)
{
	uint64_t to = 0;

	if (r->punched_from && r->at < r->punched_from)
		return 1;
	const int got = read_header(r, &to, err);
	if (got <= 0)
		return got;
	if (r->at == 0)
		r->at = JOURNAL_HEADER_BYTES;
	if (r->at >= r->punched_from && r->at < to)
		r->at = to;
	return 1;
}

/* Whether what was just read at frame_at was still there when it was read (invariant 3). */
static int
still_there(struct journal_reader *r, uint64_t frame_at, const struct head *h, struct err *err)
{
	struct head again;
	uint64_t to = 0;

	const ssize_t n = read_at(r->fd, &again, sizeof again, frame_at, err);
	if (n < (ssize_t)sizeof again)
		return n < 0 ? -1 : 0;
	if (memcmp(&again, h, sizeof again) != 0)
		return 0;
	if (frame_at < r->punched_from)
		return 1;
	const int got = read_header(r, &to, err);
	return got < 0 ? -1 : got && frame_at >= to;
}

/* The head at r->at as a frame: 1, -1 when it breaks a rule. */
static int
parse_head(const struct journal_reader *r, const struct head *h, struct journal_frame *out,
	   uint64_t *length, struct err *err)
{
	const uint8_t kind = h->at[0], stream = h->at[1];
	const uint32_t n = get_u32(h->at + 4);
	const uint64_t offset = get_u64(h->at + 16);
	const uint64_t room = next_segment(r->at) - r->at - JOURNAL_FRAME_BYTES;

	if (kind > JOURNAL_START || stream >= JOURNAL_STREAMS ||
	    (kind == JOURNAL_DATA) != (stream != JOURNAL_OWN) || h->at[2] || h->at[3] || n > room ||
	    offset < r->offset[stream] || offset > INT64_MAX)
		return err_set(err, ERR_CORRUPT, "journal: no frame at byte %llu",
			       (unsigned long long)r->at);
	*length = n;
	*out = (struct journal_frame){
	    .kind = (enum journal_kind)kind,
	    .stream = (enum journal_stream)stream,
	    .time_ns = get_u64(h->at + 8),
	    .stream_offset = offset,
	    .gap_bytes = offset - r->offset[stream],
	};
	return 1;
}

/* Whether the file holds all of the frame: a writer that ran out of space takes a half one back. */
static int
is_whole(int fd, uint64_t end, struct err *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at the journal");
	return (uint64_t)st.st_size >= end;
}

static int
read_piece(struct journal_reader *r, char *buf, size_t buf_bytes, struct journal_frame *out,
	   struct err *err)
{
	const size_t n = r->left < buf_bytes ? (size_t)r->left : buf_bytes;
	uint64_t to = 0;
	const ssize_t got = read_at(r->fd, buf, n, r->at, err);

	if (got < 0)
		return -1;
	if ((size_t)got < n)
		return 0;
	if (r->at >= r->punched_from) { /* the rest may be gone since its first piece was read */
		if (read_header(r, &to, err) <= 0)
			return -1;
		if (r->at < to) {
			r->left = 0;
			return 2;
		}
	}
	*out = r->frame;
	out->length = n;
	r->left -= n;
	out->more = r->left > 0;
	r->at += n;
	r->frame.stream_offset += n;
	r->frame.gap_bytes = 0;
	r->offset[out->stream] = r->frame.stream_offset;
	return 1;
}

/* The frame at r->at: as journal_next, or 2: look again, r->at has moved or the bytes have. */
static int
read_frame(struct journal_reader *r, char *buf, size_t buf_bytes, struct journal_frame *out,
	   struct err *err)
{
	struct head h = {0};
	struct journal_frame frame = {0};
	uint64_t length = 0;

	if (next_segment(r->at) - r->at <= JOURNAL_FRAME_BYTES) {
		r->at = next_segment(r->at);
		return 2;
	}
	const ssize_t n = read_at(r->fd, &h, sizeof h, r->at, err);
	if (n < (ssize_t)sizeof h)
		return n < 0 ? -1 : 0;
	if (h.at[0] == JOURNAL_NONE) {
		const int more = is_whole(r->fd, next_segment(r->at) + 1, err);
		if (more <= 0)
			return more;
		r->at = next_segment(r->at);
		return 2;
	}
	if (parse_head(r, &h, &frame, &length, err) < 0) {
		/* a head that was half read while the segment was punched out is not corrupt */
		const int there = still_there(r, r->at, &h, &(struct err){0});
		return there == 0 ? 2 : -1;
	}
	const uint64_t end = r->at + JOURNAL_FRAME_BYTES + length;
	const int whole = is_whole(r->fd, end, err);
	if (whole <= 0)
		return whole;
	const size_t first = length < buf_bytes ? (size_t)length : buf_bytes;
	const ssize_t got = read_at(r->fd, buf, first, r->at + JOURNAL_FRAME_BYTES, err);
	if (got < 0)
		return -1;
	const int there = (size_t)got < first ? 0 : still_there(r, r->at, &h, err);
	if (there <= 0)
		return there < 0 ? -1 : 2;
	frame.length = first;
	frame.more = length > first;
	*out = frame;
	r->at += JOURNAL_FRAME_BYTES + first;
	r->left = length - first;
	r->offset[frame.stream] = frame.stream_offset + first;
	r->frame = frame;
	r->frame.stream_offset += first;
	r->frame.gap_bytes = 0;
	return 1;
}

int
journal_next(struct journal_reader *r, char *buf, size_t buf_bytes, struct journal_frame *out,
	     struct err *err)
{
	/* Each turn moves r->at, or saw the file change under it: bounded against a file that
	 * somebody changes for ever. */
	for (unsigned turns = 0; turns < 1u << 20; turns++) {
		if (r->left) {
			const int got = read_piece(r, buf, buf_bytes, out, err);
			if (got != 2)
				return got;
		}
		const int open = skip_hole(r, err);
		if (open <= 0)
			return open;
		const int got = read_frame(r, buf, buf_bytes, out, err);
		if (got != 2)
			return got;
	}
	return err_set(err, ERR_CORRUPT, "journal: a hole without an end");
}
