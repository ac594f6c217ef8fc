/* One line of authorized_keys as sshd(8) describes it, with two options of ours: role="…" and
 * sessions="…". KEYS.md has the table of options.
 *
 * A line with an option that we do not honour is refused as a whole: to ignore a restriction would
 * be to widen it. */
#ifndef BERTH_KEY_LINE_H
#define BERTH_KEY_LINE_H

#include "base/buf.h"
#include "base/err.h"
#include "verbs/allowances.h"
#include "verbs/verbs.h"

enum { PRINCIPAL_BYTES = 128 };

struct key {
	char *blob; /* owned */
	size_t blob_bytes;
	char principal[PRINCIPAL_BYTES]; /* SHA256:… fingerprint and comment */
	enum principal_role role;
	struct scope scope;
	bool authority;   /* cert-authority: for what it has signed, not for itself */
	char *principals; /* owned: of an authority; NULL: the user that is asked for */
	char *from;       /* owned: pattern list; NULL: from anywhere */
	uint64_t until_s; /* wall clock; 0: for ever */
	bool touchless;   /* no-touch-required: see login.c */
	struct allowances allow;
};

void key_done(struct key *k);
static inline struct str
key_blob(const struct key *k)
{
	return (struct str){k->blob, k->blob_bytes};
}

/* 1 a key, to be given to key_done; 0 nothing there (blank, comment); -1 not acceptable. */
int key_line_parse(struct str line, struct key *out, struct err *err) must_check;
/* Cuts a word off the front, as a line of keys has them; quotes hold spaces. */
struct str key_line_word(struct str *rest);
/* YYYYMMDD[HHMM[SS]][Z] as seconds since 1970; without Z in this node's time zone. */
int key_line_time(struct str text, uint64_t *out_s, struct err *err) must_check;

#endif
