/* What a client gives to import: a tar of an OCI layout. Kinds of parts: 0 bytes of the tar as they
 * are, 1 a blob by its digest, 2 index.json, 3 bytes that are no file's. What is taken is whole. */
#include "blobs.h"

#include "import.h"

#include <archive.h>
#include <archive_entry.h>

struct stream {
	struct str rest;
};

static int
next(void *ctx, struct str *out, struct err *err)
{
	struct stream *s = ctx;
	const size_t n = s->rest.len < 4096 ? s->rest.len : 4096;

	(void)err;
	*out = (struct str){s->rest.at, n};
	s->rest = n ? (struct str){s->rest.at + n, s->rest.len - n} : s->rest;
	return n > 0;
}

static void
put_file(struct buf *tar, const char *name, struct str bytes)
{
	char header[512] = {0}, zeros[512] = {0};
	unsigned sum = 8 * ' ';

	snprintf(header, 100, "%s", name);
	snprintf(header + 100, 8, "0000644");
	snprintf(header + 124, 12, "%011zo", bytes.len);
	snprintf(header + 136, 12, "%011o", 0);
	header[156] = '0';
	memcpy(header + 257, "ustar\00000", 8);
	for (size_t i = 0; i < sizeof header; i++)
		sum += (unsigned char)header[i];
	snprintf(header + 148, 8, "%06o", sum);
	buf_add(tar, header, sizeof header);
	buf_str(tar, bytes);
	buf_add(tar, zeros, (512 - bytes.len % 512) % 512);
}

static void
put_part(struct buf *tar, const struct part *p)
{
	char name[100];

	if (p->kind == 1) {
		snprintf(name, sizeof name, "blobs/sha256/%s", digest_text(&p->digest).text);
		put_file(tar, name, buf_view(&p->bytes));
	} else if (p->kind == 2) {
		put_file(tar, "index.json", buf_view(&p->bytes));
	} else if (p->kind == 0) {
		buf_str(tar, buf_view(&p->bytes));
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	struct parts p = {.n = 0};
	auto_buf tar = BUF_MAX(4 << 20);
	auto_import got = {0};
	struct err err;

	parts_take(&p, bytes, n);
	for (size_t i = 0; i < p.n; i++)
		put_part(&tar, &p.at[i]);
	struct stream s = {buf_view(&tar)};
	const struct tar_source in = {next, &s};
	const int store = store_begin();
	const struct layer_options o = {.store = store, .cache = -1, .threads = 1};
	if (import_oci(&o, &in, &got, &err) == 0) {
		CLAIM(got.manifest.n_layers > 0);
		for (size_t i = 0; i < got.manifest.n_layers; i++)
			CLAIM(digest_equal(&got.layers[i].sum.digest,
					   &got.manifest.layers[i].digest));
	} else {
		CLAIM(err.code != ERR_NONE && err.code != ERR_INTERNAL);
	}
	store_end(store);
	parts_done(&p);
	return 0;
}
