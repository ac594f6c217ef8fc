/* One session: its row, its keeper, and the lifecycle verb that is under way.
 *
 * Invariants:
 *  1. at most one lifecycle act at a time; the others wait in `wants`, in order;
 *  2. session_enter alone assigns the step, with a deadline and words for what is waited for;
 *  3. `paused` is written after blobs, manifest and ref are durable, in one transaction with the
 *     snapshot: who reads it can delete the upper and lose nothing;
 *  4. nothing of an unclean upper is ever stacked or dropped: it is mounted again as the upper;
 *  5. an act that fails before the kill leaves the session running as it was. */
#ifndef BERTH_SESSION_H
#define BERTH_SESSION_H

#include "manager/choices.h"
#include "manager/building.h"
#include "manager/conns.h"
#include "manager/disk.h"
#include "manager/jobs.h"
#include "manager/manager.h"
#include "manager/means.h"

enum session_state {
	SESSION_NEW,
	SESSION_RUNNING,
	SESSION_PAUSED,
	SESSION_DELETED,
	SESSION_PAUSING,
	SESSION_RESUMING,
	SESSION_RESTORING,
	SESSION_FAILED,
	SESSION_STATES
};

enum session_step {
	STEP_IDLE,
	/* to run */
	STEP_CACHE, /* a worker makes the missing layers */
	STEP_TURN,  /* others start */
	STEP_START, /* its workspace is built, then the keeper starts pid 1 */
	/* to pause, restore or remove a running session */
	STEP_HOLD,
	STEP_FREEZE,    /* before A */
	STEP_CAPTURE_A, /* what it is now */
	STEP_WRITE_A,   /* its manifest, so that nothing is lost from here on */
	STEP_THAW,
	STEP_TERMINATE, /* SIGTERM, grace */
	STEP_FREEZE_AGAIN,
	STEP_CAPTURE_B, /* what shutdown wrote */
	STEP_WRITE_B,
	STEP_KILL,
	STEP_GONE, /* the keeper's end */
	STEP_UNDO, /* failed: thaw and admit calls again */
	/* the same for an unclean upper without a keeper: CAPTURE_B, WRITE_B */
	STEP_REF,    /* refs/session-<id>.json */
	STEP_REMOVE, /* a throwaway session's files */
	/* one path of a snapshot: HOLD to THAW, then */
	STEP_VIEW, /* the snapshot's tree is made, read only */
	STEP_PUT,  /* the session itself copies out of it */
	STEP_CHANGE, /* a ref with a new name, labels or facts */
	STEP_REMEMBER, /* of a pause: a worker learns what the last capture saw (session_seen.c) */
	/* a snapshot of a running session (session_snapshot.c) */
	STEP_PREPARE, /* the same of a snapshot, and its files are there */
	STEP_STILL,   /* freeze */
	STEP_READ,    /* its upper is read */
	STEP_GO_ON,   /* thaw; what was read becomes durable meanwhile */
	STEP_SAVE,    /* its manifest */
	STEP_TELL,    /* its head's ref; what was seen */
	STEP_FACTS,   /* of a snapshot that is there */
	STEP_LET_GO,  /* failed: thaw */
};

enum want_kind {
	WANT_RUN,
	WANT_PAUSE,
	WANT_RESTORE,
	WANT_REMOVE,
	WANT_UNDO,
	WANT_REDO,
	WANT_CHANGE,
	WANT_PUT,
	WANT_SNAPSHOT,
};

/* What a want changes of what a session or a snapshot is called; what is not given stays. */
struct session_change {
	const char *verb;
	char labels[1025]; /* "KEY=VALUE" to set, "KEY=" to remove, newlines between */
	char name[64];	   /* of a session: empty, it stays */
	bool undelete;
	bool of_snapshot; /* want.target */
	bool has_name, has_note, has_pin, has_end;
	struct snapshot_facts facts; /* of these */
	struct session_row row;	     /* as it will be */
};

struct session;

struct want {
	struct want *next;
	enum want_kind kind;
	struct asker asker;   /* conn NULL: nobody waits (SIGINT, or the client has gone) */
	struct digest target; /* of one that goes back (want_goes_back) */
	unsigned steps;	      /* of WANT_UNDO, WANT_REDO */
	bool decided;	      /* target is known, and the two that follow */
	bool to_nothing;      /* there is no target: as it was made, the image alone */
	bool unsaved;	      /* it began with changes that no snapshot held: the first step back */
	struct snapshot_facts facts; /* of the snapshot that it makes */
	struct session_change *change; /* owned; of WANT_CHANGE */
	char *path;		       /* owned; of WANT_PUT: what of target, from the top */
	uint64_t grace_ns; /* between SIGTERM and SIGKILL */
	bool base_differs; /* of WANT_RUN: the node's /usr will do, though it is another one's */
	/* Instead of an asker: told of its end, failure NULL: it went well. Frees no session. */
	void (*told)(void *ctx, struct session *s, const struct err *failure);
	void *told_ctx; /* lent */
	bool automatic;    /* of WANT_SNAPSHOT: nobody has asked (session_auto.c) */
	uint32_t settled;  /* of one after calls: its calls_over; no call may have begun since */
	char made_by[256], calls[513]; /* of a snapshot; empty: the verb; none */
};

/* Another snapshot becomes the head, and what it replaces is captured before. */
static inline bool
want_goes_back(const struct want *w)
{
	return w->kind == WANT_RESTORE || w->kind == WANT_UNDO || w->kind == WANT_REDO;
}

struct capture_result {
	bool any; /* there was something to keep */
	struct layer_row layer;
};

struct keeper {
	struct wire wire;
	struct watch ended; /* on pidfd */
	int pidfd;          /* owned; -1: no keeper */
	int pid1;           /* owned: pidfd of the session's pid 1, where no cgroup tells of it; -1 */
	pid_t pid;
	bool linked; /* the wire is open */
	bool unnamed; /* it waits for its session's name (spares.c) */
	struct {
		uint64_t grant;
		char *key; /* owned */
		unsigned roles, forwards;
		struct allowances allow; /* owned */
	} terms; /* of the grant_report that comes next */
};

/* So many start at once, spares among them: more would take each other's processors, and each would
 * be as late as the last. */
enum { SESSION_STARTS_MAX = 4 };

struct session {
	struct session *next;
	struct manager *m;
	bool spare; /* no name, no row, in the list of spares.c: it and session_start_spare know it alone */
	bool only_cache; /* no name, no row: it makes its head's layers ready, and ends
			    (fork_ready.c) */
	/* of a throwaway session (throwaway.h) */
	bool ending;
	char shown_as[64]; /* its hostname; empty: its name */
	void (*lost)(void *ctx, const struct err *why);
	void *lost_ctx; /* lent */
	struct session_row row;
	enum session_state state;
	enum session_step step;
	char waits_for[96];
	uint64_t since_ns; /* CLOCK_REALTIME: of the step */
	struct timer deadline;
	int dir; /* owned: sessions/<id>, or -1: see session_open_dir */
	struct disk_use disk;     /* what its upper holds (disk.h) */
	struct disk_place place;  /* what holds that to its limit (means.h) */
	struct limits_set limits; /* its own; session_limits tells what holds */
	struct choices choices;   /* owned */
	struct {
		bool set; /* else the node's */
		struct retention rule;
	} retention;
	struct merge *merge; /* owned: session_merge.c */
	bool awaited;        /* by the collector: this act began before it has decided */
	struct digest
	    *mounted; /* owned: cached layers that its workspace stands on, while it runs */
	size_t n_mounted;
	struct keeper keeper;
	struct building *building; /* owned, or NULL */
	struct job *job;
	struct want *wants, *current; /* owned */
	bool stopped;                 /* SIGINT has asked for its pause */
	uint32_t seq;                 /* of the keeper command that is under way */
	struct err failure;           /* why the act under way is being undone */
	/* to run */
	uint64_t turn; /* of STEP_TURN: who came first */
	struct layer_row *layers; /* owned: the head's, the lowest first */
	size_t n_layers;
	size_t n_own;  /* so many of them, the topmost, are of its upper (session_seen.c) */
	size_t n_base; /* so many of them the upper, or the next snapshot's new layer, stands on */
	bool kept_unused;    /* no kept upper is to be a lower of this start */
	size_t n_flat;       /* so many of them come from one flattened directory */
	struct digest flat;  /* its name: digest of the digests */
	uint64_t asked_raw_bytes, asked_entries; /* of what the worker is unpacking */
	bool unsynced;	     /* its row is written, but not known to be durable: nothing is told of it */
	bool populated;      /* its whole upper was made by this start (session_whole.c) */
	/* to pause */
	struct capture_result a, b;
	bool wrote_a;
	bool had_keeper;    /* this act began with a mounted upper */
	bool ref_written;   /* refs/session-<id>.json tells what this act makes true */
	bool still_unclean; /* processes may have written after the capture */
	struct digest manifest_a, manifest;
	struct msg_tree_put_report put; /* its last one, without text */
	uint64_t made_ns; /* CLOCK_REALTIME: of the snapshot that was sent to be written last */
	bool has_manifest;
	struct {
		uint64_t frozen_at_ns, frozen_ns; /* CLOCK_BOOTTIME, from the order to the answer */
		bool thawed, captured;
		bool unchanged;            /* the head is the answer */
		unsigned waits;            /* answers of the worker that STEP_TELL waits for */
		bool kept_name, kept_note; /* the head had one already */
	} still;                           /* a snapshot while it runs */
	bool has_next;                     /* its worker notes what it sees in seen.N.new */
	struct autosnap {
		struct timer timer; /* of interval */
		bool settles;       /* its keeper was told to hold calls back */
		bool ran;           /* something may have changed since the last one */
		char calls[513];    /* ended since the last one, blanks between */
		struct err failure; /* of the last one; no code: it went well */
		uint64_t failed_ns; /* CLOCK_REALTIME */
	} automatic;
	struct timer ref_timer;
	struct errand *errand; /* of a worker beside the acts (session_store.c) */
};

const char *session_state_name(enum session_state s);
/* By name among the live ones, or by id; NULL. A deleted one is found by id, and by name where
 * nothing live has it. */
struct session *session_find(struct manager *m, struct str ref);
/* By id, or the one of this name that was deleted last; NULL. */
struct session *session_find_deleted(struct manager *m, struct str ref);
/* A new row, durable; nothing that is seen runs yet. On the node's own image and with nothing of its
 * own, so that a spare can stand for it. */
int session_create(struct manager *m, struct str name, const char *owner, struct session **out,
		   struct err *err) must_check;
/* The same on an image, by its content ("": the node's own), in a network (see networks.h). */
int session_create_on(struct manager *m, struct str name, const char *owner, const char *image,
		      const char *network, struct session **out, struct err *err) must_check;
/* With what it stands on and has from its first row on (origin.h). */
struct origin;
int session_create_from(struct manager *m, struct str name, const char *owner,
			const struct origin *o, struct session **out, struct err *err) must_check;
/* One that shall only make ready what this snapshot stands on; in no list, never durable. */
struct session *session_new_cacher(struct manager *m, const struct digest *head);
/* One without name and row, in no list: spares.c. */
struct session *session_new_spare(struct manager *m, struct err *err);
/* Its row, durable: a session from here on, but for its place in the list. */
int session_claim_spare(struct session *s, struct str name, const char *owner,
			struct err *err) must_check;
/* Into the list by its name; session_leave takes it out again. */
void session_join(struct session *s);
/* A range of uids that nobody has, for a row that is to be. */
int session_pick_slot(const struct manager *m, struct session_row *row, struct err *err) must_check;
void session_leave(struct session *s);
/* The slot that it had, or another one that is free: its ids change then. */
int session_find_slot(struct session *s, unsigned *out, struct err *err) must_check;
/* From its row at start. */
struct session *session_load(struct manager *m, const struct session_row *row);
void session_free(struct session *s);

/* Asks for a lifecycle act. take_want is owned by the session from here; it is answered through its
 * asker. */
void session_want(struct session *s, struct want *take_want);
void want_free(struct want *w);
struct want *want_new(const struct manager *m, enum want_kind kind, const struct asker *asker);
/* Nobody waits for this conn's answers any more: to one question, or (seq NULL) to all. */
void session_forget_conn(struct session *s, const struct conn *c, const uint32_t *seq);
/* The client of a verb wants what it does undone. False: none of this session's acts is that verb's. */
bool session_interrupt(struct session *s, const struct conn *c, uint32_t seq);
/* sessions/<id>, opened when it is needed and closed when the session rests: s->dir. */
int session_open_dir(struct session *s, struct err *err) must_check;

/* ---- between the files of a session ---- */

/* session.c */
/* What it has become, as a line of the audit log. */
void session_audit(const struct session *s);
/* A worker has made progress: the step's deadline begins anew. */
void session_extend(struct session *s, uint64_t deadline_ns);
/* A worker's progress, for who waits for the act: of so many bytes (0: not known). */
void session_progress(struct session *s, const struct msg_progress *done, uint64_t of_bytes,
		      uint64_t of_entries);
void session_enter(struct session *s, enum session_step step, uint64_t deadline_ns,
		   const char *waits_for);
int session_set_state(struct session *s, enum session_state state, const char *reason,
		      struct err *err) must_check;
/* The end of a start, which does not wait for the disk: a power cut may bring back `new` or
 * `resuming`, and takeover.c treats those as if they had run. */
int session_set_running(struct session *s, const char *reason, struct err *err) must_check;
/* The same with a new fence, in one write: this node owns the session from here. */
int session_claim(struct session *s, enum session_state state, struct err *err) must_check;
/* The act is over: answers its want and takes the next. err NULL: it went well. */
void session_finish(struct session *s, const struct err *err);
void session_next(struct session *s);
/* It cannot be made durable now: whoever asks next tries again. */
void session_refuse_wants(struct session *s, const struct err *why);

/* What a worker says, to the act that is under way. A job_fn. */
void session_job(void *ctx, const struct message *m, const struct err *failure);
/* What its keeper answers to a command of the act. */
void session_done(struct session *s, const struct msg_done *done);

/* session_make.c */
/* New rows become durable when this turn ends; their sessions go on then. */
void session_sync_rows(struct manager *m);

/* session_run.c: new or paused to running */
void session_run_begin(struct session *s);
/* Of one that shall only make its layers ready: told to fork_ready_done. */
void session_run_cache(struct session *s);
int session_start_spare(struct session *s, struct err *err) must_check;
/* Its workspace: fds are lent; failure NULL: they are all there. */
void session_run_built(struct session *s, int fds[KEEPER_FDS], const struct err *failure);
void session_run_turn(struct session *s);
void session_run_job(struct session *s, const struct message *m, const struct err *failure);
/* The worker has made a directory of the cache. */
void session_run_unpacked(struct session *s, const struct msg_unpacked *m);
void session_run_started(struct session *s);
/* The layers of s->layers as a tree that cannot be written. 0: session_put_built comes; 1: a worker makes
 * what is missing first: then again; -1. */
int session_run_view(struct session *s, struct err *err) must_check;
void session_run_failed(struct session *s, const struct err *err);
/* Undone while its layers are made, unless another waits for the session; later it goes on. */
void session_run_interrupt(struct session *s, const struct err *why);

/* session_pause.c: running to paused, by its steps */
/* Of WANT_PUT: a snapshot of what runs, as a child of the head, which stays the head: the upper goes on,
 * and what it loses from here on no later capture of it would tell. session_put_saved goes on. */
void session_save_begin(struct session *s);
void session_pause_begin(struct session *s);
void session_pause_done(struct session *s, const struct msg_done *done);
void session_pause_job(struct session *s, const struct message *m, const struct err *failure);
/* The keeper's process has ended, in whatever step. */
void session_pause_keeper_gone(struct session *s);
void session_pause_failed(struct session *s, const struct err *err);
/* Undone before the kill; later it goes on. */
void session_pause_interrupt(struct session *s, const struct err *why);
void session_pause_deadline(struct session *s);

/* session_undo.c: where an undo or redo goes, and the way forward that it leaves */
/* Begins: whether there is so much to go back, or forward. captures: whether there are unsaved
 * changes is not known yet. ABSENT: there is not. */
int session_undo_begin(struct session *s, bool captures, struct err *err) must_check;
/* Once, when that is known, and before anything of the session has ended. */
int session_undo_decide(struct session *s, bool unsaved, struct err *err) must_check;
/* In the transaction of any act: a new snapshot ends the way forward, an undo makes one. */
int session_undo_commit(struct session *s, struct err *err) must_check;
void session_undo_say(struct session *s, const struct want *w, struct buf *out);

/* session_put.c: one path of a snapshot into the workspace, which runs */
void session_put_begin(struct session *s);
/* It runs: what is replaced is saved first. */
void session_put_running(struct session *s);
/* It is saved: a.any, manifest_a. */
void session_put_saved(struct session *s);
void session_put_job(struct session *s, const struct message *m, const struct err *failure);
/* fd: the tree's top, lent; failure NULL: it is there. */
void session_put_built(struct session *s, int tree, const struct err *failure);
void session_put_report(struct session *s, const struct msg_tree_put_report *r);
void session_put_failed(struct session *s, const struct err *err);
void session_put_interrupt(struct session *s);
void session_put_say(struct session *s, const struct want *w, struct buf *out);

/* session_change.c: names, labels, pins, and back from deletion */
void session_change_begin(struct session *s);
void session_change_job(struct session *s, const struct message *m, const struct err *failure);
void session_change_failed(struct session *s, const struct err *err);
void session_change_say(struct session *s, const struct want *w, struct buf *out);
/* session_snapshot.c: a snapshot of a running session, or its head's facts */
void session_snapshot_begin(struct session *s);
void session_snapshot_done(struct session *s, const struct msg_done *done);
void session_snapshot_job(struct session *s, const struct message *m, const struct err *failure);
void session_snapshot_failed(struct session *s, const struct err *err);
void session_snapshot_interrupt(struct session *s, const struct err *why);
/* More of what say_result tells. */
void session_snapshot_json(const struct session *s, const struct want *w, struct buf *out);
void session_snapshot_text(const struct session *s, const struct want *w, struct buf *out);

/* session_auto.c: snapshots that nobody asks for */
/* Its keeper has started, or was found again, or the mode was changed. */
void session_auto_begin(struct session *s);
void session_auto_calls_over(struct session *s, const struct msg_calls_over *m);
void session_auto_calls_wait(struct session *s, const struct msg_calls_wait *m);
/* What is under way has read all, or comes to nothing: calls may begin. */
void session_auto_settled(struct session *s, const struct want *w);
/* It is about to read: it takes the names of the calls that have ended. */
void session_auto_name(struct session *s, struct want *w);
/* Of any snapshot of a running session. err NULL: it went well. */
void session_auto_end(struct session *s, const struct want *w, const struct err *err);
void session_auto_stop(struct session *s);

/* session_seen.c */
/* n_own and n_base of the head's layers. */
int session_load_own(struct session *s, struct err *err) must_check;
/* Whether a capture of the whole upper gave the very layer that the head has of it. */
bool session_is_own(const struct session *s, const struct digest *layer);
/* Before a start: an upper whose bytes may be lost gives way to the archives that hold them. */
int session_leave_lost(struct session *s, struct err *err) must_check;
/* How many layers of a head stem from the upper that goes on with it. head: the session's, or the
 * one that its act makes. */
int session_count_own(struct session *s, const struct digest *head, size_t *out,
		      struct err *err) must_check;
/* To the worker of s->job. Then n_base is what the next layer stands on. */
int session_send_remember(struct session *s, bool with_next, struct err *err) must_check;
void session_take_remembered(struct session *s, bool believed);
/* What was seen is the head's. */
void session_keep_seen(struct session *s);
void session_drop_seen(struct session *s);

/* session_store.c: what the steps need from disk and index */
int session_load_layers(struct session *s, const struct digest *snapshot,
			struct err *err) must_check;
int session_open_upper(struct session *s, unsigned n, struct err *err) must_check;
bool session_has_upper(struct session *s);
/* s->job: a worker that has the upper. */
int session_start_capture(struct session *s, struct err *err) must_check;
/* How an upper is to be captured whose processes, now frozen, go on: enum capture_as_how. */
unsigned session_live_how(const struct session *s);
void session_take_captured(struct capture_result *out, const struct msg_captured *c);
int session_send_snapshot(struct session *s, bool with_b, struct err *err) must_check;
int session_send_ref(struct session *s, const struct digest *head, struct err *err) must_check;
int session_commit_pause(struct session *s, struct err *err) must_check;
int session_commit_a(struct session *s, struct err *err) must_check;
/* s->manifest, with what A is, becomes the head of a session that goes on. */
int session_commit_live(struct session *s, struct err *err) must_check;
void session_sync_later(struct session *s);
void session_ref_later(struct session *s);
void session_ref_job_end(void *manager);
void session_errand_stop(struct session *s);
bool session_errand_blocks(const struct session *s);

/* session_retention.c */
int session_retention_load(struct session *s, struct err *err) must_check;
/* "default": the node's again. */
int session_retention_set(struct session *s, struct str text, struct err *err) must_check;
/* What holds. */
void session_retention_text(const struct session *s, char out[RETENTION_TEXT_BYTES]);

/* session_damage.c: adds to a failure of a damaged layer which snapshots of the session lack it */
void session_say_good(struct session *s, struct err *failure);

/* session_merge.c */
/* After a snapshot: begins to merge the topmost layers of the head, where they are many. */
void session_merge_later(struct session *s);
void session_merge_stop(struct session *s);
/* Before a snapshot is written: what is merged takes its place in s->layers. */
void session_merge_apply(struct session *s);
/* What was merged, and waits for a snapshot to list it; NULL. */
const struct layer_row *session_merge_made(const struct session *s);
/* A snapshot was committed. */
void session_merge_done(struct session *s);

/* session_lowers.c: which cached layers are mounted */
/* Before they are: they are kept in sessions/<id>/lowers too, for a next manager. */
int session_hold_lowers(struct session *s, struct err *err) must_check;
/* What an earlier manager has mounted. */
void session_find_lowers(struct session *s);
bool session_holds(const struct session *s, const struct digest *layer);

/* session_whole.c: on a node that stacks no layers */
/* Whether the upper can be used as it lies there: 1, 0 it must be made of the head's layers, -1. */
int session_whole_ready(struct session *s, struct err *err) must_check;
int session_whole_populate(struct session *s, struct err *err) must_check;
/* The worker has made it. */
int session_whole_made(struct session *s, struct err *err) must_check;

/* session_limits.c */
struct limits session_limits(const struct session *s);
int session_limits_load(struct session *s, struct err *err) must_check;
int session_limits_save(struct session *s, struct err *err) must_check;
int session_limits_put(struct session *s, struct err *err) must_check; /* within a transaction */
/* Whether a resource limit of each start does what no controller of this node does. */
bool session_limits_by_rlimit(const struct manager *m, enum limit l);
/* Binds what runs to what holds now. */
int session_limits_apply(struct session *s, enum limit l, struct err *err) must_check;
void session_limits_json(const struct session *s, struct buf *out, bool whole);
void session_limits_text(const struct session *s, struct buf *out);

/* session_network.c */
/* What `new` asks for, or the default. DENIED: host, but for operators. */
int session_network_choose(const struct manager *m, const struct conn *c, const struct request *r,
			   char out[NETWORK_TEXT_BYTES], struct err *err) must_check;
/* What its text stands for, by the config as it is: ABSENT, USAGE as networks_find. */
int session_network_find(const struct session *s, struct network *out, struct err *err) must_check;
void session_network_json(const struct session *s, struct buf *out);
void session_network_text(const struct session *s, struct buf *out);

/* keepers.c */
/* The process alone, which takes its time to begin; then, with all that it needs, its start. */
int keeper_spawn(struct session *s, struct err *err) must_check;
int keeper_start(struct session *s, int fds[KEEPER_FDS], struct err *err) must_check;
/* Of a keeper that was started without one: the end of its start. */
int keeper_name(struct session *s, struct err *err) must_check;
/* Connects to the keeper that an earlier manager left. 1 alive and linked, 0 none, -1. */
int keeper_find(struct session *s, struct err *err) must_check;
/* A directory of the session that its keeper's uid writes, and the session root's group. */
int keeper_open_dir(struct session *s, const char *name, mode_t mode, struct err *err) must_check;
void keeper_cut(struct session *s); /* SIGKILL; its end comes as an event */
/* SIGKILL; it is gone when this returns 0, so that nothing comes into its cgroup any more. */
int keeper_end(struct session *s, struct err *err) must_check;
/* A keeper that broke its row is presumed taken; one without a link can serve nobody. Both are ended,
 * and their end is told by the pidfd: until then nothing of the session is touched. */
void keeper_unlink(struct session *s);
void keeper_close(struct session *s);
/* When the keeper is gone: waits until no process of the session is left (bounded; they are killed
 * where there is a cgroup, and end with pid 1 where there is none), and removes its cgroups. */
int keeper_clear(struct session *s, struct err *err) must_check;
/* Reads what it has sent until now. */
void keeper_read(struct session *s);
/* Gives a conn a link to this keeper; *out is the conn's end. */
int keeper_grant(struct session *s, struct conn *c, int *out, struct err *err) must_check;
/* A link for the manager itself, on which it says what a conn says, for this principal. */
int keeper_grant_self(struct session *s, const char *principal, const char *role, int *out,
		      struct err *err) must_check;
/* Whether a process holds the session's lock. */
bool keeper_lives(struct session *s);

/* records.c: call records on their way into the index */
void records_add(struct session *s, const struct msg_call_record *r);
void records_flush(struct manager *m);
void records_free(struct manager *m);
/* The spool that a keeper left, when no keeper lives. */
void records_replay(struct session *s);

#endif
