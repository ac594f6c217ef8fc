/* Where a login comes from, and lists of addresses that it is held against: from= of
 * authorized_keys, source-address of certificates, login_exempt of the configuration. No resolver
 * is ever asked. */
#ifndef BERTH_SOURCES_H
#define BERTH_SOURCES_H

#include "base/buf.h"
#include "base/err.h"

#include <netinet/in.h>

/* One address; IPv4 has 4 bytes, also where it came as ::ffff:a.b.c.d. */
struct source {
	size_t bytes; /* 4, 16; 0: unknown, which no list has */
	uint8_t at[16];
	char text[INET6_ADDRSTRLEN];
};

struct source source_of(const struct sockaddr_storage *a);
/* A numeric address; bytes is 0 where it is none. */
struct source source_parse(struct str text);
/* The part of it that one party has for itself: an IPv4 address, /64 of IPv6. */
struct source source_party(const struct source *s);

/* A pattern list as ssh_config(5) has it, with commas: ADDR, ADDR/BITS, * and ? in an address, !
 * before one that must not match. CONFIG for what could match no address, such as a host name. */
int sources_check_patterns(struct str list, struct err *err) must_check;
/* Some pattern matches and no negated one does. */
bool sources_match_patterns(struct str list, const struct source *s);
/* ADDR and ADDR/BITS alone. */
int sources_check(struct str list, struct err *err) must_check;
bool sources_match(struct str list, const struct source *s);

#endif
