//! What a plugin may ask to be allowed beyond computing and sending messages.

use serde::{Deserialize, Serialize};

/// Something that a plugin may do only if its manifest asks for it and the operator grants it.
///
/// The set is closed: a host refuses a plugin that asks for a word it does not know, because it could not keep the promise.
/// Native code has all rights of its process, so these are not a sandbox. They are what the host itself can tell and refuse.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Asking the host to upgrade itself, with `Context::request_upgrade`. Without it the request fails.
    RequestUpgrade,
    /// Keeping threads of its own. Without it a plugin is refused if it leaves one running after it was initialised and has
    /// tested itself.
    Threads,
}

impl Capability {
    /// All of them.
    pub const ALL: &[Capability] = &[Capability::RequestUpgrade, Capability::Threads];

    /// The word in manifests and settings.
    pub const fn word(self) -> &'static str {
        match self {
            Capability::RequestUpgrade => "request_upgrade",
            Capability::Threads => "threads",
        }
    }

    /// The capability that a word stands for.
    pub fn from_word(word: &str) -> Option<Capability> {
        Self::ALL.iter().copied().find(|capability| capability.word() == word)
    }

    /// What it allows, for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Capability::RequestUpgrade => "may ask the host to upgrade itself",
            Capability::Threads => "may keep threads of its own",
        }
    }
}

impl std::fmt::Display for Capability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_the_same_everywhere() {
        for &capability in Capability::ALL {
            assert_eq!(Capability::from_word(capability.word()), Some(capability));
            assert_eq!(serde_json::to_string(&capability).unwrap(), format!("\"{capability}\""));
        }
        assert_eq!(Capability::from_word("everything"), None);
    }
}
