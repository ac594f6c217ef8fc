/* The server's own log: one line an event on stderr, for the operator's journal. Only edges log. */
#ifndef BERTH_LOG_H
#define BERTH_LOG_H

#include "err.h"

/* Sets the process name and subject ("berth-keeper", "demo") that each line begins with. */
void log_init(const char *process, const char *subject);
void log_line(const char *fmt, ...) printflike(1, 2);
/* Logs a failure with its why, after what was being done. */
void log_err(const struct err *err, const char *fmt, ...) printflike(2, 3);

#endif
