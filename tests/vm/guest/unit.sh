# seconds: 400
# The engine's unit tests, as the release build has them.
passed=0 failed=0
for t in launch prepare cgroup limits hostname confine images keeper; do
	out=$(timeout 120 "$BERTH_BUILD/test_$t" 2>&1)
	status=$?
	ok=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test(s).*/\1/p' <<<"$out" | tail -1)
	bad=$(sed -n 's/^ *\([0-9]*\) FAILED TEST(S).*/\1/p' <<<"$out" | tail -1)
	[ $status = 0 ] || bad=${bad:-1}
	echo "test_$t: ${ok:-0} passed, ${bad:-0} failed"
	[ $status = 0 ] || { echo "$out" | grep -vE '^\[ (RUN|      OK)' | tail -40; echo "exit status $status"; }
	grep -iE 'skip(ped)?:' <<<"$out"
	passed=$((passed + ${ok:-0})) failed=$((failed + ${bad:-0}))
done
echo "$passed passed, $failed failed"
[ $failed = 0 ]
