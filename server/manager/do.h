/* The verbs: each is one function of a do_*.c, named by its row; do.c checks and dispatches. */
#ifndef BERTH_DO_H
#define BERTH_DO_H

#include "manager/conns.h"
#include "manager/session.h"

/* A verb that is answered now or later through `asker`; it must have been checked by do_verb.
 *   s   the session it is about, NULL for verbs without one
 *   on failure returns -1 with WHAT set or not: do_verb sets it, and answers */
typedef int (*do_fn)(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		     struct asker *asker, struct err *err);

void do_verb(struct conn *c, const struct msg_verb_start *v);
/* An answer of a keeper to a verb's question, with fds or done. False: it was none. */
bool do_keeper_answer(struct session *s, uint32_t seq, struct message *opened,
		      const struct msg_done *done);
void do_keeper_gone(struct session *s);
/* Of do_forget_conn: whoever follows the audit log. */
void do_audit_forget_conn(const struct conn *c, const uint32_t *seq);
/* seq NULL: all of its questions. */
void do_forget_conn(const struct conn *c, const uint32_t *seq);

int do_new(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	   struct asker *asker, struct err *err) must_check;
int do_set(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	   struct asker *asker, struct err *err) must_check;
/* set SESSION retention VALUE (session_retention.c) */
int do_set_retention(const struct conn *c, struct session *s, struct str value, struct asker *asker,
		     struct err *err) must_check;
/* The limits that `new` was given. */
int do_new_limits(struct manager *m, const struct conn *c, const struct request *r,
		  struct limits_set *out, struct err *err) must_check;
int do_ls(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	  struct asker *asker, struct err *err) must_check;
int do_show(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err) must_check;
int do_why(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	   struct asker *asker, struct err *err) must_check;
int do_pause(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err) must_check;
int do_snapshot(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		struct asker *asker, struct err *err) must_check;
int do_resume(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	      struct asker *asker, struct err *err) must_check;
int do_snapshots(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		 struct asker *asker, struct err *err) must_check;
int do_restore(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	       struct asker *asker, struct err *err) must_check;
int do_undo(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err) must_check;
/* restore --path. */
int do_restore_path(struct manager *m, const struct request *r, const struct digest *snapshot,
		    struct session *s, struct asker *asker, struct err *err) must_check;
int do_redo(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err) must_check;
int do_rename(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	      struct asker *asker, struct err *err) must_check;
int do_undelete(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		struct asker *asker, struct err *err) must_check;
int do_label(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err) must_check;
int do_rm(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	  struct asker *asker, struct err *err) must_check;
int do_calls(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err) must_check;
int do_call_show(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		 struct asker *asker, struct err *err) must_check;
int do_call_output(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		   struct asker *asker, struct err *err) must_check;
int do_call_kill(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		 struct asker *asker, struct err *err) must_check;
int do_call_input(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		  struct asker *asker, struct err *err) must_check;
/* A conn has written what its client had for a call. */
void do_input_given(struct conn *c, const struct msg_verb_input_end *m);
/* Calls of this session have ended in the index: nobody gives them stdin any more. */
void do_input_told(struct manager *m, const char *session);
int do_call_wait(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		 struct asker *asker, struct err *err) must_check;
/* The row of the call that a verb names, as new as what its keeper has said. */
int do_find_call(struct manager *m, const struct request *r, struct session *s,
		 struct call_row *out, struct err *err) must_check;
void do_call_json(struct buf *out, const struct call_row *r);

/* ---- do_wait.c: who waits for the end of a call ---- */

/* Calls of this session have ended in the index. */
void do_wait_told(struct manager *m, const char *session);
/* seq NULL: all of its waits. */
void do_wait_forget(const struct conn *c, const uint32_t *seq);

int do_audit(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err) must_check;

/* ---- do_read.c, do_import.c: workers whose pipes go to a conn ---- */

int do_read(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err) must_check;
int do_import(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	      struct asker *asker, struct err *err) must_check;
/* seq NULL: all of its reads, imports. Their workers end. */
void do_read_forget(const struct conn *c, const uint32_t *seq);
void do_import_forget(const struct conn *c, const uint32_t *seq);
/* The client has given all that it had. False: it was not for an import. */
bool do_import_given(struct conn *c, const struct msg_verb_input_end *m);

/* A lifecycle act that ends live calls: those of others are in its way, unless --force was given; --note
 * goes along. target: of WANT_RESTORE, else NULL. */
int do_act(enum want_kind kind, const struct digest *target, struct conn *c, const struct request *r,
	   struct session *s, struct asker *asker, struct err *err) must_check;
/* The snapshot that a word names (snapshot_ref_check), of session s, or (NULL) of any that this
 * principal may see; then a session's name or id stands for its newest one. out_s: its session; may
 * be NULL. ABSENT: none, or more than one. */
int do_find_snapshot(const struct conn *c, struct str ref, const struct session *s,
		     struct snapshot_row *out, struct session **out_s, struct err *err) must_check;

int do_fork(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	    struct asker *asker, struct err *err) must_check;
/* What a word of type SUBJECT names, of what this principal may see: a session by its name, or else
 * a snapshot. *out_any: out is a snapshot, of *out_s. */
int do_find_origin(const struct conn *c, struct str ref, struct snapshot_row *out, bool *out_any,
		   struct session **out_s, struct err *err) must_check;
/* As do_find_snapshot of session s; or one that its head comes from, whosever it is: a fork's past
 * is in the session that it was made of. */
int do_find_ancestor(const struct conn *c, struct str ref, const struct session *s,
		     struct snapshot_row *out, struct err *err) must_check;
/* `,"calls":[{"call":…,"command":…},…]` of the ids of a snapshot's row. */
void do_put_calls(struct manager *m, const char *calls, struct buf *out);
int do_bisect(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	      struct asker *asker, struct err *err) must_check;
void do_fork_forget(const struct conn *c, const uint32_t *seq);
/* As do_wait_told and do_wait_forget. */
void do_bisect_told(struct manager *m, const char *session);
void do_bisect_forget(const struct conn *c, const uint32_t *seq);

enum { ANSWER_MAX_BYTES = 6 << 20 }; /* below what a link queues (WIRE_QUEUE_MAX_BYTES) */
/* Prints a finished answer and ends it. USAGE when it did not fit into its ANSWER_MAX_BYTES. */
int do_answer(struct asker *asker, struct buf *answer, struct err *err) must_check;

int do_image_import(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		    struct asker *asker, struct err *err) must_check;
int do_image_ls(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		struct asker *asker, struct err *err) must_check;
int do_image_rm(struct manager *m, struct conn *c, const struct request *r, struct session *s,
		struct asker *asker, struct err *err) must_check;

int do_verify(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	      struct asker *asker, struct err *err) must_check;

int do_usage(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	     struct asker *asker, struct err *err) must_check;
void do_usage_forget_conn(const struct conn *c, const uint32_t *seq);
void do_usage_stop(void);

struct collect_plan;
/* What went, or, of a dry one, would go. Ends the answer. */
void do_gc_answer(struct asker *asker, const struct collect_plan *p, uint64_t freed_bytes);
int do_gc(struct manager *m, struct conn *c, const struct request *r, struct session *s,
	  struct asker *asker, struct err *err) must_check;

/* ---- shared words of the answers (do.c) ---- */

/* "12s", "5m", "3h", "2d" since a CLOCK_REALTIME */
void age_format(uint64_t since_ns, char out[16]);

#endif
