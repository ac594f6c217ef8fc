#include "once.h"

#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "base/time.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "BERTHK1\n"
enum {
	AT_KEY_SUM = 8,
	AT_REQUEST = 40,
	AT_CALL = 72,
	AT_CREATED = 96,
	AT_KEY = 104,
	AT_SUM = 232,
	CALL_BYTES = 24,
	SUM_BYTES = ONCE_RECORD_BYTES - AT_SUM,
};
_Static_assert(AT_KEY + ONCE_KEY_BYTES == AT_SUM, "the record has its form");

/* ---- one record ---- */

static struct digest
sum_of(const uint8_t *record)
{
	return digest_of((struct str){(const char *)record, AT_SUM});
}

static bool
is_record(const uint8_t *record)
{
	const struct digest sum = sum_of(record);
	return memcmp(record, MAGIC, sizeof MAGIC - 1) == 0 &&
	       memcmp(record + AT_SUM, sum.at, SUM_BYTES) == 0;
}

static void
write_record(uint8_t out[ONCE_RECORD_BYTES], struct str key, const struct once_key *k)
{
	const uint64_t now = time_real_ns();

	memset(out, 0, ONCE_RECORD_BYTES);
	memcpy(out, MAGIC, sizeof MAGIC - 1);
	memcpy(out + AT_KEY_SUM, k->key.at, DIGEST_BYTES);
	memcpy(out + AT_REQUEST, k->request.at, DIGEST_BYTES);
	memcpy(out + AT_CALL, k->call, strnlen(k->call, CALL_BYTES));
	for (int i = 0; i < 8; i++)
		out[AT_CREATED + i] = (uint8_t)(now >> (8 * i));
	memcpy(out + AT_KEY, key.at, key.len);
	const struct digest sum = sum_of(out);
	memcpy(out + AT_SUM, sum.at, SUM_BYTES);
}

/* ---- all of them ---- */

static int
push(struct once *o, const struct once_key *k, struct err *err)
{
	if (o->n == o->room) {
		const size_t room = o->room ? 2 * o->room : 16;
		struct once_key *keys = reallocarray(o->keys, room, sizeof *keys);
		if (!keys)
			return err_set(err, ERR_UNAVAILABLE, "no memory for keys of calls");
		o->keys = keys;
		o->room = room;
	}
	o->keys[o->n++] = *k;
	return 0;
}

static int
load(struct once *o, uint64_t size, struct err *err)
{
	uint8_t record[ONCE_RECORD_BYTES];

	for (; o->end_at + sizeof record <= size; o->end_at += sizeof record) {
		struct once_key k = {0};
		if (fd_pread_all(o->fd, record, sizeof record, o->end_at, err) < 0)
			return -1;
		if (!is_record(record))
			continue;
		memcpy(k.key.at, record + AT_KEY_SUM, DIGEST_BYTES);
		memcpy(k.request.at, record + AT_REQUEST, DIGEST_BYTES);
		memcpy(k.call, record + AT_CALL, ID_BYTES - 1);
		if (push(o, &k, err) < 0)
			return -1;
	}
	return 0;
}

static int
open_file(struct once *o, struct err *err)
{
	struct stat st;

	o->fd = path_open(o->dir, ONCE_NAME, O_RDWR | O_NONBLOCK, err);
	if (o->fd < 0)
		return errno == ENOENT ? 0 : -1;
	if (fstat(o->fd, &st) < 0)
		return err_sys(err, errno, "look at it");
	if (!S_ISREG(st.st_mode))
		return err_set(err, ERR_CORRUPT, "it is not a file");
	return load(o, (uint64_t)st.st_size, err);
}

int
once_open(struct once *o, int calls_dir, struct err *err)
{
	*o = (struct once){.fd = -1, .dir = calls_dir};
	if (open_file(o, err) < 0) {
		once_close(o);
		return err_add(err, "the keys of calls");
	}
	o->unsure = o->fd >= 0; /* who made it may have died before he had synced its name */
	return 0;
}

void
once_close(struct once *o)
{
	fd_close(&o->fd);
	free(o->keys);
	o->keys = NULL;
	o->n = o->room = 0;
}

const struct once_key *
once_find(const struct once *o, struct str key)
{
	const struct digest sum = digest_of(key);

	for (size_t i = o->n; i-- > 0;)
		if (digest_equal(&o->keys[i].key, &sum))
			return &o->keys[i];
	return NULL;
}

/* What is known of keys stays until the file says it. */
static int
reopen(struct once *o, struct err *err)
{
	struct once now = {.fd = -1, .dir = o->dir, .unsure = true};

	if (open_file(&now, err) < 0) {
		once_close(&now);
		return -1;
	}
	if (now.fd < 0 && o->end_at)
		return err_set(err, ERR_CORRUPT, "%s has been taken away", ONCE_NAME);
	once_close(o);
	*o = now;
	return 0;
}

/* No more unsure, or -1. */
static int
settle(struct once *o, struct err *err)
{
	if (!o->unsure)
		return 0;
	if ((o->fd < 0 && reopen(o, err) < 0) || path_sync_dir(o->dir, err) < 0)
		return -1;
	o->unsure = false;
	return 0;
}

static int
create(struct once *o, struct err *err)
{
	auto_close int made = path_create(o->dir, ONCE_NAME, 0600, err);
	if (made < 0)
		return -1;
	o->unsure = true;
	return settle(o, err);
}

int
once_ready(struct once *o, struct err *err)
{
	if (settle(o, err) < 0)
		return err_add(err, "no key of a call can be kept");
	if (o->n < ONCE_KEYS_MAX)
		return 0;
	err_set(err, ERR_UNAVAILABLE, "%d keys of calls are kept already", ONCE_KEYS_MAX);
	return err_hint(err, "they go with the journals of their calls");
}

static void
cut(struct once *o)
{
	if (ftruncate(o->fd, (off_t)o->end_at) < 0 || fdatasync(o->fd) < 0)
		log_line("a key of a call could not be taken back: it answers that it is lost");
}

int
once_add(struct once *o, struct str key, const struct digest *request, const char *call,
	 struct err *err)
{
	uint8_t record[ONCE_RECORD_BYTES];
	struct once_key k = {.key = digest_of(key), .request = *request};

	if (once_ready(o, err) < 0)
		return -1;
	if (str_copy(str_of(call), k.call, sizeof k.call, err) < 0 ||
	    (o->fd < 0 && create(o, err) < 0) || push(o, &k, err) < 0)
		return err_add(err, "keep the key of a call");
	write_record(record, key, &k);
	const int wrote = fd_pwrite_all(o->fd, record, sizeof record, o->end_at, err);
	if (wrote < 0 || fdatasync(o->fd) < 0) {
		if (wrote == 0)
			err_sys(err, errno, "sync it");
		o->n--;
		cut(o);
		return err_add(err, "keep the key of a call");
	}
	o->end_at += sizeof record;
	return 0;
}

void
once_take_back(struct once *o)
{
	o->n--;
	o->end_at -= ONCE_RECORD_BYTES;
	cut(o);
}

/* ---- the end of keys ---- */

int
once_drop(struct once *o, bool (*gone)(void *ctx, const char *call), void *ctx, struct err *err)
{
	auto_buf kept = BUF_MAX((size_t)(ONCE_KEYS_MAX + 1) * ONCE_RECORD_BYTES);
	uint8_t record[ONCE_RECORD_BYTES];
	bool any = false;

	if (settle(o, err) < 0)
		return err_add(err, "drop keys of calls");
	for (uint64_t at = 0; at < o->end_at; at += sizeof record) {
		char call[ID_BYTES] = "";
		if (fd_pread_all(o->fd, record, sizeof record, at, err) < 0)
			return err_add(err, "the keys of calls");
		memcpy(call, record + AT_CALL, ID_BYTES - 1);
		if (!is_record(record) || gone(ctx, call))
			any = true;
		else
			buf_add(&kept, record, sizeof record);
	}
	if (!any)
		return 0;
	if (buf_bad(&kept))
		return err_set(err, ERR_INTERNAL, "drop keys of calls: they are too many");
	const int replaced = path_replace(o->dir, ONCE_NAME, 0600, buf_view(&kept), err);
	fd_close(&o->fd); /* it may have lost its name, whatever was said */
	o->unsure = true;
	if (replaced < 0 || reopen(o, err) < 0)
		return err_add(err, "drop keys of calls");
	o->unsure = false; /* path_replace has synced the directory */
	return 0;
}
