/* Myers, "An O(ND) Difference Algorithm and Its Variations" (1986): the greedy one, with its
 * furthest points of each step kept to walk back. */
#include "text_diff.h"

#include <stdlib.h>

enum { CONTEXT = 3, LOOK_BYTES = 8192 };

struct lines {
	struct str *at; /* owned; each with its newline, where it has one */
	size_t n;
};

enum edit { KEEP, DELETE, INSERT };

struct script {
	uint8_t *at; /* owned: enum edit */
	size_t n, cap;
};

struct texts {
	struct lines a, b;
	struct script script;
	int *points; /* owned: furthest x of each diagonal, one row a step */
};

bool
text_diff_is_text(struct str bytes)
{
	const size_t n = bytes.len < LOOK_BYTES ? bytes.len : LOOK_BYTES;
	return bytes.len <= TEXT_DIFF_MAX_BYTES && (n == 0 || !memchr(bytes.at, '\0', n));
}

static int
no_memory(struct err *err)
{
	return err_set(err, ERR_UNAVAILABLE, "no memory to compare texts");
}

static int
split(struct str text, struct lines *out, struct err *err)
{
	size_t n = text.len > 0 && text.at[text.len - 1] != '\n';

	for (size_t i = 0; i < text.len; i++)
		n += text.at[i] == '\n';
	if (n > TEXT_DIFF_LINES_MAX)
		return err_set(err, ERR_USAGE, "more than %d lines", TEXT_DIFF_LINES_MAX);
	out->at = try_new(n + 1, sizeof *out->at);
	if (!out->at)
		return no_memory(err);
	while (text.len) {
		const char *end = memchr(text.at, '\n', text.len);
		const size_t len = end ? (size_t)(end - text.at) + 1 : text.len;
		out->at[out->n++] = (struct str){text.at, len};
		text.at += len;
		text.len -= len;
	}
	return 0;
}

/* ---- the shortest script ---- */

static void
put_edit(struct script *s, enum edit e, size_t n)
{
	for (; n; n--)
		s->at[s->n++] = (uint8_t)e;
}

/* The row of step d has the diagonals -d, -d+2, … d. */
static int *
row_of(const struct texts *t, int d)
{
	return t->points + (size_t)d * ((size_t)d + 1) / 2;
}

static int
furthest(const struct texts *t, int d, int k)
{
	return row_of(t, d)[(k + d) / 2];
}

/* Whether diagonal k of step d is reached by an insertion, and from which x. */
static bool
from_above(const struct texts *t, int d, int k, int *x)
{
	const int left = k > -d ? furthest(t, d - 1, k - 1) : -1;
	const int above = k < d ? furthest(t, d - 1, k + 1) : -1;
	const bool down = k == -d || (k != d && left < above);

	*x = down ? above : left + 1;
	return down;
}

/* The step at which (n, m) is reached; -1: not within the steps allowed. */
static int
find_steps(struct texts *t, const struct str *a, int n, const struct str *b, int m)
{
	for (int d = 0; d <= TEXT_DIFF_STEPS_MAX; d++)
		for (int k = -d; k <= d; k += 2) {
			int x = 0;
			if (d)
				from_above(t, d, k, &x);
			while (x < n && x - k < m && x - k >= 0 && str_equal(a[x], b[x - k]))
				x++;
			row_of(t, d)[(k + d) / 2] = x;
			if (x >= n && x - k >= m)
				return d;
		}
	return -1;
}

/* Edits of the middle, written from its end to its beginning. */
static void
walk_back(const struct texts *t, int d, int n, int m, struct script *out)
{
	int x = n, y = m;

	for (; d > 0; d--) {
		const int k = x - y;
		int start;
		const bool down = from_above(t, d, k, &start);
		put_edit(out, KEEP, (size_t)(x - start));
		put_edit(out, down ? INSERT : DELETE, 1);
		x = down ? start : start - 1;
		y = x - (down ? k + 1 : k - 1);
	}
	put_edit(out, KEEP, (size_t)x);
}

static void
reverse(uint8_t *at, size_t n)
{
	for (size_t i = 0; i < n / 2; i++) {
		const uint8_t e = at[i];
		at[i] = at[n - 1 - i];
		at[n - 1 - i] = e;
	}
}

static int
find_script(struct texts *t, struct err *err)
{
	const struct lines *a = &t->a, *b = &t->b;
	const size_t least = a->n < b->n ? a->n : b->n;
	size_t front = 0, back = 0;

	while (front < least && str_equal(a->at[front], b->at[front]))
		front++;
	while (back < least - front && str_equal(a->at[a->n - 1 - back], b->at[b->n - 1 - back]))
		back++;
	const size_t n = a->n - front - back, m = b->n - front - back;
	const size_t steps = n + m < TEXT_DIFF_STEPS_MAX ? n + m : TEXT_DIFF_STEPS_MAX;
	t->script.at = try_new(a->n + b->n + 1, 1);
	t->points = try_new((steps + 1) * (steps + 2) / 2 + 1, sizeof *t->points);
	if (!t->script.at || !t->points)
		return no_memory(err);
	put_edit(&t->script, KEEP, front);
	const size_t middle = t->script.n;
	const int d = find_steps(t, a->at + front, (int)n, b->at + front, (int)m);
	if (d < 0) {
		put_edit(&t->script, DELETE, n);
		put_edit(&t->script, INSERT, m);
	} else {
		walk_back(t, d, (int)n, (int)m, &t->script);
		reverse(t->script.at + middle, t->script.n - middle);
	}
	put_edit(&t->script, KEEP, back);
	return 0;
}

/* ---- hunks ---- */

struct hunk {
	size_t from, to; /* in the script */
	size_t a, b;     /* lines before it */
	size_t a_n, b_n;
};

static void
put_line(struct buf *out, char sign, struct str line)
{
	buf_char(out, sign);
	buf_str(out, line);
	if (line.len == 0 || line.at[line.len - 1] != '\n')
		buf_text(out, "\n\\ No newline at end of file\n");
}

static void
put_range(struct buf *out, char sign, size_t before, size_t n)
{
	buf_fmt(out, " %c%zu", sign, n ? before + 1 : before);
	if (n != 1)
		buf_fmt(out, ",%zu", n);
}

static void
put_hunk(const struct texts *t, const struct hunk *h, struct buf *out)
{
	size_t a = h->a, b = h->b;

	buf_text(out, "@@");
	put_range(out, '-', h->a, h->a_n);
	put_range(out, '+', h->b, h->b_n);
	buf_text(out, " @@\n");
	for (size_t i = h->from; i < h->to; i++)
		switch ((enum edit)t->script.at[i]) {
		case KEEP:
			put_line(out, ' ', t->a.at[a++]);
			b++;
			break;
		case DELETE:
			put_line(out, '-', t->a.at[a++]);
			break;
		case INSERT:
			put_line(out, '+', t->b.at[b++]);
			break;
		}
}

/* Where the hunk ends that has a change at `i`: after which as many kept lines follow as two
 * contexts. */
static size_t
end_of_hunk(const struct script *s, size_t i)
{
	size_t end = i, kept = 0;

	for (; i < s->n && kept <= 2 * CONTEXT; i++) {
		kept = s->at[i] == KEEP ? kept + 1 : 0;
		if (!kept)
			end = i + 1;
	}
	return end + CONTEXT < s->n ? end + CONTEXT : s->n;
}

static void
put_hunks(const struct texts *t, struct buf *out)
{
	const struct script *s = &t->script;
	size_t a = 0, b = 0;

	for (size_t i = 0; i < s->n;) {
		if (s->at[i] == KEEP) {
			i++, a++, b++;
			continue;
		}
		size_t context = 0;
		while (context < CONTEXT && context < i && s->at[i - context - 1] == KEEP)
			context++;
		struct hunk h = {.from = i - context,
				 .to = end_of_hunk(s, i),
				 .a = a - context,
				 .b = b - context,
				 .a_n = context,
				 .b_n = context};
		for (; i < h.to; i++) {
			const bool in_a = s->at[i] != INSERT, in_b = s->at[i] != DELETE;
			a += in_a;
			b += in_b;
			h.a_n += in_a;
			h.b_n += in_b;
		}
		put_hunk(t, &h, out);
	}
}

int
text_diff(struct str a, struct str b, struct buf *out, struct err *err)
{
	struct texts t = {0};

	int result = str_equal(a, b) ? 1 : split(a, &t.a, err);
	if (result == 0)
		result = split(b, &t.b, err);
	if (result == 0)
		result = find_script(&t, err);
	if (result == 0)
		put_hunks(&t, out);
	free(t.a.at);
	free(t.b.at);
	free(t.script.at);
	free(t.points);
	return result < 0 ? -1 : buf_bad(out) ? no_memory(err) : 0;
}
