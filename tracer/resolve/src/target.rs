//! From a target's text to an open file.
//!
//! Takes a path, a library name or a command and a view's [`Root`]; returns the files and the names
//! that reports use for them. Looks at contents only to check that a library found by name is one for
//! this machine.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use object::read::ReadCache;

use super::elf::{Arch, Frame};
use super::error::{Hint, ResolveError, TargetKind};
use super::ldcache::{self, CachedLibrary};
use super::library_name::{best_version, is_library_name, is_version_of, version_key};
use super::object_file::{FileId, Opened};
use super::process::{self, Mapping, MappingSource};
use super::suggest;
use super::view::{ProcessRoot, Root, process_error};

/// Where the loader looks when its cache has no answer.
const LIBRARY_DIRECTORIES: [&str; 6] =
    ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib64", "/usr/local/lib"];

/// Where a shell searches if `PATH` is not set.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A target's file.
#[derive(Debug)]
pub(super) struct Located {
    pub(super) opened: Opened,
    pub(super) id: FileId,
    /// The base name in labels; `None` where the library's own name is the one to use.
    pub(super) base: Option<String>,
    /// Deleted or replaced at its path; a process still has it mapped.
    pub(super) is_deleted: bool,
}

/// The names of a view, read once each.
#[derive(Debug, Default)]
pub(super) struct Targets {
    libraries: Option<Vec<CachedLibrary>>,
    mapped: Option<Vec<Mapping>>,
    commands: Option<Vec<PathBuf>>,
}

impl Targets {
    /// The files that a target names: several only if a process maps more than one of that name. The
    /// newest comes first.
    pub(super) fn locate(
        &mut self,
        root: &Root,
        target: &str,
    ) -> Result<Vec<Located>, ResolveError> {
        if let Root::Process(process) = root {
            process.check_alive()?;
        }
        if target.contains('/') {
            return locate_path(root, target).map(|located| vec![located]);
        }
        if let Root::Process(process) = root {
            let located = self.locate_mapped(root, process, target)?;
            if !located.is_empty() {
                return Ok(located);
            }
        }
        let found = if is_library_name(target) {
            match self.locate_library(root, target) {
                Some(located) => Some(located),
                None => self.locate_command(root, target)?,
            }
        } else {
            self.locate_command(root, target)?
        };
        match found {
            Some(located) => Ok(vec![located]),
            None => Err(self.no_such_name(root, target)),
        }
    }

    /// The files of a name that the process has mapped as code, the program itself among them.
    fn locate_mapped(
        &mut self,
        root: &Root,
        process: &ProcessRoot,
        target: &str,
    ) -> Result<Vec<Located>, ResolveError> {
        let mapped = self.mapped(process)?;
        let named = |test: &dyn Fn(&str) -> bool| -> Vec<&Mapping> {
            let fits = |mapping: &&Mapping| base_name(mapping).is_some_and(|name| test(&name));
            mapped.iter().filter(fits).collect()
        };
        let mut mappings = named(&|name| name == target);
        if mappings.is_empty() {
            mappings = named(&|name| is_version_of(name, target));
        }
        // musl's loader is its libc.
        if mappings.is_empty() && (target == "libc" || target.starts_with("libc.so")) {
            mappings = named(&|name| name.starts_with("ld-musl-"));
        }
        mappings
            .sort_by_key(|mapping| Reverse(version_key(&base_name(mapping).unwrap_or_default())));
        let base = if is_library_name(target) { None } else { Some(target.to_owned()) };
        let located = mappings.iter().map(|mapping| {
            let is_deleted = matches!(mapping.source, MappingSource::File { deleted: true, .. });
            let opened = open_mapped(root, process, mapping)?;
            Ok(Located { is_deleted, ..located(opened, base.clone())? })
        });
        all_that_work(located.collect(), Some(process.pid))
    }

    fn mapped(&mut self, process: &ProcessRoot) -> Result<&[Mapping], ResolveError> {
        if self.mapped.is_none() {
            let maps = process::maps(process.pid)
                .map_err(|source| process_error(process.pid, "maps", source))?;
            process.check_alive()?;
            let mut seen = HashSet::new();
            let code = maps.into_iter().filter(|mapping| {
                mapping.permissions.execute
                    && matches!(mapping.source, MappingSource::File { .. })
                    && seen.insert((mapping.device, mapping.inode))
            });
            self.mapped = Some(code.collect());
        }
        Ok(self.mapped.as_deref().unwrap_or_default())
    }

    /// By the loader's cache, and by its directories where that has no answer.
    fn locate_library(&mut self, root: &Root, target: &str) -> Option<Located> {
        let cached = best_version(self.libraries(root), target, |library| &library.name);
        if let Some(library) = cached
            && let Ok(opened) = open_regular(root, &library.path)
        {
            return located(opened, Some(library.name.clone())).ok();
        }
        library_directories()
            .iter()
            .find_map(|directory| locate_library_in(root, directory, target))
    }

    fn libraries(&mut self, root: &Root) -> &[CachedLibrary] {
        self.libraries.get_or_insert_with(|| {
            root.read(Path::new("/etc/ld.so.cache"))
                .map_or_else(|_| Vec::new(), |bytes| ldcache::parse(&bytes))
        })
    }

    fn locate_command(
        &mut self,
        root: &Root,
        target: &str,
    ) -> Result<Option<Located>, ResolveError> {
        let mut denied = None;
        for directory in self.command_directories(root)? {
            let opened = match open_regular(root, &directory.join(target)) {
                Ok(opened) => opened,
                Err(ResolveError::Unreadable { source, .. }) if is_missing(&source) => continue,
                Err(error @ ResolveError::Unreadable { .. }) => {
                    denied.get_or_insert(error);
                    continue;
                }
                Err(_) => continue,
            };
            let is_executable = |metadata: Metadata| metadata.permissions().mode() & 0o111 != 0;
            if opened.file.metadata().is_ok_and(is_executable) {
                return located(opened, Some(target.to_owned())).map(Some);
            }
        }
        denied.map_or(Ok(None), Err)
    }

    fn command_directories(&mut self, root: &Root) -> Result<&[PathBuf], ResolveError> {
        if self.commands.is_none() {
            let path = match root {
                Root::Host => std::env::var_os("PATH"),
                Root::Process(process) => process_path(process)?,
            };
            let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
            // A relative entry depends on a shell's directory, which a probe does not have.
            let absolute = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
            self.commands = Some(absolute.collect());
        }
        Ok(self.commands.as_deref().unwrap_or_default())
    }

    fn no_such_name(&mut self, root: &Root, target: &str) -> ResolveError {
        let is_library = is_library_name(target);
        let kind = if is_library { TargetKind::Library } else { TargetKind::Command };
        let mut names: Vec<String> = Vec::new();
        if let Root::Process(process) = root
            && let Ok(mapped) = self.mapped(process)
        {
            names.extend(mapped.iter().filter_map(base_name));
        }
        names.extend(self.libraries(root).iter().map(|library| library.name.clone()));
        if !is_library {
            for directory in self.command_directories(root).unwrap_or_default() {
                let entries = root.names_in(directory);
                names.extend(entries.into_iter().filter_map(|name| name.into_string().ok()));
            }
        }
        // `libsll` is as near to `libssl` as `libsll.so.3` is to `libssl.so.3`.
        let whole = target.contains(".so");
        let stem = |name: &str| name.find(".so").unwrap_or(name.len());
        let candidates = names.iter().map(|name| if whole { name } else { &name[..stem(name)] });
        let hint = match suggest::nearest(target, candidates) {
            _ if target.is_empty() => Hint::note("a target is a path, a library or a command"),
            Some(near) => Hint::near(near),
            None if matches!(root, Root::Host) && Path::new(target).is_file() => {
                Hint::note(format!("for the file in the current directory, write `./{target}`"))
            }
            None => looked_in(root, kind),
        };
        ResolveError::NoSuchTarget { target: target.to_owned(), kind, hint }
    }
}

/// The files of one name that can be probed, or the error if none can. The others are logged.
pub(super) fn all_that_work<T>(
    tried: Vec<Result<T, ResolveError>>,
    pid: Option<process::Pid>,
) -> Result<Vec<T>, ResolveError> {
    let (mut working, mut failed) = (Vec::new(), Vec::new());
    for one in tried {
        match one {
            Ok(one) => working.push(one),
            Err(error) => failed.push(error),
        }
    }
    if working.is_empty()
        && let Some(error) = failed.pop()
    {
        return Err(error);
    }
    if let Some(pid) = pid {
        for error in failed {
            tracing::warn!(
                "process {pid} maps another file of this name, which is not probed: {error}"
            );
        }
    }
    Ok(working)
}

fn looked_in(root: &Root, kind: TargetKind) -> Hint {
    match root {
        Root::Process(process) => Hint::note(format!(
            "searched the files that process {} maps, and its root directory",
            process.pid
        )),
        Root::Host if kind == TargetKind::Library => {
            Hint::note("searched /etc/ld.so.cache and the library directories")
        }
        Root::Host => Hint::note("searched PATH"),
    }
}

fn library_directories() -> Vec<PathBuf> {
    let triplet = match Arch::HOST {
        Arch::X86_64 => "x86_64-linux-gnu",
        Arch::Aarch64 => "aarch64-linux-gnu",
    };
    let plain = LIBRARY_DIRECTORIES.map(PathBuf::from);
    let below = ["/lib", "/usr/lib", "/usr/local/lib"].map(|above| Path::new(above).join(triplet));
    below.into_iter().chain(plain).collect()
}

/// The newest file of that name that is a library for this machine: the directories also hold
/// 32-bit ones, and linker scripts.
fn locate_library_in(root: &Root, directory: &Path, target: &str) -> Option<Located> {
    let entries = root.names_in(directory).into_iter();
    let mut names: Vec<_> = entries
        .filter_map(|name| name.into_string().ok())
        .filter(|name| is_version_of(name, target))
        .collect();
    names.sort_by_key(|name| (name == target && target.contains(".so."), version_key(name)));
    names.into_iter().rev().find_map(|name| {
        let opened = open_regular(root, &directory.join(&name)).ok()?;
        Frame::read(&ReadCache::new(&opened.file)).ok()?;
        located(opened, Some(name)).ok()
    })
}

fn locate_path(root: &Root, target: &str) -> Result<Located, ResolveError> {
    let base = Path::new(target).file_name().map(|name| name.to_string_lossy().into_owned());
    let path = match root {
        Root::Host => PathBuf::from(target),
        Root::Process(process) => {
            let pid = process.pid;
            let directory = fs::read_link(pid.path("cwd"))
                .map_err(|source| process_error(pid, "cwd", source))?;
            root.inside(directory).join(target)
        }
    };
    let opened = open_regular(root, &path).map_err(|error| match error {
        ResolveError::Unreadable { source, .. } if is_missing(&source) => {
            ResolveError::NoSuchTarget {
                target: target.to_owned(),
                kind: TargetKind::File,
                hint: near_file(root, &path).map(Hint::near).unwrap_or_default(),
            }
        }
        other => other,
    })?;
    located(opened, base)
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR))
}

fn near_file(root: &Root, path: &Path) -> Option<String> {
    let (directory, wanted) = (path.parent()?, path.file_name()?.to_str()?);
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    let names: Vec<_> =
        root.names_in(directory).into_iter().filter_map(|name| name.into_string().ok()).collect();
    let near = suggest::nearest(wanted, names.iter().map(String::as_str))?;
    Some(path.with_file_name(near).display().to_string())
}

fn located(opened: Opened, base: Option<String>) -> Result<Located, ResolveError> {
    let metadata = metadata(&opened)?;
    Ok(Located { id: FileId::of(&metadata), opened, base, is_deleted: false })
}

fn metadata(opened: &Opened) -> Result<Metadata, ResolveError> {
    let fail = |source| ResolveError::Unreadable { path: opened.shown.clone(), source };
    opened.file.metadata().map_err(fail)
}

/// Opens a file that is one: no directory, no device.
fn open_regular(root: &Root, path: &Path) -> Result<Opened, ResolveError> {
    let shown = path.to_owned();
    let file = match root.open(path) {
        Ok(file) => file,
        Err(source) => return Err(ResolveError::Unreadable { path: shown, source }),
    };
    let outside = root.outside(path);
    let path = std::path::absolute(&outside).unwrap_or(outside);
    let opened = Opened { file, shown, path };
    let kind = metadata(&opened)?.file_type();
    if kind.is_file() {
        return Ok(opened);
    }
    let kind = match kind {
        kind if kind.is_dir() => "directory",
        kind if kind.is_fifo() => "pipe",
        kind if kind.is_socket() => "socket",
        _ => "device",
    };
    Err(ResolveError::NotAFile { path: opened.shown, kind })
}

/// Opens the very file that is mapped: by its path if that still leads to it, else by the mapping.
fn open_mapped(
    root: &Root,
    process: &ProcessRoot,
    mapping: &Mapping,
) -> Result<Opened, ResolveError> {
    let MappingSource::File { path, deleted } = &mapping.source else {
        return Err(ResolveError::NotAFile { path: PathBuf::new(), kind: "device" });
    };
    let shown = root.inside(path.clone());
    let by_path = open_regular(root, &shown);
    if let Ok(opened) = &by_path
        && metadata(opened)?.ino() == mapping.inode
    {
        return by_path;
    }
    let link = format!("map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
    let path = process.pid.path(&link);
    match File::open(&path) {
        Ok(file) => Ok(Opened { file, shown, path }),
        // Some filesystems show one inode here and another there; the path is still in use.
        Err(_) if !deleted && by_path.is_ok() => by_path,
        Err(source) => Err(ResolveError::Unreadable { path, source }),
    }
}

fn base_name(mapping: &Mapping) -> Option<String> {
    match &mapping.source {
        MappingSource::File { path, .. } => {
            path.file_name().map(|name| name.to_string_lossy().into_owned())
        }
        MappingSource::Special(_) | MappingSource::Anonymous => None,
    }
}

/// `PATH` as the process was started with it.
fn process_path(process: &ProcessRoot) -> Result<Option<OsString>, ResolveError> {
    let environment = fs::read(process.pid.path("environ"))
        .map_err(|source| process_error(process.pid, "environ", source))?;
    let path = environment
        .split(|&byte| byte == 0)
        .find_map(|variable| variable.strip_prefix(b"PATH="))
        .map(|path| OsString::from_vec(OsStr::from_bytes(path).as_bytes().to_vec()));
    Ok(path)
}
