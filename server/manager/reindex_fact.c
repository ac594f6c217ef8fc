#include "manager/reindex_fact.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"
#include "index/choice_rows.h"
#include "index/image_rows.h"
#include "index/reindex_rows.h"
#include "manager/limits.h"
#include "manager/node_name.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

/* Of the head that a session's ref tells of, so many layers stem from its upper. */
struct reindex_own {
	struct reindex_own *next; /* owned */
	struct upper_row upper;
	struct digest head;
};

void
reindex_facts_done(struct reindex_facts *f)
{
	for (struct reindex_own *o = f->own, *next; o; o = next) {
		next = o->next;
		free(o);
	}
	f->own = NULL;
	free(f->chain);
	free(f->slots);
	f->chain = NULL;
	f->slots = NULL;
}

/* ---- pairs ---- */

static bool
next_pair(struct str *pairs, struct str *key, struct str *value)
{
	return pairs->len && str_cut(pairs, '\0', key) && pairs->at && str_cut(pairs, '\0', value);
}

static struct str
value_of(struct str pairs, const char *key)
{
	struct str k, v;

	while (next_pair(&pairs, &k, &v))
		if (str_is(k, key))
			return v;
	return (struct str){"", 0};
}

static void
text_of(struct str pairs, const char *key, char *out, size_t size)
{
	const struct str v = value_of(pairs, key);
	snprintf(out, size, "%.*s", (int)v.len, v.at);
}

static uint64_t
number_of(struct str pairs, const char *key, uint64_t otherwise)
{
	const struct str v = value_of(pairs, key);
	struct err ignored;
	uint64_t n;

	return v.len && num_parse(v, 0, INT64_MAX, &n, &ignored) == 0 ? n : otherwise;
}

static bool
digest_at(struct str pairs, const char *key, struct digest *out)
{
	struct err ignored;
	return digest_parse(value_of(pairs, key), out, &ignored) == 0;
}

/* Digests in hex, one after the other. -1: they are cut, or more than fit. */
static int
digests_of(struct str hex, struct digest *out, size_t most, size_t *n, struct err *err)
{
	for (*n = 0; hex.len; (*n)++) {
		if (hex.len < 2 * DIGEST_BYTES || *n == most)
			return err_set(err, ERR_CORRUPT, "a list of digests is cut");
		if (digest_parse((struct str){hex.at, 2 * DIGEST_BYTES}, &out[*n], err) < 0)
			return -1;
		hex = (struct str){hex.at + 2 * DIGEST_BYTES, hex.len - 2 * DIGEST_BYTES};
	}
	return 0;
}

/* ---- images ---- */

static int
put_image(struct reindex_facts *f, struct str p, struct err *err)
{
	auto_free struct image_row *row = xnew(1, sizeof *row);
	struct str env = value_of(p, "env"), line;
	struct digest content;

	if (!digest_at(p, "content", &content) ||
	    digests_of(value_of(p, "layers"), row->layers, IMAGE_ROW_LAYERS_MAX, &row->n_layers,
		       err) < 0)
		return err_set(err, ERR_CORRUPT, "an image without content or layers");
	snprintf(row->content, sizeof row->content, "image:%s", digest_text(&content).text);
	while (env.len && str_cut(&env, '\n', &line)) {
		if (row->env_bytes + line.len + 1 > sizeof row->env)
			return err_set(err, ERR_CORRUPT, "the environment of an image is too long");
		memcpy(row->env + row->env_bytes, line.at, line.len);
		row->env_bytes += line.len + 1;
	}
	text_of(p, "cwd", row->cwd, sizeof row->cwd);
	text_of(p, "user", row->user, sizeof row->user);
	text_of(p, "home", row->home, sizeof row->home);
	row->uid = (unsigned)number_of(p, "uid", 0);
	row->gid = (unsigned)number_of(p, "gid", 0);
	row->bytes = number_of(p, "bytes", 0);
	row->entries = number_of(p, "entries", 0);
	row->dropped = number_of(p, "dropped", 0);
	f->n_images++;
	return reindex_rows_put_image(f->index, row, err);
}

static int
put_name(struct reindex_facts *f, struct str p, struct err *err)
{
	char name[64], content[80];

	text_of(p, "name", name, sizeof name);
	snprintf(content, sizeof content, "image:%.*s", 64, value_of(p, "content").at);
	return reindex_rows_put_name(f->index, name, content, time_real_ns(), err);
}

/* ---- sessions ---- */

static unsigned
take_slot(struct reindex_facts *f, uint64_t wanted)
{
	const unsigned slots = node_slots((unsigned)f->m->config.uid_base);
	unsigned slot = wanted < slots ? (unsigned)wanted : 0;

	if (!f->slots)
		f->slots = xnew(slots, sizeof *f->slots);
	for (unsigned i = 0; i < slots && f->slots[slot]; i++)
		slot = (slot + 1) % slots;
	f->slots[slot] = true;
	return slot;
}

static int
put_limits(struct reindex_facts *f, const char *id, struct str p, struct err *err)
{
	for (int l = 0; l < LIMITS; l++) {
		struct limit_value_row row = {.value = 0};
		char key[40];
		snprintf(key, sizeof key, "limit %s", limit_key((enum limit)l));
		if (!value_of(p, key).len)
			continue;
		row.value = number_of(p, key, 0);
		snprintf(key, sizeof key, "ceiling %s", limit_key((enum limit)l));
		row.has_ceiling = value_of(p, key).len > 0;
		row.ceiling = number_of(p, key, 0);
		snprintf(row.key, sizeof row.key, "%s", limit_key((enum limit)l));
		if (index_put_limit(f->index, id, &row, err) < 0)
			return -1;
	}
	return 0;
}

static int
put_choices(struct reindex_facts *f, const char *id, struct str pairs, struct err *err)
{
	struct str key, value;

	while (next_pair(&pairs, &key, &value)) {
		char name[80], text[8192];
		const bool wall = str_starts(key, "wall ");
		if (!wall && !str_is(key, "node") && !str_is(key, "retention") &&
		    !str_is(key, "fork-ready") && !str_is(key, "snapshot") &&
		    !str_starts(key, "mount "))
			continue;
		if (value.len == 0)
			continue;
		snprintf(name, sizeof name, "%.*s", (int)(key.len - (wall ? 5 : 0)),
			 key.at + (wall ? 5 : 0));
		if (str_copy(value, text, sizeof text, err) < 0 ||
		    choice_rows_put(f->index, id, name, text, err) < 0)
			return -1;
	}
	return 0;
}

/* Whether the upper is there that a start has mounted, or would mount. */
static bool
has_upper(const struct reindex_facts *f, const struct session_row *row)
{
	char name[64];

	snprintf(name, sizeof name, "%s/upper.%u", row->id, row->upper);
	return path_exists(f->m->sessions_dir, name);
}

static void
note_own(struct reindex_facts *f, const struct session_row *row, size_t n)
{
	struct reindex_own *o;

	if (n == 0 || !row->has_head || !has_upper(f, row))
		return;
	o = xnew(1, sizeof *o);
	*o = (struct reindex_own){.next = f->own, .head = row->head};
	memcpy(o->upper.session, row->id, sizeof o->upper.session);
	o->upper.n = row->upper;
	o->upper.n_layers = n;
	f->own = o;
}

static int
put_session(struct reindex_facts *f, struct str p, struct err *err)
{
	struct session_row row = {.fence = 1};

	text_of(p, "id", row.id, sizeof row.id);
	text_of(p, "name", row.name, sizeof row.name);
	text_of(p, "owner", row.owner, sizeof row.owner);
	text_of(p, "image", row.image, sizeof row.image);
	text_of(p, "network", row.network, sizeof row.network);
	row.has_head = digest_at(p, "head", &row.head);
	row.created_ns = number_of(p, "created_ns", 0);
	row.used_ns = number_of(p, "used_ns", row.created_ns);
	row.upper = (unsigned)number_of(p, "upper", 1);
	const bool deleted = number_of(p, "deleted", 0) != 0;
	row.deleted_ns = deleted ? number_of(p, "deleted_ns", time_real_ns()) : 0;
	row.slot = deleted ? (unsigned)number_of(p, "slot", 0)
			   : take_slot(f, number_of(p, "slot", UINT64_MAX));
	if (!row.network[0])
		snprintf(row.network, sizeof row.network, "none");
	snprintf(row.state, sizeof row.state, "%s",
		 deleted              ? "deleted"
		 : has_upper(f, &row) ? "running"
				      : "paused");
	/* Two refs may claim one name: a rename that a death has cut. */
	if (!deleted && reindex_rows_name_taken(f->index, row.name, err) > 0)
		snprintf(row.name, sizeof row.name, "found-%.12s", row.id + 2);
	if (index_put_session(f->index, &row, err) < 0 ||
	    reindex_rows_put_labels(f->index, row.id, value_of(p, "labels"), err) < 0 ||
	    put_limits(f, row.id, p, err) < 0 || put_choices(f, row.id, p, err) < 0)
		return err_add(err, "session %s", row.id);
	note_own(f, &row, number_of(p, "own", 0));
	f->n_sessions++;
	return 0;
}

/* ---- snapshots ---- */

static int
put_layer(struct reindex_facts *f, struct str p, struct err *err)
{
	struct layer_row row = {.bytes = number_of(p, "bytes", 0),
				.raw_bytes = number_of(p, "raw_bytes", 0),
				.entries = number_of(p, "entries", 0)};

	if (!digest_at(p, "digest", &row.digest) || !digest_at(p, "diff_id", &row.diff_id))
		return err_set(err, ERR_CORRUPT, "a layer without its digests");
	return index_put_layer(f->index, &row, err);
}

static void
grow_chain(struct reindex_facts *f, size_t more)
{
	if (f->n_chain + more <= f->chain_cap)
		return;
	struct digest *at = xnew(f->n_chain + more + 1024, sizeof *at);
	f->chain_cap = f->n_chain + more + 1024;
	if (f->n_chain)
		memcpy(at, f->chain, f->n_chain * sizeof *at);
	free(f->chain);
	f->chain = at;
}

static int
add_chain(struct reindex_facts *f, struct str p, struct err *err)
{
	const struct str hex = value_of(p, "layers");
	const size_t more = hex.len / (2 * DIGEST_BYTES);
	size_t n;

	grow_chain(f, more);
	if (digests_of(hex, f->chain + f->n_chain, more, &n, err) < 0)
		return -1;
	f->n_chain += n;
	return 0;
}

static void
tell_fault(struct reindex_facts *f, const char *what, const char *why)
{
	f->n_faults++;
	fprintf(stderr, "berthd: reindex: %s: %s\n", what, why);
}

static int
put_snapshot(struct reindex_facts *f, struct str p, struct err *err)
{
	struct snapshot_row row = {.bytes = number_of(p, "bytes", 0),
				   .total_bytes = number_of(p, "total_bytes", 0),
				   .created_ns = number_of(p, "created_ns", 0)};
	const size_t n = f->n_chain;

	f->n_chain = 0;
	text_of(p, "session", row.session, sizeof row.session);
	text_of(p, "image", row.image, sizeof row.image);
	text_of(p, "made_by", row.made_by, sizeof row.made_by);
	text_of(p, "calls", row.calls, sizeof row.calls);
	text_of(p, "name", row.facts.name, sizeof row.facts.name);
	text_of(p, "note", row.facts.note, sizeof row.facts.note);
	text_of(p, "labels", row.facts.labels, sizeof row.facts.labels);
	row.facts.pinned = number_of(p, "pinned", 0) != 0;
	row.facts.expires_ns = number_of(p, "expires_ns", 0);
	row.has_parent = digest_at(p, "parent", &row.parent);
	if (!digest_at(p, "digest", &row.digest))
		return err_set(err, ERR_CORRUPT, "a snapshot without its digest");
	if (!reindex_rows_has_session(f->index, row.session)) {
		tell_fault(f, digest_text(&row.digest).text, "of a session that no ref tells of");
		return 0;
	}
	if (row.facts.name[0] && reindex_rows_has_name(f->index, row.session, row.facts.name)) {
		tell_fault(f, digest_text(&row.digest).text, "another snapshot has its name");
		row.facts.name[0] = '\0';
	}
	f->n_snapshots++;
	return index_put_snapshot(f->index, &row, f->chain, n, err);
}

int
reindex_fact(struct reindex_facts *f, struct str kind, struct str pairs, struct err *err)
{
	if (str_is(kind, "image"))
		return put_image(f, pairs, err);
	if (str_is(kind, "name"))
		return put_name(f, pairs, err);
	if (str_is(kind, "session"))
		return put_session(f, pairs, err);
	if (str_is(kind, "layer"))
		return put_layer(f, pairs, err);
	if (str_is(kind, "chain"))
		return add_chain(f, pairs, err);
	if (str_is(kind, "snapshot"))
		return put_snapshot(f, pairs, err);
	if (str_is(kind, "fault")) {
		char file[128], why[512];
		text_of(pairs, "file", file, sizeof file);
		text_of(pairs, "why", why, sizeof why);
		tell_fault(f, file, why);
		return 0;
	}
	return err_set(err, ERR_CORRUPT, "a fact of another kind");
}

/* ---- after all refs ---- */

static unsigned
highest_upper(int dir)
{
	const int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;
	uint64_t most = 0, n;
	struct err ignored;

	while (list && (e = readdir(list)) != NULL)
		if (str_starts(str_of(e->d_name), "upper.") &&
		    num_parse(str_of(e->d_name + 6), 0, UINT32_MAX, &n, &ignored) == 0 && n > most)
			most = n;
	if (list)
		closedir(list);
	return (unsigned)most;
}

static int
put_stray(struct reindex_facts *f, const char *id, struct err *err)
{
	struct session_row row = {.fence = 1, .created_ns = time_real_ns()};

	auto_close int dir = path_open(f->m->sessions_dir, id, O_RDONLY | O_DIRECTORY, err);
	if (dir < 0)
		return -1;
	row.upper = highest_upper(dir);
	if (row.upper == 0)
		return 0; /* it never ran */
	row.used_ns = row.created_ns;
	row.slot = take_slot(f, UINT64_MAX);
	snprintf(row.id, sizeof row.id, "%.23s", id);
	snprintf(row.name, sizeof row.name, "found-%.12s", id + 2);
	snprintf(row.state, sizeof row.state, "running");
	snprintf(row.owner, sizeof row.owner, "berthd");
	snprintf(row.image, sizeof row.image, "%s", f->m->image_name);
	snprintf(row.network, sizeof row.network, "none");
	tell_fault(f, id,
		   "no ref tells of this session; its files are kept under a name of its own");
	f->n_sessions++;
	return index_put_session(f->index, &row, err);
}

int
reindex_strays(struct reindex_facts *f, struct err *err)
{
	const int copy = openat(f->m->sessions_dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;
	int result = 0;

	while (result == 0 && list && (e = readdir(list)) != NULL)
		if (id_is("s_", str_of(e->d_name)) &&
		    !reindex_rows_has_session(f->index, e->d_name))
			result = put_stray(f, e->d_name, err);
	if (list)
		closedir(list);
	return result;
}

static int
note_lost_head(void *ctx, const char *id, struct err *err)
{
	struct reindex_facts *f = ctx;

	(void)err;
	tell_fault(f, id,
		   "the snapshot at its head is not in the store: it stands on the newest that is");
	return 0;
}

static int
add_layer(void *ctx, const struct layer_row *row, struct err *err)
{
	struct reindex_facts *f = ctx;
	const struct digest one = row->digest;

	(void)err;
	grow_chain(f, 1);
	f->chain[f->n_chain++] = one;
	return 0;
}

/* The upper stands below these layers. No boot is this one: it equals them for nobody. A head that
 * is not there has no layers, and what it was is not known. */
static int
put_own(struct reindex_facts *f, const struct reindex_own *o, struct err *err)
{
	struct upper_row row = o->upper;

	f->n_chain = 0;
	if (index_list_layers(f->index, &o->head, add_layer, f, err) < 0)
		return -1;
	if (f->n_chain < row.n_layers)
		return 0;
	row.layers = f->chain + f->n_chain - row.n_layers;
	return index_put_upper(f->index, &row, err);
}

int
reindex_heads(struct reindex_facts *f, struct err *err)
{
	for (const struct reindex_own *o = f->own; o; o = o->next)
		if (put_own(f, o, err) < 0)
			return -1;
	return reindex_rows_heads(f->index, note_lost_head, f, err);
}
