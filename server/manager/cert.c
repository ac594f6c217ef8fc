#include "cert.h"
#include "manager/pubkey.h"

enum { CERT_FOR_USERS = 1, CERT_PRINCIPALS_MAX = 256 /* as OpenSSH */ };

void
cert_done(struct cert *c)
{
	buf_free(&c->key);
}

bool
cert_is(struct str blob)
{
	struct str name;

	return pubkey_take_string(&blob, &name) && pubkey_find_certificate(name) != NULL;
}

int
cert_split(struct str blob, struct cert *out, struct err *err)
{
	struct str rest = blob, name, nonce, fields, reserved;

	*out = (struct cert){.key = BUF_MAX(PUBKEY_BLOB_MAX_BYTES)};
	if (!pubkey_take_string(&rest, &name))
		return err_set(err, ERR_CORRUPT, "a certificate that is not whole");
	const struct pubkey_kind *kind = pubkey_find_certificate(name);
	if (!kind)
		return err_set(err, ERR_DENIED, "a certificate of a kind that is not taken");
	if (!pubkey_take_string(&rest, &nonce))
		return err_set(err, ERR_CORRUPT, "a certificate that is not whole");
	if (pubkey_take_fields(kind, &rest, &fields, err) < 0)
		return -1;
	if (!pubkey_take_u64(&rest, &out->serial) || !pubkey_take_u32(&rest, &out->type) ||
	    !pubkey_take_string(&rest, &out->id) || !pubkey_take_string(&rest, &out->principals) ||
	    !pubkey_take_u64(&rest, &out->after_s) || !pubkey_take_u64(&rest, &out->before_s) ||
	    !pubkey_take_string(&rest, &out->critical) ||
	    !pubkey_take_string(&rest, &out->extensions) || !pubkey_take_string(&rest, &reserved) ||
	    !pubkey_take_string(&rest, &out->authority))
		return err_set(err, ERR_CORRUPT, "a certificate that is not whole");
	out->bytes = (struct str){blob.at, blob.len - rest.len};
	if (!pubkey_take_string(&rest, &out->signature) || rest.len)
		return err_set(err, ERR_CORRUPT, "a certificate that is not whole");
	out->in_hardware = kind->in_hardware;
	pubkey_put_string(&out->key, str_of(kind->name));
	buf_str(&out->key, fields);
	return buf_bad(&out->key) ? err_set(err, ERR_CORRUPT, "a certificate that is too long") : 0;
}

int
cert_verify(const struct cert *c, struct err *err)
{
	return pubkey_verify(c->authority, c->bytes, c->signature, err) < 0
		   ? err_add(err, "the certificate's authority")
		   : 0;
}

/* As OpenSSH, to whose tools what stands behind it would not be there. */
static bool
has_nul(struct str s)
{
	return s.len && memchr(s.at, '\0', s.len);
}

static bool
is_listed(const char *list, struct str principal)
{
	struct str rest = str_of(list), one;

	while (str_cut(&rest, ',', &one))
		if (str_equal(str_trim(one), principal))
			return true;
	return false;
}

/* A certificate that names nobody is for everybody to OpenSSH's hosts; to its users' files for
 * nobody, and so here. */
static int
judge_principals(const struct cert *c, const struct cert_wanted *w, struct err *err)
{
	struct str rest = c->principals, one;
	bool found = false;

	if (rest.len == 0)
		return err_set(err, ERR_DENIED, "the certificate names no principal");
	for (unsigned n = 0; rest.len; n++) {
		if (!pubkey_take_string(&rest, &one) || n >= CERT_PRINCIPALS_MAX || has_nul(one))
			return err_set(err, ERR_CORRUPT, "the certificate's principals");
		found = found || (one.len && (w->principals ? is_listed(w->principals, one)
							    : str_equal(one, w->user)));
	}
	if (found)
		return 0;
	return w->principals
		   ? err_set(err, ERR_DENIED, "the certificate names none of the principals %s",
			     w->principals)
		   : err_set(err, ERR_DENIED, "the certificate does not name %.*s as a principal",
			     (int)w->user.len, w->user.at);
}

static int
judge_critical(const struct cert *c, const struct cert_wanted *w, struct err *err)
{
	struct str rest = c->critical, name, value, text;
	bool has_source = false;

	while (rest.len) {
		if (!pubkey_take_string(&rest, &name) || !pubkey_take_string(&rest, &value))
			return err_set(err, ERR_CORRUPT, "the certificate's options");
		/* force-command and verify-required are among those that we cannot hold to:
		 * libssh does not tell whether an authenticator has verified its user. */
		if (!str_is(name, "source-address"))
			return err_set(err, ERR_DENIED,
				       "the certificate's option %.*s is not supported",
				       (int)(name.len > 60 ? 60 : name.len), name.at);
		if (has_source || !pubkey_take_string(&value, &text) || value.len ||
		    text.len == 0 || sources_check(text, err) < 0)
			return err_set(err, ERR_CORRUPT, "the certificate's source-address");
		has_source = true;
		if (!sources_match(text, w->source))
			return err_set(err, ERR_DENIED, "the certificate is not for logins from %s",
				       w->source->text[0] ? w->source->text : "an unknown address");
	}
	return 0;
}

static int
judge_extensions(const struct cert *c, struct cert_granted *out, struct err *err)
{
	static const struct {
		const char *name;
		enum allowance flag;
	} known[] = {
	    {"permit-pty", ALLOW_PTY},
	    {"permit-port-forwarding", ALLOW_PORT_FORWARDING},
	    {"permit-agent-forwarding", ALLOW_AGENT_FORWARDING},
	    {"permit-X11-forwarding", ALLOW_X11_FORWARDING},
	};
	struct str rest = c->extensions, name, value;
	struct cert_granted found = {0};

	while (rest.len) {
		if (!pubkey_take_string(&rest, &name) || !pubkey_take_string(&rest, &value))
			return err_set(err, ERR_CORRUPT, "the certificate's extensions");
		unsigned flags = 0;
		for (size_t i = 0; i < sizeof known / sizeof *known; i++)
			if (str_is(name, known[i].name))
				flags |= known[i].flag; /* others widen nothing here */
		const bool touchless = str_is(name, "no-touch-required");
		if ((flags || touchless) && value.len) /* it may say: not always */
			return err_set(err, ERR_CORRUPT, "the certificate's %.*s says more",
				       (int)name.len, name.at);
		found.flags |= flags;
		found.touchless = found.touchless || touchless;
	}
	*out = found;
	return 0;
}

int
cert_judge(const struct cert *c, const struct cert_wanted *w, struct cert_granted *out,
	   struct err *err)
{
	if (c->type != CERT_FOR_USERS)
		return err_set(err, ERR_DENIED, "not a user certificate");
	if (has_nul(c->id))
		return err_set(err, ERR_CORRUPT, "the certificate's key id");
	if (w->now_s < c->after_s)
		return err_set(err, ERR_DENIED, "the certificate is not valid yet");
	if (w->now_s >= c->before_s)
		return err_set(err, ERR_DENIED, "the certificate has expired");
	if (judge_principals(c, w, err) < 0 || judge_critical(c, w, err) < 0)
		return -1;
	return judge_extensions(c, out, err);
}
