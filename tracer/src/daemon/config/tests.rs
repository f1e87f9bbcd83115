use super::*;

fn error(text: &str) -> String {
    Config::parse(text, Path::new("f.toml")).unwrap_err().to_string()
}

/// Check that an empty file is a configuration, with the defaults that the docs name.
#[test]
fn defaults() {
    let config = Config::parse("", Path::new("f.toml")).unwrap();
    assert_eq!(config.metrics.listen.unwrap().to_string(), "127.0.0.1:9464");
    assert_eq!(config.control.socket, Path::new(DEFAULT_SOCKET));
    assert_eq!(config.probes, []);
    assert_eq!(config.overhead.limit().unwrap().percent(), 2.0);
}

/// Check that the example that is installed is right, and has every key.
#[test]
fn installed_example() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/faultline.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    Config::parse(&text, &path).unwrap();
    // With every example in it in force, too.
    let all: String = text
        .lines()
        .map(|line| {
            let line = match line.strip_prefix("#") {
                Some(code) if !code.starts_with(' ') => code,
                _ => line,
            };
            format!("{line}\n")
        })
        .collect();
    let config = Config::parse(&all, &path).unwrap();
    assert!(config.probes.len() >= 4, "the example shows its probes");
    for key in [
        "listen",
        "max_series",
        "socket",
        "group",
        "file",
        "rotate_at",
        "keep",
        "buffer",
        "max_functions",
        "stop_timeout",
        "max",
        "policy",
        "rescan_every",
        "settle",
        "containers",
        "name",
        "probe",
        "action",
        "pids",
        "process",
        "cgroup",
        "force",
        "follow",
        "returns",
        "where",
        "sample",
        "rate",
    ] {
        assert!(all.lines().any(|line| line.starts_with(&format!("{key} ="))), "no `{key}`");
    }
}

/// Check that errors name the place, the key and what is wrong.
#[test]
fn errors_name_place_and_key() {
    assert_eq!(
        error("[metrics]\nlisten = 5\n"),
        "f.toml:2:10: `listen`: invalid type: integer `5`, expected a string"
    );
    assert!(
        error("[metrics]\nlitsen = \"x\"\n")
            .starts_with("f.toml:2:1: unknown field `litsen`, expected"),
    );
    assert_eq!(
        error("[events]\nrotate_at = \"64K\"\n").split(" (units").next().unwrap(),
        "f.toml:2:13: `rotate_at`: unknown unit `K`"
    );
    assert!(error("[limits\n").starts_with("f.toml:1:8: "));
    assert_eq!(
        error("[targets]\nrescan_every = \"10ms\"\n"),
        "f.toml:2:16: `rescan_every`: must be at least 1s"
    );
}

/// Check that a budget can be set and be off, and that what is none is refused.
#[test]
fn overhead() {
    let limit = |text: &str| Config::parse(text, Path::new("f.toml")).unwrap().overhead.limit();
    assert_eq!(limit("[overhead]\nmax = \"off\"\n"), None);
    let duty = limit("[overhead]\nmax = \"0.5%\"\npolicy = \"duty-cycle\"\n").unwrap();
    assert_eq!((duty.percent(), &*duty.policy().to_string()), (0.5, "duty-cycle"));
    assert_eq!(
        error("[overhead]\nmax = \"200%\"\n"),
        "f.toml:2:7: `max`: invalid limit `200%`: must be above 0 % and below 100 % of all CPUs (or `off` \
         for no limit)"
    );
    assert!(error("[overhead]\nmax = \"abc\"\n").contains("such as `2%`, found `abc`"));
    assert!(error("[overhead]\npolicy = \"x\"\n").contains("unknown variant `x`"));
}

/// Check that a wrong probe is found in its table, by its key.
#[test]
fn wrong_probes() {
    let two = |second: &str| {
        format!("[[probe]]\nname = \"a\"\nprobe = \"libc:open\"\n\n[[probe]]\n{second}")
    };
    let message = error(&two("name = \"b\"\nprobe = \"libc:open(path: sttr)\"\n"));
    assert!(message.starts_with("f.toml:7:1: `probe`: "), "{message}");
    assert!(message.contains("did you mean `str`?"), "{message}");
    assert_eq!(
        error(&two("name = \"a\"\nprobe = \"libc:close\"\n")),
        "f.toml:6:1: `name`: there are two probes named `a`"
    );
    assert_eq!(
        error(&two("name = \"a b\"\nprobe = \"libc:close\"\n")),
        "f.toml:6:1: `name`: a name may contain only letters, digits, `_`, `-` and `.`; found ` `"
    );
    assert_eq!(
        error(&two("name = \"b\"\nprobe = \"libc:close\"\npids = [1]\nprocess = \"x\"\n")),
        "f.toml:9:1: only one of `pids`, `process` and `cgroup` can be given"
    );
    assert!(error(&two("name = \"b\"\n")).contains("missing field `probe`"));
    assert!(
        error(&two("name = \"b\"\nprobe = \"libc:close\"\naction = \"cuont\"\n"))
            .starts_with("f.toml:8:10: `action`: unknown variant `cuont`"),
    );
}
