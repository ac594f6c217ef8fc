/* An index that an earlier version left is brought up to this one, with what is in it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <fcntl.h>
#include <unistd.h>

#include "index/rows.h"
#include "server/index/schema.c"

static int
take_session(void *ctx, const struct session_row *row, struct err *err)
{
	(void)err;
	*(struct session_row *)ctx = *row;
	return 0;
}

static void
make_version(const char *path, int version)
{
	sqlite3 *db;
	char end[64];

	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	for (int v = 0; v < version; v++)
		assert_int_equal(sqlite3_exec(db, migrations[v], NULL, NULL, NULL), SQLITE_OK);
	snprintf(end, sizeof end, "PRAGMA user_version=%d", version);
	assert_int_equal(sqlite3_exec(db, end, NULL, NULL, NULL), SQLITE_OK);
	assert_int_equal(
	    sqlite3_exec(
		db,
		"INSERT INTO sessions(id,name,state,image,slot,upper,owner,created_ns,used_ns) "
		"VALUES('s_a','demo','paused','host:1',3,2,'me',10,20)",
		NULL, NULL, NULL),
	    SQLITE_OK);
	sqlite3_close(db);
}

static void
every_earlier_version_is_brought_up_with_its_sessions(void **state)
{
	(void)state;
	for (int version = 1; version < SCHEMA_VERSION; version++) {
		char name[] = "/tmp/berth-schema.XXXXXX", path[64];
		struct session_row row = {0};
		struct index ix;
		struct err err;
		assert_non_null(mkdtemp(name));
		snprintf(path, sizeof path, "%s/index.db", name);
		make_version(path, version);
		const int dir = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_int_equal(index_open(&ix, dir, &err), 0);
		assert_int_equal(index_list_sessions(&ix, take_session, &row, &err), 0);
		assert_string_equal(row.name, "demo");
		assert_string_equal(row.network, "none");
		snprintf(row.network, sizeof row.network, "join:lab");
		assert_int_equal(index_put_session(&ix, &row, &err), 0);
		assert_int_equal(index_list_sessions(&ix, take_session, &row, &err), 0);
		assert_string_equal(row.network, "join:lab");
		assert_int_equal(row.slot, 3);
		index_close(&ix);
		const int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		assert_int_equal(path_remove_tree(tmp, name + 5, &err), 0);
		close(tmp);
		close(dir);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(every_earlier_version_is_brought_up_with_its_sessions),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
