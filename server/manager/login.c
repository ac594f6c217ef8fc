#include "login.h"
#include "base/digest.h"
#include "manager/cert.h"
#include "manager/pubkey.h"

#include <ctype.h>
#include <stdio.h>

void
login_done(struct login *l)
{
	allowances_done(&l->allow);
}

/* What a line asks for beside the key. */
static int
check_line(const struct key *k, const struct login_question *q, struct err *err)
{
	if (k->from && !sources_match_patterns(str_of(k->from), q->source))
		return err_set(err, ERR_DENIED, "key %s is not for logins from %s", k->principal,
			       q->source->text[0] ? q->source->text : "an unknown address");
	if (k->until_s && q->now_s >= k->until_s)
		return err_set(err, ERR_DENIED, "key %s has expired", k->principal);
	if (!(q->roles & 1u << k->role))
		return err_set(err, ERR_DENIED,
			       "key %s is of role %s, which does not come in by "
			       "this listener",
			       k->principal, principal_role_name(k->role));
	return 0;
}

/* libssh verifies the signature of an authenticator, and does not tell whether somebody has touched
 * it: such a key proves no more than one in a file, and its owner has to have said that this is
 * enough. */
static int
check_touch(const char *print, bool in_hardware, bool touchless, struct err *err)
{
	if (!in_hardware || touchless)
		return 0;
	return err_set(err, ERR_DENIED,
		       "key %s: that it was touched cannot be seen here; "
		       "no-touch-required lets it in all the same",
		       print);
}

static bool
is_in_hardware(struct str blob)
{
	struct str name;
	const struct pubkey_kind *kind =
	    pubkey_take_string(&blob, &name) ? pubkey_find_kind(name) : NULL;

	return kind && kind->in_hardware;
}

static void
take_line(struct login *l, const struct key *k)
{
	l->role = k->role;
	l->scope = k->scope;
	l->until_s = k->until_s;
	allowances_copy(&k->allow, &l->allow);
}

static int
decide_key(const struct keys *keys, struct str blob, const struct login_question *q,
	   struct login *l, struct err *err)
{
	const struct key *k = NULL;
	struct err first = {0};

	pubkey_fingerprint(blob, l->offered);
	while ((k = keys_next(keys, blob, false, k))) {
		snprintf(l->principal, sizeof l->principal, "%s", k->principal);
		if (check_line(k, q, err) == 0 &&
		    check_touch(l->offered, is_in_hardware(blob), k->touchless, err) == 0)
			break;
		if (first.code == ERR_NONE)
			first = *err;
	}
	if (!k && first.code != ERR_NONE) {
		*err = first;
		return -1;
	}
	if (!k)
		return err_set(err, ERR_DENIED, "key %s is not known", l->offered);
	if (revoked_check_key(&keys->revoked, blob, err) < 0)
		return -1;
	take_line(l, k);
	return 0;
}

/* The key id with what a log and a message can hold. Two ids stay two: what was changed or cut, and
 * what looks so, is cut further and gets half of its digest. */
static void
name_certificate(struct login *l, struct str id, const char *key_print)
{
	enum { ID_SHOWN = 48, ID_SHOWN_CHANGED = 24, DIGITS = 32 };
	const struct digest sum = digest_of(id);
	bool same = id.len <= ID_SHOWN;
	char shown[ID_SHOWN + 1] = "";

	for (size_t i = 0; i < id.len && i < ID_SHOWN; i++) {
		shown[i] = (char)(isgraph((unsigned char)id.at[i]) ? id.at[i] : '_');
		same = same && shown[i] == id.at[i] && shown[i] != '~';
	}
	if (id.len == 0)
		snprintf(l->id, sizeof l->id, "%s", key_print);
	else if (same)
		snprintf(l->id, sizeof l->id, "%s", shown);
	else
		snprintf(l->id, sizeof l->id, "%.*s~%.*s", ID_SHOWN_CHANGED, shown, DIGITS,
			 digest_text(&sum).text);
}

/* The line of an authority that lets this certificate in. */
static const struct key *
find_authority(const struct keys *keys, const struct cert *c, const struct login_question *q,
	       struct cert_granted *out, struct err *err)
{
	struct err first = {0};

	for (const struct key *k = NULL; (k = keys_next(keys, c->authority, true, k));) {
		const struct cert_wanted w = {.principals = k->principals,
					      .user = q->user,
					      .source = q->source,
					      .now_s = q->now_s};
		if (check_line(k, q, err) == 0 && cert_judge(c, &w, out, err) == 0 &&
		    check_touch("of the certificate", c->in_hardware,
				k->touchless && out->touchless, err) == 0)
			return k;
		if (first.code == ERR_NONE)
			first = *err;
	}
	*err = first;
	return NULL;
}

static int
decide_certificate(const struct keys *keys, struct str blob, const struct login_question *q,
		   struct login *l, struct err *err)
{
	__attribute__((cleanup(cert_done))) struct cert c;
	struct cert_granted granted;

	if (cert_split(blob, &c, err) < 0)
		return -1;
	pubkey_fingerprint(buf_view(&c.key), l->offered);
	pubkey_fingerprint(c.authority, l->authority);
	/* the order matters: see cert.h */
	if (!keys_next(keys, c.authority, true, NULL))
		return err_set(err, ERR_DENIED, "certificate of %s: authority %s is not known",
			       l->offered, l->authority);
	if (cert_verify(&c, err) < 0)
		return err_add(err, "certificate of %s", l->offered);
	l->serial = c.serial;
	name_certificate(l, c.id, l->offered);
	snprintf(l->principal, sizeof l->principal, "%.50s cert:%.64s", l->authority, l->id);
	const struct key *k = NULL;
	if (revoked_check_key(&keys->revoked, c.authority, err) < 0 ||
	    revoked_check_key(&keys->revoked, buf_view(&c.key), err) < 0 ||
	    revoked_check_certificate(&keys->revoked, c.serial, c.id, err) < 0 ||
	    !(k = find_authority(keys, &c, q, &granted, err)))
		return err_add(err, "certificate %s", l->principal);
	take_line(l, k);
	l->allow.flags &= granted.flags;
	if (c.before_s != UINT64_MAX && (l->until_s == 0 || c.before_s < l->until_s))
		l->until_s = c.before_s;
	return 0;
}

int
login_decide(const struct keys *k, const struct login_question *q, struct login *out,
	     struct err *err)
{
	auto_buf blob = BUF_MAX(PUBKEY_BLOB_MAX_BYTES);
	struct str base64 = q->key, type;

	*out = (struct login){.role = PRINCIPAL_NOBODY};
	/* the type in front is the client's word; the blob names its own */
	if (!str_cut(&base64, ' ', &type) || !base64.at || q->user.len == 0)
		return err_set(err, ERR_CORRUPT, "not a key");
	if (pubkey_decode(base64, &blob, err) < 0)
		return -1;
	if (cert_is(buf_view(&blob)))
		return decide_certificate(k, buf_view(&blob), q, out, err);
	return decide_key(k, buf_view(&blob), q, out, err);
}
