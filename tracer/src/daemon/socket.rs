//! The control socket: creates it, checks it, and decides who may use it.

use std::{
    ffi::CString,
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::{FileTypeExt as _, PermissionsExt as _},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};

/// How long another daemon may take to bind its socket.
const LOCKED_WITHIN: Duration = Duration::from_secs(2);

/// A bound control socket; its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    /// The group that may use it, as root may.
    pub(super) group: Option<u32>,
}

impl ControlSocket {
    /// Binds the socket, for root and, if it exists, the group.
    ///
    /// # Errors
    ///
    /// Another daemon listens there, the path is something else, or it cannot be created.
    pub(super) fn bind(path: &Path, group: &str) -> anyhow::Result<(Self, UnixListener)> {
        let context = || format!("failed to create the control socket {}", path.display());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        fs::create_dir_all(folder).with_context(context)?;
        // Two daemons that start at once must not take each other's socket for a stale one.
        let alone = alone_in(folder).with_context(context)?;
        remove_stale(path).with_context(context)?;
        let listener = UnixListener::bind(path).with_context(context)?;
        drop(alone);
        listener.set_nonblocking(true).with_context(context)?;
        let gid = group_id(group);
        if let Some(gid) = gid {
            std::os::unix::fs::chown(path, None, Some(gid)).with_context(context)?;
        }
        fs::set_permissions(path, fs::Permissions::from_mode(0o660)).with_context(context)?;
        Ok((Self { path: path.to_owned(), group: gid }, listener))
    }

    /// Whether the peer may control the daemon: root, the daemon's user, or a member of the group. The
    /// file's permissions say the same, but somebody may change them.
    pub(super) fn allows(&self, peer: &tokio::net::UnixStream) -> bool {
        let Ok(credentials) = peer.peer_cred() else { return false };
        // SAFETY: the call has no preconditions.
        let own = unsafe { libc::geteuid() };
        credentials.uid() == 0
            || credentials.uid() == own
            || self.group.is_some_and(|group| {
                credentials.gid() == group || peer_groups(peer).contains(&group)
            })
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Keeps other daemons from starting in this folder until the file is closed. A lock that is held for
/// long is not a daemon's, and is not waited for.
fn alone_in(folder: &Path) -> io::Result<fs::File> {
    let folder = fs::File::open(folder)?;
    let deadline = Instant::now() + LOCKED_WITHIN;
    while folder.try_lock().is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(folder)
}

/// A killed daemon leaves its socket behind; a living one answers on it.
fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let kind = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if !kind.is_socket() {
        bail!("the path exists and is not a socket");
    }
    match UnixStream::connect(path) {
        Ok(_) => bail!("another faultline daemon is listening there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(
                "replacing the socket {}, left by a daemon that was killed",
                path.display()
            );
            Ok(fs::remove_file(path)?)
        }
        Err(error) => Err(error).context("cannot tell whether another daemon is listening there"),
    }
}

/// The number of a group, if there is one of that name.
fn group_id(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    let mut group = MaybeUninit::<libc::group>::zeroed();
    let mut buffer = vec![0_u8; 64 * 1024];
    let mut found = std::ptr::null_mut();
    // SAFETY: all pointers are valid for what the call does with them, and the buffer is as long
    // as it is said to be.
    let done = unsafe {
        libc::getgrnam_r(
            name.as_ptr(),
            group.as_mut_ptr(),
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &raw mut found,
        )
    };
    if done != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call has found a group and filled it in.
    let group = unsafe { group.assume_init() };
    Some(group.gr_gid)
}

/// The supplementary groups that the peer had when it connected.
fn peer_groups(peer: &tokio::net::UnixStream) -> Vec<u32> {
    let mut groups = vec![0_u32; 65_536];
    let mut bytes = size_of_val(groups.as_slice()) as libc::socklen_t;
    // SAFETY: the buffer is as long as it is said to be, and the kernel says how much it filled.
    let done = unsafe {
        libc::getsockopt(
            peer.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERGROUPS,
            groups.as_mut_ptr().cast(),
            &raw mut bytes,
        )
    };
    groups.truncate(if done == 0 { bytes as usize / size_of::<u32>() } else { 0 });
    groups
}
