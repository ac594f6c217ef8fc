/* One call: its states, its end, and what it leaves behind.
 *
 *   QUEUED ─its shell is free▶ RUNNING      QUEUED ─cancelled▶ LATE
 *   RUNNING ─exited▶ DRAINING ─both streams at their end, or quiet▶ LATE ─nothing is left▶ GONE
 *      └─no process of the session lives▶ (all that the pipes hold) ─▶ LATE
 *
 *  1. what the command wrote before it ended is in the journal before the END frame: the pipes are
 *     read until they are empty, whatever the owner has taken;
 *  2. a child that holds a pipe delays the end by DRAIN_QUIET of silence, DRAIN_MAX at most;
 *  3. the owner hears of the end before anything is cleaned up;
 *  4. a call that is LATE costs no place among the live ones; what its children write goes to
 *     stream LATE, up to its bound, then nowhere. */
#include "keeper.h"

#include "base/fd.h"
#include "base/guard.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#define DRAIN_QUIET_NS    (100 * NS_PER_MS)
#define DRAIN_MAX_NS      (2 * NS_PER_S)
/* From the end of both streams until it is told: exits on a busy machine come within it. */
#define CLOSED_WAIT_NS    (1 * NS_PER_S)
#define QUEUE_MAX_NS	  (3600 * NS_PER_S)
#define ALL_LOOK_NS       (20 * NS_PER_MS)
#define PLACE_WAIT_NS     (1 * NS_PER_S) /* first look whether the children are gone; doubles ... */
#define PLACE_WAIT_MAX_NS (30 * NS_PER_S) /* ... up to this */

static void finish(struct call *c);
static bool remove_place(struct call *c);

static void
enter(struct call *c, enum call_state state, const char *waits_for)
{
	c->state = state;
	c->waits_for = waits_for;
}

/* ---- life ---- */

void
call_free(struct call *c)
{
	if (!c)
		return;
	timer_cancel(&c->timer);
	excess_end(c);
	stream_close(&c->out);
	stream_close(&c->err);
	terminal_close(&c->terminal);
	fd_close(&c->input);
	join_done(c);
	for (int i = 0; i < c->n_growth; i++)
		fd_close(&c->growth[i]);
	journal_close(&c->journal);
	launch_free(c->launch);
	sftp_free(c->sftp);
	spill_close(&c->spill);
	free(c->command);
	free(c);
}

static void
unlink_call(struct call *c)
{
	*c->link = c->next;
	if (c->next)
		c->next->link = c->link;
	c->link = NULL;
}

static void
link_call(struct call *c, struct call **list)
{
	c->next = *list;
	c->link = list;
	if (c->next)
		c->next->link = &c->next;
	*list = c;
}

static void
on_queue_max(void *ctx)
{
	struct call *c = ctx;
	const struct journal_outcome too_long = {.exit_status = (uint32_t)err_exit(ERR_AGAIN),
						 .ended_by = "queue"};

	snprintf(c->excess.notice, sizeof c->excess.notice,
		 "berth: call: not run: it waited an hour for %s", c->shell_words);
	call_cancel(c, &too_long);
}

void
call_begin(struct call *c)
{
	link_call(c, &c->keeper->calls);
	c->keeper->n_calls++;
	ahead_make(c->keeper); /* while its command starts */
	excess_begin(c);
	if (c->launch) {
		enter(c, CALL_QUEUED, c->shell_words);
		timer_set(&c->keeper->loop, &c->timer, c->started_ns + QUEUE_MAX_NS, on_queue_max, c);
	} else {
		enter(c, CALL_RUNNING, "its command to end");
		excess_launched(c);
	}
	stream_watch(&c->out);
	stream_watch(&c->err);
}

void
call_launched(struct call *c)
{
	timer_cancel(&c->timer);
	enter(c, CALL_RUNNING, "its command to end");
	excess_launched(c);
	join_launched(c);
}

void
call_cancel(struct call *c, const struct journal_outcome *outcome)
{
	c->outcome = *outcome;
	if (c->excess.timed_out)
		excess_judge(c);
	launch_free(steal(&c->launch));
	stream_close(&c->out);
	stream_close(&c->err);
	finish(c);
}

struct call *
call_find(struct keeper *k, const struct grant *owner, uint32_t channel)
{
	for (struct call *c = k->calls; c; c = c->next)
		if (c->owner == owner && c->channel == channel)
			return c;
	return NULL;
}

struct call *
call_find_id(struct keeper *k, struct str id)
{
	for (struct call *c = k->calls; c; c = c->next)
		if (str_is(id, c->id))
			return c;
	return NULL;
}

static struct call *
find_number(struct keeper *k, uint32_t number)
{
	for (struct call *c = k->calls; c; c = c->next)
		if (c->number == number && c->state == CALL_RUNNING)
			return c;
	return NULL;
}

/* ---- what its owner says ---- */

/* What a signal does to a process that did not ask for it. */
static bool
ends_by_itself(uint32_t signal)
{
	return signal != SIGCHLD && signal != SIGCONT && signal != SIGURG && signal != SIGWINCH &&
	       signal != SIGSTOP && signal != SIGTSTP && signal != SIGTTIN && signal != SIGTTOU;
}

void
call_signal(struct call *c, uint32_t signal)
{
	struct err err;

	if (signal < 1 || signal > 64)
		return;
	if (c->state == CALL_QUEUED) {
		const struct journal_outcome ended = {.signal = signal, .ended_by = "signal"};
		if (ends_by_itself(signal))
			call_cancel(c, &ended);
		return;
	}
	if (keeper_signal(c->keeper, c->number, signal) < 0)
		return;
	if (signal == SIGKILL && c->keeper->engine->call_kill(&c->keeper->box, c->id, &err) < 0)
		log_err(&err, "call %s", c->id);
}

void
call_resize(struct call *c, const struct msg_call_resize *m)
{
	if (c->launch)
		launch_resize(c->launch, m);
	terminal_resize(&c->terminal, m->columns, m->rows, m->x_pixels, m->y_pixels);
}

void
call_resume(struct call *c)
{
	if (!stream_may_read(c))
		return;
	stream_watch(&c->out);
	stream_watch(&c->err);
}

void
call_taken(struct call *c, uint64_t journal_bytes)
{
	journal_take(&c->journal, journal_bytes);
	call_resume(c);
}

/* ---- what init says: all of it untrusted ---- */

void
call_started(struct keeper *k, uint32_t number, uint32_t pid)
{
	struct call *c = find_number(k, number);
	struct err err;

	if (!c || !k->engine->call_started || pid < 2 || pid > INT32_MAX)
		return;
	if (k->engine->call_started(&k->box, c->id, (pid_t)pid, &err) < 0)
		log_err(&err, "call %s: its processes cannot be told from others'", c->id);
}

void
call_take_pty(struct keeper *k, uint32_t number, int take_master)
{
	__attribute__((cleanup(guard_close))) int master = take_master;
	struct call *c = find_number(k, number);
	struct err err;

	if (!c || !c->pty || c->out.fd >= 0 || c->outcome.ended_by)
		return;
	if (terminal_check(master, &err) < 0 || fd_set_nonblock(master, &err) < 0) {
		log_err(&err, "call %s", c->id);
		return;
	}
	if (c->input >= 0 &&
	    terminal_open(&c->terminal, &k->loop, master, fd_steal(&c->input), &err) < 0)
		log_err(&err, "call %s: nothing can be typed into it", c->id);
	c->out.fd = fd_steal(&master);
	stream_watch(&c->out);
}

/* What init executes is always the session's shell, or sftp-server: a missing command is the shell's to
 * tell. */
static void
add_exec_error(struct call *c, uint32_t number)
{
	const bool cwd = number & INIT_NO_CWD;
	const uint32_t reason = number & ~(uint32_t)INIT_NO_CWD;
	const char *text = reason < 256 ? strerrordesc_np((int)reason) : NULL;
	char line[256];

	const int n = snprintf(line, sizeof line, "berth: exec: %.128s: %s%s\n",
			       !cwd && c->sftp     ? "sftp-server"
			       : !cwd              ? c->keeper->shell
			       : c->options.cwd[0] ? c->options.cwd
						   : c->keeper->cwd,
			       text ? text : "unknown error",
			       c->options.cwd[0] && cwd ? " (BERTH_CWD must be a directory)" : "");
	if (n > 0)
		stream_append(c, c->pty ? JOURNAL_OUT : JOURNAL_ERR, line, (size_t)n);
}

static void
set_outcome(struct call *c, const struct msg_init_exited *m)
{
	const int status = (int)m->wait_status;
	struct journal_outcome *o = &c->outcome;

	o->ended_by = "itself";
	if (m->exec_errno) {
		o->exec_errno = m->exec_errno;
		o->exit_status = m->exec_errno == ENOENT || m->exec_errno == ENOTDIR ? 127 : 126;
	} else if (WIFSIGNALED(status)) {
		o->signal = (uint32_t)WTERMSIG(status);
		o->core_dumped = WCOREDUMP(status);
		o->ended_by = "signal";
	} else {
		o->exit_status = WIFEXITED(status) ? (uint32_t)WEXITSTATUS(status) : 255;
	}
	if (c->keeper->pause.state == PAUSE_TERMINATING)
		o->ended_by = "pause";
	excess_judge(c);
	c->cpu_ns = m->cpu_ns;
	c->peak_bytes = m->peak_bytes;
}

/* Where the kernel counts for each call, init is not asked; what could not be read is not known. */
static void
measure_cpu(struct call *c)
{
	struct keeper *k = c->keeper;
	uint64_t ns = 0;
	struct err err;

	if (!k->engine->call_cpu || c->place_gone)
		return;
	const int got = k->engine->call_cpu(&k->box, c->id, &ns, &err);
	if (got < 0)
		log_err(&err, "call %s: its processor time", c->id);
	if (got != 0)
		c->cpu_ns = ns;
}

static void
on_quiet(void *ctx)
{
	struct call *c = ctx;
	const uint64_t now = time_now_ns(), quiet = c->last_byte_ns + DRAIN_QUIET_NS;

	if ((now >= quiet && (!c->sftp || sftp_is_drained(c))) || now >= c->drain_until_ns) {
		finish(c);
		return;
	}
	timer_set(&c->keeper->loop, &c->timer,
		  quiet < c->drain_until_ns && quiet > now ? quiet : c->drain_until_ns, on_quiet,
		  c);
}

/* Nothing of it runs any more, so that what the pipes hold is all that comes: it is read though the
 * journal may be full. */
static void
empty_at_last(struct call *c)
{
	c->options.wait_all = false;
	c->drained_bytes = 0;
	stream_empty_both(c);
}

/* BERTH_WAIT=all: no event tells that the last process of many has ended, so this looks again. */
static void
on_all(void *ctx)
{
	struct call *c = ctx;

	measure_cpu(c);
	if (remove_place(c)) {
		if (c->excess.timed_out)
			excess_judge(c);
		empty_at_last(c);
		finish(c);
		return;
	}
	timer_set(&c->keeper->loop, &c->timer, time_now_ns() + ALL_LOOK_NS, on_all, c);
}

void
call_exited(struct keeper *k, const struct msg_init_exited *m)
{
	struct call *c = find_number(k, m->call);

	if (!c)
		return; /* a number that is not running: init is not to be believed */
	set_outcome(c, m);
	enter(c, CALL_DRAINING, c->options.wait_all ? "all that it started to end" : "its last output");
	shell_next(k, c->shell);
	c->last_byte_ns = time_now_ns();
	c->drain_until_ns = c->last_byte_ns + DRAIN_MAX_NS;
	stream_empty_both(c);
	if (c->options.wait_all) {
		call_resume(c);
		on_all(c);
		return;
	}
	if (stream_both_ended(c)) {
		finish(c);
		return;
	}
	call_resume(c);
	timer_set(&k->loop, &c->timer, c->last_byte_ns + DRAIN_QUIET_NS, on_quiet, c);
}

/* ---- its end ---- */

/* The graver of two. */
static void
format_notice(const struct call *c, char *out, size_t size)
{
	if (c->journal.lost_bytes)
		snprintf(out, size,
			 "berth: call: %llu bytes of its output could not be kept, and are lost "
			 "(free space on the server)", (unsigned long long)c->journal.lost_bytes);
	else
		snprintf(out, size, "%s", c->excess.notice);
}

/* Their command lines, made harmless: they are the session's words. */
static void
list_left(struct call *c, struct buf *out)
{
	auto_buf text = BUF_MAX(64 << 10);
	struct err err;

	const int n = c->keeper->engine->call_list(&c->keeper->box, c->id, &text, &err);
	if (n < 0)
		log_err(&err, "call %s: what it left running", c->id);
	if (n <= 0)
		return;
	const size_t fits = text.len < out->max ? text.len : out->max;
	for (size_t i = 0; i < fits; i++) {
		const char b = text.at[i];
		buf_char(out, (b >= 0 && b < 0x20 && b != '\n') || b == 0x7f ? '?' : b);
	}
}

static void
spool_end(struct call *c, struct str left)
{
	const struct digest out = hasher_sum(c->journal.sum_out), errors = hasher_sum(c->journal.sum_err);
	const struct digest_text out_text = digest_text(&out), err_text = digest_text(&errors);
	struct msg_call_record r = {
	    .kind = STR_LIT("end"),
	    .call = str_of(c->id),
	    .principal = str_of(c->principal),
	    .command = str_of(c->command),
	    .time_ns = time_real_ns(),
	    .exit_status = c->outcome.exit_status,
	    .signal = c->outcome.signal,
	    .ended_by = str_of(c->outcome.ended_by),
	    .out_bytes = c->sftp ? sftp_out_bytes(c) : c->journal.offset[JOURNAL_OUT],
	    .err_bytes = c->journal.offset[JOURNAL_ERR],
	    .wall_ns = time_now_ns() - c->started_ns,
	    .cpu_ns = c->cpu_ns,
	    .peak_bytes = c->peak_bytes,
	    .out_sha256 = c->sftp ? STR_LIT("") : str_of(out_text.text), /* nobody has summed it */
	    .err_sha256 = str_of(err_text.text),
	    .left_running = left,
	    .limit_hit = str_of(c->excess.hit),
	};

	keeper_record(c->keeper, &r);
}

static bool
remove_place(struct call *c)
{
	struct err err;

	if (c->place_gone)
		return true;
	const int got = c->keeper->engine->call_end(&c->keeper->box, c->id, &err);
	if (got < 0)
		log_err(&err, "call %s: remove its place", c->id);
	c->place_gone = got != 0;
	return c->place_gone;
}

static void
free_later(void *ctx)
{
	call_free(ctx);
}

static void
on_place(void *ctx)
{
	call_streams_ended(ctx);
}

static void
on_closed(void *ctx)
{
	struct call *c = ctx;

	if (c->state == CALL_RUNNING)
		join_tell_output_end(c);
}

/* Of a call that is LATE: goes when nothing of it is left. */
void
call_streams_ended(struct call *c)
{
	if (c->state == CALL_DRAINING) {
		if (!c->options.wait_all)
			finish(c);
		return;
	}
	if (c->state == CALL_RUNNING && !c->pty && !c->sftp) /* nearly always its exit is next */
		timer_set(&c->keeper->loop, &c->timer, time_now_ns() + CLOSED_WAIT_NS, on_closed,
			  c);
	if (c->state != CALL_LATE)
		return;
	if (remove_place(c) && stream_both_ended(c)) {
		enter(c, CALL_GONE, "nothing");
		timer_cancel(&c->timer);
		unlink_call(c);
		c->keeper->n_late--;
		loop_defer(&c->keeper->loop, free_later, c);
		return;
	}
	if (c->place_gone)
		return;
	c->place_wait_ns = c->place_wait_ns ? 2 * c->place_wait_ns : PLACE_WAIT_NS;
	if (c->place_wait_ns > PLACE_WAIT_MAX_NS)
		c->place_wait_ns = PLACE_WAIT_MAX_NS;
	timer_set(&c->keeper->loop, &c->timer, time_now_ns() + c->place_wait_ns, on_place, c);
}

static void
finish(struct call *c)
{
	struct keeper *k = c->keeper;
	auto_buf left = BUF_MAX(1024);
	char notice[500];
	struct err err;

	timer_cancel(&c->timer);
	if (c->outcome.exec_errno)
		add_exec_error(c, c->outcome.exec_errno);
	if (c->sftp)
		sftp_end(c);
	format_notice(c, notice, sizeof notice);
	c->outcome.notice = notice;
	if (journal_finish(&c->journal, &c->outcome, &err) < 0)
		log_err(&err, "call %s: the end of its journal", c->id);
	c->outcome.notice = NULL;
	spill_close(&c->spill);
	growth_tell(c);
	join_tell_end(c, notice);
	growth_end_watchers(c);
	journal_disown(&c->journal);
	terminal_close(&c->terminal);
	fd_close(&c->input);

	unlink_call(c);
	k->n_calls--;
	link_call(c, &k->late);
	k->n_late++;
	enter(c, CALL_LATE, "the processes it left to end");
	measure_cpu(c);
	if (!remove_place(c))
		list_left(c, &left);
	spool_end(c, buf_view(&left));
	call_resume(c);
	settle_call_ended(k, c); /* the last that needs c: it may go now */
	call_streams_ended(c);
	pause_process_ended(k);
}

void
call_end_all(struct keeper *k, const char *ended_by)
{
	while (k->calls) {
		struct call *c = k->calls;
		if (c->state == CALL_RUNNING || c->state == CALL_QUEUED) {
			c->outcome =
			    (struct journal_outcome){.signal = SIGKILL, .ended_by = ended_by};
			enter(c, CALL_DRAINING, "its last output");
		}
		empty_at_last(c);
		finish(c);
	}
	for (struct call *c = k->late, *next; c; c = next) {
		next = c->next;
		c->drained_bytes = 0;
		stream_empty_both(c);
		stream_close(&c->out);
		stream_close(&c->err);
		call_streams_ended(c);
	}
}

static void
free_list(struct call **list)
{
	while (*list) {
		struct call *c = *list;
		*list = c->next;
		call_free(c);
	}
}

void
call_free_all(struct keeper *k)
{
	free_list(&k->calls);
	free_list(&k->late);
}
