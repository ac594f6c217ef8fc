#include "spool_read.h"
#include "base/fd.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static int
read_whole(int fd, void *out, size_t n, uint64_t at, struct err *err)
{
	size_t got = 0;

	while (got < n) {
		const ssize_t k = pread(fd, (char *)out + got, n - got, (off_t)(at + got));
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys(err, errno, "read the spool");
		if (k == 0)
			return 0;
		got += (size_t)k;
	}
	return 1;
}

int
spool_next(int fd, uint64_t *at, char *room, struct msg_call_record *out, struct err *err)
{
	uint8_t head[4];
	struct message m;
	struct err why;

	if (*at > SPOOL_MAX_BYTES)
		return 0;
	const int got = read_whole(fd, head, sizeof head, *at, err);
	if (got <= 0)
		return got;
	const uint32_t n = (uint32_t)head[0] | (uint32_t)head[1] << 8 | (uint32_t)head[2] << 16 |
			   (uint32_t)head[3] << 24;
	if (n > SPOOL_RECORD_MAX_BYTES)
		return 0;
	const int body = read_whole(fd, room, n, *at + sizeof head, err);
	if (body <= 0)
		return body;
	if (wire_decode((struct str){room, n}, ROLE_KEEPER, ROLE_MANAGER, PHASE_OPEN, 0, &m, &why) <
		0 ||
	    m.id != MSG_call_record)
		return 0;
	*out = m.call_record;
	*at += sizeof head + n;
	return 1;
}

int
spool_replay(int calls_dir, spool_fn fn, void *ctx, struct err *err)
{
	auto_free char *room = xnew(1, SPOOL_RECORD_MAX_BYTES);
	struct msg_call_record record;
	struct stat st;
	uint64_t at = 0;
	int n = 0;

	/* O_NONBLOCK: what stands there under that name may be no file at all */
	auto_close int fd = path_open(calls_dir, SPOOL_NAME, O_RDONLY | O_NONBLOCK | O_NOCTTY, err);
	if (fd < 0)
		return errno == ENOENT ? 0 : -1;
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at the spool");
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_CORRUPT, "the spool is not a file");
	for (;; n++) {
		const int got = spool_next(fd, &at, room, &record, err);
		if (got < 0)
			return -1;
		if (got == 0)
			return n;
		if (fn(ctx, &record, err) < 0)
			return -1;
	}
}
