#include "manager/verifier.h"
#include "base/log.h"
#include "base/time.h"
#include "index/verify_rows.h"
#include "manager/do.h"
#include "manager/facts.h"

#include <stdio.h>
#include <stdlib.h>

#define SILENCE_MAX_NS (600 * NS_PER_S)
#define PROGRESS_NS    (200 * NS_PER_MS)
enum { HARMED_TOLD = 8 };

static struct verification {
	struct manager *m; /* NULL: none is under way */
	struct asker asker;
	struct job *job; /* owned */
	struct timer silence;
	bool repair;
	uint64_t since_ns; /* CLOCK_REALTIME */
	struct layer_row *layers; /* owned */
	size_t n_layers, layers_cap;
	struct snapshot_row *snapshots; /* owned */
	size_t n_snapshots, snapshots_cap;
	size_t at; /* layers first, then snapshots */
	uint64_t bytes, all_bytes, told_ns;
	unsigned faults, repaired;
	struct buf report; /* owned: JSON */
} v;

static void next(void);

/* ---- its end ---- */

void
verifier_stop(void)
{
	if (!v.m)
		return;
	timer_cancel(&v.silence);
	job_end(v.job);
	free(v.layers);
	free(v.snapshots);
	buf_free(&v.report);
	v = (struct verification){.m = NULL};
}

void
verifier_forget_conn(const struct conn *c, const uint32_t *seq)
{
	if (v.m && v.asker.conn == c && (!seq || v.asker.seq == *seq))
		verifier_stop(); /* nobody reads what it finds */
}

static void
finish(const struct err *failure)
{
	struct asker asker = v.asker;
	auto_buf out = BUF_MAX(ANSWER_MAX_BYTES);
	struct err err = {.code = ERR_NONE};
	char size[16];

	num_format_about(v.bytes, size);
	audit_write(&v.m->audit, "verify", AUDIT_NUMBER("snapshots", v.n_snapshots),
		    AUDIT_NUMBER("faults", v.faults), AUDIT_NUMBER("repaired", v.repaired),
		    AUDIT_TEXT("result", err_json(failure ? failure->code : ERR_NONE)));
	if (asker.json)
		buf_fmt(&out,
			"{\"snapshots\":%zu,\"layers\":%zu,\"bytes\":%llu,\"faults\":%u,"
			"\"repaired\":%u,\"found\":[%.*s]}\n",
			v.n_snapshots, v.n_layers, (unsigned long long)v.bytes, v.faults,
			v.repaired, (int)v.report.len, v.report.at ? v.report.at : "");
	else if (!failure)
		buf_fmt(&out, "%zu snapshots, %zu layers, %s: %s\n", v.n_snapshots, v.n_layers,
			size,
			v.faults     ? "not all is good"
			: v.repaired ? "good, after repairs"
				     : "good");
	asker_print(&asker, buf_view(&out));
	if (failure) {
		err = *failure;
	} else if (v.faults) {
		err_set(&err, ERR_CORRUPT, "%u of what was read %s not as it was written", v.faults,
			v.faults == 1 ? "is" : "are");
		err_hint(&err, v.repair ? "other snapshots are good: restore one of them"
					: "run: ssh berth@HOST verify --repair");
	}
	err_what(&err, "verify");
	verifier_stop();
	asker_end(&asker, err.code ? &err : NULL);
}

static void
on_silence(void *ctx)
{
	struct err err;

	(void)ctx;
	err_set(&err, ERR_TIMEOUT, "waited 10 minutes for a word of the worker");
	finish(&err);
}

/* ---- what is found ---- */

struct harmed {
	struct buf text, json;
	unsigned n;
};

/* Archives are shared: of sessions outside the scope of who asked nothing is told. */
static int
note_harmed(void *ctx, const struct snapshot_row *row, struct err *err)
{
	struct harmed *h = ctx;
	const struct session *s = session_find(v.m, str_of(row->session));
	const struct conn *c = v.asker.conn;

	(void)err;
	if (c && c->scope.globs[0] &&
	    (!s || !may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name))))
		return 0;
	buf_fmt(&h->json, "%s\"sha256:%s\"", h->n ? "," : "", digest_text(&row->digest).text);
	if (h->n++ < HARMED_TOLD)
		buf_fmt(&h->text, "%s%s+%.12s", h->n > 1 ? ", " : "", s ? s->row.name : "?",
			digest_text(&row->digest).text);
	return 0;
}

static void
report(const struct digest *d, bool layer, bool repaired, const char *why)
{
	struct harmed h = {.text = BUF_MAX(2048), .json = BUF_MAX(1 << 20)};
	auto_buf line = BUF_MAX(8192);
	struct err err;

	v.faults += !repaired;
	v.repaired += repaired;
	if (layer) {
		if (verify_rows_users(&v.m->index, d, note_harmed, &h, &err) < 0)
			log_err(&err, "verify");
	} else {
		for (size_t i = 0; i < v.n_snapshots; i++)
			if (digest_equal(&v.snapshots[i].digest, d))
				note_harmed(&h, &v.snapshots[i], &err);
	}
	buf_fmt(&v.report, "%s\n{\"kind\":\"%s\",\"digest\":\"sha256:%s\",\"repaired\":%s,\"why\":",
		v.faults + v.repaired > 1 ? "," : "", layer ? "layer" : "snapshot",
		digest_text(d).text, repaired ? "true" : "false");
	json_put(&v.report, str_of(why));
	buf_fmt(&v.report, ",\"harms\":[%s]}", buf_cstr(&h.json));
	buf_fmt(&line, "%s %.12s: %s%s; %s %s%s\n", layer ? "layer" : "snapshot",
		digest_text(d).text, why, repaired ? " (repaired)" : "", repaired ? "of" : "harms",
		buf_cstr(&h.text), h.n > HARMED_TOLD ? ", …" : "");
	if (!v.asker.json)
		asker_print(&v.asker, buf_view(&line));
	buf_free(&h.text);
	buf_free(&h.json);
}

static void
tell_progress(void)
{
	const struct msg_progress done = {.bytes = v.bytes, .entries = v.at};
	const uint64_t now = time_now_ns();

	if (now - v.told_ns < PROGRESS_NS)
		return;
	v.told_ns = now;
	asker_progress(&v.asker, "verifying", &done, v.all_bytes, v.n_layers + v.n_snapshots, v.since_ns);
}

/* ---- the worker ---- */

static void
on_job(void *ctx, const struct message *msg, const struct err *failure)
{
	const bool layer = v.at < v.n_layers;
	const struct digest *d =
	    layer ? &v.layers[v.at].digest : &v.snapshots[v.at - v.n_layers].digest;

	(void)ctx;
	if (!failure && msg->id != MSG_worked && msg->id != MSG_store_fact) {
		timer_set(&v.m->loop, &v.silence, time_now_ns() + SILENCE_MAX_NS, on_silence, NULL);
		return;
	}
	if (failure) {
		report(d, layer, false, failure->why);
		job_end(v.job); /* it may be gone */
		v.job = NULL;
	}
	if (!failure && msg->id == MSG_store_fact) {
		char why[512];
		snprintf(why, sizeof why, "%.*s", (int)msg->store_fact.pairs.len,
			 msg->store_fact.pairs.at);
		report(d, layer, true, why);
	}
	if (layer)
		v.bytes += v.layers[v.at].raw_bytes;
	v.at++;
	tell_progress();
	next();
}

static int
ask_layer(const struct layer_row *l, struct err *err)
{
	return wire_send(
	    job_wire(v.job), verify_blob, err, .digest = {(const char *)l->digest.at, DIGEST_BYTES},
	    .diff_id = {(const char *)l->diff_id.at, DIGEST_BYTES}, .repair = v.repair);
}

static int
add_digest(void *ctx, const struct layer_row *row, struct err *err)
{
	(void)err;
	buf_add(ctx, row->digest.at, DIGEST_BYTES);
	return 0;
}

static int
ask_snapshot(const struct snapshot_row *s, struct err *err)
{
	auto_buf layers = BUF_MAX(131072), facts = BUF_MAX(FACTS_MAX_BYTES);

	facts_json(&s->facts, &facts);
	if (index_list_layers(&v.m->index, &s->digest, add_digest, &layers, err) < 0)
		return -1;
	return wire_send(job_wire(v.job), verify_snapshot, err,
			 .manifest = {(const char *)s->digest.at, DIGEST_BYTES},
			 .session = str_of(s->session), .layers = buf_view(&layers),
			 .calls = str_of(s->calls), .facts = buf_view(&facts),
			 .created_ns = s->created_ns, .repair = v.repair);
}

static int
ask(struct err *err)
{
	if (!v.job && job_start(v.m, "verify", -1, on_job, NULL, &v.job, err) < 0)
		return -1;
	timer_set(&v.m->loop, &v.silence, time_now_ns() + SILENCE_MAX_NS, on_silence, NULL);
	return v.at < v.n_layers ? ask_layer(&v.layers[v.at], err)
				 : ask_snapshot(&v.snapshots[v.at - v.n_layers], err);
}

static bool
is_there(const struct digest *snapshot)
{
	auto_buf layers = BUF_MAX(131072);
	struct err err;

	return index_list_layers(&v.m->index, snapshot, add_digest, &layers, &err) == 0 &&
	       layers.len > 0;
}

static void
next(void)
{
	struct err err;

	/* What went meanwhile is no fault. */
	while (v.at >= v.n_layers && v.at < v.n_layers + v.n_snapshots &&
	       !is_there(&v.snapshots[v.at - v.n_layers].digest))
		v.at++;
	if (v.at == v.n_layers + v.n_snapshots)
		finish(NULL);
	else if (ask(&err) < 0)
		finish(&err);
}

/* ---- the verb ---- */

static int
take_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	(void)ctx;
	(void)err;
	v.layers = xgrow(v.layers, v.n_layers, &v.layers_cap, sizeof *v.layers);
	v.layers[v.n_layers++] = *row;
	v.all_bytes += row->raw_bytes;
	return 0;
}

static int
take_snapshot(void *ctx, const struct snapshot_row *row, struct err *err)
{
	(void)ctx;
	(void)err;
	v.snapshots = xgrow(v.snapshots, v.n_snapshots, &v.snapshots_cap, sizeof *v.snapshots);
	v.snapshots[v.n_snapshots++] = *row;
	return 0;
}

/* A session, or a snapshot, in this order; nothing: all, which is an operator's. */
static int
find_subject(const struct conn *c, const struct request *r, char session[ID_BYTES],
	     struct digest *snapshot, bool *is_one, struct err *err)
{
	struct str word = {NULL, 0};
	struct snapshot_row row;

	session[0] = '\0';
	*is_one = false;
	const bool all = request_flag(r, "all");
	if (request_text(r, "subject", &word) == all) {
		err_set(err, ERR_USAGE, all ? "--all, or one of them" : "what?");
		return err_hint(err, "a session, a snapshot, or --all");
	}
	if ((all || request_flag(r, "repair")) && c->role != PRINCIPAL_OPERATOR)
		return err_set(err, ERR_DENIED, "--all and --repair are for operators");
	if (all)
		return 0;
	const struct session *s = session_find(c->m, word);
	if (s && may(c->role, &c->scope, &verbs[VERB_show], str_of(s->row.name))) {
		memcpy(session, s->row.id, ID_BYTES);
		return 0;
	}
	if (do_find_snapshot(c, word, NULL, &row, NULL, err) < 0)
		return -1;
	*snapshot = row.digest;
	*is_one = true;
	return 0;
}

int
do_verify(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	  struct asker *asker, struct err *err)
{
	char session[ID_BYTES];
	struct digest one;
	bool is_one;

	(void)s;
	if (v.m)
		return err_set(err, ERR_AGAIN, "another verification is under way");
	if (find_subject(c, r, session, &one, &is_one, err) < 0)
		return -1;
	v = (struct verification){.m = m,
				  .asker = *asker,
				  .repair = request_flag(r, "repair"),
				  .since_ns = time_real_ns(),
				  .report = BUF_MAX(ANSWER_MAX_BYTES / 2)};
	if (verify_rows_snapshots(&m->index, session, is_one ? &one : NULL, take_snapshot, NULL,
				  err) < 0 ||
	    verify_rows_layers(&m->index, session, is_one ? &one : NULL, take_layer, NULL, err) <
		0) {
		verifier_stop();
		return -1;
	}
	next();
	return 0;
}
