/* Image `host`: a skeleton over which the node's /usr is bound, live and read only. One skeleton
 * for each fingerprint (os-release and the list of installed packages), immutable once it has its
 * name.
 *
 * Invariants
 *  1. of /etc goes in what the list below names, and of that only what every user of the node may
 *     read and what holds no private key;
 *  2. accounts of people, their groups and every password stay out: only system accounts, no
 * shadow;
 *  3. cache/images/<hex> is whole and synced, or absent: it is built under another name. */
#include "base/buf.h"
#include "base/digest.h"
#include "base/fd.h"
#include "base/num.h"
#include "base/path.h"
#include "prepare.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

enum { FILE_MAX_BYTES = 16 << 20, PACKAGES_MAX_BYTES = 256 << 20, DEPTH_MAX = 6 };
enum { SYSTEM_ID_MAX = 999, NOBODY_ID = 65534 };

static const struct {
	const char *name;
	mode_t mode;
} directories[] = {
    {"dev", 0755},       {"etc", 0755},      {"home", 0755},      {"media", 0755},
    {"mnt", 0755},       {"opt", 0755},      {"proc", 0555},      {"root", 0700},
    {"run", 0755},       {"srv", 0755},      {"sys", 0555},       {"tmp", 01777},
    {"usr", 0755},       {"var", 0755},      {"workspace", 0755}, {"var/backups", 0755},
    {"var/cache", 0755}, {"var/lib", 0755},  {"var/local", 0755}, {"var/log", 0755},
    {"var/spool", 0755}, {"var/tmp", 01777},
};

static const struct {
	const char *name, *target;
} links[] = {
    {"var/run", "/run"},
    {"var/lock", "/run/lock"},
    {"etc/mtab", "../proc/self/mounts"},
};

static const char *const merged[] = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"};

static const char *const etc_names[] = {
    "alternatives",   "bash.bashrc",     "ca-certificates.conf",
    "debian_version", "default/locale",  "gai.conf",
    "host.conf",      "inputrc",         "ld.so.cache",
    "ld.so.conf",     "ld.so.conf.d",    "locale.alias",
    "localtime",      "login.defs",      "mime.types",
    "nsswitch.conf",  "os-release",      "pam.d",
    "profile",        "profile.d",       "protocols",
    "security/limits.conf", /* without it, PAM lets nobody open a session: su(1) fails */
    "services",       "shells",          "skel",
    "ssl/certs",      "ssl/openssl.cnf", "timezone",
};

static const struct {
	const char *name, *text;
} made[] = {
    {"etc/hosts", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"},
    {"etc/hostname", "localhost\n"},
    {"etc/resolv.conf", "# no resolver: this session has no network, or one without\n"},
    {"root/.profile", "[ -n \"$BASH\" ] && [ -f ~/.bashrc ] && . ~/.bashrc\n"},
    {"root/.bashrc", "case $- in *i*) ;; *) return ;; esac\n"
		     "HISTCONTROL=ignoreboth\n"
		     "PS1='\\u@\\h:\\w\\$ '\n"},
};

#define COUNT(a) (sizeof(a) / sizeof *(a))

/* ---- copying ---- */

/* Opens what stands before the last slash of a name, making it where `make` says so. *last is the
 * rest. Names here are ours and have one slash at most. */
static int
open_parent(int root, const char *name, bool make, const char **last, struct err *err)
{
	const char *slash = strrchr(name, '/');
	char front[64];

	*last = slash ? slash + 1 : name;
	if (!slash)
		return fd_dup(root, err);
	snprintf(front, sizeof front, "%.*s", (int)(slash - name), name);
	if (make && mkdirat(root, front, 0755) == 0 && fchmodat(root, front, 0755, 0) < 0)
		return err_sys(err, errno, "set up %s", front);
	return path_open(root, front, O_RDONLY | O_DIRECTORY, err);
}

static int
write_file(int dir, const char *name, mode_t mode, struct str bytes, struct err *err)
{
	auto_close int fd = path_create(dir, name, mode, err);
	if (fd < 0 || fd_write_all(fd, bytes.at, bytes.len, err) < 0)
		return err_add(err, "write %s", name);
	if (fchmod(fd, mode) < 0)
		return err_sys(err, errno, "set the mode of %s", name);
	return 0;
}

static bool
holds_private_key(struct str bytes)
{
	static const char mark[] = "PRIVATE KEY";
	return bytes.len > 0 && memmem(bytes.at, bytes.len, mark, sizeof mark - 1) != NULL;
}

static int
copy_file(int from, int to, const char *name, const struct stat *st, struct err *err)
{
	auto_buf bytes = BUF_MAX(FILE_MAX_BYTES);
	const struct timespec times[2] = {st->st_mtim, st->st_mtim};

	if (!(st->st_mode & S_IROTH))
		return 0; /* invariant 1 */
	if (path_read(from, name, &bytes, err) < 0)
		return -1;
	if (holds_private_key(buf_view(&bytes)))
		return 0;
	if (write_file(to, name, st->st_mode & 0755, buf_view(&bytes), err) < 0)
		return -1;
	if (utimensat(to, name, times, AT_SYMLINK_NOFOLLOW) < 0)
		return err_sys(err, errno, "set the time of %s", name);
	return 0;
}

static int
copy_link(int from, int to, const char *name, struct err *err)
{
	char target[4096];
	const ssize_t n = readlinkat(from, name, target, sizeof target - 1);

	if (n < 0)
		return err_sys(err, errno, "read link %s", name);
	target[n] = '\0';
	if (symlinkat(target, to, name) < 0)
		return err_sys(err, errno, "make link %s", name);
	return 0;
}

static int copy_entry(int from, int to, const char *name, int depth, struct err *err);

static int
copy_children(int from, int to, int depth, struct err *err)
{
	const int own = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *list = own < 0 ? NULL : fdopendir(own);
	int result = 0;

	if (!list)
		return err_sys(err, errno, "list a directory");
	for (const struct dirent *e; result == 0 && (e = readdir(list)) != NULL;)
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			result = copy_entry(from, to, e->d_name, depth + 1, err);
	closedir(list);
	return result;
}

static int
copy_directory(int from, int to, const char *name, const struct stat *st, int depth,
	       struct err *err)
{
	if (!(st->st_mode & S_IXOTH) || strcmp(name, "private") == 0)
		return 0; /* what lies in it is not for every user: invariant 1 */
	if (depth > DEPTH_MAX)
		return err_set(err, ERR_INTERNAL, "%s: deeper than %d directories", name,
			       DEPTH_MAX);
	auto_close int source = path_open(from, name, O_RDONLY | O_DIRECTORY, err);
	if (source < 0)
		return -1;
	auto_close int copy = path_open_dir(to, name, 0755, err);
	if (copy < 0)
		return -1;
	if (fchmod(copy, 0755) < 0)
		return err_sys(err, errno, "set the mode of %s", name);
	return copy_children(source, copy, depth, err);
}

/* Copies one name, as it is: links as links. What is absent, or neither file, link nor directory,
 * is passed over. */
static int
copy_entry(int from, int to, const char *name, int depth, struct err *err)
{
	struct stat st;

	if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "look at %s", name);
	if (S_ISREG(st.st_mode))
		return copy_file(from, to, name, &st, err);
	if (S_ISLNK(st.st_mode))
		return copy_link(from, to, name, err);
	if (S_ISDIR(st.st_mode))
		return copy_directory(from, to, name, &st, depth, err);
	return 0;
}

static int
copy_listed(int node_etc, int etc, const char *name, struct err *err)
{
	const char *last;
	struct stat st;

	if (fstatat(node_etc, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || errno == ENOTDIR
			   ? 0
			   : err_sys(err, errno, "look at %s", name);
	auto_close int from = open_parent(node_etc, name, false, &last, err);
	auto_close int to = from < 0 ? -1 : open_parent(etc, name, true, &last, err);
	return to < 0 ? -1 : copy_entry(from, to, last, 0, err);
}

/* ---- accounts ---- */

/* Appends one line of passwd or group when it is a system account's: name, no password, id, and the
 * rest, without a group's members, who are people. */
static void
add_account(struct str line, bool group, struct buf *out)
{
	struct str name, secret, id;
	uint64_t number;
	struct err ignored;

	if (!str_cut(&line, ':', &name) || name.len == 0 || !str_cut(&line, ':', &secret) ||
	    !str_cut(&line, ':', &id))
		return;
	if (num_parse(id, 0, UINT32_MAX, &number, &ignored) < 0 ||
	    (number > SYSTEM_ID_MAX && number != NOBODY_ID))
		return;
	buf_str(out, name);
	buf_text(out, ":*:");
	buf_str(out, id);
	buf_char(out, ':');
	if (!group && line.at)
		buf_str(out, line);
	buf_char(out, '\n');
}

static int
make_accounts(int node_etc, int etc, const char *name, bool group, struct err *err)
{
	auto_buf all = BUF_MAX(FILE_MAX_BYTES), kept = BUF_MAX(FILE_MAX_BYTES);

	if (path_read(node_etc, name, &all, err) < 0)
		return -1;
	struct str rest = buf_view(&all), line;
	while (str_cut(&rest, '\n', &line))
		add_account(line, group, &kept);
	if (buf_bad(&kept))
		return err_set(err, ERR_INTERNAL, "/etc/%s is too large", name);
	return write_file(etc, name, 0644, buf_view(&kept), err);
}

/* ---- the skeleton ---- */

static int
make_places(int root, struct err *err)
{
	for (size_t i = 0; i < COUNT(directories); i++) {
		const char *name = directories[i].name;
		if (mkdirat(root, name, 0755) < 0 ||
		    fchmodat(root, name, directories[i].mode, 0) < 0)
			return err_sys(err, errno, "make %s", name);
	}
	for (size_t i = 0; i < COUNT(links); i++)
		if (symlinkat(links[i].target, root, links[i].name) < 0)
			return err_sys(err, errno, "make link %s", links[i].name);
	for (size_t i = 0; i < COUNT(made); i++)
		if (write_file(root, made[i].name, 0644, str_of(made[i].text), err) < 0)
			return -1;
	return 0;
}

/* /bin and its like, which must be links into /usr: nothing else of the node is shown. */
static int
make_merged(int root, struct err *err)
{
	auto_close int node_root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (node_root < 0)
		return err_sys(err, errno, "open /");
	for (size_t i = 0; i < COUNT(merged); i++) {
		struct stat st;
		if (fstatat(node_root, merged[i], &st, AT_SYMLINK_NOFOLLOW) < 0) {
			if (errno == ENOENT)
				continue;
			return err_sys(err, errno, "look at /%s", merged[i]);
		}
		if (!S_ISLNK(st.st_mode))
			return err_set(err, ERR_UNAVAILABLE,
				       "/%s is no link into /usr: image host needs a merged /usr",
				       merged[i]);
		if (copy_link(node_root, root, merged[i], err) < 0)
			return -1;
	}
	return 0;
}

static int
make_etc(int root, struct err *err)
{
	auto_close int node_etc = open("/etc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (node_etc < 0)
		return err_sys(err, errno, "open /etc");
	auto_close int etc = path_open(root, "etc", O_RDONLY | O_DIRECTORY, err);
	if (etc < 0 || make_accounts(node_etc, etc, "passwd", false, err) < 0 ||
	    make_accounts(node_etc, etc, "group", true, err) < 0)
		return -1;
	for (size_t i = 0; i < COUNT(etc_names); i++)
		if (copy_listed(node_etc, etc, etc_names[i], err) < 0)
			return err_add(err, "copy /etc/%s", etc_names[i]);
	return 0;
}

int
image_skeleton(int root, struct err *err)
{
	return make_places(root, err) < 0 ? -1 : make_merged(root, err);
}

static int
build_skeleton(int images, const char *temporary, struct err *err)
{
	auto_close int root = path_open_dir(images, temporary, 0755, err);
	if (root < 0)
		return -1;
	if (fchmod(root, 0755) < 0)
		return err_sys(err, errno, "set the mode of an image");
	if (image_skeleton(root, err) < 0 || make_etc(root, err) < 0)
		return -1;
	if (syncfs(root) < 0)
		return err_sys(err, errno, "sync an image");
	return 0;
}

static int
make_image(int images, const char *hex, struct err *err)
{
	char temporary[32];
	snprintf(temporary, sizeof temporary, ".tmp.%.16s", hex);

	if (path_remove_tree(images, temporary, err) < 0) /* of a crash */
		return -1;
	if (build_skeleton(images, temporary, err) < 0) {
		struct err ignored;
		if (path_remove_tree(images, temporary, &ignored) < 0)
			return err_add(err, "image host (%s stays)", temporary);
		return err_add(err, "image host");
	}
	if (renameat(images, temporary, images, hex) < 0)
		return err_sys(err, errno, "name an image");
	return path_sync_dir(images, err);
}

/* ---- the fingerprint ---- */

/* Adds "name version" of each installed package, in the order of dpkg's own list. */
static void
add_packages(struct hasher *h, struct str status)
{
	struct str line, name = {0}, version = {0};
	bool installed = false;

	while (str_cut(&status, '\n', &line)) {
		if (str_starts(line, "Package: "))
			name = line;
		else if (str_starts(line, "Version: "))
			version = line;
		else if (str_starts(line, "Status: "))
			installed = str_is(line, "Status: install ok installed") ||
				    str_is(line, "Status: hold ok installed");
		if (line.len == 0) {
			if (installed) {
				hasher_add(h, name.at, name.len);
				hasher_add(h, "\n", 1);
				hasher_add(h, version.at, version.len);
				hasher_add(h, "\n", 1);
			}
			name = version = (struct str){0};
			installed = false;
		}
	}
}

/* Reads a file of the node into `out`; absent is empty. */
static int
read_node_file(const char *path, struct buf *out, struct err *err)
{
	auto_close int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "open %s", path);
	return fd_read_to_end(fd, out, err) < 0 ? err_add(err, "%s", path) : 0;
}

static int
fingerprint(struct digest *out, struct err *err)
{
	auto_buf release = BUF_MAX(FILE_MAX_BYTES), status = BUF_MAX(PACKAGES_MAX_BYTES);
	auto_of(hasher) struct hasher *h = hasher_new();

	if (read_node_file("/etc/os-release", &release, err) < 0 ||
	    read_node_file("/var/lib/dpkg/status", &status, err) < 0)
		return err_add(err, "the fingerprint of this node");
	/* Another list of names above is another image of the same node. */
	for (size_t i = 0; i < COUNT(etc_names); i++)
		hasher_add(h, etc_names[i], strlen(etc_names[i]) + 1);
	hasher_add(h, release.at, release.len);
	add_packages(h, buf_view(&status));
	*out = hasher_sum(h);
	return 0;
}

int
image_host_open(int cache, char *out_name, size_t name_bytes, struct err *err)
{
	struct digest sum;

	if (fingerprint(&sum, err) < 0)
		return -1;
	const struct digest_text hex = digest_text(&sum);
	auto_close int images = path_open_dir(cache, "images", 0700, err);
	if (images < 0)
		return -1;
	if (!path_exists(images, hex.text)) {
		if (make_image(images, hex.text, err) < 0)
			return -1;
		if (path_sync_dir(cache, err) < 0)
			return -1;
	}
	const int root = path_open(images, hex.text, O_RDONLY | O_DIRECTORY, err);
	if (root < 0)
		return -1;
	snprintf(out_name, name_bytes, "host:%s", hex.text);
	return root;
}
