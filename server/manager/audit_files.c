/* What sftp did to files, a line of kind `file` each, in the order of the log of the sftp-server that did it:
 * behind the line of its call's start, before that of its end. A process of the session wrote that log, so
 * these lines are evidence and no proof.
 *
 * They are no part of the promise that calls have (audit_calls.c): what cannot be written is counted, like
 * other lines. A manager that is killed between a line and the commit of its record leaves it to the next one
 * to write it once more. */
#include "audit.h"
#include "index/rows.h"
#include "wire/transfers.h"

void
audit_files(struct audit *a, const struct call_row *row, const char *session_name)
{
	struct str rest = str_of(row->command);
	struct transfer t;

	while (transfer_next(&rest, &t)) {
		const bool counts = str_is(t.op, "close");
		const struct audit_field fields[] = {
		    AUDIT_TEXT("call", row->id),
		    AUDIT_TEXT("session", row->session),
		    AUDIT_TEXT("name", session_name),
		    AUDIT_TEXT("principal", row->principal),
		    AUDIT_STR("op", t.op),
		    AUDIT_STR("path", t.path),
		    AUDIT_STR("to", t.to),
		    AUDIT_STR("more", t.more),
		    AUDIT_STR("status", t.status),
		    {.key = counts ? "read" : NULL, .number = t.read, .is_number = true},
		    AUDIT_NUMBER("written", t.written),
		    {.key = NULL},
		};
		audit_put(a, "file", fields);
	}
}
