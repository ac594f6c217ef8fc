/* Each start and end of a call is in the audit log exactly once, though the log and the index are two
 * files and the manager can be killed between their writes.
 *
 * The line is written first, within the index's transaction; the transaction then also puts down the
 * log's last line (the position). A record that is not in the index comes again, from the keeper or its
 * spool, after whatever kept it out; whether its line is there already is known from the lines behind the
 * position: they are read at start, and remembered here until a transaction with their record is
 * committed. A record that is in the index does not come here (records.c).
 *
 * The position stays before a line whose record is not in the index. One whose spool was lost in a
 * power cut would hold it for ever: what was read at start is forgotten after a while, in which every
 * keeper that lives has sent its records again. */
#include "audit.h"
#include "base/time.h"
#include "index/rows.h"

#include <stdio.h>
#include <stdlib.h>

#define COMES_AGAIN_NS (600 * NS_PER_S)

struct audit_seen {
	struct audit_seen *next;
	char call[ID_BYTES];
	bool end;
	uint64_t seq;
	bool committing; /* by the transaction that is open */
	bool old;        /* of an earlier manager */
};

static void
remember(struct audit *a, const char *call, bool end, uint64_t seq, bool old)
{
	struct audit_seen *s = xnew(1, sizeof *s);

	snprintf(s->call, sizeof s->call, "%s", call);
	s->end = end;
	s->seq = seq;
	s->old = old;
	s->committing = !old;
	s->next = a->seen;
	a->seen = s;
}

void
audit_calls_note(struct audit *a, const struct chain_line *l)
{
	const bool end = str_is(l->kind, "call_end");
	struct str rest = l->fields, call;
	char id[ID_BYTES];
	struct err ignored;

	if ((!end && !str_is(l->kind, "call_start")) || !str_starts(rest, "\"call\":\""))
		return;
	rest.at += sizeof "\"call\":\"" - 1;
	rest.len -= sizeof "\"call\":\"" - 1;
	if (str_cut(&rest, '"', &call) && str_copy(call, id, sizeof id, &ignored) == 0)
		remember(a, id, end, l->seq, true);
}

static int
write_start(struct audit *a, const struct call_row *r, const char *name, struct err *err)
{
	char at[TIME_TEXT_BYTES];

	time_format(r->started_ns, at);
	const struct audit_field fields[] = {
	    AUDIT_TEXT("call", r->id),        AUDIT_TEXT("session", r->session),
	    AUDIT_TEXT("name", name),         AUDIT_TEXT("principal", r->principal),
	    AUDIT_TEXT("subsystem", r->kind), AUDIT_TEXT("command", r->command),
	    AUDIT_TEXT("started", at),        {.key = NULL},
	};
	return audit_append(a, "call_start", fields, err);
}

static int
write_end(struct audit *a, const struct call_row *r, const char *name, struct err *err)
{
	char at[TIME_TEXT_BYTES];

	time_format(r->ended_ns, at);
	const struct audit_field fields[] = {
	    AUDIT_TEXT("call", r->id),
	    AUDIT_TEXT("session", r->session),
	    AUDIT_TEXT("name", name),
	    AUDIT_TEXT("principal", r->principal),
	    AUDIT_NUMBER("exit_status", r->exit_status),
	    AUDIT_NUMBER("signal", r->signal),
	    AUDIT_TEXT("ended_by", r->ended_by),
	    AUDIT_TEXT("limit", r->limit_hit),
	    AUDIT_TEXT("ended", at),
	    AUDIT_NUMBER("wall_ns", r->wall_ns),
	    AUDIT_NUMBER("cpu_ns", r->cpu_ns),
	    AUDIT_TEXT("cpu_by", index_cpu_by(r)),
	    AUDIT_NUMBER("peak_bytes", r->peak_bytes),
	    AUDIT_NUMBER("stdout_bytes", r->out_bytes),
	    AUDIT_NUMBER("stderr_bytes", r->err_bytes),
	    AUDIT_TEXT("stdout_sha256", r->out_sha256),
	    AUDIT_TEXT("stderr_sha256", r->err_sha256),
	    AUDIT_TEXT("left_running", r->left_running),
	    {.key = NULL},
	};
	return audit_append(a, "call_end", fields, err);
}

int
audit_call(struct audit *a, const struct call_row *row, const char *session_name, bool end,
	   struct err *err)
{
	for (struct audit_seen *s = a->seen; s; s = s->next)
		if (s->end == end && strcmp(s->call, row->id) == 0) {
			s->committing = true;
			return 0;
		}
	if ((end ? write_end(a, row, session_name, err) : write_start(a, row, session_name, err)) < 0)
		return -1;
	remember(a, row->id, end, a->chain.seq, false);
	return 0;
}

int
audit_calls_position(struct audit *a, uint64_t *out, struct err *err)
{
	uint64_t position = a->chain.seq;

	if (a->always && audit_sync(a, err) < 0)
		return -1;
	const bool all_came = time_now_ns() > a->opened_ns + COMES_AGAIN_NS;
	for (const struct audit_seen *s = a->seen; s; s = s->next)
		if (!s->committing && !(s->old && all_came) && s->seq <= position)
			position = s->seq - 1;
	*out = position;
	return 0;
}

void
audit_calls_committed(struct audit *a)
{
	const bool all_came = time_now_ns() > a->opened_ns + COMES_AGAIN_NS;

	for (struct audit_seen **at = &a->seen; *at;) {
		struct audit_seen *s = *at;
		if (!s->committing && !(s->old && all_came)) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		free(s);
	}
}

void
audit_calls_rolled_back(struct audit *a)
{
	for (struct audit_seen *s = a->seen; s; s = s->next)
		s->committing = false;
}

void
audit_calls_free(struct audit *a)
{
	while (a->seen) {
		struct audit_seen *s = a->seen;
		a->seen = s->next;
		free(s);
	}
}
