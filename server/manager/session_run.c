/* From new, paused or failed to running: every layer under the workspace is there (unpacked by a
 * worker where it is not), the mounts are prepared, a keeper starts pid 1. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/fork_ready.h"
#include "manager/imported.h"
#include "manager/session.h"
#include "manager/spares.h"
#include "manager/stack.h"
#include "manager/throwaway.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define CACHE_MAX_NS (3600 * NS_PER_S)
#define START_MAX_NS (20 * NS_PER_S)
#define TURN_MAX_NS  (300 * NS_PER_S)

/* ---- asking a worker for what is missing ---- */

static void
ask_layer(struct session *s, size_t layer, struct buf *digests)
{
	const struct layer_row *l = &s->layers[layer];

	buf_add(digests, l->digest.at, DIGEST_BYTES);
	s->asked_raw_bytes += l->raw_bytes;
	s->asked_entries += l->entries;
}

/* All of it in one request, which the worker spreads over its threads. */
static int
ask_worker(struct session *s, const struct lowers *lowers, struct err *err)
{
	auto_buf layers = BUF_MAX(4096 * DIGEST_BYTES), flat = BUF_MAX(4096 * DIGEST_BYTES);

	if (!s->job && job_start(s->m, s->row.name, -1, session_job, s, &s->job, err) < 0)
		return -1;
	s->asked_raw_bytes = s->asked_entries = 0;
	/* The lowest first: what was merged of many takes longest, and shall not come last. */
	for (size_t i = lowers->n_missing; i-- > 0;)
		ask_layer(s, lowers->missing[i], &layers);
	for (size_t i = 0; lowers->flat_missing && i < s->n_flat; i++)
		ask_layer(s, i, &flat);
	if (buf_bad(&flat))
		return err_set(err, ERR_UNAVAILABLE, "the chain has %zu layers", s->n_layers);
	return wire_send(job_wire(s->job), unpack, err, .layers = buf_view(&layers),
			 .flat = buf_view(&flat),
			 .into = {(const char *)s->flat.at, flat.len ? DIGEST_BYTES : 0});
}

void
session_run_unpacked(struct session *s, const struct msg_unpacked *m)
{
	struct digest made;

	if (m->digest.len != DIGEST_BYTES)
		return;
	memcpy(made.at, m->digest.at, DIGEST_BYTES);
	manager_note_cached(s->m, &made);
}

/* ---- starting ---- */

static void
close_images(int images[IMAGE_ROW_LAYERS_MAX])
{
	for (int i = 0; i < IMAGE_ROW_LAYERS_MAX; i++)
		fd_close(&images[i]);
}

static int
start_on(struct session *s, const struct lowers *lowers, const int *images, size_t n_images,
	 struct err *err)
{
	struct manager *m = s->m;
	auto_close int volume = -1;

	if (prepare_is_populated(&m->node, s->row.id) &&
	    prepare_clear(&m->node, s->row.id, err) < 0)
		return -1;
	auto_close int spill =
	    keeper_open_dir(s, "spill", 02750, err); /* read inside by its group, as its files are */
	if (spill < 0 || means_place(s, &volume, err) < 0 || session_hold_lowers(s, err) < 0)
		return -1;
	int dirs[MOUNTS_MAX] = {-1, -1, -1, -1, -1, -1, -1, -1};
	bool read_only[MOUNTS_MAX] = {false};
	struct network network;
	if (session_network_find(s, &network, err) < 0)
		return -1;
	const struct limits limits = session_limits(s);
	const struct workspace w = {
	    .id = s->row.id,
	    .slot = s->row.slot,
	    .session_dir = s->dir,
	    .upper = s->row.upper,
	    .fresh_work = true, /* never the work of an earlier mount */
	    .volume = volume >= 0 ? &volume : NULL,
	    .lowers = lowers->at,
	    .volumes = lowers->volume,
	    .n_lowers = lowers->n,
	    .image = n_images ? images[n_images - 1] : m->image,
	    .image_host = n_images == 0,
	    .images = images,
	    .n_images = n_images ? n_images - 1 : 0,
	    .limits = &limits,
	    .nested = choices_wall(&m->config, &s->choices, WALL_NESTED),
	    .mounts = dirs,
	    .mounts_read_only = read_only,
	    .n_mounts = s->choices.n_mounts,
	    .network = &network,
	};
	const bool host = network.kind == NETWORK_HOST;
	/* Here, not in the process that builds: it is compiled once for all sessions. */
	int result = node_seccomp(&m->node, host, w.nested, err) < 0
			 ? -1
			 : session_open_mounts(s, dirs, read_only, err);
	if (result == 0)
		result = building_begin(s, &w, spill, err);
	for (size_t i = 0; i < MOUNTS_MAX; i++)
		fd_close(&dirs[i]);
	return result < 0 ? -1 : keeper_spawn(s, err); /* meanwhile: ready when the workspace is */
}

/* What takes mounts cannot be had without them; a session that asks for it does not start without. */
static int
check_plain(const struct session *s, bool has_image, struct err *err)
{
	const char *what = has_image			   ? "an image"
			   : s->choices.n_mounts	   ? "mounts"
			   : choices_walls(&s->m->config, &s->choices) ? "setuid, nested or tmp-in-memory"
								       : NULL;

	if (node_stacks(&s->m->node) || !what)
		return 0;
	err_set(err, ERR_UNAVAILABLE, "on isolation rung process there is no way to have %s", what);
	return err_hint(err, "run the server where it has more rights: berthd --check");
}

static int
start_keeper(struct session *s, const struct lowers *lowers, struct err *err)
{
	auto_free struct image_row *row = xnew(1, sizeof *row);
	int images[IMAGE_ROW_LAYERS_MAX];

	for (int i = 0; i < IMAGE_ROW_LAYERS_MAX; i++)
		images[i] = -1;
	int result = imported_find(s->m, s->row.image, row, err);
	if (result >= 0 && check_plain(s, result > 0, err) < 0)
		result = -1;
	if (result > 0)
		result = imported_open(s->m, row, images, err);
	if (result == 0)
		result = start_on(s, lowers, images, row->n_layers, err);
	close_images(images);
	return result;
}

static int
start_with(struct session *s, const struct lowers *lowers, struct err *err)
{
	job_end(s->job);
	s->job = NULL;
	if (s->only_cache) {
		fork_ready_done(s, NULL);
		return 0;
	}
	if (s->m->n_starting >= SESSION_STARTS_MAX) {
		s->turn = s->m->turns++;
		session_enter(s, STEP_TURN, time_now_ns() + TURN_MAX_NS, "other sessions to start");
		return 0;
	}
	session_enter(s, STEP_START, time_now_ns() + START_MAX_NS, "its first process to start");
	return start_keeper(s, lowers, err);
}

static int
go_on_whole(struct session *s, struct err *err)
{
	static const struct lowers none;
	const int ready = session_whole_ready(s, err);

	if (ready < 0)
		return -1;
	if (ready)
		return start_with(s, &none, err);
	session_enter(s, STEP_CACHE, time_now_ns() + CACHE_MAX_NS, "its files to be unpacked");
	return session_whole_populate(s, err);
}

static int
build_view(struct session *s, const struct lowers *lowers, struct err *err)
{
	auto_free struct image_row *row = xnew(1, sizeof *row);
	int images[IMAGE_ROW_LAYERS_MAX];

	for (int i = 0; i < IMAGE_ROW_LAYERS_MAX; i++)
		images[i] = -1;
	int result = imported_find(s->m, s->row.image, row, err);
	if (result > 0)
		result = imported_open(s->m, row, images, err);
	const size_t n = row->n_layers;
	const struct workspace w = {
	    .id = s->row.id,
	    .slot = s->row.slot,
	    .session_dir = s->dir,
	    .view = true,
	    .lowers = lowers->at,
	    .volumes = lowers->volume,
	    .n_lowers = lowers->n,
	    .image = n ? images[n - 1] : s->m->image,
	    .images = images,
	    .n_images = n ? n - 1 : 0,
	};
	if (result == 0)
		result = building_begin(s, &w, -1, err);
	close_images(images);
	return result;
}

int
session_run_view(struct session *s, struct err *err)
{
	struct lowers lowers = {0};

	s->n_flat = stack_flat(s->m, s->layers, s->n_layers, &s->flat);
	int result = stack_find(s, &lowers, err);
	if (result == 0 && !stack_is_whole(&lowers))
		result = ask_worker(s, &lowers, err) < 0 ? -1 : 1;
	else if (result == 0)
		result = build_view(s, &lowers, err);
	stack_close(&lowers);
	return result;
}

/* Its directory is there, and it stands on the image alone. */
int
session_start_spare(struct session *s, struct err *err)
{
	return start_keeper(s, &(struct lowers){0}, err);
}

/* Goes on until something must be waited for. */
static int
go_on(struct session *s, struct err *err)
{
	if (!node_stacks(&s->m->node))
		return go_on_whole(s, err);
	struct lowers lowers = {0};

	int result = stack_find(s, &lowers, err);
	if (result == 0 && lowers.too_many) {
		stack_close(&lowers);
		s->kept_unused = true;
		return stack_plan(s, err) < 0 ? -1 : go_on(s, err);
	}
	if (result == 0 && !stack_is_whole(&lowers)) {
		session_enter(s, STEP_CACHE, time_now_ns() + CACHE_MAX_NS,
			      "its layers to be unpacked");
		result = ask_worker(s, &lowers, err);
	} else if (result == 0) {
		result = start_with(s, &lowers, err);
	}
	stack_close(&lowers);
	return result;
}

void
session_run_turn(struct session *s)
{
	struct err err;

	if (go_on(s, &err) < 0)
		session_run_failed(s, &err);
}

void
session_run_built(struct session *s, int fds[KEEPER_FDS], const struct err *failure)
{
	struct err err;

	if (failure)
		session_run_failed(s, failure);
	else if (keeper_start(s, fds, &err) < 0)
		session_run_failed(s, &err);
}

void
session_run_cache(struct session *s)
{
	struct err err;

	session_enter(s, STEP_CACHE, 0, "its layers");
	if (session_load_layers(s, &s->row.head, &err) < 0) {
		session_run_failed(s, &err);
		return;
	}
	s->n_base = s->n_layers;
	s->n_own = 0;
	if (stack_plan(s, &err) < 0 || go_on(s, &err) < 0)
		session_run_failed(s, &err);
}

void
session_run_begin(struct session *s)
{
	struct err err;

	log_line("session %s: starts", s->row.name);
	if (s->keeper.unnamed) {
		session_enter(s, STEP_START, time_now_ns() + START_MAX_NS, "its keeper");
		if (keeper_name(s, &err) < 0)
			session_run_failed(s, &err);
		return;
	}
	session_enter(s, STEP_CACHE, 0, "its layers");
	if (session_check_node(s, s->current->base_differs, &err) < 0 ||
	    session_leave_lost(s, &err) < 0 ||
	    (s->state != SESSION_NEW && session_claim(s, SESSION_RESUMING, &err) < 0)) {
		session_finish(s, &err);
		return;
	}
	if (s->state == SESSION_RESUMING)
		session_audit(s);
	s->n_layers = s->n_base = s->n_own = 0;
	s->populated = false;
	if (s->row.has_head && session_load_layers(s, &s->row.head, &err) < 0) {
		session_run_failed(s, &err);
		return;
	}
	if (node_stacks(&s->m->node)) { /* the upper goes on on what it has always stood on */
		if (session_load_own(s, &err) < 0) {
			session_run_failed(s, &err);
			return;
		}
		s->n_layers = s->n_base;
	}
	s->kept_unused = false;
	if (stack_plan(s, &err) < 0 || go_on(s, &err) < 0)
		session_run_failed(s, &err);
}

void
session_run_interrupt(struct session *s, const struct err *why)
{
	struct err err;

	for (const struct want *w = s->wants; w; w = w->next)
		if (w->kind == WANT_RUN)
			return;
	if (s->step != STEP_CACHE || s->state != SESSION_RESUMING)
		return;
	if (session_set_state(s, SESSION_PAUSED, "", &err) < 0)
		session_run_failed(s, &err);
	else
		session_finish(s, why);
}

void
session_run_job(struct session *s, const struct message *msg, const struct err *failure)
{
	struct err err;

	if (failure) {
		session_run_failed(s, failure);
		return;
	}
	if (msg->id == MSG_progress) {
		session_extend(s, time_now_ns() + CACHE_MAX_NS);
		session_progress(s, &msg->progress, s->asked_raw_bytes, s->asked_entries);
		return;
	}
	if (msg->id == MSG_unpacked)
		session_run_unpacked(s, &msg->unpacked);
	if (msg->id != MSG_worked)
		return;
	if ((!node_stacks(&s->m->node) && session_whole_made(s, &err) < 0) || go_on(s, &err) < 0)
		session_run_failed(s, &err);
}

/* A paused session on another state of the node than it was made on: said, not hidden. */
static void
note_fingerprint(struct session *s, char *notice, size_t size)
{
	notice[0] = '\0';
	if (!imported_is(s->row.image) && strcmp(s->row.image, s->m->image_name) != 0)
		snprintf(notice, size,
			 "the node's own packages have changed since this session was made");
}

/* With the node it is of from here on, in one transaction. */
static int
set_running(struct session *s, const char *notice, bool *out_news, struct err *err)
{
	struct index *ix = &s->m->index;

	if (index_begin(ix, err) < 0)
		return -1;
	if (session_set_state(s, SESSION_RUNNING, notice, err) < 0 ||
	    session_put_node(s, out_news, err) < 0) {
		index_rollback(ix);
		return -1;
	}
	if (index_commit(ix, err) < 0)
		return -1;
	session_note_node(s);
	return 0;
}

void
session_run_started(struct session *s)
{
	struct err err;
	char notice[160];

	if (s->step != STEP_START)
		return;
	note_fingerprint(s, notice, sizeof notice);
	bool of_this_node = false;
	const bool was_new = s->state == SESSION_NEW;
	const bool moved = strcmp(s->choices.node, s->m->node_name) != 0;
	if (means_apply(s, &err) < 0 ||
	    (moved ? set_running(s, notice, &of_this_node, &err)
		   : session_set_running(s, notice, &err)) < 0) {
		session_run_failed(s, &err);
		return;
	}
	if (s->current && s->current->kind == WANT_PUT)
		session_put_running(s);
	else
		session_finish(s, NULL);
	if ((was_new || of_this_node) && !s->choices.throwaway)
		session_ref_later(s);
}

/* What ran stops; the files stay as they were. A session that never ran goes as it came. */
void
session_run_failed(struct session *s, const struct err *failure)
{
	struct err err, kept = *failure;
	struct err clear;

	if (s->spare) {
		spares_lost(s, failure);
		return;
	}
	if (s->only_cache) {
		fork_ready_done(s, failure);
		return;
	}
	if (s->step != STEP_CACHE && s->step != STEP_TURN && s->step != STEP_START)
		return;
	if (kept.code == ERR_CORRUPT && s->step == STEP_CACHE)
		session_say_good(s, &kept);
	building_end(s);
	if (keeper_end(s, &clear) < 0 || keeper_clear(s, &clear) < 0)
		log_err(&clear, "session %s", s->row.name);
	if (session_set_state(s, SESSION_FAILED, kept.why, &err) < 0)
		log_err(&err, "session %s", s->row.name);
	session_finish(s, &kept);
	if (s->choices.throwaway)
		throwaway_lose(s, &kept);
}
