#include "oci_index.h"
#include "base/fd.h"
#include "base/path.h"
#include "blob.h"
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define HEAD                                                                                       \
	"{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.index.v1+json\","          \
	"\"manifests\":["
#define TAIL "\n]}\n"
enum { INDEX_MAX_BYTES = 256 << 20 };

/* Two workers that add must not take each other's lines away. */
static int
hold(int store, struct err *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	auto_close int fd =
	    openat(store, "index.lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, errno, "open index.lock");
	while (fcntl(fd, F_OFD_SETLKW, &lock) < 0)
		if (errno != EINTR)
			return err_sys(err, errno, "lock index.json");
	return fd_steal(&fd);
}

static void
put_line(struct buf *out, const struct digest *d, uint64_t bytes, const char *session_name,
	 bool first)
{
	/* Names of sessions need no escape (session_name_check); another one is left out. */
	const bool plain =
	    strspn(session_name, "abcdefghijklmnopqrstuvwxyz0123456789._-") == strlen(session_name);
	const struct digest_text hex = digest_text(d);

	buf_fmt(out,
		"%s\n{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":"
		"\"sha256:%s\",\"size\":%llu,\"annotations\":{"
		"\"org.opencontainers.image.ref.name\":\"%s%s%.12s\"}}",
		first ? "" : ",", hex.text, (unsigned long long)bytes, plain ? session_name : "",
		plain && *session_name ? "+" : "", hex.text);
}

static int
replace(int store, struct str before, struct str line, struct err *err)
{
	char tmp[32];

	blob_tmp_name(tmp);
	auto_close int fd = path_create(store, tmp, 0600, err);
	if (fd < 0)
		return -1;
	if (fd_write_all(fd, before.at, before.len, err) < 0 ||
	    fd_write_all(fd, line.at, line.len, err) < 0 ||
	    fd_write_all(fd, TAIL, sizeof TAIL - 1, err) < 0) {
		unlinkat(store, tmp, 0);
		return err_add(err, "write index.json");
	}
	if (renameat(store, tmp, store, "index.json") < 0) {
		err_sys(err, errno, "rename index.json");
		unlinkat(store, tmp, 0);
		return -1;
	}
	return 0;
}

static void
put_ref(int store, const char *name, struct buf *out, bool *first)
{
	auto_buf text = BUF_MAX(MANIFEST_MAX_BYTES);
	struct err ignored;
	struct digest d;
	struct stat st;
	char blob[96];

	if (strlen(name) != 69 || digest_parse((struct str){name, 64}, &d, &ignored) < 0 ||
	    store_directory.get_object(store, name, &text, &ignored) < 0)
		return;
	snprintf(blob, sizeof blob, "blobs/sha256/%s", digest_text(&d).text);
	if (fstatat(store, blob, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return;
	json_t *j = json_loadb(text.at ? text.at : "", text.len, 0, NULL);
	const char *session = json_string_value(json_object_get(j, "session_name"));
	put_line(out, &d, (uint64_t)st.st_size, session ? session : "", *first);
	*first = false;
	json_decref(j);
}

static int
write_all(int store, struct err *err)
{
	auto_buf out = BUF_MAX(INDEX_MAX_BYTES);
	const struct dirent *e;
	bool first = true;

	auto_close int refs = path_open(store, "refs", O_RDONLY | O_DIRECTORY, err);
	DIR *list = refs < 0 ? NULL : fdopendir(refs);
	if (!list)
		return -1;
	refs = -1;
	while ((e = readdir(list)) != NULL)
		put_ref(store, e->d_name, &out, &first);
	closedir(list);
	if (buf_bad(&out))
		return err_set(err, ERR_UNAVAILABLE, "index.json would be too long");
	return replace(store, STR_LIT(HEAD), buf_view(&out), err);
}

int
oci_index_write(int store, struct err *err)
{
	auto_close int held = hold(store, err);
	return held < 0 ? -1 : write_all(store, err);
}

int
oci_index_add(int store, const struct digest *manifest, uint64_t bytes, const char *session_name,
	      struct err *err)
{
	auto_buf text = BUF_MAX(INDEX_MAX_BYTES), line = BUF_MAX(4096);
	const size_t tail = sizeof TAIL - 1, head = sizeof HEAD - 1;
	struct err ignored;

	auto_close int held = hold(store, err);
	if (held < 0)
		return -1;
	if (path_read(store, "index.json", &text, &ignored) < 0 || text.len < head + tail ||
	    memcmp(text.at, HEAD, head) != 0 || memcmp(text.at + text.len - tail, TAIL, tail) != 0)
		return write_all(store, err);
	put_line(&line, manifest, bytes, session_name, text.len == head + tail);
	return replace(store, (struct str){text.at, text.len - tail}, buf_view(&line), err);
}
