#include "jobs.h"
#include "base/fd.h"
#include "base/log.h"
#include "manager/collector.h"
#include "manager/spawn.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>

struct job {
	struct job *next;
	uint64_t number; /* in the order of their starts */
	struct manager *m;
	struct wire wire;
	job_fn fn;
	void *ctx;
};

struct wire *
job_wire(struct job *j)
{
	return &j->wire;
}

void
job_hand_on(struct job *j, job_fn fn, void *ctx)
{
	j->fn = fn;
	j->ctx = ctx;
}

static void
read_job(void *ctx)
{
	struct job *j = ctx;
	struct err err;

	/* One message a turn: its callback may end this job. */
	const int got = wire_recv(&j->wire, &err);
	if (got == 0)
		return;
	if (got < 0) {
		watch_remove(&j->wire.watch);
		err_add(&err, "worker");
		j->fn(j->ctx, NULL, &err);
		return;
	}
	if (j->wire.message.id == MSG_work_failed) {
		const struct msg_work_failed *f = &j->wire.message.work_failed;
		err_set(&err, err_from_number(f->code), "%.*s", (int)f->why.len, f->why.at);
		if (f->hint.len)
			err_hint(&err, "%.*s", (int)f->hint.len, f->hint.at);
		j->fn(j->ctx, NULL, &err);
		return;
	}
	j->fn(j->ctx, &j->wire.message, NULL);
}

int
job_start(struct manager *m, const char *subject, int upper, job_fn fn, void *ctx, struct job **out,
	  struct err *err)
{
	return job_start_for(m, subject, upper, UINT32_MAX, fn, ctx, out, err);
}

int
job_start_for(struct manager *m, const char *subject, int upper, uint32_t owner, job_fn fn,
	      void *ctx, struct job **out, struct err *err)
{
	const int fds[] = {m->store, m->cache, upper >= 0 ? upper : m->scratch, m->scratch};
	const struct msg_job body = {
	    .subject = str_of(subject),
	    .level = (uint32_t)m->config.compression,
	    .threads = (uint32_t)m->config.threads,
	    .one_owner = m->node.isolation.ids == 1,
	    .owner = owner,
	    .group = owner,
	};
	return job_start_with(m, MSG_job, &body, fds, 4, fn, ctx, out, err);
}

/* Opened anew for each job: what is mounted there may come and go. Without it nothing is archived,
 * but all else goes on. */
static int
send_mirror(struct job *j, struct err *err)
{
	const char *path = j->m->config.blob_mirror;
	struct msg_job_mirror body = {.missing = 0};

	if (!path[0])
		return 0;
	auto_close int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		body.missing = (uint32_t)errno;
	return wire_send_fds(&j->wire, MSG_job_mirror, &body, dir < 0 ? &j->m->scratch : &dir, 1,
			     err);
}

int
job_start_with(struct manager *m, enum msg_id first, const void *body, const int *fds, int n,
	       job_fn fn, void *ctx, struct job **out, struct err *err)
{
	int pair[2];
	pid_t pid;
	auto_close int pidfd = -1;

	if (wire_pair(pair, err) < 0)
		return -1;
	auto_close int theirs = pair[1];
	struct job *j = xnew(1, sizeof *j);
	*j = (struct job){.m = m, .fn = fn, .ctx = ctx};
	if (wire_open(&j->wire, pair[0], ROLE_MANAGER, ROLE_WORKER, PHASE_OPEN, err) < 0 ||
	    spawn_process(m->libexec, "berth-worker", NULL, &theirs, 1, &pid, &pidfd, err) < 0 ||
	    send_mirror(j, err) < 0 || wire_send_fds(&j->wire, first, body, fds, n, err) < 0 ||
	    wire_watch(&j->wire, &m->loop, read_job, j, err) < 0) {
		wire_close(&j->wire);
		free(j);
		return err_add(err, "start a worker");
	}
	j->number = ++m->job_count;
	j->next = m->jobs;
	m->jobs = j;
	*out = j;
	return 0;
}

bool
jobs_before(const struct manager *m, uint64_t number, const struct job *but)
{
	for (const struct job *j = m->jobs; j; j = j->next)
		if (j->number <= number && j != but)
			return true;
	return false;
}

void
job_end(struct job *j)
{
	if (!j)
		return;
	for (struct job **at = &j->m->jobs; *at; at = &(*at)->next)
		if (*at == j) {
			*at = j->next;
			break;
		}
	wire_close(&j->wire); /* the worker ends at EOF; SIGCHLD reaps it */
	collector_job_ended(j->m);
	loop_defer(&j->m->loop, free, j);
}
