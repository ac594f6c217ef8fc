#include "links.h"

#include <stdlib.h>

void
links_init(struct links *l)
{
	*l = (struct links){.paths = BUF_MAX((size_t)1 << 32)};
}

void
links_done(struct links *l)
{
	free(l->rows);
	buf_free(&l->paths);
	*l = (struct links){0};
}

static struct link_row *
place(struct link_row *rows, size_t cap, uint64_t ino)
{
	size_t i = (size_t)(ino * 0x9e3779b97f4a7c15ull) & (cap - 1);

	while (rows[i].ino && rows[i].ino != ino)
		i = (i + 1) & (cap - 1);
	return &rows[i];
}

const char *
links_find(const struct links *l, uint64_t ino)
{
	if (!l->cap)
		return NULL;
	const struct link_row *r = place(l->rows, l->cap, ino);
	return r->ino ? l->paths.at + r->at : NULL;
}

static int
grow(struct links *l, struct err *err)
{
	const size_t cap = l->cap ? l->cap * 2 : 64;
	struct link_row *rows = try_new(cap, sizeof *rows);

	if (!rows)
		return err_set(err, ERR_UNAVAILABLE, "no memory for hard links");
	for (size_t i = 0; i < l->cap; i++)
		if (l->rows[i].ino)
			*place(rows, cap, l->rows[i].ino) = l->rows[i];
	free(l->rows);
	l->rows = rows;
	l->cap = cap;
	return 0;
}

int
links_add(struct links *l, uint64_t ino, struct str path, struct err *err)
{
	if (2 * (l->n + 1) > l->cap && grow(l, err) < 0)
		return -1;
	struct link_row *r = place(l->rows, l->cap, ino);
	if (!r->ino)
		l->n++;
	*r = (struct link_row){ino, l->paths.len};
	buf_str(&l->paths, path);
	buf_add(&l->paths, "", 1);
	return buf_bad(&l->paths) ? err_set(err, ERR_UNAVAILABLE, "no memory for hard links") : 0;
}
