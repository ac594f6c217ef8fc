#include "path_set.h"

#include <stdlib.h>

enum { NUMBERS_MAX = 1 << 28 };

void
path_set_init(struct path_set *s)
{
	*s = (struct path_set){.bytes = BUF_MAX((size_t)1 << 34)};
}

void
path_set_done(struct path_set *s)
{
	buf_free(&s->bytes);
	free(s->rows);
	free(s->table);
	*s = (struct path_set){0};
}

uint64_t
path_set_hash(struct str path)
{
	uint64_t h = 0xcbf29ce484222325ull; /* FNV-1a */

	for (size_t i = 0; i < path.len; i++)
		h = (h ^ (uint8_t)path.at[i]) * 0x100000001b3ull;
	return h ^ h >> 29;
}

struct str
path_set_at(const struct path_set *s, size_t number)
{
	return (struct str){s->bytes.at + s->rows[number].at, s->rows[number].len};
}

/* Where it is in the table, or would be. */
static size_t
place(const struct path_set *s, struct str path)
{
	size_t at = path_set_hash(path) & (s->table_cap - 1);

	while (s->table[at] && !str_equal(path_set_at(s, s->table[at] - 1), path))
		at = (at + 1) & (s->table_cap - 1);
	return at;
}

static int
no_memory(struct err *err)
{
	return err_set(err, ERR_UNAVAILABLE, "no memory for paths");
}

static int
grow(struct path_set *s, struct err *err)
{
	const size_t cap = s->cap ? 2 * s->cap : 256;
	struct path_set_row *rows = realloc(s->rows, cap * sizeof *rows);

	if (rows)
		s->rows = rows;
	uint32_t *table = rows ? try_new(4 * cap, sizeof *table) : NULL;
	if (!table || cap > NUMBERS_MAX) {
		free(table);
		return no_memory(err);
	}
	free(s->table);
	s->table = table;
	s->table_cap = 4 * cap;
	s->cap = cap;
	for (size_t i = 0; i < s->n; i++)
		s->table[place(s, path_set_at(s, i))] = (uint32_t)i + 1;
	return 0;
}

bool
path_set_find(const struct path_set *s, struct str path, size_t *out)
{
	const size_t at = s->n ? place(s, path) : 0;

	if (!s->n || !s->table[at])
		return false;
	*out = s->table[at] - 1;
	return true;
}

int
path_set_add(struct path_set *s, struct str path, size_t *out, struct err *err)
{
	if (path_set_find(s, path, out))
		return 0;
	if (s->n == s->cap && grow(s, err) < 0)
		return -1;
	const size_t at = s->bytes.len;
	buf_str(&s->bytes, path);
	if (buf_bad(&s->bytes))
		return no_memory(err);
	s->table[place(s, path)] = (uint32_t)s->n + 1;
	s->rows[s->n] = (struct path_set_row){at, path.len};
	*out = s->n++;
	return 0;
}
