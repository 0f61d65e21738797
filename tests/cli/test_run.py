"""`docker run`: streams, exit codes, and every flag that shapes a container."""

import hashlib
import os
import re
import signal
import time

import harness
from harness import Case, DRIVER, eventually, host_case, once


class Streams(Case):
    def test_stdout_and_stderr_apart(self):
        self.in_container("--network", "none", shell="echo out; echo err >&2", out="out", err="err")

    def test_stdin(self):
        self.docker("run", "--rm", "-i", "busybox", "cat", stdin="from the client\n", out="from the client")

    def test_stdin_closes(self):
        self.docker("run", "--rm", "-i", "busybox", "wc", "-c", stdin="12345", out="5")

    def test_no_stdin_is_empty(self):
        self.docker("run", "--rm", "busybox", "cat", stdin="lost", out="")

    def test_large_output(self):
        result = self.in_container(shell="seq 1 200000")
        self.equal(len(result.out.splitlines()), 200000, "lines of seq 1 200000")

    def test_large_input(self):
        self.docker("run", "--rm", "-i", "busybox", "md5sum", stdin=b"x" * 5_000_000,
                    out=hashlib.md5(b"x" * 5_000_000).hexdigest() + "  -")

    def test_binary_output(self):
        result = self.in_container("--network", "none", shell="head -c 100000 /dev/zero | wc -c", out="100000")
        self.equal(result.err, "", "stderr")

    @host_case
    def test_tty(self):
        terminal = self.terminal("run", "--rm", "-it", "debian:bookworm", "bash")
        terminal.expect(r"# ")
        time.sleep(0.5)  # older CLIs tell the size after the start
        terminal.send("tty; stty size; echo sum=$((40+2))\n")
        terminal.expect(r"/dev/pts/\d+")
        terminal.expect(r"30 100")
        terminal.expect(r"sum=42")
        terminal.send("exit 7\n")
        self.equal(terminal.wait(), 7, "exit code of bash")

    def test_tty_resize(self):
        terminal = self.terminal("run", "--rm", "-it", "busybox", "sh")
        terminal.expect(r"# ")
        time.sleep(0.5)  # the prompt comes before the CLI listens for SIGWINCH
        terminal.resize(40, 120)
        time.sleep(0.3)
        terminal.send("stty size\n")
        terminal.expect(r"40 120")
        terminal.send("exit\n")
        self.equal(terminal.wait(), 0, "exit code of sh")

    def test_tty_control_c(self):
        terminal = self.terminal("run", "--rm", "-it", "busybox", "sh", "-c", "trap 'echo caught; exit 9' INT; echo up; while :; do sleep 0.1; done")
        terminal.expect(r"up")
        terminal.send("\x03")
        terminal.expect(r"caught")
        self.equal(terminal.wait(), 9, "exit code")

    def test_detach_keys(self):
        name = self.name()
        terminal = self.terminal("run", "-it", "--name", name, "busybox", "sh")
        terminal.expect(r"# ")
        terminal.send("\x10\x11")
        self.equal(terminal.wait(), 0, "exit code")
        self.equal(self.field(name, "{{.State.Running}}"), "true", "running after detach")
        for client in (None, harness.BIN):
            terminal = self.terminal("attach", name, client=client)
            time.sleep(0.3)
            terminal.send("\x10\x11")
            terminal.expect("read escape sequence")
            self.equal(terminal.wait(), 1, "exit code of attach")

    def test_detached(self):
        name = self.run_detached()
        self.equal(self.field(name, "{{.State.Status}}"), "running", "status")

    def test_rm_removes(self):
        name = self.name()
        self.docker("run", "--rm", "--name", name, "busybox", "true")
        self.docker("inspect", name, code=1, err=re.compile("No such object"))

    def test_signal_is_passed_on(self):
        # Often: what the program writes may be here before the engine has noted that it runs.
        for _ in range(20):
            client = self.daemon.start_client("run", "--rm", "busybox", "sh", "-c",
                                              "trap 'exit 42' TERM; echo up; while :; do sleep 0.01; done")
            self.addCleanup(client.stdin.close)
            self.equal(client.stdout.readline(), b"up\n", "first line")
            client.send_signal(signal.SIGTERM)
            self.equal(client.wait(60), 42, "exit code of docker run")
            client.stdout.close(), client.stderr.close()

    def test_cidfile(self):
        path = self.daemon.top + "/cid-" + str(time.monotonic_ns())
        self.docker("run", "--rm", "--cidfile", path, "busybox", "true")
        with open(path, encoding="utf-8") as file:
            self.equal(len(file.read()), 64, "length of the id")


class ExitCodes(Case):
    def test_of_the_command(self):
        self.in_container(shell="exit 23", code=23)

    def test_of_a_signal(self):
        self.docker("run", "--rm", "--init", "busybox", "sh", "-c", "kill -KILL $$", code=137)

    def test_not_found(self):
        self.docker("run", "--rm", "busybox", "nosuch", code=127,
                    err=re.compile(r'exec: "nosuch": executable file not found in \$PATH'))

    def test_path_not_found(self):
        self.docker("run", "--rm", "busybox", "/no/such", code=127,
                    err=re.compile(r'exec: "/no/such": stat /no/such: no such file or directory'))

    def test_not_executable(self):
        self.docker("run", "--rm", "busybox", "/etc/not-executable", code=126,
                    err=re.compile(r'exec: "/etc/not-executable": permission denied'))

    def test_directory(self):
        # 20.10 does not know this text and so gives its code for anything else.
        code = 125 if " 20.10" in self.docker("--version").out else 126
        self.docker("run", "--rm", "busybox", "/etc", code=code, err=re.compile(r'exec: "/etc": is a directory'))

    def test_wrong_format(self):
        result = self.docker("run", "--rm", "busybox", "/usr/bin/wrong-format", code=None)
        if result.code == 0 or "exec format error" not in result.err + result.out:
            self.fail(f"$ docker run wrong-format\nexpected: not 0, 'exec format error'\ngot: {result}")

    def test_unknown_image(self):
        self.docker("run", "--rm", "nosuch:image", code=125, err=re.compile("Unable to find image 'nosuch:image' locally"))

    def test_unknown_user(self):
        self.docker("run", "--rm", "--user", "nosuch", "busybox", "true", code=(125, 126),
                    err=re.compile("unable to find user nosuch: no matching entries in passwd file"))

    def test_unknown_group(self):
        self.docker("run", "--rm", "--user", "root:nosuch", "busybox", "true", code=(125, 126),
                    err=re.compile("unable to find group nosuch: no matching entries in group file"))

    def test_working_directory_is_a_file(self):
        # Found out when the container is made.
        self.docker("create", "--workdir", "/etc/passwd", "busybox", "true", code=1,
                    err=re.compile("Cannot mkdir: /etc/passwd is not a directory"))
        self.docker("create", "--workdir", "/etc/passwd/x", "busybox", "true", code=1, err=re.compile("mkdir /etc/passwd: not a directory"))

    def test_bind_of_a_file_onto_a_directory(self):
        self.docker("run", "--rm", "-v", __file__ + ":/bin", "busybox", "true", code=(125, 127), err=re.compile(
            r"not a directory: unknown: Are you trying to mount a directory onto a file \(or vice-versa\)\? "
            "Check if the specified host path exists and is the expected type"))

    @once
    def test_address_in_the_default_network(self):
        # Older clients keep what is asked of the default network to themselves.
        for family, address in (("IPv4Address", "10.0.0.9"), ("IPv6Address", "fd00::9")):
            body = {"Image": "busybox", "NetworkingConfig": {"EndpointsConfig": {"default": {"IPAMConfig": {family: address}}}}}
            status, _, answer = self.daemon.http("POST", "/v1.50/containers/create", body)
            self.equal((status, answer), (400, {"message": "invalid config for network bridge: invalid endpoint settings:\n"
                                                "user-specified IP address is supported on user-defined networks only"}), "an address")

    def test_failed_start_leaves_created(self):
        name = self.name()
        self.docker("run", "--name", name, "busybox", "nosuch", code=127)
        self.equal(self.field(name, "{{.State.Status}} {{.State.ExitCode}}"), "created 127", "state")

    def test_failed_rm_leaves_nothing(self):
        name = self.name()
        self.docker("run", "--rm", "--name", name, "busybox", "nosuch", code=127)
        eventually(lambda: self.docker("inspect", name, code=None).code == 1, "the container removed")


class Process(Case):
    def test_default_command_of_the_image(self):
        self.docker("run", "--rm", "-i", "busybox", stdin="echo from sh\n", out="from sh")

    def test_env(self):
        self.in_container("-e", "A=1", "-e", "B=two words", shell='echo "$A,$B"', out="1,two words")

    def test_env_defaults(self):
        self.in_container("--hostname", "box", shell="echo $HOSTNAME $HOME $PATH",
                          out="box /root /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")

    def test_env_term_with_tty(self):
        terminal = self.terminal("run", "--rm", "-t", "busybox", "sh", "-c", "echo term=$TERM")
        terminal.expect("term=xterm")

    def test_env_from_client(self):
        self.daemon.env["FROM_CLIENT"] = "passed"
        self.in_container("-e", "FROM_CLIENT", shell="echo $FROM_CLIENT", out="passed")

    def test_workdir(self):
        self.in_container("--workdir", "/tmp", shell="pwd", out="/tmp")

    def test_workdir_is_made(self):
        self.in_container("-w", "/made/for/this", shell="pwd; ls -ld /made/for | cut -c1-10",
                          out="/made/for/this\ndrwxr-xr-x")

    def test_user_by_name(self):
        self.in_container("--user", "app", shell="id", out=re.compile(r"uid=1000\(app\) gid=1000\(app\) groups=.*29\(audio\),44\(video\)"))

    def test_user_home(self):
        self.in_container("--user", "app", shell="echo $HOME", out="/home/app")

    def test_user_by_number(self):
        self.in_container("--user", "1000:29", shell="id -u; id -g", out="1000\n29")

    def test_user_not_in_passwd(self):
        self.in_container("--user", "4242:4343", shell="echo $(id -u) $(id -g) $HOME", out="4242 4343 /")

    def test_group_add(self):
        self.in_container("--user", "app", "--group-add", "daemon", "--group-add", "777", shell="id -G",
                          out=re.compile(r"(?=.*\b1\b)(?=.*\b777\b)"))

    def test_entrypoint(self):
        self.docker("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b", out="a b")

    def test_pid_1(self):
        self.docker("run", "--rm", "busybox", "sh", "-c", "echo $$; ps -o pid,comm | wc -l", out=re.compile(r"^1\n"))

    def test_init(self):
        result = self.in_container("--init", shell="echo $$; cat /proc/1/comm")
        if result.out.splitlines()[0] == "1" or result.out.splitlines()[1] == "sh":
            self.fail(f"$ docker run --init\nexpected: an init as pid 1\ngot: {result}")

    @host_case
    def test_init_reaps(self):
        self.in_container("--init", shell="(sleep 0.05 &) ; sleep 0.4; ps -o stat,comm | grep -c '^Z' || true", out="0")

    @host_case
    def test_ulimit(self):
        self.in_container("--ulimit", "nofile=123:456", shell="ulimit -Sn; ulimit -Hn", out="123\n456")

    @host_case
    def test_oom_score_adj(self):
        self.in_container("--oom-score-adj", "500", shell="cat /proc/self/oom_score_adj", out="500")

    @host_case
    def test_sysctl(self):
        self.in_container("--sysctl", "kernel.msgmax=4242", shell="cat /proc/sys/kernel/msgmax", out="4242")

    def test_umask(self):
        self.in_container(shell="umask", out="0022")

    @host_case
    def test_no_descriptor_leaks_in(self):
        self.in_container(shell="ls /proc/self/fd | tr '\\n' ' '", out=re.compile(r"^0 1 2 (3 )?$", re.M))
        for _ in range(5):
            self.in_container("--init", shell="ls /proc/1/fd | tr '\\n' ' '", out=re.compile(r"^0 1 2 $"))

    def test_no_new_privileges(self):
        self.in_container("--security-opt", "no-new-privileges", shell="grep NoNewPrivs /proc/self/status", out="NoNewPrivs:\t1")
        self.in_container(shell="grep NoNewPrivs /proc/self/status", out="NoNewPrivs:\t0")

    def test_stop_signal(self):
        name = self.run_detached("--stop-signal", "USR1", command=("sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.1; done"))
        time.sleep(0.2)
        self.docker("stop", name)
        self.equal(self.field(name, "{{.State.ExitCode}}"), "5", "exit code")

    def test_child_outlived_by_nothing(self):
        name = self.run_detached(command=("sh", "-c", "sleep 777 & sleep 1000"))
        pid = self.field(name, "{{.State.Pid}}")
        self.docker("rm", "-f", name)
        eventually(lambda: not os.path.exists("/proc/" + pid), "the first process gone")


class Capabilities(Case):
    DEFAULT = "00000000a80425fb"

    def effective(self, *args):
        return self.in_container(*args, shell="grep CapEff /proc/self/status").out.split()[1]

    @host_case
    def test_default(self):
        self.equal(self.effective(), self.DEFAULT, "CapEff")

    def test_of_a_user(self):
        self.equal(self.effective("--user", "app"), "0" * 16, "CapEff of app")
        self.in_container("--user", "app", shell="grep CapBnd /proc/self/status", out="CapBnd:\t" + self.DEFAULT)

    def test_drop_all(self):
        self.equal(self.effective("--cap-drop", "ALL"), "0" * 16, "CapEff")

    def test_drop_one(self):
        self.equal(self.effective("--cap-drop", "CHOWN"), "00000000a80425fa", "CapEff")

    def test_add(self):
        self.equal(self.effective("--cap-add", "SYS_PTRACE"), "00000000a80c25fb", "CapEff")

    def test_add_one_to_none(self):
        self.equal(self.effective("--cap-drop", "ALL", "--cap-add", "NET_RAW"), "0000000000002000", "CapEff")

    def test_unknown(self):
        self.docker("run", "--rm", "--cap-add", "NOSUCH", "busybox", "true", code=125,
                    err=re.compile('unknown capability: "CAP_NOSUCH"|invalid CapAdd: unknown capability: "NOSUCH"|invalid CapAdd: unknown capability: "CAP_NOSUCH"'))

    def test_privileged(self):
        effective = int(self.effective("--privileged"), 16)
        if effective & (1 << 21) == 0:
            self.fail(f"$ docker run --privileged\nexpected: CAP_SYS_ADMIN\ngot: {effective:x}")

    @host_case
    def test_privileged_may_mount(self):
        self.in_container("--privileged", shell="mkdir /m && mount -t tmpfs none /m && grep -c ' /m tmpfs' /proc/mounts", out="1")

    @host_case
    def test_others_may_not_mount(self):
        self.in_container(shell="mkdir /m; mount -t tmpfs none /m", code=(1, 255), err=re.compile("(?i)permission denied|not permitted"))

    @host_case
    def test_chown(self):
        self.in_container(shell="touch /f && chown 1234:777 /f && stat -c %u:%g /f", out="1234:777")

    def test_low_port(self):
        self.in_container("--user", "app", shell="timeout 1 nc -l -p 80 </dev/null; test $? != 1")


class Seccomp(Case):
    @host_case
    def test_filter_in_force(self):
        self.in_container(shell="grep '^Seccomp:' /proc/self/status", out="Seccomp:\t2")

    def test_unconfined(self):
        self.in_container("--security-opt", "seccomp=unconfined", shell="grep '^Seccomp:' /proc/self/status", out="Seccomp:\t0")

    def test_unshare_is_refused(self):
        self.docker("run", "--rm", "debian:bookworm", "unshare", "--user", "true", code=1,
                    err=re.compile("unshare failed: Operation not permitted"))

    @host_case
    def test_profile_of_the_user(self):
        path = self.daemon.top + "/profile.json"
        with open(path, "w", encoding="utf-8") as file:
            file.write('{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}')
        self.in_container("--security-opt", "seccomp=" + path, shell="mkdir /d", code=1, err=re.compile("not permitted"))


class Filesystem(Case):
    @host_case
    def test_written_layer(self):
        self.in_container(shell="echo x > /etc/new && rm /etc/group && cat /etc/new && ls /etc/group 2>&1 | grep -c 'No such'",
                          out="x\n1")

    @host_case
    def test_read_only(self):
        self.in_container("--read-only", shell="touch /x", code=1, err=re.compile("Read-only file system"))
        self.in_container("--read-only", shell="touch /dev/shm/x && echo ok", out="ok")

    @host_case
    def test_tmpfs(self):
        self.in_container("--read-only", "--tmpfs", "/t:size=1m,mode=1777", shell="touch /t/x; df -k /t | tail -1 | awk '{print $2}'; stat -c %a /t",
                          out="1024\n1777")

    def test_new_tmpfs_is_everybodys(self):
        self.in_container("--tmpfs", "/new", "--mount", "type=tmpfs,dst=/other", "-u", "1000", shell="touch /new/x; stat -c %a /new /other", out="1777\n1777")

    def test_tmpfs_is_noexec(self):
        self.in_container("--tmpfs", "/t", shell="grep ' /t ' /proc/mounts", out=re.compile("tmpfs /t tmpfs .*nosuid.*nodev.*noexec"))

    def test_mount_tmpfs(self):
        self.in_container("--mount", "type=tmpfs,target=/t,tmpfs-size=2097152", shell="df -k /t | tail -1 | awk '{print $2}'", out="2048")

    @host_case
    def test_shm_size(self):
        self.in_container("--shm-size", "8m", shell="df -k /dev/shm | tail -1 | awk '{print $2}'", out="8192")
        self.in_container(shell="df -k /dev/shm | tail -1 | awk '{print $2}'", out="65536")

    @host_case
    def test_devices(self):
        self.in_container(shell="for d in null zero full random urandom tty ptmx; do test -c /dev/$d || echo no $d; done; "
                                "head -c 3 /dev/zero | wc -c; echo x > /dev/null; for l in stdin fd; do readlink /dev/$l; done",
                          out="3\n/proc/self/fd/0\n/proc/self/fd")

    @host_case
    def test_device_flag(self):
        if not os.path.exists("/dev/fuse"):
            self.skipTest("/dev/fuse is missing")
        self.in_container("--device", "/dev/fuse", shell="test -c /dev/fuse && stat -c %t:%T /dev/fuse", out="a:e5")

    def test_device_renamed(self):
        self.in_container("--device", "/dev/zero:/dev/nought", shell="head -c 2 /dev/nought | wc -c", out="2")

    def test_device_directory(self):
        if not os.path.exists("/dev/net/tun"):
            self.skipTest("/dev/net/tun is missing")
        self.in_container("--device", "/dev/net:/dev/others", shell="test -c /dev/others/tun && ls /dev/others", out="tun")

    def test_device_missing(self):
        self.docker("run", "--rm", "--device", "/dev/nosuch", "busybox", "true", code=(125, 127),
                    err=re.compile("error gathering device information while adding custom device .*/dev/nosuch.*no such file"))

    @host_case
    def test_masked_and_read_only_paths(self):
        self.in_container(shell="echo 1 > /proc/sys/kernel/randomize_va_space", code=(1, 2), err=re.compile("Read-only|can't create"))
        self.in_container(shell="head -c 1 /proc/kcore | wc -c; head -c 1 /proc/timer_list | wc -c", out="0\n0")

    @host_case
    def test_mounts(self):
        result = self.in_container(shell="cat /proc/mounts")
        root = {"overlay2": "overlay", "fuse": "fuse"}.get(DRIVER, ".*")
        for wanted in [rf"^.* / {root} ", r"^proc /proc proc rw,nosuid,nodev,noexec", r"^sysfs /sys sysfs ro,nosuid,nodev,noexec",
                       r"^mqueue /dev/mqueue mqueue rw,nosuid,nodev,noexec", r"^devpts /dev/pts devpts .*ptmxmode=666",
                       r"^(shm|tmpfs) /dev/shm tmpfs", r" /etc/resolv.conf ", r" /etc/hosts ", r" /etc/hostname "]:
            if not re.search(wanted, result.out, re.M):
                self.fail(f"$ docker run … cat /proc/mounts\nexpected: a line {wanted}\ngot: {result}")

    def test_no_mount_of_the_host(self):
        result = self.in_container(shell="cut -d' ' -f2 /proc/mounts")
        self.equal([line for line in result.out.splitlines() if line.startswith(("/home", "/tmp", "/run/user", "/mnt"))], [], "mounts")

    def test_setuid_works(self):
        self.docker("run", "--rm", "debian:bookworm", "sh", "-c",
                    "cp /usr/bin/id /id && chmod 4755 /id && setpriv --reuid 1234 --clear-groups /id", out=re.compile(r"euid=0\(root\)"))

    def test_hosts_files(self):
        self.in_container("--hostname", "box", "--add-host", "other:10.1.2.3", shell="cat /etc/hostname; hostname; grep other /etc/hosts; grep -c localhost /etc/hosts",
                          out=re.compile(r"^box\nbox\n10\.1\.2\.3\s+other\n[1-9]"))

    def test_domainname(self):
        self.in_container("--hostname", "box", "--domainname", "example.org", shell="cat /proc/sys/kernel/domainname", out="example.org")

    def test_dns(self):
        self.in_container("--dns", "192.0.2.53", "--dns-search", "example.org", shell="cat /etc/resolv.conf",
                          out=re.compile(r"(?s)(?=.*nameserver 192\.0\.2\.53)(?=.*search example\.org)"))

    def test_etc_hosts_is_writable(self):
        self.in_container(shell="echo 10.0.0.1 x >> /etc/hosts && tail -1 /etc/hosts", out="10.0.0.1 x")


class Namespaces(Case):
    def namespace(self, kind, *args):
        return self.in_container(*args, shell=f"readlink /proc/self/ns/{kind}").out.strip()

    @host_case
    def test_all_are_new(self):
        for kind in ["user", "pid", "mnt", "ipc", "uts", "net", "cgroup"]:
            with self.subTest(kind):
                here = os.readlink("/proc/self/ns/" + kind)
                if self.namespace(kind) == here:
                    self.fail(f"$ readlink /proc/self/ns/{kind}\nexpected: a namespace of its own\ngot: {here}")

    def test_user_namespace_is_the_containers_own(self):
        self.in_container(shell="wc -l < /proc/self/uid_map; awk '{s+=$3} END {print s}' /proc/self/uid_map", out=re.compile(r"^\d+\n\d+"))

    @host_case
    def test_network_none(self):
        self.in_container("--network", "none", shell="ls /sys/class/net; ip link show lo | grep -c UP", out="lo\n1")

    @host_case
    def test_network_host(self):
        self.equal(self.namespace("net", "--network", "host"), os.readlink("/proc/self/ns/net"), "network namespace")

    def test_network_default_has_loopback(self):
        self.in_container(shell="ip addr show lo | grep -c 127.0.0.1", out="1")

    def test_network_of_another(self):
        name = self.run_detached("--network", "none", command=("sh", "-c", "while :; do echo hello | nc -l -p 8080; done"))
        self.in_container("--network", "container:" + name, shell="for i in 1 2 3 4 5; do nc 127.0.0.1 8080 </dev/null && break; sleep 0.2; done", out="hello")

    @host_case
    def test_pid_host(self):
        self.equal(self.namespace("pid", "--pid", "host"), os.readlink("/proc/self/ns/pid"), "pid namespace")
        self.in_container("--pid", "host", shell=f"test -d /proc/{os.getpid()} && echo seen", out="seen")

    @host_case
    def test_pid_of_another(self):
        name = self.run_detached(command=("sleep", "4711"))
        self.in_container("--pid", "container:" + name, shell="ps | grep -c '[s]leep 4711'", out="1")

    def test_ipc_host(self):
        self.equal(self.namespace("ipc", "--ipc", "host"), os.readlink("/proc/self/ns/ipc"), "ipc namespace")

    @host_case
    def test_ipc_shareable(self):
        name = self.run_detached("--ipc", "shareable", "--shm-size", "5m", command=("sh", "-c", "echo shared > /dev/shm/x; sleep 1000"))
        time.sleep(0.1)
        size = "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d ' ' -f 2"
        self.docker("exec", name, "sh", "-c", size, out="5120")
        self.in_container("--ipc", "container:" + name, shell="cat /dev/shm/x; " + size, out="shared\n5120")
        self.in_container("--ipc", "container:" + name, shell="head -c 6m /dev/zero > /dev/shm/y 2>/dev/null || echo full; echo > /dev/shm/y", out="full")
        self.in_container("--ipc", "container:" + name, "-u", "1000", out="sticky\nown\nnosuid,nodev,noexec",
                          shell="rm /dev/shm/y 2>/dev/null || echo sticky; echo own > /dev/shm/z && cat /dev/shm/z; grep shm /proc/mounts | grep -o nosuid,nodev,noexec")

    def test_ipc_private(self):
        name = self.run_detached("--ipc", "private")
        self.docker("run", "--rm", "--ipc", "container:" + name, "busybox", "true", code=125,
                    err=re.compile("non-shareable IPC"))

    @host_case
    def test_uts_host(self):
        self.in_container("--uts", "host", shell="hostname", out=os.uname().nodename)

    def test_container_unknown(self):
        self.docker("run", "--rm", "--network", "container:nosuch", "busybox", "true", code=125,
                    err=re.compile("No such container: nosuch"))

    def test_container_not_running(self):
        name = self.name()
        self.docker("create", "--name", name, "busybox")
        self.docker("run", "--rm", "--network", "container:" + name, "busybox", "true", code=125,
                    err=re.compile(r"cannot join network namespace of a non running container: container \S+ is created"))


@once
class Limits(Case):
    def test_memory_is_warned_about(self):
        name = self.name()
        self.docker("create", "--memory", "64m", "--name", name, "busybox")
        self.equal(self.field(name, "{{.HostConfig.Memory}}"), "67108864", "HostConfig.Memory")
