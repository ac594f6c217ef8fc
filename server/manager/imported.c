/* image import, ls, rm. The manager opens a source, and never reads it: a worker does.
 *
 * Invariants
 *  1. one import or removal at a time, so none takes away a layer that another has just found;
 *  2. a row is written after its layers and refs are durable, and goes before they do;
 *  3. the row of an image that a session uses is never dropped: a name may lead elsewhere
 * meanwhile. */
#include "imported.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "manager/do.h"
#include "manager/source_open.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#define SILENCE_MAX_NS (600 * NS_PER_S) /* a worker at work says so five times a second */
#define PREFIX         "image:"

static struct act {
	struct manager *m; /* NULL: nothing is under way */
	struct asker asker;
	struct job *job;
	struct timer silence;
	uint64_t since_ns; /* CLOCK_REALTIME */
	bool removal;
	char name[64];
} act;

bool
imported_is(const char *content)
{
	return strncmp(content, PREFIX, sizeof PREFIX - 1) == 0;
}

/* ---- for sessions ---- */

int
imported_find(struct manager *m, const char *content, struct image_row *out, struct err *err)
{
	if (!imported_is(content))
		return 0;
	const int got = image_rows_find(&m->index, content, out, err);
	if (got != 0)
		return got;
	err_set(err, ERR_ABSENT, "its image %.18s is not on this node", content);
	return err_hint(err, "run: ssh berth@HOST image import NAME SOURCE, with the same source");
}

int
imported_find_name(struct manager *m, struct str name, char out_content[80], struct err *err)
{
	char text[64];
	auto_free struct image_row *row = xnew(1, sizeof *row);

	if (str_copy(name, text, sizeof text, err) < 0)
		return -1;
	const int got = image_rows_find(&m->index, text, row, err);
	if (got < 0)
		return -1;
	if (got == 0 || imported_is(text)) {
		err_set(err, ERR_ABSENT, "no image %s", text);
		return err_hint(err, "run: ssh berth@HOST image ls");
	}
	snprintf(out_content, 80, "%s", row->content);
	return 0;
}

int
imported_open(struct manager *m, const struct image_row *row, int fds[IMAGE_ROW_LAYERS_MAX],
	      struct err *err)
{
	auto_close int images = path_open(m->cache, "images", O_RDONLY | O_DIRECTORY, err);

	for (size_t i = 0; images >= 0 && i < row->n_layers; i++) {
		const struct digest *d = &row->layers[row->n_layers - 1 - i];
		fds[i] = path_open(images, digest_text(d).text, O_RDONLY | O_DIRECTORY, err);
		if (fds[i] >= 0)
			continue;
		if (errno != ENOENT)
			return -1;
		err_set(err, ERR_ABSENT, "layer %.12s of its image is gone from this node",
			digest_text(d).text);
		return err_hint(err, "run: ssh berth@HOST image import %s SOURCE, as before",
				row->name[0] ? row->name : "NAME");
	}
	return images < 0 ? -1 : 0;
}

/* ---- the act under way ---- */

void
imported_stop(void)
{
	if (!act.m)
		return;
	timer_cancel(&act.silence);
	job_end(act.job);
	act = (struct act){0};
}

void
imported_forget_conn(const struct conn *c, const uint32_t *seq)
{
	if (act.m && act.asker.conn == c && (!seq || act.asker.seq == *seq))
		asker_forget(&act.asker);
}

static void
finish(const struct err *failure, struct str text)
{
	struct asker asker = act.asker;
	struct err err;

	if (failure) {
		err = *failure;
		log_err(&err, "image %s", act.name);
		err_what(&err, "image %s %s", act.removal ? "rm" : "import", act.name);
	} else {
		log_line("image %s: %s", act.name, act.removal ? "removed" : "imported");
	}
	if (act.m)
		audit_write(&act.m->audit, "image", AUDIT_TEXT("image", act.name),
			    AUDIT_TEXT("act", act.removal ? "rm" : "import"),
			    AUDIT_TEXT("result", err_json(failure ? failure->code : ERR_NONE)));
	imported_stop();
	if (!asker.conn)
		return;
	if (!failure)
		asker_print(&asker, text);
	asker_end(&asker, failure ? &err : NULL);
}

/* What the worker has not finished it removes; a removal goes on. */
bool
imported_interrupt(const struct conn *c, uint32_t seq)
{
	struct err err;

	if (!act.m || act.asker.conn != c || act.asker.seq != seq)
		return false;
	if (!act.removal) {
		err_set(&err, ERR_CANCELLED, "interrupted: all is as it was");
		finish(&err, (struct str){NULL, 0});
	}
	return true;
}

static void
on_silence(void *ctx)
{
	struct err err;

	(void)ctx;
	err_set(&err, ERR_TIMEOUT, "waited 10 minutes for a word of the worker");
	finish(&err, (struct str){NULL, 0});
}

static int
take_row(const struct msg_image_imported *i, struct image_row *r, struct err *err)
{
	struct digest content;

	if (i->content.len != DIGEST_BYTES || i->layers.len % DIGEST_BYTES || i->layers.len == 0 ||
	    i->layers.len > sizeof r->layers || i->env.len > sizeof r->env)
		return err_set(err, ERR_CORRUPT, "the worker's answer is cut");
	memcpy(content.at, i->content.at, sizeof content.at);
	snprintf(r->content, sizeof r->content, PREFIX "%s", digest_text(&content).text);
	snprintf(r->name, sizeof r->name, "%s", act.name);
	memcpy(r->layers, i->layers.at, i->layers.len);
	r->n_layers = i->layers.len / DIGEST_BYTES;
	if (i->env.len)
		memcpy(r->env, i->env.at, i->env.len);
	r->env_bytes = i->env.len;
	r->uid = i->uid;
	r->gid = i->gid;
	r->bytes = i->bytes;
	r->entries = i->entries;
	r->dropped = i->dropped;
	r->created_ns = time_real_ns();
	return str_copy(i->cwd, r->cwd, sizeof r->cwd, err) < 0 ||
		       str_copy(i->user, r->user, sizeof r->user, err) < 0 ||
		       str_copy(i->home, r->home, sizeof r->home, err) < 0
		   ? -1
		   : 0;
}

static int
commit_row(const struct image_row *r, struct err *err)
{
	struct index *ix = &act.m->index;

	if (index_begin(ix, err) < 0)
		return -1;
	if (image_rows_put(ix, r, err) < 0) {
		index_rollback(ix);
		return -1;
	}
	return index_commit(ix, err);
}

static void
row_json(struct buf *out, const struct image_row *r)
{
	buf_text(out, "{\"name\":");
	json_put(out, str_of(r->name));
	buf_fmt(out, ",\"image\":\"%s\",\"layers\":[", r->content);
	for (size_t i = 0; i < r->n_layers; i++)
		buf_fmt(out, "%s\"sha256:%s\"", i ? "," : "", digest_text(&r->layers[i]).text);
	buf_text(out, "],\"env\":[");
	for (size_t at = 0; at < r->env_bytes; at += strlen(r->env + at) + 1) {
		buf_text(out, at ? "," : "");
		json_put(out, str_of(r->env + at));
	}
	buf_text(out, "],\"cwd\":");
	json_put(out, str_of(r->cwd));
	buf_text(out, ",\"user\":");
	json_put(out, str_of(r->user));
	buf_fmt(out, ",\"uid\":%u,\"gid\":%u,\"bytes\":%llu,\"entries\":%llu,\"dropped\":%llu}",
		r->uid, r->gid, (unsigned long long)r->bytes, (unsigned long long)r->entries,
		(unsigned long long)r->dropped);
}

static void
say_imported(const struct image_row *r)
{
	auto_buf out = BUF_MAX(1 << 20);
	char size[16];

	num_format_about(r->bytes, size);
	if (act.asker.json) {
		row_json(&out, r);
		buf_char(&out, '\n');
	} else {
		buf_fmt(&out, "%s: image %.12s, %zu layers, %s", r->name,
			r->content + sizeof PREFIX - 1, r->n_layers, size);
		if (r->dropped)
			buf_fmt(&out, "; %llu device nodes or sockets were left out",
				(unsigned long long)r->dropped);
		buf_char(&out, '\n');
	}
	finish(NULL, buf_view(&out));
}

static void
on_job(void *ctx, const struct message *msg, const struct err *failure)
{
	auto_free struct image_row *row = xnew(1, sizeof *row);
	struct err err;

	(void)ctx;
	if (failure) {
		finish(failure, (struct str){NULL, 0});
	} else if (msg->id == MSG_worked && act.removal) {
		auto_buf out = BUF_MAX(256);
		buf_fmt(&out, act.asker.json ? "{\"removed\":\"%s\"}\n" : "%s: removed\n",
			act.name);
		finish(NULL, buf_view(&out));
	} else if (msg->id == MSG_image_imported && !act.removal) {
		if (take_row(&msg->image_imported, row, &err) < 0 || commit_row(row, &err) < 0)
			finish(&err, (struct str){NULL, 0});
		else
			say_imported(row);
	} else {
		if (msg->id == MSG_progress)
			asker_progress(&act.asker, "reading the source", &msg->progress, 0, 0,
				       act.since_ns);
		timer_set(&act.m->loop, &act.silence, time_now_ns() + SILENCE_MAX_NS, on_silence,
			  NULL);
	}
}

static int
begin(struct manager *m, const struct asker *asker, struct str name, bool removal, struct err *err)
{
	if (act.m) {
		err_set(err, ERR_AGAIN, "image %s is being %s", act.name,
			act.removal ? "removed" : "imported");
		return -1;
	}
	char text[64];
	if (str_copy(name, text, sizeof text, err) < 0)
		return -1;
	if (strcmp(text, "host") == 0)
		return err_set(err, ERR_USAGE, "the name host stands for the node's own /usr");
	act = (struct act){.m = m, .asker = *asker, .since_ns = time_real_ns(), .removal = removal};
	memcpy(act.name, text, sizeof act.name);
	timer_set(&m->loop, &act.silence, time_now_ns() + SILENCE_MAX_NS, on_silence, NULL);
	return 0;
}

/* ---- verbs ---- */

static int
start_import(struct manager *m, const struct source_opened *source, struct err *err)
{
	int fds[6] = {m->store, m->cache, m->scratch, m->lock, m->lock, m->lock};
	const struct msg_image_import body = {
	    .name = str_of(act.name),
	    .kind = source->kind,
	    .sources = (uint32_t)source->n,
	    .threads = (uint32_t)m->config.threads,
	    .one_owner = m->node.isolation.ids == 1,
	};
	for (size_t i = 0; i < 3; i++)
		fds[3 + i] = source->fds[i < source->n ? i : 0];
	return job_start_with(m, MSG_image_import, &body, fds, 6, on_job, NULL, &act.job, err);
}

int
do_image_import(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		struct asker *asker, struct err *err)
{
	struct str name, path;
	auto_source_opened source = SOURCE_OPENED_NONE;

	(void)c;
	(void)s;
	request_text(r, "image", &name);
	request_text(r, "source", &path);
	if (source_open(m, path, &source, err) < 0 || begin(m, asker, name, false, err) < 0)
		return -1;
	if (start_import(m, &source, err) < 0) {
		imported_stop();
		return -1;
	}
	return 0;
}

struct listing {
	struct manager *m;
	struct buf out;
	bool json, first;
};

static unsigned
count_users(const struct manager *m, const char *content)
{
	unsigned n = 0;
	for (const struct session *s = m->sessions; s; s = s->next)
		n += s->state != SESSION_DELETED && strcmp(s->row.image, content) == 0;
	return n;
}

static int
list_one(void *ctx, const struct image_row *r, struct err *err)
{
	struct listing *l = ctx;
	const unsigned users = count_users(l->m, r->content);
	char size[16];

	(void)err;
	if (l->json) {
		buf_text(&l->out, l->first ? "\n" : ",\n");
		row_json(&l->out, r);
		l->out.len--; /* its closing brace, for one more fact */
		buf_fmt(&l->out, ",\"sessions\":%u}", users);
	} else {
		num_format_about(r->bytes, size);
		buf_fmt(&l->out, "%-24s %-12.12s %6zu %10s %8u  %s\n", r->name[0] ? r->name : "-",
			r->content + sizeof PREFIX - 1, r->n_layers, size, users,
			r->user[0] ? r->user : "root");
	}
	l->first = false;
	return 0;
}

int
do_image_ls(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err)
{
	struct listing l = {.m = m, .out = BUF_MAX(16 << 20), .json = r->json, .first = true};

	(void)c;
	(void)s;
	if (r->json)
		buf_char(&l.out, '[');
	else
		buf_fmt(&l.out, "%-24s %-12s %6s %10s %8s  %s\n", "NAME", "IMAGE", "LAYERS", "SIZE",
			"SESSIONS", "USER");
	const int result = image_rows_list(&m->index, list_one, &l, err);
	if (result == 0) {
		if (r->json)
			buf_text(&l.out, l.first ? "]\n" : "\n]\n");
		asker_print(asker, buf_view(&l.out));
		asker_end(asker, NULL);
	}
	buf_free(&l.out);
	return result;
}

/* ---- rm ---- */

struct removal {
	struct manager *m;
	const struct image_row *row;
	bool other_name, gone; /* gone: nothing leads to the image any more */
	bool shared[IMAGE_ROW_LAYERS_MAX];
};

/* Which of its layers another image has too. */
static int
note_shared(void *ctx, const struct image_row *other, struct err *err)
{
	struct removal *r = ctx;

	(void)err;
	if (strcmp(other->content, r->row->content) == 0) {
		r->other_name |= other->name[0] && strcmp(other->name, r->row->name) != 0;
		return 0;
	}
	for (size_t i = 0; i < r->row->n_layers; i++)
		for (size_t k = 0; k < other->n_layers; k++)
			r->shared[i] |= digest_equal(&r->row->layers[i], &other->layers[k]);
	return 0;
}

static int
drop_rows(struct removal *r, struct err *err)
{
	struct index *ix = &r->m->index;

	if (image_rows_list(ix, note_shared, r, err) < 0 || index_begin(ix, err) < 0)
		return -1;
	r->gone = !r->other_name;
	if (image_rows_drop_name(ix, r->row->name, err) < 0 ||
	    (r->gone && image_rows_drop(ix, r->row->content, err) < 0)) {
		index_rollback(ix);
		return -1;
	}
	return index_commit(ix, err);
}

static int
start_removal(struct removal *r, struct err *err)
{
	auto_buf layers = BUF_MAX(sizeof r->row->layers);
	struct digest content;

	if (drop_rows(r, err) < 0 ||
	    digest_parse(str_of(r->row->content + sizeof PREFIX - 1), &content, err) < 0)
		return -1;
	for (size_t i = 0; r->gone && i < r->row->n_layers; i++)
		if (!r->shared[i])
			buf_add(&layers, r->row->layers[i].at, DIGEST_BYTES);
	if (job_start(r->m, act.name, -1, on_job, NULL, &act.job, err) < 0)
		return -1;
	return wire_send(job_wire(act.job), image_remove, err, .name = str_of(act.name),
			 .content = {(const char *)content.at, r->gone ? DIGEST_BYTES : 0},
			 .layers = buf_view(&layers));
}

static int
check_unused(const struct manager *m, const struct image_row *row, struct err *err)
{
	const struct session *user = m->sessions;

	while (user && (user->state == SESSION_DELETED || strcmp(user->row.image, row->content)))
		user = user->next;
	if (!user)
		return 0;
	err_set(err, ERR_USAGE, "%u sessions stand on it, such as %s", count_users(m, row->content),
		user->row.name);
	return err_hint(err, "remove them first, or leave it where it is");
}

int
do_image_rm(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err)
{
	auto_free struct image_row *row = xnew(1, sizeof *row);
	struct removal removal = {.m = m, .row = row};
	char content[80];
	struct str name;

	(void)c;
	(void)s;
	request_text(r, "image", &name);
	if (imported_find_name(m, name, content, err) < 0 ||
	    str_copy(name, row->name, sizeof row->name, err) < 0 ||
	    image_rows_find(&m->index, row->name, row, err) < 0 || check_unused(m, row, err) < 0 ||
	    begin(m, asker, name, true, err) < 0)
		return -1;
	if (start_removal(&removal, err) < 0) {
		imported_stop();
		return -1;
	}
	return 0;
}
