/* Which limit a call ran into. The kernel counts for the session as a whole, so what a call hit is
 * told by what was counted while it lived: certain when it was alone, likely when it was not.
 *
 *  1. a limit is named only when its counter rose during the call, or its own time was over;
 *  2. nothing here needs rights: counters are read through fds that the manager opened;
 *  3. a call whose time is over gets SIGTERM in all its processes, whatever sessions and groups
 *     they made, and SIGKILL in all that are left when the grace is over, after its end too. */
#include "keeper.h"

#include "base/log.h"
#include "base/time.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <unistd.h>

enum { COUNTS_MAX_BYTES = 1024 };

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

static int
signal_all(struct call *c, uint32_t signal, struct err *err)
{
	struct keeper *k = c->keeper;
	int list = -1;

	if (k->engine->call_procs && k->engine->call_procs(&k->box, c->id, &list, err) < 0)
		return -1;
	if (list < 0)
		return keeper_signal(k, c->number, signal);
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

	if (c->state != CALL_RUNNING)
		return;
	c->excess.timed_out = true;
	if (signal_all(c, SIGTERM, &err) < 0)
		log_err(&err, "call %s: tell it that its time is over", c->id);
	timer_set(&c->keeper->loop, &c->excess.wall, time_now_ns() + c->keeper->kill_grace_ns,
		  on_grace, c);
}

void
excess_begin(struct call *c)
{
	struct keeper *k = c->keeper;
	struct excess *e = &c->excess;

	e->before = count(k);
	e->wall_ns = k->limit_wall_ns;
	e->alone = k->n_calls == 1 && k->n_late == 0;
	for (struct call *other = k->calls; other && !e->alone; other = other->next)
		other->excess.alone = false;
	if (e->wall_ns)
		timer_set(&k->loop, &e->wall, c->started_ns + e->wall_ns, on_wall, c);
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
	timer_cancel(&e->wall); /* what it leaves running is outside of its time */
	const bool failed = o->signal || o->exit_status || o->exec_errno;
	if (!failed && !e->alone)
		return; /* it went well, so it was another one */
	if (now.oom_kills > e->before.oom_kills)
		judge_memory(c);
	else if (now.forks_refused > e->before.forks_refused)
		judge_pids(c);
	if (failed && e->hit[0])
		c->outcome.ended_by = "limit";
}
