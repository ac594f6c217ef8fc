/* What a store holds, by its refs: a server's, or one that this tool made. */
#include "archive_tool.h"
#include "base/fd.h"
#include "base/path.h"
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

enum { PREFIX_MIN_DIGITS = 6, REF_MAX_BYTES = MANIFEST_MAX_BYTES, TEXT_COLUMNS = 12 };

void
archive_list_done(struct archive_list *l)
{
	for (size_t i = 0; i < l->n; i++) {
		manifest_done(&l->at[i].m);
		free(l->at[i].name);
		free(l->at[i].note);
	}
	free(l->at);
	*l = (struct archive_list){0};
}

static char *
text_of(const json_t *j, const char *key)
{
	const char *text = json_string_value(json_object_get(j, key));
	return xstrdup(text ? text : "");
}

/* What the ref says twice must be what the manifest says. */
static int
check_ref(const json_t *ref, const struct archive_snapshot *s, struct err *err)
{
	const struct {
		const char *key, *is;
	} rows[] = {{"session", s->m.session},
		    {"session_name", s->m.session_name},
		    {"image", s->m.image},
		    {"made_by", s->m.made_by},
		    {"created", s->m.created}};
	const json_t *layers = json_object_get(ref, "layers");

	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		const char *text = json_string_value(json_object_get(ref, rows[i].key));
		if (!text || strcmp(text, rows[i].is) != 0)
			return err_set(err, ERR_CORRUPT, "its ref has another %s than its manifest",
				       rows[i].key);
	}
	const char *parent = json_string_value(json_object_get(ref, "parent"));
	struct digest said;
	if (s->m.has_parent != (parent != NULL) ||
	    (parent &&
	     (digest_parse(str_of(parent), &said, err) < 0 || !digest_equal(&said, &s->m.parent))))
		return err_set(err, ERR_CORRUPT, "its ref has another parent than its manifest");
	for (size_t i = 0; i < s->m.n_layers; i++) {
		const json_t *l = json_array_get(layers, i);
		const char *text = json_string_value(json_object_get(l, "digest"));
		struct digest d;
		if (!text || digest_parse(str_of(text), &d, err) < 0 ||
		    !digest_equal(&d, &s->m.layers[i].digest) ||
		    json_integer_value(json_object_get(l, "size")) !=
			(json_int_t)s->m.layers[i].bytes)
			return err_set(err, ERR_CORRUPT,
				       "its ref has other layers than its manifest");
	}
	return json_array_size(layers) == s->m.n_layers
		   ? 0
		   : err_set(err, ERR_CORRUPT, "its ref has other layers than its manifest");
}

static int
load_snapshot(int store, const char *ref_name, struct archive_snapshot *s, struct err *err)
{
	auto_buf text = BUF_MAX(REF_MAX_BYTES);

	s->name = xstrdup("");
	s->note = xstrdup("");
	if (store_directory.get_object(store, ref_name, &text, err) < 0)
		return -1;
	auto_json *ref = json_loadb(text.at ? text.at : "", text.len, 0, NULL);
	if (!json_is_object(ref))
		return err_set(err, ERR_CORRUPT, "its ref is damaged");
	free(s->name);
	free(s->note);
	const json_t *facts = json_object_get(ref, "facts");
	s->name = text_of(facts, "name");
	s->note = text_of(facts, "note");
	if (oci_load(store, &s->digest, &s->m, err) < 0)
		return -1;
	return check_ref(ref, s, err);
}

static int
add_snapshot(struct archive_list *l, int store, const struct digest *d, const char *ref_name,
	     struct err *err)
{
	if (l->n == l->cap) {
		const size_t cap = l->cap ? l->cap * 2 : 64;
		struct archive_snapshot *grown = realloc(l->at, cap * sizeof *grown);
		if (!grown)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a list of snapshots");
		l->at = grown;
		l->cap = cap;
	}
	struct archive_snapshot *s = &l->at[l->n++];
	*s = (struct archive_snapshot){.digest = *d};
	s->broken = load_snapshot(store, ref_name, s, &s->why) < 0;
	return 0;
}

static int
by_age(const void *a, const void *b)
{
	const struct archive_snapshot *x = a, *y = b;
	const int order =
	    strcmp(x->m.created ? x->m.created : "", y->m.created ? y->m.created : "");
	return order ? order : memcmp(x->digest.at, y->digest.at, DIGEST_BYTES);
}

int
archive_list_load(int store, struct archive_list *out, struct err *err)
{
	auto_archive_list l = {0};
	const int fd = path_open(store, "refs", O_RDONLY | O_DIRECTORY, err);
	DIR *refs = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;
	int result = 0;

	if (!refs) {
		if (errno == ENOENT)
			err_set(err, ERR_ABSENT, "it has no refs: not a store");
		return -1;
	}
	while (result == 0 && (e = readdir(refs)) != NULL) {
		struct err not_one;
		struct digest d;
		if (strlen(e->d_name) != 2 * DIGEST_BYTES + 5 ||
		    strcmp(e->d_name + 2 * DIGEST_BYTES, ".json") != 0 ||
		    digest_parse((struct str){e->d_name, 2 * DIGEST_BYTES}, &d, &not_one) < 0)
			continue;
		result = add_snapshot(&l, store, &d, e->d_name, err);
	}
	closedir(refs);
	if (result < 0)
		return -1;
	if (l.n)
		qsort(l.at, l.n, sizeof *l.at, by_age);
	*out = l;
	l = (struct archive_list){0};
	return 0;
}

/* ---- finding one ---- */

static bool
is_prefix(const char *what)
{
	const size_t n = strlen(what);
	return n >= PREFIX_MIN_DIGITS && n <= 2 * DIGEST_BYTES &&
	       strspn(what, "0123456789abcdef") == n;
}

static bool
begins(const struct digest *d, const char *prefix)
{
	return strncmp(digest_text(d).text, prefix, strlen(prefix)) == 0;
}

/* How many different things the prefix means; the last of them. */
static size_t
find_prefix(const struct archive_list *l, const char *prefix, const struct archive_snapshot **out,
	    const struct manifest_layer **out_layer)
{
	size_t found = 0;

	for (size_t i = 0; i < l->n; i++) {
		const struct archive_snapshot *s = &l->at[i];
		if (begins(&s->digest, prefix)) {
			*out = s;
			found++;
		}
		for (size_t k = 0; k < s->m.n_layers; k++) {
			const struct manifest_layer *one = &s->m.layers[k];
			if (!begins(&one->digest, prefix) ||
			    (*out_layer && digest_equal(&(*out_layer)->digest, &one->digest)))
				continue;
			*out_layer = one;
			found++;
		}
	}
	return found;
}

int
archive_list_find(const struct archive_list *l, const char *what,
		  const struct archive_snapshot **out, const struct manifest_layer **out_layer,
		  struct err *err)
{
	const struct archive_snapshot *s = NULL;
	const struct manifest_layer *layer = NULL;

	if (strncmp(what, "sha256:", 7) == 0)
		what += 7;
	for (size_t i = 0; i < l->n; i++) /* the newest of a name wins */
		if (!l->at[i].broken && *what &&
		    (strcmp(l->at[i].name, what) == 0 ||
		     strcmp(l->at[i].m.session_name, what) == 0))
			s = &l->at[i];
	if (!s && is_prefix(what)) {
		const size_t found = find_prefix(l, what, &s, &layer);
		if (found > 1)
			return err_set(err, ERR_USAGE, "%s could be %zu of them", what, found);
	}
	if (!s && !layer) {
		err_set(err, ERR_ABSENT, "no snapshot or layer %s is there", what);
		return err_hint(err, "run: berth-archive ls STORE");
	}
	if (s && s->broken) {
		*err = s->why;
		return -1;
	}
	*out = s;
	*out_layer = s ? NULL : layer;
	return 0;
}

/* ---- ls ---- */

static uint64_t
total_bytes(const struct manifest *m)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < m->n_layers; i++)
		sum += m->layers[i].bytes;
	return sum;
}

static json_t *
as_json(const struct archive_snapshot *s)
{
	const struct manifest *m = &s->m;
	json_t *layers = json_array();
	json_t *j = json_object();

	json_object_set_new(j, "snapshot", archive_tell_digest(&s->digest));
	json_object_set_new(j, "broken", s->broken ? json_string(s->why.why) : json_null());
	if (s->broken) {
		json_decref(layers);
		return j;
	}
	for (size_t i = 0; i < m->n_layers; i++) {
		json_t *l = json_object();
		json_object_set_new(l, "digest", archive_tell_digest(&m->layers[i].digest));
		json_object_set_new(l, "bytes", json_integer((json_int_t)m->layers[i].bytes));
		json_array_append_new(layers, l);
	}
	json_object_set_new(j, "parent",
			    m->has_parent ? archive_tell_digest(&m->parent) : json_null());
	json_object_set_new(j, "layers", layers);
	json_object_set_new(
	    j, "bytes",
	    json_integer(m->n_layers ? (json_int_t)m->layers[m->n_layers - 1].bytes : 0));
	json_object_set_new(j, "total_bytes", json_integer((json_int_t)total_bytes(m)));
	json_object_set_new(j, "session", json_string(m->session));
	json_object_set_new(j, "session_name", json_string(m->session_name));
	json_object_set_new(j, "image", json_string(m->image));
	json_object_set_new(j, "made_by", json_string(m->made_by));
	json_object_set_new(j, "created", json_string(m->created));
	json_object_set_new(j, "name", json_string(s->name));
	json_object_set_new(j, "note", json_string(s->note));
	return j;
}

/* Foreign text in a table: nothing in it may move a terminal's cursor. */
static void
print_text(const char *text, size_t columns)
{
	size_t n = 0;

	for (const char *p = text; *p; p++, n++)
		putchar((unsigned char)*p < ' ' || *p == 0x7f ? '?' : *p);
	for (; n < columns; n++)
		putchar(' ');
}

static void
print_row(const struct archive_snapshot *s)
{
	const struct manifest *m = &s->m;
	char size[16], total[16];

	if (s->broken) {
		printf("%.12s  broken: ", digest_text(&s->digest).text);
		print_text(s->why.why, 0);
		putchar('\n');
		return;
	}
	archive_tell_size(m->n_layers ? m->layers[m->n_layers - 1].bytes : 0, size);
	archive_tell_size(total_bytes(m), total);
	printf("%.12s  %-12.12s  %9s  %9s  %6zu  %-24.24s  ", digest_text(&s->digest).text,
	       m->has_parent ? digest_text(&m->parent).text : "-", size, total, m->n_layers,
	       m->created);
	print_text(m->session_name[0] ? m->session_name : "-", TEXT_COLUMNS);
	fputs("  ", stdout);
	print_text(m->made_by, s->name[0] || s->note[0] ? TEXT_COLUMNS : 0);
	if (s->name[0] || s->note[0])
		fputs("  ", stdout);
	print_text(s->name, 0);
	if (s->name[0] && s->note[0])
		fputs(": ", stdout);
	print_text(s->note, 0);
	putchar('\n');
}

int
archive_ls(struct archive_job *job, struct err *err)
{
	auto_archive_list l = {0};
	size_t broken = 0;

	if (archive_list_load(job->store, &l, err) < 0)
		return -1;
	auto_json *all = json_array();
	if (!job->json)
		printf("%-12s  %-12s  %9s  %9s  %6s  %-24s  %-12s  %-12s  %s\n", "SNAPSHOT",
		       "PARENT", "SIZE", "TOTAL", "LAYERS", "CREATED", "SESSION", "MADE BY",
		       "NAME");
	for (size_t i = 0; i < l.n; i++) {
		broken += l.at[i].broken;
		if (job->json)
			json_array_append_new(all, as_json(&l.at[i]));
		else
			print_row(&l.at[i]);
	}
	if (job->json && archive_tell_json(steal(&all), err) < 0)
		return -1;
	if (broken)
		return err_set(err, ERR_CORRUPT, "%zu of %zu snapshots cannot be read", broken,
			       l.n);
	return 0;
}
