"""The table of README.md, between its two marks: one row a client and feature, a column a server. Rows are kept in the work
directory, so that a run of a part replaces those of that part."""
import fcntl
import json
import pathlib
import re

README = pathlib.Path(__file__).parent / "README.md"
BEGIN, END = "<!-- the run writes from here -->", "<!-- to here -->"
HOSTS = ("berth", "sshd")
WORDS = {"failed": "**FAILS**", "skipped": "not tried"}


def cell(row, host):
    if host not in row:
        return "-"
    return WORDS.get(row[host]) or ("no" if host in row["purpose"] else "yes")


def text(rows, versions):
    lines = []
    for client in sorted({row["client"] for row in rows}, key=str.lower):
        version = f", {versions[client]}" if client in versions else ""
        lines += ["", f"### {client}{version}", "", "| feature | berth | sshd | where they differ on purpose |", "|---|---|---|---|"]
        lines += [f"| {r['feature']} | {cell(r, 'berth')} | {cell(r, 'sshd')} | {' '.join(r['purpose'].values())} |"
                  for r in rows if r["client"] == client]
    return "\n".join(lines[1:]) + "\n"


def summary(rows):
    both = [r for r in rows if all(r.get(h) == "passed" for h in HOSTS)]
    purpose = [r for r in both if r["purpose"]]
    return (f"{len(rows)} rows of {len({r['client'] for r in rows})} clients: {len(both) - len(purpose)} the same with both servers, "
            f"{len(purpose)} differ on purpose, {len(rows) - len(both)} fail.")


class Table:
    def __init__(self):
        self.rows = {}

    def add(self, client, feature, host, outcome, purpose):
        row = self.rows.setdefault(f"{client}: {feature}", {"client": client, "feature": feature, "purpose": purpose})
        row[host] = outcome

    def write(self, work, how, versions):
        work.mkdir(parents=True, exist_ok=True)
        with open(work / "rows.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = work / "rows.json"
            rows = json.loads(kept.read_text()) if kept.exists() else {}
            rows.update(self.rows)
            kept.write_text(json.dumps(rows, indent=1))
            rows = list(rows.values())
            made = f"{BEGIN}\n{how} {summary(rows)}\n\n{text(rows, versions)}{END}"
            README.write_text(re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: made, README.read_text(), flags=re.S))
