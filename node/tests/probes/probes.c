// What a hostile guest tries first, one attempt a line: `name contained|OPEN detail`.
//
// Whatever holds guests (containers, a sandbox of our own) runs the same list: a way out that is found once is tried everywhere
// from then on. A probe says OPEN when the attempt got further than a guest may, even if there is still a wall behind
// it; a probe that the guest dies of is contained. So that the list may also be run where nothing holds it, to
// prove that it can tell the difference, no attempt changes anything: files are opened for writing and not written, calls are made with
// arguments that fail right after the question whether the caller may.
//
// Each probe runs in a child with a time limit of its own. Arguments: directories that the guest may write to. Nothing but libc.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
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
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

// Numbers that are the same on every 64-bit machine since Linux 5.1, for headers that are older.
enum { NR_open_tree = 428, NR_move_mount = 429, NR_fsopen = 430, NR_io_uring_setup = 425, NR_clone3 = 435, NR_pidfd_getfd = 438 };

static char detail[400];
static char **arguments;

static int answer(int open, const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(detail, sizeof detail, format, list);
    va_end(list);
    return open;
}

// A call that must be refused for want of a right. Any other end means that the right was there.
static int denied(long result) {
    int e = errno;
    if (result < 0 && (e == EPERM || e == EACCES || e == ENOSYS || e == EROFS)) return answer(0, "%s", strerror(e));
    return answer(1, result < 0 ? "reached: %s" : "it worked", strerror(e));
}

// A file that must not be opened so.
static int closed_to(const char *path, int flags) {
    int fd = open(path, flags | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return answer(0, "%s: %s", path, strerror(errno));
    close(fd);
    return answer(1, "%s can be opened", path);
}

static int all_closed(const char *const *paths, int flags) {
    for (; *paths; paths++)
        if (closed_to(*paths, flags)) return 1;
    return 0;
}

// Files that must be empty, masked or missing.
static int nothing_in(const char *const *paths) {
    char byte;
    for (; *paths; paths++) {
        int fd = open(*paths, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
        if (fd >= 0 && read(fd, &byte, 1) > 0) return answer(1, "%s says something", *paths);
        if (fd >= 0) close(fd);
    }
    return answer(0, "nothing to read");
}

static int status_line(const char *name, char *value, size_t room) {
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    size_t len = strlen(name);
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, name, len) && line[len] == ':') {
            line[strcspn(line, "\n")] = 0;
            snprintf(value, room, "%s", line + len + 1 + strspn(line + len + 1, " \t"));
            fclose(file);
            return 1;
        }
    if (file) fclose(file);
    return 0;
}

static int no_capability_in(const char *set) {
    char value[64];
    if (!status_line(set, value, sizeof value)) return answer(1, "no word of %s", set);
    return answer(strtoull(value, NULL, 16) != 0, "%s %s", set, value);
}

static int capabilities_effective(void) { return no_capability_in("CapEff"); }
static int capabilities_permitted(void) { return no_capability_in("CapPrm"); }
static int capabilities_bounding(void) { return no_capability_in("CapBnd"); }
static int capabilities_inheritable(void) { return no_capability_in("CapInh"); }
static int capabilities_ambient(void) { return no_capability_in("CapAmb"); }

static int no_new_privileges(void) {
    char value[64] = "";
    status_line("NoNewPrivs", value, sizeof value);
    return answer(strcmp(value, "1") != 0, "NoNewPrivs %s", value);
}

static int seccomp_filter(void) {
    char value[64] = "";
    status_line("Seccomp", value, sizeof value);
    return answer(strcmp(value, "2") != 0, "Seccomp %s", value);
}

static int user_is_nobody(void) {
    gid_t groups[64];
    int n = getgroups(64, groups);
    for (int i = 0; i < n; i++)
        if (groups[i] == 0) return answer(1, "in group 0");
    return answer(!getuid() || !geteuid() || !getgid() || !getegid(), "uid %d gid %d", geteuid(), getegid());
}

static int become_root(void) { return denied(setresuid(0, 0, 0)); }
static int become_group_root(void) { return denied(setresgid(0, 0, 0)); }
static int set_groups(void) { gid_t zero = 0; return denied(syscall(SYS_setgroups, 1, &zero)); }

static int setuid_program(void) {
    struct stat st;
    if (stat("/probes-setuid", &st) || !(st.st_mode & S_ISUID)) return answer(0, "no such program here");
    pid_t child = fork();
    if (!child) {
        execl("/probes-setuid", "probes-setuid", "--who", (char *)NULL);
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return answer(WIFEXITED(status) && WEXITSTATUS(status) == 42, "euid 0: %s", WEXITSTATUS(status) == 42 ? "yes" : "no");
}

static int root_read_only(void) {
    struct statvfs at;
    if (statvfs("/", &at)) return answer(0, "%s", strerror(errno));
    return answer(!(at.f_flag & ST_RDONLY), "statvfs flags %lx", at.f_flag);
}

static int write_beside_mounts(void) {
    const char *const places[] = {"/x", "/etc/x", "/bin/x", "/usr/x", "/root/x", "/var/x", "/lib/x", "/home/x", "/dev/x", NULL};
    for (const char *const *p = places; *p; p++) {
        int fd = open(*p, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        if (fd < 0) continue;
        close(fd);
        unlink(*p);
        return answer(1, "%s was made", *p);
    }
    return answer(0, "nowhere");
}

static int tmp_flags(void) {
    struct statvfs at, root;
    if (statvfs("/tmp", &at)) return answer(0, "no /tmp");
    if (!statvfs("/", &root) && root.f_fsid == at.f_fsid && (at.f_flag & ST_RDONLY)) return answer(0, "part of a root that is read only");
    unsigned long want = ST_NOSUID | ST_NODEV | ST_NOEXEC;
    return answer((at.f_flag & want) != want, "statvfs flags %lx", at.f_flag);
}

static int tmp_bounded(void) {
    struct statvfs at;
    if (statvfs("/tmp", &at)) return answer(0, "no /tmp");
    unsigned long long bytes = (unsigned long long)at.f_blocks * at.f_frsize;
    if (at.f_flag & ST_RDONLY) return answer(0, "read only");
    return answer(bytes > (1ULL << 30), "%llu bytes", bytes);
}

static int copy_to(const char *path) {
    static char block[1 << 16];
    int in = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), out = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
    ssize_t n = 0;
    while (in >= 0 && out >= 0 && (n = read(in, block, sizeof block)) > 0)
        if (write(out, block, n) != n) n = -1;
    if (in >= 0) close(in);
    if (out >= 0) close(out);
    return in >= 0 && out >= 0 && n == 0;
}

static int execute_from_tmp(void) {
    const char *path = "/tmp/probes-copy";
    if (!copy_to(path)) return answer(0, "nothing can be put there");
    pid_t child = fork();
    if (!child) {
        execl(path, path, "--who", (char *)NULL);
        _exit(7);
    }
    int status = 0;
    waitpid(child, &status, 0);
    unlink(path);
    return answer(!(WIFEXITED(status) && WEXITSTATUS(status) == 7), "exit %d", status);
}

static int mount_tmpfs(void) { return denied(mount("none", "/tmp", "tmpfs", 0, "")); }
static int mount_proc(void) { return denied(mount("none", "/tmp", "proc", 0, "")); }
static int mount_bind(void) { return denied(mount("/", "/tmp", NULL, MS_BIND, NULL)); }
static int mount_cgroup(void) { return denied(mount("none", "/tmp", "cgroup", 0, "memory")); }
static int remount_root(void) { return denied(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL)); }
static int unmask_by_umount(void) { return denied(umount2("/proc/kcore", MNT_DETACH)); }
static int new_mount_calls(void) { return denied(syscall(NR_fsopen, "tmpfs", 0)); }
static int open_tree_clone(void) { return denied(syscall(NR_open_tree, AT_FDCWD, "/", 1)); }
static int move_mount_call(void) { return denied(syscall(NR_move_mount, -1, "", -1, "", 0)); }
static int pivot_root_call(void) { return denied(syscall(SYS_pivot_root, "/no-such", "/no-such")); }
static int chroot_call(void) { return denied(chroot("/")); }

static int unshare_user(void) { return denied(unshare(CLONE_NEWUSER)); }
static int unshare_mount(void) { return denied(unshare(CLONE_NEWNS)); }
static int unshare_network(void) { return denied(unshare(CLONE_NEWNET)); }
static int unshare_pid(void) { return denied(unshare(CLONE_NEWPID)); }
static int unshare_cgroup(void) { return denied(unshare(CLONE_NEWCGROUP)); }

static int clone_user(void) {
    long child = syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, 0, 0, 0, 0);
    if (!child) _exit(0);
    return denied(child);
}

static int clone3_user(void) {
    unsigned long long args[11] = {CLONE_NEWUSER, 0, 0, 0, SIGCHLD};
    long child = syscall(NR_clone3, args, 64);
    if (!child) _exit(0);
    return denied(child);
}

static int set_namespace(void) {
    int fd = open("/proc/1/ns/mnt", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return answer(0, "%s", strerror(errno));
    return denied(setns(fd, CLONE_NEWNS));
}

static int core_pattern(void) { return closed_to("/proc/sys/kernel/core_pattern", O_WRONLY); }
static int sysrq_trigger(void) { return closed_to("/proc/sysrq-trigger", O_WRONLY); }

static int kernel_settings(void) {
    const char *const paths[] = {"/proc/sys/kernel/hostname", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/randomize_va_space",
        "/proc/sys/vm/overcommit_memory", "/proc/sys/vm/drop_caches", "/proc/sys/fs/protected_symlinks", "/proc/sys/net/ipv4/ip_forward", NULL};
    return all_closed(paths, O_WRONLY);
}

static int kernel_objects(void) {
    const char *const paths[] = {"/sys/kernel/uevent_helper", "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/ksm/run",
        "/sys/power/state", "/sys/module/kernel/parameters/panic", "/sys/fs/fuse/connections", NULL};
    struct statvfs at;
    for (const char *const *p = paths; *p; p++) {
        struct stat st;
        if (!stat(*p, &st) && S_ISREG(st.st_mode) && closed_to(*p, O_WRONLY)) return 1;
    }
    if (statvfs("/sys", &at)) return answer(0, "no /sys");
    return answer(!(at.f_flag & ST_RDONLY) && !access("/sys/kernel", W_OK), "statvfs flags %lx", at.f_flag);
}

static int release_agent(void) {
    const char *const paths[] = {"/sys/fs/cgroup/release_agent", "/sys/fs/cgroup/memory/release_agent", "/sys/fs/cgroup/rdma/release_agent",
        "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/pids/pids.max", NULL};
    return all_closed(paths, O_WRONLY);
}

static int block_devices(void) {
    const char *const paths[] = {"/dev/sda", "/dev/vda", "/dev/nvme0n1", "/dev/dm-0", "/dev/loop0", "/dev/loop-control", "/dev/mapper/control", NULL};
    return all_closed(paths, O_RDONLY);
}

static int memory_devices(void) {
    const char *const paths[] = {"/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg", "/dev/kvm", "/dev/fuse", "/dev/net/tun", "/dev/cpu/0/msr",
        "/dev/vhost-net", "/dev/vsock", "/dev/uinput", "/dev/userfaultfd", NULL};
    return all_closed(paths, O_RDONLY);
}

static int make_device(const char *path, mode_t kind, dev_t device) {
    if (mknod(path, kind | 0600, device)) return answer(0, "%s", strerror(errno));
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int e = errno;
    unlink(path);
    if (fd < 0) return answer(0, "made, but %s", strerror(e));
    close(fd);
    return answer(1, "made and opened");
}

// Where nothing is held, /tmp may lie on a file system that has no devices: then the root has.
static int device_in(mode_t kind, dev_t device) {
    if (make_device("/tmp/probes-device", kind, device)) return 1;
    return make_device("/probes-device", kind, device);
}

static int mknod_block(void) {
    // The disk under the root, whatever it is, or the first loop device.
    return device_in(S_IFBLK, makedev(7, 0)) || device_in(S_IFBLK, makedev(254, 0));
}

static int mknod_memory(void) { return device_in(S_IFCHR, makedev(1, 1)) || device_in(S_IFCHR, makedev(1, 11)); }

static int is_device(const char *path, unsigned major_number, unsigned minor_number) {
    struct stat st;
    if (lstat(path, &st)) return 1;
    return S_ISCHR(st.st_mode) && major(st.st_rdev) == major_number && minor(st.st_rdev) == minor_number;
}

static int devices_are_devices(void) {
    if (!is_device("/dev/null", 1, 3) || !is_device("/dev/zero", 1, 5)) return answer(1, "/dev/null or /dev/zero is something else");
    struct stat st;
    if (!lstat("/dev/console", &st) && !S_ISCHR(st.st_mode)) return answer(1, "/dev/console is something else");
    return answer(0, "as they should be");
}

static int terminal(void) { return closed_to("/dev/tty", O_RDWR) || isatty(0) || isatty(1); }

static int host_processes(void) {
    char name[64] = "";
    FILE *file = fopen("/proc/2/comm", "r");
    if (file && fgets(name, sizeof name, file) && !strncmp(name, "kthreadd", 8)) return answer(1, "the kernel's threads are seen");
    DIR *dir = opendir("/proc");
    int n = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) n += entry->d_name[0] >= '1' && entry->d_name[0] <= '9';
    return answer(n > 20, "%d processes", n);
}

static int trace_first_process(void) {
    struct stat mine, its;
    if (stat("/proc/self/ns/pid", &mine) || stat("/proc/1/ns/pid", &its)) return answer(0, "pid 1 is not to be looked at");
    // In a namespace of our own the first process is ours; what matters is its root.
    if (stat("/", &mine) || stat("/proc/1/root/", &its)) return answer(0, "%s", strerror(errno));
    return answer(mine.st_dev != its.st_dev || mine.st_ino != its.st_ino, "its root is %s", mine.st_ino == its.st_ino ? "ours" : "another");
}

static int memory_of_first_process(void) {
    if (getppid() == 1 || getpid() == 1) return answer(0, "pid 1 is our own");
    char ours[32] = "", theirs[32] = "";
    FILE *a = fopen("/proc/self/comm", "r"), *b = fopen("/proc/1/comm", "r");
    if (a && b && fgets(ours, sizeof ours, a) && fgets(theirs, sizeof theirs, b) && (!strcmp(ours, theirs) || strstr(theirs, "init\n")) &&
        !strstr(theirs, "systemd"))
        if (strcmp(theirs, "init\n")) return answer(0, "pid 1 belongs to the sandbox");
    return closed_to("/proc/1/mem", O_RDWR);
}

static int read_other_memory(void) {
    char byte;
    struct { void *base; size_t len; } local = {&byte, 1}, remote = {&byte, 1};
    return denied(syscall(SYS_process_vm_readv, 1, &local, 1, &remote, 1, 0));
}

static int program_file(void) { return closed_to("/proc/self/exe", O_RDWR) || closed_to("/proc/1/exe", O_RDWR); }

static int left_open_files(void) {
    char path[64], to[300];
    for (int fd = 3; fd < 1024; fd++) {
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(path, to, sizeof to - 1);
        if (n < 0) continue;
        to[n] = 0;
        // Our own: the pipe to the parent.
        if (!strncmp(to, "pipe:", 5)) continue;
        return answer(1, "descriptor %d is %s", fd, to);
    }
    return answer(0, "none");
}

static int working_directory(void) {
    char here[4096];
    if (syscall(SYS_getcwd, here, sizeof here) < 0) return answer(0, "%s", strerror(errno));
    return answer(here[0] != '/', "%s", here);
}

static int escape_by_dotdot(void) {
    struct stat root, above;
    char path[256] = "";
    for (int i = 0; i < 40; i++) strcat(path, "../");
    if (stat("/", &root) || stat(path, &above)) return answer(0, "%s", strerror(errno));
    return answer(root.st_ino != above.st_ino || root.st_dev != above.st_dev, "the root is the top");
}

static int keyring(void) { return denied(syscall(SYS_keyctl, 0, -3, 0)); }
static int add_key_call(void) { return denied(syscall(SYS_add_key, "user", "probe", "x", 1, -3)); }
static int request_key_call(void) { return denied(syscall(SYS_request_key, "user", "probe", NULL, -3)); }

static int bpf_map(void) {
    union { struct { unsigned type, key, value, entries; } map; char room[128]; } attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.map.type = 2, attributes.map.key = 4, attributes.map.value = 4, attributes.map.entries = 1;
    return denied(syscall(SYS_bpf, 0, &attributes, sizeof attributes));
}

static int perf_events(void) {
    struct { unsigned type, size; unsigned long long rest[15]; } attributes;
    memset(&attributes, 0, sizeof attributes);
    attributes.type = 1, attributes.size = sizeof attributes;
    return denied(syscall(SYS_perf_event_open, &attributes, 0, -1, -1, 0));
}

static int user_faults(void) { return denied(syscall(SYS_userfaultfd, O_CLOEXEC | 1)); }

static int io_uring(void) {
    char parameters[120] = {0};
    return denied(syscall(NR_io_uring_setup, 1, parameters));
}

static int open_by_handle(void) {
    struct { unsigned bytes; int type; char handle[8]; } handle = {8, 1, {2}};
    return denied(syscall(SYS_open_by_handle_at, AT_FDCWD, &handle, O_RDONLY));
}

static int kernel_exec(void) { return denied(syscall(SYS_kexec_load, 0, 1000, NULL, 0)); }
static int load_module(void) { return denied(syscall(SYS_init_module, NULL, 0, "")); }
static int load_module_file(void) { return denied(syscall(SYS_finit_module, -1, "", 0)); }
static int unload_module(void) { return denied(syscall(SYS_delete_module, "no-such-module", O_NONBLOCK)); }
static int reboot_call(void) { return denied(syscall(SYS_reboot, 1, 2, 3, NULL)); }
static int swap_on(void) { return denied(syscall(SYS_swapon, "/no-such", 0)); }
static int accounting(void) { return denied(syscall(SYS_acct, "/no-such")); }
static int kernel_log(void) { char line[64]; return denied(syscall(SYS_syslog, 3, line, sizeof line)); }
static int watch_all_files(void) { return denied(syscall(SYS_fanotify_init, 4, O_RDONLY)); }
static int lookup_cookie(void) { char path[64]; return denied(syscall(SYS_lookup_dcookie, 1ULL, path, sizeof path)); }
static int quota(void) { return denied(syscall(SYS_quotactl, 0x800000 << 8, "/no-such", 0, NULL)); }
static int memory_policy(void) { return denied(syscall(SYS_move_pages, 1, 0, NULL, NULL, NULL, 2)); }
static int take_descriptor(void) { return denied(syscall(NR_pidfd_getfd, -1, 0, 0)); }
static int compare_processes(void) { return denied(syscall(SYS_kcmp, 1, 1, 0, 0, 0)); }

static int raw_ports(void) {
#ifdef SYS_iopl
    return denied(syscall(SYS_iopl, 3));
#else
    return answer(0, "not on this machine");
#endif
}

// The same question asked in the language of 32-bit programs: filters that know only one are passed by there.
static int compat_calls(void) {
#ifdef __x86_64__
    long result;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(288L), "b"(0L), "c"(-3L), "d"(0L) : "memory");
    if (result < 0) errno = -(int)result, result = -1;
    return denied(result);
#else
    return answer(0, "not on this machine");
#endif
}

static int host_name(void) {
    char name[128];
    gethostname(name, sizeof name);
    return denied(sethostname(name, strlen(name)));
}

static int set_time(void) { struct timezone zone = {0, 0}; return denied(syscall(SYS_settimeofday, NULL, &zone)); }
static int higher_priority(void) { return denied(syscall(SYS_setpriority, PRIO_PROCESS, 0, -5)); }
static int real_time_priority(void) { struct sched_param p = {10}; return denied(sched_setscheduler(0, SCHED_FIFO, &p)); }
static int unlimited_memory(void) { struct rlimit most = {RLIM_INFINITY, RLIM_INFINITY}; return denied(setrlimit(RLIMIT_NOFILE, &(struct rlimit){1 << 22, 1 << 22})) || (most.rlim_cur == 0); }

static int masked_files(void) {
    const char *const paths[] = {"/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/sched_debug", "/proc/latency_stats", "/proc/kmsg",
        "/sys/firmware/acpi/tables/FACP", "/sys/firmware/dmi/tables/DMI", "/proc/scsi/scsi", "/proc/acpi/wakeup", NULL};
    return nothing_in(paths);
}

static int network_devices(void) {
    FILE *file = fopen("/proc/net/dev", "r");
    char line[256];
    if (!file) return answer(0, "%s", strerror(errno));
    while (fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (!colon) continue;
        *colon = 0;
        char *name = line + strspn(line, " ");
        // Devices that every new network namespace is born with, down and without an address.
        const char *const born[] = {"lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0", NULL};
        int known = 0;
        for (const char *const *b = born; *b; b++) known |= !strcmp(name, *b);
        if (!known) return answer(1, "%s", name);
    }
    return answer(0, "only lo");
}

static int reach(unsigned address, int port) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return answer(0, "%s", strerror(errno));
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(address)};
    int result = connect(fd, (struct sockaddr *)&to, sizeof to);
    int e = errno;
    close(fd);
    return answer(!result || e == EINPROGRESS, "%s", result ? strerror(e) : "connected");
}

static int metadata_service(void) { return reach(0xa9fea9fe, 80); }
static int private_network(void) { return reach(0x0a000001, 80) || reach(0xac110001, 80) || reach(0xc0a80001, 80); }
static int internet(void) { return reach(0x01010101, 53); }

static int host_loopback(void) {
    FILE *file = fopen("/proc/net/tcp", "r");
    char line[256];
    int n = -1;
    while (file && fgets(line, sizeof line, file)) n++;
    return answer(n > 0, "%d sockets of others are seen", n < 0 ? 0 : n);
}

static int raw_socket(void) { return denied(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP)); }
static int packet_socket(void) { return denied(socket(AF_PACKET, SOCK_RAW, 0x0300)); }

static int family(int family, int kind) {
    int fd = socket(family, kind | SOCK_CLOEXEC, 0);
    if (fd >= 0) return answer(1, "a socket was made");
    // A kernel without the family answers for a filter that would have let it pass.
    return answer(errno != EPERM && errno != EACCES && errno != EAFNOSUPPORT && errno != ENOSYS, "%s", strerror(errno));
}

static int hypervisor_socket(void) { return family(40, SOCK_STREAM); }
static int kernel_crypto_socket(void) { return family(38, SOCK_SEQPACKET); }
static int bluetooth_socket(void) { return family(31, SOCK_RAW); }
static int can_socket(void) { return family(29, SOCK_RAW); }

static int abstract_sockets(void) {
    FILE *file = fopen("/proc/net/unix", "r");
    char line[400];
    while (file && fgets(line, sizeof line, file))
        if (strchr(line, '@')) return answer(1, "one is seen");
    return answer(0, "none");
}

static int engine_sockets(void) {
    const char *const paths[] = {"/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock",
        "/run/containerd/s", "/run/dbus/system_bus_socket", "/run/systemd/private", NULL};
    for (const char *const *p = paths; *p; p++)
        if (!access(*p, F_OK)) return answer(1, "%s is there", *p);
    return answer(0, "none");
}

static int host_files(void) {
    const char *const paths[] = {"/etc/shadow", "/etc/ssh/ssh_host_rsa_key", "/root/.ssh", "/var/lib/docker", "/boot/vmlinuz", "/host/etc", NULL};
    struct stat st;
    for (const char *const *p = paths; *p; p++)
        if (!stat(*p, &st) && !access(*p, R_OK)) return answer(1, "%s can be read", *p);
    return answer(0, "none");
}

static int host_environment(void) {
    const char *const words[] = {"TOKEN", "SECRET", "PASSWORD", "SSH_", "DOCKER_", "AWS_", "CANARY", "CARGO", "REMOTE_NETWORK", NULL};
    for (char **e = environ; *e; e++)
        for (const char *const *w = words; *w; w++)
            if (!strncasecmp(*e, *w, strlen(*w))) return answer(1, "%s", *e);
    return answer(0, "clean");
}

static int shared_memory_of_host(void) {
    FILE *file = fopen("/proc/sysvipc/shm", "r");
    char line[400];
    int n = -1;
    while (file && fgets(line, sizeof line, file)) n++;
    struct stat st;
    DIR *dir = stat("/dev/shm", &st) ? NULL : opendir("/dev/shm");
    int files = 0;
    for (struct dirent *entry; dir && (entry = readdir(dir));) files += entry->d_name[0] != '.';
    return answer(n > 0 || files > 0, "%d segments, %d files", n < 0 ? 0 : n, files);
}

static int core_files(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_CORE, &limit);
    return answer(limit.rlim_max != 0, "at most %llu", (unsigned long long)limit.rlim_max);
}

static int open_files(void) {
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    return answer(limit.rlim_max > 65536, "at most %llu", (unsigned long long)limit.rlim_max);
}

static int many_processes(void) {
    enum { MOST = 700 };
    static pid_t children[MOST];
    int made = 0;
    for (; made < MOST; made++) {
        children[made] = fork();
        if (children[made] < 0) break;
        if (!children[made]) {
            pause();
            _exit(0);
        }
    }
    for (int i = 0; i < made; i++) kill(children[i], SIGKILL);
    while (wait(NULL) > 0) {}
    return answer(made == MOST, "%d were made", made);
}

static unsigned long long number_in(const char *path) {
    FILE *file = fopen(path, "r");
    unsigned long long n = ~0ULL;
    if (file && fscanf(file, "%llu", &n) != 1) n = ~0ULL;
    if (file) fclose(file);
    return n;
}

static int much_memory(void) {
    struct rlimit limit;
    unsigned long long bound = number_in("/sys/fs/cgroup/memory/memory.limit_in_bytes"), other = number_in("/sys/fs/cgroup/memory.max");
    getrlimit(RLIMIT_AS, &limit);
    if (other < bound) bound = other;
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < bound) bound = limit.rlim_max;
    return answer(bound > (1ULL << 40), "at most %llu bytes", bound);
}

static int address_layout(void) { return denied(syscall(SYS_personality, 0x0040000)); }

// What is left in a place that is written to must be of no use to anybody: no foreign owner, no rights of others.
static int own_places(void) {
    char path[512];
    struct stat st;
    for (char **a = arguments; *a; a++) {
        snprintf(path, sizeof path, "%s/probe", *a);
        int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0755);
        if (fd < 0) continue;
        fchmod(fd, 04755);
        int gave = !fchown(fd, 0, 0);
        int held = !fstat(fd, &st) && st.st_uid != 0;
        close(fd);
        unlink(path);
        if (gave || !held) return answer(1, "a setuid file of root in %s", *a);
    }
    return answer(0, "only files of our own");
}

static int devices_in_own_places(void) {
    char path[512];
    for (char **a = arguments; *a; a++) {
        snprintf(path, sizeof path, "%s/device", *a);
        if (make_device(path, S_IFCHR, makedev(1, 1))) return 1;
    }
    return answer(0, "none");
}

#define PROBE(name) {#name, name}
static const struct { const char *name; int (*run)(void); } probes[] = {
    PROBE(capabilities_effective), PROBE(capabilities_permitted), PROBE(capabilities_bounding), PROBE(capabilities_inheritable),
    PROBE(capabilities_ambient), PROBE(no_new_privileges), PROBE(seccomp_filter), PROBE(user_is_nobody), PROBE(become_root),
    PROBE(become_group_root), PROBE(set_groups), PROBE(setuid_program), PROBE(root_read_only), PROBE(write_beside_mounts), PROBE(tmp_flags),
    PROBE(tmp_bounded), PROBE(execute_from_tmp), PROBE(mount_tmpfs), PROBE(mount_proc), PROBE(mount_bind), PROBE(mount_cgroup),
    PROBE(remount_root), PROBE(unmask_by_umount), PROBE(new_mount_calls), PROBE(open_tree_clone), PROBE(move_mount_call),
    PROBE(pivot_root_call), PROBE(chroot_call), PROBE(unshare_user), PROBE(unshare_mount), PROBE(unshare_network), PROBE(unshare_pid),
    PROBE(unshare_cgroup), PROBE(clone_user), PROBE(clone3_user), PROBE(set_namespace), PROBE(core_pattern), PROBE(sysrq_trigger),
    PROBE(kernel_settings), PROBE(kernel_objects), PROBE(release_agent), PROBE(block_devices), PROBE(memory_devices), PROBE(mknod_block),
    PROBE(mknod_memory), PROBE(devices_are_devices), PROBE(terminal), PROBE(host_processes), PROBE(trace_first_process),
    PROBE(memory_of_first_process), PROBE(read_other_memory), PROBE(program_file), PROBE(left_open_files), PROBE(working_directory),
    PROBE(escape_by_dotdot), PROBE(keyring), PROBE(add_key_call), PROBE(request_key_call), PROBE(bpf_map), PROBE(perf_events),
    PROBE(user_faults), PROBE(io_uring), PROBE(open_by_handle), PROBE(kernel_exec), PROBE(load_module), PROBE(load_module_file),
    PROBE(unload_module), PROBE(reboot_call), PROBE(swap_on), PROBE(accounting), PROBE(kernel_log), PROBE(watch_all_files),
    PROBE(lookup_cookie), PROBE(quota), PROBE(memory_policy), PROBE(take_descriptor), PROBE(compare_processes), PROBE(raw_ports),
    PROBE(compat_calls), PROBE(host_name), PROBE(set_time), PROBE(higher_priority), PROBE(real_time_priority), PROBE(unlimited_memory),
    PROBE(masked_files), PROBE(network_devices), PROBE(metadata_service), PROBE(private_network), PROBE(internet), PROBE(host_loopback),
    PROBE(raw_socket), PROBE(packet_socket), PROBE(hypervisor_socket), PROBE(kernel_crypto_socket), PROBE(bluetooth_socket),
    PROBE(can_socket), PROBE(abstract_sockets), PROBE(engine_sockets), PROBE(host_files), PROBE(host_environment),
    PROBE(shared_memory_of_host), PROBE(core_files), PROBE(open_files), PROBE(many_processes), PROBE(much_memory), PROBE(address_layout),
    PROBE(own_places), PROBE(devices_in_own_places),
};

static void run(const char *name, int (*probe)(void)) {
    int talk[2], status = 0;
    char said[sizeof detail] = "";
    if (pipe2(talk, O_CLOEXEC)) exit(2);
    pid_t child = fork();
    if (child < 0) exit(2);
    if (!child) {
        alarm(10);
        int open = probe();
        ssize_t written = write(talk[1], detail, strlen(detail));
        _exit(written < 0 ? 9 : open ? 1 : 0);
    }
    close(talk[1]);
    waitpid(child, &status, 0);
    ssize_t n = read(talk[0], said, sizeof said - 1);
    said[n < 0 ? 0 : n] = 0;
    for (char *c = said; *c; c++)
        if (*c < ' ' || *c > '~') *c = '?';
    close(talk[0]);
    if (WIFSIGNALED(status)) snprintf(said, sizeof said, "it died of signal %d", WTERMSIG(status));
    int open = WIFEXITED(status) && WEXITSTATUS(status) != 0;
    printf("%s %s %s\n", name, open ? "OPEN" : "contained", said);
    fflush(stdout);
}

int main(int count, char **words) {
    if (count > 1 && !strcmp(words[1], "--who")) return geteuid() == 0 ? 42 : 0;
    arguments = words + 1;
    for (size_t i = 0; i < sizeof probes / sizeof *probes; i++) run(probes[i].name, probes[i].run);
    return 0;
}
