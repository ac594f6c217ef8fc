/* The network of one session: who may choose which, and how it is shown. */
#include "manager/session.h"

#include <arpa/inet.h>

int
session_network_choose(const struct manager *m, const struct conn *c, const struct request *r,
		       char out[NETWORK_TEXT_BYTES], struct err *err)
{
	struct str text = str_of(m->config.network);
	struct network found;

	request_text(r, "network", &text);
	if (networks_find(&m->networks, text, &found, err) < 0)
		return -1;
	if (found.kind == NETWORK_HOST && c->role != PRINCIPAL_OPERATOR) {
		err_set(err, ERR_DENIED, "the node's own network is given by operators alone");
		return err_hint(err, "none, or join:NAME");
	}
	return str_copy(text, out, NETWORK_TEXT_BYTES, err);
}

int
session_network_find(const struct session *s, struct network *out, struct err *err)
{
	const enum rung rung = s->m->node.isolation.rung;

	if (networks_find(&s->m->networks, str_of(s->row.network), out, err) < 0)
		return -1;
	if (rung == RUNG_ROOT || (out->kind != NETWORK_NETNS && out->kind != NETWORK_BRIDGE))
		return 0;
	err_set(err, ERR_UNAVAILABLE, "on isolation rung %s no session can join %s", rung_name(rung),
		out->name);
	return err_hint(err, "run the server as root: berthd --check");
}

/* Its address, where we gave it one; else empty. */
static void
address_format(const struct session *s, char out[INET_ADDRSTRLEN])
{
	struct network n;
	struct err ignored;
	uint32_t address;

	out[0] = '\0';
	if (session_network_find(s, &n, &ignored) < 0 || n.kind != NETWORK_BRIDGE ||
	    network_address(&n, s->row.slot, &address, &ignored) < 0)
		return;
	const struct in_addr net = {.s_addr = htonl(address)};
	inet_ntop(AF_INET, &net, out, INET_ADDRSTRLEN);
}

void
session_network_json(const struct session *s, struct buf *out)
{
	char address[INET_ADDRSTRLEN];

	address_format(s, address);
	buf_text(out, ",\"network\":");
	json_put(out, str_of(s->row.network));
	if (address[0])
		buf_fmt(out, ",\"address\":\"%s\"", address);
}

void
session_network_text(const struct session *s, struct buf *out)
{
	char address[INET_ADDRSTRLEN];

	address_format(s, address);
	buf_fmt(out, "%-12s%s%s%s\n", "network", s->row.network, address[0] ? ", address " : "",
		address);
}
