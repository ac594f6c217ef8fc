#include "node_name.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 4096, SECRET_BYTES = 32 };

static const char salt[] = "berth: the name of a node, 1";

/* The 32 hex digits of machine-id(5); false for an absent file and for "uninitialized". */
static bool
read_machine_id(const char *path, struct buf *out)
{
	struct err ignored;
	uint8_t bytes[16];
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fd_read_to_end(fd, out, &ignored) < 0)
		return false;
	while (out->len && out->at[out->len - 1] == '\n')
		out->len--;
	return hex_parse(buf_view(out), bytes, sizeof bytes, &ignored) == 0;
}

/* STATE/node-secret, made when it is absent. */
static int
read_own_secret(int state, struct buf *out, struct err *err)
{
	uint8_t bytes[SECRET_BYTES];
	char hex[2 * SECRET_BYTES + 1];

	if (!path_exists(state, "node-secret")) {
		if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes)
			return err_sys(err, errno, "get random bytes");
		hex_format(bytes, sizeof bytes, hex);
		if (path_replace(state, "node-secret", 0600, str_of(hex), err) < 0)
			return -1;
	}
	buf_clear(out);
	return path_read(state, "node-secret", out, err);
}

int
node_name_find(int state, const char *machine_id, char out[NODE_NAME_BYTES], struct err *err)
{
	auto_buf text = BUF_MAX(FILE_MAX_BYTES);

	if (!read_machine_id(machine_id, &text) && read_own_secret(state, &text, err) < 0)
		return err_add(err, "the name of this node");
	auto_of(hasher) struct hasher *h = hasher_new();
	hasher_add(h, salt, sizeof salt);
	hasher_add(h, text.at, text.len);
	const struct digest sum = hasher_sum(h);
	hex_format(sum.at, NODE_NAME_BYTES / 2, out);
	return 0;
}
