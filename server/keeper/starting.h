/* What the engines share on the keeper's side of a start. */
#ifndef BERTH_STARTING_H
#define BERTH_STARTING_H

#include "engine.h"
#include "sandbox.h"

struct starting_program {
	struct sock_filter code[SANDBOX_FILTER_MAX];
	unsigned short n;
};

/* A slot of the spec; -1 when it holds the /dev/null that stands for nothing. */
int starting_slot(const struct sandbox_spec *spec, enum keeper_fd slot);
int starting_load_program(int fd, struct starting_program *out, struct err *err) must_check;
/* Reads a start's news (struct sandbox_report) until its end, at most 10 s.
 *   *pid    pid 1, when it was cloned; also on failure, for whoever must end it then; a caller that
 *           knows it already says so
 *   *proc   its procfs, where it came */
int starting_read_reports(int socket, pid_t *pid, int *proc, struct err *err) must_check;
/* Kills a child and takes its status, bounded. */
void starting_end_pid(pid_t pid);

#endif
