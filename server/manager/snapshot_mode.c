#include "manager/snapshot_mode.h"
#include "base/num.h"
#include "base/time.h"

#include <stdio.h>

#define INTERVAL_MIN_NS (1 * NS_PER_S)
#define INTERVAL        "interval:"

static const char *const words[] = {
    [SNAPSHOT_STANDARD] = "default", [SNAPSHOT_PAUSE] = "pause", [SNAPSHOT_CALL] = "call"};

int
snapshot_mode_parse(struct str text, bool standard, struct snapshot_mode *out, struct err *err)
{
	struct snapshot_mode m = {SNAPSHOT_INTERVAL, 0};

	for (int w = standard ? SNAPSHOT_STANDARD : SNAPSHOT_PAUSE; w <= SNAPSHOT_CALL; w++)
		if (str_is(text, words[w])) {
			*out = (struct snapshot_mode){(enum snapshot_when)w, 0};
			return 0;
		}
	const size_t n = sizeof INTERVAL - 1;
	if (str_starts(text, INTERVAL) &&
	    num_parse_duration((struct str){text.at + n, text.len - n}, &m.interval_ns, err) == 0 &&
	    m.interval_ns >= INTERVAL_MIN_NS) {
		*out = m;
		return 0;
	}
	err_set(err, ERR_USAGE, "no such way of taking snapshots: %.*s",
		(int)(text.len > 40 ? 40 : text.len), text.at);
	return err_hint(err, "pause, call, or interval:TIME of 1s at least, such as interval:10m");
}

void
snapshot_mode_format(const struct snapshot_mode *m, char out[SNAPSHOT_MODE_BYTES])
{
	static const struct {
		uint64_t ns;
		const char *unit;
	} units[] = {{86400 * NS_PER_S, "d"},
		     {3600 * NS_PER_S, "h"},
		     {60 * NS_PER_S, "m"},
		     {NS_PER_S, "s"},
		     {NS_PER_MS, "ms"}};
	size_t i = 0;

	if (m->when != SNAPSHOT_INTERVAL) {
		snprintf(out, SNAPSHOT_MODE_BYTES, "%s", words[m->when]);
		return;
	}
	while (i + 1 < sizeof units / sizeof *units && m->interval_ns % units[i].ns)
		i++;
	snprintf(out, SNAPSHOT_MODE_BYTES, INTERVAL "%llu%s",
		 (unsigned long long)(m->interval_ns / units[i].ns), units[i].unit);
}
