/* calls, call show */
#include "base/time.h"
#include "manager/do.h"

#include <stdio.h>

enum { CALLS_LISTED = 100, CALLS_LISTED_MAX = 100000 };

struct listing {
	struct buf *out;
	bool json, first;
};

void
do_call_json(struct buf *out, const struct call_row *r)
{
	char started[TIME_TEXT_BYTES], ended[TIME_TEXT_BYTES] = "";

	time_format(r->started_ns, started);
	if (r->ended_ns)
		time_format(r->ended_ns, ended);
	buf_fmt(out, "{\"call\":\"%s\",\"session\":\"%s\",\"principal\":", r->id, r->session);
	json_put(out, str_of(r->principal));
	buf_fmt(out, ",\"kind\":\"%s\",\"command\":", r->kind);
	json_put(out, str_of(r->command));
	buf_fmt(out,
		",\"started\":\"%s\",\"ended\":\"%s\",\"live\":%s,\"exit_status\":%u,\"signal\":%u",
		started, ended, r->ended_by[0] ? "false" : "true", r->exit_status, r->signal);
	buf_fmt(out, ",\"ended_by\":\"%s\",\"stdout_bytes\":%llu,\"stderr_bytes\":%llu",
		r->ended_by, (unsigned long long)r->out_bytes, (unsigned long long)r->err_bytes);
	buf_fmt(out,
		",\"wall_ns\":%llu,\"cpu_ns\":%llu,\"peak_bytes\":%llu,\"stdout_sha256\":\"%s\","
		"\"stderr_sha256\":\"%s\"",
		(unsigned long long)r->wall_ns, (unsigned long long)r->cpu_ns,
		(unsigned long long)r->peak_bytes, r->out_sha256, r->err_sha256);
	buf_fmt(out, ",\"cpu_by\":\"%s\"", index_cpu_by(r));
	if (r->limit_hit[0])
		buf_fmt(out, ",\"limit\":\"%s\"", r->limit_hit);
	buf_text(out, ",\"left_running\":[");
	struct str rest = str_of(r->left_running), line;
	bool first = true;
	while (rest.len && str_cut(&rest, '\n', &line)) {
		if (!line.len)
			continue;
		if (!first)
			buf_char(out, ',');
		json_put(out, line);
		first = false;
	}
	buf_text(out, "]}");
}

static void
exit_text(const struct call_row *r, char out[32])
{
	if (!r->ended_by[0])
		snprintf(out, 32, "live");
	else if (r->signal)
		snprintf(out, 32, "SIG%s",
			 sigabbrev_np((int)r->signal) ? sigabbrev_np((int)r->signal) : "?");
	else
		snprintf(out, 32, "%u", r->exit_status);
}

static int
list_one(void *ctx, const struct call_row *r, struct err *err)
{
	struct listing *l = ctx;
	char age[16], bytes[16], ended[32];

	(void)err;
	if (l->json) {
		buf_text(l->out, l->first ? "\n" : ",\n");
		do_call_json(l->out, r);
	} else {
		char command[61];
		age_format(r->started_ns, age);
		num_format_about(r->out_bytes + r->err_bytes, bytes);
		exit_text(r, ended);
		snprintf(command, sizeof command, "%.60s", r->command);
		for (char *p = command; *p; p++)
			if ((unsigned char)*p < 0x20 || *p == 0x7f)
				*p = ' ';
		buf_fmt(l->out, "%-18s %5s %8s %-8s %10s  %s\n", r->id, age, ended, r->ended_by,
			bytes, command);
	}
	l->first = false;
	return 0;
}

int
do_calls(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	 struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	struct listing l = {.out = &out, .json = r->json, .first = true};
	const uint64_t most = request_number(r, "limit", CALLS_LISTED);

	(void)c;
	keeper_read(s); /* what has ended is listed as ended */
	records_flush(m);
	if (r->json)
		buf_char(&out, '[');
	else
		buf_fmt(&out, "%-18s %5s %8s %-8s %10s  %s\n", "CALL", "AGE", "EXIT", "BY",
			"OUTPUT", "COMMAND");
	if (index_list_calls(&m->index, s->row.id,
			     (unsigned)(most < CALLS_LISTED_MAX ? most : CALLS_LISTED_MAX),
			     list_one, &l, err) < 0)
		return -1;
	if (r->json)
		buf_text(&out, l.first ? "]\n" : "\n]\n");
	return do_answer(asker, &out, err);
}

int
do_find_call(struct manager *m, const struct request *r, struct session *s, struct call_row *out,
	     struct err *err)
{
	struct str call = {NULL, 0};
	char id[ID_BYTES];

	request_text(r, "call", &call);
	if (str_copy(call, id, sizeof id, err) < 0)
		return -1;
	keeper_read(s);
	records_flush(m);
	const int got = index_find_call(&m->index, id, out, err);
	return got == 1 ? 0 : got < 0 ? -1 : err_set(err, ERR_ABSENT, "no such call");
}

int
do_call_show(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(65536);
	struct call_row row;
	char started[TIME_TEXT_BYTES], ended[32], bytes[2][16];

	(void)c;
	if (do_find_call(m, r, s, &row, err) < 0)
		return -1;
	if (r->json) {
		do_call_json(&out, &row);
		buf_char(&out, '\n');
	} else {
		time_format(row.started_ns, started);
		exit_text(&row, ended);
		num_format_about(row.out_bytes, bytes[0]);
		num_format_about(row.err_bytes, bytes[1]);
		buf_fmt(&out, "%-10s%s\n%-10s%s\n%-10s%s\n%-10s%s\n%-10s%s\n%-10s%s\n", "call",
			row.id, "session", s->row.name, "kind", row.kind, "command", row.command,
			"by", row.principal, "started", started);
		buf_fmt(&out, "%-10s%s%s%s\n", "exit", ended, row.ended_by[0] ? ", ended by " : "",
			row.ended_by);
		if (row.limit_hit[0])
			buf_fmt(&out, "%-10s%s\n", "limit", row.limit_hit);
		buf_fmt(&out, "%-10s%.3f s, cpu %.3f s%s\n", "wall", (double)row.wall_ns / 1e9,
			(double)row.cpu_ns / 1e9,
			strcmp(index_cpu_by(&row), "init") == 0 ? " (its init says)" : "");
		buf_fmt(&out, "%-10s%s, stderr %s\n", "stdout", bytes[0], bytes[1]);
		if (row.out_sha256[0])
			buf_fmt(&out, "%-10s%s stdout\n%-10s%s stderr\n", "sha256", row.out_sha256,
				"", row.err_sha256);
		if (row.left_running[0])
			buf_fmt(&out, "%-10s%s\n", "left", row.left_running);
	}
	return do_answer(asker, &out, err);
}
