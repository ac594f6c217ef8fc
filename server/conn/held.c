/* What travels of a call with BERTH_MAX_OUTPUT. The head of each stream goes at once; behind it a ring
 * keeps the newest bytes, which go when the stream has ended, after one line that says how many are
 * missing and where all of them are. A stream that fits goes as it is.
 *
 *  1. of a stream's bytes never more than max_output travel, and exactly so many where it has more;
 *  2. a ring is as large as the tail, and not there before its stream is longer than its head. */
#include "conn.h"

#include "base/num.h"

#include <stdlib.h>

enum { SPILL_MAX_BYTES = 1 << 30 }; /* as the keeper writes */

struct stream {
	uint64_t total;
	char *ring; /* owned */
	size_t from, len; /* of the ring: its oldest byte, and how many there are */
	char last; /* byte of the head */
	bool told;
};

struct held {
	char call[ID_BYTES]; /* whose output its line names */
	bool spilled;	     /* it is in files of that call, made for this channel */
	size_t head, tail;
	struct stream stream[2]; /* stdout, stderr */
};

struct held *
held_new(uint64_t max_output)
{
	struct held *h = xnew(1, sizeof *h);

	h->head = (size_t)(max_output - max_output / 2);
	h->tail = (size_t)(max_output / 2);
	return h;
}

void
held_name(struct held *h, struct str call, bool spilled)
{
	struct err ignored; /* the row bounds it */

	(void)!str_copy(call, h->call, sizeof h->call, &ignored);
	h->spilled = spilled;
}

void
held_free(struct held *h)
{
	if (!h)
		return;
	free(h->stream[0].ring);
	free(h->stream[1].ring);
	free(h);
}

static void
keep(struct stream *s, size_t tail, const char *at, size_t n)
{
	if (n > tail) {
		at += n - tail;
		n = tail;
	}
	const size_t over = s->len + n > tail ? s->len + n - tail : 0;
	s->from = tail ? (s->from + over) % tail : 0;
	s->len -= over;
	while (n) {
		const size_t to = (s->from + s->len) % tail;
		const size_t k = n < tail - to ? n : tail - to;
		memcpy(s->ring + to, at, k);
		s->len += k;
		at += k;
		n -= k;
	}
}

size_t
held_take(struct channel *ch, bool is_err, struct str bytes)
{
	struct held *h = ch->out.held;
	struct stream *s = &h->stream[is_err];
	const size_t room = s->total < h->head ? h->head - (size_t)s->total : 0;
	const size_t now = bytes.len < room ? bytes.len : room;

	s->total += bytes.len;
	if (now)
		s->last = bytes.at[now - 1];
	if (now == bytes.len || h->tail == 0)
		return now;
	if (!s->ring && !(s->ring = try_new(1, h->tail))) {
		conn_end(ch->conn, "no memory for the end of an output");
		return now;
	}
	keep(s, h->tail, bytes.at + now, bytes.len - now);
	return now;
}

static bool
is_cut(const struct held *h, const struct stream *s)
{
	return s->total > h->head + h->tail;
}

bool
held_has(const struct channel *ch)
{
	const struct held *h = ch->out.held;

	for (int i = 0; h && i < 2; i++)
		if (h->stream[i].len || (is_cut(h, &h->stream[i]) && !h->stream[i].told))
			return true;
	return false;
}

static void
tell(struct channel *ch, bool is_err)
{
	const struct held *h = ch->out.held;
	const struct stream *s = &h->stream[is_err];
	auto_buf line = BUF_MAX(256);

	buf_fmt(&line, "%sberth: call: %llu bytes are missing here (", s->last == '\n' ? "" : "\n",
		(unsigned long long)(s->total - h->head - h->tail));
	if (h->spilled)
		buf_fmt(&line, "%s: /run/berth/out/%s.%s)\n",
			s->total > SPILL_MAX_BYTES ? "the first 1 GiB of it" : "all of it", h->call,
			is_err ? "err" : "out");
	else
		buf_fmt(&line, "ssh berth@HOST call output %s)\n", h->call);
	(void)!channel_bytes(ch, is_err ? TEXT_ERR : TEXT_OUT, buf_view(&line));
}

struct str
held_next(struct channel *ch, size_t max, bool *out_err)
{
	struct held *h = ch->out.held;

	for (int i = 0; i < 2; i++) {
		struct stream *s = &h->stream[i];
		if (is_cut(h, s) && !s->told) {
			s->told = true;
			tell(ch, i == 1);
			return (struct str){0};
		}
		if (s->len == 0)
			continue;
		size_t n = h->tail - s->from;
		n = n < s->len ? n : s->len;
		n = n < max ? n : max;
		const struct str piece = {s->ring + s->from, n};
		s->from = (s->from + n) % h->tail;
		s->len -= n;
		*out_err = i == 1;
		return piece;
	}
	return (struct str){0};
}
