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

/// Check which lines of a write that was cut short are whole.
#[test]
fn whole_lines_are_counted() {
    let ends = [4, 9, 12];
    for (bytes, whole) in [(0, 0), (3, 0), (4, 1), (8, 1), (9, 2), (12, 3)] {
        assert_eq!(whole_lines(&ends, bytes), whole, "{bytes}");
    }
}
