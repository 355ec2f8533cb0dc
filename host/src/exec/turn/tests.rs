//! What a turn lets be written.

use theseus_value::Value;

use super::*;
use crate::exec::Nothing;

#[test]
fn references_to_what_never_was_are_refused_unless_they_stood_there_before() {
    let (mut state, mut scratch) = (Nothing, Scratch::default());
    let (plugins, limits) = (PluginSet::default(), Execution::default());
    let turn = Turn::new(&mut state, &mut scratch, &plugins, &limits, (0, 0));
    let turn = Turn { next_object: 5, ..turn };
    let refers = |ids: &[u64]| Value::Array(ids.iter().map(|id| Value::Ref(ObjectId(*id))).collect()).encode();
    let refused = |encoded: &[u8], before: &[u8]| turn.check_references(encoded, before).is_err();
    assert!(!refused(&refers(&[1, 4]), &[]), "they are or were there");
    assert!(refused(&refers(&[1, 5]), &[]) && refused(&refers(&[u64::MAX]), &refers(&[9])));
    assert!(!refused(&refers(&[9, 1]), &refers(&[9])), "it is none of this turn's doing");
    assert!(refused(&refers(&[9, 10]), &refers(&[9])));
    let text = Value::Text("\u{618}'".repeat(9)).encode();
    assert!(!refused(&text, &[]), "what looks like the head of a reference is none within a text");
}
