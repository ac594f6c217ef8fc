/* Which of the head's layers were captured of the upper that the session has now, and what those
 * captures saw of it.
 *
 *  1. the head's topmost n_own layers stem from this upper: its row in `uppers` names them. The upper
 *     stands on those below for all its life: mounted on its own layers, what it has removed since would
 *     come back;
 *  2. a capture that is given what the last one saw makes one more layer on top of the head. Without
 *     (torn, of another boot or head) all of the upper is captured: that layer takes the place of the
 *     n_own ones, so nothing that is not in the upper any more can be seen through it;
 *  3. seen.N is sealed with the head that it belongs to, and has its name when that is committed: a crash
 *     at any moment leaves one that is right, or is not believed. The manager never reads it. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

/* A chain that grows and grows is begun anew before a message cannot hold it any more. */
enum { NAME_BYTES = 32, CHAIN_MAX = 2048 };

static int
count_own(void *ctx, const struct upper_row *r, struct err *err)
{
	struct session *s = ctx;

	if (r->n != s->row.upper)
		return 0;
	bool match = r->n_layers <= s->n_layers;
	for (size_t i = 0; match && i < r->n_layers; i++)
		match = digest_equal(&r->layers[i],
				     &s->layers[s->n_layers - r->n_layers + i].digest);
	if (!match)
		return err_set(err, ERR_CORRUPT,
			       "index.db: upper.%u is of other layers than its session's head", r->n);
	s->n_own = r->n_layers;
	return 1;
}

int
session_load_own(struct session *s, struct err *err)
{
	s->n_own = 0;
	s->n_base = s->n_layers;
	if (!node_stacks(&s->m->node)) {
		s->n_own = s->n_layers; /* a whole upper */
	} else if (index_list_uppers(&s->m->index, s->row.id, count_own, s, err) < 0) {
		return -1;
	} else if (s->n_own && !session_has_upper(s)) { /* a new one will stand on all of them */
		s->n_own = 0;
		return index_drop_upper(&s->m->index, s->row.id, s->row.upper, err);
	}
	s->n_base = s->n_layers - s->n_own;
	return 0;
}

static int
count_of_upper(void *ctx, const struct upper_row *r, struct err *err)
{
	struct upper_row *of = ctx;

	(void)err;
	if (r->n != of->n)
		return 0;
	of->n_layers = r->n_layers;
	return 1;
}

int
session_count_own(struct session *s, const struct digest *head, size_t *out, struct err *err)
{
	struct upper_row of = {.n = s->row.upper};

	if (s->row.has_head && digest_equal(head, &s->row.head)) {
		if (index_list_uppers(&s->m->index, s->row.id, count_of_upper, &of, err) < 0)
			return -1;
		*out = of.n_layers;
	} else { /* the one that is being made: as put_upper will have it */
		*out = s->n_base - (s->n_layers - s->n_own) + s->a.any + s->b.any;
	}
	return 0;
}

/* The upper that the next start would mount again is one that archives hold, and a power cut may
 * have taken from it what they have. */
static int
match_lost(void *ctx, const struct upper_row *r, struct err *err)
{
	const struct session *s = ctx;

	(void)err;
	return r->n == s->row.upper && r->n_layers && !r->synced &&
	       strcmp(r->boot, time_boot_id()) != 0;
}

int
session_leave_lost(struct session *s, struct err *err)
{
	if (s->row.unclean || !node_stacks(&s->m->node))
		return 0;
	const int lost = index_list_uppers(&s->m->index, s->row.id, match_lost, s, err);
	if (lost <= 0)
		return lost;
	log_line("session %s: upper.%u was not synced before the last boot: its archives are taken",
		 s->row.name, s->row.upper);
	session_drop_seen(s);
	s->row.upper++;
	session_ref_later(s);
	return 0;
}

bool
session_is_own(const struct session *s, const struct digest *layer)
{
	return s->n_own == 1 && s->n_base + 1 == s->n_layers &&
	       digest_equal(&s->layers[s->n_base].digest, layer);
}

static int
open_seen(struct session *s, const char *end, int flags)
{
	char name[NAME_BYTES];

	snprintf(name, sizeof name, "seen.%u%s", s->row.upper, end);
	return openat(s->dir, name, flags | O_NOFOLLOW | O_CLOEXEC, 0600);
}

int
session_send_remember(struct session *s, bool with_next, struct err *err)
{
	if (session_open_dir(s, err) < 0)
		return -1;
	const bool goes_on = s->n_own && s->n_layers < CHAIN_MAX && s->row.has_head;
	auto_close int before = goes_on ? open_seen(s, "", O_RDONLY) : -1;
	auto_close int next = with_next ? open_seen(s, ".new", O_RDWR | O_CREAT | O_TRUNC) : -1;
	s->has_next = next >= 0;
	const struct msg_remember body = {
	    .snapshot = {(const char *)s->row.head.at, s->row.has_head ? DIGEST_BYTES : 0},
	    .which = (before >= 0 ? REMEMBER_BEFORE : 0u) | (next >= 0 ? REMEMBER_NEXT : 0u),
	};
	const int fds[] = {before >= 0 ? before : s->m->scratch, next >= 0 ? next : s->m->scratch};
	return wire_send_fds(job_wire(s->job), MSG_remember, &body, fds, 2, err);
}

void
session_take_remembered(struct session *s, bool believed)
{
	if (believed)
		s->n_base = s->n_layers;
	else if (s->n_own)
		log_line(
		    "session %s: what was captured of its upper is not known any more: all of it "
		    "is captured again",
		    s->row.name);
}

void
session_keep_seen(struct session *s)
{
	char from[NAME_BYTES], to[NAME_BYTES];

	snprintf(from, sizeof from, "seen.%u.new", s->row.upper);
	snprintf(to, sizeof to, "seen.%u", s->row.upper);
	if (renameat(s->dir, from, s->dir, to) < 0)
		log_line("session %s: its next capture reads all of its upper: %s", s->row.name,
			 strerrordesc_np(errno));
	s->has_next = false;
}

void
session_drop_seen(struct session *s)
{
	struct err ignored;
	char name[NAME_BYTES];

	if (session_open_dir(s, &ignored) < 0)
		return; /* it is not believed, whatever it says: its head is another one */
	snprintf(name, sizeof name, "seen.%u", s->row.upper);
	unlinkat(s->dir, name, 0);
	snprintf(name, sizeof name, "seen.%u.new", s->row.upper);
	unlinkat(s->dir, name, 0);
}
