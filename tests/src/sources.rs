//! The project's own files, for the tests that check how they are written.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::artifacts::checkout;

/// Folders that hold what is made, not written.
const MADE: [&str; 3] = ["target", ".git", "proptest-regressions"];

/// One file of the project.
#[derive(Clone, Debug)]
pub struct Source {
    /// Relative to the checkout, with slashes.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// All files of the project that are text.
pub fn all() -> Vec<Source> {
    let root = checkout();
    let mut found = Vec::new();
    collect(&root, &root, &mut found);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 100, "the checkout has only {} files", found.len());
    found
}

/// The files in Rust below a folder of the project.
pub fn rust(below: &str) -> Vec<Source> {
    let mut sources = all();
    sources.retain(|source| source.path.starts_with(below) && source.path.ends_with(".rs"));
    assert!(!sources.is_empty(), "there is no Rust in {below}");
    sources
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    let entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    for path in entries {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if MADE.contains(&name) || path.is_symlink() {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, found);
        } else if let Ok(text) = fs::read_to_string(&path) {
            let path = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            found.push(Source { path, text });
        }
    }
}

impl Source {
    /// Whether the whole file serves tests, benchmarks or examples.
    pub fn is_test(&self) -> bool {
        let parts: Vec<&str> = self.path.split('/').collect();
        parts.iter().any(|part| ["tests", "benches", "examples"].contains(part)) || self.path.ends_with("/tests.rs")
    }

    /// The code without comments, and without the module of tests at its end.
    pub fn code(&self) -> String {
        let mut code = String::new();
        for line in self.text.lines() {
            if ["#[cfg(test)]", "#[cfg(all(test,"].iter().any(|mark| line.trim_start().starts_with(mark)) {
                break;
            }
            // What stands behind two slashes in a text is no code either, so nothing that matters is lost.
            code.push_str(line.split("//").next().unwrap_or_default());
            code.push('\n');
        }
        code
    }

    /// The first segments of all paths that begin with `crate::`.
    pub fn rooms(&self) -> Vec<String> {
        let code = self.code();
        let mut rooms = Vec::new();
        for (place, _) in code.match_indices("crate::") {
            let before = code[..place].chars().next_back();
            if before.is_some_and(|before| before.is_alphanumeric() || before == '_' || before == '$') {
                continue;
            }
            let rest = &code[place + "crate::".len()..];
            if let Some(group) = rest.strip_prefix('{') {
                rooms.extend(group_heads(group));
            } else {
                rooms.push(word(rest));
            }
        }
        rooms
    }
}

/// The first segments of the paths in `{a::b, c::{d, e}, f}`, of which the first bracket is taken off.
fn group_heads(group: &str) -> Vec<String> {
    let (mut heads, mut depth, mut at_head) = (Vec::new(), 0, true);
    for (place, character) in group.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => at_head = true,
            _ if depth == 0 && at_head && !character.is_whitespace() => {
                heads.push(word(&group[place..]));
                at_head = false;
            }
            _ => {}
        }
    }
    heads
}

fn word(text: &str) -> String {
    text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_found_in_every_form_of_path() {
        let text = "use crate::{\n    a::{b, c::{d, e}},\n    f, // crate::comment\n    g::*,\n};\nuse crate::h;\n\
                    fn x(y: &crate::i::J) { $crate::k(); }\n#[cfg(test)]\nmod tests { use crate::l; }\n";
        let source = Source { path: "x.rs".into(), text: text.into() };
        assert_eq!(source.rooms(), ["a", "f", "g", "h", "i"]);
    }
}
