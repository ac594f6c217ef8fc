/* A path made what it is in another tree. What is hostile in either must not lead out of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "server/init/put_tree.c"
#include "base/path.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/xattr.h>

struct room {
	char name[64];
	int top, source, root, outside;
};

static int
make_room(void **state)
{
	static struct room r;

	snprintf(r.name, sizeof r.name, "/tmp/berth-put.XXXXXX");
	if (!mkdtemp(r.name))
		return -1;
	r.top = open(r.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int *const dirs[] = {&r.source, &r.root, &r.outside};
	static const char *const names[] = {"source", "root", "outside"};
	for (int i = 0; i < 3; i++) {
		if (mkdirat(r.top, names[i], 0755) < 0)
			return -1;
		*dirs[i] = openat(r.top, names[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	*state = &r;
	return 0;
}

static int
remove_room(void **state)
{
	struct room *r = *state;
	struct err err;
	const int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int result = path_remove_tree(tmp, r->name + 5, &err);

	close(tmp);
	close(r->top);
	close(r->source);
	close(r->root);
	close(r->outside);
	return result;
}

static void
file(int dir, const char *name, const char *text)
{
	const int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void
holds(int dir, const char *name, const char *text)
{
	char got[256] = "";
	const int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(read(fd, got, sizeof got - 1), strlen(text));
	assert_string_equal(got, text);
	close(fd);
}

static bool
is_there(int dir, const char *name)
{
	struct stat st;
	return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* No names but these, each of one letter, in any order. */
static void
has_only(int dir, const char *letters)
{
	DIR *d = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	size_t n = 0;

	for (const struct dirent *e; (e = readdir(d)) != NULL;) {
		if (is_dots(e->d_name))
			continue;
		assert_int_equal(strlen(e->d_name), 1);
		assert_non_null(strchr(letters, e->d_name[0]));
		n++;
	}
	closedir(d);
	assert_int_equal(n, strlen(letters));
}

static int
put(const struct room *r, const char *path, struct put_counts *out, struct err *err)
{
	struct put p = {.source = r->source, .root = r->root};
	const int result = put_tree(&p, path, err);

	*out = p.n;
	put_done(&p);
	return result;
}

static void
puts_well(const struct room *r, const char *path, struct put_counts *out)
{
	struct err err = {.why = ""};
	const int result = put(r, path, out, &err);

	assert_string_equal(err.why, "");
	assert_int_equal(result, 0);
}

static void
every_kind_is_made_changed_and_removed(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct stat a, b;
	char target[16] = "";

	assert_int_equal(mkdirat(r->source, "d", 0751), 0);
	file(r->source, "d/a", "text");
	assert_int_equal(fchmodat(r->source, "d/a", 04640, 0), 0);
	assert_int_equal(symlinkat("../x", r->source, "d/l"), 0);
	assert_int_equal(mkfifoat(r->source, "d/p", 0600), 0);
	assert_int_equal(linkat(r->source, "d/a", r->source, "d/h", 0), 0);
	assert_int_equal(mkdirat(r->source, "d/e", 0700), 0);
	const struct timespec times[2] = {{1, 2}, {1000000001, 123456789}};
	assert_int_equal(utimensat(r->source, "d/a", times, 0), 0);
	assert_int_equal(utimensat(r->source, "d", times, 0), 0);
	puts_well(r, "d", &n);
	assert_int_equal(n.written, 6);
	assert_int_equal(n.removed, 0);

	/* each becomes another kind, and more is there */
	assert_int_equal(unlinkat(r->root, "d/a", 0), 0);
	assert_int_equal(mkdirat(r->root, "d/a", 0755), 0);
	file(r->root, "d/a/z", "in the way");
	assert_int_equal(unlinkat(r->root, "d/l", 0), 0);
	file(r->root, "d/l", "file");
	assert_int_equal(unlinkat(r->root, "d/e", AT_REMOVEDIR), 0);
	assert_int_equal(symlinkat("/etc", r->root, "d/e"), 0);
	file(r->root, "d/n", "new");
	assert_int_equal(mkdirat(r->root, "d/m", 0755), 0);
	file(r->root, "d/m/o", "new");
	puts_well(r, "d", &n);
	const int d = openat(r->root, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	has_only(d, "alphe");
	close(d);
	holds(r->root, "d/a", "text");
	assert_int_equal(fstatat(r->root, "d/a", &a, 0), 0);
	assert_int_equal(fstatat(r->root, "d/h", &b, 0), 0);
	assert_true(a.st_ino == b.st_ino && a.st_nlink == 2);
	assert_int_equal(a.st_mode & 07777, 04640);
	assert_true(is_there(r->root, "d/p"));
	assert_int_equal(readlinkat(r->root, "d/l", target, sizeof target), 4);
	assert_int_equal(fstatat(r->root, "d", &a, 0), 0);
	assert_true(a.st_mtim.tv_sec == 1000000001 && a.st_mtim.tv_nsec == 123456789);
	assert_int_equal(a.st_mode & 07777, 0751);
}

static void
what_is_equal_stays_as_it_is(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct stat before, after;

	assert_int_equal(mkdirat(r->source, "d", 0755), 0);
	file(r->source, "d/a", "text");
	file(r->source, "d/b", "text");
	puts_well(r, "d", &n);
	assert_int_equal(fstatat(r->root, "d/a", &before, 0), 0);
	puts_well(r, "d", &n);
	assert_int_equal(fstatat(r->root, "d/a", &after, 0), 0);
	assert_int_equal(n.written, 0);
	assert_int_equal(n.same, 3);
	assert_int_equal(n.bytes, 0);
	assert_int_equal(before.st_ino, after.st_ino);
	/* the same size and time, other bytes */
	file(r->root, "d/b", "TEXT");
	struct stat b;
	assert_int_equal(fstatat(r->source, "d/b", &b, 0), 0);
	const struct timespec same[2] = {b.st_atim, b.st_mtim};
	assert_int_equal(utimensat(r->root, "d/b", same, 0), 0);
	assert_int_equal(fchmodat(r->root, "d/a", 0600, 0), 0);
	puts_well(r, "d", &n);
	holds(r->root, "d/b", "text");
	assert_int_equal(n.bytes, 4);
	assert_int_equal(fstatat(r->root, "d/a", &after, 0), 0);
	assert_int_equal(after.st_mode & 07777, 0644);
	assert_int_equal(before.st_ino, after.st_ino);
}

static void
another_name_of_a_file_keeps_what_it_has(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct stat st;

	assert_int_equal(mkdirat(r->source, "d", 0755), 0);
	file(r->source, "d/a", "text");
	file(r->source, "d/b", "more");
	puts_well(r, "d", &n);
	assert_int_equal(linkat(r->root, "d/a", r->outside, "a", 0), 0);
	assert_int_equal(linkat(r->root, "d/b", r->outside, "b", 0), 0);
	file(r->outside, "a", "other");
	assert_int_equal(fchmodat(r->outside, "b", 0600, 0), 0); /* its bytes are equal */
	puts_well(r, "d", &n);
	holds(r->root, "d/a", "text");
	holds(r->outside, "a", "other");
	assert_int_equal(fstatat(r->outside, "b", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	assert_int_equal(fstatat(r->root, "d/b", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0644);
}

static void
links_on_the_way_and_at_the_end_are_not_followed(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct err err;
	char outside[96];

	snprintf(outside, sizeof outside, "%s/outside", r->name);
	file(r->outside, "v", "victim");
	assert_int_equal(mkdirat(r->source, "d", 0755), 0);
	assert_int_equal(mkdirat(r->source, "d/v", 0755), 0);
	file(r->source, "d/v/v", "out");
	assert_int_equal(symlinkat(outside, r->root, "d"), 0);
	assert_int_equal(put(r, "d/v", &n, &err), -1);
	assert_int_equal(err.code, ERR_UNAVAILABLE);
	assert_non_null(strstr(err.why, "/d is no directory now"));
	puts_well(r, "d", &n); /* the link itself is replaced */
	holds(r->root, "d/v/v", "out");
	/* below: the directory v is a link to where another v is */
	assert_int_equal(unlinkat(r->root, "d/v/v", 0), 0);
	assert_int_equal(unlinkat(r->root, "d/v", AT_REMOVEDIR), 0);
	assert_int_equal(symlinkat(outside, r->root, "d/v"), 0);
	puts_well(r, "d/v", &n);
	holds(r->root, "d/v/v", "out");
	/* the source's links lead nowhere either */
	assert_int_equal(symlinkat(outside, r->source, "s"), 0);
	assert_int_equal(put(r, "s/v", &n, &err), -1);
	assert_non_null(strstr(err.why, "/s is no directory in the snapshot"));
	assert_int_equal(put(r, "d/../../outside/v", &n, &err), -1);
	assert_int_equal(err.code, ERR_USAGE);
	holds(r->outside, "v", "victim");
	has_only(r->outside, "v");
}

static void
a_fifo_in_place_of_a_file_is_not_waited_for(void **state)
{
	struct room *r = *state;
	struct put_counts n;

	file(r->source, "f", "text");
	assert_int_equal(mkfifoat(r->root, "f", 0666), 0);
	alarm(20);
	puts_well(r, "f", &n);
	alarm(0);
	holds(r->root, "f", "text");
}

static void
what_the_source_has_not_is_said_and_makes_nothing(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct err err;

	assert_int_equal(mkdirat(r->source, "d", 0755), 0);
	static const char *const absent[] = {"x", "x/y", "d/x", "d/x/y"};
	for (size_t i = 0; i < sizeof absent / sizeof *absent; i++) {
		assert_int_equal(put(r, absent[i], &n, &err), -1);
		assert_int_equal(err.code, ERR_ABSENT);
	}
	static const char *const bad[] = {"", "/", "/d", "d/", "d//e", ".", "..", "d/.."};
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		assert_int_equal(put(r, bad[i], &n, &err), -1);
		assert_int_equal(err.code, ERR_USAGE);
	}
	has_only(r->root, "");
}

static void
missing_parents_are_made_as_they_were(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct stat st;

	assert_int_equal(mkdirat(r->source, "d", 0700), 0);
	assert_int_equal(mkdirat(r->source, "d/e", 01777), 0);
	assert_int_equal(fchmodat(r->source, "d/e", 01777, 0), 0);
	file(r->source, "d/e/f", "text");
	file(r->source, "d/g", "not asked for");
	puts_well(r, "d/e/f", &n);
	holds(r->root, "d/e/f", "text");
	assert_int_equal(fstatat(r->root, "d/e", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 01777);
	assert_false(is_there(r->root, "d/g"));
}

static void
attributes_come_and_go(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	char value[8], path[128];

	file(r->source, "f", "text");
	snprintf(path, sizeof path, "%s/source/f", r->name);
	if (setxattr(path, "user.a", "1", 1, 0) < 0)
		skip(); /* /tmp knows no user attributes here */
	puts_well(r, "f", &n);
	snprintf(path, sizeof path, "%s/root/f", r->name);
	assert_int_equal(getxattr(path, "user.a", value, sizeof value), 1);
	assert_int_equal(setxattr(path, "user.a", "22", 2, 0), 0);
	assert_int_equal(setxattr(path, "user.b", "3", 1, 0), 0);
	puts_well(r, "f", &n);
	assert_int_equal(n.written, 1);
	assert_int_equal(n.bytes, 0);
	assert_int_equal(getxattr(path, "user.a", value, sizeof value), 1);
	assert_int_equal(getxattr(path, "user.b", value, sizeof value), -1);
}

static void
holes_stay_holes(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct stat st;

	const int fd = openat(r->source, "f", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	assert_int_equal(pwrite(fd, "begin", 5, 0), 5);
	assert_int_equal(pwrite(fd, "end", 3, 64 << 20), 3);
	close(fd);
	puts_well(r, "f", &n);
	assert_int_equal(fstatat(r->root, "f", &st, 0), 0);
	assert_int_equal(st.st_size, (64 << 20) + 3);
	assert_true(st.st_blocks < 2048);
}

/* A mount namespace of our own, and the tree as it is there. */
static void
own_mounts(struct room *r)
{
	char path[96];

	if (unshare(CLONE_NEWNS) < 0)
		skip(); /* only root can */
	assert_int_equal(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL), 0);
	snprintf(path, sizeof path, "%s/root", r->name);
	close(r->root);
	r->root = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static void
a_mount_below_is_left_alone(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct err err;

	own_mounts(r);
	assert_int_equal(mkdirat(r->source, "d", 0755), 0);
	assert_int_equal(mkdirat(r->source, "d/m", 0755), 0);
	file(r->source, "d/m/v", "out");
	file(r->outside, "v", "mounted");
	assert_int_equal(mkdirat(r->root, "d", 0755), 0);
	assert_int_equal(mkdirat(r->root, "d/m", 0755), 0);
	assert_int_equal(mkdirat(r->root, "d/n", 0755), 0);
	char at[128], outside[96];
	snprintf(outside, sizeof outside, "%s/outside", r->name);
	static const char *const places[] = {"m", "n"};
	for (int i = 0; i < 2; i++) {
		snprintf(at, sizeof at, "%s/root/d/%s", r->name, places[i]);
		assert_int_equal(mount(outside, at, NULL, MS_BIND, NULL), 0);
	}
	puts_well(r, "d", &n); /* n is not in the source, and stays as it is a mount */
	assert_int_equal(n.skipped, 2);
	holds(r->outside, "v", "mounted");
	assert_int_equal(put(r, "d/m", &n, &err), -1);
	assert_non_null(strstr(err.why, "is a mount"));
	assert_int_equal(put(r, "d/m/v", &n, &err), -1);
	assert_non_null(strstr(err.why, "is a mount"));
	holds(r->outside, "v", "mounted");
	for (int i = 0; i < 2; i++) {
		snprintf(at, sizeof at, "%s/root/d/%s", r->name, places[i]);
		assert_int_equal(umount(at), 0);
	}
}

static void
depth_has_a_bound(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct err err;
	int at = dup(r->source);

	for (int i = 0; i < PUT_DEPTH_MAX + 3; i++) {
		assert_int_equal(mkdirat(at, "d", 0755), 0);
		const int next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(at);
		at = next;
	}
	close(at);
	assert_int_equal(put(r, "d", &n, &err), -1);
	assert_non_null(strstr(err.why, "deeper than"));
}

static void
a_failure_leaves_no_file_beside(void **state)
{
	struct room *r = *state;
	struct put_counts n;
	struct err err;

	file(r->source, "f", "text");
	assert_int_equal(mkdirat(r->root, "f", 0755), 0);
	assert_int_equal(mkdirat(r->root, "f/m", 0755), 0);
	own_mounts(r);
	char at[128];
	snprintf(at, sizeof at, "%s/root/f/m", r->name);
	assert_int_equal(mount("none", at, "tmpfs", 0, NULL), 0);
	assert_int_equal(put(r, "f", &n, &err), -1); /* what holds a mount cannot be replaced */
	assert_int_equal(umount(at), 0);
	has_only(r->root, "f");
}

int
main(void)
{
#define in_room(test) cmocka_unit_test_setup_teardown(test, make_room, remove_room)
	const struct CMUnitTest tests[] = {
	    in_room(every_kind_is_made_changed_and_removed),
	    in_room(what_is_equal_stays_as_it_is),
	    in_room(another_name_of_a_file_keeps_what_it_has),
	    in_room(links_on_the_way_and_at_the_end_are_not_followed),
	    in_room(a_fifo_in_place_of_a_file_is_not_waited_for),
	    in_room(what_the_source_has_not_is_said_and_makes_nothing),
	    in_room(missing_parents_are_made_as_they_were),
	    in_room(attributes_come_and_go),
	    in_room(holes_stay_holes),
	    in_room(a_mount_below_is_left_alone),
	    in_room(depth_has_a_bound),
	    in_room(a_failure_leaves_no_file_beside),
	};
	umask(0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
