/* snapshots: a session's snapshots as a tree. A chain goes straight down; where two go on from the same
 * one (after undo, restore), each branch stands under it. */
#include "base/time.h"
#include "manager/do.h"
#include "manager/facts.h"

#include <stdio.h>
#include <stdlib.h>

enum { TREE_COLUMNS = 24, COMMAND_COLUMNS = 48, NAME_COLUMNS = 12 };

struct leaf {
	struct snapshot_row row;
	size_t parent;      /* NONE: not of this list */
	size_t first, next; /* child; of the same parent */
};

struct tree {
	struct leaf *at; /* owned */
	size_t n, cap;
	size_t roots;
};

static const size_t NONE = SIZE_MAX;

static int
take_row(void *ctx, const struct snapshot_row *row, struct err *err)
{
	struct tree *t = ctx;

	if (t->n == t->cap) {
		const size_t cap = t->cap ? 2 * t->cap : 32;
		struct leaf *at = realloc(t->at, cap * sizeof *at);
		if (!at)
			return err_set(err, ERR_UNAVAILABLE, "no memory for so many snapshots");
		t->at = at;
		t->cap = cap;
	}
	t->at[t->n++] = (struct leaf){.row = *row, .parent = NONE, .first = NONE, .next = NONE};
	return 0;
}

struct by_digest {
	const struct digest *digest;
	size_t at;
};

static int
compare(const void *a, const void *b)
{
	const struct by_digest *x = a, *y = b;
	return memcmp(x->digest->at, y->digest->at, DIGEST_BYTES);
}

/* The rows come with the oldest first; so do children. */
static void
link_all(struct tree *t)
{
	struct by_digest *sorted = xnew(t->n + 1, sizeof *sorted);

	for (size_t i = 0; i < t->n; i++)
		sorted[i] = (struct by_digest){&t->at[i].row.digest, i};
	qsort(sorted, t->n, sizeof *sorted, compare);
	t->roots = NONE;
	for (size_t i = t->n; i-- > 0;) {
		struct leaf *n = &t->at[i];
		const struct by_digest key = {&n->row.parent, 0};
		const struct by_digest *found =
		    n->row.has_parent ? bsearch(&key, sorted, t->n, sizeof *sorted, compare) : NULL;
		/* of a row that claims to be older than its parent nobody descends: no cycles */
		n->parent = found && found->at < i ? found->at : NONE;
		size_t *head = n->parent == NONE ? &t->roots : &t->at[n->parent].first;
		n->next = *head;
		*head = i;
	}
	free(sorted);
}

/* ---- one line ---- */

static void
put_plain(struct buf *out, const char *text, size_t columns)
{
	size_t n = strnlen(text, columns + 1);
	const bool cut = n > columns;

	for (n = cut ? columns : n; cut && ((unsigned char)text[n] & 0xc0) == 0x80;)
		n--; /* not in the middle of a letter */
	for (size_t i = 0; i < n; i++)
		buf_char(out, (unsigned char)text[i] < ' ' || text[i] == 0x7f ? ' ' : text[i]);
	buf_text(out, cut ? "\xe2\x80\xa6" : "");
}

/* What made it: of calls the beginning of the last one's command. */
static void
put_maker(struct manager *m, const struct snapshot_row *r, struct buf *out)
{
	auto_free struct call_row *call = xnew(1, sizeof *call);
	const char *last = strrchr(r->calls, ' ');
	size_t n = r->calls[0] != '\0';
	struct err ignored;

	buf_text(out, r->made_by);
	for (const char *c = r->calls; *c; c++)
		n += *c == ' ';
	if (n > 1 && r->made_by[0] == 'c') /* "call ID" */
		buf_fmt(out, " and %zu more", n - 1);
	if (n && index_find_call(&m->index, last ? last + 1 : r->calls, call, &ignored) == 1) {
		buf_text(out, ": ");
		put_plain(out, call->command, COMMAND_COLUMNS);
	}
	if (r->facts.note[0]) {
		buf_text(out, "; ");
		put_plain(out, r->facts.note, 200);
	}
}

static void
put_line(struct manager *m, const struct session *s, const struct snapshot_row *r,
	 const char *indent, struct buf *out)
{
	struct str label;
	char own[16], total[16], age[16], tree[TREE_COLUMNS + NAME_COLUMNS + 4];
	const bool head = s->row.has_head && digest_equal(&s->row.head, &r->digest);

	num_format_about(r->bytes, own);
	num_format_about(r->total_bytes, total);
	age_format(r->created_ns, age);
	snprintf(tree, sizeof tree, "%s%.12s%s", indent, digest_text(&r->digest).text,
		 head ? " *" : "");
	buf_fmt(out, "%-18s %9s %9s %4s  %-12s %s", tree, own, total, age,
		r->facts.name[0] ? r->facts.name : "-", r->facts.pinned ? "pinned; " : "");
	put_maker(m, r, out);
	if (r->facts.expires_ns) {
		char end[TIME_TEXT_BYTES];
		time_format(r->facts.expires_ns, end);
		buf_fmt(out, "; until %.16sZ", end);
	}
	for (const char *at = r->facts.labels; facts_next_label(&at, &label);)
		buf_fmt(out, "  %.*s", (int)label.len, label.at);
	buf_char(out, '\n');
}

/* All of a chain, and of what branches off it. */
static void
put_chain(struct manager *m, const struct session *s, const struct tree *t, size_t i,
	  const char *indent, struct buf *out)
{
	char inner[TREE_COLUMNS];
	const char *here = indent;

	for (;;) {
		put_line(m, s, &t->at[i].row, here, out);
		/* "|- " and "`- " stand before the first of a branch alone */
		if (here == indent && indent[0]) {
			const size_t n = strlen(indent);
			snprintf(inner, sizeof inner, "%.*s%s", (int)(n - 3), indent,
				 indent[n - 3] == '|' ? "|  " : "   ");
			here = inner;
		}
		const size_t first = t->at[i].first;
		if (first == NONE)
			return;
		if (t->at[first].next != NONE)
			break;
		i = first;
	}
	for (size_t child = t->at[i].first; child != NONE; child = t->at[child].next) {
		char branch[TREE_COLUMNS];
		/* deeper ones stand below each other */
		const bool fits = strlen(here) + 4 < sizeof branch;
		snprintf(branch, sizeof branch, "%.*s%s",
			 (int)(fits ? strlen(here) : sizeof branch - 4), here,
			 t->at[child].next == NONE ? "`- " : "|- ");
		put_chain(m, s, t, child, branch, out);
	}
}

/* ---- JSON ---- */

void
do_put_calls(struct manager *m, const char *calls, struct buf *out)
{
	auto_free struct call_row *call = xnew(1, sizeof *call);
	struct str rest = str_of(calls), id;
	struct err ignored;
	char text[ID_BYTES];
	bool first = true;

	buf_text(out, ",\"calls\":[");
	while (rest.len && str_cut(&rest, ' ', &id)) {
		const bool known = str_copy(id, text, sizeof text, &ignored) == 0 &&
				   index_find_call(&m->index, text, call, &ignored) == 1;
		buf_fmt(out, "%s{\"call\":", first ? "" : ",");
		json_put(out, id);
		buf_text(out, ",\"command\":");
		json_put(out, known ? str_of(call->command) : STR_LIT(""));
		buf_char(out, '}');
		first = false;
	}
	buf_char(out, ']');
}

static void
put_json(struct manager *m, const struct session *s, const struct snapshot_row *r, struct buf *out)
{
	char made[TIME_TEXT_BYTES], expires[TIME_TEXT_BYTES];

	time_format(r->created_ns, made);
	buf_fmt(out, "{\"snapshot\":\"sha256:%s\"", digest_text(&r->digest).text);
	if (r->has_parent)
		buf_fmt(out, ",\"parent\":\"sha256:%s\"", digest_text(&r->parent).text);
	buf_text(out, ",\"name\":");
	json_put(out, str_of(r->facts.name));
	buf_text(out, ",\"note\":");
	json_put(out, str_of(r->facts.note));
	buf_text(out, ",\"labels\":");
	facts_labels_json(r->facts.labels, out);
	buf_fmt(out, ",\"pinned\":%s", r->facts.pinned ? "true" : "false");
	if (r->facts.expires_ns) {
		time_format(r->facts.expires_ns, expires);
		buf_fmt(out, ",\"expires\":\"%s\"", expires);
	}
	buf_text(out, ",\"made_by\":");
	json_put(out, str_of(r->made_by));
	do_put_calls(m, r->calls, out);
	buf_text(out, ",\"image\":");
	json_put(out, str_of(r->image));
	buf_fmt(out, ",\"created\":\"%s\",\"bytes\":%llu,\"total_bytes\":%llu,\"head\":%s}", made,
		(unsigned long long)r->bytes, (unsigned long long)r->total_bytes,
		s->row.has_head && digest_equal(&s->row.head, &r->digest) ? "true" : "false");
}

static void
put_all_json(struct manager *m, const struct session *s, const struct tree *t, struct buf *out)
{
	buf_char(out, '[');
	for (size_t i = 0; i < t->n; i++) {
		buf_text(out, i ? ",\n" : "\n");
		put_json(m, s, &t->at[i].row, out);
	}
	buf_text(out, t->n ? "\n]\n" : "]\n");
}

int
do_snapshots(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err)
{
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	struct tree t = {0};

	(void)c;
	if (s->keeper.linked) { /* calls whose records are on the way have a command too */
		keeper_read(s);
		records_flush(m);
	}
	int result = index_list_snapshots(&m->index, s->row.id, take_row, &t, err);
	if (result == 0 && r->json) {
		put_all_json(m, s, &t, &out);
	} else if (result == 0) {
		link_all(&t);
		buf_fmt(&out, "%-18s %9s %9s %4s  %-12s %s\n", "SNAPSHOT", "SIZE", "TOTAL", "AGE",
			"NAME", "MADE BY");
		for (size_t i = t.roots; i != NONE; i = t.at[i].next)
			put_chain(m, s, &t, i, "", &out);
	}
	free(t.at);
	return result < 0 ? -1 : do_answer(asker, &out, err);
}
