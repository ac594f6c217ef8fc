/* Clocks. Deadlines count CLOCK_BOOTTIME, what people read is CLOCK_REALTIME; both in ns. */
#ifndef BERTH_TIME_H
#define BERTH_TIME_H

#include <stdint.h>
#include <time.h>

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull

enum { TIME_TEXT_BYTES = 32 };

uint64_t time_now_ns(void);  /* CLOCK_BOOTTIME */
uint64_t time_real_ns(void); /* CLOCK_REALTIME */
/* RFC 3339 in UTC with milliseconds: 2026-01-31T12:00:00.123Z */
void time_format(uint64_t real_ns, char out[TIME_TEXT_BYTES]);
/* The kernel's boot id as text of 36 bytes, read once; empty where /proc is missing. */
const char *time_boot_id(void);

#endif
