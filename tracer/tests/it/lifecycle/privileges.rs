//! Which privileges a user needs.

use std::{
    fs, io, io::BufRead as _, io::BufReader, io::Read as _, os::unix::fs::PermissionsExt as _,
    path::Path, path::PathBuf, process::Command, process::Stdio,
};

use super::{
    TICK,
    support::{
        kernel_batches,
        live::{Bare, Puppet, copy_program, summary_of, wait_counting},
        number,
    },
};

/// Copies of the programs where an ordinary user can access them.
pub(super) struct Reachable {
    folder: PathBuf,
    faultline: PathBuf,
    pub(super) puppet: PathBuf,
}

impl Reachable {
    pub(super) fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("faultline-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let copy = |program: &Path, name: &str| {
            let to = folder.join(name);
            copy_program(program, &to);
            fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).unwrap();
            to
        };
        let faultline = copy(Path::new(env!("CARGO_BIN_EXE_faultline")), "faultline");
        let puppet = copy(&Puppet::program(), "puppet");
        Self { folder, faultline, puppet }
    }

    /// faultline as an ordinary user with these capabilities.
    pub(super) fn unprivileged(&self, capabilities: &[&str]) -> Command {
        let mut command = self.as_user(capabilities);
        command.arg(&self.faultline).stdin(Stdio::null()).env_remove("FAULTLINE_LOG");
        command
    }

    fn as_user(&self, capabilities: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).current_dir("/");
        if capabilities.is_empty() {
            command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        } else {
            let set = capabilities.iter().map(|name| format!("+{name}")).collect::<Vec<_>>();
            command.args([
                format!("--inh-caps={}", set.join(",")),
                format!("--ambient-caps={}", set.join(",")),
            ]);
        }
        command
    }
}

impl Drop for Reachable {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Check that a user without privileges gets one line that names the missing capability.
#[test]
fn without_privileges() {
    let reachable = Reachable::new("without_privileges");
    let probe = format!("{}:{TICK}", reachable.puppet.display());
    for (capabilities, missing) in
        [(&[][..], "CAP_BPF"), (&["bpf"], "CAP_PERFMON"), (&["perfmon"], "CAP_BPF")]
    {
        let mut command = reachable.unprivileged(capabilities);
        let output = command.args(["trace", "--json", &probe]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert!(stderr.starts_with(&format!("error: missing {missing}, ")), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert_eq!(output.stdout, b"");
    }
}

/// Check that CAP_BPF and CAP_PERFMON are all that an ordinary user needs; before 6.6, where each probe
/// needs a link, also CAP_SYS_ADMIN.
#[test]
fn with_two_capabilities() {
    let reachable = Reachable::new("with_two_capabilities");
    let mut target = reachable.as_user(&[]);
    let mut child =
        target.arg(&reachable.puppet).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "ready");
    let pid = child.id().to_string();
    let probe = format!("{}:{TICK} -> u64", reachable.puppet.display());
    let capabilities: &[_] =
        if kernel_batches() { &["bpf", "perfmon"] } else { &["bpf", "perfmon", "sys_admin"] };
    let mut command = reachable.unprivileged(capabilities);
    command.args(["trace", "--json", "-p", &pid, &probe]);
    let (mut reader, stdout) = io::pipe().unwrap();
    let run = Bare::start(&mut command, stdout);
    drop(command);
    wait_counting(run.pid());
    let stdin = child.stdin.as_mut().unwrap();
    io::Write::write_all(stdin, b"step 50\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "stepped");
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    let (status, stderr) = run.finish();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert!(status.success(), "{stderr}");
    let summary = summary_of(&output);
    assert_eq!((number(&summary, "hits"), number(&summary, "delivered")), (100, 100));
    assert_eq!(number(&summary["returns"], "returned"), 50);
}
