/* Files of a snapshot come back into the workspace: a child of init copies them, out of a tree that
 * the manager has made, and tells of it in a pipe.
 *
 *  1. it is asked for by the manager alone, one at a time (it goes on when that one dies: the next
 *     manager is told AGAIN meanwhile), and answered once by a report that ended: what
 *     the child says, its silent end, or init's;
 *  2. what the child says is bytes of the session's: lines of a bounded length, of which numbers
 *     are taken and text is passed on as text; one that does not fit ends it;
 *  3. it writes nothing itself, and never looks into the tree. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define TELL_NS (100 * NS_PER_MS)
enum { COUNTS = 5 };

static void
report(struct keeper *k, const struct msg_tree_put_report *r)
{
	struct err err;

	if (wire_is_open(&k->manager) &&
	    wire_send_fds(&k->manager, MSG_tree_put_report, r, NULL, 0, &err) < 0)
		log_err(&err, "tell the manager what was put back");
}

static void
close_pipe(struct keeper *k)
{
	watch_remove(&k->putting.watch);
	fd_close(&k->putting.pipe); /* whoever still writes to it ends */
}

static void
fail(struct keeper *k, const struct err *why)
{
	close_pipe(k);
	report(k, &(struct msg_tree_put_report){.seq = k->putting.seq,
						.ended = 1,
						.code = (uint32_t)why->code,
						.why = str_of(why->why)});
}

void
putting_end(struct keeper *k, const struct err *why)
{
	if (k->putting.pipe >= 0)
		fail(k, why);
}

void
putting_stop(struct keeper *k, uint32_t seq)
{
	if (k->putting.pipe >= 0 && k->putting.seq == seq)
		close_pipe(k);
}

static int
take_counts(struct str rest, struct msg_tree_put_report *out, struct err *err)
{
	uint64_t n[COUNTS];
	struct str word;

	for (int i = 0; i < COUNTS; i++)
		if (!str_cut(&rest, ' ', &word) || num_parse(word, 0, INT64_MAX, &n[i], err) < 0)
			return err_set(err, ERR_CORRUPT,
				       "what puts files back does not speak its language");
	out->written = n[0];
	out->bytes = n[1];
	out->removed = n[2];
	out->same = n[3];
	out->skipped = n[4];
	return 0;
}

/* 1 that was the last one, 0, -1. */
static int
take_line(struct keeper *k, struct str line, struct err *err)
{
	struct msg_tree_put_report r = {.seq = k->putting.seq};
	struct str word = {NULL, 0}, code;
	const uint64_t now_ns = time_now_ns();
	uint64_t number;

	(void)str_cut(&line, ' ', &word);
	if (str_is(word, "failed")) {
		if (!str_cut(&line, ' ', &code) || num_parse(code, 0, ERR_CODES, &number, err) < 0)
			return err_set(err, ERR_CORRUPT,
				       "what puts files back does not speak its language");
		const enum err_code why = err_from_number(number);
		err_set(err, why == ERR_NONE ? ERR_AGAIN : why, "%.*s", (int)line.len, line.at);
		for (char *c = err->why; *c; c++) /* it ends on a terminal */
			if ((unsigned char)*c < ' ' || *c == 0x7f)
				*c = '?';
		return -1;
	}
	r.ended = str_is(word, "done");
	if (!r.ended && !str_is(word, "progress"))
		return err_set(err, ERR_CORRUPT,
			       "what puts files back does not speak its language");
	if (take_counts(line, &r, err) < 0)
		return -1;
	if (!r.ended && now_ns - k->putting.told_ns < TELL_NS)
		return 0;
	k->putting.told_ns = now_ns;
	if (r.ended)
		close_pipe(k);
	report(k, &r);
	return (int)r.ended;
}

/* 1 there may be more, 0 it has ended or must wait. */
static int
take_bytes(struct keeper *k)
{
	struct putting *p = &k->putting;
	struct err err;
	const ssize_t got = read(p->pipe, p->line + p->n, sizeof p->line - p->n);

	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (got <= 0) {
		err_set(&err, ERR_UNAVAILABLE, "what put files back was ended");
		fail(k, &err);
		return 0;
	}
	p->n += (size_t)got;
	for (;;) {
		const char *end = memchr(p->line, '\n', p->n);
		const size_t n = end ? (size_t)(end - p->line) : 0;
		if (!end)
			break;
		const int taken = take_line(k, (struct str){p->line, n}, &err);
		if (taken < 0)
			fail(k, &err);
		if (taken)
			return 0;
		p->n -= n + 1;
		memmove(p->line, end + 1, p->n);
	}
	if (p->n < sizeof p->line)
		return 1;
	err_set(&err, ERR_CORRUPT, "what puts files back does not speak its language");
	fail(k, &err);
	return 0;
}

enum { READS_AT_ONCE = 16 };

static void
on_pipe(void *ctx, uint32_t events)
{
	struct keeper *k = ctx;

	(void)events;
	for (int i = 0; i < READS_AT_ONCE && take_bytes(k); i++)
		;
}

static int
ask_init(struct keeper *k, int tree, struct str path, struct err *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, errno, "make a pipe");
	auto_close int far = ends[1];
	k->putting.pipe = ends[0];
	const int fds[2] = {tree, far};
	const struct msg_init_put body = {.path = path};
	if (!wire_is_open(&k->init))
		return err_set(err, ERR_UNAVAILABLE, "the session has ended");
	/* its end waits when it is full; ours never does */
	if (fcntl(far, F_SETFL, 0) < 0)
		return err_sys(err, errno, "set up a pipe");
	if (wire_send_fds(&k->init, MSG_init_put, &body, fds, 2, err) < 0)
		return -1;
	return watch_add(&k->loop, &k->putting.watch, k->putting.pipe, EPOLLIN, on_pipe, k, err);
}

void
putting_begin(struct keeper *k, struct message *m)
{
	auto_close int tree = fd_steal(&m->fds[0]);
	const struct msg_tree_put asked = m->tree_put;
	struct err err;

	if (k->putting.pipe >= 0) {
		err_set(&err, ERR_AGAIN, "other files are being put back");
		report(k, &(struct msg_tree_put_report){.seq = asked.seq,
							.ended = 1,
							.code = (uint32_t)err.code,
							.why = str_of(err.why)});
		return;
	}
	k->putting.seq = asked.seq;
	k->putting.n = 0;
	k->putting.told_ns = 0;
	if (ask_init(k, tree, asked.path, &err) < 0)
		fail(k, &err);
}
