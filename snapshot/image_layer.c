/* One layer of an image: unpacked under a temp name, synced, then named by its content. A layer
 * that is there already stays, and the new one goes. */
#include "apply.h"
#include "base/fd.h"
#include "base/path.h"
#include "blob.h"
#include "cache.h"
#include "image.h"
#include "source.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

static int
commit(struct cache_new *c, const struct digest *d, struct image *out, struct err *err)
{
	const struct digest_text name = digest_text(d);

	if (out->n_layers == IMAGE_LAYERS_MAX)
		return err_set(err, ERR_CORRUPT, "more than %d layers", IMAGE_LAYERS_MAX - 1);
	if (!path_exists(c->layers, name.text)) {
		if (syncfs(c->dir) < 0)
			return err_sys(err, errno, "sync a layer of the image");
		if (renameat2(c->layers, c->tmp, c->layers, name.text, RENAME_NOREPLACE) == 0)
			c->tmp[0] = '\0';
		else if (errno != EEXIST)
			return err_sys(err, errno, "rename %s to %s", c->tmp, name.text);
		if (path_sync_dir(c->layers, err) < 0)
			return -1;
	}
	out->layers[out->n_layers++] = *d;
	return 0;
}

int
image_add_tar(const struct layer_options *o, const struct tar_source *from, struct image *out,
	      struct err *err)
{
	auto_cache_new made = CACHE_NEW_NONE;
	struct layer_counts n = {0};
	uint64_t bytes;

	if (cache_begin_in(o->cache, "images", &made, err) < 0)
		return -1;
	auto_of(source_plain) struct source_plain *plain = source_plain_new(from, err);
	if (!plain)
		return -1;
	const struct tar_source source = source_plain_bytes(plain);
	auto_of(tar_reader) struct tar_reader *tar = tar_reader_foreign(&source, err);
	if (!tar)
		return -1;
	auto_of(apply) struct apply *a = apply_new(made.dir, true, o, err);
	if (!a || apply_tar(a, tar, true, &n, err) < 0) {
		cache_say_space(&made, n.raw_bytes, err);
		return -1;
	}
	const struct digest d = source_plain_sum(plain, &bytes);
	out->bytes += bytes;
	out->entries += n.entries;
	out->dropped += tar_dropped(tar);
	return commit(&made, &d, out, err);
}

/* ---- a tree ---- */

/* A directory beneath `root`, with those on its way, 0755. Returns it open. */
static int
make_way(int root, const char *path, struct err *err)
{
	struct str rest = str_of(path), part;
	auto_close int at = fd_dup(root, err);

	while (at >= 0 && rest.len && str_cut(&rest, '/', &part)) {
		char name[256];
		if (part.len == 0 || str_is(part, ".") || str_is(part, ".."))
			return err_set(err, ERR_CORRUPT, "\"%s\" is no path in an image", path);
		if (str_copy(part, name, sizeof name, err) < 0)
			return -1;
		auto_close int up = fd_steal(&at);
		at = path_open_dir(up, name, 0755, err);
	}
	return fd_steal(&at);
}

/* Into an archive of our own form first, by which it gets its digest, then out of that again: so
 * a tree and its archive are the same layer. */
static int
unpack_tree(const struct layer_options *o, int scratch, int dir, int into, struct digest *out_id,
	    struct layer_counts *n, struct err *err)
{
	auto_cache_new packed = CACHE_NEW_NONE;
	struct layer_counts counts = {0};
	struct frames_sum sum;
	uint64_t bytes;

	if (cache_begin_in(o->cache, "images", &packed, err) < 0)
		return -1;
	struct layer_options pack = *o;
	pack.store = packed.dir;
	pack.level = 1;
	auto_of(capture) struct capture *c = capture_new(&pack, dir, scratch, err);
	const int any = c ? capture_run(c, true, &sum, n, err) : -1;
	if (any < 0)
		return -1;
	if (any == 0)
		return err_set(err, ERR_USAGE, "the directory is empty");
	auto_close int fd = blob_open(pack.store, &sum.digest, &bytes, err);
	if (fd < 0)
		return -1;
	auto_of(frames_reader) struct frames_reader *frames =
	    frames_reader_new(fd, 1, LAYER_RAW_MAX_BYTES, err);
	auto_of(apply) struct apply *a = frames ? apply_new(into, true, o, err) : NULL;
	if (!a || apply_archive(a, frames, &counts, err) < 0)
		return cache_say_space(&packed, sum.raw_bytes, err);
	*out_id = sum.diff_id;
	return 0;
}

int
image_add_tree(const struct layer_options *o, int scratch, int dir, const char *prefix,
	       struct image *out, struct err *err)
{
	auto_cache_new made = CACHE_NEW_NONE;
	struct layer_counts n = {0};
	struct digest d;

	if (cache_begin_in(o->cache, "images", &made, err) < 0)
		return -1;
	if (fchmod(made.dir, 0755) < 0)
		return err_sys(err, errno, "set up a layer");
	auto_close int into = make_way(made.dir, prefix, err);
	if (into < 0 || unpack_tree(o, scratch, dir, into, &d, &n, err) < 0)
		return -1;
	if (*prefix) { /* the same tree in another place is another layer */
		auto_of(hasher) struct hasher *h = hasher_new();
		hasher_add(h, prefix, strlen(prefix) + 1);
		hasher_add(h, d.at, sizeof d.at);
		d = hasher_sum(h);
	}
	out->bytes += n.raw_bytes;
	out->entries += n.entries;
	out->dropped += n.skipped;
	return commit(&made, &d, out, err);
}

/* ---- places ---- */

static int
make_places(const struct image *i, int root, struct err *err)
{
	static const struct {
		const char *name;
		mode_t mode;
	} places[] = {{"dev", 0755}, {"etc", 0755},      {"proc", 0555}, {"root", 0700},
		      {"run", 0755}, {"sys", 0555},      {"tmp", 01777}, {"usr", 0755},
		      {"var", 0755}, {"workspace", 0755}};

	if (fchmod(root, 0755) < 0)
		return err_sys(err, errno, "set up a layer");
	for (size_t k = 0; k < sizeof places / sizeof *places; k++)
		if (mkdirat(root, places[k].name, 0755) < 0 ||
		    fchmodat(root, places[k].name, places[k].mode, 0) < 0)
			return err_sys(err, errno, "make /%s", places[k].name);
	if (fchownat(root, "workspace", i->uid, i->gid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "give /workspace to the image's user");
	struct str way = str_of(i->cwd);
	while (way.len && way.at[0] == '/') {
		way.at++;
		way.len--;
	}
	while (way.len && way.at[way.len - 1] == '/')
		way.len--;
	auto_free char *path = xstrndup(way);
	auto_close int cwd = make_way(root, path, err);
	return cwd < 0 ? err_add(err, "the image's WorkingDir") : 0;
}

int
image_add_places(const struct layer_options *o, struct image *out, struct err *err)
{
	auto_cache_new made = CACHE_NEW_NONE;
	char text[400];

	/* Equal texts make equal layers; a change of make_places is another first line. */
	snprintf(text, sizeof text, "berth places 1\n%u:%u\n%s\n", out->uid, out->gid, out->cwd);
	const struct digest d = digest_of(str_of(text));
	if (cache_begin_in(o->cache, "images", &made, err) < 0 ||
	    make_places(out, made.dir, err) < 0 || commit(&made, &d, out, err) < 0)
		return -1;
	memmove(out->layers + 1, out->layers, (out->n_layers - 1) * sizeof *out->layers);
	out->layers[0] = d;
	return 0;
}
