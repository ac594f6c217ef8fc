/* What a session's acts need from disk and index: the layers of its head, its upper, the messages
 * that make a snapshot, and the one transaction that makes it count. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/facts.h"
#include "manager/mapped.h"
#include "manager/session.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LAYERS_MAX = 4096 }; /* what one message holds */

static int
take_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	struct session *s = ctx;

	if (s->n_layers == LAYERS_MAX)
		return err_set(err, ERR_UNAVAILABLE, "more than %d layers", LAYERS_MAX);
	s->layers[s->n_layers++] = *row;
	return 0;
}

int
session_load_layers(struct session *s, const struct digest *snapshot, struct err *err)
{
	if (!s->layers)
		s->layers = xnew(LAYERS_MAX, sizeof *s->layers);
	s->n_layers = 0;
	if (index_list_layers(&s->m->index, snapshot, take_layer, s, err) < 0)
		return -1;
	if (s->n_layers == 0)
		return err_set(err, ERR_CORRUPT, "snapshot %.12s has no layers in the index",
			       digest_text(snapshot).text);
	return 0;
}

int
session_open_upper(struct session *s, unsigned n, struct err *err)
{
	return means_open_fs(s, n, NULL, err);
}

int
session_start_capture(struct session *s, struct err *err)
{
	if (s->job)
		return 0;
	if (session_open_dir(s, err) < 0)
		return -1;
	auto_close int upper = session_open_upper(s, s->row.upper, err);
	return upper < 0 ? -1 : job_start(s->m, s->row.name, upper, session_job, s, &s->job, err);
}

unsigned
session_live_how(const struct session *s)
{
	return CAPTURE_AS_LIVE |
	       (mapped_may_write(s->m->node.cgroup, s->row.id) ? CAPTURE_AS_MAPPED : 0u);
}

void
session_take_captured(struct capture_result *out, const struct msg_captured *c)
{
	*out = (struct capture_result){.any = c->entries > 0 && c->digest.len == DIGEST_BYTES &&
					      c->diff_id.len == DIGEST_BYTES};
	if (!out->any)
		return;
	memcpy(out->layer.digest.at, c->digest.at, DIGEST_BYTES);
	memcpy(out->layer.diff_id.at, c->diff_id.at, DIGEST_BYTES);
	out->layer.bytes = c->bytes;
	out->layer.raw_bytes = c->raw_bytes;
	out->layer.entries = c->entries;
}

/* One that is being made has neither yet: nothing was ever in it. */
bool
session_has_upper(struct session *s)
{
	static const char *const inside[] = {"fs", "image"};
	char name[40];
	struct err err;

	if (session_open_dir(s, &err) < 0)
		return true; /* it is said where it is used */
	for (size_t i = 0; i < sizeof inside / sizeof *inside; i++) {
		snprintf(name, sizeof name, "upper.%u/%s", s->row.upper, inside[i]);
		if (path_exists(s->dir, name))
			return true;
	}
	return false;
}

/* ---- a snapshot's messages ---- */

static void
add_layer(struct buf *digests, struct buf *diff_ids, struct buf *sizes, const struct layer_row *l,
	  bool merged)
{
	const uint64_t bytes = l->bytes | (merged ? 1ull << 63 : 0);

	buf_add(digests, l->digest.at, DIGEST_BYTES);
	buf_add(diff_ids, l->diff_id.at, DIGEST_BYTES);
	uint8_t le[8];
	for (int i = 0; i < 8; i++)
		le[i] = (uint8_t)(bytes >> (8 * i));
	buf_add(sizes, le, sizeof le);
}

static bool
is_merged(const struct session *s, const struct digest *d)
{
	const struct layer_row *made = session_merge_made(s);
	return made && digest_equal(&made->digest, d);
}

static const char *
made_by(const struct session *s)
{
	static const char *const words[] = {"resume", "pause", "restore", "rm", "undo", "redo",
					     "label", "restore", "snapshot"};
	return s->current->made_by[0] ? s->current->made_by : words[s->current->kind];
}

/* An upper that was captured is a lower from here on; one that stood on another head is not used
 * again, be it empty. */
static unsigned
next_upper(const struct session *s)
{
	const struct want *w = s->current;
	const bool ends = w && (w->kind == WANT_PAUSE || w->kind == WANT_REMOVE || want_goes_back(w));
	const bool is_lower = (s->has_manifest || s->n_own) && node_stacks(&s->m->node);

	if (!ends || s->still_unclean)
		return s->row.upper;
	return s->row.upper + (is_lower || want_goes_back(w));
}

int
session_send_snapshot(struct session *s, bool with_b, struct err *err)
{
	auto_buf digests = BUF_MAX(LAYERS_MAX * DIGEST_BYTES);
	auto_buf diff_ids = BUF_MAX(LAYERS_MAX * DIGEST_BYTES);
	auto_buf sizes = BUF_MAX(LAYERS_MAX * 8), facts = BUF_MAX(FACTS_MAX_BYTES);

	session_merge_apply(s);
	s->made_ns = time_real_ns();
	facts_json(&s->current->facts, &facts);
	for (size_t i = 0; i < s->n_base; i++)
		add_layer(&digests, &diff_ids, &sizes, &s->layers[i],
			  is_merged(s, &s->layers[i].digest));
	if (s->a.any)
		add_layer(&digests, &diff_ids, &sizes, &s->a.layer, false);
	if (with_b && s->b.any)
		add_layer(&digests, &diff_ids, &sizes, &s->b.layer, false);
	if (buf_bad(&digests) || buf_bad(&sizes))
		return err_set(err, ERR_UNAVAILABLE, "a chain of more than %d layers", LAYERS_MAX);
	const struct str parent = {(const char *)s->row.head.at,
				   s->row.has_head ? DIGEST_BYTES : 0};
	return wire_send(job_wire(s->job), snapshot_write, err, .session = str_of(s->row.id),
			 .session_name = str_of(s->row.name), .parent = parent,
			 .layers = buf_view(&digests), .diff_ids = buf_view(&diff_ids),
			 .sizes = buf_view(&sizes), .image = str_of(s->row.image),
			 .made_by = str_of(made_by(s)), .calls = str_of(s->current->calls),
			 .facts = buf_view(&facts), .fingerprint = str_of(s->m->image_name),
			 .created_ns = s->made_ns);
}

/* What an index that is made anew needs to know of this node, too (reindex.h): `upper` is the one
 * that the next start mounts, so that one which is there has run, and no archive may hold it; `own`
 * is how many of the head's layers it must not be mounted on, since they stem from it
 * (session_seen.c). */
static void
put_rest(const struct session *s, const struct session_row *row, size_t own, uint64_t deleted_ns,
	 struct buf *json)
{
	const bool removed = s->current && s->current->kind == WANT_REMOVE;
	char retention[RETENTION_TEXT_BYTES];

	retention_format(&s->retention.rule, retention);
	if (s->retention.set)
		buf_fmt(json, ",\"retention\":\"%s\"", retention);
	buf_fmt(json, ",\"created_ns\":%llu,\"used_ns\":%llu,\"upper\":%u,\"own\":%zu,\"slot\":%u",
		(unsigned long long)row->created_ns,
		(unsigned long long)(removed ? time_real_ns() : row->used_ns), next_upper(s), own,
		row->slot);
	if (deleted_ns)
		buf_fmt(json, ",\"deleted_ns\":%llu", (unsigned long long)deleted_ns);
	buf_fmt(json, ",\"deleted\":%s}", deleted_ns ? "true" : "false");
}

static int
send_ref(struct session *s, struct job *job, const struct digest *head, struct err *err)
{
	auto_buf json = BUF_MAX(32768);
	const bool changes = s->current && s->current->change;
	const struct session_row *row = changes ? &s->current->change->row : &s->row;
	const bool removes = s->current && s->current->kind == WANT_REMOVE;
	const uint64_t deleted_ns = removes ? time_real_ns() : row->deleted_ns;
	const bool goes_on = head && next_upper(s) == s->row.upper && node_stacks(&s->m->node);
	size_t own = 0;

	if (goes_on && session_count_own(s, head, &own, err) < 0)
		return -1;
	buf_text(&json, "{\"version\":1,\"id\":");
	json_put(&json, str_of(row->id));
	buf_text(&json, ",\"name\":");
	json_put(&json, str_of(row->name));
	buf_text(&json, ",\"owner\":");
	json_put(&json, str_of(row->owner));
	buf_text(&json, ",\"image\":");
	json_put(&json, str_of(row->image));
	buf_text(&json, ",\"labels\":");
	facts_labels_json(row->labels, &json);
	if (head)
		buf_fmt(&json, ",\"head\":\"sha256:%s\"", digest_text(head).text);
	buf_text(&json, ",\"network\":");
	json_put(&json, str_of(row->network));
	session_limits_json(s, &json, false);
	session_choices_json(s, &json);
	put_rest(s, row, own, deleted_ns, &json);
	return wire_send(job_wire(job), session_ref, err, .id = str_of(s->row.id),
			 .json = buf_view(&json));
}

int
session_send_ref(struct session *s, const struct digest *head, struct err *err)
{
	if (!s->job && job_start(s->m, s->row.name, -1, session_job, s, &s->job, err) < 0)
		return -1;
	return send_ref(s, s->job, head, err);
}

/* ---- what makes it count ---- */

static int
put_snapshot(struct session *s, const struct digest *manifest, bool with_b, struct err *err)
{
	struct index *ix = &s->m->index;
	struct snapshot_row row = {.digest = *manifest, .created_ns = s->made_ns};
	struct digest *digests = xnew(s->n_layers + 2, sizeof *digests);
	size_t n = 0;
	int result = 0;

	for (size_t i = 0; i < s->n_base && result == 0; i++) {
		digests[n++] = s->layers[i].digest;
		row.total_bytes += s->layers[i].bytes;
		if (is_merged(s, &s->layers[i].digest))
			result = index_put_layer(ix, &s->layers[i], err);
	}
	const struct capture_result *const made[] = {&s->a, &s->b};
	for (int i = 0; i < (with_b ? 2 : 1) && result == 0; i++) {
		if (!made[i]->any)
			continue;
		digests[n++] = made[i]->layer.digest;
		row.bytes += made[i]->layer.bytes;
		result = index_put_layer(ix, &made[i]->layer, err);
	}
	row.total_bytes += row.bytes;
	row.has_parent = s->row.has_head;
	row.parent = s->row.head;
	memcpy(row.session, s->row.id, sizeof row.session);
	memcpy(row.image, s->row.image, sizeof row.image);
	snprintf(row.made_by, sizeof row.made_by, "%s", made_by(s));
	memcpy(row.calls, s->current->calls, sizeof row.calls);
	row.facts = s->current->facts;
	if (result == 0)
		result = index_put_snapshot(ix, &row, digests, n, err);
	free(digests);
	return result;
}

int
session_commit_a(struct session *s, struct err *err)
{
	if (index_begin(&s->m->index, err) < 0)
		return -1;
	if (put_snapshot(s, &s->manifest_a, false, err) < 0) {
		index_rollback(&s->m->index);
		return -1;
	}
	return index_commit(&s->m->index, err);
}

/* What the upper holds, or held at this moment, as layers: those that the head has of it, and the new
 * ones. After a pause it stays as it is for a warm resume. */
static int
put_upper(struct session *s, struct err *err)
{
	const size_t others = s->n_layers - s->n_own;
	auto_free struct digest *layers = xnew(s->n_own + 2, sizeof *layers);
	struct upper_row u = {.n = s->row.upper, .layers = layers};

	memcpy(u.session, s->row.id, sizeof u.session);
	snprintf(u.boot, sizeof u.boot, "%s", time_boot_id());
	for (size_t i = others; i < s->n_base; i++)
		layers[u.n_layers++] = s->layers[i].digest;
	if (s->a.any)
		layers[u.n_layers++] = s->a.layer.digest;
	if (s->b.any)
		layers[u.n_layers++] = s->b.layer.digest;
	return index_put_upper(&s->m->index, &u, err);
}

static int
put_all(struct session *s, const struct session_row *row, struct err *err)
{
	struct index *ix = &s->m->index;

	if (s->has_manifest && s->b.any) {
		if (s->wrote_a && index_drop_snapshot(ix, &s->manifest_a, err) < 0)
			return -1;
		if (put_snapshot(s, &s->manifest, true, err) < 0)
			return -1;
	}
	/* of one that is unclean still: which layers the head has of it, not that it equals them */
	if ((s->has_manifest && put_upper(s, err) < 0) || session_undo_commit(s, err) < 0)
		return -1;
	return s->m->owner->commit(ix, row, s->row.has_head ? &s->row.head : NULL, err);
}

int
session_commit_pause(struct session *s, struct err *err)
{
	struct session_row row = s->row;
	const bool removed = s->current->kind == WANT_REMOVE;

	if (s->has_manifest) {
		row.has_head = true;
		row.head = s->manifest;
	}
	if (want_goes_back(s->current)) {
		row.has_head = !s->current->to_nothing;
		row.head = s->current->target;
	}
	row.upper = next_upper(s);
	row.unclean = s->still_unclean;
	row.reason[0] = '\0';
	row.used_ns = time_real_ns();
	if (removed)
		row.deleted_ns = row.used_ns;
	const enum session_state state = removed ? SESSION_DELETED : SESSION_PAUSED;
	snprintf(row.state, sizeof row.state, "%s", session_state_name(state));
	if (index_begin(&s->m->index, err) < 0)
		return -1;
	if (put_all(s, &row, err) < 0) {
		index_rollback(&s->m->index);
		return -1;
	}
	if (index_commit(&s->m->index, err) < 0)
		return -1;
	if (row.upper != s->row.upper)
		session_drop_seen(s); /* it is not captured again */
	s->row = row;
	s->state = state;
	session_audit(s);
	if (s->still_unclean) /* the ref told of the next upper */
		session_ref_later(s);
	return 0;
}

static int
put_live(struct session *s, const struct session_row *row, struct err *err)
{
	if (put_snapshot(s, &s->manifest, false, err) < 0 || put_upper(s, err) < 0 ||
	    session_undo_commit(s, err) < 0)
		return -1;
	return s->m->owner->commit(&s->m->index, row, s->row.has_head ? &s->row.head : NULL, err);
}

int
session_commit_live(struct session *s, struct err *err)
{
	struct session_row row = s->row;

	row.has_head = true;
	row.head = s->manifest;
	if (index_begin(&s->m->index, err) < 0)
		return -1;
	if (put_live(s, &row, err) < 0) {
		index_rollback(&s->m->index);
		return -1;
	}
	if (index_commit(&s->m->index, err) < 0)
		return -1;
	s->row = row;
	session_audit(s);
	return 0;
}

/* ---- errands: what a worker does for a session beside its acts ---- */

struct errand {
	struct session *s;
	struct job *job;
	struct timer deadline;
	bool ref; /* writes the ref of a new session; else syncs its kept uppers */
	struct upper_row rows[64]; /* their layers owned */
	size_t n;
};

static void
errand_free(void *ctx)
{
	struct errand *e = ctx;

	for (size_t i = 0; i < e->n; i++)
		free((void *)(uintptr_t)e->rows[i].layers);
	free(e);
}

static int
collect_unsynced(void *ctx, const struct upper_row *row, struct err *err)
{
	struct errand *e = ctx;

	(void)err;
	if (row->synced || strcmp(row->boot, time_boot_id()) != 0 || row->n_layers == 0 ||
	    e->n == sizeof e->rows / sizeof *e->rows)
		return 0;
	struct digest *layers = xnew(row->n_layers, sizeof *layers);
	memcpy(layers, row->layers, row->n_layers * sizeof *layers);
	e->rows[e->n] = *row;
	e->rows[e->n++].layers = layers;
	return 0;
}

void
session_errand_stop(struct session *s)
{
	timer_cancel(&s->ref_timer);
	if (!s->errand)
		return;
	s->m->n_refs -= s->errand->ref;
	job_end(s->errand->job);
	timer_cancel(&s->errand->deadline);
	loop_defer(&s->m->loop, errand_free, s->errand);
	s->errand = NULL;
}

/* A worker's start is most of the time that a ref takes: it waits a moment for the next one. */
#define REF_JOB_REST_NS (1 * NS_PER_S)

void
session_ref_job_end(void *ctx)
{
	struct manager *m = ctx;

	timer_cancel(&m->ref_job_end);
	job_end(m->ref_job);
	m->ref_job = NULL;
}

static void
resting_job(void *ctx, const struct message *msg, const struct err *failure)
{
	(void)msg;
	(void)failure; /* whatever it says, nobody has asked */
	session_ref_job_end(ctx);
}

static void
keep_job(struct errand *e)
{
	struct manager *m = e->s->m;

	if (m->ref_job)
		return;
	m->ref_job = e->job;
	e->job = NULL;
	job_hand_on(m->ref_job, resting_job, m);
	timer_set(&m->loop, &m->ref_job_end, time_now_ns() + REF_JOB_REST_NS, session_ref_job_end, m);
}

bool
session_errand_blocks(const struct session *s)
{
	return s->errand && s->errand->ref;
}

static void
errand_done(void *ctx, const struct message *msg, const struct err *failure)
{
	struct errand *e = ctx;
	struct session *s = e->s;
	struct err err;

	if (msg && msg->id != MSG_worked)
		return;
	for (size_t i = 0; msg && i < e->n; i++)
		if (index_sync_upper(&s->m->index, &e->rows[i], &err) < 0)
			log_err(&err, "session %s: its kept upper stays unsynced", s->row.name);
	if (failure) /* no loss: after a power cut archives are unpacked, and a pause writes the ref
		      */
		log_err(failure, "session %s: %s", s->row.name,
			e->ref ? "its ref waits for its first pause"
			       : "its kept upper stays unsynced");
	else if (e->ref)
		keep_job(e);
	session_errand_stop(s);
	session_next(s);
	manager_stop_when_idle(s->m);
}

#define ERRAND_MAX_NS (60 * NS_PER_S)

static void
errand_overdue(void *ctx)
{
	struct err err;

	err_set(&err, ERR_TIMEOUT, "the worker does not answer");
	errand_done(ctx, NULL, &err);
}

static int
find_job(struct errand *e, struct err *err)
{
	struct manager *m = e->s->m;

	if (!e->ref || !m->ref_job)
		return job_start(m, e->ref ? "refs" : e->s->row.name,
				 e->ref || !e->s->place.set ? -1 : e->s->place.root, errand_done, e,
				 &e->job, err);
	e->job = m->ref_job;
	m->ref_job = NULL;
	timer_cancel(&m->ref_job_end);
	job_hand_on(e->job, errand_done, e);
	return 0;
}

static void
run_errand(struct session *s, bool ref)
{
	struct errand *e = xnew(1, sizeof *e);
	struct err err;

	*e = (struct errand){.s = s, .ref = ref};
	s->m->n_refs += ref;
	int result =
	    ref ? 0 : index_list_uppers(&s->m->index, s->row.id, collect_unsynced, e, &err);
	if (result == 0)
		result = find_job(e, &err);
	if (result == 0 && ref)
		result = send_ref(s, e->job, s->row.has_head ? &s->row.head : NULL, &err);
	else if (result == 0)
		result = wire_send(job_wire(e->job), sync_cache, &err, .digests = {NULL, 0});
	s->errand = e;
	timer_set(&s->m->loop, &e->deadline, time_now_ns() + ERRAND_MAX_NS, errand_overdue, e);
	if (result < 0)
		errand_done(e, NULL, &err);
}

/* The kept upper is made safe against a power cut. */
void
session_sync_later(struct session *s)
{
	if (s->has_manifest && !s->errand)
		run_errand(s, false);
}

/* A session that was never paused has a ref too. It is written when the first call has had its
 * time, so that a worker's start does not stand beside it; acts that write the ref themselves
 * forget this one, or wait for it once it is under way. */
#define REF_AFTER_NS (500 * NS_PER_MS)
#define REF_AGAIN_NS (20 * NS_PER_MS)

static void
write_ref(void *ctx)
{
	struct session *s = ctx;
	struct manager *m = s->m;
	if (s->step != STEP_IDLE || s->errand)
		session_ref_later(s); /* the acts come first */
	else if (m->n_starting > 0 || m->n_refs > 0) /* and whoever waits for a start */
		timer_set(&m->loop, &s->ref_timer, time_now_ns() + REF_AGAIN_NS, write_ref, s);
	else
		run_errand(s, true);
}

void
session_ref_later(struct session *s)
{
	timer_set(&s->m->loop, &s->ref_timer, time_now_ns() + REF_AFTER_NS, write_ref, s);
}
