//! Finds the Debian archive that this machine's apt is configured for.
//!
//! Takes the text of `/etc/apt/sources.list` and of the files in `sources.list.d`, in both of their
//! formats (see sources.list(5)); gives the address and the key of the archive's `main` part.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Names an archive where apt's configuration does not: on a system that is not Debian.
const OVERRIDE: &str = "FAULTLINE_DEBIAN_MIRROR";

/// Suites that are Debian's own on any machine; besides them, the machine's release.
const SUITES: &[&str] = &["stable", "testing", "unstable", "sid"];

/// Where packages come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Archive {
    pub(crate) uri: String,
    /// A key file or the key itself, as written in a `.sources` file; the system's keys if absent.
    pub(crate) signed_by: Option<String>,
}

/// # Errors
/// If no source is for a Debian release.
pub(crate) fn debian_archive() -> Result<Archive> {
    if let Ok(uri) = std::env::var(OVERRIDE) {
        return Ok(Archive { uri, signed_by: None });
    }
    let release = fs::read_to_string("/etc/os-release").ok().and_then(|text| {
        text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME=").map(str::to_owned))
    });
    let suites: Vec<&str> = SUITES.iter().copied().chain(release.as_deref()).collect();
    let mut sources = Vec::new();
    for file in source_files() {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        sources.extend(match file.extension() {
            Some(extension) if extension == "sources" => stanzas(&text),
            _ => lines(&text),
        });
    }
    match pick(sources, &suites) {
        Some(archive) => Ok(archive),
        None => {
            bail!("apt's sources name no Debian archive (set {OVERRIDE} to the address of one)")
        }
    }
}

fn source_files() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    if let Ok(folder) = fs::read_dir("/etc/apt/sources.list.d") {
        files.extend(folder.flatten().map(|entry| entry.path()));
    }
    let is_source = |file: &PathBuf| {
        file.extension().is_some_and(|extension| extension == "list" || extension == "sources")
    };
    files.retain(is_source);
    files.sort();
    files
}

#[derive(Debug, Default)]
struct Source {
    uri: String,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

/// Other publishers also call their suites by Debian's names, so an address that ends like that
/// of Debian's own archive goes first.
fn pick(mut sources: Vec<Source>, suites: &[&str]) -> Option<Archive> {
    sources.retain(|source| {
        source.suites.iter().any(|suite| suites.contains(&suite.as_str()))
            && source.components.iter().any(|component| component == "main")
    });
    sources.sort_by_key(|source| Path::new(&source.uri).file_name() != Some("debian".as_ref()));
    let first = sources.into_iter().next()?;
    Some(Archive { uri: first.uri, signed_by: first.signed_by })
}

/// The one-line format: `deb [signed-by=FILE] URI SUITE COMPONENT…`.
fn lines(text: &str) -> Vec<Source> {
    text.lines().filter_map(one_line).collect()
}

fn one_line(line: &str) -> Option<Source> {
    let mut rest = line.trim().strip_prefix("deb ")?.trim_start();
    let mut signed_by = None;
    if let Some(bracketed) = rest.strip_prefix('[') {
        let (options, after) = bracketed.split_once(']')?;
        let key = options.split_whitespace().find_map(|option| option.strip_prefix("signed-by="));
        signed_by = key.map(str::to_owned);
        rest = after;
    }
    let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
    let mut words = rest.split_whitespace().map(str::to_owned);
    let (uri, suite) = (words.next()?, words.next()?);
    Some(Source { uri, suites: vec![suite], components: words.collect(), signed_by })
}

/// The deb822 format: stanzas of `Field: value`, continued on lines that begin with a blank.
fn stanzas(text: &str) -> Vec<Source> {
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    text.split(|line| line.trim().is_empty()).filter_map(stanza).collect()
}

fn stanza(lines: &[&str]) -> Option<Source> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            let (_, value) = fields.last_mut()?;
            value.push('\n');
            value.push_str(line);
        } else {
            let (name, value) = line.split_once(':')?;
            fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value);
    let words = |name: &str| -> Vec<String> {
        field(name)
            .map_or_else(Vec::new, |value| value.split_whitespace().map(str::to_owned).collect())
    };
    let is_off = field("enabled").is_some_and(|value| value.eq_ignore_ascii_case("no"));
    if is_off || !words("types").iter().any(|kind| kind == "deb") {
        return None;
    }
    Some(Source {
        uri: words("uris").into_iter().next()?,
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").cloned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Check that the archive is found in a `.sources` file, behind other publishers, the security
    /// archive and what is switched off.
    #[test]
    fn archive_in_stanzas() {
        let text = "\
Types: deb
URIs: http://one.example/debian
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://two.example/deb
Suites: bookworm
Components: main

# a comment
Types: deb deb-src
URIs: http://three.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By:
 -----BEGIN
 .
 abc

Types: deb
URIs: http://three.example/debian-security
Suites: bookworm-security
Components: main
";
        let archive = pick(stanzas(text), &["bookworm"]).unwrap();
        assert_eq!(archive.uri, "http://three.example/debian/");
        assert_eq!(archive.signed_by.unwrap(), "\n -----BEGIN\n .\n abc");
    }

    /// Check that the archive is found in a `.list` file, with its key.
    #[test]
    fn archive_in_lines() {
        let text = "\
# deb http://one.example/debian sid main
deb-src http://two.example/debian sid main
deb [arch=amd64 signed-by=/key.gpg] http://three.example/debian sid main contrib # mine
";
        let archive = pick(lines(text), &["sid"]).unwrap();
        assert_eq!(archive.uri, "http://three.example/debian");
        assert_eq!(archive.signed_by.as_deref(), Some("/key.gpg"));
    }

    /// Check that another distribution's archive is not taken for Debian's.
    #[test]
    fn no_archive() {
        assert_eq!(pick(lines("deb http://one.example/ubuntu noble main"), SUITES), None);
    }
}
