/* Manifests and configs of snapshots and of images from elsewhere. */
#include "fuzz.h"

#include "image.h"
#include "manifest.h"

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t n)
{
	auto_manifest m = {0};
	auto_image i;
	struct err err;
	size_t first = 0;

	while (first < n && bytes[first]) /* a manifest, a NUL, a config */
		first++;
	const struct str config =
	    first < n ? text_of(bytes + first + 1, n - first - 1) : text_of(bytes, n);
	if (manifest_parse(text_of(bytes, first), &m, &err) == 0 &&
	    manifest_parse_config(config, &m, &err) == 0) {
		auto_buf out = BUF_MAX(MANIFEST_MAX_BYTES);
		CLAIM(manifest_format_config(&m, &out, &err) == 0);
	}
	image_init(&i);
	(void)!image_take_config(config, &i, &err);
	return 0;
}
