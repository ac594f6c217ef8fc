/* Messages between processes: a peer may be taken over. What decodes encodes to the same bytes. */
#include "fuzz.h"

#include "wire/wire.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct message m, again;
	struct err err;
	auto_buf out = BUF_MAX(1 << 20);

	if (n < 4)
		return 0;
	const enum role from = bytes[0] % ROLES, to = bytes[1] % ROLES;
	const enum phase phase = bytes[2] % 3;
	const int n_fds = bytes[3] % (WIRE_FDS_MAX + 1);
	const struct str packet = text_of(bytes + 4, n - 4);

	if (wire_decode(packet, from, to, phase, n_fds, &m, &err) < 0)
		return 0;
	CLAIM(wire_encode(m.id, &m.hello, &out, &err) == 0);
	CLAIM(wire_decode(buf_view(&out), from, to, phase, n_fds, &again, &err) == 0);
	CLAIM(out.len == packet.len && memcmp(out.at, packet.at, packet.len) == 0);
	return 0;
}
