#include "algorithms.h"

enum { NAMES_MAX = 12 };

struct choice {
	const char *option;
	const char *const *standard, *const *more; /* NULL-ended; more: known, not by default */
};

/* NIST's curves are what ssh-audit faults; nearly every client of today has the first, and the last is what
 * RFC 9142 lets nobody leave out (net-ssh of Debian 12 has no other of these). 8192 bits cost a server that
 * nobody has logged in to much more than they give. */
static const char *const kex[] = {"curve25519-sha256", "curve25519-sha256@libssh.org",
				  "diffie-hellman-group16-sha512", "diffie-hellman-group14-sha256",
				  NULL};
static const char *const kex_more[] = {"ecdh-sha2-nistp256",
				       "ecdh-sha2-nistp384",
				       "ecdh-sha2-nistp521",
				       "diffie-hellman-group18-sha512",
				       NULL};
static const char *const ciphers[] = {"chacha20-poly1305@openssh.com",
				      "aes256-gcm@openssh.com",
				      "aes128-gcm@openssh.com",
				      "aes256-ctr",
				      "aes192-ctr",
				      "aes128-ctr",
				      NULL};
/* The last one is for libssh2 before 1.11, which knows no better (curl and git of Debian 12). */
static const char *const macs[] = {"hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com",
				   "hmac-sha2-256", NULL};
static const char *const macs_more[] = {"hmac-sha2-512", NULL};
static const char *const none[] = {NULL};

static const char *
find(const struct choice *c, struct str name)
{
	for (size_t i = 0; c->standard[i]; i++)
		if (str_is(name, c->standard[i]))
			return c->standard[i];
	for (size_t i = 0; c->more[i]; i++)
		if (str_is(name, c->more[i]))
			return c->more[i];
	return NULL;
}

struct names {
	const char *at[NAMES_MAX];
	size_t n;
};

static void
add(struct names *names, const char *name)
{
	for (size_t i = 0; i < names->n; i++)
		if (names->at[i] == name)
			return;
	if (names->n < NAMES_MAX) /* no more are known */
		names->at[names->n++] = name;
}

static int
parse_names(const struct choice *c, struct str list, struct names *out, struct err *err)
{
	struct str name;

	while (str_cut(&list, ',', &name)) {
		const char *known = find(c, str_trim(name));
		if (!known)
			return err_set(err, ERR_CONFIG, "not known: %.*s", (int)name.len, name.at);
		add(out, known);
	}
	return 0;
}

static bool
is_removed(struct str globs, const char *name)
{
	struct str glob;

	while (str_cut(&globs, ',', &glob))
		if (str_glob(str_trim(glob), str_of(name)))
			return true;
	return false;
}

static int
choose(const struct choice *c, const char *value, struct names *out, struct err *err)
{
	struct str list = str_trim(str_of(value));
	const char how = list.len ? list.at[0] : '\0';
	const bool is_default = str_is(list, "default");

	if (how == '+' || how == '-' || how == '^') {
		list.at++;
		list.len--;
	}
	if (!is_default && how != '+' && how != '-' && parse_names(c, list, out, err) < 0)
		return -1;
	if (is_default || how == '+' || how == '^' || how == '-')
		for (size_t i = 0; c->standard[i]; i++)
			if (how != '-' || !is_removed(list, c->standard[i]))
				add(out, c->standard[i]);
	if (how == '+' && parse_names(c, list, out, err) < 0)
		return -1;
	return out->n ? 0 : err_set(err, ERR_CONFIG, "nothing is left");
}

static int
parse(const struct choice *c, const char *value, char out[ALGORITHMS_BYTES], struct err *err)
{
	auto_buf text = BUF_MAX(ALGORITHMS_BYTES);
	struct names names = {.n = 0};

	if (choose(c, value, &names, err) < 0)
		return err_add(err, "%s", c->option);
	for (size_t i = 0; i < names.n; i++)
		buf_fmt(&text, "%s%s", i ? "," : "", names.at[i]);
	return str_copy(buf_view(&text), out, ALGORITHMS_BYTES, err);
}

int
algorithms_parse(const struct config *c, struct algorithms *out, struct err *err)
{
	static const struct choice k = {"kex", kex, kex_more}, p = {"ciphers", ciphers, none},
				   m = {"macs", macs, macs_more};

	if (parse(&k, c->kex, out->kex, err) < 0 || parse(&p, c->ciphers, out->ciphers, err) < 0)
		return -1;
	return parse(&m, c->macs, out->macs, err);
}
