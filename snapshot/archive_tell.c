/* What berth-archive shows while it works, and in what form it answers. */
#include "archive_tool.h"
#include "base/time.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const uint64_t TELL_NS = 200 * NS_PER_MS;

static struct {
	const char *doing; /* NULL: nothing is to be shown */
	uint64_t told_ns;
	bool shown; /* a line stands there that is not ended */
} tell;

static volatile sig_atomic_t asked_to_end;

static void
ask_to_end(int sig)
{
	(void)sig;
	asked_to_end = 1;
}

void
archive_tell_size(uint64_t bytes, char out[16])
{
	static const char units[] = "BKMGTPE";
	double size = (double)bytes;
	size_t unit = 0;

	while (size >= 1000 && units[unit + 1]) {
		size /= 1024;
		unit++;
	}
	if (unit == 0)
		snprintf(out, 16, "%u B", (unsigned)bytes);
	else
		snprintf(out, 16, size < 10 ? "%.1f %ciB" : "%.0f %ciB", size, units[unit]);
}

static int
step(void *ctx, uint64_t bytes, uint64_t entries, struct err *err)
{
	char size[16];

	(void)ctx;
	if (asked_to_end)
		return err_set(err, ERR_CANCELLED, "a signal asked for it");
	const uint64_t now = time_now_ns();
	if (!tell.doing || now - tell.told_ns < TELL_NS)
		return 0;
	tell.told_ns = now;
	tell.shown = true;
	archive_tell_size(bytes, size);
	fprintf(stderr, "\r\033[K%s: %llu entries, %s", tell.doing, (unsigned long long)entries,
		size);
	fflush(stderr);
	return 0;
}

void
archive_tell_begin(struct archive_job *job, const char *doing)
{
	const struct sigaction end = {.sa_handler = ask_to_end};

	sigaction(SIGINT, &end, NULL);
	sigaction(SIGTERM, &end, NULL);
	tell.doing = !job->json && isatty(STDERR_FILENO) ? doing : NULL;
	tell.told_ns = time_now_ns();
	job->o.watch = (struct layer_watch){.step = step};
}

void
archive_tell_end(void)
{
	if (tell.shown)
		fputs("\r\033[K", stderr);
	tell.shown = false;
}

json_t *
archive_tell_digest(const struct digest *d)
{
	return json_sprintf("sha256:%s", digest_text(d).text);
}

int
archive_tell_json(json_t *take_j, struct err *err)
{
	auto_json *j = take_j;
	auto_free char *text = j ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS) : NULL;

	if (!text)
		return err_set(err, ERR_INTERNAL, "an answer in JSON");
	printf("%s\n", text);
	return 0;
}
