/* What was chosen for one session when it was made, beside its limits: its mounts and which of its
 * walls are lower (walls.def); and the node whose /usr it has. */
#ifndef BERTH_CHOICES_H
#define BERTH_CHOICES_H

#include "base/buf.h"
#include "base/err.h"
#include "manager/mount_list.h"
#include "manager/node_name.h"
#include "manager/snapshot_mode.h"

#include <stdbool.h>
#include <stdint.h>

enum wall {
#define WALL(id, key, field, bit, who) WALL_##id,
#include "walls.def"
#undef WALL
	WALLS
};

/* What a session is for that is removed when that is done (throwaway.h). */
enum throwaway { THROWAWAY_NO, THROWAWAY_BISECT, THROWAWAY_VIEW };

struct choices {
	bool wall_set[WALLS], wall[WALLS]; /* set: not the node's default, whatever that is */
	struct mount_row *mounts;          /* owned, NULL: none */
	size_t n_mounts;
	struct snapshot_mode snapshot;
	char node[NODE_NAME_BYTES]; /* empty: it has not been started */
	bool fork_ready_set, fork_ready; /* its head's layers are kept unpacked (fork_ready.h) */
	enum throwaway throwaway;
};

struct config;
struct session;
struct manager;
struct conn;
struct request;

const char *wall_key(enum wall w);
bool choices_wall(const struct config *c, const struct choices *own, enum wall w);
/* As keeper_start has them: enum keeper_wall. */
uint32_t choices_walls(const struct config *c, const struct choices *own);
void choices_done(struct choices *c);
/* out is empty before. */
void choices_copy(const struct choices *c, struct choices *out);
bool choices_fork_ready(const struct config *c, const struct choices *own);
/* Takes away what only an operator gives, and names it in `words`, ", " between. */
void choices_plain(const struct config *c, struct choices *own, struct buf *words);
#define auto_choices __attribute__((cleanup(choices_done))) struct choices

/* What `new` was given; sources are opened once, so that a wrong one is told at once.
 *   image_host  the session stands on the node's own /usr
 *   fails       DENIED what is an operator's to choose */
int choices_of_request(const struct manager *m, const struct conn *c, const struct request *r,
		       bool image_host, struct choices *out, struct err *err) must_check;

/* ---- of a session (session_choices.c) ---- */

int session_choices_load(struct session *s, struct err *err) must_check;
int session_choices_save(struct session *s, struct err *err) must_check;
int session_choices_put(struct session *s, struct err *err) must_check; /* within a transaction */
bool choices_any(const struct choices *c);
void session_choices_json(const struct session *s, struct buf *out);
void session_choices_text(const struct session *s, struct buf *out);
/* Its mounts' directories. fds: owned by the caller, all -1 before. */
int session_open_mounts(const struct session *s, int fds[MOUNTS_MAX], bool read_only[MOUNTS_MAX],
			struct err *err) must_check;
/* Logs those whose filesystem could not map ids. made: what became of the directories. */
void session_note_mounts(const struct session *s, const int *dirs, const int *made);
/* "/path\0" each, in the same order. */
void session_mount_targets(const struct session *s, struct buf *out);
/* UNAVAILABLE when its /usr is another node's, and nobody has said that this one's will do. */
int session_check_node(const struct session *s, bool base_differs, struct err *err) must_check;
/* It runs, and is this node's from here on: writes that where it is news, for session_note_node to
 * take note of once it is committed. */
int session_put_node(struct session *s, bool *out_news, struct err *err) must_check;
void session_note_node(struct session *s);
/* The node that its origin was of. */
int session_put_origin_node(struct session *s, struct err *err) must_check;

#endif
