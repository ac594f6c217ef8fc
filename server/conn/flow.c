/* Bytes between a channel and its call: into a pipe, and out of a journal. Both ways follow what was
 * measured of libssh 0.10 (README.md): it hides rekeys behind short writes, does not enforce its
 * window, and re-opens the window whenever it is read from.
 *
 * Invariants:
 *  1. a short write's rest is kept and goes first the next time; nothing is read from a source while
 *     a tail is there, while libssh holds unsent bytes, or while the window is shut;
 *  2. stdin that the call does not take stays in libssh, where it holds the window shut; what is
 *     taken out is taken out whole, because each read opens the window again. */
#include "conn.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/num.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

enum { CTRL_C = 3 }; /* what a terminal in raw mode sends for it: INTR, as of RFC 4254, section 8 */

static size_t
least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* ---- input ---- */

static bool
discards(const struct channel *ch)
{
	return (ch->state == CHANNEL_VERB && ch->feed == FEED_NONE) ||
	       ch->state == CHANNEL_ENDING ||
	       (ch->state == CHANNEL_LIVE && ch->in.fd < 0 && !ch->in.waits);
}

static bool
takes(const struct channel *ch)
{
	return ch->state == CHANNEL_LIVE || (ch->state == CHANNEL_VERB && ch->feed == FEED_OPEN);
}

/* Writes what the pipe takes; all of it counts as taken when nobody reads it any more. */
static size_t
write_some(struct channel *ch, const char *at, size_t n)
{
	struct input *in = &ch->in;
	size_t done = in->skip < n ? (size_t)in->skip : n;
	const uint64_t before = in->fed;

	in->skip -= done;
	while (done < n && in->fd >= 0) {
		/* of a socket from inside others share the flags: it must not wait by those */
		const ssize_t k = ch->forward ? send(in->fd, at + done, n - done, MSG_DONTWAIT | MSG_NOSIGNAL)
					      : write(in->fd, at + done, n - done);
		if (k >= 0) {
			done += (size_t)k;
			in->fed += (uint64_t)k;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN)
			break;
		in->refused = true;
		flow_end_input(ch); /* EPIPE: the call has closed its stdin */
	}
	if (in->counts && in->fed != before)
		peers_fed(ch);
	return in->fd < 0 ? n : done;
}

int
flow_on_data(ssh_session ssh, ssh_channel channel, void *bytes, uint32_t n, int is_err, void *ctx)
{
	struct channel *ch = ctx;

	(void)ssh;
	(void)channel;
	if (ch->state == CHANNEL_VERB && ch->pty && ch->feed == FEED_NONE && memchr(bytes, CTRL_C, n))
		control_interrupt(ch);
	if (is_err || discards(ch))
		return (int)n;
	if (n > WINDOW_MAX_BYTES) {
		conn_end(ch->conn, "the client sent far more than its window");
		return (int)n;
	}
	channel_tell_size(ch);
	if (!takes(ch) || ch->in.held_len || ch->in.busy || ch->in.waits) {
		ch->in.backlog = n;
		return 0;
	}
	const size_t k = write_some(ch, bytes, n);
	ch->in.backlog = n - k;
	return (int)k;
}

/* True when nothing is held any more. */
static bool
write_held(struct channel *ch)
{
	struct input *in = &ch->in;

	if (in->held_len) {
		const size_t k = write_some(ch, in->held + in->held_at, in->held_len);
		in->held_at += k;
		in->held_len -= k;
	}
	if (in->held_len)
		return false;
	free(in->held);
	in->held = NULL;
	in->held_at = 0;
	return true;
}

void
flow_input(struct channel *ch)
{
	struct input *in = &ch->in;

	if ((!takes(ch) && !discards(ch)) || in->waits)
		return;
	while (write_held(ch) && in->backlog) {
		const size_t n = in->backlog;
		in->held = try_new(1, n);
		if (!in->held) {
			conn_end(ch->conn, "no memory for input");
			return;
		}
		in->busy = true;
		const int got = ssh_channel_read_nonblocking(ch->ssh, in->held, (uint32_t)n, 0);
		in->busy = false;
		if (got <= 0) {
			in->backlog = 0;
			write_held(ch);
			break;
		}
		in->held_len = (size_t)got;
		in->backlog -= least((size_t)got, in->backlog);
	}
	const bool given = ch->client_eof && !in->backlog && !in->held_len;
	if (ch->feed == FEED_OPEN && (given || in->fd < 0)) {
		control_fed(ch, !given || in->refused);
		flow_end_input(ch);
	} else if (given) {
		if (in->fd >= 0)
			peers_input_end(ch);
		flow_end_input(ch);
	}
}

static void
on_writable(void *ctx, uint32_t events)
{
	struct channel *ch = ctx;

	if ((events & EPOLLERR) && ch->feed == FEED_OPEN) { /* it reads no more: a verb need not go on */
		ch->in.refused |= ch->in.held_len || ch->in.backlog;
		flow_end_input(ch);
	}
	conn_ready(ch);
}

int
flow_begin_input(struct channel *ch, int *fd, struct err *err)
{
	if (watch_add(&ch->conn->loop, &ch->in.watch, *fd, EPOLLOUT | EPOLLET, on_writable, ch,
		      err) < 0)
		return -1;
	ch->in.fd = fd_steal(fd);
	return 0;
}

void
flow_end_input(struct channel *ch)
{
	if (ch->forward && ch->in.fd >= 0)
		shutdown(ch->in.fd, SHUT_WR); /* its other half is read on */
	watch_remove(&ch->in.watch);
	fd_close(&ch->in.fd);
}

/* ---- output ---- */

enum flow
flow_send(struct channel *ch, const char *at, size_t n, bool is_err)
{
	struct output *out = &ch->out;
	if (out->eof_sent) /* a keeper that says more than it announced */
		return FLOW_MORE;
	const int k = is_err ? ssh_channel_write_stderr(ch->ssh, at, (uint32_t)n)
			     : ssh_channel_write(ch->ssh, at, (uint32_t)n);
	const size_t sent = k > 0 ? least((size_t)k, n) : 0;

	if (sent == n)
		return FLOW_MORE;
	out->tail = try_new(1, n - sent);
	if (!out->tail) {
		conn_end(ch->conn, "no memory for output");
		return FLOW_STALLED;
	}
	memcpy(out->tail, at + sent, n - sent);
	out->tail_at = 0;
	out->tail_len = n - sent;
	out->tail_err = is_err;
	return sent ? FLOW_MORE : FLOW_STALLED;
}

static enum flow
send_tail(struct channel *ch)
{
	struct output *out = &ch->out;
	const char *at = out->tail + out->tail_at;
	const int k = out->tail_err
			  ? ssh_channel_write_stderr(ch->ssh, at, (uint32_t)out->tail_len)
			  : ssh_channel_write(ch->ssh, at, (uint32_t)out->tail_len);

	if (k <= 0)
		return FLOW_STALLED;
	out->tail_at += least((size_t)k, out->tail_len);
	out->tail_len -= least((size_t)k, out->tail_len);
	if (out->tail_len == 0) {
		free(out->tail);
		out->tail = NULL;
	}
	return FLOW_MORE;
}

static enum flow
send_text(struct channel *ch, enum text t, size_t window)
{
	struct output *out = &ch->out;
	struct buf *b = &out->text[t];
	const size_t n = least(least(b->len - out->text_at[t], window), FLOW_PIECE_BYTES);

	/* libssh may call us back meanwhile (forward.c), and there may be more to be said then: b moves */
	memcpy(ch->conn->piece, b->at + out->text_at[t], n);
	const enum flow flow = flow_send(ch, ch->conn->piece, n, t == TEXT_ERR);
	out->text_at[t] += n;
	ch->conn->text_bytes -= n;
	if (out->text_at[t] == b->len) {
		buf_free(b);
		out->text_at[t] = 0;
	}
	return flow;
}

static void
finish_journal(struct channel *ch)
{
	ch->out.finished = true;
	watch_remove(&ch->out.watch);
}

static bool
is_shown(const struct channel *ch, enum journal_stream s)
{
	return (s == JOURNAL_OUT || s == JOURNAL_ERR) &&
	       (ch->out.stream == 0 || ch->out.stream == (uint32_t)s);
}

/* Some of a stream is no longer kept: said in its place, and by the exit status. */
static void
say_gap(struct channel *ch, const struct journal_frame *f)
{
	uint64_t lost = f->gap_bytes;

	if (!is_shown(ch, f->stream))
		return;
	if (ch->out.skip_bytes >= lost) {
		ch->out.skip_bytes -= lost;
		return;
	}
	lost -= ch->out.skip_bytes;
	ch->out.skip_bytes = 0;
	ch->out.has_gap = true;

	auto_buf line = BUF_MAX(256);
	buf_fmt(&line,
		"berth: call%s: %llu bytes of %s from byte %llu on are no longer kept here\n",
		ch->state == CHANNEL_VERB ? " output" : "", (unsigned long long)lost,
		f->stream == JOURNAL_OUT ? "stdout" : "stderr",
		(unsigned long long)(f->stream_offset - lost));
	channel_text(ch, TEXT_ERR, buf_view(&line));
}

/* One piece of the journal is in conn->piece. */
static enum flow
show_piece(struct channel *ch, const struct journal_frame *f)
{
	struct output *out = &ch->out;
	const char *at = ch->conn->piece;
	size_t n = f->length;

	if (f->kind == JOURNAL_END) {
		buf_add(&out->end_frame, at, n);
		if (!f->more)
			finish_journal(ch);
		return FLOW_MORE;
	}
	if (f->kind != JOURNAL_DATA || !is_shown(ch, f->stream))
		return FLOW_MORE;
	const size_t skipped = out->skip_bytes < n ? (size_t)out->skip_bytes : n;
	out->skip_bytes -= skipped;
	if (n == skipped)
		return FLOW_MORE;
	const bool is_err = f->stream == JOURNAL_ERR;
	struct str shown = {at + skipped, n - skipped};
	if (out->held)
		shown.len = held_take(ch, is_err, shown);
	if (shown.len == 0)
		return FLOW_MORE;
	/* behind the line that tells of a gap, if one was just put there */
	if (out->text[TEXT_ERR].len && channel_bytes(ch, is_err ? TEXT_ERR : TEXT_OUT, shown))
		return FLOW_MORE;
	return flow_send(ch, shown.at, shown.len, is_err);
}

static enum flow
send_journal(struct channel *ch, size_t window)
{
	struct output *out = &ch->out;
	struct journal_frame f;
	struct err err;

	const int got = journal_next(&out->reader, ch->conn->piece,
				     least(window, FLOW_PIECE_BYTES), &f, &err);
	if (got < 0) {
		finish_journal(ch);
		flow_end_input(ch);
		peers_leave(ch);
		err_what(&err, "call");
		channel_fail(ch, &err);
		return FLOW_MORE;
	}
	if (got == 0) {
		peers_taken(ch);
		if (!out->follow)
			finish_journal(ch);
		return out->finished ? FLOW_MORE : FLOW_IDLE;
	}
	if (f.gap_bytes)
		say_gap(ch, &f);
	const enum flow flow = show_piece(ch, &f);
	if (out->reader.at - out->taken_sent >= TAKEN_STEP_BYTES)
		peers_taken(ch);
	return flow;
}

/* As much as fits one piece; many small frames go in one turn. */
static enum flow
send_journal_pieces(struct channel *ch, size_t window)
{
	struct output *out = &ch->out;
	const uint64_t from = out->reader.at;
	enum flow flow = FLOW_MORE;

	while (flow == FLOW_MORE && !out->finished && !out->tail_len && window &&
	       !out->text[TEXT_ERR].len && out->reader.at - from < FLOW_PIECE_BYTES) {
		if (out->limit && out->reader.at >= out->limit) {
			peers_taken(ch);
			finish_journal(ch);
			break;
		}
		flow = send_journal(ch, window);
		if (conn_is_blocked(ch->conn))
			break;
		window = ssh_channel_window_size(ch->ssh);
	}
	return flow;
}

static enum flow
send_held(struct channel *ch, size_t window)
{
	bool is_err = false;
	const struct str piece = held_next(ch, least(window, FLOW_PIECE_BYTES), &is_err);

	return piece.len ? flow_send(ch, piece.at, piece.len, is_err) : FLOW_MORE;
}

enum flow
flow_output(struct channel *ch)
{
	struct output *out = &ch->out;
	const bool text = out->text[TEXT_OUT].len || out->text[TEXT_ERR].len;
	const bool journal = out->journal >= 0 && !out->finished;
	const bool pipe = out->pipe >= 0 && !out->finished;

	if (!out->tail_len && !text && journal && out->limit && out->reader.at >= out->limit) {
		peers_taken(ch);
		finish_journal(ch);
		return FLOW_MORE;
	}
	const bool held = out->finished && held_has(ch);
	if (!out->tail_len && !text && !journal && !pipe && !held)
		return FLOW_IDLE;
	if (conn_is_blocked(ch->conn))
		return FLOW_STALLED;
	const size_t window = ssh_channel_window_size(ch->ssh);
	if (window == 0)
		return FLOW_STALLED;
	if (out->tail_len)
		return send_tail(ch);
	if (out->text[TEXT_OUT].len)
		return send_text(ch, TEXT_OUT, window);
	if (out->text[TEXT_ERR].len)
		return send_text(ch, TEXT_ERR, window);
	if (pipe)
		return piped_send(ch, window);
	return journal ? send_journal_pieces(ch, window) : send_held(ch, window);
}

/* A watcher's growth is a pipe: emptied, so that there is room for the next word, and hung up when
 * nobody appends any more. The owner's is an eventfd, whose end is told by its keeper's link. */
static void
on_growth(void *ctx, uint32_t events)
{
	struct channel *ch = ctx;
	char words[512];

	if (events & EPOLLHUP) {
		ch->out.follow = false;
		ch->out.hung_up = true;
	} else if (ch->state == CHANNEL_VERB) {
		while (read(ch->out.growth, words, sizeof words) == (ssize_t)sizeof words)
			;
	}
	conn_ready(ch);
}

int
flow_begin_output(struct channel *ch, int *journal, int *growth, struct err *err)
{
	/* Edge triggered: the counter is not ours to reset, each write of it is an event. */
	if (watch_add(&ch->conn->loop, &ch->out.watch, *growth, EPOLLIN | EPOLLET, on_growth, ch,
		      err) < 0)
		return -1;
	ch->out.growth = fd_steal(growth);
	ch->out.journal = fd_steal(journal);
	journal_reader_init(&ch->out.reader, ch->out.journal);
	return 0;
}

void
flow_done(struct channel *ch)
{
	struct output *out = &ch->out;

	flow_end_input(ch);
	free(ch->in.held);
	watch_remove(&out->watch);
	fd_close(&out->journal);
	fd_close(&out->growth);
	fd_close(&out->pipe);
	free(out->tail);
	held_free(out->held);
	for (int t = 0; t < TEXTS; t++) {
		ch->conn->text_bytes -= out->text[t].len - out->text_at[t];
		buf_free(&out->text[t]);
	}
	buf_free(&out->end_frame);
}

/* A number of the END frame, which is a flat object written by the keeper. */
static bool
find_number(struct str json, const char *key, uint32_t *out)
{
	struct err err;
	const char *at = memmem(json.at, json.len, key, strlen(key));
	uint64_t n;

	if (!at)
		return false;
	struct str rest = {at + strlen(key), json.len - (size_t)(at - json.at) - strlen(key)};
	struct str digits = {rest.at, 0};
	while (digits.len < rest.len && rest.at[digits.len] >= '0' && rest.at[digits.len] <= '9')
		digits.len++;
	if (num_parse(digits, 0, UINT32_MAX, &n, &err) < 0)
		return false;
	*out = (uint32_t)n;
	return true;
}

bool
flow_end_frame(struct channel *ch)
{
	static const char dumped[] = "\"core_dumped\":true";
	const struct str json = buf_view(&ch->out.end_frame);

	if (!json.len || !find_number(json, "\"exit_status\":", &ch->exit_status) ||
	    !find_number(json, "\"signal\":", &ch->exit_signal))
		return false;
	ch->core_dumped = memmem(json.at, json.len, dumped, sizeof dumped - 1) != NULL;
	return true;
}

/* The last text of the frame, as journal_add_json writes it. */
void
flow_end_notice(const struct channel *ch, struct buf *out)
{
	static const char key[] = ",\"notice\":\"";
	const struct str json = buf_view(&ch->out.end_frame);
	const char *at = json.len ? memmem(json.at, json.len, key, sizeof key - 1) : NULL;

	if (!at)
		return;
	for (at += sizeof key - 1; at < json.at + json.len && *at != '"'; at++)
		if (*at != '\\')
			buf_char(out, *at);
		else if (++at < json.at + json.len)
			buf_char(out, *at == 'u' ? '?' : *at); /* a control: there is none in a notice */
}
