#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

#include "snapshot/store.c"

static int
count(void *ctx, const struct digest *d, struct err *err)
{
	(void)d;
	(void)err;
	++*(int *)ctx;
	return 0;
}

static void
what_is_put_by_its_digest_is_read_listed_and_removed(void **state)
{
	char name[] = "/tmp/berth-store.XXXXXX", out[4];
	struct err err;
	const struct str bytes = STR_LIT("0123456789");
	const struct digest d = digest_of(bytes), other = digest_of(STR_LIT("other"));
	const struct store *s = &store_directory;
	uint64_t size = 0;
	int n = 0;

	(void)state;
	assert_non_null(mkdtemp(name));
	auto_close int dir = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(blob_store_init(dir, &err), 0);
	auto_close int fd = fd_sealed("bytes", bytes.at, bytes.len, &err);
	assert_int_equal(s->put(dir, &other, bytes.len, fd, &err), -1);
	assert_int_equal(err.code, ERR_CORRUPT);
	assert_int_equal(s->put(dir, &d, bytes.len, fd, &err), 0);
	assert_int_equal(s->put(dir, &d, bytes.len, fd, &err), 0);
	assert_int_equal(s->stat(dir, &d, &size, &err), 0);
	assert_int_equal(size, 10);
	assert_int_equal(s->get_range(dir, &d, 3, out, 4, &err), 0);
	assert_memory_equal(out, "3456", 4);
	assert_int_equal(s->get_range(dir, &d, 8, out, 4, &err), -1);
	assert_int_equal(s->list(dir, count, &n, &err), 0);
	assert_int_equal(n, 1);
	assert_int_equal(s->stat(dir, &other, &size, &err), -1);
	assert_int_equal(err.code, ERR_ABSENT);
	assert_int_equal(s->remove(dir, &d, &err), 0);
	assert_int_equal(s->remove(dir, &d, &err), 0);
	assert_int_equal(s->stat(dir, &d, &size, &err), -1);

	auto_buf object = BUF_MAX(100);
	assert_int_equal(s->get_object(dir, "x.json", &object, &err), -1);
	assert_int_equal(err.code, ERR_ABSENT);
	assert_int_equal(s->put_object(dir, "x.json", STR_LIT("{}"), &err), 0);
	assert_int_equal(s->get_object(dir, "x.json", &object, &err), 0);
	assert_string_equal(buf_cstr(&object), "{}");
	auto_close int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(path_remove_tree(tmp, name + 5, &err), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(what_is_put_by_its_digest_is_read_listed_and_removed),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
