//! Writes the manifest, as bytes for the note.

use theseus_abi::{HOST_ABI, LAYOUT_FINGERPRINT};

fn main() {
    let manifest = format!(
        r#"{{"name":"lying","version":"1.0.0","abi":{{"min":{},"max":{}}},"layout":"{LAYOUT_FINGERPRINT:016x}","behaviors":[],"rustc":"any","panic":"unwind","target":"{}"}}"#,
        HOST_ABI.min,
        HOST_ABI.max,
        std::env::var("TARGET").unwrap(),
    );
    let code = format!("const MANIFEST: [u8; {}] = *br##\"{manifest}\"##;\n", manifest.len());
    let path = std::path::Path::new(&std::env::var_os("OUT_DIR").unwrap()).join("manifest.rs");
    std::fs::write(path, code).unwrap();
    println!("cargo::rerun-if-changed=build.rs");
}
