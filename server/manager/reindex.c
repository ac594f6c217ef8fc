#include "manager/reindex.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "index/reindex_rows.h"
#include "manager/jobs.h"
#include "manager/reindex_fact.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SILENCE_MAX_NS (600 * NS_PER_S)
#define ASIDE          "reindex" /* STATE/reindex/index.db is the new one while it is made */

struct reindex {
	struct manager *m;
	struct index index;
	struct job *job; /* owned */
	struct timer silence;
	struct reindex_facts facts; /* owned */
	bool done;
	struct err failure;
};

/* ---- names ---- */

int
reindex_check(int state, struct err *err)
{
	struct err ignored;
	const struct dirent *e;
	bool any = false;

	if (path_exists(state, "index.db"))
		return 0;
	const int refs = path_open(state, "store/refs", O_RDONLY | O_DIRECTORY, &ignored);
	DIR *list = refs < 0 ? NULL : fdopendir(refs);
	while (list && (e = readdir(list)) != NULL)
		any |= str_starts(str_of(e->d_name), "session-");
	if (list)
		closedir(list);
	else if (refs >= 0)
		close(refs);
	if (!any)
		return 0;
	err_set(err, ERR_CORRUPT, "index.db is missing, but the store has sessions");
	return err_hint(err, "put back a copy of it, or make it anew: berthd --reindex");
}

static int
move(int from, const char *name, int to, const char *name_to, struct err *err)
{
	if (renameat(from, name, to, name_to) < 0 && errno != ENOENT)
		return err_sys(err, errno, "rename %s to %s", name, name_to);
	return 0;
}

/* The old one first: what is left of its write-ahead log must not stand beside another index. */
static int
take_place(struct reindex *r, int aside, struct err *err)
{
	const int state = r->m->state;
	char old[64], part[80];

	snprintf(old, sizeof old, "index.db.old-%llu",
		 (unsigned long long)(time_real_ns() / NS_PER_S));
	while (path_exists(state, old))
		snprintf(old + strlen(old), sizeof old - strlen(old), "x");
	const bool any = path_exists(state, "index.db");
	if (move(state, "index.db", state, old, err) < 0)
		return -1;
	snprintf(part, sizeof part, "%s-wal", old);
	if (move(state, "index.db-wal", state, part, err) < 0)
		return -1;
	if (unlinkat(state, "index.db-shm", 0) < 0 && errno != ENOENT)
		return err_sys(err, errno, "remove index.db-shm");
	if (path_sync_dir(state, err) < 0)
		return -1;
	if (renameat(aside, "index.db", state, "index.db") < 0)
		return err_sys(err, errno, "rename the new index.db");
	if (path_sync_dir(state, err) < 0)
		return -1;
	printf("berthd: index.db was made anew: %u sessions, %u snapshots, %u images; the old one "
	       "is %s\n",
	       r->facts.n_sessions, r->facts.n_snapshots, r->facts.n_images,
	       any ? old : "not there");
	return 0;
}

/* ---- the worker's facts ---- */

static void
end(struct reindex *r, const struct err *failure)
{
	r->done = true;
	if (failure)
		r->failure = *failure;
	timer_cancel(&r->silence);
	job_end(r->job);
	r->job = NULL;
	r->m->loop.stop = true;
}

static void
on_silence(void *ctx)
{
	struct err err;

	err_set(&err, ERR_TIMEOUT, "waited 10 minutes for a word of the worker");
	end(ctx, &err);
}

static int
ask(struct reindex *r, struct err *err)
{
	timer_set(&r->m->loop, &r->silence, time_now_ns() + SILENCE_MAX_NS, on_silence, r);
	return wire_send(job_wire(r->job), store_next, err, .seq = 0);
}

static void
on_job(void *ctx, const struct message *msg, const struct err *failure)
{
	struct reindex *r = ctx;
	struct err err;

	if (failure) {
		end(r, failure);
	} else if (msg->id == MSG_worked) {
		end(r, NULL);
	} else if (msg->id == MSG_store_fact) {
		if (reindex_fact(&r->facts, msg->store_fact.kind, msg->store_fact.pairs, &err) <
			0 ||
		    ask(r, &err) < 0)
			end(r, &err);
	}
}

static int
take_facts(struct reindex *r, struct err *err)
{
	if (job_start(r->m, "reindex", -1, on_job, r, &r->job, err) < 0)
		return -1;
	if (ask(r, err) < 0 || loop_run(&r->m->loop, err) < 0) {
		end(r, NULL);
		return -1;
	}
	if (r->failure.code) {
		*err = r->failure;
		return -1;
	}
	return 0;
}

static int
fill(struct reindex *r, struct err *err)
{
	if (index_begin(&r->index, err) < 0)
		return -1;
	if (take_facts(r, err) < 0 || reindex_strays(&r->facts, err) < 0 ||
	    reindex_rows_settle(&r->index, err) < 0 || reindex_heads(&r->facts, err) < 0) {
		index_rollback(&r->index);
		return -1;
	}
	return index_commit(&r->index, err);
}

int
reindex_run(struct manager *m, struct err *err)
{
	struct reindex r = {.m = m};

	if (path_remove_tree(m->state, ASIDE, err) < 0)
		return -1;
	auto_close int aside = path_open_dir(m->state, ASIDE, 0700, err);
	if (aside < 0 || index_open(&r.index, aside, err) < 0)
		return -1;
	r.facts = (struct reindex_facts){.m = m, .index = &r.index};
	int result = fill(&r, err);
	index_close(&r.index); /* its write-ahead log goes with that */
	reindex_facts_done(&r.facts);
	if (result == 0 && path_exists(aside, "index.db-wal"))
		result = err_set(err, ERR_INTERNAL, "the new index.db could not be closed");
	if (result == 0) {
		auto_close int file = path_open(aside, "index.db", O_RDONLY, err);
		if (file < 0 || fsync(file) < 0)
			result = err_set(err, ERR_INTERNAL, "sync the new index.db");
	}
	if (result == 0)
		result = path_sync_dir(aside, err) < 0 ? -1 : take_place(&r, aside, err);
	struct err ignored;
	if (path_remove_tree(m->state, ASIDE, &ignored) < 0)
		log_err(&ignored, "reindex");
	return result < 0 ? err_add(err, "reindex") : 0;
}
