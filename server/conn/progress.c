/* How far a long verb is: a bar on the client's terminal, or with --progress lines of JSON on stderr,
 * one an event. A client that does not read misses events, never its answer. */
#include "conn.h"

#include "base/num.h"
#include "base/time.h"

#include <stdio.h>

enum {
	COLUMNS_DEFAULT = 80,
	BAR_CELLS = 24,
	BAR_CELLS_MIN = 4,
	BAR_FRAME = 3 /* " []" */,
	LINE_MAX_BYTES = 512
};

/* Bytes a second, 0: not known. */
static uint64_t
rate_of(const struct msg_verb_progress *m)
{
	return m->elapsed_ns < NS_PER_MS ? 0 : m->bytes * 1000 / (m->elapsed_ns / NS_PER_MS);
}

/* Whole seconds that are left, -1: not known. */
static int64_t
left_of(const struct msg_verb_progress *m, uint64_t rate)
{
	if (!rate || m->of_bytes <= m->bytes)
		return -1;
	return (int64_t)((m->of_bytes - m->bytes + rate - 1) / rate);
}

static unsigned
percent_of(const struct msg_verb_progress *m)
{
	return m->of_bytes > m->bytes ? (unsigned)((double)m->bytes * 100 / (double)m->of_bytes) : 100;
}

static void
event_line(const struct msg_verb_progress *m, struct buf *out)
{
	const uint64_t rate = rate_of(m);
	const int64_t left = left_of(m, rate);

	buf_text(out, "{\"event\":\"progress\",\"doing\":");
	json_put(out, m->doing);
	buf_fmt(out, ",\"bytes\":%llu,\"files\":%llu,\"elapsed_ms\":%llu,\"bytes_per_second\":%llu",
		(unsigned long long)m->bytes, (unsigned long long)m->entries,
		(unsigned long long)(m->elapsed_ns / NS_PER_MS), (unsigned long long)rate);
	if (m->of_bytes)
		buf_fmt(out, ",\"of_bytes\":%llu", (unsigned long long)m->of_bytes);
	if (m->of_entries)
		buf_fmt(out, ",\"of_files\":%llu", (unsigned long long)m->of_entries);
	if (left >= 0)
		buf_fmt(out, ",\"eta_s\":%lld", (long long)left);
	buf_text(out, "}\n");
}

static void
put_cells(unsigned percent, size_t cells, struct buf *out)
{
	buf_text(out, " [");
	for (size_t i = 0; i < cells; i++)
		buf_char(out, i * 100 < percent * cells ? '#' : '-');
	buf_char(out, ']');
}

/* In the terminal's width, for a line that wraps cannot be drawn over. Where that is too small the
 * bar is the first to go, then the words: the numbers are what is looked for. */
static void
bar_line(const struct channel *ch, const struct msg_verb_progress *m, struct buf *out)
{
	const size_t columns = ch->columns ? ch->columns : COLUMNS_DEFAULT;
	const uint64_t rate = rate_of(m);
	const int64_t left = left_of(m, rate);
	auto_buf line = BUF_MAX(LINE_MAX_BYTES), numbers = BUF_MAX(LINE_MAX_BYTES);
	char done[16], of[16], speed[16];

	num_format_about(m->bytes, done);
	num_format_about(m->of_bytes, of);
	num_format_about(rate, speed);
	if (m->of_bytes)
		buf_fmt(&numbers, " %u%%", percent_of(m));
	buf_fmt(&numbers, "  %s%s%s  %llu files", done, m->of_bytes ? " of " : "",
		m->of_bytes ? of : "", (unsigned long long)m->entries);
	if (rate)
		buf_fmt(&numbers, "  %s/s", speed);
	if (left >= 0)
		buf_fmt(&numbers, "  ETA %llds", (long long)left);
	const size_t room = columns - 1 > numbers.len ? columns - 1 - numbers.len : 0;
	buf_str(&line, (struct str){m->doing.at, m->doing.len < room ? m->doing.len : room});
	if (m->of_bytes && room >= line.len + BAR_FRAME + BAR_CELLS_MIN) {
		const size_t cells = room - line.len - BAR_FRAME;
		put_cells(percent_of(m), cells < BAR_CELLS ? cells : BAR_CELLS, &line);
	}
	buf_str(&line, buf_view(&numbers));
	const struct str whole = buf_view(&line);
	buf_text(out, "\r");
	buf_str(out, (struct str){whole.at, whole.len < columns ? whole.len : columns - 1});
	buf_text(out, "\033[K");
}

void
progress_show(struct channel *ch, const struct msg_verb_progress *m)
{
	const enum text t = ch->progress ? TEXT_ERR : TEXT_OUT;
	auto_buf line = BUF_MAX(2 * LINE_MAX_BYTES);

	if (ch->state != CHANNEL_VERB || ch->end_known || (!ch->progress && !ch->pty) ||
	    ch->out.text[t].len)
		return;
	if (ch->progress) {
		event_line(m, &line);
		(void)channel_text(ch, t, buf_view(&line));
		return;
	}
	bar_line(ch, m, &line);
	ch->bar = channel_bytes(ch, t, buf_view(&line));
}

void
progress_clear(struct channel *ch)
{
	static const struct str nothing = STR_LIT("\r\033[K");

	if (!ch->bar)
		return;
	ch->bar = false;
	(void)channel_bytes(ch, TEXT_OUT, nothing);
}
