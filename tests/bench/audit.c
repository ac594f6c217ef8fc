/* What a line of the audit log costs the manager, and what its syncs make the loop wait: the manager's own
 * files, without a manager. Run by tests/bench/audit. */
#include "server/manager/audit.c"
#include "server/manager/audit_calls.c"
#include "index/rows.h"

#include <poll.h>

enum { LINES = 20000, ROUNDS = 20, LINES_A_ROUND = 800, HEADS = 1000 };

static struct audit a;
static unsigned written_calls;

static void
write_call(void)
{
	static struct call_row r = {.principal = "SHA256:abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG me@here",
				    .session = "s_aaaaaaaaaaaaaaaa",
				    .ended_by = "itself",
				    .command = "git status && make -j4 test"};
	struct err err;

	memset(r.out_sha256, 'a', 64);
	memset(r.err_sha256, 'b', 64);
	snprintf(r.id, sizeof r.id, "c_%016x", written_calls++);
	if (audit_call(&a, &r, "demo", written_calls & 1, &err) < 0)
		abort();
	if (written_calls % 100 == 0)
		audit_calls_committed(&a);
}

static double
ms_since(uint64_t ns)
{
	return (double)(time_now_ns() - ns) / 1e6;
}

/* What the loop waits for 800 lines (a second of 400 calls): synced at once, or sent off 500 ms before. */
static void
measure_sync(bool sent_off, struct err *err)
{
	double sum = 0, most = 0;

	for (int round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < LINES_A_ROUND; i++)
			write_call();
		uint64_t began = time_now_ns();
		double ms = 0;
		if (sent_off) {
			(void)sync_file_range(a.fd, 0, 0, SYNC_FILE_RANGE_WRITE);
			ms = ms_since(began);
			poll(NULL, 0, (int)(SYNC_WAIT_NS / NS_PER_MS)); /* as the timer does */
			began = time_now_ns();
		}
		if (audit_sync(&a, err) < 0)
			abort();
		ms += ms_since(began);
		sum += ms;
		most = ms > most ? ms : most;
	}
	printf("sync of %d lines, %s: %.2f ms mean, %.2f most\n", LINES_A_ROUND,
	       sent_off ? "sent off before" : "at once", sum / ROUNDS, most);
}

int
main(int argc, char **argv)
{
	const struct audit_options o = {16 << 20, "soon", "root"};
	auto_buf key = BUF_MAX(65536);
	struct loop loop;
	struct err err;

	const int dir = argc == 2 ? open(argv[1], O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	if (dir < 0 || path_read(dir, "key", &key, &err) < 0 || loop_init(&loop, &err) < 0 ||
	    audit_open(&a, &loop, dir, buf_view(&key), &o, 0, &err) < 0)
		return 1;
	uint64_t began = time_now_ns();
	for (int i = 0; i < LINES; i++)
		write_call();
	printf("line of a call: %.1f us\n", ms_since(began) * 1e3 / LINES);
	began = time_now_ns();
	for (int i = 0; i < HEADS; i++) {
		a.unsigned_lines = 1;
		if (put_head(&a, &err) < 0)
			return 1;
	}
	printf("head: %.1f us\n", ms_since(began) * 1e3 / HEADS);
	measure_sync(false, &err);
	measure_sync(true, &err);
	audit_close(&a);
	return 0;
}
