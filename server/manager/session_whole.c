/* Sessions whose upper is all that there is of their workspace, since this node stacks no layers
 * (node_stacks): a pause captures it whole, a start uses it as it lies there, or has a worker make
 * it from the archives.
 *
 *  1. an upper is used as it is when it is unclean (no archive holds it), when it has no head to
 *     differ from, or when it is known to equal its head's layers: by its row, and that by the boot
 *     it was made in or a sync since;
 *  2. else all that it holds is in archives: it is made anew under another name, synced, renamed. */
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/session.h"

#include <stdio.h>

struct equal {
	const struct session *s;
	bool found;
};

static int
match(void *ctx, const struct upper_row *r, struct err *err)
{
	struct equal *e = ctx;
	const struct session *s = e->s;

	(void)err;
	if (r->n != s->row.upper || r->n_layers != s->n_layers ||
	    (!r->synced && strcmp(r->boot, time_boot_id()) != 0))
		return 0;
	for (size_t i = 0; i < r->n_layers; i++)
		if (!digest_equal(&r->layers[i], &s->layers[i].digest))
			return 0;
	e->found = true;
	return 1;
}

int
session_whole_ready(struct session *s, struct err *err)
{
	struct equal e = {.s = s};

	if (s->row.unclean || !s->row.has_head || s->populated)
		return 1;
	if (index_list_uppers(&s->m->index, s->row.id, match, &e, err) < 0)
		return -1;
	return e.found && session_has_upper(s);
}

int
session_whole_populate(struct session *s, struct err *err)
{
	const struct node *n = &s->m->node;
	const unsigned uid = node_session_uid(n, s->row.slot);
	auto_buf digests = BUF_MAX(4096 * DIGEST_BYTES);
	char name[24];

	s->asked_raw_bytes = s->asked_entries = 0;
	for (size_t i = 0; i < s->n_layers; i++) {
		buf_add(&digests, s->layers[i].digest.at, DIGEST_BYTES);
		s->asked_raw_bytes += s->layers[i].raw_bytes;
		s->asked_entries += s->layers[i].entries;
	}
	if (buf_bad(&digests))
		return err_set(err, ERR_UNAVAILABLE, "the chain has %zu layers", s->n_layers);
	snprintf(name, sizeof name, "upper.%u", s->row.upper);
	auto_close int upper =
	    session_open_dir(s, err) < 0 ? -1 : path_open_dir(s->dir, name, 0700, err);
	if (upper < 0)
		return -1;
	job_end(s->job);
	s->job = NULL;
	if (job_start_for(s->m, s->row.name, upper, n->isolation.own_uids ? uid : UINT32_MAX,
			  session_job, s, &s->job, err) < 0)
		return -1;
	return wire_send(job_wire(s->job), populate, err, .layers = buf_view(&digests));
}

int
session_whole_made(struct session *s, struct err *err)
{
	auto_free struct digest *layers = xnew(s->n_layers + 1, sizeof *layers);
	struct upper_row u = {
	    .n = s->row.upper, .synced = true, .n_layers = s->n_layers, .layers = layers};

	s->populated = true;
	session_drop_seen(s); /* it was of other files */
	memcpy(u.session, s->row.id, sizeof u.session);
	snprintf(u.boot, sizeof u.boot, "%s", time_boot_id());
	for (size_t i = 0; i < s->n_layers; i++)
		layers[i] = s->layers[i].digest;
	return index_put_upper(&s->m->index, &u, err);
}
