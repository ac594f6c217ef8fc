"""Files by OpenSSH's sftp and scp, rsync, sshfs, lftp, curl (libssh2), rclone, git, ansible."""
import contextlib
import os
import shutil
import subprocess

import pytest

from conftest_e2e import wait_until

MIB = 1 << 20
BLOB = os.urandom(8 * MIB)


def case(client, feature, **kw):
    return pytest.mark.case(client, feature, **kw)


def run(argv, env=None, cwd=None, stdin=b"", status=0):
    done = subprocess.run([str(a) for a in argv], input=stdin, capture_output=True, timeout=120, env={**os.environ, **(env or {})}, cwd=cwd)
    assert done.returncode == status, done
    return done


def make_tree(folder):
    (folder / "sub dir/deep").mkdir(parents=True)
    (folder / "blob").write_bytes(BLOB)
    (folder / "empty").write_bytes(b"")
    (folder / "sub dir/run").write_text("#!/bin/sh\n")
    (folder / "sub dir/run").chmod(0o750)
    for i in range(50):
        (folder / f"sub dir/deep/{i}").write_text(f"{i}\n" * i)
    return folder


def same(one, other):
    run(["diff", "-r", one, other])


# ---- sftp ----

def sftp(host, batch, *options, status=0):
    return run(["sftp", *host.options(port="-P"), *options, "-b", "-", host.to], stdin=batch.encode(), status=status)


@case("sftp", "put -r and get -r of a tree, ls, modes")
def test_sftp_tree(host, here):
    tree = make_tree(here / "t")
    listed = sftp(host, f"put -rp {tree}\nls -l t/sub*\nget -rp t {here}/back\n").stdout
    same(tree, here / "back")
    assert b"rwxr-x---" in listed and (here / "back/sub dir/run").stat().st_mode & 0o777 == 0o750


@case("sftp", "rename, mkdir, rmdir, rm, ln -s, ln, chmod, pwd, cd, df")
def test_sftp_verbs(host, here):
    (here / "f").write_text("text\n")
    sftp(host, f"put {here}/f\nrename f g\nmkdir d\nln -s g s\nln g h\nchmod 600 h\npwd\ncd d\nput {here}/f\ncd ..\nrm d/f\nrmdir d\ndf\n")
    assert host.sh("ls; cat s; stat -c %a g").split() == [b"g", b"h", b"s", b"text", b"600"]


@case("sftp", "reget and reput of the second half")
def test_sftp_resume(host, here):
    (here / "f").write_bytes(BLOB)
    (here / "half").write_bytes(BLOB[:4 * MIB])
    sftp(host, f"put {here}/half there\nreput {here}/f there\nreget there {here}/half\n")
    assert (here / "half").read_bytes() == BLOB
    assert host.sh("cat there") == BLOB


@case("sftp", "what is not there: its words, and status 1")
def test_sftp_missing(host, here):
    assert b"not found" in sftp(host, f"get nosuch {here}/x\n", status=1).stderr


@case("sftp", "-C, -R 256 requests, -B 200000")
def test_sftp_options(host, here):
    (here / "f").write_bytes(BLOB)
    sftp(host, f"put {here}/f\nget f {here}/g\n", "-C", "-R", "256", "-B", "200000")
    assert (here / "g").read_bytes() == BLOB


@case("sftp", "an account's directory is its place")
def test_sftp_begins_where_commands_do(host):
    where = host.sh("pwd").decode().strip()
    assert f"Remote working directory: {where}\n".encode() in sftp(host, "pwd\n").stdout


# ---- scp ----

@case("scp", "{protocol}: a tree there and back, modes and times kept")
@pytest.mark.parametrize("protocol", ["-s", "-O"])
def test_scp(host, here, protocol):
    tree = make_tree(here / "t")
    run(["scp", protocol, "-rpq", *host.options(port="-P"), tree, host.to + ":there"])
    run(["scp", protocol, "-rpq", *host.options(port="-P"), host.to + ":there", here / "back"])
    same(tree, here / "back")
    assert (tree / "sub dir/run").stat().st_mtime // 1 == (here / "back/sub dir/run").stat().st_mtime


@case("scp", "-3: from one to itself through the client")
def test_scp_three(host, here):
    host.sh("cat > a", stdin=BLOB)
    run(["scp", "-3q", *host.options(port="-P"), host.to + ":a", host.to + ":b"])
    assert host.sh("cat b") == BLOB


@case("scp", "what is not there: status 1")
def test_scp_missing(host, here):
    run(["scp", "-q", *host.options(port="-P"), host.to + ":nosuch", here / "x"], status=1)


# ---- rsync, sshfs, lftp ----

def rsync(host, *words):
    return run(["rsync", "-e", " ".join(["ssh", *host.options()]), *words])


@case("rsync", "-az --delete both ways, only changes travel")
def test_rsync(host, here):
    tree = make_tree(here / "t")
    rsync(host, "-az", f"{tree}/", host.to + ":there/")
    (tree / "empty").unlink()
    (tree / "blob").write_bytes(BLOB[:MIB] + b"changed" + BLOB[MIB:])
    told = rsync(host, "-az", "--delete", "--stats", f"{tree}/", host.to + ":there/").stdout.decode()
    sent = int(told.split("Literal data: ")[1].split()[0].replace(",", ""))
    assert sent < MIB
    rsync(host, "-az", host.to + ":there/", f"{here}/back/")
    same(tree, here / "back")


@case("rsync", "--append of the second half")
def test_rsync_append(host, here):
    (here / "f").write_bytes(BLOB)
    host.sh("cat > f", stdin=BLOB[:MIB])
    rsync(host, "--append-verify", f"{here}/f", host.to + ":f")
    assert host.sh("cat f") == BLOB


@case("sshfs", "write, read, rename, truncate, links, 50 small files")
def test_sshfs(host, here):
    mount, tree = here / "m", make_tree(here / "t")
    mount.mkdir()
    run(["sshfs", *sum((["-o", o] for o in host.options()[1::1] if "=" in o), []), "-o", f"IdentityFile={host.key}", "-p", host.port, "-F", "/dev/null",
         host.to + ":", mount])
    try:
        shutil.copytree(tree, mount / "copy")
        same(tree, mount / "copy")
        os.rename(mount / "copy/blob", mount / "moved")
        os.truncate(mount / "moved", 5)
        os.symlink("moved", mount / "link")
        assert (mount / "link").read_bytes() == BLOB[:5]
        with open(mount / "moved", "r+b") as f:
            f.seek(3)
            f.write(b"xyz")
        assert host.sh("cat link") == BLOB[:3] + b"xyz"
    finally:
        run(["fusermount3", "-u", mount])


@case("lftp", "mirror -R and mirror, get -c of the second half")
def test_lftp(host, here):
    tree = make_tree(here / "t")
    connect = f'set sftp:connect-program "{" ".join(["ssh", "-a", "-x", *host.options()])}"; open sftp://{host.user}:x@{host.address}; '
    (here / "half").write_bytes(BLOB[:MIB])
    run(["lftp", "-c", connect + f"mirror -R {tree} there; mirror there {here}/back; get -c there/blob -o {here}/half"], env={"HOME": str(here)})
    same(tree, here / "back")
    assert (here / "half").read_bytes() == BLOB


# ---- curl ----

def curl(host, path, *words, scheme="sftp", key="ed25519", status=0):
    return run(["curl", "-sS", "--insecure", "--user", host.user + ":", "--key", host.keys / key, "--pubkey", host.keys / f"{key}.pub", *words,
                f"{scheme}://{host.address}:{host.port}/{path}"], status=status)


@case("curl (libssh2)", "key {key}")
@pytest.mark.parametrize("key", ["ed25519", "ecdsa-256", "ecdsa-384", "ecdsa-521"])
def test_curl_key(host, key):
    host.sh("echo text > f")
    where = host.sh("pwd").decode().strip()
    assert curl(host, f"{where}/f", key=key).stdout == b"text\n"


@case("curl (libssh2)", "key rsa-2048, which libssh2 1.10 signs by SHA-1, is refused")
def test_curl_sha1(host):
    host.sh("echo text > f")
    where = host.sh("pwd").decode().strip()
    curl(host, f"{where}/f", key="rsa-2048.pem", status=67)


@case("curl (libssh2)", "sftp:// put, get, list, resumed get, append, rename")
def test_curl_sftp(host, here):
    where = host.sh("pwd").decode().strip()
    (here / "f").write_bytes(BLOB)
    curl(host, f"{where}/there", "-T", here / "f")
    assert curl(host, f"{where}/there").stdout == BLOB
    (here / "half").write_bytes(BLOB[:MIB])
    curl(host, f"{where}/there", "-C", "-", "-o", here / "half")
    assert (here / "half").read_bytes() == BLOB
    curl(host, f"{where}/there", "-T", here / "f", "--append")
    assert curl(host, f"{where}/there").stdout == BLOB * 2
    assert b"there" in curl(host, f"{where}/", "-Q", f"-rename {where}/there {where}/moved").stdout
    assert curl(host, f"{where}/").stdout.split()[-1] != b"there"


@case("curl (libssh2)", "scp:// put and get")
def test_curl_scp(host, here):
    where = host.sh("pwd").decode().strip()
    (here / "f").write_bytes(BLOB)
    curl(host, f"{where}/there", "-T", here / "f", scheme="scp")
    assert curl(host, f"{where}/there", scheme="scp").stdout == BLOB


@case("curl (libssh2)", "compression")
def test_curl_compressed(host, here):
    host.sh("cat > f", stdin=BLOB)
    assert curl(host, f"{host.sh('pwd').decode().strip()}/f", "--compressed-ssh").stdout == BLOB


# ---- rclone ----

def rclone(host, here, *words):
    (here / "rclone.conf").write_text(f"[it]\ntype = sftp\nhost = {host.address}\nport = {host.port}\nuser = {host.user}\nkey_file = {host.key}\n")
    return run(["rclone", "--config", here / "rclone.conf", *words])


@case("rclone (Go)", "copy both ways, check by sums, move, purge")
def test_rclone(host, here):
    tree = make_tree(here / "t")
    rclone(host, here, "copy", tree, "it:there")
    rclone(host, here, "check", tree, "it:there")
    rclone(host, here, "copy", "it:there", here / "back")
    same(tree, here / "back")
    rclone(host, here, "moveto", "it:there/blob", "it:moved")
    assert rclone(host, here, "size", "it:there").stdout
    rclone(host, here, "purge", "it:there")
    assert host.sh("ls") == b"moved\n"
    assert rclone(host, here, "md5sum", "it:moved").stdout.split()[1] == b"moved"


# ---- git ----

@case("git", "init --bare inside, push, clone, fetch, 20 MiB of objects")
def test_git(host, here):
    ssh = " ".join(["ssh", *host.options()])
    env = {"GIT_SSH_COMMAND": ssh, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_AUTHOR_NAME": "n", "GIT_AUTHOR_EMAIL": "e", "GIT_COMMITTER_NAME": "n",
           "GIT_COMMITTER_EMAIL": "e"}
    where = host.sh("git init -q --bare repo.git; pwd").decode().strip()
    url = f"ssh://{host.user}@{host.address}:{host.port}{where}/repo.git"
    work = here / "work"

    def git(*words, cwd=work):
        return run(["git", *words], env=env, cwd=cwd).stdout
    work.mkdir()
    git("init", "-q", "-b", "main")
    (work / "blob").write_bytes(os.urandom(20 * MIB))
    make_tree(work / "tree")
    git("add", "-A")
    git("commit", "-qm", "one")
    git("push", "-q", url, "main")
    git("clone", "-q", "-b", "main", url, str(here / "clone"), cwd=here)
    assert git("rev-parse", "HEAD", cwd=here / "clone") == git("rev-parse", "HEAD")
    (work / "new").write_text("x")
    git("add", "-A")
    git("commit", "-qm", "two")
    git("push", "-q", url, "main")
    git("pull", "-q", cwd=here / "clone")
    assert (here / "clone/new").read_text() == "x"
    assert b"refs/heads/main" in git("ls-remote", url)


# ---- ansible ----

PLAYBOOK = """
- hosts: all
  gather_facts: true
  tasks:
    - command: sh -c 'echo out; exit 3'
      register: r
      failed_when: r.rc != 3 or r.stdout != "out"
    - copy: {src: blob, dest: there, mode: "0640"}
    - stat: {path: there, checksum_algorithm: sha256}
      register: s
    - assert: {that: "s.stat.mode == '0640' and s.stat.size == 8388608"}
    - lineinfile: {path: lines, line: "a = 1", create: true}
    - shell: cat lines
      register: l
      failed_when: l.stdout != "a = 1"
    - fetch: {src: there, dest: back, flat: true}
    - command: sleep 2
      async: 30
      poll: 1
"""


@case("ansible", "~USER is the account's home, so remote_tmp and async_dir need not be said",
      berth="a session's name is no account in it: say ansible_remote_tmp=/root/.ansible/tmp and ansible_async_dir=/root/.ansible_async")
def test_ansible_home(host):
    home = host.sh("echo $HOME").decode().strip()
    assert (host.sh(f"echo ~{host.user}").decode().strip() == home) is not host.is_berth


@case("ansible", "a playbook, files by {transfer}, pipelining {pipelining}")
@pytest.mark.parametrize("transfer,pipelining", [("sftp", "no"), ("scp", "no"), ("piped", "yes")])
def test_ansible(host, here, transfer, pipelining):
    home = host.sh("echo $HOME").decode().strip()
    (here / "play.yml").write_text(PLAYBOOK)
    (here / "blob").write_bytes(BLOB)
    options = " ".join(o for o in host.options()[:-4] if o not in ("-p", str(host.port)))
    (here / "hosts").write_text(f"it ansible_host={host.address} ansible_port={host.port} ansible_user={host.user} "
                                f"ansible_ssh_private_key_file={host.key} ansible_python_interpreter=/usr/bin/python3 "
                                f"ansible_remote_tmp={home}/.ansible/tmp ansible_async_dir={home}/.ansible_async\n")
    control = here / "cp"
    env = {"ANSIBLE_SSH_TRANSFER_METHOD": transfer, "ANSIBLE_PIPELINING": pipelining, "ANSIBLE_HOST_KEY_CHECKING": "no", "HOME": str(here),
           "ANSIBLE_SSH_ARGS": f"{options} -o ControlMaster=auto -o ControlPersist=30 -o ControlPath={control}", "LC_ALL": "C.UTF-8",
           "ANSIBLE_LOCAL_TEMP": str(here / "tmp")}
    try:
        done = run(["/usr/bin/ansible-playbook", "-i", here / "hosts", here / "play.yml"], env=env, cwd=here)
        assert b"failed=0" in done.stdout and (here / "back").read_bytes() == BLOB
    finally:
        with contextlib.suppress(AssertionError):
            run(["ssh", "-o", f"ControlPath={control}", "-O", "exit", host.to])
        wait_until("the master to end", lambda: not control.exists())
