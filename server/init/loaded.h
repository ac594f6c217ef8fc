/* A program that does not lie in the session's files: the keeper sends it as descriptors (init_loaded)
 * just before the init_exec of its call. Of one call at a time. */
#ifndef BERTH_INIT_LOADED_H
#define BERTH_INIT_LOADED_H

#include "wire/wire.h"

#include <stdbool.h>

/* An init_loaded has come: its descriptors are kept until loaded_drop. */
void loaded_take(struct wire *w);
/* Whether they are for this call. */
bool loaded_is_for(uint32_t call);
void loaded_drop(void);

/* In the child: lays its files out as 3, 4 and 5, and closes all above. */
int loaded_lay_out(void);
/* In the child: executes it. Returns the errno. */
int loaded_exec(char *const *argv, char *const *env);

#endif
