#include "spares.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/file.h>
#include <unistd.h>

#define START_MAX_NS (20 * NS_PER_S)
#define REST_NS	     (5 * NS_PER_MS) /* after a claim: its first command goes first */
#define RETRY_NS     (1 * NS_PER_S)
#define KEEPER_END_MAX_NS (5 * NS_PER_S)
enum { RETRY_DOUBLINGS = 6, AT_ONCE = 3 };

static void refill(void *ctx);

/* ---- the list ---- */

static void
take_out(struct session *s)
{
	for (struct session **at = &s->m->spares; *at; at = &(*at)->next)
		if (*at == s) {
			*at = s->next;
			s->next = NULL;
			return;
		}
}

static void
refill_in(struct manager *m, uint64_t rest_ns)
{
	if (!m->closing)
		timer_set(&m->loop, &m->spares_timer, time_now_ns() + rest_ns, refill, m);
}

/* ---- the end of one ---- */

static void
cut(struct session *s)
{
	building_cut(s);
	keeper_cut(s);
}

/* Both are dead before their cgroup is looked at: what they were about to make is made then. */
static void
remove_all(struct session *s)
{
	struct err err;

	cut(s);
	building_end(s);
	if (keeper_end(s, &err) < 0 || keeper_clear(s, &err) < 0)
		log_err(&err, "a spare session");
	unlinkat(s->m->keepers, s->row.id, 0);
	if (path_remove_tree(s->m->spares_dir, s->row.id, &err) < 0)
		log_err(&err, "a spare session");
	take_out(s);
	session_free(s);
}

/* Not one by one: who was removed meanwhile is in the list no more. */
static void
remove_lost(void *ctx)
{
	struct manager *m = ctx;

	for (struct session *s = m->spares, *next; s; s = next) {
		next = s->next;
		if (s->step == STEP_GONE)
			remove_all(s);
	}
}

void
spares_lost(struct session *s, const struct err *why)
{
	struct manager *m = s->m;

	if (s->step == STEP_GONE)
		return; /* its keeper had said so before it ended */
	log_err(why, "a spare session");
	session_enter(s, STEP_GONE, 0, "");
	loop_defer(&m->loop, remove_lost, m); /* its keeper's event is still being told */
	refill_in(m, RETRY_NS << m->spares_failed);
	if (m->spares_failed < RETRY_DOUBLINGS)
		m->spares_failed++;
}

/* ---- making them ---- */

static int
make(struct manager *m, struct err *err)
{
	struct session *s = session_new_spare(m, err);

	if (!s)
		return -1;
	s->next = m->spares;
	m->spares = s;
	s->dir = path_open_dir(m->spares_dir, s->row.id, 0700, err);
	if (s->dir >= 0)
		path_spread(s->dir);
	session_enter(s, STEP_START, time_now_ns() + START_MAX_NS, "its first process to start");
	if (s->dir < 0 || session_start_spare(s, err) < 0) {
		spares_lost(s, err);
		return -1;
	}
	return 0;
}

static bool
somebody_waits(const struct manager *m)
{
	if (m->asks)
		return true;
	for (const struct session *s = m->sessions; s; s = s->next)
		if (s->step == STEP_CACHE || s->step == STEP_TURN || s->step == STEP_START)
			return true;
	return false;
}

static void
refill(void *ctx)
{
	struct manager *m = ctx;
	unsigned n = 0, making = 0;
	struct err err;

	for (const struct session *s = m->spares; s; s = s->next) {
		n++;
		making += s->step == STEP_START;
	}
	/* A whole workspace's paths are its session's: it cannot move to another name. */
	if (m->closing || m->stopping || n >= m->config.spares || making >= AT_ONCE ||
	    !node_stacks(&m->node))
		return;
	if (somebody_waits(m))
		refill_in(m, REST_NS);
	else if (make(m, &err) == 0)
		refill_in(m, 0);
}

void
spares_ready(struct session *s)
{
	if (!s->spare || s->step != STEP_START)
		return;
	session_enter(s, STEP_IDLE, 0, "");
	s->m->spares_failed = 0;
	refill_in(s->m, 0);
}

/* ---- taking one ---- */

static bool
is_alive(const struct session *s)
{
	struct pollfd p = {.fd = s->keeper.pidfd, .events = POLLIN};

	return s->keeper.linked && poll(&p, 1, 0) == 0;
}

static struct session *
find_ready(struct manager *m)
{
	for (struct session *s = m->spares; s; s = s->next)
		if (s->step == STEP_IDLE && is_alive(s))
			return s;
	return NULL;
}

int
spares_claim(struct manager *m, struct str name, const char *owner, struct session **out,
	     struct err *err)
{
	struct session *s = m->closing || m->stopping ? NULL : find_ready(m);

	if (!s)
		return 0;
	refill_in(m, REST_NS);
	if (session_claim_spare(s, name, owner, err) < 0) {
		remove_all(s);
		return -1;
	}
	if (renameat(m->spares_dir, s->row.id, m->sessions_dir, s->row.id) < 0) {
		struct err ignored;
		err_sys(err, errno, "move a spare session to its place");
		if (index_drop_session(&m->index, s->row.id, &ignored) == 0)
			remove_all(s);
		return -1;
	}
	take_out(s);
	session_join(s);
	*out = s;
	return 1;
}

/* ---- start and end ---- */

void
spares_begin(struct manager *m)
{
	refill_in(m, 0);
}

void
spares_end(struct manager *m)
{
	timer_cancel(&m->spares_timer);
	for (struct session *s = m->spares; s; s = s->next)
		cut(s); /* all at once: they need not be waited for one after another */
	while (m->spares)
		remove_all(m->spares);
}

void
spares_settle(struct manager *m, const char *id)
{
	if (renameat(m->spares_dir, id, m->sessions_dir, id) == 0)
		log_line("session %s: has its directory now", id);
}

/* The keeper of a spare ends with its manager, but after it, and may start its pid 1 meanwhile. The
 * lock is its own for life; flock(2) has no event to wait for. */
static void
wait_for_keeper(struct manager *m, const char *id)
{
	const uint64_t until = time_now_ns() + KEEPER_END_MAX_NS;
	struct err ignored;
	auto_close int dir = path_open(m->spares_dir, id, O_PATH | O_DIRECTORY, &ignored);
	auto_close int lock = dir < 0 ? -1 : path_open(dir, "lock", O_RDWR, &ignored);

	while (lock >= 0 && flock(lock, LOCK_EX | LOCK_NB) < 0 && time_now_ns() < until)
		poll(NULL, 0, 5);
}

void
spares_sweep(struct manager *m)
{
	const int copy = openat(m->spares_dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;

	while (list && (e = readdir(list)) != NULL) {
		struct err err;
		if (!id_is("s_", str_of(e->d_name)) || session_find(m, str_of(e->d_name)))
			continue;
		wait_for_keeper(m, e->d_name);
		if (prepare_clear(&m->node, e->d_name, &err) < 0 ||
		    path_remove_tree(m->spares_dir, e->d_name, &err) < 0)
			log_err(&err, "sweep spare %s", e->d_name);
	}
	if (list)
		closedir(list);
	else if (copy >= 0)
		close(copy);
}
