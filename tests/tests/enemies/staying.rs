//! Enemies that hold on: what becomes of them when they are replaced.

use theseus_tests::{Json, json, process, until};

use crate::{
    arena::{Arena, STRIKE},
    table::{Case, fight},
};

pub(crate) const CASES: &[Case] = &[
    Case { plugin: "own_allocator", run: own_allocator },
    Case { plugin: "backtraces", run: backtraces },
    Case { plugin: "panic_in_some_migrations", run: panic_in_some_migrations },
    Case { plugin: "thread_locals", run: |arena| unloaded(arena, "thread_locals") },
    Case { plugin: "hoard_in_static", run: |arena| unloaded(arena, "hoard_in_static") },
    Case { plugin: "hoard_with_retire", run: |arena| unloaded(arena, "hoard_with_retire") },
    Case { plugin: "thread_without_end", run: |arena| pinned(arena, "thread_without_end") },
    Case { plugin: "signal_handler", run: |arena| pinned(arena, "signal_handler") },
    Case { plugin: "hang_after_use", run: |arena| pinned(arena, "hang_after_use") },
    Case { plugin: "handler_in_self_test", run: |arena| arena.admit("handler_in_self_test") },
    Case { plugin: "panic_in_retire", run: |arena| pinned(arena, "panic_in_retire") },
];

/// What the host says when it has unmapped an enemy.
const UNLOADED: &str = "is unloaded";

#[test]
fn what_holds_on_is_unloaded_or_pinned_with_a_reason() {
    let mut arena = Arena::new("[plugins]\nprobe_ms_max = 30_000\n");
    fight(&mut arena, CASES);
    arena.close();
}

/// Uses an enemy on all kinds of threads, and replaces it; gives how long the log was before.
fn use_and_replace(arena: &mut Arena, name: &str) -> usize {
    arena.admit(name);
    for _ in 0..4 {
        arena.send(STRIKE).ok();
        arena.send("look");
    }
    // What it replaced itself is gone before.
    arena.pinned();
    let before = arena.log().len();
    arena.relieve();
    before
}

/// It is unmapped; what the host says to that.
fn unloaded(arena: &mut Arena, name: &str) -> String {
    let known = (arena.pinned().len(), process::plugin_images(arena.host()));
    let before = use_and_replace(arena, name);
    let said = arena.logged(before, UNLOADED);
    assert_eq!(arena.pinned().len(), known.0, "`{name}` is pinned");
    // Fewer if a file that had been tried just before was still mapped.
    assert!(process::plugin_images(arena.host()) <= known.1, "`{name}` is still there");
    said
}

/// It stays, with a reason that the host gives.
fn pinned(arena: &mut Arena, name: &str) -> String {
    let known = arena.pinned();
    use_and_replace(arena, name);
    let pinned: Vec<Json> = arena.pinned().into_iter().filter(|plugin| !known.contains(plugin)).collect();
    assert_eq!(pinned.len(), 1, "`{name}`: {pinned:?}");
    arena.home.run(&["plugins"])
}

fn own_allocator(arena: &mut Arena) -> String {
    arena.admit("own_allocator");
    let text = arena.client.call("enemy", STRIKE, &json!([false]));
    assert_eq!(text.as_str().unwrap().len(), 40_000);
    let failed = arena.client.post("/v1/objects/enemy/strike", &json!([true])).problem(409, "refused");
    assert!(failed["detail"].as_str().unwrap().starts_with("minemine"));
    unloaded(arena, "own_allocator")
}

/// It is unmapped as a library, but its file is still mapped as data, so the mappings are not looked at.
fn backtraces(arena: &mut Arena) -> String {
    let before = use_and_replace(arena, "backtraces");
    arena.logged(before, UNLOADED)
}

/// Those that cannot migrate stay as they were, and those that have migrated go back when it is taken back.
fn panic_in_some_migrations(arena: &mut Arena) -> String {
    arena.client.call("enemy", "breed", &json!([600]));
    let before = arena.log().len();
    arena.admit("panic_in_some_migrations");
    until("the enemy to be taken back", || arena.is_relieved());
    until("all objects to be back", || !arena.home.run(&["plugins"]).contains("->"));
    arena.logged(before, "was taken back")
}
