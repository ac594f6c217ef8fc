# seconds: 60
# What the scripts beside this one may count on: project quota binds on the filesystem of the servers' state.
set -eu
d=/var/tmp/quota-probe
mkdir $d && chattr +P -p 4711 $d
setquota -P 4711 1024 1024 0 0 /var/tmp
chown nobody $d # root may pass any quota
setpriv --reuid nobody --clear-groups sh -c "head -c 4M /dev/zero >$d/much" 2>/tmp/why && echo "4 MiB went into 1" && exit 1
grep -q 'Disk quota exceeded' /tmp/why
[ "$(stat -c %s $d/much)" -le $((1 << 20)) ]
rm -r $d && setquota -P 4711 0 0 0 0 /var/tmp
echo "1 passed, 0 failed"
