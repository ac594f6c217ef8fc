/* Who the client is: libssh verifies the signature, the manager says whose key it is.
 *
 * Invariants:
 *  1. nothing is granted on a probe: only a signature that libssh has verified asks with proven;
 *  2. a key or a certificate that the manager does not take, a DSA key and a manager that does not
 *     answer are all the same "denied" to the client;
 *  3. what a key allows comes before the answer that lets it in. */
#include "conn.h"

#include "base/log.h"
#include "base/time.h"

#include <stdio.h>

void
auth_count(struct conn *c)
{
	struct err ignored; /* whoever is not there need not hear of it */

	if (++c->attempts < c->attempts_max || c->ended)
		return;
	conn_end(c, "too many attempts to log in");
	(void)!wire_send(&c->manager, attempts_over, &ignored, .attempts = c->attempts);
}

int
auth_receive_setup(struct conn *c, uint64_t until_ns, struct err *err)
{
	if (wire_recv_wait(&c->manager, until_ns, err) < 0)
		return -1;
	if (c->manager.message.id != MSG_conn_login)
		return err_set(err, ERR_CORRUPT, "the manager said something else than conn_login");
	const struct msg_conn_login *m = &c->manager.message.conn_login;
	c->attempts_max = m->attempts;
	if (str_copy(m->kex, c->kex, sizeof c->kex, err) < 0 ||
	    str_copy(m->ciphers, c->ciphers, sizeof c->ciphers, err) < 0 ||
	    str_copy(m->macs, c->macs, sizeof c->macs, err) < 0 ||
	    str_copy(m->banner, c->banner, sizeof c->banner, err) < 0)
		return -1;
	return str_copy(m->host_keys, c->host_keys, sizeof c->host_keys, err);
}

/* Kinds of user keys stay as libssh has them: it does not answer a signature of a kind that is not
 * listed, and the client waits for ever. Which are taken is said to the probe (is_accepted_type).
 */
/* Signatures that count: all that libssh would take by itself but ssh-rsa, which is SHA-1. One that is not
 * named here gets no answer from libssh, and its client waits for login_grace. */
#define SIGNATURES                                                                                 \
	"ssh-ed25519-cert-v01@openssh.com,ecdsa-sha2-nistp521-cert-v01@openssh.com,"               \
	"ecdsa-sha2-nistp384-cert-v01@openssh.com,ecdsa-sha2-nistp256-cert-v01@openssh.com,"       \
	"sk-ssh-ed25519-cert-v01@openssh.com,sk-ecdsa-sha2-nistp256-cert-v01@openssh.com,"         \
	"rsa-sha2-512-cert-v01@openssh.com,rsa-sha2-256-cert-v01@openssh.com,"                     \
	"ssh-ed25519,ecdsa-sha2-nistp521,ecdsa-sha2-nistp384,ecdsa-sha2-nistp256,"                 \
	"sk-ssh-ed25519@openssh.com,sk-ecdsa-sha2-nistp256@openssh.com,rsa-sha2-512,rsa-sha2-256"

int
auth_set_algorithms(const struct conn *c, ssh_bind bind)
{
	const struct {
		enum ssh_bind_options_e option;
		const char *names;
	} lists[] = {
	    {SSH_BIND_OPTIONS_KEY_EXCHANGE, c->kex},
	    {SSH_BIND_OPTIONS_CIPHERS_C_S, c->ciphers},
	    {SSH_BIND_OPTIONS_CIPHERS_S_C, c->ciphers},
	    {SSH_BIND_OPTIONS_HMAC_C_S, c->macs},
	    {SSH_BIND_OPTIONS_HMAC_S_C, c->macs},
	    {SSH_BIND_OPTIONS_HOSTKEY_ALGORITHMS, c->host_keys},
	    {SSH_BIND_OPTIONS_PUBKEY_ACCEPTED_KEY_TYPES, SIGNATURES},
	};

	for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
		if (ssh_bind_options_set(bind, lists[i].option, lists[i].names) != SSH_OK)
			return SSH_ERROR;
	return SSH_OK;
}

/* Of a certificate libssh has checked that the client holds its key, and nothing else: the manager
 * does the rest. DSA is dead. */
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
	case SSH_KEYTYPE_RSA_CERT01:
	case SSH_KEYTYPE_ECDSA_P256_CERT01:
	case SSH_KEYTYPE_ECDSA_P384_CERT01:
	case SSH_KEYTYPE_ECDSA_P521_CERT01:
	case SSH_KEYTYPE_ED25519_CERT01:
	case SSH_KEYTYPE_SK_ECDSA_CERT01:
	case SSH_KEYTYPE_SK_ED25519_CERT01:
		return true;
	default:
		return false;
	}
}

static int
receive_answer(struct conn *c, struct err *err)
{
	for (;;) {
		if (wire_recv_wait(&c->manager, c->login_until_ns, err) < 0)
			return -1;
		if (c->manager.message.id != MSG_key_allowances)
			return 0;
		const struct msg_key_allowances *m = &c->manager.message.key_allowances;
		allowances_take(&c->allow, m->flags, m->permit_open, m->permit_listen);
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
	    receive_answer(c, err) < 0) {
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

/* Once, and not before the client asks to log in: it would break OpenSSH's. */
static void
show_banner(struct conn *c, ssh_session ssh)
{
	char line[sizeof c->banner + 2];

	if (!c->banner[0])
		return;
	snprintf(line, sizeof line, "%s\r\n", c->banner);
	c->banner[0] = '\0';
	ssh_string text = ssh_string_from_char(line);
	if (text)
		ssh_send_issue_banner(ssh, text);
	ssh_string_free(text);
}

static int
on_none(ssh_session ssh, const char *user, void *ctx)
{
	(void)user;
	auth_count(ctx);
	show_banner(ctx, ssh);
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
