/* Numbers and ids that come from or go to the outside as text. */
#ifndef BERTH_NUM_H
#define BERTH_NUM_H

#include "buf.h"
#include "err.h"

#include <stdint.h>

/* A decimal number with a least and a most; no sign, no space, no other byte. */
int num_parse(struct str text, uint64_t least, uint64_t most, uint64_t *out,
	      struct err *err) must_check;
/* A duration with its unit: ms, s, m, h, d. Result in ns. */
int num_parse_duration(struct str text, uint64_t *out_ns, struct err *err) must_check;
/* A size with an optional unit K, M, G, T (powers of 1024). */
int num_parse_size(struct str text, uint64_t *out_bytes, struct err *err) must_check;

/* The other way, so that it parses to the same: "512M", "1536", "90s"; 24 bytes are enough. */
enum { NUM_TEXT_BYTES = 24 };
void num_format_size(uint64_t bytes, char *out);
void num_format_duration(uint64_t ns, char *out); /* whole ms */

enum { ID_RANDOM_CHARS = 16, ID_BYTES = 24 };
/* A random id: prefix and 16 base32 digits (RFC 4648 alphabet, lower case): 80 random bits.
 *   out   at least ID_BYTES; prefix of at most 6 bytes */
void id_new(const char *prefix, char *out);
/* Whether text has the form of such an id. */
bool id_is(const char *prefix, struct str text);

void hex_format(const uint8_t *bytes, size_t n, char *out /* 2n+1 */);
int hex_parse(struct str text, uint8_t *out, size_t n, struct err *err) must_check;

/* For people, rounded: "1.2 MiB". */
void num_format_about(uint64_t bytes, char out[16]);

#endif
