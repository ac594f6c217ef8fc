/* Who may come in, and as whom: the answer to a conn's key_query. libssh has proven that the client
 * holds the key; everything else is decided here (KEYS.md has the rules as an operator reads them).
 *
 * Invariants
 *  1. whoever is let in has a line of authorized_keys: his key's, or that of the authority that
 * signed his certificate; nothing in a certificate widens what that line gives;
 *  2. a refusal says nothing to the client but no, and all to the log and the audit log;
 *  3. what let somebody in is asked again when a file of keys has changed and when it expires: who
 *     would not be let in now is cut, links to sessions and all. */
#ifndef BERTH_LOGIN_H
#define BERTH_LOGIN_H

#include "manager/keys.h"
#include "manager/sources.h"
#include "verbs/allowances.h"
#include "verbs/verbs.h"

struct login_question {
	struct str user, key; /* key: "TYPE BASE64", as authorized_keys has it */
	const struct source *source;
	unsigned roles; /* that the listener lets in: bits of 1 << enum principal_role */
	uint64_t now_s; /* wall clock */
};

struct login {
	char principal[PRINCIPAL_BYTES]; /* empty: nobody that is known */
	enum principal_role role;
	struct scope scope;
	struct allowances allow; /* owned */
	uint64_t until_s;        /* wall clock; 0: for ever */
	/* for the audit log, of a refused one too */
	char offered[64];   /* fingerprint of the key, certified or not */
	char authority[64]; /* fingerprint; empty: no certificate */
	char id[72];        /* of the certificate, as it stands in principal */
	uint64_t serial;
};

void login_done(struct login *l);
/* out is to be given to login_done, whatever comes back. */
int login_decide(const struct keys *k, const struct login_question *q, struct login *out,
		 struct err *err) must_check;

/* ---- of connections (login_conn.c) ---- */
struct conn;
struct manager;
struct msg_key_query;

void login_answer(struct conn *c, const struct msg_key_query *q);
/* Of a conn that an earlier manager let in, with all that it has: it is cut where its key and the
 * configuration do not give it that now.
 *   forwards   enum forward_right, of its keeper */
void login_adopt(struct conn *c, uint32_t forwards);
void login_forget(struct conn *c);
struct session;
/* Cuts those that are connected to it, or read a snapshot of it, and whose scope has not its new
 * name. */
void login_session_renamed(const struct session *s);
/* CLOCK_BOOTTIME of its expiry, for its keeper; 0: none. */
uint64_t login_deadline_ns(const struct conn *c);
/* Watches STATE/keys, so that who would not come in any more is cut when a file has changed. */
int login_watch(struct manager *m, struct err *err) must_check;
void login_unwatch(struct manager *m);

#endif
