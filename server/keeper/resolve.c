/* Invariants
 *  1. a question ends once: an answer, a failure, its deadline, or resolve_cancel;
 *  2. an answer is bytes of the session's: at most ANSWER_MAX_BYTES count, read without a wait,
 *     and all of them keep to wire.h's form, or there is none;
 *  3. init is asked AT_ONCE at a time: less than it takes, because it counts a child until it has
 *     reaped it; the others wait here;
 *  4. a callback may ask again: its own question is off the list by then. */
#include "resolve.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#define ANSWER_MAX_NS ((RESOLVE_MAX_S + 2) * NS_PER_S) /* the child ends by itself before */

enum {
	AT_ONCE = RESOLVE_AT_ONCE / 2,
	EACH_BYTES = 1 + RESOLVE_ADDRESS_BYTES,
	ANSWER_MAX_BYTES = 1 + RESOLVE_MOST * EACH_BYTES,
	NAME_MAX_BYTES = 253,
};

struct question {
	struct question *next;
	struct resolver *of;
	uint32_t number, uid, gid;
	char name[NAME_MAX_BYTES + 1];
	int pipe; /* owned, -1: init was not asked yet */
	struct watch watch;
	struct timer deadline;
	resolve_fn fn;
	void *ctx;
	size_t n;
	uint8_t answer[ANSWER_MAX_BYTES + 1]; /* one more shows that it is too long */
};

/* ---- what the child says ---- */

static int
refuse(const char *name, enum resolve_result result, struct err *err)
{
	switch (result) {
	case RESOLVE_UNKNOWN:
		return err_set(err, ERR_ABSENT, "no host %.64s is known inside", name);
	case RESOLVE_NO_SERVER:
		err_set(err, ERR_ABSENT,
			"%.64s is not in the session's /etc/hosts, and no name server can be asked",
			name);
		return err_hint(err, "give an address, or a line in /etc/hosts of the session");
	case RESOLVE_SILENT:
		return err_set(err, ERR_TIMEOUT, "no name server of the session answered for %.64s",
			       name);
	case RESOLVE_FAILED:
		return err_set(err, ERR_UNAVAILABLE, "%.64s could not be resolved inside", name);
	case RESOLVE_BUSY:
		return err_set(err, ERR_UNAVAILABLE,
			       "%.64s: too many names are being resolved inside", name);
	case RESOLVE_FOUND:
		break;
	}
	return err_set(err, ERR_CORRUPT, "what was said of %.64s inside is no answer", name);
}

static bool
parse_one(const uint8_t *at, struct resolve_address *out)
{
	*out = (struct resolve_address){.family = at[0]};
	memcpy(out->bytes, at + 1, RESOLVE_ADDRESS_BYTES);
	for (size_t i = 4; at[0] == 4 && i < RESOLVE_ADDRESS_BYTES; i++)
		if (out->bytes[i])
			return false;
	return at[0] == 4 || at[0] == 6;
}

/* How many addresses; -1 and why there is none. */
static int
parse_answer(const char *name, const uint8_t *at, size_t n,
	     struct resolve_address out[RESOLVE_MOST], struct err *err)
{
	if (n == 0)
		return err_set(err, ERR_UNAVAILABLE, "nothing was said of %.64s inside", name);
	if (n == 1 && at[0] != RESOLVE_FOUND)
		return refuse(name, (enum resolve_result)at[0], err);
	if (at[0] != RESOLVE_FOUND || n == 1 || n > ANSWER_MAX_BYTES || (n - 1) % EACH_BYTES)
		return refuse(name, RESOLVE_FOUND, err);
	for (size_t i = 0; i < (n - 1) / EACH_BYTES; i++)
		if (!parse_one(at + 1 + i * EACH_BYTES, &out[i]))
			return refuse(name, RESOLVE_FOUND, err);
	return (int)((n - 1) / EACH_BYTES);
}

bool
resolve_is_name(struct str name)
{
	if (name.len == 0 || name.len > NAME_MAX_BYTES || name.at[0] == '-' || name.at[0] == '.')
		return false;
	for (size_t i = 0; i < name.len; i++) {
		const char c = name.at[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
		      c == '-' || c == '_' || c == '.'))
			return false;
	}
	return true;
}

/* ---- a question's life ---- */

void
resolve_init(struct resolver *r, struct loop *l, struct wire *init)
{
	*r = (struct resolver){.loop = l, .init = init, .next_number = 1};
}

static void ask_waiting(void *ctx);

/* Takes it off the list; it is freed when the turn ends. The closed pipe ends the child. */
static void
detach(struct question *q)
{
	struct resolver *r = q->of;

	for (struct question **at = &r->questions; *at; at = &(*at)->next)
		if (*at == q) {
			*at = q->next;
			break;
		}
	r->waiting--;
	if (q->pipe >= 0) {
		r->asked--;
		loop_defer(r->loop, ask_waiting, r);
	}
	watch_remove(&q->watch);
	timer_cancel(&q->deadline);
	fd_close(&q->pipe);
	loop_defer(r->loop, free, q);
}

static void
fail(struct question *q, const struct err *why)
{
	detach(q);
	q->fn(q->ctx, NULL, 0, why);
}

static void
on_deadline(void *ctx)
{
	struct question *q = ctx;
	struct err err;

	err_set(&err, ERR_TIMEOUT, "waited too long for the address of %.64s inside", q->name);
	fail(q, &err);
}

static void
finish(struct question *q)
{
	struct resolve_address found[RESOLVE_MOST];
	struct err err;

	const int n = parse_answer(q->name, q->answer, q->n, found, &err);
	if (n < 0) {
		if (err.code == ERR_CORRUPT)
			log_err(&err, "resolve a name");
		fail(q, &err);
		return;
	}
	detach(q);
	q->fn(q->ctx, found, (size_t)n, NULL);
}

static void
on_answer(void *ctx, uint32_t events)
{
	struct question *q = ctx;
	ssize_t got;

	(void)events;
	do { /* O_NONBLOCK is of our end alone: nobody inside can clear it */
		got = read(q->pipe, q->answer + q->n, sizeof q->answer - q->n);
		if (got > 0)
			q->n += (size_t)got;
	} while (got > 0 && q->n < sizeof q->answer);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	finish(q); /* the end of it, or more than it can be */
}

/* ---- asking ---- */

static int
ask_init(struct question *q, struct err *err)
{
	struct resolver *r = q->of;
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, errno, "make a pipe for an address");
	auto_close int far = ends[1];
	q->pipe = ends[0];
	r->asked++;
	const struct msg_init_resolve body = {
	    .uid = q->uid, .gid = q->gid, .name = str_of(q->name)};
	if (!wire_is_open(r->init))
		return err_set(err, ERR_UNAVAILABLE, "the session has ended");
	if (wire_send_fds(r->init, MSG_init_resolve, &body, &far, 1, err) < 0)
		return -1;
	return watch_add(r->loop, &q->watch, q->pipe, EPOLLIN, on_answer, q, err);
}

/* The oldest first. */
static void
ask_waiting(void *ctx)
{
	struct resolver *r = ctx;
	struct question *q;
	struct err err;

	while (r->asked < AT_ONCE) {
		for (q = r->questions; q && q->pipe >= 0; q = q->next)
			;
		if (!q)
			return;
		if (ask_init(q, &err) < 0)
			fail(q, &err);
	}
}

int
resolve_ask(struct resolver *r, struct str name, uint32_t uid, uint32_t gid, resolve_fn fn,
	    void *ctx, uint32_t *out, struct err *err)
{
	if (!resolve_is_name(name))
		return err_set(err, ERR_USAGE, "no host name");
	if (r->waiting >= RESOLVE_WAITING_MAX)
		return err_set(err, ERR_UNAVAILABLE, "%u names of this session are being resolved",
			       r->waiting);
	struct question *q = xnew(1, sizeof *q);
	*q = (struct question){.of = r,
			       .number = r->next_number,
			       .uid = uid,
			       .gid = gid,
			       .pipe = -1,
			       .fn = fn,
			       .ctx = ctx};
	memcpy(q->name, name.at, name.len);
	if (r->asked < AT_ONCE && ask_init(q, err) < 0) {
		r->asked -= q->pipe >= 0;
		watch_remove(&q->watch);
		fd_close(&q->pipe);
		free(q);
		return -1;
	}
	r->next_number = r->next_number == UINT32_MAX ? 1 : r->next_number + 1;
	r->waiting++;
	struct question **at = &r->questions;
	while (*at)
		at = &(*at)->next;
	*at = q;
	timer_set(r->loop, &q->deadline, time_now_ns() + ANSWER_MAX_NS, on_deadline, q);
	*out = q->number;
	return 0;
}

void
resolve_cancel(struct resolver *r, uint32_t number)
{
	for (struct question *q = r->questions; q; q = q->next)
		if (q->number == number) {
			detach(q);
			return;
		}
}

void
resolve_end(struct resolver *r, const struct err *why)
{
	while (r->questions)
		fail(r->questions, why);
}
