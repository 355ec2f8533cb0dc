//! Enemies that end the host's process, or bring it to a halt: native code cannot be contained, so what counts is how the host
//! comes back. A watchdog starts it again; what was answered is there, and what was not is sent again by its client.

use theseus_tests::{Home, Host, fixtures, host::http_address, json, until_some};

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
    Case { plugin: "segfault_at_restart", run: |_| segfault_at_restart() },
];

/// How often the host may die while something is on probation.
const CRASHES_MAX: u64 = 1;

#[test]
fn what_kills_the_host_costs_no_answer() {
    let settings = format!(
        "[execution]\ncall_deadline_ms = 3000\n[plugins]\nprobe_ms_max = 30_000\nprobation_crashes_max = {CRASHES_MAX}\n"
    );
    let mut arena = Arena::watched(&settings);
    fight(&mut arena, CASES);
    arena.close();
}

/// The host ends over a message as often as its client sends it, until the enemy is taken back; then the message is answered.
/// Gives what host and watchdog say.
fn dies(arena: &mut Arena, name: &str) -> String {
    arena.admit(name);
    let before = arena.log().len();
    let mut deaths = 0;
    let answer = loop {
        match arena.strike_once(&format!("to-{name}")) {
            Some(answer) => break answer,
            None => deaths += 1,
        }
        assert!(deaths <= CRASHES_MAX + 1, "`{name}` is not taken back");
        arena.restarted();
    };
    assert_eq!((deaths, answer.status), (CRASHES_MAX + 1, 200), "`{name}`: {}", answer.text());
    assert!(arena.is_relieved(), "`{name}` is still in force");
    arena.log()[before..].to_owned()
}

/// It works until it is replaced; then a thread of the host destroys what it has left there, and the host ends with the swap done.
fn panic_in_destructor(arena: &mut Arena) -> String {
    arena.admit("panic_in_destructor");
    arena.send(STRIKE).ok();
    let before = arena.log().len();
    arena.relieve_from_death();
    arena.log()[before..].to_owned()
}

/// On a host of its own, which is restarted in order; the ones that follow do not even start, until one leaves the enemy out.
fn segfault_at_restart() -> String {
    let home = Home::new();
    let host = Host::start(&home);
    home.swap(&[&fixtures::enemy("well")]);
    host.client().create("enemy.Enemy", "enemy");
    home.swap(&[&fixtures::enemy("segfault_at_restart")]);
    assert_eq!(host.client().call("enemy", STRIKE, &json!([])), 1);
    host.stop();
    let mut deaths = 0;
    let host = until_some("a host that starts", || {
        let mut process = Host::spawn(&home, |command| _ = command.env("THESEUS_FIXTURE_FALL", "1"));
        let address = until_some("a host that answers or dies", || match process.ended() {
            Some(_) => Some(None),
            None => http_address(&home).map(Some),
        });
        deaths += usize::from(address.is_none());
        address.map(|_| process)
    });
    assert!((1..=3).contains(&deaths), "{deaths} hosts died");
    let shown = host.log();
    assert_eq!(home.run(&["call", "enemy", STRIKE]), "2", "the well-behaved plugin counts on");
    drop(host);
    home.verify();
    shown
}
