/* Invariants
 *  1. a request fits its room: all are ours, and what does not fit is a mistake of ours;
 *  2. the answer to a request of rtnetlink and sock_diag lies there when sendto(2) returns, or is
 *     refused: nothing here waits for long. */
#include "netlink.h"
#include "base/fd.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/time.h>

enum {
	ANSWER_BYTES = 32 * 1024,
	HEAD_BYTES = 4 /* of an attribute: NLA_HDRLEN without its sign */
};

int
netlink_open(int protocol, struct err *err)
{
	/* A bound for a kernel that says nothing; it has never to be waited for. */
	const struct timeval most = {.tv_sec = 5};
	const int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);

	if (fd < 0)
		return err_sys(err, errno, "open a netlink socket");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &most, sizeof most);
	return fd;
}

static size_t
aligned(size_t n)
{
	return (n + 3) & ~(size_t)3; /* NLMSG_ALIGNTO and NLA_ALIGNTO, without their sign */
}

static void *
room_for(struct netlink_request *r, size_t n)
{
	const size_t at = aligned(r->head.nlmsg_len);

	assert(at + aligned(n) <= sizeof r->room);
	r->head.nlmsg_len = (uint32_t)(at + n);
	return r->room + at;
}

void
netlink_begin(struct netlink_request *r, uint16_t type, uint16_t flags, const void *body, size_t n)
{
	*r = (struct netlink_request){.room = {0}};
	r->head.nlmsg_len = NLMSG_HDRLEN;
	r->head.nlmsg_type = type;
	r->head.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	r->head.nlmsg_seq = 1;
	memcpy(room_for(r, n), body, n);
}

void
netlink_put(struct netlink_request *r, uint16_t type, const void *value, size_t n)
{
	const struct nlattr head = {.nla_len = (uint16_t)(HEAD_BYTES + n), .nla_type = type};
	char *at = room_for(r, HEAD_BYTES + n);

	memcpy(at, &head, sizeof head);
	memcpy(at + HEAD_BYTES, value, n);
}

void
netlink_text(struct netlink_request *r, uint16_t type, const char *text)
{
	netlink_put(r, type, text, strlen(text) + 1);
}

uint32_t
netlink_nest(struct netlink_request *r, uint16_t type, const void *body, size_t n)
{
	const uint32_t at = (uint32_t)aligned(r->head.nlmsg_len);
	netlink_put(r, type, body, n);
	return at;
}

void
netlink_end(struct netlink_request *r, uint32_t nest)
{
	const uint16_t n = (uint16_t)(r->head.nlmsg_len - nest);
	memcpy(r->room + nest + offsetof(struct nlattr, nla_len), &n, sizeof n);
}

const void *
netlink_find(const void *at, size_t n, uint16_t type, size_t *out_n)
{
	const char *next = at;

	while (n >= sizeof(struct nlattr)) {
		struct nlattr a;
		memcpy(&a, next, sizeof a);
		if (a.nla_len < HEAD_BYTES || a.nla_len > n)
			break;
		if ((a.nla_type & NLA_TYPE_MASK) == type) {
			*out_n = a.nla_len - (size_t)HEAD_BYTES;
			return next + HEAD_BYTES;
		}
		const size_t step = aligned(a.nla_len);
		n -= step < n ? step : n;
		next += step;
	}
	return NULL;
}

const void *
netlink_attribute(const struct nlmsghdr *m, size_t body_bytes, uint16_t type, size_t *out_n)
{
	const size_t before = NLMSG_HDRLEN + aligned(body_bytes);

	if (m->nlmsg_len < before)
		return NULL;
	return netlink_find((const char *)m + before, m->nlmsg_len - before, type, out_n);
}

/* 1 go on, 0 the end, -1 */
static int
take_message(const struct nlmsghdr *m, netlink_fn fn, void *ctx, int *result, int *number,
	     struct err *err)
{
	if (m->nlmsg_type == NLMSG_DONE)
		return 0;
	if (m->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *e = netlink_body(m);
		if (m->nlmsg_len < NLMSG_LENGTH(sizeof *e))
			return err_set(err, ERR_INTERNAL, "a short answer of netlink");
		if (e->error == 0)
			return 0;
		*number = -e->error;
		return err_sys(err, -e->error, "ask the kernel's network");
	}
	if (*result == 0 && fn)
		*result = fn(ctx, m);
	return m->nlmsg_flags & NLM_F_MULTI ? 1 : 0;
}

int
netlink_ask(int fd, struct netlink_request *r, netlink_fn fn, void *ctx, int *number,
	    struct err *err)
{
	static union {
		struct nlmsghdr head;
		char room[ANSWER_BYTES];
	} answer;
	const struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	int result = 0, more = 1;

	*number = 0;
	if (sendto(fd, r->room, r->head.nlmsg_len, 0, (const struct sockaddr *)&kernel,
		   sizeof kernel) < 0)
		return err_sys(err, errno, "ask the kernel's network");
	while (more > 0) {
		const ssize_t got = recv(fd, answer.room, sizeof answer.room, 0);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_sys(err, errno, "wait for the kernel's network");
		unsigned left = (unsigned)got;
		for (struct nlmsghdr *m = &answer.head; more > 0 && NLMSG_OK(m, left);
		     m = NLMSG_NEXT(m, left))
			more = take_message(m, fn, ctx, &result, number, err);
		if (got == 0)
			more = 0;
	}
	return more < 0 ? -1 : result;
}

int
netlink_do(int fd, struct netlink_request *r, struct err *err)
{
	int number;

	r->head.nlmsg_flags |= NLM_F_ACK;
	return netlink_ask(fd, r, NULL, NULL, &number, err);
}
