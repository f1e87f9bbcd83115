//! Builds the eBPF programs and leaves the object in `OUT_DIR/faultline-ebpf`.

fn main() -> anyhow::Result<()> {
    let package = aya_build::Package {
        name: "tracer-ebpf",
        root_dir: "../../tracer-ebpf",
        ..Default::default()
    };
    println!("cargo::rerun-if-changed=../../tracer-common");
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom("nightly-2026-07-01"))
}
