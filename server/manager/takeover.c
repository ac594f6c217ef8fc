/* The table of takeover, one row a state in the index:
 *
 *   state      keeper alive                              no keeper
 *   new        killed, then as without                   paused; unclean where its upper is there
 *   running    taken back                                paused, unclean; open calls lost
 *   pausing    thawed, running                           paused, unclean
 *   resuming   killed, then as without                   paused; unclean where its upper is there
 *   restoring  thawed, running, with the head that its   paused, unclean, with that head
 *              one transaction left
 *   paused     killed                                    as it is
 *   failed     killed                                    as it is
 *
 * `new` and `resuming` may have run: `running` is committed before a call is admitted, which
 * outlives a SIGKILL, but not synced for itself, so that a power cut can take it back (the row
 * `new` or `resuming` was synced before the upper was made).
 *
 * Throwaway sessions (throwaway.h) are removed, whatever their state.
 *
 * "no keeper" with the lock held: a keeper that does not answer; its cgroup is killed first. */
#include "takeover.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/session.h"
#include "manager/spares.h"
#include "manager/throwaway.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#define KEEPER_DEATH_MAX_MS 10000

struct rows {
	struct session_row *at; /* owned */
	size_t n, cap;
};

static int
take_row(void *ctx, const struct session_row *row, struct err *err)
{
	struct rows *rows = ctx;

	(void)err;
	rows->at = xgrow(rows->at, rows->n, &rows->cap, sizeof *rows->at);
	rows->at[rows->n++] = *row;
	return 0;
}

/* Ends whatever still runs of a session, and waits for it. */
static int
end_processes(struct session *s, struct err *err)
{
	if (keeper_end(s, err) < 0 || keeper_clear(s, err) < 0)
		return -1;
	/* A keeper that could not be named ends by itself once its pid 1 is dead; flock(2) has no
	 * event to wait for, so this looks again and again, for a bounded time. */
	const uint64_t until = time_now_ns() + KEEPER_DEATH_MAX_MS * NS_PER_MS;
	while (keeper_lives(s)) {
		if (time_now_ns() > until)
			return err_set(err, ERR_UNAVAILABLE, "a process still holds its lock");
		poll(NULL, 0, 5);
	}
	return 0;
}

static int
without_keeper(struct session *s, struct err *err)
{
	if (end_processes(s, err) < 0)
		return -1;
	records_replay(s);
	switch (s->state) {
	case SESSION_NEW:
	case SESSION_RESUMING:
		s->row.unclean |= session_has_upper(s);
		fd_close(&s->dir);
		log_line("session %s: its start did not end%s", s->row.name,
			 s->row.unclean ? ", its files are kept (unclean)" : "");
		return session_set_state(s, SESSION_PAUSED, "", err);
	case SESSION_RUNNING:
	case SESSION_PAUSING:
	case SESSION_RESTORING:
		s->row.unclean = true;
		session_ref_later(s);
		log_line("session %s: its processes are gone, its files are kept (unclean)",
			 s->row.name);
		return session_set_state(s, SESSION_PAUSED, "its processes were lost", err);
	case SESSION_PAUSED:
	case SESSION_FAILED:
	case SESSION_DELETED:
	case SESSION_STATES:
		return 0;
	}
	return 0;
}

static int
take_back(struct session *s, struct err *err)
{
	struct err disk;

	log_line("session %s: its keeper is taken back", s->row.name);
	session_find_lowers(s);
	if (means_find(s, &disk) < 0 || means_apply(s, &disk) < 0)
		log_err(&disk, "session %s: its disk limit is not held", s->row.name);
	if (s->state == SESSION_RUNNING)
		return 0;
	/* In the middle of a pause or restore: its old manager's death has already made the keeper
	 * thaw and admit calls; said again, it does no harm. */
	if (wire_send(&s->keeper.wire, thaw, err, .seq = ++s->seq) < 0 ||
	    wire_send(&s->keeper.wire, hold, err, .seq = ++s->seq, .hold = 0) < 0)
		return -1;
	session_ref_later(s); /* it may tell of a pause that did not come true */
	return session_set_state(s, SESSION_RUNNING, "", err);
}

static int
take_session(struct session *s, struct err *err)
{
	const bool wanted = s->state == SESSION_RUNNING || s->state == SESSION_PAUSING ||
			    s->state == SESSION_RESTORING;
	struct err find;
	const int found = keeper_find(s, &find);

	if (found == 1 && wanted && !s->choices.throwaway)
		return take_back(s, err);
	if (without_keeper(s, err) < 0)
		return -1;
	if (s->choices.throwaway)
		throwaway_gone(s);
	return 0;
}

/* Sockets of sessions that no row knows: a manager died between the two. Connecting tells whether a
 * keeper is behind; its init ends with it. */
static void
sweep_sockets(struct manager *m)
{
	const int copy = fcntl(m->keepers, F_DUPFD_CLOEXEC, 3);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;

	while (list && (e = readdir(list)) != NULL) {
		struct err err;
		if (!id_is("s_", str_of(e->d_name)) || session_find(m, str_of(e->d_name)))
			continue;
		if (prepare_clear(&m->node, e->d_name, &err) < 0)
			log_err(&err, "sweep %s", e->d_name);
		unlinkat(m->keepers, e->d_name, 0);
	}
	if (list)
		closedir(list);
	else if (copy >= 0)
		close(copy);
}

int
takeover(struct manager *m, struct err *err)
{
	struct rows rows = {0};
	int result = index_list_sessions(&m->index, take_row, &rows, err);

	for (size_t i = 0; i < rows.n && result == 0; i++) {
		spares_settle(m, rows.at[i].id);
		struct session *s = session_load(m, &rows.at[i]);
		struct err why;
		if (session_limits_load(s, &why) == 0 && session_choices_load(s, &why) == 0 &&
		    session_retention_load(s, &why) == 0 &&
		    (s->state == SESSION_DELETED || take_session(s, &why) == 0))
			continue;
		/* One session that cannot be taken must not keep the others from their work. */
		log_err(&why, "session %s is failed", s->row.name);
		if (s->state == SESSION_NEW || s->state == SESSION_RUNNING ||
		    s->state == SESSION_PAUSING || s->state == SESSION_RESTORING ||
		    s->state == SESSION_RESUMING)
			s->row.unclean = true;
		if (session_set_state(s, SESSION_FAILED, why.why, &why) < 0)
			log_err(&why, "session %s", s->row.name);
	}
	free(rows.at);
	if (result == 0) {
		sweep_sockets(m);
		spares_sweep(m);
	}
	return result;
}
