#include "image.h"
#include "base/fd.h"
#include "base/path.h"
#include "blob.h"
#include "dirs.h"
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void
image_init(struct image *i)
{
	*i = (struct image){.env = BUF_MAX(IMAGE_ENV_MAX_BYTES), .home = "/root"};
}

void
image_done(struct image *i)
{
	buf_free(&i->env);
}

static int
add_host(const struct layer_options *o, int scratch, const int *sources, size_t n,
	 struct image *out, struct err *err)
{
	static const char *const places[] = {"", "usr", "var/lib/dpkg"};

	if (n < 2 || n > sizeof places / sizeof *places)
		return err_set(err, ERR_CORRUPT, "image host of %zu trees", n);
	for (size_t i = 0; i < n; i++)
		if (image_add_tree(o, scratch, sources[i], places[i], out, err) < 0)
			return err_add(err, "/%s", places[i]);
	return 0;
}

static int
add_file(const struct layer_options *o, int file, struct image *out, struct err *err)
{
	const int docker = image_add_docker(o, file, out, err);
	if (docker != 0)
		return docker < 0 ? -1 : 0;
	auto_source_file f;
	source_file_init(&f, file);
	const struct tar_source bytes = source_file_bytes(&f);
	return image_add_tar(o, &bytes, out, err);
}

static int
add_layers(const struct layer_options *o, int scratch, enum image_kind kind, const int *sources,
	   size_t n, struct image *out, struct err *err)
{
	switch (kind) {
	case IMAGE_HOST:
		return add_host(o, scratch, sources, n, out, err);
	case IMAGE_DIRECTORY:
		if (path_exists(sources[0], "oci-layout") && path_exists(sources[0], "index.json"))
			return image_add_layout(o, sources[0], out, err);
		return image_add_tree(o, scratch, sources[0], "", out, err);
	case IMAGE_FILE:
		return add_file(o, sources[0], out, err);
	case IMAGE_KINDS:
		break;
	}
	return err_set(err, ERR_CORRUPT, "a source of no kind");
}

/* ---- refs ---- */

static int
write_refs(int store, const struct image *i, struct str facts, struct str name, struct err *err)
{
	char file[80];

	if (blob_store_init(store, err) < 0)
		return -1;
	auto_close int refs = path_open_dir(store, "refs", 0700, err);
	if (refs < 0)
		return -1;
	snprintf(file, sizeof file, "image-%s.json", digest_text(&i->content).text);
	if (path_replace(refs, file, 0600, facts, err) < 0)
		return -1;
	json_t *j = json_pack("{s:s%,s:o,s:o}", "name", name.at, name.len, "content",
			      json_sprintf("sha256:%s", digest_text(&i->content).text), "facts",
			      json_loadb(facts.at, facts.len, 0, NULL));
	auto_free char *text = j ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	json_decref(j);
	if (!text)
		return err_set(err, ERR_INTERNAL, "format an image's ref");
	snprintf(file, sizeof file, "image-%.*s.json", (int)name.len, name.at);
	return path_replace(refs, file, 0600, str_of(text), err);
}

int
image_import(const struct layer_options *o, int scratch, enum image_kind kind, const int *sources,
	     size_t n, struct str name, struct image *out, struct err *err)
{
	auto_buf facts = BUF_MAX(IMAGE_JSON_MAX_BYTES);

	if (n == 0 || name.len == 0 || name.len > 63 || memchr(name.at, '/', name.len))
		return err_set(err, ERR_CORRUPT, "an import without a name or a source");
	if (add_layers(o, scratch, kind, sources, n, out, err) < 0 ||
	    image_find_user(o->cache, out, err) < 0 || image_add_places(o, out, err) < 0 ||
	    image_format_facts(out, &facts, err) < 0)
		return -1;
	return write_refs(o->store, out, buf_view(&facts), name, err);
}

static int
remove_ref(int refs, const char *middle, struct err *err)
{
	char file[80];

	snprintf(file, sizeof file, "image-%s.json", middle);
	if (unlinkat(refs, file, 0) < 0 && errno != ENOENT)
		return err_sys(err, errno, "remove %s", file);
	return 0;
}

int
image_remove(const struct layer_options *o, struct str name, const struct digest *content,
	     const struct digest *layers, size_t n, struct err *err)
{
	char text[64];

	if (str_copy(name, text, sizeof text, err) < 0 || strchr(text, '/'))
		return err_set(err, ERR_CORRUPT, "not an image's name");
	auto_close int refs = path_open_dir(o->store, "refs", 0700, err);
	if (refs < 0 || (*text && remove_ref(refs, text, err) < 0) ||
	    (content && remove_ref(refs, digest_text(content).text, err) < 0) ||
	    path_sync_dir(refs, err) < 0)
		return -1;
	auto_close int images = path_open_dir(o->cache, "images", 0700, err);
	if (images < 0)
		return -1;
	for (size_t i = 0; i < n; i++) {
		char tmp[32];
		/* Out of its name first: what is half removed must not be found under it. */
		blob_tmp_name(tmp);
		if (renameat(images, digest_text(&layers[i]).text, images, tmp) < 0) {
			if (errno == ENOENT)
				continue;
			return err_sys(err, errno, "rename a layer");
		}
		if (dirs_remove_tree(images, tmp, err) < 0)
			return -1;
	}
	return 0;
}
