#include "apply.h"
#include "base/fd.h"
#include "dirs.h"
#include "tar.h"
#include "walk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

enum { STEP_ENTRIES = 64 };

struct level {              /* a directory that is open: what it becomes when it is left */
	struct attrs attrs; /* owned */
	uint32_t mode, uid, gid;
	struct timespec mtime;
	size_t path_len;
	bool was_there; /* not made just now: it may have attributes to lose */
	bool hidden;    /* nothing of lower layers shows in it: it or an outer one is opaque */
	bool has_deletions;
	bool has_entries; /* of this archive, since it was entered */
};

struct apply {
	int root; /* lent */
	bool merge, foreign, alone;
	bool one_owner;
	uid_t owner; /* of all, when there is one owner; -1: whoever we are */
	gid_t group;
	struct layer_watch watch;
	struct dirs dirs;
	int whiteout_dir;     /* owned: where a whiteout was made last, or -1 */
	char whiteout[256];   /* its name there */
	struct buf path;      /* of the innermost directory */
	struct level *levels; /* owned; one for each of dirs */
	size_t n, cap;
	uint64_t bytes, entries, stepped_at;
};

static int
refuse(const struct entry *e, const char *why, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "the archive's entry %.*s: %s",
		       (int)(e->path.len < 200 ? e->path.len : 200), e->path.at ? e->path.at : "",
		       why);
}

/* ---- directories ---- */

/* Takes what the directory is now as what it shall be, until an entry says otherwise. */
static int
push_level(struct apply *a, bool was_there, struct err *err)
{
	const int fd = dirs_fd(&a->dirs);
	struct level l = {.was_there = was_there, .path_len = a->path.len};
	unsigned marks = 0;
	struct stat st;

	if (a->n == a->cap) {
		const size_t cap = a->cap ? a->cap * 2 : 16;
		struct level *grown = realloc(a->levels, cap * sizeof *grown);
		if (!grown)
			return err_set(err, ERR_UNAVAILABLE, "no memory for a directory");
		a->levels = grown;
		a->cap = cap;
	}
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at a directory");
	if (was_there && attrs_load(fd, &l.attrs, &marks, err) < 0)
		return -1;
	l.mode = was_there ? st.st_mode & 07777 : 0755;
	l.uid = st.st_uid;
	l.gid = st.st_gid;
	l.mtime = st.st_mtim;
	l.hidden = a->alone || (marks & MARK_OPAQUE) || (a->n && a->levels[a->n - 1].hidden);
	a->levels[a->n++] = l;
	return l.attrs.n ? attrs_drop_default_acl(fd, err) : 0;
}

static int
give(const struct apply *a, int fd, uint32_t uid, uint32_t gid)
{
	if (a->one_owner && a->owner == (uid_t)-1)
		return 0;
	return a->one_owner ? fchown(fd, a->owner, a->group) : fchown(fd, uid, gid);
}

static int
finish_level(const struct apply *a, const struct level *l, int fd, struct err *err)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, l->mtime};

	if (give(a, fd, l->uid, l->gid) < 0 || fchmod(fd, l->mode) < 0)
		return err_sys(err, errno, "set the owner and mode of a directory");
	if ((l->attrs.n || l->was_there) &&
	    attrs_store(fd, &l->attrs, l->was_there, a->one_owner, err) < 0)
		return -1;
	if (l->has_deletions && attrs_mark_whiteouts(fd, err) < 0)
		return -1;
	if (futimens(fd, times) < 0)
		return err_sys(err, errno, "set the times of a directory");
	return 0;
}

static int
leave_level(struct apply *a, struct err *err)
{
	struct level *l = &a->levels[a->n - 1];

	if (finish_level(a, l, dirs_fd(&a->dirs), err) < 0)
		return err_add(err, "/%.200s", buf_cstr(&a->path));
	attrs_done(&l->attrs);
	a->n--;
	if (!a->n)
		return 0;
	a->path.len = a->levels[a->n - 1].path_len;
	a->path.at[a->path.len] = '\0';
	return dirs_leave(&a->dirs, err);
}

static int
enter_level(struct apply *a, const char *name, bool was_there, struct err *err)
{
	if (dirs_enter(&a->dirs, name, err) < 0) {
		if (errno == ELOOP || errno == ENOTDIR)
			return err_set(err, ERR_CORRUPT,
				       "the archive names something inside %s, "
				       "which is not a directory",
				       name);
		return -1;
	}
	if (a->path.len)
		buf_char(&a->path, '/');
	buf_text(&a->path, name);
	if (buf_bad(&a->path))
		return err_set(err, ERR_CORRUPT, "a path of the archive is too long");
	return push_level(a, was_there, err);
}

static int
take_name(struct str part, char out[256], struct err *err)
{
	return str_copy(part, out, 256, err) < 0 ? err_set(err, ERR_CORRUPT,
							   "a name of the archive "
							   "is too long")
						 : 0;
}

/* Makes the directory `path` the innermost one. Directories that no entry has named are made. */
static int
go_to(struct apply *a, struct str path, struct err *err)
{
	while (a->n > 1 && !str_equal(path, buf_view(&a->path)) &&
	       !walk_is_below(path, buf_view(&a->path)))
		if (leave_level(a, err) < 0)
			return -1;
	struct str rest = {path.at + a->path.len, path.len - a->path.len}, part;
	if (rest.len && rest.at[0] == '/') {
		rest.at++;
		rest.len--;
	}
	while (rest.len && str_cut(&rest, '/', &part)) {
		char name[256];
		if (take_name(part, name, err) < 0)
			return -1;
		const bool made = mkdirat(dirs_fd(&a->dirs), name, 0700) == 0;
		if (!made && errno != EEXIST)
			return err_sys(err, errno, "make directory %s", name);
		if (enter_level(a, name, !made, err) < 0)
			return -1;
		if (made)
			clock_gettime(CLOCK_REALTIME, &a->levels[a->n - 1].mtime);
	}
	return 0;
}

static struct level *
innermost(struct apply *a)
{
	return &a->levels[a->n - 1];
}

/* ---- entries ---- */

/* Something has this name: an earlier layer's, which goes, or this one's, which cannot be. */
static int
make_way(struct apply *a, const struct entry *e, const char *name, struct err *err)
{
	if (!a->merge)
		return refuse(e, "it is there twice", err);
	return dirs_remove_tree(dirs_fd(&a->dirs), name, err);
}

static int
set_level(struct apply *a, const struct entry *e, struct err *err)
{
	struct level *l = innermost(a);

	attrs_done(&l->attrs);
	for (size_t i = 0; i < e->attrs->n; i++) {
		const struct attr *x = &e->attrs->at[i];
		if (attrs_add(&l->attrs, str_of(x->name), (struct str){x->value, x->n}, err) < 0)
			return -1;
	}
	l->mode = e->mode;
	l->uid = e->uid;
	l->gid = e->gid;
	l->mtime = (struct timespec){e->mtime_s, (long)e->mtime_ns};
	return 0;
}

static int
apply_dir(struct apply *a, const struct entry *e, const char *name, struct err *err)
{
	const int dir = dirs_fd(&a->dirs);
	bool made = mkdirat(dir, name, 0700) == 0, replaced = false;
	struct stat st;

	if (!made && errno != EEXIST)
		return err_sys(err, errno, "make directory %s", name);
	if (!made && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "look at %s", name);
	if (!made && !S_ISDIR(st.st_mode)) {
		if (make_way(a, e, name, err) < 0)
			return -1;
		if (mkdirat(dir, name, 0700) < 0)
			return err_sys(err, errno, "make directory %s", name);
		made = replaced = true;
	}
	if (enter_level(a, name, !made, err) < 0 || set_level(a, e, err) < 0)
		return -1;
	if (!replaced || innermost(a)->hidden)
		return 0;
	innermost(a)->hidden = true; /* invariant 4: what it replaced hid the image's */
	return attrs_mark_opaque(dirs_fd(&a->dirs), err);
}

static int
apply_opaque(struct apply *a, const struct entry *e, struct err *err)
{
	/* OCI lets the mark stand behind entries of its own layer, which it does not hide. */
	if (e->path.len == 0 || (innermost(a)->has_entries && !a->foreign))
		return refuse(e, "an opaque mark where none can be", err);
	if (a->merge && !a->foreign && innermost(a)->was_there &&
	    dirs_clear(dirs_fd(&a->dirs), err) < 0)
		return -1;
	innermost(a)->hidden = true;
	innermost(a)->has_deletions &= a->foreign;
	return a->alone ? 0 : attrs_mark_opaque(dirs_fd(&a->dirs), err);
}

/* One inode has the names of many, as overlayfs does it too: making inodes is what a layer of
 * deletions costs. None yet, another entry in its place, or as many names as there can be: a new
 * one. */
static int
make_whiteout(struct apply *a, const char *name)
{
	const int dir = dirs_fd(&a->dirs);
	struct stat st;

	if (a->whiteout_dir >= 0 &&
	    fstatat(a->whiteout_dir, a->whiteout, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    S_ISCHR(st.st_mode) && st.st_rdev == makedev(0, 0)) {
		if (linkat(a->whiteout_dir, a->whiteout, dir, name, 0) == 0)
			return 0;
		if (errno == EEXIST)
			return -1;
	}
	if (mknodat(dir, name, S_IFCHR, makedev(0, 0)) < 0)
		return -1;
	fd_close(&a->whiteout_dir);
	a->whiteout_dir = fcntl(dir, F_DUPFD_CLOEXEC, 0); /* -1: the next one is new too */
	memcpy(a->whiteout, name, strlen(name) + 1);
	return 0;
}

static int
apply_whiteout(struct apply *a, const struct entry *e, const char *name, struct err *err)
{
	const int dir = dirs_fd(&a->dirs);

	if (a->merge && dirs_remove_tree(dir, name, err) < 0)
		return -1;
	if (innermost(a)->hidden)
		return 0; /* nothing below shows through; overlayfs might show the whiteout's name
			   */
	if (make_whiteout(a, name) < 0)
		return errno == EEXIST ? refuse(e, "it is there twice", err)
				       : err_sys(err, errno, "make a whiteout for %s", name);
	innermost(a)->has_deletions = true;
	return 0;
}

static int
write_data(struct apply *a, struct tar_reader *tar, const struct entry *e, int fd, struct err *err)
{
	uint64_t end = 0, at;
	struct str piece;
	int more;

	while ((more = tar_read(tar, &piece, &at, err)) > 0) {
		if (fd_pwrite_all(fd, piece.at, piece.len, at, err) < 0)
			return -1;
		end = at + piece.len;
		a->bytes += piece.len;
		if (a->watch.step && a->watch.step(a->watch.ctx, a->bytes, a->entries, err) < 0)
			return -1;
	}
	if (more < 0)
		return -1;
	if (end < e->size && !e->sparse)
		return refuse(e, "its data ends too early", err);
	if (end < e->size && ftruncate(fd, (off_t)e->size) < 0)
		return err_sys(err, errno, "make a hole");
	return 0;
}

/* Owner before mode and attributes: it takes setuid bits and capabilities away. What the file has
 * already is not set again: each is a transaction of the filesystem, and asking is none. */
static int
set_file(const struct apply *a, const struct entry *e, int fd, struct err *err)
{
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {e->mtime_s, (long)e->mtime_ns}};
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at a file");
	const bool given = st.st_uid == (a->one_owner ? a->owner : e->uid) &&
			   st.st_gid == (a->one_owner ? a->group : e->gid);
	if (!given && give(a, fd, e->uid, e->gid) < 0)
		return err_sys(err, errno, "set the owner");
	if ((st.st_mode & 07777) != e->mode && fchmod(fd, e->mode) < 0)
		return err_sys(err, errno, "set the mode");
	if (attrs_store(fd, e->attrs, false, a->one_owner, err) < 0)
		return -1;
	return futimens(fd, times) < 0 ? err_sys(err, errno, "set the times") : 0;
}

/* Nobody else reaches it before it is whole: the directory that all of this stands in is ours. */
static int
make_file(const struct apply *a, const struct entry *e, const char *name)
{
	const int flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC;
	return openat(dirs_fd(&a->dirs), name, flags, e->mode & 0777);
}

static int
apply_file(struct apply *a, struct tar_reader *tar, const struct entry *e, const char *name,
	   struct err *err)
{
	auto_close int fd = make_file(a, e, name);

	if (fd < 0 && errno == EEXIST) {
		if (make_way(a, e, name, err) < 0)
			return -1;
		fd = make_file(a, e, name);
	}
	if (fd < 0)
		return err_sys(err, errno, "create %s", name);
	if (write_data(a, tar, e, fd, err) < 0 || set_file(a, e, fd, err) < 0)
		return err_add(err, "/%.*s", (int)(e->path.len < 200 ? e->path.len : 200),
			       e->path.at);
	return 0;
}

static int
make_node(const struct apply *a, const struct entry *e, const char *name)
{
	return e->type == ENTRY_FIFO ? mknodat(dirs_fd(&a->dirs), name, S_IFIFO | 0600, 0)
				     : symlinkat(e->link.at, dirs_fd(&a->dirs), name);
}

static int
apply_node(struct apply *a, const struct entry *e, const char *name, struct err *err)
{
	const int dir = dirs_fd(&a->dirs);
	const struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {e->mtime_s, (long)e->mtime_ns}};
	int made = make_node(a, e, name);

	if (made < 0 && errno == EEXIST) {
		if (make_way(a, e, name, err) < 0)
			return -1;
		made = make_node(a, e, name);
	}
	if (made < 0)
		return err_sys(err, errno, "create %s", name);
	const uid_t uid = a->one_owner ? a->owner : e->uid;
	const gid_t gid = a->one_owner ? a->group : e->gid;
	if (uid != (uid_t)-1 && fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "set the owner of %s", name);
	if (e->type == ENTRY_FIFO) {
		auto_close int fd =
		    openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);
		if (fd < 0)
			return err_sys(err, errno, "open %s", name);
		return set_file(a, e, fd, err);
	}
	if (utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "set the times of %s", name);
	return 0;
}

static struct str
split(struct str path, struct str *out_dir)
{
	size_t at = path.len;

	while (at && path.at[at - 1] != '/')
		at--;
	*out_dir = (struct str){path.at, at ? at - 1 : 0};
	return (struct str){path.at + at, path.len - at};
}

static int
apply_link(struct apply *a, const struct entry *e, const char *name, struct err *err)
{
	struct str way;
	char target[256];
	struct stat st;

	if (e->link.len == 0 || str_equal(e->link, e->path))
		return refuse(e, "a link to nothing", err);
	if (take_name(split(e->link, &way), target, err) < 0)
		return -1;
	auto_close int from = dirs_open(a->root, way, err);
	if (from < 0 || fstatat(from, target, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    S_ISDIR(st.st_mode) || S_ISCHR(st.st_mode))
		return refuse(e, "a link to what is not a file of this archive", err);
	int made = linkat(from, target, dirs_fd(&a->dirs), name, 0);
	if (made < 0 && errno == EEXIST) {
		if (make_way(a, e, name, err) < 0)
			return -1;
		made = linkat(from, target, dirs_fd(&a->dirs), name, 0);
	}
	return made < 0 ? err_sys(err, errno, "link %s", name) : 0;
}

static int
apply_entry(struct apply *a, struct tar_reader *tar, const struct entry *e, struct err *err)
{
	struct str way;
	char name[256];

	if (e->type == ENTRY_OPAQUE)
		return go_to(a, e->path, err) < 0 ? -1 : apply_opaque(a, e, err);
	if (e->path.len == 0)
		return go_to(a, e->path, err) < 0 ? -1 : set_level(a, e, err);
	if (take_name(split(e->path, &way), name, err) < 0 || go_to(a, way, err) < 0)
		return -1;
	innermost(a)->has_entries = true;
	switch (e->type) {
	case ENTRY_DIR:
		return apply_dir(a, e, name, err);
	case ENTRY_FILE:
		return apply_file(a, tar, e, name, err);
	case ENTRY_SYMLINK:
	case ENTRY_FIFO:
		return apply_node(a, e, name, err);
	case ENTRY_LINK:
		return apply_link(a, e, name, err);
	case ENTRY_WHITEOUT:
		return apply_whiteout(a, e, name, err);
	case ENTRY_OPAQUE:
	case ENTRY_TYPES:
		break;
	}
	return refuse(e, "of no kind that there is", err);
}

/* ---- archives ---- */

struct apply *
apply_new(int root, bool merge, const struct layer_options *o, struct err *err)
{
	auto_of(apply) struct apply *a = xnew(1, sizeof *a);

	a->root = root;
	a->whiteout_dir = -1;
	a->merge = merge;
	a->watch = o->watch;
	a->one_owner = o->one_owner;
	a->owner = (uid_t)o->owner;
	a->group = (gid_t)o->group;
	a->path = BUF_MAX(ENTRY_PATH_MAX_BYTES);
	if (dirs_init(&a->dirs, root, err) < 0)
		return NULL;
	return steal(&a);
}

void
apply_alone(struct apply *a)
{
	a->alone = true;
}

void
apply_free(struct apply *a)
{
	if (!a)
		return;
	while (a->n)
		attrs_done(&a->levels[--a->n].attrs);
	free(a->levels);
	buf_free(&a->path);
	dirs_done(&a->dirs);
	fd_close(&a->whiteout_dir);
	free(a);
}

static int
apply_entries(struct apply *a, struct tar_reader *tar, struct layer_counts *out, struct err *err)
{
	struct entry e;
	int more;

	while ((more = tar_next(tar, &e, err)) > 0) {
		if (++a->entries > LAYER_ENTRIES_MAX)
			return err_set(err, ERR_CORRUPT, "more than %d entries in one layer",
				       LAYER_ENTRIES_MAX);
		out->files += e.type == ENTRY_FILE;
		if (apply_entry(a, tar, &e, err) < 0)
			return -1;
		if (a->entries - a->stepped_at < STEP_ENTRIES)
			continue;
		a->stepped_at = a->entries;
		if (a->watch.step && a->watch.step(a->watch.ctx, a->bytes, a->entries, err) < 0)
			return -1;
	}
	return more;
}

int
apply_archive(struct apply *a, struct frames_reader *frames, struct layer_counts *out,
	      struct err *err)
{
	auto_of(tar_reader) struct tar_reader *tar = tar_reader_new(frames, err);

	return tar ? apply_tar(a, tar, false, out, err) : -1;
}

int
apply_tar(struct apply *a, struct tar_reader *tar, bool foreign, struct layer_counts *out,
	  struct err *err)
{
	const uint64_t entries = a->entries;

	a->foreign = foreign;
	if (push_level(a, entries > 0, err) < 0 || apply_entries(a, tar, out, err) < 0)
		return -1;
	while (a->n)
		if (leave_level(a, err) < 0)
			return -1;
	out->entries += a->entries - entries;
	return 0;
}
