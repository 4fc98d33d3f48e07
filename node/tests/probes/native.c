/* What a hostile program tries, one line each: `name contained|OPEN detail`.
 *
 * A probe says OPEN when it could do what a job must not be able to do, whatever it was that let it; `contained` when it could not,
 * with the reason it was told. It harms nothing where it succeeds: what it opens it closes, what it makes it removes, and what could
 * hurt the machine (a reboot, a module) is asked for in a way that the kernel refuses for other reasons once it is allowed.
 *
 * Each probe runs in a child of its own, so that one that is killed is told of (contained, by signal) and spoils no other.
 * Static, so that it runs in any root. Arguments: a file of the machine that a job must not see, and the address of a TCP listener.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <netinet/in.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *secret = "/nowhere";
static int port;
static char words[400];

/* 1: open, 0: contained. */
static int say(int open, const char *form, ...) {
    va_list list;
    va_start(list, form);
    vsnprintf(words, sizeof words, form, list);
    va_end(list);
    return open;
}
static int err(long result, const char *what) {
    if (result >= 0) return say(1, "%s succeeded", what);
    return say(0, "%s: %s", what, strerror(errno));
}
/* Not to be had for another reason than a wall is no wall. */
static int reached(long result, const char *what, int past) {
    if (result < 0 && errno == past) return say(1, "%s was let through", what);
    return err(result, what);
}
static int can_open(const char *path, int flags) {
    int fd = open(path, flags);
    if (fd >= 0) close(fd);
    return err(fd, path);
}
static int can_list(const char *path) {
    DIR *d = opendir(path);
    if (!d) return say(0, "%s: %s", path, strerror(errno));
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return say(n > 0, "%s has %d entries", path, n);
}

/* Files */
static int p_secret_file(void) { return can_open(secret, O_RDONLY); }
static int p_shadow(void) { return can_open("/etc/shadow", O_RDONLY); }
static int p_home_root(void) { return can_list("/root"); }
static int p_home(void) { return can_list("/home"); }
static int p_var(void) { return can_list("/var"); }
static int p_run(void) { return can_list("/run"); }
static int p_sys(void) { return can_list("/sys"); }
static int p_machine_id(void) { return can_open("/etc/machine-id", O_RDONLY); }
static int p_hostname_file(void) { return can_open("/etc/hostname", O_RDONLY); }
static int p_var_run(void) { return can_open("/var/run", O_RDONLY | O_DIRECTORY); }
static int p_dotdot(void) {
    char up[200] = "";
    for (int i = 0; i < 30; i++) strcat(up, "../");
    strcat(up, "root");
    return can_list(up);
}
static int write_into(const char *dir) {
    char path[200];
    snprintf(path, sizeof path, "%s/.probe-%d", dir, getpid());
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL, 0600);
    if (fd >= 0) { close(fd); unlink(path); }
    return err(fd, path);
}
static int p_write_root(void) { return write_into("/"); }
static int p_write_usr(void) { return write_into("/usr"); }
static int p_write_usr_bin(void) { return write_into("/usr/bin"); }
static int p_write_etc(void) { return write_into("/etc"); }
static int p_write_own_program(void) { return can_open("/proc/self/exe", O_RDWR); }
static int p_chmod_own_program(void) {
    char path[400];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0) return say(0, "readlink: %s", strerror(errno));
    path[n] = 0;
    struct stat s;
    if (stat(path, &s)) return say(0, "stat: %s", strerror(errno));
    return err(chmod(path, s.st_mode & 07777), "chmod of the program");
}
static int p_setuid_file(void) {
    int fd = open("/tmp/probe-suid", O_WRONLY | O_CREAT, 0700);
    if (fd < 0) return say(0, "no file to try it with: %s", strerror(errno));
    close(fd);
    int made = chmod("/tmp/probe-suid", 04755);
    struct statvfs v;
    int obeyed = !statvfs("/tmp", &v) && !(v.f_flag & ST_NOSUID);
    unlink("/tmp/probe-suid");
    return say(!made && obeyed, obeyed ? "set-user-ID is obeyed" : "set-user-ID is not obeyed");
}
static int p_exec_tmp(void) {
    int from = open("/proc/self/exe", O_RDONLY), to = open("/tmp/probe-exec", O_WRONLY | O_CREAT | O_TRUNC, 0755);
    if (from < 0 || to < 0) return say(0, "no file to try it with: %s", strerror(errno));
    static char piece[1 << 16];
    for (ssize_t n; (n = read(from, piece, sizeof piece)) > 0;)
        if (write(to, piece, n) != n) break;
    close(to);
    pid_t child = fork();
    if (!child) { execl("/tmp/probe-exec", "x", "--nothing", (char *)0); _exit(errno); }
    int status = 0;
    waitpid(child, &status, 0);
    unlink("/tmp/probe-exec");
    if (WIFEXITED(status) && !WEXITSTATUS(status)) return say(1, "what was written was run");
    return say(0, "exec: %s", strerror(WEXITSTATUS(status)));
}
static int p_device_node(void) {
    int made = mknod("/tmp/probe-dev", S_IFBLK | 0600, makedev(7, 0));
    unlink("/tmp/probe-dev");
    return err(made, "mknod of a block device");
}
static int p_dev_mem(void) { return can_open("/dev/mem", O_RDONLY); }
static int p_dev_kmsg(void) { return can_open("/dev/kmsg", O_RDONLY); }
static int p_dev_disks(void) {
    DIR *d = opendir("/dev");
    if (!d) return say(0, "/dev: %s", strerror(errno));
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) {
        char path[300];
        struct stat s;
        snprintf(path, sizeof path, "/dev/%s", e->d_name);
        n += !stat(path, &s) && S_ISBLK(s.st_mode);
    }
    closedir(d);
    return say(n > 0, "%d block devices", n);
}
static int p_chroot_out(void) {
    mkdir("/tmp/probe-root", 0700);
    int made = chroot("/tmp/probe-root");
    return err(made, "chroot");
}
static int p_handle(void) {
    struct { struct file_handle h; char f[128]; } h = {.h = {.handle_bytes = 128}};
    int id;
    long made = syscall(SYS_name_to_handle_at, AT_FDCWD, "/", &h.h, &id, 0);
    if (made >= 0) {
        int at = open("/", O_RDONLY);
        long fd = syscall(SYS_open_by_handle_at, at, &h.h, O_RDONLY);
        return reached(fd, "open_by_handle_at", ESTALE);
    }
    return reached(made, "name_to_handle_at", EOPNOTSUPP);
}
/* Processes */
static int p_other_processes(void) {
    DIR *d = opendir("/proc");
    if (!d) return say(0, "/proc: %s", strerror(errno));
    int n = 0;
    for (struct dirent *e; (e = readdir(d));) n += atoi(e->d_name) > 0;
    closedir(d);
    /* Process 1, this program, its child. */
    return say(n > 3, "%d processes are seen", n);
}
static int p_kill_init(void) {
    if (kill(1, SIGSTOP)) return say(0, "kill: %s", strerror(errno));
    usleep(100000);
    char stat[400] = "";
    int fd = open("/proc/1/stat", O_RDONLY);
    if (fd < 0) return say(0, "a signal was taken and nothing is known of it");
    ssize_t n = read(fd, stat, sizeof stat - 1);
    char *state = n > 0 ? strrchr(stat, ')') : 0;
    int stopped = state && state[2] == 'T';
    if (stopped) kill(1, SIGCONT);
    return say(stopped, stopped ? "process 1 stopped" : "process 1 ignores it");
}
static int p_init_memory(void) { return can_open("/proc/1/mem", O_RDWR); }
static int p_init_root(void) { return can_list("/proc/1/root/"); }
static int p_init_fds(void) { return can_list("/proc/1/fd"); }
static int p_init_environment(void) {
    char text[8];
    int fd = open("/proc/1/environ", O_RDONLY);
    if (fd < 0) return say(0, "/proc/1/environ: %s", strerror(errno));
    return say(read(fd, text, 8) >= 0, "/proc/1/environ was read");
}
static int p_ptrace_init(void) {
    long made = ptrace(PTRACE_SEIZE, 1, 0, 0);
    if (!made) ptrace(PTRACE_DETACH, 1, 0, 0);
    return err(made, "ptrace of process 1");
}
static int p_ptrace_child(void) {
    pid_t child = fork();
    if (!child) { pause(); _exit(0); }
    long made = ptrace(PTRACE_SEIZE, child, 0, 0);
    int why = errno;
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    errno = why;
    return err(made, "ptrace of a child");
}
static int p_vm_read(void) {
    char a = 1, b;
    struct { void *at; size_t n; } l = {&b, 1}, r = {&a, 1};
    return err(syscall(SYS_process_vm_readv, getpid(), &l, 1, &r, 1, 0), "process_vm_readv");
}
static int p_pidfd_getfd(void) {
    int fd = syscall(SYS_pidfd_open, getpid(), 0);
    if (fd < 0) return say(0, "pidfd_open: %s", strerror(errno));
    return err(syscall(SYS_pidfd_getfd, fd, 0, 0), "pidfd_getfd");
}
static int p_kcmp(void) { return err(syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0), "kcmp"); }
static int p_nice(void) { errno = 0; return err(setpriority(PRIO_PROCESS, 0, -5), "a higher priority"); }
static int p_fork_bomb(void) {
    pid_t children[2000];
    int n = 0;
    for (; n < 2000; n++) {
        children[n] = fork();
        if (children[n] < 0) break;
        if (!children[n]) { pause(); _exit(0); }
    }
    for (int i = 0; i < n; i++) kill(children[i], SIGKILL);
    for (int i = 0; i < n; i++) waitpid(children[i], 0, 0);
    return say(n >= 1000, "%d children at once", n);
}
static int p_files(void) {
    int n = 0;
    while (n < 5000 && dup(0) >= 0) n++;
    return say(n >= 5000, "%d open files at once", n);
}
static int p_core_dump(void) {
    struct rlimit l = {RLIM_INFINITY, RLIM_INFINITY};
    return err(setrlimit(RLIMIT_CORE, &l), "a core dump without a limit");
}
static int p_large_file(void) {
    struct rlimit l = {RLIM_INFINITY, RLIM_INFINITY};
    return err(setrlimit(RLIMIT_FSIZE, &l), "files without a limit");
}
/* Rights */
static int p_user(void) { return say(getuid() == 0, "user %d", getuid()); }
static int p_setuid(void) { return err(setuid(0), "setuid(0)"); }
static int p_setgroups(void) { gid_t g = 0; return err(syscall(SYS_setgroups, 1, &g), "setgroups"); }
static int p_capabilities(void) {
    struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct d[2] = {{0}};
    if (syscall(SYS_capget, &h, d)) return say(0, "capget: %s", strerror(errno));
    unsigned all = d[0].effective | d[0].permitted | d[0].inheritable | d[1].effective | d[1].permitted;
    return say(all != 0, "effective %08x%08x", d[1].effective, d[0].effective);
}
static int p_bounding_set(void) {
    int n = 0;
    for (int c = 0; c < 64; c++) n += prctl(PR_CAPBSET_READ, c, 0, 0, 0) == 1;
    return say(n > 0, "%d capabilities can come back", n);
}
static int p_new_privileges(void) {
    int no = prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0);
    return say(no != 1, no == 1 ? "no_new_privs" : "set-user-ID programs give rights");
}
static int p_filter(void) {
    FILE *f = fopen("/proc/self/status", "r");
    char line[200];
    int mode = -1;
    while (f && fgets(line, sizeof line, f)) sscanf(line, "Seccomp: %d", &mode);
    return say(mode != 2, "seccomp mode %d", mode);
}
/* Name spaces and mounts */
static int p_unshare_user(void) { return err(unshare(CLONE_NEWUSER), "unshare of users"); }
static int p_unshare_mount(void) { return err(unshare(CLONE_NEWNS), "unshare of mounts"); }
static int p_unshare_net(void) { return err(unshare(CLONE_NEWNET), "unshare of the network"); }
static int p_clone_user(void) {
    long pid = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (!pid) _exit(0);
    return err(pid, "clone with a name space of users");
}
static int p_clone3(void) {
    unsigned long long args[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long pid = syscall(435, args, sizeof args);
    if (!pid) _exit(0);
    return err(pid, "clone3 with a name space of users");
}
static int p_setns(void) {
    int fd = open("/proc/self/ns/uts", O_RDONLY);
    if (fd < 0) return say(0, "/proc/self/ns/uts: %s", strerror(errno));
    return err(setns(fd, 0), "setns");
}
static int p_mount(void) {
    mkdir("/tmp/probe-mount", 0700);
    int made = mount("probe", "/tmp/probe-mount", "tmpfs", 0, 0);
    if (!made) umount2("/tmp/probe-mount", MNT_DETACH);
    rmdir("/tmp/probe-mount");
    return err(made, "mount");
}
static int p_remount(void) {
    return reached(mount(0, "/proc/self", 0, MS_REMOUNT | MS_BIND, 0), "remount", EINVAL);
}
static int p_umount_proc(void) { return reached(umount2("/proc/self", 0), "umount", EINVAL); }
static int p_fsopen(void) { return err(syscall(SYS_fsopen, "tmpfs", 0), "fsopen"); }
static int p_open_tree(void) { return err(syscall(SYS_open_tree, AT_FDCWD, "/", 1), "open_tree"); }
static int p_pivot(void) { return reached(syscall(SYS_pivot_root, "/", "/"), "pivot_root", EBUSY); }
/* The kernel's doors */
static int p_bpf(void) {
    struct { unsigned type, key, value, max; char rest[100]; } map = {2, 4, 4, 1, {0}};
    return err(syscall(SYS_bpf, 0, &map, sizeof map), "bpf");
}
static int p_perf(void) {
    struct { unsigned type, size; unsigned long long config, rest[12]; } a = {1, 112, 0, {0}};
    return err(syscall(SYS_perf_event_open, &a, 0, -1, -1, 0), "perf_event_open");
}
static int p_userfaultfd(void) { return err(syscall(SYS_userfaultfd, 1), "userfaultfd"); }
static int p_io_uring(void) {
    char params[200] = {0};
    return err(syscall(SYS_io_uring_setup, 4, params), "io_uring_setup");
}
static int p_io_setup(void) { unsigned long of = 0; return err(syscall(SYS_io_setup, 1, &of), "io_setup"); }
static int p_keys(void) { return err(syscall(SYS_add_key, "user", "probe", "x", 1, -2), "add_key"); }
static int p_keyctl(void) { return err(syscall(SYS_keyctl, 0, -3, 1), "keyctl"); }
static int p_module(void) { return reached(syscall(SYS_finit_module, -1, "", 0), "finit_module", EBADF); }
static int p_kexec(void) { return reached(syscall(SYS_kexec_load, 0, 1000, 0, 0), "kexec_load", EINVAL); }
static int p_reboot(void) { return reached(syscall(SYS_reboot, 1, 2, 3, 0), "reboot", EINVAL); }
static int p_swapon(void) { return reached(syscall(SYS_swapon, "/tmp/no-such", 0), "swapon", ENOENT); }
static int p_syslog(void) { char b[64]; return err(syscall(SYS_syslog, 3, b, 64), "the kernel's log"); }
static int p_clock(void) {
    struct timespec never = {0, -1};
    return reached(syscall(SYS_clock_settime, CLOCK_REALTIME, &never), "clock_settime", EINVAL);
}
static int p_hostname(void) { struct utsname u; uname(&u); return err(sethostname(u.nodename, strlen(u.nodename)), "sethostname"); }
static int p_personality(void) { long old = syscall(SYS_personality, 0xffffffff); return err(old, "personality"); }
static int p_fanotify(void) { return err(syscall(SYS_fanotify_init, 0x200, 0), "fanotify_init"); }
static int p_core_pattern(void) { return can_open("/proc/sys/kernel/core_pattern", O_WRONLY); }
static int p_sysrq(void) { return can_open("/proc/sysrq-trigger", O_WRONLY); }
static int p_kcore(void) { return can_open("/proc/kcore", O_RDONLY); }
static int p_kernel_settings(void) { return can_list("/proc/sys/kernel"); }
static int p_foreign_interface(void) {
#ifdef __x86_64__
    errno = 0;
    long pid = syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER);
    return err(pid, "unshare by its x32 number");
#else
    return say(0, "this processor has no second interface");
#endif
}
static int p_tty_input(void) { char c = '\n'; return reached(ioctl(0, TIOCSTI, &c), "TIOCSTI", ENOTTY); }
/* Network */
static int p_inet(void) { return err(socket(AF_INET, SOCK_STREAM, 0), "a TCP socket"); }
static int p_inet6(void) { return err(socket(AF_INET6, SOCK_DGRAM, 0), "a UDP socket"); }
static int p_netlink(void) { return err(socket(AF_NETLINK, SOCK_RAW, 0), "a netlink socket"); }
static int p_packet(void) { return err(socket(AF_PACKET, SOCK_RAW, 0), "a packet socket"); }
static int p_vsock(void) { return err(socket(AF_VSOCK, SOCK_STREAM, 0), "a vsock socket"); }
static int p_alg(void) { return err(socket(AF_ALG, SOCK_SEQPACKET, 0), "an AF_ALG socket"); }
static int p_connect(void) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    int s = socket(AF_INET, SOCK_STREAM, 0);
    if (s < 0) return say(0, "socket: %s", strerror(errno));
    return err(connect(s, (void *)&to, sizeof to), "a connection to the machine");
}
static int p_abstract_socket(void) {
    struct sockaddr_un to = {.sun_family = AF_UNIX, .sun_path = "\0remote-network-probe"};
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    if (s < 0) return say(0, "socket: %s", strerror(errno));
    return err(connect(s, (void *)&to, sizeof(sa_family_t) + 21), "an abstract socket of the machine");
}
static int p_inherited_files(void) {
    int n = 0;
    for (int fd = 3; fd < 1024; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return say(n > 0, "%d descriptors beside the three", n);
}
static int p_environment(void) {
    extern char **environ;
    int n = 0;
    while (environ && environ[n]) n++;
    return say(n > 0, "%d variables of somebody else", n);
}

#define P(name) {#name, p_##name}
static const struct { const char *name; int (*probe)(void); } PROBES[] = {
    P(secret_file), P(shadow), P(home_root), P(home), P(var), P(run), P(sys), P(machine_id), P(hostname_file),
    P(var_run), P(dotdot), P(write_root), P(write_usr), P(write_usr_bin), P(write_etc), P(write_own_program),
    P(chmod_own_program), P(setuid_file), P(exec_tmp), P(device_node), P(dev_mem), P(dev_kmsg), P(dev_disks),
    P(chroot_out), P(handle), P(other_processes), P(kill_init), P(init_memory), P(init_root), P(init_fds),
    P(init_environment), P(ptrace_init), P(ptrace_child), P(vm_read), P(pidfd_getfd), P(kcmp), P(nice), P(fork_bomb),
    P(files), P(core_dump), P(large_file), P(user), P(setuid), P(setgroups), P(capabilities), P(bounding_set),
    P(new_privileges), P(filter), P(unshare_user), P(unshare_mount), P(unshare_net), P(clone_user), P(clone3), P(setns),
    P(mount), P(remount), P(umount_proc), P(fsopen), P(open_tree), P(pivot), P(bpf), P(perf), P(userfaultfd),
    P(io_uring), P(io_setup), P(keys), P(keyctl), P(module), P(kexec), P(reboot), P(swapon), P(syslog), P(clock), P(hostname),
    P(personality), P(fanotify), P(core_pattern), P(sysrq), P(kcore), P(kernel_settings), P(foreign_interface),
    P(tty_input), P(inet), P(inet6), P(netlink), P(packet), P(vsock), P(alg), P(connect), P(abstract_socket),
    P(inherited_files), P(environment),
};

int main(int n, char **args) {
    if (n > 1 && !strcmp(args[1], "--nothing")) return 0;
    if (n > 1) secret = args[1];
    if (n > 2) port = atoi(args[2]);
    setvbuf(stdout, 0, _IONBF, 0);
    for (unsigned i = 0; i < sizeof PROBES / sizeof *PROBES; i++) {
        int back[2], status = 0;
        if (pipe(back)) return 1;
        pid_t child = fork();
        if (child < 0) return 1;
        if (!child) {
            /* The pipe takes the place of a descriptor that everybody has. */
            dup2(back[1], 2);
            close(back[0]);
            close(back[1]);
            alarm(20);
            int open = PROBES[i].probe();
            dprintf(2, "%s %s", open ? "OPEN" : "contained", words);
            _exit(0);
        }
        close(back[1]);
        char said[500] = "";
        size_t len = 0;
        for (ssize_t got; len < sizeof said - 1 && (got = read(back[0], said + len, sizeof said - 1 - len)) > 0;) len += got;
        close(back[0]);
        waitpid(child, &status, 0);
        if (len) printf("%s %s\n", PROBES[i].name, said);
        else printf("%s contained killed by signal %d\n", PROBES[i].name, WTERMSIG(status));
    }
    return 0;
}
