/* What a client asks for one call (options.def): parsed by conn, which acts on what concerns the
 * channel, and again by the keeper, which believes no conn. */
#ifndef BERTH_OPTIONS_H
#define BERTH_OPTIONS_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum {
	OPTION_PATH_BYTES = 4096,
	OPTION_KEY_BYTES = 129,
	OPTION_NAME_BYTES = 64,
	OPTION_SIZE_MAX = 1 << 20,
};

enum option_input { OPTION_INPUT_CLIENT, OPTION_INPUT_NULL, OPTION_INPUT_KEEP }; /* in the row's order */

struct call_options {
	uint64_t timeout_ns; /* 0: none of its own */
	char cwd[OPTION_PATH_BYTES]; /* empty: the session's */
	enum option_input input;
	bool wait_all, detach;
	char key[OPTION_KEY_BYTES]; /* empty: none */
	char shell[OPTION_NAME_BYTES]; /* empty: none */
	uint64_t max_output; /* of each stream, to the client; 0: all */
};

/* Whether an environment variable is for berth, not for the command. */
bool options_is_ours(struct str variable);
/* Whether somebody may still give it stdin after its start. */
bool options_has_input(const struct call_options *o);
/* env: "NAME=VALUE\0" each; what is not ours is passed over. A later one of the same name wins.
 *   fails   USAGE, naming the variable */
int options_parse(struct str env, struct call_options *out, struct err *err) must_check;

#endif
