#include "throwaway.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/views.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define END_MAX_NS    (30 * NS_PER_S)
#define REMOVE_MAX_NS (600 * NS_PER_S)

int
throwaway_make(const struct session *of, const struct origin *o, const char *owner,
	       void (*lost)(void *ctx, const struct err *why), void *ctx, struct session **out,
	       struct err *err)
{
	char random[ID_BYTES], name[64];

	id_new("s_", random);
	/* + and ~: no name that is checked has them */
	snprintf(name, sizeof name, "%.36s+%.12s~%.8s", of->row.name, digest_text(&o->head).text,
		 random + 2);
	if (session_create_from(of->m, str_of(name), owner, o, out, err) < 0)
		return -1;
	struct session *s = *out;
	snprintf(s->shown_as, sizeof s->shown_as, "%s", of->row.name);
	s->lost = lost;
	s->lost_ctx = ctx;
	return 0;
}

/* ---- its end: processes, files, row ---- */

static void
forget(struct session *s)
{
	struct manager *m = s->m;
	struct err err;

	fd_close(&s->dir);
	unlinkat(m->keepers, s->row.id, 0);
	if (unlinkat(m->sessions_dir, s->row.id, AT_REMOVEDIR) < 0 && errno != ENOENT)
		log_line("session %s: its directory stays: %s", s->row.name,
			 strerrordesc_np(errno));
	else if (index_erase_session(&m->index, s->row.id, &err) < 0)
		log_err(&err, "session %s: its row stays", s->row.name);
	audit_write(&m->audit, "session", AUDIT_TEXT("session", s->row.id),
		    AUDIT_TEXT("name", s->row.name), AUDIT_TEXT("state", "removed"));
	session_free(s);
	manager_stop_when_idle(m);
}

/* Its row stays, and the next manager tries again. */
static void
stays(struct session *s, const struct err *why)
{
	log_err(why, "session %s: its files stay until the next start of the server", s->row.name);
	job_end(s->job);
	s->job = NULL;
	session_enter(s, STEP_IDLE, 0, "");
	manager_stop_when_idle(s->m);
}

static void
on_removed(void *ctx, const struct message *msg, const struct err *failure)
{
	struct session *s = ctx;

	if (failure)
		stays(s, failure);
	else if (msg->id == MSG_worked)
		forget(s);
	else
		session_extend(s, time_now_ns() + REMOVE_MAX_NS);
}

static void
tell_lost(struct session *s, const struct err *why)
{
	void (*lost)(void *, const struct err *) = s->lost;

	s->lost = NULL;
	views_lost(s);
	if (lost)
		lost(s->lost_ctx, why);
}

void
throwaway_gone(struct session *s)
{
	struct err err;

	err_set(&err, ERR_UNAVAILABLE, "its processes ended unexpectedly");
	s->ending = true;
	tell_lost(s, &err);
	session_enter(s, STEP_REMOVE, time_now_ns() + REMOVE_MAX_NS, "its files to be removed");
	session_refuse_wants(s, &err);
	means_forget(s);
	if (keeper_clear(s, &err) < 0 || session_open_dir(s, &err) < 0 ||
	    job_start(s->m, s->row.name, s->dir, on_removed, s, &s->job, &err) < 0 ||
	    wire_send(job_wire(s->job), tree_remove, &err, .unused = 0) < 0)
		stays(s, &err);
}

/* A keeper kills all, tells the records, and ends; one that does not is killed when the time is
 * over. */
static void
end_running(struct session *s)
{
	struct err err;

	session_enter(s, STEP_GONE, time_now_ns() + END_MAX_NS, "its keeper to end");
	if (!s->keeper.linked || wire_send(&s->keeper.wire, kill, &err, .seq = ++s->seq,
					   .ended_by = STR_LIT("kill")) < 0)
		keeper_cut(s);
}

void
throwaway_end(struct session *s)
{
	struct err err, ignored;

	s->lost = NULL;
	if (s->current)
		s->current->told = NULL;
	for (struct want *w = s->wants; w; w = w->next)
		w->told = NULL;
	if (s->ending || s->m->closing)
		return;
	s->ending = true;
	err_set(&err, ERR_AGAIN, "the session is being removed");
	if (s->step != STEP_IDLE) { /* it starts: that ends here, and its keeper with it */
		building_end(s);
		if (keeper_end(s, &ignored) < 0)
			log_err(&ignored, "session %s", s->row.name);
		session_finish(s, &err);
	}
	session_refuse_wants(s, &err);
	if (s->keeper.pidfd >= 0)
		end_running(s);
	else
		throwaway_gone(s);
}

void
throwaway_overdue(struct session *s, const struct err *why)
{
	if (s->keeper.pidfd >= 0)
		keeper_cut(s); /* its end is an event */
	else
		stays(s, why);
}

void
throwaway_lose(struct session *s, const struct err *why)
{
	if (s->ending)
		return;
	tell_lost(s, why);
	throwaway_end(s);
}
