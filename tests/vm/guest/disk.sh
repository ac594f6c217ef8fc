# seconds: 900
# Disk limits by project quota, through an overlay, on the filesystem that has it; and disk images with Debian's kernel.
modprobe loop
BERTH_QUOTA_DIR=/tmp build/release/test_quota 2>&1 | grep -E '^\[  (PASSED|FAILED)|skipped' # /tmp has project quota here
. tests/vm/pytest.sh tests/e2e/test_disk.py -k "quota or attaches_it_once or others_fill"
