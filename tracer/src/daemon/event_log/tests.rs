use super::*;

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("faultline-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Check that files are set aside by size, and the oldest goes.
#[test]
fn rotates_by_size() {
    let folder = folder("rotates");
    let path = folder.join("events.json");
    let events =
        config::Events { file: Some(path.clone()), rotate_at: 10, keep: 2, ..Default::default() };
    let Target::File(mut file) = Target::open(&events).unwrap() else { panic!("it is a file") };
    for line in ["1aaaaaa\n", "2aaaaaa\n", "3aaaaaa\n", "4aaaaaa\n"] {
        assert_eq!(file.write(line.as_bytes(), &[8]).0, 1);
    }
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!(text("events.json"), "4aaaaaa\n");
    assert_eq!(text("events.json.1"), "3aaaaaa\n");
    assert_eq!(text("events.json.2"), "2aaaaaa\n");
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3);
    std::fs::remove_dir_all(folder).unwrap();
}

fn opened(path: &Path) -> RotatedFile {
    let events = config::Events { rotate_at: 10, keep: 2, ..Default::default() };
    RotatedFile::open(&events, path).unwrap()
}

/// Check that a file that was deleted is replaced by a new one: what is written into a file without a name is
/// seen by nobody.
#[test]
fn a_deleted_file_is_replaced() {
    let folder = folder("deleted");
    let path = folder.join("events.json");
    let mut file = opened(&path);
    assert_eq!(file.write(b"1aa\n", &[4]).0, 1);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(file.write(b"2aa\n", &[4]).0, 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "2aa\n");
    // Where it cannot be, nothing is said to be written.
    std::fs::remove_dir_all(&folder).unwrap();
    let (written, result) = file.write(b"3aa\n", &[4]);
    assert_eq!((written, result.unwrap_err().kind()), (0, io::ErrorKind::NotFound));
    std::fs::create_dir(&folder).unwrap();
    assert_eq!(file.write(b"4aa\n", &[4]).0, 1);
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "4aa\n");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Check that a file that somebody else has set aside is not set aside once more, which would push
/// out one that is to be kept.
#[test]
fn a_moved_file_is_not_set_aside() {
    let folder = folder("moved");
    let (path, moved) = (folder.join("events.json"), folder.join("moved"));
    let mut file = opened(&path);
    assert_eq!(file.write(b"1aaaaaa\n", &[8]).0, 1);
    assert_eq!(file.write(b"2aaaaaa\n", &[8]).0, 1);
    std::fs::rename(&path, &moved).unwrap();
    assert_eq!(file.write(b"3aaaaaa\n", &[8]).0, 1);
    let text = |path: &Path| std::fs::read_to_string(path).unwrap();
    assert_eq!(text(&moved), "2aaaaaa\n");
    assert_eq!(text(&folder.join("events.json.1")), "1aaaaaa\n");
    assert_eq!(text(&path), "3aaaaaa\n");
    std::fs::remove_dir_all(folder).unwrap();
}

/// Check that a device is never set aside.
#[test]
fn devices_are_not_rotated() {
    assert_eq!(opened(Path::new("/dev/null")).rotate_at, u64::MAX);
}

/// Check which lines of a write that was cut short are whole.
#[test]
fn whole_lines_are_counted() {
    let ends = [4, 9, 12];
    for (bytes, whole) in [(0, 0), (3, 0), (4, 1), (8, 1), (9, 2), (12, 3)] {
        assert_eq!(whole_lines(&ends, bytes), whole, "{bytes}");
    }
}
