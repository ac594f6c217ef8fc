#include "receive.h"
#include "base/fd.h"
#include "base/log.h"
#include "confine.h"
#include "import.h"
#include "repair.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

enum { PIECE_BYTES = 64 * 1024, LOOK_MS = 1000 };

struct pipe_in {
	int fd, manager; /* lent */
	const struct layer_watch *watch;
	char *piece; /* owned */
};

/* A client gives it at its own pace; the manager's end ends the wait. */
static int
wait_for_more(const struct pipe_in *in, struct err *err)
{
	struct pollfd p[2] = {{.fd = in->fd, .events = POLLIN},
			      {.fd = in->manager, .events = POLLRDHUP}};

	if (poll(p, 2, LOOK_MS) < 0 && errno != EINTR)
		return err_sys(err, errno, "wait for more");
	if (p[1].revents & (POLLRDHUP | POLLHUP | POLLERR))
		return err_set(err, ERR_CANCELLED, "the manager went away");
	if (p[0].revents)
		return 1;
	return in->watch->step ? in->watch->step(in->watch->ctx, 0, 0, err) : 0;
}

static int
next_piece(void *ctx, struct str *out, struct err *err)
{
	struct pipe_in *in = ctx;

	for (;;) {
		const int ready = wait_for_more(in, err);
		if (ready < 0)
			return -1;
		if (!ready)
			continue;
		const ssize_t n = read(in->fd, in->piece, PIECE_BYTES);
		if (n < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (n < 0)
			return err_sys(err, errno, "read what comes in");
		*out = (struct str){in->piece, (size_t)n};
		return n > 0;
	}
}

static void
put_number(struct buf *out, uint64_t n)
{
	for (int i = 0; i < 8; i++)
		buf_char(out, (char)(uint8_t)(n >> (8 * i)));
}

static int
answer(struct wire *w, const struct import *i, struct err *err)
{
	const struct manifest *m = &i->manifest;
	auto_buf layers = BUF_MAX(IMPORT_LAYERS_MAX * DIGEST_BYTES);
	auto_buf diff_ids = BUF_MAX(IMPORT_LAYERS_MAX * DIGEST_BYTES);
	auto_buf sizes = BUF_MAX(IMPORT_LAYERS_MAX * 8), raw_sizes = BUF_MAX(IMPORT_LAYERS_MAX * 8);
	auto_buf entries = BUF_MAX(IMPORT_LAYERS_MAX * 8);

	for (size_t k = 0; k < m->n_layers; k++) {
		const struct import_layer *l = &i->layers[k];
		buf_add(&layers, l->sum.digest.at, DIGEST_BYTES);
		buf_add(&diff_ids, l->sum.diff_id.at, DIGEST_BYTES);
		put_number(&sizes, l->counts.bytes);
		put_number(&raw_sizes, l->counts.raw_bytes);
		put_number(&entries, l->counts.entries);
	}
	return wire_send(w, layers_imported, err, .layers = buf_view(&layers),
			 .diff_ids = buf_view(&diff_ids), .sizes = buf_view(&sizes),
			 .raw_sizes = buf_view(&raw_sizes), .entries = buf_view(&entries),
			 .image = {m->image, strnlen(m->image, 80)},
			 .session_name = {m->session_name, strnlen(m->session_name, 64)},
			 .made_by = {m->made_by, strnlen(m->made_by, 256)});
}

/* Into the store, and the mirror. */
static int
take_in(const struct layer_options *o, int mirror, const struct tar_source *source,
	struct import *out, struct err *err)
{
	if (import_oci(o, source, out, err) < 0)
		return -1;
	if (out->manifest.n_layers > IMPORT_LAYERS_MAX)
		return err_set(err, ERR_USAGE, "more than %d layers", IMPORT_LAYERS_MAX);
	for (size_t i = 0; i < out->manifest.n_layers; i++)
		if (mirror_blob(o->store, mirror, &out->layers[i].sum.digest, err) < 0)
			return -1;
	return 0;
}

int
receive_take(struct wire *w, const struct layer_watch *watch, int mirror, const struct err *refused,
	     struct layer_options *o, int *out_store, struct err *err)
{
	struct message *m = &w->message;
	struct err why;
	char subject[65];
	auto_import got = {0};

	if (str_copy(m->import_job.subject, subject, sizeof subject, err) < 0)
		return -1;
	*out_store = fd_steal(&m->fds[0]);
	auto_close int in = fd_steal(&m->fds[1]);
	log_init("berth-worker", subject);
	*o = (struct layer_options){
	    .store = *out_store, .cache = -1, .threads = m->import_job.threads, .watch = *watch};
	const int dirs[] = {*out_store, mirror};
	if (confine_worker(dirs, mirror < 0 ? 1 : 2, err) < 0)
		return -1;
	auto_free char *piece = xnew(1, PIECE_BYTES);
	struct pipe_in pipe = {in, w->fd, watch, piece};
	const struct tar_source source = {next_piece, &pipe};
	if (refused)
		why = *refused;
	else if (take_in(o, mirror, &source, &got, &why) == 0)
		return answer(w, &got, err);
	log_err(&why, "import a snapshot");
	return wire_send(w, work_failed, err, .code = why.code, .why = str_of(why.why),
			 .hint = str_of(why.hint));
}
