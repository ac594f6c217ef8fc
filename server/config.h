/* berthd.conf: `name = value` lines, # begins a comment. Every option is a row of config.def. */
#ifndef BERTH_CONFIG_H
#define BERTH_CONFIG_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

enum { CONFIG_TEXT_BYTES = 512, CONFIG_FILE_MAX_BYTES = 65536 };

/* One field an option: text as an array, the rest as one number or bool. */
struct config {
#define TEXT(field)                         char field[CONFIG_TEXT_BYTES];
#define YESNO(field)                        bool field;
#define NUMBER(lo, hi)                      CONFIG_NUMBER
#define CONFIG_NUMBER(field)                uint64_t field;
#define DURATION(field)                     uint64_t field;
#define SIZE(field)                         uint64_t field;
#define OPTION(field, type, standard, help) type(field)
#include "config.def"
#undef OPTION
#undef TEXT
#undef YESNO
#undef NUMBER
#undef CONFIG_NUMBER
#undef DURATION
#undef SIZE
};

void config_default(struct config *c);
/* Sets one option. CONFIG for an unknown name or a value that does not fit. */
int config_set(struct config *c, struct str name, struct str value, struct err *err) must_check;
/* Reads a file; failures name file and line. */
int config_load(struct config *c, const char *path, struct err *err) must_check;
/* Help for all options, as comments and lines of a berthd.conf. */
void config_help(struct buf *out);

#endif
