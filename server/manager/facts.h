/* What may change of a snapshot: its name, note, labels, pin and end; as the ref has it (oci.h). */
#ifndef BERTH_FACTS_H
#define BERTH_FACTS_H

#include "base/buf.h"
#include "base/err.h"
#include "index/rows.h"

enum { FACTS_MAX_BYTES = 16384, LABELS_MAX = 16, LABEL_KEY_MAX_BYTES = 63 };

/* A JSON object; only what is not empty. */
void facts_json(const struct snapshot_facts *f, struct buf *out);
/* Its labels alone: an object, {} when there is none. */
void facts_labels_json(const char *labels, struct buf *out);
/* "KEY=VALUE" set, "KEY=" removed, in a list of labels as rows.h has it (1025 bytes, kept by key).
 *   KEY    [a-z0-9][a-z0-9._/-]*, at most LABEL_KEY_MAX_BYTES; VALUE no control character
 *   fails  USAGE: not of that form, or more than LABELS_MAX of them; the list is unchanged */
int facts_set_label(char labels[1025], struct str text, struct err *err) must_check;

#endif
