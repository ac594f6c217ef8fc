"""The laws of the house that a program can keep: who may include whom, names, sizes, one subject a file."""
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCES = [p for top in ("snapshot", "server") for p in sorted((ROOT / top).rglob("*")) if p.suffix in (".c", ".h")]

# who ──▶ may include (besides its own folder and the floor, snapshot/base)
SHARED = {"wire", "verbs", "config", "confine"}
ALLOWED = {
    "manager": SHARED | {"index", "audit"}, "conn": SHARED, "keeper": SHARED, "init": SHARED, "worker": SHARED | {"snapshot"},
    "index": set(), "audit": set(), "wire": set(), "verbs": set(), "config": set(), "confine": set(), "snapshot": set(),
}


def part_of(path):
    relative = path.relative_to(ROOT).parts
    if relative[0] == "snapshot":
        return "base" if relative[1] == "base" else "snapshot"
    return relative[1] if len(relative) > 2 else path.stem


def test_includes_follow_the_arrows():
    wrong = []
    for path in SOURCES:
        me = part_of(path)
        for name in re.findall(r'^#include "([^"]+)"', path.read_text(), re.M):
            local = path.parent / name
            target = local if local.exists() else next((ROOT / top / name for top in ("snapshot", "server") if (ROOT / top / name).exists()), None)
            if target is None:
                wrong.append(f"{path}: {name} is nowhere")
                continue
            other = part_of(target)
            if other not in {me, "base"} and other not in ALLOWED.get(me, set()):
                wrong.append(f"{path.relative_to(ROOT)} ({me}) includes {name} ({other})")
    assert wrong == []


def test_a_file_has_a_name_of_its_own():
    seen = {}
    for path in SOURCES:
        seen.setdefault(path.name, []).append(str(path.relative_to(ROOT)))
    assert {n: p for n, p in seen.items() if len(p) > 1} == {}


def test_files_stay_small_enough_for_one_subject():
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := len(p.read_text().splitlines())) > 620}
    assert long == {}


def test_every_folder_has_its_readme():
    folders = {p.parent for p in SOURCES}
    assert [str(f.relative_to(ROOT)) for f in folders if not (f / "README.md").exists() and f.name != "server"] == []


@pytest.mark.parametrize("word", [r"\bgoto\b", r"\bsleep\s*\(", r"\busleep\s*\(", r"\bnanosleep\s*\(", r"\bTODO\b", r"\bFIXME\b"])
def test_what_must_not_stand_in_the_code(word):
    found = [f"{p.relative_to(ROOT)}: {line.strip()}" for p in SOURCES for line in p.read_text().splitlines() if re.search(word, line)]
    assert found == []


def test_every_package_is_listed_once():
    names = [line.split()[1] for line in (ROOT / "etc/deps").read_text().splitlines() if line and not line.startswith("#")]
    assert len(names) == len(set(names))


def test_the_error_table_matches_the_promise():
    """Exit codes are promises to clients (DESIGN section 3)."""
    rows = dict(re.findall(r'^ERR\((\w+), "\w+", (\d+)', (ROOT / "snapshot/base/err.def").read_text(), re.M))
    assert rows == {"NONE": "0", "USAGE": "64", "CORRUPT": "65", "ABSENT": "66", "UNAVAILABLE": "69", "INTERNAL": "70",
                    "NO_SPACE": "73", "INCOMPLETE": "74", "AGAIN": "75", "DENIED": "77", "CONFIG": "78", "TIMEOUT": "124",
                    "CANCELLED": "130"}
