/* For test_flow.c: a libssh that behaves as the real one was seen to (short writes at any time, windows
 * of any size, reads that open the window again), and a channel in the middle of a call. */
#ifndef BERTH_FLOW_ROOM_H
#define BERTH_FLOW_ROOM_H

#include "server/conn/conn.h"

#include "base/fd.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <cmocka.h>

/* ---- what stands in for libssh, and for the other files of conn ---- */

static struct {
	uint32_t seed;
	bool rekeys, blocked; /* writes may take less; libssh holds unsent bytes */
	uint32_t window;
	struct buf sent[TEXTS];
	unsigned writes;
	char waiting[8 << 20]; /* received, not yet read */
	size_t waiting_n;
	unsigned reads;
	const char *ended; /* conn_end's words */
	uint64_t taken;
	uint64_t fed;
	bool input_ended, given, refused, interrupted; /* given: call input has said its end */
	struct err failed;
} fake;

static uint32_t
next_random(void)
{
	fake.seed = fake.seed * 1664525u + 1013904223u;
	return fake.seed >> 8;
}

static int
take(enum text t, const void *bytes, uint32_t n)
{
	fake.writes++;
	assert_false(fake.blocked); /* nothing is produced while libssh holds bytes */
	if (n > fake.window)
		n = fake.window;
	if (fake.rekeys && next_random() % 3 == 0)
		n = next_random() % 2 ? 0 : next_random() % (n + 1);
	buf_add(&fake.sent[t], bytes, n);
	fake.window -= n;
	return (int)n;
}

int
ssh_channel_write(ssh_channel channel, const void *bytes, uint32_t n)
{
	(void)channel;
	return take(TEXT_OUT, bytes, n);
}

int
ssh_channel_write_stderr(ssh_channel channel, const void *bytes, uint32_t n)
{
	(void)channel;
	return take(TEXT_ERR, bytes, n);
}

uint32_t
ssh_channel_window_size(ssh_channel channel)
{
	(void)channel;
	return fake.window;
}

static struct channel *reader_of; /* whose callback more input may come to, inside a read */

int
ssh_channel_read_nonblocking(ssh_channel channel, void *out, uint32_t n, int is_err)
{
	(void)channel;
	assert_int_equal(is_err, 0);
	fake.reads++;
	if (reader_of && fake.waiting_n + 1000 < sizeof fake.waiting && next_random() % 4 == 0) {
		/* the pump inside: new bytes arrive, and we are called back */
		memset(fake.waiting + fake.waiting_n, 'p', 1000);
		fake.waiting_n += 1000;
		assert_int_equal(flow_on_data(NULL, NULL, fake.waiting, (uint32_t)fake.waiting_n, 0,
					      reader_of), 0);
	}
	const size_t k = n < fake.waiting_n ? n : fake.waiting_n;
	memcpy(out, fake.waiting, k);
	memmove(fake.waiting, fake.waiting + k, fake.waiting_n - k);
	fake.waiting_n -= k;
	return (int)k;
}

bool
conn_is_blocked(struct conn *c)
{
	(void)c;
	return fake.blocked;
}

void
conn_end(struct conn *c, const char *why)
{
	c->ended = true;
	fake.ended = why;
}

void
conn_ready(struct channel *ch)
{
	ch->queue = QUEUE_READY;
}

bool
channel_bytes(struct channel *ch, enum text t, struct str s)
{
	buf_str(&ch->out.text[t], s);
	ch->conn->text_bytes += s.len;
	return true;
}

bool
channel_text(struct channel *ch, enum text t, struct str s)
{
	return channel_bytes(ch, t, s);
}

void
channel_fail(struct channel *ch, struct err *err)
{
	fake.failed = *err;
	ch->state = CHANNEL_ENDING;
}

void
channel_tell_size(struct channel *ch)
{
	(void)ch;
}

void
peers_leave(struct channel *ch)
{
	(void)ch;
}

void
peers_fail_start(struct channel *ch, struct err *err)
{
	channel_fail(ch, err);
}

void
channel_enter(struct channel *ch, enum channel_state state)
{
	ch->state = state;
}

void
peers_fed(struct channel *ch)
{
	fake.fed = ch->in.fed;
}

void
control_fed(struct channel *ch, bool refused)
{
	fake.given = true;
	fake.refused = refused;
	ch->feed = FEED_NONE;
}

void
control_interrupt(struct channel *ch)
{
	(void)ch;
	fake.interrupted = true;
}

void
peers_input_end(struct channel *ch)
{
	(void)ch;
	fake.input_ended = true;
}

void
peers_taken(struct channel *ch)
{
	fake.taken = ch->out.taken_sent = ch->out.reader.at;
}

/* ---- a channel in the middle of a call, and its journal ---- */

struct room {
	struct conn conn;
	struct channel ch;
	int journal, sink; /* writer's fd; the call's end of stdin */
	uint64_t at, offset[JOURNAL_STREAMS];
};

static void
put_number(uint8_t *p, uint64_t n, int bytes)
{
	for (int i = 0; i < bytes; i++)
		p[i] = (uint8_t)(n >> (8 * i));
}

/* As journal_read.h describes it; the bytes fit the segment. */
static void
journal_put(struct room *r, enum journal_kind kind, enum journal_stream stream, const void *bytes,
	    size_t n)
{
	uint8_t head[JOURNAL_FRAME_BYTES] = {(uint8_t)kind, (uint8_t)stream};

	if (JOURNAL_SEGMENT_BYTES - r->at % JOURNAL_SEGMENT_BYTES < sizeof head + n)
		r->at += JOURNAL_SEGMENT_BYTES - r->at % JOURNAL_SEGMENT_BYTES;
	put_number(head + 4, n, 4);
	put_number(head + 16, r->offset[stream], 8);
	assert_int_equal(pwrite(r->journal, bytes, n, (off_t)(r->at + sizeof head)), n);
	assert_int_equal(pwrite(r->journal, head, sizeof head, (off_t)r->at), sizeof head);
	r->at += sizeof head + n;
	r->offset[stream] += n;
}

static int
set_up(void **state)
{
	static struct room r;
	struct err err;
	uint8_t head[JOURNAL_HEADER_BYTES] = "BERTHJ1\n";
	int pipe[2];

	memset(&r, 0, sizeof r);
	memset(&fake, 0, sizeof fake);
	reader_of = NULL;
	fake.seed = 20260101;
	fake.window = 1 << 20;
	for (int t = 0; t < TEXTS; t++) {
		fake.sent[t] = BUF_MAX(64 << 20);
		r.ch.out.text[t] = BUF_MAX(1 << 20);
	}
	r.ch.out.end_frame = BUF_MAX(4096);
	r.ch.in.fd = r.ch.out.journal = r.ch.out.growth = r.ch.out.pipe = -1;
	r.ch.conn = &r.conn;
	r.ch.state = CHANNEL_LIVE;
	r.ch.out.follow = true;
	r.conn.piece = xnew(1, FLOW_PIECE_BYTES);
	assert_int_equal(loop_init(&r.conn.loop, &err), 0);

	put_number(head + 40, JOURNAL_SEGMENT_BYTES, 8);
	put_number(head + 48, JOURNAL_SEGMENT_BYTES, 8);
	put_number(head + 56, JOURNAL_SEGMENT_BYTES, 4);
	r.journal = memfd_create("journal", MFD_CLOEXEC);
	assert_int_equal(pwrite(r.journal, head, sizeof head, 0), sizeof head);
	r.at = sizeof head;
	int reader = fd_dup(r.journal, &err), growth = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(flow_begin_output(&r.ch, &reader, &growth, &err), 0);

	assert_int_equal(pipe2(pipe, O_CLOEXEC | O_NONBLOCK), 0);
	r.sink = pipe[0];
	assert_int_equal(flow_begin_input(&r.ch, &pipe[1], &err), 0);
	*state = &r;
	return 0;
}

static int
tear_down(void **state)
{
	struct room *r = *state;

	flow_done(&r->ch);
	assert_int_equal(r->conn.text_bytes, 0);
	loop_done(&r->conn.loop);
	free(r->conn.piece);
	fd_close(&r->journal);
	fd_close(&r->sink);
	for (int t = 0; t < TEXTS; t++)
		buf_free(&fake.sent[t]);
	return 0;
}

/* Steps until the journal is finished, opening the window as a client that reads would. */
static void
run_output(struct room *r)
{
	for (unsigned i = 0; i < 1000000; i++) {
		const enum flow flow = flow_output(&r->ch);
		if (flow == FLOW_IDLE)
			return;
		if (fake.window == 0)
			fake.window = 1 + next_random() % 300000;
	}
	fail_msg("it never ended");
}

static void
end_call(struct room *r)
{
	r->ch.end_known = true;
	r->ch.out.limit = r->at;
	r->ch.out.follow = false;
}

#endif
