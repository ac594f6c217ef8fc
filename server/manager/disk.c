#include "disk.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/num.h"
#include "base/time.h"
#include "manager/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#define LOOK_NS       (1 * NS_PER_S)
#define LOOK_OFTEN_NS (100 * NS_PER_MS)
enum {
	RESERVE_MAX_BYTES = 1 << 30,
	CHANGE_BYTES = 4 << 20, /* less than this may be anybody's log file */
	GROWN_BYTES = 1 << 20,
	NEAR = 4,          /* times the reserve: from here on all are measured */
	NEAR_VOLUMES = 16, /* the same for looking often: into a volume is written at the speed of
			    * memory, and what was written is owed */
	REST = 10,         /* times what a measurement took, until the next of the same session */
};

struct disk_watch {
	struct timer timer;
	struct job *job;
	struct session *subject; /* of the job */
	uint64_t began_ns, reserve, free;
};

/* ---- looking ---- */

static int
read_free(struct manager *m, uint64_t *out_free, uint64_t *out_total, struct err *err)
{
	struct statvfs fs;

	if (fstatvfs(m->state, &fs) < 0)
		return err_sys(err, errno, "look at the store's free space");
	*out_free = (uint64_t)fs.f_bavail * fs.f_frsize;
	*out_total = (uint64_t)fs.f_blocks * fs.f_frsize;
	return 0;
}

static bool
is_watched(struct session *s)
{
	if (s->state != SESSION_RUNNING || !s->keeper.linked || s->step != STEP_IDLE)
		return false;
	if (s->disk.keeper != s->keeper.pid) /* another start: nothing is known of it */
		s->disk = (struct disk_use){.keeper = s->keeper.pid};
	return true;
}

/* What a means counts needs no measurement. */
static void
count(struct session *s, struct disk_watch *d)
{
	struct disk_used now;

	s->disk.counted = means_read(s, &now) == 0;
	if (!s->disk.counted)
		return;
	s->disk.grown = now.bytes > s->disk.bytes && s->disk.known ? now.bytes - s->disk.bytes : 0;
	s->disk.bytes = now.bytes;
	s->disk.known = true;
	d->free -= now.owed < d->free ? now.owed : d->free;
}

static bool
is_due(struct session *s, const struct disk_watch *d)
{
	const struct disk_use *u = &s->disk;

	if (u->counted)
		return false;
	if (session_limits(s).at[LIMIT_DISK] == 0 && d->free > NEAR * d->reserve && !u->suspended)
		return false;
	if (!u->known)
		return time_now_ns() >= u->not_before_ns;
	const uint64_t change =
	    d->free > u->free_then ? d->free - u->free_then : u->free_then - d->free;
	return change >= CHANGE_BYTES && time_now_ns() >= u->not_before_ns;
}

/* ---- freezing and letting go ---- */

static void
tell(struct session *s, bool on, const char *why, const char *hint)
{
	struct err err;

	if (wire_send(&s->keeper.wire, suspend, &err, .on = on, .why = str_of(why),
		      .hint = str_of(hint)) < 0 ||
	    session_set_state(s, SESSION_RUNNING, on ? why : "", &err) < 0)
		log_err(&err, "session %s", s->row.name);
	s->disk.suspended = on;
	log_line("session %s: %s%s", s->row.name, on ? "frozen: " : "goes on", on ? why : "");
}

static void
suspend_for_limit(struct session *s, uint64_t limit)
{
	char text[NUM_TEXT_BYTES], more[NUM_TEXT_BYTES], why[160], hint[160];

	num_format_size(limit, text);
	num_format_size(limit * 2, more);
	snprintf(why, sizeof why, "disk full: the limit of %s was hit; the session is frozen",
		 text);
	snprintf(hint, sizeof hint, "raise it: ssh berth@HOST set %s disk %s", s->row.name, more);
	s->disk.for_reserve = false;
	tell(s, true, why, hint);
}

static void
suspend_for_reserve(struct session *s)
{
	s->disk.for_reserve = true;
	tell(s, true, "disk full: the server's store is nearly full; the session is frozen",
	     "free space on the server, or pause, restore or rm sessions");
}

static void
judge_limit(struct session *s)
{
	const uint64_t limit = session_limits(s).at[LIMIT_DISK];
	const bool held = s->place.bytes && s->place.bytes <= limit; /* it is told by its writes */
	const bool over = limit && !held && s->disk.bytes > limit;

	if (over && (!s->disk.suspended || s->disk.for_reserve))
		suspend_for_limit(s, limit);
	else if (!over && s->disk.suspended && !s->disk.for_reserve)
		tell(s, false, "", "");
}

/* The store is nearly full and all have been measured: the one that grows most is stopped. When
 * none is seen to grow and the space still goes, all are: files without a name are nobody's. */
static void
judge_reserve(struct manager *m, const struct disk_watch *d)
{
	struct session *most = NULL;

	for (struct session *s = m->sessions; s; s = s->next) {
		if (!is_watched(s))
			continue;
		if (s->disk.suspended && s->disk.for_reserve && d->free > d->reserve / 4 * 5)
			tell(s, false, "", "");
		if (!s->disk.suspended && s->disk.grown >= GROWN_BYTES &&
		    (!most || s->disk.grown > most->disk.grown))
			most = s;
	}
	if (d->free >= d->reserve)
		return;
	if (most) {
		suspend_for_reserve(most);
		return;
	}
	for (struct session *s = m->sessions; s && d->free < d->reserve / 2; s = s->next)
		if (is_watched(s) && !s->disk.suspended)
			suspend_for_reserve(s);
}

/* ---- measuring ---- */

static void look(void *ctx);

static void
end_job(struct disk_watch *d)
{
	job_end(d->job);
	d->job = NULL;
	d->subject = NULL;
}

static void
measured(void *ctx, const struct message *msg, const struct err *failure)
{
	struct manager *m = ctx;
	struct disk_watch *d = m->disk;
	struct session *s = d->subject;
	const uint64_t now = time_now_ns();

	if (failure)
		log_err(failure, "session %s: what it holds is not known", s->row.name);
	s->disk.not_before_ns = now + REST * (now - d->began_ns);
	s->disk.free_then = d->free;
	if (msg && msg->id == MSG_worked && is_watched(s)) {
		const uint64_t bytes = msg->worked.bytes;
		s->disk.grown = bytes > s->disk.bytes ? bytes - s->disk.bytes : 0;
		s->disk.bytes = bytes;
		s->disk.known = true;
		judge_limit(s);
	}
	end_job(d);
	timer_set(&m->loop, &d->timer, now, look, m); /* the next that is due */
}

static int
measure(struct session *s, struct err *err)
{
	struct disk_watch *d = s->m->disk;

	auto_close int upper =
	    session_open_dir(s, err) < 0 ? -1 : session_open_upper(s, s->row.upper, err);
	if (upper < 0 || job_start(s->m, s->row.name, upper, measured, s->m, &d->job, err) < 0)
		return -1;
	d->subject = s;
	d->began_ns = time_now_ns();
	return wire_send(job_wire(d->job), measure, err, .seq = 0);
}

static void
look(void *ctx)
{
	struct manager *m = ctx;
	struct disk_watch *d = m->disk;
	uint64_t total;
	struct err err;
	bool limited = false, volumes = false;

	if (read_free(m, &d->free, &total, &err) < 0)
		log_err(&err, "disk");
	for (struct session *s = m->sessions; s; s = s->next)
		if (is_watched(s))
			count(s, d);
	struct session *due = NULL;
	for (struct session *s = m->sessions; s; s = s->next) {
		if (!is_watched(s))
			continue;
		if (s->disk.counted)
			judge_limit(s);
		volumes = volumes || s->place.means == MEANS_LOOP;
		limited = limited || (session_limits(s).at[LIMIT_DISK] && !s->disk.counted);
		if (is_due(s, d) && (!due || s->disk.not_before_ns < due->disk.not_before_ns))
			due = s; /* who has waited longest */
	}
	if (!due)
		judge_reserve(m, d);
	if (due && !d->job && measure(due, &err) < 0) {
		log_err(&err, "session %s: what it holds is not known", due->row.name);
		due->disk.not_before_ns = time_now_ns() + LOOK_NS;
		end_job(d);
	}
	const bool often = limited || d->free < (volumes ? NEAR_VOLUMES : NEAR) * d->reserve;
	timer_set(&m->loop, &d->timer, time_now_ns() + (often ? LOOK_OFTEN_NS : LOOK_NS), look, m);
}

/* ---- start and end ---- */

int
disk_begin(struct manager *m, struct err *err)
{
	struct disk_watch *d = xnew(1, sizeof *d);
	const struct str text = str_of(m->config.store_reserve);
	uint64_t total = 0;

	m->disk = d;
	if (read_free(m, &d->free, &total, err) < 0)
		return -1;
	d->reserve = total / 20 < RESERVE_MAX_BYTES ? total / 20 : RESERVE_MAX_BYTES;
	if (!str_is(text, "auto") && num_parse_size(text, &d->reserve, err) < 0) {
		err->code = ERR_CONFIG;
		return err_add(err, "store_reserve");
	}
	timer_set(&m->loop, &d->timer, time_now_ns(), look, m);
	return 0;
}

void
disk_end(struct manager *m)
{
	if (!m->disk)
		return;
	timer_cancel(&m->disk->timer);
	end_job(m->disk);
	free(m->disk);
	m->disk = NULL;
}

void
disk_forget(struct session *s)
{
	if (s->m->disk && s->m->disk->subject == s)
		end_job(s->m->disk);
}

void
disk_look_soon(struct session *s)
{
	if (!s->m->disk)
		return;
	s->disk.known = false;
	s->disk.not_before_ns = 0;
	timer_set(&s->m->loop, &s->m->disk->timer, time_now_ns(), look, s->m);
}
