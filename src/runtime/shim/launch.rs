//! The last steps before a program runs, for a container's first process and for exec alike.

use super::capability;
use crate::sys::errno_text;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What is searched without a PATH.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// More of /etc/passwd is not looked at.
const MAX_PASSWD: u64 = 1 << 20;

/// Finds the program that `name` means to this process, or says why not in the words that users of
/// Kubernetes know.
pub(super) fn find_program(name: &str, env: &[String]) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("no command specified".to_owned());
    }
    if name.contains('/') {
        return match check(Path::new(name)) {
            Ok(()) => Ok(name.into()),
            Err(libc::ENOENT) => Err(format!("exec: {name:?}: stat {name}: no such file or directory")),
            Err(errno) => Err(format!("exec: {name:?}: {}", errno_text(errno))),
        };
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(&DEFAULT_PATH["PATH=".len()..]);
    path.split(':')
        .map(|directory| Path::new(if directory.is_empty() { "." } else { directory }).join(name))
        .find(|candidate| check(candidate).is_ok())
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

/// Whether this process could execute a path; else the errno.
fn check(path: &Path) -> Result<(), i32> {
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(libc::EINVAL);
    if std::fs::metadata(path).map_err(errno)?.is_dir() {
        return Err(libc::EISDIR);
    }
    let c_path = CString::new(path.as_os_str().as_bytes()).map_err(|_| libc::EINVAL)?;
    // SAFETY: a NUL-terminated path.
    match unsafe { libc::faccessat(libc::AT_FDCWD, c_path.as_ptr(), libc::X_OK, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(errno(std::io::Error::last_os_error())),
    }
}

/// The environment with a PATH and a HOME.
pub(super) fn complete_env(mut env: Vec<String>, uid: u32) -> Vec<String> {
    if !env.iter().any(|e| e.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_owned());
    }
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", home(uid)));
    }
    env
}

/// Home directory by the container's own /etc/passwd, which is not to be trusted: it may be huge,
/// a pipe or nonsense.
fn home(uid: u32) -> String {
    let read = || {
        let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/etc/passwd").ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = Vec::new();
        file.take(MAX_PASSWD).read_to_end(&mut text).ok()?;
        home_in(&String::from_utf8_lossy(&text), uid)
    };
    read().unwrap_or_else(|| "/".to_owned())
}

fn home_in(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        (fields.len() >= 6 && fields[2] == uid && fields[5].starts_with('/')).then(|| fields[5].to_owned())
    })
}

/// What stands between a prepared process and its program.
#[derive(Debug, Clone)]
pub(super) struct Guards {
    /// Held by the program.
    pub(super) capabilities: capability::Set,
    pub(super) no_new_privileges: bool,
    pub(super) seccomp: crate::seccomp::Filter,
}

impl Guards {
    /// What the process needs until the guards are set: loading a filter without no_new_privs takes
    /// CAP_SYS_ADMIN.
    pub(super) fn capabilities_before(&self) -> capability::Set {
        match self.seccomp.is_some() && !self.no_new_privileges {
            true => self.capabilities.or(capability::Set::SYS_ADMIN),
            false => self.capabilities,
        }
    }

    /// The filter comes as late as possible. Without no_new_privs it needs CAP_SYS_ADMIN, so then the
    /// capabilities are given up under the filter.
    fn set(&self) -> Result<(), String> {
        let hold = || self.capabilities.hold().map_err(|error| format!("capset: {error}"));
        let filter = || self.seccomp.install().map_err(|error| format!("seccomp: {error}"));
        if self.no_new_privileges {
            // SAFETY: prctl with integers only.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            hold()?;
            filter()
        } else {
            filter()?;
            hold()
        }
    }
}

/// Sets the guards and becomes the program. Returns only to say why that failed.
pub(super) fn run(program: &Path, args: &[String], env: &[String], guards: &Guards) -> String {
    let c_strings = |strings: &[String]| -> Result<Vec<CString>, String> {
        strings.iter().map(|s| CString::new(s.as_str()).map_err(|_| format!("{s:?} contains NUL"))).collect()
    };
    let (args, env) = match (c_strings(args), c_strings(env)) {
        (Ok(args), Ok(env)) => (args, env),
        (Err(text), _) | (_, Err(text)) => return text,
    };
    let Ok(path) = CString::new(program.as_os_str().as_bytes()) else { return "path contains NUL".to_owned() };
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    reset_signals();
    if let Err(text) = guards.set() {
        return text;
    }
    // SAFETY: NUL-terminated strings in NULL-terminated arrays that live until the call returns.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    let errno = std::io::Error::last_os_error().raw_os_error().unwrap_or_default();
    format!("exec {}: {}", program.display(), errno_text(errno))
}

/// Rust ignores SIGPIPE and the shim blocks and ignores others; programs expect defaults.
pub(super) fn reset_signals() {
    // The kernel's sigaction with the default handler, no flags and an empty mask.
    let default_action = [0_u64; 4];
    // SAFETY: signal dispositions and the mask of a single-threaded process; the set lives on the
    // stack. Failures (SIGKILL, SIGSTOP) are expected and harmless.
    unsafe {
        for signal in 1..=64 {
            // By the system call, since the C library keeps two signals to itself and its
            // posix_spawn leaves one of them ignored.
            libc::syscall(libc::SYS_rt_sigaction, signal, default_action.as_ptr(), 0_usize, 8_usize);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// A pipe by which a process about to run a program says why it could not. It closes by itself
/// when the program runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Report(RawFd);

/// More of a report is not read.
const MAX_REPORT: usize = 4096;

impl Report {
    pub(super) fn new(writer: &impl AsRawFd) -> Self {
        Self(writer.as_raw_fd())
    }

    pub(super) fn say(self, text: &str) {
        let text = &text.as_bytes()[..text.len().min(MAX_REPORT)];
        // SAFETY: writes initialised bytes; a closed descriptor is an error that is ignored.
        unsafe { libc::write(self.0, text.as_ptr().cast(), text.len()) };
    }

    /// What was said, if anything, once the other side has closed; waits at most `timeout_ms`.
    pub(super) fn read(reader: &File, timeout_ms: i32) -> Result<Option<String>, std::io::Error> {
        let mut text = Vec::new();
        let mut buffer = [0; MAX_REPORT];
        loop {
            if !crate::sys::wait_readable(reader.as_raw_fd(), timeout_ms)? {
                return Err(std::io::ErrorKind::TimedOut.into());
            }
            let mut source = reader;
            match source.read(&mut buffer)? {
                0 => break,
                count if text.len() < MAX_REPORT => text.extend_from_slice(&buffer[..count]),
                _ => {}
            }
        }
        Ok((!text.is_empty()).then(|| String::from_utf8_lossy(&text).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_programs_are_described_as_users_know_it() {
        let env = ["PATH=/nowhere".to_owned()];
        let find = |name| find_program(name, &env).expect_err("there is no such program");
        assert_eq!(find("foo"), "exec: \"foo\": executable file not found in $PATH");
        assert_eq!(find("/foo"), "exec: \"/foo\": stat /foo: no such file or directory");
        assert_eq!(find("/usr"), "exec: \"/usr\": is a directory");
        assert_eq!(find("/etc/passwd"), "exec: \"/etc/passwd\": permission denied");
        assert_eq!(find_program("sh", &[]).map(|p| p.file_name() == Some("sh".as_ref())), Ok(true));
    }

    #[test]
    fn home_comes_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\n# junk\nweb:x:33:33::/var/www:/bin/false\n";
        assert_eq!(home_in(passwd, 33).as_deref(), Some("/var/www"));
        assert_eq!(home_in(passwd, 5), None);
    }
}
