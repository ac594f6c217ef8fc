/* The manager's state, and what its files do for each other. One thread, one loop; nothing here
 * waits: what takes time is a keeper's or a worker's, and its end is an event. */
#ifndef BERTH_MANAGER_H
#define BERTH_MANAGER_H

#include "base/loop.h"
#include "config.h"
#include "index/rows.h"
#include "manager/audit.h"
#include "manager/algorithms.h"
#include "manager/door.h"
#include "manager/forwards.h"
#include "manager/keys.h"
#include "manager/listeners.h"
#include "manager/mount_list.h"
#include "manager/node_name.h"
#include "manager/networks.h"
#include "manager/nursery.h"
#include "manager/owner.h"
#include "manager/prepare.h"
#include "manager/retention.h"
#include "manager/snapshot_mode.h"
#include "verbs/verbs.h"
#include "wire/wire.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct session;
struct ask;
struct conn;
struct job;

struct manager {
	struct loop loop;
	struct config config;
	struct index index;
	struct node node;
	struct limits standard; /* of a session that has none of its own */
	struct snapshot_mode snapshot; /* the same */
	struct networks networks; /* what sessions may join */
	const struct owner *owner;
	struct keys keys;
	unsigned keys_loads; /* of keys, as the audit log has them */
	struct audit audit;
	char libexec[4096], hostname[256];
	int state, run;                                   /* owned directories */
	int store, cache, sessions_dir, keepers, scratch; /* owned directories */
	int spares_dir;                                   /* owned */
	int lock, signals, image;                         /* owned */
	struct listeners listeners;
	struct door door;
	struct algorithms algorithms;
	struct forward_roles forwards;
	int keys_notify; /* owned: inotify of STATE/keys (login_conn.c) */
	struct watch keys_watch;
	struct timer keys_timer; /* a file of keys is to be looked at again */
	char image_name[80];
	char node_name[NODE_NAME_BYTES];
	struct mounts_allowed mounts; /* what sessions may be shown of the node */
	struct watch signals_watch;
	struct session *sessions; /* owned list, by name */
	struct session *spares;   /* owned list: spares.c */
	struct timer spares_timer;
	unsigned spares_failed; /* in a row */
	unsigned n_starting;    /* sessions in STEP_START, spares too */
	unsigned n_refs;        /* refs that are being written beside the acts: one at a time */
	struct job *jobs;       /* all that have not ended (jobs.c) */
	uint64_t job_count;     /* that have begun */
	struct collector *collector; /* owned: collector.c */
	struct retention retention;  /* of a session that has no rule of its own */
	struct job *ref_job;    /* owned: has written one, and waits for the next (session_store.c) */
	struct timer ref_job_end;
	uint64_t turns;         /* so many have waited for their start */
	struct conn *conns;       /* owned list */
	struct ask *asks;         /* owned list, the first first (conns.c) */
	struct nursery nursery;
	size_t n_conns;
	uint64_t conn_count;   /* for the conns' uids */
	struct digest *cached; /* owned: cache entries that a worker has checked in this run */
	size_t n_cached, cached_cap;
	struct disk_watch *disk;  /* owned: disk.c */
	struct means_node *means; /* owned: means.c */
	struct call_batch *batch; /* owned: records.c */
	bool sync_due;            /* rows of new sessions are made durable when this turn ends */
	bool closing;             /* the loop has ended: nothing begins any more */
	unsigned stopping;        /* SIGINTs so far: 1 pauses all sessions first, 2 goes at once */
};

/* ---- cache entries known to be whole (manager.c) ---- */
bool manager_is_cached(const struct manager *m, const struct digest *d);
void manager_note_cached(struct manager *m, const struct digest *d);
/* Stops the loop when a SIGINT asked for it and no session is under way any more. */
void manager_stop_when_idle(struct manager *m);

#endif
