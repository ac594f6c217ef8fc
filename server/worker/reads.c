/* Invariants
 *  1. nothing of a store or an upper is read before the walls stand, and they let nothing be
 * written but the pipe;
 *  2. it ends when nobody reads the pipe any more, and when the manager's link ends;
 *  3. `worked` is said when all is in the pipe and this end of it is closed. */
#include "reads.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "confine.h"
#include "export.h"
#include "reads_print.h"

#include <signal.h>
#include <stdlib.h>

enum { WAIT_S = 30 };

struct job {
	struct reads r;
	int store, out, upper; /* owned */
	char subject[65], tag[161];
	char path[4097];
	enum read_act act;
};

static void
done(struct job *j)
{
	for (size_t i = 0; i < j->r.n; i++)
		free(j->r.at[i].layers);
	free(j->r.at);
	pipe_out_done(&j->r.out);
	fd_close(&j->store);
	fd_close(&j->out);
	fd_close(&j->upper);
}

static int
begin(struct wire *w, const struct layer_watch *watch, struct job *j, struct err *err)
{
	struct message *m = &w->message;
	const struct msg_read_job *body = &m->read_job;

	if (str_copy(body->subject, j->subject, sizeof j->subject, err) < 0)
		return -1;
	const bool live = body->live != 0;
	j->store = fd_steal(&m->fds[0]);
	j->out = fd_steal(&m->fds[1]);
	if (live)
		j->upper = fd_steal(&m->fds[2]);
	fd_close(&m->fds[2]);
	j->r.upper = j->upper;
	j->r.o = (struct layer_options){
	    .store = j->store,
	    .cache = -1,
	    .threads = body->threads,
	    .one_owner = body->one_owner != 0,
	    .watch = *watch,
	};
	pipe_out_init(&j->r.out, j->out, w->fd, watch);
	log_init("berth-worker", j->subject);
	signal(SIGPIPE, SIG_IGN); /* a reader that went away is an error like others */
	const int dirs[] = {j->store, j->upper};
	return confine_reader(dirs, live ? 2 : 1, live, err);
}

static int
take_view(struct wire *w, struct job *j, struct err *err)
{
	const struct msg_read_view *m = &w->message.read_view;

	if (m->layers.len % DIGEST_BYTES || (m->snapshot.len && m->snapshot.len != DIGEST_BYTES) ||
	    j->r.n == READ_VIEWS_MAX || m->parent > j->r.n || (m->live && j->upper < 0))
		return err_set(err, ERR_CORRUPT, "a snapshot to read that cannot be");
	if (!j->r.at)
		j->r.at = xnew(READ_VIEWS_MAX, sizeof *j->r.at);
	struct reads_snapshot *s = &j->r.at[j->r.n];
	*s = (struct reads_snapshot){
	    .has_digest = m->snapshot.len != 0,
	    .created_ns = m->created_ns,
	    .parent = m->parent,
	    .live = m->live != 0,
	    .n_layers = m->layers.len / DIGEST_BYTES,
	};
	s->layers = xnew(s->n_layers + 1, sizeof *s->layers);
	if (m->layers.len)
		memcpy(s->layers, m->layers.at, m->layers.len);
	if (s->has_digest)
		memcpy(s->digest.at, m->snapshot.at, DIGEST_BYTES);
	j->r.n++;
	return 0;
}

/* Without what a path means nothing by: slashes around it and twice, "." components. ".." stays,
 * and is no name of a file. */
static size_t
tidy(struct str path, char *out)
{
	size_t n = 0;

	while (path.len) {
		const char *slash = memchr(path.at, '/', path.len);
		const struct str part = {path.at, slash ? (size_t)(slash - path.at) : path.len};
		if (part.len && !str_is(part, ".")) {
			if (n)
				out[n++] = '/';
			memcpy(out + n, part.at, part.len);
			n += part.len;
		}
		path.at += part.len + (slash != NULL);
		path.len -= part.len + (slash != NULL);
	}
	return n;
}

static int
take_go(struct wire *w, struct job *j, struct err *err)
{
	const struct msg_read_go *m = &w->message.read_go;
	const size_t least[READ_ACTS] = {
	    [READ_FILES] = 1,      [READ_CAT] = 1,           [READ_DIFF] = 2,      [READ_FIND] = 0,
	    [READ_EXPORT_OCI] = 1, [READ_EXPORT_DOCKER] = 1, [READ_EXPORT_TAR] = 1};

	if (m->act >= READ_ACTS || j->r.n < least[m->act] || m->path.len > sizeof j->path - 1)
		return err_set(err, ERR_CORRUPT, "an act of reading that cannot be");
	j->act = (enum read_act)m->act;
	j->r.flags = m->flags;
	j->r.from = m->from;
	j->r.limit = m->limit;
	if (str_copy(m->tag, j->tag, sizeof j->tag, err) < 0)
		return -1;
	if (j->act == READ_FIND) { /* a pattern: its slashes have a meaning */
		if (m->path.len)
			memcpy(j->path, m->path.at, m->path.len);
		j->r.path = (struct str){j->path, m->path.len};
	} else {
		j->r.path = (struct str){j->path, tidy(m->path, j->path)};
	}
	return 0;
}

static int
take(struct wire *w, struct job *j, struct err *err)
{
	for (;;) {
		if (wire_recv_wait(w, time_now_ns() + WAIT_S * NS_PER_S, err) < 0)
			return -1;
		if (w->message.id == MSG_read_go)
			return take_go(w, j, err);
		if (w->message.id != MSG_read_view)
			return err_set(err, ERR_CORRUPT, "%s came where a snapshot should",
				       wire_message_name(w->message.id));
		if (take_view(w, j, err) < 0)
			return -1;
	}
}

static int
put(void *ctx, const void *bytes, size_t n, struct err *err)
{
	return pipe_out_put(ctx, bytes, n, err);
}

static int
act(struct job *j, struct err *err)
{
	struct reads *r = &j->r;
	const struct tar_sink sink = {put, &r->out};

	switch (j->act) {
	case READ_FILES:
		return reads_files(r, err);
	case READ_CAT:
		return reads_cat(r, err);
	case READ_DIFF:
		return reads_diff(r, err);
	case READ_FIND:
		return reads_find(r, err);
	case READ_EXPORT_OCI:
		return export_oci(&r->o, &r->at[0].digest, sink, err);
	case READ_EXPORT_DOCKER:
		return export_docker(&r->o, &r->at[0].digest, j->tag, sink, err);
	case READ_EXPORT_TAR:
		return export_tar(&r->o, r->at[0].layers, r->at[0].n_layers, sink, err);
	case READ_ACTS:
		break;
	}
	return err_set(err, ERR_INTERNAL, "an act of reading that is none");
}

int
reads_take(struct wire *w, const struct layer_watch *watch, struct err *err)
{
	__attribute__((cleanup(done))) struct job j = {.store = -1, .out = -1, .upper = -1};
	struct err why;

	if (begin(w, watch, &j, err) < 0 || take(w, &j, err) < 0)
		return -1;
	int result = act(&j, &why);
	if (result == 0)
		result = pipe_out_flush(&j.r.out, &why);
	fd_close(&j.out);
	if (result == 0)
		return wire_send(w, worked, err, .bytes = 0, .entries = 0);
	if (why.code != ERR_CANCELLED)
		log_err(&why, "read a snapshot");
	return wire_send(w, work_failed, err, .code = why.code, .why = str_of(why.why),
			 .hint = str_of(why.hint));
}
