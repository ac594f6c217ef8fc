#include "collect_word.h"

static void
put_number(struct buf *out, uint64_t n)
{
	for (int i = 0; i < 8; i++)
		buf_char(out, (char)(n >> 8 * i));
}

static uint64_t
number_at(const char *at)
{
	uint64_t n = 0;

	for (int i = 0; i < 8; i++)
		n |= (uint64_t)(uint8_t)at[i] << 8 * i;
	return n;
}

void
collect_word_put(struct buf *out, const struct collect_word *w)
{
	buf_char(out, (char)w->kind);
	buf_add(out, w->digest.at, DIGEST_BYTES);
	buf_char(out, (char)w->has_of);
	buf_add(out, w->of.at, DIGEST_BYTES);
	put_number(out, w->bytes);
	put_number(out, w->mtime_ns);
}

int
collect_word_take(struct str *items, struct collect_word *out, struct err *err)
{
	if (items->len < COLLECT_WORD_BYTES)
		return err_set(err, ERR_CORRUPT, "a list of the store's things is cut");
	const char *at = items->at;
	out->kind = (uint8_t)at[0];
	memcpy(out->digest.at, at + 1, DIGEST_BYTES);
	out->has_of = at[33] != 0;
	memcpy(out->of.at, at + 34, DIGEST_BYTES);
	out->bytes = number_at(at + 66);
	out->mtime_ns = number_at(at + 74);
	*items = (struct str){at + COLLECT_WORD_BYTES, items->len - COLLECT_WORD_BYTES};
	return 0;
}
