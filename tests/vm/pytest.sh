# For scripts of guest/: runs the tests named, and ends with the line that tests/vm/run counts.
log=$(mktemp)
python3 -m pytest -p no:cacheprovider -p no:xdist -q -rs --tb=short --durations=5 "$@" 2>&1 | tee "$log"
last=$(grep -E ' in [0-9.]+s' "$log" | tail -1)
count() { grep -oE "[0-9]+ $1" <<<"$last" | grep -oE '[0-9]+' || echo 0; }
passed=$(count passed) failed=$(($(count failed) + $(count error)))
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
