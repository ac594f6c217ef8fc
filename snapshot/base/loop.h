/* One thread's event loop: fds by epoll, timers by a heap, and work put off to the turn's end.
 *
 * Callbacks may add and remove any watch or timer, also their own: an event of this turn for a
 * watch that was removed in this turn is not delivered. Memory that belongs to a watch is freed by
 * loop_defer, never inside a callback of its own. */
#ifndef BERTH_LOOP_H
#define BERTH_LOOP_H

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>

struct loop;

typedef void (*watch_fn)(void *ctx, uint32_t events);
typedef void (*timer_fn)(void *ctx);

struct watch { /* in the owner's struct; zero is "not watching" */
	struct loop *loop;
	int fd; /* lent by the owner */
	uint32_t events;
	watch_fn fn;
	void *ctx;
};

struct timer { /* in the owner's struct; zero is "not set" */
	struct loop *loop;
	uint64_t deadline_ns; /* CLOCK_BOOTTIME */
	size_t slot;          /* place in the heap + 1; 0: not set */
	timer_fn fn;
	void *ctx;
};

struct loop {
	int epoll; /* owned */
	bool stop;
	struct timer **heap; /* owned array of lent timers */
	size_t timers, timers_cap;
	struct epoll_event *batch; /* owned */
	int batch_at, batch_n;
	struct deferred *deferred; /* owned list, in order of arrival */
	struct deferred **deferred_tail;
};

int loop_init(struct loop *l, struct err *err) must_check;
void loop_done(struct loop *l);
/* Waits for one batch of events (until timeout_ns from now at most, UINT64_MAX: no bound of its
 * own) and runs its callbacks, due timers, and deferred work. */
int loop_turn(struct loop *l, uint64_t timeout_ns, struct err *err) must_check;
/* Turns until somebody sets l->stop. */
int loop_run(struct loop *l, struct err *err) must_check;

int watch_add(struct loop *l, struct watch *w, int fd, uint32_t events, watch_fn fn, void *ctx,
	      struct err *err) must_check;
/* Changes the events waited for; nothing when they are the same. */
void watch_want(struct watch *w, uint32_t events);
void watch_remove(struct watch *w);

void timer_set(struct loop *l, struct timer *t, uint64_t deadline_ns, timer_fn fn, void *ctx);
void timer_cancel(struct timer *t);
/* Runs fn(ctx) when this turn ends. */
void loop_defer(struct loop *l, timer_fn fn, void *ctx);

#endif
