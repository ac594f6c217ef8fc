/* Invariants
 *  1. nothing of a source is read before the walls stand, and a source's trees are read only;
 *  2. a failed import answers work_failed; what it had made is gone, or has the name of its content
 *     and serves whoever imports the same. */
#include "imports.h"
#include "base/fd.h"
#include "base/log.h"
#include "confine.h"
#include "image.h"

enum { DIRS = 3, SOURCES_MAX = 3 };

struct import {
	char name[64];
	enum image_kind kind;
	int sources[SOURCES_MAX]; /* owned */
	size_t n;
};

static int
take(struct wire *w, struct import *m, struct layer_options *o, int *dirs[DIRS], struct err *err)
{
	struct message *msg = &w->message;

	m->n = msg->image_import.sources;
	if (m->n == 0 || m->n > SOURCES_MAX || msg->image_import.kind >= IMAGE_KINDS)
		return err_set(err, ERR_CORRUPT, "an import of %zu sources", m->n);
	const size_t n = m->n;
	if (str_copy(msg->image_import.name, m->name, sizeof m->name, err) < 0)
		return -1;
	m->kind = (enum image_kind)msg->image_import.kind;
	for (int i = 0; i < DIRS; i++)
		*dirs[i] = fd_steal(&msg->fds[i]);
	for (size_t i = 0; i < n; i++)
		m->sources[i] = fd_steal(&msg->fds[DIRS + i]);
	o->store = *dirs[0];
	o->cache = *dirs[1];
	o->threads = msg->image_import.threads;
	o->one_owner = msg->image_import.one_owner != 0;
	o->owner = o->group = -1;
	return 0;
}

static int
answer(struct wire *w, const struct image *i, struct err *err)
{
	return wire_send(w, image_imported, err,
			 .content = {(const char *)i->content.at, DIGEST_BYTES},
			 .layers = {(const char *)i->layers, i->n_layers * DIGEST_BYTES},
			 .bytes = i->bytes, .entries = i->entries, .dropped = i->dropped,
			 .env = buf_view(&i->env), .cwd = str_of(i->cwd), .user = str_of(i->user),
			 .home = str_of(i->home), .uid = i->uid, .gid = i->gid);
}

int
imports_take(struct wire *w, struct layer_options *o, int *out_store, int *out_cache,
	     int *out_scratch, struct err *err)
{
	struct import m = {.sources = {-1, -1, -1}};
	auto_image image;
	struct err why;

	image_init(&image);
	if (take(w, &m, o, (int *[]){out_store, out_cache, out_scratch}, err) < 0)
		return -1;
	const int dirs[DIRS] = {*out_store, *out_cache, *out_scratch};
	const size_t trees = m.kind == IMAGE_FILE ? 0 : m.n; /* an open file needs no rule */
	int result = confine_worker_reading(dirs, DIRS, m.sources, trees, err);
	if (result == 0) {
		if (image_import(o, *out_scratch, m.kind, m.sources, m.n, str_of(m.name), &image,
				 &why) == 0) {
			result = answer(w, &image, err);
		} else {
			log_err(&why, "import %s", m.name);
			result = wire_send(w, work_failed, err, .code = why.code,
					   .why = str_of(why.why), .hint = str_of(why.hint));
		}
	}
	for (size_t i = 0; i < m.n; i++)
		fd_close(&m.sources[i]);
	return result;
}

int
imports_remove(struct wire *w, const struct layer_options *o, struct err *err)
{
	const struct msg_image_remove *m = &w->message.image_remove;
	auto_free struct digest *layers = NULL;
	struct digest content;

	if (m->layers.len % DIGEST_BYTES || (m->content.len && m->content.len != DIGEST_BYTES))
		return err_set(err, ERR_CORRUPT, "a list of digests is cut");
	const size_t n = m->layers.len / DIGEST_BYTES;
	layers = xnew(n + 1, sizeof *layers);
	if (n)
		memcpy(layers, m->layers.at, m->layers.len);
	if (m->content.len)
		memcpy(content.at, m->content.at, sizeof content.at);
	if (image_remove(o, m->name, m->content.len ? &content : NULL, layers, n, err) < 0)
		return -1;
	return wire_send(w, worked, err, .bytes = 0, .entries = n);
}
