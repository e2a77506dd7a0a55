//! Pseudo terminals.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

/// The terminal's end that programs use, opened through the master: no path is trusted.
pub(super) fn peer(master: &impl AsRawFd) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes flags by value and returns a new descriptor.
    let fd = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER as _, flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: new and ours alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Lets a user open the terminal by its name.
pub(super) fn give_to(master: &impl AsRawFd, uid: u32) -> io::Result<()> {
    nix::unistd::fchown(peer(master)?, Some(uid.into()), None)?;
    Ok(())
}

/// A new terminal of the devpts mounted at /dev/pts: (master, peer).
pub(super) fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    use std::os::unix::fs::OpenOptionsExt;
    let master = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NOCTTY | libc::O_NOFOLLOW | libc::O_CLOEXEC)
        .open("/dev/pts/ptmx")?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads an int. It fails on anything but a terminal's master.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK as _, &raw const unlock) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let peer = peer(&master)?;
    Ok((master.into(), peer))
}

/// Makes it the controlling terminal of this session.
pub(super) fn take_control(peer: RawFd) {
    // SAFETY: TIOCSCTTY takes an integer. Failure leaves the process without job control.
    unsafe { libc::ioctl(peer, libc::TIOCSCTTY as _, 0) };
}
