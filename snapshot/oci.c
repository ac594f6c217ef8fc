#include "oci.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/num.h"
#include "base/path.h"
#include "base/time.h"
#include "blob.h"
#include "oci_index.h"
#include "store.h"

#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static char *
time_text(uint64_t real_ns)
{
	char text[TIME_TEXT_BYTES];
	time_format(real_ns, text);
	return xstrdup(text);
}

static struct manifest
manifest_of(const struct oci_snapshot *s)
{
	struct manifest m = {
	    .layers = xnew(s->n_layers + 1, sizeof *m.layers),
	    .n_layers = s->n_layers,
	    .has_parent = s->parent != NULL,
	    .session = manifest_text(s->session),
	    .session_name = manifest_text(s->session_name),
	    .image = manifest_text(s->image),
	    .fingerprint = manifest_text(s->fingerprint),
	    .made_by = manifest_text(s->made_by),
	    .created = time_text(s->created_ns),
	};

	if (s->parent)
		m.parent = *s->parent;
	for (size_t i = 0; i < s->n_layers; i++)
		m.layers[i] = (struct manifest_layer){
		    .digest = s->layers[i], .diff_id = s->diff_ids[i], .bytes = s->sizes[i]};
	return m;
}

static bool
take_line(struct manifest_layer *l, struct manifest *parent)
{
	for (size_t i = 0; i < parent->n_layers; i++) {
		struct manifest_layer *old = &parent->layers[i];
		if (!old->made_by || !digest_equal(&l->digest, &old->digest))
			continue;
		l->made_by = steal(&old->made_by);
		l->created = steal(&old->created);
		return true;
	}
	return false;
}

/* Each layer keeps the line of history it got when it was new; without a parent to read, layers
 * from before have a line that says nothing. */
static void
take_history(int store, struct manifest *m, const bool *merged)
{
	auto_manifest parent = {0};
	struct err ignored;

	const bool known = m->has_parent && oci_load(store, &m->parent, &parent, &ignored) == 0;
	if (m->has_parent && !known)
		return;
	for (size_t i = 0; i < m->n_layers; i++) {
		struct manifest_layer *l = &m->layers[i];
		if (take_line(l, &parent))
			continue;
		const bool of_others = merged && merged[i];
		l->made_by = xstrdup(of_others ? "merge" : m->made_by);
		l->created = of_others ? NULL : xstrdup(m->created);
	}
}

/* The caller's JSON object; NULL: it is none. */
static json_t *
load_object(struct str json)
{
	json_t *j = json.len ? json_loadb(json.at, json.len, JSON_REJECT_DUPLICATES, NULL) : json_object();

	if (json_is_object(j))
		return j;
	json_decref(j);
	return NULL;
}

static int
dump_ref(json_t *j, struct buf *out, struct err *err)
{
	char *text = j ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	if (text)
		buf_text(out, text);
	buf_char(out, '\n');
	const bool good = text && !buf_bad(out);
	free(text);
	return good ? 0 : err_set(err, ERR_INTERNAL, "format a snapshot's ref");
}

static int
format_ref(const struct manifest *m, const struct oci_snapshot *s, struct buf *out, struct err *err)
{
	auto_free char *calls = manifest_text(s->calls);
	json_t *layers = json_array(), *facts = load_object(s->facts);

	if (!facts) {
		json_decref(layers);
		return err_set(err, ERR_USAGE, "the facts of a snapshot are not a JSON object");
	}

	for (size_t i = 0; i < m->n_layers; i++)
		json_array_append_new(
		    layers,
		    json_pack("{s:o,s:I}", "digest",
			      json_sprintf("sha256:%s", digest_text(&m->layers[i].digest).text),
			      "size", (json_int_t)m->layers[i].bytes));
	json_t *j =
	    json_pack("{s:i,s:s,s:s,s:s,s:s,s:s,s:s,s:o,s:o}", "version", 1, "session", m->session,
		      "session_name", m->session_name, "image", m->image, "made_by", m->made_by,
		      "created", m->created, "calls", calls, "facts", facts, "layers", layers);
	if (j) {
		json_object_set_new(j, "config",
				    json_sprintf("sha256:%s", digest_text(&m->config).text));
		json_object_set_new(j, "created_ns", json_integer((json_int_t)s->created_ns));
	}
	if (j && m->has_parent)
		json_object_set_new(j, "parent",
				    json_sprintf("sha256:%s", digest_text(&m->parent).text));
	const int result = dump_ref(j, out, err);
	json_decref(j);
	return result;
}

static int
write_ref(int store, const char *name, struct str text, struct err *err)
{
	return store_directory.put_object(store, name, text, err);
}

int
oci_write_snapshot(int store, const struct oci_snapshot *s, struct digest *out_manifest,
		   struct err *err)
{
	auto_buf config = BUF_MAX(MANIFEST_MAX_BYTES), text = BUF_MAX(MANIFEST_MAX_BYTES);
	auto_buf ref = BUF_MAX(MANIFEST_MAX_BYTES);
	struct digest config_digest, digest;
	char name[80];

	if (s->n_layers > MANIFEST_LAYERS_MAX)
		return err_set(err, ERR_USAGE, "a chain of more than %d layers",
			       MANIFEST_LAYERS_MAX);
	auto_manifest m = manifest_of(s);
	take_history(store, &m, s->merged);
	if (blob_store_init(store, err) < 0 || manifest_format_config(&m, &config, err) < 0 ||
	    blob_put(store, buf_view(&config), &config_digest, err) < 0)
		return err_add(err, "write a snapshot");
	m.config = config_digest;
	if (manifest_format(&m, &config_digest, config.len, &text, err) < 0 ||
	    blob_put(store, buf_view(&text), &digest, err) < 0 || format_ref(&m, s, &ref, err) < 0)
		return err_add(err, "write a snapshot");
	snprintf(name, sizeof name, "%s.json", digest_text(&digest).text);
	if (write_ref(store, name, buf_view(&ref), err) < 0)
		return err_add(err, "write a snapshot's ref");
	struct err ignored; /* it follows from the refs: the next one makes up for it */
	if (oci_index_add(store, &digest, text.len, m.session_name, &ignored) < 0)
		log_err(&ignored, "index.json");
	*out_manifest = digest;
	return 0;
}

int
oci_write_facts(int store, const struct digest *manifest, struct str facts, struct err *err)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES), out = BUF_MAX(MANIFEST_MAX_BYTES);
	char name[80];

	snprintf(name, sizeof name, "%s.json", digest_text(manifest).text);
	if (store_directory.get_object(store, name, &text, err) < 0)
		return err_add(err, "read the ref of snapshot %.12s", name);
	json_t *j = load_object(buf_view(&text)), *f = load_object(facts);
	int result = 0;
	if (!j)
		result = err_set(err, ERR_CORRUPT, "the ref of snapshot %.12s is damaged", name);
	else if (!f)
		result = err_set(err, ERR_USAGE, "the facts of a snapshot are not a JSON object");
	if (result == 0) {
		json_object_set(j, "facts", f);
		result = dump_ref(j, &out, err);
	}
	json_decref(f);
	json_decref(j);
	if (result < 0)
		return -1;
	return write_ref(store, name, buf_view(&out), err);
}

int
oci_rewrite_ref(int store, const struct digest *manifest, const struct manifest *m,
		struct str calls, struct str facts, uint64_t created_ns, struct err *err)
{
	const struct oci_snapshot s = {.calls = calls, .facts = facts, .created_ns = created_ns};
	auto_buf ref = BUF_MAX(MANIFEST_MAX_BYTES);
	char name[80];

	snprintf(name, sizeof name, "%s.json", digest_text(manifest).text);
	if (format_ref(m, &s, &ref, err) < 0)
		return -1;
	return write_ref(store, name, buf_view(&ref), err);
}

int
oci_find_config(int store, const struct digest *manifest, struct digest *out, struct err *err)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES);
	auto_manifest m = {0};
	char name[80];

	snprintf(name, sizeof name, "%s.json", digest_text(manifest).text);
	if (store_directory.get_object(store, name, &text, err) == 0) {
		json_t *j = load_object(buf_view(&text));
		const char *config = json_string_value(json_object_get(j, "config"));
		const int got = config ? digest_parse(str_of(config), out, err) : -1;
		json_decref(j);
		if (got == 0)
			return 0;
	}
	buf_clear(&text);
	if (blob_read(store, manifest, &text, err) < 0 ||
	    manifest_parse(buf_view(&text), &m, err) < 0)
		return -1;
	*out = m.config;
	return 0;
}

int
oci_load(int store, const struct digest *manifest, struct manifest *out, struct err *err)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES), config = BUF_MAX(MANIFEST_MAX_BYTES);
	auto_manifest m = {0};

	if (blob_read(store, manifest, &text, err) < 0 ||
	    manifest_parse(buf_view(&text), &m, err) < 0 ||
	    blob_read(store, &m.config, &config, err) < 0 ||
	    manifest_parse_config(buf_view(&config), &m, err) < 0)
		return err_add(err, "snapshot %.12s", digest_text(manifest).text);
	*out = m;
	m = (struct manifest){0};
	return 0;
}

bool
oci_session_is_deleted(int store, const char *ref)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES);
	struct err ignored;

	if (store_directory.get_object(store, ref, &text, &ignored) < 0)
		return false;
	json_t *j = load_object(buf_view(&text));
	const bool deleted = json_is_true(json_object_get(j, "deleted"));
	json_decref(j);
	return deleted;
}

int
oci_write_session(int store, struct str id, struct str json, struct err *err)
{
	char name[64], text[ID_BYTES];

	if (!id_is("s_", id) || str_copy(id, text, sizeof text, err) < 0)
		return err_set(err, ERR_USAGE, "not the id of a session");
	json_t *j = json_loadb(json.at ? json.at : "", json.len, 0, NULL);
	const bool good = json_is_object(j);
	json_decref(j);
	if (!good)
		return err_set(err, ERR_USAGE, "the ref of session %s is not a JSON object", text);
	snprintf(name, sizeof name, "session-%s.json", text);
	return write_ref(store, name, json, err);
}
