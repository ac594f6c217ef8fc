"""Makes a tree with every kind of entry inside a session, and reads it back entry by entry."""
import json

# Runs inside the session with the python of image host: no file of the tests is there.
MAKE = r'''
import os, stat, struct, subprocess
os.chdir("/workspace")
os.makedirs("tree/deep/er", exist_ok=True); os.chdir("tree")
def write(p, b, mode=0o644):
    with open(p, "wb") as f: f.write(b)
    os.chmod(p, mode)
write("plain", b"plain\n")
write("empty", b"")
write("setuid", b"#!/bin/sh\n", 0o4755)
write("setgid-sticky", b"x", 0o3711)
write("odd\nname \xff\xfe \t*?'\"".encode("latin-1"), b"odd")
write(b"not-utf8-\xc3\x28", b"bytes")
write("n" * 255, b"long name")
d = "deep"
for i in range(24):
    d = os.path.join(d, "d" * 180)
    os.mkdir(d) if len(d) < 3900 else None
    if len(d) >= 3900: break
with open("sparse", "wb") as f:
    f.write(b"head"); f.seek(100 << 20); f.write(b"middle"); f.truncate(5 << 30)
write("hard-1", b"linked"); os.link("hard-1", "hard-2"); os.link("hard-1", "deep/hard-3")
os.symlink("plain", "link"); os.symlink("/etc/passwd", "abs-link"); os.symlink("nowhere\xff", "dangling")
os.mkfifo("fifo", 0o640)
write("xattrs", b"x"); os.setxattr("xattrs", "user.note", b"value\0with nul"); os.setxattr("deep", "user.dir", b"d")
try: os.setxattr("xattrs", "user.overlay.opaque", b"y")
except OSError as e: assert e.errno == 95 and tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7) # no escape yet
write("owned", b"o"); os.chown("owned", 1000, 1001); os.chown("link", 7, 8, follow_symlinks=False)
acl = struct.pack("<IHHIHHIHHIHHI", 2, 1, 6, 0xffffffff, 2, 4, 1234, 4, 4, 0xffffffff, 0x10, 4, 0xffffffff)[:4] + b""
acl += b"".join(struct.pack("<HHI", t, p, i) for t, p, i in ((1, 6, 0xffffffff), (2, 4, 1234), (4, 4, 0xffffffff), (16, 4, 0xffffffff), (32, 4, 0xffffffff)))
os.setxattr("plain", "system.posix_acl_access", acl)
os.utime("empty", ns=(1, 1234567890_123456789)); os.utime("link", ns=(5, 999_000000001), follow_symlinks=False)
# the image: delete a file, replace a file, replace a directory by a file and a file by a directory
os.unlink("/etc/debian_version"); write("/etc/inputrc", b"mine\n"); write("/etc/new-file", b"new\n")
subprocess.run(["rm", "-rf", "/etc/skel", "/etc/shells"]); write("/etc/skel", b"now a file\n")
os.mkdir("/etc/shells"); write("/etc/shells/inside", b"i")
subprocess.run(["rm", "-rf", "/etc/profile.d"]); os.mkdir("/etc/profile.d"); write("/etc/profile.d/only", b"mine")
os.makedirs("/root/.cache/x"); write("/root/.cache/x/y", b"y")
os.chmod("/", 0o751); os.chown("/", 0, 5)
os.utime("/workspace/tree/deep", ns=(7, 1600000000_000000007))
'''

READ = r'''
import hashlib, json, os, stat, sys
out = {}
def one(p):
    st = os.lstat(p)
    e = [oct(st.st_mode), st.st_uid, st.st_gid, st.st_nlink if not stat.S_ISDIR(st.st_mode) else 0]
    if not stat.S_ISDIR(st.st_mode) or b"/tree" in p: e.append(st.st_mtime_ns)
    if stat.S_ISLNK(st.st_mode): e.append(os.readlink(p).decode("latin-1"))
    if stat.S_ISREG(st.st_mode):
        e += [st.st_size, st.st_blocks < 1024 if st.st_size > 1 << 30 else -1]
        h = hashlib.sha256()
        with open(p, "rb") as f:
            if st.st_size > 1 << 30:
                h.update(f.read(4096)); f.seek(100 << 20); h.update(f.read(4096))
            else: h.update(f.read())
        e.append(h.hexdigest())
    if not stat.S_ISLNK(st.st_mode):
        e.append(sorted((a, os.getxattr(p, a).hex()) for a in os.listxattr(p)))
    out[p.decode("latin-1")] = e
    if stat.S_ISDIR(st.st_mode):
        for n in sorted(os.listdir(p)): one(p + b"/" + n)
st = os.lstat(b"/"); out["/"] = [oct(st.st_mode), st.st_uid, st.st_gid]
for top in (b"/workspace", b"/etc", b"/root", b"/var/lib", b"/opt"): one(top)
json.dump(out, sys.stdout)
'''


def make(server, name):
    r = server.ssh(name, "python3 -", stdin=MAKE.encode())
    assert r.status == 0, r


def read(server, name):
    r = server.ssh(name, "python3 -", stdin=READ.encode())
    assert r.status == 0, r
    return json.loads(r.out)


def differences(before, after):
    return {p: (before.get(p), after.get(p)) for p in sorted(set(before) | set(after)) if before.get(p) != after.get(p)}
