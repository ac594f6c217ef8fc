#include "checks.h"
#include "repair.h"

static int
take(struct str bytes, struct digest *out, struct err *err)
{
	if (bytes.len != DIGEST_BYTES)
		return err_set(err, ERR_CORRUPT, "a digest of %zu bytes", bytes.len);
	memcpy(out->at, bytes.at, DIGEST_BYTES);
	return 0;
}

static int
answer(struct wire *w, int result, const struct layer_counts *n, struct err *err)
{
	if (result == 0)
		return wire_send(w, worked, err, .bytes = n->raw_bytes, .entries = n->entries);
	if (result < 0)
		return -1;
	const struct err was = *err;
	return wire_send(w, store_fact, err, .kind = STR_LIT("repaired"), .pairs = str_of(was.why));
}

int
checks_blob(struct wire *w, const struct layer_options *o, int mirror, struct err *err)
{
	const struct msg_verify_blob *m = &w->message.verify_blob;
	struct layer_counts n = {0};
	struct digest digest, diff_id;

	if (take(m->digest, &digest, err) < 0 || take(m->diff_id, &diff_id, err) < 0)
		return -1;
	return answer(w, repair_layer(o, mirror, m->repair != 0, &digest, &diff_id, &n, err), &n,
		      err);
}

int
checks_snapshot(struct wire *w, const struct layer_options *o, int mirror, struct err *err)
{
	const struct msg_verify_snapshot *m = &w->message.verify_snapshot;
	const struct layer_counts n = {0};
	struct digest manifest;

	if (m->layers.len % DIGEST_BYTES)
		return err_set(err, ERR_CORRUPT, "a list of digests is cut");
	const size_t n_layers = m->layers.len / DIGEST_BYTES;
	auto_free struct digest *layers = xnew(n_layers + 1, sizeof *layers);
	if (m->layers.len)
		memcpy(layers, m->layers.at, m->layers.len);
	const struct repair_snapshot s = {.session = m->session,
					  .calls = m->calls,
					  .facts = m->facts,
					  .layers = layers,
					  .n_layers = n_layers,
					  .created_ns = m->created_ns};
	if (take(m->manifest, &manifest, err) < 0)
		return -1;
	return answer(w, repair_snapshot(o, mirror, m->repair != 0, &manifest, &s, err), &n, err);
}
