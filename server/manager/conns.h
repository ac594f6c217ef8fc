/* The processes that speak SSH: who is behind each, what it may ask, and what it is told. */
#ifndef BERTH_CONNS_H
#define BERTH_CONNS_H

#include "manager/manager.h"
#include "manager/sources.h"
#include "verbs/allowances.h"

struct session;

struct conn {
	struct conn *next;
	struct manager *m;
	struct wire wire;
	uint64_t id; /* random: also the number of its grants, over restarts of the manager */
	char tag[20]; /* its id, as the audit log has it */
	char peer[64], user[128], principal[128];
	enum principal_role role;
	struct scope scope;
	bool proven, control;
	bool dropped;	    /* its link is shut, and its end will be read of it */
	struct timer login; /* the end of its time to authenticate */
	/* who it is (login_conn.c) */
	unsigned roles;		  /* that its listener lets in */
	char *key;		  /* owned: what was let in, as in key_query */
	struct allowances allow;  /* owned */
	uint64_t until_s;	  /* wall clock; 0: no end */
	struct timer expiry;
	/* how it knocked (door.c) */
	struct source source;
	struct door_place *place; /* lent: of its address; NULL: it is not counted */
	uint64_t opened_ns;
	unsigned queries, refused;
	bool gave_up; /* its conn has ended it for its many attempts */
	struct session *view; /* lent: of SESSION+SNAPSHOT (views.h); NULL: none */
	unsigned asked;     /* questions without an answer; bounded by channels_max */
};

/* Who waits for an answer to a verb or a session_want. conn is NULL once the client has gone. */
struct asker {
	struct conn *conn;
	uint32_t seq;
	bool is_verb, json;
	bool counted; /* in conn->asked */
};

/* Tells the audit log when authorized_keys has changed. */
void conns_note_keys(struct manager *m);
/* Accepts what waits on a listener. */
struct listener;
void conns_accept(struct listener *l);
/* Shuts the link: the next read of it closes the conn, outside of whatever is under way now. */
void conns_drop(struct conn *c, const struct err *err);
/* Ends a connection that was let in: its links to sessions too. */
void conns_end(struct conn *c, const struct err *err);
/* A conn of an earlier manager, known to the keeper of s: it gets a new link, and is cut where its
 * key would not give it all that it has. A keeper can speak of conns of its own session alone. */
struct session;
int conns_adopt(struct session *s, const struct msg_grant_report *report,
		struct err *err) must_check;
/* Who came to it by its old name is meant for it still, unless the new one is outside their scope:
 * then they are cut, as by a change of their key. */
void conns_session_renamed(struct session *s, const char *old);
void conns_close_all(struct manager *m);
/* A start has ended: whose first channel waits for a turn gets it. */
void conns_next(struct manager *m);

/* Each question is counted until its answer; a conn with more than it has channels is cut. */
bool asker_count(struct asker *a) must_check;
/* Nobody waits any more. */
void asker_forget(struct asker *a);
/* Answers to verbs. A conn that is gone or does not read is cut; the caller need not know. */
void asker_print(struct asker *a, struct str bytes);
/* How far it is (wire: verb_progress). A conn that is gone hears nothing. */
void asker_progress(const struct asker *a, const char *doing, const struct msg_progress *done,
		    uint64_t of_bytes, uint64_t of_entries, uint64_t since_ns);
/* err NULL: done well. WHAT must have been set in err. */
void asker_end(struct asker *a, const struct err *err);
/* Answers a session_want: the conn's end of a link to the keeper. */
void asker_session(struct asker *a, int keeper_link, const char *notice);
void asker_session_failed(struct asker *a, const struct err *err);

#endif
