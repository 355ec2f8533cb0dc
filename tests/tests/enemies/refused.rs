//! Enemies that show themselves before they are in force: by their file, or in the child process that tries them.

use theseus_tests::{Home, Host, fixtures, json};

use crate::{
    arena::{Arena, STRIKE},
    table::{Case, fight},
};

pub(crate) const CASES: &[Case] = &[
    Case { plugin: "other_tables", run: |arena| arena.refused_enemy("other_tables") },
    Case { plugin: "panic_in_init", run: |arena| arena.refused_enemy("panic_in_init") },
    Case { plugin: "exit_in_init", run: |arena| arena.refused_enemy("exit_in_init") },
    Case { plugin: "segfault_in_init", run: |arena| arena.refused_enemy("segfault_in_init") },
    Case { plugin: "allocate_in_init", run: |arena| arena.refused_enemy("allocate_in_init") },
    Case { plugin: "file_in_init", run: file_in_init },
    Case { plugin: "panic_in_self_test", run: |arena| arena.refused_enemy("panic_in_self_test") },
    Case { plugin: "exit_in_self_test", run: |arena| arena.refused_enemy("exit_in_self_test") },
    Case { plugin: "print_in_self_test", run: |arena| arena.refused_enemy("print_in_self_test") },
    Case { plugin: "socket_in_self_test", run: |arena| arena.refused_enemy("socket_in_self_test") },
    Case { plugin: "stray_write_in_self_test", run: |arena| arena.refused_enemy("stray_write_in_self_test") },
    Case { plugin: "thread_in_self_test", run: |arena| arena.refused_enemy("thread_in_self_test") },
    Case { plugin: "garbage_from_construct", run: |arena| arena.refused_enemy("garbage_from_construct") },
    Case { plugin: "panic_in_migrate", run: |arena| arena.refused_enemy("panic_in_migrate") },
    Case { plugin: "garbage_from_migrate", run: |arena| arena.refused_enemy("garbage_from_migrate") },
    Case { plugin: "misread_migration", run: |arena| arena.refused_enemy("misread_migration") },
    Case { plugin: "refuses_odd_objects", run: |_| tried("refuses_odd_objects") },
    Case { plugin: "lossy_migration", run: |_| tried("lossy_migration") },
];

/// Those that are given up when their time is over.
pub(crate) const HANGING: &[Case] = &[
    Case { plugin: "hang_in_init", run: |arena| arena.refused_enemy("hang_in_init") },
    Case { plugin: "hang_in_self_test", run: |arena| arena.refused_enemy("hang_in_self_test") },
    Case { plugin: "hang_in_migrate", run: |arena| arena.refused_enemy("hang_in_migrate") },
    Case { plugin: "hang_in_retire", run: |arena| arena.refused_enemy("hang_in_retire") },
];

#[test]
fn what_shows_before_it_is_in_force_never_reaches_the_host() {
    let mut arena = Arena::new("[plugins]\nprobe_ms_max = 30_000\nprobe_memory_bytes_max = 536870912\n");
    fight(&mut arena, CASES);
    arena.close();
}

#[test]
fn what_hangs_when_it_is_tried_is_given_up() {
    let mut arena = Arena::new("[plugins]\nprobe_ms_max = 4000\n");
    fight(&mut arena, HANGING);
    arena.close();
}

fn file_in_init(arena: &mut Arena) -> String {
    let shown = arena.refused_enemy("file_in_init");
    assert!(!arena.touched().exists(), "it has made its file");
    shown
}

/// What the trial of an enemy finds that is no reason to refuse it: on a host of its own, with objects that were struck once, twice and
/// three times.
fn tried(name: &str) -> String {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&fixtures::enemy("well")]);
    let mut client = host.client();
    for object in ["one", "two", "three"] {
        client.create("enemy.Enemy", object);
    }
    for object in ["one", "two", "two", "three", "three", "three"] {
        client.call(object, STRIKE, &json!([]));
    }
    let shown = home.run(&["swap", fixtures::enemy(name).to_str().unwrap()]);
    assert_eq!(client.call("two", STRIKE, &json!([])), 3);
    host.stop();
    home.verify();
    shown
}
