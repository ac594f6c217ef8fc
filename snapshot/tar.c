#include "tar.h"
#include "whiteout.h"

#include <errno.h>
#include <inttypes.h>
#include <unistd.h>

enum { BLOCK = 512, PAX_MAX_BYTES = 1024 * 1024, MAP_MAX_BYTES = 16 << 20 };

struct header { /* POSIX.1-2001, ustar */
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[6], version[2], uname[32], gname[32], major[8], minor[8], prefix[155], pad[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a tar header is one block");

static const char zeros[BLOCK];

void
tar_writer_init(struct tar_writer *t, struct frames_writer *frames)
{
	*t = (struct tar_writer){.frames = frames,
				 .name = BUF_MAX(2 * ENTRY_PATH_MAX_BYTES),
				 .link = BUF_MAX(2 * ENTRY_PATH_MAX_BYTES),
				 .pax = BUF_MAX(PAX_MAX_BYTES),
				 .map = BUF_MAX(MAP_MAX_BYTES)};
}

void
tar_writer_init_sink(struct tar_writer *t, struct tar_sink sink)
{
	tar_writer_init(t, NULL);
	t->sink = sink;
}

void
tar_writer_done(struct tar_writer *t)
{
	buf_free(&t->name);
	buf_free(&t->link);
	buf_free(&t->pax);
	buf_free(&t->map);
}

static int
put_bytes(struct tar_writer *t, const void *bytes, size_t n, struct err *err)
{
	const int put = t->frames ? frames_add(t->frames, bytes, n, err)
				  : t->sink.put(t->sink.ctx, bytes, n, err);
	if (put < 0)
		return -1;
	t->at += n;
	return 0;
}

static int
put_padding(struct tar_writer *t, struct err *err)
{
	const size_t over = t->at % BLOCK;
	return over ? put_bytes(t, zeros, BLOCK - over, err) : 0;
}

/* Digits with leading zeros and a NUL. False: it does not fit, and zero stands there. */
static bool
put_octal(char *field, size_t size, uint64_t value)
{
	const bool fits = value >> (3 * (size - 1)) == 0;

	if (!fits)
		value = 0;
	for (size_t i = size - 1; i-- > 0; value >>= 3)
		field[i] = (char)('0' + (value & 7));
	field[size - 1] = '\0';
	return fits;
}

static void
put_checksum(struct header *h)
{
	unsigned sum = 0;

	memset(h->checksum, ' ', sizeof h->checksum);
	for (size_t i = 0; i < sizeof *h; i++)
		sum += ((const unsigned char *)h)[i];
	put_octal(h->checksum, 7, sum); /* six digits, NUL, and the space that is there */
}

/* ---- pax records ---- */

/* "LENGTH KEY=VALUE\n", where LENGTH counts itself. */
static void
put_record(struct buf *pax, const char *front, const char *key, struct str value)
{
	const size_t rest = 3 + strlen(front) + strlen(key) + value.len; /* space, =, newline */
	size_t n = rest + 1;

	for (size_t digits = 1, ten = 10; n >= ten; ten *= 10)
		n = rest + ++digits;
	buf_fmt(pax, "%zu %s%s=", n, front, key);
	buf_str(pax, value);
	buf_char(pax, '\n');
}

static void
put_number(struct buf *pax, const char *key, uint64_t value)
{
	char text[24];
	snprintf(text, sizeof text, "%" PRIu64, value);
	put_record(pax, "", key, str_of(text));
}

static bool
is_utf8(struct str s)
{
	const uint8_t *p = (const uint8_t *)s.at, *end = p + s.len;

	while (p < end) {
		const unsigned more = *p < 0x80                 ? 0
				      : *p >= 0xc2 && *p < 0xe0 ? 1
				      : *p >= 0xe0 && *p < 0xf0 ? 2
				      : *p >= 0xf0 && *p < 0xf5 ? 3
								: 9;
		if (more == 9 || (size_t)(end - p) <= more)
			return false;
		if ((*p == 0xe0 && p[1] < 0xa0) || (*p == 0xed && p[1] > 0x9f) ||
		    (*p == 0xf0 && p[1] < 0x90) || (*p == 0xf4 && p[1] > 0x8f))
			return false;
		for (unsigned i = 1; i <= more; i++)
			if ((p[i] & 0xc0) != 0x80)
				return false;
		p += 1 + more;
	}
	return true;
}

static void
put_base64(struct buf *out, const char *value, size_t n)
{
	static const char digits[] =
	    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const uint8_t *p = (const uint8_t *)value;

	for (size_t i = 0; i < n; i += 3) { /* without padding, as libarchive writes it */
		const size_t k = n - i < 3 ? n - i : 3;
		const uint32_t v = (uint32_t)p[i] << 16 | (k > 1 ? (uint32_t)p[i + 1] << 8 : 0) |
				   (k > 2 ? p[i + 2] : 0);
		for (size_t d = 0; d <= k; d++)
			buf_char(out, digits[v >> (18 - 6 * d) & 63]);
	}
}

static int
put_attr(struct buf *pax, const struct attr *a, struct err *err)
{
	if (!strchr(a->name, '=')) {
		put_record(pax, "SCHILY.xattr.", a->name, (struct str){a->value, a->n});
		return 0;
	}
	auto_buf name = BUF_MAX(1024), value = BUF_MAX((size_t)2 * ATTR_VALUE_MAX_BYTES);
	for (const char *p = a->name; *p; p++)
		if (*p == '=' || *p == '%' || *p <= ' ' || *p >= 127)
			buf_fmt(&name, "%%%02X", (unsigned char)*p);
		else
			buf_char(&name, *p);
	put_base64(&value, a->value, a->n);
	if (buf_bad(&name) || buf_bad(&value))
		return err_set(err, ERR_UNAVAILABLE, "no memory for an extended attribute");
	put_record(pax, "LIBARCHIVE.xattr.", buf_cstr(&name), buf_view(&value));
	return 0;
}

static void
put_mtime(struct buf *pax, const struct entry *e)
{
	char text[40];
	snprintf(text, sizeof text, "%" PRId64 ".%09u", e->mtime_s, e->mtime_ns);
	put_record(pax, "", "mtime", str_of(text));
}

/* GNU.sparse 1.0: the map stands in decimal before the data, filled up to a block. */
static uint64_t
build_map(struct buf *map, const struct entry *e)
{
	uint64_t stored = 0;
	const struct extent *last = e->n_extents ? &e->extents[e->n_extents - 1] : NULL;
	const bool open = !last || last->at + last->n < e->size; /* ends with a hole */

	buf_clear(map);
	buf_fmt(map, "%zu\n", e->n_extents + open);
	for (size_t i = 0; i < e->n_extents; i++) {
		buf_fmt(map, "%" PRIu64 "\n%" PRIu64 "\n", e->extents[i].at, e->extents[i].n);
		stored += e->extents[i].n;
	}
	if (open)
		buf_fmt(map, "%" PRIu64 "\n0\n", e->size);
	buf_add(map, zeros, (BLOCK - map->len % BLOCK) % BLOCK);
	return map->len + stored;
}

static bool
has_link(const struct entry *e)
{
	return e->type == ENTRY_SYMLINK || e->type == ENTRY_LINK;
}

static int
build_pax(struct tar_writer *t, const struct entry *e, uint64_t size, struct header *h,
	  struct err *err)
{
	struct buf *pax = &t->pax;
	const bool long_name = t->name.len > sizeof h->name && !e->sparse;
	const bool long_link = has_link(e) && t->link.len > sizeof h->link;

	buf_clear(pax);
	if (((long_name || e->sparse) && !is_utf8(buf_view(&t->name))) ||
	    (long_link && !is_utf8(buf_view(&t->link))))
		put_record(pax, "", "hdrcharset", STR_LIT("BINARY"));
	if (e->sparse) {
		put_record(pax, "", "GNU.sparse.major", STR_LIT("1"));
		put_record(pax, "", "GNU.sparse.minor", STR_LIT("0"));
		put_record(pax, "", "GNU.sparse.name", buf_view(&t->name));
		put_number(pax, "GNU.sparse.realsize", e->size);
	}
	if (long_name)
		put_record(pax, "", "path", buf_view(&t->name));
	if (long_link)
		put_record(pax, "", "linkpath", buf_view(&t->link));
	if (!put_octal(h->size, sizeof h->size, size))
		put_number(pax, "size", size);
	if (!put_octal(h->uid, sizeof h->uid, e->uid))
		put_number(pax, "uid", e->uid);
	if (!put_octal(h->gid, sizeof h->gid, e->gid))
		put_number(pax, "gid", e->gid);
	const uint64_t seconds = e->mtime_s < 0 ? UINT64_MAX : (uint64_t)e->mtime_s;
	if (!put_octal(h->mtime, sizeof h->mtime, seconds) || e->mtime_ns)
		put_mtime(pax, e);
	for (size_t i = 0; e->attrs && i < e->attrs->n; i++)
		if (put_attr(pax, &e->attrs->at[i], err) < 0)
			return -1;
	if (buf_bad(pax))
		return err_set(err, ERR_USAGE,
			       "the path and the extended attributes of one file are "
			       "more than 1 MiB");
	return 0;
}

static int
put_pax(struct tar_writer *t, struct err *err)
{
	struct header h = {
	    .name = "././@PaxHeader", .type = 'x', .magic = "ustar", .version = {'0', '0'}};

	put_octal(h.mode, sizeof h.mode, 0644);
	put_octal(h.uid, sizeof h.uid, 0);
	put_octal(h.gid, sizeof h.gid, 0);
	put_octal(h.mtime, sizeof h.mtime, 0);
	put_octal(h.size, sizeof h.size, t->pax.len);
	put_checksum(&h);
	if (put_bytes(t, &h, sizeof h, err) < 0 || put_bytes(t, t->pax.at, t->pax.len, err) < 0)
		return -1;
	return put_padding(t, err);
}

/* What an old reader shows of a path that stands in the pax header: its end. */
static void
put_field(char *field, size_t size, struct str s)
{
	const size_t n = s.len < size ? s.len : size;
	memcpy(field, s.at + s.len - n, n);
}

static void
put_name(const struct tar_writer *t, enum entry_type type, struct str path, struct buf *out)
{
	if (!t->plain) {
		whiteout_encode(type, path, out);
		return;
	}
	buf_str(out, path.len ? path : STR_LIT("."));
	if (type == ENTRY_DIR)
		buf_char(out, '/');
}

int
tar_put(struct tar_writer *t, const struct entry *e, uint64_t *out_data_at, struct err *err)
{
	static const char types[ENTRY_TYPES] = {'0', '5', '2', '6', '1', '0', '0'};
	struct header h = {.type = types[e->type], .magic = "ustar", .version = {'0', '0'}};
	uint64_t size = e->type == ENTRY_FILE ? e->size : 0;

	buf_clear(&t->name);
	buf_clear(&t->link);
	put_name(t, e->type, e->path, &t->name);
	if (e->type == ENTRY_LINK)
		put_name(t, ENTRY_FILE, e->link, &t->link);
	else if (has_link(e))
		buf_str(&t->link, e->link);
	if (e->sparse)
		size = build_map(&t->map, e);
	if (e->path.len > ENTRY_PATH_MAX_BYTES || buf_bad(&t->name) || buf_bad(&t->link) ||
	    buf_bad(&t->map))
		return err_set(err, ERR_USAGE, "a path is longer than %d bytes, or memory ran out",
			       ENTRY_PATH_MAX_BYTES);
	if (build_pax(t, e, size, &h, err) < 0 || (t->pax.len && put_pax(t, err) < 0))
		return -1;

	put_octal(h.mode, sizeof h.mode, e->mode & 07777);
	put_octal(h.major, sizeof h.major, 0);
	put_octal(h.minor, sizeof h.minor, 0);
	put_field(h.name, sizeof h.name, buf_view(&t->name));
	if (t->link.len)
		put_field(h.link, sizeof h.link, buf_view(&t->link));
	put_checksum(&h);
	if (put_bytes(t, &h, sizeof h, err) < 0)
		return -1;
	if (e->sparse && put_bytes(t, t->map.at, t->map.len, err) < 0)
		return -1;
	t->left = e->sparse ? size - t->map.len : size;
	*out_data_at = t->at;
	return 0;
}

/* Reads into the frames without another copy. */
static int
put_extent(struct tar_writer *t, int fd, struct extent x,
	   int (*step)(void *ctx, uint64_t bytes, struct err *err), void *ctx, bool *torn,
	   struct err *err)
{
	while (x.n) {
		size_t room;
		char *at = frames_room(t->frames, &room, err);
		if (!at)
			return -1;
		if (room > x.n)
			room = (size_t)x.n;
		ssize_t k = pread(fd, at, room, (off_t)x.at);
		if (k < 0 && errno == EINTR)
			continue;
		if (k < 0)
			return err_sys(err, errno, "read");
		if (k == 0) {
			memset(at, 0, room);
			k = (ssize_t)room;
			*torn = true;
		}
		frames_filled(t->frames, (size_t)k);
		t->at += (size_t)k;
		t->left -= (size_t)k;
		x.at += (size_t)k;
		x.n -= (size_t)k;
		if (step && step(ctx, (uint64_t)k, err) < 0)
			return -1;
	}
	return 0;
}

int
tar_put_file(struct tar_writer *t, const struct entry *e, int fd,
	     int (*step)(void *ctx, uint64_t bytes, struct err *err), void *ctx, bool *out_torn,
	     struct err *err)
{
	const struct extent whole = {0, e->size};
	const struct extent *x = e->sparse ? e->extents : &whole;
	const size_t n = e->sparse ? e->n_extents : 1;

	*out_torn = false;
	for (size_t i = 0; i < n; i++)
		if (put_extent(t, fd, x[i], step, ctx, out_torn, err) < 0)
			return -1;
	return put_padding(t, err);
}

int
tar_put_data(struct tar_writer *t, const void *bytes, size_t n, struct err *err)
{
	if (n > t->left)
		return err_set(err, ERR_CORRUPT, "a file became longer while it was read");
	if (put_bytes(t, bytes, n, err) < 0)
		return -1;
	t->left -= n;
	return t->left ? 0 : put_padding(t, err);
}

int
tar_end(struct tar_writer *t, struct err *err)
{
	if (put_bytes(t, zeros, sizeof zeros, err) < 0)
		return -1;
	return put_bytes(t, zeros, sizeof zeros, err);
}
