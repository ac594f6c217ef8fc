#include "whiteout.h"

#define MARK   ".wh."
#define OPAQUE ".wh..wh..opq"
#define ESCAPE ".wh..wh..esc."

static void
encode_component(struct str part, struct buf *out)
{
	if (str_starts(part, MARK)) {
		buf_text(out, ESCAPE);
		part.at += sizeof MARK - 1;
		part.len -= sizeof MARK - 1;
	}
	buf_str(out, part);
}

void
whiteout_encode(enum entry_type type, struct str path, struct buf *out)
{
	struct str rest = path, part;

	if (path.len == 0)
		buf_text(out, type == ENTRY_OPAQUE ? OPAQUE : "./");
	if (path.len == 0)
		return;
	while (str_cut(&rest, '/', &part)) {
		if (type == ENTRY_WHITEOUT && !rest.at) {
			buf_text(out, MARK); /* of .wh.x: .wh..wh..wh..esc.x */
			encode_component(part, out);
			return;
		}
		encode_component(part, out);
		if (rest.at || type == ENTRY_DIR || type == ENTRY_OPAQUE)
			buf_char(out, '/');
	}
	if (type == ENTRY_OPAQUE)
		buf_text(out, OPAQUE);
}

static int
refuse(struct str name, const char *why, struct err *err)
{
	return err_set(err, ERR_CORRUPT, "the archive names \"%.*s\": %s",
		       (int)(name.len < 200 ? name.len : 200), name.at, why);
}

/* One component behind out's end. 1: it was a deletion, 2: the opaque mark, 0: a name, -1. */
static int
decode_component(struct str part, struct str name, struct buf *out, struct err *err)
{
	int result = 0;

	if (str_is(part, OPAQUE))
		return 2;
	if (str_starts(part, MARK) && !str_starts(part, ESCAPE)) {
		result = 1;
		part.at += sizeof MARK - 1;
		part.len -= sizeof MARK - 1;
	}
	const bool escaped = str_starts(part, ESCAPE);
	if (escaped) {
		part.at += sizeof ESCAPE - 1;
		part.len -= sizeof ESCAPE - 1;
	} else if (part.len == 0 || str_is(part, ".") || str_is(part, "..") ||
		   str_starts(part, MARK)) {
		return refuse(name, "not a name inside a workspace", err);
	}
	if (part.len + (escaped ? sizeof MARK - 1 : 0) > 255)
		return refuse(name, "a name is too long", err);
	if (out->len)
		buf_char(out, '/');
	if (escaped)
		buf_text(out, MARK);
	buf_str(out, part);
	return result;
}

int
whiteout_decode(struct str name, enum entry_type *type, struct buf *out, struct err *err)
{
	struct str rest = name, part;
	enum entry_type found = *type;

	if (str_starts(rest, "./")) {
		rest.at += 2;
		rest.len -= 2;
	} else if (str_is(rest, ".")) {
		rest.len = 0;
	}
	if (rest.len && rest.at[rest.len - 1] == '/')
		rest.len--;
	else if (name.len == 0)
		return refuse(name, "an entry without a name", err);
	if (rest.len == 0 && *type != ENTRY_DIR)
		return refuse(name, "the root is not a directory", err);
	while (rest.len && str_cut(&rest, '/', &part)) {
		const int special = decode_component(part, name, out, err);
		if (special < 0)
			return -1;
		if (special && rest.at)
			return refuse(name, "a deletion has nothing in it", err);
		if (special)
			found = special == 1 ? ENTRY_WHITEOUT : ENTRY_OPAQUE;
		if (rest.at && rest.len == 0)
			return refuse(name, "not a name inside a workspace", err);
	}
	if (buf_bad(out))
		return refuse(name, "a path is too long", err);
	*type = found;
	return 0;
}

int
whiteout_decode_link(struct str name, struct buf *out, struct err *err)
{
	enum entry_type type = ENTRY_FILE;

	if (whiteout_decode(name, &type, out, err) < 0)
		return -1;
	return type == ENTRY_FILE ? 0 : refuse(name, "a link to a deletion", err);
}
