#include "allowances.h"

#include "base/num.h"

#include <stdlib.h>

void
allowances_done(struct allowances *a)
{
	free(a->open);
	free(a->listen);
	*a = (struct allowances){0};
}

void
allowances_take(struct allowances *out, unsigned flags, struct str open, struct str listen)
{
	const struct allowances made = {
	    .flags = flags & ALLOW_ALL,
	    .open = open.len ? xstrndup(open) : NULL,
	    .listen = listen.len ? xstrndup(listen) : NULL,
	};

	allowances_done(out);
	*out = made;
}

void
allowances_copy(const struct allowances *from, struct allowances *out)
{
	allowances_take(out, from->flags, permits_text(from->open), permits_text(from->listen));
}

/* HOST and PORT of a permit; a host in brackets without them. */
static bool
split(struct str permit, struct str *host, struct str *port)
{
	size_t colon = permit.len;

	while (colon > 0 && permit.at[colon - 1] != ':')
		colon--;
	if (colon == 0)
		return false;
	*host = (struct str){permit.at, colon - 1};
	*port = (struct str){permit.at + colon, permit.len - colon};
	if (host->len >= 2 && host->at[0] == '[' && host->at[host->len - 1] == ']')
		*host = (struct str){host->at + 1, host->len - 2};
	else if (host->len && memchr(host->at, ':', host->len))
		return false; /* IPv6 without brackets: which colon is meant? */
	return true;
}

static bool
port_is(struct str permitted, uint32_t port)
{
	uint64_t n;
	struct err ignored;

	if (str_is(permitted, "*"))
		return true;
	return num_parse(permitted, 1, 65535, &n, &ignored) == 0 && n == port;
}

static bool
is_permitted(const char *list, bool globs, struct str host, uint32_t port)
{
	struct str rest = str_of(list), permit, its_host, its_port;

	if (!list)
		return true;
	while (str_cut(&rest, ',', &permit)) {
		if (!split(permit, &its_host, &its_port) || !port_is(its_port, port))
			continue;
		if (globs ? str_glob(its_host, host)
			  : str_is(its_host, "*") || str_equal(its_host, host))
			return true;
	}
	return false;
}

bool
allowances_may_open(const struct allowances *a, struct str host, uint32_t port)
{
	return a->flags & ALLOW_PORT_FORWARDING && is_permitted(a->open, false, host, port);
}

bool
allowances_may_listen(const struct allowances *a, struct str host, uint32_t port)
{
	return a->flags & ALLOW_PORT_FORWARDING && is_permitted(a->listen, true, host, port);
}

static int
add(char **list, struct str permit, const char *front, struct err *err)
{
	auto_buf all = BUF_MAX(PERMITS_MAX_BYTES);
	auto_buf one = BUF_MAX(PERMITS_MAX_BYTES);
	struct str host, port;
	uint64_t n;

	buf_text(&one, front);
	buf_str(&one, permit);
	if (buf_bad(&one) || memchr(permit.at, ',', permit.len) ||
	    !split(buf_view(&one), &host, &port) || host.len == 0)
		return err_set(err, ERR_CONFIG, "not of the form HOST:PORT: %.*s",
			       (int)(permit.len > 80 ? 80 : permit.len), permit.at);
	if (!str_is(port, "*") && num_parse(port, 1, 65535, &n, err) < 0) {
		err->code = ERR_CONFIG;
		return err_add(err, "port");
	}
	if (*list)
		buf_fmt(&all, "%s,", *list);
	buf_str(&all, buf_view(&one));
	if (buf_bad(&all))
		return err_set(err, ERR_CONFIG, "more than %d bytes of permits", PERMITS_MAX_BYTES);
	free(*list);
	*list = xstrndup(buf_view(&all));
	return 0;
}

int
permits_add_open(char **list, struct str permit, struct err *err)
{
	return add(list, permit, "", err);
}

int
permits_add_listen(char **list, struct str permit, struct err *err)
{
	const bool has_host = permit.len && memchr(permit.at, ':', permit.len);

	return add(list, permit, has_host ? "" : "*:", err);
}
