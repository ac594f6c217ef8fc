/* diff: names, sizes, or a unified diff */
#include "content.h"
#include "diff.h"
#include "lines.h"
#include "reads_print.h"
#include "text_diff.h"

enum { LINE_MAX_BYTES = 8 * ENTRY_PATH_MAX_BYTES };

struct told {
	struct reads *r; /* lent */
	struct view *a, *b;
	uint64_t counts[DIFF_ATTRIBUTES + 1], more, less;
	bool any;
};

static const char letters[] = "ADTMP";

static void
put_size(struct buf *out, const struct diff_side *s)
{
	if (s->there && s->type == ENTRY_FILE)
		buf_fmt(out, " %12llu", (unsigned long long)s->size);
	else
		buf_fmt(out, " %12s", "-");
}

static void
put_side(struct buf *out, const char *key, const struct diff_side *s)
{
	if (!s->there)
		return;
	buf_fmt(out, ",\"%s\":{\"type\":\"%s\",\"mode\":\"%04o\",\"uid\":%u,\"gid\":%u", key,
		lines_type(s->type), s->mode, s->uid, s->gid);
	if (s->type == ENTRY_FILE)
		buf_fmt(out, ",\"size\":%llu", (unsigned long long)s->size);
	buf_text(out, ",\"mtime\":\"");
	lines_time(out, s->mtime_ns);
	buf_text(out, "\"}");
}

static int
tell_json(struct told *t, const struct diff_change *c, struct err *err)
{
	static const char *const names[] = {"added", "deleted", "type", "content", "attributes"};
	auto_buf line = BUF_MAX(LINE_MAX_BYTES);

	buf_fmt(&line, "%s{\"change\":\"%s\",\"path\":", t->any ? ",\n" : "\n", names[c->what]);
	lines_json(&line, c->path);
	put_side(&line, "a", &c->a);
	put_side(&line, "b", &c->b);
	buf_char(&line, '}');
	return pipe_out_buf(&t->r->out, &line, err);
}

static int
tell_line(struct told *t, const struct diff_change *c, struct err *err)
{
	auto_buf line = BUF_MAX(LINE_MAX_BYTES);

	buf_char(&line, letters[c->what]);
	if (t->r->flags & READ_STAT) {
		put_size(&line, &c->a);
		put_size(&line, &c->b);
	}
	buf_char(&line, ' ');
	lines_path(&line, c->path.len ? c->path : STR_LIT("."));
	if ((c->b.there ? c->b : c->a).type == ENTRY_DIR)
		buf_char(&line, '/');
	buf_char(&line, '\n');
	return pipe_out_buf(&t->r->out, &line, err);
}

/* ---- unified ---- */

/* The whole of a file, or a link's target; what is not there, or no such thing, is empty. False: no
 * text. */
static int
load(struct view *v, struct str path, const struct diff_side *s, bool *out_text, struct buf *out,
     struct err *err)
{
	struct view_entry e;
	size_t n = 1;

	*out_text = true;
	if (!s->there || s->type != ENTRY_FILE)
		return 0;
	*out_text = s->size <= TEXT_DIFF_MAX_BYTES;
	if (!*out_text)
		return 0;
	const int got = view_find(v, path, &e, err);
	if (got <= 0)
		return got < 0 ? -1 : err_set(err, ERR_AGAIN, "a file vanished meanwhile");
	auto_of(content) struct content *c = content_open(v, &e, err);
	if (!c)
		return -1;
	while (n && out->len < s->size) {
		char *room = buf_room(out, (size_t)(s->size - out->len));
		if (!room)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a file");
		if (content_read(c, out->len, room, (size_t)(s->size - out->len), &n, err) < 0)
			return -1;
		out->len += n;
	}
	*out_text = text_diff_is_text(buf_view(out));
	return 0;
}

static void
put_names(struct buf *out, const struct diff_change *c)
{
	buf_text(out, "--- ");
	if (c->a.there && c->a.type == ENTRY_FILE)
		lines_quoted(out, "a/", c->path);
	else
		buf_text(out, "/dev/null");
	buf_text(out, "\n+++ ");
	if (c->b.there && c->b.type == ENTRY_FILE)
		lines_quoted(out, "b/", c->path);
	else
		buf_text(out, "/dev/null");
	buf_char(out, '\n');
}

static bool
has_file(const struct diff_change *c)
{
	return (c->a.there && c->a.type == ENTRY_FILE) || (c->b.there && c->b.type == ENTRY_FILE);
}

static int
tell_unified(struct told *t, const struct diff_change *c, struct err *err)
{
	auto_buf a = BUF_MAX(TEXT_DIFF_MAX_BYTES + 1), b = BUF_MAX(TEXT_DIFF_MAX_BYTES + 1);
	auto_buf out = BUF_MAX(8 * (size_t)TEXT_DIFF_MAX_BYTES),
		 hunks = BUF_MAX(8 * (size_t)TEXT_DIFF_MAX_BYTES);
	bool text_a, text_b;

	if (!has_file(c) || c->what == DIFF_ATTRIBUTES) {
		buf_text(&out, "# ");
		return pipe_out_buf(&t->r->out, &out, err) < 0 ? -1 : tell_line(t, c, err);
	}
	if (load(t->a, c->path, &c->a, &text_a, &a, err) < 0 ||
	    load(t->b, c->path, &c->b, &text_b, &b, err) < 0)
		return -1;
	if (!text_a || !text_b) {
		buf_text(&out, "Binary files ");
		lines_quoted(&out, "a/", c->path);
		buf_text(&out, " and ");
		lines_quoted(&out, "b/", c->path);
		buf_text(&out, " differ\n");
		return pipe_out_buf(&t->r->out, &out, err);
	}
	if (text_diff(buf_view(&a), buf_view(&b), &hunks, err) < 0)
		return -1;
	put_names(&out, c);
	buf_str(&out, buf_view(&hunks));
	return pipe_out_buf(&t->r->out, &out, err);
}

/* ---- all ---- */

static int
tell(void *ctx, const struct diff_change *c, struct err *err)
{
	struct told *t = ctx;

	t->counts[c->what]++;
	if (c->b.size > c->a.size)
		t->more += c->b.size - c->a.size;
	else
		t->less += c->a.size - c->b.size;
	const int said = t->r->flags & READ_JSON      ? tell_json(t, c, err)
			 : t->r->flags & READ_UNIFIED ? tell_unified(t, c, err)
						      : tell_line(t, c, err);
	t->any = true;
	return said;
}

static int
tell_sums(struct told *t, struct err *err)
{
	auto_buf line = BUF_MAX(512);

	buf_fmt(
	    &line,
	    "%llu added, %llu deleted, %llu of another type, %llu of other content, %llu of other "
	    "owner or mode; %llu bytes more, %llu less\n",
	    (unsigned long long)t->counts[DIFF_ADDED], (unsigned long long)t->counts[DIFF_DELETED],
	    (unsigned long long)t->counts[DIFF_TYPE], (unsigned long long)t->counts[DIFF_CONTENT],
	    (unsigned long long)t->counts[DIFF_ATTRIBUTES], (unsigned long long)t->more,
	    (unsigned long long)t->less);
	return pipe_out_buf(&t->r->out, &line, err);
}

int
reads_diff(struct reads *r, struct err *err)
{
	auto_of(view) struct view *a = reads_view(r, 0, err);
	if (!a)
		return -1;
	auto_of(view) struct view *b = reads_view(r, 1, err);
	if (!b)
		return -1;
	/* what is read while the comparison goes on is read by views of its own */
	const bool reads = r->flags & READ_UNIFIED;
	auto_of(view) struct view *a2 = reads ? reads_view(r, 0, err) : NULL;
	if (reads && !a2)
		return -1;
	auto_of(view) struct view *b2 = reads ? reads_view(r, 1, err) : NULL;
	if (reads && !b2)
		return -1;
	struct told t = {.r = r, .a = a2, .b = b2};
	if (r->flags & READ_JSON && pipe_out_text(&r->out, "[", err) < 0)
		return -1;
	if (diff_views(a, b, tell, &t, err) < 0)
		return -1;
	if (r->flags & READ_JSON)
		return pipe_out_text(&r->out, t.any ? "\n]\n" : "]\n", err);
	return r->flags & READ_STAT ? tell_sums(&t, err) : 0;
}
