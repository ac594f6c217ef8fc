/* The parts of berth-keeper, as they know each other. Each part's rules stand in its .c file.
 *
 *   keeper.c   start, the links to manager and init, the end        call.c      one call
 *   grant.c    one link to a conn                                   terminal.c  stdin of a PTY
 *   admit.c    may a call start, and with what                     journal.c   its output
 *   pause.c    freeze, thaw, hold, terminate, kill                  record.c    the spool
 *   growth.c   who is told that a journal grew                      excess.c    the limits it hit
 *   sockets.c  sockets of the session's network                     spare.c     started without a name
 *   once.c     keys of calls                                        join.c      who listens to a call
 *   ask.c      what the manager asks about one call                 retain.c    old journals
 *   shell.c    named shells, and who waits for one                  spill.c     its output as plain files
 *   stream.c   its stdout and stderr, into its journal              sftp.c      the subsystem: a protocol on its stdout
 *   ahead.c    made for the next call                               resolve.c   host names, as inside
 *   request.c  who asked for the same before                        tunnel.c    -L, -R, -D
 *   settle.c   the moment between calls                             putting.c   files of a snapshot come back */
#ifndef BERTH_KEEPER_H
#define BERTH_KEEPER_H

#include "engine.h"
#include "journal.h"
#include "once.h"
#include "record.h"
#include "resolve.h"
#include "sockets.h"

#include "base/loop.h"
#include "base/num.h"
#include "verbs/allowances.h"
#include "verbs/options.h"
#include "wire/wire.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	CALL_WATCHERS_MAX = 32,                   /* readers of one call besides its owner */
	CALL_COMMAND_BYTES = 4096,                /* of the command in its record */
	CALL_ENV_MAX = 256,                       /* variables of one call */
	CALL_READERS_MAX = 256,                   /* that have joined one call by its key */
	SHELL_KEY_BYTES = OPTION_NAME_BYTES + 17, /* name, @, 16 digits of its principal's sha256 */
	SHELL_WORDS_BYTES = 128,
	GRANTS_MAX = 1024,
	MESSAGES_AT_ONCE = 64, /* of one link, before the others get their turn */
};

struct keeper;

/* ---- spare.c: started before its session has a name ---- */

/* pid 1 runs; returns when the manager has given the session its name. -1: nobody will. */
int spare_wait(struct keeper *k, struct err *err) must_check;

/* ---- terminal.c: what conn writes to a call's stdin goes into its PTY ---- */

struct terminal {
	int master; /* owned, -1: none */
	int input;  /* owned: read end of the pipe that conn writes to; -1: at its end */
	struct watch input_watch, master_watch;
	struct loop *loop; /* lent */
	char pending[4096];
	size_t from, to; /* what of it the PTY has not taken */
	char last;       /* the last byte that came, 0: none */
	bool end_sent;
};

/* Checks that take_fd, which came from init, is the master of a PTY. */
int terminal_check(int fd, struct err *err) must_check;
/* input: the terminal's from now on; master: lent, duplicated. */
int terminal_open(struct terminal *t, struct loop *l, int master, int take_input,
		  struct err *err) must_check;
void terminal_close(struct terminal *t);
void terminal_resize(struct terminal *t, uint32_t columns, uint32_t rows, uint32_t x_pixels,
		     uint32_t y_pixels);

/* ---- call.c ---- */

/* ---- excess.c: which limit did a call run into ---- */

struct limit_counts {
	uint64_t oom_kills, forks_refused;
};

struct excess {
	struct limit_counts before;
	bool disk_was_full, disk_filled; /* at its start; at a moment of its life */
	bool disk_words;                 /* it has said what programs say then */
	struct timer wall;
	uint64_t wall_ns;      /* the limit that it was started under */
	bool by_option;	       /* it is the caller's, not the session's */
	bool timed_out, alone; /* alone: no other call was live beside it */
	char hit[17];          /* key of the limit; empty: none */
	char notice[256];      /* what its user is told */
};

struct call;
/* It is admitted, its command begins, it has ended with its outcome. */
void excess_begin(struct call *c);
void excess_launched(struct call *c);
/* It has written this, to where errors are told. */
void excess_heard(struct call *c, const char *bytes, size_t n);
/* By what the session's disk is held to its limit. */
void excess_take_room(struct keeper *k, uint64_t limit_disk, int take_fd);
void excess_judge(struct call *c);
void excess_end(struct call *c); /* nothing of it lives any more */
/* A signal to all processes of a call, where they can be told from others. */
int excess_signal(struct call *c, uint32_t signal, struct err *err) must_check;

/* ---- spill.c: the output of calls that asked, as plain files that the session may read ---- */

struct spill {
	int fd[2]; /* owned: stdout, stderr; -1: none */
	uint64_t bytes[2];
};

/* Where options ask for it: `<call>.out` and `<call>.err` in KEEPER_SPILL. */
int spill_open(struct call *c, struct err *err) must_check;
void spill_append(struct call *c, enum journal_stream as, const char *bytes, size_t n);
void spill_close(struct spill *s);
/* Takes back the files of a call that did not start. */
void spill_remove(const struct call *c);

enum call_state { CALL_RUNNING, CALL_DRAINING, CALL_LATE, CALL_GONE, CALL_QUEUED };

struct call_stream {
	struct call *call;
	enum journal_stream as;
	int fd; /* owned, -1: at its end */
	struct watch watch;
};

struct call {
	struct call *next, **link;
	struct keeper *keeper;
	char id[ID_BYTES];
	uint32_t number; /* init's name for it */
	enum call_state state;
	const char *waits_for; /* the words of what it waits for */
	char shell_words[SHELL_WORDS_BYTES]; /* those of one that is QUEUED */
	struct timer timer;

	struct grant *owner; /* lent, NULL: nobody any more */
	uint32_t channel;    /* the owner's name for it */
	struct reader *readers; /* owned: who has joined it besides, the oldest first */
	uint32_t n_readers;
	int feed;          /* owned: a second write end of stdin, until its end is told; -1: none */
	uint64_t fed;      /* bytes that were written to it */
	struct timer hold; /* until then its stdin waits for an owner */
	char principal[129];
	char *command; /* owned, cut to CALL_COMMAND_BYTES */
	bool pty;
	struct call_options options;
	struct digest request; /* with a key: what was asked */

	struct launch *launch; /* owned: what init is to start; NULL: it has it */
	struct sftp *sftp; /* owned: it is the subsystem, and its owner reads stdout itself; NULL */
	char shell[SHELL_KEY_BYTES]; /* the named shell it runs in; empty: none */

	struct journal journal;
	struct call_stream out, err;
	struct spill spill;
	struct terminal terminal;
	int input;                         /* owned: stdin's read end until the PTY is there, -1 */
	int growth[1 + CALL_WATCHERS_MAX]; /* owned: [0] the owner's eventfd, then write ends of
					    * pipes to watchers; -1: free */
	int n_growth;
	bool grown; /* to be told when the turn ends */

	uint64_t started_ns, last_byte_ns, drain_until_ns, drained_bytes, place_wait_ns;
	uint64_t cpu_ns, peak_bytes;
	struct excess excess; /* which limits it ran into */
	struct journal_outcome outcome;
	bool place_gone; /* the engine's place for its processes is removed */
};

/* A call that was admitted and whose process init is starting, or that waits for its shell: on the
 * list from now on. */
void call_begin(struct call *c);
/* Init starts it now. */
void call_launched(struct call *c);
/* Of one that is QUEUED: it ends without having run. */
void call_cancel(struct call *c, const struct journal_outcome *outcome);
/* Frees a call that was never begun, or is over. */
void call_free(struct call *c);
AUTO_OF(call)
struct call *call_find(struct keeper *k, const struct grant *owner, uint32_t channel);
struct call *call_find_id(struct keeper *k, struct str id);
void call_signal(struct call *c, uint32_t signal);
void call_resize(struct call *c, const struct msg_call_resize *m);
void call_taken(struct call *c, uint64_t journal_bytes);
/* Reads on where the journal has room again. */
void call_resume(struct call *c);
/* From init. */
void call_started(struct keeper *k, uint32_t number, uint32_t pid);
void call_take_pty(struct keeper *k, uint32_t number, int take_master);
void call_exited(struct keeper *k, const struct msg_init_exited *m);
/* No process of the session lives any more: every call ends now. */
void call_end_all(struct keeper *k, const char *ended_by);
void call_free_all(struct keeper *k);

/* No stream is read any more: its end, where that was all it waited for. */
void call_streams_ended(struct call *c);

/* ---- stream.c ---- */

/* Also resumes one that was at rest. */
void stream_watch(struct call_stream *s);
void stream_close(struct call_stream *s);
/* Nobody holds their other side any more, or they were closed. */
bool stream_both_ended(const struct call *c);
/* Whether the journal has room, or what the pipes hold is read without. */
bool stream_may_read(const struct call *c);
/* Reads what the streams hold, without looking at what comes after them. */
void stream_empty_both(struct call *c);
/* To the journal and to what keeps the output besides. A failure is logged once, and told at the end. */
void stream_append(struct call *c, enum journal_stream as, const char *bytes, size_t n);

/* ---- growth.c ---- */

/* Tells that the journal grew, when this turn ends. */
void growth_note(struct call *c);
/* The same at once. */
void growth_tell(struct call *c);
/* A reader of its own: a journal fd and the read end of a pipe, both the caller's to close. The pipe
 * is readable when the journal grew, and hangs up when nobody appends to it any more. */
int growth_watch(struct call *c, int *out_journal, int *out_growth, struct err *err) must_check;
/* Nobody appends any more. */
void growth_end_watchers(struct call *c);

/* ---- join.c ---- */

/* Says the answer to `call_start`: the call has this key already, and lives or has ended. What cannot be
 * sent cuts the link. */
int join_live(struct call *c, struct grant *g, uint32_t channel, struct err *err) must_check;
int join_ended(struct grant *g, uint32_t channel, const char *call, struct err *err) must_check;
/* Whether a channel has a call, as its owner or not. */
bool join_has(const struct keeper *k, const struct grant *g, uint32_t channel);
/* A channel is gone. Of an owner: SIGHUP to the processes; with a key the next reader is the owner, or
 * stdin waits for one. It is journaled until it ends. */
void join_leave(struct keeper *k, const struct grant *g, uint32_t channel);
/* The same for all channels of a link. */
void join_leave_all(struct keeper *k, const struct grant *g);
void join_fed(struct call *c, uint64_t bytes);
/* Its owner gives no more stdin. */
void join_owner_input_ended(struct call *c);
void join_end_input(struct call *c);
/* One that has waited for its shell begins: from now on it can read what was given. */
void join_launched(struct call *c);
/* To all that listen: it has ended. None of them does any more. */
void join_tell_end(struct call *c, const char *notice);
void join_tell_output_end(const struct call *c); /* the command runs on */
void join_tell_growth(struct call *c);
void join_done(struct call *c);

/* ---- request.c ---- */

/* NAME=VALUE that is the command's, none of ours. */
bool request_is_variable(struct str s);
/* What makes two requests the same one: kind, command, where, terminal or not, the variables in any
 * order. Not how the caller waits for it. */
struct digest request_sum(const struct grant *g, const struct msg_call_start *m,
			  const struct call_options *o);
/* 1: its channel has joined, or is told of, the call that has this key; 0: there is none. */
int request_join(struct grant *g, const struct msg_call_start *m, const struct call_options *o,
		 const struct digest *request, struct err *err) must_check;

/* ---- ahead.c: for the next call ---- */

struct ahead {
	char call[ID_BYTES]; /* the id that it is to have */
	int file, place;     /* owned; file -1: nothing is there; place -1: none */
};

/* When this turn ends. */
void ahead_make(struct keeper *k);
/* The id of a call that begins, and what is there for it: else the fds stay as they are. */
void ahead_take(struct keeper *k, char out_call[ID_BYTES], int *out_file, int *out_place);
/* Removes what nobody took. */
void ahead_drop(struct keeper *k);

/* ---- retain.c ---- */

void retain_take(struct keeper *k, const struct msg_retention *m);

/* ---- ask.c ---- */

void ask_watch_journal(struct keeper *k, const struct msg_journal_watch *m);
void ask_kill(struct keeper *k, const struct msg_call_kill *m);
void ask_input(struct keeper *k, const struct msg_call_input *m);
void ask_input_close(struct keeper *k, const struct msg_call_input_close *m);

/* ---- admit.c ---- */

/* Admits and starts a call, or answers the owner with call_refused. -1: the link must be cut. */
int admit_call(struct grant *owner, const struct msg_call_start *m, struct err *err) must_check;
/* Keeps its key, has init start what was admitted, and forgets how. */
int admit_launch(struct call *c, struct err *err) must_check;
void launch_free(struct launch *l);
void launch_resize(struct launch *l, const struct msg_call_resize *m);

/* ---- shell.c: named shells ---- */

/* Which shell a call of owner runs in: a developer's are his alone. */
void shell_key(const struct call_options *o, const struct grant *owner, char out[SHELL_KEY_BYTES]);
int shell_fill_argv(const struct call *c, struct str command, struct buf *out,
		    struct err *err) must_check;
/* Whether another call is in the shell of this one, or waits for it; then this one waits, with words. */
bool shell_must_wait(struct call *c);
/* No process is in this shell any more: the next call's turn. */
void shell_next(struct keeper *k, const char *key);
/* The calls that wait for a shell end. */
void shell_cancel_all(struct keeper *k, const char *ended_by);

/* ---- sftp.c: the subsystem ---- */

struct sftp; /* of a call that is one */

/* Whether a subsystem may start: it is this one, the node has it, and nothing was asked that it cannot do. */
int sftp_check(const struct keeper *k, const struct msg_call_start *m,
	       const struct call_options *options, struct err *err) must_check;
int sftp_open(struct call *c, struct err *err) must_check;
int sftp_fill_argv(const struct keeper *k, struct buf *out, struct err *err) must_check;
/* Whether a variable may reach its loader. */
bool sftp_takes_variable(struct str variable);
/* To init, before the init_exec of the call. */
int sftp_send_files(struct call *c, struct err *err) must_check;
/* It has written this to stderr: its log. */
void sftp_heard(struct call *c, const char *bytes, size_t n);
void sftp_taken(struct call *c, const struct msg_call_piped_taken *m);
/* Whether its owner has read all that it wrote, or there is no owner. */
bool sftp_is_drained(const struct call *c);
uint64_t sftp_out_bytes(const struct call *c);
/* What its log has told goes to the manager; a failure's words to its user. */
void sftp_end(struct call *c);
void sftp_free(struct sftp *s);

/* ---- grant.c ---- */

struct grant {
	struct grant *next, **link;
	struct keeper *keeper;
	uint64_t number;
	struct wire conn;
	struct timer until;
	char principal[129], role[17], user[129], peer[65];
	char *key; /* owned: what was let in, for the next manager */
	uint32_t roles, forwards; /* forwards: enum forward_right */
	struct allowances allow; /* owned: of forwarding and terminals */
	bool dead;
	bool waits; /* its last message is a call_start that stays there (settle.c) */
};

/* Of the grant that comes next. */
void grant_take_terms(struct keeper *k, const struct msg_grant_terms *m);

void grant_open(struct keeper *k, const struct msg_grant *m, int take_fd);
/* What comes in at take_fd is for the agent of its client. */
void grant_agent(struct keeper *k, const struct msg_agent_listen *m, int take_fd);
void grant_revoke(struct keeper *k, uint64_t number);
void grant_adopt(struct keeper *k, uint64_t number, int fd);
/* Cuts the link after a failed send or a broken row. */
void grant_cut(struct grant *g, const struct err *why);
/* The same when this turn ends: for who walks the calls, which a cut would change under him. */
void grant_cut_later(struct grant *g, const struct err *why);
int grant_report_all(struct keeper *k, struct err *err) must_check;
void grant_close_all(struct keeper *k);
/* Calls may begin again: what waits in the links is taken. */
void grant_go_on(struct keeper *k);
bool grant_any_waits(const struct keeper *k);

/* ---- tunnel.c: connections into the session's network and listeners in it ---- */

void tunnel_init(struct keeper *k);
/* What was asked of init comes to nothing. */
void tunnel_init_gone(struct keeper *k, const struct err *why);
/* -1: the link must be cut. */
int tunnel_open(struct grant *g, const struct msg_forward_open *m, struct err *err) must_check;
int tunnel_listen(struct grant *g, const struct msg_forward_listen *m, struct err *err) must_check;
/* Removes sockets of agents that a keeper which was killed has left. */
void tunnel_sweep(struct keeper *k);
/* name: in spill/. */
void tunnel_agent(struct grant *g, struct str name, int take_fd);
/* Nobody wants it any more. number NULL: all of that link. */
void tunnel_leave(struct keeper *k, const struct grant *g, const uint32_t *number);

/* ---- settle.c: between calls ---- */

struct settle {
	bool on;	 /* the manager takes a snapshot then */
	bool closed;	 /* no call begins */
	uint32_t number; /* of the last calls_over */
	struct timer timer;
	char calls[512]; /* that have ended since that, blanks between */
	uint32_t more;	 /* and so many that found no room there */
};

void settle_set(struct keeper *k, bool on);
/* Its end was told, and it is no live one any more. */
void settle_call_ended(struct keeper *k, const struct call *c);
void settle_end(struct keeper *k, uint32_t number);
/* The manager is gone. */
void settle_forget(struct keeper *k);
/* Answered by done. */
void settle_freeze(struct keeper *k, uint32_t seq, uint32_t number);

/* ---- pause.c ---- */

enum pause_state { PAUSE_IDLE, PAUSE_FREEZING, PAUSE_TERMINATING, PAUSE_KILLING };

struct pause {
	enum pause_state state;
	uint32_t seq; /* of the command under way */
	const char *waits_for;
	struct timer timer;
	struct watch events;
	uint64_t deadline_ns;
	char ended_by[17];
};

void pause_freeze(struct keeper *k, uint32_t seq);
void pause_thaw(struct keeper *k, uint32_t seq);
void pause_suspend(struct keeper *k, const struct msg_suspend *m);
void pause_hold(struct keeper *k, uint32_t seq, bool hold);
void pause_terminate(struct keeper *k, uint32_t seq, uint64_t grace_ns);
void pause_kill(struct keeper *k, uint32_t seq, struct str ended_by);
/* A process ended: maybe the last one that was waited for. */
void pause_process_ended(struct keeper *k);
/* pid 1 was reaped and all calls have ended. */
void pause_box_ended(struct keeper *k);
/* Undoes what a manager that is gone had begun: thaw, admit again. */
void pause_forget(struct keeper *k);

/* ---- keeper.c ---- */

/* ---- putting.c: files of a snapshot, back into the workspace by a child of init ---- */

enum { PUTTING_LINE_BYTES = 1024 };

struct putting {
	uint32_t seq;
	int pipe; /* owned, -1: none is under way */
	struct watch watch;
	uint64_t told_ns;
	size_t n;
	char line[PUTTING_LINE_BYTES];
};

/* Takes the tree of m->fds. */
void putting_begin(struct keeper *k, struct message *m);
void putting_stop(struct keeper *k, uint32_t seq);
/* init is gone, or the keeper ends. */
void putting_end(struct keeper *k, const struct err *why);

struct keeper {
	struct loop loop;
	const struct engine *engine; /* lent */
	struct sandbox box;
	int fds[KEEPER_FDS]; /* owned, -1 where not needed any more */
	int null;            /* owned: /dev/null, for fds that a row wants and nobody uses */
	uid_t start_uid;

	char id[25], name[65], hostname[65];
	char cwd[257], home[257], shell[257];
	struct buf env; /* "NAME=VALUE\0" each */
	uint64_t journal_bytes_max, kill_grace_ns, started_ns;
	uint64_t journal_keep_ns, journals_bytes_max; /* retain.c; 0: no bound */
	uint32_t calls_max, next_number;
	uint32_t uid, gid; /* of calls, as the session sees them */
	uint64_t limit_memory, limit_pids, limit_wall_ns; /* 0: none */
	uint64_t limit_disk;                              /* 0: none that processes are told of */
	int disk; /* owned, -1: a directory that tells how full that is */

	struct wire manager, init;
	struct watch pid1, listen;
	struct timer farewell, retain;
	struct spool spool;
	struct ahead ahead;
	struct once once;
	struct pause pause;
	struct settle settle;
	struct sockets sockets;
	struct resolver resolver;
	struct putting putting;
	struct grant *grants;
	struct {
		uint64_t number;
		char *key; /* owned */
		uint32_t roles, forwards;
		struct allowances allow; /* owned */
	} terms; /* of the next grant */
	struct tunnel *tunnels; /* owned */
	uint32_t n_tunnels;
	struct call *calls, *late; /* late: ended, but something of them lives */
	uint32_t n_grants, n_calls, n_late;
	char *room; /* owned: JOURNAL_WRITE_MAX_BYTES, for one read at a time */

	uint64_t transfers_second; /* sftp.c: when the second began in which ... */
	uint32_t transfers_told;   /* ... so many acts on files were told of */
	uint64_t spill_bytes; /* in spill/: as last counted, and written since */
	bool frozen, held, ended;
	bool read_only; /* a snapshot's files: sftp alone, and that reads */
	bool suspended; /* frozen by itself, until the manager takes it back or is gone */
	char suspend_why[513], suspend_hint[161];
};

/* To the manager; one that cannot be told is gone, which its own watch finds. */
void keeper_done(struct keeper *k, uint32_t seq, const struct err *err);
/* Spools a record, and sends what can be sent. */
void keeper_record(struct keeper *k, struct msg_call_record *record);
/* To init: -1 when it is gone (then the session is over, which its pidfd tells). */
int keeper_signal(struct keeper *k, uint32_t call, uint32_t signal);

#endif
