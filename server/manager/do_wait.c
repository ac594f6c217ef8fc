/* call wait: answered when the call's end is in the index, by whatever way it came there: from its
 * keeper, from a spool without one, or as lost. */
#include "base/time.h"
#include "manager/do.h"

#include <stdlib.h>

struct wait {
	struct wait *next;
	struct asker asker;
	char call[ID_BYTES], session[ID_BYTES];
	struct timer deadline; /* not set: it waits for as long as it takes */
};

static struct wait *waits; /* one for each verb under way */

static void
take_out(struct wait *w)
{
	for (struct wait **at = &waits; *at; at = &(*at)->next)
		if (*at == w) {
			*at = w->next;
			break;
		}
	timer_cancel(&w->deadline);
}

static void
fail(struct asker *a, enum err_code code, const char *call, const char *why)
{
	struct err err;

	err_set(&err, code, "%s", why);
	err_hint(&err, "look at it: ssh berth@HOST call show %s", call);
	err_what(&err, "call wait");
	asker_end(a, &err);
}

static void
on_deadline(void *ctx)
{
	struct wait *w = ctx;

	take_out(w);
	fail(&w->asker, ERR_TIMEOUT, w->call, "it runs still");
	free(w);
}

/* The call's end as the verb's own. */
static void
answer(struct asker *a, const struct call_row *row)
{
	auto_buf out = BUF_MAX(65536);
	struct err err;

	if (a->json) {
		do_call_json(&out, row);
		buf_char(&out, '\n');
		asker_print(a, buf_view(&out));
	} else if (str_is(str_of(row->ended_by), "lost") && !row->signal && !row->exit_status) {
		fail(a, ERR_UNAVAILABLE, row->id, "lost: a crash has cut it");
		return;
	} else if (a->conn) { /* what cannot be sent is found out by the next */
		(void)!wire_send(&a->conn->wire, verb_exit, &err, .seq = a->seq,
				 .exit_status = row->exit_status, .signal = row->signal);
	}
	asker_end(a, NULL);
}

int
do_call_wait(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err)
{
	struct call_row row;
	const uint64_t most_ns = request_number(r, "timeout", 0);

	(void)c;
	if (do_find_call(m, r, s, &row, err) < 0)
		return -1;
	if (row.ended_by[0]) {
		answer(asker, &row);
		return 0;
	}
	struct wait *w = xnew(1, sizeof *w);
	*w = (struct wait){.next = waits, .asker = *asker};
	memcpy(w->call, row.id, sizeof w->call);
	memcpy(w->session, s->row.id, sizeof w->session);
	waits = w;
	if (most_ns)
		timer_set(&m->loop, &w->deadline, time_now_ns() + most_ns, on_deadline, w);
	return 0;
}

void
do_wait_told(struct manager *m, const char *session)
{
	struct call_row row;
	struct err err;

	for (struct wait *w = waits; w;) {
		if (strcmp(w->session, session) != 0) {
			w = w->next;
			continue;
		}
		const int got = index_find_call(&m->index, w->call, &row, &err);
		if (got == 1 && !row.ended_by[0]) {
			w = w->next;
			continue;
		}
		take_out(w);
		if (got == 1)
			answer(&w->asker, &row);
		else
			fail(&w->asker, ERR_ABSENT, w->call, "no such call any more");
		free(w);
		w = waits; /* an answer that cuts its conn takes out others of that */
	}
}

void
do_wait_forget(const struct conn *c, const uint32_t *seq)
{
	for (struct wait *w = waits, *next; w; w = next) {
		next = w->next;
		if (w->asker.conn != c || (seq && w->asker.seq != *seq))
			continue;
		take_out(w);
		asker_forget(&w->asker);
		free(w);
	}
}
