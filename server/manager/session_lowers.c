/* The cached layers under a workspace that runs: a collector must not take them away. They are
 * written down before they are mounted, in a file of the session, which need not outlive a power
 * cut: then nothing is mounted any more. */
#include "base/fd.h"
#include "base/log.h"
#include "base/path.h"
#include "manager/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

enum { LOWERS_FILE_MAX_BYTES = 4200 * DIGEST_BYTES };
#define LOWERS_FILE "lowers"

int
session_hold_lowers(struct session *s, struct err *err)
{
	const size_t n = s->n_layers - s->n_flat + (s->n_flat > 0);

	free(s->mounted);
	s->mounted = xnew(n + 1, sizeof *s->mounted);
	s->n_mounted = 0;
	for (size_t i = s->n_flat; i < s->n_layers; i++)
		s->mounted[s->n_mounted++] = s->layers[i].digest;
	if (s->n_flat)
		s->mounted[s->n_mounted++] = s->flat;
	if (s->spare)
		return 0;
	if (unlinkat(s->dir, LOWERS_FILE, 0) < 0 && errno != ENOENT)
		return err_sys(err, errno, "remove %s", LOWERS_FILE);
	if (n == 0)
		return 0;
	auto_close int fd = path_create(s->dir, LOWERS_FILE, 0600, err);
	return fd < 0 ? -1 : fd_write_all(fd, s->mounted, n * sizeof *s->mounted, err);
}

void
session_find_lowers(struct session *s)
{
	auto_buf bytes = BUF_MAX(LOWERS_FILE_MAX_BYTES);
	struct err err;

	if (session_open_dir(s, &err) < 0 || !path_exists(s->dir, LOWERS_FILE))
		return;
	if (path_read(s->dir, LOWERS_FILE, &bytes, &err) < 0) {
		log_err(&err, "session %s: the layers under it", s->row.name);
		return;
	}
	free(s->mounted);
	s->n_mounted = bytes.len / DIGEST_BYTES;
	s->mounted = xnew(s->n_mounted + 1, sizeof *s->mounted);
	if (s->n_mounted)
		memcpy(s->mounted, bytes.at, s->n_mounted * sizeof *s->mounted);
}

bool
session_holds(const struct session *s, const struct digest *layer)
{
	const bool starts = s->step == STEP_CACHE || s->step == STEP_TURN || s->step == STEP_START ||
			    s->step == STEP_VIEW || s->step == STEP_PUT; /* another snapshot's */

	for (size_t i = 0; i < s->n_mounted; i++)
		if (digest_equal(&s->mounted[i], layer))
			return true;
	for (size_t i = 0; starts && i < s->n_layers; i++)
		if (digest_equal(&s->layers[i].digest, layer))
			return true;
	return starts && s->n_flat && digest_equal(&s->flat, layer);
}
