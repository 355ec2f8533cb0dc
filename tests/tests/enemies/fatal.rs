//! Enemies that end the host's process, or bring it to a halt: native code cannot be contained, so what counts is how the host
//! comes back. A watchdog starts it again; what was answered is there, and what was not is sent again by its client.

use crate::{
    arena::{Arena, STRIKE},
    table::{Case, fight},
};

pub(crate) const CASES: &[Case] = &[
    Case { plugin: "segfault_in_call", run: |arena| dies(arena, "segfault_in_call") },
    Case { plugin: "exit_in_call", run: |arena| dies(arena, "exit_in_call") },
    Case { plugin: "panic_twice", run: |arena| dies(arena, "panic_twice") },
    Case { plugin: "stack_overflow", run: |arena| dies(arena, "stack_overflow") },
    Case { plugin: "unwind", run: |arena| dies(arena, "unwind") },
    Case { plugin: "allocate_in_call", run: |arena| dies(arena, "allocate_in_call") },
    Case { plugin: "hang_in_call", run: |arena| dies(arena, "hang_in_call") },
    Case { plugin: "panic_in_destructor", run: panic_in_destructor },
];

#[test]
fn what_kills_the_host_costs_no_answer() {
    let mut arena = Arena::watched("[execution]\ncall_deadline_ms = 1500\n");
    fight(&mut arena, CASES);
    arena.close();
}

/// The host ends over a message, and comes back; what host and watchdog say.
fn dies(arena: &mut Arena, name: &str) -> String {
    arena.admit(name);
    let before = arena.log().len();
    let id = format!("to-{name}");
    let answer = arena.strike_once(&id);
    assert!(answer.is_none(), "`{name}` was answered: {answer:?}");
    arena.restarted();
    let log = arena.log()[before..].to_owned();
    arena.relieve();
    assert_eq!(arena.strike_once(&id).expect("the host goes on").status, 200, "`{name}`: sent again, it is done");
    log
}

/// It works until it is replaced; then a thread of the host destroys what it has left there, and the host ends with the swap done.
fn panic_in_destructor(arena: &mut Arena) -> String {
    arena.admit("panic_in_destructor");
    arena.send(STRIKE).ok();
    let before = arena.log().len();
    arena.relieve();
    arena.restarted();
    arena.log()[before..].to_owned()
}
