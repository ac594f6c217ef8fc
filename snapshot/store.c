#include "store.h"

#include "base/fd.h"
#include "base/path.h"
#include "blob.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static int
as_absent(struct err *err, int number)
{
	if (number == ENOENT)
		err->code = ERR_ABSENT;
	return -1;
}

static int
open_blob(int store, const struct digest *d, uint64_t *out_size, struct err *err)
{
	char path[96];

	snprintf(path, sizeof path, "blobs/sha256/%s", digest_text(d).text);
	if (!path_exists(store, path))
		return err_set(err, ERR_ABSENT, "no blob %.12s", digest_text(d).text);
	return blob_open(store, d, out_size, err);
}

static int
copy_checked(int from, uint64_t size, const struct digest *d, struct blob_writer *w,
	     struct err *err)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	char piece[65536];

	for (uint64_t at = 0; at < size;) {
		const size_t n = size - at < sizeof piece ? (size_t)(size - at) : sizeof piece;
		if (fd_pread_all(from, piece, n, at, err) < 0 ||
		    fd_pwrite_all(w->fd, piece, n, at, err) < 0)
			return -1;
		hasher_add(h, piece, n);
		at += n;
	}
	const struct digest sum = hasher_sum(h);
	return digest_equal(&sum, d) ? 0
				     : err_set(err, ERR_CORRUPT, "the bytes have another digest");
}

static int
put(int store, const struct digest *d, uint64_t size, int fd, struct err *err)
{
	auto_blob w = BLOB_WRITER_NONE;

	if (blob_begin(store, &w, err) < 0 || copy_checked(fd, size, d, &w, err) < 0)
		return err_add(err, "put %.12s", digest_text(d).text);
	return blob_commit(&w, store, d, err);
}

static int
get_range(int store, const struct digest *d, uint64_t at, void *out, size_t n, struct err *err)
{
	uint64_t size, end;
	auto_close int fd = open_blob(store, d, &size, err);

	if (fd < 0)
		return -1;
	if (__builtin_add_overflow(at, n, &end) || end > size)
		return err_set(err, ERR_USAGE, "a range past the end of %.12s",
			       digest_text(d).text);
	return fd_pread_all(fd, out, n, at, err);
}

static int
stat_blob(int store, const struct digest *d, uint64_t *out_size, struct err *err)
{
	auto_close int fd = open_blob(store, d, out_size, err);
	return fd < 0 ? -1 : 0;
}

static int
list(int store, int (*fn)(void *ctx, const struct digest *d, struct err *err), void *ctx,
     struct err *err)
{
	const int dir = path_open(store, "blobs/sha256", O_RDONLY | O_DIRECTORY, err);
	DIR *names = dir < 0 ? NULL : fdopendir(dir);
	const struct dirent *e;
	int result = 0;

	if (!names)
		return -1;
	while (result == 0 && (e = readdir(names)) != NULL) {
		struct digest d;
		struct err not_one;
		if (digest_parse(str_of(e->d_name), &d, &not_one) == 0)
			result = fn(ctx, &d, err);
	}
	closedir(names);
	return result;
}

static int
remove_blob(int store, const struct digest *d, struct err *err)
{
	auto_close int dir = path_open(store, "blobs/sha256", O_RDONLY | O_DIRECTORY, err);

	if (dir < 0)
		return -1;
	if (unlinkat(dir, digest_text(d).text, 0) < 0 && errno != ENOENT)
		return err_sys(err, errno, "remove %.12s", digest_text(d).text);
	return path_sync_dir(dir, err);
}

static int
put_object(int store, const char *name, struct str bytes, struct err *err)
{
	auto_close int refs = path_open_dir(store, "refs", 0700, err);
	return refs < 0 ? -1 : path_replace(refs, name, 0600, bytes, err);
}

static int
get_object(int store, const char *name, struct buf *out, struct err *err)
{
	auto_close int refs = path_open(store, "refs", O_RDONLY | O_DIRECTORY, err);

	if (refs < 0)
		return -1;
	return path_read(refs, name, out, err) < 0 ? as_absent(err, errno) : 0;
}

const struct store store_directory = {
    .name = "directory",
    .put = put,
    .get_range = get_range,
    .stat = stat_blob,
    .list = list,
    .remove = remove_blob,
    .put_object = put_object,
    .get_object = get_object,
};
