/* Invariants of images.c: what of the node a session may see, and when an image has its name. */
#include "server/manager/images.c"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

static char top[64];
static int cache = -1;

static int
setup(void **state)
{
	struct err err;
	(void)state;
	umask(0077); /* as the manager's */
	snprintf(top, sizeof top, "/var/tmp/berth-images-XXXXXX");
	if (!mkdtemp(top))
		return -1;
	cache = path_open_top(top, 0700, &err);
	return cache < 0;
}

static int
teardown(void **state)
{
	struct err err;
	(void)state;
	fd_close(&cache);
	return path_remove_tree(AT_FDCWD, top, &err);
}

static int
image(char name[80])
{
	struct err err;
	const int fd = image_host_open(cache, name, 80, &err);
	if (fd < 0)
		fail_msg("%s", err.why);
	return fd;
}

static void
read_text(int root, const char *name, struct buf *out)
{
	struct err err;
	if (path_read(root, name, out, &err) < 0)
		fail_msg("%s", err.why);
}

/* Calls fn for every file beneath. */
static unsigned
each_file(int dir, void (*fn)(int dir, const char *name, const struct stat *st))
{
	unsigned n = 0;
	DIR *list = fdopendir(openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	assert_non_null(list);
	for (const struct dirent *e; (e = readdir(list)) != NULL;) {
		struct stat st;
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		assert_int_equal(fstatat(dir, e->d_name, &st, AT_SYMLINK_NOFOLLOW), 0);
		fn(dir, e->d_name, &st);
		n++;
		if (S_ISDIR(st.st_mode)) {
			auto_close int below =
			    openat(dir, e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
			n += each_file(below, fn);
		}
	}
	closedir(list);
	return n;
}

static void
check_file(int dir, const char *name, const struct stat *st)
{
	assert_true(S_ISREG(st->st_mode) || S_ISDIR(st->st_mode) || S_ISLNK(st->st_mode));
	assert_int_equal(st->st_uid, geteuid());
	assert_int_equal(st->st_mode & 06000, 0); /* nothing setuid */
	assert_null(strstr(name, "shadow"));
	assert_null(strstr(name, "ssh_host"));
	assert_string_not_equal(name, "machine-id");
	if (!S_ISREG(st->st_mode))
		return;
	auto_buf bytes = BUF_MAX(FILE_MAX_BYTES);
	read_text(dir, name, &bytes);
	if (memmem(bytes.at, bytes.len, "PRIVATE KEY", 11))
		fail_msg("%s holds a private key", name);
}

static void
test_no_secret_of_the_node_is_in_it(void **state)
{
	char name[80];
	struct stat st;

	(void)state;
	auto_close int root = image(name);
	assert_true(each_file(root, check_file) > 60);
	static const char *const absent[] = {"etc/shadow",      "etc/gshadow", "etc/ssh",
					     "etc/ssl/private", "etc/sudoers", "etc/machine-id",
					     "etc/fstab",       "boot",        "etc/environment"};
	for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
		assert_int_equal(fstatat(root, absent[i], &st, AT_SYMLINK_NOFOLLOW), -1);
}

static void
test_it_has_what_programs_expect(void **state)
{
	char name[80];
	struct stat st;
	auto_buf hosts = BUF_MAX(4096);

	(void)state;
	auto_close int root = image(name);
	static const struct {
		const char *name;
		mode_t mode;
	} expected[] = {{".", 0755},    {"tmp", 01777},         {"var/tmp", 01777},
			{"root", 0700}, {"etc", 0755},          {"workspace", 0755},
			{"proc", 0555}, {"root/.bashrc", 0644}, {"etc/passwd", 0644}};
	for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
		assert_int_equal(fstatat(root, expected[i].name, &st, 0), 0);
		if ((st.st_mode & 07777) != expected[i].mode)
			fail_msg("%s has mode %o", expected[i].name, st.st_mode & 07777);
	}
	char target[64];
	const ssize_t n = readlinkat(root, "bin", target, sizeof target);
	assert_int_equal(n, 7);
	assert_memory_equal(target, "usr/bin", 7);
	assert_int_equal(fstatat(root, "usr", &st, 0), 0);
	assert_int_equal(st.st_nlink, 2); /* empty: the node's is bound over it */
	read_text(root, "etc/hosts", &hosts);
	assert_non_null(strstr(buf_cstr(&hosts), "127.0.0.1\tlocalhost"));
}

static void
test_one_node_has_one_image_and_it_is_not_made_twice(void **state)
{
	char name[80], again[80];
	struct stat first, second;

	(void)state;
	auto_close int a = image(name);
	auto_close int b = image(again);
	assert_string_equal(name, again);
	assert_int_equal(strlen(name), strlen("host:") + 64);
	assert_int_equal(fstat(a, &first), 0);
	assert_int_equal(fstat(b, &second), 0);
	assert_int_equal(first.st_ino, second.st_ino);
}

static void
test_what_a_crash_left_half_made_is_not_taken_for_an_image(void **state)
{
	char name[80], temporary[32], hex[80];
	struct err err;

	(void)state;
	fd_close(&(int){image(name)});
	auto_close int images = openat(cache, "images", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	snprintf(hex, sizeof hex, "%s", name + 5);
	assert_int_equal(path_remove_tree(images, hex, &err), 0);
	snprintf(temporary, sizeof temporary, ".tmp.%.16s", hex);
	assert_int_equal(mkdirat(images, temporary, 0755), 0);
	auto_close int half = openat(images, temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(half, "etc", 0700), 0);
	assert_int_equal(mkdirat(half, "strange", 0700), 0);
	auto_close int root = image(name);
	assert_false(path_exists(root, "strange"));
	assert_true(path_exists(root, "workspace"));
	assert_false(path_exists(images, temporary));
}

static void
test_only_system_accounts_and_no_password(void **state)
{
	auto_buf out = BUF_MAX(4096);
	static const char *const passwd[] = {
	    "root:x:0:0:root:/root:/bin/bash",
	    "old:$6$salt$hash:7:7::/:/bin/sh",
	    "ann:x:1000:1000:Ann:/home/ann:/bin/zsh",
	    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin",
	    "huge:x:99999999999:1::/:/bin/sh",
	    "+::::::",
	    "",
	    "broken",
	    "broken:x",
	};
	(void)state;
	for (size_t i = 0; i < sizeof passwd / sizeof *passwd; i++)
		add_account(str_of(passwd[i]), false, &out);
	assert_string_equal(buf_cstr(&out),
			    "root:*:0:0:root:/root:/bin/bash\n"
			    "old:*:7:7::/:/bin/sh\n"
			    "nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
	buf_clear(&out);
	add_account(STR_LIT("sudo:x:27:ann,bob"), true, &out);
	add_account(STR_LIT("ann:x:1000:"), true, &out);
	add_account(STR_LIT("audio:x:29"), true, &out);
	assert_string_equal(buf_cstr(&out), "sudo:*:27:\naudio:*:29:\n");
}

static void
test_copying_passes_over_what_not_everybody_may_read(void **state)
{
	struct err err;
	const char *const text = "-----BEGIN RSA PRIVATE KEY-----\n";

	(void)state;
	auto_close int from = path_open_dir(cache, "from", 0755, &err);
	auto_close int to = path_open_dir(cache, "to", 0755, &err);
	auto_close int sub = path_open_dir(from, "sub", 0750, &err);
	assert_int_equal(write_file(from, "open", 0644, STR_LIT("x"), &err), 0);
	assert_int_equal(write_file(from, "closed", 0640, STR_LIT("x"), &err), 0);
	assert_int_equal(write_file(from, "key", 0644, str_of(text), &err), 0);
	assert_int_equal(write_file(from, "setuid", 04755, STR_LIT("x"), &err), 0);
	assert_int_equal(write_file(sub, "open", 0644, STR_LIT("x"), &err), 0);
	assert_int_equal(mknodat(from, "pipe", S_IFIFO | 0644, 0), 0);
	assert_int_equal(symlinkat("/etc/shadow", from, "link"), 0);
	if (copy_children(from, to, 0, &err) < 0)
		fail_msg("%s", err.why);
	assert_true(path_exists(to, "open"));
	assert_false(path_exists(to, "closed"));
	assert_false(path_exists(to, "key"));
	assert_false(path_exists(to, "sub"));
	assert_false(path_exists(to, "pipe"));
	struct stat st;
	assert_int_equal(fstatat(to, "setuid", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
	assert_int_equal(fstatat(to, "link", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISLNK(st.st_mode)); /* as a link: it leads nowhere inside */
}

static struct digest
packages_sum(const char *status)
{
	auto_of(hasher) struct hasher *h = hasher_new();
	add_packages(h, str_of(status));
	return hasher_sum(h);
}

static void
test_the_fingerprint_counts_installed_packages_and_versions(void **state)
{
	(void)state;
	const struct digest a =
	    packages_sum("Package: a\nStatus: install ok installed\nVersion: 1\n\n");
	const struct digest described = packages_sum(
	    "Package: a\nStatus: install ok installed\nVersion: 1\nDescription: new\n\n");
	const struct digest newer =
	    packages_sum("Package: a\nStatus: install ok installed\nVersion: 2\n\n");
	const struct digest removed =
	    packages_sum("Package: a\nStatus: install ok installed\nVersion: 1\n\n"
			 "Package: b\nStatus: deinstall ok config-files\nVersion: 1\n\n");
	const struct digest more =
	    packages_sum("Package: a\nStatus: install ok installed\nVersion: 1\n\n"
			 "Package: b\nStatus: install ok installed\nVersion: 1\n\n");
	assert_true(digest_equal(&a, &described));
	assert_true(digest_equal(&a, &removed));
	assert_false(digest_equal(&a, &newer));
	assert_false(digest_equal(&a, &more));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_no_secret_of_the_node_is_in_it),
	    cmocka_unit_test(test_it_has_what_programs_expect),
	    cmocka_unit_test(test_one_node_has_one_image_and_it_is_not_made_twice),
	    cmocka_unit_test(test_what_a_crash_left_half_made_is_not_taken_for_an_image),
	    cmocka_unit_test(test_only_system_accounts_and_no_password),
	    cmocka_unit_test(test_copying_passes_over_what_not_everybody_may_read),
	    cmocka_unit_test(test_the_fingerprint_counts_installed_packages_and_versions),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
