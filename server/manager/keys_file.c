#include "keys_file.h"
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>

/* The kernel's clock of changes goes in steps: within one a second change looks like the first. */
#define STEP_NS (50 * NS_PER_MS)

static struct keys_stamp
stamp_of(const struct stat *st)
{
	return (struct keys_stamp){
	    .there = true, .inode = st->st_ino, .size = st->st_size, .changed = st->st_ctim};
}

/* What cannot be looked at is there: the attempt to open it says why. */
static struct keys_stamp
stamp_at(int dir, const char *name)
{
	struct stat st;

	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return stamp_of(&st);
	return (struct keys_stamp){.there = errno != ENOENT};
}

static bool
is_same(const struct keys_stamp *a, const struct keys_stamp *b)
{
	return a->there == b->there && a->inode == b->inode && a->size == b->size &&
	       a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static bool
is_settled(const struct keys_stamp *s)
{
	const uint64_t changed_ns =
	    (uint64_t)s->changed.tv_sec * NS_PER_S + (uint64_t)s->changed.tv_nsec;

	return !s->there || time_real_ns() > changed_ns + STEP_NS;
}

static void
take(struct keys_file *f, const struct keys_stamp *s)
{
	f->known = true;
	f->settled = is_settled(s);
	f->taken = *s;
	f->seen_ns = 0;
}

/* A lease for reading is refused while somebody can write. Where there are none (NFS, the file of
 * somebody else) nobody knows. It is given back at once: who opens the file within that moment
 * waits, and we get a signal that is ignored, not SIGIO, which would end us. */
static bool
is_written(int fd)
{
	(void)!fcntl(fd, F_SETSIG, SIGURG);
	if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0)
		return errno == EAGAIN;
	(void)!fcntl(fd, F_SETLEASE, F_UNLCK);
	return false;
}

static enum keys_found
bad(struct keys_file *f, const struct keys_stamp *s)
{
	if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOENT)
		return KEYS_LATER;
	take(f, s);
	f->settled = false; /* it may become readable without a change */
	return KEYS_BAD;
}

static enum keys_found
read_whole(struct keys_file *f, int dir, const struct keys_stamp *s, bool quiet, struct buf *out,
	   struct err *err)
{
	/* not to wait for the writer of a fifo */
	auto_close int fd = path_open(dir, f->name, O_RDONLY | O_NOCTTY | O_NONBLOCK, err);
	struct stat st;

	if (fd < 0)
		return bad(f, s);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		errno = 0;
		err_set(err, ERR_CONFIG, "%s is not a file", f->name);
		return bad(f, s);
	}
	if (!quiet && is_written(fd))
		return KEYS_LATER;
	errno = 0;
	if (fd_read_to_end(fd, out, err) < 0) {
		err_add(err, "read %s", f->name);
		return bad(f, s);
	}
	const bool written = !quiet && is_written(fd);
	const struct keys_stamp now = fstat(fd, &st) == 0 ? stamp_of(&st) : (struct keys_stamp){0};
	if (written || !is_same(&now, s))
		return KEYS_LATER;
	take(f, s);
	return KEYS_TAKEN;
}

enum keys_found
keys_file_look(struct keys_file *f, int dir, struct buf *out, struct err *err)
{
	const struct keys_stamp s = stamp_at(dir, f->name);
	const uint64_t now_ns = time_now_ns();

	if (f->known && f->settled && is_same(&s, &f->taken)) {
		f->seen_ns = 0;
		return KEYS_SAME;
	}
	if (!f->seen_ns || !is_same(&s, &f->seen)) {
		f->seen = s;
		f->seen_ns = now_ns;
	}
	const bool quiet = now_ns - f->seen_ns >= KEYS_FILE_QUIET_NS;
	if (s.there)
		return read_whole(f, dir, &s, quiet, out, err);
	if (f->known && f->taken.there && !quiet)
		return KEYS_LATER;
	take(f, &s);
	return KEYS_TAKEN;
}
