/* confine.c: what a worker with sources may still do, tried in a process of its own. */
#include "server/confine.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static char base[] = "/tmp/test_confine.XXXXXX";
static int own, source;

static int
set_up(void **state)
{
	(void)state;
	if (!mkdtemp(base))
		return -1;
	const int dir = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (mkdirat(dir, "own", 0700) < 0 || mkdirat(dir, "source", 0700) < 0)
		return -1;
	own = openat(dir, "own", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	source = openat(dir, "source", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	const int file = openat(source, "file", O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(file);
	close(dir);
	return file < 0 ? -1 : 0;
}

static int
tear_down(void **state)
{
	(void)state;
	unlinkat(source, "file", 0);
	unlinkat(own, "made", 0);
	char path[64];
	snprintf(path, sizeof path, "%s/own", base);
	rmdir(path);
	snprintf(path, sizeof path, "%s/source", base);
	rmdir(path);
	return rmdir(base);
}

/* The number of the first claim that does not hold; 0: all do. */
static int
try_all(void)
{
	struct err err;

	if (confine_worker_reading(&own, 1, &source, 1, &err) < 0)
		return 1;
	if (openat(own, "made", O_CREAT | O_WRONLY | O_CLOEXEC, 0600) < 0)
		return 2;
	if (openat(source, "file", O_RDONLY | O_CLOEXEC) < 0)
		return 3;
	if (openat(source, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC) < 0)
		return 4;
	if (openat(source, "file", O_WRONLY | O_CLOEXEC) >= 0 || errno != EACCES)
		return 5;
	if (openat(source, "new", O_CREAT | O_WRONLY | O_CLOEXEC, 0600) >= 0 || errno != EACCES)
		return 6;
	if (mkdirat(source, "dir", 0700) == 0 || errno != EACCES)
		return 7;
	if (unlinkat(source, "file", 0) == 0 || errno != EACCES)
		return 8;
	if (openat(AT_FDCWD, "/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0 || errno != EACCES)
		return 9;
	return 0;
}

static void
a_worker_only_reads_its_sources(void **state)
{
	int status;

	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) < 1) {
		print_message("this kernel has no Landlock\n");
		skip();
	}
	const pid_t pid = fork();
	if (pid == 0)
		_exit(try_all());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_worker_only_reads_its_sources)};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
