/* What network a session has: `none`, `host`, or `join:NAME`, a network namespace or a bridge that
 * an operator has prepared and named in the option `networks`:
 *
 *   networks = lab=netns:lab, corp=bridge:br0/10.90.0.16/24/10.90.0.1
 *
 *   netns:NETNS                          as ip-netns(8) names it, or an absolute path
 *   bridge:BRIDGE/FIRST/BITS[/GATEWAY]   the session of uid range N (slot) gets FIRST + N */
#ifndef BERTH_NETWORKS_H
#define BERTH_NETWORKS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { NETWORKS_MAX = 16, NETWORK_NAME_BYTES = 33, NETWORK_TEXT_BYTES = 40 };

enum network_kind { NETWORK_NONE, NETWORK_HOST, NETWORK_NETNS, NETWORK_BRIDGE };

struct network {
	char name[NETWORK_NAME_BYTES]; /* empty but for join */
	enum network_kind kind;
	char place[256];               /* path of the namespace; name of the bridge */
	uint32_t first, last, gateway; /* of a bridge, host byte order; gateway 0: none */
	unsigned bits;
};

struct networks {
	struct network at[NETWORKS_MAX];
	size_t n;
};

/* The options `networks` and `network`. CONFIG when they do not fit. */
int networks_parse(const char *text, const char *standard, struct networks *out,
		   struct err *err) must_check;
/* What a session's text stands for now.
 *   fails   USAGE: not of the form none, host, join:NAME; ABSENT: no such name in `networks` */
int networks_find(const struct networks *n, struct str text, struct network *out,
		  struct err *err) must_check;
/* The address of the session of a slot on a bridge; ABSENT when the subnet has none left. */
int network_address(const struct network *n, unsigned slot, uint32_t *out,
		    struct err *err) must_check;

#endif
