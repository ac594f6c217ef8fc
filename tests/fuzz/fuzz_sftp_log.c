/* What sftp-server says of files, which a session can write too; and its lines on their way to the
 * manager. */
#include "fuzz.h"

#include "keeper/sftp_log.h"

static void
on_transfer(void *ctx, const struct transfer *t)
{
	auto_buf line = BUF_MAX(TRANSFER_LINE_BYTES);
	struct transfer again;

	(void)ctx;
	transfer_put(&line, t);
	CLAIM(!buf_bad(&line) && line.len && line.at[line.len - 1] == '\n');
	struct str rest = buf_view(&line);
	CLAIM(transfer_next(&rest, &again) && !rest.len);
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	static struct sftp_log l;
	struct transfer t;
	struct str rest = text_of(bytes, n);

	l = (struct sftp_log){.on_transfer = on_transfer};
	for (size_t at = 0, k; at < n; at += k) {
		k = 1 + bytes[at] % 64;
		k = k < n - at ? k : n - at;
		sftp_log_take(&l, (const char *)bytes + at, k);
	}
	sftp_log_settle(&l);
	while (rest.len && transfer_next(&rest, &t))
		;
	return 0;
}
