//! Tells the kit which compiler builds it and for which target: a plugin's manifest says so.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let rustc = env::var_os("RUSTC").expect("cargo names the compiler");
    let version = Command::new(rustc).arg("--version").output().expect("the compiler that cargo names can be run");
    let version = String::from_utf8(version.stdout).expect("the compiler's version is text");
    println!("cargo::rustc-env=THESEUS_RUSTC={}", version.trim());
    println!("cargo::rustc-env=THESEUS_TARGET={}", env::var("TARGET").expect("cargo names the target"));
}
