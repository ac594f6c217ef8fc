/* The sftp subsystem: OpenSSH's own sftp-server, run in a session of any image, from files of the node
 * that are sealed copies in memory (manager/sftp_files.c) and reach it as descriptors alone.
 *
 *  1. its stdout is a protocol between it and its client: the owner's conn reads the pipe itself, no journal
 *     keeps it, and how much it was is conn's word. Its stderr is its log: journaled, within a small bound,
 *     and never sent to the client;
 *  2. what the log tells of files goes to the manager as call records, between those of start and end. They
 *     are dropped, and counted, before they take the room that other calls' ends need, or the manager's
 *     time: whoever holds that stderr can write as fast as it likes;
 *  3. it is a call like any other else: limits, timeout, signals, pause, lost link. */
#include "keeper.h"
#include "sftp_log.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define GATHER_NS (300 * NS_PER_MS)
/* Told in a second: more than clients do, and a seventh of what the manager could write. */
enum { TRANSFERS_A_SECOND = 10000 };

struct sftp {
	struct sftp_log log;
	struct buf batch; /* owned: transfers on their way to one record */
	struct timer timer;
	uint64_t taken, untold;
	bool drained;
};

/* ---- before it runs ---- */

static bool
node_has_it(const struct keeper *k)
{
	struct stat st;
	const int fd = k->fds[KEEPER_SFTP_LOADER];

	return fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
}

int
sftp_check(const struct keeper *k, const struct msg_call_start *m,
	   const struct call_options *options, struct err *err)
{
	if (!str_is(m->command, "sftp")) {
		err_set(err, ERR_USAGE, "no such subsystem: %.*s",
			(int)(m->command.len > 32 ? 32 : m->command.len), m->command.at);
		return err_hint(err, "there is sftp");
	}
	if (!node_has_it(k)) {
		err_set(err, ERR_UNAVAILABLE, "sftp: this server has none");
		return err_hint(err, "its log says why; sessions have it from their next start on");
	}
	if (m->pty)
		return err_set(err, ERR_USAGE, "sftp: not for a terminal");
	if (options->key[0] || options->shell[0] || options->detach || options->max_output ||
	    options->input == OPTION_INPUT_KEEP)
		return err_set(
		    err, ERR_USAGE,
		    "sftp: not with BERTH_CALL, _SHELL, _DETACH, _MAX_OUTPUT or BERTH_STDIN=keep");
	return 0;
}

static void on_transfer(void *ctx, const struct transfer *t);

int
sftp_open(struct call *c, struct err *err)
{
	c->sftp = try_new(1, sizeof *c->sftp);
	if (!c->sftp)
		return err_set(err, ERR_UNAVAILABLE, "no memory for an sftp");
	c->sftp->log.on_transfer = on_transfer;
	c->sftp->log.ctx = c;
	c->sftp->batch = BUF_MAX(TRANSFERS_BYTES);
	return 0;
}

void
sftp_free(struct sftp *s)
{
	if (!s)
		return;
	timer_cancel(&s->timer);
	buf_free(&s->batch);
	free(s);
}

int
sftp_fill_argv(const struct keeper *k, struct buf *out, struct err *err)
{
	/* 3, 4, 5: the order of KEEPER_SFTP_SERVER, _LIBC, _PRELOAD. The preload before the library, whose
	 * functions it takes the place of; the library by name, for the session's are none of ours. */
	static const char *const words[] = {
	    "sftp-server", "--inhibit-cache", "--preload",       "/proc/self/fd/5:/proc/self/fd/4",
	    "--argv0",     "sftp-server",     "/proc/self/fd/3", "-e",
	    "-l",          "VERBOSE",
	};

	for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
		buf_text(out, words[i]);
		buf_char(out, '\0');
	}
	if (k->read_only) { /* said by it in the words of the protocol, and on every rung */
		buf_text(out, "-R");
		buf_char(out, '\0');
	}
	return buf_bad(out) ? err_set(err, ERR_INTERNAL, "no memory for an sftp") : 0;
}

bool
sftp_takes_variable(struct str variable)
{
	return !str_starts(variable, "LD_") && !str_starts(variable, "GLIBC_") &&
	       !str_starts(variable, "MALLOC_");
}

int
sftp_send_files(struct call *c, struct err *err)
{
	struct keeper *k = c->keeper;
	const struct msg_init_loaded body = {.call = c->number};

	return wire_send_fds(&k->init, MSG_init_loaded, &body, &k->fds[KEEPER_SFTP_SERVER], 4, err);
}

/* ---- what its owner has read ---- */

void
sftp_taken(struct call *c, const struct msg_call_piped_taken *m)
{
	struct sftp *s = c->sftp;

	if (!s)
		return;
	if (m->bytes > s->taken)
		s->taken = m->bytes;
	if (!m->end || s->drained)
		return;
	s->drained = true;
	if (stream_both_ended(c))
		call_streams_ended(c);
}

bool
sftp_is_drained(const struct call *c)
{
	return c->sftp->drained || !c->owner;
}

uint64_t
sftp_out_bytes(const struct call *c)
{
	return c->sftp->taken;
}

/* ---- what it did to files ---- */

static void
flush(struct call *c)
{
	struct sftp *s = c->sftp;
	struct err err;
	struct msg_call_record r = {
	    .kind = STR_LIT("files"),
	    .call = str_of(c->id),
	    .principal = str_of(c->principal),
	    .command = buf_view(&s->batch),
	    .time_ns = time_real_ns(),
	};

	timer_cancel(&s->timer);
	if (s->batch.len == 0)
		return;
	if (record_has_half(&c->keeper->spool) &&
	    record_reserve(&c->keeper->spool, c->keeper->n_calls, &err) == 0)
		keeper_record(c->keeper, &r);
	else
		for (size_t i = 0; i < s->batch.len; i++)
			s->untold += s->batch.at[i] == '\n';
	buf_clear(&s->batch);
}

static void
add(struct call *c, const struct transfer *t)
{
	struct sftp *s = c->sftp;
	auto_buf line = BUF_MAX(TRANSFER_LINE_BYTES);

	transfer_put(&line, t);
	if (buf_bad(&line)) {
		s->untold++;
		return;
	}
	if (s->batch.len + line.len > TRANSFERS_BYTES)
		flush(c);
	buf_str(&s->batch, buf_view(&line));
}

static void
on_transfer(void *ctx, const struct transfer *t)
{
	struct call *c = ctx;
	struct keeper *k = c->keeper;
	const uint64_t now = time_now_ns();

	if (now - k->transfers_second > NS_PER_S) {
		k->transfers_second = now;
		k->transfers_told = 0;
	}
	if (k->transfers_told == TRANSFERS_A_SECOND) {
		c->sftp->untold++;
		return;
	}
	k->transfers_told++;
	add(c, t);
}

static void
on_timer(void *ctx)
{
	struct call *c = ctx;

	sftp_log_settle(&c->sftp->log);
	flush(c);
}

void
sftp_heard(struct call *c, const char *bytes, size_t n)
{
	struct sftp *s = c->sftp;

	sftp_log_take(&s->log, bytes, n);
	if (!s->timer.slot && (s->batch.len || s->log.pending.op.len))
		timer_set(&c->keeper->loop, &s->timer, time_now_ns() + GATHER_NS, on_timer, c);
}

void
sftp_end(struct call *c)
{
	struct sftp *s = c->sftp;
	char number[32];

	sftp_log_settle(&s->log);
	flush(c);
	if (s->untold) {
		snprintf(number, sizeof number, "%llu", (unsigned long long)s->untold);
		add(c, &(struct transfer){.op = STR_LIT("untold"), .more = str_of(number)});
		flush(c);
	}
	if (c->outcome.exit_status && !c->excess.notice[0] && s->log.words[0])
		snprintf(c->excess.notice, sizeof c->excess.notice, "berth: call: sftp: %.*s",
			 SFTP_LOG_WORDS_BYTES, s->log.words);
}
