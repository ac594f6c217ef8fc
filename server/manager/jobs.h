/* One worker process: a job of a session. The manager asks, the worker answers each request with
 * one message; progress comes in between. */
#ifndef BERTH_JOBS_H
#define BERTH_JOBS_H

#include "manager/manager.h"

/* ctx of the callback is what job_start was given. Exactly one of message (a captured,
 * snapshot_written, worked or progress; lent) and failure (work_failed, or the worker is gone;
 * lent) is set. After a failure with gone the job is dead: job_end it. */
typedef void (*job_fn)(void *ctx, const struct message *message, const struct err *failure);

struct job;

/* upper: lent directory, -1 when the job reads none. */
int job_start(struct manager *m, const char *subject, int upper, job_fn fn, void *ctx,
	      struct job **out, struct err *err) must_check;
/* The same; where files have one owner (layer.h), he is this uid and gid. UINT32_MAX: who makes them. */
int job_start_for(struct manager *m, const char *subject, int upper, uint32_t owner, job_fn fn,
		  void *ctx, struct job **out, struct err *err) must_check;
/* The same, with a first message other than `job`. fds: lent. */
int job_start_with(struct manager *m, enum msg_id first, const void *body, const int *fds, int n,
		   job_fn fn, void *ctx, struct job **out, struct err *err) must_check;
/* Whoever asks next is told from here on; nothing may be unanswered. */
void job_hand_on(struct job *j, job_fn fn, void *ctx);
/* Whether a job still is that began when so many had begun (m->job_count), other than `but`. */
bool jobs_before(const struct manager *m, uint64_t number, const struct job *but);
/* The link, for sending requests with wire_send. */
struct wire *job_wire(struct job *j);
/* Closes the link: a worker at work stops at its next step and cleans up. NULL is fine. */
void job_end(struct job *j);

#endif
