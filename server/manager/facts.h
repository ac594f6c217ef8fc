/* What may change of a snapshot: its name, note, labels, pin and end; as the ref has it (oci.h). */
#ifndef BERTH_FACTS_H
#define BERTH_FACTS_H

#include "base/buf.h"
#include "base/err.h"
#include "index/rows.h"

enum { FACTS_MAX_BYTES = 16384, LABELS_MAX = 16, LABEL_KEY_MAX_BYTES = 63 };

/* The next line of a list of labels (rows.h), which *at goes along; false: no more. Lent by the
 * list. */
bool facts_next_label(const char **at, struct str *out);
/* A JSON object; only what is not empty. */
void facts_json(const struct snapshot_facts *f, struct buf *out);
/* Its labels alone: an object, {} when there is none. */
void facts_labels_json(const char *labels, struct buf *out);
/* "KEY=VALUE" set, "KEY=" removed, in a list of labels as rows.h has it (1025 bytes, kept by key).
 *   KEY    [a-z0-9][a-z0-9._/-]*, at most LABEL_KEY_MAX_BYTES; VALUE no control character
 *   fails  USAGE: not of that form, or more than LABELS_MAX of them; the list is unchanged */
int facts_set_label(char labels[1025], struct str text, struct err *err) must_check;

/* "KEY=VALUE", or "KEY" with any value: is it in the list? */
bool facts_have_label(const char *labels, struct str text);
/* What a snapshot may be called: a session's name that no digest begins with. Empty: none. */
int facts_check_name(struct str name, struct err *err) must_check;
/* No control characters but line ends, at most 1024 bytes. */
int facts_check_note(struct str note, struct err *err) must_check;

#endif
