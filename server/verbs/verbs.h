/* The verbs of the control interface: what exists (verbs.def), text into a request, a request over
 * the wire and checked again on its other side, who may use it, and its help.
 *
 * Invariants:
 *  1. a struct request that parse or decode returned has passed every check of its row: known
 *     parameters only, each at most once unless its row says so, required ones there, each value
 *     of its type;
 *  2. both ways into a request end in the same check, so that a conn that was taken gains nothing
 *     by writing its own args;
 *  3. nothing in a command is expanded or executed. */
#ifndef BERTH_VERBS_H
#define BERTH_VERBS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	VERB_PARAMETERS_MAX = 20,
	REQUEST_MORE_MAX = 16,       /* further values of what may be given more than once */
	REQUEST_WORDS_MAX = 60,      /* the same, of WORDS */
	VERB_ARGS_MAX_BYTES = 65536, /* verb_start's args */
	WORDS_MAX = 64,
	WORDS_MAX_BYTES = 65536,
	VALUE_MAX_BYTES = 4096,
	SESSION_NAME_MAX_BYTES = 63,
};

/* Roles by rank: who is above may do what those below may. */
enum principal_role { PRINCIPAL_NOBODY, PRINCIPAL_DEVELOPER, PRINCIPAL_ORCHESTRATOR, PRINCIPAL_OPERATOR };

enum verb_where { VERB_AT_MANAGER, VERB_AT_CONN, VERB_AT_CHANNEL };

enum parameter_type {
	PARAMETER_NONE, /* ends the list of a row */
	PARAMETER_SESSION,
	PARAMETER_NAME,
	PARAMETER_SNAPSHOT, /* of a verb without a session, and the first: it is about the snapshot's */
	PARAMETER_SUBJECT,  /* a session, or a snapshot; the first */
	PARAMETER_CALL,
	PARAMETER_NUMBER,
	PARAMETER_DURATION,
	PARAMETER_FLAG,
	PARAMETER_YESNO,
	PARAMETER_TEXT,
	PARAMETER_WORDS, /* the last: all words from there on */
};

struct parameter {
	const char *name;
	enum parameter_type type;
	bool positional, required;
	const char *value; /* what stands for it in help; "" for flags */
	const char *help;
	bool repeats; /* may be given more than once */
};

enum verb_id {
#define VERB(id, name, role, where, session, help, parameters) VERB_##id,
#include "verbs.def"
#undef VERB
	VERBS
};

struct verb {
	enum verb_id id;
	const char *name; /* one word, or two with a space: "call output" */
	enum principal_role role;
	enum verb_where where;
	int session; /* index of the parameter that names the session, -1: none */
	const char *help;
	struct parameter parameters[VERB_PARAMETERS_MAX + 1];
};

extern const struct verb verbs[VERBS];

/* NULL when there is none; finds CHANNEL rows too, which parse refuses. */
const struct verb *verb_find(struct str name);
size_t verb_parameters(const struct verb *v);
enum principal_role principal_role_parse(struct str text); /* PRINCIPAL_NOBODY: no such role */
const char *principal_role_name(enum principal_role role);
/* Roles with this character between, blanks round them, into bits of 1 << enum principal_role. USAGE: no such
 * role; an empty list is one. */
int principal_roles_parse(struct str list, char between, unsigned *out, struct err *err) must_check;

/* ---- names (names.c) ---- */

/* [a-z0-9][a-z0-9._-]{0,62}, not "berth", not of the form of an id. USAGE says what is wrong. */
int session_name_check(struct str name, struct err *err) must_check;
/* The same, or an id: s_ and 16 base32 digits. */
int session_ref_check(struct str ref, struct err *err) must_check;
/* "sha256:" and 64 hex digits, 6 to 64 hex digits, or a name of the form of a session's; "SESSION+" may
 * stand before any of them. */
/* What a snapshot may be named: like a session, but never like the beginning of a digest. */
int snapshot_name_check(struct str name, struct err *err) must_check;
int snapshot_ref_check(struct str ref, struct err *err) must_check;
/* c_ and 16 base32 digits. */
int call_id_check(struct str id, struct err *err) must_check;

/* ---- requests (parse.c) ---- */

struct words {
	struct str at[WORDS_MAX]; /* views into `bytes` */
	size_t n;
	struct buf bytes; /* owned */
};

struct request {
	const struct verb *verb; /* NULL: help for all verbs (no word, or --help as the first) */
	bool given[VERB_PARAMETERS_MAX];
	struct str value[VERB_PARAMETERS_MAX]; /* lent by the words or the args; the first */
	uint64_t number[VERB_PARAMETERS_MAX];  /* of NUMBER, of DURATION in ns, of YESNO */
	struct {
		size_t parameter;
		struct str value;
	} more[REQUEST_WORDS_MAX]; /* in the order given */
	size_t n_more;
	bool json, progress, help;
};

/* Splits a command by POSIX quoting: blanks separate; \ ' and " quote; nothing else is special.
 * USAGE: an open quote, a NUL, too many words or bytes. out may be freed after failure too. */
int parse_words(struct str command, struct words *out, struct err *err) must_check;
void words_free(struct words *w);
#define auto_words __attribute__((cleanup(words_free))) struct words
/* Words into a checked request. A failure has its WHAT (the verb as typed) and hint set; its
 * out->json is set nevertheless, so that the error can be said in the wanted form. With --help
 * nothing but the verb is checked. */
int parse_request(const struct words *words, struct request *out, struct err *err) must_check;

/* The `args` of verb_start: "name\0value\0" of each given parameter; a flag's value is empty. */
int request_encode(const struct request *r, struct buf *out, struct err *err) must_check;
/* A WORDS parameter as /bin/sh is to have it: one word as it stands, several quoted, so that each
 * arrives as it was given. */
void request_command(const struct request *r, const char *name, struct buf *out);
/* The other side: any verb but CHANNEL rows, any bytes. The request's values are views into args,
 * each with a NUL behind it. USAGE for whatever does not fit the row. */
int request_decode(struct str verb, struct str args, bool json, struct request *out,
		   struct err *err) must_check;

/* A given value by its parameter's name; false and *out untouched when it was not given. The name
 * must be one of the row's. */
bool request_text(const struct request *r, const char *name, struct str *out);
uint64_t request_number(const struct request *r, const char *name, uint64_t otherwise);
bool request_flag(const struct request *r, const char *name);
/* All values of one that repeats, in order: *n is 0 before the first and counts on. */
bool request_next(const struct request *r, const char *name, size_t *n, struct str *out);

/* ---- rights (may.c) ---- */

enum { SCOPE_MAX_BYTES = 1024 };

/* Which sessions a principal reaches: globs by name, separated by commas; empty: all. */
struct scope {
	char globs[SCOPE_MAX_BYTES];
};

int scope_parse(struct str globs, struct scope *out, struct err *err) must_check;
bool scope_has(const struct scope *scope, struct str session);
/* The one place that decides. Asked by the manager for every verb and channel.
 *   session   the NAME of the session it is about (an id is looked up before); empty for a verb
 *             that has none, such as ls, whose rows are then asked one by one as `show`
 *   returns   false for NOBODY, for a role below the row's, for a session outside the scope, and
 *             for a row that needs a session (or is about a call) when none is given */
bool may(enum principal_role role, const struct scope *scope, const struct verb *verb,
	 struct str session);

/* ---- help (help.c) and the JSON that needs no library (json.c) ---- */

/* The list of all verbs. */
void help_all(struct buf *out, bool json);
/* Usage and parameters of one. */
void help_verb(struct buf *out, const struct verb *v, bool json);
void help_version(struct buf *out, bool json);
/* What `help …`, `version`, `VERB --help` or an empty command print. A verb that does not exist:
 * USAGE, with its WHAT set. */
int help_answer(const struct request *r, struct buf *out, struct err *err) must_check;

/* A JSON string with its quotes; bytes that are no UTF-8 become U+FFFD. Not called json_string, as
 * that is a symbol of jansson, which some of our processes link. */
void json_put(struct buf *out, struct str s);
/* {"code":"absent","message":"show demo: no such session","hint":"…"} without newline. */
void json_put_error(struct buf *out, const struct err *err);

#endif
