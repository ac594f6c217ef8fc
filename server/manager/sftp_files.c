#include "sftp_files.h"
#include "base/fd.h"
#include "manager/sealed.h"

#include <errno.h>
#include <link.h>
#include <stdio.h>
#include <unistd.h>

#define PRELOAD "berth-sftp-preload.so"
#define LIBC    "libc.so.6"

struct own_files {
	char loader[4096], libc[4096]; /* paths; empty: not found */
};

/* Those that belong together beyond doubt: what we run with ourselves. */
static int
note_object(struct dl_phdr_info *object, size_t size, void *ctx)
{
	struct own_files *own = ctx;
	const char *name = strrchr(object->dlpi_name, '/');

	(void)size;
	if (name && strcmp(name + 1, LIBC) == 0)
		snprintf(own->libc, sizeof own->libc, "%s", object->dlpi_name);
	if (object->dlpi_name[0])
		return 0;
	for (int i = 0; i < object->dlpi_phnum; i++)
		if (object->dlpi_phdr[i].p_type == PT_INTERP)
			snprintf(own->loader, sizeof own->loader, "%s",
				 (const char *)(object->dlpi_addr + object->dlpi_phdr[i].p_vaddr));
	return 0;
}

static int
copy(const char *path, const char *name, uid_t owner, int *out, struct err *err)
{
	auto_close int file = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (file < 0 && errno == ENOENT)
		return err_set(err, ERR_UNAVAILABLE,
			       "%s is not there (apt-get install openssh-sftp-server)", path);
	if (file < 0)
		return err_sys(err, errno, "open %s", path);
	*out = sealed_copy(file, name, owner, 0555, O_RDONLY, err);
	return *out < 0 ? -1 : 0;
}

int
sftp_files_open(const char *libexec, const char *server, const struct isolation *i,
		int out[NODE_SFTP_FILES], struct err *err)
{
	const uid_t owner = i->rung != RUNG_PROCESS ? i->init_owner : SEALED_OWN;
	struct own_files own = {.loader = ""};
	char preload[4096];
	int made[NODE_SFTP_FILES] = {-1, -1, -1, -1};
	enum { SERVER, LIBRARY, OURS, LOADER }; /* as in enum keeper_fd */

	if (strcmp(server, "none") == 0)
		return err_set(err, ERR_UNAVAILABLE, "sftp_server is none");
	dl_iterate_phdr(note_object, &own);
	if (!own.loader[0] || !own.libc[0])
		return err_set(err, ERR_UNAVAILABLE, "this berthd runs with no " LIBC);
	if (snprintf(preload, sizeof preload, "%s/" PRELOAD, libexec) >= (int)sizeof preload)
		return err_set(err, ERR_CONFIG, "the path of " PRELOAD " is too long");
	if (copy(server, "sftp-server", owner, &made[SERVER], err) < 0 ||
	    copy(own.libc, LIBC, owner, &made[LIBRARY], err) < 0 ||
	    copy(preload, PRELOAD, owner, &made[OURS], err) < 0 ||
	    copy(own.loader, "ld.so", owner, &made[LOADER], err) < 0) {
		for (int k = 0; k < NODE_SFTP_FILES; k++)
			fd_close(&made[k]);
		return -1;
	}
	memcpy(out, made, sizeof made);
	return 0;
}
