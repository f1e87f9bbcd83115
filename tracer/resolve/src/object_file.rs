//! One program or library, parsed.
//!
//! Takes an open file; gives its identity, its code and its symbols. The file stays open: the
//! probes go on the file that was parsed, whatever its path names later, and code is read from it.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use object::elf;
use object::read::ReadCache;

use super::address::{ElfAddr, FileOffset};
use super::copies::{self, CopiesCode};
use super::debugfile;
use super::demangle::DemangledNames;
use super::elf::{Arch, FormatError, Frame, Segment};
use super::error::ResolveError;
use super::golang::GoProgram;
use super::loading::Loading;
use super::symbols::{SymbolKind, Symbols};
use super::unwound;
use super::view::{Root, descriptor_path};

/// What makes two names the same file, and unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FileId {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_s: i64,
    modified_ns: i64,
}

impl FileId {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_s: metadata.mtime(),
            modified_ns: metadata.mtime_nsec(),
        }
    }

    /// Its length.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether the two may be one file below, seen through two overlay mounts: all but the device
    /// is the same.
    #[must_use]
    pub fn differs_by_device_alone(&self, other: &Self) -> bool {
        Self { device: other.device, ..*self } == *other && self != other
    }

    /// Whether this is the file's metadata: on the same filesystem, whatever it contains by now.
    pub(super) fn is_file_of(&self, metadata: &Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }

    /// The inode number on its filesystem.
    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }
}

/// Where symbols came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SymbolSource {
    /// `.symtab`: every symbol.
    Symtab,
    /// `.dynsym`: what the file exports and imports.
    Dynsym,
    /// A separate debug file.
    DebugFile(PathBuf),
    /// `.gnu_debugdata`: function names only.
    MiniDebugInfo,
}

/// Where the code of a function or a label is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeExtent {
    /// Of the first instruction.
    pub address: ElfAddr,
    /// Its length; 0 if the symbol does not say.
    pub size_bytes: u64,
    /// The compiler split it off a function, which jumps to it.
    pub is_cold: bool,
}

/// `f.cold`, `f.cold.3`.
fn is_cold(name: &[u8]) -> bool {
    let mut parts = name.split(|byte| *byte == b'.').skip(1);
    parts.any(|part| part == b"cold")
}

/// A file whose functions can be probed.
#[derive(Debug)]
pub struct ObjectFile {
    id: FileId,
    file: File,
    path: PathBuf,
    shown: PathBuf,
    arch: Arch,
    entry: ElfAddr,
    build_id: Option<Vec<u8>>,
    soname: Option<String>,
    needed: Vec<String>,
    go: Option<GoProgram>,
    catches_exceptions: bool,
    segments: Vec<Segment>,
    loading: Loading,
    /// Functions that have unwind information, with their sizes; read at the first question.
    unwound: OnceLock<Vec<(ElfAddr, u64)>>,
    copies: OnceLock<Option<CopiesCode>>,
    sources: Vec<SymbolSource>,
    interpreter: Option<PathBuf>,
    debug_search: debugfile::Search,
    pub(super) symbols: Symbols,
    demangled: OnceLock<DemangledNames>,
}

/// An open file and its names.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    /// As the view names it.
    pub(super) shown: PathBuf,
    /// As this program can open it.
    pub(super) path: PathBuf,
}

impl ObjectFile {
    pub(super) fn load(root: &Root, opened: Opened, id: FileId) -> Result<Self, ResolveError> {
        let fail = |error| named(error, &opened);
        let cache = ReadCache::new(&opened.file);
        let frame = Frame::read(&cache).map_err(fail)?;
        frame.check_code().map_err(fail)?;

        let mut symbols = Symbols::default();
        let mut sources = Vec::new();
        let has_symtab = symbols.add(&frame, elf::SHT_SYMTAB).map_err(fail)?;
        sources.extend(has_symtab.then_some(SymbolSource::Symtab));
        let has_dynsym = symbols.add(&frame, elf::SHT_DYNSYM).map_err(fail)?;
        sources.extend(has_dynsym.then_some(SymbolSource::Dynsym));
        let mut debug_search = debugfile::Search::default();
        // What strips a file may keep some symbols; it leaves a link to the rest.
        if !has_symtab || frame.has_section(".gnu_debuglink") {
            let directories = directories(root, &opened);
            debug_search = debugfile::add_debug_file(&mut symbols, root, &frame, &directories);
            match &debug_search.found {
                Some(path) => sources.push(SymbolSource::DebugFile(path.clone())),
                None if debugfile::add_mini_debug_info(&mut symbols, &frame) => {
                    sources.push(SymbolSource::MiniDebugInfo);
                }
                None => {}
            }
        }
        let build_id = frame.build_id().map(<[u8]>::to_vec);
        let soname = frame.dynamic_strings(elf::DT_SONAME).into_iter().next();
        let needed = frame.dynamic_strings(elf::DT_NEEDED);
        let go = GoProgram::of(&frame);
        let catches_exceptions = frame.has_section(".gcc_except_table");
        let frame_interpreter = frame.interpreter();
        let loading = Loading::of(&frame);
        let (arch, entry, segments) = (frame.arch, frame.entry, frame.segments);
        drop(cache);
        let Opened { file, shown, path } = opened;
        Ok(Self {
            id,
            file,
            path,
            shown,
            arch,
            entry,
            build_id,
            soname,
            needed,
            go,
            catches_exceptions,
            segments,
            loading,
            unwound: OnceLock::new(),
            copies: OnceLock::new(),
            sources,
            interpreter: frame_interpreter,
            debug_search,
            symbols,
            demangled: OnceLock::new(),
        })
    }

    /// Which file it is, by any name.
    #[must_use]
    pub fn id(&self) -> FileId {
        self.id
    }

    /// Its path as the view names it: for people.
    #[must_use]
    pub fn shown_path(&self) -> &Path {
        &self.shown
    }

    /// Its path as this program can open it: below `/proc/PID` in a process's view.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path to attach by, which leads to exactly the file that was parsed, even if it was
    /// replaced or deleted since: the kernel follows it to this program's open file. It works as
    /// long as this value lives.
    #[must_use]
    pub fn attach_path(&self) -> PathBuf {
        descriptor_path(&self.file)
    }

    /// The machine it is for: always this one.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// Where a program starts.
    #[must_use]
    pub fn entry(&self) -> ElfAddr {
        self.entry
    }

    /// The linker's hash of its contents.
    #[must_use]
    pub fn build_id(&self) -> Option<&[u8]> {
        self.build_id.as_deref()
    }

    /// A library's own name (`DT_SONAME`).
    #[must_use]
    pub fn soname(&self) -> Option<&str> {
        self.soname.as_deref()
    }

    /// The libraries that it asks for (`DT_NEEDED`).
    #[must_use]
    pub fn needed(&self) -> &[String] {
        &self.needed
    }

    /// What the loader maps, in the file's order.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Where its symbols came from.
    #[must_use]
    pub fn symbol_sources(&self) -> &[SymbolSource] {
        &self.sources
    }

    /// The debug files that were looked for because the file itself is stripped.
    #[must_use]
    pub fn debug_files_looked_for(&self) -> &[PathBuf] {
        &self.debug_search.looked_for
    }

    /// Of these, debug files that exist but belong to another build of the file.
    #[must_use]
    pub fn debug_files_of_other_builds(&self) -> &[PathBuf] {
        &self.debug_search.foreign
    }

    /// The separate debug file, as this program can open it, if one was found.
    pub(super) fn debug_file(&self) -> Option<&Path> {
        self.debug_search.openable.as_deref()
    }

    /// The dynamic loader that a program asks for; `None` for a statically linked one, and for most
    /// libraries.
    #[must_use]
    pub fn interpreter(&self) -> Option<&Path> {
        self.interpreter.as_deref()
    }

    /// The open file, for whoever reads other parts of it.
    pub(super) fn opened(&self) -> &File {
        &self.file
    }

    /// What it says about itself if it is a Go program, or a library of one.
    #[must_use]
    pub fn go(&self) -> Option<&GoProgram> {
        self.go.as_ref()
    }

    /// Whether Go's compiler or assembler has made the code at an address: a program may have C in it, too.
    #[must_use]
    pub fn is_go_code(&self, address: ElfAddr) -> bool {
        let at = |name: &str| {
            let found = self.symbols.named(name.as_bytes()).next();
            found.map(|id| self.symbols.get(id).address)
        };
        self.go.is_some()
            && at("runtime.text").is_none_or(|start| start <= address)
            && at("runtime.etext").is_none_or(|end| address < end)
    }

    /// Whether it has tables that say what to do when an exception passes through its functions.
    #[must_use]
    pub fn catches_exceptions(&self) -> bool {
        self.catches_exceptions
    }

    /// Whether it uses a function of this name from another file.
    #[must_use]
    pub fn imports_any(&self, names: &[&str]) -> bool {
        let is_import = |id| self.symbols.get(id).kind == SymbolKind::Undefined;
        names.iter().any(|name| self.symbols.named(name.as_bytes()).any(is_import))
    }

    /// Whether functions that the file does not export have names.
    #[must_use]
    pub fn has_local_symbols(&self) -> bool {
        self.sources.iter().any(|source| *source != SymbolSource::Dynsym)
    }

    /// Where in the file the code at an address is; `None` if there is none, as in a section of data
    /// that shares its segment with code.
    #[must_use]
    pub fn code_offset(&self, address: ElfAddr) -> Option<FileOffset> {
        if !self.loading.may_be_code(address) {
            return None;
        }
        let executable = self.segments.iter().filter(|segment| segment.executable);
        executable.filter_map(|segment| segment.offset_of(address)).next()
    }

    /// Whether a program may write to the code at an address, as far as the file says. The kernel sets
    /// no breakpoints there.
    #[must_use]
    pub fn is_writable(&self, offset: FileOffset) -> bool {
        let holds = |segment: &&Segment| segment.address_of(offset).is_some();
        let mut code = self.segments.iter().filter(|segment| segment.executable).filter(holds);
        code.any(|segment| segment.writable)
    }

    /// Whether the loader changes any of these bytes of code (text relocations). The kernel runs an
    /// instruction under a breakpoint as the file has it.
    #[must_use]
    pub fn is_relocated(&self, offset: FileOffset, bytes: u64) -> bool {
        let code = self.segments.iter().filter(|segment| segment.executable);
        let mut addresses = code.filter_map(|segment| segment.address_of(offset));
        addresses.any(|address| self.loading.is_relocated(address, bytes))
    }

    /// Whether the program puts a copy of its own code in place of it, as far as that can be seen.
    #[must_use]
    pub fn copies_code(&self) -> Option<CopiesCode> {
        *self.copies.get_or_init(|| copies::copies_code(&self.file))
    }

    /// Whether a function begins at an address, by more than a name: a symbol that is a function,
    /// unwind information that begins there, or a place where the loader or the kernel calls.
    pub(super) fn is_function(&self, address: ElfAddr) -> bool {
        let kinds = self.symbols.at(address).iter().map(|&id| self.symbols.get(id).kind);
        kinds.into_iter().any(|kind| matches!(kind, SymbolKind::Function | SymbolKind::Ifunc))
            || self.loading.is_called(address)
            || self.unwound().binary_search_by_key(&address, |(start, _)| *start).is_ok()
    }

    fn unwound(&self) -> &[(ElfAddr, u64)] {
        self.unwound.get_or_init(|| unwound::functions(&self.file))
    }

    /// Up to `count` bytes of code from an offset on; fewer where the code ends.
    ///
    /// # Errors
    /// As the system gives them; `UnexpectedEof` if the file was cut since it was parsed.
    pub fn read_code(&self, offset: FileOffset, count: usize) -> io::Result<Vec<u8>> {
        let left = |segment: &Segment| {
            let distance = offset.0.checked_sub(segment.offset.0)?;
            segment.file_bytes.checked_sub(distance).filter(|&left| left > 0)
        };
        let executable = self.segments.iter().filter(|segment| segment.executable);
        let left = executable.filter_map(left).max().unwrap_or(0);
        let mut bytes = vec![0; count.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.file.read_exact_at(&mut bytes, offset.0)?;
        Ok(bytes)
    }

    /// The address of code at an offset in the file; `None` if there is no code.
    #[must_use]
    pub fn address_of(&self, offset: FileOffset) -> Option<ElfAddr> {
        let executable = self.segments.iter().filter(|segment| segment.executable);
        executable.filter_map(|segment| segment.address_of(offset)).next()
    }

    /// Exactly `count` bytes that the loader maps at an address, as the file has them.
    ///
    /// # Errors
    /// As the system gives them; `UnexpectedEof` if the file has not so many there.
    pub fn read_data(&self, address: ElfAddr, count: usize) -> io::Result<Vec<u8>> {
        let found = self.segments.iter().find_map(|segment| {
            let offset = segment.offset_of(address)?;
            let left = segment.file_bytes - (offset.0 - segment.offset.0);
            (count as u64 <= left).then_some(offset)
        });
        let offset = found.ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, offset.0)?;
        Ok(bytes)
    }

    /// Functions and labels with their sizes, in no order.
    #[must_use]
    pub fn code_extents(&self) -> Vec<CodeExtent> {
        let code = [SymbolKind::Function, SymbolKind::Ifunc, SymbolKind::Untyped];
        let symbols = self.symbols.ids().filter(|id| code.contains(&self.symbols.get(*id).kind));
        symbols
            .filter(|id| self.code_offset(self.symbols.get(*id).address).is_some())
            .map(|id| CodeExtent {
                address: self.symbols.get(id).address,
                size_bytes: self.symbols.get(id).size_bytes,
                is_cold: is_cold(self.symbols.name(id)),
            })
            .collect()
    }

    /// Where in the file functions and labels begin, in no order: each symbol that stands for code.
    #[must_use]
    pub fn code_symbols(&self) -> Vec<FileOffset> {
        let symbols = self.symbols.ids().map(|id| self.symbols.get(id));
        symbols
            .filter(|symbol| symbol.kind.is_code())
            .filter_map(|symbol| self.code_offset(symbol.address))
            .collect()
    }

    /// Where in the file functions are and how long, by rising offset: what is known to be one by its
    /// symbol, by unwind information, or because the loader or the kernel calls it. Where nothing says how
    /// long it is, the size is 0.
    #[must_use]
    pub fn functions(&self) -> Vec<(FileOffset, u64)> {
        let symbols = self.symbols.ids().map(|id| self.symbols.get(id));
        let code = symbols.filter(|symbol| symbol.kind.is_code());
        let known = code.filter(|symbol| self.is_function(symbol.address));
        let known = known.map(|symbol| (symbol.address, symbol.size_bytes));
        let places = known.chain(self.unwound().iter().copied());
        let offset = |(address, size)| Some((self.code_offset(address)?, size));
        let mut functions: Vec<_> = places.filter_map(offset).collect();
        // Of several the one with a size.
        functions.sort_unstable_by_key(|&(offset, size)| (offset, std::cmp::Reverse(size)));
        functions.dedup_by_key(|&mut (offset, _)| offset);
        functions
    }

    /// Every mangled name, demangled; at the first call.
    pub(super) fn demangled(&self) -> &DemangledNames {
        self.demangled.get_or_init(|| DemangledNames::of(&self.symbols))
    }
}

/// The directories that the file is in, by its name and by its real name.
fn directories(root: &Root, opened: &Opened) -> Vec<PathBuf> {
    let real = root.path_of(&opened.file).ok();
    let mut directories: Vec<PathBuf> = real
        .iter()
        .chain([&opened.shown])
        .filter_map(|path| path.parent().map(Path::to_owned))
        .collect();
    directories.dedup();
    directories
}

fn named(error: FormatError, opened: &Opened) -> ResolveError {
    let path = opened.shown.clone();
    match error {
        FormatError::WrongKind(reason) => ResolveError::WrongKind { path, reason },
        FormatError::Corrupt(reason) => ResolveError::Corrupt { path, reason },
        FormatError::NotElf => match read_start(&opened.file) {
            Err(source) => ResolveError::Unreadable { path, source },
            Ok(start) => match interpreter(&start) {
                Some(interpreter) => ResolveError::Script { path, interpreter },
                None => ResolveError::NotElf { path },
            },
        },
    }
}

fn read_start(file: &File) -> io::Result<Vec<u8>> {
    // The kernel looks at no more of a script either.
    const START_BYTES: u64 = 256;
    let mut start = Vec::new();
    io::Seek::rewind(&mut &*file)?;
    file.take(START_BYTES).read_to_end(&mut start)?;
    Ok(start)
}

fn interpreter(start: &[u8]) -> Option<String> {
    let line = start.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    Some(String::from_utf8_lossy(line).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that a script's interpreter is taken from its first line.
    #[test]
    fn interpreters() {
        assert_eq!(interpreter(b"#! /bin/sh -e\nls\n").as_deref(), Some("/bin/sh -e"));
        assert_eq!(interpreter(b"#!/bin/sh").as_deref(), Some("/bin/sh"));
        assert_eq!(interpreter(b"ls"), None);
    }
}
