# seconds: 600
# Disk limits: project quota through an overlay, on the filesystem that has it, and disk images on the same.
modprobe loop
modprobe ext4
. tests/vm/pytest.sh tests/e2e/test_disk.py
