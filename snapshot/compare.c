#include "compare.h"
#include "base/fd.h"
#include "base/path.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { CHUNK_BYTES = 256 * 1024 };

/* What stands before the records in a file that outlives its process, written last. */
struct seal {
	char form[8]; /* SEAL_FORM */
	char boot[40];
	uint64_t record_bytes; /* of a struct seen: another version may have another one */
	uint64_t bytes;        /* of all records */
	struct digest snapshot, sum;
};
#define SEAL_FORM "berthsn1"

void
compare_done(struct compare *c)
{
	fd_close(&c->fd);
	buf_free(&c->out);
	buf_free(&c->in);
	buf_free(&c->path);
	c->have = false;
}

static void
init(struct compare *c, int fd)
{
	*c = COMPARE_NONE;
	c->fd = fd;
	c->out = BUF_MAX(CHUNK_BYTES + ENTRY_PATH_MAX_BYTES + 1024);
	c->in = BUF_MAX(2 * CHUNK_BYTES + ENTRY_PATH_MAX_BYTES + 1024);
	c->path = BUF_MAX(ENTRY_PATH_MAX_BYTES);
}

int
compare_begin(struct compare *c, int scratch, struct err *err)
{
	char name[64];

	init(c, -1);
	snprintf(name, sizeof name, ".tmp.seen.%llx.%p", (unsigned long long)time_now_ns(),
		 (void *)c);
	c->fd = openat(scratch, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (c->fd < 0)
		return err_sys(err, errno, "create a file to compare with");
	if (unlinkat(scratch, name, 0) < 0)
		return err_sys(err, errno, "remove the name of a file to compare with");
	return 0;
}

int
compare_begin_in(struct compare *c, int take_fd, struct err *err)
{
	init(c, take_fd);
	c->begin_at = sizeof(struct seal);
	if (ftruncate(c->fd, 0) < 0 || lseek(c->fd, (off_t)c->begin_at, SEEK_SET) < 0)
		return err_sys(err, errno, "begin a file to compare with");
	return 0;
}

static int
flush(struct compare *c, struct err *err)
{
	if (fd_write_all(c->fd, c->out.at, c->out.len, err) < 0)
		return err_add(err, "the file to compare with");
	buf_clear(&c->out);
	return 0;
}

/* Records are structs as they lie in memory: the file is read by this program alone, and sealed. */
int
compare_add(struct compare *c, struct str path, const struct seen *s, struct err *err)
{
	const uint32_t n = (uint32_t)path.len;

	buf_add(&c->out, &n, sizeof n);
	buf_add(&c->out, s, sizeof *s);
	buf_str(&c->out, path);
	if (buf_bad(&c->out))
		return err_set(err, ERR_UNAVAILABLE, "no memory to compare");
	return c->out.len >= CHUNK_BYTES ? flush(c, err) : 0;
}

int
compare_rewind(struct compare *c, struct err *err)
{
	if (c->out.len && flush(c, err) < 0)
		return -1;
	buf_clear(&c->in);
	c->in_at = 0;
	c->read_at = c->begin_at;
	return compare_next(c, err);
}

/* ---- a file that outlives its process ---- */

static int
sum_records(int fd, uint64_t *out_bytes, struct digest *out, struct err *err)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	auto_free char *chunk = xnew(1, CHUNK_BYTES);
	off_t at = sizeof(struct seal);

	for (;;) {
		const ssize_t k = pread(fd, chunk, CHUNK_BYTES, at);
		if (k < 0)
			return err_sys(err, errno, "read a file to compare with");
		if (k == 0)
			break;
		hasher_add(h, chunk, (size_t)k);
		at += k;
	}
	*out_bytes = (uint64_t)at - sizeof(struct seal);
	*out = hasher_sum(h);
	return 0;
}

static int
format_seal(int fd, const struct digest *snapshot, struct seal *out, struct err *err)
{
	memset(out, 0, sizeof *out);
	memcpy(out->form, SEAL_FORM, sizeof out->form);
	snprintf(out->boot, sizeof out->boot, "%s", time_boot_id());
	out->record_bytes = sizeof(struct seen);
	out->snapshot = *snapshot;
	return sum_records(fd, &out->bytes, &out->sum, err);
}

int
compare_seal(struct compare *c, const struct digest *snapshot, struct err *err)
{
	struct seal s;

	if ((c->out.len && flush(c, err) < 0) || format_seal(c->fd, snapshot, &s, err) < 0)
		return -1;
	if (pwrite(c->fd, &s, sizeof s, 0) != sizeof s)
		return err_sys(err, errno, "seal a file to compare with");
	return 0;
}

int
compare_open(struct compare *c, int take_fd, const struct digest *snapshot, struct err *err)
{
	struct seal told, is;

	init(c, take_fd);
	c->begin_at = sizeof told;
	if (format_seal(c->fd, snapshot, &is, err) < 0)
		return -1;
	if (time_boot_id()[0] && pread(c->fd, &told, sizeof told, 0) == sizeof told &&
	    memcmp(&told, &is, sizeof is) == 0)
		return 1;
	compare_done(c);
	return 0;
}

/* Has at least n bytes at in_at, or as many as there are. */
static int
fill(struct compare *c, size_t n, struct err *err)
{
	if (c->in.len - c->in_at >= n)
		return 0;
	if (c->in_at) {
		memmove(c->in.at, c->in.at + c->in_at, c->in.len - c->in_at);
		c->in.len -= c->in_at;
		c->in_at = 0;
	}
	while (c->in.len < n) {
		char *room = buf_room(&c->in, CHUNK_BYTES);
		if (!room)
			return err_set(err, ERR_UNAVAILABLE, "no memory to compare");
		const ssize_t k = pread(c->fd, room, CHUNK_BYTES, (off_t)c->read_at);
		if (k < 0)
			return err_sys(err, errno, "read the file to compare with");
		if (k == 0)
			return 0;
		c->in.len += (size_t)k;
		c->read_at += (uint64_t)k;
	}
	return 0;
}

int
compare_next(struct compare *c, struct err *err)
{
	uint32_t n;

	c->have = false;
	if (fill(c, sizeof n + sizeof c->seen, err) < 0)
		return -1;
	if (c->in.len == c->in_at)
		return 0;
	memcpy(&n, c->in.at + c->in_at, sizeof n);
	memcpy(&c->seen, c->in.at + c->in_at + sizeof n, sizeof c->seen);
	c->in_at += sizeof n + sizeof c->seen;
	if (fill(c, n, err) < 0)
		return -1;
	buf_clear(&c->path);
	buf_add(&c->path, c->in.at + c->in_at, n);
	c->in_at += n;
	if (buf_bad(&c->path))
		return err_set(err, ERR_UNAVAILABLE, "no memory to compare");
	c->have = true;
	return 0;
}

struct seen
seen_of(const struct stat *st, enum entry_type type, int64_t racy_from_ns)
{
	struct seen s;

	memset(&s, 0, sizeof s); /* padding too: it goes to a file */
	s.type = (uint32_t)type;
	s.ino = st->st_ino;
	s.size = S_ISDIR(st->st_mode) ? 0 : (uint64_t)st->st_size; /* a directory's says nothing */
	s.links = S_ISDIR(st->st_mode) ? 0 : st->st_nlink;
	s.ctime_ns = st->st_ctim.tv_sec * (int64_t)NS_PER_S + st->st_ctim.tv_nsec;
	s.mtime_ns = st->st_mtim.tv_sec * (int64_t)NS_PER_S + st->st_mtim.tv_nsec;
	s.mode = st->st_mode;
	s.uid = st->st_uid;
	s.gid = st->st_gid;
	if (s.ctime_ns >= racy_from_ns)
		s.flags |= SEEN_RACY;
	return s;
}

bool
seen_same(const struct seen *a, const struct seen *b)
{
	return a->ino == b->ino && a->size == b->size && a->links == b->links &&
	       a->ctime_ns == b->ctime_ns && a->mtime_ns == b->mtime_ns && a->mode == b->mode &&
	       a->uid == b->uid && a->gid == b->gid;
}
