#include "listeners.h"
#include "base/fd.h"
#include "base/log.h"
#include "base/num.h"
#include "manager/conns.h"
#include "manager/manager.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>

/* ---- the option ---- */

static int
parse_address(struct str text, struct listener *l, struct err *err)
{
	char host[INET6_ADDRSTRLEN + 2];
	size_t colon = text.len;
	uint64_t port;

	while (colon > 0 && text.at[colon - 1] != ':')
		colon--;
	if (colon == 0 || colon > sizeof host)
		return err_set(err, ERR_CONFIG, "not of the form ADDR:PORT");
	if (num_parse((struct str){text.at + colon, text.len - colon}, 0, 65535, &port, err) < 0)
		return -1;
	snprintf(host, sizeof host, "%.*s", (int)(colon - 1), text.at);
	const size_t n = strlen(host);
	struct sockaddr_in *v4 = (void *)&l->address;
	struct sockaddr_in6 *v6 = (void *)&l->address;
	if (n > 2 && host[0] == '[' && host[n - 1] == ']') {
		host[n - 1] = '\0';
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		l->address_bytes = sizeof *v6;
		return inet_pton(AF_INET6, host + 1, &v6->sin6_addr) == 1
			   ? 0
			   : err_set(err, ERR_CONFIG, "not an IPv6 address: %s", host + 1);
	}
	v4->sin_family = AF_INET;
	v4->sin_port = htons((uint16_t)port);
	l->address_bytes = sizeof *v4;
	return inet_pton(AF_INET, host, &v4->sin_addr) == 1
		   ? 0
		   : err_set(err, ERR_CONFIG, "not an address: %s", host);
}

static bool
is_loopback(const struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(
		    &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr);
	const struct sockaddr_in *v4 = (const void *)a;
	return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
}

static int
parse_one(struct str text, const struct config *c, struct listener *l, struct err *err)
{
	static const char key[] = "roles=";
	struct str address, rest = str_trim(text);

	*l = (struct listener){.fd = -1};
	if (!str_cut(&rest, ' ', &address) || parse_address(address, l, err) < 0)
		return -1;
	l->roles = 1u << PRINCIPAL_DEVELOPER | 1u << PRINCIPAL_ORCHESTRATOR;
	if (is_loopback(&l->address) || c->operator_anywhere)
		l->roles |= 1u << PRINCIPAL_OPERATOR;
	if (!rest.at)
		return 0;
	rest = str_trim(rest);
	if (!str_starts(rest, key))
		return err_set(err, ERR_CONFIG, "behind the address: not roles=ROLE+ROLE");
	rest.at += sizeof key - 1;
	rest.len -= sizeof key - 1;
	return principal_roles_parse(rest, '+', &l->roles, err);
}

int
listeners_parse(struct listeners *ls, const struct config *c, struct err *err)
{
	struct str rest = str_of(c->listen), one;

	while (str_cut(&rest, ',', &one)) {
		if (ls->n == LISTENERS_MAX)
			err_set(err, ERR_CONFIG, "more than %d addresses", LISTENERS_MAX);
		if (ls->n == LISTENERS_MAX || parse_one(one, c, &ls->at[ls->n], err) < 0) {
			err->code = ERR_CONFIG;
			return err_add(err, "listen on %.*s", (int)one.len, one.at);
		}
		ls->n++;
	}
	return 0;
}

/* ---- sockets ---- */

/* Port 0 became one. */
static int
name_listener(struct listener *l, struct err *err)
{
	struct sockaddr_storage a = {0};
	socklen_t n = sizeof a;
	char host[INET6_ADDRSTRLEN];

	if (getsockname(l->fd, (struct sockaddr *)&a, &n) < 0)
		return err_sys(err, errno, "read the address of a socket");
	if (a.ss_family == AF_INET6) {
		const struct sockaddr_in6 *v6 = (const void *)&a;
		inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof host);
		snprintf(l->text, sizeof l->text, "[%s]:%u", host, ntohs(v6->sin6_port));
	} else {
		const struct sockaddr_in *v4 = (const void *)&a;
		inet_ntop(AF_INET, &v4->sin_addr, host, sizeof host);
		snprintf(l->text, sizeof l->text, "%s:%u", host, ntohs(v4->sin_port));
	}
	return 0;
}

static int
open_one(struct listener *l, const char *all, struct err *err)
{
	const int one = 1;

	l->fd = socket(l->address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (l->fd < 0)
		return err_sys(err, errno, "make a socket");
	setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (l->address.ss_family == AF_INET6) /* [::] and 0.0.0.0 are two listeners */
		setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof one);
	if (bind(l->fd, (struct sockaddr *)&l->address, l->address_bytes) < 0 ||
	    listen(l->fd, 1024) < 0) {
		err_sys(err, errno, "listen on %s", all);
		return err_hint(err, "another server has it; choose another with --listen");
	}
	return name_listener(l, err);
}

int
listeners_open(struct manager *m, struct err *err)
{
	for (size_t i = 0; i < m->listeners.n; i++) {
		m->listeners.at[i].m = m;
		if (open_one(&m->listeners.at[i], m->config.listen, err) < 0)
			return -1;
	}
	return 0;
}

static void
on_listen(void *ctx, uint32_t events)
{
	(void)events;
	conns_accept(ctx);
}

int
listeners_watch(struct manager *m, struct err *err)
{
	for (size_t i = 0; i < m->listeners.n; i++) {
		struct listener *l = &m->listeners.at[i];
		if (watch_add(&m->loop, &l->watch, l->fd, EPOLLIN, on_listen, l, err) < 0)
			return -1;
	}
	return 0;
}

void
listeners_close(struct listeners *ls)
{
	for (size_t i = 0; i < ls->n; i++) {
		watch_remove(&ls->at[i].watch);
		fd_close(&ls->at[i].fd);
	}
}

void
listeners_announce(const struct manager *m)
{
	const struct listeners *ls = &m->listeners;

	printf("berthd: listening on ");
	for (size_t i = 0; i < ls->n; i++)
		printf("%s%s", i ? ", " : "", ls->at[i].text);
	printf("\n");
	fflush(stdout);
	const char *host = ls->at[0].text, *colon = strrchr(host, ':');
	const int brackets = host[0] == '['; /* ssh wants none */
	log_line("to begin: ssh -p %s -i %s/keys/operator demo@%.*s", colon + 1, m->config.state,
		 (int)(colon - host) - 2 * brackets, host + brackets);
}
