#include "log.h"
#include "buf.h"
#include "time.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static char process_name[32] = "berth";
static char subject_name[80];

void
log_init(const char *process, const char *subject)
{
	snprintf(process_name, sizeof process_name, "%s", process);
	snprintf(subject_name, sizeof subject_name, "%s", subject);
}

/* One write(2) a line, so that lines of several processes on one stderr do not mix. */
static void
write_line(const char *text, const char *why)
{
	char line[1400];
	char stamp[TIME_TEXT_BYTES];

	time_format(time_real_ns(), stamp);
	int n = snprintf(line, sizeof line, "%s %s[%d]%s%s: %s%s%s\n", stamp, process_name,
			 (int)getpid(), subject_name[0] ? " " : "", subject_name, text,
			 why[0] ? ": " : "", why);
	if (n >= (int)sizeof line) {
		n = (int)sizeof line - 1;
		line[n - 1] = '\n';
	}
	/* a peer's text must not forge lines or colours */
	str_hide_controls(line, (size_t)n - 1, "", '?');
	if (write(STDERR_FILENO, line, (size_t)n) < 0)
		return; /* there is nobody left to tell */
}

void
log_line(const char *fmt, ...)
{
	va_list ap;
	char text[1024];

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	write_line(text, "");
}

void
log_err(const struct err *err, const char *fmt, ...)
{
	va_list ap;
	char text[512];

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	write_line(text, err->why);
}
