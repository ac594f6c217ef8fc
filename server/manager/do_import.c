/* import: a client's stdin goes into a pipe, at whose other end a worker makes layers of it.
 *
 *   TAKING ─layers_imported▶ WRITING ─snapshot_written▶ NAMING ─worked▶ one transaction ▶ answered
 *
 * Invariants
 *  1. the session's row is written after its layers, its manifest and both refs are durable;
 *  2. nobody else gets its name meanwhile: it is asked for again in the end. */
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "index/choice_rows.h"
#include "index/image_rows.h"
#include "manager/do.h"
#include "manager/imported.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { IMPORTS_MAX = 4, IMPORTS_OF_ONE_MAX = 2 };
#define SILENCE_MAX_NS (600 * NS_PER_S)

enum step { TAKING, WRITING, NAMING };

struct taken {
	struct taken *next;
	struct manager *m;
	struct asker asker;
	struct job *job;
	struct timer silence;
	enum step step;
	struct session_row row;   /* of the session to be */
	struct layer_row *layers; /* owned */
	size_t n_layers;
	struct digest manifest;
	char origin[80]; /* the image it stood on */
};

static struct taken *all;
static unsigned n_all;

static void
drop(struct taken *t)
{
	for (struct taken **at = &all; *at; at = &(*at)->next)
		if (*at == t) {
			*at = t->next;
			n_all--;
			break;
		}
	timer_cancel(&t->silence);
	job_end(t->job);
	free(t->layers);
	loop_defer(&t->m->loop, free, t);
}

static void
fail(struct taken *t, const struct err *why)
{
	struct err err = *why;

	err_what(&err, "import %s", t->row.name);
	asker_end(&t->asker, &err);
	drop(t);
}

void
do_import_forget(const struct conn *c, const uint32_t *seq)
{
	for (struct taken *t = all, *next; t; t = next) {
		next = t->next;
		if (t->asker.conn != c || (seq && t->asker.seq != *seq))
			continue;
		asker_forget(&t->asker);
		drop(t);
	}
}

bool
do_import_given(struct conn *c, const struct msg_verb_input_end *m)
{
	for (const struct taken *t = all; t; t = t->next)
		if (t->asker.conn == c && t->asker.seq == m->seq)
			return true; /* the worker sees the end of its pipe, and says what it makes
					of it */
	return false;
}

static void
on_silence(void *ctx)
{
	struct err err;

	err_set(&err, ERR_TIMEOUT, "waited 10 minutes for a word of the worker");
	fail(ctx, &err);
}

/* ---- what came in ---- */

static uint64_t
number_at(struct str bytes, size_t i)
{
	uint64_t n = 0;

	for (int k = 0; k < 8; k++)
		n |= (uint64_t)(uint8_t)bytes.at[8 * i + (size_t)k] << (8 * k);
	return n;
}

static int
take_layers(struct taken *t, const struct msg_layers_imported *m, struct err *err)
{
	const size_t n = m->layers.len / DIGEST_BYTES;

	if (n == 0 || m->layers.len != n * DIGEST_BYTES || m->diff_ids.len != m->layers.len ||
	    m->sizes.len != 8 * n || m->raw_sizes.len != 8 * n || m->entries.len != 8 * n)
		return err_set(err, ERR_CORRUPT, "the worker's answer is cut");
	t->layers = xnew(n, sizeof *t->layers);
	t->n_layers = n;
	for (size_t i = 0; i < n; i++) {
		struct layer_row *l = &t->layers[i];
		memcpy(l->digest.at, m->layers.at + i * DIGEST_BYTES, DIGEST_BYTES);
		memcpy(l->diff_id.at, m->diff_ids.at + i * DIGEST_BYTES, DIGEST_BYTES);
		l->bytes = number_at(m->sizes, i);
		l->raw_bytes = number_at(m->raw_sizes, i);
		l->entries = number_at(m->entries, i);
	}
	return 0;
}

/* What it stands on: an image that this node has, or the node's own /usr. */
static int
take_image(struct taken *t, const struct msg_layers_imported *m, struct err *err)
{
	auto_free struct image_row *image = xnew(1, sizeof *image);

	if (str_copy(m->image, t->origin, sizeof t->origin, err) < 0 ||
	    imported_find(t->m, t->origin, image, err) < 0)
		return -1;
	snprintf(t->row.image, sizeof t->row.image, "%s",
		 t->origin[0] ? t->origin : t->m->image_name);
	return 0;
}

static int
send_snapshot(struct taken *t, const struct msg_layers_imported *m, struct err *err)
{
	return wire_send(job_wire(t->job), snapshot_write, err, .session = str_of(t->row.id),
			 .session_name = str_of(t->row.name), .parent = {NULL, 0},
			 .layers = m->layers, .diff_ids = m->diff_ids, .sizes = m->sizes,
			 .image = str_of(t->row.image), .made_by = STR_LIT("import"),
			 .fingerprint = str_of(t->m->image_name), .created_ns = time_real_ns());
}

static int
send_ref(struct taken *t, struct err *err)
{
	auto_buf json = BUF_MAX(32768);

	buf_text(&json, "{\"version\":1,\"id\":");
	json_put(&json, str_of(t->row.id));
	buf_text(&json, ",\"name\":");
	json_put(&json, str_of(t->row.name));
	buf_text(&json, ",\"owner\":");
	json_put(&json, str_of(t->row.owner));
	buf_text(&json, ",\"image\":");
	json_put(&json, str_of(t->row.image));
	buf_fmt(&json, ",\"head\":\"sha256:%s\",\"network\":", digest_text(&t->manifest).text);
	json_put(&json, str_of(t->row.network));
	buf_fmt(&json, ",\"created_ns\":%llu,\"deleted\":false}",
		(unsigned long long)t->row.created_ns);
	return wire_send(job_wire(t->job), session_ref, err, .id = str_of(t->row.id),
			 .json = buf_view(&json));
}

/* ---- what makes it count ---- */

static int
judge_name(struct manager *m, struct str name, struct err *err)
{
	const struct session *there = session_find(m, name);

	if (!there)
		return 0;
	err_set(err, ERR_USAGE,
		there->state == SESSION_DELETED ? "the name of a deleted session"
						: "there is a session of this name");
	return err_hint(err, "give another one");
}

static int
put_rows(struct taken *t, struct err *err)
{
	struct index *ix = &t->m->index;
	struct snapshot_row row = {.digest = t->manifest, .created_ns = time_real_ns()};
	struct digest *digests = xnew(t->n_layers, sizeof *digests);
	int result = index_put_session(ix, &t->row, err);

	for (size_t i = 0; i < t->n_layers && result == 0; i++) {
		digests[i] = t->layers[i].digest;
		row.bytes += t->layers[i].bytes;
		result = index_put_layer(ix, &t->layers[i], err);
	}
	row.total_bytes = row.bytes;
	memcpy(row.session, t->row.id, sizeof row.session);
	memcpy(row.image, t->row.image, sizeof row.image);
	snprintf(row.made_by, sizeof row.made_by, "import");
	if (result == 0)
		result = index_put_snapshot(ix, &row, digests, t->n_layers, err);
	/* another node's /usr has other programs: said when it is resumed */
	if (result == 0 && !imported_is(t->row.image) &&
	    strcmp(t->row.image, t->m->image_name) != 0)
		result = choice_rows_put(ix, t->row.id, "node", "import", err);
	free(digests);
	return result;
}

static int
commit(struct taken *t, struct session **out, struct err *err)
{
	if (judge_name(t->m, str_of(t->row.name), err) < 0 ||
	    session_pick_slot(t->m, &t->row, err) < 0 || index_begin(&t->m->index, err) < 0)
		return -1;
	if (put_rows(t, err) < 0) {
		index_rollback(&t->m->index);
		return -1;
	}
	if (index_commit(&t->m->index, err) < 0)
		return -1;
	*out = session_load(t->m, &t->row);
	struct err ignored;
	if (session_choices_load(*out, &ignored) <
	    0) /* it is asked for again by the next manager */
		log_err(&ignored, "session %s: its choices", t->row.name);
	session_audit(*out);
	return 0;
}

static void
say_done(struct taken *t)
{
	auto_buf out = BUF_MAX(512);
	const struct digest_text head = digest_text(&t->manifest);

	if (t->asker.json)
		buf_fmt(&out, "{\"session\":\"%s\",\"id\":\"%s\",\"snapshot\":\"sha256:%s\"}\n",
			t->row.name, t->row.id, head.text);
	else
		buf_fmt(&out, "%s: paused, snapshot %.12s\n", t->row.name, head.text);
	asker_print(&t->asker, buf_view(&out));
	asker_end(&t->asker, NULL);
	log_line("session %s: imported as %s by %s", t->row.name, t->row.id, t->row.owner);
	drop(t);
}

/* ---- the worker ---- */

static int
take_answer(struct taken *t, const struct message *msg, struct err *err)
{
	struct session *ignored;

	switch ((int)msg->id) { /* int: the enum has every message there is */
	case MSG_layers_imported:
		if (t->step != TAKING)
			break;
		t->step = WRITING;
		if (take_layers(t, &msg->layers_imported, err) < 0 ||
		    take_image(t, &msg->layers_imported, err) < 0)
			return -1;
		return send_snapshot(t, &msg->layers_imported, err);
	case MSG_snapshot_written:
		if (t->step != WRITING || msg->snapshot_written.manifest.len != DIGEST_BYTES)
			break;
		t->step = NAMING;
		memcpy(t->manifest.at, msg->snapshot_written.manifest.at, DIGEST_BYTES);
		t->row.has_head = true;
		t->row.head = t->manifest;
		return send_ref(t, err);
	case MSG_worked:
		if (t->step != NAMING)
			break;
		if (commit(t, &ignored, err) < 0)
			return -1;
		say_done(t);
		return 0;
	case MSG_progress:
		asker_progress(&t->asker, "reading what comes in", &msg->progress, 0, 0, t->row.created_ns);
		timer_set(&t->m->loop, &t->silence, time_now_ns() + SILENCE_MAX_NS, on_silence, t);
		return 0;
	default:
		break;
	}
	return err_set(err, ERR_INTERNAL, "the worker answered %s", wire_message_name(msg->id));
}

static void
on_job(void *ctx, const struct message *msg, const struct err *failure)
{
	struct taken *t = ctx;
	struct err err;

	if (failure)
		fail(t, failure);
	else if (take_answer(t, msg, &err) < 0)
		fail(t, &err);
}

static int
start(struct taken *t, struct err *err)
{
	struct manager *m = t->m;
	int ends[2];
	const struct msg_import_job body = {.subject = str_of(t->row.name),
					    .threads = (uint32_t)m->config.threads};

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, errno, "make a pipe");
	auto_close int from = ends[0], to = ends[1];
	const int fds[] = {m->store, from};
	if (job_start_with(m, MSG_import_job, &body, fds, 2, on_job, t, &t->job, err) < 0)
		return -1;
	const struct msg_verb_input input = {.seq = t->asker.seq};
	return wire_send_fds(&t->asker.conn->wire, MSG_verb_input, &input, &to, 1, err);
}

/* It lasts as long as who sends takes over it: nobody keeps all places. */
static int
check_places(const struct conn *c, struct err *err)
{
	unsigned own = 0;

	for (const struct taken *t = all; t; t = t->next)
		own += strcmp(t->row.owner, c->principal) == 0;
	if (own >= IMPORTS_OF_ONE_MAX)
		return err_set(err, ERR_AGAIN, "%u imports of this key are under way", own);
	if (n_all == IMPORTS_MAX)
		return err_set(err, ERR_AGAIN, "%d imports are under way", IMPORTS_MAX);
	return 0;
}

int
do_import(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	  struct asker *asker, struct err *err)
{
	struct str name = {NULL, 0};

	(void)s;
	request_text(r, "session", &name);
	if (check_places(c, err) < 0 || judge_name(m, name, err) < 0)
		return -1;
	struct taken *t = xnew(1, sizeof *t);
	*t = (struct taken){.next = all, .m = m, .asker = *asker, .row = {.upper = 1}};
	all = t;
	n_all++;
	t->row.created_ns = t->row.used_ns = time_real_ns();
	id_new("s_", t->row.id);
	snprintf(t->row.owner, sizeof t->row.owner, "%s", c->principal);
	snprintf(t->row.state, sizeof t->row.state, "%s", session_state_name(SESSION_PAUSED));
	snprintf(t->row.network, sizeof t->row.network, "%.39s", m->config.network);
	timer_set(&m->loop, &t->silence, time_now_ns() + SILENCE_MAX_NS, on_silence, t);
	if (str_copy(name, t->row.name, sizeof t->row.name, err) < 0 || start(t, err) < 0) {
		drop(t);
		return -1;
	}
	return 0;
}
