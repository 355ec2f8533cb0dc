//! What was found in plugin files, as text for people.

use std::fmt::Write;

use serde_json::{Value as Json, json};
use theseus_abi::{BehaviorManifest, Capability, LAYOUT_FINGERPRINT, Manifest};

use crate::{
    cli::output,
    runtime::examine::{FileView, LibraryView, OriginView},
};

// Writing into a `String` cannot fail, so the results of `write!` are dropped.

/// One file, with all that is known of it: a line for each thing, what belongs together indented alike.
pub(super) fn text(view: &FileView) -> String {
    let mut lines: Vec<(&str, String)> = vec![("file", view.path.clone())];
    lines.extend(view.digest.iter().map(|digest| ("digest", digest.clone())));
    let size = view.bytes.map(output::size).unwrap_or_default();
    lines.push(("size", size + &view.library.as_ref().map(content).unwrap_or_default()));
    lines.extend(view.manifest.iter().flat_map(|manifest| manifest_lines(manifest, &view.host_abi)));
    lines.extend(view.library.iter().flat_map(library_lines));
    lines.extend(view.origin.iter().flat_map(origin_lines));
    lines.extend(view.warnings.iter().map(|warning| ("warning", warning.clone())));
    lines.push(("verdict", if view.acceptable { "acceptable".to_owned() } else { "REFUSED".to_owned() }));
    lines.extend(view.reasons.iter().map(|reason| ("because", reason.clone())));
    let mut out = String::new();
    let mut last = "";
    for (name, text) in lines {
        _ = writeln!(out, "{:<10} {}", if name == last { "" } else { name }, visible(&text));
        last = name;
    }
    out
}

/// A verdict for each file, as a document.
pub(super) fn verdicts(views: &[FileView]) -> Json {
    let verdict = |view: &FileView| {
        let name = view.manifest.as_ref().map(|manifest| &manifest.name);
        let version = view.manifest.as_ref().map(|manifest| &manifest.version);
        json!({
            "path": view.path, "acceptable": view.acceptable, "reasons": view.reasons, "warnings": view.warnings,
            "digest": view.digest, "name": name, "version": version,
        })
    };
    json!({ "files": views.iter().map(verdict).collect::<Vec<_>>() })
}

/// A verdict for each file, as lines.
pub(super) fn verdicts_text(views: &[FileView]) -> String {
    let mut out = String::new();
    for view in views {
        let verdict =
            if view.acceptable { "acceptable".to_owned() } else { format!("REFUSED: {}", view.reasons.join("; ")) };
        _ = writeln!(out, "{}: {}", view.path, visible(&verdict));
        for warning in &view.warnings {
            _ = writeln!(out, "  warning: {}", visible(warning));
        }
    }
    out
}

fn content(library: &LibraryView) -> String {
    match (library.symbols, library.debug_info) {
        (_, true) => ", with debug information".to_owned(),
        (true, false) => ", with symbols".to_owned(),
        (false, false) => ", stripped".to_owned(),
    }
}

fn manifest_lines(manifest: &Manifest, host_abi: &str) -> Vec<(&'static str, String)> {
    let fits =
        if manifest.layout == format!("{LAYOUT_FINGERPRINT:016x}") { "the host's" } else { "another than the host's" };
    let mut lines = vec![
        ("plugin", format!("{} {}", manifest.name, manifest.version)),
        ("abi", format!("{} (hosts serve {host_abi}), layout {}, {fits}", manifest.abi, manifest.layout)),
        ("built", format!("for {} by {}, panic={}", manifest.target, manifest.rustc, manifest.panic)),
    ];
    lines.extend(manifest.behaviors.iter().map(|behavior| ("behaviors", behavior_text(behavior))));
    lines.extend(
        manifest.requires.iter().map(|it| ("requires", format!("{} from version {}", it.behavior, it.version))),
    );
    lines.extend(manifest.capabilities.iter().map(|word| {
        let meaning = Capability::from_word(word).map_or("this host does not know it", Capability::meaning);
        ("asks for", format!("{word}: {meaning}"))
    }));
    lines
}

fn behavior_text(behavior: &BehaviorManifest) -> String {
    let list = |versions: &[u32]| versions.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
    let mut text = format!("{}, schema {}", behavior.name, behavior.schema);
    if !behavior.reads.is_empty() {
        _ = write!(text, ", reads {}", list(&behavior.reads));
    }
    if !behavior.writes.is_empty() {
        _ = write!(text, ", writes {}", list(&behavior.writes));
    }
    text
}

fn library_lines(library: &LibraryView) -> Vec<(&'static str, String)> {
    let needed = library.needed.iter().map(|needed| match &needed.found {
        Some(place) if *place == needed.name => needed.name.clone(),
        Some(place) => format!("{} ({place})", needed.name),
        None => format!("{} (not found)", needed.name),
    });
    let mut lines: Vec<_> = needed.map(|needed| ("needs", needed)).collect();
    lines.extend(library.runpath.iter().map(|folders| ("looks in", folders.clone())));
    lines.extend(library.build_id.iter().map(|id| ("build id", id.clone())));
    lines
}

fn origin_lines(origin: &OriginView) -> Vec<(&'static str, String)> {
    let signed = match &origin.signature {
        None => "by nobody".to_owned(),
        Some(signature) if !signature.trusted => format!("by the key {}, which is not trusted", signature.key),
        Some(signature) => format!(
            "by the key {} ({}): {}",
            signature.key,
            signature.key_file.as_deref().unwrap_or("?"),
            signature.comment.as_deref().unwrap_or("")
        ),
    };
    let owner = format!(
        "user {}, mode {}; its folder: user {}, mode {}",
        origin.uid, origin.mode, origin.folder_uid, origin.folder_mode
    );
    vec![("owner", owner), ("signed", signed)]
}

/// Text from a file that nobody trusts yet, without what a terminal obeys.
fn visible(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { char::REPLACEMENT_CHARACTER } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_file_commands_the_terminal() {
        assert_eq!(visible("rustc\u{1b}[2J\n1.0\u{9b}"), "rustc\u{fffd}[2J\u{fffd}1.0\u{fffd}");
    }
}
