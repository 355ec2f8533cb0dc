//! Has the linker export the functions with which the host watches what plugins leave behind (`src/plugin/hooks`).
//!
//! The dynamic linker looks a plugin's references up in the executable first, but only among the symbols that it exports.

/// The hooks. Without one of them the host finds that none is in force, and unloads nothing.
const HOOKS: &[&str] =
    &["__cxa_thread_atexit_impl", "pthread_create", "pthread_key_create", "pthread_key_delete", "pthread_setspecific"];

fn main() {
    let target = |part: &str| std::env::var(format!("CARGO_CFG_TARGET_{part}")).unwrap_or_default();
    if target("OS") == "linux" && target("ENV") == "gnu" {
        for hook in HOOKS {
            // For every program of this package: the host, its tests and its benchmarks load plugins.
            println!("cargo::rustc-link-arg=-Wl,--export-dynamic-symbol={hook}");
        }
    }
    println!("cargo::rerun-if-changed=build.rs");
}
