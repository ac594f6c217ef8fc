/* files cat diff find export: a worker reads a snapshot's layers and prints into a pipe, whose
 * other end a conn has. The manager sees neither what is read nor what is printed.
 *
 * Invariants
 *  1. when nobody waits for the answer any more, the worker's link is closed, and it ends;
 *  2. what a worker may read is the store, and of a live workspace its upper. */
#include "base/fd.h"
#include "base/log.h"
#include "base/time.h"
#include "manager/do.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { READS_MAX = 64, READS_OF_ONE_MAX = 16, LAYERS_MAX = 4096 };
#define SILENCE_MAX_NS (600 * NS_PER_S) /* a worker at work says so five times a second */

struct read {
	struct read *next;
	struct manager *m;
	struct asker asker;
	struct job *job;
	struct timer silence;
	char what[128]; /* for errors: "cat 4c1f6f0b32aa" */
};

static struct read *reads;
static unsigned n_reads;

/* ---- the end of one ---- */

static void
drop(struct read *rd)
{
	for (struct read **at = &reads; *at; at = &(*at)->next)
		if (*at == rd) {
			*at = rd->next;
			n_reads--;
			break;
		}
	timer_cancel(&rd->silence);
	job_end(rd->job);
	loop_defer(&rd->m->loop, free, rd);
}

static void
finish(struct read *rd, const struct err *failure)
{
	struct err err;

	if (failure) {
		err = *failure;
		err_what(&err, "%s", rd->what);
	}
	asker_end(&rd->asker, failure ? &err : NULL);
	drop(rd);
}

void
do_read_forget(const struct conn *c, const uint32_t *seq)
{
	for (struct read *rd = reads, *next; rd; rd = next) {
		next = rd->next;
		if (rd->asker.conn != c || (seq && rd->asker.seq != *seq))
			continue;
		asker_forget(&rd->asker);
		drop(rd);
	}
}

static void
on_silence(void *ctx)
{
	struct err err;

	err_set(&err, ERR_TIMEOUT, "waited 10 minutes for a word of the worker");
	finish(ctx, &err);
}

static void
on_job(void *ctx, const struct message *msg, const struct err *failure)
{
	struct read *rd = ctx;

	if (failure || msg->id == MSG_worked)
		finish(rd, failure);
	else
		timer_set(&rd->m->loop, &rd->silence, time_now_ns() + SILENCE_MAX_NS, on_silence,
			  rd);
}

/* ---- the beginning of one ---- */

/* Its pipe: the worker's end does not wait, since it looks at the manager's link too; nor does
 * conn's. */
static int
start(struct read *rd, struct session *live, struct err *err)
{
	struct manager *m = rd->m;
	int ends[2];
	const struct msg_read_job body = {
	    .subject = str_of(rd->what),
	    .live = live != NULL,
	    .threads = (uint32_t)m->config.threads,
	    .one_owner = m->node.isolation.ids == 1,
	};

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return err_sys(err, errno, "make a pipe");
	auto_close int from = ends[0], to = ends[1];
	auto_close int upper = live ? session_open_upper(live, live->row.upper, err) : -1;
	if (live && upper < 0)
		return -1;
	const int fds[] = {m->store, to, live ? upper : m->store};
	if (job_start_with(m, MSG_read_job, &body, fds, 3, on_job, rd, &rd->job, err) < 0)
		return -1;
	const struct msg_verb_pipe pipe = {.seq = rd->asker.seq};
	return wire_send_fds(&rd->asker.conn->wire, MSG_verb_pipe, &pipe, &from, 1, err);
}

static int
collect_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	struct buf *out = ctx;

	buf_add(out, row->digest.at, DIGEST_BYTES);
	return buf_bad(out) ? err_set(err, ERR_UNAVAILABLE, "more than %d layers", LAYERS_MAX) : 0;
}

/* snapshot: NULL: nothing. */
static int
send_view(struct read *rd, const struct digest *snapshot, uint32_t parent, uint64_t created_ns,
	  bool live, struct err *err)
{
	auto_buf layers = BUF_MAX(LAYERS_MAX * DIGEST_BYTES);

	if (snapshot && index_list_layers(&rd->m->index, snapshot, collect_layer, &layers, err) < 0)
		return -1;
	return wire_send(
	    job_wire(rd->job), read_view, err,
	    .snapshot = {snapshot ? (const char *)snapshot->at : NULL, snapshot ? DIGEST_BYTES : 0},
	    .parent = parent, .created_ns = created_ns, .live = live, .layers = buf_view(&layers));
}

struct plan { /* what a verb reads */
	struct digest at[2];
	bool there[2];
	struct session *live; /* whose upper is on top of the second; NULL: none */
	bool above_nothing;   /* on a node that stacks no layers, the upper is all there is */
	uint32_t act, flags;
	uint64_t from, limit;
	struct str path;
	char tag[160];
};

static int
send_plan(struct read *rd, const struct plan *p, size_t n, struct err *err)
{
	for (size_t i = 0; i < n; i++) {
		const bool live = i == 1 && p->live;
		const bool none = !p->there[i] || (live && p->above_nothing);
		if (send_view(rd, none ? NULL : &p->at[i], (uint32_t)i, 0, live, err) < 0)
			return -1;
	}
	return wire_send(job_wire(rd->job), read_go, err, .act = p->act, .flags = p->flags,
			 .from = p->from, .limit = p->limit, .path = p->path,
			 .tag = str_of(p->tag));
}

/* ---- find: all snapshots of a session ---- */

struct lineage {
	struct read *rd;
	struct digest *at; /* owned */
	uint32_t n;
};

static int
send_snapshot(void *ctx, const struct snapshot_row *row, struct err *err)
{
	struct lineage *c = ctx;
	uint32_t parent = c->n;

	if (c->n == READ_VIEWS_MAX)
		return err_set(err, ERR_USAGE, "more than %d snapshots", READ_VIEWS_MAX);
	for (uint32_t i = c->n; row->has_parent && i-- > 0;)
		if (digest_equal(&c->at[i], &row->parent)) {
			parent = i;
			break;
		}
	c->at[c->n] = row->digest;
	c->n++;
	return send_view(c->rd, &row->digest, parent, row->created_ns, false, err);
}

static int
send_all(struct read *rd, const struct session *s, const struct plan *p, struct err *err)
{
	struct lineage c = {.rd = rd, .at = xnew(READ_VIEWS_MAX, sizeof *c.at)};
	const int sent = index_list_snapshots(&rd->m->index, s->row.id, send_snapshot, &c, err);

	free(c.at);
	return sent < 0 ? -1 : send_plan(rd, p, 0, err);
}

/* ---- diff: between which two ---- */

static int
take_row(void *ctx, const struct snapshot_row *row, struct err *err)
{
	(void)err;
	*(uint64_t *)ctx = row->created_ns + 1;
	return 0;
}

static int
plan_parent(struct manager *m, const struct snapshot_row *row, struct plan *p, struct err *err)
{
	uint64_t found = 0;

	p->at[1] = row->digest;
	p->there[1] = true;
	p->there[0] = row->has_parent;
	if (!row->has_parent)
		return 0; /* all of it is new */
	p->at[0] = row->parent;
	if (index_match_snapshots(&m->index, "", str_of(digest_text(&row->parent).text), take_row,
				  &found, err) < 0)
		return -1;
	if (found)
		return 0;
	err_set(err, ERR_ABSENT, "its parent %.12s is gone", digest_text(&row->parent).text);
	return err_hint(err, "name two snapshots");
}

static void
plan_live(struct manager *m, struct session *s, struct plan *p)
{
	p->at[1] = s->row.head;
	p->there[1] = s->row.has_head;
	if (session_has_upper(s)) {
		p->live = s;
		p->above_nothing = !node_stacks(&m->node);
	}
}

static int
plan_diff(struct conn *c, const struct request *r, struct session *s,
	  const struct snapshot_row *row, struct plan *p, struct err *err)
{
	struct snapshot_row other;
	struct str a = {NULL, 0}, b;

	request_text(r, "a", &a);
	const bool names_session = str_is(a, s->row.name) || str_is(a, s->row.id);
	const bool two = request_text(r, "b", &b), live = request_flag(r, "live");
	if (two && live)
		return err_set(err, ERR_USAGE, "a second snapshot, or --live, not both");
	p->act = READ_DIFF;
	p->flags |=
	    (request_flag(r, "stat") ? READ_STAT : 0) | (request_flag(r, "u") ? READ_UNIFIED : 0);
	if (!two && !live && !names_session)
		return plan_parent(c->m, row, p, err);
	p->at[0] = row->digest;
	p->there[0] = true;
	if (!two) {
		plan_live(c->m, s, p);
		return 0;
	}
	if (do_find_snapshot(c, b, NULL, &other, NULL, err) < 0)
		return -1;
	p->at[1] = other.digest;
	p->there[1] = true;
	return 0;
}

/* ---- the others ---- */

static int
plan_export(const struct request *r, const struct session *s, const struct snapshot_row *row,
	    struct plan *p, struct err *err)
{
	const bool docker = request_flag(r, "docker"), tar = request_flag(r, "tar");

	if (docker + tar + request_flag(r, "oci") > 1)
		return err_set(err, ERR_USAGE, "one of --oci, --docker and --tar");
	p->act = docker ? READ_EXPORT_DOCKER : tar ? READ_EXPORT_TAR : READ_EXPORT_OCI;
	snprintf(p->tag, sizeof p->tag, "berth/%s:%.12s", s->row.name,
		 digest_text(&row->digest).text);
	return 0;
}

static int
make_plan(struct conn *c, const struct request *r, struct session *s, struct plan *p,
	  struct err *err)
{
	struct str ref = {NULL, 0};
	struct snapshot_row row;

	*p = (struct plan){.flags = r->json ? READ_JSON : 0, .limit = UINT64_MAX, .path = {"", 0}};
	if (r->verb->id == VERB_find) {
		request_text(r, "pattern", &p->path);
		p->act = READ_FIND;
		return p->path.len ? 0 : err_set(err, ERR_USAGE, "the pattern is empty");
	}
	request_text(r, r->verb->parameters[0].name, &ref);
	if (do_find_snapshot(c, ref, NULL, &row, NULL, err) < 0)
		return -1;
	p->at[0] = row.digest;
	p->there[0] = true;
	switch ((int)r->verb->id) { /* int: all other verbs are none of these */
	case VERB_files:
		request_text(r, "path", &p->path);
		p->act = READ_FILES;
		p->flags |= request_flag(r, "recursive") ? READ_RECURSIVE : 0;
		return 0;
	case VERB_cat:
		request_text(r, "path", &p->path);
		p->act = READ_CAT;
		p->from = request_number(r, "from", 0);
		p->limit = request_number(r, "limit", UINT64_MAX);
		return 0;
	case VERB_export:
		return plan_export(r, s, &row, p, err);
	default:
		return plan_diff(c, r, s, &row, p, err);
	}
}

/* Who reads and does not take what comes keeps no place from others. */
static int
check_places(const struct conn *c, struct err *err)
{
	unsigned own = 0;

	for (const struct read *rd = reads; rd; rd = rd->next)
		own += rd->asker.conn && strcmp(rd->asker.conn->principal, c->principal) == 0;
	if (own >= READS_OF_ONE_MAX)
		return err_set(err, ERR_AGAIN, "this key is reading %u snapshots", own);
	if (n_reads == READS_MAX)
		return err_set(err, ERR_AGAIN, "%d snapshots are being read", READS_MAX);
	return 0;
}

int
do_read(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	struct asker *asker, struct err *err)
{
	struct plan p;

	if (check_places(c, err) < 0 || make_plan(c, r, s, &p, err) < 0)
		return -1;
	struct read *rd = xnew(1, sizeof *rd);
	*rd = (struct read){.next = reads, .m = m, .asker = *asker};
	snprintf(rd->what, sizeof rd->what, "%.20s %.40s", r->verb->name, s->row.name);
	reads = rd;
	n_reads++;
	timer_set(&m->loop, &rd->silence, time_now_ns() + SILENCE_MAX_NS, on_silence, rd);
	const size_t views = p.act == READ_DIFF ? 2 : 1;
	if (start(rd, p.live, err) < 0 ||
	    (p.act == READ_FIND ? send_all(rd, s, &p, err) : send_plan(rd, &p, views, err)) < 0) {
		drop(rd);
		return -1;
	}
	return 0;
}
