/* gc: begins a collection, and says what went, or would go */
#include "manager/collect_plan.h"
#include "manager/collector.h"
#include "manager/do.h"

#include <stdio.h>

enum { TOLD_MAX = 20000 }; /* things that an answer names one by one */

int
do_gc(struct manager *m, struct conn *c, const struct request *r, struct session *s,
      struct asker *asker, struct err *err)
{
	(void)c;
	(void)s;
	return collector_run(m, asker, request_flag(r, "dry-run"), err);
}

static const char *
word(enum gone_kind k)
{
	static const char *const words[] = {"snapshot", "session",      "blob",
					    "ref",      "cached layer", "upper"};
	return words[k];
}

static void
put_json(struct buf *out, const struct gone *g)
{
	buf_fmt(out, "{\"kind\":\"%s\"", word(g->kind));
	if (g->kind != GONE_SESSION && g->kind != GONE_UPPER)
		buf_fmt(out, ",\"digest\":\"sha256:%s\"", digest_text(&g->digest).text);
	if (g->session[0])
		buf_fmt(out, ",\"id\":\"%s\",\"session\":\"%s\"", g->session, g->name);
	if (g->kind == GONE_UPPER)
		buf_fmt(out, ",\"upper\":%u", g->upper);
	buf_fmt(out, ",\"bytes\":%llu,\"why\":\"%s\"}", (unsigned long long)g->bytes, g->why);
}

static void
put_text(struct buf *out, const struct gone *g)
{
	char size[16] = "";

	if (g->bytes)
		num_format_about(g->bytes, size);
	buf_fmt(out, "%-13s ", word(g->kind));
	if (g->kind == GONE_SESSION)
		buf_fmt(out, "%-24s", g->name);
	else if (g->kind == GONE_UPPER)
		buf_fmt(out, "%u of %-19s", g->upper, g->name);
	else
		buf_fmt(out, "%-12.12s%s%-12.12s", digest_text(&g->digest).text,
			g->name[0] ? " of " : "    ", g->name);
	buf_fmt(out, " %10s  %s\n", size, g->why);
}

void
do_gc_answer(struct asker *asker, const struct collect_plan *p, uint64_t freed_bytes)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	const size_t told = p->n_gone < TOLD_MAX ? p->n_gone : TOLD_MAX;
	const uint64_t bytes = p->dry ? p->bytes : freed_bytes;
	char size[16];
	struct err err;

	if (asker->json)
		buf_fmt(&out,
			"{\"dry_run\":%s,\"bytes\":%llu,\"count\":%zu,\"unsure\":%zu,\"gone\":[",
			p->dry ? "true" : "false", (unsigned long long)bytes, p->n_gone, p->unsure);
	for (size_t i = 0; i < told; i++) {
		if (!asker->json) {
			put_text(&out, &p->gone[i]);
			continue;
		}
		buf_text(&out, i ? ",\n" : "\n");
		put_json(&out, &p->gone[i]);
	}
	num_format_about(bytes, size);
	if (asker->json) {
		buf_text(&out, "]}\n");
	} else {
		if (p->n_gone > told)
			buf_fmt(&out, "and %zu more\n", p->n_gone - told);
		if (p->unsure)
			buf_fmt(&out,
				"blobs are left alone: %zu snapshots, such as %.12s, lack what "
				"names their config (run: ssh berth@HOST verify --repair)\n",
				p->unsure, digest_text(&p->unsure_of).text);
		buf_fmt(&out, "%s%s\n", size,
			p->dry ? " of the store and the cache would go" : " freed");
	}
	if (do_answer(asker, &out, &err) < 0) {
		err_what(&err, "gc");
		asker_end(asker, &err);
	}
}
