/* Who the client is: libssh verifies the signature, the manager says whose key it is.
 *
 * Invariants:
 *  1. nothing is granted on a probe: only a signature that libssh has verified asks with proven;
 *  2. a key that the manager does not know, a certificate, a DSA key and a manager that does not
 *     answer are all the same "denied" to the client. */
#include "conn.h"

#include "base/log.h"
#include "base/time.h"

void
auth_count(struct conn *c)
{
	if (++c->attempts >= ATTEMPTS_MAX)
		conn_end(c, "too many attempts to log in");
}

/* Certificates prove nothing to libssh (it checks no authority); DSA is dead. */
static bool
is_accepted_type(ssh_key key)
{
	switch ((int)ssh_key_type(key)) { /* int: libssh has more types than we name */
	case SSH_KEYTYPE_RSA:
	case SSH_KEYTYPE_ECDSA_P256:
	case SSH_KEYTYPE_ECDSA_P384:
	case SSH_KEYTYPE_ECDSA_P521:
	case SSH_KEYTYPE_ED25519:
	case SSH_KEYTYPE_SK_ECDSA:
	case SSH_KEYTYPE_SK_ED25519:
		return true;
	default:
		return false;
	}
}

/* Asks the manager, and waits: libssh wants its answer at once, and there is nobody else to serve. A
 * manager whose disk is busy may take its time: until the end of the login. An answer that comes too
 * late must not be taken for that of the next question, so then the connection ends. */
static int
ask(struct conn *c, const char *user, ssh_key key, bool proven, struct err *err)
{
	char *base64 = NULL;
	auto_buf text = BUF_MAX(16384);

	if (ssh_pki_export_pubkey_base64(key, &base64) != SSH_OK)
		return err_set(err, ERR_USAGE, "a key that cannot be written down");
	buf_fmt(&text, "%s %s", ssh_key_type_to_char(ssh_key_type(key)), base64);
	ssh_string_free_char(base64);
	if (buf_bad(&text))
		return err_set(err, ERR_USAGE, "a key that is too long");
	if (wire_send(&c->manager, key_query, err, .user = str_of(user), .key = buf_view(&text),
		      .proven = proven) < 0 ||
	    wire_recv_wait(&c->manager, c->login_until_ns, err) < 0) {
		conn_end(c, "the manager does not answer");
		return -1;
	}
	if (c->manager.message.id != MSG_key_answer) {
		conn_end(c, "the manager answered something else");
		return err_set(err, ERR_CORRUPT, "no answer");
	}
	return 0;
}

static int
on_pubkey(ssh_session ssh, const char *user, struct ssh_key_struct *key, char state, void *ctx)
{
	struct conn *c = ctx;
	struct err err = {0};

	(void)ssh;
	const bool proven = state == SSH_PUBLICKEY_STATE_VALID;
	auth_count(c);
	if (c->ended || c->proven || (!proven && state != SSH_PUBLICKEY_STATE_NONE))
		return SSH_AUTH_DENIED;
	const size_t n = user ? strlen(user) : 0;
	if (n == 0 || n >= sizeof c->user || !is_accepted_type(key))
		return SSH_AUTH_DENIED;
	if (ask(c, user, key, proven, &err) < 0) {
		log_err(&err, "log in");
		return SSH_AUTH_DENIED;
	}
	const struct msg_key_answer *a = &c->manager.message.key_answer;
	if (!a->ok)
		return SSH_AUTH_DENIED;
	if (proven) {
		memcpy(c->user, user, n + 1);
		c->control = a->control != 0;
		c->proven = true;
		c->manager.phase = PHASE_OPEN;
		timer_cancel(&c->login_timer);
	}
	return SSH_AUTH_SUCCESS;
}

static int
on_none(ssh_session ssh, const char *user, void *ctx)
{
	(void)ssh;
	(void)user;
	auth_count(ctx);
	return SSH_AUTH_DENIED;
}

/* libssh parses GSSAPI before authentication even where it was not offered: refuse it here, before
 * the Kerberos library is entered. */
static ssh_string
on_gssapi(ssh_session ssh, const char *user, int n, ssh_string *oids, void *ctx)
{
	(void)ssh;
	(void)user;
	(void)n;
	(void)oids;
	auth_count(ctx);
	return NULL;
}

void
auth_init(struct conn *c)
{
	c->callbacks = (struct ssh_server_callbacks_struct){
	    .userdata = c,
	    .auth_pubkey_function = on_pubkey,
	    .auth_none_function = on_none,
	    .gssapi_select_oid_function = on_gssapi,
	};
	ssh_callbacks_init(&c->callbacks);
	ssh_set_auth_methods(c->ssh, SSH_AUTH_METHOD_PUBLICKEY);
	ssh_set_server_callbacks(c->ssh, &c->callbacks);
}
