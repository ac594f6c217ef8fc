/* SQLite on a file descriptor: the "file name" is its number. One connection, one file, no journal,
 * no locks: an .idx is written before it has a name and never changed after.
 *
 * Each page ends in a checksum of it and its number, in the bytes that SQLite's format lets such an
 * extension reserve (header byte 20; stock SQLite reads past them): what changed on the disk is an
 * error of the read, not another answer. */
#include "idx.h"
#include "base/fd.h"
#include "base/num.h"

#include <endian.h>
#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGE = IDX_PAGE_BYTES, SUM = IDX_RESERVED_BYTES, HEADER = 100 };

struct file {
	sqlite3_file base; /* first: SQLite allocates and casts */
	int fd;            /* lent */
};

static _Thread_local int last_errno; /* of what failed last on this thread */

static int
failed(int code)
{
	last_errno = errno;
	return code;
}

static int
vfs_close(sqlite3_file *f)
{
	(void)f;
	return SQLITE_OK;
}

/* Each step is a bijection of h and of the word, so one word that differs always shows. */
static uint64_t
checksum(const char *page, uint64_t number)
{
	uint64_t h = 0xcbf29ce484222325ull ^ number, word;

	for (size_t i = 0; i < PAGE - SUM; i += sizeof word) {
		memcpy(&word, page + i, sizeof word);
		h = (h ^ le64toh(word)) * 0x100000001b3ull;
		h ^= h >> 29;
	}
	return h;
}

static bool
is_whole(const char *page, uint64_t number)
{
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
	(void)page; /* so that what is behind the checksums is fuzzed, not they */
	(void)number;
	return true;
#else
	uint64_t sum;
	memcpy(&sum, page + PAGE - SUM, sizeof sum);
	return le64toh(sum) == checksum(page, number);
#endif
}

static int
vfs_read(sqlite3_file *base, void *out, int n, sqlite3_int64 at)
{
	const sqlite3_int64 from = at;
	const int wanted = n;
	const struct file *f = (struct file *)base;
	char *to = out;

	while (n) {
		const ssize_t k = pread(f->fd, to, (size_t)n, at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return failed(SQLITE_IOERR_READ);
		if (k == 0) {
			memset(to, 0, (size_t)n); /* as SQLite wants it */
			return SQLITE_IOERR_SHORT_READ;
		}
		to += k;
		n -= (int)k;
		at += k;
	}
	/* Less than a page is read of the header alone, before the page that it is in. */
	const bool header = from + wanted <= HEADER;
	const bool page = wanted == PAGE && from % PAGE == 0;
	if (!header && !(page && is_whole(out, (uint64_t)from / PAGE)))
		return SQLITE_IOERR_DATA;
	return SQLITE_OK;
}

static int
vfs_write(sqlite3_file *base, const void *bytes, int n, sqlite3_int64 at)
{
	const struct file *f = (struct file *)base;
	char page[PAGE];
	struct err err;

	if (n != PAGE || at % PAGE)
		return SQLITE_IOERR_WRITE; /* cannot be: there is no journal, and pages are whole */
	memcpy(page, bytes, PAGE - SUM);
	const uint64_t sum = htole64(checksum(page, (uint64_t)at / PAGE));
	memcpy(page + PAGE - SUM, &sum, sizeof sum);
	if (fd_pwrite_all(f->fd, page, sizeof page, (uint64_t)at, &err) == 0)
		return SQLITE_OK;
	return failed(err.code == ERR_NO_SPACE ? SQLITE_FULL : SQLITE_IOERR_WRITE);
}

static int
vfs_truncate(sqlite3_file *base, sqlite3_int64 size)
{
	if (ftruncate(((struct file *)base)->fd, size) == 0)
		return SQLITE_OK;
	return failed(SQLITE_IOERR_TRUNCATE);
}

static int
vfs_sync(sqlite3_file *base, int flags)
{
	(void)base;
	(void)flags;
	return SQLITE_OK; /* the owner of the fd syncs, before it gives the file a name */
}

static int
vfs_size(sqlite3_file *base, sqlite3_int64 *out)
{
	struct stat st;
	if (fstat(((struct file *)base)->fd, &st) < 0)
		return SQLITE_IOERR_FSTAT;
	*out = st.st_size;
	return SQLITE_OK;
}

static int
vfs_lock(sqlite3_file *base, int level)
{
	(void)base;
	(void)level;
	return SQLITE_OK;
}

static int
vfs_locked(sqlite3_file *base, int *out)
{
	(void)base;
	*out = 0;
	return SQLITE_OK;
}

static int
vfs_control(sqlite3_file *base, int op, void *arg)
{
	(void)base;
	(void)op;
	(void)arg;
	return SQLITE_NOTFOUND;
}

static int
vfs_sector(sqlite3_file *base)
{
	(void)base;
	return 4096;
}

static int
vfs_traits(sqlite3_file *base)
{
	(void)base;
	return 0;
}

static int
vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *base, int flags, int *out_flags)
{
	static const sqlite3_io_methods methods = {
	    .iVersion = 1,
	    .xClose = vfs_close,
	    .xRead = vfs_read,
	    .xWrite = vfs_write,
	    .xTruncate = vfs_truncate,
	    .xSync = vfs_sync,
	    .xFileSize = vfs_size,
	    .xLock = vfs_lock,
	    .xUnlock = vfs_lock,
	    .xCheckReservedLock = vfs_locked,
	    .xFileControl = vfs_control,
	    .xSectorSize = vfs_sector,
	    .xDeviceCharacteristics = vfs_traits,
	};
	struct file *f = (struct file *)base;
	struct err ignored;
	uint64_t fd;

	(void)vfs;
	*f = (struct file){.fd = -1};
	if (!name || !(flags & SQLITE_OPEN_MAIN_DB) ||
	    num_parse(str_of(name), 0, 1 << 20, &fd, &ignored) < 0)
		return SQLITE_CANTOPEN;
	f->fd = (int)fd;
	f->base.pMethods = &methods;
	if (out_flags)
		*out_flags = flags;
	return SQLITE_OK;
}

static int
vfs_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
	(void)vfs;
	(void)name;
	(void)sync;
	return SQLITE_OK; /* journals that never were */
}

static int
vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *out)
{
	(void)vfs;
	(void)name;
	(void)flags;
	*out = 0;
	return SQLITE_OK;
}

static int
vfs_full_name(sqlite3_vfs *vfs, const char *name, int n, char *out)
{
	(void)vfs;
	snprintf(out, (size_t)n, "%s", name);
	return SQLITE_OK;
}

static int
vfs_random(sqlite3_vfs *vfs, int n, char *out)
{
	(void)vfs;
	return getrandom(out, (size_t)n, 0) == n ? n : 0;
}

static int
vfs_sleep(sqlite3_vfs *vfs, int us)
{
	(void)vfs;
	(void)us;
	return 0;
}

static int
vfs_time(sqlite3_vfs *vfs, double *out)
{
	(void)vfs;
	*out = 2440587.5; /* 1970: no statement of ours asks */
	return SQLITE_OK;
}

static sqlite3_vfs vfs = {
    .iVersion = 1,
    .szOsFile = sizeof(struct file),
    .mxPathname = 32,
    .zName = "berth-fd",
    .xOpen = vfs_open,
    .xDelete = vfs_delete,
    .xAccess = vfs_access,
    .xFullPathname = vfs_full_name,
    .xRandomness = vfs_random,
    .xSleep = vfs_sleep,
    .xCurrentTime = vfs_time,
};

int
idx_vfs_errno(void)
{
	return last_errno;
}

int
idx_check(int fd, struct err *err)
{
	char page[PAGE];
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at the index of a layer");
	const uint64_t pages = (uint64_t)st.st_size / PAGE;
	if (pages == 0 || st.st_size % PAGE)
		return err_set(err, ERR_CORRUPT, "its index is cut");
	for (uint64_t i = 0; i < pages; i++) {
		if (fd_pread_all(fd, page, sizeof page, i * PAGE, err) < 0)
			return -1;
		if (!is_whole(page, i))
			return err_set(err, ERR_CORRUPT, "its index is damaged in page %llu",
				       (unsigned long long)i + 1);
		const uint8_t *n = (const uint8_t *)page + 28; /* SQLite's "size in pages" */
		if (i == 0 && ((uint32_t)n[0] << 24 | (uint32_t)n[1] << 16 | (uint32_t)n[2] << 8 |
			       n[3]) != pages)
			return err_set(err, ERR_CORRUPT, "its index is cut");
	}
	return 0;
}

static void
register_once(void)
{
	sqlite3_vfs_register(&vfs, 0);
}

const char *
idx_vfs_name(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, register_once);
	return vfs.zName;
}
