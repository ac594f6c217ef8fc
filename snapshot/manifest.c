#include "manifest.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define MANIFEST_TYPE "application/vnd.oci.image.manifest.v1+json"
#define CONFIG_TYPE   "application/vnd.oci.image.config.v1+json"
#define LAYER_TYPE    "application/vnd.oci.image.layer.v1.tar+zstd"
#define CREATED       "org.opencontainers.image.created"

#if defined(__x86_64__)
#define ARCHITECTURE "amd64"
#elif defined(__aarch64__)
#define ARCHITECTURE "arm64"
#else
#error "OCI's name of this architecture is not known here"
#endif

#define auto_json __attribute__((cleanup(json_freep))) json_t
static void
json_freep(json_t **j)
{
	json_decref(*j);
}

void
manifest_done(struct manifest *m)
{
	for (size_t i = 0; i < m->n_layers; i++) {
		free(m->layers[i].made_by);
		free(m->layers[i].created);
	}
	free(m->layers);
	free(m->session);
	free(m->session_name);
	free(m->image);
	free(m->fingerprint);
	free(m->made_by);
	free(m->created);
	*m = (struct manifest){0};
}

/* Bytes of the UTF-8 sequence at p, 0 when there is none. */
static size_t
sequence(const uint8_t *p, size_t n)
{
	const size_t want = *p < 0x80   ? 1
			    : *p < 0xc2 ? 0
			    : *p < 0xe0 ? 2
			    : *p < 0xf0 ? 3
			    : *p < 0xf5 ? 4
					: 0;
	if (want == 0 || want > n)
		return 0;
	if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
	    (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
		return 0;
	for (size_t i = 1; i < want; i++)
		if ((p[i] & 0xc0) != 0x80)
			return 0;
	return want;
}

char *
manifest_text(struct str s)
{
	auto_buf out = BUF_MAX(3 * s.len + 1);

	for (size_t i = 0; i < s.len;) {
		const size_t n = s.at[i] ? sequence((const uint8_t *)s.at + i, s.len - i) : 0;
		buf_add(&out, n ? s.at + i : "\xef\xbf\xbd", n ? n : 3);
		i += n ? n : 1;
	}
	return xstrdup(buf_cstr(&out));
}

/* ---- formatting ---- */

static void
set_digest(json_t *object, const char *key, const struct digest *d)
{
	json_object_set_new(object, key, json_sprintf("sha256:%s", digest_text(d).text));
}

static void
set_text(json_t *object, const char *key, const char *text)
{
	if (text)
		json_object_set_new(object, key, json_string(text));
}

static int
dump(const json_t *j, struct buf *out, struct err *err)
{
	char *text = json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS);

	if (text)
		buf_text(out, text);
	const int result = text && !buf_bad(out)
			       ? 0
			       : err_set(err, ERR_INTERNAL, "format JSON: too large, or not text");
	free(text);
	return result;
}

int
manifest_format_config(const struct manifest *m, struct buf *out, struct err *err)
{
	auto_json *config = json_object();
	json_t *rootfs = json_object(), *diff_ids = json_array(), *history = json_array();

	for (size_t i = 0; i < m->n_layers; i++) {
		const struct manifest_layer *l = &m->layers[i];
		json_t *line = json_object();
		json_array_append_new(diff_ids,
				      json_sprintf("sha256:%s", digest_text(&l->diff_id).text));
		set_text(line, "created", l->created);
		set_text(line, "created_by", l->made_by ? l->made_by : "berth");
		json_array_append_new(history, line);
	}
	set_text(rootfs, "type", "layers");
	json_object_set_new(rootfs, "diff_ids", diff_ids);
	set_text(config, "architecture", ARCHITECTURE);
	set_text(config, "os", "linux");
	set_text(config, "created", m->created);
	json_object_set_new(config, "config", json_object());
	json_object_set_new(config, "rootfs", rootfs);
	json_object_set_new(config, "history", history);
	return dump(config, out, err);
}

static json_t *
descriptor(const char *type, const struct digest *d, uint64_t bytes)
{
	json_t *j = json_object();
	set_text(j, "mediaType", type);
	set_digest(j, "digest", d);
	json_object_set_new(j, "size", json_integer((json_int_t)bytes));
	return j;
}

int
manifest_format(const struct manifest *m, const struct digest *config, uint64_t config_bytes,
		struct buf *out, struct err *err)
{
	auto_json *j = json_object();
	json_t *layers = json_array(), *notes = json_object();

	for (size_t i = 0; i < m->n_layers; i++)
		json_array_append_new(
		    layers, descriptor(LAYER_TYPE, &m->layers[i].digest, m->layers[i].bytes));
	set_text(notes, "berth.session", m->session);
	set_text(notes, "berth.session-name", m->session_name);
	set_text(notes, "berth.image", m->image);
	set_text(notes, "berth.fingerprint", m->fingerprint);
	set_text(notes, "berth.made-by", m->made_by);
	set_text(notes, CREATED, m->created);
	if (m->has_parent)
		set_digest(notes, "berth.parent", &m->parent);
	json_object_set_new(j, "schemaVersion", json_integer(2));
	set_text(j, "mediaType", MANIFEST_TYPE);
	json_object_set_new(j, "config", descriptor(CONFIG_TYPE, config, config_bytes));
	json_object_set_new(j, "layers", layers);
	json_object_set_new(j, "annotations", notes);
	return dump(j, out, err);
}

/* ---- parsing ---- */

static int
bad(const char *what, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "the manifest of a snapshot: %s", what);
}

static int
take_digest(const json_t *object, const char *key, struct digest *out, struct err *err)
{
	const char *text = json_string_value(json_object_get(object, key));

	if (!text || !str_starts(str_of(text), "sha256:") ||
	    digest_parse(str_of(text), out, err) < 0)
		return bad("a digest is missing or damaged", err);
	return 0;
}

static char *
take_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));
	return xstrdup(text ? text : "");
}

static int
take_layers(const json_t *layers, struct manifest *m, struct err *err)
{
	const size_t n = json_array_size(layers);

	if (!json_is_array(layers) || n > MANIFEST_LAYERS_MAX)
		return bad("its layers cannot be", err);
	m->layers = xnew(n + 1, sizeof *m->layers);
	m->n_layers = n;
	for (size_t i = 0; i < n; i++) {
		const json_t *l = json_array_get(layers, i);
		const json_int_t bytes = json_integer_value(json_object_get(l, "size"));
		const char *type = json_string_value(json_object_get(l, "mediaType"));
		if (!type || strcmp(type, LAYER_TYPE) != 0 || bytes <= 0)
			return bad("a layer is of another kind", err);
		if (take_digest(l, "digest", &m->layers[i].digest, err) < 0)
			return -1;
		m->layers[i].bytes = (uint64_t)bytes;
	}
	return 0;
}

static json_t *
load(struct str text, struct err *err)
{
	json_error_t why;
	json_t *j = json_loadb(text.at ? text.at : "", text.len, JSON_REJECT_DUPLICATES, &why);

	if (!json_is_object(j)) {
		json_decref(j);
		bad(j ? "it is no object" : why.text, err);
		return NULL;
	}
	return j;
}

int
manifest_parse(struct str text, struct manifest *out, struct err *err)
{
	auto_manifest m = {0};

	auto_json *j = load(text, err);
	if (!j)
		return -1;
	const json_t *notes = json_object_get(j, "annotations");
	if (json_integer_value(json_object_get(j, "schemaVersion")) != 2 ||
	    take_layers(json_object_get(j, "layers"), &m, err) < 0)
		return bad("it is of another kind", err);
	if (take_digest(json_object_get(j, "config"), "digest", &m.config, err) < 0)
		return -1;
	m.has_parent = json_object_get(notes, "berth.parent") != NULL;
	if (m.has_parent && take_digest(notes, "berth.parent", &m.parent, err) < 0)
		return -1;
	m.session = take_text(notes, "berth.session");
	m.session_name = take_text(notes, "berth.session-name");
	m.image = take_text(notes, "berth.image");
	m.fingerprint = take_text(notes, "berth.fingerprint");
	m.made_by = take_text(notes, "berth.made-by");
	m.created = take_text(notes, CREATED);
	*out = m;
	m = (struct manifest){0};
	return 0;
}

int
manifest_parse_config(struct str text, struct manifest *m, struct err *err)
{
	auto_json *j = load(text, err);
	if (!j)
		return -1;
	const json_t *ids = json_object_get(json_object_get(j, "rootfs"), "diff_ids");
	const json_t *history = json_object_get(j, "history");
	if (json_array_size(ids) != m->n_layers)
		return bad("its config is of other layers", err);
	for (size_t i = 0; i < m->n_layers; i++) {
		struct manifest_layer *l = &m->layers[i];
		const char *id = json_string_value(json_array_get(ids, i));
		const json_t *line = json_array_get(history, i);
		if (!id || digest_parse(str_of(id), &l->diff_id, err) < 0)
			return bad("a diff_id is damaged", err);
		free(l->made_by);
		free(l->created);
		l->made_by = take_text(line, "created_by");
		l->created = take_text(line, "created");
	}
	return 0;
}
