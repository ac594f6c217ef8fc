/* The streams of a call into its journal: read while it has room (backpressure), and to their end once
 * the command has ended. */
#include "keeper.h"

#include "base/fd.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <unistd.h>

enum {
	READS_AT_ONCE = 8,
	DRAIN_OVER_BYTES = 4 << 20, /* what DRAINING may read though the journal is full: more than
				     * the pipes hold */
};

static void stream_read(struct call_stream *s);

void
stream_close(struct call_stream *s)
{
	watch_remove(&s->watch);
	fd_close(&s->fd);
}

bool
stream_both_ended(const struct call *c)
{
	return c->out.fd < 0 && c->err.fd < 0 && (!c->sftp || sftp_is_drained(c));
}

bool
stream_may_read(const struct call *c)
{
	if (c->state == CALL_LATE || !journal_is_full(&c->journal))
		return true;
	return c->state == CALL_DRAINING && !c->options.wait_all && c->drained_bytes < DRAIN_OVER_BYTES;
}

void
stream_append(struct call *c, enum journal_stream as, const char *bytes, size_t n)
{
	const bool lost_before = c->journal.lost_bytes > 0;
	struct err err;

	if (journal_append(&c->journal, as, bytes, n, &err) < 0 && !lost_before)
		log_err(&err, "call %s: its output is not kept any more", c->id);
	if (c->options.max_output)
		spill_append(c, as, bytes, n);
	if (c->sftp && as == JOURNAL_ERR)
		sftp_heard(c, bytes, n);
	growth_note(c);
}

/* One read: false when there is nothing more to read now. */
static bool
stream_take(struct call_stream *s)
{
	struct call *c = s->call;
	const ssize_t n = c->pty ? guard_read(s->fd, c->keeper->room, JOURNAL_WRITE_MAX_BYTES)
				 : read(s->fd, c->keeper->room, JOURNAL_WRITE_MAX_BYTES);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0) { /* EIO is how a PTY says that nobody holds its other side */
		stream_close(s);
		return false;
	}
	c->last_byte_ns = time_now_ns();
	if (c->state != CALL_RUNNING)
		c->drained_bytes += (size_t)n;
	if (s->as == JOURNAL_ERR || c->pty)
		excess_heard(c, c->keeper->room, (size_t)n);
	stream_append(c, c->state == CALL_LATE ? JOURNAL_LATE : s->as, c->keeper->room, (size_t)n);
	return true;
}

static void
on_stream(void *ctx, uint32_t events)
{
	struct call_stream *s = ctx;

	(void)events;
	stream_read(s);
}

void
stream_watch(struct call_stream *s)
{
	struct err err;

	if (s->fd < 0 || s->watch.loop)
		return;
	if (watch_add(&s->call->keeper->loop, &s->watch, s->fd, EPOLLIN, on_stream, s, &err) < 0) {
		log_err(&err, "call %s", s->call->id);
		stream_close(s);
	}
}

static void
stream_read(struct call_stream *s)
{
	struct call *c = s->call;

	for (int i = 0; i < READS_AT_ONCE; i++) {
		if (!stream_may_read(c)) {
			watch_remove(&s->watch); /* backpressure; a hang-up would still wake us */
			return;
		}
		if (!stream_take(s))
			break;
	}
	if (s->fd < 0 && stream_both_ended(c))
		call_streams_ended(c);
}

/* Each has a bound of its own: a child that fills the one as fast as we read it must not hide what is in
 * the other. */
void
stream_empty_both(struct call *c)
{
	struct call_stream *const both[] = {&c->out, &c->err};

	for (int i = 0; i < 2; i++) {
		const uint64_t end = c->drained_bytes + DRAIN_OVER_BYTES / 2;
		while (both[i]->fd >= 0 && stream_may_read(c) && c->drained_bytes < end)
			if (!stream_take(both[i]))
				break;
	}
}
