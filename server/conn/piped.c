/* The stdout of a subsystem, or a forward's socket: read from its pipe into the channel, without a journal on the way. The keeper
 * is told how much it was, for its record.
 *
 *  1. it is read only when the client takes it (flow_output), so the pipe is its backpressure;
 *  2. it ends at EOF; or, where somebody else still holds the pipe, when the call has ended and nothing
 *     is in it: what its process wrote is there by then. */
#include "conn.h"

#include "base/fd.h"
#include "base/log.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

enum { SAID_STEP_BYTES = 4 << 20 };

static void
on_readable(void *ctx, uint32_t events)
{
	(void)events;
	conn_ready(ctx);
}

int
piped_begin(struct channel *ch, int *fd, struct err *err)
{
	if (watch_add(&ch->conn->loop, &ch->out.watch, *fd, EPOLLIN | EPOLLET, on_readable, ch, err) < 0)
		return -1;
	ch->out.pipe = fd_steal(fd);
	return 0;
}

void
piped_started(struct channel *ch, struct wire *w)
{
	int *fds = w->message.fds;
	struct err err;

	if (ch->state != CHANNEL_ASKED)
		return;
	if (flow_begin_input(ch, &fds[0], &err) < 0 || piped_begin(ch, &fds[1], &err) < 0) {
		peers_fail_start(ch, &err);
		return;
	}
	if (ch->stdin_null)
		flow_end_input(ch);
	buf_str(&ch->notice, w->message.call_piped.call); /* to be named if it gets lost */
	channel_enter(ch, CHANNEL_LIVE);
}

/* What cannot be sent is found out where the link is read. */
static void
say_taken(struct channel *ch, bool end)
{
	struct err err;

	if (!ch->forward && ch->keeper && !ch->end_known &&
	    wire_send(&ch->keeper->wire, call_piped_taken, &err, .channel = ch->number,
		      .bytes = ch->out.piped, .end = end) < 0)
		log_err(&err, "tell what was read");
}

static enum flow
finish(struct channel *ch)
{
	ch->out.finished = true;
	watch_remove(&ch->out.watch);
	say_taken(ch, true);
	return FLOW_MORE;
}

enum flow
piped_send(struct channel *ch, size_t window)
{
	struct output *out = &ch->out;
	char *piece = ch->conn->piece;
	ssize_t n;

	const size_t most = window < FLOW_PIECE_BYTES ? window : FLOW_PIECE_BYTES;

	do
		n = ch->forward ? recv(out->pipe, piece, most, MSG_DONTWAIT)
				: read(out->pipe, piece, most);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return ch->end_known || ch->lost ? finish(ch) : FLOW_IDLE;
	if (n <= 0)
		return finish(ch);
	out->piped += (size_t)n;
	if (out->piped - out->piped_said >= SAID_STEP_BYTES) {
		out->piped_said = out->piped;
		say_taken(ch, false);
	}
	return flow_send(ch, piece, (size_t)n, false);
}
