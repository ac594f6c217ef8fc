/* snapshots */
#include "base/time.h"
#include "manager/do.h"

#include <stdio.h>

struct listing {
	struct buf *out;
	const struct session *s;
	bool json, first;
};

static int
list_json(struct listing *l, const struct snapshot_row *r)
{
	char made[TIME_TEXT_BYTES];

	time_format(r->created_ns, made);
	buf_fmt(l->out, "%s{\"snapshot\":\"sha256:%s\"", l->first ? "\n" : ",\n",
		digest_text(&r->digest).text);
	if (r->has_parent)
		buf_fmt(l->out, ",\"parent\":\"sha256:%s\"", digest_text(&r->parent).text);
	buf_text(l->out, ",\"name\":");
	json_put(l->out, str_of(r->name));
	buf_text(l->out, ",\"note\":");
	json_put(l->out, str_of(r->note));
	buf_text(l->out, ",\"made_by\":");
	json_put(l->out, str_of(r->made_by));
	buf_fmt(l->out, ",\"created\":\"%s\",\"bytes\":%llu,\"total_bytes\":%llu,\"head\":%s}",
		made, (unsigned long long)r->bytes, (unsigned long long)r->total_bytes,
		l->s->row.has_head && digest_equal(&l->s->row.head, &r->digest) ? "true" : "false");
	return 0;
}

static int
list_one(void *ctx, const struct snapshot_row *r, struct err *err)
{
	struct listing *l = ctx;
	char own[16], total[16], age[16];

	(void)err;
	if (l->json) {
		list_json(l, r);
	} else {
		size_format(r->bytes, own);
		size_format(r->total_bytes, total);
		age_format(r->created_ns, age);
		const bool head = l->s->row.has_head && digest_equal(&l->s->row.head, &r->digest);
		buf_fmt(l->out, "%-12.12s %c %-12.12s %10s %10s %5s  %s%s%s\n",
			digest_text(&r->digest).text, head ? '*' : ' ',
			r->has_parent ? digest_text(&r->parent).text : "-", own, total, age,
			r->made_by, r->note[0] ? ": " : "", r->note);
	}
	l->first = false;
	return 0;
}

int
do_snapshots(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	struct listing l = {.out = &out, .s = s, .json = r->json, .first = true};

	(void)c;
	if (r->json)
		buf_char(&out, '[');
	else
		buf_fmt(&out, "%-12s   %-12s %10s %10s %5s  %s\n", "SNAPSHOT", "PARENT", "SIZE",
			"TOTAL", "AGE", "MADE BY");
	if (index_list_snapshots(&m->index, s->row.id, list_one, &l, err) < 0)
		return -1;
	if (r->json)
		buf_text(&out, l.first ? "]\n" : "\n]\n");
	return do_answer(asker, &out, err);
}
