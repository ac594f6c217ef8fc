/* A few requests to the kernel's routing netlink, each sent and answered at once. */
#ifndef BERTH_NETLINK_H
#define BERTH_NETLINK_H

#include "base/err.h"

#include <linux/netlink.h>
#include <stdint.h>
#include <sys/socket.h>

struct netlink_request {
	union {
		struct nlmsghdr head;
		char room[1024];
	};
};

/* A socket of the network namespace that the caller is in. */
int netlink_open(int protocol, struct err *err) must_check;

/* Builds a request: head and body, then attributes. A nest is an attribute that holds others. */
void netlink_begin(struct netlink_request *r, uint16_t type, uint16_t flags, const void *body,
		   size_t n);
void netlink_put(struct netlink_request *r, uint16_t type, const void *value, size_t n);
void netlink_text(struct netlink_request *r, uint16_t type, const char *text);
uint32_t netlink_nest(struct netlink_request *r, uint16_t type, const void *body, size_t n);
void netlink_end(struct netlink_request *r, uint32_t nest);

/* Sends it and waits for the kernel's word, which comes within the call. */
int netlink_do(int fd, struct netlink_request *r, struct err *err) must_check;

static inline const void *
netlink_body(const struct nlmsghdr *m)
{
	return (const char *)m + NLMSG_HDRLEN;
}

/* The value of an attribute of a message with a body of body_bytes, or of a nest that is n bytes at
 * `at`; NULL: it has none of this type. */
const void *netlink_attribute(const struct nlmsghdr *m, size_t body_bytes, uint16_t type,
			      size_t *out_n);
const void *netlink_find(const void *at, size_t n, uint16_t type, size_t *out_n);

/* Asks, and calls fn with each message of the answer until it returns other than 0, which is the
 * result; 0 at its end.
 *   fails   with the kernel's errno in *number, when there was one */
typedef int (*netlink_fn)(void *ctx, const struct nlmsghdr *m);
int netlink_ask(int fd, struct netlink_request *r, netlink_fn fn, void *ctx, int *number,
		struct err *err) must_check;

#endif
