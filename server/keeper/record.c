#include "record.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	ROOM_LEAST_BYTES = 1 << 20,	   /* what admitted calls may still add */
	CALL_RECORDS_BYTES = 12 << 10, /* start and end of one call, at most */
};

/* Finds the end of what is there, and the last number in it. */
static int
scan(struct spool *s, struct err *err)
{
	struct msg_call_record r;
	int got;

	while ((got = spool_next(s->fd, &s->end_at, s->room, &r, err)) > 0)
		if (r.record >= s->next)
			s->next = r.record + 1;
	if (got < 0)
		return -1;
	if (ftruncate(s->fd, (off_t)s->end_at) <
	    0) /* a crash's half record would hide what follows */
		return err_sys(err, errno, "cut the spool");
	if (s->end_at == 0)
		s->acked = s->sent = s->next - 1;
	return 0;
}

int
record_open(struct spool *s, int calls_dir, uint64_t next_record, struct err *err)
{
	struct stat st;

	*s = (struct spool){.fd = -1, .next = next_record ? next_record : 1};
	auto_close int fd = path_create(calls_dir, SPOOL_NAME, 0600, err);
	if (fd < 0 && errno != EEXIST)
		return -1;
	fd_close(&fd);
	fd = path_open(calls_dir, SPOOL_NAME, O_RDWR | O_NONBLOCK, err);
	if (fd < 0)
		return -1;
	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "look at the spool");
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_CORRUPT, "the spool is not a file");
	s->room = xnew(1, SPOOL_RECORD_MAX_BYTES);
	s->fd = fd_steal(&fd);
	if (scan(s, err) < 0) {
		record_close(s);
		return -1;
	}
	return 0;
}

void
record_close(struct spool *s)
{
	fd_close(&s->fd);
	free(s->room);
	s->room = NULL;
}

bool
record_has_room(const struct spool *s)
{
	return s->end_at < SPOOL_MAX_BYTES - ROOM_LEAST_BYTES;
}

bool
record_has_half(const struct spool *s)
{
	return s->end_at < SPOOL_MAX_BYTES / 2;
}

int
record_reserve(struct spool *s, uint32_t live, struct err *err)
{
	const uint64_t need = (uint64_t)(live + 1) * CALL_RECORDS_BYTES;

	if (s->reserved_to >= s->end_at + need)
		return 0;
	if (fallocate(s->fd, FALLOC_FL_KEEP_SIZE, (off_t)s->end_at,
		      (off_t)(need + ROOM_LEAST_BYTES)) < 0 &&
	    errno != EOPNOTSUPP)
		return err_sys(err, errno, "make room for call records");
	s->reserved_to = s->end_at + need + ROOM_LEAST_BYTES;
	return 0;
}

int
record_append(struct spool *s, struct msg_call_record *record, struct err *err)
{
	auto_buf b = BUF_MAX(SPOOL_RECORD_MAX_BYTES + 4);
	char *head = buf_room(&b, 4);

	record->record = s->next;
	if (!head)
		return err_set(err, ERR_UNAVAILABLE, "no memory for a call record");
	b.len += 4;
	if (wire_encode(MSG_call_record, record, &b, err) < 0)
		return -1;
	const size_t n = b.len - 4;
	for (int i = 0; i < 4; i++)
		b.at[i] = (char)(n >> (8 * i));
	if (s->end_at + b.len > SPOOL_MAX_BYTES)
		return err_set(err, ERR_NO_SPACE, "the spool of call records is full");
	if (fd_pwrite_all(s->fd, b.at, b.len, s->end_at, err) < 0) {
		/* best effort: the next record overwrites what was written of this one */
		const int ignored = ftruncate(s->fd, (off_t)s->end_at);
		(void)ignored;
		s->reserved_to = s->end_at;
		return err_add(err, "spool call record %llu", (unsigned long long)record->record);
	}
	s->end_at += b.len;
	s->next++;
	return 0;
}

int
record_send(struct spool *s, struct wire *manager, struct err *err)
{
	struct msg_call_record r;

	while (wire_is_open(manager) && s->send_at < s->end_at &&
	       s->sent - s->acked < RECORD_WINDOW) {
		uint64_t at = s->send_at;
		const int got = spool_next(s->fd, &at, s->room, &r, err);
		if (got < 0)
			return -1;
		if (got == 0)
			return err_set(err, ERR_CORRUPT, "the spool is not what was written");
		if (r.record > s->acked) {
			if (wire_send_fds(manager, MSG_call_record, &r, NULL, 0, err) < 0)
				return -1;
			s->sent = r.record;
		}
		s->send_at = at;
	}
	return 0;
}

void
record_ack(struct spool *s, uint64_t record, uint32_t live)
{
	struct err err;

	if (record <= s->acked || record > s->sent)
		return; /* an old one again, or one that was never sent */
	s->acked = record;
	if (!record_all_acked(s) || (live && s->end_at < ROOM_LEAST_BYTES))
		return; /* a cut gives back what was reserved, and somebody may be waiting for it */
	if (ftruncate(s->fd, 0) == 0)
		s->send_at = s->end_at = s->reserved_to = 0;
	if (live && record_reserve(s, live, &err) < 0)
		log_err(&err, "%u live calls", live);
}

void
record_rewind(struct spool *s)
{
	s->send_at = 0;
	s->sent = s->acked;
}

int
record_sync(struct spool *s, struct err *err)
{
	if (fdatasync(s->fd) < 0)
		return err_sys(err, errno, "sync the spool");
	return 0;
}
