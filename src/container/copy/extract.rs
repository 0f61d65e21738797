//! From an archive to files in a container.
//!
//! Docker's rules (go-archive, `Unpack`): an entry replaces what has its name, and only a directory
//! over a directory merges; missing parents are made, 0755 and root's; the archive's own root is
//! left alone; devices are left out, as in any user namespace; directories get their times at the
//! end. Names that lead out of the place are refused. Each entry's directory is resolved by the
//! kernel: links of a container's lead where they lead in the container (`RESOLVE_IN_ROOT`; Debian's
//! `/var/run` is one), those of the client's own directory not out of it (`RESOLVE_BENEATH`). An
//! entry's last name is never followed. Owners and the like are [`attributes`](super::attributes)'.

use std::io::{self, BufRead};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, fchmod, fstat, futimens, linkat, mkdirat,
    mknodat, openat, openat2, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use super::attributes::{Failed, describe, give_to_root, own_by_name, times};
use super::{Ids, Refusal};
use crate::sys::tree;
use crate::tarball::{Entry, Kind, Reader, TarError};
use crate::types::chain::chain;

/// Where it is unpacked to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target<'a> {
    root: BorrowedFd<'a>,
    /// In the root, with a slash at its end; empty for the root itself.
    path: &'a str,
    bounds: ResolveFlags,
}

impl<'a> Target<'a> {
    /// A directory that links must not lead out of.
    pub(super) fn alone(directory: BorrowedFd<'a>) -> Self {
        Self {
            root: directory,
            path: "",
            bounds: ResolveFlags::BENEATH,
        }
    }

    /// A directory of a root, given with a slash at its end.
    pub(super) fn in_root(root: BorrowedFd<'a>, path: &'a str) -> Self {
        Self {
            root,
            path,
            bounds: ResolveFlags::IN_ROOT,
        }
    }

    /// Opens what is at a path of the place.
    fn open(self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let how = self.bounds | ResolveFlags::NO_MAGICLINKS;
        let path = [self.path.as_bytes(), path].concat();
        let path = if path.is_empty() { b"." } else { &path[..] };
        loop {
            match openat2(self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
                // Something was renamed meanwhile; the kernel asks to try again.
                Err(Errno::AGAIN) => {}
                other => return other,
            }
        }
    }
}

/// How it is to be done.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner<'a> {
    /// A directory and what is none may replace each other.
    pub(super) overwrite: bool,
    /// Whom everything is to belong to, whatever the archive says.
    pub(super) owner: Option<(u32, u32)>,
    /// What ids are called here.
    pub(super) ids: &'a Ids,
    /// The first part of a name is called the second where it is the first.
    pub(super) rename: Option<(&'a str, &'a str)>,
    /// The place's path in the container, for messages.
    pub(super) shown: &'a str,
}

impl From<TarError> for Refusal {
    fn from(error: TarError) -> Self {
        Self::Failed(chain(&error))
    }
}

/// Unpacks into `place`.
pub(super) fn extract(
    source: impl BufRead,
    place: Target<'_>,
    manner: Manner<'_>,
) -> Result<(), Refusal> {
    let mut reader = Reader::new(source);
    let mut directories: Vec<(Vec<u8>, (i64, u32))> = Vec::new();
    let mut parent: Option<(Vec<u8>, OwnedFd)> = None;
    while let Some(entry) = reader.next(&mut io::sink())? {
        let name = renamed(clean(&entry.name)?, manner.rename);
        if name.is_empty() {
            skip(&mut reader)?;
            continue;
        }
        let at = name.iter().rposition(|byte| *byte == b'/');
        let (above, base) = name.split_at(at.map_or(0, |at| at + 1));
        let opened = match parent.take() {
            Some((path, opened)) if path == above => opened,
            _ => directory(place, above, manner.ids)?,
        };
        let kept = put(&mut reader, &entry, place, &opened, base, &name, manner)?;
        if entry.kind == Kind::Directory {
            directories.push((name.clone(), entry.mtime));
        }
        // What was replaced may have been on the way to others.
        if kept {
            parent = Some((above.to_vec(), opened));
        }
    }
    for (name, mtime) in directories {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
        // Somebody in the container may have taken it away again.
        if let Ok(opened) = place.open(&name, flags) {
            futimens(&opened, &times(mtime))?;
        }
    }
    Ok(())
}

/// A name relative to the place; empty for the place itself.
fn clean(name: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." if parts.pop().is_none() => {
                let name = String::from_utf8_lossy(name);
                return Err(Refusal::Failed(format!("invalid entry name {name:?}")));
            }
            b".." => {}
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// A clean name with its first part called otherwise; `.` is the part that a clean name has not.
fn renamed(name: Vec<u8>, rename: Option<(&str, &str)>) -> Vec<u8> {
    let Some((from, to)) = rename else {
        return name;
    };
    if from == "." {
        let parts = [to.as_bytes(), &name];
        return parts[..if name.is_empty() { 1 } else { 2 }].join(&b'/');
    }
    match name.strip_prefix(from.as_bytes()) {
        Some(rest @ ([] | [b'/', ..])) => [to.as_bytes(), rest].concat(),
        _ => name,
    }
}

/// The directory of an entry, made if it is missing.
fn directory(place: Target<'_>, path: &[u8], ids: &Ids) -> Result<OwnedFd, Refusal> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let failed = |error: Errno| {
        let path = String::from_utf8_lossy(path);
        Refusal::Failed(format!("mkdir {path}: {}", io::Error::from(error)))
    };
    match place.open(path, flags) {
        Err(Errno::NOENT) => {}
        other => return other.map_err(failed),
    }
    let mut at = 0;
    while let Some(length) = path[at..].iter().position(|byte| *byte == b'/') {
        let (above, name) = (&path[..at], &path[at..at + length]);
        at += length + 1;
        match place.open(&path[..at], flags) {
            Err(Errno::NOENT) => {}
            other => {
                other.map_err(failed)?;
                continue;
            }
        }
        let above = place.open(above, flags).map_err(failed)?;
        mkdirat(&above, name, Mode::RWXU).map_err(failed)?;
        let made = openat(
            &above,
            name,
            flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let made = made.map_err(failed)?;
        give_to_root(&made, ids).map_err(failed)?;
        fchmod(&made, Mode::from_raw_mode(0o755)).map_err(failed)?;
    }
    place.open(path, flags).map_err(failed)
}

/// Puts one entry in its place; `false` where a directory or a link was replaced.
fn put<R: BufRead>(
    reader: &mut Reader<R>,
    entry: &Entry,
    place: Target<'_>,
    parent: &OwnedFd,
    base: &[u8],
    name: &[u8],
    manner: Manner<'_>,
) -> Result<bool, Refusal> {
    let shown = String::from_utf8_lossy(name);
    let failed = |error: Errno| Refusal::Failed(format!("{shown}: {}", io::Error::from(error)));
    let undescribed = |failed: Failed| failed.told(entry, &shown, manner.shown);
    let is_directory = entry.kind == Kind::Directory;
    let mut kept = true;
    let old = match statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Some(stat),
        Err(Errno::NOENT) => None,
        Err(error) => return Err(failed(error)),
    };
    let is_old_directory = |stat: &Stat| file_type(stat) == FileType::Directory;
    if let Some(stat) = &old {
        let place = manner.shown;
        let path = format!("{}/{shown}", place.trim_end_matches('/'));
        if !manner.overwrite && is_old_directory(stat) && !is_directory {
            return Err(Refusal::Failed(format!(
                "cannot overwrite directory {path:?} with non-directory {place:?}"
            )));
        }
        if !manner.overwrite && !is_old_directory(stat) && is_directory {
            return Err(Refusal::Failed(format!(
                "cannot overwrite non-directory {path:?} with directory {place:?}"
            )));
        }
        if !is_old_directory(stat) || !is_directory {
            use std::os::unix::ffi::OsStrExt;
            kept = !matches!(file_type(stat), FileType::Directory | FileType::Symlink);
            match unlinkat(parent, base, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR) => {
                    tree::remove_all(parent.as_fd(), std::ffi::OsStr::from_bytes(base))
                        .map_err(|error| Refusal::Failed(format!("{shown}: {error}")))?;
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
    match entry.kind {
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let mode = Mode::RUSR | Mode::WUSR;
            let file = openat(parent, base, flags | OFlags::NOFOLLOW, mode).map_err(failed)?;
            let written = reader.write_to(entry, &file, Refusal::from, |_| Ok(()));
            written.map_err(|error| match error {
                Refusal::Failed(why) => Refusal::Failed(format!("{shown}: {why}")),
                other => other,
            })?;
            describe(&file, entry, manner).map_err(undescribed)?;
            futimens(&file, &times(entry.mtime)).map_err(failed)?;
        }
        Kind::Directory => {
            match mkdirat(parent, base, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let made = openat(parent, base, flags, Mode::empty()).map_err(failed)?;
            describe(&made, entry, manner).map_err(undescribed)?;
        }
        Kind::Symlink => {
            symlinkat(&entry.link[..], parent, base).map_err(failed)?;
            own_by_name(parent, base, entry, manner).map_err(undescribed)?;
        }
        Kind::Fifo => {
            let mode = Mode::from_raw_mode(entry.mode & 0o777);
            mknodat(parent, base, FileType::Fifo, mode, 0).map_err(failed)?;
            own_by_name(parent, base, entry, manner).map_err(undescribed)?;
        }
        Kind::HardLink => {
            let target = renamed(clean(&entry.link)?, manner.rename);
            let at = target.iter().rposition(|byte| *byte == b'/');
            let (above, target) = target.split_at(at.map_or(0, |at| at + 1));
            let above = place
                .open(above, OFlags::PATH | OFlags::DIRECTORY)
                .map_err(failed)?;
            linkat(&above, target, parent, base, AtFlags::empty()).map_err(failed)?;
        }
        Kind::Device => {}
        Kind::Unknown(kind) => {
            return Err(Refusal::Failed(format!("unhandled tar header type {kind}")));
        }
    }
    Ok(kept)
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Reads over the content of an entry that has no place.
fn skip<R: BufRead>(reader: &mut Reader<R>) -> Result<(), Refusal> {
    loop {
        let amount = reader.content()?.len();
        if amount == 0 {
            return Ok(());
        }
        reader.consume(amount);
    }
}

/// Whether a directory of the container lies in its root filesystem, and can be written to.
pub(super) fn check_writable(
    root: BorrowedFd<'_>,
    place: BorrowedFd<'_>,
    readonly_rootfs: bool,
) -> Result<(), Refusal> {
    let mount = |of: BorrowedFd<'_>| -> Result<u64, Errno> {
        let flags = AtFlags::EMPTY_PATH;
        let data = rustix::fs::statx(of, "", flags, rustix::fs::StatxFlags::MNT_ID)?;
        Ok(data.stx_mnt_id)
    };
    // One filesystem may be mounted several times; before Linux 5.8 devices must do.
    let in_rootfs = match (mount(root), mount(place)) {
        (Ok(root), Ok(place)) if root != 0 => root == place,
        _ => fstat(root)?.st_dev == fstat(place)?.st_dev,
    };
    let flags = rustix::fs::fstatvfs(place)?.f_flag;
    let is_readonly = flags.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    match in_rootfs {
        true if readonly_rootfs || is_readonly => Err(Refusal::Invalid(
            "container rootfs is marked read-only".to_owned(),
        )),
        false if is_readonly => Err(Refusal::Invalid(
            "mounted volume is marked read-only".to_owned(),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::tarball::build::Archive;
    use crate::types::idmap::{Extent, IdMapping};

    fn unpack(place: &Path, archive: &mut Archive, overwrite: bool) -> Result<(), Refusal> {
        let manner = Manner {
            overwrite,
            owner: None,
            ids: &Ids::default(),
            rename: None,
            shown: "/place",
        };
        let opened = File::open(place).unwrap();
        extract(&archive.end()[..], Target::alone(opened.as_fd()), manner)
    }

    #[test]
    fn entries_come_to_their_places() {
        let top = tempfile::tempdir().unwrap();
        let place = top.path().join("place");
        fs::create_dir(&place).unwrap();
        let mut archive = Archive::default();
        archive
            .dir("./")
            .file("made/by/itself", "content".as_bytes())
            .dir("/dir/")
            .symlink("dir/link", "../made")
            .hardlink("dir/hard", "made/by/itself");
        unpack(&place, &mut archive, false).unwrap();
        assert_eq!(
            fs::read_to_string(place.join("dir/hard")).unwrap(),
            "content"
        );
        assert_eq!(
            fs::read_link(place.join("dir/link")).unwrap(),
            Path::new("../made")
        );
        let mode = |name: &str| fs::metadata(place.join(name)).unwrap().permissions().mode();
        assert_eq!(mode("made/by") & 0o7777, 0o755);
        assert_eq!(mode("made/by/itself") & 0o7777, 0o644);
        let seconds = fs::metadata(place.join("dir")).unwrap().mtime();
        assert_eq!(seconds, 0o14500000000);
    }

    #[test]
    fn owners_are_those_outside_a_map() {
        let top = tempfile::tempdir().unwrap();
        let own = fs::metadata(top.path()).unwrap();
        let alone = |inside, outside| {
            vec![Extent {
                inside,
                outside,
                count: 1,
            }]
        };
        let mut ids = Ids {
            owners: Some(IdMapping {
                uids: alone(7, own.uid()),
                gids: alone(8, own.gid()),
                deny_setgroups: false,
            }),
            strict: true,
        };
        let mut archive = Archive::default();
        archive.block(b'0', b"f", b"", 0o640, 0, |block| {
            block[108..116].copy_from_slice(b"0000007\0");
            block[116..124].copy_from_slice(b"0000010\0");
        });
        let opened = File::open(top.path()).unwrap();
        let place = Target::alone(opened.as_fd());
        let put = |archive: &mut Archive, ids: &Ids| {
            let manner = Manner {
                overwrite: false,
                owner: None,
                ids,
                rename: None,
                shown: "/place",
            };
            extract(&archive.end()[..], place, manner)
        };
        put(&mut archive, &ids).unwrap();
        let made = fs::metadata(top.path().join("f")).unwrap();
        assert_eq!((made.uid(), made.gid()), (own.uid(), own.gid()));
        let mut archive = Archive::default();
        archive.symlink("link", "f");
        assert_eq!(
            put(&mut archive, &ids).unwrap_err().to_string(),
            "failed to Lchown \"/place/link\" for UID 0, GID 0 (try increasing the number of \
             subordinate IDs in /etc/subuid and /etc/subgid): lchown /place/link: invalid argument"
        );
        ids.strict = false;
        archive.symlink("link", "f");
        put(&mut archive, &ids).unwrap();
    }

    #[test]
    fn nothing_leads_out_of_the_place() {
        let top = tempfile::tempdir().unwrap();
        let (place, outside) = (top.path().join("place"), top.path().join("outside"));
        fs::create_dir(&place).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "kept").unwrap();
        symlink("../outside", place.join("relative")).unwrap();
        symlink(&outside, place.join("absolute")).unwrap();
        symlink("../outside/victim", place.join("file")).unwrap();
        for name in [
            "../outside/new",
            "a/../../outside/new",
            "relative/new",
            "absolute/new",
        ] {
            let mut archive = Archive::default();
            archive.file(name, b"x");
            unpack(&place, &mut archive, true).unwrap_err();
        }
        let mut archive = Archive::default();
        archive.hardlink("stolen", "relative/victim");
        unpack(&place, &mut archive, true).unwrap_err();
        // A link is replaced, never written through.
        let mut archive = Archive::default();
        archive.file("file", b"own");
        unpack(&place, &mut archive, true).unwrap();
        let mut archive = Archive::default();
        archive.symlink("in", "../outside").file("in/new", b"x");
        unpack(&place, &mut archive, true).unwrap_err();
        assert_eq!(fs::read_to_string(outside.join("victim")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "own");
    }

    #[test]
    fn links_of_a_root_lead_where_they_do_in_it() {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("root");
        fs::create_dir_all(root.join("var")).unwrap();
        fs::create_dir_all(root.join("run")).unwrap();
        symlink("/run", root.join("var/run")).unwrap();
        symlink("../../..", root.join("var/up")).unwrap();
        let mut archive = Archive::default();
        archive.file("run/pid", b"1").file("up/above", b"2");
        let opened = File::open(&root).unwrap();
        let manner = Manner {
            overwrite: false,
            owner: None,
            ids: &Ids::default(),
            rename: None,
            shown: "/var",
        };
        let place = Target::in_root(opened.as_fd(), "/var/");
        extract(&archive.end()[..], place, manner).unwrap();
        assert_eq!(fs::read_to_string(root.join("run/pid")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("above")).unwrap(), "2");
        assert_eq!(fs::read_dir(top.path()).unwrap().count(), 1);
    }

    #[test]
    fn directories_and_others_replace_each_other_only_when_asked() {
        let top = tempfile::tempdir().unwrap();
        fs::create_dir_all(top.path().join("dir/full")).unwrap();
        fs::write(top.path().join("file"), "").unwrap();
        let mut archive = Archive::default();
        archive.file("dir", b"x");
        assert_eq!(
            unpack(top.path(), &mut archive, false)
                .unwrap_err()
                .to_string(),
            "cannot overwrite directory \"/place/dir\" with non-directory \"/place\""
        );
        let mut archive = Archive::default();
        archive.dir("file");
        assert_eq!(
            unpack(top.path(), &mut archive, false)
                .unwrap_err()
                .to_string(),
            "cannot overwrite non-directory \"/place/file\" with directory \"/place\""
        );
        let mut archive = Archive::default();
        archive.file("dir", b"x").dir("file");
        unpack(top.path(), &mut archive, true).unwrap();
        assert!(top.path().join("dir").is_file());
        assert!(top.path().join("file").is_dir());
    }
}
