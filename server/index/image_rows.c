#include "image_rows.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>

static int
failed(struct index *ix, struct err *err)
{
	const int code = sqlite3_errcode(ix->db) & 0xff;
	return err_set(err, code == SQLITE_FULL ? ERR_NO_SPACE : ERR_INTERNAL, "index.db: %s",
		       sqlite3_errmsg(ix->db));
}

static sqlite3_stmt *
prepare(struct index *ix, const char *sql, const char *text, struct err *err)
{
	sqlite3_stmt *st = NULL;

	if (sqlite3_prepare_v2(ix->db, sql, -1, &st, NULL) == SQLITE_OK &&
	    (!text || sqlite3_bind_text(st, 1, text, -1, SQLITE_TRANSIENT) == SQLITE_OK))
		return st;
	failed(ix, err);
	sqlite3_finalize(st);
	return NULL;
}

/* Runs a statement that yields no rows, and frees it. */
static int
finish(struct index *ix, sqlite3_stmt *take_st, struct err *err)
{
	const int result = sqlite3_step(take_st) == SQLITE_DONE ? 0 : failed(ix, err);
	sqlite3_finalize(take_st);
	return result;
}

static int
run(struct index *ix, const char *sql, const char *text, struct err *err)
{
	sqlite3_stmt *st = prepare(ix, sql, text, err);
	return st ? finish(ix, st, err) : -1;
}

int
image_rows_put(struct index *ix, const struct image_row *r, struct err *err)
{
	sqlite3_stmt *st =
	    prepare(ix, "INSERT OR IGNORE INTO images VALUES(?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11)",
		    r->content, err);
	if (!st)
		return -1;
	sqlite3_bind_blob64(st, 2, r->layers, r->n_layers * sizeof *r->layers, SQLITE_TRANSIENT);
	sqlite3_bind_blob64(st, 3, r->env, r->env_bytes, SQLITE_TRANSIENT);
	sqlite3_bind_text(st, 4, r->cwd, -1, SQLITE_TRANSIENT);
	sqlite3_bind_text(st, 5, r->user, -1, SQLITE_TRANSIENT);
	sqlite3_bind_text(st, 6, r->home, -1, SQLITE_TRANSIENT);
	const uint64_t numbers[] = {r->uid, r->gid, r->bytes, r->entries, r->dropped};
	for (int i = 0; i < 5; i++)
		sqlite3_bind_int64(st, 7 + i, (sqlite3_int64)numbers[i]);
	if (finish(ix, st, err) < 0)
		return -1;
	st = prepare(ix, "INSERT OR REPLACE INTO image_names VALUES(?1,?2,?3)", r->name, err);
	if (!st)
		return -1;
	sqlite3_bind_text(st, 2, r->content, -1, SQLITE_TRANSIENT);
	sqlite3_bind_int64(st, 3, (sqlite3_int64)r->created_ns);
	return finish(ix, st, err);
}

static void
text_at(sqlite3_stmt *st, int column, char *out, size_t size)
{
	const unsigned char *s = sqlite3_column_text(st, column);
	snprintf(out, size, "%s", s ? (const char *)s : "");
}

static int
bytes_at(sqlite3_stmt *st, int column, void *out, size_t size, size_t *n, struct err *err)
{
	*n = (size_t)sqlite3_column_bytes(st, column);
	if (*n > size)
		return err_set(err, ERR_CORRUPT, "index.db: an image with %zu bytes", *n);
	if (*n)
		memcpy(out, sqlite3_column_blob(st, column), *n);
	return 0;
}

#define COLUMNS                                                                                    \
	"SELECT i.content,n.name,i.layers,i.env,i.cwd,i.user,i.home,i.uid,i.gid,i.bytes,"          \
	"i.entries,i.dropped,n.created_ns FROM images i LEFT JOIN image_names n USING(content) "

static int
read_row(sqlite3_stmt *st, struct image_row *r, struct err *err)
{
	size_t bytes;

	*r = (struct image_row){0};
	text_at(st, 0, r->content, sizeof r->content);
	text_at(st, 1, r->name, sizeof r->name);
	if (bytes_at(st, 2, r->layers, sizeof r->layers, &bytes, err) < 0 ||
	    bytes_at(st, 3, r->env, sizeof r->env, &r->env_bytes, err) < 0)
		return -1;
	r->n_layers = bytes / sizeof *r->layers;
	text_at(st, 4, r->cwd, sizeof r->cwd);
	text_at(st, 5, r->user, sizeof r->user);
	text_at(st, 6, r->home, sizeof r->home);
	r->uid = (unsigned)sqlite3_column_int64(st, 7);
	r->gid = (unsigned)sqlite3_column_int64(st, 8);
	r->bytes = (uint64_t)sqlite3_column_int64(st, 9);
	r->entries = (uint64_t)sqlite3_column_int64(st, 10);
	r->dropped = (uint64_t)sqlite3_column_int64(st, 11);
	r->created_ns = (uint64_t)sqlite3_column_int64(st, 12);
	return 0;
}

int
image_rows_find(struct index *ix, const char *ref, struct image_row *out, struct err *err)
{
	const bool by_content = strncmp(ref, "image:", 6) == 0;
	sqlite3_stmt *st = prepare(
	    ix, by_content ? COLUMNS "WHERE i.content=?1 LIMIT 1" : COLUMNS "WHERE n.name=?1", ref,
	    err);
	if (!st)
		return -1;
	const int step = sqlite3_step(st);
	int result = step == SQLITE_ROW ? 1 : step == SQLITE_DONE ? 0 : failed(ix, err);
	if (result == 1 && read_row(st, out, err) < 0)
		result = -1;
	sqlite3_finalize(st);
	return result;
}

int
image_rows_list(struct index *ix, image_row_fn fn, void *ctx, struct err *err)
{
	sqlite3_stmt *st = prepare(ix, COLUMNS "ORDER BY n.name IS NULL, n.name", NULL, err);
	struct image_row *r = st ? xnew(1, sizeof *r) : NULL;
	int step = SQLITE_DONE, result = st ? 0 : -1;

	while (result == 0 && (step = sqlite3_step(st)) == SQLITE_ROW)
		result = read_row(st, r, err) < 0 ? -1 : fn(ctx, r, err);
	if (result == 0 && st && step != SQLITE_DONE)
		result = failed(ix, err);
	sqlite3_finalize(st);
	free(r);
	return result;
}

int
image_rows_drop_name(struct index *ix, const char *name, struct err *err)
{
	return run(ix, "DELETE FROM image_names WHERE name=?1", name, err);
}

int
image_rows_drop(struct index *ix, const char *content, struct err *err)
{
	return run(ix, "DELETE FROM images WHERE content=?1", content, err);
}
