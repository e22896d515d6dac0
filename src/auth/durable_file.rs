//! Files that a crash, a full disk or a second run cannot spoil: locking, replacing, syncing. Knows nothing of tokens.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::NamedTempFile;

use crate::error::{Error, Result};

/// How often a lock that another run holds is tried.
const POLL: Duration = Duration::from_millis(50);

/// A lock on a file, held by one run at a time and released by the last clone's drop.
#[derive(Clone)]
pub(crate) enum Lock {
    /// On a lock file beside the file. It says which process holds it, and a word of the holder's own.
    Beside(Rc<File>),
    /// On the file itself, where no lock file can be made. Such a file must be overwritten in place: a rename would put
    /// a file there that nobody has locked.
    Itself { _held: Rc<File> },
}

impl Lock {
    /// Waits until no other run holds the lock. `None` where there is nothing to lock, and nothing to make a lock in.
    ///
    /// # Errors
    /// When the lock is still held after `timeout`, or this user may not lock the file.
    pub(super) fn acquire(target: &Path, timeout: Duration) -> Result<Option<Lock>> {
        let lock_path = beside(target, ".lock");
        loop {
            if let Some(file) = open_lock_file(&lock_path, target)? {
                wait_for(&file, &lock_path, timeout)?;
                let lock = Lock::Beside(Rc::new(file));
                // Names this process to whoever waits next.
                lock.write_note(&lock.note().unwrap_or_default());
                return Ok(Some(lock));
            }
            let Ok(file) = File::options().read(true).write(true).open(target) else { return Ok(None) };
            wait_for(&file, target, timeout)?;
            // Meanwhile, a run that may create files there can have made the lock file and replaced the target.
            if !lock_path.exists() {
                return Ok(Some(Lock::Itself { _held: Rc::new(file) }));
            }
        }
    }

    /// The word that the last holder left.
    pub(super) fn note(&self) -> Option<String> {
        let Lock::Beside(file) = self else { return None };
        Some(read_note(file)?.1)
    }

    /// Leaves a word for the next holder. A lock file of another user may not take it.
    pub(super) fn write_note(&self, note: &str) {
        let Lock::Beside(file) = self else { return };
        let mut file = &**file;
        let _ = file.set_len(0).and_then(|()| write!(file, "{} {note}", std::process::id()));
    }
}

/// The process that wrote the lock file, and its note.
fn read_note(mut file: &File) -> Option<(u32, String)> {
    let mut text = String::new();
    file.rewind().and_then(|()| file.read_to_string(&mut text)).ok()?;
    let (process, note) = text.split_once(' ')?;
    Some((process.parse().ok()?, note.to_owned()))
}

/// Opens the lock file, which is never removed. `None` where there is none and none can be made.
fn open_lock_file(path: &Path, target: &Path) -> Result<Option<File>> {
    let mut options = File::options();
    options.read(true).append(true);
    if let Ok(file) = options.clone().create_new(true).open(path) {
        #[cfg(unix)]
        let _ = {
            use std::os::unix::fs::PermissionsExt;
            // For every user of the target, whatever the umask is.
            file.set_permissions(fs::Permissions::from_mode(0o644))
        };
        give_to_owner(&file, target);
        return Ok(Some(file));
    }
    // A file that cannot be written can be locked as well; only the note is lost.
    match options.open(path).or_else(|_| File::open(path)) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Failed(format!("cannot lock {}: {e}", path.display()))),
    }
}

fn wait_for(file: &File, path: &Path, timeout: Duration) -> Result<()> {
    let path = path.display();
    let holder = || read_note(file).map_or("another run".to_owned(), |(pid, _)| format!("another run (process {pid})"));
    let start = Instant::now();
    let mut waiting = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if start.elapsed() >= timeout => {
                return Err(Error::Failed(format!(
                    "{path}: {} has held this lock for {} s (lock_timeout). It may be stopped or stuck: end it and run \
                     again, or raise lock_timeout",
                    holder(),
                    timeout.as_secs()
                )));
            }
            Err(TryLockError::WouldBlock) => {
                if !waiting {
                    log::info!(
                        "{} holds {path}; waiting for it, {} s at most (lock_timeout)",
                        holder(),
                        timeout.as_secs()
                    );
                    waiting = true;
                }
                thread::sleep(POLL.min(timeout));
            }
            // Some network file systems have no locks.
            Err(TryLockError::Error(e)) => {
                log::warn!(
                    "{path} cannot be locked ({e}); make sure that no other run uses this login at the same time"
                );
                return Ok(());
            }
        }
    }
}

/// The path with a suffix: a file that stands beside another.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Where symbolic links lead, even to a file that does not exist yet. Replacing that file leaves the links as they are.
pub(crate) fn follow_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many as Linux follows.
    for _ in 0..40 {
        let Ok(to) = fs::read_link(&path) else { break };
        path = folder(&path).join(to);
    }
    path
}

/// The folder that a file is in.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether a new content could be written: by replacing the file, or by overwriting it.
pub(super) fn check_writable(target: &Path) -> io::Result<()> {
    let Err(e) = NamedTempFile::new_in(folder(target)) else { return Ok(()) };
    File::options().write(true).open(target).map(drop).map_err(|_| e)
}

/// A new file beside the target, with mode 0600 and `size` bytes of disk that [`fill`] can count on. It replaces a file
/// that a killed run left there, and is removed when dropped.
pub(super) fn reserve(target: &Path, suffix: &str, size: u64) -> io::Result<NamedTempFile> {
    let mut file = create_beside(target, suffix)?;
    io::copy(&mut io::repeat(b' ').take(size), &mut file)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// Writes text into a reserved file, durably, and gives back what room it does not need.
pub(super) fn fill(file: &mut NamedTempFile, text: &[u8]) -> io::Result<()> {
    file.rewind()?;
    file.write_all(text)?;
    file.as_file().set_len(text.len() as u64)?;
    file.as_file().sync_all()
}

/// Puts a new content into the target, so that a crash at any moment leaves the old file or the new one whole.
pub(crate) fn replace(target: &Path, content: &str) -> io::Result<()> {
    let mut file = create_beside(target, ".new")?;
    file.write_all(content.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(target).map_err(|e| e.error)?;
    // The rename itself lasts only once the folder is synced.
    File::open(folder(target)).and_then(|folder| folder.sync_all()).ok();
    Ok(())
}

/// Writes a new content over the old one: for a file that is mounted by itself, or stands in another user's folder.
/// Readers must not mind spaces at the end. Where the disk is full, the old content stays.
pub(super) fn overwrite(target: &Path, content: &str) -> io::Result<()> {
    let old = fs::read(target)?;
    let mut file = File::options().write(true).open(target)?;
    grow(&mut file, content.len().saturating_sub(old.len()) as u64)?;
    // One write that covers the whole old content, so that there is no moment at which the file is empty or cut short.
    let spaces = old.len().saturating_sub(content.len());
    let padded = [content, &" ".repeat(spaces)].concat();
    let written = file.rewind().and_then(|()| file.write_all(padded.as_bytes()));
    if written.is_err() {
        // A file system that writes each block to a new place can be full even so.
        let _ = file.rewind().and_then(|()| file.write_all(&old)).and_then(|()| file.set_len(old.len() as u64));
    }
    written?;
    file.set_len(content.len() as u64)?;
    file.sync_all()
}

/// Fails if the target could not be overwritten, or there is no room for `size` more bytes.
pub(super) fn check_room(target: &Path, size: u64) -> io::Result<()> {
    let mut file = File::options().write(true).open(target)?;
    let length = file.metadata()?.len();
    grow(&mut file, size)?;
    file.set_len(length)
}

/// Adds spaces at the end of the file, or leaves it as it is.
fn grow(file: &mut File, size: u64) -> io::Result<()> {
    let length = file.seek(SeekFrom::End(0))?;
    let grown = io::copy(&mut io::repeat(b' ').take(size), file).and_then(|_| file.sync_all());
    if grown.is_err() {
        let _ = file.set_len(length);
    }
    grown
}

fn create_beside(target: &Path, suffix: &str) -> io::Result<NamedTempFile> {
    let path = beside(target, suffix);
    let _ = fs::remove_file(&path);
    let name = path.file_name().unwrap_or_default();
    let file = tempfile::Builder::new().prefix(name).rand_bytes(0).tempfile_in(folder(&path))?;
    give_to_owner(file.as_file(), target);
    Ok(file)
}

/// Gives a file that root made to the owner of the target, or of its folder where there is no target yet. Other users
/// can give nothing away, and need not.
#[cfg(unix)]
fn give_to_owner(file: &File, target: &Path) {
    use std::os::unix::fs::{MetadataExt, fchown};
    if let Ok(owner) = fs::metadata(target).or_else(|_| fs::metadata(folder(target))) {
        let _ = fchown(file, Some(owner.uid()), Some(owner.gid()));
    }
}

#[cfg(not(unix))]
fn give_to_owner(_: &File, _: &Path) {}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file.json");
        (folder, path)
    }

    fn names(folder: &tempfile::TempDir) -> Vec<String> {
        let names = fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    #[test]
    fn a_lock_is_waited_for_and_names_its_holder() {
        let (_folder, target) = target();
        let first = Lock::acquire(&target, Duration::ZERO).unwrap().unwrap();
        first.write_note("a note");
        let refused = Lock::acquire(&target, Duration::from_millis(120)).map(drop).unwrap_err().to_string();
        let process = format!("process {}", std::process::id());
        assert!(refused.contains(&process) && refused.contains("lock_timeout"), "{refused}");
        thread::scope(|scope| {
            let second = scope.spawn(|| {
                let lock = Lock::acquire(&target, Duration::from_secs(20)).unwrap().unwrap();
                lock.note()
            });
            thread::sleep(Duration::from_millis(80));
            assert!(!second.is_finished());
            drop(first);
            assert_eq!(second.join().unwrap().as_deref(), Some("a note"));
        });
    }

    #[cfg(unix)]
    #[test]
    fn the_file_itself_is_locked_where_no_lock_file_can_be_made() {
        let (folder, target) = target();
        assert!(Lock::acquire(&folder.path().join("no/file.json"), Duration::ZERO).unwrap().is_none());
        fs::write(&target, "{}").unwrap();
        // In the way of a lock file, though not even root can create it.
        std::os::unix::fs::symlink("no/such/folder", beside(&target, ".lock")).unwrap();
        let lock = Lock::acquire(&target, Duration::ZERO).unwrap().unwrap();
        assert!(matches!(lock, Lock::Itself { .. }));
        lock.write_note("nowhere");
        assert_eq!((lock.note(), fs::read_to_string(&target).unwrap().as_str()), (None, "{}"));
        assert!(Lock::acquire(&target, Duration::ZERO).is_err());
    }

    #[test]
    fn replacing_leaves_nothing_but_the_new_content() {
        let (folder, target) = target();
        // Left by a killed run.
        fs::write(beside(&target, ".new"), "half").unwrap();
        for content in ["first", "a longer second", "3"] {
            replace(&target, content).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
            assert_eq!(names(&folder), ["file.json"]);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o600);
        }
        // Where it cannot be done, the old file stays.
        fs::create_dir_all(beside(&target, ".new").join("in the way")).unwrap();
        assert!(replace(&target, "fourth").is_err());
        assert_eq!(fs::read_to_string(&target).unwrap(), "3");
    }

    #[test]
    fn overwriting_leaves_nothing_of_the_old_content() {
        let (_folder, target) = target();
        fs::write(&target, "the old content").unwrap();
        for content in ["new", "a new content that is longer", "ä", ""] {
            overwrite(&target, content).unwrap();
            assert_eq!(fs::read_to_string(&target).unwrap(), content);
        }
        check_room(&target, 100).unwrap();
        assert_eq!(fs::read_to_string(&target).unwrap(), "");
        assert!(overwrite(&beside(&target, ".no"), "new").is_err());
    }

    #[test]
    fn a_reserved_file_takes_its_text_and_goes_unless_kept() {
        let (folder, target) = target();
        let mut file = reserve(&target, ".next", 10).unwrap();
        assert_eq!(fs::read(beside(&target, ".next")).unwrap(), [b' '; 10]);
        fill(&mut file, b"text").unwrap();
        assert_eq!(fs::read(beside(&target, ".next")).unwrap(), b"text");
        drop(file);
        assert!(names(&folder).is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_to_a_file_that_is_not_there_yet() {
        let (folder, target) = target();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("file.json", &link).unwrap();
        assert_eq!(follow_links(&link), target);
        assert_eq!(follow_links(&target), target);
        // One that leads to itself.
        let circle = folder.path().join("circle");
        std::os::unix::fs::symlink("circle", &circle).unwrap();
        assert_eq!(follow_links(&circle), circle);
    }
}
