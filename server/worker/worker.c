/* worker: one job for the manager: an upper is captured, layers are unpacked, refs are written.
 *   holds      a socket to the manager; directories of the job: the store, the layer cache, one
 *              session's upper, one to work in
 *   may        read and write beneath those four, as any owner, make whiteouts, start threads;
 *              in the job of an image read its source (imports.h); in one of reading change
 *              nothing, and write into the pipe that it was given (reads.h)
 *   never      opens a path outside them, starts a process, changes a mount, speaks with anybody
 *              else; says "done" before what it made is durable, or marked as not yet so
 *   if taken   gains the store and the cache of this node: by a hostile layer, hence the walls
 *
 * It serves one request after another and ends at EOF of its socket, in the middle of a request at
 * its next step: what it had not finished is removed. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "checks.h"
#include "collects.h"
#include "confine.h"
#include "dirs.h"
#include "imports.h"
#include "layer.h"
#include "measure.h"
#include "oci.h"
#include "reads.h"
#include "receive.h"
#include "repair.h"
#include "wire/wire.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <locale.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MANAGER_FD = 3, HELLO_S = 30 };
enum { PROGRESS_NS = 200 * NS_PER_MS };

struct worker {
	struct wire wire;
	int store, cache, upper, scratch; /* owned */
	int mirror;                       /* owned; -1: none */
	int mirror_missing;               /* errno: there should be one */
	struct layer_options options;
	struct capture *capture; /* owned; made by the first capture */
	struct collects collects; /* owned */
	char subject[65];
	uint64_t told_ns; /* when progress was sent last */
	bool live;        /* the upper's session goes on when it has been read */
};

/* ---- while a request runs ---- */

static bool
manager_is_gone(const struct worker *w)
{
	struct pollfd p = {.fd = w->wire.fd, .events = POLLRDHUP};
	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLRDHUP | POLLERR));
}

static int
step(void *ctx, uint64_t bytes, uint64_t entries, struct err *err)
{
	struct worker *w = ctx;
	const uint64_t now = time_now_ns();

	if (manager_is_gone(w))
		return err_set(err, ERR_CANCELLED, "the manager went away");
	if (now - w->told_ns < PROGRESS_NS)
		return 0;
	w->told_ns = now;
	return wire_send(&w->wire, progress, err, .bytes = bytes, .entries = entries);
}

static int
all_read(void *ctx, uint64_t bytes, struct err *err)
{
	struct worker *w = ctx;
	return w->live ? wire_send(&w->wire, upper_read, err, .bytes = bytes) : 0;
}

/* ---- requests: each answers with its own message, or fails ---- */

static int
make_capture(struct worker *w, struct err *err)
{
	if (!w->capture)
		w->capture = capture_new(&w->options, w->upper, w->scratch, err);
	return w->capture ? 0 : -1;
}

static int
run_capture(struct worker *w, unsigned how, struct err *err)
{
	struct frames_sum sum;
	struct layer_counts n;

	if (make_capture(w, err) < 0)
		return -1;
	const int any = capture_run(w->capture, how, &sum, &n, err);
	if (any < 0)
		return -1;
	if (n.skipped || n.torn)
		log_line("capture: %llu entries are no files of a workspace and were left out, "
			 "%llu files became shorter while they were read",
			 (unsigned long long)n.skipped, (unsigned long long)n.torn);
	if (any && mirror_blob(w->store, w->mirror, &sum.digest, err) < 0)
		return -1;
	const size_t bytes = any ? DIGEST_BYTES : 0;
	return wire_send(&w->wire, captured, err, .digest = {(const char *)sum.digest.at, bytes},
			 .diff_id = {(const char *)sum.diff_id.at, bytes}, .bytes = n.bytes,
			 .raw_bytes = n.raw_bytes, .entries = n.entries, .files = n.files);
}

static int
serve_capture(struct worker *w, const struct msg_capture *m, struct err *err)
{
	w->live = false;
	return run_capture(w, m->trust_nothing ? CAPTURE_TRUST_NOTHING : 0, err);
}

static int
serve_capture_as(struct worker *w, const struct msg_capture_as *m, struct err *err)
{
	w->live = m->how & CAPTURE_AS_LIVE;
	return run_capture(w,
			   (m->how & CAPTURE_AS_TRUSTLESS ? CAPTURE_TRUST_NOTHING : 0u) |
			       (m->how & CAPTURE_AS_MAPPED ? CAPTURE_MAPPED : 0u) |
			       (m->how & CAPTURE_AS_ROOT ? CAPTURE_ROOT : 0u),
			   err);
}

static int take_digest(struct str bytes, struct digest *out, struct err *err);

static int
serve_remember(struct worker *w, struct message *m, struct err *err)
{
	const uint32_t which = m->remember.which;
	struct digest snapshot = {0};

	if ((m->remember.snapshot.len && take_digest(m->remember.snapshot, &snapshot, err) < 0) ||
	    make_capture(w, err) < 0)
		return -1;
	const int before = which & REMEMBER_BEFORE ? fd_steal(&m->fds[0]) : -1;
	const int next = which & REMEMBER_NEXT ? fd_steal(&m->fds[1]) : -1;
	const int believed = capture_remember(w->capture, before, next, &snapshot, err);
	if (believed < 0)
		return -1;
	return wire_send(&w->wire, remembered, err, .believed = (uint32_t)believed);
}

/* A list of digests from the wire. -1: its length is not that of any. */
static int
take_digests(struct str bytes, struct digest **out, size_t *out_n, struct err *err)
{
	if (bytes.len % DIGEST_BYTES)
		return err_set(err, ERR_CORRUPT, "a list of digests is cut");
	*out_n = bytes.len / DIGEST_BYTES;
	*out = xnew(*out_n + 1, sizeof **out);
	if (bytes.len)
		memcpy(*out, bytes.at, bytes.len);
	return 0;
}

static int
take_digest(struct str bytes, struct digest *out, struct err *err)
{
	if (bytes.len != DIGEST_BYTES)
		return err_set(err, ERR_CORRUPT, "a digest of %zu bytes", bytes.len);
	memcpy(out->at, bytes.at, DIGEST_BYTES);
	return 0;
}

static int
take_sizes(struct str bytes, size_t n, uint64_t **out, struct err *err)
{
	const uint8_t *p = (const uint8_t *)bytes.at;

	if (bytes.len != 8 * n)
		return err_set(err, ERR_CORRUPT, "%zu bytes of sizes for %zu layers", bytes.len, n);
	*out = xnew(n + 1, sizeof **out);
	for (size_t i = 0; i < bytes.len; i++)
		(*out)[i / 8] |= (uint64_t)p[i] << 8 * (i % 8);
	return 0;
}

static int
serve_snapshot_write(struct worker *w, const struct msg_snapshot_write *m, struct err *err)
{
	auto_free struct digest *layers = NULL, *diff_ids = NULL;
	auto_free uint64_t *sizes = NULL;
	struct digest parent, manifest;
	size_t n = 0, n_diff_ids = 0;

	if (take_digests(m->layers, &layers, &n, err) < 0 ||
	    take_digests(m->diff_ids, &diff_ids, &n_diff_ids, err) < 0 ||
	    take_sizes(m->sizes, n, &sizes, err) < 0)
		return -1;
	if (n != n_diff_ids)
		return err_set(err, ERR_CORRUPT, "%zu diff_ids for %zu layers", n_diff_ids, n);
	if (m->parent.len && take_digest(m->parent, &parent, err) < 0)
		return -1;
	auto_free bool *merged = xnew(n + 1, sizeof *merged);
	for (size_t i = 0; i < n; i++) {
		merged[i] = sizes[i] >> 63;
		sizes[i] &= ~(1ull << 63);
	}
	const struct oci_snapshot s = {
	    .session = m->session,
	    .session_name = m->session_name,
	    .image = m->image,
	    .made_by = m->made_by,
	    .calls = m->calls,
	    .facts = m->facts,
	    .fingerprint = m->fingerprint,
	    .parent = m->parent.len ? &parent : NULL,
	    .layers = layers,
	    .diff_ids = diff_ids,
	    .sizes = sizes,
	    .merged = merged,
	    .n_layers = n,
	    .created_ns = m->created_ns,
	};
	for (size_t i = 0; i < n; i++) /* made beside the acts, maybe while the mirror was away */
		if (merged[i] && mirror_blob(w->store, w->mirror, &layers[i], err) < 0)
			return -1;
	if (oci_write_snapshot(w->store, &s, &manifest, err) < 0 ||
	    mirror_snapshot(w->store, w->mirror, &manifest, err) < 0)
		return -1;
	return wire_send(&w->wire, snapshot_written, err,
			 .manifest = {(const char *)manifest.at, DIGEST_BYTES});
}

static int
say_worked(struct worker *w, const struct layer_counts *n, struct err *err)
{
	return wire_send(&w->wire, worked, err, .bytes = n->raw_bytes, .entries = n->entries);
}

static int
serve_seal(struct worker *w, const struct msg_seal *m, struct err *err)
{
	const struct layer_counts none = {0};
	struct digest snapshot;

	if (!w->capture)
		return err_set(err, ERR_CORRUPT, "nothing was captured yet");
	if (take_digest(m->snapshot, &snapshot, err) < 0 ||
	    capture_seal(w->capture, &snapshot, err) < 0)
		return -1;
	return say_worked(w, &none, err);
}

static int
serve_session_ref(struct worker *w, const struct msg_session_ref *m, struct err *err)
{
	const struct layer_counts none = {0};

	char name[64];
	snprintf(name, sizeof name, "session-%.*s.json", (int)m->id.len, m->id.at);
	if (oci_write_session(w->store, m->id, m->json, err) < 0 ||
	    mirror_ref(w->store, w->mirror, name, err) < 0)
		return -1;
	return say_worked(w, &none, err);
}

static int
serve_snapshot_facts(struct worker *w, const struct msg_snapshot_facts *m, struct err *err)
{
	const struct layer_counts none = {0};
	struct digest manifest;

	if (take_digest(m->manifest, &manifest, err) < 0 ||
	    oci_write_facts(w->store, &manifest, m->facts, err) < 0 ||
	    mirror_snapshot(w->store, w->mirror, &manifest, err) < 0)
		return -1;
	return say_worked(w, &none, err);
}

static int
say_unpacked(void *ctx, const struct digest *made, struct err *err)
{
	struct worker *w = ctx;

	return wire_send(&w->wire, unpacked, err, .digest = {(const char *)made->at, DIGEST_BYTES});
}

static int
serve_unpack(struct worker *w, const struct msg_unpack *m, struct err *err)
{
	auto_free struct digest *layers = NULL, *flat = NULL;
	struct layer_wanted wanted = {.n = 0};
	struct layer_counts n;

	if (take_digests(m->layers, &layers, &wanted.n, err) < 0 ||
	    take_digests(m->flat, &flat, &wanted.n_flat, err) < 0 ||
	    (wanted.n_flat && take_digest(m->into, &wanted.into, err) < 0))
		return -1;
	wanted.layers = layers;
	wanted.flat = flat;
	if (unpack_all(&w->options, &wanted, say_unpacked, w, &n, err) < 0)
		return -1;
	return say_worked(w, &n, err);
}

/* Under another name until it is whole and synced: what has the name can be believed. */
static int
serve_populate(struct worker *w, const struct msg_populate *m, struct err *err)
{
	auto_free struct digest *layers = NULL;
	struct layer_counts n;
	size_t n_layers = 0;

	if (take_digests(m->layers, &layers, &n_layers, err) < 0 ||
	    dirs_remove_tree(w->upper, ".fs", err) < 0)
		return -1;
	auto_close int made = path_open_dir(w->upper, ".fs", 0700, err);
	if (made < 0 || unpack_whole(&w->options, layers, n_layers, made, &n, err) < 0)
		return -1;
	if (syncfs(made) < 0)
		return err_sys(err, errno, "sync a workspace");
	if (dirs_remove_tree(w->upper, "fs", err) < 0)
		return -1;
	if (renameat(w->upper, ".fs", w->upper, "fs") < 0)
		return err_sys(err, errno, "name a workspace");
	if (path_sync_dir(w->upper, err) < 0)
		return -1;
	return say_worked(w, &n, err);
}

/* Whatever is in it, of any owner. */
static int
serve_tree_remove(struct worker *w, struct err *err)
{
	const struct layer_counts none = {0};
	auto_close int list = path_open(w->upper, ".", O_RDONLY | O_DIRECTORY, err);
	DIR *d = list < 0 ? NULL : fdopendir(list);
	const struct dirent *e;
	int result = 0;

	if (!d)
		return list < 0 ? -1 : err_sys(err, errno, "list what is to be removed");
	list = -1; /* the list's own now */
	while (result == 0 && (e = readdir(d)) != NULL)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			result = dirs_remove_tree(w->upper, e->d_name, err);
	closedir(d);
	return result < 0 ? -1 : say_worked(w, &none, err);
}

static int
serve_measure(struct worker *w, struct err *err)
{
	struct layer_counts n = {0};

	if (measure_upper(w->upper, &n.raw_bytes, &n.entries, err) < 0)
		return -1;
	return say_worked(w, &n, err);
}

/* An upper may be on a filesystem of its own (a volume), which the cache's sync does not reach: what
 * that one keeps in its file must be there before the file is synced. */
static int
sync_upper(const struct worker *w, struct err *err)
{
	struct stat upper, cache;

	if (fstat(w->upper, &upper) < 0 || fstat(w->cache, &cache) < 0)
		return err_sys(err, errno, "look at the upper");
	if (upper.st_dev != cache.st_dev && syncfs(w->upper) < 0)
		return err_sys(err, errno, "sync the upper");
	return 0;
}

static int
serve_sync_cache(struct worker *w, const struct msg_sync_cache *m, struct err *err)
{
	auto_free struct digest *digests = NULL;
	const struct layer_counts none = {0};
	size_t n = 0;

	if (take_digests(m->digests, &digests, &n, err) < 0 || sync_upper(w, err) < 0 ||
	    cache_sync(w->cache, digests, n, err) < 0)
		return -1;
	return say_worked(w, &none, err);
}

/* What a mirror must get too is not made without it. */
static int
check_mirror(const struct worker *w, enum msg_id id, struct err *err)
{
	const bool archives = id == MSG_capture || id == MSG_capture_as ||
			      id == MSG_snapshot_write || id == MSG_snapshot_facts ||
			      id == MSG_session_ref || id == MSG_import_job;

	if (!w->mirror_missing || !archives)
		return 0;
	err_set(err, ERR_UNAVAILABLE, "open blob_mirror: %s", strerror(w->mirror_missing));
	return err_hint(err, "mount it, or take blob_mirror out of the configuration");
}

static int
serve(struct worker *w, struct message *m, struct err *err)
{
	if (check_mirror(w, m->id, err) < 0)
		return -1;
	w->told_ns = time_now_ns();
	switch (
	    (unsigned)m->id) { /* the other messages of the table cannot come: wire refuses them */
	case MSG_capture:
		return serve_capture(w, &m->capture, err);
	case MSG_capture_as:
		return serve_capture_as(w, &m->capture_as, err);
	case MSG_remember:
		return serve_remember(w, m, err);
	case MSG_seal:
		return serve_seal(w, &m->seal, err);
	case MSG_snapshot_write:
		return serve_snapshot_write(w, &m->snapshot_write, err);
	case MSG_snapshot_facts:
		return serve_snapshot_facts(w, &m->snapshot_facts, err);
	case MSG_session_ref:
		return serve_session_ref(w, &m->session_ref, err);
	case MSG_unpack:
		return serve_unpack(w, &m->unpack, err);
	case MSG_populate:
		return serve_populate(w, &m->populate, err);
	case MSG_measure:
		return serve_measure(w, err);
	case MSG_tree_remove:
		return serve_tree_remove(w, err);
	case MSG_sync_cache:
		return serve_sync_cache(w, &m->sync_cache, err);
	case MSG_verify_blob:
		return checks_blob(&w->wire, &w->options, w->mirror, err);
	case MSG_verify_snapshot:
		return checks_snapshot(&w->wire, &w->options, w->mirror, err);
	case MSG_collect_scan:
		return collects_scan(&w->collects, &w->wire, &w->options, err);
	case MSG_collect_remove:
		return collects_remove(&w->collects, &w->wire, &w->options, w->mirror, err);
	case MSG_store_next:
		return collects_next(&w->collects, &w->wire, &w->options, err);
	case MSG_collect_trees:
		return collects_trees(&w->collects, &w->wire, &w->options, w->upper, err);
	case MSG_image_remove:
		return imports_remove(&w->wire, &w->options, err);
	default:
		return err_set(err, ERR_CORRUPT, "the manager sent %s again",
			       wire_message_name(m->id));
	}
}

/* ---- the job ---- */

/* The first message: what this worker may touch. Nothing foreign is read before the walls stand. */
static int
take_job(struct worker *w, struct err *err)
{
	if (wire_recv_wait(&w->wire, time_now_ns() + HELLO_S * NS_PER_S, err) < 0)
		return -1;
	struct message *m = &w->wire.message;
	if (m->id == MSG_job_mirror) {
		w->mirror_missing = (int)m->job_mirror.missing;
		if (!w->mirror_missing)
			w->mirror = fd_steal(&m->fds[0]);
		if (wire_recv_wait(&w->wire, time_now_ns() + HELLO_S * NS_PER_S, err) < 0)
			return -1;
	}
	if (m->id == MSG_image_import) {
		w->options.watch = (struct layer_watch){.step = step, .ctx = w};
		return imports_take(&w->wire, &w->options, &w->store, &w->cache, &w->scratch, err);
	}
	if (m->id == MSG_read_job) {
		const struct layer_watch watch = {.step = step, .ctx = w};
		return reads_take(&w->wire, &watch, err);
	}
	if (m->id == MSG_import_job) {
		const struct layer_watch watch = {.step = step, .ctx = w};
		struct err why;
		const bool refused = check_mirror(w, m->id, &why) < 0;
		return receive_take(&w->wire, &watch, w->mirror, refused ? &why : NULL, &w->options,
				    &w->store, err);
	}
	if (m->id != MSG_job)
		return err_set(err, ERR_CORRUPT, "%s came where a job should",
			       wire_message_name(m->id));
	if (str_copy(m->job.subject, w->subject, sizeof w->subject, err) < 0)
		return -1;
	w->store = fd_steal(&m->fds[0]);
	w->cache = fd_steal(&m->fds[1]);
	w->upper = fd_steal(&m->fds[2]);
	w->scratch = fd_steal(&m->fds[3]);
	w->options = (struct layer_options){
	    .store = w->store,
	    .cache = w->cache,
	    .level = m->job.level > 19 ? 19 : (int)m->job.level,
	    .threads = m->job.threads > FRAMES_THREADS_MAX ? FRAMES_THREADS_MAX : m->job.threads,
	    .watch = {.step = step, .all_read = all_read, .ctx = w},
	    .one_owner = m->job.one_owner != 0,
	    .owner = m->job.owner == UINT32_MAX ? -1 : (int64_t)m->job.owner,
	    .group = m->job.group == UINT32_MAX ? -1 : (int64_t)m->job.group,
	};
	const int dirs[] = {w->store, w->cache, w->upper, w->scratch, w->mirror};
	return confine_worker(dirs, w->mirror < 0 ? 4 : 5, err);
}

/* What must be read from the system before nothing outside the job can be. */
static void
prepare(void)
{
	struct rlimit files;

	time_boot_id();
	setlocale(LC_CTYPE, "C.UTF-8"); /* libarchive reads names by it */
	umask(0);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < 1024) {
		files.rlim_cur = files.rlim_max < 1024 ? files.rlim_max : 1024;
		setrlimit(RLIMIT_NOFILE, &files);
	}
}

static int
answer_requests(struct worker *w, struct err *err)
{
	for (;;) {
		struct err why;
		/* No deadline of its own: the manager keeps a worker as long as it has a use for
		 * it, and EOF ends the wait. */
		const int got = wire_recv_wait(&w->wire, UINT64_MAX, err);
		if (got < 0)
			return -1;
		if (serve(w, &w->wire.message, &why) == 0)
			continue;
		if (manager_is_gone(w))
			return 0;
		log_err(&why, "%s", wire_message_name(w->wire.message.id));
		if (wire_send(&w->wire, work_failed, err, .code = why.code, .why = str_of(why.why),
			      .hint = str_of(why.hint)) < 0)
			return -1;
	}
}

int
main(void)
{
	struct worker w = {.store = -1, .cache = -1, .upper = -1, .scratch = -1, .mirror = -1};
	struct err err, ignored;

	log_init("berth-worker", "");
	prepare();
	int result = wire_open(&w.wire, MANAGER_FD, ROLE_WORKER, ROLE_MANAGER, PHASE_OPEN, &err);
	if (result == 0)
		result = take_job(&w, &err);
	log_init("berth-worker", w.subject);
	if (result == 0 && layer_sweep(w.store, w.cache, &ignored) < 0)
		log_err(&ignored, "remove what earlier workers left"); /* no reason not to work */
	if (result == 0)
		result = answer_requests(&w, &err);
	if (result < 0 && err.code == ERR_UNAVAILABLE)
		result = 0; /* EOF of the manager's socket is how a job ends */
	if (result < 0)
		log_err(&err, "a job");
	capture_free(w.capture);
	collects_done(&w.collects);
	wire_close(&w.wire);
	fd_close(&w.store);
	fd_close(&w.cache);
	fd_close(&w.mirror);
	fd_close(&w.upper);
	fd_close(&w.scratch);
	return result < 0 ? err_exit(err.code) : 0;
}
