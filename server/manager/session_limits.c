/* The limits of one session: kept in the index, shown with what really enforces them, and brought
 * to what runs. */
#include "base/log.h"
#include "manager/session.h"

#include <stdio.h>

struct limits
session_limits(const struct session *s)
{
	return limits_of(&s->m->standard, &s->limits);
}

bool
session_limits_by_rlimit(const struct manager *m, enum limit l)
{
	const struct isolation *i = &m->node.isolation;

	if (governor_means(m->node.governor, l))
		return false;
	/* Processes are counted by uid and user namespace: of the session alone, or of all. */
	return l == LIMIT_MEMORY || (l == LIMIT_PIDS && (i->own_uids || i->rung == RUNG_ROOTLESS));
}

/* ---- in the index ---- */

static int
take_limit(void *ctx, const struct limit_value_row *row, struct err *err)
{
	struct limits_set *own = ctx;
	const enum limit l = limit_find(str_of(row->key));

	(void)err;
	if (l == LIMITS)
		return 0; /* of a newer berthd */
	own->set[l] = true;
	own->value.at[l] = row->value;
	own->capped[l] = row->has_ceiling;
	own->ceiling.at[l] = row->ceiling;
	return 0;
}

int
session_limits_load(struct session *s, struct err *err)
{
	s->limits = (struct limits_set){0};
	return index_list_limits(&s->m->index, s->row.id, take_limit, &s->limits, err);
}

int
session_limits_put(struct session *s, struct err *err)
{
	for (int l = 0; l < LIMITS; l++) {
		struct limit_value_row row = {.value = s->limits.value.at[l],
					      .ceiling = s->limits.ceiling.at[l],
					      .has_ceiling = s->limits.capped[l]};
		snprintf(row.key, sizeof row.key, "%s", limit_key((enum limit)l));
		if ((s->limits.set[l]
			 ? index_put_limit(&s->m->index, s->row.id, &row, err)
			 : index_drop_limit(&s->m->index, s->row.id, row.key, err)) < 0)
			return -1;
	}
	return 0;
}

int
session_limits_save(struct session *s, struct err *err)
{
	if (index_begin(&s->m->index, err) < 0)
		return -1;
	if (session_limits_put(s, err) < 0) {
		index_rollback(&s->m->index);
		return -1;
	}
	return index_commit(&s->m->index, err);
}

/* ---- on what runs ---- */

int
session_limits_apply(struct session *s, enum limit l, struct err *err)
{
	const struct limits now = session_limits(s);

	if (l == LIMIT_DISK) {
		disk_look_soon(s);
		return means_apply(s, err);
	}
	if (!s->keeper.linked)
		return 0;
	if (governor_set(s->m->node.governor, s->row.id, l, now.at[l], err) < 0)
		return -1;
	return wire_send(&s->keeper.wire, limits, err, .limit_memory = now.at[LIMIT_MEMORY],
			 .limit_pids = now.at[LIMIT_PIDS], .limit_wall_ns = now.at[LIMIT_WALL],
			 .calls_max = (uint32_t)now.at[LIMIT_CALLS]);
}

/* ---- shown ---- */

static const char *
means_of(const struct session *s, enum limit l)
{
	const char *by = governor_means(s->m->node.governor, l);

	if (session_limits_by_rlimit(s->m, l))
		return l == LIMIT_PIDS ? "RLIMIT_NPROC" : "RLIMIT_DATA, of each process by itself";
	switch (l) {
	case LIMIT_CPU:
	case LIMIT_MEMORY:
	case LIMIT_PIDS:
		return by ? by : "nothing: the node has no such cgroup controller";
	case LIMIT_FILES:
		return "RLIMIT_NOFILE of each process";
	case LIMIT_TMP:
		return "size of each tmpfs";
	case LIMIT_WALL:
	case LIMIT_CALLS:
		return "its keeper";
	case LIMIT_DISK: /* means_say */
	case LIMITS:
		break;
	}
	return "nothing";
}

static void
used_format(enum limit l, uint64_t used, char out[LIMIT_TEXT_BYTES])
{
	if (l == LIMIT_MEMORY)
		snprintf(out, LIMIT_TEXT_BYTES, "%lluM", (unsigned long long)(used >> 20));
	else
		snprintf(out, LIMIT_TEXT_BYTES, "%llu", (unsigned long long)used);
}

/* What its means counts now, else what the watcher measured last. */
static bool
disk_used(const struct session *s, uint64_t *out)
{
	struct disk_used now;

	if (means_read(s, &now) == 0)
		*out = now.bytes;
	else if (s->disk.known)
		*out = s->disk.bytes;
	else
		return false;
	return true;
}

static void
disk_json(const struct session *s, struct buf *out)
{
	auto_buf words = BUF_MAX(512);

	means_say(s, &words);
	json_put(out, buf_view(&words));
	if (!s->place.set)
		return;
	buf_fmt(out, ",\"means\":\"%s\",\"why\":", means_name(s->place.means));
	json_put(out, str_of(s->place.why));
}

static void
one_json(const struct session *s, enum limit l, uint64_t value, struct buf *out)
{
	char text[LIMIT_TEXT_BYTES];
	uint64_t in_force, used = UINT64_MAX;

	limit_format(l, value, text);
	buf_fmt(out, "{\"limit\":\"%s\",\"value\":%llu,\"set\":%s,\"by\":", text,
		(unsigned long long)value, s->limits.set[l] ? "true" : "false");
	if (l == LIMIT_DISK)
		disk_json(s, out);
	else
		json_put(out, str_of(means_of(s, l)));
	if (governor_read(s->m->node.governor, s->row.id, l, &in_force, &used) == 0) {
		buf_fmt(out, ",\"in_force\":%llu", (unsigned long long)in_force);
		if (used != UINT64_MAX)
			buf_fmt(out, ",\"used\":%llu", (unsigned long long)used);
	}
	if (l == LIMIT_DISK && disk_used(s, &used))
		buf_fmt(out, ",\"used\":%llu,\"suspended\":%s", (unsigned long long)used,
			s->disk.suspended ? "true" : "false");
	buf_char(out, '}');
}

/* What an operator chose: a bound for others. */
static void
ceilings_json(const struct session *s, struct buf *out)
{
	bool first = true;

	buf_text(out, ",\"ceilings\":{");
	for (int l = 0; l < LIMITS; l++) {
		if (!s->limits.set[l] || !s->limits.capped[l])
			continue;
		buf_fmt(out, "%s\"%s\":%llu", first ? "" : ",", limit_key((enum limit)l),
			(unsigned long long)s->limits.ceiling.at[l]);
		first = false;
	}
	buf_char(out, '}');
}

void
session_limits_json(const struct session *s, struct buf *out, bool whole)
{
	const struct limits now = session_limits(s);
	bool first = true;

	buf_text(out, ",\"limits\":{");
	for (int l = 0; l < LIMITS; l++) {
		if (!whole && !s->limits.set[l])
			continue;
		buf_fmt(out, "%s\"%s\":", first ? "" : ",", limit_key((enum limit)l));
		first = false;
		if (whole)
			one_json(s, (enum limit)l, now.at[l], out);
		else
			buf_fmt(out, "%llu", (unsigned long long)now.at[l]);
	}
	buf_char(out, '}');
	if (!whole)
		ceilings_json(s, out);
}

void
session_limits_text(const struct session *s, struct buf *out)
{
	const struct limits now = session_limits(s);

	for (int l = 0; l < LIMITS; l++) {
		char text[LIMIT_TEXT_BYTES], line[640], now_used[LIMIT_TEXT_BYTES] = "";
		auto_buf by = BUF_MAX(512);
		uint64_t in_force, used = UINT64_MAX;
		limit_format((enum limit)l, now.at[l], text);
		if (governor_read(s->m->node.governor, s->row.id, (enum limit)l, &in_force,
				  &used) == 0 &&
		    used != UINT64_MAX)
			used_format((enum limit)l, used, now_used);
		if (l == LIMIT_DISK)
			means_say(s, &by);
		else
			buf_text(&by, means_of(s, (enum limit)l));
		if (l == LIMIT_DISK && disk_used(s, &used))
			used_format(LIMIT_MEMORY, used, now_used);
		snprintf(line, sizeof line, "%s %s%s, by %s%s%s", limit_key((enum limit)l), text,
			 s->limits.set[l] ? "" : " (default)", buf_cstr(&by),
			 now_used[0] ? "; uses " : "", now_used);
		buf_fmt(out, "%-12s%s\n", l ? "" : "limits", line);
	}
}
