/* files and cat */
#include "content.h"
#include "lines.h"
#include "reads_print.h"

enum { PIECE_BYTES = 64 * 1024, LINE_MAX_BYTES = 8 * ENTRY_PATH_MAX_BYTES };

struct view *
reads_view(struct reads *r, size_t i, struct err *err)
{
	const struct reads_snapshot *s = &r->at[i];
	auto_of(view) struct view *v = view_new(&r->o, s->layers, s->n_layers, err);

	if (!v || (s->live && view_add_live(v, r->upper, err) < 0))
		return NULL;
	return steal(&v);
}

/* ---- files ---- */

static int
print_json(struct reads *r, struct view *v, const struct view_entry *e, bool first, struct err *err)
{
	auto_buf line = BUF_MAX(LINE_MAX_BYTES);
	struct view_entry file;

	buf_text(&line, first ? "\n{\"path\":" : ",\n{\"path\":");
	lines_json(&line, e->row.path);
	if (e->row.type == ENTRY_LINK) {
		buf_text(&line, ",\"same_file\":");
		lines_json(&line, e->row.link);
	}
	buf_text(&line, ",\"mtime\":\"");
	lines_time(&line, e->row.mtime_ns);
	if (view_resolve(v, e, &file, err) < 0)
		return -1;
	buf_fmt(&line, "\",\"type\":\"%s\",\"mode\":\"%04o\",\"uid\":%u,\"gid\":%u",
		lines_type(file.row.type), file.row.mode, file.row.uid, file.row.gid);
	if (file.row.type == ENTRY_FILE)
		buf_fmt(&line, ",\"size\":%llu", (unsigned long long)file.row.size);
	if (file.row.type == ENTRY_SYMLINK) {
		buf_text(&line, ",\"target\":");
		lines_json(&line, file.row.link);
	}
	buf_char(&line, '}');
	return pipe_out_buf(&r->out, &line, err);
}

static int
print_line(struct reads *r, struct view *v, const struct view_entry *e, struct err *err)
{
	auto_buf line = BUF_MAX(LINE_MAX_BYTES), name = BUF_MAX(LINE_MAX_BYTES);
	struct view_entry file;

	/* before the row's own texts are gone: what it leads to is asked of the same index */
	lines_path(&name, e->row.path.len ? e->row.path : STR_LIT("."));
	const int64_t mtime_ns = e->row.mtime_ns;
	if (view_resolve(v, e, &file, err) < 0)
		return -1;
	lines_mode(&line, file.row.type, file.row.mode);
	buf_fmt(&line, " %5u %5u %12llu ", file.row.uid, file.row.gid,
		(unsigned long long)(file.row.type == ENTRY_FILE ? file.row.size : 0));
	lines_time(&line, mtime_ns);
	buf_char(&line, ' ');
	buf_str(&line, buf_view(&name));
	if (file.row.type == ENTRY_DIR)
		buf_char(&line, '/');
	if (file.row.type == ENTRY_SYMLINK) {
		buf_text(&line, " -> ");
		lines_path(&line, file.row.link);
	}
	buf_char(&line, '\n');
	return pipe_out_buf(&r->out, &line, err);
}

static int
print(struct reads *r, struct view *v, const struct view_entry *e, bool first, struct err *err)
{
	return r->flags & READ_JSON ? print_json(r, v, e, first, err) : print_line(r, v, e, err);
}

static int
no_such(const struct reads *r, struct err *err)
{
	err_set(err, ERR_ABSENT, "no /%.*s in what the session has changed",
		(int)(r->path.len < 200 ? r->path.len : 200), r->path.len ? r->path.at : "");
	return err_hint(err, "paths begin at /, and what its image holds is not in a snapshot");
}

int
reads_files(struct reads *r, struct err *err)
{
	struct view_entry e;
	size_t n = 0;
	int more = 0;

	auto_of(view) struct view *v = reads_view(r, 0, err);
	const int got = v ? view_find(v, r->path, &e, err) : -1;
	if (got <= 0)
		return got < 0 ? -1 : no_such(r, err);
	if (r->flags & READ_JSON && pipe_out_text(&r->out, "[", err) < 0)
		return -1;
	if (e.row.type != ENTRY_DIR) {
		if (print(r, v, &e, n++ == 0, err) < 0)
			return -1;
	} else {
		auto_of(view_walk) struct view_walk *w =
		    view_walk_new(v, r->path, r->flags & READ_RECURSIVE, err);
		while (w && (more = view_walk_next(w, &e, err)) > 0)
			if (print(r, v, &e, n++ == 0, err) < 0)
				return -1;
		if (!w || more < 0)
			return -1;
	}
	return r->flags & READ_JSON ? pipe_out_text(&r->out, n ? "\n]\n" : "]\n", err) : 0;
}

/* ---- cat ---- */

int
reads_cat(struct reads *r, struct err *err)
{
	auto_free char *piece = xnew(1, PIECE_BYTES);
	uint64_t at = r->from, left = r->limit;
	struct view_entry e;
	size_t n = 1;

	auto_of(view) struct view *v = reads_view(r, 0, err);
	const int got = v ? view_find(v, r->path, &e, err) : -1;
	if (got <= 0)
		return got < 0 ? -1 : no_such(r, err);
	auto_of(content) struct content *c = content_open(v, &e, err);
	if (!c)
		return err_add(err, "/%.*s", (int)(r->path.len < 200 ? r->path.len : 200),
			       r->path.at);
	for (; n && left; at += n, left -= n) {
		const size_t most = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
		if (content_read(c, at, piece, most, &n, err) < 0 ||
		    pipe_out_put(&r->out, piece, n, err) < 0 || view_step(v, err) < 0)
			return -1;
	}
	return 0;
}
