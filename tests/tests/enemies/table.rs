//! The table in `docs/hostile-plugins.md`: what it says about each enemy has to be what came out.

use std::fs;

use theseus_tests::artifacts;

use crate::arena::Arena;

/// One enemy, and what has to happen: gives all that the operator was shown.
#[derive(Clone)]
pub(crate) struct Case {
    /// Its row in the table.
    pub(crate) plugin: &'static str,
    /// Brings it into the arena.
    pub(crate) run: fn(&mut Arena) -> String,
}

/// A row of the table.
pub(crate) struct Row {
    /// The plugin.
    pub(crate) plugin: String,
    /// What the operator sees: the texts in the last column, in which `…` stands for anything.
    pub(crate) seen: Vec<String>,
}

/// All rows.
pub(crate) fn rows() -> Vec<Row> {
    let text = fs::read_to_string(artifacts::checkout().join("docs/hostile-plugins.md")).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| plugin |"));
    rows.map(|line| {
        let [_, plugin, _what, seen, _] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("not a row of three columns: {line}");
        };
        let seen = seen.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Row { plugin: plugin.trim().trim_matches('`').to_owned(), seen }
    })
    .collect()
}

/// Brings enemies into the arena one after another, and compares what came out with the table.
pub(crate) fn fight(arena: &mut Arena, cases: &[Case]) {
    let (rows, mut wrong) = (rows(), Vec::new());
    for Case { plugin, run } in cases {
        let shown = run(arena).split_whitespace().collect::<Vec<_>>().join(" ");
        arena.assert_unharmed(plugin);
        let row = rows.iter().find(|row| row.plugin == *plugin).unwrap_or_else(|| panic!("`{plugin}` has no row"));
        if row.seen.is_empty() || !row.seen.iter().all(|text| stands_in(text, &shown)) {
            wrong.push(format!("`{plugin}`: the table says {:?}, but shown was: {shown:.2000}", row.seen));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Whether a text with gaps is part of another.
fn stands_in(text: &str, whole: &str) -> bool {
    let mut rest = whole;
    text.split('…').all(|part| match rest.split_once(part.trim()) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

#[test]
fn gaps_stand_for_anything_and_nothing_else_does() {
    assert!(stands_in("a … c", "x a b c y") && stands_in("b", "abc") && stands_in("… c", "abc"));
    assert!(!stands_in("c … a", "a b c") && !stands_in("d", "abc") && !stands_in("a … a", "abc"));
}
