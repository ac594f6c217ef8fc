/* The name of a node: stable, its own, and not the id it is made of. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "server/manager/node_name.c"

struct place {
	char name[64], id[96];
	int dir;
};

static int
make_place(void **state)
{
	static struct place p;

	snprintf(p.name, sizeof p.name, "/tmp/berth-node.XXXXXX");
	if (!mkdtemp(p.name))
		return -1;
	snprintf(p.id, sizeof p.id, "%s/machine-id", p.name);
	p.dir = open(p.name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*state = &p;
	return p.dir < 0;
}

static int
remove_place(void **state)
{
	struct place *p = *state;
	struct err err;

	close(p->dir);
	return path_remove_tree(AT_FDCWD, p->name, &err);
}

static void
name_with(const struct place *p, const char *id, char out[NODE_NAME_BYTES])
{
	struct err err;

	if (id)
		assert_int_equal(path_replace(p->dir, "machine-id", 0644, str_of(id), &err), 0);
	assert_int_equal(node_name_find(p->dir, p->id, out, &err), 0);
	assert_int_equal(strlen(out), NODE_NAME_BYTES - 1);
}

static void
a_name_comes_of_the_machines_id_and_does_not_tell_it(void **state)
{
	static const char id[] = "0123456789abcdef0123456789abcdef";
	const struct place *p = *state;
	char one[NODE_NAME_BYTES], again[NODE_NAME_BYTES], other[NODE_NAME_BYTES];

	name_with(p, id, one);
	name_with(p, "0123456789abcdef0123456789abcdef\n", again);
	name_with(p, "0123456789abcdef0123456789abcdee\n", other);
	assert_string_equal(one, again);
	assert_string_not_equal(one, other);
	assert_null(strstr(one, "01234567"));
	const struct digest plain = digest_of(str_of(id));
	assert_memory_not_equal(one, digest_text(&plain).text, 16);
	assert_false(path_exists(p->dir, "node-secret"));
}

static void
without_an_id_a_name_is_made_once_and_kept(void **state)
{
	static const char *const none[] = {NULL, "", "\n", "uninitialized\n", "0123", "not a hex number of thirty-two ."};
	const struct place *p = *state;
	char one[NODE_NAME_BYTES], again[NODE_NAME_BYTES];
	struct stat st;

	name_with(p, NULL, one);
	assert_int_equal(fstatat(p->dir, "node-secret", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
		name_with(p, none[i], again);
		assert_string_equal(one, again);
	}
	assert_int_equal(unlinkat(p->dir, "node-secret", 0), 0);
	name_with(p, NULL, again);
	assert_string_not_equal(one, again);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(a_name_comes_of_the_machines_id_and_does_not_tell_it, make_place, remove_place),
	    cmocka_unit_test_setup_teardown(without_an_id_a_name_is_made_once_and_kept, make_place, remove_place),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
