#include "usage_rows.h"
#include "statement.h"

int
usage_rows_sum(struct index *ix, const char *session, struct usage_sum *out, struct err *err)
{
	sqlite3_stmt *st = statement_query(
	    ix, err,
	    "WITH mine AS (SELECT DISTINCT layer FROM snapshot_layers JOIN snapshots ON "
	    "digest=snapshot WHERE ?1='' OR session=?1),"
	    "others AS (SELECT DISTINCT layer FROM snapshot_layers JOIN snapshots ON "
	    "digest=snapshot WHERE ?1<>'' AND session<>?1) "
	    "SELECT (SELECT count(*) FROM snapshots WHERE ?1='' OR session=?1), count(*), "
	    "coalesce(sum(bytes),0), coalesce(sum(CASE WHEN digest IN (SELECT layer FROM others) "
	    "THEN 0 ELSE bytes END),0) FROM layers WHERE digest IN (SELECT layer FROM mine)",
	    "t", session);
	if (!st)
		return -1;
	const int got = statement_next(ix, st, err);
	if (got == 1)
		*out = (struct usage_sum){.snapshots = statement_number(st, 0),
					  .layers = statement_number(st, 1),
					  .bytes = statement_number(st, 2),
					  .own_bytes = statement_number(st, 3)};
	sqlite3_finalize(st);
	return got == 1 ? 0 : got < 0 ? -1 : err_set(err, ERR_INTERNAL, "no sum of archives");
}
