#include "origin.h"

#include <stdio.h>

void
origin_of(const struct session *s, const struct snapshot_row *snapshot, struct origin *out)
{
	*out = (struct origin){.has_head = snapshot || s->row.has_head,
			       .head = snapshot ? snapshot->digest : s->row.head,
			       .limits = s->limits};
	snprintf(out->image, sizeof out->image, "%s", snapshot ? snapshot->image : s->row.image);
	snprintf(out->network, sizeof out->network, "%s", s->row.network);
	choices_copy(&s->choices, &out->choices);
}

void
origin_plain(const struct manager *m, struct origin *o, struct buf *given)
{
	limits_plain(&m->standard, &o->limits, given);
	choices_plain(&m->config, &o->choices, given);
	if (strcmp(o->network, "host") != 0)
		return;
	buf_fmt(given, "%snetwork host", given->len ? ", " : "");
	snprintf(o->network, sizeof o->network, "%.39s", m->config.network);
}

void
origin_done(struct origin *o)
{
	choices_done(&o->choices);
}
