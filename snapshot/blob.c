#include "blob.h"
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"
#include "dirs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

enum { SWEEP_AGE_S = 60 };

void
blob_tmp_name(char out[32])
{
	uint64_t nonce;
	if (getrandom(&nonce, sizeof nonce, 0) != sizeof nonce)
		abort(); /* cannot happen: the pool is ready since boot, and 8 bytes are never cut
			  */
	snprintf(out, 32, ".tmp.%016llx", (unsigned long long)nonce);
}

/* A read lock of the open file, since a directory cannot be open for writing; a sweep asks whether
 * a write lock would meet one. */
int
blob_tmp_lock(int fd, struct err *err)
{
	struct flock lock = {.l_type = F_RDLCK, .l_whence = SEEK_SET};
	if (fcntl(fd, F_OFD_SETLK, &lock) < 0)
		return err_sys(err, errno, "lock a temp file");
	return 0;
}

static bool
is_stale(int dir, const char *name)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct stat st;

	auto_close int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return false;
	/* Young ones may be between their creation and their lock. */
	const int64_t now_s = (int64_t)(time_real_ns() / NS_PER_S);
	if (st.st_ctim.tv_sec > now_s - SWEEP_AGE_S && st.st_ctim.tv_sec <= now_s)
		return false;
	return fcntl(fd, F_OFD_GETLK, &lock) == 0 && lock.l_type == F_UNLCK;
}

int
blob_tmp_sweep(int dir, struct err *err)
{
	const int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *e;
	int result = 0;

	if (!list) {
		const int why = errno;
		if (copy >= 0)
			close(copy);
		return err_sys(err, why, "list a directory");
	}
	while (result == 0 && (e = readdir(list)) != NULL)
		if (strncmp(e->d_name, ".tmp.", 5) == 0 && is_stale(dir, e->d_name))
			result = dirs_remove_tree(dir, e->d_name, err);
	closedir(list);
	return result;
}

int
blob_hold(int store, bool alone, struct err *err)
{
	struct flock lock = {.l_type = (short)(alone ? F_WRLCK : F_RDLCK), .l_whence = SEEK_SET};

	auto_close int fd = openat(store, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, errno, "open the store's lock");
	/* Held for a commit or a rename: no holder waits for anything but the disk. */
	while (fcntl(fd, F_OFD_SETLKW, &lock) < 0)
		if (errno != EINTR)
			return err_sys(err, errno, "lock the store");
	return fd_steal(&fd);
}

int
blob_store_init(int store, struct err *err)
{
	auto_close int blobs = path_open_dir(store, "blobs", 0700, err);
	if (blobs < 0)
		return -1;
	auto_close int sha256 = path_open_dir(blobs, "sha256", 0700, err);
	if (sha256 < 0)
		return -1;
	auto_close int idx = path_open_dir(store, "idx", 0700, err);
	if (idx < 0)
		return -1;
	auto_close int refs = path_open_dir(store, "refs", 0700, err);
	if (refs < 0)
		return -1;
	if (path_exists(store, "oci-layout"))
		return 0;
	if (path_sync_dir(blobs, err) < 0)
		return -1;
	return path_replace(store, "oci-layout", 0600,
			    STR_LIT("{\"imageLayoutVersion\":\"1.0.0\"}\n"), err);
}

int
blob_begin(int store, struct blob_writer *w, struct err *err)
{
	auto_blob made = BLOB_WRITER_NONE;

	made.blobs = path_open(store, "blobs", O_RDONLY | O_DIRECTORY, err);
	if (made.blobs < 0)
		return -1;
	char name[32];
	blob_tmp_name(name);
	made.fd =
	    openat(made.blobs, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (made.fd < 0)
		return err_sys(err, errno, "create blobs/%s", name);
	memcpy(made.tmp, name, sizeof made.tmp);
	if (blob_tmp_lock(made.fd, err) < 0)
		return -1;
	*w = made;
	made = BLOB_WRITER_NONE;
	return 0;
}

void
blob_abort(struct blob_writer *w)
{
	if (w->fd >= 0 && w->tmp[0])
		unlinkat(w->blobs, w->tmp, 0);
	fd_close(&w->fd);
	fd_close(&w->blobs);
	w->tmp[0] = '\0';
}

int
blob_say_space(const struct blob_writer *w, struct err *err)
{
	struct statfs fs;
	struct stat st;

	if (err->code != ERR_NO_SPACE || fstat(w->fd, &st) < 0 || fstatfs(w->fd, &fs) < 0)
		return -1;
	return err_add(err, "blobs/%s: %llu bytes are written, more are needed, %llu are free",
		       w->tmp, (unsigned long long)st.st_size,
		       (unsigned long long)fs.f_bavail * (unsigned long long)fs.f_bsize);
}

int
blob_commit_as(struct blob_writer *w, int dir, const char *name, struct err *err)
{
	if (fsync(w->fd) < 0) {
		err_sys(err, errno, "sync %s", w->tmp);
		return blob_say_space(w, err);
	}
	if (renameat(w->blobs, w->tmp, dir, name) < 0)
		return err_sys(err, errno, "rename %s to %s", w->tmp, name);
	w->tmp[0] = '\0';
	return path_sync_dir(dir, err);
}

int
blob_commit(struct blob_writer *w, int store, const struct digest *d, struct err *err)
{
	const struct digest_text name = digest_text(d);
	struct stat mine, there;

	auto_close int dir = path_open(store, "blobs/sha256", O_RDONLY | O_DIRECTORY, err);
	if (dir < 0)
		return err_add(err, "commit %s", name.text);
	auto_close int hold = blob_hold(store, false, err);
	if (hold < 0)
		return -1;
	if (fstat(w->fd, &mine) < 0)
		return err_sys(err, errno, "look at %s", w->tmp);
	if (fstatat(dir, name.text, &there, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(there.st_mode) &&
	    there.st_size == mine.st_size) {
		if (utimensat(dir, name.text, NULL, AT_SYMLINK_NOFOLLOW) < 0)
			return err_sys(err, errno, "touch %s", name.text);
		unlinkat(w->blobs, w->tmp, 0);
		w->tmp[0] = '\0';
		return path_sync_dir(dir, err); /* who renamed it may not have got that far yet */
	}
	return blob_commit_as(w, dir, name.text, err);
}

int
blob_open(int store, const struct digest *d, uint64_t *out_bytes, struct err *err)
{
	const struct digest_text name = digest_text(d);
	char path[96];
	struct stat st;

	snprintf(path, sizeof path, "blobs/sha256/%s", name.text);
	auto_close int fd = path_open(store, path, O_RDONLY | O_NONBLOCK, err);
	if (fd < 0) {
		if (errno == ENOENT)
			return err_set(err, ERR_CORRUPT,
				       "the archive %.12s is missing from the store", name.text);
		return -1;
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, ERR_CORRUPT, "the archive %.12s is not a file", name.text);
	*out_bytes = (uint64_t)st.st_size;
	return fd_steal(&fd);
}

int
blob_put(int store, struct str bytes, struct digest *out, struct err *err)
{
	const struct digest d = digest_of(bytes);
	auto_blob w = BLOB_WRITER_NONE;

	if (blob_begin(store, &w, err) < 0)
		return -1;
	if (fd_write_all(w.fd, bytes.at, bytes.len, err) < 0)
		return blob_say_space(&w, err);
	if (blob_commit(&w, store, &d, err) < 0)
		return -1;
	*out = d;
	return 0;
}

int
blob_read(int store, const struct digest *d, struct buf *out, struct err *err)
{
	const struct digest_text name = digest_text(d);
	uint64_t bytes;

	auto_close int fd = blob_open(store, d, &bytes, err);
	if (fd < 0)
		return -1;
	if (fd_read_to_end(fd, out, err) < 0)
		return err_add(err, "read %.12s", name.text);
	const struct digest is = digest_of(buf_view(out));
	if (!digest_equal(&is, d))
		return err_set(err, ERR_CORRUPT, "%.12s does not hold what its name says",
			       name.text);
	return 0;
}
