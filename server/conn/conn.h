/* What the files of one SSH connection share. conn.c is the loop; auth.c lets the client in;
 * channel.c takes its requests; flow.c moves bytes; peers.c talks to keepers, manager_link.c to the
 * manager; control.c is the user `berth`.
 *
 * Invariants:
 *  1. libssh's callbacks copy, set flags, queue channels, send messages. They never write to, read
 *     from, close or free a channel: libssh is not reentrant there. All of that happens in
 *     channel_step, which the loop calls, and nobody else;
 *  2. a channel with something to do is in exactly one queue: ready, or stalled (it waits for the
 *     client); the loop sleeps only when ready is empty and no stalled one can go on;
 *  3. what a client that does not read makes us hold is bounded: per channel one piece of
 *     FLOW_PIECE_BYTES and what the window let in, TEXT_MAX_BYTES for all channels together. */
#ifndef BERTH_CONN_H
#define BERTH_CONN_H

#include "base/buf.h"
#include "base/err.h"
#include "base/loop.h"
#include "verbs/allowances.h"
#include "verbs/options.h"
#include "verbs/verbs.h"
#include "wire/journal_read.h"
#include "wire/wire.h"

#include <libssh/callbacks.h>
#include <libssh/libssh.h>
#include <libssh/server.h>
#include <stdbool.h>
#include <stdint.h>

enum {
	FLOW_PIECE_BYTES = 256 * 1024, /* the knee of throughput by size of read */
	WINDOW_MAX_BYTES = 4 << 20,    /* libssh does not enforce its own window */
	TEXT_MAX_BYTES = 8 << 20,      /* words of ours and output of verbs, not yet taken */
	QUEUED_MAX_BYTES = 8 << 20,    /* what libssh may hold for the socket */
	TAKEN_STEP_BYTES = 1 << 20,    /* call_taken is sent this often while there is more, ... */
	TAKEN_IDLE_BYTES = 64 << 10,   /* ... and then: far below what a journal keeps at least */
	ENV_MAX_BYTES = 65536,
	COMMAND_MAX_BYTES = 131072,
	UNCLOSED_MAX = 1024, /* channels that the client does not close, though we have */
	CALL_TRIES_MAX = 20,
	CALL_TRIES_AT_ONCE = 3, /* the others wait ... */
	CALL_AGAIN_MS = 250,	/* ... each this long: a keeper takes seconds to end, at most */
};

/* What flow_output met. */
enum flow {
	FLOW_MORE,    /* some bytes went; there may be others */
	FLOW_STALLED, /* the client must read first */
	FLOW_IDLE,    /* nothing to send at present */
};

enum text { TEXT_OUT, TEXT_ERR, TEXTS };

/*  OPEN ─exec, shell▶ WANTED ─session_ready▶ ASKED ─call_started▶ LIVE ─call_ended, all sent▶ ENDING
 *    │                  ▲────call_refused AGAIN────┘ └─other codes▶ ENDING
 *    └─exec of berth▶ VERB ─verb_end, all sent▶ ENDING          ENDING ─all sent▶ freed
 *  The client may close at any time: freed. */
enum channel_state {
	CHANNEL_OPEN,
	CHANNEL_WANTED,
	CHANNEL_ASKED,
	CHANNEL_LIVE,
	CHANNEL_VERB,
	CHANNEL_ENDING,
};

/* A verb that gives a call stdin (call input): it waits for the call's end of it, has it, ... */
enum feed { FEED_NONE, FEED_ASKED, FEED_OPEN };

enum queue { QUEUE_NONE, QUEUE_READY, QUEUE_STALLED };

/* Bytes of the client on their way into the call. */
struct input {
	int fd;		/* owned: nonblocking write end; -1: none (any more) */
	struct watch watch;
	size_t backlog; /* bytes that libssh holds for us */
	char *held;	/* owned: taken out of libssh, not yet written */
	size_t held_at, held_len;
	bool busy; /* inside a read of libssh, which may call us back */
	bool refused; /* some of it was not taken: nobody reads any more */
	/* of a call with a key: */
	bool counts;   /* its keeper is told how much was written */
	bool waits;    /* another channel gives stdin; this one may come to */
	uint64_t fed;  /* bytes written, from the call's first one on, or by this verb */
	uint64_t skip; /* of those that come: they were taken before */
};

/* Bytes on their way to the client: the tail first, then text, then the journal. */
struct output {
	uint64_t closed_at; /* where the streams end that the command has closed; 0: not told */
	bool eof_sent;      /* before the call's end: nothing can be said any more */
	struct buf text[TEXTS];
	size_t text_at[TEXTS];
	char *tail; /* owned: what libssh did not take of the last piece */
	size_t tail_at, tail_len;
	bool tail_err;
	int journal, growth; /* owned; -1: none */
	int pipe;            /* owned: of a subsystem, its stdout instead of a journal; -1 */
	uint64_t piped, piped_said; /* bytes that were read of it, and its keeper was told */
	struct watch watch;
	struct journal_reader reader;
	bool finished;	     /* nothing more is wanted of the journal */
	bool follow;	     /* more may be written: wait for growth where it ends */
	uint64_t skip_bytes; /* of what is shown, not to be shown */
	uint32_t stream;     /* 0: stdout and stderr; else that one alone */
	uint64_t taken_sent; /* the last call_taken */
	uint64_t limit;	     /* file offset where the owner's output ends */
	struct buf end_frame;
	bool has_gap;
	bool hung_up; /* nobody appends any more, so that no END may come */
	struct held *held; /* owned: what travels of a call with BERTH_MAX_OUTPUT; NULL: all */
};

/* What makes a channel one of a forward; one of FORWARD_LISTEN has no channel of SSH. */
enum forward_kind { FORWARD_OPEN, FORWARD_LISTEN, FORWARD_ACCEPTED };

struct forward {
	enum forward_kind kind;
	char host[257], origin[65];
	uint32_t port, origin_port; /* of FORWARD_LISTEN: as the client knows it */
	uint32_t bound_port;	    /* of FORWARD_LISTEN: where it is */
	bool eof_sent;
	bool agent; /* of FORWARD_ACCEPTED: at the socket of the client's agent */
	bool asked; /* of FORWARD_ACCEPTED: the client, to open it */
	struct timer opening; /* of FORWARD_ACCEPTED: the client must answer until then */
};

struct keeper_link {
	struct keeper_link *next;
	struct conn *conn; /* lent */
	struct wire wire;
};

struct channel {
	struct channel *next;
	struct conn *conn; /* lent */
	ssh_channel ssh;   /* owned; NULL: a listener, or not opened */
	struct forward *forward; /* owned; NULL: a session channel */
	struct ssh_channel_callbacks_struct callbacks;
	uint32_t number; /* ours, never used again on this connection */
	enum channel_state state;
	enum queue queue;
	struct channel *queue_next;
	uint64_t stalled_at; /* conn_progress then */
	bool opened; /* with the client: it has a number of its own */
	bool client_eof, client_closed;

	bool pty;
	struct buf term;
	uint32_t columns, rows, x_pixels, y_pixels;
	bool resized;       /* the keeper has not been told yet */
	struct buf env;	    /* "NAME=VALUE\0" each */
	bool wants_agent; /* the client's agent, in its environment */
	bool stdin_null, detach, keyed; /* of its options */
	uint32_t kind;	    /* as in call_start */
	struct buf command;

	struct keeper_link *keeper; /* lent: who was asked; NULL: not asked, or it is gone */
	unsigned tries;
	struct input in;
	struct output out;

	bool json; /* errors are said as JSON */
	bool progress, bar; /* asked for events; its terminal shows a bar */
	bool interrupted;   /* the manager was told */
	const struct verb *verb; /* of a control channel */
	enum feed feed;
	bool end_known, lost, verb_failed;
	uint32_t exit_status, exit_signal;
	bool core_dumped;
	struct buf notice;
	struct err verb_err;
};

/* The socket of the client's agent in the session, at the present keeper. */
enum agent { AGENT_UNKNOWN, AGENT_ASKED, AGENT_KNOWN };

struct conn {
	struct loop loop;
	ssh_session ssh; /* owned */
	ssh_event event; /* owned */
	struct ssh_server_callbacks_struct callbacks;
	int fd; /* lent by ssh */
	struct watch watch;
	bool ssh_ready;
	struct ssh_counter_struct socket_count, packet_count;
	uint64_t queued_base; /* see conn_mark_flushed */

	char host_key[16384 + 1], peer[65];
	char link_env[256]; /* "NAME=VALUE\0" each: who is connected to where */
	size_t link_env_bytes;
	uint64_t login_until_ns;
	uint32_t channels_max;
	unsigned attempts, attempts_max;
	struct allowances allow; /* owned: what its key lets it do beside calls and verbs */
	char kex[1025], ciphers[1025], macs[1025], host_keys[1025];
	char banner[1025]; /* empty: none, or it was shown */
	bool proven, control;
	char user[129];

	struct wire manager;
	struct keeper_link *keepers; /* owned list */
	struct keeper_link *keeper;  /* lent: the one that new calls go to; NULL: ask the manager */
	uint32_t want_seq;
	bool want_sent;
	unsigned unmet; /* keepers in a row that were gone before we had greeted them */
	struct timer login_timer, alive_timer, manager_timer, closing_timer, again_timer;

	struct channel *channels; /* owned list */
	unsigned channels_n;
	uint32_t last_number;
	struct ssh_channel_callbacks_struct late; /* of channels that we have closed */
	unsigned unclosed;			  /* by the client, of those */
	struct channel *ready, **ready_tail, *stalled, **stalled_tail;
	size_t text_bytes;
	char *piece; /* owned: FLOW_PIECE_BYTES, used within one step */
	uint64_t alive_packets;
	unsigned alive_missed;
	uint64_t finished_ns;	/* when the last channel was ended by us, 0: none */
	uint64_t closing_bytes; /* that the client had received when the closing timer was set */
	enum agent agent;
	char agent_path[129]; /* inside; empty: there is none */
	bool had_channel;     /* of any kind, or a listener */
	uint64_t forward_wait_from_ns; /* before, no answer to an open is waited for */
	struct timer idle_timer;
	bool closing; /* no manager, no keeper: end what is left, then the connection */
	bool ended;
};

/* ---- conn.c ---- */

/* The connection is over when this turn ends; why is for the log, NULL: nothing to log. */
void conn_end(struct conn *c, const char *why);
/* No more can be done for this client: all channels end with 75, then the connection. */
void conn_close(struct conn *c);
bool conn_is_blocked(struct conn *c); /* libssh still holds bytes for the socket */
/* Grows with every packet received and every byte sent: a stalled channel is tried again when it
 * has changed. */
uint64_t conn_progress(const struct conn *c);
void conn_ready(struct channel *ch);
void conn_stall(struct channel *ch, uint64_t progress);
/* It is in neither queue: it is about to be freed. */
void conn_forget(struct channel *ch);

/* ---- stuck.c ---- */

/* From here on a step that takes seconds of processor time ends the process. */
void stuck_watch(void);
/* A step has ended. */
void stuck_step(void);

/* ---- auth.c ---- */

void auth_init(struct conn *c);
/* The manager's first words: limits, and what the key exchange may use. */
int auth_receive_setup(struct conn *c, uint64_t until_ns, struct err *err) must_check;
int auth_set_algorithms(const struct conn *c, ssh_bind bind) must_check;
/* Counts one attempt; too many end the connection. */
void auth_count(struct conn *c);

/* ---- held.c: the head and the tail of a stream ---- */

struct held;
struct held *held_new(uint64_t max_output);
/* The call's id, when it is known. */
void held_name(struct held *h, struct str call, bool spilled);
void held_free(struct held *h);
/* How many bytes of s go to the client now; what is behind them is held, or dropped. */
size_t held_take(struct channel *ch, bool is_err, struct str s);
/* Whether something is to be sent when the journal has ended. */
bool held_has(const struct channel *ch);
/* The next piece of it, at most max bytes; empty: it has put a line of words first. */
struct str held_next(struct channel *ch, size_t max, bool *out_err);

/* ---- channel.c ---- */

/* libssh's message callback: 0 answered, 1 refuse in the standard way. */
int channel_message(ssh_session ssh, ssh_message m, void *ctx);
struct channel *channel_find(struct conn *c, uint32_t number);
void channel_enter(struct channel *ch, enum channel_state state);
/* One unit of work, then into the queue where it belongs; may free the channel. */
void channel_step(struct channel *ch);
/* Bytes of ours for the client; false when TEXT_MAX_BYTES is passed (a failure's line always fits). */
bool channel_bytes(struct channel *ch, enum text t, struct str s);
/* The same, with the line ends that a PTY's client wants. */
bool channel_text(struct channel *ch, enum text t, struct str s);
/* The error line and its exit; the channel ends when all is sent. */
void channel_fail(struct channel *ch, struct err *err);
/* The size of its terminal, when that has changed: once for many changes, and before the keeper
 * gets what was typed after them. */
void channel_tell_size(struct channel *ch);
/* Frees it without a word (the connection is gone). */
void channel_drop(struct channel *ch);

/* One of no kind yet, on the list; NULL: no more are let in. */
struct channel *channel_make(struct conn *c);
/* Gives it a channel of SSH, which nobody has opened yet. */
int channel_attach(struct channel *ch) must_check;

/* ---- forward.c: -L, -R, -D, -W, -J ---- */

/* A direct-tcpip channel: 0 answered, 1 refuse it. */
int forward_take_open(struct conn *c, ssh_message m);
/* A global request: the same. */
int forward_take_request(struct conn *c, ssh_message m);
/* Something that no forward of ours can be: a connection that has nothing else ends with a reason. */
void forward_refused(struct conn *c);
/* To the keeper of this channel: what it wants. */
int forward_ask(struct channel *ch, struct err *err) must_check;
/* What keepers say. */
void forward_opened(struct channel *ch, struct wire *w);
void forward_listening(struct channel *ch, const struct msg_forward_listening *m);
void forward_accepted(struct channel *listener);
/* True: the channel must wait until it is known where its client's agent is, inside. */
bool forward_waits_for_agent(struct channel *ch);
void forward_agent_ready(struct conn *c, const struct msg_agent_ready *m);
void forward_agent_accepted(struct keeper_link *k);
/* One unit of work of a forward's channel; may free it. */
void forward_step(struct channel *ch);

/* ---- flow.c ---- */

int flow_on_data(ssh_session ssh, ssh_channel channel, void *bytes, uint32_t n, int is_err,
		 void *ctx);
void flow_input(struct channel *ch);
enum flow flow_output(struct channel *ch);
/* Takes the fds of a call or of a verb's journal. */
int flow_begin_input(struct channel *ch, int *fd, struct err *err) must_check;
int flow_begin_output(struct channel *ch, int *journal, int *growth, struct err *err) must_check;
void flow_end_input(struct channel *ch);
void flow_done(struct channel *ch);
/* The end that a journal tells, as the channel's own: false when it holds none. */
bool flow_end_frame(struct channel *ch);
/* What the call's user was told at its end; nothing where it was nothing. */
void flow_end_notice(const struct channel *ch, struct buf *out);

/* libssh takes some of it, the rest is kept and goes first the next time. */
enum flow flow_send(struct channel *ch, const char *at, size_t n, bool is_err);

/* ---- piped.c: the stdout of a subsystem ---- */

/* What is read of fd is the channel's output. */
int piped_begin(struct channel *ch, int *fd, struct err *err) must_check;
/* The keeper's answer: its call has begun. */
void piped_started(struct channel *ch, struct wire *w);
/* The next piece, at most `window` bytes. */
enum flow piped_send(struct channel *ch, size_t window);

/* ---- manager_link.c ---- */

/* Takes what it has said, if anything. */
void manager_link_read(struct conn *c);
int manager_link_watch(struct conn *c, struct err *err) must_check;
/* Asks for the session's keeper, unless that is done or waited for already. */
void manager_link_want(struct conn *c);
/* The manager may not know yet that the keeper is ending, and name the same one. */
void manager_link_ask_later(struct conn *c);
void manager_link_fail_wanted(struct conn *c, enum err_code code, struct str why, struct str hint);
/* A new manager, by way of a keeper that it took over. */
void manager_link_adopt(struct conn *c, int fd);
void manager_link_close(struct conn *c);

/* ---- peers.c ---- */

/* session_ready: the keeper that is there now, for the channels that wait for it. */
void peers_meet(struct conn *c, struct wire *w);
void peers_fail(struct channel *ch, enum err_code code, struct str why, struct str hint);
/* A channel has become WANTED: start its call, or ask for the session. */
void peers_start(struct channel *ch);
/* To the keeper of this channel; nothing when it is gone. */
void peers_signal(struct channel *ch, unsigned signal);
void peers_resize(struct channel *ch);
void peers_taken(struct channel *ch);
void peers_fail_start(struct channel *ch, struct err *err);
void peers_leave(struct channel *ch);
/* Of a call with a key: how much of its stdin was written. */
void peers_fed(struct channel *ch);
/* No more of its stdin comes. */
void peers_input_end(struct channel *ch);
/* Takes what manager and keepers say, for one call of poll(2), until until_ns at most. From within a
 * callback of libssh: it calls none of its functions. */
void peers_wait(struct conn *c, uint64_t until_ns);
void peers_close(struct conn *c);

/* ---- control.c ---- */

void control_exec(struct channel *ch, struct str command);
/* The manager's messages of a verb. */
void control_output(struct channel *ch, struct str bytes);
void control_journal(struct channel *ch, struct wire *w);
void control_pipe(struct channel *ch, struct wire *w);
void control_feed(struct channel *ch, struct wire *w);
/* All was given, or refused: it reads no more. */
void control_fed(struct channel *ch, bool refused);
void control_exit(struct channel *ch, const struct msg_verb_exit *m);
void control_stream(struct channel *ch, const struct msg_verb_stream *m);
void control_end(struct channel *ch, const struct msg_verb_end *m);
/* A verb that was interrupted: the manager undoes it and ends it, or leaves the end to us. */
void control_interrupted(struct channel *ch, const struct msg_verb_interrupted *m);
void control_cancel(struct channel *ch);
/* The client has said so, by a key or a signal: what the verb does is to be undone. */
void control_interrupt(struct channel *ch);

/* ---- progress.c: how far a verb is ---- */

void progress_show(struct channel *ch, const struct msg_verb_progress *m);
/* Takes the bar off the terminal. */
void progress_clear(struct channel *ch);

/* ---- tail.c ---- */

/* A verb_tail. */
void tail_print(struct channel *ch, struct wire *w);

#endif
