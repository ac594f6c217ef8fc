/* The bytes of messages, and the sockets they travel on. Everything here is made from messages.def;
 * there is no code for a single message. */
#include "wire.h"
#include "base/fd.h"
#include "base/guard.h"
#include "base/time.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

struct packet {
	struct packet *next;
	int fds[WIRE_FDS_MAX]; /* owned */
	int n_fds;
	size_t n;
	char at[];
};

struct row {
	const char *name;
	enum role from, to;
	enum phase when;
	int fds;
	void (*encode)(struct buf *out, const void *body, bool *too_long);
	bool (*decode)(struct str *in, struct message *out);
};

/* ---- fields ---- */

static void
put_u32(struct buf *b, uint32_t v)
{
	const uint8_t bytes[4] = {(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16),
				  (uint8_t)(v >> 24)};
	buf_add(b, bytes, sizeof bytes);
}

static void
put_u64(struct buf *b, uint64_t v)
{
	put_u32(b, (uint32_t)v);
	put_u32(b, (uint32_t)(v >> 32));
}

static void
put_bytes(struct buf *b, struct str s, size_t max, bool text, bool *too_long)
{
	if (s.len > max || (text && s.len && memchr(s.at, '\0', s.len)))
		*too_long = true;
	put_u32(b, (uint32_t)s.len);
	buf_str(b, s);
}

static bool
get_u32(struct str *in, uint32_t *out)
{
	if (in->len < 4)
		return false;
	const uint8_t *p = (const uint8_t *)in->at;
	*out = (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
	in->at += 4;
	in->len -= 4;
	return true;
}

static bool
get_u64(struct str *in, uint64_t *out)
{
	uint32_t low, high;
	if (!get_u32(in, &low) || !get_u32(in, &high))
		return false;
	*out = (uint64_t)high << 32 | low;
	return true;
}

static bool
get_bytes(struct str *in, struct str *out, size_t max, bool text)
{
	uint32_t n;
	if (!get_u32(in, &n) || n > max || n > in->len)
		return false;
	if (text && n && memchr(in->at, '\0', n))
		return false;
	*out = (struct str){in->at, n};
	in->at += n;
	in->len -= n;
	return true;
}

/* ---- both codecs of every row ---- */

#define U32(f)	    put_u32(b, m->f);
#define U64(f)	    put_u64(b, m->f);
#define STR(f, max)   put_bytes(b, m->f, (max), true, too_long);
#define BYTES(f, max) put_bytes(b, m->f, (max), false, too_long);
#define MSG(id, name, from, to, when, fds, fields)                                                 \
	static void encode_##name(struct buf *b, const void *body, bool *too_long)                 \
	{                                                                                          \
		const struct msg_##name *m = body;                                                 \
		(void)too_long;                                                                    \
		fields                                                                             \
	}
#include "messages.def"
#undef MSG
#undef U32
#undef U64
#undef STR
#undef BYTES

#define U32(f)	    &&get_u32(in, &m->f)
#define U64(f)	    &&get_u64(in, &m->f)
#define STR(f, max)   &&get_bytes(in, &m->f, (max), true)
#define BYTES(f, max) &&get_bytes(in, &m->f, (max), false)
#define MSG(id, name, from, to, when, fds, fields)                                                 \
	static bool decode_##name(struct str *in, struct message *out)                             \
	{                                                                                          \
		struct msg_##name *m = &out->name;                                                 \
		return true fields;                                                                \
	}
#include "messages.def"
#undef MSG
#undef U32
#undef U64
#undef STR
#undef BYTES

enum { ROWS = 512 }; /* more than any number of messages.def */
static const struct row rows[ROWS] = {
#define MSG(id, name, from, to, when, fds, fields)                                                 \
	[id] = {#name, ROLE_##from, ROLE_##to, PHASE_##when, fds, encode_##name, decode_##name},
#include "messages.def"
#undef MSG
};

const char *
wire_message_name(enum msg_id id)
{
	return (unsigned)id < ROWS && rows[id].name ? rows[id].name : "unknown";
}

const char *
role_name(enum role role)
{
	static const char *const names[ROLES] = {"any",	   "manager", "conn",
						 "keeper", "init",    "worker",
						 "zygote"};
	return (unsigned)role < ROLES ? names[role] : "unknown";
}

int
wire_encode(enum msg_id id, const void *body, struct buf *out, struct err *err)
{
	bool too_long = false;
	const uint8_t head[4] = {(uint8_t)id, (uint8_t)((unsigned)id >> 8), 0, 0};

	buf_add(out, head, sizeof head);
	rows[id].encode(out, body, &too_long);
	if (too_long || buf_bad(out))
		return err_set(err, ERR_USAGE, "message %s: a field is too long", rows[id].name);
	return 0;
}

int
wire_decode(struct str packet, enum role from, enum role to, enum phase phase, int n_fds,
	    struct message *out, struct err *err)
{
	uint32_t id;

	if (!get_u32(&packet, &id) || id >= ROWS || !rows[id].name)
		return err_set(err, ERR_CORRUPT, "no such message from %s", role_name(from));
	const struct row *r = &rows[id];
	if ((r->from != ROLE_ANY && r->from != from) || (r->to != ROLE_ANY && r->to != to))
		return err_set(err, ERR_CORRUPT, "%s may not send %s to %s", role_name(from),
			       r->name, role_name(to));
	if (r->when != phase)
		return err_set(err, ERR_CORRUPT, "%s sent %s out of its phase", role_name(from),
			       r->name);
	if (n_fds != r->fds)
		return err_set(err, ERR_CORRUPT, "%s sent %s with %d descriptors, not %d",
			       role_name(from), r->name, n_fds, r->fds);
	if (!r->decode(&packet, out))
		return err_set(err, ERR_CORRUPT, "%s sent %s with a field that does not fit",
			       role_name(from), r->name);
	if (packet.len)
		return err_set(err, ERR_CORRUPT, "%s sent %s with %zu bytes too many",
			       role_name(from), r->name, packet.len);
	out->id = (enum msg_id)id;
	return 0;
}

/* ---- the link ---- */

int
wire_pair(int out[2], struct err *err)
{
	int pair[2];
	const int room = 2 * WIRE_PACKET_MAX_BYTES;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return err_sys(err, errno, "make a pair of sockets");
	for (int i = 0; i < 2; i++)
		if (setsockopt(pair[i], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof room) < 0 &&
		    setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof room) < 0) {
			const int why = errno;
			close(pair[0]);
			close(pair[1]);
			return err_sys(err, why, "size the buffer of a socket");
		}
	out[0] = pair[0];
	out[1] = pair[1];
	return 0;
}

static void
close_fds(int *fds, int *n)
{
	for (int i = 0; i < *n; i++)
		fd_close(&fds[i]);
	*n = 0;
}

static int
attach(struct wire *w, int take_fd, enum role self, enum role peer, struct err *err)
{
	*w = (struct wire){.fd = take_fd, .self = self, .peer = peer, .phase = PHASE_HELLO,
			  .version = WIRE_OLDEST};
	w->queue_tail = &w->queue;
	/* A mapping of its own: only the pages that packets have filled are held, and they go with the
	 * link. The manager forks for a moment's work, which reads no message. */
	w->in = mmap(NULL, WIRE_PACKET_MAX_BYTES, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (w->in == MAP_FAILED) {
		w->in = NULL;
		fd_close(&w->fd);
		return err_sys(err, errno, "make room for packets");
	}
	if (self == ROLE_MANAGER)
		madvise(w->in, WIRE_PACKET_MAX_BYTES, MADV_DONTFORK);
	if (fd_set_nonblock(w->fd, err) < 0) {
		wire_close(w);
		return -1;
	}
	return 0;
}

int
wire_open(struct wire *w, int take_fd, enum role self, enum role peer, enum phase after_hello,
	  struct err *err)
{
	if (attach(w, take_fd, self, peer, err) < 0)
		return -1;
	w->after_hello = after_hello;
	if (wire_send(w, hello, err, .version = WIRE_VERSION, .role = (uint32_t)self) < 0) {
		wire_close(w);
		return err_add(err, "greet the %s", role_name(peer));
	}
	return 0;
}

int
wire_reopen(struct wire *w, int take_fd, enum role self, enum role peer, enum phase phase,
	    struct err *err)
{
	if (attach(w, take_fd, self, peer, err) < 0)
		return -1;
	w->phase = phase;
	w->version = WIRE_VERSION;
	return 0;
}

static void
drop_queue(struct wire *w)
{
	while (w->queue) {
		struct packet *p = w->queue;
		w->queue = p->next;
		close_fds(p->fds, &p->n_fds);
		free(p);
	}
	w->queue_tail = &w->queue;
	w->queue_bytes = 0;
}

/* Whether what lies in the socket, and what came out of it, is of somebody who may be taken:
 * closing that can wait (SO_LINGER). */
static bool
is_guarded(const struct wire *w)
{
	return w->self == ROLE_MANAGER || (w->self == ROLE_KEEPER && w->peer != ROLE_MANAGER);
}

/* Those of the last message that nobody has taken. */
static void
drop_fds(struct wire *w)
{
	for (int i = 0; is_guarded(w) && i < w->message.n_fds; i++)
		guard_close(&w->message.fds[i]);
	close_fds(w->message.fds, &w->message.n_fds);
}

void
wire_close(struct wire *w)
{
	watch_remove(&w->watch);
	if (w->in) { /* else never opened */
		if (is_guarded(w)) /* what was not received goes with it */
			guard_begin();
		fd_close(&w->fd);
		drop_fds(w);
		if (is_guarded(w))
			guard_end();
	}
	drop_queue(w);
	if (w->in)
		munmap(w->in, WIRE_PACKET_MAX_BYTES);
	w->in = NULL;
	w->fd = -1;
}

/* One packet onto the socket: 1 sent, 0 the socket is full, -1 gone. */
static int
send_packet(int fd, const char *at, size_t n, const int *fds, int n_fds)
{
	union {
		struct cmsghdr align;
		char at[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
	} control = {0};
	char *bytes = (char *)(uintptr_t)at; /* sendmsg(2) only reads it */
	struct iovec iov = {bytes, n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	if (n_fds) {
		m.msg_control = control.at;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)n_fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)n_fds);
	}
	for (;;) {
		if (sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
			return 1;
		if (errno == EINTR)
			continue;
		return errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS ? 0 : -1;
	}
}

/* What a waiting packet costs: a flood of small ones is bounded too. */
static size_t
queued_size(size_t n)
{
	return sizeof(struct packet) + n;
}

static int
flush_queue(struct wire *w, struct err *err)
{
	while (w->queue) {
		struct packet *p = w->queue;
		const int sent = send_packet(w->fd, p->at, p->n, p->fds, p->n_fds);
		if (sent < 0)
			return err_set(err, ERR_UNAVAILABLE, "the %s is gone", role_name(w->peer));
		if (sent == 0)
			break;
		w->queue = p->next;
		if (!w->queue)
			w->queue_tail = &w->queue;
		w->queue_bytes -= queued_size(p->n);
		close_fds(p->fds, &p->n_fds);
		free(p);
	}
	watch_want(&w->watch, w->queue ? EPOLLIN | EPOLLOUT : EPOLLIN);
	return 0;
}

static int
enqueue(struct wire *w, const struct buf *b, const int *fds, int n, struct err *err)
{
	if (w->queue_bytes + queued_size(b->len) > WIRE_QUEUE_MAX_BYTES)
		return err_set(err, ERR_UNAVAILABLE, "the %s reads nothing any more",
			       role_name(w->peer));
	struct packet *p = try_new(1, sizeof *p + b->len);
	if (!p)
		return err_set(err, ERR_UNAVAILABLE, "no memory for a message");
	memcpy(p->at, b->at, b->len);
	p->n = b->len;
	for (int i = 0; i < n; i++) {
		const int copy = fd_dup(fds[i], err);
		if (copy < 0) {
			close_fds(p->fds, &p->n_fds);
			free(p);
			return -1;
		}
		p->fds[p->n_fds++] = copy;
	}
	*w->queue_tail = p;
	w->queue_tail = &p->next;
	w->queue_bytes += queued_size(p->n);
	watch_want(&w->watch, EPOLLIN | EPOLLOUT);
	return 0;
}

bool
wire_knows(const struct wire *w, enum msg_id id)
{
	static const unsigned first[WIRE_VERSION] = WIRE_FIRST_IDS;
	uint32_t since = WIRE_VERSION;

	while (since > 1 && (unsigned)id < first[since - 1])
		since--;
	return since <= w->version;
}

static int
refuse_newer(const struct wire *w, enum msg_id id, struct err *err)
{
	err_set(err, ERR_UNAVAILABLE, "the %s is of an earlier version, which has no %s",
		role_name(w->peer), rows[id].name);
	if (w->peer == ROLE_KEEPER || w->peer == ROLE_INIT)
		err_hint(err, "pause and resume its session: that starts the installed one");
	return -1;
}

int
wire_send_fds(struct wire *w, enum msg_id id, const void *body, const int *fds, int n,
	      struct err *err)
{
	auto_buf b = BUF_MAX(WIRE_PACKET_MAX_BYTES);

	if (!wire_is_open(w))
		return err_set(err, ERR_UNAVAILABLE, "the %s is gone", role_name(w->peer));
	if (!wire_knows(w, id))
		return refuse_newer(w, id, err);
	if (wire_encode(id, body, &b, err) < 0)
		return -1;
	if (w->queue && flush_queue(w, err) < 0)
		return enqueue(w, &b, fds, n, err); /* it is gone: told by wire_recv, after its last words */
	if (w->queue)
		return enqueue(w, &b, fds, n, err);
	const int sent = send_packet(w->fd, b.at, b.len, fds, n);
	if (sent < 0)
		return err_set(err, ERR_UNAVAILABLE, "the %s is gone", role_name(w->peer));
	return sent ? 0 : enqueue(w, &b, fds, n, err);
}

/* One packet with its fds: 1, 0 nothing there, -1. */
static int
receive_packet(struct wire *w, size_t *n, struct err *err)
{
	union {
		struct cmsghdr align;
		char at[CMSG_SPACE(sizeof(int) * WIRE_FDS_MAX)];
	} control;
	struct iovec iov = {w->in, WIRE_PACKET_MAX_BYTES};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.at,
			   .msg_controllen = sizeof control.at};
	ssize_t got;

	drop_fds(w);
	/* ECONNRESET says once, before what the peer sent last, that it left something unread */
	if (is_guarded(w)) /* fds that do not fit are closed by the kernel */
		guard_begin();
	do
		got = recvmsg(w->fd, &m, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
	while (got < 0 && (errno == EINTR || errno == ECONNRESET));
	if (is_guarded(w))
		guard_end();
	if (got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
		return 0;
	if (got <= 0)
		return err_set(err, ERR_UNAVAILABLE, "the %s is gone", role_name(w->peer));
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		const size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < count && w->message.n_fds < WIRE_FDS_MAX; i++)
			memcpy(&w->message.fds[w->message.n_fds++],
			       CMSG_DATA(c) + i * sizeof(int), sizeof(int));
	}
	if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))
		return err_set(err, ERR_CORRUPT, "the %s sent more than fits", role_name(w->peer));
	*n = (size_t)got;
	return 1;
}

static int
take_hello(struct wire *w, struct err *err)
{
	const struct msg_hello *h = &w->message.hello;

	if (h->version < WIRE_OLDEST)
		return err_set(err, ERR_CORRUPT, "the %s speaks version %u, this is version %d and needs %d",
			       role_name(w->peer), h->version, WIRE_VERSION, WIRE_OLDEST);
	if (h->role != (uint32_t)w->peer)
		return err_set(err, ERR_CORRUPT, "a %s answered where a %s should",
			       role_name((enum role)h->role), role_name(w->peer));
	w->version = h->version < WIRE_VERSION ? h->version : WIRE_VERSION;
	w->phase = w->after_hello;
	return 0;
}

int
wire_recv(struct wire *w, struct err *err)
{
	for (;;) {
		size_t n = 0;

		if (!wire_is_open(w))
			return err_set(err, ERR_UNAVAILABLE, "the %s is gone", role_name(w->peer));
		if (flush_queue(w, err) < 0)
			drop_queue(w); /* it reads no more, but its last words may be here */
		const int got = receive_packet(w, &n, err);
		if (got <= 0)
			return got;
		if (wire_decode((struct str){w->in, n}, w->peer, w->self, w->phase,
				w->message.n_fds, &w->message, err) < 0) {
			drop_fds(w);
			return -1;
		}
		if (w->message.id != MSG_hello)
			return 1;
		if (take_hello(w, err) < 0)
			return -1;
	}
}

int
wire_recv_wait(struct wire *w, uint64_t deadline_ns, struct err *err)
{
	for (;;) {
		const int got = wire_recv(w, err);
		if (got != 0)
			return got;
		const uint64_t now = time_now_ns();
		if (now >= deadline_ns)
			return err_set(err, ERR_TIMEOUT, "no answer from the %s",
				       role_name(w->peer));
		const uint64_t ms = (deadline_ns - now) / NS_PER_MS + 1;
		struct pollfd p = {.fd = w->fd,
				   .events = (short)(POLLIN | (w->queue ? POLLOUT : 0))};
		if (poll(&p, 1, ms > 3600000 ? 3600000 : (int)ms) < 0 && errno != EINTR)
			return err_sys(err, errno, "wait for the %s", role_name(w->peer));
	}
}

void
wire_send_rest(struct wire *w, uint64_t deadline_ns)
{
	struct err err;

	while (w->queue && flush_queue(w, &err) == 0 && w->queue) {
		const uint64_t now = time_now_ns();
		if (now >= deadline_ns)
			return;
		const uint64_t ms = (deadline_ns - now) / NS_PER_MS + 1;
		struct pollfd p = {.fd = w->fd, .events = POLLOUT};
		if (poll(&p, 1, ms > 3600000 ? 3600000 : (int)ms) < 0 && errno != EINTR)
			return;
	}
}

/* ---- on a loop ---- */

static void
on_ready(void *ctx, uint32_t events)
{
	struct wire *w = ctx;

	(void)events;
	w->on_ready(w->on_ready_ctx); /* calls wire_recv, which flushes the queue too */
}

int
wire_watch(struct wire *w, struct loop *l, void (*fn)(void *ctx), void *ctx, struct err *err)
{
	w->on_ready = fn;
	w->on_ready_ctx = ctx;
	return watch_add(l, &w->watch, w->fd, w->queue ? EPOLLIN | EPOLLOUT : EPOLLIN, on_ready, w,
			 err);
}
