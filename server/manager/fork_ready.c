#include "fork_ready.h"
#include "base/log.h"

#include <stdlib.h>

struct turn {
	struct turn *next;
	struct digest head;
};

static struct turn *turns;     /* owned: whose layers come next */
static struct session *cacher; /* owned: makes the layers of one head */

static void
next(void *ctx)
{
	struct manager *m = ctx;

	if (cacher || !turns || m->closing || m->stopping)
		return;
	struct turn *t = turns;
	turns = t->next;
	cacher = session_new_cacher(m, &t->head);
	free(t);
	session_run_cache(cacher);
}

void
fork_ready_done(struct session *s, const struct err *failure)
{
	struct manager *m = s->m;

	if (failure)
		log_err(failure, "fork_ready: the layers of %.12s are not unpacked",
			digest_text(&s->row.head).text);
	else
		log_line("fork_ready: the layers of %.12s are unpacked",
			 digest_text(&s->row.head).text);
	cacher = NULL;
	session_free(s);
	loop_defer(&m->loop, next, m);
}

void
fork_ready_later(struct session *s)
{
	struct turn **end = &turns;

	if (!s->row.has_head || s->choices.throwaway || !node_stacks(&s->m->node) ||
	    !choices_fork_ready(&s->m->config, &s->choices))
		return;
	for (; *end; end = &(*end)->next)
		if (digest_equal(&(*end)->head, &s->row.head))
			return;
	*end = xnew(1, sizeof **end);
	(*end)->head = s->row.head;
	loop_defer(&s->m->loop, next, s->m);
}

void
fork_ready_begin(struct manager *m)
{
	for (struct session *s = m->sessions; s; s = s->next)
		if (s->state != SESSION_DELETED)
			fork_ready_later(s);
}

void
fork_ready_end(struct manager *m)
{
	(void)m;
	if (cacher)
		session_free(cacher);
	cacher = NULL;
	while (turns) {
		struct turn *t = turns;
		turns = t->next;
		free(t);
	}
}
