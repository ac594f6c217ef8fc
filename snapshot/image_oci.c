/* Images in the two forms that other tools write: an OCI layout directory, and a docker-archive
 * (podman save, docker save, skopeo), a tar of tars.
 *
 * Invariants
 *  1. every blob of a layout has the digest by which it was named, or the import fails;
 *  2. every layer unpacks to the diff_id that the config lists for it, or the import fails. */
#include "base/fd.h"
#include "base/path.h"
#include "image.h"
#include "source.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/stat.h>

#if defined(__aarch64__)
#define ARCHITECTURE "arm64"
#else
#define ARCHITECTURE "amd64"
#endif

#define auto_json __attribute__((cleanup(json_free_ref))) json_t
static void
json_free_ref(json_t **j)
{
	json_decref(*j);
}

static json_t *
parse(struct str text, const char *what, struct err *err)
{
	json_t *j = json_loadb(text.at ? text.at : "", text.len, 0, NULL);
	if (!j)
		err_set(err, ERR_CORRUPT, "%s is not JSON", what);
	return j;
}

/* ---- an OCI layout ---- */

static int
open_file(int dir, const char *name, struct err *err)
{
	struct stat st;

	auto_close int fd = path_open(dir, name, O_RDONLY | O_NONBLOCK, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, ERR_CORRUPT, "%s is not a file", name);
	return fd_steal(&fd);
}

static int
open_blob(int dir, const json_t *descriptor, struct digest *out, struct err *err)
{
	const char *text = json_string_value(json_object_get(descriptor, "digest"));
	char name[96];

	if (!text || digest_parse(str_of(text), out, err) < 0)
		return err_set(err, ERR_CORRUPT, "a blob without a sha256 digest");
	snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(out).text);
	return open_file(dir, name, err);
}

static int
judge(const struct digest *found, const struct digest *wanted, struct err *err)
{
	if (digest_equal(found, wanted))
		return 0;
	return err_set(err, ERR_CORRUPT, "blob %.12s holds bytes of %.12s",
		       digest_text(wanted).text, digest_text(found).text);
}

static int
read_blob(int dir, const json_t *descriptor, struct buf *out, struct err *err)
{
	struct digest wanted;
	auto_close int fd = open_blob(dir, descriptor, &wanted, err);

	if (fd < 0 || fd_read_to_end(fd, out, err) < 0)
		return -1;
	const struct digest found = digest_of(buf_view(out));
	return judge(&found, &wanted, err);
}

static bool
is_for_us(const json_t *descriptor)
{
	const json_t *p = json_object_get(descriptor, "platform");
	const char *os = json_string_value(json_object_get(p, "os"));
	const char *arch = json_string_value(json_object_get(p, "architecture"));

	return (!os || strcmp(os, "linux") == 0) && (!arch || strcmp(arch, ARCHITECTURE) == 0);
}

/* From an index to a manifest, through one further index at most (an image of many platforms). */
static json_t *
find_manifest(int dir, struct err *err)
{
	auto_buf text = BUF_MAX(IMAGE_JSON_MAX_BYTES);
	auto_close int fd = open_file(dir, "index.json", err);

	if (fd < 0 || fd_read_to_end(fd, &text, err) < 0)
		return NULL;
	auto_json *j = parse(buf_view(&text), "index.json", err);
	for (int depth = 0; j && depth < 3; depth++) {
		const json_t *const list = json_object_get(j, "manifests"), *one = NULL;
		if (!list)
			return steal(&j);
		for (size_t i = 0; i < json_array_size(list) && !one; i++)
			if (is_for_us(json_array_get(list, i)))
				one = json_array_get(list, i);
		buf_clear(&text);
		if (!one) {
			err_set(err, ERR_USAGE, "there is no image for linux/" ARCHITECTURE);
			return NULL;
		}
		if (read_blob(dir, one, &text, err) < 0)
			return NULL;
		json_decref(j);
		j = parse(buf_view(&text), "a manifest", err);
	}
	if (j)
		err_set(err, ERR_CORRUPT, "an index of indexes of indexes");
	return NULL;
}

static int
add_blob(const struct layer_options *o, int dir, const json_t *descriptor, struct image *out,
	 struct err *err)
{
	struct digest wanted;
	auto_source_file f = {.fd = -1};
	auto_close int fd = open_blob(dir, descriptor, &wanted, err);

	if (fd < 0)
		return -1;
	source_file_init(&f, fd);
	const struct tar_source bytes = source_file_bytes(&f);
	if (image_add_tar(o, &bytes, out, err) < 0)
		return -1;
	const struct digest found = hasher_sum(f.hasher);
	return judge(&found, &wanted, err);
}

int
image_add_layout(const struct layer_options *o, int dir, struct image *out, struct err *err)
{
	auto_buf config = BUF_MAX(IMAGE_JSON_MAX_BYTES);
	auto_json *manifest = find_manifest(dir, err);

	if (!manifest || read_blob(dir, json_object_get(manifest, "config"), &config, err) < 0)
		return err_add(err, "the OCI layout");
	const json_t *layers = json_object_get(manifest, "layers");
	for (size_t i = 0; i < json_array_size(layers); i++)
		if (add_blob(o, dir, json_array_get(layers, i), out, err) < 0)
			return err_add(err, "layer %zu", i + 1);
	return image_take_config(buf_view(&config), out, err);
}

/* ---- a docker-archive ---- */

struct outer { /* the tar of tars, read once from its beginning */
	struct source_file file;
	struct source_plain *plain; /* owned */
	struct tar_source bytes;
	struct archive *archive; /* owned */
	struct archive_entry *entry;
	uint64_t at; /* of the current entry's data */
	struct err why;
	bool failed;
};

#define auto_outer __attribute__((cleanup(outer_done))) struct outer
static void
outer_done(struct outer *t)
{
	archive_read_free(t->archive);
	source_plain_free(t->plain);
	source_file_done(&t->file);
}

static la_ssize_t
read_outer(struct archive *a, void *ctx, const void **out)
{
	struct outer *t = ctx;
	struct str bytes = {0};

	(void)a;
	const int got = t->bytes.next(t->bytes.ctx, &bytes, &t->why);
	t->failed = got < 0;
	*out = bytes.at;
	return got < 0 ? -1 : got ? (la_ssize_t)bytes.len : 0;
}

static int
outer_fail(struct outer *t, struct err *err)
{
	if (t->failed) {
		*err = t->why;
		return -1;
	}
	const char *text = archive_error_string(t->archive);
	return err_set(err, ERR_CORRUPT, "read the archive: %s", text ? text : "not a tar");
}

static int
outer_open(struct outer *t, int fd, struct err *err)
{
	source_file_init(&t->file, fd);
	const struct tar_source bytes = source_file_bytes(&t->file);
	t->plain = source_plain_new(&bytes, err);
	if (!t->plain)
		return -1;
	t->bytes = source_plain_bytes(t->plain);
	t->archive = archive_read_new();
	if (!t->archive || archive_read_support_format_tar(t->archive) != ARCHIVE_OK ||
	    archive_read_open(t->archive, t, NULL, read_outer, NULL) != ARCHIVE_OK)
		return outer_fail(t, err);
	return 0;
}

/* The next file's name, NULL when it has none. 1, 0 the end, -1. */
static int
outer_next(struct outer *t, const char **out_name, struct err *err)
{
	const int got = archive_read_next_header(t->archive, &t->entry);

	if (got == ARCHIVE_EOF)
		return 0;
	if (got != ARCHIVE_OK && got != ARCHIVE_WARN)
		return outer_fail(t, err);
	const char *name = archive_entry_pathname(t->entry);
	*out_name = name ? name : "";
	t->at = 0;
	return 1;
}

/* The current file's data: a tar_source. */
static int
outer_data(void *ctx, struct str *out, struct err *err)
{
	struct outer *t = ctx;
	const void *bytes;
	size_t n = 0;
	la_int64_t at;
	int got = ARCHIVE_OK;

	while (got == ARCHIVE_OK && n == 0)
		got = archive_read_data_block(t->archive, &bytes, &n, &at);
	if (got == ARCHIVE_EOF)
		return 0;
	if (got != ARCHIVE_OK)
		return outer_fail(t, err);
	if (at < 0 || (uint64_t)at != t->at)
		return err_set(err, ERR_CORRUPT, "a layer with holes");
	t->at += n;
	*out = (struct str){bytes, n};
	return 1;
}

static int
outer_read(struct outer *t, struct buf *out, struct err *err)
{
	struct str piece;
	int more;

	while ((more = outer_data(t, &piece, err)) > 0) {
		buf_str(out, piece);
		if (buf_bad(out))
			return err_set(err, ERR_CORRUPT, "a manifest or config over 4 MiB");
	}
	return more;
}

/* What the top of a root holds, and the top of a docker-archive never does: reading on to the end
 * for a manifest would be for nothing. */
static bool
is_of_a_root(const char *name)
{
	static const char *const tops[] = {"./",   "bin",   "boot", "dev",  "etc",  "home",
					   "lib",  "lib64", "opt",  "proc", "root", "run",
					   "sbin", "sys",   "tmp",  "usr",  "var"};

	if (strcmp(name, ".") == 0)
		return true;
	for (size_t i = 0; i < sizeof tops / sizeof *tops; i++) {
		const size_t n = strlen(tops[i]);
		if (strncmp(name, tops[i], n) == 0 &&
		    (name[n - 1] == '/' || name[n] == '/' || name[n] == '\0'))
			return true;
	}
	return false;
}

/* 1 with the manifest's text, 0 there is none, -1. */
static int
find_docker_manifest(int file, struct buf *out, struct err *err)
{
	auto_outer t = {.file = {.fd = -1}};
	const char *name = "";
	int more;

	if (outer_open(&t, file, err) < 0)
		return -1;
	while ((more = outer_next(&t, &name, err)) > 0) {
		if (is_of_a_root(name))
			return 0;
		if (strcmp(name, "manifest.json") == 0)
			return outer_read(&t, out, err) < 0 ? -1 : 1;
	}
	return more;
}

struct docker {
	const json_t *layers; /* lent: their names */
	const char *config;   /* lent */
	struct buf config_text;
	struct digest found[IMAGE_LAYERS_MAX];
	bool have[IMAGE_LAYERS_MAX];
	size_t n;
};

static int
take_docker_entry(const struct layer_options *o, struct outer *t, const char *name,
		  struct docker *d, struct image *out, struct err *err)
{
	const struct tar_source data = {outer_data, t};
	size_t first = d->n;

	if (strcmp(name, d->config) == 0) {
		buf_clear(&d->config_text);
		return outer_read(t, &d->config_text, err);
	}
	for (size_t i = d->n; i-- > 0;)
		if (strcmp(name, json_string_value(json_array_get(d->layers, i))) == 0)
			first = i;
	if (first == d->n || d->have[first])
		return 0;
	if (archive_entry_filetype(t->entry) != AE_IFREG || archive_entry_hardlink(t->entry))
		return err_set(err, ERR_USAGE, "layer %s is a link: save it by another tool", name);
	out->n_layers = 0; /* put in order when all are there */
	if (image_add_tar(o, &data, out, err) < 0)
		return err_add(err, "layer %.80s", name);
	for (size_t i = 0; i < d->n; i++)
		if (strcmp(name, json_string_value(json_array_get(d->layers, i))) == 0) {
			d->found[i] = out->layers[0];
			d->have[i] = true;
		}
	return 0;
}

static int
add_docker_layers(const struct layer_options *o, int file, struct docker *d, struct image *out,
		  struct err *err)
{
	auto_outer t = {.file = {.fd = -1}};
	const char *name = "";
	int more;

	if (outer_open(&t, file, err) < 0)
		return -1;
	while ((more = outer_next(&t, &name, err)) > 0)
		if (take_docker_entry(o, &t, name, d, out, err) < 0)
			return -1;
	if (more < 0)
		return -1;
	for (size_t i = 0; i < d->n; i++)
		if (!d->have[i])
			return err_set(err, ERR_CORRUPT, "layer %zu of the archive is missing",
				       i + 1);
	memcpy(out->layers, d->found, d->n * sizeof *d->found);
	out->n_layers = d->n;
	return image_take_config(buf_view(&d->config_text), out, err);
}

int
image_add_docker(const struct layer_options *o, int file, struct image *out, struct err *err)
{
	auto_buf text = BUF_MAX(IMAGE_JSON_MAX_BYTES);
	const int found = find_docker_manifest(file, &text, err);

	if (found <= 0)
		return found;
	auto_json *j = parse(buf_view(&text), "manifest.json", err);
	if (!j)
		return -1;
	const json_t *first = json_array_get(j, 0);
	struct docker d = {
	    .layers = json_object_get(first, "Layers"),
	    .config = json_string_value(json_object_get(first, "Config")),
	    .config_text = BUF_MAX(IMAGE_JSON_MAX_BYTES),
	};
	d.n = json_array_size(d.layers);
	for (size_t i = 0; i < d.n; i++)
		if (!json_is_string(json_array_get(d.layers, i)))
			d.config = NULL;
	if (!d.config || d.n == 0 || d.n >= IMAGE_LAYERS_MAX)
		return err_set(err, ERR_CORRUPT,
			       "manifest.json names no config, or not 1 to 127 layers");
	if (json_array_size(j) > 1) {
		err_set(err, ERR_USAGE, "the archive holds %zu images", json_array_size(j));
		return err_hint(err, "save one of them alone");
	}
	const int result = add_docker_layers(o, file, &d, out, err);
	buf_free(&d.config_text);
	return result < 0 ? -1 : 1;
}
