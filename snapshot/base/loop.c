#include "loop.h"
#include "buf.h"
#include "fd.h"
#include "time.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

enum { BATCH = 64 };

struct deferred {
	struct deferred *next;
	timer_fn fn;
	void *ctx;
};

int
loop_init(struct loop *l, struct err *err)
{
	*l = (struct loop){.epoll = epoll_create1(EPOLL_CLOEXEC)};
	if (l->epoll < 0)
		return err_sys(err, errno, "make an epoll");
	l->batch = xnew(BATCH, sizeof *l->batch);
	l->deferred_tail = &l->deferred;
	return 0;
}

static void
run_deferred(struct loop *l)
{
	while (l->deferred) {
		struct deferred *d = l->deferred;
		l->deferred = d->next;
		if (!l->deferred)
			l->deferred_tail = &l->deferred;
		d->fn(d->ctx);
		free(d);
	}
}

void
loop_done(struct loop *l)
{
	run_deferred(l);
	fd_close(&l->epoll);
	free(l->heap);
	free(l->batch);
	l->heap = NULL;
	l->batch = NULL;
}

/* ---- timers: a binary heap, the soonest first ---- */

static void
heap_put(struct loop *l, size_t i, struct timer *t)
{
	l->heap[i] = t;
	t->slot = i + 1;
}

static void
heap_up(struct loop *l, size_t i)
{
	struct timer *t = l->heap[i];
	while (i > 0 && l->heap[(i - 1) / 2]->deadline_ns > t->deadline_ns) {
		heap_put(l, i, l->heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
	heap_put(l, i, t);
}

static void
heap_down(struct loop *l, size_t i)
{
	struct timer *t = l->heap[i];
	for (;;) {
		size_t child = 2 * i + 1;
		if (child >= l->timers)
			break;
		if (child + 1 < l->timers &&
		    l->heap[child + 1]->deadline_ns < l->heap[child]->deadline_ns)
			child++;
		if (l->heap[child]->deadline_ns >= t->deadline_ns)
			break;
		heap_put(l, i, l->heap[child]);
		i = child;
	}
	heap_put(l, i, t);
}

void
timer_cancel(struct timer *t)
{
	if (!t->slot)
		return;
	struct loop *l = t->loop;
	const size_t i = t->slot - 1;
	t->slot = 0;
	struct timer *last = l->heap[--l->timers];
	if (last == t)
		return;
	heap_put(l, i, last);
	heap_up(l, i);
	heap_down(l, last->slot - 1);
}

void
timer_set(struct loop *l, struct timer *t, uint64_t deadline_ns, timer_fn fn, void *ctx)
{
	timer_cancel(t);
	*t = (struct timer){.loop = l, .deadline_ns = deadline_ns, .fn = fn, .ctx = ctx};
	if (l->timers == l->timers_cap) {
		const size_t cap = l->timers_cap ? 2 * l->timers_cap : 16;
		struct timer **heap = xnew(cap, sizeof *heap);
		if (l->timers)
			memcpy(heap, l->heap, l->timers * sizeof *heap);
		free(l->heap);
		l->heap = heap;
		l->timers_cap = cap;
	}
	l->heap[l->timers] = t;
	heap_up(l, l->timers++);
}

static void
run_due(struct loop *l)
{
	const uint64_t now = time_now_ns();
	while (l->timers && l->heap[0]->deadline_ns <= now) {
		struct timer *t = l->heap[0];
		timer_cancel(t);
		t->fn(t->ctx);
	}
}

void
loop_defer(struct loop *l, timer_fn fn, void *ctx)
{
	struct deferred *d = xnew(1, sizeof *d);
	*d = (struct deferred){.fn = fn, .ctx = ctx};
	*l->deferred_tail = d;
	l->deferred_tail = &d->next;
}

/* ---- fds ---- */

int
watch_add(struct loop *l, struct watch *w, int fd, uint32_t events, watch_fn fn, void *ctx,
	  struct err *err)
{
	assert(!w->loop);
	struct epoll_event e = {.events = events, .data.ptr = w};
	if (epoll_ctl(l->epoll, EPOLL_CTL_ADD, fd, &e) < 0)
		return err_sys(err, errno, "watch a file descriptor");
	*w = (struct watch){.loop = l, .fd = fd, .events = events, .fn = fn, .ctx = ctx};
	return 0;
}

void
watch_want(struct watch *w, uint32_t events)
{
	if (!w->loop || w->events == events)
		return;
	struct epoll_event e = {.events = events, .data.ptr = w};
	epoll_ctl(w->loop->epoll, EPOLL_CTL_MOD, w->fd, &e);
	w->events = events;
}

void
watch_remove(struct watch *w)
{
	struct loop *l = w->loop;
	if (!l)
		return;
	epoll_ctl(l->epoll, EPOLL_CTL_DEL, w->fd, NULL);
	w->loop = NULL;
	for (int i = l->batch_at; i < l->batch_n; i++)
		if (l->batch[i].data.ptr == w)
			l->batch[i].data.ptr = NULL;
}

static int
wait_ms(const struct loop *l, uint64_t timeout_ns)
{
	if (l->deferred)
		return 0;
	if (l->timers) {
		const uint64_t now = time_now_ns(), due = l->heap[0]->deadline_ns;
		const uint64_t until = due > now ? due - now : 0;
		if (until < timeout_ns)
			timeout_ns = until;
	}
	if (timeout_ns == UINT64_MAX)
		return -1;
	const uint64_t ms = timeout_ns / NS_PER_MS + (timeout_ns % NS_PER_MS != 0);
	return ms > 3600000 ? 3600000 : (int)ms;
}

int
loop_turn(struct loop *l, uint64_t timeout_ns, struct err *err)
{
	const int n = epoll_wait(l->epoll, l->batch, BATCH, wait_ms(l, timeout_ns));
	if (n < 0 && errno != EINTR)
		return err_sys(err, errno, "wait for events");
	l->batch_n = n > 0 ? n : 0;
	for (l->batch_at = 0; l->batch_at < l->batch_n;) {
		const struct epoll_event e = l->batch[l->batch_at++];
		struct watch *w = e.data.ptr;
		if (w && w->loop)
			w->fn(w->ctx, e.events);
	}
	l->batch_n = l->batch_at = 0;
	run_due(l);
	run_deferred(l);
	return 0;
}

int
loop_run(struct loop *l, struct err *err)
{
	while (!l->stop)
		if (loop_turn(l, UINT64_MAX, err) < 0)
			return -1;
	return 0;
}
