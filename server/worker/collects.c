#include "collects.h"
#include "base/fd.h"
#include "base/path.h"
#include "oci_index.h"
#include "repair.h"
#include "wire/collect_word.h"

#include <fcntl.h>
#include <stdlib.h>

void
collects_done(struct collects *c)
{
	collect_done(&c->list);
	recall_free(c->recall);
	free(c->named);
}

int
collects_scan(struct collects *c, struct wire *w, const struct layer_options *o, struct err *err)
{
	const uint64_t from = w->message.collect_scan.from;
	auto_buf items = BUF_MAX(COLLECT_PAGE_MAX_BYTES);

	if (from == 0) {
		collect_done(&c->list);
		if (collect_read(o, &c->list, err) < 0)
			return -1;
	}
	if (from > c->list.n)
		return err_set(err, ERR_CORRUPT, "a page past the end");
	for (size_t i = from; i < c->list.n && items.len < COLLECT_PAGE_MAX_BYTES; i++) {
		const struct collect_item *f = &c->list.at[i];
		const struct collect_word word = {.kind = (uint8_t)f->kind,
						  .digest = f->digest,
						  .has_of = f->has_of,
						  .of = f->of,
						  .bytes = f->bytes,
						  .mtime_ns = f->mtime_ns};
		collect_word_put(&items, &word);
	}
	return wire_send(w, collect_found, err, .count = c->list.n, .items = buf_view(&items));
}

static int
remove_sessions(const struct layer_options *o, struct str ids, struct err *err)
{
	struct str id;

	while (ids.len && str_cut(&ids, '\0', &id))
		if (collect_remove_session(o->store, id, err) < 0)
			return -1;
	return 0;
}

int
collects_remove(struct collects *c, struct wire *w, const struct layer_options *o, int mirror,
		struct err *err)
{
	struct str items = w->message.collect_remove.items;
	uint64_t bytes = 0, removed = 0, touched = 0;
	struct collect_word word;
	bool refs = w->message.collect_remove.sessions.len > 0;

	if (remove_sessions(o, w->message.collect_remove.sessions, err) < 0)
		return -1;
	while (items.len) {
		if (collect_word_take(&items, &word, err) < 0)
			return -1;
		if (refs && word.kind != COLLECT_REF && collect_sync_refs(o->store, err) < 0)
			return -1;
		refs = word.kind == COLLECT_REF;
		const struct collect_item item = {.kind = (enum collect_kind)word.kind,
						  .digest = word.digest,
						  .mtime_ns = word.mtime_ns};
		/* A snapshot that was being written while the store was listed: its config was
		 * there, its ref was not yet, and the manager does not know the one of the other.
		 */
		if (word.kind == COLLECT_WORD_BLOB && !c->named &&
		    collect_named(o, &c->named, &c->n_named, err) < 0)
			return -1;
		if (word.kind == COLLECT_WORD_BLOB &&
		    collect_is_named(c->named, c->n_named, &word.digest)) {
			touched++;
			continue;
		}
		const int gone = collect_remove(o->store, &item, &bytes, err);
		if (gone < 0)
			return -1;
		if (gone == 1 && mirror_remove(mirror, &item, err) < 0)
			return -1;
		removed += gone == 1;
		c->refs_gone |= refs;
		touched += gone == 0;
		if (o->watch.step && o->watch.step(o->watch.ctx, bytes, removed, err) < 0)
			return -1;
	}
	if (refs && collect_sync_refs(o->store, err) < 0)
		return -1;
	return wire_send(w, collect_removed, err, .bytes = bytes, .removed = removed,
			 .touched = touched);
}

int
collects_trees(struct collects *c, struct wire *w, const struct layer_options *o, int dir,
	       struct err *err)
{
	struct err absent;
	uint64_t bytes = 0;

	if (c->refs_gone && oci_index_write(o->store, err) < 0)
		return -1;
	if (collect_clear(o, dir, &bytes, err) < 0)
		return -1;
	auto_close int layers = path_open(o->cache, "layers", O_RDONLY | O_DIRECTORY, &absent);
	if (layers >= 0 && collect_clear(o, layers, &bytes, err) < 0)
		return -1;
	return wire_send(w, worked, err, .bytes = bytes, .entries = 0);
}

int
collects_next(struct collects *c, struct wire *w, const struct layer_options *o, struct err *err)
{
	auto_buf pairs = BUF_MAX(RECALL_PAIRS_MAX_BYTES);
	char kind[RECALL_KIND_BYTES];

	if (!c->recall)
		c->recall = recall_new(o, err);
	if (!c->recall)
		return -1;
	const int got = recall_next(c->recall, kind, &pairs, err);
	if (got < 0)
		return -1;
	if (got == 0)
		return wire_send(w, worked, err, .bytes = 0, .entries = 0);
	return wire_send(w, store_fact, err, .kind = str_of(kind), .pairs = buf_view(&pairs));
}
