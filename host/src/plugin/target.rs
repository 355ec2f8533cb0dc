//! Which target triples are the host's own.

/// The target to build plugins for.
pub(super) const HOST: &str = if cfg!(target_env = "musl") {
    if cfg!(target_arch = "aarch64") { "aarch64-unknown-linux-musl" } else { "x86_64-unknown-linux-musl" }
} else if cfg!(target_arch = "aarch64") {
    "aarch64-unknown-linux-gnu"
} else if cfg!(target_arch = "riscv64") {
    "riscv64gc-unknown-linux-gnu"
} else {
    "x86_64-unknown-linux-gnu"
};

/// The C library of the host, as a triple names it; nothing where triples do not.
const ENVIRONMENT: &str = if cfg!(target_env = "gnu") {
    "gnu"
} else if cfg!(target_env = "musl") {
    "musl"
} else {
    ""
};

/// Whether what was built for a target can run in the host: the same processor, system and C library. Who sells the
/// machine, the second part of a triple, does not matter.
pub(super) fn fits(target: &str) -> bool {
    let mut parts = target.split('-');
    let has_processor = parts.next().is_some_and(|processor| processor.starts_with(std::env::consts::ARCH));
    let rest: Vec<&str> = parts.collect();
    has_processor && rest.contains(&std::env::consts::OS) && (ENVIRONMENT.is_empty() || rest.contains(&ENVIRONMENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vendor_is_all_that_may_differ() {
        assert!(fits(HOST));
        assert!(fits(&HOST.replace("unknown", "gentoo")));
        assert!(!fits(&HOST.replace("linux", "freebsd")));
        assert!(!fits(&HOST.replace("-gnu", "-other").replace("-musl", "-other")));
        assert!(!fits(&format!("s390{HOST}")));
        assert!(!fits(""));
        assert!(!fits("wasm32-unknown-unknown"));
    }
}
