//! Tracing real programs, end to end on the real kernel. Needs root, and the programs: `cat`,
//! `bash`, `openssl`, `python3`, a C++ compiler, and the Rust compiler that compiled this.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _, Write as _},
    os::fd::{FromRawFd as _, OwnedFd},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use serde_json::{Value, json};

use crate::support::{Finished, compiled, faultline, live::wait_counting, number, sum, target};

/// Traces this command with these probes, as JSON.
fn trace_command(command: &str, probes: &[&str]) -> Finished {
    let options = ["trace", "--json", "--force", "-c", command];
    faultline(options.iter().chain(probes)).run().succeeded()
}

/// The bytes of a string or range, decoded from JSON.
fn bytes_of(event: &Value, name: &str) -> Vec<u8> {
    let text = event["args"][name].as_str().unwrap_or_else(|| panic!("no `{name}`: {event}"));
    let escaped = event["escaped"].as_array().is_some_and(|names| names.contains(&json!(name)));
    if !escaped {
        return text.as_bytes().to_vec();
    }
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = match (byte, tail) {
            (b'\\', [b'\\', tail @ ..]) => {
                bytes.push(b'\\');
                tail
            }
            (b'\\', [b'x', high, low, tail @ ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).unwrap();
                bytes.push(u8::from_str_radix(digits, 16).unwrap());
                tail
            }
            (b'\\', _) => panic!("an escape that nobody knows: {text}"),
            _ => {
                bytes.push(byte);
                tail
            }
        };
    }
    bytes
}

/// Check that `cat` is seen opening its file: path, flags, and the descriptor it gets.
#[test]
fn cat_opens_its_file() {
    let run = trace_command(
        "cat /etc/hostname",
        &[
            "libc:/^open(64)?$/(path: str, flags: x32) -> i32",
            "libc:/^openat(64)?$/(_, path: str, flags: x32) -> i32",
        ],
    );
    let hostname = fs::read_to_string("/etc/hostname").unwrap();
    assert!(run.stderr.contains(&hostname), "cat did not run: {}", run.stderr);
    let events = run.events();
    let entry = events
        .iter()
        .position(|event| event["args"]["path"] == "/etc/hostname")
        .unwrap_or_else(|| panic!("cat opened nothing: {events:?}"));
    let (entry, returned) = (&events[entry], &events[entry + 1]);
    assert_eq!((&entry["comm"], &entry["kind"]), (&json!("cat"), &json!("entry")));
    assert_eq!(entry["args"]["flags"], "0x0", "O_RDONLY");
    assert_eq!((&returned["probe"], &returned["kind"]), (&entry["probe"], &json!("return")));
    assert!(returned["ret"].as_i64().is_some_and(|descriptor| descriptor >= 3), "{returned}");
    assert!(returned["duration_ns"].as_u64().is_some_and(|duration| duration > 0), "{returned}");
    let summary = run.summary();
    assert_eq!(number(&summary, "hits"), number(&summary, "delivered"), "{summary}");
    println!("{entry}\n{returned}");
}

/// An interactive program on a terminal of its own.
struct Interactive {
    child: Child,
    terminal: File,
}

impl Interactive {
    fn start(command: &mut Command) -> Self {
        let (mut master, mut slave) = (-1, -1);
        let (name, settings, size) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: both descriptors are valid for writes; the rest may be null.
        let opened =
            unsafe { libc::openpty(&raw mut master, &raw mut slave, name, settings, size) };
        assert_eq!(opened, 0, "openpty: {}", std::io::Error::last_os_error());
        // SAFETY: just opened, and not owned by anything else.
        let terminal = unsafe { File::from_raw_fd(master) };
        // SAFETY: as above.
        let slave = unsafe { OwnedFd::from_raw_fd(slave) };
        let stdio = || Stdio::from(slave.try_clone().unwrap());
        command.stdin(stdio()).stdout(stdio()).stderr(stdio());
        let take_terminal = || {
            // SAFETY: without preconditions.
            unsafe { libc::setsid() };
            // SAFETY: descriptor 0 is the terminal; the request takes a number.
            unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
            Ok(())
        };
        // SAFETY: only system calls between fork and exec.
        unsafe { command.pre_exec(take_terminal) };
        let child = command.spawn().unwrap();
        Self { child, terminal }
    }

    /// Reads its output until this text appears.
    fn wait_for(&mut self, text: &str) {
        let mut shown = Vec::new();
        while !String::from_utf8_lossy(&shown).contains(text) {
            let mut part = [0; 256];
            let count = self.terminal.read(&mut part).unwrap();
            shown.extend_from_slice(&part[..count]);
        }
    }
}

/// Check that text typed into an interactive `bash` is seen when its `readline` returns it.
#[test]
fn bash_reads_lines() {
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc", "-i"]).env("PS1", "prompt> ").env("TERM", "dumb");
    bash.env_remove("HISTFILE");
    let mut bash = Interactive::start(&mut bash);
    bash.wait_for("prompt> ");
    let pid = bash.child.id().to_string();
    let running = faultline(["trace", "--json", "-p", &pid, "bash:readline() -> str"]).start();
    wait_counting(running.pid());
    // The first line is returned by a call that began before the tracing.
    for line in ["echo begun before", "echo 'Grüße'", "exit"] {
        writeln!(bash.terminal, "{line}").unwrap();
    }
    bash.child.wait().unwrap();
    let run = running.finish().succeeded();
    let events: Vec<_> =
        run.events().iter().map(|event| (event["kind"].clone(), event["ret"].clone())).collect();
    let entry = || (json!("entry"), Value::Null);
    let returned = |line: &str| (json!("return"), json!(line));
    assert_eq!(events, [entry(), returned("echo 'Grüße'"), entry(), returned("exit")]);
    let summary = run.summary();
    assert_eq!(number(&summary["returns"], "returned"), 2);
    println!("{}", run.events()[1]);
}

/// Check that the bytes given to OpenSSL's `SSL_write` are seen as the peer of a real TLS
/// connection receives them, whatever bytes they are.
#[test]
fn openssl_writes() {
    let mut server = TlsServer::start();
    let connect = format!("127.0.0.1:{}", server.port);
    let command = format!("openssl s_client -quiet -no_ign_eof -connect {connect}");
    let probe = "libssl:SSL_write(ssl: ptr, buf: bytes[num], num: i32) -> i32";
    let mut tracing = faultline(["trace", "--json", "-c", &command, probe]);
    tracing.command().stdin(Stdio::piped());
    let mut running = tracing.start();
    let mut sent = b"GET /secret HTTP/1.1\r\nCookie: \\x41 caf\xc3\xa9\r\n\r\n".to_vec();
    sent.extend((0..=255).cycle().take(20_000));
    let mut stdin = running.child.stdin.take().unwrap();
    let to_send = sent.clone();
    let sender = thread::spawn(move || stdin.write_all(&to_send).unwrap());
    let run = running.finish().succeeded();
    sender.join().unwrap();
    let received = server.printed();
    let arrived = received.windows(sent.len()).any(|part| part == sent);
    assert!(arrived, "the connection did not work: {}", run.stderr);

    let events = run.events();
    let (entries, returns): (Vec<_>, Vec<_>) =
        events.iter().partition(|event| event["kind"] == "entry");
    let mut seen = Vec::new();
    for (entry, returned) in entries.iter().zip(&returns) {
        let bytes = bytes_of(entry, "buf");
        assert_eq!(entry["args"]["num"], bytes.len(), "{entry}");
        assert_eq!(returned["ret"], bytes.len(), "{returned}");
        seen.extend(bytes);
    }
    assert_eq!(seen.len(), sent.len());
    assert!(seen == sent, "the bytes that were seen are not those that were sent");
    let summary = run.summary();
    assert_eq!(number(&summary["returns"], "returned"), returns.len() as u64);
    assert_eq!(sum(&summary["dropped"]), 0);
    println!("{} bytes sent in {} writes, all of them seen", seen.len(), entries.len());
}

/// `openssl s_server`, for one connection.
struct TlsServer {
    child: Child,
    stdout: BufReader<std::process::ChildStdout>,
    port: u16,
}

impl TlsServer {
    fn start() -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("files");
        fs::create_dir_all(&folder).unwrap();
        let (key, certificate) = (folder.join("tls.key"), folder.join("tls.crt"));
        let made = Command::new("openssl")
            .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(' '))
            .args(["-days", "2", "-subj", "/CN=localhost", "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .expect("openssl is needed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut child = Command::new("openssl")
            .args("s_server -accept 127.0.0.1:0 -naccept 1 -key".split(' '))
            .arg(&key)
            .arg("-cert")
            .arg(&certificate)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let port = loop {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "the server ended");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break address.trim_end().rsplit(':').next().unwrap().parse().unwrap();
            }
        };
        Self { child, stdout, port }
    }

    /// Everything it printed: what it received, and other output before and after.
    fn printed(&mut self) -> Vec<u8> {
        let mut printed = Vec::new();
        self.stdout.read_to_end(&mut printed).unwrap();
        assert!(self.child.wait().unwrap().success());
        printed
    }
}

/// Check that a `python3` is seen running the program it was given, and calling into libc.
#[test]
fn python_runs_its_program() {
    let program = "import ctypes; ctypes.CDLL(None).puts(b'from Python'); 'ünïcode'";
    let command = shlex::try_join(["/usr/bin/python3", "-c", program]).unwrap();
    let run = trace_command(
        &command,
        &["/usr/bin/python3:PyRun_SimpleStringFlags(command: str) -> i32", "libc:puts(text: str)"],
    );
    assert!(run.stderr.contains("from Python"), "it did not run: {}", run.stderr);
    let events = run.events();
    let kinds: Vec<_> = events.iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["entry", "entry", "return"]);
    assert_eq!(events[0]["args"], json!({ "command": format!("{program}\n") }));
    assert_eq!(events[1]["args"], json!({ "text": "from Python" }));
    assert_eq!(events[2]["ret"], 0);
    assert_eq!(number(&run.summary(), "hits"), 3);
    println!("{}\n{}", events[0], events[1]);
}

/// The events of a run: kind, probe, and arguments or return value.
fn told(run: &Finished) -> Vec<Value> {
    let told = |event: &Value| {
        let what = if event["kind"] == "entry" { &event["args"] } else { &event["ret"] };
        json!([event["kind"], event["probe"], what])
    };
    run.events().iter().map(told).collect()
}

/// Check that a C++ program is traced by the names its author uses: one of two overloads and one of two
/// instances of a template.
#[test]
fn cpp_names() {
    let program = target("shop.cc", &[]);
    let path = program.display();
    let run = trace_command(
        program.to_str().unwrap(),
        &[
            &format!(r#"{path}:"shop::Cart::add(char const*, int)"(_, item: str, n: i32) -> i32"#),
            &format!("{path}:shop::largest<int>(a: i32, b: i32) -> i32"),
        ],
    );
    let (add, largest) = ("shop:shop::Cart::add", "shop:shop::largest<int>");
    assert_eq!(
        told(&run),
        [
            json!(["entry", add, {"item": "apples", "n": 3}]),
            json!(["return", add, 3]),
            json!(["entry", add, {"item": "pear", "n": 1}]),
            json!(["return", add, 4]),
            json!(["entry", largest, {"a": -5, "b": -7}]),
            json!(["return", largest, -5]),
        ]
    );
    assert_eq!(number(&run.summary(), "hits"), 6);
}

/// Check that a Rust program is traced by the names that its backtraces show.
#[test]
fn rust_names() {
    let program = rust_target("shop.rs");
    let path = program.display();
    let run = trace_command(
        program.to_str().unwrap(),
        &[
            // A `&str` is a pointer and a length.
            &format!(
                "{path}:<shop::checkout::Cart>::add(_, item: bytes[len], len: u64, n: u32) -> u64"
            ),
            &format!("{path}:shop::checkout::largest*(a: i64, b: i64) -> i64"),
        ],
    );
    let add = "shop-rust:<shop::checkout::Cart>::add";
    let largest = "shop-rust:shop::checkout::largest::<i64>";
    assert_eq!(
        told(&run),
        [
            json!(["entry", add, {"item": "äpfel", "len": 6, "n": 3}]),
            json!(["return", add, 3]),
            json!(["entry", add, {"item": "pear", "len": 4, "n": 1}]),
            json!(["return", add, 4]),
            json!(["entry", largest, {"a": -5, "b": -7}]),
            json!(["return", largest, -5]),
        ]
    );
    assert_eq!(number(&run.summary(), "hits"), 6);
}

/// Compiles `tests/targets/NAME` with the compiler of the toolchain that compiled this test.
fn rust_target(source: &str) -> PathBuf {
    let mut compiler = Command::new(Path::new(env!("CARGO")).with_file_name("rustc"));
    compiler.args(["--edition", "2024", "-O", "-g", "-o"]);
    compiled(source, "shop-rust", compiler)
}
