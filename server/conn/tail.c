/* The end of a call's output, shown by a verb that ran it (bisect). */
#include "conn.h"

#include <stdlib.h>

enum { TAIL_MAX_BYTES = 65536 };

/* The last bytes of what a call has written, in the order in which it came. */
struct tail {
	char *at; /* owned: a ring */
	size_t max;
	uint64_t n; /* bytes that went through */
};

static void
put(struct tail *t, const char *bytes, size_t n)
{
	for (size_t i = 0; i < n; i++)
		t->at[t->n++ % t->max] = bytes[i];
}

/* A journal that breaks its form ends there: what came before is shown. */
static void
read_journal(int fd, char *piece, struct tail *t)
{
	struct journal_reader r;
	struct journal_frame f;
	struct err err;

	journal_reader_init(&r, fd);
	while (journal_next(&r, piece, FLOW_PIECE_BYTES, &f, &err) == 1)
		if (f.kind == JOURNAL_DATA &&
		    (f.stream == JOURNAL_OUT || f.stream == JOURNAL_ERR)) {
			const size_t most = f.length < t->max ? f.length : t->max;
			put(t, piece + f.length - most, most);
		}
}

static void
unwind(const struct tail *t, struct buf *out)
{
	const uint64_t from = t->n > t->max ? t->n - t->max : 0;
	uint64_t at = from;

	/* what is left of a line that was cut is no line */
	while (from && at < t->n && t->at[at % t->max] != '\n')
		at++;
	for (at = from && at < t->n ? at + 1 : from; at < t->n; at++)
		buf_char(out, t->at[at % t->max]);
}

static void
put_lines(struct str text, struct str before, struct buf *out)
{
	struct str line;

	while (str_cut(&text, '\n', &line)) {
		if (!line.len && !text.len)
			break;
		buf_str(out, before);
		buf_str(out, line);
		buf_char(out, '\n');
	}
}

void
tail_print(struct channel *ch, struct wire *w)
{
	const struct msg_verb_tail *m = &w->message.verb_tail;
	struct tail t = {.max = m->bytes < TAIL_MAX_BYTES ? m->bytes : TAIL_MAX_BYTES};
	auto_buf text = BUF_MAX(TAIL_MAX_BYTES), out = BUF_MAX(8 * TAIL_MAX_BYTES);

	t.at = t.max ? try_new(t.max, 1) : NULL;
	if (t.at) {
		read_journal(w->message.fds[0], ch->conn->piece, &t);
		unwind(&t, &text);
	}
	free(t.at);
	if (m->json) {
		buf_str(&out, m->before);
		json_put(&out, buf_view(&text));
		buf_str(&out, m->behind);
	} else {
		put_lines(buf_view(&text), m->before, &out);
	}
	control_output(ch, buf_view(&out));
}
