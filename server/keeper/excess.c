/* Which limit a call ran into. The kernel counts for the session as a whole, so what a call hit is
 * told by what was counted while it lived: certain when it was alone, likely when it was not.
 *
 *  1. a limit is named only when its counter rose during the call, or its own time was over; a full
 *     disk, which no counter tells, when it became full during the call, or was full and the call
 *     failed with the words for that;
 *  2. nothing here needs rights: counters are read through fds that the manager opened;
 *  3. a call whose time is over gets SIGTERM in all its processes, whatever sessions and groups
 *     they made, and SIGKILL in all that are left when the grace is over, after its end too. */
#include "keeper.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/statfs.h>
#include <unistd.h>

enum {
	COUNTS_MAX_BYTES = 1024,
	/* What is refused is seldom one byte: so much may be left when a disk is full, an eighth of
	 * the limit at most; and so much when the call has said that it is. */
	FULL_BYTES = 2 << 20,
	NEARLY_FULL_BYTES = 4 << 20,
};

/* "key value" lines. 0 where there is no such line, or no such file. */
static uint64_t
read_count(int fd, const char *key)
{
	char text[COUNTS_MAX_BYTES];
	const ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof text, 0);
	struct str rest = {text, n < 0 ? 0 : (size_t)n}, line, name;
	struct err ignored;
	uint64_t value;

	while (rest.len && str_cut(&rest, '\n', &line))
		if (str_cut(&line, ' ', &name) && str_is(name, key) &&
		    num_parse(line, 0, UINT64_MAX, &value, &ignored) == 0)
			return value;
	return 0;
}

static struct limit_counts
count(const struct keeper *k)
{
	return (struct limit_counts){
	    .oom_kills = read_count(k->fds[KEEPER_MEMORY_EVENTS], "oom_kill"),
	    .forks_refused = read_count(k->fds[KEEPER_PIDS_EVENTS], "max"),
	};
}

/* ---- a full disk ---- */

static bool
is_full(const struct keeper *k, bool words)
{
	const uint64_t part = k->limit_disk / 8;
	struct statfs fs;

	if (k->disk < 0 || k->limit_disk == 0 || fstatfs(k->disk, &fs) < 0)
		return false;
	const uint64_t left = (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
	if (fs.f_ffree == 0)
		return true;
	if (words)
		return left < (part > NEARLY_FULL_BYTES ? part : NEARLY_FULL_BYTES);
	return left < (part < FULL_BYTES ? part : FULL_BYTES);
}

void
excess_take_room(struct keeper *k, uint64_t limit_disk, int take_fd)
{
	fd_close(&k->disk);
	k->disk = take_fd;
	k->limit_disk = limit_disk;
}

/* Looked at when the words come: many programs remove what they could not finish. */
void
excess_heard(struct call *c, const char *bytes, size_t n)
{
	static const char *const words[] = {"No space left on device", "Disk quota exceeded"};

	if (c->keeper->disk < 0 || c->excess.disk_words)
		return;
	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		c->excess.disk_words |= memmem(bytes, n, words[i], strlen(words[i])) != NULL;
	if (c->excess.disk_words)
		c->excess.disk_filled = is_full(c->keeper, true);
}

/* ---- the time of a call ---- */

static void
on_grace(void *ctx)
{
	struct call *c = ctx;
	struct err err;

	if (c->keeper->engine->call_kill(&c->keeper->box, c->id, &err) == 0)
		return;
	log_err(&err, "call %s: kill what its timeout left", c->id);
	(void)!keeper_signal(c->keeper, c->number, SIGKILL);
}

int
excess_signal(struct call *c, uint32_t signal, struct err *err)
{
	struct keeper *k = c->keeper;
	int list = -1;

	if (k->engine->call_procs && k->engine->call_procs(&k->box, c->id, &list, err) < 0)
		return -1;
	if (list < 0) {
		if (keeper_signal(k, c->number, signal) == 0)
			return 0;
		return err_set(err, ERR_AGAIN, "the session is ending");
	}
	const struct msg_init_signal_listed body = {.signal = signal};
	const int sent = wire_send_fds(&k->init, MSG_init_signal_listed, &body, &list, 1, err);
	close(list);
	return sent;
}

static void
on_wall(void *ctx)
{
	struct call *c = ctx;
	struct err err;

	if (c->state == CALL_QUEUED) {
		const struct journal_outcome late = {.ended_by = "timeout"};
		c->excess.timed_out = true;
		call_cancel(c, &late);
		return;
	}
	if (c->state != CALL_RUNNING && !(c->state == CALL_DRAINING && c->options.wait_all))
		return;
	c->excess.timed_out = true;
	if (excess_signal(c, SIGTERM, &err) < 0)
		log_err(&err, "call %s: tell it that its time is over", c->id);
	timer_set(&c->keeper->loop, &c->excess.wall, time_now_ns() + c->keeper->kill_grace_ns,
		  on_grace, c);
}

void
excess_begin(struct call *c)
{
	struct keeper *k = c->keeper;
	struct excess *e = &c->excess;
	const uint64_t own_ns = c->options.timeout_ns;
	e->by_option = own_ns && (!k->limit_wall_ns || own_ns < k->limit_wall_ns);
	e->wall_ns = e->by_option ? own_ns : k->limit_wall_ns;
	if (e->wall_ns)
		timer_set(&k->loop, &e->wall, c->started_ns + e->wall_ns, on_wall, c);
}

/* One that waits for its shell has no process: it counts, and is counted, from here on. */
void
excess_launched(struct call *c)
{
	struct keeper *k = c->keeper;
	struct excess *e = &c->excess;

	e->before = count(k);
	e->disk_was_full = is_full(k, false);
	e->alone = k->n_late == 0;
	for (struct call *other = k->calls; other; other = other->next)
		if (other != c && other->state != CALL_QUEUED)
			other->excess.alone = e->alone = false;
}

void
excess_end(struct call *c)
{
	timer_cancel(&c->excess.wall);
}

/* ---- the verdict ---- */

static void
say(struct call *c, const char *what, const char *key, const char *limit, const char *more)
{
	struct excess *e = &c->excess;

	snprintf(e->hit, sizeof e->hit, "%s", key);
	snprintf(e->notice, sizeof e->notice,
		 "berth: call: %s: the limit of %s was hit (raise it: ssh berth@HOST set %s %s %s)",
		 what, limit, c->keeper->name, key, more);
}

static void
judge_wall(struct call *c)
{
	char limit[NUM_TEXT_BYTES], more[NUM_TEXT_BYTES];

	num_format_duration(c->excess.wall_ns, limit);
	num_format_duration(c->excess.wall_ns * 2, more);
	if (c->excess.by_option)
		snprintf(c->excess.notice, sizeof c->excess.notice,
			 "berth: call: timed out after %s (give it more: BERTH_TIMEOUT=%s)", limit, more);
	else
		say(c, "timed out", "wall", limit, more);
	c->outcome.ended_by = "timeout";
	c->outcome.exit_status = 124;
	c->outcome.signal = 0;
	c->outcome.core_dumped = false;
}

static void
judge_memory(struct call *c)
{
	const uint64_t limit = c->keeper->limit_memory;
	char text[NUM_TEXT_BYTES], more[NUM_TEXT_BYTES];

	if (limit == 0) {
		snprintf(c->excess.hit, sizeof c->excess.hit, "memory");
		snprintf(c->excess.notice, sizeof c->excess.notice,
			 "berth: call: out of memory: the server has none left (free some there)");
		return;
	}
	num_format_size(limit, text);
	num_format_size(limit * 2, more);
	say(c, c->excess.alone ? "out of memory" : "likely out of memory", "memory", text, more);
}

static void
judge_pids(struct call *c)
{
	const unsigned long long limit = c->keeper->limit_pids;
	char text[NUM_TEXT_BYTES], more[NUM_TEXT_BYTES];

	snprintf(text, sizeof text, "%llu", limit);
	snprintf(more, sizeof more, "%llu", limit * 2);
	say(c, c->excess.alone ? "too many processes" : "likely too many processes", "pids", text,
	    more);
}

static bool
has_filled_disk(const struct call *c, bool failed)
{
	const struct excess *e = &c->excess;

	if (!e->disk_filled && !is_full(c->keeper, false))
		return false;
	return !e->disk_was_full || (failed && e->disk_words);
}

/* A call that made the best of it is not spoilt by a notice: its record alone tells. */
static void
judge_disk(struct call *c, bool failed)
{
	const uint64_t limit = c->keeper->limit_disk;
	char text[NUM_TEXT_BYTES], more[NUM_TEXT_BYTES];

	if (!failed) {
		snprintf(c->excess.hit, sizeof c->excess.hit, "disk");
		return;
	}
	num_format_size(limit, text);
	num_format_size(limit * 2, more);
	say(c, c->excess.alone || c->excess.disk_words ? "disk full" : "likely disk full", "disk",
	    text, more);
}

void
excess_judge(struct call *c)
{
	const struct limit_counts now = count(c->keeper);
	const struct journal_outcome *o = &c->outcome;
	struct excess *e = &c->excess;

	if (e->timed_out) {
		judge_wall(c);
		return;
	}
	if (!c->options.wait_all) /* what it leaves running is outside of its time */
		timer_cancel(&e->wall);
	/* sftp-server tells its client of a failure, and ends well */
	const bool failed =
	    o->signal || o->exit_status || o->exec_errno || (c->sftp && e->disk_words);
	if (!failed && !e->alone)
		return; /* it went well, so it was another one */
	if (now.oom_kills > e->before.oom_kills)
		judge_memory(c);
	else if (now.forks_refused > e->before.forks_refused)
		judge_pids(c);
	else if (has_filled_disk(c, failed))
		judge_disk(c, failed);
	if (failed && e->hit[0])
		c->outcome.ended_by = "limit";
}
