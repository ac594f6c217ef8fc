#!/usr/bin/env bash
# Builds the release and the driver, then runs start.py: for tests/bench/start and tests/bench/idle.
cd "$(dirname "$0")/../.." || exit 2
build=${BERTH_BUILD:-build/release}
if [ -z "${BERTH_BUILD:-}" ]; then
	cmake --preset release -DBERTH_TESTS=OFF >/dev/null && cmake --build --preset release >/dev/null || exit 1
fi
# shellcheck disable=SC2046
cc -O2 -o "$build/start_driver" tests/bench/start_driver.c $(pkg-config --cflags --libs libssh) -lpthread || exit 1
export BERTH_TEST_SPARES=default BERTH_BUILD=$build BERTH_START_DRIVER=$build/start_driver PYTHONDONTWRITEBYTECODE=1
exec /usr/bin/python3 -W ignore tests/bench/start.py "$@"
