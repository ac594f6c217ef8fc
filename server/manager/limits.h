/* What a session may use: its limits as numbers, as text, as defaults of the node and as what was
 * set for one session. The rows are in limits.def.
 *
 * Who may set what: a limit has a ceiling, which is the node's default until an operator sets the
 * limit, and then what the operator chose. An orchestrator moves it below its ceiling. */
#ifndef BERTH_LIMITS_H
#define BERTH_LIMITS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum limit {
#define LIMIT(id, key, type, least, most, none, when, help) LIMIT_##id,
#include "limits.def"
#undef LIMIT
	LIMITS
};

enum { LIMIT_TEXT_BYTES = 32 };

/* 0: none. cpu in hundredths of a core, memory, disk and tmp in bytes, wall in ns. */
struct limits {
	uint64_t at[LIMITS];
};

/* What was set for one session; the rest is the node's default. */
struct limits_set {
	bool set[LIMITS], capped[LIMITS];
	struct limits value, ceiling; /* ceiling: what an operator chose, where capped */
};

struct config;

const char *limit_key(enum limit l);
/* LIMITS when there is none of this name. */
enum limit limit_find(struct str key);
bool limit_is_live(enum limit l);
const char *limit_help(enum limit l);
int limit_parse(enum limit l, struct str text, uint64_t *out, struct err *err) must_check;
void limit_format(enum limit l, uint64_t value, char out[LIMIT_TEXT_BYTES]);

/* The node's, from its options. CONFIG names the one that does not parse. */
int limits_default(const struct config *c, struct limits *out, struct err *err) must_check;
struct limits limits_of(const struct limits *standard, const struct limits_set *own);
/* Takes away what lies above the node's default, and names it in `words`, ", " between. */
void limits_plain(const struct limits *standard, struct limits_set *own, struct buf *words);
bool limits_any(const struct limits_set *own);
/* Sets one. by_operator: without a ceiling, and this is the next one. text "default": as the node.
 *   fails   DENIED above the ceiling */
int limits_change(const struct limits *standard, struct limits_set *own, enum limit l,
		  struct str text, bool by_operator, struct err *err) must_check;

#endif
