/* Invariants
 *  1. a name comes from the operator's config alone: what a client says is compared with it, and
 * never becomes a path or the name of an interface;
 *  2. two slots never get one address of a bridge, and no slot gets the gateway's, the subnet's own
 * or its broadcast address. */
#include "networks.h"
#include "base/num.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <stdio.h>

/* ---- the config ---- */

static bool
is_name(struct str s, size_t most)
{
	if (s.len == 0 || s.len > most || s.at[0] == '.' || s.at[0] == '-')
		return false;
	for (size_t i = 0; i < s.len; i++)
		if (!((s.at[i] >= 'a' && s.at[i] <= 'z') || (s.at[i] >= 'A' && s.at[i] <= 'Z') ||
		      (s.at[i] >= '0' && s.at[i] <= '9') || strchr("._-", s.at[i])))
			return false;
	return true;
}

static int
parse_ipv4(struct str s, uint32_t *out)
{
	char text[INET_ADDRSTRLEN];
	struct in_addr a;
	struct err ignored;

	if (str_copy(s, text, sizeof text, &ignored) < 0 || inet_pton(AF_INET, text, &a) != 1)
		return -1;
	*out = ntohl(a.s_addr);
	return 0;
}

/* BRIDGE/FIRST/BITS[/GATEWAY] */
static int
parse_bridge(struct str rest, struct network *out, struct err *err)
{
	struct str bridge, first, bits, gateway = {NULL, 0};
	uint64_t n;

	if (!str_cut(&rest, '/', &bridge) || !str_cut(&rest, '/', &first) ||
	    !str_cut(&rest, '/', &bits) || !is_name(bridge, IFNAMSIZ - 1))
		return err_set(err, ERR_CONFIG,
			       "not of the form bridge:BRIDGE/FIRST/BITS[/GATEWAY]");
	if (parse_ipv4(first, &out->first) < 0 || num_parse(bits, 8, 30, &n, err) < 0)
		return err_set(err, ERR_CONFIG, "not an IPv4 address and 8 to 30 bits: %.*s/%.*s",
			       (int)first.len, first.at, (int)bits.len, bits.at);
	if (str_cut(&rest, '/', &gateway) && parse_ipv4(gateway, &out->gateway) < 0)
		return err_set(err, ERR_CONFIG, "not an IPv4 address: %.*s", (int)gateway.len,
			       gateway.at);
	const uint32_t mask = ~0u << (32 - n);
	out->bits = (unsigned)n;
	out->last = (out->first | ~mask) - 1;
	if (out->first ==
	    (out->first & mask)) /* of the subnet itself: behind the bridge's own, mostly */
		out->first += 2;
	if (out->first > out->last ||
	    (out->gateway && (out->gateway & mask) != (out->first & mask)))
		return err_set(err, ERR_CONFIG,
			       "the gateway or the first address is outside of the subnet");
	return str_copy(bridge, out->place, sizeof out->place, err);
}

static int
parse_netns(struct str place, struct network *out, struct err *err)
{
	const bool path = place.len && place.at[0] == '/';

	if ((!path && !is_name(place, 200)) || place.len >= sizeof out->place - 16)
		return err_set(err, ERR_CONFIG, "not a name of ip-netns or an absolute path: %.*s",
			       (int)place.len, place.at);
	snprintf(out->place, sizeof out->place, path ? "%.*s" : "/run/netns/%.*s", (int)place.len,
		 place.at);
	return 0;
}

static int
parse_one(struct str text, struct network *out, struct err *err)
{
	struct str name, kind;

	*out = (struct network){.kind = NETWORK_NONE};
	if (!str_cut(&text, '=', &name) || !is_name(str_trim(name), NETWORK_NAME_BYTES - 1) ||
	    !str_cut(&text, ':', &kind))
		return err_set(err, ERR_CONFIG,
			       "not of the form NAME=netns:NETNS or NAME=bridge:...");
	if (str_copy(str_trim(name), out->name, sizeof out->name, err) < 0)
		return -1;
	if (str_is(str_trim(kind), "netns")) {
		out->kind = NETWORK_NETNS;
		return parse_netns(str_trim(text), out, err);
	}
	if (str_is(str_trim(kind), "bridge")) {
		out->kind = NETWORK_BRIDGE;
		return parse_bridge(str_trim(text), out, err);
	}
	return err_set(err, ERR_CONFIG, "neither netns nor bridge: %.*s", (int)kind.len, kind.at);
}

static const struct network *
by_name(const struct networks *n, struct str name)
{
	for (size_t i = 0; i < n->n; i++)
		if (str_is(name, n->at[i].name))
			return &n->at[i];
	return NULL;
}

static int
check_standard(const struct networks *n, const char *standard, struct err *err)
{
	struct network found;

	if (networks_find(n, str_of(standard), &found, err) < 0 || found.kind == NETWORK_HOST) {
		err_set(err, ERR_CONFIG,
			"network: neither none nor join:NAME with a NAME of networks: %s",
			standard);
		return err_hint(err, "host is chosen for one session: new NAME --network host");
	}
	return 0;
}

int
networks_parse(const char *text, const char *standard, struct networks *out, struct err *err)
{
	struct str rest = str_of(text), one;

	*out = (struct networks){.n = 0};
	while (str_trim(rest).len && str_cut(&rest, ',', &one)) {
		struct network made;
		if (out->n == NETWORKS_MAX)
			return err_set(err, ERR_CONFIG, "networks: more than %d", NETWORKS_MAX);
		if (parse_one(str_trim(one), &made, err) < 0) {
			err->code = ERR_CONFIG;
			return err_add(err, "networks");
		}
		if (by_name(out, str_of(made.name)))
			return err_set(err, ERR_CONFIG, "networks: %s stands there twice",
				       made.name);
		out->at[out->n++] = made;
	}
	return check_standard(out, standard, err);
}

/* ---- a session's ---- */

int
networks_find(const struct networks *n, struct str text, struct network *out, struct err *err)
{
	struct str name = text;

	*out = (struct network){.kind = NETWORK_NONE};
	if (str_is(text, "none"))
		return 0;
	if (str_is(text, "host")) {
		out->kind = NETWORK_HOST;
		return 0;
	}
	if (!str_starts(text, "join:") || text.len == 5) {
		err_set(err, ERR_USAGE, "no such network: %.*s",
			(int)(text.len > 40 ? 40 : text.len), text.at);
		return err_hint(err, "none, host (operators), or join:NAME");
	}
	name.at += 5;
	name.len -= 5;
	const struct network *found = by_name(n, name);
	if (!found) {
		err_set(err, ERR_ABSENT, "no network %.*s is there to join",
			(int)(name.len > 40 ? 40 : name.len), name.at);
		return err_hint(err, "an operator lists them in berthd.conf: networks = NAME=...");
	}
	*out = *found;
	return 0;
}

int
network_address(const struct network *n, unsigned slot, uint32_t *out, struct err *err)
{
	const uint64_t at = (uint64_t)n->first + slot;
	const uint64_t address = n->gateway >= n->first && at >= n->gateway ? at + 1 : at;

	if (n->kind != NETWORK_BRIDGE || address > n->last)
		return err_set(err, ERR_UNAVAILABLE, "network %s has no address left for slot %u",
			       n->name, slot);
	*out = (uint32_t)address;
	return 0;
}
