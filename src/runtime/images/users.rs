//! Users and groups of an image, read from its own /etc/passwd and /etc/group.

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use std::io::Read;
use std::path::Path;

/// Who a container's process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Name, if the image's passwd file knows one.
    pub name: Option<String>,
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Groups that list the user as a member.
    pub additional_gids: Vec<u32>,
    /// Home directory, `/` if unknown.
    pub home: String,
}

/// Why a user could not be determined.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// The user's name is not in the image's passwd file.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// The group's name is not in the image's group file.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A file of the image could not be read.
    #[error("read /etc/{file} of the image: {source}")]
    Read {
        /// `passwd` or `group`.
        file: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
}

const MAX_FILE: u64 = 4 << 20;

/// Resolves `user`, `uid`, `user:group`, ... against the files of the image below `rootfs`.
/// An empty text means root. A numeric uid without an entry has group 0, as upstream.
pub fn lookup_user(rootfs: &Path, text: &str) -> Result<User, UserError> {
    let passwd = read(rootfs, "passwd")?;
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let mut found = find_user(&passwd, if user.is_empty() { "0" } else { user })?;
    let groups = read(rootfs, "group")?;
    match group.filter(|group| !group.is_empty()) {
        // A group given explicitly replaces the memberships.
        Some(group) => found.gid = find_group(&groups, group)?,
        None => {
            if let Some(name) = &found.name {
                found.additional_gids = memberships(&groups, name);
            }
        }
    }
    Ok(found)
}

/// Opens without letting the image's symlinks lead outside of it.
fn read(rootfs: &Path, file: &'static str) -> Result<String, UserError> {
    let fail = |errno: rustix::io::Errno| UserError::Read { file, source: errno.into() };
    let root = open(rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = Path::new("etc").join(file);
    let fd = match openat2(&root, &path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => return Ok(String::new()),
        Err(errno) => return Err(fail(errno)),
    };
    let mut text = Vec::new();
    let opened = std::fs::File::from(fd);
    if !opened.metadata().is_ok_and(|meta| meta.is_file()) {
        return Ok(String::new());
    }
    opened.take(MAX_FILE).read_to_end(&mut text).map_err(|source| UserError::Read { file, source })?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn find_user(passwd: &str, user: &str) -> Result<User, UserError> {
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields.as_slice() else { return None };
        let (uid, gid) = (uid.parse::<u32>().ok()?, gid.parse::<u32>().ok()?);
        (*name == user || number == Some(uid)).then(|| User {
            name: Some((*name).to_owned()),
            uid,
            gid,
            additional_gids: Vec::new(),
            home: if home.is_empty() { "/".to_owned() } else { (*home).to_owned() },
        })
    });
    match (entry, number) {
        (Some(found), _) => Ok(found),
        (None, Some(uid)) => Ok(User { uid, home: "/".to_owned(), ..User::default() }),
        (None, None) => Err(UserError::NoUser(user.to_owned())),
    }
}

fn find_group(groups: &str, group: &str) -> Result<u32, UserError> {
    let entry = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?.parse::<u32>().ok()?);
        (name == group).then_some(gid)
    });
    match (entry, group.parse::<u32>()) {
        (Some(gid), _) | (None, Ok(gid)) => Ok(gid),
        (None, Err(_)) => Err(UserError::NoGroup(group.to_owned())),
    }
}

fn memberships(groups: &str, name: &str) -> Vec<u32> {
    let member = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let [_, _, gid, members] = fields.as_slice() else { return None };
        let gid = gid.parse::<u32>().ok()?;
        members.split(',').any(|member| member.trim() == name).then_some(gid)
    };
    let mut gids: Vec<u32> = groups.lines().filter_map(member).collect();
    gids.sort_unstable();
    gids.dedup();
    gids
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn rootfs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::fs::write(
            dir.path().join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/bin/sh\nodd:x:7\n",
        )
        .unwrap();
        std::fs::write(
            dir.path().join("etc/group"),
            "root:x:0:\nwww-data:x:33:\nssl:x:101:www-data,root\ntape:x:26:www-data\n",
        )
        .unwrap();
        dir
    }

    #[test]
    fn names_numbers_and_groups_are_found() {
        let dir = rootfs();
        let user = lookup_user(dir.path(), "www-data").unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (33, 33, "/var/www"));
        assert_eq!(user.additional_gids, [26, 101]);
        assert_eq!(lookup_user(dir.path(), "33").unwrap().name.as_deref(), Some("www-data"));
        let explicit = lookup_user(dir.path(), "33:ssl").unwrap();
        assert_eq!((explicit.gid, explicit.additional_gids.len()), (101, 0));
        let unknown = lookup_user(dir.path(), "1234").unwrap();
        assert_eq!((unknown.uid, unknown.gid, unknown.name), (1234, 0, None));
        assert_eq!(lookup_user(dir.path(), "").unwrap().uid, 0);
    }

    #[test]
    fn unknown_names_are_errors() {
        let dir = rootfs();
        assert_eq!(
            lookup_user(dir.path(), "nope").unwrap_err().to_string(),
            "unable to find user nope: no matching entries in passwd file"
        );
        assert!(matches!(lookup_user(dir.path(), "root:nope"), Err(UserError::NoGroup(_))));
    }

    #[test]
    fn a_symlinked_passwd_stays_inside_the_image() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        std::os::unix::fs::symlink("/../../../../etc/passwd", dir.path().join("etc/passwd")).unwrap();
        assert!(matches!(lookup_user(dir.path(), "root"), Err(UserError::NoUser(_))));
    }
}
