/* export.c, export_tar.c and import.c: stock tar has the workspace from what is exported; what is
 * exported is imported again; what was changed on the way is refused. */
#include "snapshot/export_tar.c"

#include "view_room.h"

#include "import.h"
#include "oci.h"

#include <sys/syscall.h>
#include <sys/vfs.h>

static uint64_t blocks_free; /* that the store has, of so many; 0: what is so */

int
fstatfs(int fd, struct statfs *out)
{
	const int result = (int)syscall(SYS_fstatfs, fd, out);

	if (blocks_free) {
		out->f_bsize = 4096;
		out->f_blocks = 1 << 20;
		out->f_bavail = blocks_free;
	}
	return result;
}

static unsigned long seed;

static unsigned
dice(unsigned n)
{
	seed = seed * 6364136223846793005ul + 1442695040888963407ul;
	return (unsigned)(seed >> 33) % n;
}

static int
put_to_file(void *ctx, const void *bytes, size_t n, struct err *err)
{
	return fd_write_all(*(int *)ctx, bytes, n, err);
}

static int out_fd;
static const struct tar_sink sink = {put_to_file, &out_fd};

static void
open_out(const char *name)
{
	out_fd = openat(room.dir, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ok(out_fd);
}

static void
assert_tar_is_upper(void)
{
	const struct layer_options o = room_options(2);
	struct err err;
	char command[512];

	open_out("out.tar");
	must(export_tar(&o, layers.at, layers.n, sink, &err), &err);
	close(out_fd);
	snprintf(
	    command, sizeof command,
	    "cd %s && rm -rf plain && mkdir plain && tar --xattrs --xattrs-include='*' -C plain "
	    "-xpf out.tar 2>said && ! grep -v 'implausibly old\\|in the future' said",
	    room.path);
	shell(command);
	auto_close int plain = room_dir("plain");
	assert_same_tree(room.upper, plain, false);
}

static void
test_stock_tar_has_the_workspace_of_a_merged_chain(void **state)
{
	char command[700];

	(void)state;
	seed = (unsigned long)getpid() * 2654435761u;
	print_message("seed %lu\n", seed);
	for (int history = 0; history < 6; history++) {
		layers_begin();
		for (int i = 0; i < 5; i++) {
			for (int n = 0; n < 8; n++) {
				const unsigned a = dice(4), b = dice(4), c = dice(4), d = dice(4);
				static const char *const what[] = {
				    "mkdir -p %c/%c", "echo %d > %c/%c", "rm -rf %c/%c",
				    "ln %c/%c %c/%c", "echo x > %c",     "rm -rf %c",
				    "cp -a %c %c"};
				char act[128] = "";
				switch (dice(8)) {
				case 0:
				case 1:
					snprintf(act, sizeof act, what[0], 'a' + a, 'a' + b);
					break;
				case 2:
				case 3:
					snprintf(act, sizeof act, what[1], (int)dice(999), 'a' + a,
						 'a' + b);
					break;
				case 4:
					snprintf(act, sizeof act, what[2], 'a' + a, 'a' + b);
					break;
				case 5:
				case 6:
					snprintf(act, sizeof act, what[3], 'a' + a, 'a' + b,
						 'a' + c, 'a' + d);
					break;
				default:
					snprintf(act, sizeof act, what[5], 'a' + a);
				}
				snprintf(command, sizeof command,
					 "cd %s/upper && { %s; } 2>/dev/null || :", room.path, act);
				shell(command);
			}
			layers_add();
		}
		assert_tar_is_upper();
		layers_end();
		snprintf(command, sizeof command, "rm -rf %s/upper/*", room.path);
		shell(command);
	}
}

static void
test_a_file_with_several_names_whose_first_is_gone(void **state)
{
	(void)state;
	ok(mkdirat(room.upper, "d", 0755));
	put_text(room.upper, "d/first", "shared");
	ok(linkat(room.upper, "d/first", room.upper, "d/second", 0));
	ok(linkat(room.upper, "d/first", room.upper, "third", 0));
	put_attr_at(room.upper, "third", "user.kept", "yes", 3);
	layers_begin();
	layers_add();
	ok(unlinkat(room.upper, "d/first", 0));
	put_text(room.upper, "d/first", "another");
	layers_add();
	layers_end();
	assert_tar_is_upper();
	struct stat a, b;
	auto_close int plain = room_dir("plain");
	ok(fstatat(plain, "d/second", &a, 0));
	ok(fstatat(plain, "third", &b, 0));
	assert_int_equal(a.st_ino, b.st_ino);
}

static void
test_everything_that_a_workspace_can_hold(void **state)
{
	(void)state;
	put_rich_tree(room.upper);
	ok(unlinkat(room.upper, "d/deleted", 0)); /* nothing to tar */
	ok(unlinkat(room.upper, "sparse", 0));    /* tar looks through its 100 GB */
	ok(unlinkat(room.upper, "d/old", 0));     /* GNU tar rounds times before 1970 otherwise */
	layers_begin();
	layers_add();
	layers_end();
	char command[512];
	const struct layer_options o = room_options(2);
	struct err err;
	open_out("out.tar");
	must(export_tar(&o, layers.at, layers.n, sink, &err), &err);
	close(out_fd);
	snprintf(command, sizeof command,
		 "cd %s && mkdir plain && tar --xattrs --xattrs-include='*' -C plain -xpf out.tar",
		 room.path);
	shell(command);
	/* what is marked in an upper is escaped there alone: attributes of that one file aside */
	struct stat x, y;
	auto_close int plain = room_dir("plain");
	ok(fstatat(plain, ".wh.really", &x, 0)); /* as it is: no whiteouts are in a merged tar */
	ok(fstatat(plain, "holes", &y, 0));
	assert_int_equal(y.st_size, 1 << 20);
	assert_int_equal(y.st_blocks, 0);
	ok(unlinkat(plain, "d/cap", 0));
	ok(unlinkat(room.upper, "d/cap", 0));
	put_time(plain, "d", 1, 1);
	put_time(room.upper, "d", 1, 1);
	assert_same_tree(room.upper, plain, false);
}

/* ---- OCI, there and back ---- */

struct file_source {
	int fd;
	char piece[4096];
};

static int
next_of_file(void *ctx, struct str *out, struct err *err)
{
	struct file_source *f = ctx;
	const ssize_t n = read(f->fd, f->piece, sizeof f->piece);

	if (n < 0)
		return err_sys(err, errno, "read");
	*out = (struct str){f->piece, (size_t)n};
	return n > 0;
}

static struct digest
write_snapshot(void)
{
	uint64_t sizes[ROOM_LAYERS_MAX];
	struct digest diff_ids[ROOM_LAYERS_MAX], manifest;
	struct err err;

	for (size_t i = 0; i < layers.n; i++) {
		sizes[i] = layers.sum[i].bytes;
		diff_ids[i] = layers.sum[i].diff_id;
	}
	const struct oci_snapshot s = {.session = STR_LIT("s_aaaaaaaaaaaaaaaa"),
				       .session_name = STR_LIT("demo"),
				       .image = STR_LIT("host"),
				       .made_by = STR_LIT("pause"),
				       .fingerprint = STR_LIT(""),
				       .layers = layers.at,
				       .diff_ids = diff_ids,
				       .sizes = sizes,
				       .n_layers = layers.n,
				       .created_ns = 1};
	must(oci_write_snapshot(room.store, &s, &manifest, &err), &err);
	return manifest;
}

static int
import_into(int store, const char *name, struct import *out, struct err *err)
{
	struct layer_options o = room_options(2);
	struct file_source f = {.fd = openat(room.dir, name, O_RDONLY | O_CLOEXEC)};
	const struct tar_source in = {next_of_file, &f};

	ok(f.fd);
	o.store = store;
	const int result = import_oci(&o, &in, out, err);
	close(f.fd);
	return result;
}

static void
make_snapshot(struct digest *out)
{
	put_rich_tree(room.upper);
	layers_begin();
	layers_add();
	ok(unlinkat(room.upper, "d/plain", 0));
	put_text(room.upper, "d/new", "second layer");
	layers_add();
	layers_end();
	*out = write_snapshot();
}

static void
test_what_is_exported_is_imported_again(void **state)
{
	const struct layer_options o = room_options(2);
	struct digest manifest;
	auto_import got = {0};
	char command[700];
	struct err err;

	(void)state;
	make_snapshot(&manifest);
	open_out("a.tar");
	must(export_oci(&o, &manifest, sink, &err), &err);
	close(out_fd);
	auto_close int other = room_dir("other");
	must(import_into(other, "a.tar", &got, &err), &err);
	assert_int_equal(got.manifest.n_layers, 2);
	assert_string_equal(got.manifest.image, "host");
	for (size_t i = 0; i < 2; i++) {
		struct layer_options there = o;
		struct layer_counts n;
		there.store = other;
		assert_true(digest_equal(&got.layers[i].sum.digest, &layers.at[i]));
		must(verify_layer(&there, &layers.at[i], &layers.sum[i].diff_id, &n, &err), &err);
		assert_int_equal(n.entries, got.layers[i].counts.entries);
	}
	assert_no_temp(other);
	/* by another tar, in another order */
	snprintf(
	    command, sizeof command,
	    "cd %s && mkdir x && tar -C x -xf a.tar && cd x && tar -cf ../b.tar blobs ./index.json",
	    room.path);
	shell(command);
	import_done(&got);
	auto_close int third = room_dir("third");
	must(import_into(third, "b.tar", &got, &err), &err);
	assert_int_equal(got.manifest.n_layers, 2);
}

/* 4 GiB, of which a twentieth is left free. */
static void
test_an_import_leaves_others_their_room(void **state)
{
	const uint64_t reserve = (1 << 20) / 20, step = (16 << 20) / 4096;
	const struct layer_options o = room_options(1);
	struct digest manifest;
	auto_import got = {0};
	struct err err;
	static const char zeros[1 << 20];

	(void)state;
	const int big = openat(room.upper, "zeros", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ok(big);
	for (int i = 0; i < 64; i++) /* some KiB in an archive */
		assert_int_equal(write(big, zeros, sizeof zeros), sizeof zeros);
	close(big);
	layers_begin();
	layers_add();
	layers_end();
	manifest = write_snapshot();
	open_out("a.tar");
	must(export_oci(&o, &manifest, sink, &err), &err);
	close(out_fd);
	auto_close int other = room_dir("other");
	blocks_free = reserve + step - 1; /* for a first piece of whatever comes in */
	assert_int_equal(import_into(other, "a.tar", &got, &err), -1);
	assert_int_equal(err.code, ERR_NO_SPACE);
	blocks_free = reserve + step; /* for the archive, but not for what it holds */
	assert_int_equal(import_into(other, "a.tar", &got, &err), -1);
	assert_int_equal(err.code, ERR_NO_SPACE);
	assert_non_null(strstr(err.why, "to unpack it"));
	assert_no_temp(other);
	blocks_free = reserve + 5 * step;
	must(import_into(other, "a.tar", &got, &err), &err);
	blocks_free = 0;
}

static void
test_what_was_changed_on_the_way_is_refused(void **state)
{
	static const char *const harms[] = {
	    "rm index.json",
	    "echo '{}' > index.json",
	    "echo >> blobs/sha256/$LAYER",
	    "rm blobs/sha256/$LAYER",
	    "rm blobs/sha256/$MANIFEST",
	    /* a config that is right by its digest, but of other diff_ids */
	    "sed -i s/sha256:[0-9a-f]/sha256:0/g blobs/sha256/$CONFIG",
	    "truncate -s -1 blobs/sha256/$LAYER",
	    "head -c 100000 /dev/zero > z; mv z blobs/sha256/$(sha256sum < z | cut -c-64)",
	};
	const struct layer_options o = room_options(2);
	struct digest manifest;
	auto_manifest m = {0};
	char command[1200];
	struct err err;

	(void)state;
	make_snapshot(&manifest);
	must(oci_load(room.store, &manifest, &m, &err), &err);
	open_out("a.tar");
	must(export_oci(&o, &manifest, sink, &err), &err);
	close(out_fd);
	auto_close int other = room_dir("other");
	for (size_t i = 0; i < sizeof harms / sizeof *harms; i++) {
		auto_import got = {0};
		snprintf(command, sizeof command,
			 "cd %s && rm -rf x && mkdir x && tar -C x -xf a.tar && cd x && LAYER=%s "
			 "MANIFEST=%s "
			 "CONFIG=%s && %s; tar -cf ../b.tar *",
			 room.path, digest_text(&layers.at[1]).text, digest_text(&manifest).text,
			 digest_text(&m.config).text, harms[i]);
		shell(command);
		const int result = import_into(other, "b.tar", &got, &err);
		if (i + 1 == sizeof harms / sizeof *harms) {
			must(result, &err); /* a blob that nobody names is nobody's harm */
			continue;
		}
		if (result == 0)
			fail_msg("taken: %s", harms[i]);
		assert_int_equal(err.code, ERR_CORRUPT);
	}
	for (int cut = 1; cut < 8; cut++) {
		auto_import got = {0};
		snprintf(command, sizeof command,
			 "cd %s && head -c $(($(stat -c %%s a.tar) * %d / 8)) a.tar > b.tar",
			 room.path, cut);
		shell(command);
		assert_int_equal(import_into(other, "b.tar", &got, &err), -1);
		assert_int_equal(err.code, ERR_CORRUPT);
	}
	assert_no_temp(other);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_stock_tar_has_the_workspace_of_a_merged_chain,
					    room_open, room_close),
	    cmocka_unit_test_setup_teardown(test_a_file_with_several_names_whose_first_is_gone,
					    room_open, room_close),
	    cmocka_unit_test_setup_teardown(test_everything_that_a_workspace_can_hold, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_what_is_exported_is_imported_again, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_an_import_leaves_others_their_room, room_open,
					    room_close),
	    cmocka_unit_test_setup_teardown(test_what_was_changed_on_the_way_is_refused, room_open,
					    room_close),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
