/* usage: what sessions hold on disk, the store, the cache, and what is free. Archives are summed by
 * the index; directories are measured, and the store listed, by a worker, since that takes its
 * time. */
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "index/usage_rows.h"
#include "manager/do.h"
#include "wire/collect_word.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>

#define SILENCE_MAX_NS (600 * NS_PER_S)

static struct usage {
	struct manager *m; /* NULL: none is asked for */
	struct asker asker;
	struct job *job; /* owned */
	struct timer silence;
	char session[ID_BYTES]; /* empty: all */
	enum { USAGE_TREE, USAGE_JOURNALS, USAGE_STORE } step;
	uint64_t tree_bytes, journal_bytes, store_bytes, cache_bytes, n_blobs, n_cached, scanned;
} u;

void
do_usage_stop(void)
{
	if (!u.m)
		return;
	timer_cancel(&u.silence);
	job_end(u.job);
	u = (struct usage){.m = NULL};
}

void
do_usage_forget_conn(const struct conn *c, const uint32_t *seq)
{
	if (u.m && u.asker.conn == c && (!seq || u.asker.seq == *seq))
		do_usage_stop();
}

static void
finish(const struct err *failure)
{
	struct asker asker = u.asker;
	struct err err = *failure;

	do_usage_stop();
	err_what(&err, "usage");
	asker_end(&asker, &err);
}

static void
on_silence(void *ctx)
{
	struct err err;

	(void)ctx;
	err_set(&err, ERR_TIMEOUT, "waited 10 minutes for a word of the worker");
	finish(&err);
}

/* ---- the answer ---- */

static int
put_session(struct buf *out, const struct session *s, bool first, struct err *err)
{
	struct usage_sum sum;
	char own[16], shared[16];

	if (usage_rows_sum(&u.m->index, s->row.id, &sum, err) < 0)
		return -1;
	const uint64_t shared_bytes = sum.bytes - sum.own_bytes;
	if (u.asker.json) {
		buf_fmt(out,
			"%s{\"session\":\"%s\",\"id\":\"%s\",\"state\":\"%s\",\"snapshots\":%llu,"
			"\"own_bytes\":%llu,\"shared_bytes\":%llu",
			first ? "\n" : ",\n", s->row.name, s->row.id, session_state_name(s->state),
			(unsigned long long)sum.snapshots, (unsigned long long)sum.own_bytes,
			(unsigned long long)shared_bytes);
		if (u.session[0])
			buf_fmt(out, ",\"upper_bytes\":%llu,\"journal_bytes\":%llu",
				(unsigned long long)(u.tree_bytes - u.journal_bytes),
				(unsigned long long)u.journal_bytes);
		buf_char(out, '}');
		return 0;
	}
	num_format_about(sum.own_bytes, own);
	num_format_about(shared_bytes, shared);
	buf_fmt(out, "%-24s %-8s %9llu %10s %10s\n", s->row.name, session_state_name(s->state),
		(unsigned long long)sum.snapshots, own, shared);
	return 0;
}

static void
put_line(struct buf *out, const char *what, uint64_t bytes, const char *more)
{
	char size[16];

	num_format_about(bytes, size);
	buf_fmt(out, "%-24s %39s%s\n", what, size, more);
}

static void
put_totals(struct buf *out)
{
	struct statvfs fs = {.f_frsize = 0};
	uint64_t free_bytes = 0;
	char more[64];

	if (fstatvfs(u.m->store, &fs) == 0)
		free_bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	if (u.asker.json) {
		buf_fmt(out,
			"],\"sessions_bytes\":%llu,\"store_bytes\":%llu,\"blobs\":%llu,"
			"\"cache_bytes\":%llu,\"cached\":%llu,\"free_bytes\":%llu}\n",
			(unsigned long long)u.tree_bytes, (unsigned long long)u.store_bytes,
			(unsigned long long)u.n_blobs, (unsigned long long)u.cache_bytes,
			(unsigned long long)u.n_cached, (unsigned long long)free_bytes);
		return;
	}
	if (u.session[0]) {
		put_line(out, "uppers", u.tree_bytes - u.journal_bytes, "");
		put_line(out, "journals", u.journal_bytes, "");
	} else {
		put_line(out, "directories of sessions", u.tree_bytes, ", uppers and journals");
	}
	snprintf(more, sizeof more, ", %llu blobs", (unsigned long long)u.n_blobs);
	put_line(out, "store", u.store_bytes, more);
	snprintf(more, sizeof more, ", %llu layers", (unsigned long long)u.n_cached);
	put_line(out, "cache", u.cache_bytes, more);
	put_line(out, "free", free_bytes, "");
}

static void
answer(void)
{
	struct asker asker = u.asker;
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	struct err err;
	bool first = true;

	if (asker.json)
		buf_text(&out, "{\"sessions\":[");
	else
		buf_fmt(&out, "%-24s %-8s %9s %10s %10s\n", "SESSION", "STATE", "SNAPSHOTS", "OWN",
			"SHARED");
	for (const struct session *s = u.m->sessions; s; s = s->next) {
		if (u.session[0] ? strcmp(s->row.id, u.session) != 0
				 : !may(asker.conn->role, &asker.conn->scope, &verbs[VERB_show],
					str_of(s->row.name)))
			continue;
		if (put_session(&out, s, first, &err) < 0) {
			finish(&err);
			return;
		}
		first = false;
	}
	put_totals(&out);
	do_usage_stop();
	if (do_answer(&asker, &out, &err) < 0) {
		err_what(&err, "usage");
		asker_end(&asker, &err);
	}
}

/* ---- the worker's part ---- */

static void on_job(void *ctx, const struct message *msg, const struct err *failure);

/* of: a directory beneath sessions/; absent is empty: 0. 1 it is being measured, -1. */
static int
measure_dir(const char *of, struct err *err)
{
	struct err absent;

	job_end(u.job);
	u.job = NULL;
	auto_close int dir = path_open(u.m->sessions_dir, of, O_RDONLY | O_DIRECTORY, &absent);
	if (dir < 0)
		return 0;
	if (job_start(u.m, "usage", dir, on_job, NULL, &u.job, err) < 0)
		return -1;
	return wire_send(job_wire(u.job), measure, err, .seq = 0) < 0 ? -1 : 1;
}

static int
ask_store(struct err *err)
{
	u.step = USAGE_STORE;
	if (!u.job && job_start(u.m, "usage", -1, on_job, NULL, &u.job, err) < 0)
		return -1;
	return wire_send(job_wire(u.job), collect_scan, err, .from = u.scanned);
}

static int
after_tree(uint64_t bytes, struct err *err)
{
	char calls[64];

	u.tree_bytes = bytes;
	if (!u.session[0])
		return ask_store(err);
	u.step = USAGE_JOURNALS;
	snprintf(calls, sizeof calls, "%s/calls", u.session);
	const int asked = measure_dir(calls, err);
	return asked < 0 ? -1 : asked ? 0 : ask_store(err);
}

static int
take_page(const struct msg_collect_found *f, struct err *err)
{
	struct str items = f->items;
	struct collect_word w;

	while (items.len) {
		if (collect_word_take(&items, &w, err) < 0)
			return -1;
		const bool cached = w.kind == COLLECT_WORD_CACHE;
		*(cached ? &u.cache_bytes : &u.store_bytes) += w.bytes;
		u.n_cached += cached;
		u.n_blobs += w.kind == COLLECT_WORD_BLOB;
		u.scanned++;
	}
	if (u.scanned < f->count && f->items.len)
		return ask_store(err);
	return 1;
}

static void
on_job(void *ctx, const struct message *msg, const struct err *failure)
{
	struct err err;
	int result = 0;

	(void)ctx;
	if (failure) {
		finish(failure);
		return;
	}
	timer_set(&u.m->loop, &u.silence, time_now_ns() + SILENCE_MAX_NS, on_silence, NULL);
	if (msg->id == MSG_worked && u.step == USAGE_TREE) {
		result = after_tree(msg->worked.bytes, &err);
	} else if (msg->id == MSG_worked && u.step == USAGE_JOURNALS) {
		u.journal_bytes =
		    msg->worked.bytes < u.tree_bytes ? msg->worked.bytes : u.tree_bytes;
		result = ask_store(&err);
	} else if (msg->id == MSG_collect_found) {
		result = take_page(&msg->collect_found, &err);
	}
	if (result < 0)
		finish(&err);
	else if (result > 0)
		answer();
}

int
do_usage(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	 struct asker *asker, struct err *err)
{
	struct str ref = {NULL, 0};

	if (request_text(r, "session", &ref)) {
		s = session_find(m, ref);
		if (!s || !may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name)))
			return err_set(err, ERR_ABSENT, "no such session");
	}
	if (u.m)
		return err_set(err, ERR_AGAIN, "somebody else has just asked for it");
	u = (struct usage){.m = m, .asker = *asker};
	if (ref.len)
		memcpy(u.session, s->row.id, sizeof u.session);
	timer_set(&m->loop, &u.silence, time_now_ns() + SILENCE_MAX_NS, on_silence, NULL);
	const int asked = measure_dir(ref.len ? s->row.id : ".", err);
	if (asked < 0 || (asked == 0 && ask_store(err) < 0)) {
		do_usage_stop();
		return -1;
	}
	return 0;
}
