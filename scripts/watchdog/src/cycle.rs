//! The restart cycle: every state, every event, and what follows from what.
//!
//! [`next`] is the whole decision. It does no work and knows no files, so a test can try all that can happen.

/// Where the watchdog stands. Each state is durable before its work begins, and its work may be done again from the
/// start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum State {
    /// No cycle: the host runs, and is restarted when it dies.
    Idle,
    /// An instruction lies in the spool. Work: check it.
    Requested,
    /// The instruction is acceptable. Work: unpack its release; the host still works.
    Accepted,
    /// The release lies in its place.
    Staged,
    /// The host has to stop. Work: SIGTERM, wait, in the end SIGKILL.
    Stopping,
    /// The host is gone; it may have left a handoff. Work: take the owner lock.
    HandedOff,
    /// Nobody owns the identity but the watchdog, which keeps it so. Work: run the upgrade script.
    Quiesced,
    /// The script has done its part. Work: note the tries, and make the new release the current one.
    Applied,
    /// The new release is current and not running. Work: note on disk that one try is taken.
    Trial(Tries),
    /// One try is taken. Work: start the new host and wait for its confirmation.
    Checking(Tries),
    /// The new host has confirmed; there is no way back. Work: make it the good release.
    Confirmed,
    /// The new release does not work. Work: make the good release current again, and start it.
    RolledBack,
    /// Not even the good release works. Work: say so and stop.
    Held,
}

/// How often a new release was started, and may still be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Tries {
    /// How many tries are left.
    pub left: u32,
    /// How many were taken.
    pub done: u32,
}

/// What can happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Event {
    /// The spool has an instruction that is not finished.
    Found,
    /// The instruction is valid.
    Valid,
    /// The instruction is not valid, or its release is not what it says. The host was not touched.
    Refused,
    /// The release lies in its place, whole, with the right digest.
    Unpacked,
    /// All is prepared for the stop.
    StopOrdered,
    /// The host has exited.
    HostGone,
    /// The watchdog has the owner lock.
    OwnerTaken,
    /// The upgrade script succeeded, or there was none to run.
    ScriptDone,
    /// The upgrade script failed or took too long.
    ScriptFailed,
    /// `current` leads to the new release, which may be tried so often.
    Switched {
        /// How often.
        tries: u32,
    },
    /// A try is taken on disk.
    TryTaken,
    /// The new host has confirmed that it continues the history.
    HostConfirmed,
    /// The new host did not confirm: it died, or did not say so in time.
    TryFailed,
    /// The new release is the good one, and the history of updates says so.
    Recorded,
    /// The old host answers again.
    OldHostReady,
    /// The host cannot be kept running.
    HostHopeless,
    /// The operator wants it tried again.
    Resumed,
}

/// An event that cannot happen in a state: a mistake in the watchdog itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{event:?} cannot happen while {state:?}: this is a mistake in the watchdog; please report it")]
pub struct Impossible {
    /// The state.
    pub state: State,
    /// The event.
    pub event: Event,
}

/// The state that follows.
///
/// # Errors
///
/// If the event cannot happen in this state.
pub fn next(state: State, event: Event) -> Result<State, Impossible> {
    use Event as E;
    use State as S;
    Ok(match (state, event) {
        (S::Idle, E::Found) => S::Requested,
        (S::Requested, E::Valid) => S::Accepted,
        (S::Requested | S::Accepted, E::Refused) => S::Idle,
        (S::Accepted, E::Unpacked) => S::Staged,
        (S::Staged, E::StopOrdered) => S::Stopping,
        (S::Stopping, E::HostGone) => S::HandedOff,
        (S::HandedOff, E::OwnerTaken) => S::Quiesced,
        (S::Quiesced, E::ScriptDone) => S::Applied,
        (S::Quiesced, E::ScriptFailed) => S::RolledBack,
        (S::Applied, E::Switched { tries }) => S::Trial(Tries { left: tries, done: 0 }),
        (S::Trial(Tries { left: left @ 1.., done }), E::TryTaken) => {
            S::Checking(Tries { left: left - 1, done: done + 1 })
        }
        // A confirmation that is found after an interruption counts: the host has committed it.
        (S::Trial(_) | S::Checking(_), E::HostConfirmed) => S::Confirmed,
        (S::Trial(Tries { left: 0, .. }) | S::Checking(Tries { left: 0, .. }), E::TryFailed) => S::RolledBack,
        (S::Checking(tries), E::TryFailed) => S::Trial(tries),
        (S::Confirmed, E::Recorded) | (S::RolledBack, E::OldHostReady) | (S::Held, E::Resumed) => S::Idle,
        (S::Idle | S::RolledBack, E::HostHopeless) => S::Held,
        _ => return Err(Impossible { state, event }),
    })
}

impl State {
    /// The name that the journal uses.
    pub const fn name(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Requested => "requested",
            State::Accepted => "accepted",
            State::Staged => "staged",
            State::Stopping => "stopping",
            State::HandedOff => "handed_off",
            State::Quiesced => "quiesced",
            State::Applied => "applied",
            State::Trial(_) => "trial",
            State::Checking(_) => "checking",
            State::Confirmed => "confirmed",
            State::RolledBack => "rolled_back",
            State::Held => "held",
        }
    }

    /// The state of this name; `tries` are what the disk says about them.
    pub fn from_name(name: &str, tries: Tries) -> Option<State> {
        let states = [
            State::Idle,
            State::Requested,
            State::Accepted,
            State::Staged,
            State::Stopping,
            State::HandedOff,
            State::Quiesced,
            State::Applied,
            State::Trial(tries),
            State::Checking(tries),
            State::Confirmed,
            State::RolledBack,
            State::Held,
        ];
        states.into_iter().find(|state| state.name() == name)
    }

    /// Whether an instruction is being carried out.
    pub const fn in_cycle(self) -> bool {
        !matches!(self, State::Idle | State::Held)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashSet, VecDeque};

    use super::*;

    const TRIES: u32 = 2;

    fn states() -> Vec<State> {
        let tries = (0..=TRIES).flat_map(|left| (0..=TRIES).map(move |done| Tries { left, done }));
        let with_tries = tries.flat_map(|tries| [State::Trial(tries), State::Checking(tries)]);
        let names = ["idle", "requested", "accepted", "staged", "stopping", "handed_off", "quiesced", "applied"];
        let names = names.iter().chain(&["confirmed", "rolled_back", "held"]);
        let plain = names.map(|name| State::from_name(name, Tries { left: 0, done: 0 }).unwrap());
        plain.chain(with_tries).collect()
    }

    const EVENTS: [Event; 17] = [
        Event::Found,
        Event::Valid,
        Event::Refused,
        Event::Unpacked,
        Event::StopOrdered,
        Event::HostGone,
        Event::OwnerTaken,
        Event::ScriptDone,
        Event::ScriptFailed,
        Event::Switched { tries: TRIES },
        Event::TryTaken,
        Event::HostConfirmed,
        Event::TryFailed,
        Event::Recorded,
        Event::OldHostReady,
        Event::HostHopeless,
        Event::Resumed,
    ];

    /// What the design says, written down a second time: state, event, state.
    const TABLE: &str = "
        idle found requested               idle host_hopeless held
        requested valid accepted           requested refused idle
        accepted unpacked staged           accepted refused idle
        staged stop_ordered stopping       stopping host_gone handed_off
        handed_off owner_taken quiesced    quiesced script_done applied
        quiesced script_failed rolled_back applied switched trial(2,0)
        confirmed recorded idle            rolled_back old_host_ready idle
        rolled_back host_hopeless held     held resumed idle
        trial(0,0) host_confirmed confirmed   trial(0,0) try_failed rolled_back
        trial(0,1) host_confirmed confirmed   trial(0,1) try_failed rolled_back
        trial(0,2) host_confirmed confirmed   trial(0,2) try_failed rolled_back
        trial(1,0) host_confirmed confirmed   trial(1,0) try_taken checking(0,1)
        trial(1,1) host_confirmed confirmed   trial(1,1) try_taken checking(0,2)
        trial(1,2) host_confirmed confirmed   trial(1,2) try_taken checking(0,3)
        trial(2,0) host_confirmed confirmed   trial(2,0) try_taken checking(1,1)
        trial(2,1) host_confirmed confirmed   trial(2,1) try_taken checking(1,2)
        trial(2,2) host_confirmed confirmed   trial(2,2) try_taken checking(1,3)
        checking(0,0) host_confirmed confirmed   checking(0,0) try_failed rolled_back
        checking(0,1) host_confirmed confirmed   checking(0,1) try_failed rolled_back
        checking(0,2) host_confirmed confirmed   checking(0,2) try_failed rolled_back
        checking(1,0) host_confirmed confirmed   checking(1,0) try_failed trial(1,0)
        checking(1,1) host_confirmed confirmed   checking(1,1) try_failed trial(1,1)
        checking(1,2) host_confirmed confirmed   checking(1,2) try_failed trial(1,2)
        checking(2,0) host_confirmed confirmed   checking(2,0) try_failed trial(2,0)
        checking(2,1) host_confirmed confirmed   checking(2,1) try_failed trial(2,1)
        checking(2,2) host_confirmed confirmed   checking(2,2) try_failed trial(2,2)
    ";

    fn show(state: State) -> String {
        match state {
            State::Trial(t) | State::Checking(t) => format!("{}({},{})", state.name(), t.left, t.done),
            _ => state.name().to_owned(),
        }
    }

    fn show_event(event: Event) -> String {
        let name = format!("{event:?}");
        let name = name.split(' ').next().unwrap();
        let mut snake = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        snake
    }

    #[test]
    fn every_state_and_event_is_as_the_table_says() {
        let words: Vec<&str> = TABLE.split_whitespace().collect();
        let mut expected: HashSet<String> = words.chunks(3).map(|line| line.join(" ")).collect();
        for state in states() {
            for event in EVENTS {
                match next(state, event) {
                    Ok(to) => {
                        let line = format!("{} {} {}", show(state), show_event(event), show(to));
                        assert!(expected.remove(&line), "not in the table: {line}");
                    }
                    Err(error) => assert_eq!(error, Impossible { state, event }),
                }
            }
        }
        assert!(expected.is_empty(), "not possible: {expected:?}");
    }

    fn reachable(from: State) -> HashSet<State> {
        let (mut seen, mut queue) = (HashSet::from([from]), VecDeque::from([from]));
        while let Some(state) = queue.pop_front() {
            for to in EVENTS.iter().filter_map(|event| next(state, *event).ok()) {
                if seen.insert(to) {
                    queue.push_back(to);
                }
            }
        }
        seen
    }

    #[test]
    fn every_cycle_ends_and_none_runs_in_circles() {
        for state in reachable(State::Idle) {
            assert!(reachable(state).contains(&State::Idle), "{state:?} never ends");
        }
        // Without going through idle, no state comes back: whoever visits one again has lost a try.
        fn walk(state: State, path: &mut Vec<State>) {
            assert!(!path.contains(&state), "{state:?} comes back: {path:?}");
            path.push(state);
            for to in EVENTS.iter().filter_map(|event| next(state, *event).ok()).filter(|to| *to != State::Idle) {
                walk(to, path);
            }
            path.pop();
        }
        walk(State::Requested, &mut Vec::new());
        // After a confirmation there is no way to a rollback within the cycle.
        assert_eq!(EVENTS.iter().filter_map(|e| next(State::Confirmed, *e).ok()).collect::<Vec<_>>(), [State::Idle]);
    }

    #[test]
    fn names_are_read_back() {
        for state in states() {
            let tries = match state {
                State::Trial(tries) | State::Checking(tries) => tries,
                _ => Tries { left: 0, done: 0 },
            };
            assert_eq!(State::from_name(state.name(), tries), Some(state));
        }
        assert_eq!(State::from_name("sailing", Tries { left: 0, done: 0 }), None);
    }
}
