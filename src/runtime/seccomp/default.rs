//! The filter called RuntimeDefault: what ordinary programs need, and what a capability brings.

use super::{Action, Comparison, Condition, Rules};

/// Allowed to everybody. Those of other architectures are skipped when looked up.
const ALLOWED: &str = "
    accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir chmod chown
    clock_adjtime clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat
    dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 fallocate
    fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr flistxattr flock
    fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait futex_waitv
    futex_wake futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit
    get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday getuid
    getxattr getxattrat inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy
    io_getevents io_pgetevents ioprio_get ioprio_set io_setup io_submit kill landlock_add_rule
    landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listmount listxattr
    listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier memfd_create
    memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap modify_ldt mprotect
    mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv
    msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat open openat openat2 pause
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv
    preadv2 prlimit64 process_mrelease pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink
    readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat rename renameat
    renameat2 restart_syscall riscv_hwprobe rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity
    sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler
    sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield
    seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid setfsuid setgid
    setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list
    setsid setsockopt set_thread_area set_tid_address setuid setxattr setxattrat shmat shmctl shmdt shmget
    shutdown sigaltstack signalfd signalfd4 socketpair splice stat statfs statmount statx symlink symlinkat
    sync sync_file_range sync_file_range2 syncfs sysinfo tee tgkill time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times tkill
    truncate umask uname unlink unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4 waitid write
    writev";

/// What each capability brings.
const BY_CAPABILITY: &[(&str, &str)] = &[
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr
         move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
         umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime settimeofday"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
];

/// The execution domains that programs ask for or set to what it is.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Flags of clone that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;

pub(super) fn rules(capabilities: &[&str]) -> Rules {
    let mut rules = Rules::new(Action::Errno(libc::EPERM as u16));
    let has = |capability: &str| capabilities.contains(&capability);
    let brought = BY_CAPABILITY.iter().filter(|(capability, _)| has(capability)).map(|(_, names)| *names);
    let mut names: Vec<&str> = [ALLOWED].into_iter().chain(brought).flat_map(str::split_whitespace).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        rules.add(name, Vec::new(), Action::Allow);
    }
    let when = |argument, comparison| vec![Condition { argument, comparison }];
    if !has("CAP_SYS_ADMIN") {
        rules.add("clone", when(0, Comparison::MaskedEqual(NAMESPACES, 0)), Action::Allow);
        // Its flags are in memory, out of a filter's sight; C libraries fall back to clone.
        rules.add("clone3", Vec::new(), Action::Errno(libc::ENOSYS as u16));
    }
    for personality in PERSONALITIES {
        rules.add("personality", when(0, Comparison::Equal(personality)), Action::Allow);
    }
    let vsock = u64::from(libc::AF_VSOCK.unsigned_abs());
    rules.add("socket", when(0, Comparison::NotEqual(vsock)), Action::Allow);
    rules
}
