//! Files that are not what they say.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

/// A small program's bytes, built once.
fn small_program() -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    BYTES.get_or_init(|| {
        let bed = Testbed::new("damage");
        fs::read(bed.c_program("app", C_SOURCE, &[])).unwrap()
    })
}

/// Somewhere in the file: in its headers as often as in the rest.
fn place() -> impl Strategy<Value = usize> {
    let length = small_program().len();
    prop_oneof![0..1024_usize, length - 2048..length, 0..length]
}

/// Resolves every kind of pattern in a file of these bytes.
fn resolve_bytes(bytes: &[u8]) {
    let bed = Testbed::new("damaged");
    let path = bed.path("app");
    fs::write(&path, bytes).unwrap();
    let mut resolver = host();
    let target = path.to_str().unwrap();
    for function in [name("add"), name("picked"), name("strtol"), glob("*"), name("ad")] {
        match resolver.resolve(&spec(target, function)) {
            Err(error) => assert!(error.to_string().contains("app"), "{error}"),
            Ok(resolution) => {
                for probe in resolution.probes {
                    let _ = probe.file.read_code(probe.offset, 16);
                }
            }
        }
    }
}

proptest! {
    /// Check that damage is an error that names the file, or is harmless; never a panic.
    #[test]
    fn damaged_file_is_no_panic(
        changes in prop::collection::vec((place(), any::<u8>()), 1..8),
    ) {
        let mut bytes = small_program().to_vec();
        for (at, value) in changes {
            bytes[at] = value;
        }
        resolve_bytes(&bytes);
    }

    /// Check that a file that was cut is an error.
    #[test]
    fn cut_file_is_an_error(length in 4..small_program().len() - 1) {
        let bed = Testbed::new("cut");
        fs::write(bed.path("app"), &small_program()[..length]).unwrap();
        let message = error(&bed.path("app"), name("add"));
        prop_assert!(message.contains("is corrupt"), "{}", message);
    }
}
