/* The index: SQLite, in WAL mode with synchronous=FULL, the manager's alone. */
#ifndef BERTH_SCHEMA_H
#define BERTH_SCHEMA_H

#include "base/err.h"

struct sqlite3;

enum { SCHEMA_VERSION = 8 };

/* Opens DIR/index.db by the directory's fd, makes it when absent, migrates it forward.
 *   fails  CORRUPT when it is not a sound database, CONFIG when its schema is newer than ours;
 *          in both cases nothing was written */
int schema_open(int state_dir, struct sqlite3 **out, struct err *err) must_check;

#endif
