#include "transfers.h"

#include "base/num.h"

enum { WORD_BYTES = 24, MORE_BYTES = 128, FIELDS = 7 };

static void
put_text(struct buf *out, struct str s, size_t most)
{
	for (size_t i = 0; i < s.len && i < most; i++)
		buf_char(out, s.at[i] >= ' ' && s.at[i] < 0x7f ? s.at[i] : '?');
}

void
transfer_put(struct buf *out, const struct transfer *t)
{
	put_text(out, t->op, WORD_BYTES);
	buf_char(out, '\t');
	put_text(out, t->path, TRANSFER_PATH_BYTES);
	buf_char(out, '\t');
	put_text(out, t->to, TRANSFER_PATH_BYTES);
	buf_fmt(out, "\t%llu\t%llu\t", (unsigned long long)t->read, (unsigned long long)t->written);
	put_text(out, t->more, MORE_BYTES);
	buf_char(out, '\t');
	put_text(out, t->status, MORE_BYTES);
	buf_char(out, '\n');
}

static bool
is_printable(struct str s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.at[i] < ' ' || s.at[i] >= 0x7f)
			return false;
	return true;
}

bool
transfer_next(struct str *rest, struct transfer *out)
{
	struct str line, field[FIELDS];
	struct err ignored;

	if (!rest->len || !memchr(rest->at, '\n', rest->len) || !str_cut(rest, '\n', &line))
		return false;
	for (int i = 0; i < FIELDS; i++) {
		const bool last = i == FIELDS - 1;
		if (last ? memchr(line.at, '\t', line.len) != NULL
			 : !memchr(line.at, '\t', line.len) || !str_cut(&line, '\t', &field[i]))
			return false;
		if (last)
			field[i] = line;
		if (!is_printable(field[i]))
			return false;
	}
	*out = (struct transfer){
	    .op = field[0], .path = field[1], .to = field[2], .more = field[5], .status = field[6]};
	return out->op.len && num_parse(field[3], 0, UINT64_MAX, &out->read, &ignored) == 0 &&
	       num_parse(field[4], 0, UINT64_MAX, &out->written, &ignored) == 0;
}
