#include "cache.h"
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "blob.h"
#include "dirs.h"
#include "measure.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { MARKER_MAX_BYTES = 4096, SYNC_MAX = 1024, NAME_BYTES = 2 * DIGEST_BYTES + 8 };

static void
marker_name(const struct digest *d, char out[NAME_BYTES])
{
	snprintf(out, NAME_BYTES, "%s.json", digest_text(d).text);
}

static void
format_marker(char out[128], bool synced)
{
	snprintf(out, 128, "{\"boot_id\":\"%s\",\"synced\":%s}\n", time_boot_id(),
		 synced ? "true" : "false");
}

/* What the marker says: 2 synced, 1 made by this boot, 0 neither, or not to be read. */
static int
read_marker(int layers, const struct digest *d)
{
	auto_buf text = BUF_MAX(MARKER_MAX_BYTES);
	char name[NAME_BYTES];
	struct err ignored;

	marker_name(d, name);
	if (path_read(layers, name, &text, &ignored) < 0 || !text.len)
		return 0;
	json_t *j = json_loadb(text.at, text.len, 0, NULL);
	const char *boot = json_string_value(json_object_get(j, "boot_id"));
	const bool same_boot = boot && *boot && strcmp(boot, time_boot_id()) == 0;
	const int result = json_is_true(json_object_get(j, "synced")) ? 2 : same_boot;

	json_decref(j);
	return result;
}

static bool
is_trusted(int layers, const struct digest *d)
{
	struct stat st;

	return fstatat(layers, digest_text(d).text, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       S_ISDIR(st.st_mode) && read_marker(layers, d) > 0;
}

static bool
is_synced(int layers, const struct digest *d)
{
	return read_marker(layers, d) == 2;
}

bool
cache_layer_trusted(int cache, const struct digest *digest)
{
	struct err ignored;

	auto_close int layers = path_open(cache, "layers", O_RDONLY | O_DIRECTORY, &ignored);
	return layers >= 0 && is_trusted(layers, digest);
}

int
cache_begin(int cache, struct cache_new *c, struct err *err)
{
	return cache_begin_in(cache, "layers", c, err);
}

int
cache_begin_in(int cache, const char *place, struct cache_new *c, struct err *err)
{
	auto_cache_new made = CACHE_NEW_NONE;
	char name[32];

	made.layers = path_open_dir(cache, place, 0700, err);
	if (made.layers < 0)
		return -1;
	blob_tmp_name(name);
	if (mkdirat(made.layers, name, 0700) < 0)
		return err_sys(err, errno, "make %s/%s", place, name);
	memcpy(made.tmp, name, sizeof made.tmp);
	made.dir = path_open(made.layers, name, O_RDONLY | O_DIRECTORY, err);
	if (made.dir < 0 || blob_tmp_lock(made.dir, err) < 0)
		return -1;
	*c = made;
	made = CACHE_NEW_NONE;
	return 0;
}

void
cache_abort(struct cache_new *c)
{
	struct err ignored; /* a sweep will try again */

	if (c->tmp[0] && dirs_remove_tree(c->layers, c->tmp, &ignored) == 0)
		c->tmp[0] = '\0';
	fd_close(&c->dir);
	fd_close(&c->layers);
}

int
cache_say_space(const struct cache_new *c, uint64_t needed_bytes, struct err *err)
{
	struct statfs fs;

	if (err->code != ERR_NO_SPACE || fstatfs(c->dir, &fs) < 0)
		return -1;
	return err_add(err, "layers/%s: about %llu bytes are needed, %llu are free now", c->tmp,
		       (unsigned long long)needed_bytes,
		       (unsigned long long)fs.f_bavail * (unsigned long long)fs.f_bsize);
}

/* Not synced, on purpose: on ext4 that would wait for all of the layer's data. A marker that a
 * power cut takes away is one that is not trusted. */
static int
write_marker(const struct cache_new *c, const struct digest *d, struct err *err)
{
	char name[NAME_BYTES], tmp[32], text[128];

	marker_name(d, name);
	blob_tmp_name(tmp);
	format_marker(text, false);
	auto_close int fd = path_create(c->layers, tmp, 0600, err);
	if (fd < 0)
		return -1;
	if (fd_write_all(fd, text, strlen(text), err) < 0) {
		unlinkat(c->layers, tmp, 0);
		return err_add(err, "write %s", name);
	}
	if (renameat(c->layers, tmp, c->layers, name) < 0) {
		err_sys(err, errno, "rename %s", name);
		unlinkat(c->layers, tmp, 0);
		return -1;
	}
	return 0;
}

int
cache_commit(struct cache_new *c, const struct digest *d, struct err *err)
{
	const struct digest_text name = digest_text(d);
	char marker[NAME_BYTES], old[32];

	if (is_trusted(c->layers, d)) /* another worker was faster: ours goes */
		return 0;
	marker_name(d, marker);
	if (unlinkat(c->layers, marker, 0) < 0 && errno != ENOENT)
		return err_sys(err, errno, "remove %s", marker);
	blob_tmp_name(old);
	if (renameat(c->layers, name.text, c->layers, old) == 0) {
		if (dirs_remove_tree(c->layers, old, err) < 0)
			return err_add(err, "remove the layer that is not trusted");
	} else if (errno != ENOENT) {
		return err_sys(err, errno, "rename %s", name.text);
	}
	if (renameat2(c->layers, c->tmp, c->layers, name.text, RENAME_NOREPLACE) < 0)
		return err_sys(err, errno, "rename %s to %s", c->tmp, name.text);
	c->tmp[0] = '\0';
	return write_marker(c, d, err);
}

/* The layers of this boot that no sync has reached yet. */
static int
list_unsynced(int layers, struct digest *out, size_t max, size_t *n, struct err *err)
{
	const int copy = openat(layers, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;

	if (!list) {
		const int why = errno;
		if (copy >= 0)
			close(copy);
		return err_sys(err, why, "list the layer cache");
	}
	while (*n < max && (e = readdir(list)) != NULL) {
		struct err ignored;
		struct digest d;
		if (digest_parse(str_of(e->d_name), &d, &ignored) == 0 && is_trusted(layers, &d) &&
		    !is_synced(layers, &d))
			out[(*n)++] = d;
	}
	closedir(list);
	return 0;
}

int
cache_sync(int cache, const struct digest *layers, size_t n, struct err *err)
{
	char name[NAME_BYTES], text[128];
	size_t marks = 0;

	auto_close int dir = path_open_dir(cache, "layers", 0700, err);
	if (dir < 0)
		return -1;
	/* Chosen before the sync: what comes later was not in it. */
	auto_free struct digest *chosen = xnew(n > SYNC_MAX ? n : SYNC_MAX, sizeof *chosen);
	for (size_t i = 0; i < n; i++)
		if (is_trusted(dir, &layers[i]) && !is_synced(dir, &layers[i]))
			chosen[marks++] = layers[i];
	if (n == 0 && list_unsynced(dir, chosen, SYNC_MAX, &marks, err) < 0)
		return -1;
	if (syncfs(dir) < 0)
		return err_sys(err, errno, "sync the filesystem of the layer cache");
	format_marker(text, true);
	for (size_t i = 0; i < marks; i++) {
		marker_name(&chosen[i], name);
		if (path_replace(dir, name, 0600, str_of(text), err) < 0)
			return err_add(err, "mark a layer as synced");
	}
	return 0;
}

static int
note_bytes(int layers, const char *marker, json_t *j, uint64_t bytes, struct err *err)
{
	struct stat st;

	if (fstatat(layers, marker, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "look at %s", marker);
	const struct timespec times[] = {st.st_mtim, st.st_mtim};
	json_object_set_new(j, "bytes", json_integer((json_int_t)bytes));
	auto_free char *text = json_dumps(j, JSON_COMPACT);
	if (path_replace(layers, marker, 0600, str_of(text), err) < 0)
		return -1;
	if (utimensat(layers, marker, times, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "set the time of %s", marker);
	return 0;
}

int
cache_measure(int layers, const struct digest *d, uint64_t *out_bytes, struct err *err)
{
	auto_buf text = BUF_MAX(MARKER_MAX_BYTES);
	char name[NAME_BYTES];
	uint64_t entries;
	struct err ignored;

	marker_name(d, name);
	const bool has = path_read(layers, name, &text, &ignored) == 0 && text.len;
	json_t *j = has ? json_loadb(text.at, text.len, 0, NULL) : NULL;
	const json_t *known = json_object_get(j, "bytes");
	int result = 0;
	if (json_is_integer(known)) {
		*out_bytes = (uint64_t)json_integer_value(known);
	} else {
		auto_close int dir =
		    path_open(layers, digest_text(d).text, O_RDONLY | O_DIRECTORY, err);
		result = dir < 0 ? -1 : measure_upper(dir, out_bytes, &entries, err);
		if (result == 0 && j && note_bytes(layers, name, j, *out_bytes, &ignored) < 0)
			result = 0; /* measured again the next time */
	}
	json_decref(j);
	return result;
}

int
layer_sweep(int store, int cache, struct err *err)
{
	struct err ignored;

	if (store >= 0) {
		auto_close int blobs = path_open(store, "blobs", O_RDONLY | O_DIRECTORY, &ignored);
		if (blobs >= 0 && blob_tmp_sweep(blobs, err) < 0)
			return err_add(err, "sweep the store");
		auto_close int refs = path_open(store, "refs", O_RDONLY | O_DIRECTORY, &ignored);
		if (refs >= 0 && blob_tmp_sweep(refs, err) < 0)
			return err_add(err, "sweep the refs");
	}
	if (cache >= 0) {
		auto_close int layers =
		    path_open(cache, "layers", O_RDONLY | O_DIRECTORY, &ignored);
		if (layers >= 0 && blob_tmp_sweep(layers, err) < 0)
			return err_add(err, "sweep the layer cache");
		auto_close int images =
		    path_open(cache, "images", O_RDONLY | O_DIRECTORY, &ignored);
		if (images >= 0 && blob_tmp_sweep(images, err) < 0)
			return err_add(err, "sweep the images");
	}
	return 0;
}
