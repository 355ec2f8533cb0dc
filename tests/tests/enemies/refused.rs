//! Enemies that show themselves before they are in force: by their file, or in the child process that tries them.

use crate::{
    arena::Arena,
    table::{Case, fight},
};

pub(crate) const CASES: &[Case] = &[
    Case { plugin: "panic_in_self_test", run: |arena| arena.refused_enemy("panic_in_self_test") },
    Case { plugin: "garbage_from_construct", run: |arena| arena.refused_enemy("garbage_from_construct") },
    Case { plugin: "other_tables", run: |arena| arena.refused_enemy("other_tables") },
];

#[test]
fn what_shows_in_the_child_never_reaches_the_host() {
    let mut arena = Arena::new("");
    fight(&mut arena, CASES);
    arena.close();
}
