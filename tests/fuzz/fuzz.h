/* What fuzz targets share: one function that libFuzzer calls with bytes of its own making. */
#ifndef BERTH_FUZZ_H
#define BERTH_FUZZ_H

#include "base/buf.h"
#include "base/err.h"
#include "base/fd.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n);

/* What must be so of any input; assert() would do, but for release builds of it. */
#define CLAIM(condition)                                                                           \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);    \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

/* The input as a file. */
static inline int
file_of(const uint8_t *bytes, size_t n)
{
	const int fd = memfd_create("input", MFD_CLOEXEC);

	CLAIM(fd >= 0 && pwrite(fd, bytes, n, 0) == (ssize_t)n);
	return fd;
}

static inline struct str
text_of(const uint8_t *bytes, size_t n)
{
	return (struct str){(const char *)bytes, n};
}

#endif
