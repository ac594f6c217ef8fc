/* The session's v2 cgroup `box` and the calls' below it, as the keeper sees them: by fds that the
 * manager opened, and by names beneath one directory that belongs to the keeper's uid. */
#ifndef BERTH_BOX_H
#define BERTH_BOX_H

#include "engine.h"

/* Each is the engine's function of that name (engine.h) for a sandbox that has a cgroup. */
int box_freeze(struct sandbox *s, bool frozen, struct err *err) must_check;
int box_kill(struct sandbox *s, struct err *err) must_check;
int box_state(struct sandbox *s, struct sandbox_state *out, struct err *err) must_check;
int box_call_begin(struct sandbox *s, const char *call, int *out, struct err *err) must_check;
int box_call_list(struct sandbox *s, const char *call, struct buf *out, struct err *err) must_check;
int box_call_procs(struct sandbox *s, const char *call, int *out, struct err *err) must_check;
int box_call_kill(struct sandbox *s, const char *call, struct err *err) must_check;
int box_call_cpu(struct sandbox *s, const char *call, uint64_t *out_ns, struct err *err) must_check;
int box_call_end(struct sandbox *s, const char *call, struct err *err) must_check;

#endif
