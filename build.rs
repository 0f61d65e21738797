//! Builds the program of the image that is built into moss.
//!
//! `moss run hello` must work on a fresh machine with no registry and no network, so the program
//! that runs in that container is part of the binary. It is a static executable of a few KiB
//! without a C library, compiled here by the same compiler for the same target.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

const SOURCE: &str = "src/hello/main.rs";

/// Static, at a fixed address, with nothing that is not used: the file is smaller than its source.
const CODEGEN: &[&str] = &[
    "panic=abort",
    "opt-level=s",
    "strip=symbols",
    "relocation-model=static",
    "target-feature=+crt-static",
    "link-arg=-nostartfiles",
    "link-arg=-nostdlib",
    "link-arg=-static",
    "link-arg=-Wl,--build-id=none,-z,noseparate-code,--gc-sections",
];

fn main() -> ExitCode {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            println!("cargo::error={sentence}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let variable = |name: &str| env::var_os(name).ok_or(format!("cargo has not set {name}"));
    let output = PathBuf::from(variable("OUT_DIR")?).join("hello");
    let mut rustc = Command::new(variable("RUSTC")?);
    rustc
        .args(["--edition=2024", "--crate-name=hello", "--crate-type=bin"])
        .arg("--target")
        .arg(variable("TARGET")?)
        .args(CODEGEN.iter().flat_map(|option| ["-C", option]))
        .arg("-o")
        .arg(output)
        .arg(SOURCE);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut option = std::ffi::OsString::from("linker=");
        option.push(linker);
        rustc.arg("-C").arg(option);
    }
    let status = rustc
        .status()
        .map_err(|error| format!("cannot run the compiler: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("the compiler refused {SOURCE} ({status})"))
    }
}
