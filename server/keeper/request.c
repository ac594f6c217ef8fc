/* What is asked for with a key (BERTH_CALL), and who was asked for the same already. */
#include "keeper.h"

#include "base/digest.h"

#include <stdlib.h>

bool
request_is_variable(struct str s)
{
	return s.len && s.at[0] != '=' && memchr(s.at, '=', s.len) && !options_is_ours(s);
}

/* Another connection, with an address and an agent's socket of its own, asks for the same. */
static bool
is_of_link(struct str variable)
{
	return str_starts(variable, "SSH_CONNECTION=") || str_starts(variable, "SSH_CLIENT=") ||
	       str_starts(variable, "SSH_AUTH_SOCK=");
}

static int
by_text(const void *a, const void *b)
{
	const struct str *x = a, *y = b;
	const size_t n = x->len < y->len ? x->len : y->len;
	const int order = n ? memcmp(x->at, y->at, n) : 0;

	return order ? order : (x->len > y->len) - (x->len < y->len);
}

struct digest
request_sum(const struct grant *g, const struct msg_call_start *m, const struct call_options *o)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	const char what[3] = {(char)m->kind, m->pty != 0, '\0'};
	struct str vars[CALL_ENV_MAX], rest = m->env, one;
	char shell[SHELL_KEY_BYTES]; /* a developer's is his own: nobody else's key reaches it */
	size_t n = 0;

	shell_key(o, g, shell);
	while (rest.len && n < CALL_ENV_MAX && str_cut(&rest, '\0', &one))
		if (request_is_variable(one) && !is_of_link(one))
			vars[n++] = one;
	qsort(vars, n, sizeof *vars, by_text);
	hasher_add(h, what, sizeof what);
	hasher_add(h, m->command.at, m->command.len);
	hasher_add(h, "", 1); /* no text of these has a NUL */
	hasher_add(h, o->cwd, strlen(o->cwd) + 1);
	hasher_add(h, shell, strlen(shell) + 1);
	for (size_t i = 0; i < n; i++) {
		hasher_add(h, vars[i].at, vars[i].len);
		hasher_add(h, "", 1);
	}
	return hasher_sum(h);
}

/* One whose key is not on the disk yet. */
static struct call *
find_waiting(struct keeper *k, const char *key)
{
	for (struct call *c = k->calls; c; c = c->next)
		if (c->state == CALL_QUEUED && strcmp(c->options.key, key) == 0)
			return c;
	return NULL;
}

int
request_join(struct grant *g, const struct msg_call_start *m, const struct call_options *o,
	     const struct digest *request, struct err *err)
{
	struct keeper *k = g->keeper;
	struct call *c = o->key[0] ? find_waiting(k, o->key) : NULL;
	const struct once_key *has = o->key[0] && !c ? once_find(&k->once, str_of(o->key)) : NULL;
	const char *id = c ? c->id : has ? has->call : NULL;

	if (!id)
		return 0;
	if (!digest_equal(c ? &c->request : &has->request, request)) {
		err_set(err, ERR_USAGE,
			"BERTH_CALL: call %s has this key, with another command, "
			"environment, directory or terminal",
			id);
		return err_hint(err, "take a new key, or look: ssh berth@HOST call show %s", id);
	}
	if (!c)
		c = call_find_id(k, str_of(id));
	const int said = c ? join_live(c, g, m->channel, err) : join_ended(g, m->channel, id, err);
	return said < 0 ? -1 : 1;
}
