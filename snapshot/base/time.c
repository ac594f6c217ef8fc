#include "time.h"
#include "fd.h"

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static uint64_t
clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t); /* cannot fail for these clocks */
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

uint64_t
time_now_ns(void)
{
	return clock_ns(CLOCK_BOOTTIME);
}

uint64_t
time_real_ns(void)
{
	return clock_ns(CLOCK_REALTIME);
}

void
time_format(uint64_t real_ns, char out[TIME_TEXT_BYTES])
{
	const time_t seconds = (time_t)(real_ns / NS_PER_S);
	struct tm tm;
	char day[24];

	gmtime_r(&seconds, &tm);
	strftime(day, sizeof day, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(out, TIME_TEXT_BYTES, "%s.%03uZ", day, (unsigned)(real_ns % NS_PER_S / NS_PER_MS));
}

const char *
time_boot_id(void)
{
	static char id[40];

	if (id[0])
		return id;
	auto_close int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return id;
	const ssize_t n = read(fd, id, 36);
	id[n > 0 ? n : 0] = '\0';
	return id;
}
