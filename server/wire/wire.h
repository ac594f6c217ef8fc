/* Messages between processes: bytes on a SOCK_SEQPACKET socket, one packet a message, file
 * descriptors beside them (SCM_RIGHTS). The rows are in messages.def.
 *
 * Packet: u16 id, u16 zero, then the fields: U32 and U64 little endian; STR and BYTES a u32 length
 * and the bytes. Nothing follows the last field.
 *
 * Invariants:
 *  1. a received message has passed every check of its row: direction, phase, sizes, number of fds;
 *  2. what fails one is refused whole, its fds are closed, and wire_recv fails with ERR_CORRUPT: the
 *     owner logs it and cuts the peer;
 *  3. wire_send never blocks: what the socket does not take is queued, bounded by
 *     WIRE_QUEUE_MAX_BYTES; a peer that lets it grow past that is cut;
 *  4. what a peer of an earlier version does not know is not sent to it: wire_send fails, and the link stays;
 *  5. what came from a peer that may be taken is closed under a guard: the last close of a socket can
 *     wait for as long as its sender likes. */
#ifndef BERTH_WIRE_H
#define BERTH_WIRE_H

#include "base/buf.h"
#include "base/err.h"
#include "base/loop.h"

#include <stdint.h>

/* What this build speaks, and of the rows of version 1, 2, ... the first number of each. Keepers and conns
 * outlive upgrades, so that each side may meet an older or a newer one: both speak the version of the older. */
#ifndef WIRE_VERSION
#define WIRE_VERSION   1
#define WIRE_FIRST_IDS {0}
#endif
enum { WIRE_OLDEST = 1 }; /* an older peer is refused: rows that it needs are gone */
enum { WIRE_PACKET_MAX_BYTES = 320 * 1024, WIRE_QUEUE_MAX_BYTES = 8 << 20 };
enum { WIRE_FDS_MAX = 40 };

enum role { ROLE_ANY, ROLE_MANAGER, ROLE_CONN, ROLE_KEEPER, ROLE_INIT, ROLE_WORKER, ROLE_ZYGOTE, ROLES };
enum phase { PHASE_HELLO, PHASE_UNPROVEN, PHASE_OPEN };

/* The fds of keeper_start, in this order. Where a thing does not exist, an fd of /dev/null. */
enum keeper_fd {
	KEEPER_LOCK,	/* the session's lock, held by being open */
	KEEPER_CALLS,	/* sessions/<id>/calls, a directory */
	KEEPER_SPILL,	/* sessions/<id>/spill, a directory */
	KEEPER_ROOTFS,	/* detached mount: the workspace */
	KEEPER_USR,	/* detached mount: /usr of image host, or unused */
	KEEPER_USERNS,	/* the session's user namespace */
	KEEPER_INIT,	/* berth-init, O_PATH */
	KEEPER_SECCOMP, /* the session's seccomp program, sealed memfd of struct sock_filter[] */
	KEEPER_CGROUP,	/* v2 cgroup S/box, a directory (O_RDONLY), or unused */
	KEEPER_FREEZE,	/* S/box/cgroup.freeze for writing, or unused */
	KEEPER_KILL,	/* S/box/cgroup.kill for writing, or unused */
	KEEPER_EVENTS,	/* S/box/cgroup.events for reading, or unused */
	KEEPER_LISTEN,	/* listening socket RUN/keepers/<id>, for the next manager */
	KEEPER_RUN,	/* detached mount for the sandbox's /run/berth (spill, read only) */
	KEEPER_JOIN_MEMORY,   /* v1 cgroup.procs of the memory limit, for writing, or unused */
	KEEPER_JOIN_PIDS,     /* the same of the limit of processes */
	KEEPER_JOIN_CPU,      /* the same of the limit of cpu */
	KEEPER_MEMORY_EVENTS, /* memory.events or memory.oom_control for reading, or unused */
	KEEPER_PIDS_EVENTS,   /* pids.events for reading, or unused */
	KEEPER_NETNS,	      /* network namespace that pid 1 starts in, or unused: a new one */
	KEEPER_SYS,	      /* detached mount: sysfs of a network that is not the session's, or unused */
	KEEPER_RESOLV,	      /* detached mount: resolv.conf, or unused */
	KEEPER_SFTP_SERVER,   /* sealed memfds: OpenSSH's sftp-server, or unused, like the next three, ... */
	KEEPER_SFTP_LIBC,     /* ... the C library it runs with, ... */
	KEEPER_SFTP_PRELOAD,  /* ... init/sftp_preload.c, ... */
	KEEPER_SFTP_LOADER,   /* ... and what loads them: ld.so */
	KEEPER_MOUNTS,	      /* eight: detached mounts of the node's directories, or unused */
	KEEPER_MOUNTS_LAST = KEEPER_MOUNTS + 7,
	KEEPER_FDS
};
enum { KEEPER_MOUNTS_MAX = KEEPER_MOUNTS_LAST - KEEPER_MOUNTS + 1 };

/* keeper_start's walls: which of them are lower than they stand by themselves. */
enum keeper_wall {
	KEEPER_WALL_SETUID = 1, /* setuid programs work */
	KEEPER_WALL_NESTED = 2, /* user namespaces may be made */
	KEEPER_TMP_IN_MEMORY = 4,
	KEEPER_READ_ONLY = 8, /* no lower wall: its root is read-only, and it serves sftp alone */
};

/* What keeper_start asks for (keeper/engine.h). */
enum engine_number { ENGINE_LAUNCH, ENGINE_PROCESS };

/* What a grant may forward: connections into the session, listeners in it, its client's agent. */
enum forward_right { FORWARD_CONNECTS = 1, FORWARD_LISTENS = 2, FORWARD_AGENT = 4 };

/* Which of the two files of `remember` there are. */
enum remember_which { REMEMBER_BEFORE = 1, REMEMBER_NEXT = 2 };

/* Of capture_as: nothing seen before is trusted; processes go on afterwards; there is a layer, though
 * nothing but the root be in it; somebody may write through memory that maps a file. */
enum capture_as_how {
	CAPTURE_AS_TRUSTLESS = 1,
	CAPTURE_AS_LIVE = 2,
	CAPTURE_AS_ROOT = 4,
	CAPTURE_AS_MAPPED = 8
};

/* What an init_open asks: bind and listen (a datagram socket is only bound), connect (streams only),
 * or the route that makes every address the session's own, which is no socket. */
enum open_action { OPEN_LISTEN, OPEN_CONNECT, OPEN_ROUTE };

/* What comes of an init_resolve, in its pipe: one byte of these; after FOUND up to RESOLVE_MOST
 * addresses, each the byte 4 or 6 and RESOLVE_ADDRESS_BYTES in network order (of IPv4 the first
 * four, then zeros), the best first. Then the end. */
enum resolve_result {
	RESOLVE_FOUND = 1,
	RESOLVE_UNKNOWN,   /* there is no such name */
	RESOLVE_NO_SERVER, /* not in /etc/hosts, and no name server that could be asked */
	RESOLVE_SILENT,    /* no name server has answered */
	RESOLVE_FAILED,
	RESOLVE_BUSY, /* init has begun none: there are too many */
};
/* Of read_go. */
enum read_act {
	READ_FILES,
	READ_CAT,
	READ_DIFF,
	READ_FIND,
	READ_EXPORT_OCI,
	READ_EXPORT_DOCKER,
	READ_EXPORT_TAR,
	READ_ACTS
};
enum read_flag { READ_JSON = 1, READ_RECURSIVE = 2, READ_STAT = 4, READ_UNIFIED = 8 };
enum { READ_VIEWS_MAX = 4096, IMPORT_LAYERS_MAX = 2048 };

enum { RESOLVE_MOST = 8, RESOLVE_ADDRESS_BYTES = 16, RESOLVE_MAX_S = 10, RESOLVE_AT_ONCE = 16 };

/* In exec_errno of init_exited: it is of chdir(2), not of execve(2). */
enum { INIT_NO_CWD = 1 << 16 };

/* Structs: one a row. STR and BYTES are views into the link's receive buffer: lent until the next
 * wire_recv on that link. */
#define U32(f)	    uint32_t f;
#define U64(f)	    uint64_t f;
#define STR(f, m)   struct str f;
#define BYTES(f, m) struct str f;
#define MSG(id, name, from, to, when, fds, fields)                                                 \
	struct msg_##name {                                                                        \
		fields                                                                             \
	};
#include "messages.def"
#undef MSG
#undef U32
#undef U64
#undef STR
#undef BYTES

enum msg_id {
#define MSG(id, name, from, to, when, fds, fields) MSG_##name = (id),
#include "messages.def"
#undef MSG
};

struct message {
	enum msg_id id;
	int fds[WIRE_FDS_MAX]; /* owned: take what is wanted with fd_steal, the rest is closed */
	int n_fds;
	union {
#define MSG(id, name, from, to, when, fds, fields) struct msg_##name name;
#include "messages.def"
#undef MSG
	};
};

struct wire {
	int fd; /* owned; -1: closed */
	enum role self, peer;
	enum phase phase, after_hello;
	uint32_t version; /* that both sides know; WIRE_OLDEST until the peer's hello is here */
	struct watch watch;	 /* set by wire_watch, with what it calls */
	void (*on_ready)(void *ctx);
	void *on_ready_ctx;
	struct packet *queue;	 /* owned, waiting for the socket */
	struct packet **queue_tail;
	size_t queue_bytes;
	char *in; /* owned receive buffer, WIRE_PACKET_MAX_BYTES */
	struct message message; /* the one that wire_recv returned last */
};

/* A pair of connected sockets with room for the largest packet; both close-on-exec, nonblocking. */
int wire_pair(int out[2], struct err *err) must_check;
/* Takes fd and sends hello. The link accepts hello alone until the peer's has come, and is in the
 * phase after_hello then: UNPROVEN between the manager and a new conn, else OPEN. The owner moves a
 * link from UNPROVEN to OPEN (the manager when it has sent, conn when it has received a
 * key_answer with ok for a proven key). */
int wire_open(struct wire *w, int take_fd, enum role self, enum role peer, enum phase after_hello,
	      struct err *err) must_check;
/* The same of a process that has executed itself: the hellos were said before. */
int wire_reopen(struct wire *w, int take_fd, enum role self, enum role peer, enum phase phase,
		struct err *err) must_check;
/* Closes the socket, the queue and the fds of the last message. Safe on a zeroed-and-closed one. */
void wire_close(struct wire *w);
static inline bool
wire_is_open(const struct wire *w)
{
	return w->fd >= 0 && w->in;
}

/* Sends one message; `body` is its struct msg_NAME.
 *   fds, n    lent: duplicated where the message must wait
 *   fails     UNAVAILABLE when the peer is gone or reads nothing any more, or is of an earlier version, to
 *             which there is no such message (then its hint says what to do) */
int wire_send_fds(struct wire *w, enum msg_id id, const void *body, const int *fds, int n,
		  struct err *err) must_check;
#define wire_send(w, name, err, ...)                                                               \
	wire_send_fds((w), MSG_##name, &(struct msg_##name){__VA_ARGS__}, NULL, 0, (err))

/* Whether the peer is of a version that has this row: asked before what can be left out is sent. */
bool wire_knows(const struct wire *w, enum msg_id id);

/* The next message, into w->message.
 *   returns 1 a message (never hello: that one is answered here), 0 nothing there yet,
 *           -1 the peer is gone (UNAVAILABLE) or broke its row (CORRUPT) */
int wire_recv(struct wire *w, struct err *err) must_check;
/* Waits for the next message, at most until the deadline (CLOCK_BOOTTIME): for links that have no
 * loop yet, or whose owner may do nothing else meanwhile. -1 with TIMEOUT when it passes. */
int wire_recv_wait(struct wire *w, uint64_t deadline_ns, struct err *err) must_check;
/* Waits until what was sent is on its way, at most until the deadline: before the end of a link
 * whose last words matter. */
void wire_send_rest(struct wire *w, uint64_t deadline_ns);

/* Puts the link on a loop: fn(ctx) for each readable turn; the queue is flushed by itself. */
int wire_watch(struct wire *w, struct loop *l, void (*fn)(void *ctx), void *ctx,
	       struct err *err) must_check;

const char *wire_message_name(enum msg_id id);
const char *role_name(enum role role);

/* The codec alone, for the fuzz target and its unit test. decode checks all but the fds. */
int wire_encode(enum msg_id id, const void *body, struct buf *out, struct err *err) must_check;
int wire_decode(struct str packet, enum role from, enum role to, enum phase phase, int n_fds,
		struct message *out, struct err *err) must_check;

#endif
