/* find: each path with what became of it */
#include "lines.h"
#include "reads_print.h"

enum { LINE_MAX_BYTES = 8 * ENTRY_PATH_MAX_BYTES };

struct told {
	struct reads *r; /* lent */
	bool any;
};

static const char *const words[] = {"appeared", "changed", "vanished"};

static void
put_time(struct buf *out, uint64_t ns)
{
	lines_time(out, ns > INT64_MAX ? INT64_MAX : (int64_t)ns);
}

static int
tell_json(struct told *t, const struct find_path *p, struct err *err)
{
	const struct reads_snapshot *s = t->r->at;
	auto_buf out = BUF_MAX(LINE_MAX_BYTES + (size_t)READ_VIEWS_MAX * 300);

	buf_fmt(&out, "%s{\"path\":", t->any ? ",\n" : "\n");
	lines_json(&out, p->path);
	buf_text(&out, ",\"changes\":[");
	for (size_t i = 0; i < p->n_changes; i++) {
		const struct find_change *c = &p->changes[i];
		buf_fmt(&out, "%s{\"snapshot\":\"sha256:%s\",\"created\":\"", i ? "," : "",
			digest_text(&s[c->snapshot].digest).text);
		put_time(&out, s[c->snapshot].created_ns);
		buf_fmt(&out, "\",\"change\":\"%s\",\"type\":\"%s\",\"size\":%llu}", words[c->what],
			lines_type(c->type), (unsigned long long)c->size);
	}
	buf_text(&out, "],\"held_by\":[");
	bool first = true;
	for (size_t i = 0; i < t->r->n; i++) {
		if (!p->held[i])
			continue;
		buf_fmt(&out, "%s\"sha256:%s\"", first ? "" : ",", digest_text(&s[i].digest).text);
		first = false;
	}
	buf_text(&out, "]}");
	return pipe_out_buf(&t->r->out, &out, err);
}

static int
tell_lines(struct told *t, const struct find_path *p, struct err *err)
{
	for (size_t i = 0; i < p->n_changes; i++) {
		const struct find_change *c = &p->changes[i];
		const struct reads_snapshot *s = &t->r->at[c->snapshot];
		auto_buf line = BUF_MAX(LINE_MAX_BYTES);
		buf_fmt(&line, "%.12s ", digest_text(&s->digest).text);
		put_time(&line, s->created_ns);
		buf_fmt(&line, " %-8s %12llu ", words[c->what], (unsigned long long)c->size);
		lines_path(&line, p->path);
		if (c->type == ENTRY_DIR)
			buf_char(&line, '/');
		buf_char(&line, '\n');
		if (pipe_out_buf(&t->r->out, &line, err) < 0)
			return -1;
	}
	return 0;
}

static int
tell(void *ctx, const struct find_path *p, struct err *err)
{
	struct told *t = ctx;
	const int said = t->r->flags & READ_JSON ? tell_json(t, p, err) : tell_lines(t, p, err);

	t->any = true;
	return said;
}

int
reads_find(struct reads *r, struct err *err)
{
	auto_free struct find_snapshot *s = xnew(r->n + 1, sizeof *s);
	struct told t = {.r = r};

	for (size_t i = 0; i < r->n; i++)
		s[i] = (struct find_snapshot){r->at[i].layers, r->at[i].n_layers, r->at[i].parent};
	if (r->flags & READ_JSON && pipe_out_text(&r->out, "[", err) < 0)
		return -1;
	if (find_paths(&r->o, r->path, s, r->n, tell, &t, err) < 0)
		return -1;
	return r->flags & READ_JSON ? pipe_out_text(&r->out, t.any ? "\n]\n" : "]\n", err) : 0;
}
