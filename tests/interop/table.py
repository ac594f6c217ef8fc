"""The table of README.md, between its two marks: one row a client and feature, a column a server."""
import pathlib
import re

README = pathlib.Path(__file__).parent / "README.md"
BEGIN, END = "<!-- the run writes from here -->", "<!-- to here -->"
HOSTS = ("berth", "sshd")


class Table:
    def __init__(self):
        self.rows, self.versions = {}, {}

    def add(self, client, feature, host, outcome, seconds, purpose):
        row = self.rows.setdefault((client, feature), {"purpose": purpose})
        row[host] = (outcome, seconds)

    def cell(self, row, host):
        if host not in row:
            return "-"
        outcome, seconds = row[host]
        if outcome == "passed":
            text = "no" if host in row["purpose"] else "yes"
        else:
            text = {"failed": "**FAILS**", "skipped": "not tried"}[outcome]
        return text + (f" ({seconds:.0f} s)" if outcome == "passed" and seconds >= 2 else "")

    def text(self):
        clients = list(dict.fromkeys(client for client, _ in self.rows))
        lines = []
        for client in clients:
            rows = [(feature, row) for (of, feature), row in self.rows.items() if of == client]
            lines += ["", f"### {client}{', ' + self.versions[client] if client in self.versions else ''}", "",
                      "| feature | berth | sshd | where they differ on purpose |", "|---|---|---|---|"]
            lines += [f"| {feature} | {self.cell(row, 'berth')} | {self.cell(row, 'sshd')} | {' '.join(row['purpose'].values())} |" for feature, row in rows]
        return "\n".join(lines[1:]) + "\n"

    def summary(self):
        both = [r for r in self.rows.values() if all(r.get(h, ("", 0))[0] == "passed" for h in HOSTS)]
        purpose = [r for r in both if r["purpose"]]
        return (f"{len(self.rows)} rows of {len({c for c, _ in self.rows})} clients: {len(both) - len(purpose)} the same with both servers, "
                f"{len(purpose)} differ on purpose, {len(self.rows) - len(both)} fail.")

    def write(self, how):
        body = README.read_text()
        made = f"{BEGIN}\n{how} {self.summary()}\n\n{self.text()}{END}"
        README.write_text(re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: made, body, flags=re.S))
